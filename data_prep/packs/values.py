"""Values of a record are read by one function for each kind, whatever layout they come from; what is wrong with one is
told by record and field."""

import dataclasses
import math
import re
from typing import Any

import numpy as np

from mer_jax import text_files
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import LARGEST, in_words, is_blank, readable, seconds

PARTS = {name: name for name in SPLITS} | {
    "training": "train",
    "val": "valid",
    "dev": "valid",
    "validation": "valid",
    "development": "valid",
    "testing": "test",
}
TIES = ("tie", "ties", "xxx", "no agreement", "no majority", "undecided", "disagreement")  # IEMOCAP writes xxx
NO_CLASS = ("unknown", "unlabelled", "unlabeled", "undefined", "no label", "no emotion label")
SEVERAL = re.compile(r"[;|,\n\r\t]")
BITS = 64  # of a number; Python's can be of any length


@dataclasses.dataclass(frozen=True)
class Unread:
    """Stands where a file holds a value that cannot be read, and says where and why."""

    why: str


def plain(where: str, field: str, value: Any) -> Any:
    """Returns `text_files.plain`. Raises UserError for what cannot be read and for numbers longer than any that is
    meant."""
    value = text_files.plain(where, field, value)
    if isinstance(value, Unread):
        raise UserError(value.why)
    if isinstance(value, int) and value.bit_length() > BITS:
        raise UserError(f"{where}: the {field} is a number of over {BITS} bits, which cannot be")
    return value


def written(value: Any) -> str:
    """Returns a plain value as [values] of a mapping writes it."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def name(where: str, field: str, value: Any) -> str:
    """Returns `text_files.name`: an id, or what a dialogue or session is called."""
    return text_files.name(where, field, plain(where, field, value))


def word(where: str, field: str, value: Any) -> str:
    value = plain(where, field, value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: the {field} is {in_words(value)}, not a text")
    return readable(where, field, str(value))


def whole_number(where: str, field: str, value: Any) -> int:
    """Returns `text_files.whole_number`."""
    return text_files.whole_number(where, field, plain(where, field, value))


def time(where: str, field: str, value: Any) -> float | None:
    """Returns a time in seconds, None if there is none."""
    value = plain(where, field, value)
    if isinstance(value, list | tuple | dict | np.ndarray):
        raise UserError(f"{where}: {field} is {in_words(value)}, not a number of seconds or HH:MM:SS.mmm")
    return seconds(where, field, value)


def part(where: Any, value: Any) -> str:
    """Returns the split that a part of a corpus is, whatever its case."""
    value = plain(str(where), "split", value)
    split = PARTS.get(value.strip().casefold()) if isinstance(value, str) else None
    if split is None:
        raise UserError(f"{where}: part {in_words(value)} is not one of {', '.join(PARTS)}")
    return split


def speaker(where: str, value: Any) -> str:
    """Returns a name as it is, a number or one-hot vector as speaker3, "" for a blank."""
    value = plain(where, "speaker", value)
    if is_blank(value):
        return ""
    if isinstance(value, str):
        return readable(where, "speaker", str(value))
    if isinstance(value, int | float):
        return f"speaker{whole_number(where, 'speaker', value)}"
    if (hot := one_hot(value)) is None:
        raise UserError(f"{where}: the speaker is neither a name, a number nor a one-hot vector")
    return f"speaker{hot}"


def one_hot(value: Any) -> int | None:
    """Returns the place of the one in a vector of zeros, None for anything else."""
    try:
        found = np.asarray(value, np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        return None
    ones = np.flatnonzero(found)
    return int(ones[0]) if len(ones) == 1 and found[ones[0]] == 1 else None


def label(where: str, value: Any) -> dict[str, Any]:
    """Returns the fields `label`, a name or a number, and `unlabelled`, which says why there is none, or not one."""
    value = plain(where, "label", value)
    why = ""
    if isinstance(value, str):
        text = readable(where, "label", str(value))
        plainly = text.strip().casefold()
        if is_blank(text) or plainly in NO_CLASS:
            why = f"the label is {brief(text)}, which is none" if plainly else "the label is empty"
        elif plainly in TIES:
            why = f"the label is {brief(text)}: the raters did not agree"
        elif SEVERAL.search(text.strip()):
            why = f"the label is {brief(text)}, which is several"
        return {"label": text, "unlabelled": why and f"{where}: {why}"}
    if is_blank(value) or (isinstance(value, list | tuple | np.ndarray) and not np.size(np.asarray(value, object))):
        return {"label": "", "unlabelled": f"{where}: there is no label ({in_words(value)})"}
    if isinstance(value, int | float):
        if not isinstance(value, bool) and 0 <= value <= LARGEST and int(value) == value:
            return {"label": int(value), "unlabelled": ""}
        why = "stands for none" if value < 0 else "is no whole number from 0"
        return {"label": "", "unlabelled": f"{where}: the label is {in_words(value)}, which {why}"}
    if not isinstance(value, list | tuple | np.ndarray):
        return {"label": "", "unlabelled": f"{where}: the label is {in_words(value)}, not a name or number"}
    if (hot := one_hot(value)) is not None:
        return {"label": hot, "unlabelled": ""}
    return {"label": "", "unlabelled": f"{where}: the label is {in_words(value)}: several, or none"}


def vector(where: str, field: str, value: Any) -> np.ndarray:
    """Returns [time, width] of a vector or a sequence of vectors, in the pack's own numbers; empty if there is none."""
    if isinstance(value, Unread):
        raise UserError(value.why)
    if isinstance(value, list | tuple):
        flat = all(isinstance(x, int | float | np.number) for x in value)
        rows = not flat and all((isinstance(x, np.ndarray) and x.ndim == 1) or _is_flat(x) for x in value)
        value = np.array(value) if flat or (rows and len({len(x) for x in value}) == 1) else value
    if not isinstance(value, np.ndarray) or value.ndim not in (1, 2) or value.dtype.kind not in "fiu":
        what = in_words(value) if isinstance(value, np.ndarray) else type(value).__name__
        raise UserError(f"{where}: {field} is {what}, not a vector or a sequence of vectors of numbers")
    return np.atleast_2d(np.asarray(value))  # a plain array, whatever class the pickle gave it


def _is_flat(x: Any) -> bool:
    return isinstance(x, list | tuple) and all(isinstance(n, int | float | np.number) for n in x)
