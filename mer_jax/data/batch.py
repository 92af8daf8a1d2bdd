"""The contract between data and models, and how sequences become the rows of a batch."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Batch:
    """A batch of utterances; arrays are NumPy before the device and JAX on it.

    features[m]: Float[batch, time_m, feat_m], or frames, UInt8[batch, time_m, height, width, 3]; zero where not real
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


def pad_rows(
    sequences: Iterable[Any], rows: int, steps: int, shape: tuple[int, ...], dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(features [rows, steps, *shape], mask [rows, steps]) of one modality, NumPy arrays.

    sequences: [time, *shape] for each of the first rows, without a time step where the utterance lacks the modality;
    they are taken one after the other and cut to `steps`. All else is zero, and False in the mask.
    """
    features, mask = np.zeros((rows, steps, *shape), dtype), np.zeros((rows, steps), bool)
    for row, sequence in enumerate(sequences):
        real = sequence[:steps]
        if len(real):
            features[row, : len(real)], mask[row, : len(real)] = real, True
    return features, mask
