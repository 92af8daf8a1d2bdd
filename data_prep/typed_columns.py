"""Columns of an npz are read value by value, whatever NumPy made of them: what is wrong is told by file, column
and row."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.packs import values
from mer_jax import text_files
from mer_jax.errors import UserError

Reader = Callable[[str, str, Any], Any]  # (where, field, value) -> what it is


def refuse_single(path: Path, table: Mapping[str, np.ndarray]) -> None:
    """Raises UserError if a column is one value."""
    for name, column in table.items():
        if not np.ndim(column):
            raise UserError(f"{path}: column {name!r} is one value, not one an utterance")


def read(path: Path, name: str, column: np.ndarray, reader: Reader) -> np.ndarray:
    """Returns what the reader makes of each value."""
    found = [reader(f"{path}, row {i}", name, value) for i, value in enumerate(column)]
    return np.array(found) if found else column[:0]


def vectors(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    """Returns a column of features. Raises UserError unless it holds one vector an utterance."""
    if column.ndim != 2 or not column.shape[1] or column.dtype.kind not in "fiu":
        raise UserError(
            f"{path}: column {name!r} is an array {list(column.shape)} of {column.dtype}, not [utterances, width] of "
            "numbers"
        )
    return column


def name(where: str, field: str, value: Any) -> str:
    """Returns an id or name. Raises UserError for a blank, too."""
    if not (found := values.name(where, field, value)):
        raise UserError(f"{where}: {field} is empty")
    return found


def position(where: str, field: str, value: Any, names: Sequence[str]) -> int:
    """Returns the place among the names of a label: a number, its text, a name, true or false, or a one-hot vector."""
    value = values.plain(where, field, value)
    found = values.label(where, int(value) if isinstance(value, bool) else value)
    if found["unlabelled"]:
        raise UserError(found["unlabelled"])
    label = found["label"]
    if label in names:
        return names.index(label)
    number = values.whole_number(where, field, label)
    if number >= len(names):
        raise UserError(f"{where}: {field} is {number}, which is no position in {', '.join(names)}")
    return number


def seconds(where: str, field: str, value: Any) -> float:
    """Returns a time, NaN if there is none."""
    found = text_files.seconds(where, field, value)
    return float("nan") if found is None else found


def time(where: str, field: str, value: Any) -> float:
    """Returns a time. Raises UserError if there is none, too."""
    if (found := text_files.seconds(where, field, value)) is None:
        raise UserError(f"{where}: {field} is empty; the order of utterances is that of their times")
    return found
