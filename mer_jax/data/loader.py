"""Corpus -> batches. Which utterances make up a batch is a pure function of (seed, step); see `Order`.

The utterances either live on the device, packed without padding, and rows are gathered inside jit (`Resident`,
`gather`), or batches are read and padded on the host ahead of the step (`collate`). Both give the same batch. Of
several processes each reads its own part, of the pool at the start and of every streamed batch.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mer_jax.data.batch import AnyBatch, Batch, Conversations, Turns, pad_rows, where_real
from mer_jax.data.conversations import BatchShape, Layout, PaddedLengths, Rows
from mer_jax.data.corpus import Corpus
from mer_jax.data.frames import EncodedFrames, View
from mer_jax.data.pool import UtterancePool, read_utterance
from mer_jax.runtime import sharding

MIN_PADDED_LENGTH = 16  # padded lengths are this times a power of two: few programs to compile


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

    @property
    def steps_per_epoch(self) -> int:
        """Batches that hold as many utterances as there are; the stream does not stop at an epoch's end."""
        return -(-len(self.rows) // self.batch_size)

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
    """The order in which the pool's utterances `rows` train; see `Order`."""
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


def padded_lengths_of(pool: UtterancePool, rows: np.ndarray) -> PaddedLengths:
    """Padded lengths for a batch: its `bucket_length`, never more than the pool's longest, and at least 1."""
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Resident:
    """A pool on the device. flat[m]: [all time steps, feat], utterance i at start[m][i] for length[m][i] steps.
    norm_group: of every utterance, as `Batch` has it."""

    flat: dict[str, Any]
    start: dict[str, Any]
    length: dict[str, Any]
    targets: dict[str, Any]
    norm_group: Any = None


class Block(NamedTuple):
    """Utterances that are packed one behind the other; `local`: whether this process reads them."""

    rows: np.ndarray
    local: bool


def blocks_of(pool: UtterancePool, mesh: jax.sharding.Mesh) -> list[Block]:
    """The pool in blocks: one where there is one process, else one for every device."""
    if jax.process_count() == 1:
        return [Block(np.arange(len(pool)), True)]
    held = set(sharding.addressable_rows(mesh.size, sharding.all_devices_sharding(mesh)).tolist())
    return [Block(rows, i in held) for i, rows in enumerate(np.array_split(np.arange(len(pool)), mesh.size))]


def local_rows_of(pool: UtterancePool, mesh: jax.sharding.Mesh) -> np.ndarray:
    """The utterances that this process reads."""
    return np.concatenate([block.rows for block in blocks_of(pool, mesh) if block.local])


def pack(
    corpus: Corpus, pool: UtterancePool, features: Mapping[int, dict[str, np.ndarray]], mesh: jax.sharding.Mesh
) -> Resident:
    """The pool on every device, its features one behind the other; each process gives what it has read."""
    blocks = blocks_of(pool, mesh)
    flat, start, length = {}, {}, {}
    for m in pool.lengths:
        length[m] = pool.lengths[m].astype(np.int32)
        size = max(int(length[m][block.rows].sum()) for block in blocks)
        start[m] = np.zeros(len(pool), np.int32)
        for i, block in enumerate(blocks):
            start[m][block.rows] = i * size + np.cumsum(length[m][block.rows]) - length[m][block.rows]
        width, dtype = corpus.modalities[m]["width"], corpus.modalities[m]["dtype"]
        local_blocks = [block for block in blocks if block.local]
        packed = np.zeros((len(local_blocks), size, width), dtype)
        for out, block in zip(packed, local_blocks, strict=True):
            values = [features[i][m] for i in block.rows.tolist() if m in features[i]]
            if values:
                np.concatenate(values, out=out[: int(length[m][block.rows].sum())])
        flat[m] = packed.reshape(-1, width)
        if len(blocks) > 1:
            everywhere = sharding.all_devices_sharding(mesh)
            flat[m] = sharding.from_local_rows(flat[m], len(blocks) * size, everywhere)
    replicated = sharding.replicated(mesh)
    flat = sharding.replicate(flat, mesh) if len(blocks) > 1 else sharding.device_put_global(flat, replicated)
    beside = start, length, dict(pool.targets), groups_of(pool)
    return Resident(flat, *sharding.device_put_global(beside, replicated))


def groups_of(pool: UtterancePool) -> np.ndarray | None:
    """`Batch.norm_group` of every utterance of the pool."""
    return None if pool.groups is None else pool.groups.of


def gather(resident: Resident, rows: Int[Array, "batch"], padded_lengths: PaddedLengths) -> Batch:
    """The batch of `rows`, padded to these lengths; row -1 becomes padding of weight 0."""
    real = rows >= 0
    at = jnp.maximum(rows, 0)
    features, mask = {}, {}
    for m, time in padded_lengths:
        steps = jnp.arange(time, dtype=jnp.int32)[None]
        mask[m] = (steps < resident.length[m][at][:, None]) & real[:, None]
        value = resident.flat[m].at[resident.start[m][at][:, None] + steps].get(mode="clip")
        features[m] = jnp.where(mask[m][..., None], value.astype(jnp.float32), 0)
    targets = {name: x[at] for name, x in resident.targets.items()}
    group = None if resident.norm_group is None else resident.norm_group[at]
    return Batch(features, mask, targets, real.astype(jnp.float32), norm_group=group, position=rows)


def collate(
    corpus: Corpus,
    pool: UtterancePool,
    rows: np.ndarray,
    padded_lengths: PaddedLengths,
    nonfinite: str,
    view: View | None = None,
    seeds: tuple[int, ...] | None = None,
) -> Batch:
    """The same batch as `gather`, read from disk, as NumPy arrays. Frames come as `view` makes them, varied by the
    seeds and the utterance, or not at all without seeds."""
    examples = [read_utterance(corpus, pool, int(i), nonfinite)[0] if i >= 0 else {} for i in rows]

    def sequence(m: str, position: int) -> Any:
        """Of the utterance at this position of the batch, frames decoded."""
        value = examples[position].get(m, ())
        if not isinstance(value, EncodedFrames):
            return value
        assert view is not None
        row = int(rows[position])
        rng = None if seeds is None else np.random.default_rng([*seeds, row])
        return corpus.decode_frames(int(pool.rows[row]), value, functools.partial(view.apply, rng=rng))

    features, mask = {}, {}
    for m, time in padded_lengths:
        spec = corpus.modalities[m]
        shape: tuple[int, ...] = (spec["width"],)
        dtype: Any = np.float32
        if view and "pixels" in spec:
            shape, dtype = (view.size, view.size, 3), np.uint8
        sequences = (sequence(m, position) for position in range(len(rows)))
        features[m], mask[m] = pad_rows(sequences, len(rows), time, shape, dtype)
    at = np.maximum(rows, 0)
    targets = {name: x[at] for name, x in pool.targets.items()}
    groups = groups_of(pool)
    group = None if groups is None else groups[at]
    return Batch(features, mask, targets, (rows >= 0).astype(np.float32), norm_group=group, position=rows)


def take_rows(batch: Batch, row_positions: Int[Array, "batch"]) -> Batch:
    """The batch's rows at these positions; position -1 becomes padding of weight 0."""
    real, at = row_positions >= 0, jnp.maximum(row_positions, 0)
    mask = {m: x[at] & real[:, None] for m, x in batch.mask.items()}
    features = {m: where_real(mask[m], x[at]) for m, x in batch.features.items()}
    targets = {name: x[at] for name, x in batch.targets.items()}
    group = None if batch.norm_group is None else batch.norm_group[at]
    position = None if batch.position is None else jnp.where(real, batch.position[at], -1)
    return Batch(features, mask, targets, real.astype(jnp.float32), norm_group=group, position=position)


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """Batches of a pool for the device, as (source, row_positions, padded_lengths): inside jit, `materialize_batch`
    makes the Batch of them.

    Resident: source is the packed pool, row positions are positions in it. Streamed: source is a Batch read from disk,
    in which every utterance occurs once, row positions are positions in that (None: all of it, in order).

    microbatches: into how many parts a training batch is cut. view: how frames are seen. seed: of what varies in them.
    """

    corpus: Corpus
    pool: UtterancePool
    nonfinite: str
    mesh: jax.sharding.Mesh
    source: Resident | None = None
    read_threads: int = 1
    microbatches: int = 1
    view: View | None = None
    seed: int = 0

    @functools.cached_property
    def row_sharding(self) -> jax.sharding.NamedSharding:
        """Of a batch as it arrives: streamed rows so that no two processes hold the same."""
        if self._is_read_in_shares():
            return sharding.all_devices_sharding(self.mesh)
        return sharding.batch_sharding(self.mesh)

    def _is_read_in_shares(self) -> bool:
        return self.source is None and jax.process_count() > 1

    def _row_shards(self) -> int:
        """Into how many pieces the rows of a batch are cut."""
        return self.mesh.size if self._is_read_in_shares() else self.mesh.shape["data"]

    def pad(self, rows: np.ndarray, microbatches: int = 1) -> np.ndarray:
        """The rows and as many -1, rows of weight 0, as let all devices share all microbatches evenly."""
        return np.pad(rows, (0, -len(rows) % (microbatches * self._row_shards())), constant_values=-1)

    def addressable_rows(self, rows: np.ndarray, shape: Any = ()) -> np.ndarray:
        """Which of a batch's `rows` this process's devices take; of a streamed one, which it reads. shape: what came
        with the batch."""
        return rows[sharding.addressable_rows(len(rows), self.row_sharding)]

    def training_order(self, rows: np.ndarray, batch_size: int, seed: int, window: int, epochs: int) -> Any:
        """The order in which the pool's utterances `rows` train; see `Order`."""
        return training_order(self.pool, rows, batch_size, seed, window)

    def describe(self, order: Any) -> str:
        """What a person should know of the batches; nothing of single utterances."""
        return ""

    def training(self, order: Any, start: int) -> Iterator[tuple[Resident | Batch, Any, PaddedLengths, np.ndarray]]:
        """Batches from step `start` on, without end, and the utterances in them; Grain reads streamed ones ahead."""
        if self.source is not None:
            for step in range(start, sys.maxsize):
                rows = self.pad(order[step], self.microbatches)
                row_positions = sharding.device_put_global(rows, sharding.batch_sharding(self.mesh))
                yield self.source, row_positions, padded_lengths_of(self.pool, rows[rows >= 0]), rows

        def batch(step: int) -> Batch:
            return self._read(self.pad(order[step], self.microbatches), (self.seed, step))

        batches = grain.MapDataset.range(start, sys.maxsize).map(batch)
        for step, read in enumerate(self._prefetched(batches), start):
            rows = self.pad(order[step], self.microbatches)
            yield sharding.from_local_rows(read, len(rows), self.row_sharding), None, (), rows

    def evaluation(
        self, parts: Sequence[np.ndarray], batch_size: int, distinct_parts: int
    ) -> Iterator[
        tuple[Resident | Batch, Int[np.ndarray, "parts batch"], PaddedLengths, Int[np.ndarray, "parts batch"]]
    ]:
        """Batches that hold every utterance of every part once; what is in several parts is read once.

        Row positions and utterances are [parts, batch], NumPy arrays. distinct_parts: at most so many of the parts
        differ; the size of a streamed batch is this times batch_size, so that it stays the same when there are fewer.
        """
        batch_size += -batch_size % self.mesh.shape["data"]
        steps = evaluation_order(self.pool, parts, batch_size)
        if self.source is not None:
            for rows in steps:
                yield self.source, rows, padded_lengths_of(self.pool, rows[rows >= 0]), rows
            return
        read, slots = [], []  # of every step: the rows of the batch that is read, and where in it they are
        for rows in steps:
            real = np.unique(rows[rows >= 0])
            read.append(self.pad(np.full(batch_size * distinct_parts, -1, np.int32)))
            shares = np.arange(len(read[-1])).reshape(self._row_shards(), -1)
            slots.append(shares.T.ravel()[: len(real)])  # in every share alike
            read[-1][slots[-1]] = real
        batches = self._prefetched(grain.MapDataset.source(read).map(self._read))
        for rows, all_rows, slot, batch in zip(steps, read, slots, batches, strict=True):
            found = np.append(slot, -1)[np.searchsorted(all_rows[slot], rows)]
            row_positions = np.where(rows >= 0, found, -1).astype(np.int32)
            yield sharding.from_local_rows(batch, len(all_rows), self.row_sharding), row_positions, (), rows

    def _prefetched(self, batches: grain.MapDataset) -> Iterator[Any]:
        """Threads read ahead of who takes the batches."""
        ahead = self.read_threads if self.view else 2 * self.read_threads  # frames are large
        options = grain.ReadOptions(num_threads=self.read_threads, prefetch_buffer_size=ahead)
        return iter(batches.to_iter_dataset(options))

    def _read(self, rows: np.ndarray, seeds: tuple[int, ...] | None = None) -> Batch:
        """This process's part of the batch of `rows`."""
        lengths = padded_lengths_of(self.pool, rows[rows >= 0])
        return collate(self.corpus, self.pool, self.addressable_rows(rows), lengths, self.nonfinite, self.view, seeds)


def materialize_batch(source: Any, row_positions: Any, shape: BatchShape) -> AnyBatch:
    """Inside jit: the batch that a BatchSource's (source, row_positions, padded_lengths) stand for, or the batch of
    dialogues that a ConversationSource's (source, rows, layout) do."""
    if isinstance(shape, Layout):
        return materialize_conversations(source, row_positions, shape)
    if isinstance(source, Batch):
        return source if row_positions is None else take_rows(source, row_positions)
    assert row_positions is not None
    return gather(source, row_positions, shape)


def materialize_conversations(source: Any, rows: Rows, layout: Layout) -> Conversations:
    """Inside jit: the batch of these rows. source: the packed pool; or, for each group, a Batch that was read from
    disk, in which `rows.rows` then are positions (None: all of it, in order)."""
    groups, first = [], 0
    microbatches = rows.counts.shape[0] // layout.rows
    for i, (size, lengths) in enumerate(layout.groups):
        here = slice(first, first := first + microbatches * size)
        at = Rows(*(x if x is None else x[here] for x in rows))
        if isinstance(source, Resident):
            group = gather(source, at.rows, lengths)
        else:
            group = source[i] if at.rows is None else take_rows(source[i], at.rows)
        turns = Turns(at.place, at.dialogue, at.speaker)
        groups.append(dataclasses.replace(group, weight=jnp.where(at.counts, group.weight, 0), turns=turns))
    return Conversations(tuple(groups), layout.lines, layout.turns)
