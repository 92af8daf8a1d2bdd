"""The stream of features beside the corpora that the same encoders made; small random models, real ones where they are installed."""

import argparse
import contextlib
import copy
import io
import json
import os
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from conftest import ROOT, user_env
from test_extract import models, needs_av, needs_prep, spoil, tone, write_movie, write_table, write_wav  # noqa: F401

from data_prep import clips, features, media, rebuild, stream
from data_prep.media import Clip
from mer_jax.data.corpus import Corpus, Utterance, from_example, to_example
from mer_jax.data.frames import EncodedFrames
from mer_jax.data.records import decode_example, read_record, write_record
from mer_jax.errors import UserError

# ---- records through a pipe ----


def test_records_one_after_the_other(tmp_path):
    sent, path = [b"one", b"", b"\0" * 99], tmp_path / "records"
    with open(path, "wb") as out:
        for record in sent:
            write_record(out, record)
    with open(path, "rb") as file:
        assert [read_record(file) for _ in range(4)] == [*sent, None]
    whole = path.read_bytes()
    damage = {
        "no record": (whole[:5], b"error: no" + whole),
        "bytes too early": (whole[:17],),
        "content is damaged": (whole[:13] + b"N" + whole[14:],),
    }
    for words, contents in damage.items():
        for content in contents:
            path.write_bytes(content)
            with open(path, "rb") as file, pytest.raises(ValueError, match=words):
                read_record(file)


def test_more_beside_an_utterance():
    utterance = Utterance("u", "test", "", 0, "", "", "", "hi", {"text": np.ones((2, 3), np.float16)}, end=2.0)
    record = to_example(utterance, {"notes": [b"a", b"b"]})
    assert [bytes(note) for note in decode_example(record)["notes"]] == [b"a", b"b"]
    found = from_example(record, ["text", "audio"])
    assert (found.id, found.sentence, found.start, found.end, list(found.features)) == ("u", "hi", None, 2.0, ["text"])


# ---- requests ----


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"nothing", "no line of JSON"),
        (b"\xff", "no line of JSON"),
        (b"[]", "an object with an id"),
        (b'{"file": "a"}', "an object with an id"),
        (b'{"id": 3}', "id is 3, which is no str"),
        (b'{"id": null}', "id is None"),
        (b'{"id": "a", "path": "b"}', "'path' is nothing that a request has; it has id, file"),
        (b'{"id": "a", "start": "1"}', "start is '1', which is no int or float"),
        (b'{"id": "a", "start": true}', "start is True"),
        (b'{"id": "a", "end": NaN}', "end is nan, which cannot be"),
        (b'{"id": "a", "start": -1}', "start is -1, which cannot be"),
        (b'{"id": "a", "start": 2, "end": 2}', "it starts at 2 s and ends at 2 s"),
        (b'{"id": "a", "sentence": "\\ud800"}', "half a character"),
        (b'{"id": "a", "error": 3}', "error is 3, which is no str"),
    ],
)
def test_what_is_no_request_is_told(line, words):
    with pytest.raises(UserError, match=words):
        stream.parse(line)
    told = decode_example(stream.Features({}).answers([stream.Features({}).prepare(line)])[0])
    assert words in bytes(told["error"][0]).decode()
    assert set(told) == {"id", "error"}


def test_what_is_ready_is_answered_together_and_nothing_waits():
    """The first is answered though no second came; of those that wait, together are only those in line that are ready."""
    lines, held = os.pipe(), threading.Event()

    def prepare(line):
        if line == b"slow\n":
            held.wait(10)
        return line.decode().strip()

    with open(lines[0], "rb") as asked, open(lines[1], "wb", buffering=0) as ask:
        found = stream.batches(prepare, asked, 3)
        ask.write(b"one\n")
        assert next(found) == ["one"]
        ask.write(b"a\nb\nc\nd\nslow\ne\n")
        time.sleep(0.2)
        assert next(found) == ["a", "b", "c"]
        assert next(found) == ["d"]
        held.set()
        time.sleep(0.1)
        assert next(found) == ["slow", "e"]
        ask.close()
        assert list(found) == []


def test_no_more_is_taken_in_than_is_answered():
    begun = []
    found = stream.batches(lambda i: begun.append(i) or i, range(1000), 4)
    for _ in range(5):
        taken = max(next(found))
        time.sleep(0.05)
        assert len(begun) <= taken + 1 + 4 + features.THREADS + 1
    found.close()
    time.sleep(0.05)
    assert len(begun) < 60


# ---- the same encoder again ----


IDENTITY = {
    "name": "wavlm", "revision": None, "weights_sha256": "12", "device": "cpu", "torch": "2.1", "layers": [2], "every": 1,
    "faces": {"detector": "d", "opencv": "4.1"},
}  # fmt: skip


def test_libraries_may_differ_and_settings_may_not():
    assert rebuild.compare("audio", IDENTITY, copy.deepcopy(IDENTITY)) == []
    newer = IDENTITY | {"torch": "2.9", "device": "cuda", "revision": "ab", "faces": {"detector": "d", "opencv": "4.9"}}
    notes = rebuild.compare("audio", IDENTITY, newer)
    assert notes[1] == "audio: device is cuda, the corpus was made with cpu"
    assert len(notes) == 4
    moved = rebuild.compare("audio", IDENTITY, IDENTITY | {"name": "microsoft/wavlm"})
    assert moved == ["audio: name is microsoft/wavlm, the corpus was made with wavlm"], "the weights are what counts"
    for field, value in (
        ("weights_sha256", "34"),
        ("layers", [1]),
        ("every", 2),
        ("faces", {"detector": "e"}),
        ("padded", None),
    ):
        other = IDENTITY | {field: value}
        if field == "padded":  # what a trial shows
            assert rebuild.compare("audio", IDENTITY, other) == []
            continue
        with pytest.raises(UserError, match=rf"the audio encoder is not that of the run: its {field}") as caught:
            rebuild.compare("audio", IDENTITY, other | {"name": "other", "torch": "3"})
        assert str(IDENTITY[field]["detector"] if field == "faces" else IDENTITY[field]) in str(caught.value)


def test_features_of_no_encoder_are_refused():
    manifest = {
        "name": "c", "label_space": "text", "provenance": {"audio_encoder": {"layers": [1]}, "visual_encoder": IDENTITY | {"frames": "some"}},
        "modalities": {m: {"extractor": "column x of the table"} for m in ("text", "audio", "visual", "pulse")},
    }  # fmt: skip
    for modality in ("text", "audio", "pulse"):
        with pytest.raises(
            UserError, match=rf"this run's {modality} features were made by ‘column x of the table’, which is not an"
        ):
            rebuild.identity_of(manifest, modality)
    with pytest.raises(UserError, match="has no modality 'smell'; it has text, audio, visual, pulse"):
        rebuild.identity_of(manifest, "smell")
    with pytest.raises(UserError, match="frames is 'some'"):
        rebuild.like("visual", IDENTITY | {"frames": "some"}, None, "cpu", ROOT)
    with pytest.raises(UserError, match="the manifest's text_encoder is not one of this project's: KeyError 'layers'"):
        rebuild.like("text", {"name": "x/y"}, None, "cpu", ROOT)
    with pytest.raises(UserError, match=r"read from a folder called 'wavlm': say where it is, --audio-encoder=PATH"):
        rebuild.like("audio", IDENTITY | {"pooling": "mean", "longest": 30.0}, None, "cpu", ROOT)
    with pytest.raises(UserError, match=r"--audio-encoder=x: this run's audio features are openSMILE"):
        rebuild.encoders_of(manifest | {"provenance": {"audio_encoder": IDENTITY | {
            "name": "openSMILE eGeMAPSv02 low-level descriptors", "pooling": "mean", "longest": 30.0}}}, ["audio"], {"audio": "x"}, "cpu", ROOT)  # fmt: skip
    manifest["provenance"]["label_word_encoder"] = IDENTITY
    assert rebuild.identity_of(manifest, "text") is IDENTITY, "an imported pack with sentences and no text features"
    with pytest.raises(UserError, match="which is not an encoder"):
        rebuild.identity_of(manifest | {"label_space": "other"}, "text")


@needs_av
@pytest.mark.parametrize(
    "options", [{"coding": "jpeg", "size": 24, "frames": 7}, {"coding": "png", "size": 8, "per_second": 2.5, "longest": 4.0}]
)  # fmt: skip
def test_an_identity_is_turned_back_into_its_encoder(options):
    from data_prep.visual import FrameCoder

    coder = FrameCoder(**options)
    again = rebuild.like("visual", json.loads(json.dumps(coder.identity)), None, "cpu", ROOT)
    assert again.identity == coder.identity
    assert {**vars(again), **options} == vars(coder)


# ---- what a clip says ----


class Louder:
    """A sound's first samples, as they are."""

    identity, extractor, together, rate, longest, shortest = {"name": "l"}, "l", 4, 16000, 1.0, 0.06

    def ready(self, samples):
        return samples

    def encode(self, prepared):
        return [p[:8, None].astype(np.float16) for p in prepared]


@pytest.fixture
def hear(monkeypatch):
    """Answers to requests, by an audio encoder that is a toy; (features, notes or error)."""
    monkeypatch.setattr(stream, "Egemaps", Louder)
    made = stream.Features({"audio": Louder()})

    def ask(**request):
        lines = made.answers(
            [
                made.prepare(
                    json.dumps({"id": "a"} | {k: str(v) if k == "file" else v for k, v in request.items()}).encode()
                )
            ]
        )
        found = decode_example(lines[0])
        return found, [bytes(note).decode() for note in found.get("error", found.get("notes", ()))]

    return ask


@needs_av
def test_what_is_done_to_a_clip_is_told(hear, tmp_path):
    plain = write_wav(tmp_path / "a.wav", tone(0.5))
    assert hear(file=plain)[1] == []
    assert hear(file=plain)[0]["seconds"] == [0.5]
    fast = write_wav(tmp_path / "b.wav", tone(0.5), 44100)
    assert hear(file=fast)[1] == ["resampled from 44100 Hz to 16000 Hz"]
    assert hear(file=write_wav(tmp_path / "c.wav", tone(3.0)))[1] == ["longer than 1 s: audio is cut to its beginning"]
    assert hear(file=tmp_path / "c.wav", start=1.5, end=2.25)[1] == []
    assert hear(file=write_wav(tmp_path / "d.wav", tone()[:99]))[1] == ["shorter than 0.06 s: filled up with silence"]
    for level, told in ((0.0, True), (0.0009, True), (0.0011, False)):
        quiet = write_wav(tmp_path / "e.wav", level * np.ones(9000))
        assert hear(file=quiet)[1] == ["silence: the sound has no level above -60 dBFS"] * told
    beyond = hear(file=plain, start=0.1, end=2.0)
    assert beyond[1] == ["it ends at 0.50 s, before the 2 s that are asked for"]
    np.testing.assert_allclose(beyond[0]["start"] + beyond[0]["end"], [0.1, 2.0], rtol=1e-6)
    length = hear(file=plain, length=True)[0]
    assert (length["seconds"], "audio/data" in length) == ([0.5], False)


@needs_av
def test_what_is_not_transcribed_is_told(tmp_path, monkeypatch):
    """The sound of the audio encoder serves the recogniser, too, and so it is cut as for that."""
    monkeypatch.setattr(stream, "Egemaps", Louder)
    recogniser = types.SimpleNamespace(rate=16000, name="toy")
    made = stream.Features({"audio": Louder(), "text": None}, recogniser)
    path = write_wav(tmp_path / "a.wav", tone(3.0))
    ready = made.prepare(json.dumps({"id": "a", "file": str(path)}).encode())
    assert (len(ready.sound), ready.error) == (16000, "")
    assert ready.notes == [f"longer than 1 s: {m} is cut to its beginning" for m in ("audio", "text")]


def test_what_is_wrong_already_is_answered_in_its_turn(hear):
    assert hear(error="a.srt, line 3 is …")[1] == ["a.srt, line 3 is …"]


@needs_av
def test_what_cannot_be_used_is_told(hear, tmp_path):
    silent_film = write_movie(tmp_path / "a.mp4")
    assert hear(file=silent_film)[1] == ["nothing of it can be used; no audio: it has no sound track"]
    assert hear(sentence="hi")[1] == ["nothing of it can be used"]
    assert "does not exist" in hear(file=tmp_path / "none.wav")[1][0]
    (tmp_path / "b.wav").write_bytes(b"nothing" * 99)
    assert "cannot be decoded" in hear(file=tmp_path / "b.wav")[1][0]
    short = write_wav(tmp_path / "c.wav", tone())
    short.write_bytes(short.read_bytes()[:9000])
    assert "it is truncated" in hear(file=short)[1][0]
    assert (
        "7 s and on is asked for, it is 1.50 s long" in hear(file=write_wav(tmp_path / "d.wav", tone()), start=7)[1][0]
    )


@needs_av
def test_the_cover_of_an_album_is_no_film(tmp_path):
    import av
    from PIL import Image

    cover = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(cover, "jpeg")
    path = tmp_path / "a.flac"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("flac", rate=16000, layout="mono")
        picture = out.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 16, 16, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream = picture
        frame = av.AudioFrame.from_ndarray(np.int16(tone() * 32767)[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        out.mux(packet)
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    with av.open(str(path)) as made:
        assert len(made.streams.video) == 1
    assert not media.probe(Clip("a", path), ("audio", "video")).pictures
    with pytest.raises(UserError, match="has no video stream"):
        media.frames(Clip("a", path), 30.0)


@needs_av
def test_a_film_of_many_parts_is_read_through_once(tmp_path, monkeypatch):
    path, read = write_movie(tmp_path / "a.mp4", tone()), []
    spans = media._span
    monkeypatch.setattr(media, "_span", lambda *a: read.append(a) or spans(*a))
    for start in (0.0, 0.3, 0.6, 0.9):
        media.probe(Clip("a", path, start, start + 0.3), ("audio", "video"))
        assert len(media.frames(Clip("a", path, start, start + 0.3), 30.0, count=2)) == 2
    assert len(read) == 2
    os.utime(path, ns=(1, 1))
    media.frames(Clip("a", path), 30.0)
    assert len(read) == 3, "it has changed"


# ---- the command ----


class Child:
    """The command, with its hello taken."""

    def __init__(self, home, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "data_prep.stream", *map(str, arguments)], cwd=ROOT, env=user_env(home), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.first = self.answer()

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request, default=str).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self):
        record = read_record(self.process.stdout)
        return None if record is None else decode_example(record) | {"record": record}

    def end(self):
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err.decode()


@pytest.fixture
def start(tmp_path):
    begun: list[Child] = []
    yield lambda *arguments: begun.append(Child(tmp_path, *arguments)) or begun[-1]
    for child in begun:
        child.process.kill()
        child.process.wait()
        for pipe in (child.process.stdin, child.process.stdout, child.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def said(answer, name):
    return [bytes(value).decode() for value in answer.get(name, ())]


def corpus_of(folder, rows, *encoders):
    """A corpus that data_prep.clips makes of them, and its manifest."""
    table = write_table(folder / "table.csv", rows)
    clips.main(
        [str(a) for a in (table, "--out", folder / "corpus", "--cache", folder / "cache", "--device=cpu", *encoders)]
    )
    corpus = Corpus(folder / "corpus")
    return {str(corpus.index["id"][i]): corpus[i] for i in range(len(corpus))}, folder / "corpus" / "manifest.json"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Ten small films with sound, as lines of a table."""
    folder, found = tmp_path_factory.mktemp("clips"), []
    for i in range(10):
        write_movie(folder / f"{i}.mp4", tone(0.6 + 0.07 * i, 120.0 + 20 * i), count=10 + i)
        said = " ".join(["hello", "number", str(i), "."] * (1 + i % 3))
        found.append({"file": folder / f"{i}.mp4", "id": f"u{i}", "label": ("glad", "cross")[i % 2], "sentence": said, "split": ("train", "valid", "test")[i % 3]})  # fmt: skip
    return found


@pytest.mark.slow
@needs_prep
class TestCommand:
    def test_it_gives_what_the_corpus_holds(self, rows, start, tmp_path):
        """Descriptors and frames bit for bit; of MiniLM to the rounding of float16, whatever was encoded together. One request is answered
        before the next is sent; broken ones among them are told and change nothing."""
        held, manifest = corpus_of(tmp_path, rows, "--audio-encoder=egemaps", "--audio-every=3", "--visual-encoder=jpeg", "--frame-size=16", "--frames=4")  # fmt: skip
        child = start("--manifest", manifest, "--modalities=text,audio,visual", "--device=cpu")
        hello = json.loads(said(child.first, "hello")[0])
        assert list(hello["modalities"]) == ["text", "audio", "visual"]
        assert "every token" in hello["modalities"]["text"]["extractor"]
        assert hello["notes"] == []

        def check(answer, row):
            found, wanted = from_example(answer["record"], ("text", "audio", "visual")), held[row["id"]]
            assert (found.id, found.sentence, found.split, found.label) == (row["id"], row["sentence"], "test", "")
            np.testing.assert_array_equal(found.features["audio"], wanted.features["audio"])
            frames = found.features["visual"]
            assert isinstance(frames, EncodedFrames)
            assert [bytes(f) for f in frames.data] == [bytes(f) for f in wanted.features["visual"].data]
            text = wanted.features["text"].astype(np.float32)
            # Rounded once more to float16, half a spacing here and there, of values that a sum of other rounding made.
            np.testing.assert_allclose(found.features["text"], text, rtol=2**-10, atol=2**-10 * np.abs(text).max())

        for row in rows:
            child.ask(id=row["id"], file=row["file"], sentence=row["sentence"])
            check(child.answer(), row)
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"no film" * 99)
        spoilt = spoil(write_movie(tmp_path / "spoilt.mp4", tone()))
        for i, row in enumerate(rows):
            child.ask(id=row["id"], file=row["file"], sentence=row["sentence"])
            child.ask(id=f"broken{i}", file=(broken, spoilt)[i % 2], sentence="hello")
        child.process.stdin.write(b"nonsense\n\n")
        child.ask(id="words", sentence="hello you")
        child.ask(id="film", file=write_movie(tmp_path / "mute.mp4"))
        child.ask(id="sound", file=write_wav(tmp_path / "a.wav", tone()), sentence="")
        child.ask(id="long", sentence="hello " * 999)
        child.process.stdin.close()
        for i, row in enumerate(rows):
            check(child.answer(), row)
            wrong = child.answer()
            assert (said(wrong, "id"), "cannot be decoded" in said(wrong, "error")[0]) == ([f"broken{i}"], True)
        assert "no line of JSON" in said(child.answer(), "error")[0]
        there = {}
        for _ in range(4):
            answer = child.answer()
            found = from_example(answer["record"], ("text", "audio", "visual"))
            there[found.id] = (sorted(found.features), said(answer, "notes"))
        assert there.pop("long")[1] == ["the sentence has 1001 tokens: cut to 510"]
        assert there == {
            "words": (["text"], []),
            "film": (["visual"], ["no text: there is no sentence", "no audio: it has no sound track"]),
            "sound": (["audio"], ["no text: the sentence is empty", "no visual: it has no pictures"]),
        }
        assert child.answer() is None
        assert child.process.wait(60) == 0
        assert child.process.stderr.read() == b""

    @pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # transformers' WavLM
    def test_models_from_folders(self, models, rows, start, tmp_path):  # noqa: F811
        """Where they are must be said; they are the run's own, or refused; other libraries are told once."""
        held, manifest = corpus_of(
            tmp_path, rows, "--text-encoder", models / "bert", "--text-layers=-1", "--text-pooling=mean", "--audio-encoder", models / "wavlm",
            "--audio-layers=1,-1", "--audio-every=2", "--visual-encoder", models / "vit", "--visual-layers=0,2", "--frame-rate=5", "--longest=0.9",
        )  # fmt: skip
        made = json.loads(manifest.read_text())
        made["provenance"]["audio_encoder"]["torch"] = "1.0"
        older = tmp_path / "older.json"
        older.write_text(json.dumps(made))
        places = [f"--{m}-encoder={models / n}" for m, n in (("text", "bert"), ("audio", "wavlm"), ("visual", "vit"))]
        child = start("--manifest", older, "--modalities=text,audio,visual", "--device=cpu", *places)
        for row in rows:
            child.ask(id=row["id"], file=row["file"], sentence=row["sentence"])
        for row in rows:
            answer = child.answer()
            found = from_example(answer["record"], ("text", "audio", "visual"))
            for modality, wanted in held[row["id"]].features.items():
                wanted = wanted.astype(np.float32)
                atol = 2**-10 * np.abs(wanted).max()
                np.testing.assert_allclose(found.features[modality], wanted, rtol=2**-10, atol=atol, err_msg=modality)
            assert ("longer than 0.9 s: audio is cut to its beginning" in said(answer, "notes")) == (
                answer["seconds"][0] > 0.9
            )
        code, _, err = child.end()
        assert (code, err.count("audio: torch is")) == (0, 1)
        assert "the corpus was made with 1.0" in err

        # In this process: what is refused before the first request.
        def begin(*changes, manifest=manifest):
            options = {"manifest": manifest, "modalities": "audio", "device": "cpu", "asr": None, "cache": tmp_path}
            options |= {f"{m}_encoder": None for m in ("text", "audio", "visual")}
            return stream.begin(argparse.Namespace(**options | dict(changes)))

        with pytest.raises(UserError, match=r"read from a folder called 'wavlm'"):
            begin()
        with pytest.raises(
            UserError,
            match=r"its weights_sha256 is '\w+', the run's corpus was made with '\w+'. It must be the very same wavlm",
        ):
            begin(("audio_encoder", str(models / "hubert")))
        with pytest.raises(UserError, match=r"--text-encoder is given, but --modalities=audio"):
            begin(("text_encoder", "x"))
        with pytest.raises(
            UserError,
            match=r"--asr=.*wavlm: it is a WavLMModel, which does not|--asr=.*: the folder holds no whole model",
        ):
            begin(("audio_encoder", str(models / "wavlm")), ("asr", str(models / "wavlm")), ("modalities", "audio,text"), ("text_encoder", str(models / "bert")))  # fmt: skip
        with pytest.raises(UserError, match=r"older\.json2 cannot be read"):
            begin(manifest=tmp_path / "older.json2")

    def test_it_ends_when_nobody_listens_and_says_why_it_does_not_begin(self, rows, start, tmp_path):
        sounds = [row | {"sentence": ""} for row in rows]
        _, manifest = corpus_of(tmp_path, sounds, "--audio-encoder=egemaps", "--without-text")
        child = start("--manifest", manifest, "--modalities=audio")
        child.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # it may have gone already
            for _ in range(3):
                child.ask(id="u", file=rows[0]["file"])
        assert child.process.wait(30) == 0, "though requests may still come"
        assert child.process.stderr.read() == b""
        child = start("--manifest", manifest, "--modalities=visual")
        assert "has no modality 'visual'; it has audio" in said(child.first, "error")[0]
        assert child.end() == (1, b"", "")

    def test_what_is_said_is_heard(self, tmp_path):
        """A small random CTC model of the real class; what it hears, by another way."""
        import torch
        import transformers as t

        from data_prep.recognise import Recogniser

        folder = tmp_path / "ctc"
        folder.mkdir()
        letters = ["<pad>", "|", *"etaoinshr"]
        (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
        torch.manual_seed(0)
        config = t.Wav2Vec2Config(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7, vocab_size=len(letters),
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
        )  # fmt: skip
        model = t.Wav2Vec2ForCTC(config).eval()
        with torch.no_grad():
            model.lm_head.weight.mul_(30)
        model.save_pretrained(folder)
        t.Wav2Vec2CTCTokenizer(
            str(folder / "vocab.json"), unk_token="<pad>", bos_token=None, eos_token=None
        ).save_pretrained(folder)
        t.Wav2Vec2FeatureExtractor().save_pretrained(folder)
        sound = np.random.default_rng(0).normal(size=22050).astype(np.float32).clip(-3, 3) / 4
        path = write_wav(tmp_path / "a.wav", sound, 22050)
        samples = media.samples(Clip("a", path), 16000, 30.0)
        with torch.inference_mode():
            logits = model(torch.tensor((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7))[None]).logits[0]
        best = logits.argmax(-1).tolist()
        heard = [i for i, before in zip(best, [None, *best], strict=False) if i not in (before, 0)]
        wanted = " ".join("".join(letters[i] for i in heard).replace("|", " ").split())
        assert len(wanted) > 5
        from data_prep.text import MINILM, TextEncoder

        text = TextEncoder(MINILM, (-1,), tmp_path, device="cpu")
        made = stream.Features({"text": text}, Recogniser(str(folder), "cpu"))

        def ask(**request):
            answer = decode_example(made.answers([made.prepare(json.dumps({"id": "a"} | request).encode())])[0])
            return said(answer, "sentence"), said(answer, "notes") + said(answer, "error"), "text/data" in answer

        assert ask(file=str(path)) == ([wanted], ["the sentence is transcribed by ctc"], True)
        assert ask(file=str(path), sentence="given") == (["given"], [], True)
        silence = str(write_wav(tmp_path / "b.wav", np.zeros(16000)))
        assert "no text: there is nothing to hear" in ask(file=silence)[1][0]
        assert "no text: it has no sound track" in ask(file=str(write_movie(tmp_path / "a.mp4")))[1][0]
        assert "no text: there is no sentence" in ask()[1][0]
