"""Predictions -> JSON lines or a table, and what is said of them on stderr. No JAX."""

import contextlib
import csv
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mer_jax.evaluation.score_table import LOCKED
from mer_jax.files import atomic_file
from mer_jax.plain import for_spreadsheet, for_terminal
from mer_jax.predict.item import PLACE
from mer_jax.tasks import Task

PROGRESS_SECONDS = 2.0  # seconds between two lines of progress on a terminal; ten times that elsewhere
MAX_NOTES = 20  # kinds of notes that are printed when they first occur

Write = Callable[[Any], None]


@contextlib.contextmanager
def open_output(path: Path | None, task: Task) -> Iterator[Write]:
    """A function that writes a prediction: a JSON line, or a row of a table. A file appears under its name when it is
    whole."""
    if path is None:
        yield print_json_line
        return
    if path.suffix == ".csv":
        with open_table(path, task) as write:
            yield write
        return
    with atomic_file(path, "w", encoding="utf-8", newline="") as file:
        yield json_line_writer(file)


def json_line(found: Any) -> str:
    return for_terminal(json.dumps(found.to_json(), ensure_ascii=False))


def print_json_line(found: Any) -> None:
    print(json_line(found), flush=True)


def json_line_writer(file: IO[str]) -> Write:
    def write(found: Any) -> None:
        file.write(json_line(found) + "\n")

    return write


@contextlib.contextmanager
def open_table(path: Path, task: Task) -> Iterator[Write]:
    """A function that writes a row. The columns between the times and the label are those of the task's output. Those
    of `PLACE` are there if any row has one of them: until that is known, the rows wait in a file without a name."""
    columns = _names(task.describe_prediction(np.zeros(task.width)))
    titles = ["id", *PLACE, "start", "end", *map(for_spreadsheet, columns), "label", "sentence", "notes", "error"]
    placed = False
    with (
        atomic_file(path, "w", encoding="utf-8", newline="") as file,
        tempfile.TemporaryFile("w+", dir=path.parent) as waiting,
    ):

        def write(found: Any) -> None:
            nonlocal placed
            place = ["" if (x := getattr(found, name)) is None else for_spreadsheet(x) for name in PLACE]
            placed = placed or place != [""] * len(PLACE)
            values = [""] * len(columns) if found.error else list(_values(found.output))
            cells = [f"{value:.6f}" if isinstance(value, float) else for_spreadsheet(value) for value in values]
            times = ["" if x is None else f"{x:g}" for x in (found.start, found.end)]
            about = [found.label, found.sentence, "; ".join(found.notes), found.error]
            row = [for_spreadsheet(found.id), *place, *times, *cells, *map(for_spreadsheet, about)]
            waiting.write(json.dumps(row) + "\n")

        yield write
        waiting.seek(0)
        writer = csv.writer(file)
        for row in itertools.chain([titles], map(json.loads, waiting)):
            writer.writerow(row if placed else [row[0], *row[1 + len(PLACE) :]])


def _names(output: Mapping[str, Any]) -> list[str]:
    """What an output's values are called, also those inside its entries; where two are called the same, by their
    entries' names, too."""
    inner = [(entry, list(value) if isinstance(value, Mapping) else [entry]) for entry, value in output.items()]
    count = Counter(name for _, names in inner for name in names)
    return [name if count[name] == 1 else f"{entry}.{name}" for entry, names in inner for name in names]


def _values(output: Mapping[str, Any]) -> Iterator[Any]:
    """The values of an output, also of what is inside its entries."""
    for value in output.values():
        yield from _values(value) if isinstance(value, Mapping) else [value]


class PredictionReport:
    """What is said on stderr: how many and how fast, what was noted and what failed; of known labels the scores, but
    for those of utterances whose ids are `locked`."""

    def __init__(self, task: Task, locked: Collection[str] = ()):
        self.task, self.locked, self.unscored = task, locked, 0
        self.counts: Any = None  # of the utterances whose label is known, as the task's scores take them
        self.done = self.failed = self.known = 0
        self.notes: Counter[str] = Counter()
        self.began = self.printed = time.monotonic()

    def add(self, found: Any) -> None:
        """Counts a prediction, and says what is wrong with it."""
        self.done += 1
        if found.error:
            self.failed += 1
            print(f"{found.id}: {found.error}", file=sys.stderr)
        elif found.id in self.locked:
            self.unscored += 1
        elif (counts := self.task.count_prediction(found.label, found.values, found.output)) is not None:
            self.known += 1
            self.counts = counts if self.counts is None else self.counts + counts
        for note in found.notes:
            self.notes[note] += 1
            if self.notes[note] == 1 and len(self.notes) <= MAX_NOTES:
                print(f"{found.id}: {note}", file=sys.stderr)
        now, watched = time.monotonic(), sys.stderr.isatty()
        if now - self.printed > PROGRESS_SECONDS * (1 if watched else 10):
            self.printed = now
            print(f"{self.done} done, {self.rate(now)}", end="\r" if watched else "\n", file=sys.stderr, flush=True)

    def rate(self, now: float) -> str:
        return f"{self.done / max(now - self.began, 1e-9):.1f} a second"

    def close(self) -> None:
        """Prints the totals."""
        failed = f"; {self.failed} could not be used" if self.failed else ""
        done = f"{self.done - self.failed} utterances predicted"
        print(f"{done}, {self.rate(time.monotonic())}{failed}", file=sys.stderr)
        for note, count in self.notes.items():
            if count > 1:
                print(f"note, {count} times: {note}", file=sys.stderr)
        if self.unscored:
            print(f"{self.unscored} are of the run's test part, which is {LOCKED}: no score of them", file=sys.stderr)
        if self.known:
            values = self.task.metric_values(self.counts)
            scores = ", ".join(f"{name} {float(values[name]):.4f}" for name in self.task.headline)
            print(f"of {self.known} with a known label: {scores}", file=sys.stderr)
