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

from data_prep.emodb import read_tar
from data_prep.encoders.audio import SpeechEncoder
from data_prep.encoders.feature_cache import FeatureCache, extract
from data_prep.encoders.media import Clip, check
from data_prep.encoders.opensmile import OpenSmile
from data_prep.encoders.pretrained import Placement
from data_prep.encoders.selection import Selection
from data_prep.encoders.text import TextEncoder
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


def sentences_of(path):
    """The column `sentence` of an npz, or the lines of a text."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as table:
            return [str(sentence) for sentence in table["sentence"]]
    return path.read_text().splitlines()


def by_precision(make, sources, root, name):
    """Rates of an encoder in float32 and with products in bfloat16, by turns, and how far its features are apart."""
    found, features = {}, {}
    for precision in ("float32", "autocast"):
        encoder = make(precision)
        found[precision] = measure(encoder, sources, root, name)
        features[precision] = FeatureCache(root, name, encoder.identity).read(sources)
    exact, less = (np.concatenate([x.astype(np.float32) for x in of.values()]) for of in features.values())
    scale = exact.std(0)
    apart = np.abs(less - exact)[:, scale > 0] / scale[scale > 0]
    found["autocast against float32"] = {
        "clips per second, ratio": round(
            found["autocast"]["clips per second"] / found["float32"]["clips per second"], 2
        ),
        "difference in standard deviations of a feature, mean": round(float(apart.mean()), 4),
        "largest": round(float(apart.max()), 3),
    }
    return found


def real(arguments, root):
    """Real weights on real sentences and recordings, where these are given."""
    found = {}
    if arguments.text_encoder:
        sentences = sorted(set(sentences_of(arguments.sentences)), key=lambda s: (len(s), s))
        texts = {str(i): s for i, s in enumerate(sentences[:: max(1, len(sentences) // arguments.most)])}

        def text(precision):
            return TextEncoder(arguments.text_encoder, Selection((-1,)), root, Placement(arguments.device, precision))

        name = f"text, {Path(arguments.text_encoder).name}, {len(texts)} sentences"
        found[name] = by_precision(text, texts, root, "text")
    if arguments.audio_encoder and arguments.emodb:
        rows = read_tar(arguments.emodb)
        rows = rows[:: max(1, len(rows) // arguments.most)]
        recordings = {check(row.clip, ("audio",)).key: row.clip for row in rows}

        def speech(precision):
            selection = Selection(None, apart=True, pool="mean+std")
            return SpeechEncoder(arguments.audio_encoder, selection, placement=Placement(arguments.device, precision))

        name = f"audio, {Path(arguments.audio_encoder).name}, all layers, {len(recordings)} recordings of EmoDB"
        found[name] = by_precision(speech, recordings, root, "audio")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--audio-encoder", help="of real weights, for --emodb; default: a small random HuBERT")
    parser.add_argument("--visual-encoder", help="default: a small ViT with random weights")
    parser.add_argument("--text-encoder", help="of real weights, for --sentences")
    parser.add_argument("--sentences", type=Path, metavar="FILE", help="an npz with a column sentence, or a text")
    parser.add_argument("--emodb", type=Path, metavar="TAR", help="real recordings, for --audio-encoder")
    parser.add_argument("--most", type=int, default=200, metavar="N", help="real sentences and recordings at most")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        found = real(arguments, root) or generated(arguments, root)
    json.dump(found, sys.stdout, indent=1)
    print()


def generated(arguments, root):
    """Random weights on generated films."""
    hubert, vit = random_models(root)
    clips = {}
    for i in range(arguments.clips):
        film(root / f"{i}.mp4", i)
        clip = Clip(f"{i}.mp4", root / f"{i}.mp4")
        clips[check(clip, ("audio", "video")).key] = clip
    placement = Placement(arguments.device)
    speech = SpeechEncoder(arguments.audio_encoder or hubert, placement=placement)
    frames = FrameEncoder(arguments.visual_encoder or vit, placement=placement)
    return {
        "clips": f"{len(clips)} of {SECONDS:g} s, {SIZE[0]}x{SIZE[1]}, 15 frames taken",
        "device": speech.identity["device"],
        f"audio, {speech.identity['name']}": measure(speech, clips, root, "audio"),
        "audio, egemaps": measure(OpenSmile("egemaps"), clips, root, "egemaps"),
        f"visual, {frames.identity['name']}": measure(frames, clips, root, "visual"),
    }


if __name__ == "__main__":
    main()
