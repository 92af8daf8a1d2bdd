"""Conversations: an utterance's feature becomes one that knows the other turns of its dialogue. All of it is ours,
after the transformers, recurrent networks and speaker masks of the field (DialogueRNN, arXiv 1811.00405; SDT, arXiv
2306.11711); any family puts a `Context` between its fused feature and its classification."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mer_jax.config import Experiment
from mer_jax.data.batch import AnyBatch, Batch, Conversations, NextTurn, Surrounded, Turns
from mer_jax.models.layers import dropout, split_key, sweepable
from mer_jax.settings import ContextSettings

SPEAKERS = 16  # embeddings of speakers; those with higher numbers share the last one
Encoded = TypeVar("Encoded")


def by_group(
    encode: Callable[[Batch, PRNGKeyArray | None], Encoded], batch: AnyBatch, key: PRNGKeyArray | None
) -> Encoded:
    """What `encode` makes of every group of rows of one padded length, one behind the other: the rows of the batch.
    Shorter arrays are filled up with zeros, integers with the largest there is, so that no position is meant."""
    if isinstance(batch, Batch):
        return encode(batch, key)
    keys = split_key(key, len(batch.groups))
    return jax.tree.map(join_rows, *(encode(group, k) for group, k in zip(batch.groups, keys, strict=True)))


def join_rows(*parts: Array) -> Array:
    """[batch, …] of several groups, whose other axes may differ in length."""
    if parts[0].ndim == 0:
        return parts[0]  # a number that belongs to no row
    shape = np.max([part.shape[1:] for part in parts], axis=0, initial=0).astype(int)
    fill = jnp.iinfo(parts[0].dtype).max if jnp.issubdtype(parts[0].dtype, jnp.integer) else 0
    widths = [
        [(0, 0), *((0, int(most) - size) for most, size in zip(shape, part.shape[1:], strict=True))] for part in parts
    ]
    return jnp.concatenate(
        [jnp.pad(part, width, constant_values=fill) for part, width in zip(parts, widths, strict=True)]
    )


class Grid(NamedTuple):
    """Which dialogue and which speaker is in each place of [lines, turns]; 0 where none is."""

    dialogue: Int[Array, "lines turns"]
    speaker: Int[Array, "lines turns"]


def laid(x: Array, batch: Conversations, turns: Turns) -> Array:
    """The rows [batch, …] in their places, [lines, turns, …], zero elsewhere."""
    size = batch.lines * batch.turns_per_line
    place = jnp.where(turns.place >= 0, turns.place, size)  # out of the grid nothing is written
    found = jnp.zeros((size, *x.shape[1:]), x.dtype).at[place].set(x, mode="drop")
    return found.reshape(batch.lines, batch.turns_per_line, *x.shape[1:])


def taken(x: Array, turns: Turns) -> Array:
    """What is in the places of the rows, [batch, …] of [lines, turns, …]; zero for rows without a place."""
    flat = x.reshape(-1, *x.shape[2:])
    place = jnp.where(turns.place >= 0, turns.place, flat.shape[0])
    return flat.at[place].get(mode="fill", fill_value=0)


def surrounded(batch: Conversations, utterance: Float[Array, "batch dim"]) -> tuple[Surrounded, ...]:
    """The groups of the batch, with `utterance`, which the model gave for all rows, around each row."""
    turns = batch.turns
    features, dialogue, speaker = (laid(x, batch, turns) for x in (utterance, turns.dialogue, turns.speaker))
    place = jnp.maximum(turns.place, 0)
    line, turn = place // batch.turns_per_line, place % batch.turns_per_line
    heard = (dialogue[line] == turns.dialogue[:, None]) & (turns.place >= 0)[:, None]
    found, first = [], 0
    for group in batch.groups:
        here = slice(first, first := first + group.weight.shape[0])
        at = line[here]
        found.append(Surrounded(group, features[at], heard[here], speaker[at], turn[here]))
    return tuple(found)


def one_by_one(turns: Turns, places: int, rate: float, key: PRNGKeyArray) -> Turns:
    """The turns, with each of a share `rate` of the dialogues as if it were a dialogue of its own."""
    drawn = jax.random.bernoulli(key, rate, (places + 1,))[jnp.maximum(turns.dialogue, 0)]
    apart = places + 1 + turns.place
    return Turns(
        turns.place, jnp.where(drawn, apart, turns.dialogue).astype(jnp.int32), jnp.where(drawn, 0, turns.speaker)
    )


class TurnAttention(nnx.Module):
    """One pre-LN Transformer layer over turns. A learnt bias of each head says how near a turn is; those farther than
    `span` are not heard, nor those after it unless `ahead`. by_speaker: of three heads one hears everybody, one the
    same speaker, one the others."""

    def __init__(self, width: int, settings: ContextSettings, *, ahead: bool, rngs: nnx.Rngs):
        self.heads, self.span, self.ahead = settings.heads, settings.span, ahead
        self.by_speaker, self.dropout = settings.kind == "speakers", sweepable(settings.dropout)
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.query, self.key, self.value, self.out = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))
        self.distance = nnx.Param(jnp.zeros((settings.heads, 2 * settings.span + 1 if ahead else settings.span + 1)))
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.mlp_in = nnx.Linear(width, 4 * width, rngs=rngs)
        self.mlp_out = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "lines turns dim"], grid: Grid, *, key: PRNGKeyArray | None
    ) -> Float[Array, "lines turns dim"]:
        turns = jnp.arange(x.shape[1], dtype=jnp.int32)
        back = turns[:, None] - turns[None]  # how many turns before a turn the other one is
        near = (back <= self.span) & (back >= (-self.span if self.ahead else 0))
        heard = near[None] & (grid.dialogue[:, :, None] == grid.dialogue[:, None])
        q, k, v = self._projected(x)
        allowed = self._heard_by_head(heard, grid.speaker[:, :, None], grid.speaker[:, None], back == 0)
        return self._finish(x, self._attend(q, k, v, back, allowed), key)

    def step(self, x: Float[Array, "1 dim"], speaker: Int[Array, "1"], memory: Any) -> tuple[Array, Any]:
        """The next turn, and what is remembered after it: `span` turns, the last one at the end."""
        q, k, v = self._projected(x[:, None])
        speakers = jnp.concatenate([memory["speaker"], speaker])
        keys, values = jnp.concatenate([memory["key"], k[0]]), jnp.concatenate([memory["value"], v[0]])
        heard = jnp.concatenate([memory["heard"], jnp.ones(1, bool)])
        back = jnp.arange(self.span, -1, -1, dtype=jnp.int32)[None]
        allowed = self._heard_by_head(heard[None, None], speaker[None, :, None], speakers[None, None], back == 0)
        found = self._attend(q, keys[None], values[None], back, allowed)
        kept = {"key": keys, "value": values, "speaker": speakers, "heard": heard}
        return self._finish(x[:, None], found, None)[:, 0], {name: value[1:] for name, value in kept.items()}

    def nothing(self, x: Array) -> dict[str, Any]:
        """What is remembered before the first turn."""
        past = jnp.zeros((self.span, self.heads, self.query.out_features // self.heads), x.dtype)
        unheard = jnp.zeros(self.span, bool)
        return {"key": past, "value": past, "speaker": jnp.zeros(self.span, jnp.int32), "heard": unheard}

    def _projected(self, x: Array) -> tuple[Array, Array, Array]:
        y = self.attention_norm(x)
        q, k, v = (
            einops.rearrange(of(y), "l t (h d) -> l t h d", h=self.heads) for of in (self.query, self.key, self.value)
        )
        return q, k, v

    def _heard_by_head(
        self, heard: Array, speaker: Array, other: Array, itself: Array
    ) -> Bool[Array, "lines heads q k"]:
        if not self.by_speaker:
            return heard[:, None]
        same = (speaker == other) & (speaker > 0) | itself[None]
        masks = (heard, heard & same, heard & (~same | itself[None]))
        return jnp.stack([masks[head % 3] for head in range(self.heads)], axis=1)

    def _attend(self, q: Array, k: Array, v: Array, back: Array, allowed: Array) -> Array:
        score = jnp.einsum("lqhd,lkhd->lhqk", q, k) * q.shape[-1] ** -0.5
        at = jnp.clip(back, -self.span if self.ahead else 0, self.span) + (self.span if self.ahead else 0)
        score = score + self.distance[...].astype(score.dtype)[:, at][None]
        weight = jax.nn.softmax(jnp.where(allowed, score, jnp.finfo(score.dtype).min), axis=-1)
        return self.out(einops.rearrange(jnp.einsum("lhqk,lkhd->lqhd", weight, v), "l q h d -> l q (h d)"))

    def _finish(self, x: Array, found: Array, key: PRNGKeyArray | None) -> Array:
        first, second = split_key(key, 2)
        x = x + dropout(found, self.dropout, first)
        y = self.mlp_out(nnx.gelu(self.mlp_in(self.mlp_norm(x))))
        return x + dropout(y, self.dropout, second)


class TurnGRU(nnx.Module):
    """A GRU (Cho et al. 2014) over turns with a residual connection, and one in the other direction if `ahead`; its
    state is zero where a dialogue begins."""

    def __init__(self, width: int, settings: ContextSettings, *, ahead: bool, rngs: nnx.Rngs):
        self.ahead, self.dropout = ahead, sweepable(settings.dropout)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.size = width // 2 if ahead else width
        orthogonal = nnx.initializers.orthogonal()
        ways = range(2 if ahead else 1)
        self.inputs = nnx.List([nnx.Linear(width, 3 * self.size, rngs=rngs) for _ in ways])
        self.recurrent = nnx.List(
            [nnx.Linear(self.size, 3 * self.size, kernel_init=orthogonal, rngs=rngs) for _ in ways]
        )

    def __call__(
        self, x: Float[Array, "lines turns dim"], grid: Grid, *, key: PRNGKeyArray | None
    ) -> Float[Array, "lines turns dim"]:
        y = self.norm(x)
        found = [self._run(way, y, grid.dialogue, reverse=bool(way)) for way in range(len(self.recurrent))]
        return x + dropout(jnp.concatenate(found, -1), self.dropout, key)

    def step(self, x: Float[Array, "1 dim"], speaker: Int[Array, "1"], memory: Any) -> tuple[Array, Any]:
        """The next turn, and the state after it."""
        state = self._next(0, memory["state"], self.inputs[0](self.norm(x)))
        return x + state, {"state": state}

    def nothing(self, x: Array) -> dict[str, Any]:
        """The state before the first turn."""
        return {"state": jnp.zeros((1, self.size), x.dtype)}

    def _next(self, way: int, state: Array, gates: Array) -> Array:
        reset_in, update_in, new_in = jnp.split(gates, 3, axis=-1)
        reset_state, update_state, new_state = jnp.split(self.recurrent[way](state), 3, axis=-1)
        update = nnx.sigmoid(update_in + update_state)
        candidate = jnp.tanh(new_in + nnx.sigmoid(reset_in + reset_state) * new_state)
        return update * state + (1 - update) * candidate

    def _run(self, way: int, y: Array, dialogue: Int[Array, "lines turns"], reverse: bool) -> Array:
        def step(before: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            (state, last), (gates, here) = before, inputs
            after = self._next(way, jnp.where((here == last)[:, None], state, 0), gates)
            real = here > 0  # where nothing is heard, the state is passed on
            state = jnp.where(real[:, None], after, state)
            return (state, jnp.where(real, here, last)), state

        gates = einops.rearrange(self.inputs[way](y), "l t d -> t l d")
        start = jnp.zeros((y.shape[0], self.size), y.dtype), jnp.zeros(y.shape[0], jnp.int32)
        _, states = jax.lax.scan(step, start, (gates, dialogue.T), reverse=reverse)
        return einops.rearrange(states, "t l d -> l t d")


class Context(nnx.Module):
    """Features of utterances [batch, dim] -> the same, in knowledge of the turns before them and, if it hears `both`,
    after them. A batch without dialogues is read as so many dialogues of one turn."""

    def __init__(self, settings: ContextSettings, hears: str, dim: int, *, rngs: nnx.Rngs):
        self.alone, self.dropout, self.width = settings.alone, sweepable(settings.dropout), settings.width
        self.enter = nnx.Linear(dim, settings.width, rngs=rngs)
        self.speakers = nnx.Param(0.02 * jax.random.normal(rngs.params(), (SPEAKERS, settings.width)))
        layer = TurnGRU if settings.kind == "gru" else TurnAttention
        ahead = hears == "both"
        self.layers = nnx.List(
            [layer(settings.width, settings, ahead=ahead, rngs=rngs) for _ in range(settings.layers)]
        )
        self.norm = nnx.LayerNorm(settings.width, rngs=rngs)
        self.leave = nnx.Linear(settings.width, dim, rngs=rngs)
        self.leave_norm = nnx.LayerNorm(dim, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch dim"], batch: AnyBatch, *, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "batch dim"], Any]:
        """The features, and what is remembered of the conversation after a `NextTurn`."""
        if isinstance(batch, NextTurn):
            return self._step(x, batch)
        if isinstance(batch, Surrounded):
            return self._left(x, self._among_others(x, batch), None), None
        first, apart, last, *keys = split_key(key, 3 + len(self.layers))
        if isinstance(batch, Batch):
            place = jnp.arange(x.shape[0], dtype=jnp.int32)
            batch, turns = Conversations((batch,), x.shape[0], 1), Turns(place, place + 1, jnp.zeros_like(place))
        else:
            turns = batch.turns
        if apart is not None and self.alone:
            turns = one_by_one(turns, batch.lines * batch.turns_per_line, self.alone, apart)
        grid = Grid(laid(turns.dialogue, batch, turns), laid(turns.speaker, batch, turns))
        h = laid(self._entered(x, turns.speaker, first), batch, turns)
        for layer, k in zip(self.layers, keys, strict=True):
            h = layer(h, grid, key=k)
        return self._left(x, taken(h, turns), last), None

    def _among_others(self, x: Array, batch: Surrounded) -> Array:
        itself = jnp.arange(batch.heard.shape[1], dtype=jnp.int32)[None] == batch.turn[:, None]
        h = self._entered(jnp.where(itself[..., None], x[:, None], batch.others), batch.speaker, None)
        grid = Grid((batch.heard | itself).astype(jnp.int32), batch.speaker)
        for layer in self.layers:
            h = layer(h, grid, key=None)
        return jnp.take_along_axis(h, batch.turn[:, None, None], axis=1)[:, 0]

    def _step(self, x: Float[Array, "1 dim"], batch: NextTurn) -> tuple[Array, Any]:
        h, after = self._entered(x, batch.speaker, None), {}
        for i, layer in enumerate(self.layers):
            before = layer.nothing(x) if batch.memory is None else batch.memory[str(i)]
            h, after[str(i)] = layer.step(h, batch.speaker, before)
        return self._left(x, h, None), after

    def _entered(self, x: Array, speaker: Array, key: PRNGKeyArray | None) -> Array:
        embedded = self.speakers[...][jnp.clip(speaker, 0, SPEAKERS - 1)]
        return dropout(self.enter(x) + embedded, self.dropout, key)

    def _left(self, x: Array, h: Array, key: PRNGKeyArray | None) -> Array:
        return self.leave_norm(x + self.leave(dropout(self.norm(h), self.dropout, key)))


def context_of(config: Experiment) -> Callable[[int, nnx.Rngs], Context] | None:
    """What makes the module for features of some width; None if the run reads utterances one by one."""
    hears = config.data.context
    if hears == "none":
        return None
    return lambda dim, rngs: Context(config.context, hears, dim, rngs=rngs)
