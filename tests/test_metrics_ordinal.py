"""The scores of ordered classes against scikit-learn and a loop."""

import numpy as np
import pytest
from sklearn import metrics as sk

from mer_jax.metrics import classification, ordinal


def case(seed):
    rng = np.random.default_rng(seed)
    classes, rows = int(rng.integers(2, 8)), int(rng.integers(2, 60))
    true = rng.integers(0, classes, rows)
    return classes, true, np.clip(true + rng.integers(-2, 3, rows), 0, classes - 1)


def test_kappa_and_error_are_scikit_learns_and_those_of_a_loop():
    for seed in range(200):
        classes, true, guess = case(seed)
        matrix = sk.confusion_matrix(true, guess, labels=range(classes))
        found = ordinal.overall(matrix)
        assert found["mae"] == pytest.approx(sum(abs(a - b) for a, b in zip(true, guess, strict=True)) / len(true))
        chance = sum((a - b) ** 2 for a in true for b in guess) / len(true) ** 2
        seen = sum((a - b) ** 2 for a, b in zip(true, guess, strict=True)) / len(true)
        assert found["qwk"] == pytest.approx(1 - seen / chance if chance else 0, abs=1e-12)
        if chance:
            assert found["qwk"] == pytest.approx(
                sk.cohen_kappa_score(true, guess, labels=range(classes), weights="quadratic"), abs=1e-12
            )


def test_what_classes_have_in_common_is_theirs():
    classes, true, guess = case(0)
    matrix = sk.confusion_matrix(true, guess, labels=range(classes))
    assert ordinal.overall(matrix).items() >= classification.overall(matrix).items()
    assert next(iter(ordinal.METRICS)) == "qwk"
    assert (ordinal.METRICS["mae"].direction, ordinal.METRICS["qwk"].direction) == ("min", "max")


def test_one_level_alone_has_no_agreement_beyond_chance():
    one = np.zeros((4, 4))
    one[2, 2] = 7
    assert ordinal.qwk(one) == 0
    assert ordinal.qwk(np.zeros((4, 4))) == ordinal.mae(np.zeros((4, 4))) == 0
    one[2, 3] = 1
    assert ordinal.qwk(one) == 0  # all that is true is one level: no better than chance
    assert ordinal.qwk(np.eye(3)) == 1


def test_matrices_of_any_leading_axes_and_of_weights_are_scored():
    stack = np.random.default_rng(0).random((3, 2, 5, 5))
    stack[0, 1] = 0
    for name, values in ordinal.overall(stack).items():
        np.testing.assert_allclose(values, [[ordinal.overall(m)[name] for m in row] for row in stack], atol=1e-15)
    assert ordinal.qwk(stack / 1000) == pytest.approx(ordinal.qwk(stack))
