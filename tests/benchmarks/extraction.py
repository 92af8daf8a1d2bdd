"""Clips per second of feature extraction, and the share of its time in which the encoder does not compute."""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from data_prep.encoders.audio import SpeechEncoder
from data_prep.encoders.feature_cache import extract
from data_prep.encoders.media import Clip, check
from data_prep.encoders.opensmile import OpenSmile
from data_prep.encoders.pretrained import Placement
from data_prep.encoders.visual import FrameEncoder

RATE, SECONDS, FRAME_RATE, SIZE = 16000, 3.0, 25, (640, 360)


def film(path, seed):
    """Three seconds of noise and moving bars, H.264 and AAC: about an utterance of MELD."""
    import av

    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream("libx264", rate=FRAME_RATE), out.add_stream("aac", rate=RATE, layout="mono")
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        bars = np.repeat(rng.integers(0, 256, (1, SIZE[0], 3), np.uint8), SIZE[1], 0)
        for i in range(round(SECONDS * FRAME_RATE)):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.roll(bars, 4 * i, 1), format="rgb24")))
        out.mux(video.encode(None))
        noise = rng.normal(scale=0.1, size=(1, round(SECONDS * RATE))).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        sound.sample_rate, sound.pts = RATE, 0
        out.mux(audio.encode(sound))
        out.mux(audio.encode(None))


def random_models(folder):
    """A HuBERT and a ViT with random weights, of the size of ViT-Tiny."""
    import transformers as t

    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    t.logging.disable_progress_bar()
    net = t.HubertConfig(**sizes, feat_extract_norm="layer", do_stable_layer_norm=True)
    t.HubertModel(net).save_pretrained(folder / "hubert")
    t.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "hubert")
    t.ViTModel(t.ViTConfig(**sizes)).save_pretrained(folder / "vit")
    t.ViTImageProcessorPil().save_pretrained(folder / "vit")
    return str(folder / "hubert"), str(folder / "vit")


def measure(encoder, clips, root, name):
    encoding, encode = 0.0, encoder.encode

    def timed(prepared):
        nonlocal encoding
        began = time.perf_counter()
        features = encode(prepared)
        encoding += time.perf_counter() - began
        return features

    encode([encoder.prepare(next(iter(clips.values())))])
    encoder.encode = timed
    began = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        extract(encoder, clips, root, name)
    seconds = time.perf_counter() - began
    return {
        "clips per second": round(len(clips) / seconds, 2),
        "clips per second of the encoder alone": round(len(clips) / encoding, 2),
        "share outside the encoder": round(1 - encoding / seconds, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--audio-encoder", help="default: a small HuBERT with random weights")
    parser.add_argument("--visual-encoder", help="default: a small ViT with random weights")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        hubert, vit = random_models(root)
        clips = {}
        for i in range(arguments.clips):
            film(root / f"{i}.mp4", i)
            clip = Clip(f"{i}.mp4", root / f"{i}.mp4")
            clips[check(clip, ("audio", "video")).key] = clip
        speech = SpeechEncoder(arguments.audio_encoder or hubert, placement=Placement(arguments.device))
        frames = FrameEncoder(arguments.visual_encoder or vit, placement=Placement(arguments.device))
        found = {
            "clips": f"{len(clips)} of {SECONDS:g} s, {SIZE[0]}x{SIZE[1]}, 15 frames taken",
            "device": speech.identity["device"],
            f"audio, {speech.identity['name']}": measure(speech, clips, root, "audio"),
            "audio, egemaps": measure(OpenSmile("egemaps"), clips, root, "egemaps"),
            f"visual, {frames.identity['name']}": measure(frames, clips, root, "visual"),
        }
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
