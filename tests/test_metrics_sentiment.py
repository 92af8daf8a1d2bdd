"""MOSI's, MOSEI's and CH-SIMS's scores against scikit-learn, and against loops over the published definitions."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from mer_jax.metrics.sentiment import mosei, mosi, sims
from mer_jax.metrics.significance import bootstrap

KINDS = ("anything", "one sign", "all zero", "ties", "unknown")


def case(seed, end):
    """Targets, what is known of them and predictions; every fifth case is of the same kind."""
    rng, kind = np.random.default_rng(seed), KINDS[seed % 5]
    rows = int(rng.integers(1, 60))
    targets = rng.choice(np.linspace(-end, end, 31), rows).round(4)
    predicted = targets + rng.normal(scale=end / 2, size=rows)
    known = np.ones(rows, bool)
    if kind == "one sign":
        targets, predicted = np.abs(targets), -np.abs(predicted)
    elif kind == "all zero":
        targets, predicted = np.zeros(rows), rng.choice([-0.2, 0.0, -0.0, 0.3], rows)
    elif kind == "ties":
        steps = np.array([-1.2, -1, -0.7, -0.5, -0.1, 0, 0.1, 0.5, 0.7, 1, 1.2]) * (1 if end == 1 else 2.5)
        targets, predicted = np.clip(rng.choice(steps, rows), -end, end), rng.choice(steps, rows)
    elif kind == "unknown":
        known = rng.random(rows) < 0.6
        targets[~known] = np.nan
    return targets[:, None], known[:, None], predicted[:, None]


def found(definition, targets, known, predicted):
    counts = definition.count(targets, known, predicted).sum(0)
    scores = {name: float(metric.function(counts)) for name, metric in definition.metrics.items()}
    return scores, {name: float(rows(counts)) for name, (_, rows) in definition.excluded.items()}


def of_scikit_learn(true, predicted):
    if not len(true):
        return 0.0, 0.0
    f1 = sk.f1_score(true, predicted, average="weighted", zero_division=0)
    return sk.accuracy_score(true, predicted), f1


def pearson(x, y):
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return np.corrcoef(x, y)[0, 1]


@pytest.mark.parametrize("definition", [mosi(), mosei()], ids=["mosi", "mosei"])
def test_mosi_and_mosei_are_scikit_learns(definition):
    for seed in range(200):
        targets, known, predicted = case(seed, 3)
        x, y = targets[known], predicted[known]
        told = x != 0
        wanted = {
            "mae": sk.mean_absolute_error(x, y) if len(x) else 0.0,
            "pearson": pearson(x, y),
            "acc7": of_scikit_learn(np.clip(x, -3, 3).round(), np.clip(y, -3, 3).round())[0],
            "acc5": of_scikit_learn(np.clip(x, -2, 2).round(), np.clip(y, -2, 2).round())[0],
        }
        wanted["acc2_nonneg"], wanted["f1_nonneg"] = of_scikit_learn(x >= 0, y >= 0)
        wanted["acc2_pos"], wanted["f1_pos"] = of_scikit_learn(x[told] > 0, y[told] > 0)
        scores, excluded = found(definition, targets, known, predicted)
        assert scores == pytest.approx(wanted, abs=1e-9), seed
        assert excluded == {"acc2_pos": (~told).sum(), "f1_pos": (~told).sum()}


def test_sims_is_scikit_learns():
    bounds = {2: [-1.01, 0, 1.01], 3: [-1.01, -0.1, 0.1, 1.01], 5: [-1.01, -0.7, -0.1, 0.1, 0.7, 1.01]}
    for seed in range(200):
        targets, known, predicted = case(seed, 1)
        x, y = np.clip(targets[known], -1, 1), np.clip(predicted[known], -1, 1)
        wanted = {"mae": sk.mean_absolute_error(x, y) if len(x) else 0.0, "pearson": pearson(x, y)}
        for classes, ends in bounds.items():
            of_x, of_y = (np.digitize(values, ends, right=True) for values in (x, y))
            wanted[f"acc{classes}"], f1 = of_scikit_learn(of_x, of_y)
            if classes == 2:
                wanted["f1"] = f1
        assert found(sims(), targets, known, predicted)[0] == pytest.approx(wanted, abs=1e-9), seed


def weighted_f1(pairs):
    """Of each class that occurs: its F1, weighted by how often it occurs."""
    total = 0.0
    for one in {true for true, _ in pairs}:
        hit = sum(true == one and guess == one for true, guess in pairs)
        occurs, guessed = sum(true == one for true, _ in pairs), sum(guess == one for _, guess in pairs)
        precision, recall = hit / guessed if guessed else 0.0, hit / occurs
        total += occurs * (2 * precision * recall / (precision + recall) if hit else 0.0)
    return total / len(pairs)


def share(pairs):
    return sum(a == b for a, b in pairs) / len(pairs)


def correlation(pairs):
    n = len(pairs)
    mean_x, mean_y = math.fsum(x for x, _ in pairs) / n, math.fsum(y for _, y in pairs) / n
    both = math.fsum((x - mean_x) * (y - mean_y) for x, y in pairs)
    return both / math.sqrt(
        math.fsum((x - mean_x) ** 2 for x, _ in pairs) * math.fsum((y - mean_y) ** 2 for _, y in pairs)
    )


def loop_mosi(pairs):
    """As papers on MOSI define it, row by row; Python's round takes halves to the even neighbour."""
    clipped = {end: [tuple(round(max(-end, min(end, v))) for v in pair) for pair in pairs] for end in (3, 2)}
    with_zeros = [("neg" if x < 0 else "non-neg", "neg" if y < 0 else "non-neg") for x, y in pairs]
    without = [("pos" if x > 0 else "neg", "pos" if y > 0 else "neg") for x, y in pairs if x != 0]
    return {
        "mae": math.fsum(abs(x - y) for x, y in pairs) / len(pairs),
        "pearson": correlation(pairs),
        "acc7": share(clipped[3]),
        "acc5": share(clipped[2]),
        "acc2_nonneg": share(with_zeros),
        "f1_nonneg": weighted_f1(with_zeros),
        "acc2_pos": share(without),
        "f1_pos": weighted_f1(without),
    }


def loop_sims(pairs):
    """As MMSA publishes it for CH-SIMS: half-open intervals of clipped values."""
    pairs = [tuple(max(-1.0, min(1.0, v)) for v in pair) for pair in pairs]

    def sorted_into(ends):
        return [tuple(next(i for i, end in enumerate(ends) if v <= end) for v in pair) for pair in pairs]

    two, three, five = sorted_into((0, 1)), sorted_into((-0.1, 0.1, 1)), sorted_into((-0.7, -0.1, 0.1, 0.7, 1))
    return {
        "mae": math.fsum(abs(x - y) for x, y in pairs) / len(pairs),
        "pearson": correlation(pairs),
        "acc2": share(two),
        "f1": weighted_f1(two),
        "acc3": share(three),
        "acc5": share(five),
    }


def predictions_of(seed, end):
    """Predictions as a file has them: four decimals, labels on the corpus's grid."""
    rng = np.random.default_rng(1000 + seed)
    labels = rng.choice(np.linspace(-end, end, 11 if end == 1 else 31), 300).round(2)
    return [(x, round(x + rng.normal(scale=end / 3), 4)) for x in labels.tolist()]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("definition", "end", "loop"), [(mosi(), 3, loop_mosi), (sims(), 1, loop_sims)])
def test_ten_files_are_scored_as_a_loop_over_the_published_definition_does(definition, end, loop, seed):
    pairs = predictions_of(seed, end)
    columns = np.array(pairs)
    scores, _ = found(definition, columns[:, :1], np.ones((300, 1), bool), columns[:, 1:])
    assert scores == pytest.approx(loop(pairs), abs=1e-9)


def test_what_single_precision_stores_is_compared_as_it_was_meant():
    """0.1 in float32 is above 0.1 in float64."""
    stored = np.array([[0.1], [-0.1], [0.7], [-0.7]], np.float32).astype(np.float64)
    meant = np.array([[0.1], [-0.1], [0.7], [-0.7]])
    known = np.ones((4, 1), bool)
    np.testing.assert_array_equal(sims().count(stored, known, stored)[:, 7:], sims().count(meant, known, meant)[:, 7:])


@pytest.mark.parametrize("definition", [mosi(), sims()], ids=["mosi", "sims"])
def test_counts_of_any_leading_axes_are_scored_and_resampled(definition):
    rng = np.random.default_rng(0)
    targets = np.clip(rng.normal(size=(120, 1)), -1, 1)
    each = [definition.count(targets, np.ones((120, 1), bool), targets + rng.normal(size=(120, 1))) for _ in range(2)]
    members = np.stack(each).reshape(2, 12, 10, -1).sum(2)
    intervals = bootstrap(members, 200, scores=lambda c: {n: m.function(c) for n, m in definition.metrics.items()})
    for name, metric in definition.metrics.items():
        values = metric.function(members)
        assert values.shape == (2, 12)
        np.testing.assert_array_equal(values, [[metric.function(counts) for counts in row] for row in members])
        assert intervals[name]["low"] < metric.function(members.sum(1)).mean() < intervals[name]["high"]


def test_without_a_known_row_every_score_is_a_number():
    for definition in (mosi(), mosei(), sims()):
        scores, excluded = found(definition, np.full((3, 1), np.nan), np.zeros((3, 1), bool), np.zeros((3, 1)))
        assert set(scores.values()) | set(excluded.values()) <= {0.0}
        assert definition.metrics["mae"].direction == "min"
        assert "Mao et al. 2022" in definition.source
