"""Sections that only classification has: confusion, classes, calibration, a map of the utterances, and mistakes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.metrics.calibration import CALIBRATION, scaling_in_words, temperature_scale
from mer_jax.metrics.calibration import reliability as reliability_of
from mer_jax.metrics.classification import class_f1, scores
from mer_jax.metrics.metric import between, percent
from mer_jax.metrics.significance import bootstrap_classes
from mer_jax.report.html import escaped, missing, plots, table
from mer_jax.report.sections_scores import count_dialogues, why_no_interval
from mer_jax.report.svg import intervals, reliability, scatter, signed_number

MAX_MISTAKES = 20
MAX_STEPS = 3  # time steps that are named, of each modality of a mistake
NO_SENTENCES = "predictions.jsonl does not hold the sentences: an older version wrote it, or the corpus has none."


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
    found, what = run.extra.get("map"), "The map of the utterances is"
    if found is None:
        return missing(what, "map.json", run.why_missing)
    if found["replica"] not in run.predictions.names:
        raise UserError(
            f"{run.path / 'map.json'} is of replica {found['replica']!r}, which is no finished one at the chosen "
            "point; remove the file"
        )
    predictions, labels = run.predictions, run.task.outputs
    lines = np.flatnonzero(predictions.replica == predictions.names.index(found["replica"])).tolist()
    line_of = {predictions.ids[predictions.utterance[line]]: line for line in lines}
    points = []
    for id, x, y in zip(found["ids"], found["x"], found["y"], strict=True):
        if id not in line_of:
            raise UserError(f"{run.path / 'map.json'}: predictions.jsonl has no utterance {id!r} of {found['replica']}")
        true = int(predictions.targets["label"][predictions.utterance[line_of[id]]])
        predicted = int(predictions.decisions[line_of[id]])
        wrong = "" if true == predicted else f"{id}: {labels[true]}, taken for {labels[predicted]}"
        points.append((x, y, true, wrong))
    if not points:
        return missing(what, "map.json", "is empty")
    shares = found.get("explained") or [None, None]
    across, up = (f"component {i}" + (f", {100 * s:.0f} %" if s is not None else "") for i, s in enumerate(shares, 1))
    drawn = scatter(f"Test utterances of {found['replica']}", labels, points, across, up)
    return (
        f"<p>{escaped(found['method'][:1].upper() + found['method'][1:])}. A dot is an utterance that was classified "
        "rightly, a cross one that was not; colours and names are those of the true classes.</p>"
        f"{plots([drawn])}"
    )


def mistakes(run: FinishedRun) -> str:
    """The wrong predictions of the highest mean probability; those of explain.json with their explanations."""
    if run.locked:
        return missing("The most confident mistakes are", "predictions.jsonl", run.why_missing)
    predictions, labels, found = run.predictions, run.task.outputs, run.extra.get("explain")
    mean = predictions.mean()
    wrong = run.task.mistakes(mean, predictions.targets)
    shown = wrong[:MAX_MISTAKES].tolist()
    explained = {mistake["id"]: mistake for mistake in found["mistakes"]} if found else {}
    items = []
    for i in shown:
        predicted, id, dialogue = int(mean[i].argmax()), predictions.ids[i], str(predictions.dialogues[i])
        where = f"{id} of dialogue {dialogue}" if dialogue and not id.startswith(dialogue) else id
        pair = (predictions.labels[i], labels[predicted])
        items.append(_mistake(predictions.sentences[i], pair, mean[i, predicted], where, explained.pop(id, None)))
    replicas = int(np.bincount(predictions.utterance).max())
    by = f"the mean probability of {replicas} replicas" if replicas > 1 else "the model"
    which = f"; these are the {len(shown)} of the largest probability" if len(shown) < len(wrong) else ""
    share = f"{len(wrong):,} of {len(predictions.ids):,} test utterances are wrong by {by}{which}"
    parts = [f"<p>{share}. Steps and frames are counted from 1.</p><ol>{''.join(items)}</ol>"]
    if not any(predictions.sentences):
        parts.append(f'<p class="faint">{NO_SENTENCES}</p>')
    if found and explained:
        rest = "".join(
            _mistake(one.get("sentence") or "", (one["label"], one["prediction"]), one["probability"], one["id"], one)
            for one in explained.values()
        )
        parts.append(f"<h3>Further mistakes of {escaped(found['replica'])}, explained</h3><ol>{rest}</ol>")
    return "".join(parts)


def _mistake(
    sentence: str, pair: tuple[str, str], probability: int | float, where: str, explained: Mapping[str, Any] | None
) -> str:
    """A mistake as an item of a list. pair: the label and the prediction."""
    quoted = f"<q>{escaped(sentence)}</q><br/>" if sentence else ""
    label, prediction = map(escaped, pair)
    place = f"<span class='faint'>{escaped(where)}</span>"
    reason = f'<span class="do">{escaped(_explanation(explained))}</span>' if explained else ""
    return f"<li>{quoted}<strong>{label} → {prediction}</strong>{probability:.3f} {place}{reason}</li>"


def _explanation(explained: Mapping[str, Any]) -> str:
    """What decided, in sentences: modalities, time steps, and frames, counted from 1."""
    shares = ", ".join(f"{name} {signed_number(value)}" for name, value in explained["modalities"].items())
    text = f"Pull towards {explained['prediction']}: {shares}."
    steps = "; ".join(
        f"{name} step " + ", ".join(f"{step + 1} ({100 * share:.0f} %)" for step, share in found[:MAX_STEPS])
        for name, found in (explained.get("top_steps") or {}).items()
        if found
    )
    text += f" Most attention: {steps}." if steps else ""
    if frames := explained.get("frames"):
        parts = [f"frames {', '.join(str(frame + 1) for frame in frames['kept'])} were kept"]
        if frames["merged"]:
            parts.append(", ".join(f"{frame + 1} merged into {into + 1}" for frame, into in frames["merged"]))
        if frames["dropped"]:
            parts.append(f"{', '.join(str(frame + 1) for frame in frames['dropped'])} dropped")
        text += f" Of the picture {'; '.join(parts)}."
    return text


SECTIONS = (
    ("Confusion", confusion),
    ("Classes", classes),
    ("Calibration", calibration),
    ("Map of the utterances", utterance_map),
    ("Most confident mistakes", mistakes),
)
