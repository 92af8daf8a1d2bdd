"""What a raw corpus is read into: its turns, and the traps it holds, by name."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mer_jax.errors import UserError

FIRST = 3  # ids shown of a trap; the manifest holds NAMED
NAMED = 20


@dataclasses.dataclass(frozen=True)
class Turn:
    """A turn as the annotations have it. Label and votes, pairs (rater, label), are in the corpus' own words; start and end are seconds in
    the dialogue or episode; sound and film are files relative to the corpus' folder, "" where there is none."""

    id: str
    split: str
    dialogue: str
    turn: int
    speaker: str
    session: str
    label: str
    sentence: str
    start: float
    end: float
    votes: tuple[tuple[str, str], ...]
    sound: str
    film: str


class Traps:
    """What was found of each known trap. `handled` says, by name, what is done about it; `found` holds the ids of turns, dialogues, files."""

    def __init__(self, handled: Mapping[str, str], found: Mapping[str, Iterable[str]] | None = None):
        self.handled = handled
        self.found: dict[str, list[str]] = {name: list((found or {}).get(name, ())) for name in handled}

    def add(self, name: str, *ids: str) -> None:
        self.found[name] += ids

    def show(self, corpus: str) -> None:
        print(f"the known traps of {corpus}, one by one:")
        width = max(map(len, self.handled))
        for name, ids in self.found.items():
            first = f" ({', '.join(ids[:FIRST])}{', …' * (len(ids) > FIRST)})" if ids else ""
            print(f"  {name:{width}}  {len(ids):6,}  {self.handled[name]}{first}")

    def provenance(self) -> dict[str, Any]:
        return {
            name: {"count": len(ids), "first": ids[:NAMED], "handled": self.handled[name]}
            for name, ids in self.found.items()
        }


@dataclasses.dataclass(frozen=True)
class Tree:
    turns: list[Turn]
    traps: Traps


def text_of(path: Path) -> tuple[str, bool]:
    """The file's text, and whether it is Windows-1252: bytes that are no UTF-8, or that were once read as Latin-1."""
    if not path.is_file():
        raise UserError(f"{path} is missing; give the whole folder as it was distributed")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace"), True
    return text, any("\x80" <= c <= "\x9f" for c in text)


def hidden(path: Path) -> bool:
    """The `._` files that macOS leaves in archives: as many as there are recordings, and none is one."""
    return path.name.startswith(".")
