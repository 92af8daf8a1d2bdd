"""What files that were read from disk must hold: types that msgspec checks, and errors that name the field."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

MOST = 2**53  # integers up to here are the same as float64
Count = Annotated[int, Meta(ge=0, le=MOST)]
Positive = Annotated[int, Meta(ge=1, le=MOST)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]
Above0 = Annotated[float, Meta(gt=0, le=1e300)]
Share = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(min_length=1)]
Texts = Annotated[list[str], Meta(min_length=1)]


def check(value: Any, schema: Any) -> None:
    """Raises ValueError, which names the field and says what is wrong, unless the value is of the type `schema`. Fields
    that a TypedDict does not name may be there."""
    try:
        msgspec.convert(value, schema)
    except UnicodeEncodeError as error:
        raise ValueError(f"a text holds half a character, {error.object[:40]!r}") from None
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at ")
        where = ".".join(_named(value, schema, str(error), re.findall(r"\w+|\[\.\.\.\]", path)))
        missing = re.search(r"required field `(.*)`", problem)
        if missing:
            full = f"{where}.{missing[1]}" if where else missing[1]
            raise ValueError(f"field '{full}' is missing") from None
        problem = problem.replace("`", "").replace("Expected", "expected").replace("object", "an object with fields")
        raise ValueError(f"field '{where}': {problem}" if where else problem) from None


def check_at(where: str, value: Any, schema: Any) -> None:
    """As `check`, of a value that stands in the field `where` of what a person reads."""
    try:
        check(value, schema)
    except ValueError as error:
        raise ValueError(str(error).replace("field '", f"field '{where}.", 1)) from None


def _named(value: Any, schema: Any, message: str, path: list[str]) -> Iterator[str]:
    """The parts of a path in which msgspec leaves the keys of dicts out: the key is the one without whose fellows the
    message stays the same."""
    place = value
    for part in path:
        if part == "[...]" and isinstance(place, dict):
            part = _culprit(value, place, schema, message)
        yield part
        place = place[int(part)] if isinstance(place, list) else place.get(part) if isinstance(place, dict) else None


def _culprit(value: Any, place: dict[str, Any], schema: Any, message: str) -> str:
    whole = dict(place)
    try:
        for key, content in whole.items():
            place.clear()
            place[key] = content
            try:
                msgspec.convert(value, schema)
            except msgspec.ValidationError as error:
                if str(error) == message:
                    return str(key)
    finally:
        place.clear()
        place.update(whole)
    return "…"
