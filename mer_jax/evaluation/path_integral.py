"""Integrated gradients along a straight path, refined until they add up to what they explain."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PIECES = 32  # of the path of integrated gradients; first there is one point in the middle of each
ROUNDS, MORE = 3, 4  # as long as a row is incomplete, the path is walked again with 4 times the points: 32, 128, 512
COMPLETE = 0.05  # a gap below this is none
LEAST_CHANGE = 0.1  # of a logit, in nats; a gap is a share of the change, but of no smaller one

Features = dict[str, Array]


def integrate(
    function: Callable[[Features], Float[Array, "batch"]], start: Features, end: Features
) -> tuple[Features, Float[Array, "batch"], Any]:
    """(integrated gradients of a function of rows, along the straight path from start to end; of each row the gap, as
    `attribution.BatchAttribution` has it, and the number of points).

    The path has `PIECES` of equal length. What the function changes over a piece less what the gradients in it say is
    the piece's error. Rows whose gap is not below `COMPLETE` are integrated again, with `MORE` points, which go to the
    pieces of large error; after `ROUNDS` they stay as they are. Cost: PIECES + 1 function values, and 32, 160 or 672
    gradients of the batch."""
    path = Path(function, start, jax.tree.map(jnp.subtract, end, start))
    rows = next(iter(end.values())).shape[0]
    shares = jnp.broadcast_to(jnp.linspace(0, 1, PIECES + 1)[:, None], (PIECES + 1, rows))
    edges = jax.lax.map(lambda share: function(path.at(share)), shares)
    change, total = edges[1:] - edges[:-1], edges[-1] - edges[0]

    def gap_of(by_piece: Float[Array, "pieces batch"]) -> Float[Array, "batch"]:
        return jnp.abs(by_piece.sum(0) - total) / jnp.maximum(jnp.abs(total), LEAST_CHANGE)

    def again(carry: Any) -> Any:
        number, _, by_piece, _ = carry
        return (number == 0) | (number < ROUNDS) & ~(gap_of(by_piece) < COMPLETE).all()

    def refine(carry: Any) -> Any:
        number, integral, by_piece, used = carry
        points = PIECES * MORE**number
        new, by_new = path.walk(share_out(jnp.abs(change - by_piece), points), points)
        gap, first = gap_of(by_piece), number == 0
        better = first | ~(gap < COMPLETE) & (gap_of(by_new) < gap)
        integral = jax.tree.map(lambda n, o: jnp.where(along(better, o), n, o), new, integral)
        used = jnp.where(first | ~(gap < COMPLETE), points, used)
        return number + 1, integral, jnp.where(better[None], by_new, by_piece), used

    nothing = jax.tree.map(jnp.zeros_like, path.whole), jnp.zeros_like(change), jnp.zeros(rows, jnp.int32)
    _, integral, by_piece, used = jax.lax.while_loop(again, refine, (jnp.int32(0), *nothing))
    return integral, gap_of(by_piece), used


def share_out(error: Float[Array, "pieces batch"], points: Any) -> Any:
    """How many of so many points every piece gets, Int[pieces, batch]: one, and of the others as its error is."""
    shares = jnp.cumsum(error + jnp.finfo(error.dtype).eps, axis=0)
    last = jnp.round(shares / shares[-1:] * (points - PIECES).astype(error.dtype)).astype(jnp.int32)
    return 1 + jnp.diff(last, axis=0, prepend=0)


@dataclasses.dataclass(frozen=True)
class Path:
    """The straight path from `start`, `whole` long, on which a function is looked at."""

    function: Callable[[Features], Any]
    start: Features
    whole: Features

    def at(self, share: Float[Array, "batch"]) -> Features:
        """Where every row is after this share of the path."""
        return jax.tree.map(lambda a, d: a + along(share, d) * d, self.start, self.whole)

    def walk(self, counts: Any, points: Any) -> tuple[Features, Float[Array, "pieces batch"]]:
        """The integral, and what of it lies in every piece. counts: of the points in every piece, Int[pieces, batch],
        evenly spread in it; points: how many all pieces of a row have together."""
        ends = jnp.cumsum(counts, axis=0, dtype=jnp.int32)
        pieces = jnp.arange(PIECES, dtype=jnp.int32)[:, None]

        def add(i: Any, carry: Any) -> Any:
            integral, by_piece = carry
            piece = (ends <= i).sum(0, dtype=jnp.int32)
            here, end = (jnp.take_along_axis(x, piece[None], 0)[0] for x in (counts, ends))
            place, length = (i - end + here).astype(by_piece.dtype) + 0.5, 1 / here.astype(by_piece.dtype)
            share = (piece.astype(by_piece.dtype) + place * length) / PIECES
            slope = jax.grad(lambda x: self.function(x).sum())(self.at(share))
            step = jax.tree.map(lambda g, d: g * d * along(length / PIECES, d), slope, self.whole)
            size = sum(x.sum(range(1, x.ndim)) for x in step.values())
            by_piece = by_piece + jnp.where(pieces == piece[None], size[None], 0).astype(by_piece.dtype)
            return jax.tree.map(jnp.add, integral, step), by_piece

        kind = next(iter(self.whole.values())).dtype
        nothing = jax.tree.map(jnp.zeros_like, self.whole), jnp.zeros(counts.shape, kind)
        return jax.lax.fori_loop(0, points, add, nothing)


def along(row: Any, like: Any) -> Any:
    """[batch] as [batch, 1, …], for what is [batch, …]."""
    return jnp.expand_dims(row, range(1, like.ndim))
