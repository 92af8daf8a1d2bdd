"""Corpus -> batches. Which utterances make up a batch is a pure function of (seed, step); see `Order`.

The utterances either live on the device, packed without padding, and rows are gathered inside jit (`Resident`, `gather`),
or batches are read and padded on the host ahead of the step (`collate`). Both give the same batch. Of several processes
each reads its own part, of the pool at the start and of every streamed batch; no record is read by two.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mer_jax import distributed, shard
from mer_jax.batch import Batch, where_real
from mer_jax.errors import UserError
from mer_jax.frames import MEAN, SCALE, Frames, View
from mer_jax.records import Corpus, Utterance

SHORTEST_PAD = 16  # padded lengths are this times a power of two: few programs to compile
Pads = tuple[tuple[str, int], ...]  # padded time steps of each modality; hashable, so static under jit


@dataclasses.dataclass(frozen=True)
class Pool:
    """The utterances that an experiment uses: `rows` in the corpus, their label ids, the distributions to learn
    (Float32[rows, classes]), and per modality how many time steps each keeps. Everywhere else an utterance is a position in
    the pool."""

    rows: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    lengths: Mapping[str, np.ndarray]
    cut: Mapping[str, np.ndarray]  # Bool: which sequences were longer

    def __len__(self) -> int:
        return len(self.rows)


def take_pool(corpus: Corpus, rows: np.ndarray, max_lengths: Mapping[str, int], *, soft: bool = False) -> Pool:
    """The corpus's utterances `rows`, their sequences cut to `max_lengths` time steps. `soft`: what is learnt is what the
    raters say, where any of them chose a class."""
    full = {m: corpus.index[f"length/{m}"][rows] for m in max_lengths}
    labels = corpus.label_ids(rows)
    targets = np.eye(len(corpus.labels), dtype=np.float32)[labels]
    if soft:
        raters = corpus.soft_labels(rows)
        targets = np.where(raters.any(1, keepdims=True), raters, targets)
    return Pool(
        rows=rows,
        labels=labels,
        targets=targets,
        lengths={m: np.minimum(full[m], limit) for m, limit in max_lengths.items()},
        cut={m: full[m] > limit for m, limit in max_lengths.items()},
    )


def read(corpus: Corpus, pool: Pool, i: int, nonfinite: str) -> tuple[dict[str, Any], dict[str, int], str]:
    """Features of the pool's utterance i, cut to length; how many of their values were not finite; its sentence. Frames are
    not decoded.

    Those are set to zero if `nonfinite` is "zero"; otherwise the record is refused with a UserError.
    """
    utterance: Utterance = corpus[int(pool.rows[i])]
    features: dict[str, Any] = {}
    bad = {}
    for m, lengths in pool.lengths.items():
        if m not in utterance.features:
            continue
        value = utterance.features[m][: lengths[i]]
        if isinstance(value, Frames):
            features[m] = value
            continue
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
    """What one pass over the pool finds: statistics per modality and fold, {"mean", "scale"} of Float32[folds, feat] (of frames
    the constants of public image backbones, Float32[folds, 3]); how many
    values of every utterance were not finite; the sentences; and, if they were kept, the features that this process read."""

    stats: dict[str, dict[str, np.ndarray]]
    nonfinite: dict[str, np.ndarray]
    sentences: list[str]
    features: dict[int, dict[str, np.ndarray]]


def scan(
    corpus: Corpus,
    pool: Pool,
    train: Bool[np.ndarray, "folds rows"],
    nonfinite: str,
    *,
    mine: np.ndarray,
    keep: bool,
    progress: Callable[[], None] = lambda: None,
) -> Scan:
    """Reads every record of the pool once, this process those at `mine`. A fold's mean and scale are over all time steps of
    its training part (`train`), in float64. A bad record is a UserError in every process."""
    widths = {m: 0 if "pixels" in corpus.modalities[m] else corpus.modalities[m]["width"] for m in pool.lengths}
    folds = len(train)
    count = {m: np.zeros(folds) for m in widths}
    first = {m: np.zeros((folds, w)) for m, w in widths.items()}
    second = {m: np.zeros((folds, w)) for m, w in widths.items()}
    bad = {m: np.zeros(len(pool), np.int64) for m in widths}
    kept: dict[int, dict[str, np.ndarray]] = {}
    sentences: dict[int, str] = {}
    error = ""
    try:
        for i in mine.tolist():
            features, found, sentences[i] = read(corpus, pool, i, nonfinite)
            of = np.flatnonzero(train[:, i])
            for m, value in features.items():
                count[m][of] += len(value)
                if isinstance(value, Frames):
                    corpus.decoded(int(pool.rows[i]), value, Frames.check)
                    continue
                exact = value.astype(np.float64)
                first[m][of] += exact.sum(0)
                second[m][of] += np.square(exact).sum(0)
                bad[m][i] = found.get(m, 0)
            if keep:
                kept[i] = features
            progress()
    except UserError as refused:
        error = str(refused)
    told = np.frombuffer(json.dumps([error, sentences]).encode(), np.uint8)
    counted = {"count": count, "first": first, "second": second, "bad": bad}
    sums = {f"{name} {m}": x[m] for name, x in counted.items() for m in widths}
    shares = distributed.gather(sums | {"told": told})
    for share in shares:
        error, theirs = json.loads(share["told"].tobytes())
        if error:
            raise UserError(error)
        sentences |= {int(i): sentence for i, sentence in theirs.items()}
    total = {name: np.sum([share[name] for share in shares], axis=0) for name in sums}
    stats = {}
    for m in widths:
        steps = total[f"count {m}"]
        for fold in np.flatnonzero(steps == 0)[:1]:
            raise UserError(f"{corpus.path}: no utterance of the training part (fold {fold}) has {m!r} features")
        if "pixels" in corpus.modalities[m]:
            fixed = {"mean": MEAN, "scale": SCALE}
            stats[m] = {name: np.tile(np.float32(value), (folds, 1)) for name, value in fixed.items()}
            continue
        mean = total[f"first {m}"] / steps[:, None]
        deviation = np.sqrt(np.maximum(total[f"second {m}"] / steps[:, None] - np.square(mean), 0))
        scale = np.where(deviation > 1e-6, deviation, 1.0)  # a constant feature stays 0
        stats[m] = {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}
    nonfinite_of = {m: total[f"bad {m}"] for m in widths}
    return Scan(stats, nonfinite_of, [sentences[i] for i in range(len(pool))], kept)


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
    return tuple(
        (m, max(1, min(rung(int(lengths[rows].max())), int(lengths.max())))) for m, lengths in pool.lengths.items()
    )


def rung(length: int) -> int:
    """16, 32, 64 …, the first that is enough."""
    found = SHORTEST_PAD
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
    label: Any
    target: Any


def blocks_of(pool: Pool, mesh: jax.sharding.Mesh) -> list[tuple[np.ndarray, bool]]:
    """The pool in the parts that are packed one behind the other, and whether this process reads them: all of it where there
    is one process, else one part for every device."""
    if jax.process_count() == 1:
        return [(np.arange(len(pool)), True)]
    pieces = np.array_split(np.arange(len(pool)), mesh.size)
    held = set(shard.mine(mesh.size, shard.along_all(mesh)).tolist())
    return [(piece, i in held) for i, piece in enumerate(pieces)]


def pack(
    corpus: Corpus, pool: Pool, features: Mapping[int, dict[str, np.ndarray]], mesh: jax.sharding.Mesh
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
        flat[m] = shard.join(packed.reshape(-1, width), whole, shard.along_all(mesh)) if len(blocks) > 1 else packed[0]
    flat = shard.spread(flat, mesh) if len(blocks) > 1 else shard.put(flat, shard.replicated(mesh))
    return Resident(flat, *shard.put((start, length, pool.labels, pool.targets), shard.replicated(mesh)))


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
    return Batch(features, mask, resident.label[at], resident.target[at], real.astype(jnp.float32))


def collate(
    corpus: Corpus,
    pool: Pool,
    rows: np.ndarray,
    pads: Pads,
    nonfinite: str,
    view: View | None = None,
    draw: tuple[int, ...] | None = None,
) -> Batch:
    """The same batch as `gather`, read from disk, as NumPy arrays. Frames come as `view` makes them, which varies with `draw`
    and the utterance."""
    real = rows >= 0
    examples = [read(corpus, pool, int(i), nonfinite)[0] if i >= 0 else {} for i in rows]
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
            if isinstance(value, Frames):
                assert view is not None
                rng = None if draw is None else np.random.default_rng([*draw, int(rows[i])])
                row, seen = int(pool.rows[rows[i]]), functools.partial(view.of, rng=rng)
                value = corpus.decoded(row, value, seen)
            features[m][i, : len(value)] = value
            mask[m][i, : len(value)] = True
    at = np.maximum(rows, 0)
    return Batch(features, mask, pool.labels[at], pool.targets[at], real.astype(np.float32))


def choose(batch: Batch, places: Int[Array, "batch"]) -> Batch:
    """The batch's rows at `places`; place -1 becomes padding of weight 0."""
    real, at = places >= 0, jnp.maximum(places, 0)
    mask = {m: x[at] & real[:, None] for m, x in batch.mask.items()}
    features = {m: where_real(mask[m], x[at]) for m, x in batch.features.items()}
    return Batch(features, mask, batch.label[at], batch.target[at], real.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class Feed:
    """Batches of a pool for the device, as (source, places, pads): inside jit, `fetch` makes the Batch of them.

    Resident: source is the packed pool, places are positions in it. Streamed: source is a Batch read from disk, in which
    every utterance occurs once, places are positions in that (None: all of it, in order).
    """

    corpus: Corpus
    pool: Pool
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
        return shard.along_all(self.mesh) if self._read_apart() else shard.along_data(self.mesh)

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
        return rows[shard.mine(len(rows), self.laid)]

    def training(self, order: Order, start: int) -> Iterator[tuple[Resident | Batch, Any, Pads, np.ndarray]]:
        """Batches from step `start` on, without end, and the utterances in them; streamed ones are read ahead by Grain."""
        if self.source is not None:
            for step in range(start, sys.maxsize):
                rows = self.filled(order[step], self.pieces)
                places = shard.put(rows, shard.along_data(self.mesh))
                yield self.source, places, pads_of(self.pool, rows[rows >= 0]), rows

        def batch(step: int) -> Batch:
            return self._collate(self.filled(order[step], self.pieces), (self.seed, step))

        batches = grain.MapDataset.range(start, sys.maxsize).map(batch)
        for step, read in enumerate(self._ahead(batches), start):
            rows = self.filled(order[step], self.pieces)
            yield shard.join(read, len(rows), self.laid), None, (), rows

    def evaluation(
        self, parts: Sequence[np.ndarray], batch_size: int, distinct: int
    ) -> Iterator[tuple[Resident | Batch, Int[np.ndarray, "parts batch"], Pads, Int[np.ndarray, "parts batch"]]]:
        """Batches that hold every utterance of every part once; what is in several parts is read once.

        Places and utterances are [parts, batch], NumPy arrays. distinct: at most so many of the parts differ; the size of a
        streamed batch is this times batch_size, so that it stays the same when there are fewer.
        """
        batch_size += -batch_size % self.mesh.shape["data"]
        steps = evaluation_order(self.pool, parts, batch_size)
        if self.source is not None:
            for rows in steps:
                yield self.source, rows, pads_of(self.pool, rows[rows >= 0]), rows
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
            yield shard.join(batch, len(whole), self.laid), places, (), rows

    def _ahead(self, batches: grain.MapDataset) -> Iterator[Batch]:
        """Read by threads ahead of who takes them."""
        ahead = self.read_threads if self.view else 2 * self.read_threads  # frames are large
        options = grain.ReadOptions(num_threads=self.read_threads, prefetch_buffer_size=ahead)
        return iter(batches.to_iter_dataset(options))

    def _collate(self, rows: np.ndarray, draw: tuple[int, ...] | None = None) -> Batch:
        """This process's part of the batch of `rows`."""
        pads = pads_of(self.pool, rows[rows >= 0])
        return collate(self.corpus, self.pool, self.mine(rows), pads, self.nonfinite, self.view, draw)


def fetch(source: Resident | Batch, places: Int[Array, "batch"] | None, pads: Pads) -> Batch:
    """Inside jit: the batch that a Feed's (source, places, pads) stand for."""
    if isinstance(source, Batch):
        return source if places is None else choose(source, places)
    assert places is not None
    return gather(source, places, pads)


def packed_megabytes(corpus: Corpus, pool: Pool) -> float:
    """Size of the pool on the device, known before anything is read; of frames decoded and whole."""
    size = 0
    for m, lengths in pool.lengths.items():
        spec = corpus.modalities[m]
        itemsize = 1 if "pixels" in spec else np.dtype(spec["dtype"]).itemsize
        size += int(lengths.sum()) * spec["width"] * itemsize
    return size / 2**20
