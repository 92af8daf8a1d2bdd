"""Conversations as a model reads them: its encoders run on rows of one padded length, and what is known of the
utterances is laid out as dialogues, turn by turn, for a network that reads these."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mer_jax.data.batch import AnyBatch, Batch, Conversations, NextTurn, Surrounded, Turns
from mer_jax.models.layers import split_key

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


class DialogueNetwork(nnx.Module):
    """Features of utterances [batch, dim] -> [batch, any], in knowledge of the other turns of their dialogues. A batch
    without dialogues is read as so many dialogues of one turn.

    A subclass says in `over_turns` what it makes of a grid of turns, in which empty places and other dialogues change
    nothing. alone: share of the dialogues whose turns are heard one by one while training. remembers: turns before a
    `NextTurn` that are kept, unless the subclass has a `next_turn` of its own. keys: how many `over_turns` draws
    with."""

    alone: float = 0.0
    remembers: int = 0
    keys: int = 1

    def over_turns(
        self, x: Float[Array, "lines turns dim"], grid: Grid, keys: list[PRNGKeyArray | None]
    ) -> Float[Array, "lines turns _"]:
        raise NotImplementedError

    def entered(
        self, x: Float[Array, "*batch dim"], speaker: Array, key: PRNGKeyArray | None
    ) -> Float[Array, "*batch _"]:
        """What is made of every utterance before it is laid out."""
        return x

    def left(self, x: Array, h: Array, key: PRNGKeyArray | None) -> Float[Array, "batch _"]:
        """What is made in the end of every utterance and of what the turns gave it."""
        return h

    def __call__(
        self, x: Float[Array, "batch dim"], batch: AnyBatch, *, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "batch _"], Any]:
        """The features, and what is remembered of the conversation after a `NextTurn`."""
        if isinstance(batch, NextTurn):
            return self.next_turn(x, batch)
        if isinstance(batch, Surrounded):
            return self.left(x, self._among_others(x, batch), None), None
        first, apart, last, *keys = split_key(key, 3 + self.keys)
        if isinstance(batch, Batch):
            place = jnp.arange(x.shape[0], dtype=jnp.int32)
            batch, turns = Conversations((batch,), x.shape[0], 1), Turns(place, place + 1, jnp.zeros_like(place))
        else:
            turns = batch.turns
        if apart is not None and self.alone:
            turns = one_by_one(turns, batch.lines * batch.turns_per_line, self.alone, apart)
        grid = Grid(laid(turns.dialogue, batch, turns), laid(turns.speaker, batch, turns))
        h = self.over_turns(laid(self.entered(x, turns.speaker, first), batch, turns), grid, keys)
        return self.left(x, taken(h, turns), last), None

    def _among_others(self, x: Array, batch: Surrounded) -> Array:
        itself = jnp.arange(batch.heard.shape[1], dtype=jnp.int32)[None] == batch.turn[:, None]
        h = self.entered(jnp.where(itself[..., None], x[:, None], batch.others), batch.speaker, None)
        grid = Grid((batch.heard | itself).astype(jnp.int32), batch.speaker)
        h = self.over_turns(h, grid, [None] * self.keys)
        return jnp.take_along_axis(h, batch.turn[:, None, None], axis=1)[:, 0]

    def next_turn(self, x: Float[Array, "1 dim"], batch: NextTurn) -> tuple[Float[Array, "1 _"], Any]:
        """The turn that a conversation has come to; what is remembered is read again, with this turn behind it."""
        before = batch.memory
        if before is None:
            unheard = jnp.zeros(self.remembers, jnp.int32)
            before = {"x": jnp.zeros((self.remembers, x.shape[1]), x.dtype), "speaker": unheard, "heard": unheard}
        now = {"x": x, "speaker": batch.speaker, "heard": jnp.ones(1, jnp.int32)}
        turns = {name: jnp.concatenate([before[name], now[name]]) for name in now}
        h = self.entered(turns["x"], turns["speaker"], None)[None]
        h = self.over_turns(h, Grid(turns["heard"][None], turns["speaker"][None]), [None] * self.keys)
        return self.left(x, h[:, -1], None), {name: value[1:] for name, value in turns.items()}
