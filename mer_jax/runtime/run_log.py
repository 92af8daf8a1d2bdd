"""What a run writes down of itself: history.jsonl, cost.json, TensorBoard, reads, profiles."""

import datetime
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from etils import epath

from mer_jax import errors, files, run_files, schema
from mer_jax.errors import UserError
from mer_jax.runtime import distributed
from mer_jax.runtime.console import Stopwatch, console

# Of each group of replicas: their numbers, and values with one entry for each (of one alone, just the value).
Terms = list[tuple[tuple[int, ...], dict[str, Any]]]
FLUSH_SECONDS = 60.0  # in a bucket the whole file is written each time


def write_json(path: epath.PathLike, value: Any) -> None:
    """Replaces the file in one step. Of several processes only the first writes."""
    if distributed.is_primary():
        files.write_json(path, value)


def write_text(path: epath.PathLike, text: str) -> None:
    """Replaces the file in one step. Of several processes only the first writes."""
    if distributed.is_primary():
        files.write_atomically(path, text)


def holds(path: epath.PathLike, value: Any) -> bool:
    """Whether the file is there and says this."""
    try:
        return files.read_json(path, Any) == json.loads(json.dumps(value))
    except (OSError, UserError):
        return False


def without_torch() -> Any:
    """tensorboardX. It would import PyTorch where that is installed: seconds, for nothing that is written here."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]  # an import of it raises ImportError
    try:
        import tensorboardX
    finally:
        if absent:
            del sys.modules["torch"]
    return tensorboardX


class Events:
    """TensorBoard's events in a new file of the folder; those of earlier files from `purge_step` on no longer count.

    tensorboardX's own writer has a thread, which a full disk ends with a traceback, after which who writes waits for
    ever. Here who writes is told.
    """

    def __init__(self, folder: epath.Path, purge_step: int):
        self._tensorboard, self._folder = without_torch(), folder
        proto, files = self._tensorboard.proto.event_pb2, self._tensorboard.event_file_writer
        self._proto, self._flush_at = proto, 0.0
        with errors.at(folder):
            files.directory_check(str(folder))
            self._file = files.EventsWriter(f"{folder}/events")
            start = proto.SessionLog(status=proto.SessionLog.START)
            for event in (proto.Event(file_version="brain.Event:2"), proto.Event(session_log=start)):
                event.step = purge_step
                self._file.write_event(event)

    def scalar(self, name: str, step: int, value: float) -> None:
        summary = self._tensorboard.summary.scalar(name, value)
        with errors.at(self._folder):
            self._file.write_event(self._proto.Event(wall_time=time.time(), step=step, summary=summary))
            if time.monotonic() >= self._flush_at:
                self._file.flush()
                self._flush_at = time.monotonic() + FLUSH_SECONDS

    def close(self) -> None:
        with errors.at(self._folder):
            self._file.close()


def intact_rows(path: epath.Path) -> list[str]:
    """The lines of history.jsonl; one that is damaged is left out, and told."""
    rows = []
    content = path.read_bytes().decode(errors="replace") if path.exists() else ""
    for number, row in enumerate(content.removesuffix("\n").split("\n") if content else [], 1):
        try:
            schema.check(files.load_json(row), run_files.Evaluated)
            rows.append(row)
        except ValueError as error:
            console.print(
                f"note: {path}, line {number} is damaged ({error}) and left out; the curves lack it", markup=False
            )
    return rows


class History:
    """history.jsonl (one line per evaluation, no clock times) and TensorBoard events of a run, from step `start` on,
    before which there were so many evaluations; the first process writes them."""

    def __init__(self, workdir: epath.PathLike, start: int, evaluations: int = 0):
        workdir = epath.Path(workdir)
        self._path = workdir / "history.jsonl"
        self._rows = [row for row in intact_rows(self._path) if json.loads(row)["step"] <= start]
        held = len({json.loads(row)["step"] for row in self._rows})
        if held < evaluations:
            text = (
                f"note: {self._path} holds {held} of the {evaluations} evaluations so far; the curves lack the others"
            )
            console.print(text, markup=False)
        self._events = Events(workdir / "tensorboard", start + 1) if distributed.is_primary() else None

    def evaluations(self, rows: list[Mapping[str, Any]]) -> None:
        """Adds lines; the whole file is written anew, as object stores want it."""
        self._rows += [json.dumps(row) for row in rows]
        write_text(self._path, "".join(row + "\n" for row in self._rows))

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if self._events is not None:
                self._events.scalar(f"{group}/{name}", step, value)

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def sessions_before(path: epath.Path) -> list[Any]:
    """What cost.json says of the sessions so far; nothing, and that is told, if it is damaged."""
    try:
        return files.read_json(path, run_files.Cost)["sessions"] if path.exists() else []
    except UserError as error:
        console.print(f"note: {error} What earlier sessions cost is not known.", markup=False)
        return []


class Cost:
    """cost.json: for every time that the run was at work, on what and how long. A session that is killed is in it up to
    its last save."""

    def __init__(self, workdir: epath.PathLike, start: int):
        self._path, self._began = epath.Path(workdir) / "cost.json", time.monotonic()
        self._before = sessions_before(self._path) if start else []
        device = jax.devices()[0]
        self._now = {
            "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "from_step": start,
            "devices": jax.device_count(),
            "kind": device.device_kind,
            "platform": device.platform,
            "processes": jax.process_count(),
            "hosts": sorted(set(distributed.all_gather_text(platform.node()))),
            "cpus": os.cpu_count(),
        }

    def write(self, step: int) -> None:
        """peak_memory_bytes: of the first device where it counts, else of this process."""
        memory = jax.local_devices()[0].memory_stats() or {}
        peak = memory.get("peak_bytes_in_use", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        seconds = round(time.monotonic() - self._began, 1)
        now = self._now | {"to_step": step, "seconds": seconds, "peak_memory_bytes": peak}
        write_json(self._path, {"sessions": [*self._before, now]})


class Reads:
    """reads/PROCESS.jsonl: for every step from `start` on a line with the ids of what this process took."""

    def __init__(self, workdir: epath.PathLike, start: int):
        folder = epath.Path(workdir) / "reads"
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{jax.process_index()}-of-{jax.process_count()}-from-{start}.jsonl").open("w")

    def step(self, at: int, ids: list[str]) -> None:
        with errors.at(self._file.name):
            self._file.write(json.dumps({"step": at, "ids": ids}) + "\n")
            self._file.flush()

    def close(self) -> None:
        with errors.at(self._file.name):
            self._file.close()


class Profile:
    """A trace of what this process's devices do in the steps START to STOP (None: in none), in workdir/profile."""

    def __init__(self, workdir: epath.PathLike, steps: tuple[int, int] | None):
        self._folder = epath.Path(workdir) / "profile" / str(jax.process_index())
        self._steps, self._is_tracing = steps, False

    def before(self, step: int) -> None:
        if self._steps and not self._is_tracing and self._steps[0] <= step <= self._steps[1]:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace="://" not in str(self._folder))
            self._is_tracing = True

    def after(self, step: int, made: Any) -> None:
        if self._is_tracing and self._steps and step == self._steps[1]:
            jax.block_until_ready(made)
            self.close()

    def close(self) -> None:
        if self._is_tracing:
            self._is_tracing = False
            jax.profiler.stop_trace()
            console.print(
                f"a trace of the training is in {self._folder}: TensorBoard's profiler opens it, and ui.perfetto.dev "
                "its perfetto_trace.json.gz"
            )


class Meter:
    """Training terms to TensorBoard, fetched one log interval late, so that no device waits; and the wait for data."""

    def __init__(self, history: History, watch: Stopwatch):
        self._history, self._watch = history, watch
        self._pending: tuple[int, Terms, Collection[int]] | None = None
        self._waited = 0.0
        self.loss: float | None = None  # the latest known, over the replicas that trained

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside is time the training waits for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def log(self, at: int, terms: Terms, live: Collection[int]) -> dict[int, dict[str, float]]:
        """Takes what is to be written next, the terms of the live replicas; returns what `fetch` does."""
        fetched = self.fetch()
        self._history.scalars("speed", at, {"data_wait_share": self._waited / max(self._watch.seconds(), 1e-9)})
        self._pending = (at, terms, tuple(live))
        return fetched

    def fetch(self) -> dict[int, dict[str, float]]:
        """Writes the means of what is pending; the terms by replica."""
        if self._pending is None:
            return {}
        at, terms, live = self._pending
        self._pending = None
        values = {r: named for r, named in by_replica(terms).items() if r in live}
        numbers = [named for named in values.values() if nonfinite(named) is None]
        if numbers:
            means = {name: sum(named[name] for named in numbers) / len(numbers) for name in numbers[0]}
            self.loss = means["loss"]
            self._history.scalars("train", at, means)
        if any(named.get("positive_pairs") == 0 for named in numbers):
            console.print(f"step {at}: no two utterances of the batch share a label; its contrastive loss is 0")
        return values


def by_replica(terms: Terms) -> dict[int, dict[str, float]]:
    """The values on the host, by replica."""
    fetched = [(group, distributed.to_host(values)) for group, values in terms]
    return {
        r: {name: float(np.atleast_1d(value)[k]) for name, value in values.items()}
        for group, values in fetched
        for k, r in enumerate(group)
    }


def nonfinite(values: Mapping[str, float]) -> str | None:
    """The name of a value that is NaN or infinite, the loss before others."""
    bad = [name for name in sorted(values, key=lambda name: (name != "loss", name)) if not math.isfinite(values[name])]
    return bad[0] if bad else None
