"""Transcripts: text files and captions -> what is said when, and by whom. No JAX."""

import dataclasses
import html
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.predict.speakers import are_speakers, name_and_text
from mer_jax.text_files import seconds, text_of

SUFFIXES = (".txt", ".srt", ".vtt")
STAMP = r"((?:\d{1,9}:)?[0-5]?\d:[0-5]?\d[.,]\d{1,3})"
TIMES = re.compile(rf"{STAMP}[ \t]*-->[ \t]*{STAMP}(?:[ \t].*)?")  # settings of where it is shown may follow
VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^<>]+)>|</v>")  # of a .vtt: <v Anna>, <v.loud Anna>
TAG = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")  # <i>, <00:01.500>, {\an8}
ASIDES = ("NOTE", "STYLE", "REGION")  # blocks of a .vtt that are no captions


@dataclasses.dataclass(frozen=True)
class Line:
    """What is said from `start` to `end`, in seconds; of a plain text it is not known when. speaker: who says it, ""
    where the transcript does not say."""

    start: float | None
    end: float | None
    text: str
    speaker: str = ""


@dataclasses.dataclass(frozen=True)
class _Caption:
    start: float
    end: float
    content: str  # with its tags and line ends


Piece = tuple[str, str]  # (speaker, text)


def read(path: Path) -> list[Line]:
    """The lines of a transcript.

    Those of a .srt or .vtt are its captions, each in as many lines as speakers: who speaks is in <v Anna> of a .vtt, or
    before a colon (see `speakers.are_speakers`); a caption that names nobody is of the speaker before. Those of a .txt
    have no times; they are its turns if names tell them apart, or else one line, all of it. Raises UserError naming
    file and line.
    """
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UserError(f"{path} is no transcript that can be read here: give {', '.join(SUFFIXES)}")
    text = text_of(path)
    if kind == ".txt":
        return _of_text([" ".join(row.split()) for row in text.splitlines() if row.strip()])
    rows = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if kind == ".vtt" and not re.fullmatch(r"WEBVTT([ \t].*)?", rows[0] if rows else ""):
        raise UserError(f"{path}, line 1: a .vtt begins with WEBVTT")
    captions = []
    for number, block in _blocks(rows):
        if kind == ".vtt" and number == 1:
            _refuse_times(path, number, block)
            continue
        if kind == ".vtt" and block[0].split(maxsplit=1)[0] in ASIDES:
            continue
        captions.append(_caption(path, number, block))
    said = _by_voice(captions) if kind == ".vtt" else None
    said = said or _by_name([_rows(caption.content, kind) for caption in captions])
    return [line for caption, pieces in zip(captions, said, strict=True) for line in _shared(caption, pieces)]


def has_speakers(lines: Sequence[Line]) -> bool:
    """Whether it is known of any line who says it: then they are a conversation."""
    return any(line.speaker for line in lines)


def _of_text(rows: Sequence[str]) -> list[Line]:
    """The turns of a plain text, or all of it as one line."""
    if are_speakers([name for name, _ in map(name_and_text, rows)]):
        return [Line(None, None, text, name) for name, text in _pieces(rows) if text]
    return [Line(None, None, " ".join(rows))] if rows else []


def _pieces(rows: Sequence[str]) -> list[Piece]:
    """What begins with a name, together with the rows without one that follow it."""
    found: list[Piece] = []
    for row in rows:
        name, text = name_and_text(row)
        if name or not found:
            found.append((name, text))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]} {text}".strip())
    return found


def _by_name(captions: Sequence[Sequence[str]]) -> list[list[Piece]]:
    """Who says what in each caption, given by its rows."""
    found = [_pieces(rows) for rows in captions]
    if not are_speakers([name for pieces in found for name, _ in pieces]):
        return [[("", " ".join(rows))] for rows in captions]
    speaker = ""
    for pieces in found:
        for i, (name, text) in enumerate(pieces):
            speaker = name or speaker
            pieces[i] = (speaker, text)
    return found


def _by_voice(captions: Sequence[_Caption]) -> list[list[Piece]] | None:
    """Who says what in each caption of a .vtt; None if no tag names a voice."""
    found = []
    for caption in captions:
        before, *rest = VOICE.split(caption.content)
        pieces = [("", before), *zip(rest[::2], rest[1::2], strict=True)]  # the name is None behind </v>
        found.append([(_plain(name or "", ".vtt"), _plain(TAG.sub("", text), ".vtt")) for name, text in pieces])
    return found if any(name for pieces in found for name, _ in pieces) else None


def _rows(content: str, kind: str) -> list[str]:
    """The rows of a caption that hold anything besides tags."""
    return [row for row in (_plain(row, kind) for row in TAG.sub("", content).split("\n")) if row]


def _plain(text: str, kind: str) -> str:
    return " ".join((html.unescape(text) if kind == ".vtt" else text).split())


def _shared(caption: _Caption, pieces: Sequence[Piece]) -> Iterator[Line]:
    """A caption's line for each speaker; several share its time by their words, which are taken to follow each other
    evenly. None if nothing is said."""
    spoken_pieces = [piece for piece in pieces if piece[1]]
    runs = [(name, " ".join(text for _, text in run)) for name, run in groupby(spoken_pieces, lambda piece: piece[0])]
    total, done, start = sum(len(text.split()) for _, text in runs), 0, caption.start
    for name, text in runs:
        done += len(text.split())
        end = caption.end if done == total else caption.start + (caption.end - caption.start) * done / total
        yield Line(start, end, text, name)
        start = end


def _blocks(rows: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """What stands between empty lines, with the number of its first line."""
    block: list[str] = []
    for number, row in enumerate([*rows, ""], 1):
        if row.strip():
            block.append(row.strip())
        elif block:
            yield number - len(block), block
            block = []


def _caption(path: Path, number: int, block: list[str]) -> _Caption:
    """Its times are in its first line, or in the second, after a number or name."""
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
    return _Caption(start, end, "\n".join(block[at + 1 :]))


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
