import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from mer_jax.metrics import classification, confusion, metric

NAMES = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    true = rng.choice(5, 200, p=[0.5, 0.2, 0.15, 0.15, 0])  # class e never occurs but is predicted
    predicted = np.where(rng.random(200) < 0.6, true, rng.choice([0, 1, 2, 4], 200))  # class d is never guessed
    found = classification.scores(sk.confusion_matrix(true, predicted, labels=range(5)), NAMES)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    assert found["uar"] == pytest.approx(sk.recall_score(true, predicted, labels=np.unique(true), average="macro"))
    assert found["weighted_f1"] == pytest.approx(sk.f1_score(true, predicted, average="weighted", zero_division=0))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(true, predicted, average="macro", zero_division=0))
    wanted = sk.precision_recall_fscore_support(true, predicted, labels=range(5), zero_division=0)
    for i, name in enumerate(NAMES):
        entry = found["per_class"][name]
        assert [entry[k] for k in ("precision", "recall", "f1", "support")] == pytest.approx([w[i] for w in wanted])


def test_confusion_of_a_batch():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(50, 5)).astype(np.float32), rng.integers(0, 5, 50).astype(np.int32)
    weight = (rng.random(50) < 0.7).astype(np.float32)
    found = confusion.confusion(jnp.asarray(logits), jnp.asarray(label), jnp.asarray(weight))
    kept = weight > 0
    np.testing.assert_array_equal(found, sk.confusion_matrix(label[kept], logits.argmax(1)[kept], labels=range(5)))


def test_overall_scores_every_matrix_of_a_stack_as_alone():
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 4, (3, 2, 5, 5))
    stack[0, 0, 1], stack[0, 1, :, 2], stack[1, 0] = 0, 0, 0  # a class that does not occur, one never guessed, nothing
    found = classification.overall(stack)
    assert tuple(found) == tuple(classification.METRICS)
    for name, values in found.items():
        alone = [[classification.scores(matrix, NAMES)[name] for matrix in row] for row in stack]
        np.testing.assert_array_equal(values, alone)


def test_overall_takes_weighted_counts():
    rng = np.random.default_rng(0)
    true, predicted, weight = rng.integers(0, 4, 200), rng.integers(0, 5, 200), rng.random(200) / 50
    matrix = sk.confusion_matrix(true, predicted, labels=range(5), sample_weight=weight)
    assert matrix.sum(1).max() < 1  # so that a floor of one count would show
    found, among = classification.overall(matrix), {"sample_weight": weight, "zero_division": 0}
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted, sample_weight=weight))
    assert found["uar"] == pytest.approx(
        sk.recall_score(true, predicted, labels=np.unique(true), average="macro", **among)
    )
    assert found["weighted_f1"] == pytest.approx(sk.f1_score(true, predicted, average="weighted", **among))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(true, predicted, average="macro", **among))


def test_nothing_scored_is_zero_not_nan():
    found = classification.scores(np.zeros((5, 5), np.int32), NAMES)
    assert [found[name] for name in classification.METRICS] == [0, 0, 0, 0]


def test_a_metric_knows_which_value_is_better_and_how_it_is_shown():
    share, error = metric.Metric("F1", "F1", np.sum), metric.Metric("error", "MAE", np.sum, direction="min", unit="")
    assert share.better(0.5, 0.4)
    assert not share.better(0.4, 0.5)
    assert error.better(0.4, 0.5)
    assert not error.better(0.5, 0.4)
    for one in (share, error):
        assert one.better(0.5, one.worst())
        assert not one.better(0.5, 0.5)
        assert not one.better(float("nan"), 0.5)
        assert (one.format_mean(None), one.format_mean({"mean": None, "sd": None})) == ("-", "-")
        assert one.format_interval({"value": 0.5}) == "-"
    assert share.format_mean({"mean": 0.589, "sd": 0.011}) == "58.9 ± 1.1"
    assert share.format_interval({"low": 0.55, "high": 0.612}) == "55.0–61.2"
    assert error.format_mean({"mean": 0.589, "sd": None}) == "0.5890"
    assert error.format_interval({"low": 0.55, "high": 0.612}) == "0.5500–0.6120"
