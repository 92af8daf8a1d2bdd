"""The replicas of a run on the devices, in groups that share a compiled step: the same calls for one replica and for
many."""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mer_jax.data.conversations import BatchShape
from mer_jax.runtime import distributed, sharding
from mer_jax.runtime.run_log import Terms
from mer_jax.tasks.task import Evaluation
from mer_jax.training import step
from mer_jax.training.compiled import CompiledSteps
from mer_jax.training.prepare import TrainingData
from mer_jax.training.replicas import Replica


class ReplicaGroups:
    """States and best models of all replicas. A group none of whose replicas is live costs nothing."""

    def __init__(self, steps: CompiledSteps, data: TrainingData, replicas: Sequence[Replica]):
        self._steps, self._data = steps, data
        self.replicas = replicas
        size = steps.replicas_per_step
        self.groups = [tuple(range(i, i + size)) for i in range(0, len(replicas), size)]
        self._trains = data.trains[[replica.fold for replica in replicas]]
        self._one_group = size == len(replicas) > 1  # its state then is what is saved, without a copy
        # Leaf by leaf: a program of all leaves of 30 trees takes ten seconds to compile.
        join = jax.numpy.concatenate if size > 1 else jax.numpy.stack
        joined = functools.cache(lambda along: jax.jit(lambda *leaves: join(leaves), out_shardings=along))
        self._join = lambda like, *pieces: jax.tree.map(lambda x, *leaves: joined(x.sharding)(*leaves), like, *pieces)
        self._piece = jax.jit(
            lambda stacked, first: self._alone(
                jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), stacked)
            ),
            out_shardings=steps.layout,
        )
        self._distinct = len({replica.fold for replica in replicas})
        self._states: list[step.TrainState] = []
        self._best: list[step.EvalState] = []

    def begin(self) -> None:
        """All replicas at step 0."""
        start = sharding.device_put_global(self._steps.family.start, sharding.replicated(self._data.batches.mesh))
        for group in self.groups:
            inputs = [
                dataclasses.replace(
                    self._data.inputs[self.replicas[r].fold],
                    overrides={field: np.float32(value) for field, value in self.replicas[r].values.items()},
                )
                for r in group
            ]
            seeds = np.array([self.replicas[r].seed for r in group], np.uint32)
            stacked = jax.tree.map(lambda *x: np.stack(x), *inputs)
            state = self._steps.init(
                *(sharding.device_put_global(self._alone(x), self._steps.per_replica) for x in (seeds, stacked)), start
            )
            self._states.append(state)
            self._best.append(self._steps.eval_state(state))

    def _alone(self, stacked: Any) -> Any:
        """What a compiled step takes: without the leading axis if it is of one replica."""
        return stacked if self._steps.replicas_per_step > 1 else jax.tree.map(lambda x: x[0], stacked)

    def params(self) -> Any:
        """Shapes of one replica's params."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.like()["state"].params)

    def train(
        self, live: Collection[int], source: Any, row_positions: Any, padded_lengths: BatchShape, rows: np.ndarray
    ) -> Terms:
        """One update of every group with a live replica, all on the same utterances `rows`."""
        found: Terms = []
        for i, group in self._groups_of(live):
            weight = sharding.device_put_global(
                self._alone(self._trains[np.ix_(np.array(group), rows)]), self._steps.per_replica_batch
            )
            self._states[i], terms = self._steps.train(self._states[i], weight, source, row_positions, padded_lengths)
            found.append((group, terms))
        return found

    def score(self, which: Collection[int], part: str, batch_size: int, *, best: bool) -> dict[int, dict[str, Any]]:
        """Of every replica in `which` what the task evaluates of its fold's `part`, by the current or the best model:
        means over the part, counts, and rows by utterance. The other replicas are left out."""
        members = [r for _, group in self._groups_of(which) for r in group]
        parts = {r: getattr(self._data.folds[self.replicas[r].fold], part) for r in members}
        pending = [
            (group, rows, self._steps.score(model, source, at, lengths))
            for group, rows, model, source, at, lengths in self.batches(which, part, batch_size, best=best)
        ]
        found: dict[int, dict[str, Any]] = {r: {} for r in members}
        for group, rows, outputs in pending:
            values = distributed.to_host(outputs)
            if self._steps.replicas_per_step == 1:
                values = jax.tree.map(lambda x: x[None], values)
            for k, r in enumerate(group):
                _add(found[r], jax.tree.map(lambda x, k=k: x[k], values), parts[r], rows[k])
        return {r: result for r, result in found.items() if r in which}

    def batches(
        self, which: Collection[int], part: str, batch_size: int, *, best: bool
    ) -> Iterator[tuple[tuple[int, ...], np.ndarray, step.EvalState, Any, Any, BatchShape]]:
        """Every batch of `part` with every group that has a replica in `which`, each read once: (the group, its
        utterances [replicas, batch] with -1 where none is, model, source, row positions, padded lengths), the last
        four as `score` takes them."""
        groups = list(self._groups_of(which))
        parts = [getattr(self._data.folds[self.replicas[r].fold], part) for _, group in groups for r in group]
        models = [self._best[i] if best else self._states[i].eval_state() for i, _ in groups]
        for source, positions, lengths, rows in self._data.batches.evaluation(parts, batch_size, self._distinct):
            first = 0
            for (_, group), model in zip(groups, models, strict=True):
                here = slice(first, first := first + len(group))
                at = jax.tree.map(lambda x, here=here: x[here], positions)
                yield group, rows[here], model, source, self.on_devices(at), lengths

    def on_devices(self, values: Any) -> Any:
        """Arrays [replicas, batch] of a group, on the devices as a compiled step takes them."""
        return sharding.device_put_global(self._alone(values), self._steps.per_replica_batch)

    def best(self, r: int) -> step.EvalState:
        """The best model of replica r."""
        group, at = divmod(r, self._steps.replicas_per_step)
        return (
            jax.tree.map(lambda x: x[at], self._best[group]) if self._steps.replicas_per_step > 1 else self._best[group]
        )

    def keep(self, better: Collection[int]) -> None:
        """The current models of these replicas are their best."""
        for i, group in self._groups_of(better):
            is_better = sharding.device_put_global(
                self._alone(np.array([r in better for r in group])), self._steps.per_replica
            )
            self._best[i] = self._steps.keep(self._best[i], self._states[i].eval_state(), is_better)

    def saved(self) -> Any:
        """All there is to save, independent of the groups: every array has all replicas along its leading axis."""
        if self._one_group:
            return {"state": self._states[0], "best": self._best[0]}
        like = self.like()
        return {"state": self._join(like["state"], *self._states), "best": self._join(like["best"], *self._best)}

    def like(self) -> Any:
        """Shapes and shardings of `saved`."""
        return self._steps.like

    def load(self, saved: Any) -> None:
        if self._one_group:
            self._states, self._best = [saved["state"]], [saved["best"]]
            return
        pieces = [self._piece(saved, np.int32(group[0])) for group in self.groups]
        self._states, self._best = [piece["state"] for piece in pieces], [piece["best"] for piece in pieces]

    def _groups_of(self, live: Collection[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The groups that have a live replica."""
        for i, group in enumerate(self.groups):
            if any(r in live for r in group):
                yield i, group


def _add(found: dict[str, Any], batch: Evaluation, part: np.ndarray, rows: np.ndarray) -> None:
    """Adds what a batch of the utterances `rows`, -1 where none is, gives of a `part`, sorted."""
    for name, total in batch.means.items():
        found[name] = found.get(name, 0.0) + float(total) / len(part)
    for name, counts in batch.counts.items():
        found[name] = found.get(name, 0) + counts
    real = rows >= 0
    for name, values in batch.rows.items():
        kept = found.setdefault(name, np.zeros((len(part), *values.shape[1:]), values.dtype))
        kept[np.searchsorted(part, rows[real])] = values[real]
