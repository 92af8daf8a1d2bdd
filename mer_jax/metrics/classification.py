"""What a confusion matrix and a table of probabilities say: scores, calibration, intervals, paired tests. No JAX."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

TITLES = {"weighted_f1": "weighted F1", "macro_f1": "macro F1", "accuracy": "accuracy", "uar": "UAR"}
SCORES = ("accuracy", "uar", "weighted_f1", "macro_f1")


def overall(matrices: Num[np.ndarray, "*lead classes classes"]) -> dict[str, Float[np.ndarray, "*lead"]]:
    """The four scores of confusion matrices [true, predicted], as fractions; counts may be weighted sums.

    accuracy (WA): fraction correct. uar (UA): mean recall of the classes that occur. weighted_f1: F1 weighted by support.
    macro_f1: mean F1 of the classes that occur or are predicted. A precision, recall or F1 of 0/0 is 0.
    """
    hit = np.diagonal(matrices, axis1=-2, axis2=-1)
    support, predicted = matrices.sum(-1), matrices.sum(-2)
    recall, f1 = _ratio(hit, support), class_f1(matrices)
    total = support.sum(-1)
    return {
        "accuracy": _ratio(hit.sum(-1), total),
        "uar": _ratio(recall.sum(-1), (support > 0).sum(-1)),
        "weighted_f1": _ratio((f1 * support).sum(-1), total),
        "macro_f1": _ratio(f1.sum(-1), (support + predicted > 0).sum(-1)),
    }


def class_f1(matrices: Num[np.ndarray, "*lead classes classes"]) -> Float[np.ndarray, "*lead classes"]:
    """The F1 of every class, as in `overall`."""
    hit = np.diagonal(matrices, axis1=-2, axis2=-1)
    return _ratio(2 * hit, matrices.sum(-1) + matrices.sum(-2))


def _ratio(part: Any, whole: Any) -> np.ndarray:
    """part / whole, and 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole > 0))


def scores(matrix: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> dict[str, Any]:
    """Everything printed of a split, as fractions: the scores of `overall`, `per_class` by name, `confusion`."""
    matrix = np.asarray(matrix, np.int64)
    hit, support, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    precision, recall, f1 = _ratio(hit, predicted), _ratio(hit, support), class_f1(matrix)
    return {
        **{name: float(value) for name, value in overall(matrix).items()},
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(names, precision, recall, f1, support, strict=True)
        },
        "confusion": matrix.tolist(),
    }


def mean_sd(values: Sequence[float]) -> dict[str, float | None]:
    """`mean` and sample standard deviation `sd` (n - 1); sd is None for one value, both are for none."""
    return {
        "mean": float(np.mean(values)) if values else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def percent(found: Mapping[str, float | None]) -> str:
    """`58.9 ± 1.1`"""
    mean, sd = found["mean"], found["sd"]
    return "-" if mean is None else f"{100 * mean:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")


def between(interval: Mapping[str, float]) -> str:
    if "low" not in interval:  # see `bootstrap`
        return "-"
    return f"{100 * interval['low']:.1f}–{100 * interval['high']:.1f}"
