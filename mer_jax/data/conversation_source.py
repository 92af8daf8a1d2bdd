"""Batches of whole dialogues for the device; what they hold is planned in conversations.py."""

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from mer_jax.data import loader
from mer_jax.data.conversations import ConversationOrder, Dialogues, Layout, Shapes, evaluation_batches
from mer_jax.runtime import sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversationSource(loader.BatchSource):
    """Batches of dialogues, as (source, rows, layout): inside jit, `loader.materialize_batch` makes `Conversations` of
    them. Resident: source is the packed pool. Streamed: a Batch for each group of the layout, in which every utterance
    occurs once, and `rows.rows` are positions in it."""

    dialogues: Dialogues

    def shapes(self) -> Shapes:
        """What finds layouts for these devices."""
        return Shapes(self.pool.lengths, self._row_shards())

    def training_order(
        self, rows: np.ndarray, batch_size: int, seed: int, window: int, epochs: int
    ) -> ConversationOrder:
        """The order in which the pool's utterances `rows` train, in batches of whole dialogues which hold about
        batch_size utterances."""
        wanted = np.zeros(len(self.pool), bool)
        wanted[rows] = True
        windows, parts = self.dialogues.windows(wanted), self.microbatches
        mean = sum(len(one.rows) for one in windows) / len(windows)
        per_batch = parts * max(1, min(round(batch_size / mean / parts), len(windows) // parts))
        window = max(1, min(window, len(windows) // per_batch))  # no dialogue twice among those that are shared out
        steps = epochs * -(-len(windows) // per_batch)
        return ConversationOrder(self.dialogues, windows, self.shapes(), per_batch, seed, window, parts, steps)

    def describe(self, order: ConversationOrder) -> str:
        """What a batch holds, and how much of it is padding, for the console."""
        sizes = [len(rows) for rows in self.dialogues.rows]
        batches = [order[step].rows for step in range(min(order.steps, order.steps_per_epoch))]
        rows = [batch[batch >= 0] for batch in batches]
        steps = sum(int(lengths[some].sum()) for some in rows for lengths in self.pool.lengths.values())
        padded = self.microbatches * sum(n * sum(t for _, t in lengths) for n, lengths in order.layout.groups)
        heard = {"past": "what was said before", "both": "what was said before and after"}[self.dialogues.context]
        windows = ""
        if long := self.dialogues.longer_than_window():
            windows = (
                f"; {long} longer than {self.dialogues.max_turns} turns are read in windows of so many, each turn "
                "scored where it hears most"
            )
        return (
            f"{len(sizes)} dialogues of up to {max(sizes)} turns, every turn with {heard}{windows}; a batch holds "
            f"{order.per_batch} dialogues, {np.mean([len(some) for some in rows]):.0f} utterances on average; "
            f"{100 - 100 * steps / (padded * len(batches)):.0f} % of the time steps are padding"
        )

    def training(self, order: Any, start: int) -> Iterator[tuple[Any, Any, Any, np.ndarray]]:
        layout = order.layout
        if self.source is not None:
            along_batch = sharding.batch_sharding(self.mesh)
            for step in range(start, sys.maxsize):
                rows = order[step]
                yield self.source, sharding.device_put_global(rows, along_batch), layout, rows.rows

        def read(step: int) -> tuple[loader.Batch, ...]:
            return self._read_groups(order[step].rows, layout, (self.seed, step))

        batches = grain.MapDataset.range(start, sys.maxsize).map(read)
        for step, groups in enumerate(self._prefetched(batches), start):
            rows = order[step]
            at = sharding.device_put_global(rows._replace(rows=None), self.row_sharding)
            yield self._uploaded(groups, rows.rows, layout), at, layout, rows.rows

    def evaluation(
        self, parts: Sequence[np.ndarray], batch_size: int, distinct_parts: int
    ) -> Iterator[tuple[Any, Any, Any, np.ndarray]]:
        """Batches of dialogues in which every utterance of every part counts once, with whoever is heard before and
        after it; a layout holds for all of them. Besides, the utterances that count, -1 elsewhere."""
        wanted = np.zeros((len(parts), len(self.pool)), bool)
        for row, part in zip(wanted, parts, strict=True):
            row[part] = True
        steps, layout = evaluation_batches(self.dialogues, list(wanted), self.shapes(), batch_size)
        if self.source is not None:
            for rows in steps:
                yield self.source, rows, layout, np.where(rows.counts, rows.rows, -1)
            return
        united = [self._united(rows.rows, layout, distinct_parts) for rows in steps]
        wide = layout._replace(groups=tuple((size * distinct_parts, lengths) for size, lengths in layout.groups))
        read = grain.MapDataset.source([all_rows for all_rows, _ in united]).map(
            lambda all_rows: self._read_groups(all_rows, wide)
        )
        for rows, (all_rows, at), groups in zip(steps, united, self._prefetched(read), strict=True):
            source = self._uploaded(groups, all_rows, wide)
            yield source, rows._replace(rows=at), layout, np.where(rows.counts, rows.rows, -1)

    def addressable_rows(self, rows: np.ndarray, shape: Any = ()) -> np.ndarray:
        return np.concatenate(self._by_group(rows, shape)) if shape else super().addressable_rows(rows)

    def _united(self, rows: np.ndarray, layout: Layout, distinct_parts: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows that are read for all parts together, each once in its group, and where the `rows` [parts, batch]
        are in that."""
        found, at, first = [], np.full_like(rows, -1), 0
        for size, _ in layout.groups:
            here = rows[:, first : first + size]
            real = np.unique(here[here >= 0])
            read = np.full(size * distinct_parts, -1, np.int32)
            slots = np.arange(len(read)).reshape(self._row_shards(), -1).T.ravel()[: len(real)]  # in all shares alike
            read[slots] = real
            positions = slots[np.searchsorted(real, here).clip(0, max(0, len(real) - 1))] if len(real) else here
            at[:, first : first + size] = np.where(here >= 0, positions, -1)
            found.append(read)
            first += size
        return np.concatenate(found), at

    def _by_group(self, rows: np.ndarray, layout: Layout) -> list[np.ndarray]:
        """Of a batch's rows, those of each group that this process's devices take."""
        scale = len(rows) // layout.rows  # microbatches
        ends = list(itertools.accumulate(scale * size for size, _ in layout.groups))
        return [super(ConversationSource, self).addressable_rows(group) for group in np.split(rows, ends[:-1])]

    def _read_groups(
        self, rows: np.ndarray, layout: Layout, seeds: tuple[int, ...] | None = None
    ) -> tuple[loader.Batch, ...]:
        """This process's part of every group of the batch of `rows`."""
        more: Any = (self.nonfinite, self.view, seeds)
        return tuple(
            loader.collate(self.corpus, self.pool, mine, lengths, *more)
            for mine, (_, lengths) in zip(self._by_group(rows, layout), layout.groups, strict=True)
        )

    def _uploaded(self, groups: Sequence[loader.Batch], rows: np.ndarray, layout: Layout) -> tuple[loader.Batch, ...]:
        scale = len(rows) // layout.rows
        return tuple(
            sharding.from_local_rows(group, scale * size, self.row_sharding)
            for group, (size, _) in zip(groups, layout.groups, strict=True)
        )
