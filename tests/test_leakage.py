"""What the parts of a split share: counted, put in words, and written to disk."""

import json

import numpy as np
import pytest
from dialogues import values

from mer_jax.data.corpus import Corpus
from mer_jax.data.leakage import KINDS, PAIRS, knowing, leak_lines, leakage, normalised_sentence, to_json
from mer_jax.data.protocols import Fold, Split, sha256, split


@pytest.fixture
def corpus(dialogue_folder):
    """Opened afresh: a test may change its index."""
    return Corpus(dialogue_folder)


def written(line, way):
    """One of four ways to write a line; a line below 0 has no words."""
    if line < 0:
        return ("", " ", "…", "“!”")[way]
    return (f"It's line {line}.", f"IT’S LINE {line}!", f"  “it´s  line {line} …”", f"(its) line—{line}")[way]


@pytest.mark.parametrize("protocol", ["official", "speaker", "kfold_utterance:6", "published"])
def test_leakage_counts_what_sets_say(corpus, protocol):
    rng = np.random.default_rng(0)
    line = rng.integers(-20, 150, len(corpus))
    sentences = {row: written(int(line[row]), row % 4) for row in range(len(corpus)) if row % 10}
    line[::10] = -1  # not in the mapping
    made = split(corpus, protocol, seed=0)
    corpus.index["speaker"][5::7] = ""  # nobody knows who speaks
    known = {kind: corpus.index[kind] for kind in KINDS if kind != "sentence"} | {"sentence": line}
    empty = {kind: values == "" for kind, values in known.items() if kind != "sentence"} | {"sentence": line < 0}
    seen = set()
    for fold in made.folds:
        leaks = leakage(corpus, fold, sentences)
        assert tuple(leaks) == PAIRS
        for pair in PAIRS:
            first, second = (getattr(fold, part) for part in pair.split("-"))
            for kind in KINDS:
                ours, theirs = (known[kind][rows].tolist() for rows in (first, second))
                both = {value for value in set(ours) & set(theirs) if (value >= 0 if kind == "sentence" else value)}
                unknown = int(empty[kind][second].sum())
                want = {"shared": len(both), "utterances": sum(value in both for value in theirs), "unknown": unknown}
                assert leaks[pair][kind] == want, (fold.name, pair, kind)
                seen.add((kind, want["shared"] > 0))
    assert ("sentence", True) in seen


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Don’t.", "dont", True),
        ("don\x92t", "Don't", True),
        ("well-known", "well known", True),
        ("STRASSE", "straße", True),
        ("cafe\u0301", "CAFÉ", True),
        ("कि", "का", False),
        ("line 1", "line 12", False),
        ("no one", "noone", False),
    ],
)
def test_which_sentences_are_the_same(one, other, same):
    assert (normalised_sentence(one) == normalised_sentence(other)) is same


def rows(*numbers):
    return np.array(numbers, np.int64)


def leaks_of(**utterances):
    none = {kind: {"shared": 0, "utterances": 0, "unknown": 0} for kind in KINDS}
    some = none | {kind: {"shared": 1, "utterances": n, "unknown": 0} for kind, n in utterances.items()}
    return {"train-test": some, "valid-test": none, "train-valid": none}


def test_leak_lines_speak_of_all_folds_together():
    folds = (Fold("1", rows(3, 4, 5), rows(2), rows(0, 1)), Fold("2", rows(0, 1), rows(2), rows(3, 4, 5)))
    made = Split("loso", "", "", False, folds)
    nothing = "share nothing: no dialogue, no speaker, no session, no sentence"
    assert leak_lines(made, [leaks_of(speaker=2, sentence=1), leaks_of(speaker=2)]) == [
        "train and test share: speakers of 80.0 % of the test utterances (4), sentences of 20.0 % (1); no dialogue, "
        "no session",
        f"valid and test {nothing}",
        f"train and valid {nothing}",
    ]
    assert leak_lines(made, [leaks_of(), leaks_of()])[0] == f"train and test {nothing}"


def test_leak_lines_do_not_speak_of_what_is_not_known(corpus):
    made = split(corpus, "official", seed=0)
    (fold,) = made.folds
    row = np.arange(len(corpus))
    tested = np.isin(row, fold.test)
    corpus.index["session"] = np.full(len(corpus), "")
    corpus.index["speaker"] = np.where(np.isin(row, fold.test[:3]), "", np.where(tested, "one", "other"))
    corpus.index["dialogue"] = np.where(tested, "one", "other")
    lines = leak_lines(made, [leakage(corpus, fold, {})])
    assert lines[0] == "train and test share nothing: no dialogue, no speaker"
    total = len(fold.test)
    assert (
        lines[1] == f"not known, and so not counted: the speakers of 3, sessions of {total} of {total} test utterances"
    )
    corpus.index["speaker"] = np.where(tested, "one", "")  # known where it is tested alone
    lines = leak_lines(made, [leakage(corpus, fold, {})])
    assert lines[0] == "train and test share nothing: no dialogue"
    assert f"the speakers of {total}, sessions of {total} of {total} test utterances" in lines[1]


def test_an_empty_part_shares_nothing_and_is_not_spoken_of(corpus):
    half = np.arange(len(corpus)) < len(corpus) // 2
    made = Split("official", "", "", False, (Fold("1", np.flatnonzero(half), rows(), np.flatnonzero(~half)),))
    leaks = leakage(corpus, made.folds[0], {})
    for pair in ("train-valid", "valid-test"):
        assert all(found["unknown"] == 0 for kind, found in leaks[pair].items() if kind != "sentence")
    (line,) = leak_lines(made, [leaks])
    assert line.startswith("train and test share")


def test_leak_lines_say_that_the_test_part_chooses(corpus):
    made = split(corpus, "published", seed=0)
    lines = leak_lines(made, [leakage(corpus, fold, {}) for fold in made.folds])
    assert lines[0].startswith("train and test share: dialogues of 100.0 % of the test utterances")
    assert lines[1] == "valid and test are the same utterances: the test part chooses the epoch"


def test_training_knows_what_shares_a_dialogue_or_trained_the_features(corpus):
    (honest,), leaky = split(corpus, "official", seed=0).folds, split(corpus, "published", seed=0).folds[0]
    trains = values(corpus, honest.train, "dialogue")
    shares = [name in trains for name in corpus.index["dialogue"][honest.valid].tolist()]
    assert knowing(corpus, honest, ("text",)).tolist() == shares
    assert knowing(corpus, leaky, ("text",)).mean() > 0.9
    corpus.index["dialogue"][:] = ""
    assert not knowing(corpus, leaky, ("text",)).any()
    corpus.modalities["text"]["trained_on"] = ["train"]
    written = corpus.index["split"][leaky.valid] == "train"
    assert knowing(corpus, leaky, ("text",)).tolist() == written.tolist()
    assert 0 < written.sum() < len(written)


@pytest.mark.parametrize("protocol", ["dialoguernn", "kfold_utterance:6", "published"])
def test_json_holds_the_assignment(corpus, protocol):
    made = split(corpus, protocol, seed=0)
    leaks = [leakage(corpus, fold, {}) for fold in made.folds]
    read = json.loads(json.dumps(to_json(corpus, made, leaks)))
    assert read == to_json(corpus, made, leaks)
    assert read["sha256"] == sha256(corpus, made)
    assert (read["protocol"], read["leaky"], read["selects_on_test"]) == (protocol, made.leaky, made.selects_on_test)
    everyone = set(corpus.index["id"].tolist())
    for fold, entry, leak in zip(made.folds, read["folds"], leaks, strict=True):
        assert (entry["name"], entry["leakage"]) == (fold.name, leak)
        assert entry["test"] == corpus.index["id"][fold.test].tolist()
        assert everyone - set(entry["valid"]) - set(entry["test"]) == values(corpus, fold.train, "id")
        assert entry["counts"] == {part: len(getattr(fold, part)) for part in ("train", "valid", "test")}
