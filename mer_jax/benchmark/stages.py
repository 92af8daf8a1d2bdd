"""The two stages of a row, each a process of its own with its own workdir: `tune`, in which validation chooses a point
of the grid while the test part is locked, and `final`. What has finished is not repeated, and what was killed goes on.
No JAX."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mer_jax import interrupts
from mer_jax.benchmark.models import Model
from mer_jax.benchmark.rows import Asked, Row
from mer_jax.evaluation.finished_run import read_metrics
from mer_jax.files import read_json, write_json
from mer_jax.plain import shortened
from mer_jax.runtime import folder_lock
from mer_jax.runtime.console import console

FAILED, POINT, SECONDS = "failed.json", "point.json", "seconds.json"
MOST_LINES = 4  # of an error
GRACE_SECONDS = 3.0  # in which a child may end that has been interrupted
# Begins the line that it is given. If this process is killed, Linux sends that one a SIGTERM: it saves and ends.
BEGIN = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@dataclasses.dataclass
class Failed(Exception):
    """A stage that ended without a result. why: the last lines of what it said."""

    stage: str
    why: str


class Stopped(Exception):
    """SIGTERM has come, and the child has saved."""


def finished(row: Row, stage: str) -> bool:
    return (row.folder / stage / "metrics.json").exists()


def failure(row: Row) -> Failed | None:
    """What is known of a row that failed."""
    path = row.folder / FAILED
    if not path.exists():
        return None
    told = read_json(path, dict[str, str], "Remove it: the row is then tried again.")
    return Failed(told.get("stage", ""), told.get("why", ""))


def seconds_of(row: Row) -> dict[str, float]:
    """What the process of each stage took, the last one if there were several, with its start; for estimates."""
    path = row.folder / SECONDS
    return read_json(path, dict[str, float], "Remove it.") if path.exists() else {}


def forget_failure(row: Row) -> None:
    """The stage that failed begins anew."""
    if told := failure(row):
        shutil.rmtree(row.folder / told.stage, ignore_errors=True)
        (row.folder / FAILED).unlink()


def run_row(row: Row, asked: Asked, before: Sequence[Row]) -> None:
    """Runs what is left of a row. before: rows whose point may be taken where the test part chooses the epoch. Raises
    Stopped, or KeyboardInterrupt; a row that fails has its FAILED afterwards."""
    row.folder.mkdir(parents=True, exist_ok=True)
    try:
        if needs_tuning(row, asked) and not finished(row, "tune"):
            grid = [f"--config.replicas.grid={asked.grid}", "--config.train.score_test=False"]
            _run(row, "tune", [*grid, f"--config.replicas.seeds={asked.tune_seeds}"])
        if not finished(row, "final"):
            point = choose_point(row, asked, before)
            write_json(row.folder / POINT, point)
            flags = [f"--config.{field}={value!r}" for field, value in point["values"].items()]
            if isinstance(row.model, Model):
                flags += [f"--config.replicas.seeds={asked.seeds}"]
            else:
                flags = row.model.flags(point["values"].get("floor.strength", 0.0))
            _run(row, "final", flags)
    except Failed as told:
        write_json(row.folder / FAILED, {"stage": told.stage, "why": told.why})


def needs_tuning(row: Row, asked: Asked) -> bool:
    return row.trained and row.tunes and bool(asked.grid)


def choose_point(row: Row, asked: Asked, before: Sequence[Row]) -> dict[str, Any]:
    """The `values` of the final stage, and who chose them, `by`, in words."""
    if not row.tunes:
        for other in before:
            same = other.entry.name == row.entry.name and other.model == row.model
            stage = "tune" if needs_tuning(other, asked) else "final"
            if same and other.tunes and finished(other, stage) and (values := _chosen(other.folder / stage)["values"]):
                return {"values": values, "by": f"validation of {other.protocol}"}
        return {"values": {} if row.trained else _usual(row), "by": "nobody: the defaults"}
    if needs_tuning(row, asked):
        return {"values": _chosen(row.folder / "tune")["values"], "by": "validation"}
    return {"values": {}, "by": "nobody: the defaults" if row.trained else "validation"}


def _usual(row: Row) -> dict[str, float]:
    """Of a floor that nobody has tuned the middle of its grid."""
    from mer_jax.benchmark.floors import STRENGTHS

    grid = STRENGTHS.get(getattr(row.model, "kind", ""), ())
    return {"floor.strength": grid[len(grid) // 2]} if grid else {}


def _chosen(folder: Path) -> dict[str, Any]:
    return next(point for point in read_metrics(folder)["points"] if point["chosen"])


def line_of(row: Row, stage: str, flags: Sequence[str]) -> list[str]:
    """The command of a stage, after `python`."""
    module = ["mer_jax.main", row.model.flag] if isinstance(row.model, Model) else ["mer_jax.benchmark.floor_run"]
    return ["-m", *module, f"--workdir={row.folder / stage}", *row.flags, *flags]


def _run(row: Row, stage: str, flags: Sequence[str]) -> None:
    """Raises Failed unless the stage finishes."""
    log = row.folder / f"{stage}.log"
    wait_for_others(row.folder / stage)
    # A floor has nothing to compute on an accelerator, whose memory JAX would take.
    env = os.environ | ({} if row.trained else {"JAX_PLATFORMS": "cpu"})
    with log.open("wb") as file:
        began = time.monotonic()
        code = run_child(line_of(row, stage, flags), file, env)
    write_json(row.folder / SECONDS, seconds_of(row) | {stage: round(time.monotonic() - began, 1)})
    if code != 0 or not finished(row, stage):
        raise Failed(stage, last_words(log, code))


def run_child(line: Sequence[str], output: Any, env: dict[str, str]) -> int:
    """Runs `python LINE` to its end; returns its exit code. SIGTERM is handed on, and raises Stopped when the child has
    saved and ended; KeyboardInterrupt ends the child, too."""
    command = [sys.executable, "-c", BEGIN, str(os.getpid()), *line]
    with handed_on() as children:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env)
        children.append(child)
        try:
            code = child.wait()
        except BaseException:
            _end(child)
            raise
        if children.asked:
            raise Stopped
    return code


class Children(list[subprocess.Popen[bytes]]):
    """asked: how often SIGTERM has come."""

    asked = 0


@contextmanager
def handed_on() -> Iterator[Children]:
    """Inside, SIGTERM goes to the child, which may take its time to save; a second one ends both at once."""
    children = Children()

    def hand_on(number: int, _: Any) -> None:
        children.asked += 1
        for child in children:
            child.send_signal(signal.SIGTERM)
        if children.asked > 1:
            interrupts.end(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield children
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Of Ctrl-C in a terminal the child knows already."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_for_others(folder: Path) -> None:
    """Returns when nobody is at work in the folder: a benchmark that was killed may have left a process there."""
    told = False
    while folder.exists():
        try:
            with folder_lock.held(folder, "benchmark"):
                return
        except folder_lock.InUse as error:
            if not told:
                console.print(f"  waits: {error}", markup=False)
            told = True
            time.sleep(0.5)


def last_words(log: Path, code: int) -> str:
    """What a stage that failed said last, a line or a few; and how it ended, if it did not say."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    found = lines[errors[-1] :][:MOST_LINES] if errors else lines[-1:]
    words = "\n".join(shortened(line.removeprefix("error: ")) for line in found)
    if code < 0:
        name = signal.Signals(-code).name
        why = ", as the system does where memory is short" * (name == "SIGKILL")
        return f"ended by {name}{why}" + f"; the last line was: {words}" * bool(words)
    return words or f"ended with exit code {code} and said nothing"
