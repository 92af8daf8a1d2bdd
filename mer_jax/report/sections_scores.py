"""Sections on scores: the chosen point's, those of all points, and how they came about in training."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.evaluation import score_table
from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.metrics.significance import FEW_DIALOGUES
from mer_jax.report.html import breakable, escaped, missing, plots, table
from mer_jax.report.svg import Line, curves
from mer_jax.tasks import Task


def count_dialogues(run: FinishedRun) -> int:
    return len(set(run.predictions.dialogues.tolist()))


def why_no_interval(dialogues: int) -> str:
    return "all test utterances are of one dialogue" if dialogues < 2 else "no seed finished every fold"


def chosen_scores(run: FinishedRun) -> str:
    """Every score of the task at the chosen point, and how its interval came about; of a locked test part those of
    validation."""
    point, dialogues = run.chosen, count_dialogues(run)
    interval, replicas, part = point.get("interval"), point["replicas"], score_table.part_of([run.chosen])
    tiles = []
    for name in run.task.headline:
        metric = run.task.metrics[name]
        if run.locked:
            note = "of validation, which chose it"
        elif not interval:
            note = f"no interval: {why_no_interval(dialogues)}"
        else:
            note = f"95 % {metric.format_interval(interval[name])}" if name in interval else ""
        value = metric.format_mean(point[part].get(name))
        title = escaped(metric.title)
        tiles.append(f'<div><dt>{title}</dt><dd class="value">{value}</dd><dd class="faint">{note}</dd></div>')
    spread = f"mean ± sample standard deviation over {replicas} replicas" if replicas > 1 else "one replica"
    held = ", seeds held fixed" * (replicas > 1)
    resampled = f"; 95 % intervals by resampling the {dialogues} test dialogues{held}" if interval else ""
    text = f"{score_table.scores_title(part, run.task)}: {spread}{resampled}."
    if run.locked:
        text += f" The test part is {score_table.LOCKED}."
    elif seen := score_table.looks(run.metrics["protocol"]):
        text += f" The test part was {seen} when they were made."
    if score_table.transductive(run.metrics["protocol"]):
        text += f" They are of {run.metrics['protocol']['speaker_norm']['in_words']}."
    if 1 < dialogues < FEW_DIALOGUES:
        text += f" {dialogues} dialogues are few: the intervals are too narrow."
    if words := score_table.choices_in_words(run.metrics["points"], point):
        what = (
            "every fold's own point, which its validation chose"
            if "by_fold" in point
            else "the point that validation chose"
        )
        text += f" Of {what}: {words}."
    parts = [f'<dl class="stats">{"".join(tiles)}</dl>', f"<p>{escaped(text)}</p>"]
    if (bayes := run.metrics["data"].get("bayes_accuracy")) is not None:
        parts.append(f"<p>The best accuracy that these data allow is {100 * bayes:.1f}.</p>")
    for name, best in (run.metrics["data"].get("bayes_scores") or {}).items():
        if name in run.task.metrics:
            metric = run.task.metrics[name]
            parts.append(f"<p>The best {escaped(metric.title)} that these data allow is {metric.format(best)}.</p>")
    return "".join(parts)


def columns(task: Task, part: str) -> list[str]:
    """The heads of the cells of `point_rows`, after the first."""
    return [*score_table.columns(task, part), "replicas"]


def point_rows(run: FinishedRun, part: str, task: Task, name: str = "", protocol: bool = False) -> list[list[str]]:
    """One row with the part's scores for each point of a run, and for its ensemble. task: whose columns they are, of
    several runs the first one's. protocol: the last cell says which
    protocol it is, and how often the test part was looked at."""
    rows, found = [], run.metrics["points"]
    for point in found:
        title = ", ".join(filter(None, (breakable(name), breakable(score_table.point_name(point)))))
        title = title or ("mean ± sd" if point["replicas"] > 1 else "the replica")
        if point["chosen"] and len(found) > 1:
            title = f'<span class="chosen">{title}</span> <span class="ok">chosen</span>'
        diverged = f", {point['diverged']} diverged" if point["diverged"] else ""
        cells = [title, *score_table.cells(task, point, part), f"{point['replicas']}{diverged}"]
        rows.append(cells + [_protocol_cell(run)] * protocol)
        if ensemble := point.get("ensemble"):
            title = f'<span class="faint">ensemble of its {ensemble["members"]} seeds</span>'
            rows.append([title, *score_table.ensemble_cells(task, ensemble), ""] + [""] * protocol)
    return rows


def _protocol_cell(run: FinishedRun) -> str:
    protocol = run.metrics["protocol"]
    leaky = ' <strong class="problem">leaky</strong>' if protocol["leaky"] else ""
    hears = protocol.get("context", {}).get("hears", "none")
    seen = score_table.looks(protocol) or ("test part locked" if run.locked else "")
    heard = escaped(f", {hears} heard") if hears != "none" else ""
    norm = escaped(score_table.transductive(protocol))
    return escaped(protocol["name"]) + leaky + heard + norm + (f' <span class="faint">{seen}</span>' if seen else "")


def points(run: FinishedRun) -> str:
    """The table of an ablation; of one point its row and its ensemble."""
    note, main = "", run.task.main_metric
    metric = run.task.metrics[main]
    others = [p["test"][main]["mean"] for p in run.metrics["points"] if not p["chosen"] and main in p.get("test", {})]
    others = [mean for mean in others if mean is not None]
    if others:
        low, high = metric.format(min(others)), metric.format(max(others))
        what = "Every fold’s own point was" if "by_fold" in run.chosen else "The point was"
        lie = f"lies between {low} and {high}" if len(others) > 1 else f"is {low}"
        note = (
            f"<p>{what} chosen by {escaped(run.metrics['protocol']['selects_on'])}. The test {escaped(metric.title)} "
            f"of the other{'s' * (len(others) > 1)} {lie}, which is no reason to choose one of them.</p>"
        )
    part = score_table.part_of(run.metrics["points"])
    title, heads = score_table.scores_title(part, run.task), ["", *columns(run.task, part)]
    return table(title, heads, point_rows(run, part, run.task)) + note


def learning_curves(run: FinishedRun) -> str:
    """The main score and the loss of the validation part over the epochs, over the replicas of the chosen point."""
    rows = [row for row in run.history if row["replica"] in run.replicas]
    if not rows:
        return missing("The learning curves are", "history.jsonl", "holds no evaluation of the replicas shown")
    main, several = run.task.main_metric, len(run.replicas) > 1
    metric = run.task.metrics[main]
    factor, unit = (100, "percent") if metric.unit == "percent" else (1, "")
    figures = []
    for score, title, scale, up in ((main, metric.title, factor, unit), ("loss", "loss", 1, "")):
        values: dict[int, list[float]] = {}
        for row in sorted(rows, key=lambda row: row["epoch"]):
            if _is_finite(row["valid"].get(score)):
                values.setdefault(row["epoch"], []).append(scale * row["valid"][score])
        if not values:
            continue
        mean = [float(np.mean(found)) for found in values.values()]
        low, high = ([end(found) for found in values.values()] if several else () for end in (min, max))
        line = Line("mean" if several else "the replica", list(values), mean, low, high)
        marks = _best_epochs(run, rows)
        figures.append(curves(f"Validation {title}", [line], "epoch", up, integers=True, marks=marks))
    band = (
        "The line is the mean, the band the range from the least to the largest, over the replicas that still trained. "
        if several
        else ""
    )
    which = "chosen" if run.locked else "tested"
    return f"<p>{band}Ticks at the bottom: the epochs of the checkpoints that were {which}.</p>{plots(figures)}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _best_epochs(run: FinishedRun, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({row["epoch"] for row in rows if row.get("step") == run.replicas[row["replica"]]["step"]})
