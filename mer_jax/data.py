"""Corpus -> batches. Which utterances make up a batch is a pure function of (seed, step); see `Order`.

A part of the corpus either lives on the device, packed without padding, and rows are gathered inside jit (`Resident`,
`gather`), or its batches are read and padded on the host ahead of the step (`collate`). Both give the same batch.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mer_jax.batch import Batch
from mer_jax.errors import UserError
from mer_jax.records import Corpus, Utterance

SHORTEST_PAD = 16  # padded lengths are this times a power of two: few programs to compile
Pads = tuple[tuple[str, int], ...]  # padded time steps of each modality; hashable, so static under jit


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of the split: `rows` in the corpus, their label ids, and per modality how many time steps each keeps."""

    name: str
    rows: np.ndarray
    labels: np.ndarray
    lengths: Mapping[str, np.ndarray]
    truncated: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.rows)


def take_part(corpus: Corpus, name: str, max_lengths: Mapping[str, int]) -> Part:
    """Part `name` of the split written in the records, its sequences cut to `max_lengths` time steps."""
    rows = corpus.rows(name)
    full = {m: corpus.index[f"length/{m}"][rows] for m in max_lengths}
    return Part(
        name=name,
        rows=rows,
        labels=corpus.label_ids(rows),
        lengths={m: np.minimum(full[m], limit) for m, limit in max_lengths.items()},
        truncated={m: int((full[m] > limit).sum()) for m, limit in max_lengths.items()},
    )


def read(corpus: Corpus, part: Part, i: int, nonfinite: str) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Features of the part's utterance i, cut to length, and how many of their values were not finite.

    Those are set to zero if `nonfinite` is "zero"; otherwise the record is refused with a UserError.
    """
    utterance: Utterance = corpus[int(part.rows[i])]
    features, bad = {}, {}
    for m, lengths in part.lengths.items():
        if m not in utterance.features:
            continue
        value = utterance.features[m][: lengths[i]]
        finite = np.isfinite(value)
        if not finite.all():
            if nonfinite == "refuse":
                step, feature = np.argwhere(~finite)[0]
                raise UserError(
                    f"{corpus.where(int(part.rows[i]))}: {m}[{step}, {feature}] is {value[step, feature]}. "
                    "Repair the features, or set --config.data.nonfinite=zero to replace such values by 0 and count them."
                )
            bad[m] = int((~finite).sum())
            value = np.where(finite, value, 0).astype(value.dtype)
        features[m] = value
    return features, bad


@dataclasses.dataclass(frozen=True)
class Scan:
    """What one pass over a part finds: statistics per modality, non-finite values, and the features if they were kept."""

    stats: dict[str, dict[str, np.ndarray]]
    nonfinite: dict[str, int]
    features: list[dict[str, np.ndarray]]


def scan(
    corpus: Corpus, part: Part, nonfinite: str, *, keep: bool, progress: Callable[[], None] = lambda: None
) -> Scan:
    """Reads every record of the part once, in order. Mean and scale are over all its time steps, in float64."""
    widths = {m: corpus.modalities[m]["width"] for m in part.lengths}
    count = dict.fromkeys(widths, 0)
    bad = dict.fromkeys(widths, 0)
    first = {m: np.zeros(w) for m, w in widths.items()}
    second = {m: np.zeros(w) for m, w in widths.items()}
    kept = []
    for i in range(len(part)):
        features, found = read(corpus, part, i, nonfinite)
        for m, value in features.items():
            exact = value.astype(np.float64)
            count[m] += len(exact)
            first[m] += exact.sum(0)
            second[m] += np.square(exact).sum(0)
            bad[m] += found.get(m, 0)
        if keep:
            kept.append(features)
        progress()
    stats = {}
    for m in widths:
        if not count[m]:
            raise UserError(f"{corpus.path}: no utterance of the {part.name!r} part has {m!r} features")
        mean = first[m] / count[m]
        deviation = np.sqrt(np.maximum(second[m] / count[m] - np.square(mean), 0))
        scale = np.where(deviation > 1e-6, deviation, 1.0)  # a constant feature stays 0
        stats[m] = {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}
    return Scan(stats, bad, kept)


# ---- which rows make up a batch ----


@dataclasses.dataclass(frozen=True)
class Order:
    """Rows of a part in training order: `order[step]` is Int32[batch], a pure function of (seed, step).

    An endless stream, reshuffled every epoch, in which every utterance occurs once an epoch. The utterances of `window`
    consecutive batches are sorted by length among themselves and their batches shuffled, so that padding is small.
    """

    lengths: np.ndarray
    batch_size: int
    seed: int
    window: int = 1

    def __getitem__(self, step: int) -> np.ndarray:
        return self._windows(step // self.window)[step % self.window]

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


def training_order(part: Part, batch_size: int, seed: int, window: int) -> Order:
    return Order(sum(part.lengths.values(), np.zeros(len(part), np.int32)), batch_size, seed, window)


def evaluation_order(part: Part, batch_size: int) -> list[np.ndarray]:
    """Every row once, by length; the last batch is filled up with -1, rows of weight 0."""
    rows = np.argsort(sum(part.lengths.values()), kind="stable").astype(np.int32)
    rows = np.concatenate([rows, np.full(-len(rows) % batch_size, -1, np.int32)])
    return list(rows.reshape(-1, batch_size))


def pads_of(part: Part, rows: np.ndarray) -> Pads:
    """Padded lengths for a batch: the rung of 1, 16, 32, 64 … that holds it, never more than the part's longest."""
    return tuple((m, _rung(int(lengths[rows].max()), int(lengths.max()))) for m, lengths in part.lengths.items())


def _rung(length: int, longest: int) -> int:
    rung = SHORTEST_PAD
    while rung < length:
        rung *= 2
    return max(1, min(rung, longest))


# ---- from rows to a batch ----


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Resident:
    """A part on the device. flat[m]: [all time steps, feat], utterance i at start[m][i] for length[m][i] steps."""

    flat: dict[str, Any]
    start: dict[str, Any]
    length: dict[str, Any]
    label: Any


def pack(part: Part, features: list[dict[str, np.ndarray]]) -> Resident:
    """The part's features one behind the other, as NumPy arrays."""
    flat, start, length = {}, {}, {}
    for m in part.lengths:
        length[m] = np.array([len(f.get(m, ())) for f in features], np.int32)
        start[m] = (np.cumsum(length[m]) - length[m]).astype(np.int32)
        flat[m] = np.concatenate([f[m] for f in features if m in f])
    return Resident(flat, start, length, part.labels)


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


def collate(corpus: Corpus, part: Part, rows: np.ndarray, nonfinite: str) -> Batch:
    """The same batch as `gather`, read from disk, as NumPy arrays."""
    real = rows >= 0
    examples = [read(corpus, part, int(i), nonfinite)[0] if i >= 0 else {} for i in rows]
    features, mask = {}, {}
    for m, time in pads_of(part, rows[real]):
        features[m] = np.zeros((len(rows), time, corpus.modalities[m]["width"]), np.float32)
        mask[m] = np.zeros((len(rows), time), bool)
        for i, example in enumerate(examples):
            if m in example:
                features[m][i, : len(example[m])] = example[m]
                mask[m][i, : len(example[m])] = True
    return Batch(features, mask, part.labels[np.maximum(rows, 0)], real.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches of one part on the device. `fetch` runs inside jit and turns (source, item) into the Batch.

    Resident: source is the packed part, an item its row numbers. Streamed: source is None, an item the batch itself.
    """

    corpus: Corpus
    part: Part
    nonfinite: str
    put: Callable[[Any], Any]
    source: Resident | None = None
    read_threads: int = 1

    def training(self, order: Order, start: int) -> Iterator[tuple[Any, Pads]]:
        """Items from step `start` on, without end; streamed batches are read ahead by Grain."""
        if self.source is not None:
            for step in range(start, sys.maxsize):
                yield self._item(order[step])
        batches = order.dataset().slice(slice(start, None)).map(self._collate)
        ahead = grain.ReadOptions(num_threads=self.read_threads, prefetch_buffer_size=2 * self.read_threads)
        for batch in batches.to_iter_dataset(ahead):
            yield self.put(batch), ()

    def evaluation(self, batch_size: int) -> Iterator[tuple[Any, Pads, np.ndarray]]:
        """Items that hold every row once, and the rows in them."""
        for rows in evaluation_order(self.part, batch_size):
            yield *self._item(rows), rows

    def _item(self, rows: np.ndarray) -> tuple[Any, Pads]:
        if self.source is not None:
            return self.put(rows), pads_of(self.part, rows[rows >= 0])
        return self.put(self._collate(rows)), ()

    def _collate(self, rows: np.ndarray) -> Batch:
        return collate(self.corpus, self.part, rows, self.nonfinite)


def fetch(source: Resident | None, item: Any, pads: Pads) -> Batch:
    """Inside jit: the batch that a Feed's item stands for."""
    return item if source is None else gather(source, item, pads)


def packed_megabytes(corpus: Corpus, parts: list[Part]) -> float:
    """Size of the parts on the device, known before anything is read."""
    size = sum(
        int(lengths.sum()) * corpus.modalities[m]["width"] * np.dtype(corpus.modalities[m]["dtype"]).itemsize
        for part in parts
        for m, lengths in part.lengths.items()
    )
    return size / 2**20
