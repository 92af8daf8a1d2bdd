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

from mer_jax.data.batch import AnyBatch, Batch, Conversations, Surrounded, split_rows, where_real
from mer_jax.evaluation.path_integral import integrate
from mer_jax.models.conversation import join_rows, surrounded
from mer_jax.models.family import Family
from mer_jax.tasks import Task
from mer_jax.training import step

CONTEXT = "context"  # to hear the other turns, as a player beside the modalities


class BatchAttribution(NamedTuple):
    """Of a batch. logits: Float[batch, width], what the task makes of the model's (`Task.logits`), of all modalities.

    shapley[m]: Float[batch, width], the exact Shapley value of modality m (Shapley 1953) in the game whose worth is
    the logits with only some modalities there; over the modalities they sum to `logits` less the logits without any.
    integrated_gradients[m]: Float[batch, time] (Sundararajan et al. 2017, arXiv 1703.01365), of the logit that the
    task explains, summed over the features of a time step. The path begins where the family says: at the training
    part's mean, or where all steps are the utterance's own mean (ours). Over all time steps of all modalities they sum
    to the logit less the one where the path begins, but for the gap. gap: Float[batch], by which share of that change
    they miss it. points: Int[batch], gradients along the path; see `integrate`. VSC's choices can be jumps of the
    logit, over which no gradient leads however many points there are.
    attention[m], kept: as in `models.family.Outputs`; kept is None without compression.

    Of conversations all of this is of every turn by itself, the other turns being as they are; to hear them is one more
    player of the game, `context`. turns: Float[batch, turns], what the logit that the task explains loses if the
    dialogue's turn is not heard, 0 for the turn itself; None without context."""

    logits: Any
    shapley: dict[str, Any]
    integrated_gradients: dict[str, Any]
    attention: dict[str, Any]
    kept: Any
    gap: Any = None
    points: Any = None
    turns: Any = None


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


def of_outputs(apply: Callable[..., Any], task: Task) -> Callable[..., Any]:
    """The same function, whose logits are those that the task explains."""

    def applied(*arguments: Any) -> tuple[dict[str, Any], Any]:
        outputs, model_state = apply(*arguments)
        return {**outputs, "logits": task.logits(outputs["logits"])}, model_state

    return applied


def explained_pieces(
    apply: Callable[..., Any], model: step.EvalState, batch: AnyBatch
) -> tuple[dict[str, Any], tuple[Batch | Surrounded, ...]]:
    """The model's outputs for a standardised batch, and its rows as batches in which no row depends on another."""
    outputs = apply(model.params, model.model_state, batch)[0]
    if isinstance(batch, Conversations):
        return outputs, surrounded(batch, outputs["utterance"])
    assert isinstance(batch, Batch)
    return outputs, (batch,)


def shapley_by_modality(
    apply: Callable[..., Any], model: step.EvalState, batch: AnyBatch, task: Task
) -> tuple[dict[str, Any], dict[str, Array]]:
    """(the model's outputs, Shapley values of the modalities, and of `context` in conversations): a forward pass for
    every set of them, one after the other. The batch is as it was read, not standardised."""
    apply = of_outputs(apply, task)
    outputs, pieces = explained_pieces(apply, model, step.standardize(batch, model.input_stats))
    logits = split_rows(outputs["logits"], pieces)
    found = (_shapley(apply, model, piece, every) for piece, every in zip(pieces, logits, strict=True))
    return outputs, jax.tree.map(join_rows, *found)


def _shapley(
    apply: Callable[..., Any], model: step.EvalState, piece: Batch | Surrounded, every: Float[Array, "batch width"]
) -> dict[str, Array]:
    """every: the logits with everything there."""
    rows = piece.utterances if isinstance(piece, Surrounded) else piece
    names = sorted(rows.mask)
    players = [*names, CONTEXT] if isinstance(piece, Surrounded) else names

    def worth(there: Bool[Array, "count"]) -> Float[Array, "batch classes"]:
        seen = piece.map(lambda rows: without(rows, {m: there[i] for i, m in enumerate(names)}))
        if isinstance(seen, Surrounded):
            seen = dataclasses.replace(seen, heard=seen.heard & there[-1])
        return apply(model.params, model.model_state, seen)[0]["logits"]

    worths = jnp.concatenate([jax.lax.map(worth, jnp.asarray(subsets(len(players))[:-1])), every[None]])
    found = jnp.einsum(
        "ms,sbc->mbc", jnp.asarray(shapley_weights(len(players)), worths.dtype), worths, precision="highest"
    )
    return dict(zip(players, found, strict=True))


def turn_influence(
    apply: Callable[..., Any], model: step.EvalState, batch: Conversations, task: Task
) -> Float[Array, "batch turns"]:
    """`turns` of `BatchAttribution`: a pass through what comes after the encoders for every turn. The batch is as it
    was read."""
    apply = of_outputs(apply, task)
    outputs, pieces = explained_pieces(apply, model, step.standardize(batch, model.input_stats))
    explained = split_rows(task.explained(outputs["logits"]), pieces)
    return join_rows(
        *(
            _influence(apply, model, piece, weight)  # type: ignore[arg-type]
            for piece, weight in zip(pieces, explained, strict=True)
        )
    )


def _influence(
    apply: Callable[..., Any], model: step.EvalState, piece: Surrounded, explained: Float[Array, "batch width"]
) -> Float[Array, "batch turns"]:
    turns = jnp.arange(piece.heard.shape[1], dtype=jnp.int32)

    def logit(heard: Bool[Array, "batch turns"]) -> Float[Array, "batch"]:
        seen = dataclasses.replace(piece, heard=heard)
        return (apply(model.params, model.model_state, seen)[0]["logits"] * explained).sum(-1)

    every = logit(piece.heard)
    left_out = jax.lax.map(lambda turn: logit(piece.heard & (turns != turn)[None]), turns)
    return jnp.where(piece.heard & (turns[None] != piece.turn[:, None]), every[:, None] - left_out.T, 0)


def attribute(
    apply: Callable[..., Any], model: step.EvalState, batch: AnyBatch, *, task: Task, family: Family
) -> BatchAttribution:
    """Everything; a forward pass for every set of modalities, and what `integrate` costs."""
    outputs, values = shapley_by_modality(apply, model, batch, task)
    gradients, gap, points = integrated_gradients(apply, model, batch, task=task, family=family)
    turns = turn_influence(apply, model, batch, task) if isinstance(batch, Conversations) else None
    return BatchAttribution(
        outputs["logits"], values, gradients, outputs["attention"], outputs.get("kept"), gap, points, turns
    )


def integrated_gradients(
    apply: Callable[..., Any], model: step.EvalState, batch: AnyBatch, *, task: Task, family: Family
) -> tuple[dict[str, Array], Float[Array, "batch"], Any]:
    """`integrated_gradients`, `gap` and `points` of `BatchAttribution`. The batch is as it was read."""
    apply = of_outputs(apply, task)
    _, pieces = explained_pieces(apply, model, step.standardize(batch, model.input_stats))
    each = (_gradients(apply, model, piece, task, family) for piece in pieces)
    found: tuple[dict[str, Array], Array, Any] = jax.tree.map(join_rows, *each)
    return found


def gaps(
    apply: Callable[..., Any], model: step.EvalState, batch: AnyBatch, *, task: Task, family: Family, most: int
) -> tuple[Any, Any, Any]:
    """`gap` and `points` of the rows that count, of conversations at most so many of each length, and whether a row is
    one of these."""
    apply = of_outputs(apply, task)
    _, pieces = explained_pieces(apply, model, step.standardize(batch, model.input_stats))
    found = []
    for piece in pieces:
        if isinstance(piece, Surrounded):
            rows = jnp.nonzero(piece.weight > 0, size=min(most, piece.weight.shape[0]), fill_value=-1)[0]
            piece = jax.tree.map(lambda x, rows=rows: x[jnp.maximum(rows, 0)], piece)
            piece = piece.with_weight(jnp.where(rows >= 0, piece.weight, 0))
        _, gap, points = _gradients(apply, model, piece, task, family)
        found.append((gap, points, piece.weight > 0))
    joined: tuple[Any, Any, Any] = jax.tree.map(join_rows, *found)
    return joined


def _gradients(
    apply: Callable[..., Any], model: step.EvalState, piece: Batch | Surrounded, task: Task, family: Family
) -> tuple[dict[str, Array], Float[Array, "batch"], Any]:
    rows = piece.utterances if isinstance(piece, Surrounded) else piece
    explained = task.explained(apply(model.params, model.model_state, piece)[0]["logits"])

    def logit(features: dict[str, Array]) -> Float[Array, "batch"]:
        at = piece.map(lambda rows: dataclasses.replace(rows, features=features))
        return (apply(model.params, model.model_state, at)[0]["logits"] * explained).sum(-1)

    start = family.attribution_baseline(rows.features, rows.mask)
    gradients, gap, points = integrate(logit, start, rows.features)
    return {m: x.sum(range(2, x.ndim)) for m, x in gradients.items()}, gap, points
