"""A raw corpus is read into its turns and the known issues that were found in it, by name."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mer_jax import text_files
from mer_jax.errors import UserError

MAX_PRINTED = 3  # ids of an issue
MAX_WRITTEN = 20  # ids of an issue in the manifest
SHORT = 0.5  # seconds
WINDOWS_1252 = re.compile("[\udc80-\udcff\x80-\x9f]")  # bytes that are no UTF-8, or were once read as Latin-1
COUNTS = {"counts": "differ from the published ones; say so beside every figure"}
HIDDEN_FILE = {"hidden-file": "hidden files, as the ._ ones of macOS, and those of hidden folders; left out"}
CLIP_ISSUES = {
    "clip-missing": "no recording; refused or left out where sound or frames are asked for",
    "clip-unreadable": "cannot be decoded; refused or left out where sound or frames are asked for",
    "clip-without-row": "recordings that the annotations do not know; left out",
    "clip-over-long": "longer than --longest: cut to their beginning, not dropped",
    "clip-short": f"under {SHORT} s: kept; what an encoder cannot read alone is filled up with silence",
}


@dataclasses.dataclass(frozen=True)
class Turn:
    """A turn as the annotations have it. Label and votes, pairs (rater, label), are in the corpus' own words; start and
    end are seconds in the dialogue or episode; sound and film are files relative to the corpus' folder, "" where there
    is none. values: the corpus's means of what raters gave in numbers; spreads: their sample standard deviation."""

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
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    spreads: Mapping[str, float] = dataclasses.field(default_factory=dict)


class KnownIssues:
    """What a corpus is known to suffer from, and where it was found. `handled` says of each issue what is done about
    it; `found` holds the ids of turns, dialogues, files. The manifest has all of it as `traps`."""

    def __init__(self, handled: Mapping[str, str], found: Mapping[str, Iterable[str]] | None = None):
        self.handled = handled
        self.found: dict[str, list[str]] = {name: list((found or {}).get(name, ())) for name in handled}

    def add(self, name: str, *ids: str) -> None:
        self.found[name] += ids

    def compare(self, found: Mapping[str, int], published: Mapping[str, int]) -> None:
        """Adds to `counts` how many there are of what differs from the published number."""
        differing = {name: n for name, n in published.items() if found.get(name, 0) != n}
        self.add("counts", *(f"{name} {found.get(name, 0):,} instead of {n:,}" for name, n in differing.items()))

    def lines(self, corpus: str) -> Iterator[str]:
        yield f"the known traps of {corpus}, one by one:"
        width = max(map(len, self.handled))
        for name, ids in self.found.items():
            first = f" ({', '.join(ids[:MAX_PRINTED])}{', …' * (len(ids) > MAX_PRINTED)})" if ids else ""
            yield f"  {name:{width}}  {len(ids):6,}  {self.handled[name]}{first}"

    def provenance(self) -> dict[str, Any]:
        return {
            name: {"count": len(ids), "first": ids[:MAX_WRITTEN], "handled": self.handled[name]}
            for name, ids in self.found.items()
        }


@dataclasses.dataclass(frozen=True)
class RawCorpus:
    turns: list[Turn]
    issues: KnownIssues


def text_of(path: Path) -> tuple[str, bool]:
    """Returns the file's text, and whether it is Windows-1252: bytes that are no UTF-8, or that were once read as
    Latin-1."""
    if not path.is_file():
        raise UserError(f"{path} is missing; give the whole folder as it was distributed")
    text = text_files.text_of(path, keep_bytes=True)
    return text_files.repaired(text), bool(WINDOWS_1252.search(text))


def is_hidden(path: Path) -> bool:
    """Finds the `._` files that macOS leaves in archives: there are as many as recordings, and none is one."""
    return path.name.startswith(".")


def within(folder: Path, name: str) -> list[Path]:
    """Returns what has this name in a folder, as deep as two folders down."""
    return [path for depth in ("", "*/", "*/*/") for path in sorted(folder.glob(depth + name))]


def file_within(folder: Path, name: str) -> Path | None:
    """Returns the one file of this name in a folder, as deep as two folders down. Raises UserError for several, and for
    what is no folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    found = [path for path in within(folder, name) if path.is_file()]
    if len(found) > 1:
        raise UserError(f"{folder} holds {name} more than once: {found[0]}, {found[1]}; give a folder with one of them")
    return found[0] if found else None


def needed_file(folder: Path, name: str, all_names: Iterable[str]) -> Path:
    """Returns the one file of this name in a folder. Raises UserError if there is none, with all that it must hold."""
    if (found := file_within(folder, name)) is None:
        packed = "".join(f"; {path} is still packed" for path in within(folder, "*.zip")[:1])
        raise UserError(
            f"{folder} holds no {name}; it must hold {', '.join(all_names)}, as deep as two folders down{packed}"
        )
    return found
