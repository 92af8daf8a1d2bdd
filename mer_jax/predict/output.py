"""TODO: say what lives here."""

import contextlib
import csv
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

PROGRESS_SECONDS = 2.0  # seconds between two lines of progress on a terminal; ten times that elsewhere


@contextlib.contextmanager
def sink(path: Path | None, labels: Iterable[str]) -> Iterator[Any]:
    """A function that writes a prediction: a JSON line, or a row of a table; a file appears under its name when it is whole."""
    if path is None:
        yield print_progress
        return
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        yield table(file, list(labels)) if path.suffix == ".csv" else lines(file)
    partial.replace(path)


def print_progress(found: Any) -> None:
    try:
        print(json.dumps(found.to_json(), ensure_ascii=False), flush=True)
    except BrokenPipeError:  # who read has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def lines(file: TextIO) -> Any:
    return lambda found: file.write(json.dumps(found.to_json(), ensure_ascii=False) + "\n")


def table(file: TextIO, labels: list[str]) -> Any:
    writer = csv.writer(file)
    writer.writerow(["id", "start", "end", "prediction", *labels, "label", "sentence", "notes", "error"])

    def write(found: Any) -> None:
        shares = [f"{found.probabilities[name]:.6f}" if found.probabilities else "" for name in labels]
        times = ["" if x is None else f"{x:g}" for x in (found.start, found.end)]
        about = [found.label, found.sentence, "; ".join(found.notes), found.error]
        writer.writerow([found.id, *times, found.prediction, *shares, *about])

    return write


class PredictionReport:
    """What is told on stderr: how many and how fast, what was noted and what failed; of known labels the scores."""

    def __init__(self, labels: Iterable[str]):
        self.labels = list(labels)
        self.confusion = np.zeros((len(self.labels), len(self.labels)), np.int64)
        self.done = self.failed = 0
        self.notes: Counter[str] = Counter()
        self.began = self.spoke = time.monotonic()

    def add(self, found: Any) -> None:
        self.done += 1
        if found.error:
            self.failed += 1
            print(f"{found.id}: {found.error}", file=sys.stderr)
        elif found.label in self.labels:
            self.confusion[self.labels.index(found.label), self.labels.index(found.prediction)] += 1
        for note in found.notes:
            self.notes[note] += 1
            if self.notes[note] == 1 and len(self.notes) <= 20:
                print(f"{found.id}: {note}", file=sys.stderr)
        now, watched = time.monotonic(), sys.stderr.isatty()
        if now - self.spoke > PROGRESS_SECONDS * (1 if watched else 10):
            self.spoke = now
            print(f"{self.done} done, {self.rate(now)}", end="\r" if watched else "\n", file=sys.stderr, flush=True)

    def rate(self, now: float) -> str:
        return f"{self.done / max(now - self.began, 1e-9):.1f} a second"

    def close(self) -> None:
        print(f"{self.done - self.failed} utterances classified, {self.rate(time.monotonic())}"
              + (f"; {self.failed} could not be used" if self.failed else ""), file=sys.stderr)  # fmt: skip
        for note, count in self.notes.items():
            if count > 1:
                print(f"note, {count} times: {note}", file=sys.stderr)
        if self.confusion.any():
            from mer_jax.metrics.classification import overall

            told = ", ".join(f"{name} {float(value):.4f}" for name, value in overall(self.confusion).items())
            print(f"of {self.confusion.sum()} with a known label: {told}", file=sys.stderr)
