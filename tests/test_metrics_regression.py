"""CCC, MAE and Pearson against SciPy and a loop, on random cases and on those where nothing is defined."""

import math

import numpy as np
import pytest
from scipy import stats

from mer_jax.metrics.metric import scores_by_name
from mer_jax.metrics.multilabel import emotions
from mer_jax.metrics.regression import dimensions
from mer_jax.metrics.significance import bootstrap

NAMES = ("valence", "arousal", "dominance")


def cases(count=200):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        targets = np.round(rng.normal(3, 1, (40, 3)), 1)
        predicted = targets + rng.normal(rng.normal(), rng.random() + 0.1, (40, 3))
        known = rng.random((40, 3)) < 0.8
        yield np.where(known, targets, np.nan), known, predicted


def found(names, targets, known, predicted):
    definition = dimensions(names)
    counts = definition.count(targets, known, predicted).sum(0)
    return {name: float(metric.function(counts)) for name, metric in definition.metrics.items()}


def loop_ccc(x, y):
    """Lin 1989, line by line."""
    n = len(x)
    mean_x, mean_y = math.fsum(x) / n, math.fsum(y) / n
    of_x = math.fsum((a - mean_x) ** 2 for a in x) / n
    of_y = math.fsum((b - mean_y) ** 2 for b in y) / n
    both = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / n
    return 2 * both / (of_x + of_y + (mean_x - mean_y) ** 2)


def test_each_dimension_and_their_means_are_those_of_scipy_and_of_a_loop():
    for targets, known, predicted in cases():
        scores = found(NAMES, targets, known, predicted)
        wanted = {"ccc": [], "mae": [], "pearson": []}
        for i in range(3):
            x, y = targets[known[:, i], i].tolist(), predicted[known[:, i], i].tolist()
            wanted["ccc"].append(loop_ccc(x, y))
            wanted["mae"].append(sum(abs(a - b) for a, b in zip(x, y, strict=True)) / len(x))
            wanted["pearson"].append(stats.pearsonr(x, y).statistic)
        for name, values in wanted.items():
            assert scores[name] == pytest.approx(sum(values) / 3, abs=1e-9)
            assert [scores[f"{name}_{dimension}"] for dimension in NAMES] == pytest.approx(values, abs=1e-9)


def test_one_dimension_is_not_told_twice():
    assert list(dimensions(("sentiment",)).metrics) == ["ccc", "mae", "pearson"]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_constant_correlates_with_nothing(seed):
    rng = np.random.default_rng(seed)
    varied, all_known = rng.normal(size=(30, 1)), np.ones((30, 1), bool)
    for constant in (0.0, 0.1, -2.7, 1e6 / 3):
        same = np.full((30, 1), constant)
        for targets, predicted in ((same, varied), (varied, same), (same, same), (same, same + 1)):
            scores = found(("x",), targets, all_known, predicted)
            assert (scores["ccc"], scores["pearson"]) == (0, 0)
            assert scores["mae"] == pytest.approx(np.abs(targets - predicted).mean())


def test_a_small_spread_far_from_zero_is_no_constant():
    rng = np.random.default_rng(0)
    x = 100 + 1e-3 * rng.normal(size=(500, 1))
    y = x + 1e-3 * rng.normal(size=(500, 1))
    scores = found(("x",), x, np.ones((500, 1), bool), y)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(x[:, 0], y[:, 0]).statistic, abs=1e-4)


def test_a_dimension_that_is_not_known_is_left_out_of_the_means():
    rng = np.random.default_rng(0)
    targets, predicted, known = rng.normal(size=(30, 2)), rng.normal(size=(30, 2)), np.ones((30, 2), bool)
    known[:, 1], targets[:, 1] = False, np.nan
    both, alone = (
        found(("a", "b"), targets, known, predicted),
        found(("a",), targets[:, :1], known[:, :1], predicted[:, :1]),
    )
    assert {name: both[name] for name in alone} == alone
    assert [both[f"{name}_b"] for name in alone] == [0, 0, 0]
    assert not any(found(("a", "b"), targets, np.zeros((30, 2), bool), predicted).values())


def test_a_row_without_a_known_target_counts_nothing():
    targets, predicted = np.full((2, 2), np.nan), np.ones((2, 2))
    assert not dimensions(("a", "b")).count(targets, np.zeros((2, 2), bool), predicted).any()


def test_counts_of_any_leading_axes_are_scored_and_resampled():
    definition = dimensions(NAMES)
    each = np.stack([definition.count(*case) for case in cases(3)])
    members = each.reshape(3, 10, 4, -1).sum(2)
    for metric in definition.metrics.values():
        alone = [metric.function(counts) for counts in members.sum(1)]
        np.testing.assert_array_equal(metric.function(members.sum(1)), alone)
        assert metric.function(members).shape == (3, 10)
    intervals = bootstrap(members, 200, scores=lambda c: {n: m.function(c) for n, m in definition.metrics.items()})
    for name, metric in definition.metrics.items():
        assert intervals[name]["low"] < metric.function(members.sum(1)).mean() < intervals[name]["high"]


def test_a_mean_absolute_error_is_better_when_smaller_and_shown_in_full():
    metrics = dimensions(NAMES).metrics
    assert next(iter(metrics)) == "ccc"
    assert [metrics[name].direction for name in ("ccc", "mae", "pearson", "mae_arousal")] == [
        "max",
        "min",
        "max",
        "min",
    ]
    assert metrics["ccc_valence"].format(0.51234) == "0.5123"


@pytest.mark.parametrize("define", [dimensions, emotions])
@pytest.mark.parametrize("names", [("a", "b_a"), ("ccc", "valence_ccc"), ("f1", "x")])
def test_a_score_is_of_the_name_that_it_was_made_for(define, names):
    """`ccc_b_a` ends like a score of `a`, and `macro_f1` like one of `f1`."""
    metrics = define(names).metrics
    found = scores_by_name(metrics, names)
    for name in names:
        assert set(found[name].values()) == {key for key, of in metrics.items() if of.title.endswith(f" of {name}")}
