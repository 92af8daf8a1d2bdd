"""Corpora of speech come from their folders as they are distributed: what names say, and each known trap by its name."""

import argparse
import json
import shutil
from pathlib import PurePath

import corpus_folders
import numpy as np
import pytest
import trees
from recordings import RATE, Letters, needs_av, needs_prep, small_bert, tone, write_wav

from data_prep import crema_d, emodb, esd, ravdess, savee, speech_corpus, tess
from data_prep.encoders import flags
from data_prep.raw.turns import KnownIssues
from mer_jax.data import protocols
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError

OF_CLIPS = {"clip-unreadable", "clip-over-long", "clip-short", "silent", "same-sound"}
ESD_DOUBTFUL = "0011/Sad/train/0011_000060.wav"
# What is found in the folders of corpus_folders; None: told by a test of its own
TRAPS = {
    "ravdess": {
        "counts": None,
        "copy": ["audio_speech_actors_01-24/Actor_01/03-01-01-01-02-01-01.wav"],
        "hidden-file": ["Actor_02/._03-01-01-01-02-01-02.wav"],
        "song": ["Actor_01/03-02-05-02-01-02-01.wav", "Video/Actor_01/01-02-05-02-01-02-01.mp4"],
        "other-modality": [
            "Extracted/01-01-03-01-02-01-01.wav",
            *(f"{room}/Actor_01/{name}.mp4" for room, name in corpus_folders.RAVDESS_FILMS[:3]),
        ],
        "folder-of-another-actor": ["Actor_01/03-01-05-02-01-02-02.wav"],
    },
    "crema_d": {
        "counts": None,
        "copy": [],
        "hidden-file": [],
        "faulty": ["1064_IEO_DIS_MD", "1076_MTI_SAD_XX"],
        "level-misnamed": ["AudioWAV/1040_ITH_SAD_X.wav"],
        "intended-not-perceived": ["1001_IEO_HAP_LO"],
        "no-majority": ["1009_IEO_SAD_HI"],
        "no-rater": ["1001_DFA_DIS_XX", "1076_MTI_SAD_XX"],
        "rated-twice": ["1001_DFA_ANG_XX c"],
    },
    "esd": {
        "counts": None,
        "copy": [],
        "hidden-file": [],
        "folder-of-another-emotion": [ESD_DOUBTFUL],
        "folder-of-another-speaker": ["0011/Angry/train/0016_000402.wav"],
        "part-of-another-number": ["0011/Sad/train/0011_001055.wav"],
        "transcript-encoding": ["0001.txt", "0011.txt", "0016.txt"],
        "transcript-line": ["0011.txt:16"],
        "no-sentence": ["0011_001055", *(f"0016_{n:06d}" for n in (51, 401, 402, 751, 1101, 1451))],
        "speaker-shared": [f"{s}_{350 * i + 21:06d}" for s in ("0001", "0011", "0016") for i in range(5)],
    },
    "savee": {"counts": None, "copy": ["AudioData/DC/sa03.wav"], "hidden-file": []},
    "tess": {
        "counts": None,
        "copy": [f"YAF_Sad/YAF_{word}_sad.wav" for word in corpus_folders.TESS_WORDS],
        "hidden-file": [],
        "speaker-misnamed": ["OAF_neutral/OA_bite_neutral.wav"],
        "folder-of-another": ["OAF_neutral/YAF_back_neutral.wav", "YAF_happy/YAF_back_fear.wav"],
        "word-shared": None,
    },
}
READ = {
    "ravdess": lambda folder: ravdess.read_corpus(folder),
    "crema_d": lambda folder: crema_d.read_corpus(folder, "intended", "voice"),
    "esd": lambda folder: esd.read_corpus(folder, "both"),
    "savee": lambda folder: savee.read_corpus(folder),
    "tess": lambda folder: tess.read_corpus(folder),
}
MODULES = {"ravdess": ravdess, "crema_d": crema_d, "esd": esd, "savee": savee, "tess": tess}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("speech")
    return {name: getattr(corpus_folders, name)(root / name) for name in READ}


@pytest.fixture(scope="module")
def read(folders):
    """{corpus: (rows, …, known issues)}."""
    return {name: READ[name](folders[name]) for name in READ}


@pytest.mark.parametrize(
    ("corpus", "name"), [(c, name) for c, of in TRAPS.items() for name, ids in of.items() if ids is not None]
)
def test_each_trap_is_told_by_name(read, corpus, name):
    assert sorted(read[corpus][-1].found[name]) == sorted(TRAPS[corpus][name])


def test_no_trap_is_without_a_test():
    for name, module in MODULES.items():
        issues = getattr(module, "ISSUES", speech_corpus.ISSUES)
        assert TRAPS[name].keys() | OF_CLIPS == issues.keys(), name


def of(read, corpus):
    return {row.utterance.id: row.utterance for row in read[corpus][0]}


def said(u):
    return u.label, u.speaker, u.session, u.dialogue, u.turn, u.split, u.sentence


def genders(found):
    return {u.speaker: u.groups.get("gender", "") for u in found.values()}


def test_genders_are_those_that_the_corpora_state(read, folders, tmp_path):
    assert genders(of(read, "ravdess")) == {"01": "male", "02": "female", "21": "male", "24": "female"}
    assert set(genders(of(read, "savee")).values()) == {"male"}
    assert set(genders(of(read, "tess")).values()) == {"female"}
    assert genders(of(read, "esd")) == {"0001": "female", "0011": "male", "0016": "female"}
    assert {speaker in esd.WOMEN for speaker in ("0004", "0010", "0020")} == {False}
    assert (len(esd.WOMEN), sum(esd.language_of(speaker) == "english" for speaker in esd.WOMEN)) == (10, 5)
    assert set(genders(of(read, "crema_d")).values()) == {""}, "the folder does not say it"
    folder = shutil.copytree(folders["crema_d"], tmp_path / "c")
    table = folder / "VideoDemographics.csv"
    table.write_text(
        "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1009,24,Female,Asian,Hispanic\n"
    )
    rows = crema_d.read_corpus(folder, "intended", "voice")[0]
    found = genders({row.utterance.id: row.utterance for row in rows})
    assert (found["1001"], found["1009"], found["1010"]) == ("male", "female", "")
    for content, words in (
        ("ActorID,Age\n", "column 'Sex' is missing"),
        ("ActorID,Sex\n1001,M\n", "line 2: Sex is 'M'"),
    ):
        table.write_text(content)
        with pytest.raises(UserError, match=rf"VideoDemographics\.csv.*{words}"):
            crema_d.read_corpus(folder, "intended", "voice")


def test_names_of_ravdess(read):
    found = of(read, "ravdess")
    assert len(found) == 13
    assert said(found["03-01-08-01-02-01-24"]) == (
        "surprised", "24", "24", "24", 2, "test", "Dogs are sitting by the door."
    )  # fmt: skip
    assert said(found["03-01-05-02-01-02-02"])[:2] == ("angry", "02"), "the name counts, not the folder"
    assert {u.speaker: u.split for u in found.values()} == {"01": "train", "02": "train", "21": "valid", "24": "test"}
    films = read["ravdess"][1]
    assert {name: clip.name for name, clip in films.items()} == {
        "03-01-01-01-02-01-01": "Video/Actor_01/01-01-01-01-02-01-01.mp4",
        "03-01-03-01-02-01-01": "Video/Actor_01/02-01-03-01-02-01-01.mp4",
    }, "the film with sound, else the silent one"


def test_counts_that_differ_are_named(read):
    assert "neutral 4 instead of 96" in read["ravdess"][-1].found["counts"]
    assert "sad 0 instead of 192" in read["ravdess"][-1].found["counts"]
    assert "anger 1 instead of 1,271" in read["crema_d"][-1].found["counts"]
    assert "angry 10 instead of 7,000" in read["esd"][-1].found["counts"]
    assert "sadness 4 instead of 60" in read["savee"][-1].found["counts"]
    assert "happy 0 instead of 400" in read["tess"][-1].found["counts"]
    issues = KnownIssues(speech_corpus.ISSUES)
    issues.compare({"anger": 60}, {"anger": 60})
    assert issues.found["counts"] == []


def test_published_counts_add_up_to_the_published_totals():
    totals = {"ravdess": 1440, "crema_d": 7442, "savee": 480, "tess": 2800}
    assert {name: sum(MODULES[name].PUBLISHED.values()) for name in totals} == totals


def test_names_and_raters_of_crema_d(read, folders):
    found = of(read, "crema_d")
    assert said(found["1010_TIE_NEU_XX"]) == (
        "neutral", "1010", "1010", "1010", 0, "test", "That is exactly what happened."
    )  # fmt: skip
    assert found["1009_IEO_SAD_HI"].split == "valid"
    assert found["1040_ITH_SAD_XX"].votes == (("a", "sad"),), "the misnamed recording and its answers are one"
    assert found["1001_DFA_ANG_XX"].votes == (("a", "anger"), ("b", "anger"), ("c", "disgust")), "voice only, the last"
    heard = crema_d.read_corpus(folders["crema_d"], "perceived", "voice")[0]
    labels = {row.utterance.id: row.utterance.label for row in heard}
    assert labels["1001_IEO_HAP_LO"] == "neutral"
    assert not {"1009_IEO_SAD_HI", "1076_MTI_SAD_XX"} & labels.keys(), "a tie and nobody's answer are no label"
    others = {"1001_IEO_HAP_LO", "1010_TIE_NEU_XX", "1040_ITH_SAD_XX", "1064_IEO_DIS_MD"}
    assert labels.keys() == {"1001_DFA_ANG_XX"} | others
    assert [row.utterance.turn for row in heard] == [0, 1, 0, 0, 0], "numbered without those left out"
    seen = of({"seen": crema_d.read_corpus(folders["crema_d"], "perceived", "face")}, "seen")
    assert {name: u.label for name, u in seen.items()} == {"1001_DFA_ANG_XX": "fear"}


def test_faults_of_crema_d(tmp_path, capsys):
    room = corpus_folders.crema_d(tmp_path)
    answers = room / "finishedResponses.csv"
    whole = answers.read_text()
    answers.write_text(whole.replace('"A","80"', '"A","80"').replace('"N",80', '"Q",80', 1))
    with pytest.raises(UserError, match=r"finishedResponses\.csv, line 6: respEmo is 'Q', not one of A, D, F, H, N, S"):
        crema_d.read_corpus(room, "intended", "voice")
    answers.write_bytes(corpus_folders.POINTER)
    with pytest.raises(UserError, match=r"finishedResponses\.csv is a pointer of git-lfs"):
        crema_d.read_corpus(room, "intended", "voice")
    answers.unlink()
    assert crema_d.read_corpus(room, "intended", "voice")[2] is None
    assert (
        "holds no finishedResponses.csv, the answers of the raters: no utterance has votes" in capsys.readouterr().out
    )
    with pytest.raises(UserError, match=r"--labels=perceived: .* holds no finishedResponses"):
        crema_d.read_corpus(room, "perceived", "voice")
    (room / "AudioWAV" / "1001_DFA_ANG_XX.wav").write_bytes(corpus_folders.POINTER)
    with pytest.raises(UserError, match=r"1001_DFA_ANG_XX\.wav is a pointer of git-lfs"):
        crema_d.read_corpus(room, "intended", "voice")


def test_parts_languages_and_transcripts_of_esd(read, folders):
    found = of(read, "esd")
    assert {found[f"{s}_{n:06d}"].split for s in ("0001", "0011") for n in (1, 351, 1401)} == {"valid"}
    assert {found[f"{s}_{n:06d}"].split for s in ("0001", "0011") for n in (21, 371, 1421)} == {"test"}
    assert {found[f"{s}_{n:06d}"].split for s in ("0001", "0011") for n in (51, 401, 1451)} == {"train"}
    assert found["0011_001055"].split == "train", "the folder counts, not the number"
    assert said(found["0011_000351"]) == ("angry", "0011", "0011", "0011", 4, "valid", "The nine the eggs, I keep.")
    assert found["0011_000060"].label == "sad"
    assert found["0011_000060"].sentence == "The nine the eggs, I keep.", "spaces for tabs"
    assert found["0001_000001"].sentence == "打远一看，它们的确很是美丽，"
    assert found["0016_000001"].sentence == "It's I."
    chosen = {language: esd.read_corpus(folders["esd"], language)[0] for language in ("english", "mandarin")}
    assert {row.utterance.speaker for row in chosen["english"]} == {"0011", "0016"}
    assert {row.utterance.speaker for row in chosen["mandarin"]} == {"0001"}


def test_names_of_savee_with_and_without_the_speaker(read):
    found = of(read, "savee")
    assert len(found) == 16
    assert {name[3:]: u.label for name, u in found.items()} == {
        "a01": "anger", "n30": "neutral", "sa03": "sadness", "su15": "surprise"
    }  # fmt: skip
    assert said(found["KL_su15"]) == ("surprise", "KL", "KL", "KL", 3, "test", "")


def test_words_of_tess_are_not_in_train_and_valid(read):
    found = of(read, "tess")
    assert said(found["OAF_bite_neutral"]) == (
        "neutral", "OAF", "OAF", "OAF_bite", 1, "train", "Say the word bite."
    )  # fmt: skip
    assert found["YAF_chair_ps"].label == "surprise"
    assert {u.dialogue for u in found.values() if u.split == "valid"} == {"OAF_door"}
    assert {u.speaker for u in found.values() if u.split == "test"} == {"YAF"}
    shared = read["tess"][-1].found["word-shared"]
    assert len(shared) == 14
    assert not [name for name in shared if "door" in name]


WRONG = {
    "ravdess": ["a/03-01-09-01-01-01-01.wav", "a/03-01-01-02-01-01-01.wav", "a/03-01-05-01-01-01-25.wav"],
    "crema_d": ["1001_DFA_ANG_XY.wav", "1001_XYZ_ANG_XX.wav"],
    "esd": ["0021/Angry/0021_000351.wav", "0011/Bored/0011_000351.wav", "0011/Angry/0011_001751.wav"],
    "savee": ["DC_s03.wav", "AB/a01.wav", "a01.wav"],
    "tess": ["OAF_back_bored.wav", "AF_back_angry.wav"],
}


@pytest.mark.parametrize(("corpus", "name"), [(corpus, name) for corpus, names in WRONG.items() for name in names])
def test_a_wrong_name_is_refused_with_what_would_be_right(tmp_path, corpus, name):
    corpus_folders.wav(tmp_path / name, 200.0)
    file = PurePath(name).name
    with pytest.raises(UserError, match=rf"{file} is not (named as|where) .*: .*(, as |no strong)"):
        READ[corpus](tmp_path)


@pytest.mark.parametrize("corpus", READ)
def test_an_empty_folder_is_named(tmp_path, corpus):
    with pytest.raises(UserError, match="holds no wav of the corpus"):
        READ[corpus](tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        READ[corpus](tmp_path / "away")


def test_two_recordings_of_the_same_name_that_differ_are_refused(tmp_path):
    corpus_folders.savee(tmp_path)
    corpus_folders.wav(tmp_path / "ALL" / "KL_a01.wav", 500.0)
    with pytest.raises(UserError, match=r"KL_a01\.wav and .*a01\.wav differ, and both are KL_a01"):
        savee.read_corpus(tmp_path)


@pytest.mark.parametrize(("corpus", "file"), [("ravdess", "01-01-01-01-02-01-01.mp4"), ("crema_d", "1001.flv")])
def test_two_films_of_the_same_name_that_differ_are_refused(tmp_path, corpus, file):
    room = getattr(corpus_folders, corpus)(tmp_path)
    (room / file).write_bytes(b"film")
    (room / "AudioWAV").mkdir(exist_ok=True)
    (room / "AudioWAV" / file).write_bytes(b"another")
    with pytest.raises(UserError, match=rf"{file} and .*{file} differ, and both are"):
        READ[corpus](room)


def test_links_are_followed_and_hidden_folders_left_out(tmp_path):
    """As clusters have corpora, and git-annex: links to folders and to files of a hidden one; some are not fetched."""
    store, room = tmp_path / "store", tmp_path / "room"
    room.mkdir()
    corpus_folders.wav(store / "DC" / "a01.wav", 200.0)
    corpus_folders.wav(room / ".git" / "annex" / "MD5E-s1.wav", 300.0)
    (room / "DC").symlink_to(store / "DC")
    (room / "JE").mkdir()
    (room / "JE" / "a01.wav").symlink_to("../.git/annex/MD5E-s1.wav")
    (room / "JE" / "again").symlink_to(room)
    rows, issues = savee.read_corpus(room)
    assert [row.utterance.id for row in rows] == ["DC_a01", "JE_a01"]
    assert issues.found["hidden-file"] == [".git/annex/MD5E-s1.wav"]
    (room / "JE" / "a02.wav").symlink_to("../.git/annex/MD5E-s2.wav")
    with pytest.raises(UserError, match=r"JE/a02\.wav is a link to \.\./\.git/annex/MD5E-s2\.wav, which is not there"):
        savee.read_corpus(room)


def arguments_of(module, folder, tmp_path, *more):
    parser = argparse.ArgumentParser()
    flags.add_text(parser)
    module.add_flags(parser)
    return parser.parse_args([str(folder), "--cache", str(tmp_path / "cache"), *map(str, more)])


@pytest.fixture
def letters(monkeypatch):
    """No text encoder is loaded."""
    monkeypatch.setattr(flags, "text_encoder", lambda arguments: Letters())


@needs_prep
def test_traps_and_silence_are_in_the_manifest_and_on_the_console(tmp_path, letters, capsys):
    room = corpus_folders.crema_d(tmp_path / "c")
    source = crema_d.read(arguments_of(crema_d, room, tmp_path, "--labels=perceived"))
    assert "silent" not in source.provenance, "the silent one has no answers"
    source = crema_d.read(arguments_of(crema_d, room, tmp_path))
    utterances = {u.id: u for u in source.utterances}
    assert source.provenance["traps"]["silent"]["first"] == ["1076_MTI_SAD_XX"] == source.provenance["silent"]
    assert source.provenance["arguments"] == {"labels": "intended", "rated": "voice"}
    assert source.provenance["sources"].keys() == {"finishedResponses.csv", "audio clips"}
    assert "traps of crema-d-intended" in source.closing_lines[0]
    assert [line.split()[:2] for line in source.closing_lines if " silent " in line] == [["silent", "1"]]
    assert utterances["1001_DFA_ANG_XX"].features["audio"].shape[1] == 25, "openSMILE's descriptors"
    assert "differs from what is published of it: anger 1 instead of 1,271" in capsys.readouterr().out


@needs_prep
def test_what_is_broken_silent_or_faulty_is_refused_or_left_out(tmp_path, letters, capsys):
    room = corpus_folders.crema_d(tmp_path / "c")
    (room / "AudioWAV" / "1001_IEO_HAP_LO.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(UserError, match=r"1 clips cannot be used:\n.*1001_IEO_HAP_LO\.wav"):
        crema_d.read(arguments_of(crema_d, room, tmp_path))
    capsys.readouterr()
    write_wav(room / "AudioWAV" / "1002_DFA_ANG_XX.wav", 0 * tone(0.6))
    source = crema_d.read(arguments_of(crema_d, room, tmp_path, "--skip-broken"))
    left_out = ["1001_IEO_HAP_LO", "1002_DFA_ANG_XX", "1064_IEO_DIS_MD", "1076_MTI_SAD_XX"]
    assert source.provenance["left_out"] == left_out
    assert source.provenance["traps"]["clip-unreadable"]["first"] == ["1001_IEO_HAP_LO"]
    assert source.provenance["traps"]["silent"]["first"] == ["1002_DFA_ANG_XX"]
    assert {u.id for u in source.utterances} == {
        "1001_DFA_ANG_XX",
        "1001_DFA_DIS_XX",
        "1009_IEO_SAD_HI",
        "1010_TIE_NEU_XX",
        "1040_ITH_SAD_XX",
    }
    told = capsys.readouterr().err
    assert "1002_DFA_ANG_XX.wav: there is nothing to hear" in told
    assert "1064_IEO_DIS_MD.wav: it is a minute of all emotions" in told


@needs_prep
def test_lengths_and_the_same_sound_are_traps_of_all(tmp_path, letters):
    rng = np.random.default_rng(0)
    noise = 0.3 * rng.standard_normal(2 * RATE).clip(-3, 3)
    for name, sound in (("DC_a01", noise), ("KL_a01", noise), ("JE_a01", tone(0.3)), ("JK_a01", tone(1.5))):
        write_wav(tmp_path / "s" / f"{name}.wav", sound)
    traps = savee.read(arguments_of(savee, tmp_path / "s", tmp_path, "--longest=1.8")).provenance["traps"]
    assert traps["same-sound"]["first"] == ["DC_a01 KL_a01"]
    assert traps["clip-over-long"]["first"] == ["DC_a01", "KL_a01"]
    assert traps["clip-short"]["first"] == ["JE_a01"]


@needs_av
def test_pictures_come_from_the_films_of_the_same_performances(tmp_path, letters):
    for actor in ("01", "02"):
        corpus_folders.wav(tmp_path / "r" / f"Actor_{actor}" / f"03-01-03-01-01-01-{actor}.wav", 200.0)
    trees.write_film(tmp_path / "r" / "02-01-03-01-01-01-01.mp4", 0.6, left=60, right=60)
    sure = ("--visual-encoder=png", "--frame-size=16", "--frames=2", "--audio-encoder=")
    with pytest.raises(UserError, match=r"1 clips .*\n.*03-01-03-01-01-01-02\.wav: the folder holds no film of it"):
        ravdess.read(arguments_of(ravdess, tmp_path / "r", tmp_path, *sure))
    source = ravdess.read(arguments_of(ravdess, tmp_path / "r", tmp_path, *sure, "--skip-broken", "--faces"))
    assert [u.id for u in source.utterances] == ["03-01-03-01-01-01-01"]
    assert source.provenance["frames_without_face"] == 2
    trees.write_film(tmp_path / "r" / "01-01-03-01-01-01-02.mp4", 0.6, left=200, right=200)
    source = ravdess.read(arguments_of(ravdess, tmp_path / "r", tmp_path, *sure))
    frames = {u.id: u.features["visual"] for u in source.utterances}
    grey = {name: int(np.asarray(of.image(1)).mean()) // 50 for name, of in frames.items()}
    assert grey == {"03-01-03-01-01-01-01": 1, "03-01-03-01-01-01-02": 4}
    assert {len(of) for of in frames.values()} == {2}


def test_silence_and_the_same_sound_in_two_parts_are_told(tmp_path, capsys):
    pytest.importorskip("av")
    from test_emodb import small_tar

    rng = np.random.default_rng(0)
    spoken, other = (0.3 * rng.standard_normal(2 * RATE).clip(-3, 3) for _ in range(2))
    names = ["03a01Fa.wav", "03a01Na.wav", "08a01Na.wav", "15a01Na.wav"]
    rows = emodb.read_tar(small_tar(tmp_path / "e.tar", names, sounds=[0 * spoken, spoken, other, spoken]))
    checked, _ = speech_corpus.check_clips(rows, ("audio",))
    issues = KnownIssues(speech_corpus.CLIPS)
    broken, found = speech_corpus.hear(rows, checked, tmp_path / "cache", issues, skip_broken=False)
    assert (broken, found) == ({}, {"silent": ["03a01Fa"], "same_sound": [["03a01Na", "15a01Na"]]})
    told = capsys.readouterr()
    assert "1 clips are silent" in told.out + told.err
    assert "03a01Na.wav (train) and 15a01Na.wav (test)" in told.out + told.err


@pytest.mark.slow
@needs_prep
@pytest.mark.parametrize("corpus", READ)
def test_the_whole_command(folders, models, tmp_path, run_cli, corpus):
    arguments = [folders[corpus], "--out", tmp_path / "out", "--cache", tmp_path / "cache", *small_bert(models)]
    done = run_cli(*arguments, "--device=cpu", module=f"data_prep.{corpus}")
    assert done.returncode == 0, done.stderr
    assert "utterances, manifest sha256" in done.stdout, "the audit ends the import"
    assert "the known traps of" in done.stdout
    made = Corpus(tmp_path / "out")
    assert len(made) == len(READ[corpus](folders[corpus])[0])
    assert json.dumps(made.manifest).count(str(tmp_path)) == 0
    for fold in protocols.split(made, "speaker", 0).folds:
        speakers = made.index["speaker"]
        assert not set(speakers[fold.test].tolist()) & set(speakers[fold.train].tolist())
