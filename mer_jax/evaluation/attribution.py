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
from mer_jax.models.family import Family
from mer_jax.tasks import Task
from mer_jax.training import step

PIECES = 32  # of the path of integrated gradients; first there is one point in the middle of each
ROUNDS, MORE = 3, 4  # as long as a row is incomplete, the path is walked again with 4 times the points: 32, 128, 512
COMPLETE = 0.05  # a gap below this is none
LEAST_CHANGE = 0.1  # of a logit, in nats; a gap is a share of the change, but of no smaller one


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
    batch = step.standardize(batch, model.input_stats)
    explained = task.explained(outputs["logits"])

    def logit(features: dict[str, Array]) -> Float[Array, "batch"]:
        at = dataclasses.replace(batch, features=features)
        return (apply(model.params, model.model_state, at)[0]["logits"] * explained).sum(-1)

    start = family.attribution_baseline(batch.features, batch.mask)
    gradients, gap, points = integrate(logit, start, batch.features)
    found = {m: x.sum(range(2, x.ndim)) for m, x in gradients.items()}
    return BatchAttribution(outputs["logits"], values, found, outputs["attention"], outputs.get("kept"), gap, points)


def integrate(
    function: Callable[[dict[str, Array]], Float[Array, "batch"]], start: dict[str, Array], end: dict[str, Array]
) -> tuple[dict[str, Array], Float[Array, "batch"], Any]:
    """(integrated gradients of a function of rows, along the straight path from start to end; of each row the gap,
    `BatchAttribution.gap`, and the number of points).

    The path has `PIECES` of equal length. What the function changes over a piece less what the gradients in it say is
    the piece's error. Rows whose gap is not below `COMPLETE` are integrated again, with `MORE` points, which go to the
    pieces of large error; after `ROUNDS` they stay as they are. Cost: PIECES + 1 function values, and 32, 160 or 672
    gradients of the batch."""
    path = jax.tree.map(jnp.subtract, end, start)

    def at(share: Float[Array, "batch"]) -> dict[str, Array]:
        return jax.tree.map(lambda a, d: a + _along(share, d) * d, start, path)

    edges = jax.lax.map(
        lambda share: function(at(share)),
        jnp.broadcast_to(jnp.linspace(0, 1, PIECES + 1)[:, None], (PIECES + 1, _rows(end))),
    )
    pieces = jnp.arange(PIECES, dtype=jnp.int32)[:, None]
    change = edges[1:] - edges[:-1]
    total = edges[-1] - edges[0]

    def walk(counts: Any, points: Any) -> tuple[dict[str, Array], Float[Array, "pieces batch"]]:
        """The integral, and what of it lies in every piece; counts: of the points in every piece, Int[pieces, batch];
        points: how many all pieces of a row have together."""
        ends = jnp.cumsum(counts, 0, dtype=jnp.int32)

        def add(i: Any, carry: Any) -> Any:
            integral, by_piece = carry
            piece = (ends <= i).sum(0, dtype=jnp.int32)
            here = jnp.take_along_axis(counts, piece[None], 0)[0]
            number = i - (jnp.take_along_axis(ends, piece[None], 0)[0] - here)
            place, length = number.astype(total.dtype) + 0.5, 1 / here.astype(total.dtype)
            share = (piece.astype(total.dtype) + place * length) / PIECES
            slope = jax.grad(lambda x: function(x).sum())(at(share))
            step = jax.tree.map(lambda g, d: g * d * _along(length / PIECES, d), slope, path)
            size = sum(x.sum(range(1, x.ndim)) for x in step.values())
            by_piece = by_piece + jnp.where(pieces == piece[None], size[None], 0).astype(by_piece.dtype)
            return jax.tree.map(jnp.add, integral, step), by_piece

        return jax.lax.fori_loop(0, points, add, (jax.tree.map(jnp.zeros_like, path), jnp.zeros_like(change)))

    def gap_of(by_piece: Float[Array, "pieces batch"]) -> Float[Array, "batch"]:
        return jnp.abs(by_piece.sum(0) - total) / jnp.maximum(jnp.abs(total), LEAST_CHANGE)

    def refine(carry: Any) -> Any:
        round_, integral, by_piece, used = carry
        points = PIECES * MORE**round_
        error = jnp.abs(change - by_piece)
        share = error / jnp.maximum(error.sum(0, keepdims=True), jnp.finfo(error.dtype).tiny)
        extra = jnp.floor(share * (points - PIECES).astype(share.dtype)).astype(jnp.int32)
        worst = pieces == error.argmax(0).astype(jnp.int32)[None]
        counts = 1 + extra + jnp.where(worst, points - PIECES - extra.sum(0, keepdims=True, dtype=jnp.int32), 0)
        new, by_new = walk(counts, points)
        gap = gap_of(by_piece)
        better = (gap >= COMPLETE) & (gap_of(by_new) < gap)
        integral = jax.tree.map(lambda n, o: jnp.where(_along(better, o), n, o), new, integral)
        used = jnp.where(gap >= COMPLETE, points, used)
        return round_ + 1, integral, jnp.where(better[None], by_new, by_piece), used

    first = walk(jnp.ones((PIECES, _rows(end)), jnp.int32), PIECES)
    _, integral, by_piece, used = jax.lax.while_loop(
        lambda carry: (carry[0] < ROUNDS) & (gap_of(carry[2]) >= COMPLETE).any(),
        refine,
        (jnp.int32(1), *first, jnp.full(_rows(end), PIECES, jnp.int32)),
    )
    return integral, gap_of(by_piece), used


def _rows(features: dict[str, Array]) -> int:
    return next(iter(features.values())).shape[0]


def _along(row: Any, like: Any) -> Any:
    """[batch] as [batch, 1, …], for what is [batch, …]."""
    return jnp.expand_dims(row, range(1, like.ndim))
