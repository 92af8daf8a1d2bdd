"""TODO: say what lives here."""

import datetime
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mer_jax import config as config_lib
from mer_jax.evaluation.results import FinishedRun
from mer_jax.metrics.classification import TITLES
from mer_jax.models import family as family_lib
from mer_jax.report.html import breakable, escaped, missing, plots, table
from mer_jax.report.svg import Line, curves
from mer_jax.runtime.console import duration

FILES = {"LSGMERExperiment": "lsgmer", "DeepMSIExperiment": "deepmsi_mer", "DeepMSIFramesExperiment": "deepmsi_mer_frames"}  # fmt: skip


# ---- what was run ----


def about(run: FinishedRun) -> str:
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


def alarm(run: FinishedRun) -> str:
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


def counts(run: FinishedRun) -> str:
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


# ---- robustness ----


def robustness(run: FinishedRun) -> str:
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


def cost(run: FinishedRun) -> str:
    found = run.extra.get("cost")
    if found is None:
        return missing("What the run ran on and how long it took is", "cost.json")
    rows, hours = [], 0.0
    for session in found["sessions"]:
        steps, seconds = session["to_step"] - session["from_step"], session["seconds"]
        hours += seconds * session["devices"] / 3600
        memory = session["peak_memory_bytes"]
        rows.append([
            escaped(moment(session["began"])), f"{session['from_step']:,} – {session['to_step']:,}", duration(seconds, 1),
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


def family(run: FinishedRun) -> config_lib.Experiment:
    """The family of experiments whose fields the run's config has, or has almost."""
    names = config_lib.flatten(run.metrics["config"]).keys()
    families = [make() for make in family_lib.FAMILIES]
    return min(families, key=lambda f: len(config_lib.flatten(config_lib.to_dict(f)).keys() ^ names))


def settings(run: FinishedRun) -> str:
    defaults = config_lib.flatten(config_lib.to_dict(family(run)))
    return differing("What the config sets otherwise than the defaults", {"default": defaults, "here": flat(run)})


def flat(run: FinishedRun) -> dict[str, Any]:
    return config_lib.flatten(run.metrics["config"])


def made_with(run: FinishedRun) -> dict[str, Any]:
    """Settings and versions."""
    return flat(run) | {f"version of {name}": version for name, version in run.metrics["versions"].items()}


def differing(title: str, columns: Mapping[str, Mapping[str, Any]]) -> str:
    """The fields in which the configs are not all the same."""
    fields = sorted(set().union(*columns.values()))
    rows = []
    for field in fields:
        values = [format_flag_value(of[field]) if field in of else "(none)" for of in columns.values()]
        if len(set(values)) > 1:
            rows.append([breakable(field), *(escaped(value) for value in values)])
    if not rows:
        return f"<p>{escaped(title)}: nothing.</p>"
    return table(title, ["field", *columns], rows, "words")


def format_flag_value(value: Any) -> str:
    """As the command line takes it."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, list):
        return f"({','.join(map(str, value))})"
    return str(value)


def versions(run: FinishedRun) -> str:
    return "<p>" + escaped(", ".join(f"{name} {version}" for name, version in run.metrics["versions"].items())) + "</p>"


def reproduce(run: FinishedRun) -> str:
    """The command with every field, so that it does not depend on what a config file sets."""
    file = FILES[type(family(run)).__name__]
    flags = [f"--config.{field}={format_flag_value(value)}" for field, value in flat(run).items()]
    lines = [f"python -m mer_jax.main --config=configs/{file}.py", *map(shlex.quote, flags), "--workdir=NEW"]
    command = " ".join(f"<span>{escaped(line)}</span>" for line in lines)
    return (
        "<p>Every field is spelled out: the command does not depend on what the config file sets. The data must have the manifest sha256 above; "
        f"rounding may differ on other devices.</p><pre>{command}</pre>"
    )
