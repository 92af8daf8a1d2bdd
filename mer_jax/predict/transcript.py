"""Transcripts: text files and captions -> what is said when. No JAX."""

import dataclasses
import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import seconds, text_of

SUFFIXES = (".txt", ".srt", ".vtt")
STAMP = r"((?:\d{1,9}:)?[0-5]?\d:[0-5]?\d[.,]\d{1,3})"
TIMES = re.compile(rf"{STAMP}[ \t]*-->[ \t]*{STAMP}(?:[ \t].*)?")  # settings of where it is shown may follow
TAG = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")  # <i>, <v Anna>, <00:01.500>, {\an8}
ASIDES = ("NOTE", "STYLE", "REGION")  # blocks of a .vtt that are no captions


@dataclasses.dataclass(frozen=True)
class Line:
    """What is said from `start` to `end`, in seconds; of a plain text it is not known when."""

    start: float | None
    end: float | None
    text: str


def read(path: Path) -> list[Line]:
    """The lines of a .srt or .vtt; a .txt is one line without times, all of it. Raises UserError naming file and
    line."""
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UserError(f"{path} is no transcript that can be read here: give {', '.join(SUFFIXES)}")
    text = text_of(path)
    if kind == ".txt":
        words = " ".join(text.split())
        return [Line(None, None, words)] if words else []
    rows = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if kind == ".vtt" and not re.fullmatch(r"WEBVTT([ \t].*)?", rows[0] if rows else ""):
        raise UserError(f"{path}, line 1: a .vtt begins with WEBVTT")
    lines = []
    for number, block in _blocks(rows):
        if kind == ".vtt" and number == 1:
            _refuse_times(path, number, block)
            continue
        if kind == ".vtt" and block[0].split(maxsplit=1)[0] in ASIDES:
            continue
        if line := _caption(path, number, block, kind):
            lines.append(line)
    return lines


def _blocks(rows: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """What stands between empty lines, with the number of its first line."""
    block: list[str] = []
    for number, row in enumerate([*rows, ""], 1):
        if row.strip():
            block.append(row.strip())
        elif block:
            yield number - len(block), block
            block = []


def _caption(path: Path, number: int, block: list[str], kind: str) -> Line | None:
    """None if nothing is said in it. Its times are in its first line, or in the second, after a number or name."""
    at = 0 if "-->" in block[0] else 1
    if len(block) <= at or not (found := TIMES.fullmatch(block[at])):
        wrong = min(at, len(block) - 1)
        raise UserError(
            f"{path}, line {number + wrong}: a caption's times are wanted, as 00:00:01,000 --> 00:00:02,500, not "
            f"{brief(block[wrong])}"
        )
    where = f"{path}, line {number + at}"
    start, end = (
        seconds(where, field, stamp) or 0.0 for field, stamp in zip(("start", "end"), found.groups(), strict=True)
    )
    if end < start:
        raise UserError(f"{where}: the caption ends at {end:g} s, before it starts at {start:g} s")
    _refuse_times(path, number + at + 1, block[at + 1 :])
    text = TAG.sub("", " ".join(block[at + 1 :]))
    words = " ".join((html.unescape(text) if kind == ".vtt" else text).split())
    return Line(start, end, words) if words else None


def _refuse_times(path: Path, number: int, rows: Sequence[str]) -> None:
    """`rows`, which begin at line `number`, are of one caption, or of none."""
    for i, row in enumerate(rows):
        if "-->" in row:
            raise UserError(f"{path}, line {number + i}: an empty line is missing before this caption")


def spoken(lines: Sequence[Line], start: float = 0.0, end: float | None = None, window: float | None = None) -> str:
    """What is said from `start` to `end`, or to the end of all.

    A line counts for the window that holds its middle; of one that is longer than a window, the words, which are taken
    to follow each other evenly. So windows of one length that lie side by side share out every word once. Where the
    last of them is shorter than the others, give the length of these, `window`, for it, too. Raises UserError for a
    part of a text without times.
    """
    limit = float("inf") if end is None else end
    size = limit - start if window is None else window
    found: list[str] = []
    for line in lines:
        if line.start is None or line.end is None:
            if start > 0 or end is not None:
                raise UserError(
                    "a transcript without times does not tell what is said in a part of a clip: give a .srt or .vtt"
                )
            found.append(line.text)
            continue
        length, words = line.end - line.start, line.text.split()
        parts = [line.text] if length <= size else words
        middles = (line.start + (i + 0.5) * length / len(parts) for i in range(len(parts)))
        found += [part for part, middle in zip(parts, middles, strict=True) if start <= middle < limit]
    return " ".join(found)
