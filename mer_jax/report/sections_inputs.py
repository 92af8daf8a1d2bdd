"""Sections on the inputs: what each modality adds, how an encoder's layers are weighted, and what is lost with missing
modalities and noise."""

from collections.abc import Mapping, Sequence
from typing import Any

from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.report.html import escaped, missing, plots, table
from mer_jax.report.svg import Line, curves, signed_bars

# What robustness.json tests: its key, the key of the places along a curve, their axis, and the title.
CONDITIONS = (
    ("missing", "rates", "share of the utterances", "with a modality missing"),
    ("noise", "sigmas", "standard deviations of noise", "with noise"),
)


def modalities(run: FinishedRun) -> str:
    """The mean Shapley value of each modality, by decision."""
    found = run.extra.get("explain")
    if found is None:
        return missing("What each modality adds is", "explain.json", run.why_missing)
    names, by_decision = found["shares"]["modalities"], found["shares"]["per_class"]
    groups = [
        (decision, [(i, name, float(by_decision[decision].get(name, 0))) for i, name in enumerate(names)])
        for decision in run.task.outputs
        if decision in by_decision
    ]
    bars = signed_bars("Mean Shapley value of each modality for the output that is explained", groups)
    evidence = (found.get("integrated_gradients") or {}).get("in_words", "")
    note = f'<p class="faint">{escaped(evidence[:1].upper() + evidence[1:])}.</p>' if evidence else ""
    return (
        "<p>How far each modality pulls the output towards what is predicted (to the right) or away from it: mean over "
        f"{found['utterances_used']:,} test utterances of {escaped(found['replica'])}, by what is predicted.</p>"
        f"{plots([bars])}{note}"
    )


def encoder_layers(run: FinishedRun) -> str:
    """The learned weight of each layer of the encoders, over the replicas."""
    found, lines, rows = run.chosen["layer_weights"], [], []
    for name, weights in found.items():
        layers = sorted(map(int, weights))
        told = [[weights[str(layer)][part] for part in ("mean", "sd")] for layer in layers]
        lines.append(_curve(name, layers, told, 1))
        rows += [
            [escaped(f"{name}, layer {layer}"), f"{mean:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")]
            for layer, (mean, sd) in zip(layers, told, strict=True)
        ]
    several = run.chosen["replicas"] > 1
    spread = " Mean ± sample standard deviation over the replicas, which are the bands." if several else ""
    text = (
        f"The model reads a weighted sum of an encoder’s hidden layers, with learned weights that add up to 1.{spread}"
    )
    figure = curves("Weight of each layer", lines, "layer", "weight", integers=True)
    return f"<p>{escaped(text)}</p>{plots([figure])}{table('Weights', ['', 'weight'], rows)}"


def robustness(run: FinishedRun) -> str:
    """The main score with missing modalities and noise, and how much of it is retained."""
    found, main = run.extra.get("robustness"), run.task.main_metric
    metric = run.task.metrics[main]
    what = "How the scores fall with missing modalities and noise is"
    if found is None:
        return missing(what, "robustness.json", run.why_missing)
    if main not in found["floor"]:
        return missing(what, "robustness.json", f"has no {metric.title}")
    scale, unit = (100, "percent") if metric.unit == "percent" else (1, "")
    figures, texts = [], []
    for kind, places, across, title in CONDITIONS:
        if not found.get(kind):
            continue
        lines = [_curve(name, curve[places], curve[main], scale) for name, curve in found[kind].items()]
        ends, floor = [lines[0].x[0], lines[0].x[-1]], scale * found["floor"][main][0]
        lines.append(Line("floor", ends, [floor, floor]))
        figures.append(curves(f"{metric.title[:1].upper()}{metric.title[1:]} {title}", lines, across, unit))
        texts.append(f"{kind.capitalize()}: {found['definition'][kind]}")
    if "floor" in found["definition"]:
        texts.append(f"Floor: {found['definition']['floor']}")
    beside = (found.get("effective") or {}).get("beside")
    rows = _retention_rows(found, main, bool(beside))
    if rows and "retention" in found["definition"]:
        texts.append(f"Retained: {found['definition']['retention']}")
    if beside and "effective" in found["definition"]:
        texts.append(f"Points above {beside}: {found['definition']['effective']}")
    if len(found["replicas"]) > 1:
        texts.append("The bands are ± a sample standard deviation over the replicas.")
    columns = ["", "retained"] + ([f"points above {beside}"] if beside else [])
    retained = table(f"Share of the {metric.title} that is retained", columns, rows) if rows else ""
    return f"<p>{escaped(' '.join(texts))}</p>{plots(figures)}{retained}"


def _curve(
    name: str, places: Sequence[int | float], values: Sequence[Sequence[int | float | None]], scale: int
) -> Line:
    """values: [mean, sd] of each place."""
    mean, sd = ([scale * (value[i] or 0) for value in values] for i in (0, 1))
    if not any(sd):
        return Line(name, places, mean)
    low, high = ([m + sign * s for m, s in zip(mean, sd, strict=True)] for sign in (-1, 1))
    return Line(name, places, mean, low, high)


def _retention_rows(found: Mapping[str, Any], score: str, compared: bool) -> list[list[str]]:
    """What is retained of a score in each condition, and, if compared with another run, points above that."""
    rows = []
    for kind, *_ in CONDITIONS:
        for name, value in (found.get("retention") or {}).get(kind, {}).items():
            share = value.get(score)
            row = [f"{escaped(name)}, {kind}", "-" if share is None else f"{100 * share:.1f} %"]
            if compared:
                points = found["effective"].get(kind, {}).get(name, {}).get(score)
                row.append("-" if points is None else f"{100 * points:+.1f}")
            rows.append(row)
    return rows
