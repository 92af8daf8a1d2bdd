"""Raw corpora: every trap of small but whole folders is told by its name, and their turns come through TFDS to shards."""

import argparse
import json
import re
import shutil
import sys

import numpy as np
import pytest
import trees
from conftest import SHARED
from test_extract import corpus_bytes, models, needs_av, needs_prep  # noqa: F401

from data_prep import media
from data_prep.media import Clip
from data_prep.raw import build, iemocap, meld
from data_prep.raw.dataset import BUILDERS, prepared
from data_prep.raw.tree import Traps, Turn
from data_prep.text import TextEncoder
from mer_jax.data import protocols
from mer_jax.data.corpus import Corpus
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
    "no-choice": ["Ses01F_impro01_F001 E3"],
    "label-nobody-chose": ["Ses01F_impro01_M001"],
    "turn-without-evaluation": ["Ses01F_impro01_MXX0"],
    "turn-without-sentence": ["Ses05M_impro01_M005", "Ses05M_impro02_M000"],
    "transcript-line": ["Ses01F_impro01.txt:13"],
    "evaluation-line": ["Ses01F_impro01.txt:88"],
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
# Told by checking the recordings: TestToShards
OF_CLIPS = {"clip-unreadable", "clip-over-long", "clip-short"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    trees.iemocap(root, films=False)
    trees.meld(root, clips=False)
    return root


@pytest.fixture
def own(folder, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(folder, tmp_path / "raw")


def options(**changes):
    fields = {
        "classes": 6, "extra_happy": None, "improvised_only": False, "without_self_evaluation": False, "valid": None,
        "visual_encoder": "vit", "marked": "left",
    }  # fmt: skip
    return argparse.Namespace(**(fields | changes))


def selected(tree, **changes):
    """{id: utterance}, and the traps."""
    traps = Traps(iemocap.TRAPS, tree.traps.found)
    return {u.id: u for _, u in iemocap.select(tree.turns, traps, options(**changes)).chosen}, traps.found


@pytest.fixture(scope="module")
def found(folder):
    of_iemocap = selected(iemocap.read(folder / "IEMOCAP_full_release"))[1]
    tree = meld.read(folder / "MELD.Raw")
    meld.select(tree.turns, tree.traps, argparse.Namespace())
    return {"iemocap": of_iemocap, "meld": tree.traps.found}


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
    assert IEMOCAP.keys() | OF_CLIPS == iemocap.TRAPS.keys()
    assert MELD.keys() | OF_CLIPS == meld.TRAPS.keys()


def test_counts_are_compared(found, folder):
    assert "session 2: 0 instead of 1,023" in selected(iemocap.read(folder), classes=4)[1]["counts"]
    assert found["iemocap"]["counts"][:2] == ["49 turns instead of 10,039", "5 dialogues instead of 151"]
    assert "hap 7 instead of 595" in found["iemocap"]["counts"]
    assert "valid fear 3 instead of 40" in found["meld"]["counts"]
    assert len(found["meld"]["counts"]) == 21


def test_a_number_that_no_dialogue_has(found):
    assert "train_dia60" in found["meld"]["missing-dialogue"]
    assert not {"train_dia59", "train_dia61", "test_dia220"} & set(found["meld"]["missing-dialogue"])


def test_traps_are_shown_one_by_one(capsys):
    traps = Traps({"first": "left out", "second": "kept"}, {"first": [f"u{i}" for i in range(30)]})
    traps.show("a corpus")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split(maxsplit=2) == ["first", "30", "left out (u0, u1, u2, …)"]
    assert lines[2].endswith("0  kept")
    assert traps.provenance()["first"] == {"count": 30, "first": [f"u{i}" for i in range(20)], "handled": "left out"}


# ---- IEMOCAP ----


def test_turns_of_iemocap(folder):
    turns = {turn.id: turn for turn in iemocap.read(folder).turns}  # the folder above will do, too
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


def test_a_control_code_ends_no_line(own):
    path = own / "IEMOCAP_full_release" / "Session5" / "dialog" / "transcriptions" / "Ses05M_impro01.txt"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first} Well\x85 no.\n{rest}", encoding="utf-8")  # an ellipsis of Windows-1252, read as Latin-1
    tree = iemocap.read(own)
    turn = next(turn for turn in tree.turns if turn.id == "Ses05M_impro01_F000")
    assert turn.sentence.endswith(". Well... no.")
    assert path.name in tree.traps.found["text-cp1252"]


def test_votes_are_in_the_corpus_words(folder):
    tree = iemocap.read(folder)
    six, _ = selected(tree)
    assert six["Ses01F_impro01_F001"].votes == (("E1", "neu"), ("E2", "ang"), ("F1", "sad"))
    assert selected(tree, without_self_evaluation=True)[0]["Ses01F_impro01_F001"].votes == (
        ("E1", "neu"),
        ("E2", "ang"),
    )
    (folder / "extra.txt").write_text(trees.EXTRA_HAPPY)
    four, found = selected(tree, classes=4, extra_happy=folder / "extra.txt")
    extra = four[trees.EXTRA_HAPPY]
    assert (extra.label, extra.votes) == ("hap", (("E1", "hap"), ("E2", "hap"), ("E3", "sad"), ("E3", "other")))
    assert four["Ses01F_impro01_F002"].label == "hap"  # excited
    assert "Ses01F_impro01_F002" in found["excited-is-happy"]
    assert found["happy-595-or-648"] == [trees.EXTRA_HAPPY]
    assert found["no-majority"] == []
    assert {u.label for u in four.values()} == {"hap", "sad", "neu", "ang"}
    assert trees.EXTRA_HAPPY not in six


def test_improvised_only(folder):
    chosen, found = selected(iemocap.read(folder), improvised_only=True)
    assert len(chosen) == 23
    assert found["scripted"] == found["scripted-repeat"] == []


def test_dialogues_that_validate(folder, tmp_path):
    tree = iemocap.read(folder)
    (tmp_path / "valid.txt").write_text("Ses01F_script01_1\n")
    chosen, found = selected(tree, valid=tmp_path / "valid.txt")
    assert {u.dialogue for u in chosen.values() if u.split == "valid"} == {"Ses01F_script01_1"}
    assert found["scripted-repeat"] == []
    (tmp_path / "valid.txt").write_text("Ses05M_impro01")
    with pytest.raises(UserError, match="Ses05M_impro01 is no dialogue of train"):
        selected(tree, valid=tmp_path / "valid.txt")


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("Ses01F_impro01_F099", "is no turn of this folder"),
        ("Ses01F_impro01_F000", "has the official label hap"),
        ("", "is empty"),
    ],
)
def test_a_wrong_list_of_extra_happy(folder, tmp_path, listed, words):
    (tmp_path / "extra.txt").write_text(listed)
    with pytest.raises(UserError, match=words):
        selected(iemocap.read(folder), extra_happy=tmp_path / "extra.txt")


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
def test_a_wrong_evaluation_is_named(own, old, new, words):
    path = own / "IEMOCAP_full_release" / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=words) as caught:
        iemocap.read(own)
    assert str(path) in str(caught.value)


def test_what_is_no_iemocap_is_named(own):
    with pytest.raises(UserError, match="holds no Session1 … Session5"):
        iemocap.read(own / "MELD.Raw")
    shutil.rmtree(own / "IEMOCAP_full_release" / "Session5" / "dialog" / "EmoEvaluation")
    with pytest.raises(UserError, match=r"Session5.dialog.EmoEvaluation holds no evaluation"):
        iemocap.read(own)


def test_the_half_of_the_film_is_the_speakers(folder):
    turns = {turn.id: turn for turn in iemocap.read(folder).turns}
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
        traps = Traps(iemocap.TRAPS)
        chosen = iemocap.select(turns, traps, options(classes=classes, extra_happy=file)).chosen
        assert len(chosen) == utterances
        assert traps.found["counts"] == [total]
        assert traps.found["dialogue-length"] == []
        if utterances == 7433:
            assert len(traps.found["scripted-repeat"]) == 352
            assert len(traps.found["happy-595-or-648"]) == 53
    assert sum(iemocap.PER_SESSION) == 5531


# ---- MELD ----


def test_turns_of_meld(folder):
    turns = {turn.id: turn for turn in meld.read(folder / "MELD.Raw").turns}
    assert len(turns) == 58
    turn = turns["train_dia1_utt4"]
    assert (turn.split, turn.dialogue, turn.turn, turn.session, turn.votes) == ("train", "train_dia1", 3, "s08e21", ())
    assert turn.sound == turn.film == "train/train_splits/dia1_utt4.mp4"
    assert turns["valid_dia110_utt7"].film == ""
    assert [turns[i].sentence for i in MELD["text-cp1252"]] == ["It's old.", "Latin's."]


def test_folders_of_copies_are_found(own):
    root = own / "MELD.Raw"
    (root / "dev_splits_complete").rename(root / "dev")
    (root / "output_repeated_splits_test").rename(root / "train" / "test_splits")
    shutil.move(root / "train" / "train_sent_emo.csv", root)
    rooms = {turn.film.rsplit("/", 1)[0] for turn in meld.read(root).turns if turn.film}
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
def test_a_wrong_meld_is_named(own, change, words):
    change(own / "MELD.Raw")
    with pytest.raises(UserError, match=words):
        meld.sources(own / "MELD.Raw")


@needs_shared
def test_the_real_meld_tables_hold_the_known_traps(tmp_path):
    for name in meld.FILES.values():
        (tmp_path / name).symlink_to(SHARED / "meld" / name)
    for names in meld.FOLDERS.values():
        (tmp_path / names[0]).mkdir()
        (tmp_path / names[0] / "dia0_utt0.mp4").touch()
    tree = meld.read(tmp_path)
    meld.select(tree.turns, tree.traps, argparse.Namespace())
    found = tree.traps.found
    assert found["counts"] == []
    assert found["missing-dialogue"] == ["train_dia60"]
    assert len(found["utterance-gaps"]) == 72 + 2 + 2
    assert [i.split("_")[0] for i in found["moment-shared"]] == ["valid"] * 2 + ["test"] * 3
    assert 0 < len(found["moment-shared-other-label"]) < 5
    assert len(found["episode-shared"]) == 142
    assert round(len(found["speaker-shared"]) / 2610, 2) == 0.96
    assert len(found["ids-restart"]) == 280  # dialogues of test: train has all of their numbers but 60, which dev has
    assert len(found["clip-missing"]) == 13708 - 3


# ---- TFDS ----


@pytest.mark.parametrize(("corpus", "name"), [("iemocap", "IEMOCAP_full_release"), ("meld", "MELD.Raw")])
def test_turns_survive_tfds_without_tensorflow(folder, tmp_path, corpus, name):
    tree = BUILDERS[corpus].reader.read(folder / name)
    turns, traps, mark = prepared(corpus, folder / name, tmp_path / "tfds")
    for turn, wanted in zip(turns, tree.turns, strict=True):
        np.testing.assert_allclose([turn.start, turn.end], [wanted.start, wanted.end], rtol=1e-6)
        assert vars(turn) | {"start": 0, "end": 0} == vars(wanted) | {"start": 0, "end": 0}
    assert traps == tree.traps.found
    files = sorted(path for path in (tmp_path / "tfds").rglob("*") if path.is_file())
    assert any(".array_record-" in path.name for path in files)
    assert "tensorflow" not in sys.modules
    times = [path.stat().st_mtime_ns for path in files]
    assert prepared(corpus, folder / name, tmp_path / "tfds") == (turns, traps, mark)
    assert [path.stat().st_mtime_ns for path in files] == times, "prepared once"


def test_a_folder_that_changed_is_read_again(own, tmp_path):
    root = own / "IEMOCAP_full_release"
    first = prepared("iemocap", root, tmp_path / "tfds")
    path = root / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    path.write_text(path.read_text().replace("F001\tneu", "F001\tsad"))
    second = prepared("iemocap", root, tmp_path / "tfds")
    assert [turn.label for turn in (first[0][2], second[0][2])] == ["neu", "sad"]
    (root / "Session1" / "sentences" / "wav" / "Ses01F_impro01" / "Ses01F_impro01_F001.wav").unlink()
    assert "Ses01F_impro01_F001" in prepared("iemocap", root, tmp_path / "tfds")[1]["clip-missing"]
    path.write_text(path.read_text().replace("[2.0000 -", "[soon -"))
    with pytest.raises(UserError, match=f"{re.escape(str(path))}, line"):
        prepared("iemocap", root, tmp_path / "tfds")
    with pytest.raises(UserError, match="is no folder"):
        prepared("iemocap", root / "nothing", tmp_path / "tfds")


@pytest.mark.parametrize("kind", ["array_record-", "dataset_info.json", "metadata.json"])
def test_a_damaged_dataset_is_named(folder, tmp_path, kind):
    prepared("meld", folder / "MELD.Raw", tmp_path)
    path = next(path for path in sorted(tmp_path.rglob("*")) if kind in path.name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}/\w+ is damaged or cannot be written"):
        prepared("meld", folder / "MELD.Raw", tmp_path)


# ---- to shards ----


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    root = tmp_path_factory.mktemp("filmed")
    trees.iemocap(root)
    trees.meld(root)
    return root


class Letters(TextEncoder):
    """A text encoder that takes no model."""

    def __init__(self):
        self.identity, self.extractor = {"name": "letters"}, "how many letters"

    def states(self, sentences):
        return [np.full((1, 2), len(sentence), np.float16) for sentence in sentences]

    def words(self, words):
        return np.array([[len(word), 1.0] for word in words], np.float32)


class Loudness:
    """An audio encoder that takes no model, and cannot decode one clip."""

    together, identity, extractor = 8, {"name": "loudness"}, "loudness and length"

    def prepare(self, clip):
        if clip.name.endswith("Ses05M_impro01_F002.wav"):
            raise UserError(f"{clip.name} cannot be decoded")
        return media.samples(clip, trees.RATE, 3.0)

    def encode(self, prepared):
        return [np.array([[np.abs(sound).mean(), len(sound) / trees.RATE]], np.float16) for sound in prepared]


@needs_av
def test_from_folder_to_shards(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "_encoders", lambda arguments: (Letters(), {"text": Letters(), "audio": Loudness()}))
    arguments = [
        folder / "IEMOCAP_full_release",
        "--cache",
        tmp_path / "cache",
        "--tfds",
        tmp_path / "tfds",
        "--longest=3",
    ]
    with pytest.raises(SystemExit, match="2"):
        iemocap.main([*map(str, arguments), "--out", str(tmp_path / "a")])
    errors = capsys.readouterr().err
    assert "2 clips cannot be used" in errors
    assert "Ses05M_impro01_F004: it has no audio" in errors
    iemocap.main([*map(str, arguments), "--out", str(tmp_path / "a"), "--skip-broken"])
    corpus = Corpus(tmp_path / "a")
    assert len(corpus) == 47 - 3
    traps = corpus.manifest["provenance"]["traps"]
    assert traps.keys() == iemocap.TRAPS.keys()
    assert {name: traps[name]["first"] for name in OF_CLIPS} == {
        "clip-unreadable": ["Ses05M_impro01_F003", "Ses05M_impro01_F002"],
        "clip-over-long": ["Ses01F_impro01_F004"],
        "clip-short": ["Ses01F_impro01_M004"],
    }
    assert corpus.manifest["provenance"]["left_out"] == [f"Ses05M_impro01_F00{i}" for i in (2, 3, 4)]
    row = corpus.index["id"].tolist().index("Ses01F_impro01_F004")
    assert corpus[row].features["audio"][0, 1] == 3.0, "cut, not dropped"
    row = corpus.index["id"].tolist().index("Ses01F_impro01_F001")
    assert corpus[row].votes == (("E1", "neu"), ("E2", "ang"), ("F1", "sad"))
    said = dict(zip(corpus.labels, corpus.soft_labels(np.array([row]))[0], strict=True))
    assert {name: round(float(share), 3) for name, share in said.items() if share} == {
        "sad": 0.333,
        "neu": 0.333,
        "ang": 0.333,
    }
    told = capsys.readouterr().out
    for name in iemocap.TRAPS:
        assert re.search(rf"^  {name} +[\d,]+  ", told, re.MULTILINE), name
    assert "shared speakers" in told, "the audit"


def flags(models, tmp_path):  # noqa: F811
    return [
        "--cache", tmp_path / "cache", "--tfds", tmp_path / "tfds", "--device=cpu", "--longest=3", "--audio-every=5",
        "--text-encoder", models / "bert", "--text-layers=-1", "--audio-encoder=egemaps",
    ]  # fmt: skip


@pytest.mark.slow
@needs_prep
class TestToShards:
    def test_iemocap(self, models, filmed, tmp_path, run_cli):  # noqa: F811
        root = filmed / "IEMOCAP_full_release"
        arguments = [root, *flags(models, tmp_path), "--visual-encoder", models / "vit"]
        done = run_cli(*arguments, "--out", tmp_path / "a", module="data_prep.raw.iemocap")
        assert done.returncode == 2, done.stderr
        for words in (
            "16 clips cannot be used",
            "Ses05M_impro01_F004: it has no audio",
            "Ses05M_impro01_F003.wav cannot be decoded",
        ):
            assert words in done.stderr
        assert not list((tmp_path / "cache").rglob("*.npz")), "refused before the long work"
        done = run_cli(*arguments, "--skip-broken", "--out", tmp_path / "a", module="data_prep.raw.iemocap")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        corpus = Corpus(tmp_path / "a")
        assert len(corpus) == 47 - 16
        assert list(corpus.modalities) == ["text", "audio", "visual"]
        assert corpus.labels == ("hap", "sad", "neu", "ang", "exc", "fru")
        assert set(corpus.index["split"].tolist()) == {"train", "test"}
        traps = corpus.manifest["provenance"]["traps"]
        assert traps.keys() == iemocap.TRAPS.keys()
        assert traps["clip-unreadable"]["first"] == ["Ses05M_impro01_F003"]
        assert traps["clip-over-long"]["first"] == ["Ses01F_impro01_F004"]
        assert traps["clip-short"]["first"] == ["Ses01F_impro01_M004"]
        assert len(traps["two-actors-in-the-film"]["first"]) == 3
        assert traps["missing-film"]["first"] == ["Ses05M_impro02", "Ses05M_script01_1"]
        left_out = corpus.manifest["provenance"]["left_out"]
        assert {"Ses05M_impro01_F003", "Ses05M_impro01_F004", "Ses05M_impro01_F005", "Ses05M_impro02_M000"} < set(
            left_out
        )
        by_id = {corpus.index["id"][i]: corpus[i] for i in range(len(corpus))}
        assert by_id["Ses01F_impro01_F004"].features["audio"].shape == (60, 25)  # 3 of 4 s, 100 a second, five together
        faces = [by_id[f"Ses01F_impro01_{turn}"].features["visual"][0] for turn in ("F000", "F001", "M000", "M001")]
        np.testing.assert_array_equal(faces[0], faces[1])
        np.testing.assert_array_equal(faces[2], faces[3])
        assert np.abs(faces[0] - faces[2]).max() > 0, "two halves, two faces"
        again = run_cli(*arguments, "--skip-broken", "--out", tmp_path / "b", module="data_prep.raw.iemocap")
        assert again.stderr.count("are finished already") == 3
        assert corpus_bytes(tmp_path / "a") == corpus_bytes(tmp_path / "b")
        assert json.dumps(corpus.manifest).count(str(tmp_path)) == 0
        assert [fold.name for fold in protocols.split(corpus, "dialoguernn", 0).folds] == ["Ses05"]
        trained = run_cli(
            "--config=configs/lsgmer.py:tiny", f"--config.data.path={tmp_path / 'a'}", f"--workdir={tmp_path / 'w'}",
            "--config.data.soft_labels=True", "--config.data.protocol=dialoguernn", "--config.train.batch_size=4", "--config.train.epochs=1",
        )  # fmt: skip
        assert trained.returncode == 0, trained.stderr
        assert "learnt is what the raters say of" in trained.stdout
        assert "against the raters: NLL" in trained.stdout

    def test_meld(self, models, filmed, tmp_path, run_cli):  # noqa: F811
        arguments = [filmed / "MELD.Raw", *flags(models, tmp_path), "--out", tmp_path / "out"]
        done = run_cli(*arguments, module="data_prep.raw.meld")
        assert done.returncode == 0, done.stderr
        corpus = Corpus(tmp_path / "out")
        assert len(corpus) == 56
        assert corpus.manifest["provenance"]["left_out"] == ["train_dia125_utt3", "valid_dia110_utt7"]
        traps = corpus.manifest["provenance"]["traps"]
        assert traps.keys() == meld.TRAPS.keys()
        assert traps["clip-unreadable"]["first"] == ["train_dia125_utt3"]
        assert traps["clip-over-long"]["first"] == ["train_dia309_utt0", "test_dia38_utt4", "test_dia220_utt0"]
        assert traps["clip-short"]["first"] == ["train_dia3_utt0"]
        assert "are longer than 3 s and cut to their beginning" in done.stdout
        assert set(corpus.index["id"].tolist()).isdisjoint(["train_dia125_utt3", "valid_dia110_utt7"])

    def test_a_clip_broken_elsewhere_is_refused(self, models, filmed, tmp_path, run_cli):  # noqa: F811
        root = shutil.copytree(filmed / "MELD.Raw", tmp_path / "MELD.Raw")
        (root / "dev_splits_complete" / "dia0_utt1.mp4").write_bytes(b"")
        done = run_cli(root, *flags(models, tmp_path), "--out", tmp_path / "out", module="data_prep.raw.meld")
        assert done.returncode == 2, done.stderr
        assert "1 clips cannot be used:\n  valid_dia0_utt1: dev_splits_complete/dia0_utt1.mp4 is empty" in done.stderr

    def test_text_alone_needs_no_clip(self, models, folder, tmp_path, run_cli):  # noqa: F811
        arguments = [folder / "MELD.Raw", "--out", tmp_path / "out", "--cache", tmp_path / "cache", "--tfds", tmp_path / "tfds",
                     "--text-encoder", models / "bert", "--text-layers=-1", "--device=cpu"]  # fmt: skip
        done = run_cli(*arguments, module="data_prep.raw.meld")
        assert done.returncode == 0, done.stderr
        assert len(Corpus(tmp_path / "out")) == 58

    def test_frames_are_of_the_speakers_half(self, filmed):
        film = filmed / "IEMOCAP_full_release" / "Session1" / "dialog" / "avi" / "DivX" / "Ses01F_impro01.avi"
        for half, grey in (("left", 60), ("right", 200)):
            clip = Clip("a", film, 2.0, 2.9, half)
            for image in media.frames(clip, 30.0, count=3):
                assert image.shape == (32, 32, 3)
                assert abs(float(image.mean()) - grey) < 5
        keys = {media.check(Clip("a", film, 2.0, 2.9, half), ("video",)).key for half in ("", "left", "right")}
        assert len(keys) == 3, "features of the halves are kept apart"
