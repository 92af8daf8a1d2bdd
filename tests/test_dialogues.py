"""Turns: what has no class is heard and neither learnt from nor scored, and what is wrong with turns is told."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import SMALL_LABELS, small_description
from dialogues import utterances

from data_prep.audit.corpus_audit import audit
from data_prep.audit.dialogue_findings import dialogues
from mer_jax.data import leakage, protocols
from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.dialogues import repeated_turns, turn_problems
from mer_jax.errors import UserError

DESCRIPTION = small_description(extractors={"text": "ones"})
PROTOCOLS = (
    "official",
    "dialoguernn",
    "loso",
    "loso:2",
    "speaker",
    "speaker:3",
    "kfold_dialogue:6",
    "kfold_utterance:6",
    "published",
)
change = dataclasses.replace


def has_class(utterance):
    """Every fourth utterance has none, nor has any of dialogue d03."""
    return int(utterance.dialogue[1:]) % 4 != utterance.turn % 4 and utterance.dialogue != "d03"


def written(folder, found, description=DESCRIPTION):
    write_corpus(folder, found, description, shard_records=40)
    return Corpus(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("turns") / "corpus"
    written(path, (u if has_class(u) else change(u, label="") for u in utterances()))
    return path


@pytest.fixture
def corpus(folder):
    """Opened afresh: a test may change its index."""
    return Corpus(folder)


def test_what_has_no_class_is_read_and_counted(corpus):
    wanted = {u.id: has_class(u) for u in utterances()}
    assert len(corpus) == len(wanted)
    assert dict(zip(corpus.index["id"].tolist(), corpus.labelled.tolist(), strict=True)) == wanted
    for row in np.flatnonzero(~corpus.labelled)[:3].tolist():
        assert corpus[row].label == ""
    for part, counts in corpus.manifest["splits"].items():
        of = corpus.index["split"] == part
        assert counts["count"] == of.sum()
        assert counts["unlabelled"] == (of & ~corpus.labelled).sum() > 0
        assert sum(counts["classes"].values()) == (of & corpus.labelled).sum()
        assert corpus.rows(part).tolist() == np.flatnonzero(of & corpus.labelled).tolist()


def test_only_labelled_rows_have_label_ids(corpus):
    rows = np.flatnonzero(corpus.labelled)
    assert [SMALL_LABELS[i] for i in corpus.label_ids(rows)] == corpus.index["label"][rows].tolist()
    with pytest.raises(ValueError, match=r"record \d+ \(Ses1_d01_M1\) has no class"):
        corpus.label_ids(np.arange(len(corpus)))


def test_a_manifest_says_nothing_of_what_is_not_there(dialogue_folder):
    for counts in json.loads((dialogue_folder / "manifest.json").read_text())["splits"].values():
        assert counts.keys() == {"count", "classes"}, "as it was before there were utterances without a class"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_folds_are_those_of_the_corpus_without_the_unlabelled(corpus, tmp_path, protocol):
    without = written(tmp_path / "without", filter(has_class, utterances()))
    made, wanted = (protocols.split(of, protocol, 4) for of in (corpus, without))
    assert protocols.sha256(corpus, made) == protocols.sha256(without, wanted)
    assert [fold.name for fold in made.folds] == [fold.name for fold in wanted.folds]
    for fold, same in zip(made.folds, wanted.folds, strict=True):
        for part in ("train", "valid", "test"):
            rows = getattr(fold, part)
            assert rows.dtype == np.int64
            assert (np.diff(rows) > 0).all()
            assert corpus.labelled[rows].all()
        assert leakage.leakage(corpus, fold, {}) == leakage.leakage(without, same, {})


def test_what_has_no_class_takes_no_part_away(tmp_path):
    corpus = written(tmp_path / "a", (change(u, label="") if u.split == "valid" else u for u in utterances()))
    with pytest.raises(UserError, match=r"the 'valid' split is empty; the corpus has .*, and \d+ utterances without a"):
        protocols.split(corpus, "official", 0)
    corpus = written(tmp_path / "b", (change(u, label="") for u in utterances()))
    for protocol in PROTOCOLS:
        with pytest.raises(UserError, match=rf"={protocol}: none of the {len(corpus)} utterances of .* has a class"):
            protocols.split(corpus, protocol, 0)


# ---- what is wrong with turns ----


def test_the_same_turn_is_refused_and_both_are_named(tmp_path):
    first, second, third, *_ = utterances()
    again = change(second, id="again")
    words = "the utterances 'Ses1_d00_M1' and 'again' both are turn 1 of dialogue 'd00'; the turns of a dialogue need numbers"
    with pytest.raises(UserError, match=words):
        written(tmp_path / "a", [first, second, third, again])
    assert not (tmp_path / "a").exists()
    other = change(again, dialogue="d99")
    nowhere = [change(u, id=u.id + "?", dialogue="") for u in (second, again)]
    assert len(written(tmp_path / "b", [first, second, change(third, turn=9), other, *nowhere])) == 6, "gaps are legal"


def test_pairs_of_one_turn():
    assert repeated_turns(["a", "a", "b", "", "", "a", "a"], [0, 1, 0, 0, 0, 0, 0]) == [(0, 5), (0, 6)]


def test_turns_without_a_problem(corpus, dialogue_folder):
    assert turn_problems(corpus) == turn_problems(Corpus(dialogue_folder)) == []


def test_problems_of_turns_name_dialogue_turn_and_ids(corpus):
    index = corpus.index
    row = {name: i for i, name in enumerate(index["id"].tolist())}
    index["turn"][row["Ses1_d01_M1"]] = 0  # as corpora could be, when the writer did not look at turns
    index["speaker"][[row["Ses1_d01_M3"], row["Ses1_d02_F2"]]] = ""
    index["split"][row["Ses1_d01_F2"]] = "test"
    same, across, speakers = turn_problems(corpus)
    assert same.startswith("Ses1_d01_F0 and Ses1_d01_M1 both are turn 0 of dialogue 'd01'")
    assert across == (
        "dialogue 'd01' has utterances in several splits: 5 in train (turn 0, Ses1_d01_F0, …), 1 in test (turn 2, "
        "Ses1_d01_F2)"
    )
    assert "not known in 2 dialogues where that of others is" in speakers
    assert "of dialogue 'd01' 1 of 8 turns have none, turn 3 (Ses1_d01_M3) for one; 2 turns in all" in speakers
    index["turn"][row["Ses1_d01_F2"]] = 0
    assert turn_problems(corpus)[0].endswith("; and 1 more such pair")
    index["speaker"][index["dialogue"] == "d01"] = index["speaker"][index["dialogue"] == "d02"] = ""
    assert len(turn_problems(corpus)) == 2, "where nobody is known, nothing is missing in part"


def test_what_has_no_class_is_in_no_split(corpus):
    (row,) = np.flatnonzero(corpus.index["id"] == "Ses1_d01_M1")
    corpus.index["split"][row] = "test"
    assert not corpus.labelled[row]
    assert turn_problems(corpus) == []


def finding(folder, name):
    (found,) = (f for f in audit(folder, floor=False).findings if f.name == name)
    return found


def of_dialogues(corpus):
    """What the first of the findings on dialogues says, which needs no reading of the records."""
    return next(dialogues(corpus, None)).text


def test_the_audit_names_a_dialogue_in_train_and_test(tmp_path):
    found = list(utterances())
    written(tmp_path / "c", [change(u, split="test") if u.id == "Ses1_d01_F2" else u for u in found])
    said = finding(tmp_path / "c", "shared dialogues")
    assert said.level == "problem"
    assert "dialogue 'd01' has utterances in several splits: 7 in train" in said.text


def test_the_audit_tells_of_dialogues_and_of_what_has_no_class(folder, tmp_path):
    assert finding(folder, "dialogues").text == "30 of 3 to 9 turns, median 6; the longest is 'd04' with 9 turns"
    said = finding(folder, "no class")
    assert said.level == "ok"
    assert said.text.startswith("48 of 179 (26.8 %) utterances have no class: ")
    few = [change(u, turn=u.turn * 2 + 1, dialogue=u.dialogue if u.turn else "") for u in utterances()]
    text = of_dialogues(written(tmp_path / "gaps", few))
    assert "the numbers of 30 have gaps: turns are in the order of their numbers; 30 utterances are of no dial" in text
    single = written(tmp_path / "single", [change(u, dialogue=u.id) for u in utterances()])
    assert of_dialogues(single) == "179 of 1 to 1 turns, median 1: none is a conversation"
    single.index["dialogue"][:] = ""
    assert of_dialogues(single) == "no utterance says of which dialogue it is: none is a conversation"


def test_a_dialogue_of_5000_turns_is_a_dialogue(tmp_path, calls_unchecked):
    text = np.ones((1, 6), np.float32)
    corpus = written(
        tmp_path / "c",
        (
            Utterance(
                id=f"{dialogue}_{turn}",
                split=("train", "valid", "test")["abc".index(dialogue)],
                dialogue=dialogue,
                turn=turn,
                speaker="FM"[turn % 2],
                session="1",
                label=SMALL_LABELS[turn % 3],
                sentence="",
                features={"text": text},
            )
            for dialogue, turns in (("a", 5000), ("b", 3), ("c", 3))
            for turn in range(turns)
        ),
    )
    assert turn_problems(corpus) == []
    (fold,) = protocols.split(corpus, "official", 0).folds
    assert len(fold.train) == 5000
    assert of_dialogues(corpus).endswith("the longest is 'a' with 5,000 turns")


def test_an_empty_turn_is_kept_and_told(tmp_path):
    silent = {"Ses1_d00_M1": "", "Ses1_d01_F0": "calm", "Ses1_d01_F2": "calm"}
    found = [change(u, features={}, label=silent[u.id]) if u.id in silent else u for u in utterances()]
    found[1] = change(found[1], sentence="Well.")
    found[3] = change(found[3], sentence="Yes.")
    corpus = written(tmp_path / "c", found)
    (row,) = np.flatnonzero(corpus.index["id"] == "Ses1_d00_M1")
    assert dict(corpus[int(row)].features) == {}
    said = finding(tmp_path / "c", "empty turns")
    assert said.level == "note"
    assert said.text == (
        "3 of 179 (1.7 %) utterances have no features at all: Ses1_d01_F0, Ses1_d01_F2, Ses1_d00_M1; 1 of them have no "
        "words either, 2 have a class"
    )
