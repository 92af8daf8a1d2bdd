"""The contract between data and models, and how sequences become the rows of a batch."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Turns:
    """Where the rows of a batch stand in its dialogues, Int32[batch] each.

    place: in the grid of the batch, line * turns + turn; -1 for rows that only fill the batch up. dialogue: which of
    the batch's dialogues, from 1. speaker: who speaks, numbered from 1 in each dialogue in the order of appearance; 0
    where that is not known.
    """

    place: Any
    dialogue: Any
    speaker: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Batch:
    """A batch of utterances; arrays are NumPy before the device and JAX on it.

    features[m]: Float[batch, time_m, feat_m], or frames, UInt8[batch, time_m, height, width, 3]; zero where not real
    mask[m]:     Bool[batch, time_m], True where a real time step is; an utterance without the modality has none
    targets[n]:  [batch, …], what the task makes of the utterances' targets; empty where they are not known
    weight:      Float[batch], 0 for rows that are neither learnt nor scored, else 1
    turns:       of a batch that belongs to `Conversations`
    norm_group:  Int32[batch], by whose statistics a row is standardised (`speaker_norm.NormGroups`); None: the training
                 part's
    position:    Int32[batch], where in the run's pool an utterance is, -1 for rows that only fill the batch up; None:
                 the utterances are of no pool
    """

    features: dict[str, Any]
    mask: dict[str, Any]
    targets: dict[str, Any]
    weight: Any
    turns: Turns | None = None
    norm_group: Any = None
    position: Any = None

    def with_weight(self, weight: Any) -> "Batch":
        return dataclasses.replace(self, weight=weight)

    def map(self, function: Callable[["Batch"], "Batch"]) -> "Batch":
        """What the function makes of every batch of one padded length, of which this is one."""
        return function(self)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["groups"], meta_fields=["lines", "turns_per_line"])
@dataclasses.dataclass
class Conversations:
    """A batch of whole dialogues. groups: its utterances by length, the shortest first, as batches of one padded length
    each; one behind the other they are the rows of the batch. lines, turns_per_line: the grid of `Turns.place`, in
    whose lines the dialogues lie, one or several in each."""

    groups: tuple[Batch, ...]
    lines: int
    turns_per_line: int

    @property
    def weight(self) -> Any:
        return self._joined(lambda group: group.weight)

    @property
    def targets(self) -> dict[str, Any]:
        return self._joined(lambda group: group.targets)

    @property
    def turns(self) -> Turns:
        return self._joined(lambda group: group.turns)

    @property
    def position(self) -> Any:
        return self._joined(lambda group: group.position)

    def _joined(self, of: Callable[[Batch], Any]) -> Any:
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *map(of, self.groups))

    def with_weight(self, weight: Any) -> "Conversations":
        """The batch with other weights of its rows."""
        parts = split_rows(weight, self.groups)
        groups = (group.with_weight(part) for group, part in zip(self.groups, parts, strict=True))
        return dataclasses.replace(self, groups=tuple(groups))

    def map(self, function: Callable[[Batch], Batch]) -> "Conversations":
        """The batch of what the function makes of every group."""
        return dataclasses.replace(self, groups=tuple(map(function, self.groups)))


@dataclasses.dataclass
class OfOneLength:
    """A batch whose rows have one padded length, and what is known beside them."""

    utterances: Batch

    @property
    def groups(self) -> tuple[Batch]:
        return (self.utterances,)

    @property
    def weight(self) -> Any:
        return self.utterances.weight

    @property
    def targets(self) -> dict[str, Any]:
        return self.utterances.targets

    @property
    def position(self) -> Any:
        return self.utterances.position

    def with_weight(self, weight: Any) -> Any:
        return self.map(lambda rows: rows.with_weight(weight))

    def map(self, function: Callable[[Batch], Batch]) -> Any:
        """The batch of what the function makes of the utterances."""
        return dataclasses.replace(self, utterances=function(self.utterances))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Surrounded(OfOneLength):
    """Utterances, each by itself among the other turns of its dialogue, which are given as features.

    utterances: the rows. others: Float[batch, turns, dim], what `family.Outputs` has as `utterance` of the turns of the
    row's dialogue. heard: Bool[batch, turns], which of them it hears. speaker: Int32[batch, turns], as in `Turns`.
    turn: Int32[batch], which of them the row itself is."""

    others: Any
    heard: Any
    speaker: Any
    turn: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class NextTurn(OfOneLength):
    """The turn that a conversation has come to. utterances: a batch of one row. speaker: Int32[1], as in `Turns`.
    memory: what the model has kept of the turns before, see `family.Outputs`; None before the first turn."""

    speaker: Any
    memory: Any


AnyBatch = Batch | Conversations | Surrounded | NextTurn


def split_rows(x: Any, batches: Iterable[Any]) -> list[Any]:
    """[batch, …] of batches that lie one behind the other -> the rows of each."""
    ends = np.cumsum([batch.weight.shape[0] for batch in batches])
    return jnp.split(x, ends[:-1])


def where_real(mask: Any, x: Any) -> Any:
    """[batch, time, …], zero where the mask [batch, time] is False."""
    return jnp.where(jnp.expand_dims(mask, range(mask.ndim, x.ndim)), x, 0)


def pad_rows(
    sequences: Iterable[Any], rows: int, steps: int, shape: tuple[int, ...], dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(features [rows, steps, *shape], mask [rows, steps]) of one modality, NumPy arrays.

    sequences: [time, *shape] for each of the first rows, without a time step where the utterance lacks the modality;
    they are taken one after the other and cut to `steps`. All else is zero, and False in the mask.
    """
    features, mask = np.zeros((rows, steps, *shape), dtype), np.zeros((rows, steps), bool)
    for row, sequence in enumerate(sequences):
        real = sequence[:steps]
        if len(real):
            features[row, : len(real)], mask[row, : len(real)] = real, True
    return features, mask
