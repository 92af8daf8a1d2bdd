"""What a finished run has left in its workdir: read, checked, and told where it is damaged. No JAX."""

import dataclasses
import datetime
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from mer_jax.errors import UserError
from mer_jax.evaluation.predictions import Predictions, damaged, read_lines, read_predictions
from mer_jax.files import read_json
from mer_jax.metrics.classification import SCORES

OPTIONAL = {
    "map": ("replica", "method", "ids", "x", "y"),
    "cost": ("sessions",),
    "explain": ("replica", "utterances_used", "shares", "mistakes"),
    "robustness": ("definition", "replicas", "noise", "floor"),
}
SESSION = ("began", "from_step", "to_step", "seconds", "devices", "kind", "platform", "processes", "hosts", "cpus", "peak_memory_bytes")  # fmt: skip
FILES = ("metrics.json", "predictions.jsonl")


def read_metrics(folder: epath.PathLike) -> Any:
    """metrics.json; raises UserError where no run has finished."""
    folder = epath.Path(folder)
    for name in FILES:
        if not (folder / name).exists():
            what = f"is not a finished run: it has no {name}" if folder.is_dir() else "does not exist"
            raise UserError(f"{folder} {what}. Give the workdir of a run that has ended.")
    return read_json(folder / "metrics.json")


def require(tree: Any, where: str, fields: Sequence[str]) -> None:
    """Raises KeyError, naming the first that is missing."""
    for field in fields:
        if not isinstance(tree, dict) or field not in tree:
            raise KeyError(f"{where}.{field}" if where else field)


def other_version(path: epath.PathLike, error: Exception) -> UserError:
    what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
    return UserError(
        f"{path} is not what this mer_jax writes of a finished run: {what}. Restore it, or run it again in a new workdir."
    )


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run; `said`: by the replicas at the chosen point. history and extra[…] are empty where there is no file."""

    path: Any
    name: str
    metrics: dict[str, Any]
    chosen: dict[str, Any]
    replicas: dict[str, dict[str, Any]]  # the finished ones at the chosen point, by name
    said: Predictions
    history: list[dict[str, Any]]
    extra: dict[str, dict[str, Any]]

    @property
    def labels(self) -> list[str]:
        return self.metrics["labels"]


def read_run(folder: epath.PathLike) -> FinishedRun:
    """Raises UserError if the folder holds no finished run, one of another version, or a damaged one."""
    path = epath.Path(folder)
    metrics = read_metrics(path)
    try:
        check(metrics)
    except (KeyError, TypeError) as error:
        raise other_version(path / "metrics.json", error) from None
    number, chosen = next((i, point) for i, point in enumerate(metrics["points"]) if point["chosen"])
    replicas = {r["name"]: r for r in metrics["replicas"] if r["point"] == number and r["status"] == "finished"}
    known = {r["name"] for r in metrics["replicas"]}
    said = read_predictions(path / "predictions.jsonl", metrics["labels"], list(replicas), known)
    run = FinishedRun(
        path, path.resolve().name, metrics, chosen, replicas, said, read_history(path, known), read_extra(path)
    )
    refuse_parts(run)
    return run


def check(metrics: Any) -> None:
    """Raises KeyError or TypeError unless metrics.json has what the page shows."""
    require(metrics, "", ("labels", "protocol", "data", "points", "replicas", "config", "versions"))
    protocol = ("title", "description", "leaky", "split_sha256", "leakage", "selection", "selects_on", "test")
    require(metrics["protocol"], "protocol", protocol)
    require(metrics["data"], "data", ("name", "manifest_sha256", "counts"))
    for i, point in enumerate(metrics["points"]):
        require(point, f"points.{i}", ("values", "chosen", "replicas", "diverged", "valid", "test"))
        for part in ("valid", "test"):
            require(point[part], f"points.{i}.{part}", SCORES)
        if point["chosen"]:
            require(point, f"points.{i}", ("pooled", "calibration"))
    if not any(point["chosen"] for point in metrics["points"]):
        raise TypeError("no point is chosen")
    for i, replica in enumerate(metrics["replicas"]):
        require(replica, f"replicas.{i}", ("name", "fold", "seed", "point", "status", "step"))
        if replica["status"] == "finished":
            require(replica, f"replicas.{i}", ("test", "calibration"))
            require(replica["calibration"], f"replicas.{i}.calibration", ("temperature",))


def refuse_parts(run: FinishedRun) -> None:
    """Raises UserError if predictions.jsonl does not hold the test parts that metrics.json scores."""
    for number, (name, replica) in enumerate(run.replicas.items()):
        mine = run.said.utterance[run.said.replica == number]
        there = np.bincount(run.said.gold[mine], minlength=len(run.labels)).tolist()
        scored = [sum(row) for row in replica["test"]["confusion"]]
        if there != scored:
            raise UserError(
                f"{run.path / 'predictions.jsonl'} is incomplete: of {name} it has {sum(there)} utterances, metrics.json "
                f"{sum(scored)}, or of other classes. Restore the file."
            )


def read_history(path: epath.Path, known: set[str]) -> list[dict[str, Any]]:
    file, rows = path / "history.jsonl", []
    if not file.exists():
        return []
    for number, line in read_lines(file):
        try:
            row = json.loads(line)
            require(row, "", ("epoch", "replica", "valid"))
            require(row["valid"], "valid", ("loss", "weighted_f1"))
            if row["replica"] not in known:
                raise ValueError(f"metrics.json has no replica {row['replica']!r}")
        except KeyError as error:
            raise damaged(file, number, ValueError(f"it has no field {error}")) from None
        except ValueError as error:
            raise damaged(file, number, error) from None
        rows.append(row)
    return rows


def read_extra(path: epath.Path) -> dict[str, dict[str, Any]]:
    """The files of OPTIONAL that there are."""
    found = {}
    for name, fields in OPTIONAL.items():
        file = path / f"{name}.json"
        if not file.exists():
            continue
        value = read_json(file)
        try:
            require(value, "", fields)
            if name == "cost":
                for i, session in enumerate(value["sessions"]):
                    require(session, f"sessions.{i}", SESSION)
                    datetime.datetime.fromisoformat(session["began"])
            if name == "explain":
                require(value["shares"], "shares", ("modalities", "per_class"))
                for i, mistake in enumerate(value["mistakes"]):
                    require(mistake, f"mistakes.{i}", ("id", "label", "prediction", "probability", "modalities"))  # fmt: skip
            if name == "map" and not len(value["ids"]) == len(value["x"]) == len(value["y"]):
                raise TypeError("ids, x and y are not of one length")
        except (KeyError, TypeError, ValueError) as error:
            what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{file} is not what this mer_jax writes: {what}. Restore it, or remove it: the page then goes without"
            ) from None
        found[name] = value
    return found
