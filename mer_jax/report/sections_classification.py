"""Sections that only classification has: confusion, classes, calibration, a map of the utterances, and mistakes."""

from typing import Any

import numpy as np

from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.metrics.calibration import CALIBRATION, scaling_in_words, temperature_scale
from mer_jax.metrics.calibration import reliability as reliability_of
from mer_jax.metrics.classification import class_f1, scores
from mer_jax.metrics.metric import between, percent
from mer_jax.metrics.significance import bootstrap_classes
from mer_jax.report.html import escaped, missing, plots, table
from mer_jax.report.sections_scores import count_dialogues, why_no_interval
from mer_jax.report.svg import intervals, reliability, scatter
from mer_jax.report.utterances import NO_MAP, by_whom, map_axes, map_method, map_places, worst


def pooled_scores(run: FinishedRun) -> tuple[str, dict[str, Any]]:
    """A part, and the scores of all replicas' utterances of it together: validation while the test part is locked."""
    if not run.locked:
        return "test", run.chosen["pooled"]
    total = np.sum([replica["valid"]["confusion"] for replica in run.replicas.values()], axis=0)
    return "validation", scores(total, run.task.outputs)


def confusion(run: FinishedRun) -> str:
    rows = []
    part, pooled = pooled_scores(run)
    for label, row in zip(run.task.outputs, pooled["confusion"], strict=True):
        total = sum(row) or 1
        cells = [
            f'<td class="cell" style="--share: {0.6 * n / total:.3f}">{n:,}<small>{100 * n / total:.0f} %</small></td>'
            for n in row
        ]
        rows.append([escaped(label), *cells, f"{sum(row):,}"])
    replicas = run.chosen["replicas"]
    note = f"<p>All {part} parts of the {replicas} replicas together; percent of the row.</p>" if replicas > 1 else ""
    return note + table(f"{part.capitalize()} utterances", ["true ↓ predicted →", *run.task.outputs, "all"], rows)


def classes(run: FinishedRun) -> str:
    """Precision, recall and F1 of every class; the F1 with its interval, as the mean over the complete seeds."""
    part, of_part = pooled_scores(run)
    labels, pooled, seeds = run.task.outputs, of_part["per_class"], len(run.complete_seeds)
    f1, ends = np.array([pooled[label]["f1"] for label in labels]), None
    if run.locked:
        seeds = 0
    if seeds:
        counts = run.counts()
        f1, ends = class_f1(counts.sum(1)).mean(0), bootstrap_classes(counts)
    rows, bars = [], []
    for i, label in enumerate(labels):
        known = pooled[label]
        shares = (f"{100 * share:.1f}" for share in (known["precision"], known["recall"], f1[i]))
        rows.append([escaped(label), *shares, between(ends[i]) if ends else "-", f"{known['support']:,}"])
        low, high = (100 * ends[i]["low"], 100 * ends[i]["high"]) if ends else (None, None)
        bars.append((label, float(100 * f1[i]), low, high))
    text = f"F1: mean over {seeds} seeds" if seeds > 1 else "F1" if seeds else f"F1: of all {part} parts together"
    dialogues = count_dialogues(run)
    if run.locked:
        text += ", without an interval, for the test part is locked"
    elif ends:
        text += f", with its 95 % interval by resampling the {dialogues} test dialogues"
    else:
        text += f", without an interval, for {why_no_interval(dialogues)}"
    if run.chosen["replicas"] > 1:
        text += "; precision, recall and support are of all replicas together"
    shown = table("Classes, percent", ["class", "precision", "recall", "F1", "95 %", "support"], rows)
    return f"<p>{text}.</p>{shown}{plots([intervals('F1 of each class, percent', bars)])}"


def calibration(run: FinishedRun) -> str:
    """How far the probabilities can be believed: as they are, after temperature scaling, and against the raters. The
    diagrams are of all replicas' test utterances together."""
    part = run.metrics["protocol"]["selects_on"]
    words = [scaling_in_words(replica["calibration"], part) for replica in run.replicas.values()]
    used = "".join(f"<li>{escaped(f'{name}: {how}')}</li>" for name, how in zip(run.replicas, words, strict=True))
    if run.locked:
        what = "How far they can be believed is"
        return f"<p>Probabilities are:</p><ul>{used}</ul>{missing(what, 'predictions.jsonl', run.why_missing)}"
    predictions = run.predictions
    labels = predictions.targets["label"][predictions.utterance]
    temperatures = [run.replicas[name]["calibration"]["temperature"] for name in predictions.names]
    scaled = np.empty_like(predictions.predicted)
    for number, temperature in enumerate(temperatures):
        lines = predictions.replica == number
        scaled[lines] = temperature_scale(predictions.predicted[lines], temperature)
    figures = []
    for key, title, probabilities in (
        ("test", "As trained", predictions.predicted),
        ("test_scaled", "After temperature scaling", scaled),
    ):
        means = run.chosen["calibration"][key]
        known = ", ".join(f"{title} {means[name]['mean']:.3f}" for name, title in CALIBRATION.items())
        figures.append(reliability(title, reliability_of(probabilities, labels), f'<p class="faint">{known}</p>'))
    over = " The figures below are means over the replicas." if len(temperatures) > 1 else ""
    return (
        "<p>How often a prediction is right that is made with so much probability; the area of a circle is the number "
        "of test utterances. On the dotted line the model is right as often as it says. "
        f"Probabilities are:{over}</p><ul>{used}</ul>{plots(figures)}{_raters(run)}"
    )


def _raters(run: FinishedRun) -> str:
    """How the probabilities fit what the raters say, where their votes are known."""
    raters = run.chosen.get("raters")
    if not raters:
        return ""
    return (
        f"<p>Against the raters: NLL {raters['nll']['mean']:.3f}, "
        f"Jensen-Shannon {raters['jensen_shannon']['mean']:.3f} nats; "
        f"{percent(raters['agreement'])} % of them chose the predicted class, "
        f"{percent(raters['agreement_at_most'])} % the one that most chose.</p>"
    )


def utterance_map(run: FinishedRun) -> str:
    """Where the features of one replica's test utterances lie in two dimensions, by true class."""
    found = run.extra.get("map")
    if found is None:
        return missing(NO_MAP, "map.json", run.why_missing)
    predictions, labels, points = run.predictions, run.task.outputs, []
    for x, y, line in map_places(run):
        utterance = predictions.utterance[line]
        true, predicted = int(predictions.targets["label"][utterance]), int(predictions.decisions[line])
        words = f"{predictions.ids[utterance]}: {labels[true]}, taken for {labels[predicted]}"
        points.append((x, y, true, "" if true == predicted else words))
    if not points:
        return missing(NO_MAP, "map.json", "is empty")
    drawn = scatter(f"Test utterances of {found['replica']}", labels, points, *map_axes(found))
    return (
        f"<p>{map_method(found)}. A dot is an utterance that was classified "
        "rightly, a cross one that was not; colours and names are those of the true classes.</p>"
        f"{plots([drawn])}"
    )


def mistakes(run: FinishedRun) -> str:
    """The wrong predictions of the highest mean probability."""
    labels = run.task.outputs

    def told(i: int, mean: np.ndarray) -> tuple[str, str]:
        predicted = int(mean.argmax())
        return f"{run.predictions.labels[i]} → {labels[predicted]}", f"{mean[predicted]:.3f}"

    def said(wrong: int, shown: int) -> str:
        which = f"; these are the {shown} of the largest probability" if shown < wrong else ""
        of = f"{wrong:,} of {len(run.predictions.ids):,} test utterances"
        return f"{of} are wrong by {by_whom(run, 'probability')}{which}. Steps and frames are counted from 1."

    return worst(run, "The most confident mistakes are", told, said)


SECTIONS = (
    ("Confusion", confusion),
    ("Classes", classes),
    ("Calibration", calibration),
    ("Map of the utterances", utterance_map),
    ("Most confident mistakes", mistakes),
)
