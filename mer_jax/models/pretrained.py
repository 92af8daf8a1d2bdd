"""A pretrained backbone in a file: arrays by our names, and the arguments of the model that they belong to. No JAX."""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.files import atomic_file, open_npz

ABOUT = "about"
NEEDED = {"patch", "width", "depths", "heads", "window", "mlp", "norm_first", "pretrained"}


def write(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """arrays: by path, as in `stages/0/1/mlp_in/kernel`; about: `arguments` of the model, and where the weights are
    from."""
    with atomic_file(path) as file:
        np.savez(file, allow_pickle=False, **{ABOUT: np.array(json.dumps(dict(about)))}, **arrays)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The file's arrays, read when asked for; raises UserError if it is none of ours."""
    if not Path(path).is_file():
        raise UserError(
            f"--config.backbone.weights={path} does not exist; `python -m data_prep.swin` makes such a file"
        )
    try:
        with open_npz(path) as found:
            yield found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--config.backbone.weights={path} is no file of `python -m data_prep.swin`, or damaged ({error})"
        ) from None


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays; raises UserError if the file is none of ours."""
    with _opened(path) as found:
        return {name: found[name] for name in found.files if name != ABOUT}


def arguments_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of the model, without its arrays; raises UserError if the file is none of ours."""
    with _opened(path) as found:
        arguments = json.loads(found[ABOUT].item())["arguments"]
        if not arguments.keys() >= NEEDED:
            raise ValueError(f"it lacks {', '.join(sorted(NEEDED - arguments.keys()))}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def check(path: str, wanted: Mapping[str, Any]) -> None:
    """Raises UserError if the weights are damaged, in any byte, or not of a model of these arguments."""
    read(path)
    found = arguments_of(path)
    for name, value in wanted.items():
        if found[name] != value:
            raise UserError(
                f"--config.backbone.{name}={value}: the weights in {path} are of a model with {found[name]}"
            )


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}"""
    tree: dict[str, Any] = {}
    for path, value in arrays.items():
        *folders, name = path.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = value
    return tree
