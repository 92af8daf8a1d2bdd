"""The contract between data and models."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Batch:
    """A batch of utterances; arrays are NumPy before the device and JAX on it.

    features[m]: Float[batch, time_m, feat_m], or frames, UInt8[batch, time_m, height, width, 3]; zero where mask is False
    mask[m]:     Bool[batch, time_m], True where a real time step is; an utterance without the modality has none
    targets[n]:  [batch, …], what the task makes of the utterances' targets; empty where they are not known
    weight:      Float[batch], 0 for rows that only fill the batch up, else 1
    """

    features: dict[str, Any]
    mask: dict[str, Any]
    targets: dict[str, Any]
    weight: Any


def where_real(mask: Any, x: Any) -> Any:
    """[batch, time, …], zero where the mask [batch, time] is False."""
    return jnp.where(jnp.expand_dims(mask, range(mask.ndim, x.ndim)), x, 0)
