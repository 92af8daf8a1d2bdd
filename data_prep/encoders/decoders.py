"""Processes that decode recordings (decoding.py): as many as are asked at the same time, each for one recording after
the other. One that dies, or takes too long, costs its recording only: another takes its place."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import limits
from data_prep.encoders.decoding import Clip
from mer_jax.errors import UserError


class Decoder:
    """One of the processes."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "data_prep.encoders.decoding", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what a crash leaves; the messages for people come as answers
            )
        self._pipe = Connection(ours.detach())

    def ask(self, do: str, clip: Clip, arguments: tuple[Any, ...]) -> tuple[Any, list[np.ndarray]]:
        """Returns the value and the arrays of an answer, each as often as it stands there. Raises UserError."""
        held = clip.source if isinstance(clip.source, bytes) else None
        size = clip.source.stat().st_size if isinstance(clip.source, Path) else len(clip.source)
        request = {
            "do": do,
            "arguments": arguments,
            "name": clip.name,
            "file": str(clip.source) if held is None else None,
            "part": [clip.start, clip.end, clip.half],
            "budget": limits.budget_of(size),
            "seconds": limits.seconds_for(size),
        }
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
            if held is not None:
                self._pipe.send_bytes(held)
            return self._answer()
        except (EOFError, OSError):
            raise UserError(f"{clip.name} cannot be decoded: {self._death(request)}") from None

    def _answer(self) -> tuple[Any, list[np.ndarray]]:
        arrays: list[np.ndarray] = []
        while "array" in (found := json.loads(self._pipe.recv_bytes())):
            kind, shape = found["array"]
            array = np.empty(shape, kind)
            self._pipe.recv_bytes_into(array.reshape(-1).view(np.uint8))
            arrays += [array] * found["times"]
        if "error" in found:
            raise UserError(found["error"])
        return found["value"], arrays

    def _death(self, request: dict[str, Any]) -> str:
        self.close()
        if -self._process.returncode == signal.SIGALRM:
            return f"it takes more than {request['seconds']} s"
        how = signal.Signals(-code).name if (code := self._process.returncode) < 0 else f"exit code {code}"
        memory = f"{request['budget'] / limits.GIB:.3g} GiB of memory (--memory-limit)"
        return f"the decoder ended with {how}; the file is damaged, or wants more than {memory}"

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_idle: list[Decoder] = []
_lock = threading.Lock()


def ask(do: str, clip: Clip, *arguments: Any) -> tuple[Any, list[np.ndarray]]:
    """Asks a process that has nothing to do, or a new one. Raises UserError naming the clip."""
    decoder = _free()
    try:
        return decoder.ask(do, clip, arguments)
    finally:
        with _lock:
            if decoder.alive:
                _idle.append(decoder)


def _free() -> Decoder:
    with _lock:
        while _idle:
            if (decoder := _idle.pop()).alive:
                return decoder
    return Decoder()


@atexit.register
def _close() -> None:
    while _idle:
        _idle.pop().close()
