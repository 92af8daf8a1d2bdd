"""Sections on the run itself: data and protocol, settings, versions, cost, and the command that repeats it."""

import datetime
import shlex
from collections.abc import Mapping
from typing import Any

from mer_jax import config as config_lib
from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import FinishedRun
from mer_jax.evaluation.score_table import looks, with_titles
from mer_jax.report.html import breakable, escaped, missing, table
from mer_jax.runtime.console import duration

PARTS = ("train", "valid", "test")
UNTRUSTED = (
    "These figures are too good: they do not tell how the model does on new dialogues, and cannot be compared with "
    "those of a protocol without leaks."
)


def data_and_protocol(run: FinishedRun) -> str:
    protocol, data, config = run.metrics["protocol"], run.metrics["data"], run.metrics["config"]
    replicas = run.metrics["replicas"]
    folds, seeds, points = ({replica[field] for replica in replicas} for field in ("fold", "seed", "point"))
    counted = [(len(folds), "fold"), (len(seeds), "seed"), (len(points), "swept point")]
    size = " × ".join(f"{n} {word}{'s' * (n > 1)}" for n, word in counted if n > 1 or word != "swept point")
    modalities = " + ".join(config["data"]["modalities"]) if "data" in config else ""
    shared = "".join(f"<li>{escaped(line)}</li>" for line in protocol["leakage"])
    diverged = [replica["name"] for replica in replicas if replica["status"] == "diverged"]
    return "".join(
        [
            f"<p><strong>{escaped(str(config.get('experiment', run.name)))}</strong> on corpus ",
            f"<strong>{escaped(data['name'])}</strong> ({escaped(modalities)}): {size}. ",
            f"Protocol <strong>{escaped(protocol['name'])}</strong>: {escaped(protocol['description'])}. ",
            f"Heard is {escaped(protocol['context']['in_words'])}. " if "context" in protocol else "",
            f"Standardised are {escaped(protocol['speaker_norm']['in_words'])}. " if "speaker_norm" in protocol else "",
            f"Checkpoint: {escaped(with_titles(protocol['selection'], run.task))}; "
            f"test: {escaped(', '.join(filter(None, (protocol['test'], looks(protocol)))))}.</p>",
            alarms(run),
            target_counts(run),
            f"<p>What the parts share:</p><ul>{shared}</ul>",
            encoders(run),
            *(f'<p class="problem">Left out, diverged: {escaped(name)}.</p>' for name in diverged),
            f'<p class="faint">{escaped(str(run.path))}<br/>manifest sha256 {escaped(data["manifest_sha256"])}<br/>',
            f"split sha256 {escaped(protocol['split_sha256'])}</p>",
        ]
    )


def alarms(run: FinishedRun) -> str:
    """What forbids to trust the figures, if anything does."""
    found = []
    if leaky := run.metrics["protocol"]["leaky"]:
        found.append(f"<strong>Leaky protocol: {escaped(leaky)}.</strong> {UNTRUSTED}")
    if run.metrics["config"].get("data", {}).get("test_on_trained"):
        found.append(
            "<strong>data.test_on_trained is on:</strong> features that were trained on labels of the test part, if "
            "the corpus has any, were not refused."
        )
    found += [f"<strong>Not all is read.</strong> {escaped(line)}" for line in run.metrics["data"].get("problems", [])]
    return "".join(f'<p class="alarm" role="note">{text}</p>' for text in found)


def encoders(run: FinishedRun) -> str:
    """What the encoders have seen of the corpus before; nothing of runs that do not say it."""
    found = run.metrics["protocol"].get("contamination", [])
    problem = ' class="problem"'
    items = "".join(f"<li{problem * (one['what'] == 'tuned')}>{escaped(one['in_words'])}</li>" for one in found)
    return f"<p>What the encoders have seen of the corpus:</p><ul>{items}</ul>" if found else ""


def target_counts(run: FinishedRun) -> str:
    """The utterances of each part, by target where they can be counted; of several folds by fold."""
    folds = run.metrics["data"]["counts"]
    if len(folds) > 1:
        rows = [[escaped(name), *(f"{fold[part]['utterances']:,}" for part in PARTS)] for name, fold in folds.items()]
        return table("Utterances", ["fold", *PARTS], rows)
    (fold,) = folds.values()
    counts = [run.task.target_counts(fold[part]) for part in PARTS]
    rows = [
        [escaped(target), *(f"{count[target]:,}" if target in count else "-" for count in counts)]
        for target in counts[0]
    ]
    rows.append(["<strong>all</strong>", *(f"<strong>{fold[part]['utterances']:,}</strong>" for part in PARTS)])
    return table("Utterances", ["label", *PARTS], rows)


def cost(run: FinishedRun) -> str:
    found = run.extra.get("cost")
    if found is None:
        return missing("What the run ran on and how long it took is", "cost.json")
    sessions = found["sessions"]
    hours = sum(session["seconds"] * session["devices"] for session in sessions) / 3600
    platforms = ", ".join(sorted({session["platform"] for session in sessions}))
    count = "1 session" if len(sessions) == 1 else f"{len(sessions)} sessions"
    text = (
        f"{hours:.{2 if hours >= 0.1 else 4}f} device-hours on {platforms} in {count}: seconds × devices of every "
        "session, of one that was killed up to its last save."
    )
    columns = ["began", "steps", "took", "steps/s", "devices", "processes", "hosts", "CPU cores", "peak memory"]
    return f"<p>{escaped(text)}</p>{table('Sessions', columns, [_session_row(session) for session in sessions])}"


def _session_row(session: Mapping[str, Any]) -> list[str]:
    steps, seconds, memory = session["to_step"] - session["from_step"], session["seconds"], session["peak_memory_bytes"]
    began = datetime.datetime.fromisoformat(session["began"]).astimezone(datetime.UTC)
    return [
        began.strftime("%Y-%m-%d %H:%M UTC"),
        f"{session['from_step']:,} – {session['to_step']:,}",
        duration(float(seconds), 1),
        f"{steps / seconds:.2f}" if seconds else "-",
        f"{session['devices']} × {escaped(session['kind'])}",
        str(session["processes"]),
        escaped(", ".join(session["hosts"])),
        str(session["cpus"]),
        "-" if memory is None else f"{memory / 2**30:.2f} GiB",
    ]


def settings(run: FinishedRun) -> str:
    """Where the config differs from the defaults of its family."""
    from mer_jax.models.family import experiment_type  # models need JAX, and nothing else of a report does

    title = "What the config sets otherwise than the defaults"
    try:
        defaults = config_lib.to_dict(experiment_type(run.metrics["config"]["family"])())
    except UserError as error:
        return f'<p class="faint">{escaped(f"{title} is left out: {error}.")}</p>'
    return differing(title, {"default": config_lib.flatten(defaults), "here": fields_of(run)})


def fields_of(run: FinishedRun) -> dict[str, Any]:
    return config_lib.flatten(run.metrics["config"])


def settings_and_versions(run: FinishedRun) -> dict[str, Any]:
    return fields_of(run) | {f"version of {name}": version for name, version in run.metrics["versions"].items()}


def differing(title: str, columns: Mapping[str, Mapping[str, Any]]) -> str:
    """The fields in which the columns are not all the same."""
    rows = []
    for field in sorted(set().union(*columns.values())):
        values = [format_flag_value(column[field]) if field in column else "(none)" for column in columns.values()]
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
    return f"<p>{escaped(', '.join(f'{name} {version}' for name, version in run.metrics['versions'].items()))}</p>"


def reproduce(run: FinishedRun) -> str:
    """The command with every field, so that it does not depend on what a config file sets."""
    fields = fields_of(run)
    config_file = f"configs/{fields.pop('family')}.py"
    flags = (shlex.quote(f"--config.{field}={format_flag_value(value)}") for field, value in fields.items())
    lines = [f"python -m mer_jax.main --config={shlex.quote(config_file)}", *flags, "--workdir=NEW"]
    command = " ".join(f"<span>{escaped(line)}</span>" for line in lines)
    return (
        "<p>Every field is spelled out: the command does not depend on what the config file sets. The data must have "
        f"the manifest sha256 above; rounding may differ on other devices.</p><pre>{command}</pre>"
    )
