"""What finished runs have found, as one HTML page that needs no network and no script. No JAX.

    python -m mer_jax.report RUN                      writes RUN/report.html
    python -m mer_jax.report RUN RUN --out both.html  compares them, too

RUN is the workdir of a finished run. Sections whose file a run does not have are left out, and the page says so.
"""

import dataclasses
from collections.abc import Sequence

from etils import epath

from mer_jax.errors import UserError
from mer_jax.evaluation.results import FinishedRun, read_run
from mer_jax.files import write_atomically
from mer_jax.report.html import document, escaped, table
from mer_jax.report.sections import SECTIONS
from mer_jax.report.sections_run import differing, made_with
from mer_jax.report.sections_scores import COLUMNS, point_rows


def same_utterances(runs: Sequence[FinishedRun]) -> bool:
    """Whether the runs have the same parts, and tested the same utterances of the same labels and dialogues: ids alone may be those of
    other corpora."""
    found = {
        (
            run.metrics["protocol"]["split_sha256"], run.said.ids, tuple(run.labels[i] for i in run.said.gold),
            tuple(run.said.dialogues.tolist()),
        )
        for run in runs
    }  # fmt: skip
    return len(found) == 1


def comparison(runs: Sequence[FinishedRun]) -> str:
    """One row a run and swept point; and whether the rows can be compared."""
    parts = []
    for what, key in (
        ("data", lambda run: (run.metrics["data"]["name"], run.metrics["data"]["manifest_sha256"])),
        ("split", lambda run: (run.metrics["protocol"]["title"], run.metrics["protocol"]["split_sha256"])),
    ):
        found = {run.name: key(run) for run in runs}
        said = "; ".join(f"{name}: {of} ({sha[:12]}…)" for name, (of, sha) in found.items())
        if len(set(found.values())) == 1:
            continue
        if what == "data" and same_utterances(runs):
            parts.append(
                f'<p class="note">The runs have not the same data: {escaped(said)}. They are of the same utterances, in the same parts.</p>'
            )
        else:
            parts.append(
                f'<p class="alarm" role="note"><strong>Not comparable: the runs have not the same {what}.</strong> {escaped(said)}. '
                "A difference between their scores may be one between their test utterances.</p>"
            )
    rows = [row for run in runs for row in point_rows(run, run.name, protocol=True)]
    parts.append(table("Test scores, percent: mean ± sample standard deviation over replicas", ["run", *COLUMNS, "protocol"], rows))  # fmt: skip
    parts += [
        f'<p class="alarm" role="note"><strong>{escaped(run.name)}: leaky protocol</strong>, {escaped(run.metrics["protocol"]["leaky"])}.</p>'
        for run in runs
        if run.metrics["protocol"]["leaky"]
    ]
    parts.append(
        "<p>Overlapping intervals do not tell whether one run is better: <code>python -m mer_jax.compare RUN_A RUN_B</code> tests two "
        "runs on the same utterances against each other.</p>"
    )
    return "".join(parts)


def sections(run: FinishedRun, number: int, level: int) -> list[str]:
    found = []
    for at, (title, of) in enumerate(SECTIONS):
        found.append(f'<section><h{level} id="s{number}-{at}">{title}</h{level}>{of(run)}</section>')
    return found


def links(number: int) -> str:
    return "<nav>" + " ".join(f'<a href="#s{number}-{at}">{title}</a>' for at, (title, _) in enumerate(SECTIONS)) + "</nav>"  # fmt: skip


def page(runs: Sequence[FinishedRun]) -> str:
    """The whole page. Raises UserError if the runs have different classes."""
    for run in runs[1:]:
        if run.labels != runs[0].labels:
            raise UserError(
                "the runs have not the same classes:\n  "
                + "\n  ".join(f"{r.path}: {', '.join(r.labels)}" for r in (runs[0], run))
                + "\nGive each a report of its own."
            )
    if len(runs) == 1:
        title = f"{runs[0].name} on {runs[0].metrics['data']['name']}"
        return document(title, [f"<h1>{escaped(title)}</h1>", links(0), *sections(runs[0], 0, 2)])
    title = f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    parts = [f"<h1>{escaped(title)}</h1>", "<nav>" + " ".join(f'<a href="#r{i}">{escaped(r.name)}</a>' for i, r in enumerate(runs)) + "</nav>"]  # fmt: skip
    parts.append(f"<h2>Comparison</h2>{comparison(runs)}")
    parts.append("<h2>Settings that differ</h2>" + differing("Between the runs", {r.name: made_with(r) for r in runs}))
    for i, run in enumerate(runs):
        parts += [f'<h2 id="r{i}">{escaped(run.name)}</h2>', links(i), *sections(run, i, 3)]
    return document(title, parts)


def write(runs: Sequence[epath.PathLike], out: epath.PathLike) -> None:
    """Of several processes only one may call this. Raises UserError, and writes nothing, if a run is not what it must be."""
    text = page(named_apart([read_run(run) for run in runs]))
    try:
        write_atomically(out, text)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written ({error.strerror})") from None


def named_apart(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Folders of one name get their paths as names; one folder given twice is told."""
    names = [run.name for run in runs]
    apart = [dataclasses.replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]
    for run in apart:
        if [other.name for other in apart].count(run.name) > 1:
            raise UserError(f"{run.path} is given twice")
    return apart
