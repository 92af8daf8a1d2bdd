"""Which utterances train, validate and test: the promises of every protocol, and its refusals."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, small_description
from dialogues import LONGEST, utterances, values

from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.protocols import Fold, check_name, sha256, split
from mer_jax.errors import UserError

DRAWN = ("loso", "loso:2", "speaker", "speaker:3", "kfold_dialogue:6", "kfold_utterance:6")
COVERING = (*DRAWN, "published")
ALL = ("official", "dialoguernn", *COVERING)


@pytest.fixture
def corpus(dialogue_folder):
    """Opened afresh: a test may change its index."""
    return Corpus(dialogue_folder)


def same_parts(a, b):
    return all(
        np.array_equal(getattr(x, part), getattr(y, part))
        for x, y in zip(a.folds, b.folds, strict=True)
        for part in ("train", "valid", "test")
    )


@pytest.mark.parametrize("protocol", ALL)
def test_parts_are_sorted_disjoint_and_leave_nobody_out(corpus, protocol):
    made = split(corpus, protocol, seed=3)
    assert made.protocol == protocol
    for fold in made.folds:
        for part in (fold.train, fold.valid, fold.test):
            assert len(part) > 0
            assert part.dtype == np.int64
        parts = [fold.train, fold.test] if protocol == "published" else [fold.train, fold.valid, fold.test]
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(corpus)))
        assert all((np.diff(part) > 0).all() for part in (fold.train, fold.valid, fold.test))


@pytest.mark.parametrize("protocol", COVERING)
def test_every_utterance_is_tested_once(corpus, protocol):
    tested = np.concatenate([fold.test for fold in split(corpus, protocol, seed=3).folds])
    assert np.array_equal(np.sort(tested), np.arange(len(corpus)))


@pytest.mark.parametrize("protocol", DRAWN)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_dialogue_is_in_valid_and_elsewhere(corpus, protocol, seed):
    for fold in split(corpus, protocol, seed).folds:
        valid = values(corpus, fold.valid, "dialogue")
        assert not valid & values(corpus, fold.train, "dialogue")
        assert not valid & values(corpus, fold.test, "dialogue")


@pytest.mark.parametrize(
    ("protocol", "kind"),
    [
        ("loso", "session"),
        ("loso:2", "session"),
        ("speaker", "speaker"),
        ("speaker:3", "speaker"),
        ("dialoguernn", "session"),
        ("kfold_dialogue:6", "dialogue"),
    ],
)
def test_what_is_left_out_is_in_no_other_part(corpus, protocol, kind):
    for fold in split(corpus, protocol, seed=5).folds:
        tested = values(corpus, fold.test, kind)
        assert not tested & values(corpus, np.concatenate([fold.train, fold.valid]), kind)


@pytest.mark.parametrize("protocol", ["loso", "loso:2", "speaker", "speaker:3"])
def test_about_a_tenth_validates(corpus, protocol):
    for fold in split(corpus, protocol, seed=0).folds:
        tenth = (len(fold.train) + len(fold.valid)) / 10
        assert abs(len(fold.valid) - tenth) <= LONGEST / 2


def test_official_is_what_the_records_say(corpus):
    (fold,) = split(corpus, "official", seed=0).folds
    assert fold.name == "official"
    for part in ("train", "valid", "test"):
        assert np.array_equal(getattr(fold, part), np.flatnonzero(corpus.index["split"] == part))


def test_dialoguernn_takes_the_written_validation_where_the_test_part_is_the_same(corpus):
    made = split(corpus, "dialoguernn", seed=7)
    assert same_parts(made, split(corpus, "official", seed=0))
    assert made.folds[0].name == "Ses5"
    assert "as written" in made.description


@pytest.mark.parametrize("change", [("test", "train"), ("valid", "train")])
def test_dialoguernn_draws_the_validation_otherwise(corpus, change):
    """Either the records test something else than the last session, or they have no validation part."""
    first = np.flatnonzero(corpus.index["split"] == change[0])
    corpus.index["split"][first[:1] if change[0] == "test" else first] = change[1]
    made = split(corpus, "dialoguernn", seed=7)
    (fold,) = made.folds
    assert np.array_equal(fold.test, np.flatnonzero(corpus.index["session"] == "Ses5"))
    assert not values(corpus, fold.valid, "dialogue") & values(corpus, fold.train, "dialogue")
    assert abs(len(fold.valid) - (len(corpus) - len(fold.test)) / 10) <= LONGEST / 2
    assert "drawn" in made.description


def test_loso_and_speaker_name_their_folds(corpus):
    assert [fold.name for fold in split(corpus, "loso", 0).folds] == ["Ses1", "Ses2", "Ses3", "Ses4", "Ses5"]
    assert [fold.name for fold in split(corpus, "speaker", 0).folds][:3] == ["Ses1F", "Ses1M", "Ses2F"]
    assert [fold.name for fold in split(corpus, "speaker:3", 0).folds] == ["1", "2", "3"]
    for fold in split(corpus, "loso", 0).folds:
        assert values(corpus, fold.test, "session") == {fold.name}


def test_partners_of_a_tested_speaker_stay_in_train(corpus):
    for fold in split(corpus, "speaker", seed=2).folds:
        beside = np.isin(corpus.index["dialogue"], list(values(corpus, fold.test, "dialogue")))
        beside[fold.test] = False
        assert beside.any()
        assert np.isin(np.flatnonzero(beside), fold.train).all()


@pytest.mark.parametrize(
    ("protocol", "apart"),
    [("kfold_dialogue:6", LONGEST), ("kfold_utterance:6", 3), ("kfold_utterance:25", 2), ("published", 1)],
)
def test_groups_come_out_even(corpus, protocol, apart):
    sizes = [len(fold.test) for fold in split(corpus, protocol, seed=1).folds]
    assert max(sizes) - min(sizes) <= apart


def test_a_large_session_is_a_group_of_its_own(corpus):
    number = np.unique(corpus.index["dialogue"], return_inverse=True)[1]
    corpus.index["session"] = np.array(["a", "b", "c", "d", "z"])[np.minimum(number // 3, 4)]
    large, small = split(corpus, "loso:2", seed=0).folds
    assert values(corpus, large.test, "session") == {"z"}
    assert values(corpus, small.test, "session") == {"a", "b", "c", "d"}


def test_kfold_dialogue_validates_on_the_next_group(corpus):
    folds = split(corpus, "kfold_dialogue:6", seed=1).folds
    for fold, following in zip(folds, (*folds[1:], folds[0]), strict=True):
        assert np.array_equal(fold.valid, following.test)


def test_kfold_utterance_tests_and_trains_on_the_same_dialogues(corpus):
    made = split(corpus, "kfold_utterance:6", seed=1)
    for fold in made.folds:
        assert values(corpus, fold.test, "dialogue") & values(corpus, fold.train, "dialogue")
    assert made.title().startswith("kfold_utterance:6 (leaky: ")
    assert not made.selects_on_test


def test_published_selects_on_its_ten_test_parts(corpus):
    made = split(corpus, "published", seed=1)
    assert len(made.folds) == 10
    assert all(np.array_equal(fold.valid, fold.test) for fold in made.folds)
    assert made.selects_on_test
    assert made.title().startswith("published (leaky: ")


@pytest.mark.parametrize("protocol", [p for p in ALL if p not in ("kfold_utterance:6", "published")])
def test_the_others_are_neither_leaky_nor_select_on_test(corpus, protocol):
    made = split(corpus, protocol, seed=1)
    assert (made.title(), made.leaky, made.selects_on_test) == (protocol, "", False)


@pytest.mark.parametrize("protocol", COVERING)
def test_the_seed_decides(corpus, protocol):
    np.random.seed(1)
    first = split(corpus, protocol, seed=11)
    np.random.seed(2)
    assert same_parts(first, split(corpus, protocol, seed=11))
    other = split(corpus, protocol, seed=12)
    assert sha256(corpus, other) != sha256(corpus, first)
    if protocol.startswith(("loso", "speaker")):  # who tests with whom is no matter of the seed
        assert all(np.array_equal(a.test, b.test) for a, b in zip(first.folds, other.folds, strict=True))


@pytest.mark.parametrize("protocol", ALL)
def test_the_order_of_the_records_does_not_matter(corpus, dialogue_folder, protocol):
    turned = Corpus(dialogue_folder)
    turned.index = {name: column[::-1] for name, column in turned.index.items()}
    assert sha256(turned, split(turned, protocol, seed=4)) == sha256(corpus, split(corpus, protocol, seed=4))


def test_the_folds_are_those_of_earlier_versions(corpus):
    wanted = {
        "official": "48ad5be11b12",
        "dialoguernn": "48ad5be11b12",
        "loso": "841c07b79d3f",
        "loso:2": "915122e8f6f2",
        "speaker": "0ce412bb65f9",
        "speaker:3": "d6fbba1c5839",
        "kfold_dialogue:6": "8be4aaffd155",
        "kfold_utterance:6": "729467e8cffa",
        "published": "fc6288244216",
    }
    assert {name: sha256(corpus, split(corpus, name, seed=4))[:12] for name in wanted} == wanted


def test_nor_does_the_hash_seed_of_the_process(corpus, dialogue_folder):
    script = (
        "import sys; from mer_jax.data.protocols import sha256, split; from mer_jax.data.corpus import Corpus; "
        "corpus = Corpus(sys.argv[1]); print(*[sha256(corpus, split(corpus, p, 4)) for p in sys.argv[2:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, dialogue_folder, *ALL],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "5"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [sha256(corpus, split(corpus, protocol, 4)) for protocol in ALL]


@pytest.mark.parametrize(
    "protocol",
    [
        "",
        "lose",
        "official:2",
        "dialoguernn:5",
        "published:10",
        "loso:",
        "loso:1",
        "loso:x",
        "loso:05",
        "loso:-3",
        "loso:٣",
        "loso:2:2",
        "speaker:2.0",
        "kfold_dialogue",
        "kfold_dialogue:2",
        "kfold_utterance:2",
        " loso",
    ],
)
def test_a_wrong_name_is_refused_with_the_right_ones(corpus, protocol):
    with pytest.raises(UserError, match=r"one of official, dialoguernn, loso, loso:k \(k >= 2\), .*kfold_utterance:k"):
        check_name(protocol)
    with pytest.raises(UserError, match="one of official"):
        split(corpus, protocol, seed=0)


@pytest.mark.parametrize(
    ("protocol", "field"),
    [
        ("loso", "session"),
        ("loso:2", "session"),
        ("dialoguernn", "session"),
        ("speaker", "speaker"),
        ("loso", "dialogue"),
        ("kfold_dialogue:3", "dialogue"),
        ("kfold_utterance:3", "dialogue"),
    ],
)
@pytest.mark.parametrize("value", ["", "1"])
def test_a_field_without_two_values_is_refused(corpus, protocol, field, value):
    corpus.index[field][:] = value
    found = f"all of them have '{value}'" if value else f"{len(corpus)} of {len(corpus)} have none"
    with pytest.raises(UserError, match=f"={protocol}: .*{field!r}.* at least two different values.*{found}"):
        split(corpus, protocol, seed=0)


def test_a_field_that_some_utterances_lack_is_refused(corpus):
    corpus.index["session"][[3, 9]] = ""
    with pytest.raises(UserError, match=f"'session'.*2 of {len(corpus)} have none"):
        split(corpus, "loso", seed=0)


@pytest.mark.parametrize(
    ("protocol", "there"),
    [
        ("loso:6", "5 sessions"),
        ("speaker:11", "10 speakers"),
        ("kfold_dialogue:31", "30 dialogues"),
        ("kfold_utterance:31", "30 dialogues"),
    ],
)
def test_more_folds_than_groups_are_refused(corpus, protocol, there):
    with pytest.raises(UserError, match=f"={protocol}: .*only {there}; k must be at most {there.split()[0]}"):
        split(corpus, protocol, seed=0)
    name, _, k = protocol.partition(":")
    if name != "kfold_utterance":
        assert len(split(corpus, f"{name}:{int(k) - 1}", seed=0).folds) == int(k) - 1


@pytest.mark.parametrize(("protocol", "field"), [("loso", "session"), ("speaker", "speaker")])
def test_too_many_folds_are_refused_with_a_hint(corpus, protocol, field):
    corpus.index[field] = corpus.index["dialogue"]
    with pytest.raises(UserError, match=f"30 {field}s.*--config.data.protocol={protocol}:10"):
        split(corpus, protocol, seed=0)
    assert len(split(corpus, f"{protocol}:10", seed=0).folds) == 10


@pytest.mark.parametrize("protocol", ["kfold_dialogue:5", "kfold_utterance:3"])
def test_fewer_dialogues_than_the_least_k_are_refused_as_too_few(corpus, protocol):
    """A smaller k is refused, too: two dialogues cannot train, validate and test."""
    corpus.index["dialogue"] = np.where(corpus.index["session"] == "Ses1", "a", "b")
    with pytest.raises(UserError, match=f"={protocol}: the corpus has only 2 dialogues; it takes at least 3$"):
        split(corpus, protocol, seed=0)


def test_too_few_dialogues_are_refused(corpus):
    corpus.index["session"] = corpus.index["dialogue"] = np.where(corpus.index["session"] == "Ses1", "a", "b")
    with pytest.raises(
        UserError, match=r"=loso: fold a leaves 1 of the 2 dialogues.*one of these for valid and another"
    ):
        split(corpus, "loso", seed=0)


def test_a_speaker_who_is_in_every_dialogue_is_refused(corpus):
    corpus.index["speaker"] = np.where(corpus.index["turn"] % 2 == 0, "F", "M")
    with pytest.raises(UserError, match=r"=speaker: fold F leaves 30 of the 30 dialogues, 0 of them without test"):
        split(corpus, "speaker", seed=0)


def test_an_empty_part_is_refused(tmp_path):
    few = [utterance for utterance in utterances() if utterance.turn == 0][:8]
    write_corpus(tmp_path / "few", few, small_description(extractors={"text": "ones"}))
    with pytest.raises(UserError, match="8 utterances are too few: valid of fold 9 is empty"):
        split(Corpus(tmp_path / "few"), "published", seed=0)
    with pytest.raises(UserError, match="the 'test' split is empty"):
        split(Corpus(tmp_path / "few"), "official", seed=0)


@pytest.mark.parametrize(
    ("names", "last"),
    [(("1", "2", "10"), "10"), (("Ses01", "Ses2", "Ses10"), "Ses10"), (("a", "b"), "b"), (("9", "b"), "b")],
)
def test_the_last_session_is_the_one_of_the_largest_number(corpus, names, last):
    dialogue = np.unique(corpus.index["dialogue"], return_inverse=True)[1]
    corpus.index["session"] = np.array(names)[dialogue % len(names)]
    made = split(corpus, "dialoguernn", seed=0)
    assert made.folds[0].name == last
    assert f"the last session, {last};" in made.description
    assert set(corpus.index["session"][made.folds[0].test]) == {last}


def test_the_hash_is_of_the_assignment_and_of_nothing_else(corpus):
    made = split(corpus, "official", seed=0)
    (fold,) = made.folds
    worded = dataclasses.replace(made, description="else", folds=(dataclasses.replace(fold, name="else"),))
    assert sha256(corpus, worded) == sha256(corpus, made)
    moved = Fold(fold.name, fold.train[1:], np.sort(np.append(fold.valid, fold.train[0])), fold.test)
    assert sha256(corpus, dataclasses.replace(made, folds=(moved,))) != sha256(corpus, made)
    exchanged = Fold(fold.name, fold.train, fold.test, fold.valid)
    assert sha256(corpus, dataclasses.replace(made, folds=(exchanged,))) != sha256(corpus, made)
