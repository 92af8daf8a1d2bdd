"""Metrics, all from one global confusion matrix: rows are true classes, columns predictions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SCORES = ("accuracy", "uar", "weighted_f1", "macro_f1")


def confusion(
    logits: Float[Array, "batch classes"], label: Int[Array, "batch"], weight: Float[Array, "batch"]
) -> Int[Array, "classes classes"]:
    """Counts of (true, predicted) in a batch; rows of weight 0 are not counted."""
    classes = logits.shape[-1]
    true = jax.nn.one_hot(label, classes, dtype=jnp.int32) * (weight > 0).astype(jnp.int32)[:, None]
    predicted = jax.nn.one_hot(logits.argmax(-1), classes, dtype=jnp.int32)
    return jnp.einsum("bt,bp->tp", true, predicted)


def scores(matrix: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> dict[str, Any]:
    """Everything printed of a split, as fractions.

    accuracy (WA): fraction correct. uar (UA): mean recall of the classes that occur. weighted_f1: F1 weighted by support.
    macro_f1: mean F1 of the classes that occur or are predicted. A precision, recall or F1 of 0/0 is 0.
    """
    matrix = np.asarray(matrix, np.int64)
    hit, support, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    precision, recall = hit / np.maximum(predicted, 1), hit / np.maximum(support, 1)
    f1 = 2 * hit / np.maximum(support + predicted, 1)
    return {
        "accuracy": float(hit.sum() / max(matrix.sum(), 1)),
        "uar": float(recall[support > 0].mean()) if support.any() else 0.0,
        "weighted_f1": float((f1 * support).sum() / max(support.sum(), 1)),
        "macro_f1": float(f1[support + predicted > 0].mean()) if matrix.any() else 0.0,
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(names, precision, recall, f1, support, strict=True)
        },
        "confusion": matrix.tolist(),
    }
