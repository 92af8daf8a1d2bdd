"""Corpus -> batches. Which utterances make up a batch is a pure function of (seed, step); see `Order`.

The utterances either live on the device, packed without padding, and rows are gathered inside jit (`Resident`, `gather`),
or batches are read and padded on the host ahead of the step (`collate`). Both give the same batch.
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
from jaxtyping import Array, Bool, Int

from mer_jax.batch import Batch
from mer_jax.errors import UserError
from mer_jax.records import Corpus, Utterance

SHORTEST_PAD = 16  # padded lengths are this times a power of two: few programs to compile
Pads = tuple[tuple[str, int], ...]  # padded time steps of each modality; hashable, so static under jit


@dataclasses.dataclass(frozen=True)
class Pool:
    """The utterances that an experiment uses: `rows` in the corpus, their label ids, and per modality how many time steps
    each keeps. Everywhere else an utterance is a position in the pool."""

    rows: np.ndarray
    labels: np.ndarray
    lengths: Mapping[str, np.ndarray]
    cut: Mapping[str, np.ndarray]  # Bool: which sequences were longer

    def __len__(self) -> int:
        return len(self.rows)


def take_pool(corpus: Corpus, rows: np.ndarray, max_lengths: Mapping[str, int]) -> Pool:
    """The corpus's utterances `rows`, their sequences cut to `max_lengths` time steps."""
    full = {m: corpus.index[f"length/{m}"][rows] for m in max_lengths}
    return Pool(
        rows=rows,
        labels=corpus.label_ids(rows),
        lengths={m: np.minimum(full[m], limit) for m, limit in max_lengths.items()},
        cut={m: full[m] > limit for m, limit in max_lengths.items()},
    )


def read(corpus: Corpus, pool: Pool, i: int, nonfinite: str) -> tuple[dict[str, np.ndarray], dict[str, int], str]:
    """Features of the pool's utterance i, cut to length; how many of their values were not finite; its sentence.

    Those are set to zero if `nonfinite` is "zero"; otherwise the record is refused with a UserError.
    """
    utterance: Utterance = corpus[int(pool.rows[i])]
    features, bad = {}, {}
    for m, lengths in pool.lengths.items():
        if m not in utterance.features:
            continue
        value = utterance.features[m][: lengths[i]]
        finite = np.isfinite(value)
        if not finite.all():
            if nonfinite == "refuse":
                step, feature = np.argwhere(~finite)[0]
                raise UserError(
                    f"{corpus.where(int(pool.rows[i]))}: {m}[{step}, {feature}] is {value[step, feature]}. "
                    "Repair the features, or set --config.data.nonfinite=zero to replace such values by 0 and count them."
                )
            bad[m] = int((~finite).sum())
            value = np.where(finite, value, 0).astype(value.dtype)
        features[m] = value
    return features, bad, utterance.sentence


@dataclasses.dataclass(frozen=True)
class Scan:
    """What one pass over the pool finds: statistics per modality and fold, {"mean", "scale"} of Float32[folds, feat]; how many
    values of every utterance were not finite; the sentences; and the features if they were kept."""

    stats: dict[str, dict[str, np.ndarray]]
    nonfinite: dict[str, np.ndarray]
    sentences: list[str]
    features: list[dict[str, np.ndarray]]


def scan(
    corpus: Corpus,
    pool: Pool,
    train: Bool[np.ndarray, "folds rows"],
    nonfinite: str,
    *,
    keep: bool,
    progress: Callable[[], None] = lambda: None,
) -> Scan:
    """Reads every record of the pool once, in order. A fold's mean and scale are over all time steps of its training part
    (`train`), in float64."""
    widths = {m: corpus.modalities[m]["width"] for m in pool.lengths}
    folds = len(train)
    count = {m: np.zeros(folds) for m in widths}
    first = {m: np.zeros((folds, w)) for m, w in widths.items()}
    second = {m: np.zeros((folds, w)) for m, w in widths.items()}
    bad = {m: np.zeros(len(pool), np.int64) for m in widths}
    kept, sentences = [], []
    for i in range(len(pool)):
        features, found, sentence = read(corpus, pool, i, nonfinite)
        of = np.flatnonzero(train[:, i])
        for m, value in features.items():
            exact = value.astype(np.float64)
            count[m][of] += len(exact)
            first[m][of] += exact.sum(0)
            second[m][of] += np.square(exact).sum(0)
            bad[m][i] = found.get(m, 0)
        sentences.append(sentence)
        if keep:
            kept.append(features)
        progress()
    stats = {}
    for m in widths:
        for fold in np.flatnonzero(count[m] == 0)[:1]:
            raise UserError(f"{corpus.path}: no utterance of the training part (fold {fold}) has {m!r} features")
        mean = first[m] / count[m][:, None]
        deviation = np.sqrt(np.maximum(second[m] / count[m][:, None] - np.square(mean), 0))
        scale = np.where(deviation > 1e-6, deviation, 1.0)  # a constant feature stays 0
        stats[m] = {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}
    return Scan(stats, bad, sentences, kept)


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

    def dataset(self) -> grain.MapDataset:
        """The same as a Grain dataset, element k = batch k."""
        return grain.MapDataset.range(sys.maxsize).map(self.__getitem__)

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


def training_order(pool: Pool, rows: np.ndarray, batch_size: int, seed: int, window: int) -> Order:
    return Order(rows.astype(np.int32), _total_lengths(pool, rows), batch_size, seed, window)


def evaluation_order(pool: Pool, parts: Sequence[np.ndarray], batch_size: int) -> Int[np.ndarray, "steps parts batch"]:
    """Every utterance of every part once, by length; batches are filled up with -1, rows of weight 0."""
    steps = max(-(-len(rows) // batch_size) for rows in parts)
    order = np.full((len(parts), steps * batch_size), -1, np.int32)
    for filled, rows in zip(order, parts, strict=True):
        filled[: len(rows)] = rows[np.argsort(_total_lengths(pool, rows), kind="stable")]
    return np.ascontiguousarray(order.reshape(len(parts), steps, batch_size).swapaxes(0, 1))


def _total_lengths(pool: Pool, rows: np.ndarray) -> np.ndarray:
    return sum((lengths[rows] for lengths in pool.lengths.values()), np.zeros(len(rows), np.int32))


def pads_of(pool: Pool, rows: np.ndarray) -> Pads:
    """Padded lengths for a batch: the rung of 1, 16, 32, 64 … that holds it, never more than the pool's longest."""
    return tuple((m, _rung(int(lengths[rows].max()), int(lengths.max()))) for m, lengths in pool.lengths.items())


def _rung(length: int, longest: int) -> int:
    rung = SHORTEST_PAD
    while rung < length:
        rung *= 2
    return max(1, min(rung, longest))


# ---- from rows to a batch ----


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Resident:
    """A pool on the device. flat[m]: [all time steps, feat], utterance i at start[m][i] for length[m][i] steps."""

    flat: dict[str, Any]
    start: dict[str, Any]
    length: dict[str, Any]
    label: Any


def pack(pool: Pool, features: list[dict[str, np.ndarray]]) -> Resident:
    """The pool's features one behind the other, as NumPy arrays."""
    flat, start, length = {}, {}, {}
    for m in pool.lengths:
        length[m] = np.array([len(f.get(m, ())) for f in features], np.int32)
        start[m] = (np.cumsum(length[m]) - length[m]).astype(np.int32)
        flat[m] = np.concatenate([f[m] for f in features if m in f])
    return Resident(flat, start, length, pool.labels)


def gather(resident: Resident, rows: Int[Array, "batch"], pads: Pads) -> Batch:
    """The batch of `rows`, padded to `pads`; row -1 becomes padding of weight 0."""
    real = rows >= 0
    at = jnp.maximum(rows, 0)
    features, mask = {}, {}
    for m, time in pads:
        steps = jnp.arange(time, dtype=jnp.int32)[None]
        mask[m] = (steps < resident.length[m][at][:, None]) & real[:, None]
        value = resident.flat[m].at[resident.start[m][at][:, None] + steps].get(mode="clip")
        features[m] = jnp.where(mask[m][..., None], value.astype(jnp.float32), 0)
    return Batch(features, mask, resident.label[at], real.astype(jnp.float32))


def collate(corpus: Corpus, pool: Pool, rows: np.ndarray, nonfinite: str) -> Batch:
    """The same batch as `gather`, read from disk, as NumPy arrays."""
    real = rows >= 0
    examples = [read(corpus, pool, int(i), nonfinite)[0] if i >= 0 else {} for i in rows]
    features, mask = {}, {}
    for m, time in pads_of(pool, rows[real]):
        features[m] = np.zeros((len(rows), time, corpus.modalities[m]["width"]), np.float32)
        mask[m] = np.zeros((len(rows), time), bool)
        for i, example in enumerate(examples):
            if m in example:
                features[m][i, : len(example[m])] = example[m]
                mask[m][i, : len(example[m])] = True
    return Batch(features, mask, pool.labels[np.maximum(rows, 0)], real.astype(np.float32))


def choose(batch: Batch, places: Int[Array, "batch"]) -> Batch:
    """The batch's rows at `places`; place -1 becomes padding of weight 0."""
    real, at = places >= 0, jnp.maximum(places, 0)
    mask = {m: x[at] & real[:, None] for m, x in batch.mask.items()}
    features = {m: jnp.where(mask[m][..., None], x[at], 0) for m, x in batch.features.items()}
    return Batch(features, mask, batch.label[at], real.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches of a pool for the device, as (source, places, pads): inside jit, `fetch` makes the Batch of them.

    Resident: source is the packed pool, places are positions in it. Streamed: source is a Batch read from disk, in which
    every utterance occurs once, places are positions in that (None: all of it, in order).
    """

    corpus: Corpus
    pool: Pool
    nonfinite: str
    put: Callable[[Any], Any]  # [batch, …] -> on the devices
    source: Resident | None = None
    read_threads: int = 1

    def training(self, order: Order, start: int) -> Iterator[tuple[Resident | Batch, Any, Pads, np.ndarray]]:
        """Batches from step `start` on, without end, and the utterances in them; streamed ones are read ahead by Grain."""
        if self.source is not None:
            for step in range(start, sys.maxsize):
                rows = order[step]
                yield self.source, self.put(rows), pads_of(self.pool, rows), rows
        batches = order.dataset().slice(slice(start, None)).map(self._collate)
        ahead = grain.ReadOptions(num_threads=self.read_threads, prefetch_buffer_size=2 * self.read_threads)
        for step, batch in enumerate(batches.to_iter_dataset(ahead), start):
            yield self.put(batch), None, (), order[step]

    def evaluation(
        self, parts: Sequence[np.ndarray], batch_size: int, distinct: int
    ) -> Iterator[tuple[Resident | Batch, Int[np.ndarray, "parts batch"], Pads, Int[np.ndarray, "parts batch"]]]:
        """Batches that hold every utterance of every part once; what is in several parts is read once.

        Places and utterances are [parts, batch], NumPy arrays. distinct: at most so many of the parts differ; the size of a
        streamed batch is this times batch_size, so that it stays the same when there are fewer.
        """
        block = batch_size * distinct
        for rows in evaluation_order(self.pool, parts, batch_size):
            real = np.unique(rows[rows >= 0])
            if self.source is not None:
                yield self.source, rows, pads_of(self.pool, real), rows
                continue
            read = np.full(block, -1, np.int32)
            read[: len(real)] = real
            places = np.where(rows >= 0, np.searchsorted(real, rows), -1).astype(np.int32)
            yield self.put(self._collate(read)), places, (), rows

    def _collate(self, rows: np.ndarray) -> Batch:
        return collate(self.corpus, self.pool, rows, self.nonfinite)


def fetch(source: Resident | Batch, places: Int[Array, "batch"] | None, pads: Pads) -> Batch:
    """Inside jit: the batch that a Feed's (source, places, pads) stand for."""
    if isinstance(source, Batch):
        return source if places is None else choose(source, places)
    assert places is not None
    return gather(source, places, pads)


def packed_megabytes(corpus: Corpus, pool: Pool) -> float:
    """Size of the pool on the device, known before anything is read."""
    size = sum(
        int(lengths.sum()) * corpus.modalities[m]["width"] * np.dtype(corpus.modalities[m]["dtype"]).itemsize
        for m, lengths in pool.lengths.items()
    )
    return size / 2**20
