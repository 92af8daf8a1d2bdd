"""Clips are listened to when they are imported: silence, and the same sound in another codec."""

import io

import numpy as np
import pytest
from recordings import RATE, needs_av, row, tone, write_table, write_wav

from data_prep.clips import without_impossible_times
from data_prep.encoders import hearing
from data_prep.encoders.hearing import Heard, fingerprint, same_sounds, silent

pytestmark = [needs_av, pytest.mark.usefixtures("calls_unchecked")]


def voice(seed, seconds=2.0):
    """A sound whose spectrum changes all the time, as that of speech does."""
    rng, at = np.random.default_rng(seed), np.arange(round(seconds * RATE)) / RATE
    sound = np.zeros(len(at))
    for _ in range(12):
        pitch, speed, begin = rng.uniform(300, 1900), rng.uniform(-300, 300), rng.uniform(0, seconds)
        sound += np.sin(2 * np.pi * (pitch * at + speed * at**2 / 2)) * np.exp(-(((at - begin) / 0.2) ** 2))
    return (0.2 * sound / np.abs(sound).max()).astype(np.float32)


def recoded(sound, codec, container, rate):
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=RATE, layout="mono")
        stream.bit_rate = rate
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def heard(sound):
    return Heard(0.0, fingerprint(sound))


@pytest.mark.parametrize(("codec", "container"), [("aac", "mp4"), ("aac", "adts"), ("libmp3lame", "mp3")])
def test_a_copy_in_another_codec_is_the_same_sound(codec, container):
    found = {f"v{i}": heard(voice(i)) for i in range(8)}
    for i in (2, 5):
        clip = hearing.Clip("copy", recoded(voice(i), codec, container, 32000))
        found[f"copy{i}"] = heard(hearing.media.samples(clip, RATE, 30.0))
    found["quieter"] = heard(0.05 * voice(7))
    assert same_sounds(found) == [("v2", "copy2"), ("v5", "copy5"), ("v7", "quieter")]


def test_short_and_silent_clips_are_the_same_as_nothing():
    still = np.zeros(RATE, np.float32)
    found = {name: Heard(-200.0, fingerprint(still)) for name in "ab"} | {
        "c": heard(voice(0, 0.05)),
        "d": heard(voice(1, 0.05)),
    }
    assert silent(found) == ["a", "b"]
    assert same_sounds(found) == []
    assert same_sounds({}) == []
    padded = {str(i): heard(np.append(voice(i, 0.7), np.zeros(3 * RATE, np.float32))) for i in range(4)}
    assert same_sounds(padded) == [], "silence behind a sound makes it like no other"


def test_levels_are_of_full_scale():
    clip = hearing.Clip("c", b"")
    assert hearing.level(clip, np.float32([0.1, -1.0])) == 0
    assert hearing.level(clip, np.zeros(3)) == -200
    with pytest.raises(ValueError, match="c: its sound holds NaN"):
        hearing.level(clip, np.float32([np.nan]))


@pytest.mark.slow
def test_an_import_tells_silence_copies_and_intervals(tmp_path, run_cli, models):
    pytest.importorskip("opensmile", reason="needs the extra prep")
    from recordings import small_bert

    rows = []
    for i, part in enumerate(("train", "train", "valid", "valid", "test", "test")):
        write_wav(tmp_path / f"c{i}.wav", voice(i))
        rows.append(row(file=f"c{i}.wav", label="ab"[i % 2], split=part, end="9" if i == 3 else "00:00:02.5"))
    write_wav(tmp_path / "faint.wav", 5e-5 * np.sign(tone(1.0)))
    (tmp_path / "copy.m4a").write_bytes(recoded(voice(0), "aac", "mp4", 32000))
    rows += [row(file="faint.wav", start="", end=""), row(file="copy.m4a", label="a", split="test")]
    table = write_table(tmp_path / "t.csv", [{k: v for k, v in r.items() if k != "turn"} for r in rows])
    flags = [table, "--audio-encoder=egemaps", "--cache", tmp_path / "cache", "--device=cpu", *small_bert(models)]
    done = run_cli(*flags, "--out", tmp_path / "out", module="data_prep.clips")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "1 clips are silent, with no level above -60 dBFS: faint.wav" in said
    assert "1 pairs of clips are the same sound in two parts: c0.wav (train) and copy.m4a (test)" in said
    assert "1 intervals from start to end are longer than their clip and left out" in said
    assert "line 5: 1 to 9 s, the clip c3.wav is 2.00 s long" in said
    assert "problem duplicates (sound)" in said
    assert without_impossible_times([], {}) == ([], [])
