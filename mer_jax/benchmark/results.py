"""What the finished rows found: their scores beside each other, paired tests, how sure their order is. No JAX."""

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from mer_jax.benchmark import stages
from mer_jax.benchmark.floors import CONSTANTS, STRENGTHS
from mer_jax.benchmark.rows import Asked, Row
from mer_jax.compare import left_out
from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import FinishedRun, first_difference, read_metrics, read_optional, read_run
from mer_jax.metrics.metric import Metric, mean_sd
from mer_jax.metrics.significance import bootstrap, bootstrap_ranks, holm, paired_bootstrap
from mer_jax.tasks import Task

SAMPLES = 2000  # resamples of the dialogues, for intervals and ranks
PAIRED_SAMPLES = 10000  # for differences, as in mer_jax.compare


@dataclasses.dataclass
class Found:
    """A row that has finished: its run, what its seeds counted of every dialogue, and what is told of it."""

    row: Row
    run: FinishedRun
    counts: np.ndarray
    told: dict[str, Any]


def tables_of(asked: Asked, rows: Sequence[Row], budgeted: Mapping[Path, str]) -> dict[str, Any]:
    """What benchmark.json holds. budgeted: why a row is left out, by its folder."""
    tables = []
    for entry, protocol in dict.fromkeys((row.entry.name, row.protocol) for row in rows):
        members = [row for row in rows if (row.entry.name, row.protocol) == (entry, protocol)]
        tables.append(table_of(asked, members, budgeted))
    return {
        "version": importlib.metadata.version("mer_jax"),
        "asked": asked.identity(),
        "samples": {"intervals": SAMPLES, "paired": PAIRED_SAMPLES},
        "strengths": {kind: list(grid) for kind, grid in STRENGTHS.items()},
        "tables": tables,
    }


def table_of(asked: Asked, members: Sequence[Row], budgeted: Mapping[Path, str]) -> dict[str, Any]:
    """One corpus under one protocol: rows that finished by their main score, the best first; then the others, in the
    order asked for, with the reason."""
    entry, task = members[0].entry, members[0].entry.task
    main = task.metrics[task.main_metric]
    found, others = [], []
    for row in members:
        about = {"model": row.name, "config": getattr(row.model, "config", ""), "trained": row.trained}
        if stages.finished(row, "final"):
            try:
                found.append(read_row(row, asked, about))
                continue
            except UserError as error:
                others.append(about | {"status": "failed", "why": str(error)})
        elif told := stages.failure(row):
            others.append(about | {"status": "failed", "stage": told.stage, "why": told.why})
        else:
            others.append(about | {"status": "left out", "why": budgeted.get(row.folder, "not run yet")})
    found.sort(key=lambda one: one.told["scores"][task.main_metric]["mean"], reverse=main.direction == "max")
    alike = []
    for one in found:
        if difference := first_difference(found[0].run, one.run):
            what, of_best, of_row = difference
            one.told["not_comparable"] = f"not the same {what}: {of_best}; here {of_row}"
        else:
            alike.append(one)
    compare_rows(task, alike)
    return {
        "corpus": entry.name,
        "manifest_sha256": entry.corpus.manifest_sha256,
        "protocol": members[0].protocol,
        "task": task.name,
        "target": task.asked,
        "main": task.main_metric,
        "metrics": {name: _metric(task.metrics[name]) for name in task.headline},
        **(_about_test(found[0].run) if found else {}),
        "rows": [one.told for one in found] + others,
    }


def _metric(metric: Metric) -> dict[str, str]:
    return {"title": metric.title, "short": metric.short, "direction": metric.direction, "unit": metric.unit}


def _about_test(run: FinishedRun) -> dict[str, Any]:
    """What the rows of a table have in common."""
    fields = ("description", "leaky", "leakage", "split_sha256", "selects_on")
    folds = run.metrics["data"]["counts"]
    return {
        **{field: run.metrics["protocol"][field] for field in fields},
        "folds": len(folds),
        "utterances": len(run.predictions.ids),
        "dialogues": len(np.unique(run.predictions.dialogues)),
    }


def read_row(row: Row, asked: Asked, about: Mapping[str, Any]) -> Found:
    """Raises UserError if no seed finished every fold, or the files are damaged."""
    run = read_run(row.folder / "final")
    without = left_out(run)
    counts, task, protocol = run.counts(), run.task, run.metrics["protocol"]
    each = {name: values.tolist() for name, values in task.metric_values(counts.sum(1)).items()}
    main, metrics = task.main_metric, [task.main_metric, *task.other_metrics]
    interval = bootstrap(counts, SAMPLES, scores=_one(task)).get("score")
    folder = row.folder
    told = {
        **about,
        "status": "finished",
        "seeds": {str(seed): value for seed, value in zip(run.complete_seeds, each[main], strict=True)},
        "scores": {name: mean_sd(each[name]) for name in metrics},
        "interval": interval,
        "valid": run.chosen["valid"].get(main),
        "parameters": parameters_of(folder / "final"),
        "seconds": {stage: seconds_of(folder / stage, task) for stage in ("tune", "final")},
        "heard": {"modalities": heard_by(row, run), **protocol.get("context", {})},
        "point": point_of(row, run),
        "validation": validation_of(row, run),
        "test_looks": protocol.get("test_looks"),
        "left_out": without,
    }
    return Found(row, run, counts, told)


def heard_by(row: Row, run: FinishedRun) -> list[str]:
    """The modalities that the row read."""
    of_run: list[str] = run.metrics["config"]["data"]["modalities"]
    return [] if getattr(row.model, "kind", "") in CONSTANTS else of_run


def _one(task: Task) -> Any:
    """The main score alone, as resampling takes scores."""
    function = task.metrics[task.main_metric].function
    return lambda counts: {"score": function(counts)}


def compare_rows(task: Task, rows: Sequence[Found]) -> None:
    """Adds to every row but the best how much it differs from the best, with Holm's correction of p over these rows;
    and to every row its ranks."""
    if not rows or rows[0].counts.shape[1] < 2:
        return
    metric, best = task.metrics[task.main_metric], rows[0]
    for one in rows[1:]:
        test = paired_bootstrap(best.counts, one.counts, samples=PAIRED_SAMPLES, scores=_one(task))["score"]
        one.told["difference"] = {name: test[name] for name in ("difference", "low", "high", "p")}
    corrected = holm([one.told["difference"]["p"] for one in rows[1:]])
    for one, p in zip(rows[1:], corrected, strict=True):
        one.told["difference"]["p_holm"] = p
    larger = metric.direction == "max"
    ranks = bootstrap_ranks([one.counts for one in rows], metric.function, larger_is_better=larger, samples=SAMPLES)
    for one, rank in zip(rows, ranks, strict=True):
        one.told["rank"] = rank


def parameters_of(folder: Path) -> int | None:
    """How many numbers the model has, as parameters.txt ends; of a floor nothing."""
    path = folder / "parameters.txt"
    found = re.findall(r"Total[^\d\n]*([\d,]+)", path.read_text()) if path.exists() else []
    return int(found[-1].replace(",", "")) if found else None


def seconds_of(folder: Path, task: Task) -> float | None:
    """What a stage took by its cost.json; None without one."""
    if not (folder / "cost.json").exists():
        return None
    sessions = read_optional(epath.Path(folder), "cost", task)["sessions"]
    return round(sum(session["seconds"] for session in sessions), 1)


def point_of(row: Row, run: FinishedRun) -> dict[str, Any]:
    """The `values` that were chosen, and `by` whom."""
    path = row.folder / stages.POINT
    told = json.loads(path.read_text()) if path.exists() else {"values": {}, "by": "nobody: the defaults"}
    constant = getattr(row.model, "kind", "") in CONSTANTS
    return {"values": run.chosen["values"] or told["values"], "by": "" if constant else told["by"]}


def validation_of(row: Row, run: FinishedRun) -> dict[str, int]:
    """How often validation was asked: `points` among which it chose, `seeds` of each, and `evaluations`, how often it
    was scored in all, epochs of every replica of both stages."""
    if not row.trained:
        path = row.folder / "final" / "floor.json"
        points = len(json.loads(path.read_text())["grid"]) if path.exists() else 0
        return {"points": points, "seeds": 1, "evaluations": max(1, points) * len(run.metrics["data"]["counts"])}
    tune = row.folder / "tune"
    if not stages.finished(row, "tune"):
        return {"points": 0, "seeds": 0, "evaluations": len(run.history)}
    metrics = read_metrics(tune)
    looks = len(run.history) + sum(1 for _ in (tune / "history.jsonl").open())
    seeds = len({replica["seed"] for replica in metrics["replicas"]})
    return {"points": len(metrics["points"]), "seeds": seeds, "evaluations": looks}
