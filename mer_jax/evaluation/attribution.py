"""Why a model decides as it does: the share of each modality, of each time step, and what the models themselves attend to."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mer_jax.data.batch import Batch, where_real
from mer_jax.training import step

PATH_STEPS = 32  # points of the way that integrated gradients go


class BatchAttribution(NamedTuple):
    """Of a batch. logits: Float[batch, classes], of all modalities together.

    shapley[m]: Float[batch, classes], the exact Shapley value of modality m (Shapley 1953) in the game whose worth is the
    logits with only some modalities there; over the modalities they sum to `logits` less the logits without any.
    evidence[m]: Float[batch, time], integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) of the predicted class's
    logit, summed over the features of a time step. The way begins at the training part's mean, for LSGMER where all steps are
    the utterance's own mean (ours); over all time steps of all modalities they sum to the logit less the one where the way
    begins, as nearly as `STEPS` points of it and VSC's choices allow.
    attention[m]: of LSGMER's labels over the time steps, Float[batch, classes, time], of DeepMSI-MER's pooling Float[batch,
    time]; rows sum to one where there is something real.
    kept: what VSC made of the frames or of their tokens, `models.vsc.Kept`; None without it.
    """

    logits: Any
    shapley: dict[str, Any]
    evidence: dict[str, Any]
    attention: dict[str, Any]
    kept: Any


def subsets(count: int) -> Bool[np.ndarray, "subsets count"]:
    """All sets of so many things, the empty one first, all of them last."""
    return np.array(list(itertools.product((False, True), repeat=count)))


def shapley_weights(count: int) -> Float[np.ndarray, "count subsets"]:
    """phi = weights @ worth, of games of so many players: the mean, over the orders in which they may come, of what each adds."""
    sets = subsets(count)
    weights = np.zeros((count, len(sets)))
    for s, members in enumerate(sets):
        size = int(members.sum())
        for i in range(count):
            others = size - int(members[i])
            share = math.factorial(others) * math.factorial(count - others - 1) / math.factorial(count)
            weights[i, s] = share if members[i] else -share
    return weights


def without(batch: Batch, real: dict[str, Any]) -> Batch:
    """The batch with only those time steps that are `real`, Bool[batch, time] of each modality, too."""
    mask = {m: batch.mask[m] & real[m] for m in batch.mask}
    features = {m: where_real(mask[m], x) for m, x in batch.features.items()}
    return Batch(features, mask, batch.targets, batch.weight)


def shapley_by_modality(
    apply: Callable[..., Any], model: step.EvalState, batch: Batch
) -> tuple[dict[str, Any], dict[str, Array]]:
    """(the model's outputs, Shapley values of the modalities): a forward pass for every set of modalities, one after the
    other. The batch is as it was read, not standardised."""
    batch = step.standardize(batch, model.input_stats)
    names = sorted(batch.mask)
    sets = subsets(len(names))

    def worth(there: Bool[Array, "count"]) -> Float[Array, "batch classes"]:
        seen = without(batch, {m: there[i] for i, m in enumerate(names)})
        return apply(model.params, model.rest, seen)[0]["logits"]

    outputs = apply(model.params, model.rest, batch)[0]
    worths = jnp.concatenate([jax.lax.map(worth, jnp.asarray(sets[:-1])), outputs["logits"][None]])
    found = jnp.einsum(
        "ms,sbc->mbc", jnp.asarray(shapley_weights(len(names)), worths.dtype), worths, precision="highest"
    )
    return outputs, {m: found[i] for i, m in enumerate(names)}


def utterance_mean(
    x: Float[Array, "batch time *feat"], mask: Bool[Array, "batch time"]
) -> Float[Array, "batch time *feat"]:
    """Every real time step becomes the mean of them."""
    mean = x.sum(1, keepdims=True) / jnp.maximum(jnp.expand_dims(mask.sum(1), range(1, x.ndim)), 1).astype(x.dtype)
    return where_real(mask, jnp.broadcast_to(mean, x.shape))


def attribute(apply: Callable[..., Any], model: step.EvalState, batch: Batch) -> BatchAttribution:
    """Everything; a forward pass for every set of modalities, and a gradient for each of `STEPS` points."""
    outputs, values = shapley_by_modality(apply, model, batch)
    batch = step.standardize(batch, model.input_stats)
    predicted = jax.nn.one_hot(outputs["logits"].argmax(-1), outputs["logits"].shape[-1])

    def logit(features: dict[str, Array]) -> Float[Array, ""]:
        at = dataclasses.replace(batch, features=features)
        return (apply(model.params, model.rest, at)[0]["logits"] * predicted).sum()

    start = jax.tree.map(jnp.zeros_like, batch.features)
    if "kept" not in outputs:  # LSGMER normalises each step: near zero its gradients are those of nothing
        start = {m: utterance_mean(x, batch.mask[m]) for m, x in batch.features.items()}
    way = jax.tree.map(jnp.subtract, batch.features, start)

    def along(total: dict[str, Array], share: Float[Array, ""]) -> tuple[dict[str, Array], None]:
        slope = jax.grad(logit)(jax.tree.map(lambda a, d: a + share * d, start, way))
        return jax.tree.map(jnp.add, total, slope), None

    shares = (jnp.arange(PATH_STEPS, dtype=jnp.float32) + 0.5) / PATH_STEPS
    total, _ = jax.lax.scan(along, jax.tree.map(jnp.zeros_like, way), shares)
    evidence = {m: (x * total[m] / PATH_STEPS).sum(range(2, x.ndim)) for m, x in way.items()}
    return BatchAttribution(outputs["logits"], values, evidence, outputs["attention"], outputs.get("kept"))
