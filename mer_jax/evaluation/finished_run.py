"""A finished run, read from its workdir and checked: what reports and comparisons begin with. No JAX."""

import dataclasses
import datetime
import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from mer_jax.errors import UserError
from mer_jax.evaluation.predictions import Predictions, damaged, read_lines, read_predictions
from mer_jax.files import read_json
from mer_jax.old_runs import read_config
from mer_jax.tasks import Task, task_of_results

NEEDED_FILES = ("metrics.json", "predictions.jsonl")
# Files that a run may have, and what they must hold.
OPTIONAL_FILES = {
    "map": ("replica", "method", "ids", "x", "y"),
    "cost": ("sessions",),
    "explain": ("replica", "utterances_used", "shares", "mistakes"),
    "robustness": ("definition", "replicas", "noise", "floor"),
}
STEPS_FIELDS = ("began", "from_step", "to_step", "seconds")
MACHINE_FIELDS = ("devices", "kind", "platform", "processes", "hosts", "cpus", "peak_memory_bytes")
MISTAKE_FIELDS = ("id", "label", "prediction", "probability", "modalities")
SPLIT_FIELDS = ("name", "title", "description", "leaky", "split_sha256", "leakage")
SELECTION_FIELDS = ("selection", "selects_on", "test")


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    chosen: the point of the sweep that validation chose. replicas: those that finished at this point, by name;
    predictions: what they predict of their test parts.
    """

    path: Any
    name: str
    task: Task
    metrics: dict[str, Any]
    chosen: dict[str, Any]
    replicas: dict[str, dict[str, Any]]
    predictions: Predictions

    @functools.cached_property
    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl, if there is such a file."""
        return read_history(self.path / "history.jsonl", {replica["name"] for replica in self.metrics["replicas"]})

    @functools.cached_property
    def extra(self) -> dict[str, dict[str, Any]]:
        """What the OPTIONAL_FILES that there are hold, by name."""
        return {name: value for name in OPTIONAL_FILES if (value := read_optional(self.path, name)) is not None}

    @functools.cached_property
    def unfinished_folds(self) -> dict[int, list[str]]:
        """Of every seed of the chosen point, the folds that did not finish."""
        number = self.metrics["points"].index(self.chosen)
        replicas = [replica for replica in self.metrics["replicas"] if replica["point"] == number]
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
    try:
        check_metrics(metrics)
        task = task_of_results(metrics)
    except (KeyError, TypeError) as error:
        raise other_version(path / "metrics.json", error) from None
    metrics["config"] = read_config(metrics["config"])
    number, chosen = next((i, point) for i, point in enumerate(metrics["points"]) if point["chosen"])
    replicas = {r["name"]: r for r in metrics["replicas"] if r["point"] == number and r["status"] == "finished"}
    known = {replica["name"] for replica in metrics["replicas"]}
    predictions = read_predictions(path / "predictions.jsonl", task, list(replicas), known)
    run = FinishedRun(path, path.resolve().name, task, metrics, chosen, replicas, predictions)
    refuse_incomplete(run)
    return run


def read_metrics(folder: epath.PathLike) -> Any:
    """metrics.json; raises UserError where no run has finished."""
    folder = epath.Path(folder)
    for name in NEEDED_FILES:
        if not (folder / name).exists():
            what = f"is not a finished run: it has no {name}" if folder.is_dir() else "does not exist"
            raise UserError(f"{folder} {what}. Give the workdir of a run that has ended.")
    return read_json(folder / "metrics.json")


def check_metrics(metrics: Any) -> None:
    """Raises KeyError or TypeError unless metrics.json has what runs of every task have. A score may be missing: the
    run may be older than the score."""
    require(metrics, "", ("protocol", "data", "points", "replicas", "config", "versions"))
    require(metrics["protocol"], "protocol", SPLIT_FIELDS + SELECTION_FIELDS)
    require(metrics["data"], "data", ("name", "manifest_sha256", "counts"))
    for i, point in enumerate(metrics["points"]):
        require(point, f"points.{i}", ("values", "chosen", "replicas", "diverged", "valid", "test"))
        for part in ("valid", "test"):
            require(point[part], f"points.{i}.{part}", ())
    if not any(point["chosen"] for point in metrics["points"]):
        raise TypeError("no point is chosen")
    for i, replica in enumerate(metrics["replicas"]):
        require(replica, f"replicas.{i}", ("name", "fold", "seed", "point", "status", "step"))
        require(metrics["data"]["counts"], "data.counts", (replica["fold"],))
        fold = metrics["data"]["counts"][replica["fold"]]
        require(fold, f"data.counts.{replica['fold']}", ("train", "valid", "test"))


def require(tree: Any, where: str, fields: Sequence[str]) -> None:
    """Raises KeyError, naming the first field that is missing, and TypeError for what has no fields at all."""
    if not isinstance(tree, dict):
        raise TypeError(f"{where or 'it'} is no object with fields")
    for field in fields:
        if field not in tree:
            raise KeyError(f"{where}.{field}" if where else field)


def other_version(path: epath.PathLike, error: Exception) -> UserError:
    return UserError(
        f"{path} is not what this mer_jax writes of a finished run: {_reason(error)}. Restore it, or run it again in a "
        "new workdir."
    )


def _reason(error: Exception) -> str:
    return f"field {error} is missing" if isinstance(error, KeyError) else str(error)


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
            row = json.loads(line)
            require(row, "", ("epoch", "replica", "valid"))
            require(row["valid"], "valid", ("loss",))
            if row["replica"] not in known:
                raise ValueError(f"metrics.json has no replica {row['replica']!r}")
        except KeyError as error:
            raise damaged(file, number, ValueError(f"it has no field {error}")) from None
        except (TypeError, ValueError) as error:
            raise damaged(file, number, error) from None
        rows.append(row)
    return rows


def read_optional(folder: epath.Path, name: str) -> Any:
    """What NAME.json of the OPTIONAL_FILES holds; None if there is none. Raises UserError if it is damaged."""
    file = folder / f"{name}.json"
    if not file.exists():
        return None
    value = read_json(file)
    try:
        _check_optional(name, value)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is not what this mer_jax writes: {_reason(error)}. Restore it, or remove it: the page then goes "
            "without"
        ) from None
    return value


def _check_optional(name: str, value: Any) -> None:
    """Raises KeyError, TypeError or ValueError."""
    require(value, "", OPTIONAL_FILES[name])
    if name == "cost":
        for i, session in enumerate(value["sessions"]):
            require(session, f"sessions.{i}", STEPS_FIELDS + MACHINE_FIELDS)
            datetime.datetime.fromisoformat(session["began"])
    if name == "explain":
        require(value["shares"], "shares", ("modalities", "per_class"))
        for i, mistake in enumerate(value["mistakes"]):
            require(mistake, f"mistakes.{i}", MISTAKE_FIELDS)
    if name == "map" and not len(value["ids"]) == len(value["x"]) == len(value["y"]):
        raise TypeError("ids, x and y are not of one length")


def same_targets(a: FinishedRun, b: FinishedRun) -> bool:
    """Whether two runs predict the same: the same task, and the same possible decisions in the same order."""
    return (a.task.name, a.task.decision_names()) == (b.task.name, b.task.decision_names())


def first_difference(a: FinishedRun, b: FinishedRun) -> tuple[str, str, str] | None:
    """The first thing in which the tests of two runs differ, and what it is of each, in words. None if the runs have
    the same split and tested the same utterances with the same labels and dialogues; their features may be others."""

    def split(run: FinishedRun) -> str:
        protocol = run.metrics["protocol"]
        return f"{run.metrics['data']['name']}, {protocol['title']} (sha256 {protocol['split_sha256']})"

    if not same_targets(a, b):
        return "labels", ", ".join(a.task.decision_names()), ", ".join(b.task.decision_names())
    if a.metrics["protocol"]["split_sha256"] != b.metrics["protocol"]["split_sha256"]:
        return "split", split(a), split(b)
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
            return f"{what} for {ids_a[i]!r} ({len(differing)} such utterances)", values_a[i], values_b[i]
    return None
