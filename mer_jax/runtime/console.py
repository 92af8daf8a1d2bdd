"""What a person sees on the console: the console itself, progress with rate and time left, durations. No JAX."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import rich.console
import rich.progress
from rich.segment import Segment

from mer_jax.plain import PlainStream, for_terminal


class Console(rich.console.Console):
    """Text goes out plain; the codes that make it bold or red are this console's own."""

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=for_terminal(segment.text))

    def _raw(self) -> Any:
        found = rich.console.Console.file.fget(self)  # type: ignore[attr-defined]
        return found.raw if isinstance(found, PlainStream) else found

    file = property(_raw, rich.console.Console.file.fset)  # type: ignore[attr-defined,assignment]


console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = 160  # a file or a pipe has no width; tables must not be squeezed into 80 columns
PLAIN_SECONDS = 20.0  # without a terminal, a line of progress so often


class Stopwatch:
    """Seconds since it was made, less those spent in `paused`."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

    def seconds(self) -> float:
        return time.monotonic() - self._began


class Progress:
    """How far a long piece of work is: a live bar on a terminal, a line now and then elsewhere; rate and time left."""

    def __init__(self, what: str, total: int, unit: str, done: int = 0, watch: Stopwatch | None = None):
        self.what, self.total, self.unit, self.done = what, total, unit, done
        self._first, self._watch, self._last_line = done, watch or Stopwatch(), time.monotonic()
        self._bar: rich.progress.Progress | None = None
        if console.is_terminal:
            columns = rich.progress.BarColumn(), rich.progress.MofNCompleteColumn()
            self._bar = rich.progress.Progress(
                "{task.description}", *columns, "{task.fields[rate]}", console=console, transient=True
            )
            self._task = self._bar.add_task(what, total=total, completed=done, rate="")
            self._bar.start()

    def update(self, done: int) -> None:
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=self.rate())
        elif time.monotonic() - self._last_line > PLAIN_SECONDS:
            self._last_line = time.monotonic()
            console.print(f"{self.what} {done}/{self.total}, {self.rate()}")

    def advance(self) -> None:
        self.update(self.done + 1)

    def rate(self) -> str:
        """`31.2 steps/s, 12 s left`, by the stopwatch."""
        elapsed = self._watch.seconds()
        if self.done == self._first or elapsed <= 0:
            return ""
        per_second = (self.done - self._first) / elapsed
        return f"{per_second:.1f} {self.unit}/s, {duration((self.total - self.done) / per_second)} left"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float, decimals: int = 0) -> str:
    """`2 h 05 min`, `3 min 07 s` or `12 s`, this with so many decimals."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.{decimals}f} s"
