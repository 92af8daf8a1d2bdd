"""A finished run, read from its workdir and checked: what reports and comparisons begin with. No JAX."""

import dataclasses
import datetime
import functools
import itertools
from collections.abc import Collection
from typing import Any

import numpy as np
from etils import epath

from mer_jax import run_files, schema
from mer_jax.errors import UserError
from mer_jax.evaluation.predictions import Predictions, damaged, parse_predictions, read_lines
from mer_jax.evaluation.score_table import replicas_of_choice
from mer_jax.files import load_json, read_json
from mer_jax.old_runs import read_config
from mer_jax.tasks import Task, task_of_results


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    chosen: the point of the sweep that validation chose, or what every fold's own are together. replicas: those that
    finished at this point, by name; predictions: what they predict of their test parts, nothing while these are locked.
    """

    path: Any
    name: str
    task: Task
    metrics: dict[str, Any]
    chosen: dict[str, Any]
    replicas: dict[str, dict[str, Any]]
    predictions: Predictions

    @property
    def locked(self) -> bool:
        """Whether nothing is known of the test part yet."""
        return self.metrics["protocol"].get("locked", False)

    @property
    def why_missing(self) -> str:
        """Why there is none of the files that tell of the test part."""
        return "is not written while the test part is locked" if self.locked else "is not there"

    @functools.cached_property
    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl, if there is such a file."""
        return read_history(self.path / "history.jsonl", {replica["name"] for replica in self.metrics["replicas"]})

    @functools.cached_property
    def extra(self) -> dict[str, dict[str, Any]]:
        """What the optional files that there are hold, by name. What a --mode=test that was killed has left of a locked
        test part is not read."""
        return {
            name: value
            for name in (("cost",) if self.locked else run_files.OPTIONAL_FILES)
            if (value := read_optional(self.path, name, self.task)) is not None
        }

    @functools.cached_property
    def unfinished_folds(self) -> dict[int, list[str]]:
        """Of every seed of the chosen point, the folds that did not finish."""
        chosen = replicas_of_choice(self.metrics["points"], self.metrics["replicas"])
        replicas = [self.metrics["replicas"][i] for i in chosen]
        finished = {(replica["seed"], replica["fold"]) for replica in self.replicas.values()}
        seeds, folds = (sorted({replica[field] for replica in replicas}) for field in ("seed", "fold"))
        return {seed: [fold for fold in folds if (seed, fold) not in finished] for seed in seeds}

    @property
    def complete_seeds(self) -> list[int]:
        """The seeds that finished every fold: only these tested every utterance."""
        return [seed for seed, folds in self.unfinished_folds.items() if not folds]

    def lines_of(self, seed: int) -> np.ndarray:
        """Which lines of the predictions are of a seed, in the order of the utterances."""
        lines = np.flatnonzero(np.array([r["seed"] == seed for r in self.replicas.values()])[self.predictions.replica])
        return lines[np.argsort(self.predictions.utterance[lines], kind="stable")]

    def counts(self) -> np.ndarray:
        """What the task counts of every complete seed and dialogue, [seeds, dialogues, …]."""
        found = []
        for lines in map(self.lines_of, self.complete_seeds):
            tested = self.predictions.utterance[lines]
            targets, dialogues = self.predictions.targets_of(tested), self.predictions.dialogues[tested]
            found.append(self.task.count_by_dialogue(targets, self.predictions.decisions[lines], dialogues))
        return np.stack(found)


def read_run(folder: epath.PathLike) -> FinishedRun:
    """Raises UserError if the folder holds no finished run, one of another version, or a damaged one."""
    path = epath.Path(folder)
    metrics = read_metrics(path)
    task = task_of_results(metrics)
    metrics["config"] = read_config(metrics["config"])
    chosen = next(point for point in metrics["points"] if point["chosen"])
    taken = (metrics["replicas"][i] for i in replicas_of_choice(metrics["points"], metrics["replicas"]))
    replicas = {replica["name"]: replica for replica in taken if replica["status"] == "finished"}
    known = {replica["name"] for replica in metrics["replicas"]}
    lines = () if metrics["protocol"].get("locked") else read_lines(path / "predictions.jsonl")
    predictions = parse_predictions(path / "predictions.jsonl", lines, task, list(replicas), known)
    run = FinishedRun(path, path.resolve().name, task, metrics, chosen, replicas, predictions)
    if not run.locked:
        refuse_incomplete(run)
    return run


def read_metrics(folder: epath.PathLike) -> dict[str, Any]:
    """metrics.json, checked; raises UserError where no run has finished, or the file is damaged."""
    folder = epath.Path(folder)
    _refuse_without(folder, "metrics.json")
    metrics = metrics_of(folder / "metrics.json")
    if not metrics["protocol"].get("locked"):
        _refuse_without(folder, "predictions.jsonl")
    return metrics


def _refuse_without(folder: epath.Path, name: str) -> None:
    if not (folder / name).exists():
        what = f"is not a finished run: it has no {name}" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {what}. Give the workdir of a run that has ended.")


def metrics_of(path: epath.PathLike) -> dict[str, Any]:
    """What a metrics.json holds. Raises UserError, naming the field, if it is not what runs of its task have."""
    advice = "Restore it, or run it again in a new workdir."
    metrics = read_json(path, run_files.Metrics, advice)
    try:
        _check_places(metrics)
        task = task_of_results(metrics)
        task.check_results(metrics)
        for i, point in enumerate(metrics["points"]):
            for score in task.metrics.keys() & point.get("ensemble", {}).keys():
                found = {f"points.{i}.ensemble": {score: point["ensemble"][score]}}
                schema.check(found, dict[str, dict[str, run_files.EnsembleScore]])
    except ValueError as error:
        raise UserError(f"{path} is not what this mer_jax writes: {error}. {advice}") from None
    return metrics


def _check_places(metrics: dict[str, Any]) -> None:
    """Raises ValueError unless replicas lie in points and folds that there are, one point is chosen, and test scores
    are there unless the test part is locked."""
    points, counts = metrics["points"], metrics["data"]["counts"]
    locked = metrics["protocol"].get("locked", False)
    for kind in ("points", "replicas"):
        for i, one in enumerate(metrics[kind]):
            for told in ("test", "conversation"):
                if told in one and locked:
                    raise ValueError(f"field '{kind}.{i}.{told}' is there, though field 'protocol.locked' is true")
    for i, point in enumerate(points):
        if "test" not in point and not locked:
            raise ValueError(f"field 'points.{i}.test' is missing")
    if (chosen := sum(point["chosen"] for point in points)) != 1:
        raise ValueError(f"field 'points': {'several points are' if chosen else 'no point is'} chosen")
    swept = sum("by_fold" not in point for point in points)
    for i, point in enumerate(points):
        for fold, number in point.get("by_fold", {}).items():
            if fold not in counts or number >= swept:
                raise ValueError(f"field 'points.{i}.by_fold.{fold}': there are {swept} points and no such fold")
    names = [replica["name"] for replica in metrics["replicas"]]
    if len(set(names)) < len(names):
        raise ValueError("field 'replicas': two have the same name")
    for i, replica in enumerate(metrics["replicas"]):
        if replica["fold"] not in counts:
            raise ValueError(f"field 'replicas.{i}.fold': 'data.counts' has no {replica['fold']!r}")
        if replica["point"] >= swept:
            raise ValueError(f"field 'replicas.{i}.point': there are {swept} points")
        if replica["step"] is None and replica["status"] == "finished":
            raise ValueError(f"field 'replicas.{i}.step': a replica that finished has a best step")


def refuse_incomplete(run: FinishedRun) -> None:
    """Raises UserError if predictions.jsonl does not hold the test parts that metrics.json scores."""
    path, predictions = run.path / "predictions.jsonl", run.predictions
    for number, (name, replica) in enumerate(run.replicas.items()):
        tested = predictions.utterance[predictions.replica == number]
        scored = run.metrics["data"]["counts"][replica["fold"]]["test"]
        described = run.task.describe_targets(predictions.targets_of(tested))
        same = run.task.target_counts(described) == run.task.target_counts(scored)
        if len(tested) != scored["utterances"] or not same:
            raise UserError(
                f"{path} is incomplete: of {name} it has {len(tested)} utterances, metrics.json "
                f"{scored['utterances']}, or with other targets. Restore the file."
            )
    tested_by = {seed: set(predictions.utterance[run.lines_of(seed)].tolist()) for seed in run.complete_seeds}
    for first, seed in itertools.pairwise(tested_by):
        if lacking := sorted(tested_by[first] ^ tested_by[seed]):
            raise UserError(
                f"{path} is damaged: only one of the seeds {first} and {seed} has {predictions.ids[lacking[0]]!r}. "
                "Restore the file."
            )


def read_history(file: epath.Path, known: set[str]) -> list[dict[str, Any]]:
    """The evaluations of a run; known: the replicas that metrics.json has. Raises UserError, naming the line that is
    wrong."""
    rows: list[dict[str, Any]] = []
    for number, line in read_lines(file) if file.exists() else ():
        try:
            row = load_json(line)
            schema.check(row, run_files.Evaluated)
            if "loss" not in row["valid"]:
                raise ValueError("field 'valid.loss' is missing")
            if row["replica"] not in known:
                raise ValueError(f"metrics.json has no replica {row['replica']!r}")
        except ValueError as error:
            raise damaged(file, number, error) from None
        rows.append(row)
    return rows


def read_optional(folder: epath.Path, name: str, task: Task) -> Any:
    """What NAME.json of the optional files holds; None if there is none. Raises UserError if it is damaged."""
    file, advice = folder / f"{name}.json", "Restore it, or remove it: the page then goes without"
    if not file.exists():
        return None
    value = read_json(file, run_files.OPTIONAL_FILES[name], advice)
    try:
        _check_optional(name, value, task)
    except ValueError as error:
        raise UserError(f"{file} is not what this mer_jax writes: {error}. {advice}") from None
    return value


def _check_optional(name: str, value: Any, task: Task) -> None:
    """Raises ValueError for what types do not say."""
    if name == "cost":
        for session in value["sessions"]:
            datetime.datetime.fromisoformat(session["began"])
    if name == "map" and not len(value["ids"]) == len(value["x"]) == len(value["y"]):
        raise ValueError("fields 'ids', 'x' and 'y' are not of one length")
    if name == "robustness":
        for kind, places in (("missing", "rates"), ("noise", "sigmas")):
            for modality, curve in value.get(kind, {}).items():
                _check_curve(f"{kind}.{modality}", curve, places, task.metrics.keys() & value["floor"].keys())


def _check_curve(where: str, curve: dict[str, Any], places: str, scores: Collection[str]) -> None:
    for name in (places, *scores):
        if not curve.get(name):
            raise ValueError(f"field '{where}.{name}' is missing or empty")
    for score in scores:
        schema.check({where: {score: curve[score]}}, dict[str, dict[str, list[run_files.Scored]]])
        if len(curve[score]) != len(curve[places]):
            raise ValueError(f"fields '{where}.{score}' and '{where}.{places}' are not of one length")


def same_targets(a: FinishedRun, b: FinishedRun) -> bool:
    """Whether two runs predict the same: the same task, and the same outputs in the same order."""
    return (a.task.name, a.task.describe()) == (b.task.name, b.task.describe())


def first_difference(a: FinishedRun, b: FinishedRun) -> tuple[str, str, str] | None:
    """The first thing in which the tests of two runs differ, and what it is of each, in words. None if the runs have
    the same split and tested the same utterances with the same labels and dialogues, as far as they are not locked;
    their features may be others."""

    def split(run: FinishedRun) -> str:
        protocol = run.metrics["protocol"]
        return f"{run.metrics['data']['name']}, {protocol['title']} (sha256 {protocol['split_sha256']})"

    if a.task.outputs != b.task.outputs:
        return "labels", ", ".join(a.task.outputs), ", ".join(b.task.outputs)
    if not same_targets(a, b):
        of_a, of_b = (f"{run.task.name}, {run.task.describe()}" for run in (a, b))
        return "targets", of_a, of_b
    if a.metrics["protocol"]["split_sha256"] != b.metrics["protocol"]["split_sha256"]:
        return "split", split(a), split(b)
    if a.locked or b.locked:
        return None
    ids_a, ids_b = a.predictions.ids, b.predictions.ids
    only_a, only_b = sorted(set(ids_a) - set(ids_b)), sorted(set(ids_b) - set(ids_a))
    if only_a or only_b:
        of_a, of_b = (
            f"{len(x)} utterances, {len(only)} of them alone" for x, only in ((ids_a, only_a), (ids_b, only_b))
        )
        return f"test utterances (such as {(only_a + only_b)[0]!r})", of_a, of_b
    for what, values_a, values_b in (
        ("label", a.predictions.labels, b.predictions.labels),
        ("dialogue", a.predictions.dialogues.tolist(), b.predictions.dialogues.tolist()),
    ):
        differing = [i for i, (x, y) in enumerate(zip(values_a, values_b, strict=True)) if x != y]
        if differing:
            i = differing[0]
            return f"{what} for {ids_a[i]!r} ({len(differing)} such utterances)", str(values_a[i]), str(values_b[i])
    return None
