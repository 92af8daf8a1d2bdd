"""The model of a finished run as one function of raw features, of any batch and any lengths: what is exported."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.config import max_lengths
from mer_jax.predict.predictor import Predictor, calibrated_outputs, unlabelled_batch
from mer_jax.training.compiled import model_of

FeatureMaskPair = tuple[dict[str, Any], dict[str, Any]]  # features and mask, by modality


class ExportedFunction(NamedTuple):
    """What is exported.

    call(features, mask) -> Float32[batch, width]. shapes: of its two arguments, with symbols where any number will do.
    fixed_lengths[m]: of modality m so many time steps are read, the first; modalities that are read whole are left out.
    output: the name of what is computed.
    """

    call: Callable[[dict[str, Any], dict[str, Any]], Any]
    shapes: FeatureMaskPair
    fixed_lengths: dict[str, int]
    output: str


def export_function(model: Predictor, replica: int) -> ExportedFunction:
    """The replica's model as a function of raw features."""
    _, functional = model_of(model.config.for_export(), model.manifest, model.task)
    outputs = functools.partial(calibrated_outputs, apply=functional.apply, task=model.task)
    # On one device, whatever the models lie on; not NumPy's, which would be computed with, and written, while tracing.
    state = jax.tree.map(jnp.asarray, jax.device_get(model.model(replica)))
    temperature, fixed = np.float32(model.temperature(replica)), fixed_lengths_of(model)

    def call(features: dict[str, Any], mask: dict[str, Any]) -> Any:
        features = {m: first_steps(x, fixed[m]) if m in fixed else x for m, x in features.items()}
        mask = {m: first_steps(x, fixed[m]) if m in fixed else x for m, x in mask.items()}
        return outputs(state, temperature, unlabelled_batch(features, mask))

    output = model.task.describe_export()["output"]["name"]
    return ExportedFunction(call, shapes_of(model), fixed, output)


def longest_of(model: Predictor) -> dict[str, int]:
    """The time steps of the longest sequences that the run used."""
    limits = max_lengths(model.config.data, model.manifest.manifest)
    return {m: min(n, model.modalities[m]["longest"]) for m, n in limits.items()}


def fixed_lengths_of(model: Predictor) -> dict[str, int]:
    """The time steps of modalities of which the family must know how many there are: as many as the longest sequence
    that the run used has. Padding up to it changes nothing."""
    longest = longest_of(model)
    return {m: longest[m] for m in model.family.fixed_lengths if m in longest}


def first_steps(x: Any, count: int) -> Any:
    """The first `count` time steps, zeros where there are no more; the result's length is a number even if x's is a
    symbol."""
    nothing = jnp.zeros((x.shape[0], count, *x.shape[2:]), x.dtype)
    return jnp.concatenate([x, nothing], axis=1)[:, :count]


def shapes_of(model: Predictor) -> FeatureMaskPair:
    """Shapes of features and mask, for any batch and any time."""
    size, *times = jax.export.symbolic_shape(", ".join(["batch", *(f"time_{m}" for m in model.modalities)]))
    features, mask = {}, {}
    for m, steps in zip(model.modalities, times, strict=True):
        shape, dtype = model.step_spec(m)
        features[m] = jax.ShapeDtypeStruct((size, steps, *shape), dtype)
        mask[m] = jax.ShapeDtypeStruct((size, steps), np.bool_)
    return features, mask


def onnx_names(modalities: list[str]) -> list[str]:
    """The names of an ONNX file's inputs: of the features, then of the masks."""
    return [*modalities, *(f"{m}_mask" for m in modalities)]
