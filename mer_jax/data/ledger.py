"""The looks at a corpus's test parts: DIR/test_looks.jsonl, a line for each. No JAX.

A look is what tells somebody a score of test utterances. The file lies in the corpus's folder, so that a copy of the
corpus knows of its looks; it is no part of the corpus, whose bytes stay as they are. Two looks are at the same test
part if the same utterances, by id, are tested in all folds of the protocol together: who draws folds or validation
parts anew looks at the same utterances again."""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from mer_jax import errors, schema
from mer_jax.data.corpus import Corpus
from mer_jax.data.protocols import Split
from mer_jax.files import load_json
from mer_jax.schema import Count, Text

FILE = "test_looks.jsonl"
WAIT_SECONDS = 10.0  # for another process that is just counting


class Look(TypedDict):
    """A line of the ledger. time: in UTC, ISO 8601; mode: that of mer_jax.main; test_sha256: see `test_part`;
    checkpoint_sha256: of the models that were scored; replicas: how many of them."""

    time: Text
    mer_jax: str
    mode: str
    protocol: str
    split_sha256: str
    test_sha256: Text
    workdir: str
    experiment: str
    config_sha256: str
    checkpoint_sha256: str
    replicas: Count


@dataclasses.dataclass(frozen=True)
class Looks:
    """How many looks there were at one test part. damaged: lines, from 1, that cannot be read; they count, too: each
    was a look, and nobody knows at what."""

    count: int
    damaged: tuple[int, ...]


def test_part(corpus: Corpus, split: Split) -> str:
    """The sha256 of the ids that are tested in any fold."""
    tested = np.unique(np.concatenate([fold.test for fold in split.folds]))
    return hashlib.sha256(json.dumps(sorted(corpus.index["id"][tested].tolist())).encode()).hexdigest()


def add(folder: Path, look: Look, *, once: bool = False) -> Looks:
    """Adds a look, and counts those at the same test part with it. Processes may do so at the same time.

    once: not added if the same models of the same workdir have been looked at before: a command that was killed at it
    looks again. Raises OSError, which names the file, if it cannot be read and written."""
    path = folder / FILE
    with errors.at(path):
        # A stranger's corpus may have anything under this name: no link is followed, no pipe waited for.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(path, flags, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "it is no file")
            _lock(file)
            content = _read(file)
            lines = content.splitlines()
            if not (once and any(_is_same(_parsed(line), look) for line in lines)):
                line = json.dumps(look, ensure_ascii=False).encode()
                _append(file, b"\n" * (content[-1:] not in (b"", b"\n")) + line + b"\n", len(content))
                lines.append(line)
        finally:
            os.close(file)
    return _counted(lines, look["test_sha256"])


def _counted(lines: list[bytes], test_sha256: str) -> Looks:
    found = {number: _parsed(line) for number, line in enumerate(lines, 1) if line.strip()}
    damaged = tuple(number for number, look in found.items() if look is None)
    same = sum(look is not None and look["test_sha256"] == test_sha256 for look in found.values())
    return Looks(same + len(damaged), damaged)


def _parsed(line: bytes) -> Any:
    """The look that a line tells of; None if it is damaged."""
    try:
        look = load_json(line)
        schema.check(look, Look)
    except ValueError:
        return None
    return look


def _is_same(known: Mapping[str, Any] | None, look: Mapping[str, Any]) -> bool:
    return known is not None and all(
        known[field] == look[field] for field in ("test_sha256", "workdir", "checkpoint_sha256")
    )


def _lock(file: int) -> None:
    """Nobody else reads or writes the file until it is closed. Where there is no flock, one write with O_APPEND stays
    whole nevertheless."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        except OSError:
            return
        else:
            return


def _read(file: int) -> bytes:
    with open(file, "rb", closefd=False) as content:
        return content.read()


def _append(file: int, line: bytes, size: int) -> None:
    """Writes the whole line or none of it. size: of the file before."""
    try:
        if os.write(file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file, size)
        raise
