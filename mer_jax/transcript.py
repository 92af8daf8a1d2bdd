"""What is said in a clip, from a file beside it."""

import re
from pathlib import Path
from typing import NamedTuple

from mer_jax.errors import UserError

TIMES = re.compile(r"(?:(\d+):)?(\d+):(\d+)[.,](\d+)\s*-->\s*(?:(\d+):)?(\d+):(\d+)[.,](\d+)")


class Line(NamedTuple):
    """start, end: seconds; None where the file has no times."""

    start: float | None
    end: float | None
    text: str


def read(path: Path) -> list[Line]:
    """The lines of an .srt or .vtt; of a .txt all of it as one. Raises UserError."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not text in UTF-8 ({error})") from None
    if path.suffix.lower() == ".txt":
        return [Line(None, None, " ".join(text.split()))]
    lines = []
    for block in re.split(r"\n\s*\n", text):
        found = TIMES.search(block)
        if found:
            numbers = [float(x or 0) for x in found.groups()]
            start, end = (60 * (60 * h + m) + s + float(f"0.{int(f):03d}") for h, m, s, f in (numbers[:4], numbers[4:]))
            said = " ".join(re.sub(r"<[^>]*>", "", block[found.end() :]).split())
            lines.append(Line(start, end, said))
    return lines


def spoken(lines: list[Line], start: float, end: float) -> str:
    """The lines whose middle lies in the window."""
    timed = [(line.start, line.end, line.text) for line in lines if line.start is not None and line.end is not None]
    return " ".join(text for a, b, text in timed if start <= (a + b) / 2 < end)
