"""TODO: say what lives here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.evaluation.results import FinishedRun
from mer_jax.metrics.classification import TITLES, between, percent
from mer_jax.metrics.significance import FEW_DIALOGUES
from mer_jax.report.html import breakable, escaped, missing, plots, table
from mer_jax.report.svg import Line, curves
from mer_jax.training.replicas import format_overrides

# ---- scores ----


def dialogues_of(run: FinishedRun) -> int:
    return len(set(run.said.dialogues.tolist()))


def why_none(dialogues: int) -> str:
    """Why there is no interval."""
    return "all test utterances are of one dialogue" if dialogues < 2 else "no seed finished every fold"


def headline(run: FinishedRun) -> str:
    point = run.chosen
    n, interval, dialogues = point["replicas"], point.get("interval"), dialogues_of(run)
    tiles = []
    for name in TITLES:
        under = f"95 % {between(interval[name])}" if interval else f"no interval: {why_none(dialogues)}"
        tiles.append(f'<div><dt>{TITLES[name]}</dt><dd class="value">{percent(point["test"][name])}</dd><dd class="faint">{under}</dd></div>')  # fmt: skip
    spread = f"mean ± sample standard deviation over {n} replicas" if n > 1 else "one replica"
    resampled = f"; 95 % intervals by resampling the {dialogues} test dialogues{', seeds held fixed' * (n > 1)}"
    text = f"Test scores in percent, {spread}{resampled if interval else ''}."
    if 1 < dialogues < FEW_DIALOGUES:
        text += f" {dialogues} dialogues are few: the intervals are too narrow."
    if point["values"]:
        text += f" Of the point that validation chose: {format_overrides(point['values'])}."
    parts = [f'<dl class="stats">{"".join(tiles)}</dl>', f"<p>{escaped(text)}</p>"]
    if (bayes := run.metrics["data"].get("bayes_accuracy")) is not None:
        parts.append(f"<p>The best accuracy that these data allow is {100 * bayes:.1f}.</p>")
    if raters := point.get("raters"):
        parts.append(
            f"<p>Against the raters: NLL {raters['nll']['mean']:.3f}, Jensen-Shannon {raters['jensen_shannon']['mean']:.3f} nats; "
            f"{percent(raters['agreement'])} % of them chose the predicted class, {percent(raters['agreement_at_most'])} % the one "
            "that most chose.</p>"
        )
    return "".join(parts)


OTHERS = tuple(name for name in TITLES if name != "weighted_f1")
COLUMNS = ["weighted F1", "95 %", "macro F1", "accuracy", "UAR", "validation WF1", "replicas"]


def point_rows(run: FinishedRun, name: str = "", protocol: bool = False) -> list[list[str]]:
    """One row for each point of a run, and for its ensemble."""
    rows, points = [], run.metrics["points"]
    for point in points:
        title = ", ".join(filter(None, (breakable(name), breakable(format_overrides(point["values"]))))) or (
            "mean ± sd" if point["replicas"] > 1 else "the replica"
        )
        if point["chosen"] and len(points) > 1:
            title = f'<span class="chosen">{title}</span> <span class="ok">chosen</span>'
        test, interval = point["test"], point.get("interval")
        lost = f", {point['diverged']} diverged" if point["diverged"] else ""
        row = [title, percent(test["weighted_f1"]), between(interval["weighted_f1"]) if interval else "-"]
        row += [percent(test[score]) for score in OTHERS]
        row += [percent(point["valid"]["weighted_f1"]), f"{point['replicas']}{lost}"]
        rows.append(row + [protocol_cell(run)] * protocol)
        if ensemble := point.get("ensemble"):
            row = [f'<span class="faint">ensemble of its {ensemble["members"]} seeds</span>', f"{100 * ensemble['weighted_f1']['value']:.1f}"]  # fmt: skip
            row += [between(ensemble["weighted_f1"])] + [f"{100 * ensemble[s]['value']:.1f}" for s in OTHERS]
            rows.append([*row, "", "", *[""] * protocol])
    return rows


def protocol_cell(run: FinishedRun) -> str:
    protocol = run.metrics["protocol"]
    return escaped(protocol["name"]) + (' <strong class="problem">leaky</strong>' if protocol["leaky"] else "")


def points(run: FinishedRun) -> str:
    """The table of an ablation; of one point its row and its ensemble."""
    found = run.metrics["points"]
    note = ""
    others = [p["test"]["weighted_f1"]["mean"] for p in found if not p["chosen"] and p["replicas"]]
    if others:
        low, high = (f"{100 * end:.1f}" for end in (min(others), max(others)))
        lie = f"lies between {low} and {high}" if len(others) > 1 else f"is {low}"
        note = (
            f"<p>The point was chosen by {escaped(run.metrics['protocol']['selects_on'])}. The test weighted F1 of the "
            f"other{'s' * (len(others) > 1)} {lie}, which is no reason to choose one of them.</p>"
        )
    return table("Test scores, percent", ["", *COLUMNS], point_rows(run)) + note


# ---- training ----


def learning(run: FinishedRun) -> str:
    rows = [row for row in run.history if row["replica"] in run.replicas]
    if not rows:
        return missing("The learning curves are", "history.jsonl", "holds no evaluation of the replicas shown")
    epochs = sorted({row["epoch"] for row in rows})
    figures = []
    for score, title, factor in (("weighted_f1", "Validation weighted F1", 100), ("loss", "Validation loss", 1)):
        values = {e: [factor * r["valid"][score] for r in rows if r["epoch"] == e and usable(r["valid"][score])] for e in epochs}  # fmt: skip
        shown = [e for e in epochs if values[e]]
        if not shown:
            continue
        several = len(run.replicas) > 1
        line = Line(
            "mean" if several else "the replica", shown, [float(np.mean(values[e])) for e in shown],
            [min(values[e]) for e in shown] if several else (), [max(values[e]) for e in shown] if several else (),
        )  # fmt: skip
        figures.append(curves(title, [line], "epoch", "percent" if factor == 100 else "", True, best_epochs(run, rows)))
    band = (
        "The line is the mean, the band the range from the least to the largest, over the replicas that still trained. "
        if len(run.replicas) > 1
        else ""
    )
    return f"<p>{band}Ticks at the bottom: the epochs of the checkpoints that were tested.</p>{plots(figures)}"


def usable(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def best_epochs(run: FinishedRun, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({row["epoch"] for row in rows if row.get("step") == run.replicas[row["replica"]]["step"]})
