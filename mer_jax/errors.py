"""The one exception that stands for a user's mistake, and how a command ends: with a line, never with a traceback."""

import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

from mer_jax import interrupts
from mer_jax.plain import OUTPUT, plain_output, shortened


class UserError(ValueError):
    """Bad input. The message names the file, record or field and says what would be right. What it quotes of these may
    be long: the middle of a long line is left out."""

    def __str__(self) -> str:
        return "\n".join(shortened(line) for line in super().__str__().split("\n"))


MEMORY = (
    "this process may not have so much memory: close other programs, raise the limit (ulimit -v) or the container's, "
    "or give it less at a time"
)
FILES = "too many files are open: raise the limit, as with `ulimit -n 4096`"
# What a machine may refuse, and what a person can do then.
REFUSALS = {
    errno.ENOSPC: "the disk is full: free space there (`df -h` shows where there is some), or choose another folder",
    errno.EDQUOT: "the quota is used up: delete something there, or choose another folder",
    errno.EROFS: "the file system there can only be read: choose another folder",
    errno.EFBIG: "a file may not become so large there: raise the limit (ulimit -f), or choose another folder",
    errno.EACCES: "this user may not do that: ask for the right to, or choose another folder",
    errno.EPERM: "this user may not do that: ask for the right to, or choose another folder",
    errno.EIO: "the disk fails (input/output error): look at it, or choose another folder",
    errno.EMFILE: FILES,
    errno.ENFILE: FILES,
    errno.ENOMEM: MEMORY,
}
AGAIN = "What is saved is kept; the same command carries on afterwards"
# An error of a library in C++ begins with the name of its kind, or quotes the system's number.
OF_CPP = re.compile(r"(?i:\bos error \d)|\b(?:[A-Z]+_[A-Z_]+|INTERNAL|UNKNOWN|UNAVAILABLE|ABORTED): ")
NO_MEMORY = ("failed to map segment", "cannot allocate memory", "can't start new thread", "bad_alloc")


def explained(error: BaseException, path: object = None) -> BaseException:
    """A UserError, in a line, for what the machine refuses (space, a file, memory) as nobody can foretell; any other
    error as it is. path: what was being written or read, if the error does not say."""
    if isinstance(error, UserError):
        return error
    number, text = _refusal(error), str(error)
    if number is not None:
        path = getattr(error, "filename", None) or path or _path_in(text)
        return UserError(f"{_place(path)}{REFUSALS[number]}. {AGAIN}")
    if "RESOURCE_EXHAUSTED" in text:
        return UserError(
            f"the device has too little memory ({text.splitlines()[0][:200]}). Less is needed with a smaller "
            "--config.train.batch_size and eval_batch_size, with more --config.train.microbatches, with "
            "--config.train.precision=bfloat16, with fewer replicas in a step (--config.replicas.replicas_per_step) "
            "and, where a model reads frames, with fewer at a time (--config.backbone.frames_per_group). What is saved "
            "is kept: carry on with --allow_config_change, or begin in another --workdir"
        )
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return UserError(f"{_place(error.filename)}{error.strerror}")
    return error


def _refusal(error: BaseException) -> int | None:
    """The number of REFUSALS that the error is of. Libraries in C++ have it in their message only."""
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return error.errno
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in NO_MEMORY):
        return errno.ENOMEM
    if isinstance(error, OSError) or not OF_CPP.search(text):
        return None
    names = {number: rf"\b(?:{errno.errorcode[number]}|{re.escape(os.strerror(number))})\b" for number in REFUSALS}
    found = (number for number, name in names.items() if re.search(name, text))
    return next(found, None)


def _path_in(text: str) -> str | None:
    found = re.search(r"""["'](?:file://)?(/[^"'\n]+)["']""", text)
    return found[1] if found else None


def _place(path: object) -> str:
    if path is None:
        return ""
    path = os.fsdecode(path) if isinstance(path, bytes) else str(path)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    moved = " (in the cache, which XDG_CACHE_HOME=DIR puts elsewhere)" if path.startswith(cache + os.sep) else ""
    return f"{path}{moved}: "


@contextlib.contextmanager
def at(path: object) -> Iterator[None]:
    """An OSError that leaves this block names the path, if it names none: Python's own does not of a failed write."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def begin_command() -> None:
    """To be called before a command imports anything large: what the machine refuses meanwhile is told in a line.
    Signals are heard already: see `mer_jax/__init__.py`."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        told = explained(error)
        if isinstance(told, UserError):
            print(f"error: {told}", file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = hook


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Ends a command on a UserError, on what the machine refuses, or on a signal, with a message and an honest exit
    code (2; 130 and 143; 141 if who read the output has left, as `head` does), without traceback. What is printed
    meanwhile goes out plain. Signals are heard in a process that `begin_command` has begun; in any other one they are
    what its owner made of them."""
    with plain_output(), interrupts.tidied():
        try:
            yield
            if sys.stdout is not None:
                sys.stdout.flush()
        except BaseException as error:
            if isinstance(error, OSError) and error.filename == OUTPUT:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else what is left in its buffer fails again at the end
                if isinstance(error, BrokenPipeError):
                    raise SystemExit(128 + signal.SIGPIPE) from None
            if isinstance(error, KeyboardInterrupt) or interrupts.asked():
                number = signal.Signals(interrupts.asked() or signal.SIGINT)
                print(interrupts.message(number), file=sys.stderr)
                raise SystemExit(interrupts.EXIT_CODES[number]) from None
            told = explained(error)
            if not isinstance(told, UserError):
                raise
            print(f"error: {told}", file=sys.stderr)
            interrupts.end_soon(2)
            raise SystemExit(2) from None
