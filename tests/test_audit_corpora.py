"""The audit tells which known corpus it looks at, and whether its labels are swapped."""

import types

import numpy as np
import pytest

from data_prep import class_names
from data_prep.audit.findings import classes
from data_prep.packs import class_counts


def counted(name, labels, splits, words=()):
    """A corpus of which only the class counts are looked at."""
    parts = {split: {"classes": dict(zip(labels, counts, strict=True))} for split, counts in splits.items()}
    manifest = {"name": name, "splits": parts, "label_words": words}
    return types.SimpleNamespace(
        manifest=manifest, labels=tuple(labels), path="c", index={"id": np.array(["a", "b", "c"])}
    )


def compared(corpus, extra_happy=None):
    found = {f.name: (f.level, f.text) for f in classes(corpus, extra_happy)}
    return {name: found[name] for name in ("label order", "known corpus") if name in found}


IEMOCAP = class_counts.CORPORA[0]
MELD = class_counts.CORPORA[2]
PARTS = {"train": MELD.sets["train"], "valid": MELD.sets["dev"], "test": MELD.sets["test"]}


@pytest.mark.parametrize("which", list(IEMOCAP.sets))
def test_it_is_told_which_set_of_iemocap_it_is(which):
    level, text = compared(counted("c", IEMOCAP.words, {"train": IEMOCAP.sets[which]}))["known corpus"]
    assert level == "ok"
    assert which in text


def test_labels_may_be_words():
    found = compared(counted("c", list("abcdef"), {"train": IEMOCAP.sets["official"]}, list(IEMOCAP.words.values())))
    assert found["label order"][0] == "ok"


def test_swapped_labels_are_a_problem():
    swapped = ("hap", "ang", "neu", "sad", "exc", "fru")
    half = [n // 2 for n in IEMOCAP.sets["official"]]
    rest = [n - m for n, m in zip(IEMOCAP.sets["official"], half, strict=True)]
    level, text = compared(counted("c", swapped, {"train": half, "test": rest}))["label order"]
    assert level == "problem"
    assert "hap,sad,neu,ang,exc,fru" in text


def test_labels_swapped_in_one_split_are_a_problem():
    assert compared(counted("meld", MELD.words, PARTS)) == {
        "label order": ("ok", f"no other order of {', '.join(MELD.words)} fits the counts better"),
        "known corpus": ("ok", "meld, train, dev and test: 13,708 utterances, as many of each class as it has"),
    }
    neutral, surprise, *others = PARTS["test"]
    level, text = compared(counted("meld", MELD.words, PARTS | {"test": (surprise, neutral, *others)}))["label order"]
    assert level == "problem"
    assert "c, test: the labels cannot be in the order" in text


def test_whether_another_order_fits_better_is_computed():
    four = class_counts.IEMOCAP4
    lost = [1636, 1084, 1708, 1091]  # 12 of ang
    level, text = compared(counted("c", ("hap", "ang", "neu", "sad"), {"train": lost}))["label order"]
    assert (level, "fit the order hap,sad,neu,ang better, though not for sure" in text) == ("note", True)
    level, text = compared(counted("c", four.words, {"train": lost}))["label order"]
    assert (level, text) == ("note", "the counts cannot tell apart sad and ang")
    assert compared(counted("c", four.words, {"train": four.sets["official"]}))["label order"][0] == "ok"


def test_classes_that_look_the_same_and_rare_ones_are_told():
    corpus = counted("c", ("calm", "Calm ", "sad", "lost"), {"train": [9, 9, 9, 2], "test": [3, 3, 3, 2]})
    found = {f.name: f for f in classes(corpus, None)}
    assert found["class names"].level == found["rare class"].level == "note"
    assert "'calm', 'Calm ' differ by case, spaces or look only" in found["class names"].text
    assert "lost (2)" in found["rare class"].text
    assert "sad" not in found["rare class"].text
    fine = {f.name for f in classes(counted("c", ("calm", "sad"), {"train": [9, 9]}), None)}
    assert not fine & {"class names", "rare class"}


def test_lost_clips_are_counted_per_split():
    neutral, *others = PARTS["train"]
    found = compared(counted("meld", MELD.words, PARTS | {"train": (neutral - 1, *others)}))
    assert found["known corpus"][0] == "note"
    assert "neutral 6,435 instead of 6,436; train: neutral 4,709 instead of 4,710" in found["known corpus"][1]


def test_counts_of_no_set_are_told_of_a_corpus_by_name_only():
    few = {"train": [10, 20, 30, 40, 50, 60]}
    assert compared(counted("my iemocap", IEMOCAP.words, few))["known corpus"][0] == "note"
    assert compared(counted("mine", IEMOCAP.words, few))["known corpus"][0] == "ok"


def test_names_are_found_for_labels_without_any():
    level, text = compared(counted("c", list("012345"), {"train": IEMOCAP.sets["official"]}))["known corpus"]
    assert level == "note"
    assert "in the order hap, sad, neu, ang, exc, fru" in text


@pytest.mark.parametrize(("ids", "level", "there"), [("xy", "ok", 0), ("abc", "ok", 3), ("abx", "note", 2)])
def test_extra_happy_are_counted(ids, level, there):
    corpus = counted("c", IEMOCAP.words, {"train": IEMOCAP.sets["official"]})
    (found,) = (f for f in classes(corpus, set(ids)) if f.name == "extra happy")
    assert (found.level, found.text) == (level, f"{there} of the {len(ids)} listed utterances are in the corpus")


@pytest.mark.parametrize("names", [("-1", "0", "1"), ("-.5", ".5"), ("\u2212 2", "2"), ("-", "_"), ("e-1", "e2")])
def test_numbers_and_signs_are_not_taken_for_one(names):
    assert class_names.alike(names) == []
