"""The model of a finished run as one function of raw features, of any batch and any lengths: what is exported."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.config import max_lengths
from mer_jax.models import family
from mer_jax.models.deepmsi_mer import DeepMSIExperiment
from mer_jax.models.deepmsi_mer_frames import DeepMSIFramesExperiment
from mer_jax.predict.predictor import calibrated_probabilities, unlabelled_batch

FeatureMaskPair = tuple[dict[str, Any], dict[str, Any]]  # features and mask, by modality


class ExportedFunction(NamedTuple):
    """What is exported. call(features, mask) -> Float32[batch, classes]; shapes: of its two arguments, with symbols where any
    number will do; most[m]: of modality m so many time steps are read, the first."""

    call: Callable[[dict[str, Any], dict[str, Any]], Any]
    shapes: FeatureMaskPair
    most: dict[str, int]


def exported_function(trained: Any, replica: int) -> ExportedFunction:
    """The replica's model as a function of raw features, in float32 whatever it was trained in, all frames of a batch together."""
    config = copy.deepcopy(trained.config)
    config.train.precision = "float32"
    if isinstance(config, DeepMSIFramesExperiment):
        config.backbone.at_once, config.backbone.rematerialize = 0, False
    apply = family.family_of(config, trained.manifest)[0].apply
    # On one device, whatever the models lie on; not NumPy's, which would be computed with, and written, while tracing.
    model = jax.tree.map(jnp.asarray, jax.device_get(trained.model(replica)))
    temperature, most = np.float32(trained.temperature(replica)), most_of(trained)

    def call(features: dict[str, Any], mask: dict[str, Any]) -> Any:
        features = {m: first(x, most[m]) if m in most else x for m, x in features.items()}
        mask = {m: first(x, most[m]) if m in most else x for m, x in mask.items()}
        return calibrated_probabilities(apply, model, temperature, unlabelled_batch(features, mask))

    return ExportedFunction(call, shapes_of(trained), most)


def longest_of(trained: Any) -> dict[str, int]:
    """The time steps of the longest sequences that the run used."""
    return {m: min(n, trained.modalities[m]["longest"]) for m, n in max_lengths(trained.config.data).items()}


def most_of(trained: Any) -> dict[str, int]:
    """DeepMSI-MER keeps a share of the visual steps, and its TCN plans by how many there are: that must be a number, and is
    that of the longest that the run used. Padding up to it changes nothing."""
    framed = isinstance(trained.config, DeepMSIExperiment) and "visual" in trained.modalities
    return {"visual": longest_of(trained)["visual"]} if framed else {}


def first(x: Any, count: int) -> Any:
    """The first `count` time steps, zeros where there are no more; the result's length is a number even if x's is a symbol."""
    nothing = jnp.zeros((x.shape[0], count, *x.shape[2:]), x.dtype)
    return jnp.concatenate([x, nothing], axis=1)[:, :count]


def shapes_of(trained: Any) -> FeatureMaskPair:
    size, *times = jax.export.symbolic_shape(", ".join(["batch", *(f"time_{m}" for m in trained.modalities)]))
    features, mask = {}, {}
    for m, steps in zip(trained.modalities, times, strict=True):
        shape, dtype = trained.step_of(m)
        features[m] = jax.ShapeDtypeStruct((size, steps, *shape), dtype)
        mask[m] = jax.ShapeDtypeStruct((size, steps), np.bool_)
    return features, mask


def onnx_names(modalities: list[str]) -> list[str]:
    return [*modalities, *(f"{m}_mask" for m in modalities)]
