"""What a run tells: console, history.jsonl, TensorBoard."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
import rich.table
import tensorboardX

console = rich.console.Console(highlight=False, soft_wrap=True)
PLAIN_SECONDS = 20.0  # without a terminal, a line of progress so often


def write_json(path: Path, value: Any) -> None:
    """Replaces the file in one step: a reader or a kill never sees half of it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class History:
    """history.jsonl (one line per evaluation, no clock times) and TensorBoard events of a run, from step `start` on."""

    def __init__(self, workdir: Path, start: int):
        self._path = workdir / "history.jsonl"
        rows = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [row for row in rows if json.loads(row)["step"] <= start]
        write_text(self._path, "".join(row + "\n" for row in kept))
        self._events = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)

    def evaluation(self, row: Mapping[str, Any]) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps(row) + "\n")
        self.scalars("valid", row["step"], row["valid"])

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._events.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        self._events.close()


class Progress:
    """How far a long piece of work is: a live bar on a terminal, a line now and then elsewhere; rate and time left."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0):
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self._first, self._began, self._spoke = done, time.monotonic(), time.monotonic()
        self._paused = 0.0
        self._bar: rich.progress.Progress | None = None
        if console.is_terminal:
            self._bar = rich.progress.Progress(
                "{task.description}", rich.progress.BarColumn(), rich.progress.MofNCompleteColumn(),
                "{task.fields[rate]}", console=console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(what, total=total, completed=done, rate="")
            self._bar.start()

    def update(self, done: int) -> None:
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=self.rate())
        elif time.monotonic() - self._spoke > PLAIN_SECONDS:
            self._spoke = time.monotonic()
            console.print(f"{self.what} {done}/{self.total}, {self.rate()}")

    def rate(self) -> str:
        """`31.2 steps/s, 12 s left`, over the time not spent in `paused`."""
        elapsed = time.monotonic() - self._began - self._paused
        if self.done == self._first or elapsed <= 0:
            return ""
        per_second = (self.done - self._first) / elapsed
        return f"{per_second:.1f} {self.unit}/s, {duration((self.total - self.done) / per_second)} left"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count: evaluation, saving."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def score_table(title: str, scores: Mapping[str, Any]) -> rich.table.Table:
    """Per class precision, recall, F1, support and where its utterances went; below, the overall scores."""
    names = list(scores["per_class"])
    table = rich.table.Table(title=title, title_justify="left", show_footer=True, box=rich.table.box.SIMPLE_HEAD)
    table.add_column("class", footer="all")
    overall = {
        "precision": "", "recall": f"UAR {scores['uar']:.4f}",
        "F1": f"weighted {scores['weighted_f1']:.4f}\nmacro {scores['macro_f1']:.4f}",
        "support": f"{sum(c['support'] for c in scores['per_class'].values())}",
    }  # fmt: skip
    for name, footer in overall.items():
        table.add_column(name, footer=footer, justify="right")
    for i, name in enumerate(names):
        table.add_column(f"→ {name}", justify="right", footer=f"accuracy {scores['accuracy']:.4f}" if i == 0 else "")
    for name, row in zip(names, scores["confusion"], strict=True):
        c = scores["per_class"][name]
        table.add_row(
            name, f"{c['precision']:.3f}", f"{c['recall']:.3f}", f"{c['f1']:.3f}", str(c["support"]), *map(str, row)
        )
    return table
