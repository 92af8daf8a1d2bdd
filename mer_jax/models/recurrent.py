"""Recurrent networks over what lies one behind the other in segments: the time steps of an utterance, the turns of a
dialogue. A cell is a function (state, inputs of one step) -> state, whose state is an array or a tree of arrays."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int


def gru(recurrent: nnx.Linear, state: Float[Array, "batch dim"], gates: Float[Array, "batch gates"]) -> Array:
    """The state of a GRU (Cho et al. 2014) after a step. gates: what the step's input gives reset, update and
    candidate; recurrent: of the state the same."""
    reset_in, update_in, new_in = jnp.split(gates, 3, axis=-1)
    reset_state, update_state, new_state = jnp.split(recurrent(state), 3, axis=-1)
    update = nnx.sigmoid(update_in + update_state)
    candidate = jnp.tanh(new_in + nnx.sigmoid(reset_in + reset_state) * new_state)
    return update * state + (1 - update) * candidate


def lstm(recurrent: nnx.Linear, state: tuple[Array, Array], gates: Float[Array, "batch gates"]) -> tuple[Array, Array]:
    """Output and cell of an LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) after a
    step. gates: what the step's input gives input gate, forget gate, candidate and output gate."""
    output, cell = state
    into, forget, new, out = jnp.split(gates + recurrent(output), 4, axis=-1)
    cell = nnx.sigmoid(forget) * cell + nnx.sigmoid(into) * jnp.tanh(new)
    return nnx.sigmoid(out) * jnp.tanh(cell), cell


def rows_of(true: Bool[Array, "batch"], new: Any, old: Any) -> Any:
    """The rows of the new state where it is true, of the old one elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(jnp.expand_dims(true, range(1, a.ndim)), a, b), new, old)


def run(
    cell: Callable[[Any, Any], Any],
    inputs: Any,
    segment: Int[Array, "batch time"] | Bool[Array, "batch time"],
    start: Any,
    *,
    reverse: bool = False,
) -> Any:
    """The states after every step, [batch, time, …], of inputs [batch, time, …]. The state is `start` where a segment
    begins; in segment 0, or False, nothing is real, and the state is passed on."""

    def step(before: tuple[Any, Array], now: tuple[Any, Array]) -> tuple[tuple[Any, Array], Any]:
        (state, last), (here, at) = before, now
        real = at > 0
        state = rows_of(real, cell(rows_of(at == last, state, start), here), state)
        return (state, jnp.where(real, at, last)), state

    segment = segment.astype(jnp.int32)
    by_time = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (inputs, segment))
    # A first segment begins with `start` itself; 0 is none.
    _, states = jax.lax.scan(step, (start, jnp.zeros(segment.shape[0], jnp.int32)), by_time, reverse=reverse)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), states)


class Directions(nnx.Module):
    """A GRU or an LSTM over the steps of segments, and a second one in the other direction if `ahead`; each gives half
    of `width` then."""

    def __init__(self, inputs: int, width: int, *, kind: str, ahead: bool, rngs: nnx.Rngs):
        if ahead and width % 2:
            raise ValueError(f"two directions need an even width, not {width}")
        self.kind, self.size = kind, width // 2 if ahead else width
        gates, ways = (3 if kind == "gru" else 4) * self.size, range(2 if ahead else 1)
        orthogonal = nnx.initializers.orthogonal()
        self.inputs = nnx.List([nnx.Linear(inputs, gates, rngs=rngs) for _ in ways])
        self.recurrent = nnx.List([nnx.Linear(self.size, gates, kernel_init=orthogonal, rngs=rngs) for _ in ways])

    def states(
        self, x: Float[Array, "batch time dim"], segment: Int[Array, "batch time"] | Bool[Array, "batch time"]
    ) -> Float[Array, "batch time width"]:
        """What is known after every step. segment: see `run`."""
        zero = jnp.zeros((x.shape[0], self.size), x.dtype)
        cell: Callable[..., Any] = gru if self.kind == "gru" else lstm
        start: Any = zero if self.kind == "gru" else (zero, zero)
        found = []
        for way, (inputs, recurrent) in enumerate(zip(self.inputs, self.recurrent, strict=True)):
            states = run(functools.partial(cell, recurrent), inputs(x), segment, start, reverse=bool(way))
            found.append(states if self.kind == "gru" else states[0])
        return jnp.concatenate(found, axis=-1)


class Recurrent(Directions):
    """`Directions` as a layer: their states and nothing else."""

    def __call__(
        self, x: Float[Array, "batch time dim"], segment: Int[Array, "batch time"] | Bool[Array, "batch time"]
    ) -> Float[Array, "batch time width"]:
        return self.states(x, segment)


def last_steps(x: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"]) -> Float[Array, "batch dim"]:
    """What is at the last real time step; zero where there is none. Of a state that padding passes on it is the last
    one; this holds, too, where there is no padding behind."""
    last = jnp.max(jnp.where(mask, jnp.arange(mask.shape[1], dtype=jnp.int32)[None], -1), axis=1)
    found = jnp.take_along_axis(x, jnp.maximum(last, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where((last >= 0)[:, None], found, 0)
