"""A finished run of several targets as one of a single target: what a report draws of each. No JAX."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.evaluation.predictions import Predictions
from mer_jax.tasks import Several, Task
from mer_jax.tasks.several_results import of_part

OF_ALL = ("ensemble", "conversation", "groups")  # fields of a point that tell of no single target


@dataclasses.dataclass(frozen=True)
class PartOfRun(FinishedRun):
    """whole: the run; leads: whether the target is its first. Its utterances are those that have the target, its scores
    have the names that the target's task gives them."""

    whole: FinishedRun
    leads: bool

    @functools.cached_property
    def extra(self) -> dict[str, dict[str, Any]]:
        """The map without utterances that lack the target; explanations of the first target, which alone has some."""
        found = dict(self.whole.extra)
        if not self.leads:
            found.pop("explain", None)
        if "map" in found:
            has = np.isin(found["map"]["ids"], self.predictions.ids)
            columns = {
                name: [value for value, kept in zip(found["map"][name], has, strict=True) if kept]
                for name in ("ids", "x", "y")
            }
            found["map"] = found["map"] | columns
        return found


def parts_of(run: FinishedRun) -> list[FinishedRun]:
    """The run for each of its targets; where there is one, the run itself."""
    task = run.task
    return [_part(run, task, i) for i in range(len(task.parts))] if isinstance(task, Several) else [run]


def _part(run: FinishedRun, several: Several, i: int) -> PartOfRun:
    part = several.parts[i]
    start = several.start(i)
    selects = several.selects.removeprefix(start) if several.selects.startswith(start) else ""
    task, metrics = part.led_by(selects), of_part(run.metrics, part.asked)
    metrics["points"] = [_point(point, task, start) for point in metrics["points"]]
    chosen = next(point for point in metrics["points"] if point["chosen"])
    replicas = {one["name"]: one for one in metrics["replicas"] if one["name"] in run.replicas}
    predictions = _predictions(run, several, i, task)
    return PartOfRun(run.path, run.name, task, metrics, chosen, replicas, predictions, whole=run, leads=i == 0)


def _point(point: Mapping[str, Any], task: Task, start: str) -> dict[str, Any]:
    """A point with the scores of one target under the names that its task gives them. start: how they begin."""
    found = {name: value for name, value in point.items() if name not in OF_ALL}
    for field in ("valid", "test", "interval"):
        if field in point:
            own = {score: point[field].get(start + score) for score in task.metrics}
            found[field] = {score: value for score, value in own.items() if value is not None}
    return found


def _predictions(run: FinishedRun, several: Several, i: int, task: Task) -> Predictions:
    """What is predicted of one target, of the utterances that have it."""
    all_of = run.predictions
    own, has = several.own_rows(all_of.targets, i)
    kept, lines = np.flatnonzero(has).tolist(), has[all_of.utterance]
    predicted = all_of.predicted[lines][:, several.slices[i]]
    return Predictions(
        names=all_of.names,
        ids=tuple(all_of.ids[at] for at in kept),
        sentences=tuple(all_of.sentences[at] for at in kept),
        labels=tuple(all_of.labels[at][i] for at in kept),
        dialogues=all_of.dialogues[has],
        targets=own,
        groups={name: of[has] for name, of in all_of.groups.items()},
        replica=all_of.replica[lines],
        utterance=(np.cumsum(has) - 1)[all_of.utterance[lines]],
        decisions=task.decisions(predicted),
        predicted=predicted,
    )
