"""The sections of a finished run's report, each as HTML. No JAX."""

import datetime
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax import config as config_lib
from mer_jax.compare import TITLES
from mer_jax.errors import UserError
from mer_jax.page import breakable, escaped, plots, table
from mer_jax.plots import Line, curves, intervals, reliability, scatter, signed, signed_number
from mer_jax.replicas import spell
from mer_jax.results import Run
from mer_jax.statistics import (
    FEW_DIALOGUES,
    between,
    bootstrap_classes,
    by_dialogue,
    class_f1,
    mean_sd,
    percent,
    tempered,
)
from mer_jax.statistics import reliability as reliability_of

MISTAKES = 20
STEPS = 3  # of each modality, of a mistake
FILES = {"LSGMERExperiment": "lsgmer", "DeepMSIExperiment": "deepmsi_mer", "DeepMSIFramesExperiment": "deepmsi_mer_frames"}  # fmt: skip


# ---- what was run ----


def about(run: Run) -> str:
    protocol, data, config = run.metrics["protocol"], run.metrics["data"], run.metrics["config"]
    replicas, points = run.metrics["replicas"], run.metrics["points"]
    folds, seeds = ({r[field] for r in replicas} for field in ("fold", "seed"))
    counted = [(len(folds), "fold"), (len(seeds), "seed"), (len(points), "swept point")]
    made_of = " × ".join(f"{n} {word}{'s' * (n > 1)}" for n, word in counted if n > 1 or word != "swept point")
    modalities = " + ".join(config["data"]["modalities"]) if "data" in config else ""
    parts = [
        f"<p><strong>{escaped(str(config.get('experiment', run.name)))}</strong> on corpus <strong>{escaped(data['name'])}</strong>"
        f" ({escaped(modalities)}): {made_of}. Protocol <strong>{escaped(protocol['name'])}</strong>: {escaped(protocol['description'])}. "
        f"Checkpoint: {escaped(spoken(protocol['selection']))}; test: {escaped(protocol['test'])}.</p>",
        alarm(run),
        counts(run),
        "<p>What the parts share:</p><ul>"
        + "".join(f"<li>{escaped(line)}</li>" for line in protocol["leakage"])
        + "</ul>",
    ]
    parts += [f'<p class="problem">Left out, diverged: {escaped(r["name"])}.</p>' for r in replicas if r["status"] == "diverged"]  # fmt: skip
    parts.append(
        f'<p class="faint">{escaped(str(run.path))}<br/>manifest sha256 {escaped(data["manifest_sha256"])}<br/>'
        f"split sha256 {escaped(protocol['split_sha256'])}</p>"
    )
    return "".join(parts)


def spoken(text: str) -> str:
    """Scores by their titles: `best validation weighted F1`."""
    for name, title in TITLES.items():
        text = text.replace(name, title)
    return text


def alarm(run: Run) -> str:
    """What forbids to trust the figures, if anything does."""
    leaky = run.metrics["protocol"]["leaky"]
    parts = []
    if leaky:
        parts.append(
            f'<p class="alarm" role="note"><strong>Leaky protocol: {escaped(leaky)}.</strong> These figures are too good: they do not tell how '
            "the model does on new dialogues, and cannot be compared with those of a protocol without leaks.</p>"
        )
    if run.metrics["config"].get("data", {}).get("test_on_trained"):
        parts.append(
            '<p class="alarm" role="note"><strong>data.test_on_trained is on:</strong> features that were trained on labels of the '
            "test part, if the corpus has any, were not refused.</p>"
        )
    return "".join(parts)


def counts(run: Run) -> str:
    """Utterances by part and class; of several folds by fold and part."""
    folds = run.metrics["data"]["counts"]
    parts = ("train", "valid", "test")
    if len(folds) == 1:
        (fold,) = folds.values()
        rows = [[escaped(label), *(f"{fold[part]['classes'].get(label, 0):,}" for part in parts)] for label in run.labels]  # fmt: skip
        rows.append(["<strong>all</strong>", *(f"<strong>{fold[part]['utterances']:,}</strong>" for part in parts)])
        return table("Utterances", ["class", *parts], rows)
    rows = [[escaped(name), *(f"{fold[part]['utterances']:,}" for part in parts)] for name, fold in folds.items()]
    return table("Utterances", ["fold", *parts], rows)


# ---- scores ----


def dialogues_of(run: Run) -> int:
    return len(set(run.said.dialogues.tolist()))


def why_none(dialogues: int) -> str:
    """Why there is no interval."""
    return "all test utterances are of one dialogue" if dialogues < 2 else "no seed finished every fold"


def headline(run: Run) -> str:
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
        text += f" Of the point that validation chose: {spell(point['values'])}."
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


def point_rows(run: Run, name: str = "", protocol: bool = False) -> list[list[str]]:
    """One row for each point of a run, and for its ensemble."""
    rows, points = [], run.metrics["points"]
    for point in points:
        title = ", ".join(filter(None, (breakable(name), breakable(spell(point["values"]))))) or (
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


def protocol_cell(run: Run) -> str:
    protocol = run.metrics["protocol"]
    return escaped(protocol["name"]) + (' <strong class="problem">leaky</strong>' if protocol["leaky"] else "")


def points(run: Run) -> str:
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


def learning(run: Run) -> str:
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


def best_epochs(run: Run, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({row["epoch"] for row in rows if row.get("step") == run.replicas[row["replica"]]["step"]})


# ---- errors ----


def confusion(run: Run) -> str:
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


def members(run: Run) -> tuple[list[int], np.ndarray]:
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


def per_class(run: Run) -> str:
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


def calibration(run: Run) -> str:
    """Both diagrams are of all replicas' test utterances together."""
    gold = run.said.gold[run.said.utterance]
    scaled = np.empty_like(run.said.probabilities)
    for number, name in enumerate(run.said.names):
        mine = run.said.replica == number
        scaled[mine] = tempered(run.said.probabilities[mine], run.replicas[name]["calibration"]["temperature"])
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


def embedding(run: Run) -> str:
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


def replica_number(run: Run, file: str, name: str) -> int:
    if name not in run.said.names:
        raise UserError(f"{run.path / file} is of replica {name!r}, which is no finished one at the chosen point; remove the file")  # fmt: skip
    return run.said.names.index(name)


def mistakes(run: Run) -> str:
    said, explain = run.said, run.extra.get("explain")
    classes = len(run.labels)
    times = np.bincount(said.utterance, minlength=len(said.ids))
    total = np.stack([np.bincount(said.utterance, said.probabilities[:, c], len(said.ids)) for c in range(classes)], 1)
    mean = total / times[:, None]
    predicted = mean.argmax(1)
    wrong = np.flatnonzero(predicted != said.gold)
    order = wrong[np.argsort(-mean[wrong, predicted[wrong]], kind="stable")][:MISTAKES]
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
            f"{name} step " + ", ".join(f"{step + 1} ({100 * share:.0f} %)" for step, share in found[:STEPS])
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


def modalities(run: Run) -> str:
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


# ---- robustness ----


def robustness(run: Run) -> str:
    found = run.extra.get("robustness")
    if found is None:
        return missing("How the scores fall with missing modalities and noise is", "robustness.json")
    score, figures, texts = "weighted_f1", [], []
    floor = 100 * found["floor"][score][0]
    for kind, axis, across, title in (
        ("missing", "rates", "share of the utterances", "Weighted F1 with a modality missing"),
        ("noise", "sigmas", "standard deviations of noise", "Weighted F1 with noise"),
    ):
        if not found.get(kind):
            continue
        lines = [fall(name, curve[axis], curve[score]) for name, curve in found[kind].items()]
        xs = lines[0].x
        lines.append(Line("always the most frequent class", [xs[0], xs[-1]], [floor, floor]))
        figures.append(curves(title, lines, across, "percent"))
        texts.append(escaped(f"{kind.capitalize()}: {found['definition'][kind]}"))
    rows = []
    for kind, word in (("missing", "missing"), ("noise", "noise")):
        for name, value in (found.get("retention") or {}).get(kind, {}).items():
            kept = value[score]
            more = (found.get("effective") or {}).get(kind, {}).get(name, {}).get(score)
            rows.append([f"{escaped(name)}, {word}", "-" if kept is None else f"{100 * kept:.1f} %", "-" if more is None else f"{100 * more:+.1f}"])  # fmt: skip
    beside = (found.get("effective") or {}).get("beside")
    columns = ["", "retained", f"points above {beside}" if beside else "points"]
    if not beside:
        rows, columns = [row[:2] for row in rows], columns[:2]
    kept = table("Share of the weighted F1 that is retained", columns, rows) if rows else ""
    said = " ".join(texts) + (" Retained: " + escaped(found["definition"]["retention"]) if rows and "retention" in found["definition"] else "")  # fmt: skip
    if beside and "effective" in found["definition"]:
        said += f" Points above {escaped(beside)}: {escaped(found['definition']['effective'])}"
    several = " The bands are ± a sample standard deviation over the replicas." if len(found["replicas"]) > 1 else ""
    return f"<p>{said}{several}</p>{plots(figures)}{kept}"


def fall(name: str, at: Sequence[int | float], values: Sequence[Sequence[float | None]]) -> Line:
    """values: [mean, sd] for each place."""
    mean, sd = [100 * (v[0] or 0) for v in values], [100 * (v[1] or 0) for v in values]
    band = any(sd)
    return Line(name, at, mean, [m - s for m, s in zip(mean, sd, strict=True)] if band else (), [m + s for m, s in zip(mean, sd, strict=True)] if band else ())  # fmt: skip


# ---- how it ran ----


def cost(run: Run) -> str:
    found = run.extra.get("cost")
    if found is None:
        return missing("What the run ran on and how long it took is", "cost.json")
    rows, hours = [], 0.0
    for session in found["sessions"]:
        steps, seconds = session["to_step"] - session["from_step"], session["seconds"]
        hours += seconds * session["devices"] / 3600
        memory = session["peak_memory_bytes"]
        rows.append([
            escaped(moment(session["began"])), f"{session['from_step']:,} – {session['to_step']:,}", lasted(seconds),
            f"{steps / seconds:.2f}" if seconds else "-", f"{session['devices']} × {escaped(session['kind'])}", str(session["processes"]),
            escaped(", ".join(session["hosts"])), str(session["cpus"]), "-" if memory is None else f"{memory / 2**30:.2f} GiB",
        ])  # fmt: skip
    columns = ["began", "steps", "took", "steps/s", "devices", "processes", "hosts", "CPU cores", "peak memory"]
    platforms = sorted({session["platform"] for session in found["sessions"]})
    sessions = "1 session" if len(rows) == 1 else f"{len(rows)} sessions"
    spelled = f"{hours:.2f}" if hours >= 0.1 else f"{hours:.4f}"
    text = f"{spelled} device-hours on {', '.join(platforms)} in {sessions}: seconds × devices of every session, of one that was killed up to its last save."  # fmt: skip
    return f"<p>{escaped(text)}</p>{table('Sessions', columns, rows)}"


def moment(text: str) -> str:
    return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def lasted(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def family(run: Run) -> config_lib.Experiment:
    """The family of experiments whose fields the run's config has, or has almost."""
    names = config_lib.flatten(run.metrics["config"]).keys()
    families = [make() for make in config_lib.FAMILIES]
    return min(families, key=lambda f: len(config_lib.flatten(config_lib.to_dict(f)).keys() ^ names))


def settings(run: Run) -> str:
    defaults = config_lib.flatten(config_lib.to_dict(family(run)))
    return differing("What the config sets otherwise than the defaults", {"default": defaults, "here": flat(run)})


def flat(run: Run) -> dict[str, Any]:
    return config_lib.flatten(run.metrics["config"])


def made_with(run: Run) -> dict[str, Any]:
    """Settings and versions."""
    return flat(run) | {f"version of {name}": version for name, version in run.metrics["versions"].items()}


def differing(title: str, columns: Mapping[str, Mapping[str, Any]]) -> str:
    """The fields in which the configs are not all the same."""
    fields = sorted(set().union(*columns.values()))
    rows = []
    for field in fields:
        values = [spelled(of[field]) if field in of else "(none)" for of in columns.values()]
        if len(set(values)) > 1:
            rows.append([breakable(field), *(escaped(value) for value in values)])
    if not rows:
        return f"<p>{escaped(title)}: nothing.</p>"
    return table(title, ["field", *columns], rows, "words")


def spelled(value: Any) -> str:
    """As the command line takes it."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, list):
        return f"({','.join(map(str, value))})"
    return str(value)


def versions(run: Run) -> str:
    return "<p>" + escaped(", ".join(f"{name} {version}" for name, version in run.metrics["versions"].items())) + "</p>"


def reproduce(run: Run) -> str:
    """The command with every field, so that it does not depend on what a config file sets."""
    file = FILES[type(family(run)).__name__]
    flags = [f"--config.{field}={spelled(value)}" for field, value in flat(run).items()]
    lines = [f"python -m mer_jax.main --config=configs/{file}.py", *map(shlex.quote, flags), "--workdir=NEW"]
    command = " ".join(f"<span>{escaped(line)}</span>" for line in lines)
    return (
        "<p>Every field is spelled out: the command does not depend on what the config file sets. The data must have the manifest sha256 above; "
        f"rounding may differ on other devices.</p><pre>{command}</pre>"
    )


def missing(what: str, file: str, why: str = "is not there") -> str:
    return f'<p class="faint">{escaped(f"{what} left out: {file} {why}.")}</p>'


SECTIONS = (
    ("Data and protocol", about),
    ("Test scores", headline),
    ("Points and ensembles", points),
    ("Learning curves", learning),
    ("Confusion", confusion),
    ("Classes", per_class),
    ("Calibration", calibration),
    ("Map of the utterances", embedding),
    ("Most confident mistakes", mistakes),
    ("Modalities", modalities),
    ("Robustness", robustness),
    ("Hardware and cost", cost),
    ("Settings", settings),
    ("Versions", versions),
    ("How to reproduce", reproduce),
)
