"""Where mer_jax keeps what it can make again: the demo corpus, compiled programs, extracted features."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from mer_jax.errors import UserError


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/mer_jax, or ~/.cache/mer_jax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mer_jax"


def refuse_filled(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} exists already and is not empty; choose another, or delete it first")


@contextlib.contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when all is well; if it was removed, or something failed, there is nothing."""
    refuse_filled(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    except (OSError, ValueError) as error:
        raise UserError(f"--out={out} cannot be made: {error}") from None
    try:
        partial.chmod(0o755)
        yield partial
        if partial.exists():
            refuse_filled(out)
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: epath.PathLike) -> Any:
    try:
        return json.loads(epath.Path(path).read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Restore it.") from None


def read_json_or_none(path: epath.Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it") from None
