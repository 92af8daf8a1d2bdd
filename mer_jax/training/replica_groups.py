"""The replicas of a run on the devices, in groups that share a compiled step: the same calls for one replica and for many."""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mer_jax.data.loader import PaddedLengths
from mer_jax.runtime import distributed, sharding
from mer_jax.runtime.run_log import Terms
from mer_jax.training import step
from mer_jax.training.compiled import CompiledSteps
from mer_jax.training.prepare import TrainingData
from mer_jax.training.replicas import Replica


class ReplicaGroups:
    """States and best models of all replicas. A group none of whose replicas is live costs nothing."""

    def __init__(self, program: CompiledSteps, inputs: TrainingData, replicas: Sequence[Replica]):
        self._program, self._inputs = program, inputs
        self.replicas = replicas
        size = program.together
        self.groups = [tuple(range(i, i + size)) for i in range(0, len(replicas), size)]
        self._trains = inputs.trains[[replica.fold for replica in replicas]]
        self._one_group = size == len(replicas) > 1  # its state then is what is saved, without a copy
        # Leaf by leaf: a program of all leaves of 30 trees takes ten seconds to compile.
        join = jax.numpy.concatenate if size > 1 else jax.numpy.stack
        joined = functools.cache(lambda along: jax.jit(lambda *leaves: join(leaves), out_shardings=along))
        self._join = lambda like, *pieces: jax.tree.map(lambda x, *leaves: joined(x.sharding)(*leaves), like, *pieces)
        self._piece = jax.jit(
            lambda whole, first: self._alone(
                jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), whole)
            ),
            out_shardings=program.layout,
        )
        self._distinct = len({replica.fold for replica in replicas})
        self._states: list[step.TrainState] = []
        self._best: list[step.EvalState] = []

    def begin(self) -> None:
        """All replicas at step 0."""
        start = sharding.device_put_global(self._program.start, sharding.replicated(self._inputs.feed.mesh))
        for group in self.groups:
            given = [
                dataclasses.replace(
                    self._inputs.given[self.replicas[r].fold],
                    values={field: np.float32(value) for field, value in self.replicas[r].values.items()},
                )
                for r in group
            ]
            seeds = np.array([self.replicas[r].seed for r in group], np.uint32)
            stacked = jax.tree.map(lambda *x: np.stack(x), *given)
            state = self._program.init(
                *(sharding.device_put_global(self._alone(x), self._program.each) for x in (seeds, stacked)), start
            )
            self._states.append(state)
            self._best.append(self._program.model(state))

    def _alone(self, stacked: Any) -> Any:
        """What a call of the program takes: without the leading axis if it is of one replica."""
        return stacked if self._program.together > 1 else jax.tree.map(lambda x: x[0], stacked)

    def params(self) -> Any:
        """Shapes of one replica's params."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.like()["state"].params)

    def train(self, live: Collection[int], source: Any, places: Any, pads: PaddedLengths, rows: np.ndarray) -> Terms:
        """One update of every group with a live replica, all on the same utterances `rows`."""
        found: Terms = []
        for i, group in self._with(live):
            weight = sharding.device_put_global(
                self._alone(self._trains[np.ix_(np.array(group), rows)]), self._program.both
            )
            self._states[i], terms = self._program.train(self._states[i], weight, source, places, pads)
            found.append((group, terms))
        return found

    def score(self, which: Collection[int], part: str, batch_size: int, *, best: bool) -> dict[int, dict[str, Any]]:
        """Of every replica in `which`: the confusion matrix, the loss (mean cross entropy in nats) and the probabilities
        [utterances, classes] of its fold's `part`, by the current or the best model; the other replicas are left out."""
        members = [r for _, group in self._with(which) for r in group]
        parts = {r: getattr(self._inputs.folds[self.replicas[r].fold], part) for r in members}
        pending = [
            (group, rows, self._program.score(model, source, at, pads))
            for group, rows, model, source, at, pads in self.batches(which, part, batch_size, best=best)
        ]
        classes = len(self._inputs.feed.corpus.labels)
        found: dict[int, dict[str, Any]] = {
            r: {"confusion": 0, "loss": 0.0, "probabilities": np.zeros((len(rows), classes), np.float32)}
            for r, rows in parts.items()
        }
        for group, rows, outputs in pending:
            values = distributed.to_host(outputs)
            if self._program.together == 1:
                values = jax.tree.map(lambda x: x[None], values)
            for k, r in enumerate(group):
                real = rows[k] >= 0
                found[r]["confusion"] += values["confusion"][k]
                found[r]["loss"] += float(values["nll"][k]) / len(parts[r])
                at = np.searchsorted(parts[r], rows[k][real])  # the rows of a fold's part are sorted
                found[r]["probabilities"][at] = values["probabilities"][k][real]
        return {r: result for r, result in found.items() if r in which}

    def batches(
        self, which: Collection[int], part: str, batch_size: int, *, best: bool
    ) -> Iterator[tuple[tuple[int, ...], np.ndarray, step.EvalState, Any, Any, PaddedLengths]]:
        """Every batch of `part` with every group that has a replica in `which`, each read once: (the group, its utterances
        [replicas, batch] with -1 where none is, model, source, places, pads), the last four as the program takes them."""
        groups = list(self._with(which))
        parts = [getattr(self._inputs.folds[self.replicas[r].fold], part) for _, group in groups for r in group]
        models = [self._best[i] if best else self._states[i].model() for i, _ in groups]
        for source, places, pads, rows in self._inputs.feed.evaluation(parts, batch_size, self._distinct):
            first = 0
            for (_, group), model in zip(groups, models, strict=True):
                here = slice(first, first := first + len(group))
                yield group, rows[here], model, source, self.laid(places[here]), pads

    def laid(self, values: np.ndarray) -> Any:
        """[replicas, batch] of a group, on the devices as the program takes it."""
        return sharding.device_put_global(self._alone(values), self._program.both)

    def best(self, r: int) -> step.EvalState:
        """The best model of replica r."""
        group, at = divmod(r, self._program.together)
        return jax.tree.map(lambda x: x[at], self._best[group]) if self._program.together > 1 else self._best[group]

    def keep(self, better: Collection[int]) -> None:
        """The current models of these replicas are their best."""
        for i, group in self._with(better):
            is_better = sharding.device_put_global(
                self._alone(np.array([r in better for r in group])), self._program.each
            )
            self._best[i] = self._program.keep(self._best[i], self._states[i].model(), is_better)

    def saved(self) -> Any:
        """All there is to save, independent of the groups: every array has all replicas along its leading axis."""
        if self._one_group:
            return {"state": self._states[0], "best": self._best[0]}
        like = self.like()
        return {"state": self._join(like["state"], *self._states), "best": self._join(like["best"], *self._best)}

    def like(self) -> Any:
        """Shapes and shardings of `saved`."""
        return self._program.like

    def load(self, saved: Any) -> None:
        if self._one_group:
            self._states, self._best = [saved["state"]], [saved["best"]]
            return
        pieces = [self._piece(saved, np.int32(group[0])) for group in self.groups]
        self._states, self._best = [piece["state"] for piece in pieces], [piece["best"] for piece in pieces]

    def _with(self, live: Collection[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The groups that have a live replica."""
        for i, group in enumerate(self.groups):
            if any(r in live for r in group):
                yield i, group
