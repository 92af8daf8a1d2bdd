"""A folder is one process's at a time, also where several hosts share it, and in buckets. No JAX.

`.lock` in the folder says who holds it and counts up as long as that process lives. On one host flock tells, and the
process's number and start. Of another host it is the count: a holder whose count stands still is gone. No clock is
compared. Where flock knows nothing of other hosts, of two that begin in the same second one finds the other's name in
the file and ends.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from mer_jax.errors import UserError, at

NAME = ".lock"
BEAT_SECONDS = 10.0
SILENT_SECONDS = 4 * BEAT_SECONDS  # after which a holder on another host counts as gone


@dataclasses.dataclass(frozen=True)
class Holder:
    """started: when the process was started, as the kernel of `boot` counts. purpose: what it does in the folder.
    beat: counts up."""

    host: str
    boot: str
    pid: int
    started: str
    since: str
    purpose: str
    token: str
    beat: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


class InUse(UserError):
    """Another process is at work in the folder; `holder` is None if it has not said yet who it is."""

    def __init__(self, folder: epath.Path, holder: Holder | None):
        self.holder = holder
        super().__init__(
            f"{folder} is in use by {holder or 'another process'}, and two would destroy each other's files; wait "
            "until it has ended, or use another --workdir"
        )


@contextlib.contextmanager
def held(folder: epath.PathLike, purpose: Any) -> Iterator[None]:
    """Inside, the folder, which is made if there is none, is this process's. purpose: any JSON. Raises InUse."""
    lock = FolderLock(epath.Path(folder), digest(purpose))
    try:
        yield
    finally:
        lock.release()


def digest(purpose: Any) -> str:
    return hashlib.sha256(json.dumps(purpose, sort_keys=True).encode()).hexdigest()[:16]


class FolderLock:
    """See `held`."""

    def __init__(self, folder: epath.Path, purpose: str):
        self._folder, self._path = folder, folder / NAME
        self._over, self._count = threading.Event(), 0
        self._made = not folder.exists()
        with at(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = None if "://" in str(folder) else self._open()
            try:
                self._refuse_living(_read(self._path))
                self._own = Holder(
                    platform.node(), _boot(), os.getpid(), _started(os.getpid()), _now(), purpose, uuid.uuid4().hex
                )
                self._write()
            except BaseException as error:
                if isinstance(error, OSError):  # a full disk, for one
                    with contextlib.suppress(OSError):
                        self._path.unlink()
                self._close()
                raise
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def release(self) -> None:
        self._over.set()
        self._beats.join()
        with contextlib.suppress(OSError):
            if (found := _read(self._path)) and found.token == self._own.token:
                self._path.unlink()
        self._close()
        with contextlib.suppress(OSError):  # of a run that was refused nothing remains
            if self._made:
                Path(self._folder).rmdir()

    def _open(self) -> int:
        """The lock's file, flocked where the file system can do that."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise InUse(self._folder, _read(self._path)) from None
            except OSError:  # no flock here
                return file
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(file).st_ino == os.stat(self._path).st_ino:
                    return file
            os.close(file)  # whoever held it has removed it meanwhile

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def _refuse_living(self, found: Holder | None) -> None:
        """Raises InUse if the holder lives."""
        if found is None:
            return
        if (found.host, found.boot) == (platform.node(), _boot()):
            if found.pid != os.getpid() and _lives(found):
                raise InUse(self._folder, found)
            return
        print(
            f"note: {self._path} names {found}: waiting {SILENT_SECONDS:.0f} s for a sign of life of it",
            file=sys.stderr,
        )
        deadline = time.monotonic() + SILENT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, SILENT_SECONDS / 4))
            if (now := _read(self._path)) is not None and now != found:
                raise InUse(self._folder, now)
            if now is None:
                return
        print(f"note: {found} gives no sign of life; its lock is taken over", file=sys.stderr)

    def _write(self) -> None:
        self._count += 1
        beat = f"{self._count:012d}"  # always as long: a full disk takes it
        text = json.dumps(dataclasses.asdict(dataclasses.replace(self._own, beat=beat))) + "\n"
        if self._file is None:
            self._path.write_text(text)
        else:
            os.pwrite(self._file, text.encode(), 0)
            os.ftruncate(self._file, len(text.encode()))

    def _beat(self) -> None:
        wait = 1.0  # whoever began in the same second on another host is seen soon
        while not self._over.wait(wait):
            wait = BEAT_SECONDS
            with contextlib.suppress(OSError):
                found = _read(self._path)
                if found is not None and found.token != self._own.token:
                    print(f"error: {InUse(self._folder, found)}", file=sys.stderr, flush=True)
                    os._exit(2)
                if found is not None:
                    self._write()


def _read(path: epath.Path) -> Holder | None:
    """What the file says; None if there is none, or nothing in it that a holder has written."""
    for _ in range(5):
        try:
            text = path.read_text()
            found = Holder(**json.loads(text)) if text else None
            return (
                found
                if found is None or all(type(v) is (int if k == "pid" else str) for k, v in vars(found).items())
                else None
            )
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # it is just being written
            time.sleep(0.02)
    return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _started(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _lives(found: Holder) -> bool:
    """Whether the process, of this host, lives: its number may have become another's."""
    try:
        os.kill(found.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(found.pid) == found.started
