"""Why a model decides as it does: the share of each modality, of each time step, and what the models themselves attend
to."""

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
from mer_jax.evaluation.path_integral import integrate
from mer_jax.models.family import Family
from mer_jax.tasks import Task
from mer_jax.training import step


class BatchAttribution(NamedTuple):
    """Of a batch. logits: Float[batch, width], of all modalities together.

    shapley[m]: Float[batch, width], the exact Shapley value of modality m (Shapley 1953) in the game whose worth is
    the logits with only some modalities there; over the modalities they sum to `logits` less the logits without any.
    integrated_gradients[m]: Float[batch, time] (Sundararajan et al. 2017, arXiv 1703.01365), of the logit that the
    task explains, summed over the features of a time step. The path begins where the family says: at the training
    part's mean, or where all steps are the utterance's own mean (ours). Over all time steps of all modalities they sum
    to the logit less the one where the path begins, but for the gap. gap: Float[batch], by which share of that change
    they miss it. points: Int[batch], gradients along the path; see `integrate`. VSC's choices can be jumps of the
    logit, over which no gradient leads however many points there are.
    attention[m], kept: as in `models.family.Outputs`; kept is None without compression."""

    logits: Any
    shapley: dict[str, Any]
    integrated_gradients: dict[str, Any]
    attention: dict[str, Any]
    kept: Any
    gap: Any = None
    points: Any = None


def subsets(count: int) -> Bool[np.ndarray, "subsets count"]:
    """All sets of so many things, the empty one first, all of them last."""
    return np.array(list(itertools.product((False, True), repeat=count)))


def shapley_weights(count: int) -> Float[np.ndarray, "count subsets"]:
    """phi = weights @ worth, of games of so many players: the mean, over the orders in which they may come, of what
    each adds."""
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
    return dataclasses.replace(batch, features=features, mask=mask)


def shapley_by_modality(
    apply: Callable[..., Any], model: step.EvalState, batch: Batch
) -> tuple[dict[str, Any], dict[str, Array]]:
    """(the model's outputs, Shapley values of the modalities): a forward pass for every set of modalities, one after
    the other. The batch is as it was read, not standardised."""
    batch = step.standardize(batch, model.input_stats)
    names = sorted(batch.mask)
    sets = subsets(len(names))

    def worth(there: Bool[Array, "count"]) -> Float[Array, "batch classes"]:
        seen = without(batch, {m: there[i] for i, m in enumerate(names)})
        return apply(model.params, model.model_state, seen)[0]["logits"]

    outputs = apply(model.params, model.model_state, batch)[0]
    worths = jnp.concatenate([jax.lax.map(worth, jnp.asarray(sets[:-1])), outputs["logits"][None]])
    found = jnp.einsum(
        "ms,sbc->mbc", jnp.asarray(shapley_weights(len(names)), worths.dtype), worths, precision="highest"
    )
    return outputs, {m: found[i] for i, m in enumerate(names)}


def attribute(
    apply: Callable[..., Any], model: step.EvalState, batch: Batch, *, task: Task, family: Family
) -> BatchAttribution:
    """Everything; a forward pass for every set of modalities, and what `integrate` costs."""
    outputs, values = shapley_by_modality(apply, model, batch)
    gradients, gap, points = integrated_gradients(apply, model, batch, task=task, family=family)
    return BatchAttribution(
        outputs["logits"], values, gradients, outputs["attention"], outputs.get("kept"), gap, points
    )


def integrated_gradients(
    apply: Callable[..., Any], model: step.EvalState, batch: Batch, *, task: Task, family: Family
) -> tuple[dict[str, Array], Float[Array, "batch"], Any]:
    """`integrated_gradients`, `gap` and `points` of `BatchAttribution`. The batch is as it was read."""
    batch = step.standardize(batch, model.input_stats)
    explained = task.explained(apply(model.params, model.model_state, batch)[0]["logits"])

    def logit(features: dict[str, Array]) -> Float[Array, "batch"]:
        at = dataclasses.replace(batch, features=features)
        return (apply(model.params, model.model_state, at)[0]["logits"] * explained).sum(-1)

    start = family.attribution_baseline(batch.features, batch.mask)
    gradients, gap, points = integrate(logit, start, batch.features)
    return {m: x.sum(range(2, x.ndim)) for m, x in gradients.items()}, gap, points
