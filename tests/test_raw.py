"""Raw corpora: every known issue of small but whole folders is told by its name, and their turns come through TFDS to
shards."""

import argparse
import shutil

import numpy as np
import pytest
import trees
from conftest import SHARED

from data_prep import meld_table
from data_prep.raw import iemocap, iemocap_reader, meld, meld_reader
from data_prep.raw.turns import KnownIssues, Turn
from mer_jax.errors import UserError

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real corpora in ../shared/data")
DIALOGUES = [f"{d}_{kind}" for d in ("Ses01F", "Ses05M") for kind in ("impro01", "script01_1")]
SCRIPTED = [f"{d}_{s}{i:03d}" for d in DIALOGUES if "script" in d for i in range(6) for s in "FM"]
# What is found in trees.iemocap, six classes and frames asked for; None: told by a test of its own
IEMOCAP = {
    "counts": None,
    "missing-session": ["Session2", "Session3", "Session4"],
    "missing-dialogue": ["Ses05M_impro02"],
    "dialogue-length": ["Ses05M_impro02"],
    "speaker-of-the-turn": [f"{d}_{'MF'['M' in d]}{i:03d}" for d in DIALOGUES for i in range(6)],
    "no-majority": [trees.EXTRA_HAPPY],
    "other-emotion": ["Ses01F_impro01_F003"],
    "happy-595-or-648": None,
    "excited-is-happy": None,
    "scripted": SCRIPTED,
    "scripted-repeat": SCRIPTED[12:],
    "self-evaluation": ["Ses01F_impro01_F001 F1", "Ses01F_impro01_M001 M1"],
    "several-labels": ["Ses01F_impro01_M002 E3"],
    "vad-beyond": [f"{trees.VAD_BEYOND} valence 5.5"],
    "score-unread": [f"{trees.VAD_BEYOND} E4"],
    "no-choice": ["Ses01F_impro01_F001 E3"],
    "label-nobody-chose": ["Ses01F_impro01_M001"],
    "turn-without-evaluation": ["Ses01F_impro01_MXX0"],
    "turn-without-sentence": ["Ses05M_impro01_M005", "Ses05M_impro02_M000"],
    "transcript-line": ["Ses01F_impro01.txt:13"],
    "evaluation-line": ["Ses01F_impro01.txt:100"],
    "text-cp1252": ["Ses01F_impro01.txt"],
    "hidden-file": ["._Ses05M_impro01.txt"],
    "times": ["Ses05M_impro01_F005"],
    "two-actors-in-the-film": [f"Session{d[4]}/dialog/avi/DivX/{d}.avi" for d in DIALOGUES[:3]],
    "missing-film": ["Ses05M_impro02", "Ses05M_script01_1"],
    "clip-missing": ["Ses05M_impro01_F004"],
    "clip-without-row": ["Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_MXX0.wav"],
}
MELD = {
    "counts": None,
    "ids-restart": ["dia0", "dia1"],
    "missing-dialogue": None,
    "utterance-gaps": ["train_dia1", "valid_dia1", "test_dia1"],
    "moment-shared": ["valid_dia0_utt0", "test_dia0_utt0"],
    "moment-shared-other-label": ["test_dia0_utt0"],
    "episode-shared": ["s07e21", "s08e21"],
    "speaker-shared": [
        f"test_dia{d}_utt{u}" for d, u in ((0, 1), (1, 1), (1, 4), (38, 1), (38, 3), (108, 1), (220, 1))
    ],
    "text-typographic": ["train_dia3_utt0"],
    "text-cp1252": ["train_dia3_utt1", "valid_dia1_utt0"],
    "times": ["valid_dia1_utt1"],
    "hidden-file": ["output_repeated_splits_test/._dia0_utt0.mp4"],
    "clip-missing": ["valid_dia110_utt7"],
    "clip-without-row": [
        "dev_splits_complete/dia49_utt4.mp4",
        "dev_splits_complete/dia66_utt9.mp4",
        "output_repeated_splits_test/dia108_utt2.mp4",
        "output_repeated_splits_test/final_videos_testdia0_utt0.mp4",
    ],
}


def options(**changes):
    fields = {
        "classes": 6,
        "keep_unlabelled": False,
        "extra_happy": None,
        "improvised_only": False,
        "without_self_evaluation": False,
        "valid": None,
        "visual_encoder": "vit",
        "marked": "left",
    }
    return argparse.Namespace(**(fields | changes))


def selected(raw, **changes):
    """{id: utterance}, and the issues."""
    issues = KnownIssues(iemocap_reader.ISSUES, raw.issues.found)
    return {u.id: u for _, u in iemocap.select(raw.turns, issues, options(**changes)).chosen}, issues.found


@pytest.fixture(scope="module")
def found(raw_folder):
    of_iemocap = selected(iemocap_reader.read(raw_folder / "IEMOCAP_full_release"))[1]
    raw = meld_reader.read(raw_folder / "MELD.Raw")
    meld.select(raw.turns, raw.issues, argparse.Namespace())
    return {"iemocap": of_iemocap, "meld": raw.issues.found}


@pytest.mark.parametrize(
    ("corpus", "name", "ids"),
    [
        (corpus, name, ids)
        for corpus, of in (("iemocap", IEMOCAP), ("meld", MELD))
        for name, ids in of.items()
        if ids is not None
    ],
)
def test_each_trap_is_told_by_name(found, corpus, name, ids):
    assert found[corpus][name] == ids


def test_no_trap_is_without_a_test():
    assert IEMOCAP.keys() | trees.OF_CLIPS == iemocap_reader.ISSUES.keys()
    assert MELD.keys() | trees.OF_CLIPS == meld_reader.ISSUES.keys()


def test_counts_are_compared(found, raw_folder):
    assert "session 2: 0 instead of 1,023" in selected(iemocap_reader.read(raw_folder), classes=4)[1]["counts"]
    assert found["iemocap"]["counts"][:2] == ["49 turns instead of 10,039", "5 dialogues instead of 151"]
    assert "hap 7 instead of 595" in found["iemocap"]["counts"]
    assert "valid fear 3 instead of 40" in found["meld"]["counts"]
    assert len(found["meld"]["counts"]) == 21


def test_a_number_that_no_dialogue_has(found):
    assert "train_dia60" in found["meld"]["missing-dialogue"]
    assert not {"train_dia59", "train_dia61", "test_dia220"} & set(found["meld"]["missing-dialogue"])


def test_known_issues_are_told_one_by_one():
    issues = KnownIssues({"first": "left out", "second": "kept"}, {"first": [f"u{i}" for i in range(30)]})
    lines = list(issues.lines("a corpus"))
    assert lines[1].split(maxsplit=2) == ["first", "30", "left out (u0, u1, u2, …)"]
    assert lines[2].endswith("0  kept")
    assert issues.provenance()["first"] == {"count": 30, "first": [f"u{i}" for i in range(20)], "handled": "left out"}


def test_turns_of_iemocap(raw_folder):
    turns = {turn.id: turn for turn in iemocap_reader.read(raw_folder).turns}  # the folder above will do, too
    assert len(turns) == 49
    turn = turns["Ses01F_impro01_M001"]
    assert (turn.speaker, turn.session, turn.dialogue, turn.turn, turn.split) == (
        "Ses01M",
        "Ses01",
        "Ses01F_impro01",
        3,
        "train",
    )
    assert (turn.start, turn.end, turn.label) == (3.0, 3.9, "ang")
    assert turn.votes == (("E1", "sadness"), ("E2", "sadness"), ("M1", "anger"))
    assert turn.sound == "IEMOCAP_full_release/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav"
    assert turns["Ses05M_impro01_F000"].split == "test"
    assert turns["Ses01F_impro01_F004"].sentence == "It's a long one."


def test_a_control_code_ends_no_line(own_raw_folder):
    path = own_raw_folder / "IEMOCAP_full_release" / "Session5" / "dialog" / "transcriptions" / "Ses05M_impro01.txt"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first} Well\x85 no.\n{rest}", encoding="utf-8")  # an ellipsis of Windows-1252, read as Latin-1
    raw = iemocap_reader.read(own_raw_folder)
    turn = next(turn for turn in raw.turns if turn.id == "Ses05M_impro01_F000")
    assert turn.sentence.endswith(". Well... no.")
    assert path.name in raw.issues.found["text-cp1252"]


def test_votes_are_in_the_corpus_words(raw_folder, tmp_path):
    raw = iemocap_reader.read(raw_folder)
    six, _ = selected(raw)
    assert six["Ses01F_impro01_F001"].votes == (("E1", "neu"), ("E2", "ang"), ("F1", "sad"))
    assert selected(raw, without_self_evaluation=True)[0]["Ses01F_impro01_F001"].votes == (
        ("E1", "neu"),
        ("E2", "ang"),
    )
    (tmp_path / "extra.txt").write_text(trees.EXTRA_HAPPY)
    four, found = selected(raw, classes=4, extra_happy=tmp_path / "extra.txt")
    extra = four[trees.EXTRA_HAPPY]
    assert (extra.label, extra.votes) == ("hap", (("E1", "hap"), ("E2", "hap"), ("E3", "sad"), ("E3", "other")))
    assert four["Ses01F_impro01_F002"].label == "hap"  # excited
    assert "Ses01F_impro01_F002" in found["excited-is-happy"]
    assert found["happy-595-or-648"] == [trees.EXTRA_HAPPY]
    assert found["no-majority"] == []
    assert {u.label for u in four.values()} == {"hap", "sad", "neu", "ang"}
    assert trees.EXTRA_HAPPY not in six


def test_turns_without_a_class_stay_where_they_are_wanted(raw_folder, monkeypatch):
    monkeypatch.setattr(iemocap, "MIN_TURNS", 11)  # Ses01F_impro01 has 10 of the six classes, and 2 others
    raw = iemocap_reader.read(raw_folder)
    for classes, without in ((6, {trees.EXTRA_HAPPY, "Ses01F_impro01_F003"}), (4, None)):
        chosen, issues = selected(raw, classes=classes)
        kept, same = selected(raw, classes=classes, keep_unlabelled=True)
        assert set(kept) == {turn.id for turn in raw.turns}
        assert {name for name, u in kept.items() if not u.label} == (without or set(kept) - set(chosen))
        assert {name: u for name, u in kept.items() if u.label} == chosen
        assert {name: ids for name, ids in same.items() if name != "scripted"} == {
            name: ids for name, ids in issues.items() if name != "scripted"
        }
    assert "Ses01F_impro01" in selected(raw, keep_unlabelled=True)[1]["dialogue-length"]
    assert "frustration" not in {label for _, label in kept["Ses01F_impro01_F003"].votes}
    assert kept[trees.EXTRA_HAPPY].votes == (("E1", "hap"), ("E2", "hap"), ("E3", "sad"), ("E3", "other"))


def test_improvised_only(raw_folder):
    chosen, found = selected(iemocap_reader.read(raw_folder), improvised_only=True)
    assert len(chosen) == 23
    assert found["scripted"] == found["scripted-repeat"] == []


def test_dialogues_that_validate(raw_folder, tmp_path):
    raw = iemocap_reader.read(raw_folder)
    (tmp_path / "valid.txt").write_text("Ses01F_script01_1\n")
    chosen, found = selected(raw, valid=tmp_path / "valid.txt")
    assert {u.dialogue for u in chosen.values() if u.split == "valid"} == {"Ses01F_script01_1"}
    assert found["scripted-repeat"] == []
    (tmp_path / "valid.txt").write_text("Ses05M_impro01")
    with pytest.raises(UserError, match="Ses05M_impro01 is no dialogue of train"):
        selected(raw, valid=tmp_path / "valid.txt")


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("Ses01F_impro01_F099", "is no turn of this folder"),
        ("Ses01F_impro01_F000", "has the official label hap"),
        ("", "is empty"),
    ],
)
def test_a_wrong_list_of_extra_happy(raw_folder, tmp_path, listed, words):
    (tmp_path / "extra.txt").write_text(listed)
    with pytest.raises(UserError, match=words):
        selected(iemocap_reader.read(raw_folder), extra_happy=tmp_path / "extra.txt")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("neu\t[2.5000, 2.5000, 2.5000]", "neu", r"line \d+: '\[2.0000 - 2.9000\].*is not \[start - end\]"),
        (
            "Ses01F_impro01_F001\tneu",
            "Ses01F_impro02_F001\tneu",
            "'Ses01F_impro02_F001' is no turn of dialogue Ses01F_impro01",
        ),
        ("Ses01F_impro01_F001\tneu", "Ses01F_impro01_F000\tneu", "turn Ses01F_impro01_F000 occurs twice"),
        ("% [START_TIME", "C-E1:\tAnger;\t()\n%", "line 1: a rater before the first turn"),
    ],
)
def test_a_wrong_evaluation_is_named(own_raw_folder, old, new, words):
    path = own_raw_folder / "IEMOCAP_full_release" / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=words) as caught:
        iemocap_reader.read(own_raw_folder)
    assert str(path) in str(caught.value)


def test_what_is_no_iemocap_is_named(own_raw_folder):
    with pytest.raises(UserError, match="holds no Session1 … Session5"):
        iemocap_reader.read(own_raw_folder / "MELD.Raw")
    shutil.rmtree(own_raw_folder / "IEMOCAP_full_release" / "Session5" / "dialog" / "EmoEvaluation")
    with pytest.raises(UserError, match=r"Session5.dialog.EmoEvaluation holds no evaluation"):
        iemocap_reader.read(own_raw_folder)


def test_the_half_of_the_film_is_the_speakers(raw_folder):
    turns = {turn.id: turn for turn in iemocap_reader.read(raw_folder).turns}
    of = {
        name: iemocap.half_of(turns[name], "left")
        for name in ("Ses01F_impro01_F000", "Ses01F_impro01_M000", "Ses05M_impro01_M000")
    }
    assert list(of.values()) == ["left", "right", "left"]
    assert iemocap.half_of(turns["Ses05M_impro01_F000"], "right") == "left"
    assert iemocap.half_of(turns["Ses05M_impro01_F000"], "both") == ""


@needs_shared
def test_the_real_iemocap_has_the_published_counts():
    table = np.load(SHARED / "iemocap" / "iemocap_6way_text_audio.npz")
    listed = SHARED / "iemocap" / "extra_happy_53.txt"
    extra = set(listed.read_text().split())
    names = table["label_names"].tolist()
    turns = []
    for name, dialogue, label, sentence in zip(
        *(table[c].tolist() for c in ("utt_id", "dialogue", "label", "sentence")), strict=True
    ):
        session, official = name[:5], "xxx" if name in extra else names[label]
        split = "test" if session == "Ses05" else "train"
        turns.append(Turn(name, split, dialogue, 0, "", session, official, sentence, 0.0, 1.0, (), "", ""))
    total = "7,433 turns instead of 10,039"  # those without a majority are not in this table
    for classes, file, utterances in ((6, None, 7380), (6, listed, 7433), (4, None, 5531), (4, listed, 5584)):
        issues = KnownIssues(iemocap_reader.ISSUES)
        chosen = iemocap.select(turns, issues, options(classes=classes, extra_happy=file)).chosen
        assert len(chosen) == utterances
        assert issues.found["counts"] == [total]
        assert issues.found["dialogue-length"] == []
        if utterances == 7433:
            assert len(issues.found["scripted-repeat"]) == 352
            assert len(issues.found["happy-595-or-648"]) == 53
    assert sum(iemocap.PER_SESSION) == 5531


def test_turns_of_meld(raw_folder):
    turns = {turn.id: turn for turn in meld_reader.read(raw_folder / "MELD.Raw").turns}
    assert len(turns) == 58
    turn = turns["train_dia1_utt4"]
    assert (turn.split, turn.dialogue, turn.turn, turn.session, turn.votes) == ("train", "train_dia1", 3, "s08e21", ())
    assert turn.sound == turn.film == "train/train_splits/dia1_utt4.mp4"
    assert turns["valid_dia110_utt7"].film == ""
    assert [turns[i].sentence for i in MELD["text-cp1252"]] == ["It's old.", "Latin's."]


def test_folders_of_copies_are_found(own_raw_folder):
    root = own_raw_folder / "MELD.Raw"
    (root / "dev_splits_complete").rename(root / "dev")
    (root / "output_repeated_splits_test").rename(root / "train" / "test_splits")
    shutil.move(root / "train" / "train_sent_emo.csv", root)
    rooms = {turn.film.rsplit("/", 1)[0] for turn in meld_reader.read(root).turns if turn.film}
    assert rooms == {"train/train_splits", "dev", "train/test_splits"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: (r / "dev_sent_emo.csv").unlink(), "holds no dev_sent_emo.csv; it must hold train_sent_emo.csv"),
        (lambda r: shutil.copy(r / "dev_sent_emo.csv", r / "train"), "holds dev_sent_emo.csv more than once"),
        (lambda r: shutil.copytree(r / "dev_splits_complete", r / "dev"), "holds clips of valid in"),
        (
            lambda r: (shutil.rmtree(r / "dev_splits_complete"), (r / "dev.tar.gz").touch()),
            r"dev_splits_complete.*dev\.tar\.gz is still packed",
        ),
    ],
)
def test_a_wrong_meld_is_named(own_raw_folder, change, words):
    change(own_raw_folder / "MELD.Raw")
    with pytest.raises(UserError, match=words):
        meld_reader.sources(own_raw_folder / "MELD.Raw")


@needs_shared
def test_the_real_meld_tables_hold_the_known_issues(tmp_path):
    for name in meld_table.FILES.values():
        (tmp_path / name).symlink_to(SHARED / "meld" / name)
    for names in meld_reader.FOLDERS.values():
        (tmp_path / names[0]).mkdir()
        (tmp_path / names[0] / "dia0_utt0.mp4").touch()
    raw = meld_reader.read(tmp_path)
    meld.select(raw.turns, raw.issues, argparse.Namespace())
    found = raw.issues.found
    assert found["counts"] == []
    assert found["missing-dialogue"] == ["train_dia60"]
    assert len(found["utterance-gaps"]) == 72 + 2 + 2
    assert [i.split("_")[0] for i in found["moment-shared"]] == ["valid"] * 2 + ["test"] * 3
    assert 0 < len(found["moment-shared-other-label"]) < 5
    assert len(found["episode-shared"]) == 142
    assert round(len(found["speaker-shared"]) / 2610, 2) == 0.96
    assert len(found["ids-restart"]) == 280  # dialogues of test: train has all of their numbers but 60, which dev has
    assert len(found["clip-missing"]) == 13708 - 3
