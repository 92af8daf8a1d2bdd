"""Several processes as one run, by JAX's own runtime: the start, what all of them must agree on, and how they end."""

import collections
import io
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from etils import epath
from jax._src.distributed import global_state
from jax.experimental import multihost_utils

from mer_jax import errors, interrupts
from mer_jax.errors import UserError

# What a collective says when the process at its other end is gone.
LOST_PEER = ("Gloo", "NCCL", "UNAVAILABLE", "Socket closed", "Connection", "DEADLINE_EXCEEDED")


def start(how: str | tuple[str, int, int], timeout: int, workdir: epath.Path) -> None:
    """Joins the run's other processes, if there are any; call before anything else asks JAX for its devices.

    how: "none", "auto" (whatever JAX finds: a TPU pod, Slurm, Open MPI, Kubernetes, or nothing) or (host:port of
    process 0, how many, which of them this is). timeout: seconds to wait for the last of them, and seconds of silence
    after which one counts as lost. On a late process this process ends with a message that names it: whoever arrives
    leaves a note beside `workdir`, which all share. Raises UserError if the processes do not have alike many devices:
    JAX's gathering needs that.
    """
    if how == "none":
        return
    cluster: dict[str, Any] = {}
    if how != "auto":
        cluster = dict(zip(("coordinator_address", "num_processes", "process_id"), how, strict=True))
        cluster["cluster_detection_method"] = "deactivate"
    arrived = threading.Event()
    notes = workdir.parent / f".{workdir.name}.arrivals"
    watch = threading.Thread(target=_await_all, args=(arrived, timeout, notes), daemon=True)
    watch.start()
    try:
        jax.distributed.initialize(
            **cluster,
            initialization_timeout=timeout + 60,
            heartbeat_timeout_seconds=timeout,
            shutdown_timeout_seconds=min(timeout, 30),
        )
    except ValueError as error:
        if how == "auto" and "coordinator_address" in str(error):  # nothing started us as one of several
            if "KUBERNETES_SERVICE_HOST" in os.environ:
                raise UserError(
                    "this is a pod of Kubernetes, and JAX cannot tell of which job: say --distributed=none if it is "
                    "the only one, else --distributed=HOST:PORT,N,I"
                ) from None
            return
        raise UserError(f"--distributed: {error}") from None
    finally:
        arrived.set()
        watch.join()
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        found = ", ".join(str(counts[i]) for i in sorted(counts))
        raise UserError(
            f"the processes must have alike many devices, and they have {found}; give each as many, or start one "
            "process per device"
        )


def _await_all(arrived: threading.Event, timeout: int, notes: epath.Path) -> None:
    """Ends the process if not all have arrived in time. JAX knows who is missing, but aborts without saying so."""
    began, own_note, verdict = time.time(), None, notes / "missing"
    while not arrived.wait(0.1):
        if own_note is None and is_multiprocess():
            notes.mkdir(parents=True, exist_ok=True)
            own_note = notes / str(global_state.process_id)
            own_note.write_text(json.dumps({"time": began}))
        late = time.time() - began > timeout
        if own_note is None or not (late or verdict.exists()):
            continue
        if late and not _since(began, verdict):
            missing = [i for i in range(global_state.num_processes) if not _since(began - timeout, notes / str(i))]
            verdict.write_text(json.dumps({"time": time.time(), "who": ", ".join(map(str, missing))}))
        if found := _since(began, verdict):
            own_note.unlink(missing_ok=True)
            who = found["who"] or f"0, at {global_state.coordinator_address}"
            _end(
                f"after {timeout} s the run's {global_state.num_processes} processes are not together: missing is "
                f"process {who}. Look why it did not start; the same command on all hosts starts again "
                "(--distributed_timeout waits longer)",
                1,
            )
    if own_note is not None:
        own_note.unlink(missing_ok=True)
        verdict.unlink(missing_ok=True)


def _since(moment: float, note: epath.Path) -> dict[str, Any] | None:
    """The note, if there is one and it is younger than that."""
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):  # none, or one that is being written
        return None
    return found if found["time"] > moment else None


def _end(message: str, code: int) -> None:
    """Ends this process without waiting for any other."""
    _print_error(message)
    os._exit(code)


def _print_error(message: str) -> None:
    print(f"error: {process_name()}{message}", file=sys.stderr, flush=True)


def process_name() -> str:
    """`process 1 of 4 on HOST: `, or nothing if there is only one."""
    if not is_multiprocess():
        return ""
    return f"process {global_state.process_id} of {global_state.num_processes} on {socket.gethostname()}: "


def is_multiprocess() -> bool:
    return (global_state.num_processes or 1) > 1


def is_primary() -> bool:
    """Whether this process writes the files and talks."""
    return (global_state.process_id or 0) == 0


@contextmanager
def exit_together(timeout: int) -> Iterator[None]:
    """Around all that the processes do as one: an error of one ends all of them, in bounded time."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, Preempted):
        raise
    except BaseException as error:
        if interrupts.asked():  # what the signal raised was turned into another error on its way
            raise
        explained = errors.explained(error)
        if not is_multiprocess():
            if explained is error:
                raise
            raise explained from None
        if not any(word in str(error) for word in LOST_PEER):
            if explained is error:
                traceback.print_exc()
            else:
                _print_error(str(explained))
            _end("failed as told above; the others end when they miss it", 1)
        # JAX ends this process as soon as it knows who is gone, and names it.
        first = str(error).splitlines()[0]
        _print_error(
            f"another process is gone ({first}); within {timeout} s JAX tells which: see 'unhealthy' below, or "
            "'leader' for process 0. The same command on all hosts carries on from the last checkpoint"
        )
        time.sleep(timeout + 30)
        _end("JAX has not found a lost process", 1)


def all_gather(values: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What each process has, in their order, in every process; any shapes and types of numbers, different in each."""
    if not is_multiprocess():
        return [values]
    file = io.BytesIO()
    np.savez(file, **values, allow_pickle=False)  # type: ignore[arg-type]
    own = np.frombuffer(file.getvalue(), np.uint8)
    with jax.transfer_guard("allow"):
        sizes = multihost_utils.process_allgather(np.array([len(own)], np.int32)).reshape(-1)
        padded = np.zeros(int(sizes.max()), np.uint8)
        padded[: len(own)] = own
        gathered = multihost_utils.process_allgather(padded)
    return [dict(np.load(io.BytesIO(row[:size].tobytes()))) for row, size in zip(gathered, sizes, strict=True)]


def all_gather_text(text: str) -> list[str]:
    """The text of each process, in their order, in every process."""
    return [share["text"].tobytes().decode() for share in all_gather({"text": np.frombuffer(text.encode(), np.uint8)})]


def broadcast_from_0(value: bool) -> bool:
    """What process 0 says, in every process."""
    if not is_multiprocess():
        return value
    with jax.transfer_guard("allow"):
        return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def barrier(where: str) -> None:
    """Returns when every process has got here."""
    if is_multiprocess():
        with jax.transfer_guard("allow"):
            multihost_utils.sync_global_devices(where)


def to_host(tree: Any) -> Any:
    """Arrays on the host, whole, in every process."""
    if all(x.is_fully_addressable for x in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    with jax.transfer_guard("allow"):
        return multihost_utils.process_allgather(tree, tiled=True)


class Preempted(Exception):
    """The machine is wanted back; all is saved, and the run is not finished."""


_questions = itertools.count(1)


class PreemptionNotice:
    """SIGTERM, or the platform's notice that this machine is about to be taken away. A process alone listens itself; of
    several, JAX's preemption service agrees on the question after which all of them stop."""

    def __init__(self) -> None:
        self._asked = False
        self._listens = global_state.client is None and threading.current_thread() is threading.main_thread()
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, _: Any) -> None:
        if self._asked:  # whoever asks twice does not want to wait for the step to end
            interrupts.end(number)
        self._asked = True

    def given(self) -> bool:
        """Whether to stop now; every process asks equally often.

        JAX counts the questions, over all runs of the process: counted by steps, one that comes while a run is resumed
        would be due at a step long past.
        """
        if global_state.client is None:
            return self._asked
        return multihost_utils.reached_preemption_sync_point(next(_questions))

    def close(self) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._before)


@contextmanager
def preemption_notice() -> Iterator[PreemptionNotice]:
    """Inside, SIGTERM and the platform's notice end nothing but are asked for."""
    notice = PreemptionNotice()
    try:
        yield notice
    finally:
        notice.close()
