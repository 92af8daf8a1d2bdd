"""Clips to corpora. Decoding is tested where PyAV is installed; encoders are small random models of the real classes."""

import csv
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import wave

import numpy as np
import pytest
from conftest import ROOT, SHARED, user_env
from PIL import Image

from data_prep import clips, emodb, faces, features, media
from data_prep.media import Clip
from mer_jax.data import protocols
from mer_jax.data.corpus import Corpus
from mer_jax.data.frames import as_they_are
from mer_jax.errors import UserError

needs_av = pytest.mark.skipif(not importlib.util.find_spec("av"), reason="needs pip install -e '.[prep]'")
needs_prep = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("av", "torch", "transformers", "opensmile"))),
    reason="needs pip install -e '.[prep]'",
)
EMODB = SHARED / "emodb" / "emodb_wav.tar"
needs_emodb = pytest.mark.skipif(not EMODB.is_file(), reason="needs EmoDB's tar in ../shared/data")
RATE, STEP = 16000, 8  # samples a second; grey levels between one frame and the next


def tone(seconds=1.5, pitch=220.0):
    """A voice-like sound: harmonics of a pitch that falls."""
    at = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * pitch * (at - 0.1 * at**2)
    return (0.3 * sum(np.sin(k * phase) / k for k in (1, 2, 3, 4))).astype(np.float32)


def write_wav(path, sound, rate=RATE, channels=1):
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


def numbers(images):
    return [round(float(image.mean()) / STEP) for image in images]


# ---- decoding ----


@needs_av
class TestMedia:
    @pytest.mark.parametrize(
        ("part", "options", "wanted"),
        [
            ((0.0, None), {"count": 15}, [2 * i + 1 for i in range(15)]),
            ((0.0, None), {"count": 10}, [3 * i + 1 for i in range(10)]),
            ((0.0, None), {"count": 60}, [i // 2 for i in range(60)]),
            ((0.0, None), {"per_second": 4}, [2, 7, 12, 17, 22, 27]),
            ((0.5, 1.0), {"count": 5}, [11, 13, 15, 17, 19]),
        ],
    )
    def test_the_frames_are_those_shown_in_the_middle_of_each_part(self, tmp_path, part, options, wanted):
        clip = Clip("a.mp4", write_movie(tmp_path / "a.mp4"), *part)
        assert numbers(media.frames(clip, 30.0, **options)) == wanted
        same = Clip("a.mp4", clip.source.read_bytes(), *part)
        assert numbers(media.frames(same, 30.0, **options)) == wanted

    def test_frames_beyond_the_limit_are_not_taken(self, tmp_path):
        clip = Clip("a.mp4", write_movie(tmp_path / "a.mp4"))
        assert numbers(media.frames(clip, 0.5, count=5)) == [1, 3, 5, 7, 9]

    @pytest.mark.parametrize("rotation", [90, -90, 180])
    def test_a_film_taken_sideways_is_upright(self, tmp_path, rotation):
        image = media.frames(Clip("r", write_movie(tmp_path / "r.mp4", rotation=rotation)), 30.0, count=1)[0]
        stored = np.repeat([0, 200], 32)[None].repeat(32, 0)
        wanted = np.rot90(stored, rotation // 90)  # counterclockwise
        assert image.shape == (*wanted.shape, 3)
        assert np.abs(image.mean(-1) - wanted).max() < 60

    @pytest.mark.parametrize("channels", [1, 2])
    def test_sound_is_resampled_to_mono(self, tmp_path, channels):
        at = np.arange(22050) / 22050
        clip = Clip("a.wav", write_wav(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * at), 22050, channels))
        found = media.samples(clip, RATE, 30.0)
        assert found.dtype == np.float32
        assert abs(len(found) - RATE) <= 1
        wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(found)) / RATE)
        np.testing.assert_allclose(found[500:-500], wanted[500:-500], atol=0.01)

    def test_a_part_is_cut_where_it_says(self, tmp_path):
        sound = tone(3.0)
        for path in (write_wav(tmp_path / "a.wav", sound), write_movie(tmp_path / "a.mp4", sound)):
            whole = media.samples(Clip("a", path), RATE, 30.0)
            part = media.samples(Clip("a", path, 2.2, 2.6), RATE, 30.0)
            assert len(part) == round(0.4 * RATE)
            np.testing.assert_allclose(part, whole[35200:41600], atol=0.02)
            assert len(media.samples(Clip("a", path), RATE, 0.7)) == round(0.7 * RATE)

    def test_a_whole_clip_is_checked(self, tmp_path):
        path = write_movie(tmp_path / "a.mp4", tone())
        found = media.check(Clip("a.mp4", path), ("audio", "video"))
        assert found.seconds == pytest.approx(1.5, abs=0.1)
        assert media.check(Clip("b", path.read_bytes()), ("audio",)).key == found.key
        part = media.check(Clip("a.mp4", path, 0.5, 1.0), ("audio", "video"))
        assert part.seconds == 0.5
        assert (part.sha256, part.key != found.key) == (found.sha256, True)

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda p: None, "does not exist"),
            (lambda p: p.write_bytes(b""), "is empty"),
            (lambda p: p.write_bytes(b"no clip at all" * 99), "cannot be decoded"),
            (lambda p: write_movie(p), "has no audio stream"),
            (lambda p: write_wav(p, tone()), "has no video stream"),
            (lambda p: cut_short(write_wav(p, tone())), "its header says 48044: it is truncated"),
            (lambda p: cut_short(write_movie(p, tone())), "its header says 1.50 s: it is truncated"),
            (lambda p: write_wav(p, tone()[:0]), "stream is empty|has no|cannot be decoded"),
        ],
    )
    def test_a_broken_clip_is_named(self, tmp_path, make, words):
        path = tmp_path / "clip.mp4"
        make(path)
        with pytest.raises(UserError, match=words) as caught:
            media.check(Clip("the clip", path), ("audio", "video"))
        assert str(caught.value).startswith("the clip")

    def test_what_only_decoding_shows_is_named(self, tmp_path):
        clip = Clip("the clip", spoil(write_movie(tmp_path / "a.mp4", tone())))
        media.check(clip, ("audio", "video"))
        with pytest.raises(UserError, match=r"^the clip cannot be decoded"):
            media.samples(clip, RATE, 30.0)

    def test_a_part_outside_the_clip_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"the clip: 4.0 to 5.0 s is asked for, it is 1.50 s long"):
            media.check(Clip("the clip", write_wav(tmp_path / "a.wav", tone()), 4.0, 5.0), ("audio",))


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil(path):
    """All of the coded sound and pictures overwritten, the tables of where they are kept."""
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    data[at:] = np.random.default_rng(0).integers(0, 256, len(data) - at, np.uint8).tobytes()
    path.write_bytes(data)
    return path


# ---- faces ----


needs_cv2 = pytest.mark.skipif(not importlib.util.find_spec("cv2"), reason="needs pip install -e '.[prep]'")


@pytest.fixture(scope="module")
def portrait():
    """Eileen Collins, by NASA: 512 x 512, her face from about (178, 64) to (272, 162)."""
    return pytest.importorskip("skimage.data", reason="needs pip install -e '.[test]'").astronaut()


def no_face():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@needs_cv2
class TestFaces:
    def test_it_finds_her(self, portrait):
        rows, columns = faces.largest(portrait)
        assert 20 <= rows.start <= 64 < 162 <= rows.stop <= 220
        assert 130 <= columns.start <= 178 < 272 <= columns.stop <= 320
        assert rows.stop - rows.start == columns.stop - columns.start

    def test_the_largest_of_several_is_taken(self, portrait):
        both = np.zeros((512, 768, 3), np.uint8)
        both[128:384, :256] = portrait[::2, ::2]
        both[:, 256:] = portrait
        assert faces.largest(both)[1].start > 256 + 100
        assert faces.largest(both[:, ::-1].copy())[1].stop < 512 - 100

    def test_a_face_at_the_edge_is_cut_there(self, portrait):
        rows, columns = faces.largest(portrait[60:300, 150:400])
        assert rows.start == 0
        assert columns.stop > columns.start >= 0

    def test_large_frames_are_searched_as_small_ones(self, portrait):
        large = faces.largest(portrait.repeat(3, 0).repeat(3, 1))
        for found, wanted in zip(large, faces.largest(portrait), strict=True):
            assert abs(found.start / 3 - wanted.start) < 12
            assert abs(found.stop / 3 - wanted.stop) < 12

    def test_what_has_no_face_stays_whole_and_is_counted(self, portrait):
        noise, black = no_face(), np.zeros((1, 1, 3), np.uint8)
        found, without = faces.cropped([portrait, noise, portrait, noise, black])
        assert without == 3
        assert [image.shape for image in found[1::2]] == [noise.shape] * 2
        assert found[0].shape == found[2].shape != portrait.shape

    def test_the_detector_is_told(self, monkeypatch):
        found = faces.library()
        assert len(found["weights_sha256"]) == 64
        monkeypatch.setattr(faces, "CASCADE", "none.xml")
        with pytest.raises(UserError, match=r"--faces: OpenCV .* brings no none.xml"):
            faces.library()
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(UserError, match=r"--faces: OpenCV is not installed"):
            faces.library()


# ---- the cache ----


class Doubler:
    """An encoder whose features depend, like real ones, on what is encoded together."""

    extractor, together = "doubles", 4

    def __init__(self, bad=()):
        self.identity, self.bad, self.prepared, self.encoded = {"name": "doubler"}, bad, [], []

    def prepare(self, source):
        self.prepared.append(source)
        if source in self.bad:
            raise UserError(f"{source} is broken")
        return source

    def encode(self, prepared):
        self.encoded.append(list(prepared))
        return [np.full((1, 2), 2 * value + sum(prepared) / 1024, np.float16) for value in prepared]


SOURCES = {f"k{i}": i for i in range(10)}


def test_what_is_finished_is_not_done_again(tmp_path):
    first = Doubler(bad=[9])
    with pytest.raises(UserError, match="9 is broken"):
        features.extract(first, SOURCES, tmp_path, "audio")
    assert first.encoded == [[0, 1, 2, 3], [4, 5, 6, 7]]
    second = Doubler()
    kept = features.extract(second, SOURCES, tmp_path, "audio")
    assert second.encoded == [[8, 9]]
    fresh = features.extract(Doubler(), SOURCES, tmp_path / "other", "audio")
    for key in SOURCES:
        np.testing.assert_array_equal(kept[key], fresh[key])
    third = Doubler()
    features.extract(third, SOURCES, tmp_path, "audio")
    assert third.prepared == []


def test_broken_sources_are_left_out_if_told_to(tmp_path):
    broken: dict[str, str] = {}
    encoder = Doubler(bad=[2, 9])
    kept = features.extract(encoder, SOURCES, tmp_path, "audio", broken)
    assert broken == {"k2": "2 is broken", "k9": "9 is broken"}
    assert encoder.encoded == [[0, 1, 3], [4, 5, 6, 7], [8]]
    assert [key in kept for key in ("k1", "k2", "k9")] == [True, False, False]


def test_a_damaged_cache_file_is_made_again(tmp_path, capsys):
    features.extract(Doubler(), SOURCES, tmp_path, "audio")
    path = sorted(tmp_path.rglob("*.npz"))[0]
    path.write_bytes(path.read_bytes()[:-30])
    encoder = Doubler()
    features.extract(encoder, SOURCES, tmp_path, "audio")
    assert len(encoder.encoded) == 1
    assert f"{path} is damaged and will be made again" in capsys.readouterr().err


def test_another_identity_has_features_of_its_own(tmp_path):
    features.extract(Doubler(), SOURCES, tmp_path, "audio")
    other = Doubler()
    other.identity = {"name": "doubler", "every": 2}
    features.extract(other, SOURCES, tmp_path, "audio")
    assert len(other.encoded) == 3


def test_what_is_counted_is_kept(tmp_path):
    class Counter(Doubler):
        def tally(self, prepared):
            return prepared, 10

    with pytest.raises(UserError):
        features.extract(Counter(bad=[9]), SOURCES, tmp_path, "visual")
    kept = features.extract(Counter(), SOURCES, tmp_path, "visual")
    np.testing.assert_array_equal(kept.tally(SOURCES), [[i, 10] for i in range(10)])
    assert kept["k3"].shape == (1, 2)


def test_reading_ahead_is_in_order_and_bounded():
    begun = []
    stream = features.read_ahead(lambda i: begun.append(i) or i, range(1000), 4)
    for taken in range(20):
        assert next(stream).result() == taken
        assert len(begun) <= taken + 1 + 4 + features.THREADS
    stream.close()
    assert len(begun) < 100


def test_pooling():
    states = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_array_equal(features.pool(states, "tokens"), states)
    np.testing.assert_array_equal(features.pool(states, "mean"), [[4, 5]])
    np.testing.assert_array_equal(features.pool(states, "tokens", 2), [[1, 2], [5, 6], [8, 9]])
    with pytest.raises(UserError, match="beyond half precision"):
        features.pool(states * 1e5, "tokens")


# ---- tables ----


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def row(**changes):
    return {"file": "a.wav", "label": "joy", "split": "train", "turn": "0", "start": "1", "end": "2"} | changes


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"file": "a.wav"}], "column 'label' is missing; it needs file, label and has file"),
        ([{"clip": "a.wav", "label": "joy"}], "column 'file' is missing"),
        ([row(), row(file="b.wav", label="")], "line 3: label is empty"),
        ([row(split="tset")], "line 2: split is 'tset'"),
        ([row(turn="second")], "line 2: turn is 'second', not a number"),
        ([row(start="nan")], "line 2: start is nan, which cannot be"),
        ([row(votes="anna:joy; ben")], "line 2: votes has 'ben', not RATER:LABEL"),
        ([row(votes=":joy")], "line 2: votes has ':joy'"),
        ([row(start="3")], "line 2: it starts at 3 s and ends at 2 s"),
        ([row(), row()], "line 3: a.wav is the clip of .*, line 2 too; with --cut"),
        ([row() | {"id": "u"}, row(file="b.wav") | {"id": "u"}], "line 3: id 'u' is that of .*, line 2 too"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, rows, words):
    path = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(UserError, match=words) as caught:
        clips.read_table(path, tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "column 'file' is missing; .* has nothing"),
        (b"file,label\n", "holds no utterance"),
        (b"file,label\na.wav\n", "line 2: it has another number of fields"),
        (b"file,label\na.wav,joy,more\n", "line 2: it has another number of fields"),
        (b"file,label\n\xff\xfe,joy\n", "is not a CSV table in UTF-8"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        clips.read_table(tmp_path / "t.csv", tmp_path)


def test_rows_of_a_table(tmp_path):
    path = write_table(
        tmp_path / "t.csv",
        [
            {
                "file": "x/a.wav",
                "label": "joy",
                "dialogue": "d",
                "split": "dev",
                "sentence": "It\x92s “me”",
                "votes": "anna: joy; ben:sad ;ben:other;",
            },
            {"file": "x/b.wav", "label": "sad", "dialogue": "d", "split": "test", "sentence": "", "votes": ""},
        ],
    )
    first, second = clips.read_table(path, tmp_path)
    assert (first.utterance.id, first.utterance.turn, first.utterance.split) == ("x/a", 0, "valid")
    assert first.utterance.sentence == 'It\'s "me"'
    assert first.utterance.votes == (("anna", "joy"), ("ben", "sad"), ("ben", "other"))
    assert (second.utterance.turn, second.utterance.session, second.utterance.votes) == (1, "", ())
    assert first.clip.source == tmp_path / "x" / "a.wav"
    with pytest.raises(UserError, match="column 'start' is missing"):
        clips.read_table(path, tmp_path, cut=True)
    path = write_table(tmp_path / "c.csv", [row(), row(start="2", end="3")])
    assert [(r.clip.start, r.clip.end, r.utterance.id) for r in clips.read_table(path, tmp_path, cut=True)] == [
        (1.0, 2.0, "a_1.00_2.00"),
        (2.0, 3.0, "a_2.00_3.00"),
    ]


# ---- EmoDB ----


def small_tar(path, names, folder="wav/"):
    with tarfile.open(path, "w") as tar:
        for i, name in enumerate(names):
            sound = io.BytesIO()
            write_wav_to(sound, tone(0.3, 150.0 + 10 * i))
            member = tarfile.TarInfo(folder + name)
            member.size = len(sound.getvalue())
            tar.addfile(member, io.BytesIO(sound.getvalue()))
    return path


def write_wav_to(file, sound):
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(np.int16(sound * 32767).tobytes())


def test_emodb_names_say_what_they_are(tmp_path):
    tar = small_tar(tmp_path / "e.tar", ["15b02Wa.wav", "03a01Fb.wav", "03a01Fa.wav"], folder="../../wav/")
    found = [r.utterance for r in emodb.read_tar(tar)]
    assert [(u.id, u.label, u.speaker, u.session, u.dialogue, u.turn, u.split) for u in found] == [
        ("03a01Fa", "happiness", "03", "03", "03", 0, "train"),
        ("03a01Fb", "happiness", "03", "03", "03", 1, "train"),
        ("15b02Wa", "anger", "15", "15", "15", 0, "test"),
    ]
    assert found[0].sentence == "Der Lappen liegt auf dem Eisschrank."
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.tar"], "nothing is written"


@pytest.mark.parametrize(
    ("names", "words"),
    [(["03a01Xa.wav"], "03a01Xa.wav is not named as in EmoDB"), (["03a01Fa.wav"] * 2, "occurs twice"), ([], "no wav")],
)
def test_a_wrong_emodb_is_named(tmp_path, names, words):
    with pytest.raises(UserError, match=words):
        emodb.read_tar(small_tar(tmp_path / "e.tar", names))


def test_a_truncated_tar_is_named(tmp_path):
    path = small_tar(tmp_path / "e.tar", ["03a01Fa.wav", "03a01Fb.wav"])
    path.write_bytes(path.read_bytes()[:14000])
    with pytest.raises(UserError, match=r"e\.tar"):
        emodb.read_tar(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a whole tar"):
        emodb.read_tar(path)


@needs_emodb
def test_the_real_emodb():
    found = [r.utterance for r in emodb.read_tar(EMODB)]
    counts = {label: sum(u.label == label for u in found) for label in emodb.LABELS.values()}
    assert counts == {
        "anger": 127, "boredom": 81, "disgust": 46, "fear": 69, "happiness": 71, "sadness": 62, "neutral": 79
    }  # fmt: skip
    assert len({u.speaker for u in found}) == 10
    assert {u.sentence for u in found} == set(emodb.SENTENCES.values())


# ---- encoders ----


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of small random models, as a user would download real ones."""
    import torch
    import transformers as t

    root = tmp_path_factory.mktemp("models")
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
            **sizes, conv_dim=(16,) * 7, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer", vocab_size=8,
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        )  # fmt: skip
        model(net).save_pretrained(root / name)
        t.Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer").save_pretrained(root / name)
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
        ("swin", t.SwinModel(t.SwinConfig(
            image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4))),
        ("clip", t.CLIPModel(t.CLIPConfig(**both, projection_dim=16))),
    ):  # fmt: skip
        model.save_pretrained(root / name)
        resize.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Wavs of different lengths: EmoDB where it is, else a voice-like tone."""
    folder, found = tmp_path_factory.mktemp("speech"), []
    recordings = [r.clip for r in emodb.read_tar(EMODB)[::60]] if EMODB.is_file() else []
    for i in range(8):
        sound = media.samples(recordings[i], RATE, 30.0) if recordings else tone(2.0, 150.0 + 20 * i)
        found.append(write_wav(folder / f"{i}.wav", sound[: RATE // 2 + 2000 * i]))
    return found


@pytest.mark.slow
@needs_prep
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # transformers' WavLM
class TestEncoders:
    @pytest.mark.parametrize(("name", "pads"), [("wav2vec2", False), ("wavlm", True), ("hubert", True)])
    def test_batching_and_padding_change_nothing(self, models, speech, name, pads):
        from data_prep.audio import SpeechEncoder

        encoder = SpeechEncoder(str(models / name), (0, -1), device="cpu")
        assert encoder.pads == pads
        prepared = [encoder.prepare(Clip(p.name, p)) for p in speech]
        together = encoder.encode(prepared)
        for sound, found in zip(prepared, together, strict=True):
            alone = encoder.encode([sound])[0]
            assert found.shape == alone.shape == ((len(sound) - 400) // 320 + 1, 64)
            np.testing.assert_allclose(found, alone, atol=2e-3)
        for reordered, found in zip(encoder.encode(prepared[::-1]), together[::-1], strict=True):
            np.testing.assert_allclose(reordered, found, atol=2e-3)

    def test_speech_states_are_the_models(self, models, speech):
        import torch
        import transformers

        from data_prep.audio import SpeechEncoder

        encoder = SpeechEncoder(str(models / "hubert"), (1,), device="cpu", every=3)
        model = transformers.HubertModel.from_pretrained(models / "hubert").eval()
        sound = media.samples(Clip("a", speech[3]), RATE, 30.0)
        sound = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        with torch.inference_mode():
            states = model(torch.tensor(sound[None]), output_hidden_states=True).hidden_states[1][0].numpy()
        wanted = np.stack([states[at : at + 3].mean(0) for at in range(0, len(states), 3)])
        np.testing.assert_allclose(encoder.encode([encoder.prepare(Clip("a", speech[3]))])[0], wanted, atol=2e-3)

    def test_what_is_too_short_is_filled_up(self, models, tmp_path):
        from data_prep.audio import Egemaps, SpeechEncoder

        clip = Clip("a", write_wav(tmp_path / "a.wav", tone()[:100]))
        for encoder, width in ((SpeechEncoder(str(models / "wavlm"), device="cpu"), 32), (Egemaps(), 25)):
            found = encoder.encode([encoder.prepare(clip)])[0]
            assert found.shape[1] == width
            assert np.isfinite(found).all()

    @pytest.mark.parametrize(
        ("name", "width", "of"),
        [
            ("vit", 32, "pooled output"),
            ("vit-classifier", 32, "mean over the last layer's patches"),
            ("swin", 16, "pooled output"),
            ("clip", 32, "pooled output"),
        ],
    )
    def test_a_frame_is_one_vector(self, models, tmp_path, name, width, of):
        from data_prep.visual import FrameEncoder

        films = [Clip(f"{n}", write_movie(tmp_path / f"{n}.mp4", count=n)) for n in (10, 20, 30)]
        encoder = FrameEncoder(str(models / name), frames=4, device="cpu")
        assert of in encoder.extractor
        prepared = [encoder.prepare(film) for film in films]
        for one, found in zip(prepared, encoder.encode(prepared), strict=True):
            assert found.shape == (4, width)
            np.testing.assert_allclose(found, encoder.encode([one])[0], atol=2e-3)
        again = FrameEncoder(str(models / name), frames=4, device="cpu")
        assert again.identity == encoder.identity, "weights that the checkpoint lacks are drawn anew, and do not count"
        deep = FrameEncoder(str(models / name), (0, -1), frames=4, device="cpu", pooling="mean")
        assert deep.encode([prepared[0]])[0].shape == (1, 24 if name == "swin" else 64)

    def test_clips_eye_is_its_own(self, models, tmp_path):
        import torch
        import transformers

        from data_prep.visual import FrameEncoder

        encoder = FrameEncoder(str(models / "clip"), frames=3, device="cpu")
        model = transformers.CLIPModel.from_pretrained(models / "clip").eval()
        prepared = encoder.prepare(Clip("a", write_movie(tmp_path / "a.mp4")))
        with torch.inference_mode():
            wanted = model.vision_model(pixel_values=torch.tensor(prepared.pixels)).pooler_output.numpy()
        np.testing.assert_allclose(encoder.encode([prepared])[0], wanted, atol=2e-3)

    def test_descriptors_are_opensmiles(self, speech):
        import opensmile

        from data_prep.audio import Egemaps

        encoder = Egemaps()
        smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
        found = encoder.encode([encoder.prepare(Clip(p.name, p)) for p in speech[:4]])
        for path, descriptors in zip(speech, found, strict=False):
            with wave.open(str(path)) as file:
                sound = np.frombuffer(file.readframes(10**9), np.int16) / np.float32(32768)
            wanted = smile.process_signal(sound, RATE).to_numpy()
            np.testing.assert_allclose(descriptors, wanted, rtol=1e-3, atol=1e-3)

    def test_wrong_encoders_are_named(self, models, tmp_path):
        from safetensors.numpy import load_file, save_file

        from data_prep.audio import SpeechEncoder
        from data_prep.visual import FrameEncoder

        with pytest.raises(UserError, match=r"--audio-encoder=.*neither a local folder nor reachable.*give its path"):
            SpeechEncoder(str(tmp_path / "nothing"))
        with pytest.raises(UserError, match=r"--audio-layers=7: .* has layers 0 to 2"):
            SpeechEncoder(str(models / "wavlm"), (7,))
        with pytest.raises(UserError, match="--device=nowhere"):
            FrameEncoder(str(models / "vit"), device="nowhere")
        with pytest.raises(UserError, match="the folder holds no whole model"):
            SpeechEncoder(str(models / "bert"))
        broken = shutil.copytree(models / "vit", tmp_path / "vit")
        weights = load_file(broken / "model.safetensors")
        lost = next(k for k in weights if "layernorm" in k)
        save_file({k: v for k, v in weights.items() if k != lost}, broken / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=r"lacks 1 of the model's weights, the first is .*layernorm"):
            FrameEncoder(str(broken))
        (broken / "model.safetensors").write_bytes(b"nothing")
        with pytest.raises(UserError, match="the folder holds no whole model"):
            FrameEncoder(str(broken))


# ---- the commands ----


@pytest.fixture(scope="module")
def films(tmp_path_factory, speech):
    """A folder of mp4s with speech and numbered frames, and its table."""
    folder, rows = tmp_path_factory.mktemp("films"), []
    for i in range(24):
        with wave.open(str(speech[i % 8])) as file:
            sound = np.frombuffer(file.readframes(10**9), np.int16) / np.float32(32768)
        write_movie(folder / f"film{i:02d}.mp4", np.roll(sound, 100 * i), count=12 + i % 8)
        rows.append({
            "file": f"film{i:02d}.mp4", "label": ("glad", "cross")[i % 2], "sentence": f"hello number {i}.",
            "split": ("train", "valid", "test")[i % 3], "dialogue": f"d{i // 6}", "speaker": f"s{i % 4}",
        })  # fmt: skip
    return write_table(folder / "table.csv", rows)


def flags(models, films, out, cache):
    return [
        films, "--out", out, "--cache", cache, "--device=cpu", "--text-encoder", models / "bert", "--text-layers=-1",
        "--audio-encoder", models / "wavlm", "--visual-encoder", models / "vit",
    ]  # fmt: skip


def corpus_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@needs_prep
class TestClips:
    def test_text_audio_and_frames_end_to_end(self, models, films, tmp_path, run_cli):
        import torch
        import transformers

        done = run_cli(*flags(models, films, tmp_path / "out", tmp_path / "cache"), module="data_prep.clips")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "utterances, manifest sha256" in done.stdout, "the audit ends the import"
        corpus = Corpus(tmp_path / "out")
        assert len(corpus) == 24
        assert corpus.labels == ("cross", "glad")
        assert {m: (s["width"], s["dtype"]) for m, s in corpus.modalities.items()} == {
            m: (32, "float16") for m in ("text", "audio", "visual")
        }
        assert corpus.manifest["provenance"]["audio_encoder"]["name"] == "wavlm"
        found = next(corpus[i] for i in range(24) if corpus[i].id == "film07")
        assert (found.dialogue, found.turn, found.speaker, found.split) == ("d1", 1, "s3", "valid")
        # What the models say of this clip, by another way.
        clip = Clip("film07", films.parent / "film07.mp4")
        sound = media.samples(clip, RATE, 30.0)
        sound = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        images = media.frames(clip, 30.0)
        assert len(images) == 15
        pixels = transformers.ViTImageProcessorPil.from_pretrained(models / "vit")(images, return_tensors="pt")
        with torch.inference_mode():
            bert = transformers.BertModel.from_pretrained(models / "bert").eval()
            tokens = transformers.AutoTokenizer.from_pretrained(models / "bert")("hello number 7.", return_tensors="pt")
            wanted = {"text": bert(**tokens).last_hidden_state[0]}
            wavlm = transformers.WavLMModel.from_pretrained(models / "wavlm").eval()
            wanted["audio"] = wavlm(torch.tensor(sound[None]), output_hidden_states=True).hidden_states[-1][0]
            vit = transformers.ViTModel.from_pretrained(models / "vit").eval()
            wanted["visual"] = vit(**pixels).pooler_output
        for modality, states in wanted.items():
            np.testing.assert_allclose(found.features[modality], states.numpy(), atol=4e-3, err_msg=modality)
        again = run_cli(*flags(models, films, tmp_path / "out2", tmp_path / "cache"), module="data_prep.clips")
        assert again.stderr.count("24 of 24 utterances are finished already") == 3
        assert corpus_bytes(tmp_path / "out2").keys() == corpus_bytes(tmp_path / "out").keys()

    def test_killed_again_and_again_it_ends_with_the_same_bytes(self, models, films, tmp_path, pytestconfig):
        """Every other kill comes while a file is being written, the last one while the corpus is, the others at any moment."""
        kills = pytestconfig.getoption("kills")
        rng = np.random.default_rng(int(time.time()))
        (tmp_path / "calm").mkdir()
        (tmp_path / "killed").mkdir()

        def start(name):
            arguments = flags(models, films, tmp_path / name / "corpus", tmp_path / name / "cache")
            command = [sys.executable, "-c", SLOWLY, *map(str, arguments)]
            return subprocess.Popen(command, cwd=ROOT, env=user_env(tmp_path), stderr=subprocess.PIPE, text=True)

        def finished(name):
            return {p: p.stat().st_mtime_ns for p in (tmp_path / name / "cache").rglob("*.npz")}

        def wait(process, met):
            deadline = time.monotonic() + 120
            while not met() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)

        before, torn = {}, 0
        for kill in range(kills):
            process = start("killed")
            if kill == kills - 1:
                wait(process, (tmp_path / "killed" / ".corpus.partial").exists)
            else:
                target = len(before) + int(rng.integers(1, 3))
                wait(process, lambda target=target: len(finished("killed")) >= target)
                if kill % 2:
                    wait(process, lambda process=process: any(tmp_path.rglob(f"*.{process.pid}.partial")))
                else:
                    time.sleep(float(rng.uniform(0, 0.3)))
            assert process.poll() is None, process.communicate()[1]
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            torn += any(tmp_path.rglob(f"*.{process.pid}.partial"))
            after = finished("killed")
            assert before.items() <= after.items(), "a finished file was written again"
            before = after
        assert torn >= kills // 2 - 1
        assert not (tmp_path / "killed" / "corpus").exists()
        process = start("killed")
        errors = process.communicate(timeout=170)[1]
        assert process.returncode == 0, errors
        assert finished("killed") == before, "all was finished when the corpus was begun"
        assert errors.count("24 of 24 utterances are finished already") == 3
        keys = [(path.parent, key) for path in before for key in np.load(path).files]
        assert len(keys) == len(set(keys)) == 3 * 24, "an utterance was done twice"
        process = start("calm")
        errors = process.communicate(timeout=170)[1]
        assert process.returncode == 0, errors
        assert corpus_bytes(tmp_path / "calm" / "corpus") == corpus_bytes(tmp_path / "killed" / "corpus")

    def test_broken_clips_are_refused_by_name_or_left_out(self, models, films, tmp_path, run_cli):
        folder = shutil.copytree(films.parent, tmp_path / "films")
        (folder / "film03.mp4").unlink()
        (folder / "film04.mp4").write_bytes(b"")
        write_movie(folder / "film05.mp4")
        cut_short(folder / "film06.mp4")
        spoil(folder / "film08.mp4")
        arguments = [
            folder / "table.csv", "--out", tmp_path / "out", "--cache", tmp_path / "cache", "--device=cpu",
            "--text-encoder", models / "bert", "--text-layers=-1", "--audio-encoder=egemaps", "--audio-every=5",
        ]  # fmt: skip
        done = run_cli(*arguments, module="data_prep.clips")
        assert done.returncode == 2, done.stderr
        assert "4 clips cannot be used" in done.stderr
        for words in ("line 5: film03.mp4 does not exist", "line 6: film04.mp4 is empty",
                      "line 7: film05.mp4 has no audio stream", "line 8: film06.mp4"):  # fmt: skip
            assert words in done.stderr
        assert not list((tmp_path / "cache").rglob("*.npz")), "refused before the long work"
        done = run_cli(*arguments, "--skip-broken", "--longest=0.5", module="data_prep.clips")
        assert done.returncode == 0, done.stderr
        assert "film08.mp4 cannot be decoded" in done.stderr
        assert "5 of 24 clips are left out" in done.stdout
        assert "are longer than 0.5 s and cut to their beginning" in done.stdout
        corpus = Corpus(tmp_path / "out")
        left_out = [f"film{i:02d}" for i in (3, 4, 5, 6, 8)]
        assert corpus.manifest["provenance"]["left_out"] == left_out
        assert not set(left_out) & set(corpus.index["id"].tolist())
        assert len(corpus) == 19
        assert corpus.modalities["audio"]["width"] == 25
        assert corpus.modalities["audio"]["longest"] == 10  # 0.5 s at 100 a second, five together

    def test_faces_are_cut_out_and_frames_without_one_counted(self, models, portrait, tmp_path, run_cli):
        import av
        import transformers

        from data_prep.visual import FrameEncoder

        rows = []
        for i in range(4):
            with av.open(str(tmp_path / f"{i}.mp4"), "w") as out:
                video = out.add_stream("mpeg4", rate=10)
                video.width, video.height, video.pix_fmt, video.bit_rate = 256, 256, "yuv420p", 8_000_000
                for at in range(10):
                    image = (
                        portrait[::2, :: (2, -2)[i % 2]]
                        if at < (10, 10, 5, 0)[i]
                        else np.zeros((256, 256, 3), np.uint8)
                    )
                    out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
                out.mux(video.encode(None))
            rows.append({"file": f"{i}.mp4", "label": ("glad", "cross")[i % 2]})
        arguments = [
            write_table(tmp_path / "t.csv", rows), "--cache", tmp_path / "cache", "--device=cpu", "--frames=10", "--text-encoder",
            models / "bert", "--text-layers=-1", "--faces",
        ]  # fmt: skip
        done = run_cli(*arguments, "--out", tmp_path / "out", "--audio-encoder=egemaps", module="data_prep.clips")
        assert done.returncode == 2
        assert "--faces cuts the frames that a --visual-encoder reads" in done.stderr
        arguments += ["--visual-encoder", models / "vit"]
        done = run_cli(*arguments, "--out", tmp_path / "out", module="data_prep.clips")
        assert done.returncode == 0, done.stderr
        assert (
            "no face was found in 15 of 40 frames, which are taken whole; 1 of 4 clips have none at all" in done.stdout
        )
        corpus = Corpus(tmp_path / "out")
        assert "each cut to its largest face (haarcascade" in corpus.modalities["visual"]["extractor"]
        assert corpus.manifest["provenance"]["frames_without_face"] == 15
        assert corpus.manifest["provenance"]["visual_encoder"]["faces"] == faces.library()
        # The crop, made by another way, through the same processor.
        clip = Clip("2", tmp_path / "2.mp4")
        images = media.frames(clip, 30.0, count=10)
        images = [image[faces.largest(image)] for image in images[:5]] + images[5:]
        processor = transformers.ViTImageProcessorPil.from_pretrained(models / "vit")
        encoder = FrameEncoder(str(models / "vit"), frames=10, faces=True, device="cpu")
        pixels = np.stack([processor(image, return_tensors="np")["pixel_values"][0] for image in images])
        np.testing.assert_allclose(encoder.prepare(clip).pixels, pixels, atol=1e-6)
        assert encoder.identity != FrameEncoder(str(models / "vit"), frames=10, device="cpu").identity
        again = run_cli(*arguments, "--out", tmp_path / "out2", module="data_prep.clips")
        assert "no face was found in 15 of 40 frames" in again.stdout, "also when none is computed again"

    @pytest.mark.parametrize("coding", ["jpeg", "png"])
    def test_the_frames_themselves(self, models, films, tmp_path, run_cli, coding):
        """Squares from the middle; what a run reads is what Pillow makes of the film's frames; the cache gives the same bytes."""
        arguments = [
            films,
            "--cache",
            tmp_path / "cache",
            "--device=cpu",
            "--text-encoder",
            models / "bert",
            "--text-layers=-1",
            "--frames=5",
        ]
        refused = run_cli(*arguments, "--out", tmp_path / "a", "--frame-size=16", module="data_prep.clips")
        assert refused.returncode == 2
        assert "--frame-size is of --visual-encoder=jpeg or png" in refused.stderr
        arguments += ["--visual-encoder", coding, "--frame-size=16"]
        done = run_cli(*arguments, "--out", tmp_path / "a", module="data_prep.clips")
        assert done.returncode == 0, done.stderr
        corpus = Corpus(tmp_path / "a")
        assert corpus.modalities["visual"] | {"extractor": ""} == {
            "width": 768, "dtype": coding, "pixels": [16, 16], "longest": 5, "extractor": ""
        }  # fmt: skip
        assert "5 frames evenly spread as" in corpus.modalities["visual"]["extractor"]
        found = next(corpus[i] for i in range(24) if corpus[i].id == "film07").features["visual"]
        images = media.frames(Clip("film07", films.parent / "film07.mp4"), 30.0, count=5)
        wanted = [Image.fromarray(image[:, 16:48]).resize((16, 16), Image.Resampling.BICUBIC) for image in images]
        off = np.abs(as_they_are(found).astype(int) - np.stack([np.asarray(w) for w in wanted]))
        assert off.max() <= (6 if coding == "jpeg" else 1)
        again = run_cli(*arguments, "--out", tmp_path / "b", module="data_prep.clips")
        assert "visual: 24 of 24 utterances are finished already" in again.stderr
        same = {
            name
            for name, content in corpus_bytes(tmp_path / "a").items()
            if corpus_bytes(tmp_path / "b")[name] == content
        }
        assert same >= {name for name in corpus_bytes(tmp_path / "a") if name != "manifest.json"}

    def test_parts_of_one_long_recording(self, models, tmp_path, run_cli):
        write_wav(tmp_path / "long.wav", np.concatenate([tone(1.0, p) for p in (120.0, 180.0, 240.0, 300.0)]))
        rows = [row(file="long.wav", start=i, end=i + 1, label=("joy", "sad")[i % 2], turn=i) for i in range(4)]
        arguments = ["--out", tmp_path / "out", "--cache", tmp_path / "cache", "--text-encoder", models / "bert",
                     "--text-layers=-1", "--audio-encoder=egemaps", "--device=cpu"]  # fmt: skip
        table = write_table(tmp_path / "t.csv", rows)
        done = run_cli(table, *arguments, module="data_prep.clips")
        assert done.returncode == 2
        assert "with --cut each line takes the part" in done.stderr
        done = run_cli(table, *arguments, "--cut", module="data_prep.clips")
        assert done.returncode == 0, done.stderr
        assert "all utterances are train, none is valid or test; train with" in done.stdout
        corpus = Corpus(tmp_path / "out")
        pitch = [np.median(corpus[i].features["audio"][20:-20, 10]) for i in range(4)]
        semitones = 12 * np.log2(np.array([120, 180, 240, 300]) * 0.9 / 27.5)  # the tone falls to 0.8 of its pitch
        np.testing.assert_allclose(pitch, semitones, atol=1)

    def test_emodb_leaves_one_speaker_out(self, models, tmp_path, run_cli):
        names = [f"{s}{t}{e}a.wav" for s in ("03", "08", "12", "15") for t in ("a01", "b02") for e in "WFN"]
        arguments = [small_tar(tmp_path / "e.tar", names), "--out", tmp_path / "out", "--cache", tmp_path / "cache",
                     "--text-encoder", models / "bert", "--text-layers=-1", "--device=cpu"]  # fmt: skip
        done = run_cli(*arguments, module="data_prep.emodb")
        assert done.returncode == 0, done.stderr
        assert "utterances, manifest sha256" in done.stdout, "the audit ends the import"
        corpus = Corpus(tmp_path / "out")
        assert len(corpus) == 24
        for protocol in ("loso", "speaker"):
            folds = protocols.split(corpus, protocol, 0).folds
            assert [f.name for f in folds] == ["03", "08", "12", "15"]
            for fold in folds:
                of = {
                    part: set(corpus.index["speaker"][getattr(fold, part)].tolist())
                    for part in ("train", "valid", "test")
                }
                assert of["test"] == {fold.name}
                assert sum(map(len, of.values())) == len(set.union(*of.values())) == 4
        assert json.dumps(corpus.manifest).count(str(tmp_path)) == 0


# The command with encoders and writes that take their time, so that kills find them at work, and in batches of two.
SLOWLY = """
import os, sys, time
from data_prep import audio, clips, text, visual
def slowly(call, seconds):
    return lambda *arguments: (time.sleep(seconds), call(*arguments))[1]
for encoder in (audio.SpeechEncoder, visual.FrameEncoder, text.TextEncoder):
    encoder.encode, encoder.together = slowly(encoder.encode, 0.1), 2
os.replace, os.rename = slowly(os.replace, 0.05), slowly(os.rename, 1)
clips.main(sys.argv[1:])
"""
