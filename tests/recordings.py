"""Sounds, films and their tables, made in a moment; and small random encoders of the real classes."""

import csv
import importlib.util
import wave

import numpy as np
import pytest
from conftest import SHARED

from data_prep.encoders.text import TextEncoder

EMODB = SHARED / "emodb" / "emodb_wav.tar"
RATE, STEP = 16000, 8  # samples a second; grey levels between one frame and the next
needs_av = pytest.mark.skipif(not importlib.util.find_spec("av"), reason="needs pip install -e '.[prep]'")
needs_prep = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("av", "torch", "transformers", "opensmile"))),
    reason="needs pip install -e '.[prep]'",
)


class Letters(TextEncoder):
    """A text encoder that takes no model."""

    def __init__(self):
        self.identity, self.extractor, self.axis = {"name": "letters"}, "how many letters", ()

    def states(self, sentences):
        return [np.full((1, 2), len(sentence), np.float16) for sentence in sentences]

    def room(self, sentences):
        return {sentence: 4 for sentence in sentences}

    def words(self, words):
        return np.array([[len(word), 1.0] for word in words], np.float32)


def small_bert(models):
    """Flags for the text encoder of the fixture `models`."""
    return ["--text-encoder", models / "bert", "--text-layers=-1"]


def tone(seconds=1.5, pitch=220.0):
    """A voice-like sound: harmonics of a pitch that falls."""
    at = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * pitch * (at - 0.1 * at**2)
    return (0.3 * sum(np.sin(k * phase) / k for k in (1, 2, 3, 4))).astype(np.float32)


def write_wav(path, sound, rate=RATE, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(np.int16(sound * 32767), channels).tobytes())
    return path


def write_movie(path, sound=None, count=30, rate=20, rotation=0, **options):
    """Frame i is as grey as i * STEP; its left half is black if it is to be shown turned."""
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        video = out.add_stream("mpeg4", rate=rate)
        video.width, video.height, video.pix_fmt, video.bit_rate = 64, 32, "yuv420p", 8_000_000
        audio = out.add_stream("aac", rate=RATE, layout="mono") if sound is not None else None
        if rotation:
            video.set_display_rotation(rotation)
        for i in range(count):
            image = np.full((32, 64, 3), i * STEP, np.uint8)
            if rotation:
                image[:, :32] = 0
                image[:, 32:] = 200
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return path


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path):
    """All of the coded sound and pictures overwritten, the tables of where they are kept."""
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    data[at:] = np.random.default_rng(0).integers(0, 256, len(data) - at, np.uint8).tobytes()
    path.write_bytes(data)
    return path


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def row(**changes):
    return {"file": "a.wav", "label": "joy", "split": "train", "turn": "0", "start": "1", "end": "2"} | changes


def corpus_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write_models(root):
    """Folders of small random models, as a user would download real ones."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    t.logging.disable_progress_bar()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "number", "you", "glad", "cross", *"0123456789."]
    (root / "bert").mkdir()
    (root / "bert" / "vocab.txt").write_text("\n".join(words))
    t.BertTokenizer(str(root / "bert" / "vocab.txt"), model_max_length=16).save_pretrained(root / "bert")
    t.BertModel(t.BertConfig(**sizes, vocab_size=len(words), max_position_embeddings=32)).save_pretrained(root / "bert")
    for name, model, config, norm in (
        ("wav2vec2", t.Wav2Vec2Model, t.Wav2Vec2Config, "group"),
        ("wavlm", t.WavLMModel, t.WavLMConfig, "layer"),
        ("hubert", t.HubertModel, t.HubertConfig, "layer"),
    ):
        net = config(
            **sizes,
            conv_dim=(16,) * 7,
            feat_extract_norm=norm,
            do_stable_layer_norm=norm == "layer",
            vocab_size=8,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
        model(net).save_pretrained(root / name)
        t.Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer").save_pretrained(root / name)
    write_speech_models(t, root, sizes)
    write_language_models(t, root, sizes, words)
    eye = {"image_size": 32, "patch_size": 8}
    resize = t.ViTImageProcessorPil(size={"height": 32, "width": 32})
    vit = t.ViTConfig(**sizes, **eye)
    both = {
        "text_config": sizes | {"vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2},
        "vision_config": sizes | eye,
    }
    for name, model in (
        ("vit", t.ViTModel(vit)),
        ("vit-classifier", t.ViTForImageClassification(vit)),
        (
            "swin",
            t.SwinModel(
                t.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
            ),
        ),
        ("clip", t.CLIPModel(t.CLIPConfig(**both, projection_dim=16))),
    ):
        model.save_pretrained(root / name)
        resize.save_pretrained(root / name)
    return root


def write_speech_models(t, root, sizes):
    """Whisper, w2v-BERT 2.0 and data2vec-audio."""
    whisper = t.WhisperConfig(
        vocab_size=20,
        d_model=32,
        encoder_layers=3,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    t.WhisperModel(whisper).save_pretrained(root / "whisper")
    t.WhisperFeatureExtractor().save_pretrained(root / "whisper")
    t.Wav2Vec2BertModel(t.Wav2Vec2BertConfig(**sizes)).save_pretrained(root / "w2v-bert")
    t.SeamlessM4TFeatureExtractor().save_pretrained(root / "w2v-bert")
    data2vec = t.Data2VecAudioConfig(**sizes, conv_dim=(16,) * 7, num_conv_pos_embedding_groups=2)
    t.Data2VecAudioModel(data2vec).save_pretrained(root / "data2vec")
    t.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(root / "data2vec")


def write_language_models(t, root, sizes, words):
    """GPT-2 and Llama, which only decode, and T5, of which the encoder counts; their tokenizers know the words."""
    import tokenizers as k

    made = k.Tokenizer(k.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    made.pre_tokenizer = k.pre_tokenizers.Whitespace()
    plain = t.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", model_max_length=16)
    made.post_processor = k.processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    ended = t.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", eos_token="[SEP]", pad_token="[PAD]", model_max_length=16
    )
    size = {"vocab_size": len(words)}
    llama = t.LlamaConfig(**sizes, **size, max_position_embeddings=32)
    gpt2 = t.GPT2Config(**size, n_embd=32, n_layer=2, n_head=2, n_positions=32)
    t5 = t.T5Config(**size, d_model=32, d_kv=16, d_ff=32, num_layers=2, num_heads=2)
    for name, model, tokenizer in (
        ("llama", t.LlamaModel(llama), plain),
        ("gpt2", t.GPT2Model(gpt2), plain),
        ("t5", t.T5Model(t5), ended),
    ):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)


def write_speech(folder):
    """Wavs of different lengths: of EmoDB where it is, else a voice-like tone."""
    from data_prep.emodb import read_tar
    from data_prep.encoders.media import samples

    recordings = [row.clip for row in read_tar(EMODB)[::60]] if EMODB.is_file() else []
    sounds = [samples(recordings[i], RATE, 30.0) if recordings else tone(2.0, 150.0 + 20 * i) for i in range(8)]
    return [write_wav(folder / f"{i}.wav", sound[: RATE // 2 + 2000 * i]) for i, sound in enumerate(sounds)]
