"""Confusion matrices, counted on the device and on the host: rows are true classes, columns predictions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def confusion(
    logits: Float[Array, "batch classes"], label: Int[Array, "batch"], weight: Float[Array, "batch"]
) -> Int[Array, "classes classes"]:
    """Counts of (true, predicted) in a batch; rows of weight 0 are not counted."""
    classes = logits.shape[-1]
    true = jax.nn.one_hot(label, classes, dtype=jnp.int32) * (weight > 0).astype(jnp.int32)[:, None]
    predicted = jax.nn.one_hot(logits.argmax(-1), classes, dtype=jnp.int32)
    return jnp.einsum("bt,bp->tp", true, predicted)
