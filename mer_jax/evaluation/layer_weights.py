"""How much a model that mixes an encoder's layers takes of each: of a replica, over the replicas, in words. No JAX."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.data.encoder_layers import Layers
from mer_jax.metrics.metric import mean_sd

Weights = dict[str, dict[str, float]]  # by modality and number of the layer


def layer_weights(scores: Mapping[str, np.ndarray], layers: Layers) -> Weights:
    """The softmax of learned scores (`models.layer_mix`)."""
    found = {}
    for m, numbers in layers.items():
        raised = np.exp(scores[m].astype(np.float64) - scores[m].max())
        found[m] = {str(layer): float(x) for layer, x in zip(numbers, raised / raised.sum(), strict=True)}
    return found


def pool_weights(found: Sequence[Weights]) -> dict[str, dict[str, Any]]:
    """Mean and sample standard deviation over replicas."""
    return {
        m: {layer: mean_sd([one[m][layer] for one in found]) for layer in weights} for m, weights in found[0].items()
    }


def weights_in_words(pooled: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for the console; empty where nothing is mixed."""
    told = [
        f"{m} " + ", ".join(f"{layer}: {_in_words(weight)}" for layer, weight in sorted(weights.items(), key=_number))
        for m, weights in pooled.items()
    ]
    return f"weights of the layers: {'; '.join(told)}" if told else ""


def _number(named: tuple[str, Any]) -> int:
    return int(named[0])


def _in_words(weight: Mapping[str, Any]) -> str:
    return f"{weight['mean']:.2f}" + (f" ± {weight['sd']:.2f}" if weight["sd"] is not None else "")
