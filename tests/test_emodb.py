"""EmoDB's tar becomes a corpus."""

import io
import json
import tarfile
import wave

import numpy as np
import pytest
from recordings import (
    EMODB,
    RATE,
    needs_prep,
    small_bert,
    tone,
)

from data_prep import emodb
from mer_jax.data import protocols
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError

needs_emodb = pytest.mark.skipif(not EMODB.is_file(), reason="needs EmoDB's tar in ../shared/data")


def small_tar(path, names, folder="wav/", sounds=()):
    with tarfile.open(path, "w") as tar:
        for i, name in enumerate(names):
            sound = io.BytesIO()
            write_wav_to(sound, sounds[i] if sounds else tone(0.3, 150.0 + 10 * i))
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


def pitch(recording):
    """The frequency, of 70 to 350 Hz, at which the loudest 60 ms of a recording are most alike to themselves."""
    with wave.open(io.BytesIO(recording)) as file:
        rate = file.getframerate()
        sound = np.frombuffer(file.readframes(10**9), np.int16).astype(np.float64)
    frames = sound[: len(sound) // 960 * 960].reshape(-1, 960)
    found = []
    for frame in frames[np.argsort(-(frames**2).sum(1))[:15]]:
        likeness = np.correlate(frame, frame, "full")[960:]
        lags = np.arange(rate // 350, rate // 70)
        found.append(rate / (1 + lags[likeness[lags].argmax()]))
    return np.median(found)


@needs_emodb
def test_the_voices_of_the_real_emodb_are_of_the_genders_that_its_table_says():
    voices = {}
    for row in emodb.read_tar(EMODB):
        if row.utterance.label == "neutral":
            voices.setdefault((row.utterance.speaker, row.utterance.groups["gender"]), []).append(
                pitch(row.clip.source)
            )
    each = {who: np.median(of[:4]) for who, of in voices.items()}
    assert sorted(gender for _, gender in each) == ["female"] * 5 + ["male"] * 5
    men, women = ([value for (_, gender), value in each.items() if gender == g] for g in ("male", "female"))
    assert max(men) < 150 < min(women), each


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


@pytest.mark.slow
@needs_prep
def test_emodb_leaves_one_speaker_out(models, tmp_path, run_cli):
    names = [f"{s}{t}{e}a.wav" for s in ("03", "08", "12", "15") for t in ("a01", "b02") for e in "WFN"]
    arguments = [
        small_tar(tmp_path / "e.tar", names, sounds=[tone(0.3, 150.0 + 10 * i) * (i > 0) for i in range(len(names))]),
        "--out",
        tmp_path / "out",
        "--cache",
        tmp_path / "cache",
        *small_bert(models),
        "--device=cpu",
    ]
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
                part: set(corpus.index["speaker"][getattr(fold, part)].tolist()) for part in ("train", "valid", "test")
            }
            assert of["test"] == {fold.name}
            assert sum(map(len, of.values())) == len(set.union(*of.values())) == 4
    assert len(corpus.manifest["provenance"]["silent"]) == 1
    assert json.dumps(corpus.manifest).count(str(tmp_path)) == 0
