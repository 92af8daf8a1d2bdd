"""Requests for features: what they may say, what is answered, and which encoders answer."""

import copy
import io
import json
import os
import threading
import time
import types

import numpy as np
import pytest
from conftest import ROOT
from recordings import needs_av, tone, write_movie, write_wav

from data_prep.encoders import feature_cache, from_manifest, media, requests, serving
from data_prep.encoders.media import Clip
from mer_jax.data.corpus import Utterance, from_example, to_example
from mer_jax.data.records import decode_example, read_record, write_record
from mer_jax.errors import UserError


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
        requests.parse(line)
    told = decode_example(serving.RequestEncoder({}).answers([serving.RequestEncoder({}).prepare(line)])[0])
    assert words in bytes(told["error"][0]).decode()
    assert set(told) == {"id", "error"}


def test_what_is_ready_is_answered_together_and_nothing_waits():
    """The first is answered though no second came; of those that wait, together are only those in line that are
    ready."""
    lines, held = os.pipe(), threading.Event()

    def prepare(line):
        if line == b"slow\n":
            held.wait(10)
        return line.decode().strip()

    with open(lines[0], "rb") as asked, open(lines[1], "wb", buffering=0) as ask:
        found = serving.batches(prepare, asked, 3)
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
    found = serving.batches(lambda i: begun.append(i) or i, range(1000), 4)
    for _ in range(5):
        taken = max(next(found))
        time.sleep(0.05)
        assert len(begun) <= taken + 1 + 4 + feature_cache.THREADS + 1
    found.close()
    time.sleep(0.05)
    assert len(begun) < 60


IDENTITY = {
    "name": "wavlm",
    "revision": None,
    "weights_sha256": "12",
    "device": "cpu",
    "torch": "2.1",
    "layers": [2],
    "every": 1,
    "faces": {"detector": "d", "opencv": "4.1"},
}


def test_libraries_may_differ_and_settings_may_not():
    assert from_manifest.compare("audio", IDENTITY, copy.deepcopy(IDENTITY)) == []
    newer = IDENTITY | {"torch": "2.9", "device": "cuda", "revision": "ab", "faces": {"detector": "d", "opencv": "4.9"}}
    notes = from_manifest.compare("audio", IDENTITY, newer)
    assert notes[1] == "audio: device is cuda, the corpus was made with cpu"
    assert len(notes) == 4
    moved = from_manifest.compare("audio", IDENTITY, IDENTITY | {"name": "microsoft/wavlm"})
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
            assert from_manifest.compare("audio", IDENTITY, other) == []
            continue
        with pytest.raises(UserError, match=rf"the audio encoder is not that of the run: its {field}") as caught:
            from_manifest.compare("audio", IDENTITY, other | {"name": "other", "torch": "3"})
        assert str(IDENTITY[field]["detector"] if field == "faces" else IDENTITY[field]) in str(caught.value)


def test_features_of_no_encoder_are_refused():
    manifest = {
        "name": "c",
        "label_space": "text",
        "provenance": {"audio_encoder": {"layers": [1]}, "visual_encoder": IDENTITY | {"frames": "some"}},
        "modalities": {m: {"extractor": "column x of the table"} for m in ("text", "audio", "visual", "pulse")},
    }
    for modality in ("text", "audio", "pulse"):
        with pytest.raises(
            UserError, match=rf"this run's {modality} features were made by ‘column x of the table’, which is not an"
        ):
            from_manifest.identity_of(manifest, modality)
    with pytest.raises(UserError, match="has no modality 'smell'; it has text, audio, visual, pulse"):
        from_manifest.identity_of(manifest, "smell")
    with pytest.raises(UserError, match="frames is 'some'"):
        from_manifest.encoder_from_identity("visual", IDENTITY | {"frames": "some", "longest": 9.0}, None, "cpu", ROOT)
    with pytest.raises(
        UserError, match="the manifest's text_encoder is not one of this project's: field 'layers' is missing"
    ):
        from_manifest.encoder_from_identity("text", {"name": "x/y"}, None, "cpu", ROOT)
    with pytest.raises(UserError, match=r"read from a folder called 'wavlm': say where it is, --audio-encoder=PATH"):
        from_manifest.encoder_from_identity("audio", IDENTITY | {"pooling": "mean", "longest": 30.0}, None, "cpu", ROOT)
    with pytest.raises(UserError, match=r"--audio-encoder=x: this run's audio features are openSMILE"):
        from_manifest.encoders_of(
            manifest
            | {
                "provenance": {
                    "audio_encoder": IDENTITY
                    | {"name": "openSMILE eGeMAPSv02 low-level descriptors", "pooling": "mean", "longest": 30.0}
                }
            },
            ["audio"],
            {"audio": "x"},
            "cpu",
            ROOT,
        )
    manifest["provenance"]["label_word_encoder"] = IDENTITY
    assert from_manifest.identity_of(manifest, "text") is IDENTITY, (
        "an imported pack with sentences and no text features"
    )
    with pytest.raises(UserError, match="which is not an encoder"):
        from_manifest.identity_of(manifest | {"label_space": "other"}, "text")


@needs_av
@pytest.mark.parametrize(
    "options",
    [{"coding": "jpeg", "size": 24, "frames": 7}, {"coding": "png", "size": 8, "per_second": 2.5, "longest": 4.0}],
)
def test_an_identity_is_turned_back_into_its_encoder(options):
    from data_prep.encoders.visual import FrameCoder

    coder = FrameCoder(**options)
    again = from_manifest.encoder_from_identity("visual", json.loads(json.dumps(coder.identity)), None, "cpu", ROOT)
    assert again.identity == coder.identity
    assert {**vars(again), **options} == vars(coder)


class Louder:
    """A sound's first samples, as they are."""

    identity, extractor, batch_size, rate, longest, shortest = {"name": "l"}, "l", 4, 16000, 1.0, 0.06

    def ready(self, samples):
        return samples

    def encode(self, prepared):
        return [p[:8, None].astype(np.float16) for p in prepared]


@pytest.fixture
def hear(monkeypatch):
    """Answers to requests, by an audio encoder that is a toy; (features, notes or error)."""
    monkeypatch.setattr(serving, "AudioEncoder", Louder)
    made = serving.RequestEncoder({"audio": Louder()})

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
    monkeypatch.setattr(serving, "AudioEncoder", Louder)
    recogniser = types.SimpleNamespace(rate=16000, name="toy")
    made = serving.RequestEncoder({"audio": Louder(), "text": None}, recogniser)
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
    ask = media.ask
    monkeypatch.setattr(media, "ask", lambda do, *a: (do != "frames" and read.append(do)) or ask(do, *a))
    for start in (0.0, 0.3, 0.6, 0.9):
        media.probe(Clip("a", path, start, start + 0.3), ("audio", "video"))
        assert len(media.frames(Clip("a", path, start, start + 0.3), 30.0, count=2)) == 2
    assert len(read) == 2
    os.utime(path, ns=(1, 1))
    media.frames(Clip("a", path), 30.0)
    assert len(read) == 3, "it has changed"
