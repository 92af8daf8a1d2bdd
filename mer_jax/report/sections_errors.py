"""TODO: say what lives here."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.evaluation.results import FinishedRun
from mer_jax.metrics.calibration import reliability as reliability_of
from mer_jax.metrics.calibration import temperature_scale
from mer_jax.metrics.classification import between, class_f1, mean_sd
from mer_jax.metrics.significance import bootstrap_classes, by_dialogue
from mer_jax.report.html import escaped, missing, plots, table
from mer_jax.report.sections_scores import dialogues_of, why_none
from mer_jax.report.svg import intervals, reliability, scatter, signed, signed_number

MAX_MISTAKES = 20
MAX_STEPS = 3  # of each modality, of a mistake


# ---- errors ----


def confusion(run: FinishedRun) -> str:
    pooled = run.chosen["pooled"]["confusion"]
    rows = []
    for label, row in zip(run.labels, pooled, strict=True):
        total = sum(row) or 1
        cells = [
            f'<td class="cell" style="--share: {0.6 * n / total:.3f}">{n:,}<small>{100 * n / total:.0f} %</small></td>'
            for n in row
        ]
        rows.append([escaped(label), *cells, f"{sum(row):,}"])
    columns = ["true ↓ predicted →", *run.labels, "all"]
    return (
        f"<p>All test parts of the {run.chosen['replicas']} replicas together; percent of the row.</p>"
        if run.chosen["replicas"] > 1
        else ""
    ) + table("Test utterances", columns, rows)


def members(run: FinishedRun) -> tuple[list[int], np.ndarray]:
    """The seeds that finished every fold, and their confusion matrices [seeds, dialogues, classes, classes]."""
    names = run.said.names
    folds = {r["fold"] for r in run.metrics["replicas"]}
    seeds = sorted({run.replicas[name]["seed"] for name in names})
    whole = [s for s in seeds if {run.replicas[n]["fold"] for n in names if run.replicas[n]["seed"] == s} == folds]
    seed_of = np.array([run.replicas[name]["seed"] for name in names])[run.said.replica]
    dialogues = np.unique(run.said.dialogues, return_inverse=True)[1]
    counts = np.zeros((len(whole), dialogues.max() + 1, len(run.labels), len(run.labels)), np.int64)
    for i, seed in enumerate(whole):
        mine = seed_of == seed
        at = run.said.utterance[mine]
        there, found = by_dialogue(run.said.gold[at], run.said.predicted[mine], dialogues[at], len(run.labels))
        counts[i, np.array(there, np.int64)] = found
    return whole, counts


def per_class(run: FinishedRun) -> str:
    pooled = run.chosen["pooled"]["per_class"]
    seeds, matrices = members(run)
    ends: list[dict[str, float]] | None = None
    f1 = np.array([pooled[label]["f1"] for label in run.labels])
    if seeds:
        f1, ends = class_f1(matrices.sum(1)).mean(0), bootstrap_classes(matrices)
    rows, drawn = [], []
    for i, label in enumerate(run.labels):
        c = pooled[label]
        said = between(ends[i]) if ends else "-"
        rows.append([escaped(label), f"{100 * c['precision']:.1f}", f"{100 * c['recall']:.1f}", f"{100 * f1[i]:.1f}", said, f"{c['support']:,}"])  # fmt: skip
        low, high = (100 * ends[i]["low"], 100 * ends[i]["high"]) if ends else (None, None)
        drawn.append((label, float(100 * f1[i]), low, high))
    how = f"F1: mean over {len(seeds)} seeds" if len(seeds) > 1 else "F1" if seeds else "F1: of all test parts together"
    if ends:
        text = f"{how}, with its 95 % interval by resampling the {matrices.shape[1]} test dialogues"
    else:
        text = f"{how}, without an interval, for {why_none(dialogues_of(run))}"
    together = "; precision, recall and support are of all replicas together" if run.chosen["replicas"] > 1 else ""
    columns = ["class", "precision", "recall", "F1", "95 %", "support"]
    shown = table("Classes, percent", columns, rows)
    return f"<p>{text}{together}.</p>{shown}{plots([intervals('F1 of each class, percent', drawn)])}"


def calibration(run: FinishedRun) -> str:
    """Both diagrams are of all replicas' test utterances together."""
    gold = run.said.gold[run.said.utterance]
    scaled = np.empty_like(run.said.probabilities)
    for number, name in enumerate(run.said.names):
        mine = run.said.replica == number
        scaled[mine] = temperature_scale(run.said.probabilities[mine], run.replicas[name]["calibration"]["temperature"])
    temperatures = [run.replicas[name]["calibration"]["temperature"] for name in run.said.names]
    figures = []
    for key, title, p in (
        ("test", "As trained", run.said.probabilities),
        ("test_scaled", "After temperature scaling", scaled),
    ):
        known = run.chosen["calibration"][key]
        under = ", ".join(f"{'Brier' if n == 'brier' else n.upper()} {known[n]['mean']:.3f}" for n in ("ece", "nll", "brier"))  # fmt: skip
        figures.append(reliability(title, reliability_of(p, gold), f'<p class="faint">{under}</p>'))
    found = mean_sd(temperatures)
    spread = f" ± {found['sd']:.2f}" if found["sd"] is not None else ""
    return (
        f"<p>How often a prediction is right that is made with so much probability; the area of a circle is the number of test utterances. On "
        f"the dotted line the model is right as often as it says. Temperature {found['mean']:.2f}{spread}, fitted on the "
        f"{escaped(run.metrics['protocol']['selects_on'])} part.{' The figures below are means over the replicas.' * (len(run.said.names) > 1)}</p>{plots(figures)}"
    )


def embedding(run: FinishedRun) -> str:
    found = run.extra.get("map")
    if found is None:
        return missing("The map of the utterances is", "map.json")
    number = replica_number(run, "map.json", found["replica"])
    said = {}
    for line in np.flatnonzero(run.said.replica == number).tolist():
        said[run.said.ids[run.said.utterance[line]]] = line
    dots = []
    for id, x, y in zip(found["ids"], found["x"], found["y"], strict=True):
        if id not in said:
            raise UserError(f"{run.path / 'map.json'}: predictions.jsonl has no utterance {id!r} of {found['replica']}")
        gold, predicted = int(run.said.gold[run.said.utterance[said[id]]]), int(run.said.predicted[said[id]])
        wrong = "" if gold == predicted else f"{id}: {run.labels[gold]}, taken for {run.labels[predicted]}"
        dots.append((x, y, gold, wrong))
    if not dots:
        return missing("The map of the utterances is", "map.json", "is empty")
    shares = found.get("explained") or [None, None]
    across, up = (f"component {i}" + (f", {100 * s:.0f} %" if s is not None else "") for i, s in enumerate(shares, 1))
    title = f"Test utterances of {found['replica']}"
    return (
        f"<p>{escaped(found['method'][:1].upper() + found['method'][1:])}. A dot is an utterance that was classified rightly, a cross one that was not; colours and names are "
        f"those of the true classes.</p>{plots([scatter(title, run.labels, dots, across, up)])}"
    )


def replica_number(run: FinishedRun, file: str, name: str) -> int:
    if name not in run.said.names:
        raise UserError(f"{run.path / file} is of replica {name!r}, which is no finished one at the chosen point; remove the file")  # fmt: skip
    return run.said.names.index(name)


def mistakes(run: FinishedRun) -> str:
    said, explain = run.said, run.extra.get("explain")
    classes = len(run.labels)
    times = np.bincount(said.utterance, minlength=len(said.ids))
    total = np.stack([np.bincount(said.utterance, said.probabilities[:, c], len(said.ids)) for c in range(classes)], 1)
    mean = total / times[:, None]
    predicted = mean.argmax(1)
    wrong = np.flatnonzero(predicted != said.gold)
    order = wrong[np.argsort(-mean[wrong, predicted[wrong]], kind="stable")][:MAX_MISTAKES]
    told = {m["id"]: m for m in explain["mistakes"]} if explain else {}
    items = []
    for u in order.tolist():
        id = said.ids[u]
        items.append(
            mistake(
                said.sentences[u], run.labels[said.gold[u]], run.labels[predicted[u]], float(mean[u, predicted[u]]),
                id, str(said.dialogues[u]), told.pop(id, None),
            )
        )  # fmt: skip
    by = f"the mean probability of {int(times.max())} replicas" if times.max() > 1 else "the model"
    which = f"; these are the {len(order)} of the largest probability" if len(order) < len(wrong) else ""
    share = f"{len(wrong):,} of {len(said.ids):,} test utterances are wrong by {by}{which}"
    parts = [f"<p>{share}. Steps and frames are counted from 1.</p><ol>{''.join(items)}</ol>"]
    if not any(said.sentences):
        parts.append(
            '<p class="faint">predictions.jsonl does not hold the sentences: it was written by an older version, or the corpus has none.</p>'
        )
    if explain and told:
        rest = [mistake(m.get("sentence") or "", m["label"], m["prediction"], m["probability"], m["id"], "", m) for m in told.values()]  # fmt: skip
        parts.append(f"<h3>Further mistakes of {escaped(explain['replica'])}, explained</h3><ol>{''.join(rest)}</ol>")
    return "".join(parts)


def mistake(
    sentence: str,
    label: str,
    prediction: str,
    probability: float,
    id: str,
    dialogue: str,
    explained: Mapping[str, Any] | None,
) -> str:
    said = f"<q>{escaped(sentence)}</q><br/>" if sentence else ""
    where = escaped(id) + (f" of dialogue {escaped(dialogue)}" if dialogue and not id.startswith(dialogue) else "")
    line = f"<li>{said}<strong>{escaped(label)} → {escaped(prediction)}</strong>{probability:.3f} <span class='faint'>{where}</span>"
    if explained:
        shares = ", ".join(f"{name} {signed_number(value)}" for name, value in explained["modalities"].items())
        steps = "; ".join(
            f"{name} step " + ", ".join(f"{step + 1} ({100 * share:.0f} %)" for step, share in found[:MAX_STEPS])
            for name, found in (explained.get("top_steps") or {}).items()
            if found
        )
        line += f'<span class="do">Pull towards {escaped(explained["prediction"])}: {escaped(shares)}.'
        line += f"{escaped(f' Most attention: {steps}.' if steps else '')}{escaped(compressed(explained.get('frames')))}</span>"
    return line + "</li>"


def compressed(frames: Mapping[str, Any] | None) -> str:
    """What VSC made of a clip's frames, counted from 1, in a sentence."""
    if not frames:
        return ""
    told = [f"frames {', '.join(str(t + 1) for t in frames['kept'])} were kept"]
    if frames["merged"]:
        told.append(", ".join(f"{frame + 1} merged into {into + 1}" for frame, into in frames["merged"]))
    if frames["dropped"]:
        told.append(f"{', '.join(str(t + 1) for t in frames['dropped'])} dropped")
    return f" Of the picture {'; '.join(told)}."


def modalities(run: FinishedRun) -> str:
    explain = run.extra.get("explain")
    if explain is None:
        return missing("What each modality adds is", "explain.json")
    names = explain["shares"]["modalities"]
    per = explain["shares"]["per_class"]
    groups = [(label, [(i, name, float(per[label].get(name, 0))) for i, name in enumerate(names)]) for label in run.labels if label in per]  # fmt: skip
    title = "Mean Shapley value of each modality for the predicted class's logit"
    return (
        f"<p>How far each modality pulls the prediction towards the class that is predicted (to the right) or away from it: mean over "
        f"{explain['utterances_used']:,} test utterances of {escaped(explain['replica'])}, by predicted class.</p>{plots([signed(title, groups)])}"
    )
