"""The scores of emotions against scikit-learn and against a loop, also where an emotion is nowhere, or everywhere."""

import numpy as np
import pytest
from sklearn import metrics as sk

from mer_jax.metrics import multilabel
from mer_jax.metrics.multilabel import LAST_LOGIT, STEP, average_precision, bin_of, decided, emotions
from mer_jax.metrics.significance import bootstrap

NAMES = ("happy", "sad", "angry")
FROM = {"above_zero": lambda x: x > 0, "half": lambda x: x >= 0.5, "one": lambda x: x >= 1}


def case(seed):
    """Intensities on MOSEI's grid of thirds, what is known of them, probabilities; one emotion may be nowhere or
    everywhere, predicted or not."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(2, 50))
    targets = rng.choice([0, 0, 1 / 3, 0.5, 2 / 3, 1, 2, 3], (rows, 3))
    predicted = 1 / (1 + np.exp(-rng.normal(targets - 0.5, 2)))
    known = np.ones((rows, 3), bool)
    if seed % 5 == 1:
        targets[:, 1] = 0
    if seed % 5 == 2:
        targets[:, 1], predicted[:, 1] = 0, 0.1
    if seed % 5 == 3:
        targets[:, 2], predicted[:, 0] = 3, 0.5
    if seed % 5 == 4:
        known = rng.random((rows, 3)) < 0.7
        targets[~known] = np.nan
    return targets, known, predicted


def found(definition, targets, known, predicted):
    counts = definition.count(targets, known, predicted).sum(0)
    return {name: float(metric.function(counts)) for name, metric in definition.metrics.items()}


def on_the_grid(probabilities):
    """The same probabilities as the grid has them, by a loop over its edges."""
    edges = [i * STEP - LAST_LOGIT for i in range(round(2 * LAST_LOGIT / STEP) + 1)]
    logits = np.log(probabilities / (1 - probabilities))
    return np.array([sum(x >= edge - 1e-12 for edge in edges) for x in logits], float)


def wanted_of(true, probability):
    """Of one emotion by scikit-learn, None where that is undefined, and whether it occurs and is predicted."""
    guess = probability > 0.5
    recalls = [np.mean(guess[true == side] == side) for side in (False, True) if (true == side).any()]
    one = {
        "f1": sk.f1_score(true, guess, zero_division=0),
        "weighted_accuracy": np.mean(recalls),
        "weighted_f1": sk.f1_score(true, guess, average="weighted", zero_division=0),
        "accuracy": sk.accuracy_score(true, guess),
        "ap": sk.average_precision_score(true, on_the_grid(probability)) if true.any() else 0.0,
    }
    return one, true.any(), guess.any()


@pytest.mark.parametrize("present", list(FROM))
def test_scores_are_scikit_learns(present):
    for seed in range(70):
        targets, known, predicted = case(seed)
        if not known.any(0).all():
            continue
        scores = found(emotions(NAMES, present), targets, known, predicted)
        each = {}
        for i, name in enumerate(NAMES):
            of = known[:, i]
            each[name] = wanted_of(FROM[present](targets[of, i]), predicted[of, i])
            for score, value in each[name][0].items():
                assert scores[f"{score}_{name}"] == pytest.approx(value, abs=1e-9), (seed, score, name)
        means = {
            "macro_f1": [one["f1"] for one, occurs, guessed in each.values() if occurs or guessed],
            "weighted_accuracy": [one["weighted_accuracy"] for one, occurs, _ in each.values() if occurs],
            "map": [one["ap"] for one, occurs, _ in each.values() if occurs],
            "weighted_f1": [one["weighted_f1"] for one, _, _ in each.values()],
            "accuracy": [one["accuracy"] for one, _, _ in each.values()],
        }
        for score, values in means.items():
            assert scores[score] == pytest.approx(np.mean(values) if values else 0, abs=1e-9), (seed, score)
        true, guess = FROM[present](targets[known]), predicted[known] > 0.5
        assert scores["micro_f1"] == pytest.approx(sk.f1_score(true, guess, zero_division=0))
        right = [
            all((FROM[present](t) == (p > 0.5)) for t, p, k in zip(*row, strict=True) if k)
            for row in zip(targets, predicted, known, strict=True)
            if row[2].any()
        ]
        assert scores["exact_match"] == pytest.approx(sum(right) / len(right))


def test_weighted_accuracy_is_the_formula_of_zadeh():
    rng = np.random.default_rng(0)
    for _ in range(200):
        true, guess = rng.random(30) < 0.3, rng.random(30) < 0.4
        true[:2] = True, False
        positive, negative = true.sum(), (~true).sum()
        hit, rejected = (true & guess).sum(), (~true & ~guess).sum()
        scores = found(emotions(("x",)), true[:, None] * 1.0, np.ones((30, 1), bool), guess[:, None] * 0.8 + 0.1)
        assert scores["weighted_accuracy"] == pytest.approx((hit * negative / positive + rejected) / (2 * negative))


def test_average_precision_of_rows_is_scikit_learns():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rows = int(rng.integers(1, 40))
        true, probability = rng.random(rows) < 0.4, rng.random(rows).round(int(rng.integers(1, 4)))
        if true.any():
            assert average_precision(true, probability) == pytest.approx(sk.average_precision_score(true, probability))
        else:
            assert average_precision(true, probability) == 0


def test_counted_average_precision_is_close_to_the_exact_one():
    definition, far = emotions(("x",)), []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        true = rng.random(2000) < rng.uniform(0.05, 0.6)
        probability = 1 / (1 + np.exp(-rng.normal(true * rng.uniform(0, 3) - 1, 2)))
        scores = found(definition, true[:, None] * 1.0, np.ones((2000, 1), bool), probability[:, None])
        far.append(abs(scores["map"] - average_precision(true, probability)))
    assert max(far) < 0.01
    assert max(far) > 0


def test_probabilities_of_nought_and_one_and_the_edges_of_the_grid_have_a_bin():
    ends = np.array([[0.0, 1e-9, 1 / (1 + np.exp(10.05)), 0.5, 1 / (1 + np.exp(-10.05)), 1 - 1e-9, 1.0]])
    bins = bin_of(ends)[0].tolist()
    assert bins == [0, 0, 0, 101, 201, 201, 201]
    assert multilabel.BINS == 202
    assert np.diff(bin_of(np.linspace(0, 1, 10001)[None])[0]).min() >= 0


def test_undecided_is_absent():
    np.testing.assert_array_equal(decided(np.array([0.5, 0.5000001, 0.4999999])), [False, True, False])


def test_an_emotion_that_is_nowhere_does_not_move_the_means_that_ask_for_its_presence():
    rng = np.random.default_rng(0)
    targets, predicted = rng.choice([0.0, 1.0], (40, 2)), rng.random((40, 2))
    targets[:, 1], predicted[:, 1] = 0, 0.3
    all_known = np.ones((40, 2), bool)
    both, alone = (
        found(emotions(("a", "b")), targets, all_known, predicted),
        found(emotions(("a",)), targets[:, :1], all_known[:, :1], predicted[:, :1]),
    )
    for name in ("macro_f1", "micro_f1", "weighted_accuracy", "map", "exact_match"):
        assert both[name] == pytest.approx(alone[name])
    assert both["accuracy"] == pytest.approx((alone["accuracy"] + 1) / 2)
    predicted[0, 1] = 0.9  # now it is predicted, wrongly
    predicted_once = found(emotions(("a", "b")), targets, all_known, predicted)
    assert predicted_once["macro_f1"] == pytest.approx(alone["macro_f1"] / 2)
    assert predicted_once["weighted_accuracy"] == pytest.approx(alone["weighted_accuracy"])


def test_without_a_known_row_every_score_is_nought():
    targets, known = np.full((3, 2), np.nan), np.zeros((3, 2), bool)
    assert set(found(emotions(("a", "b")), targets, known, np.full((3, 2), 0.7)).values()) == {0.0}


def test_counts_of_any_leading_axes_are_scored_and_resampled():
    definition, rng = emotions(NAMES, "half"), np.random.default_rng(0)
    targets = rng.choice([0.0, 1.0], (80, 3))
    each = [definition.count(targets, np.ones((80, 3), bool), rng.random((80, 3))) for _ in range(2)]
    members = np.stack(each).reshape(2, 8, 10, -1).sum(2)
    intervals = bootstrap(members, 100, scores=lambda c: {n: m.function(c) for n, m in definition.metrics.items()})
    for name, metric in definition.metrics.items():
        np.testing.assert_array_equal(
            metric.function(members), [[metric.function(counts) for counts in row] for row in members]
        )
        assert intervals[name]["low"] < metric.function(members.sum(1)).mean() < intervals[name]["high"]


def test_average_precision_is_exact_where_rows_are_known():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(3)
    targets, known = rng.integers(0, 3, (200, 3)) / 3, rng.random((200, 3)) < 0.9
    targets[:, 2] = 0  # nowhere
    predicted, found = rng.random((200, 3)), multilabel.emotions(("a", "b", "c"))
    each = [average_precision_score(targets[k, i] > 0, predicted[k, i]) for i, k in enumerate(known.T[:2])]
    assert found.exact["ap_a"](targets, known, predicted) == pytest.approx(each[0], abs=1e-12)
    assert found.exact["map"](targets, known, predicted) == pytest.approx(np.mean(each), abs=1e-12)
    assert found.exact["ap_c"](targets, known, predicted) == 0


def test_an_emotion_of_which_nothing_is_known_has_no_average_precision():
    definition = emotions(("glad", "cross"))
    known = np.array([[True, False], [True, False]])
    targets, predicted = np.array([[1.0, np.nan], [0.0, np.nan]]), np.array([[0.9, 0.5], [0.1, 0.5]])
    assert definition.exact["ap_cross"](targets, known, predicted) == 0
    assert definition.exact["map"](targets, known, predicted) == 1
