"""How much a file of others may take to be read: memory, operations and time, each in proportion to its size.

The budget of a file is 4 times its size, or 1 GiB if that is more; `--memory-limit` sets another. It bounds bytes (the
kernel keeps to it where there is Linux) and what a reader does with bytes that are there already: copies, keys.
"""

import argparse
import contextlib
import dataclasses
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from mer_jax.errors import UserError

GIB = 2**30
TIMES = 4  # the size of the file
SECONDS, BYTES_A_SECOND = 120, 4 * 2**20  # of decoding a clip: so long, and longer for a large file


class TooMuch(Exception):
    """The file wants more than its budget."""


@dataclasses.dataclass
class _Flags:
    """What the command line says; there is one for the process."""

    memory: float | None = None  # GiB


_flags = _Flags()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that `use` reads."""
    parser.add_argument(
        "--memory-limit",
        type=_gibibytes,
        metavar="GIB",
        help=f"memory that one file may take to be read; default: {TIMES} times its size, 1 at least",
    )


def use(arguments: argparse.Namespace) -> None:
    """Takes what the flags say for every file that is read from now on."""
    _flags.memory = arguments.memory_limit


def _gibibytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 2**20:
        raise argparse.ArgumentTypeError("must be a number of GiB above 0")
    return value


def budget_of(size: int) -> int:
    """Returns the budget of a file of so many bytes."""
    return max(TIMES * size, GIB) if _flags.memory is None else int(_flags.memory * GIB)


@dataclasses.dataclass
class Budget:
    """What is `left`. A byte that is made, copied or hashed costs 1."""

    left: int

    def spend(self, count: int) -> None:
        """Raises TooMuch if there is not that much left."""
        self.left -= count
        self.require(0)

    def require(self, count: int) -> None:
        """Raises TooMuch if there is not that much left, and takes nothing."""
        if self.left < count:
            raise TooMuch


def seconds_for(size: int) -> int:
    """Returns how long decoding a clip of `size` bytes may take."""
    return SECONDS + size // BYTES_A_SECOND


@contextlib.contextmanager
def bounded(name: str | Path, budget: int) -> Iterator[Budget]:
    """Inside, the process can take only so many bytes more than it has. What wants more ends in a UserError that names
    the file."""
    try:
        with _no_more_than(budget):
            yield Budget(budget)
    except (TooMuch, MemoryError):
        raise UserError(
            f"{name} wants more than {budget / GIB:.3g} GiB of memory or work to be read, which a file of its size "
            f"should not; if you trust it, give --memory-limit={2 * budget / GIB:.3g}"
        ) from None


@contextlib.contextmanager
def _no_more_than(count: int) -> Iterator[None]:
    """Threads share it; other systems than Linux do not tell what a process has, and set no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _taken() + count if os.path.exists("/proc/self/status") else resource.RLIM_INFINITY
    bounds = [bound for bound in (limit, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds, default=resource.RLIM_INFINITY), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _taken() -> int:
    """Returns the bytes of the process that RLIMIT_DATA counts."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData:"))
