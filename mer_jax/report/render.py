"""The page of one finished run, or of several beside each other. No JAX."""

import dataclasses
from collections.abc import Callable, Sequence

from etils import epath

from mer_jax import files
from mer_jax.errors import UserError
from mer_jax.evaluation import score_table
from mer_jax.evaluation.finished_run import FinishedRun, first_difference, read_run, same_targets
from mer_jax.report.html import document, escaped, table
from mer_jax.report.sections import sections_of
from mer_jax.report.sections_run import differing, settings_and_versions
from mer_jax.report.sections_scores import columns, point_rows


def write(runs: Sequence[epath.PathLike], out: epath.PathLike) -> None:
    """Writes the page of the runs in these workdirs. Of several processes only one may call this.

    Raises UserError, and writes nothing, if a run is not what it must be.
    """
    text = page(named_apart([read_run(run) for run in runs]))
    files.write_atomically(out, text, writers=2)


def named_apart(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Folders of one name get their paths as names. Raises UserError if a folder is given twice."""
    names = [run.name for run in runs]
    apart = [dataclasses.replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]
    for run in apart:
        if [other.name for other in apart].count(run.name) > 1:
            raise UserError(f"{run.path} is given twice")
    return apart


def page(runs: Sequence[FinishedRun]) -> str:
    """The whole page. Raises UserError if the runs have different labels."""
    for run in runs[1:]:
        if not same_targets(runs[0], run):
            sides = (f"{one.path}: {', '.join(one.task.outputs)}" for one in (runs[0], run))
            lines = "\n  ".join(sides)
            raise UserError(f"the runs have not the same labels:\n  {lines}\nGive each a report of its own.")
    if len(runs) == 1:
        title = f"{runs[0].name} on {runs[0].metrics['data']['name']}"
        return document(title, [f"<h1>{escaped(title)}</h1>", *section_parts(runs[0], 0, 2)])
    title = f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    links = " ".join(f'<a href="#r{i}">{escaped(run.name)}</a>' for i, run in enumerate(runs))
    parts = [f"<h1>{escaped(title)}</h1>", f"<nav>{links}</nav>"]
    parts.append(f"<h2>Comparison</h2>{comparison(runs)}")
    fields = {run.name: settings_and_versions(run) for run in runs}
    parts.append("<h2>Settings that differ</h2>" + differing("Between the runs", fields))
    for i, run in enumerate(runs):
        parts += [f'<h2 id="r{i}">{escaped(run.name)}</h2>', *section_parts(run, i, 3)]
    return document(title, parts)


def section_parts(run: FinishedRun, number: int, level: int) -> list[str]:
    """Links to the sections of a run, and the sections, with headings of this level."""
    sections = [(f"s{number}-{i}", *section) for i, section in enumerate(sections_of(run))]
    links = " ".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    return [f"<nav>{links}</nav>"] + [
        f'<section><h{level} id="{anchor}">{title}</h{level}>{content(run)}</section>'
        for anchor, title, content in sections
    ]


def comparison(runs: Sequence[FinishedRun]) -> str:
    """One row for each run and point of its sweep, and whether the rows can be compared."""
    parts = [_note_on(runs, "data", _data), _note_on(runs, "split", _split)]
    part = score_table.part_of(point for run in runs for point in run.metrics["points"])
    rows = [row for run in runs for row in point_rows(run, part, runs[0].task, run.name, protocol=True)]
    title = f"{score_table.scores_title(part, runs[0].task)}: mean ± sample standard deviation over replicas"
    parts.append(table(title, ["run", *columns(runs[0].task, part), "protocol"], rows))
    for run in runs:
        if leaky := run.metrics["protocol"]["leaky"]:
            name = f"<strong>{escaped(run.name)}: leaky protocol</strong>"
            parts.append(f'<p class="alarm" role="note">{name}, {escaped(leaky)}.</p>')
    parts.append(
        "<p>Overlapping intervals do not tell whether one run is better: <code>python -m mer_jax.compare RUN_A "
        "RUN_B</code> tests two runs on the same utterances against each other.</p>"
    )
    return "".join(parts)


def _data(run: FinishedRun) -> tuple[str, str]:
    return run.metrics["data"]["name"], run.metrics["data"]["manifest_sha256"]


def _split(run: FinishedRun) -> tuple[str, str]:
    protocol = run.metrics["protocol"]
    leaky = f" (leaky: {protocol['leaky']})" if protocol["leaky"] else ""
    return protocol["name"] + leaky, protocol["split_sha256"]


def _note_on(runs: Sequence[FinishedRun], what: str, key: Callable[[FinishedRun], tuple[str, str]]) -> str:
    """That the runs differ in what the key gives, a name and a sha256, if they do. Runs on other data can be compared
    if they tested the same utterances."""
    found = {run.name: key(run) for run in runs}
    if len(set(found.values())) == 1:
        return ""
    names = escaped("; ".join(f"{run}: {name} ({sha256[:12]}…)" for run, (name, sha256) in found.items()))
    if what == "data" and not any(first_difference(runs[0], run) for run in runs[1:]):
        same = "They are of the same utterances, in the same parts."
        return f'<p class="note">The runs have not the same data: {names}. {same}</p>'
    return (
        f'<p class="alarm" role="note"><strong>Not comparable: the runs have not the same {what}.</strong> {names}. '
        "A difference between their scores may be one between their test utterances.</p>"
    )
