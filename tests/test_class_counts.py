"""Which number is which class: told by how often it occurs."""

import pytest

from data_prep.packs import class_counts
from mer_jax.errors import UserError

MELD = dict(zip(class_counts.SEVEN, class_counts.CORPORA[2].sets["train"], strict=True))
MERBENCH = ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")


def test_the_counts_are_those_of_the_corpora():
    assert [sum(n) for n in class_counts.CORPORA[0].sets.values()] == [7433, 7380]
    assert sum(class_counts.CORPORA[1].sets["official"]) == 5531
    of_meld = {name: sum(n) for name, n in class_counts.CORPORA[2].sets.items()}
    assert of_meld == {"train, dev and test": 13708, "train and dev": 11098, "train": 9989, "dev": 1109, "test": 2610}


@pytest.mark.parametrize("order", [tuple(class_counts.SEVEN), MERBENCH])
def test_the_order_is_found_and_another_refused(order):
    counts = [MELD[label] for label in order]
    assert class_counts.fitting(counts)[0].order == order
    assert class_counts.check_order("pack.pkl", order, counts) == "meld, train"
    wrong = (order[1], order[0], *order[2:])
    with pytest.raises(UserError, match=f"pack.pkl: .*say --labels={','.join(order)}"):
        class_counts.check_order("pack.pkl", wrong, counts)


def test_a_few_lost_clips_do_not_matter_unless_they_decide():
    counts = [MELD[label] - 4 * (label == "disgust") for label in class_counts.SEVEN]  # now as rare as fear
    swapped = ("neutral", "surprise", "disgust", "sadness", "joy", "fear", "anger")
    assert (
        class_counts.check_order("p", tuple(class_counts.SEVEN), counts)
        == class_counts.check_order("p", swapped, counts)
        == "meld, train"
    )
    with pytest.raises(UserError, match="cannot be in the order"):
        class_counts.check_order("p", swapped, list(MELD.values()))


def test_the_two_sets_of_iemocap_are_told_apart():
    six = tuple(class_counts.SIX)
    assert (
        class_counts.check_order("p", six, [648, 1084, 1708, 1103, 1041, 1849]) == "iemocap-6, with the 53 extra happy"
    )
    assert class_counts.check_order("p", six, [595, 1084, 1708, 1103, 1041, 1849]) == "iemocap-6, official"
    with pytest.raises(UserError, match="cannot be"):  # sad 1,084 and ang 1,103, five utterances lost
        class_counts.check_order("p", ("hap", "ang", "neu", "sad", "exc", "fru"), [645, 1084, 1708, 1103, 1039, 1849])
    with pytest.raises(UserError, match="--labels=ang,hap,neu,sad"):
        class_counts.check_order("p", ("hap", "sad", "neu", "ang"), [1103, 1636, 1708, 1084])


def test_what_is_of_no_known_corpus_is_not_judged():
    assert class_counts.check_order("p", ("a", "b"), [5, 6]) == ""
    assert class_counts.check_order("p", tuple(class_counts.SIX), [10, 20, 30, 40, 50, 60]) == ""
