"""Files: written whole or not at all, read with an error that says what to do, known by their sha256; and the cache."""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from etils import epath

from mer_jax import errors, schema
from mer_jax.errors import UserError
from mer_jax.text_files import utf8


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/mer_jax or ~/.cache/mer_jax: what can be made again, as demo corpora and compiled programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mer_jax"


@contextlib.contextmanager
def atomic_file(path: epath.PathLike, mode: str = "wb", *, writers: int = 1, **options: Any) -> Iterator[IO[Any]]:
    """A file to write into, which takes the place of `path` when all is written: no reader and no kill sees half of it.
    A link stays one. What is no file, as /dev/stdout or a named pipe, is written into.

    writers: more than one if several processes may write this file at the same time. options: those of `open`.
    """
    path = epath.Path(path)
    with errors.at(path):
        if "://" in str(path):  # object stores show an object when it is whole
            with path.open(mode, **options) as file:
                yield file
            return
        if _takes_what_comes(path):
            with open(path, mode, **options) as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        own = f".{os.getpid()}" if writers > 1 else ""
        partial = target.with_name(f".{target.name}{own}.partial")
        try:
            with open(partial, mode, **options) as file:
                yield file
                sync(file)
            os.replace(partial, target)
        except BaseException as error:  # a full disk needs the room
            with contextlib.suppress(OSError):
                os.unlink(partial)
            if isinstance(error, OSError) and error.filename == str(partial):
                error.filename = str(path)
            raise


def _takes_what_comes(path: epath.Path) -> bool:
    """Whether it is a device, a pipe or a socket."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def sync(file: IO[Any]) -> None:
    """Returns when all that was written into the file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def write_atomically(path: epath.PathLike, content: str | bytes, *, writers: int = 1) -> None:
    """Replaces the file in one step; text is written as UTF-8. writers: as of `atomic_file`."""
    with atomic_file(path, writers=writers) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Replaces the file in one step."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: epath.PathLike, holds: Any, advice: str = "Restore it.") -> Any:
    """What the file holds, a type of `schema.check`. Raises UserError, naming the field and saying what to do, if it is
    damaged or holds something else."""
    path = epath.Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; it must be a file. {advice}")
    with errors.at(path):
        content = path.read_bytes()
    return parse_json(content, str(path), holds, advice)


def parse_json(content: str | bytes, where: str, holds: Any, advice: str = "Restore it.") -> Any:
    """What the content, in UTF-8, of the file `where` says, a type of `schema.check`. Raises UserError as `read_json`
    does."""
    try:
        value = load_json(content)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}). {advice}") from None
    check_json(value, where, holds, advice)
    return value


def check_json(value: Any, where: str, holds: Any, advice: str) -> None:
    """Raises UserError as `read_json` does unless what the file `where` says is of the type `holds`."""
    try:
        schema.check(value, holds)
    except ValueError as error:
        raise UserError(f"{where} is not what this mer_jax writes: {error}. {advice}") from None


def load_json(content: str | bytes) -> Any:
    """Raises ValueError for what is no JSON in UTF-8, or too deep."""
    try:
        return json.loads(content.removeprefix("\ufeff") if isinstance(content, str) else utf8(content))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def open_npz(path: str | os.PathLike[str], most: int | None = None) -> Any:
    """np.load of an .npz without objects. Raises ValueError if its arrays take more than `most` bytes in memory, by
    default 4 times the file and 1 GiB at least; OSError or zipfile.BadZipFile if it is none."""
    with zipfile.ZipFile(path) as file:
        size = sum(member.file_size for member in file.infolist())
    if size > (most := max(4 * os.path.getsize(path), 2**30) if most is None else most):
        raise ValueError(f"it takes {size:,} bytes in memory, and may take {most:,}")
    return np.load(path, allow_pickle=False)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_filled(out: Path) -> None:
    """Raises UserError if the folder --out holds anything."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} exists already and is not empty; choose another, or delete it first")


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` when all is well, unless it was removed meanwhile."""
    refuse_filled(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    except (OSError, ValueError) as error:
        told = errors.explained(error, out)
        raise told if isinstance(told, UserError) else UserError(f"--out={out} cannot be made: {error}") from None
    try:
        with errors.at(out):
            partial.chmod(0o755)
            yield partial
            if partial.exists():
                refuse_filled(out)
                partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
