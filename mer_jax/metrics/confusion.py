"""Confusion matrices counted on the device: rows are true classes, columns predictions. `statistics` reads them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

__all__ = ("SCORES", "confusion", "overall", "scores")


def confusion(
    logits: Float[Array, "batch classes"], label: Int[Array, "batch"], weight: Float[Array, "batch"]
) -> Int[Array, "classes classes"]:
    """Counts of (true, predicted) in a batch; rows of weight 0 are not counted."""
    classes = logits.shape[-1]
    true = jax.nn.one_hot(label, classes, dtype=jnp.int32) * (weight > 0).astype(jnp.int32)[:, None]
    predicted = jax.nn.one_hot(logits.argmax(-1), classes, dtype=jnp.int32)
    return jnp.einsum("bt,bp->tp", true, predicted)


# ---- scores ----


def confusion_counts(
    gold: Int[np.ndarray, "utterances"], predicted: Int[np.ndarray, "utterances"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Counts of (true, predicted)."""
    cell = gold.astype(np.int64) * classes + predicted
    return np.bincount(cell, minlength=classes**2).reshape(classes, classes)
