"""The scores of a confusion matrix, one row of one table each. No JAX."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from mer_jax.metrics.metric import Metric

Matrices = Num[np.ndarray, "*lead classes classes"]  # [true, predicted]; counts may be weighted sums
Values = Float[np.ndarray, "*lead"]


def ratio(part: Any, whole: Any) -> np.ndarray:
    """part / whole, and 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole > 0))


def confusion_counts(
    true: Int[np.ndarray, "rows"], predicted: Int[np.ndarray, "rows"], counted: Bool[np.ndarray, "rows"], classes: int
) -> Float[np.ndarray, "rows cells"]:
    """The confusion matrix [true, predicted] of every row, flat; of a row that is not counted all 0."""
    cell = np.where(counted, true * classes + predicted, classes**2)
    return np.eye(classes**2 + 1)[cell][:, :-1]


def _hits(matrices: np.ndarray) -> np.ndarray:
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def class_f1(matrices: Matrices) -> Float[np.ndarray, "*lead classes"]:
    """The F1 of every class. A precision, recall or F1 of 0/0 is 0."""
    return ratio(2 * _hits(matrices), matrices.sum(-1) + matrices.sum(-2))


def accuracy(matrices: Matrices) -> Values:
    """The fraction that is correct (WA)."""
    return ratio(_hits(matrices).sum(-1), matrices.sum(-1).sum(-1))


def uar(matrices: Matrices) -> Values:
    """The mean recall of the classes that occur (unweighted average recall, UA)."""
    support = matrices.sum(-1)
    return ratio(ratio(_hits(matrices), support).sum(-1), (support > 0).sum(-1))


def weighted_f1(matrices: Matrices) -> Values:
    """The F1 of the classes, weighted by support."""
    support = matrices.sum(-1)
    return ratio((class_f1(matrices) * support).sum(-1), support.sum(-1))


def macro_f1(matrices: Matrices) -> Values:
    """The mean F1 of the classes that occur or are predicted."""
    seen = matrices.sum(-1) + matrices.sum(-2) > 0
    return ratio(class_f1(matrices).sum(-1), seen.sum(-1))


# The table: a new score is a row here, and nothing else. The first row is the main score.
METRICS = {
    "weighted_f1": Metric("weighted F1", "WF1", weighted_f1),
    "macro_f1": Metric("macro F1", "macro F1", macro_f1),
    "accuracy": Metric("accuracy", "accuracy", accuracy),
    "uar": Metric("UAR", "UAR", uar),
}


def overall(matrices: Matrices) -> dict[str, Values]:
    """Every score of METRICS, as fractions."""
    return {name: metric.function(matrices) for name, metric in METRICS.items()}


def scores(matrix: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> dict[str, Any]:
    """Everything printed of a split, as fractions: the scores of `overall`, `per_class` by name, `confusion`."""
    matrix = np.asarray(matrix, np.int64)
    hit, support, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    precision, recall, f1 = ratio(hit, predicted), ratio(hit, support), class_f1(matrix)
    return {
        **{name: float(value) for name, value in overall(matrix).items()},
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(names, precision, recall, f1, support, strict=True)
        },
        "confusion": matrix.tolist(),
    }
