"""A request is a line of JSON that asks for the features of a clip or sentence; its answer is a tf.train.Example."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax import files
from mer_jax.data.corpus import Utterance, to_example
from mer_jax.data.records import Value, encode_example
from mer_jax.errors import UserError

KINDS: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "file": (str,),
    "sentence": (str,),
    "start": (int, float),
    "end": (int, float),
    "length": (bool,),
    "error": (str,),
}


@dataclasses.dataclass(frozen=True)
class Request:
    id: str
    file: Path | None = None
    sentence: str | None = None
    start: float | None = None
    end: float | None = None
    length: bool = False
    error: str = ""


@dataclasses.dataclass
class Ready:
    """A request as the encoders take it: `prepared` by modality, `sound` if it is to be transcribed; or its `error`."""

    request: Request
    prepared: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    sentence: str = ""
    sound: np.ndarray | None = None
    seconds: float | None = None
    error: str = ""


def parse(line: bytes) -> Request:
    """Returns the request in a line of JSON. Raises UserError for what is none."""
    try:
        fields = files.load_json(line)
    except ValueError as error:
        raise UserError(f"a request is no line of JSON ({error})") from None
    if not isinstance(fields, dict) or "id" not in fields:
        raise UserError("a request is an object with an id")
    for name, value in fields.items():
        if name not in KINDS:
            raise UserError(f"{name!r} is nothing that a request has; it has {', '.join(KINDS)}")
        wrong = not isinstance(value, KINDS[name]) or (isinstance(value, bool) and name != "length")
        if wrong and not (value is None and name != "id"):
            raise UserError(f"{name} is {value!r}, which is no {' or '.join(kind.__name__ for kind in KINDS[name])}")
        if name in ("start", "end") and value is not None and not 0 <= value < 1e9:
            raise UserError(f"{name} is {value}, which cannot be")
    if any(0xD800 <= ord(c) < 0xE000 for name in ("id", "sentence") for c in fields.get(name) or ""):
        raise UserError("its id or sentence holds half a character (a lone surrogate)")
    given = {name: value for name, value in fields.items() if value is not None}
    request = Request(**given | ({"file": Path(given["file"])} if "file" in given else {}))
    if request.start is not None and request.end is not None and request.start >= request.end:
        raise UserError(f"it starts at {request.start:g} s and ends at {request.end:g} s")
    return request


def id_of(line: bytes) -> str:
    """Returns the id in a line that may be no request, "" if there is none."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(files.load_json(line)["id"]).encode(errors="backslashreplace").decode()
    return ""


def answer(ready: Ready, features: Mapping[str, Any], notes: Sequence[str], words: Sequence[str]) -> bytes:
    """Returns the tf.train.Example that answers the request."""
    request = ready.request
    if ready.error:
        return encode_example({"id": request.id.encode(), "error": ready.error.encode(errors="backslashreplace")})
    more: dict[str, Value] = {"notes": [note.encode() for note in notes]} if notes else {}
    more |= {"words": [word.encode() for word in words]} if words else {}
    more |= {} if ready.seconds is None else {"seconds": [float(ready.seconds)]}
    utterance = Utterance(
        id=request.id,
        split="test",
        dialogue="",
        turn=0,
        speaker="",
        session="",
        label="",
        sentence=ready.sentence,
        features=features,
        start=request.start,
        end=request.end,
    )
    return to_example(utterance, more)
