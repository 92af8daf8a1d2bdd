"""SIGINT and SIGTERM end a command at any moment, from its first import to its last line.

The first signal raises `Interrupted` where the command can tidy up. The process ends at once at the second one, if the
exception is lost (Python drops what a callback of the garbage collector raises), if tidying takes long, or if there is
nothing to tidy up. Nothing is lost by that: every file appears whole or not at all. No other imports than Python's own.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

GRACE_SECONDS = 5.0  # for tidying up
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
MESSAGES = {signal.SIGINT: "interrupted", signal.SIGTERM: "asked to stop"}


class Interrupted(KeyboardInterrupt):
    """A signal has come; its number is the argument."""


_state: dict[str, int] = {"asked": 0, "tidies": 0, "listens": 0}
_ending = threading.Lock()  # of who ends the process; never released


def started_as_command() -> bool:
    """Whether Python was told to run a module of this project, as `python -m mer_jax.main`, and not to import it."""
    called = sys.orig_argv
    module = called[called.index("-m") + 1] if "-m" in called[:-1] else ""
    return sys.argv[:1] == ["-m"] and module.partition(".")[0] in ("mer_jax", "data_prep")


def listen() -> None:
    """From now on signals end this process as told above; one that is ignored, as under `nohup`, stays so."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is _handle:
        return
    numbers = [number for number in EXIT_CODES if signal.getsignal(number) is not signal.SIG_IGN]
    for number in numbers:
        signal.signal(number, _handle)
    if not numbers:
        return
    _state["listens"] = 1
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    tell_others = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Interrupted):
            end(_state["asked"])
        tell_others(unraisable)

    sys.unraisablehook = hook


def asked() -> int:
    """The signal that has come, or 0."""
    return _state["asked"]


@contextlib.contextmanager
def tidied() -> Iterator[None]:
    """Inside, a signal raises `Interrupted`, so that what is open can be closed."""
    _state["tidies"] += 1
    try:
        yield
    finally:
        _state["tidies"] -= 1


def message(number: int) -> str:
    return f"{MESSAGES[signal.Signals(number)]}; the same command carries on from what is saved"


def end_soon(code: int) -> None:
    """A command that has failed ends although a thread of some library hangs."""
    if _state["listens"]:
        ending = threading.Timer(6 * GRACE_SECONDS, os._exit, (code,))
        ending.daemon = True
        ending.start()


def _handle(number: int, _: Any) -> None:
    if _state["asked"] or not _state["tidies"]:
        end(number)
    _state["asked"] = number
    raise Interrupted(number)


def _watch(pipe: int) -> None:
    """Ends the process if the main thread does not: it may be in a long computation that knows no Python signals."""
    first = 0
    while True:
        if not select.select([pipe], [], [], GRACE_SECONDS if first else None)[0]:
            end(first)
        for number in os.read(pipe, 64):
            if number in EXIT_CODES and signal.getsignal(number) is _handle:  # else somebody else answers it
                if first:
                    end(first)
                first = number


def end(number: int) -> None:
    """Ends this process at once, with the signal's message and exit code. Where the main thread and `_watch` do so at
    the same time, the second one leaves it to the first."""
    _ending.acquire(timeout=1.0)
    with contextlib.suppress(OSError):
        os.write(2, f"{message(number)}\n".encode())
    os._exit(EXIT_CODES[signal.Signals(number)])
