"""Corpus -> batches. Which utterances make up a batch is a pure function of (seed, step); see `Order`.

The utterances either live on the device, packed without padding, and rows are gathered inside jit (`Resident`, `gather`),
or batches are read and padded on the host ahead of the step (`collate`). Both give the same batch. Of several processes
each reads its own part, of the pool at the start and of every streamed batch; no record is read by two.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mer_jax.data.batch import Batch, where_real
from mer_jax.data.corpus import Corpus
from mer_jax.data.frames import EncodedFrames, View
from mer_jax.data.pool import UtterancePool, read_utterance
from mer_jax.runtime import sharding

MIN_PADDED_LENGTH = 16  # padded lengths are this times a power of two: few programs to compile
PaddedLengths = tuple[tuple[str, int], ...]  # padded time steps of each modality; hashable, so static under jit


# ---- which rows make up a batch ----


@dataclasses.dataclass(frozen=True)
class Order:
    """Utterances in training order: `order[step]` is Int32[batch], a pure function of (seed, step).

    An endless stream, reshuffled every epoch, in which each of `rows` (of these `lengths`) occurs once an epoch. The
    utterances of `window` consecutive batches are sorted by length among themselves and their batches shuffled, so that
    padding is small.
    """

    rows: np.ndarray
    lengths: np.ndarray
    batch_size: int
    seed: int
    window: int = 1

    def __getitem__(self, step: int) -> np.ndarray:
        return self.rows[self._windows(step // self.window)[step % self.window]]

    @functools.cached_property
    def _shuffled(self) -> grain.MapDataset:
        shuffled = grain.MapDataset.range(len(self.lengths)).seed(self.seed).shuffle().repeat()
        return shuffled.batch(self.window * self.batch_size)

    @functools.cached_property
    def _windows(self) -> Callable[[int], np.ndarray]:
        @functools.lru_cache(maxsize=4)
        def window(k: int) -> np.ndarray:
            rows = self._shuffled[k].astype(np.int32)
            if self.window == 1:
                return rows[None]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")].reshape(self.window, self.batch_size)
            return np.random.default_rng([self.seed, k]).permutation(rows)

        return window

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def training_order(pool: UtterancePool, rows: np.ndarray, batch_size: int, seed: int, window: int) -> Order:
    return Order(rows.astype(np.int32), _total_lengths(pool, rows), batch_size, seed, window)


def evaluation_order(
    pool: UtterancePool, parts: Sequence[np.ndarray], batch_size: int
) -> Int[np.ndarray, "steps parts batch"]:
    """Every utterance of every part once, by length; batches are filled up with -1, rows of weight 0."""
    steps = max(-(-len(rows) // batch_size) for rows in parts)
    order = np.full((len(parts), steps * batch_size), -1, np.int32)
    for filled, rows in zip(order, parts, strict=True):
        filled[: len(rows)] = rows[np.argsort(_total_lengths(pool, rows), kind="stable")]
    return np.ascontiguousarray(order.reshape(len(parts), steps, batch_size).swapaxes(0, 1))


def _total_lengths(pool: UtterancePool, rows: np.ndarray) -> np.ndarray:
    return sum((lengths[rows] for lengths in pool.lengths.values()), np.zeros(len(rows), np.int32))


def padded_lengths(pool: UtterancePool, rows: np.ndarray) -> PaddedLengths:
    """Padded lengths for a batch: the rung of 1, 16, 32, 64 … that holds it, never more than the pool's longest."""
    return tuple(
        (m, max(1, min(bucket_length(int(lengths[rows].max())), int(lengths.max()))))
        for m, lengths in pool.lengths.items()
    )


def bucket_length(length: int) -> int:
    """16, 32, 64 …, the first that is enough."""
    found = MIN_PADDED_LENGTH
    while found < length:
        found *= 2
    return found


# ---- from rows to a batch ----


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Resident:
    """A pool on the device. flat[m]: [all time steps, feat], utterance i at start[m][i] for length[m][i] steps."""

    flat: dict[str, Any]
    start: dict[str, Any]
    length: dict[str, Any]
    targets: dict[str, Any]


def blocks_of(pool: UtterancePool, mesh: jax.sharding.Mesh) -> list[tuple[np.ndarray, bool]]:
    """The pool in the parts that are packed one behind the other, and whether this process reads them: all of it where there
    is one process, else one part for every device."""
    if jax.process_count() == 1:
        return [(np.arange(len(pool)), True)]
    pieces = np.array_split(np.arange(len(pool)), mesh.size)
    held = set(sharding.addressable_rows(mesh.size, sharding.all_devices_sharding(mesh)).tolist())
    return [(piece, i in held) for i, piece in enumerate(pieces)]


def pack(
    corpus: Corpus, pool: UtterancePool, features: Mapping[int, dict[str, np.ndarray]], mesh: jax.sharding.Mesh
) -> Resident:
    """The pool on every device, its features one behind the other; each process gives what it has read."""
    blocks = blocks_of(pool, mesh)
    flat, start, length = {}, {}, {}
    for m in pool.lengths:
        length[m] = pool.lengths[m].astype(np.int32)
        size = max(int(length[m][rows].sum()) for rows, _ in blocks)
        start[m] = np.zeros(len(pool), np.int32)
        for i, (rows, _) in enumerate(blocks):
            start[m][rows] = i * size + np.cumsum(length[m][rows]) - length[m][rows]
        width, dtype = corpus.modalities[m]["width"], corpus.modalities[m]["dtype"]
        held = [rows for rows, here in blocks if here]
        packed = np.zeros((len(held), size, width), dtype)
        for block, rows in zip(packed, held, strict=True):
            values = [features[i][m] for i in rows.tolist() if m in features[i]]
            if values:
                np.concatenate(values, out=block[: int(length[m][rows].sum())])
        whole = len(blocks) * size
        flat[m] = (
            sharding.from_local_rows(packed.reshape(-1, width), whole, sharding.all_devices_sharding(mesh))
            if len(blocks) > 1
            else packed[0]
        )
    flat = (
        sharding.replicate(flat, mesh)
        if len(blocks) > 1
        else sharding.device_put_global(flat, sharding.replicated(mesh))
    )
    rest = sharding.device_put_global((start, length, dict(pool.targets)), sharding.replicated(mesh))
    return Resident(flat, *rest)


def gather(resident: Resident, rows: Int[Array, "batch"], pads: PaddedLengths) -> Batch:
    """The batch of `rows`, padded to `pads`; row -1 becomes padding of weight 0."""
    real = rows >= 0
    at = jnp.maximum(rows, 0)
    features, mask = {}, {}
    for m, time in pads:
        steps = jnp.arange(time, dtype=jnp.int32)[None]
        mask[m] = (steps < resident.length[m][at][:, None]) & real[:, None]
        value = resident.flat[m].at[resident.start[m][at][:, None] + steps].get(mode="clip")
        features[m] = jnp.where(mask[m][..., None], value.astype(jnp.float32), 0)
    targets = {name: x[at] for name, x in resident.targets.items()}
    return Batch(features, mask, targets, real.astype(jnp.float32))


def collate(
    corpus: Corpus,
    pool: UtterancePool,
    rows: np.ndarray,
    pads: PaddedLengths,
    nonfinite: str,
    view: View | None = None,
    draw: tuple[int, ...] | None = None,
) -> Batch:
    """The same batch as `gather`, read from disk, as NumPy arrays. Frames come as `view` makes them, which varies with `draw`
    and the utterance."""
    real = rows >= 0
    examples = [read_utterance(corpus, pool, int(i), nonfinite)[0] if i >= 0 else {} for i in rows]
    features, mask = {}, {}
    for m, time in pads:
        size = (
            (view.size, view.size, 3) if view and "pixels" in corpus.modalities[m] else (corpus.modalities[m]["width"],)
        )
        features[m] = np.zeros((len(rows), time, *size), np.float32 if len(size) == 1 else np.uint8)
        mask[m] = np.zeros((len(rows), time), bool)
        for i, example in enumerate(examples):
            if m not in example:
                continue
            value = example[m]
            if isinstance(value, EncodedFrames):
                assert view is not None
                rng = None if draw is None else np.random.default_rng([*draw, int(rows[i])])
                row, seen = int(pool.rows[rows[i]]), functools.partial(view.of, rng=rng)
                value = corpus.decoded(row, value, seen)
            features[m][i, : len(value)] = value
            mask[m][i, : len(value)] = True
    at = np.maximum(rows, 0)
    targets = {name: x[at] for name, x in pool.targets.items()}
    return Batch(features, mask, targets, real.astype(np.float32))


def take_rows(batch: Batch, places: Int[Array, "batch"]) -> Batch:
    """The batch's rows at `places`; place -1 becomes padding of weight 0."""
    real, at = places >= 0, jnp.maximum(places, 0)
    mask = {m: x[at] & real[:, None] for m, x in batch.mask.items()}
    features = {m: where_real(mask[m], x[at]) for m, x in batch.features.items()}
    targets = {name: x[at] for name, x in batch.targets.items()}
    return Batch(features, mask, targets, real.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """Batches of a pool for the device, as (source, places, pads): inside jit, `fetch` makes the Batch of them.

    Resident: source is the packed pool, places are positions in it. Streamed: source is a Batch read from disk, in which
    every utterance occurs once, places are positions in that (None: all of it, in order).
    """

    corpus: Corpus
    pool: UtterancePool
    nonfinite: str
    mesh: jax.sharding.Mesh
    source: Resident | None = None
    read_threads: int = 1
    pieces: int = 1  # a training batch is gone through in so many
    view: View | None = None  # of frames
    seed: int = 0  # of what varies in them

    @functools.cached_property
    def laid(self) -> jax.sharding.NamedSharding:
        """How the rows of a batch lie as they arrive: streamed ones so that no two processes hold the same."""
        return sharding.all_devices_sharding(self.mesh) if self._read_apart() else sharding.batch_sharding(self.mesh)

    def _read_apart(self) -> bool:
        return self.source is None and jax.process_count() > 1

    def _shares(self) -> int:
        """Into how many pieces the rows of a batch are cut."""
        return self.mesh.size if self._read_apart() else self.mesh.shape["data"]

    def filled(self, rows: np.ndarray, pieces: int = 1) -> np.ndarray:
        """The rows and as many -1, rows of weight 0, as let all devices share `pieces` of them evenly."""
        return np.pad(rows, (0, -len(rows) % (pieces * self._shares())), constant_values=-1)

    def mine(self, rows: np.ndarray) -> np.ndarray:
        """Which of a batch's `rows` this process's devices take; of a streamed one, which it reads."""
        return rows[sharding.addressable_rows(len(rows), self.laid)]

    def training(self, order: Order, start: int) -> Iterator[tuple[Resident | Batch, Any, PaddedLengths, np.ndarray]]:
        """Batches from step `start` on, without end, and the utterances in them; streamed ones are read ahead by Grain."""
        if self.source is not None:
            for step in range(start, sys.maxsize):
                rows = self.filled(order[step], self.pieces)
                places = sharding.device_put_global(rows, sharding.batch_sharding(self.mesh))
                yield self.source, places, padded_lengths(self.pool, rows[rows >= 0]), rows

        def batch(step: int) -> Batch:
            return self._collate(self.filled(order[step], self.pieces), (self.seed, step))

        batches = grain.MapDataset.range(start, sys.maxsize).map(batch)
        for step, read in enumerate(self._ahead(batches), start):
            rows = self.filled(order[step], self.pieces)
            yield sharding.from_local_rows(read, len(rows), self.laid), None, (), rows

    def evaluation(
        self, parts: Sequence[np.ndarray], batch_size: int, distinct: int
    ) -> Iterator[
        tuple[Resident | Batch, Int[np.ndarray, "parts batch"], PaddedLengths, Int[np.ndarray, "parts batch"]]
    ]:
        """Batches that hold every utterance of every part once; what is in several parts is read once.

        Places and utterances are [parts, batch], NumPy arrays. distinct: at most so many of the parts differ; the size of a
        streamed batch is this times batch_size, so that it stays the same when there are fewer.
        """
        batch_size += -batch_size % self.mesh.shape["data"]
        steps = evaluation_order(self.pool, parts, batch_size)
        if self.source is not None:
            for rows in steps:
                yield self.source, rows, padded_lengths(self.pool, rows[rows >= 0]), rows
            return
        read, slots = [], []
        for rows in steps:
            real = np.unique(rows[rows >= 0])
            whole = self.filled(np.full(batch_size * distinct, -1, np.int32))
            slots.append(
                np.arange(len(whole)).reshape(self._shares(), -1).T.ravel()[: len(real)]
            )  # in every share alike
            whole[slots[-1]] = real
            read.append(whole)
        batches = grain.MapDataset.source(read).map(self._collate)
        for rows, whole, slot, batch in zip(steps, read, slots, self._ahead(batches), strict=True):
            places = np.where(rows >= 0, np.append(slot, -1)[np.searchsorted(whole[slot], rows)], -1).astype(np.int32)
            yield sharding.from_local_rows(batch, len(whole), self.laid), places, (), rows

    def _ahead(self, batches: grain.MapDataset) -> Iterator[Batch]:
        """Read by threads ahead of who takes them."""
        ahead = self.read_threads if self.view else 2 * self.read_threads  # frames are large
        options = grain.ReadOptions(num_threads=self.read_threads, prefetch_buffer_size=ahead)
        return iter(batches.to_iter_dataset(options))

    def _collate(self, rows: np.ndarray, draw: tuple[int, ...] | None = None) -> Batch:
        """This process's part of the batch of `rows`."""
        pads = padded_lengths(self.pool, rows[rows >= 0])
        return collate(self.corpus, self.pool, self.mine(rows), pads, self.nonfinite, self.view, draw)


def materialize_batch(source: Resident | Batch, places: Int[Array, "batch"] | None, pads: PaddedLengths) -> Batch:
    """Inside jit: the batch that a Feed's (source, places, pads) stand for."""
    if isinstance(source, Batch):
        return source if places is None else take_rows(source, places)
    assert places is not None
    return gather(source, places, pads)
