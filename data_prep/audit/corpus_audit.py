"""A corpus folder is audited: it is told what is in it, before anybody trains on it."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import rich.box
import rich.table
import rich.text

from data_prep.audit.dialogue_findings import dialogues
from data_prep.audit.encoder_findings import encoders
from data_prep.audit.feature_findings import features
from data_prep.audit.finding import LEVELS, Audit, number
from data_prep.audit.findings import classes, floor_findings, lengths, sharing, unread_findings
from data_prep.audit.floor import floor_method, floors_of
from data_prep.audit.number_findings import numbers
from data_prep.audit.page import page
from data_prep.audit.reading import read
from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.description import Description
from mer_jax.errors import UserError
from mer_jax.files import write_atomically
from mer_jax.runtime.console import Console
from mer_jax.text_files import text_of

COLOURS = {"problem": "bold red", "note": "yellow", "ok": "green"}


def listed_ids(path: Path) -> set[str]:
    if not path.is_file():
        raise UserError(f"--extra-happy={path} does not exist; it must list utterance ids, one a line")
    if not (ids := set(text_of(path).split())):
        raise UserError(f"--extra-happy={path} is empty; it must list utterance ids, one a line")
    return ids


def audit(
    corpus_path: str | os.PathLike[str],
    html: str | os.PathLike[str] | None = None,
    floor: bool = True,
    extra_happy: str | os.PathLike[str] | None = None,
) -> Audit:
    """Looks through a corpus folder and writes the page, if one is asked for. Raises UserError if the folder is not a
    whole corpus, or a path is wrong."""
    if html is not None and (not Path(html).parent.is_dir() or Path(html).is_dir()):
        raise UserError(f"--html={html}: must be a file in a folder that exists")
    listed = listed_ids(Path(extra_happy)) if extra_happy is not None else None
    corpus = Corpus(corpus_path)
    reading = read(corpus, floor)
    floors = tuple(floors_of(corpus, reading.means)) if floor else ()
    seconds = reading.end - reading.start
    steps = {m: corpus.index[f"length/{m}"] for m in corpus.modalities}
    result = Audit(
        name=corpus.manifest["name"],
        path=str(corpus.path),
        manifest_sha256=corpus.manifest_sha256,
        utterances=len(corpus),
        findings=(
            *classes(corpus, listed),
            *numbers(corpus),
            *dialogues(corpus, reading),
            *lengths(corpus, reading),
            *unread_findings(corpus),
            *features(corpus, reading),
            *sharing(corpus, reading),
            *encoders(corpus),
            *floor_findings(floors),
        ),
        classes={split: s["classes"] for split, s in corpus.manifest["splits"].items()},
        steps={m: n[n > 0] for m, n in steps.items()},
        seconds=seconds[np.isfinite(seconds)],
        floors=floors,
        method=floor_method(floors, int(corpus.labelled.sum())),
    )
    if html is not None:
        write_atomically(html, page(result))
    return result


def write_and_audit(
    out: Path, utterances: Iterable[Utterance], description: Description, *, extra_happy: Path | None = None
) -> None:
    """Ends every import: writes the corpus folder, and prints what is in it. Raises as `write_corpus`."""
    write_corpus(out, utterances, description)
    result = audit(out, floor=False, extra_happy=extra_happy)
    print(f"wrote {result.utterances:,} utterances to {out}")
    print_audit(result)
    print(f"with plots and each modality's floor: python -m data_prep.audit {out} --html audit.html")


def print_audit(result: Audit) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 160
    console.print(f"{result.name}: {result.utterances:,} utterances, manifest sha256 {result.manifest_sha256}")
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("level", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("found", ratio=3)
    table.add_column("what to do", ratio=2)
    for level in LEVELS:
        for finding in result.of(level):
            name = f"{finding.name} ({finding.about})" if finding.about else finding.name
            # Text, not str: names and sentences of a corpus may hold control characters.
            cells = (rich.text.Text(text) for text in (name, finding.text, finding.do))
            table.add_row(rich.text.Text(level, COLOURS[level]), *cells)
    console.print(table)
    if result.method:
        console.print(result.method)
    console.print(f"{number(result, 'problem')}, {number(result, 'note')}")
