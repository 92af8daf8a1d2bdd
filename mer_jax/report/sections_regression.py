"""Sections that only regression has: each number's scores, predictions against targets, residuals, intervals, the map,
and the largest errors."""

from collections.abc import Iterator

import numpy as np

from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.evaluation.group_scores import mean_by_group
from mer_jax.evaluation.score_table import part_of
from mer_jax.metrics.metric import Metric, mean_sd
from mer_jax.metrics.regression import EACH
from mer_jax.metrics.residuals import by_target, spread_ratio
from mer_jax.report.html import escaped, missing, plots, table
from mer_jax.report.sections_scores import count_dialogues, why_no_interval
from mer_jax.report.svg import Line, curves, intervals, levels_of, signed_number
from mer_jax.report.svg_numbers import MOST_DOTS, against, coloured
from mer_jax.report.utterances import NO_MAP, by_whom, map_axes, map_method, map_places, worst
from mer_jax.tasks.regression import COVERED, Regression


def _task(run: FinishedRun) -> Regression:
    assert isinstance(run.task, Regression)
    return run.task


def numbers(run: FinishedRun) -> str:
    """The scores of each number, or those of the definition with what each leaves out."""
    definition, part = _task(run).definition, part_of([run.chosen])
    shown = _of_definition(run, part) if _task(run).target.definition else _of_each(run, part)
    replicas = run.chosen["replicas"]
    of = "validation" if run.locked else "test"
    spread = f"Mean ± sample standard deviation over {replicas} replicas" if replicas > 1 else "One replica"
    text = f"{definition.title[:1].upper()}{definition.title[1:]} ({definition.source}). {spread}, {of} part; "
    if run.chosen.get("interval"):
        text += f"95 % intervals by resampling the {count_dialogues(run)} test dialogues."
    elif run.locked:
        text += "without intervals, for the test part is locked."
    else:
        text += f"without intervals, for {why_no_interval(count_dialogues(run))}."
    return f"<p>{escaped(text)}</p>{shown}"


def _of_each(run: FinishedRun, part: str) -> str:
    names, several = run.task.outputs, len(run.task.outputs) > 1
    columns = [metric.title for metric in EACH.values()]
    heads = ["number", "utterances", *(head for column in columns for head in (column, "95 %"))]
    rows = [
        [
            escaped(name),
            _known(run, name),
            *(cell for score in EACH for cell in _cells(run, part, f"{score}_{name}" if several else score)),
        ]
        for name in names
    ]
    if several:
        rows.append(["mean", "", *(cell for score in EACH for cell in _cells(run, part, score))])
    return table("Scores of each number", heads, rows)


def _of_definition(run: FinishedRun, part: str) -> str:
    excluded, counts = _task(run).definition.excluded, _counts(run, part)
    rows = []
    for name, metric in run.task.metrics.items():
        left_out = "nothing"
        if name in excluded:
            what, number = excluded[name]
            left_out = f"{what}, {int(number(counts)):,} of them"
        rows.append([escaped(metric.title), *_cells(run, part, name), escaped(left_out)])
    return table("Scores, accuracy and F1 in percent", ["", "value", "95 %", "leaves out"], rows)


def _counts(run: FinishedRun, part: str) -> np.ndarray:
    """What is counted of every utterance once; of the first replica's part where no seed tested all."""
    if run.complete_seeds and not run.locked:
        return run.counts()[0].sum(0)
    return _task(run).counts_of(next(iter(run.replicas.values()))[part])


def _cells(run: FinishedRun, part: str, score: str) -> list[str]:
    metric: Metric = run.task.metrics[score]
    interval = (run.chosen.get("interval") or {}).get(score)
    return [metric.format_mean(run.chosen[part].get(score)), metric.format_interval(interval)]


def _known(run: FinishedRun, name: str) -> str:
    """Of how many utterances of the part, of all folds, a number is known."""
    part = "valid" if run.locked else "test"
    parts = (fold[part].get("numbers", {}).get(name) for fold in run.metrics["data"]["counts"].values())
    return f"{sum(one['known'] for one in parts if one):,}"


def _each(run: FinishedRun) -> Iterator[tuple[str, tuple[float, float], np.ndarray, np.ndarray]]:
    """Of every number its name, the ends of its range, and of the lines that know it target and prediction."""
    predictions, ranges = run.predictions, _task(run).target.ranges
    for i, (name, (low, high)) in enumerate(zip(run.task.outputs, ranges, strict=True)):
        known = predictions.targets["known"][predictions.utterance, i]
        target = predictions.targets["value"][predictions.utterance[known], i].astype(np.float64)
        yield name, (float(low), float(high)), target, predictions.predicted[known, i]


def predicted_and_true(run: FinishedRun) -> str:
    """Predictions against targets, and how widely they spread."""
    if run.locked:
        return missing("Predictions against targets are", "predictions.jsonl", run.why_missing)
    figures, most = [], 0
    for name, ends, target, predicted in _each(run):
        if not len(target):
            continue
        most = max(most, len(target))
        points = list(zip(target.tolist(), predicted.tolist(), strict=True))
        ratio = f"predictions spread {100 * spread_ratio(target, predicted):.0f} % as widely as the targets"
        figures.append(against(f"{name}: {ratio}", points, ends, "target", "prediction"))
    over = f" of all {run.chosen['replicas']} replicas" if run.chosen["replicas"] > 1 else ""
    drawn = f" Of more than {MOST_DOTS:,} as many are drawn, evenly taken." if most > MOST_DOTS else ""
    return (
        f"<p>Every dot is a test utterance{over}; on the dotted line the prediction is the target. Above and at the "
        f"right are the shares of targets and of predictions.{drawn}</p>{plots(figures)}"
    )


def residuals(run: FinishedRun) -> str:
    """The mean error over the target, and by speaker."""
    if run.locked:
        return missing("The residuals are", "predictions.jsonl", run.why_missing)
    figures = []
    for name, ends, target, predicted in _each(run):
        bins = by_target(target, predicted - target, ends)
        if len(bins) < 2:
            continue
        x = [one.middle for one in bins]
        band = Line("mean", x, [b.mean for b in bins], [b.lower for b in bins], [b.upper for b in bins])
        figures.append(
            curves(f"Residuals of {name}", [band, Line("no error", x, [0.0] * len(x))], "target", "residual")
        )
    return (
        "<p>The residual is the prediction less the target. A line that falls says that low targets are "
        "predicted too high and high ones too low, towards the middle, as whoever is unsure does; the band holds the "
        f"middle half. Targets in ten bins, those of fewer than five left out.</p>{plots(figures)}{_by_speaker(run)}"
    )


def _by_speaker(run: FinishedRun) -> str:
    predictions = run.predictions
    if "speaker" not in predictions.groups or not run.complete_seeds:
        return missing("Residuals by speaker are", "predictions.jsonl", "names no speaker, or no seed finished all")
    lines = [run.lines_of(seed) for seed in run.complete_seeds]
    tested = predictions.utterance[lines[0]]
    targets, figures = predictions.targets_of(tested), []
    for i, name in enumerate(run.task.outputs):
        errors = np.stack([predictions.predicted[of, i] - targets["value"][:, i] for of in lines]).astype(np.float64)
        errors[:, ~targets["known"][:, i]] = np.nan
        found = mean_by_group(predictions.groups["speaker"][tested], predictions.dialogues[tested], errors)
        rows = [(who, one["value"], one.get("low"), one.get("high")) for who, one in found.items()]
        if rows:
            levels = levels_of([0.0, *(v for _, *some in rows for v in some if v is not None)])
            figures.append(intervals(f"Mean residual of {name} by speaker", rows, levels, 2))
    if not figures:
        return missing("Residuals by speaker are", "predictions.jsonl", "has no two speakers with enough utterances")
    return (
        "<h3>By speaker</h3><p>Above 0 a speaker’s numbers are predicted too high. The largest speakers, as in Groups, "
        f"with 95 % intervals by resampling their dialogues.</p>{plots(figures)}"
    )


def coverage(run: FinishedRun) -> str:
    """How wide the intervals about predictions are, and what share of the test part they hold."""
    by, rows = run.metrics["protocol"]["selects_on"], []
    for name, (low, high) in zip(run.task.outputs, _task(run).target.ranges, strict=True):
        told = [replica["calibration"] for replica in run.replicas.values()]
        width, held = (
            mean_sd([one[part][name] for one in told if one.get(part, {}).get(name) is not None])
            for part in ("half_width", "test")
        )
        half = Metric("half width", "half width", float, unit="").format_mean(width)
        share = Metric("held", "held", float).format_mean(held)
        rows.append([escaped(name), f"± {half}" if half != "-" else "-", f"{low:g} to {high:g}", share])
    locked = " The test part is locked." if run.locked else ""
    text = (
        f"An interval about every prediction that should hold {100 * COVERED:.0f} % of the targets: so wide that it "
        f"does on the {by} part (split conformal prediction). All predictions have the same width.{locked}"
    )
    heads = ["number", "half width", "range of the targets", "held of the test part, percent"]
    return f"<p>{escaped(text)}</p>{table('Intervals', heads, rows)}"


def utterance_map(run: FinishedRun) -> str:
    """Where the features of one replica's test utterances lie in two dimensions, by the first number's target."""
    found = run.extra.get("map")
    if found is None:
        return missing(NO_MAP, "map.json", run.why_missing)
    predictions, name, ends = run.predictions, run.task.outputs[0], _task(run).target.ranges[0]
    points = []
    for x, y, line in map_places(run):
        utterance = predictions.utterance[line]
        if predictions.targets["known"][utterance, 0]:
            points.append((x, y, float(predictions.targets["value"][utterance, 0])))
    if not points:
        return missing(NO_MAP, "map.json", "is empty")
    drawn = coloured(f"Test utterances of {found['replica']} by their {name}", points, ends, map_axes(found))
    return f"<p>{map_method(found)}. Every dot is an utterance, coloured by its target.</p>{plots([drawn])}"


def largest_errors(run: FinishedRun) -> str:
    """The predictions that lie furthest from their targets."""
    task = _task(run)

    def told(i: int, mean: np.ndarray) -> tuple[str, str]:
        target, known = (run.predictions.targets[name][i] for name in ("value", "known"))
        gaps = zip(task.outputs, mean - target, known, strict=True)
        off = ", ".join(f"{name} {signed_number(float(gap))}" for name, gap, has in gaps if has)
        words = f"{task.target_in_words(run.predictions.labels[i])} → {task.prediction_in_words(mean)}"
        return words, off

    def said(wrong: int, shown: int) -> str:
        which = "mean over the numbers, in shares of their ranges" if task.width > 1 else "as they are"
        by = by_whom(run, "prediction")
        return f"The {shown} largest errors of {wrong:,} test utterances by {by}: {which}. Steps are counted from 1."

    return worst(run, "The largest errors are", told, said)


SECTIONS = (
    ("Numbers", numbers),
    ("Predictions against targets", predicted_and_true),
    ("Residuals", residuals),
    ("Intervals of predictions", coverage),
    ("Map of the utterances", utterance_map),
    ("Largest errors", largest_errors),
)
