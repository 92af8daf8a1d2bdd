"""Text that people write, read by one rule everywhere: files in UTF-8, comma-separated values, times. No JAX."""

import codecs
import csv
import datetime
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mer_jax.errors import UserError

LATEST = 1e9  # seconds; no recording is as long
NO_TIME = ("", "nan", "none", "null", "nat")  # what pandas and others write for it
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d*)?)")  # 00:01:02.500, 1:02,5


def text_of(path: Path) -> str:
    """Returns what a file in UTF-8 holds. Raises UserError naming the line and byte of what is none."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path} is UTF-16: save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: {_not_utf8(raw, error.start)}: save it as UTF-8, as with "
            f"iconv -f {_encoding(raw)[0]} -t utf-8"
        ) from None


def check_utf8(path: Path) -> None:
    """Raises UserError as `text_of` does; of a large file little is in memory."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except (OSError, UnicodeDecodeError):
        text_of(path)


def decoded(where: str, raw: bytes) -> str:
    """Returns the text of bytes that a field of a file holds. Raises UserError naming what is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: {_not_utf8(raw, error.start)}: write it as UTF-8") from None


def _encoding(raw: bytes) -> tuple[str, str]:
    """Returns the encoding that bytes that are no UTF-8 most likely have, for iconv and for people."""
    if any(0x80 <= byte < 0xA0 for byte in raw):  # control codes in Latin-1, quotes and dashes in cp1252
        return "cp1252", "Windows-1252 (cp1252)"
    return "latin1", "Windows-1252 or Latin-1"


def _not_utf8(raw: bytes, at: int) -> str:
    codec, name = _encoding(raw)
    begin = max(raw.rfind(b"\n", 0, at) + 1, at - 15)
    around = raw[begin : at + 15].split(b"\n")[0].decode(codec, "replace").strip()
    return f"the byte {raw[at]:#04x} is not UTF-8, at byte {at}; it reads {around!r} in {name}"


def csv_records(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the header, as (0, {column: column}), and every (line, {column: value}); a line with another number of
    fields has None among its keys or values. Raises UserError naming the line."""
    table = csv.DictReader(io.StringIO(text_of(path), newline=""), strict=True)
    try:
        yield 0, {name: name for name in table.fieldnames or ()}
        for record in table:
            yield table.line_num, record
    except csv.Error as error:
        raise UserError(
            f"{path}, line {table.line_num + 1}: {error}; a quote that is opened must be closed, and one inside quotes "
            "doubled"
        ) from None


def whole_line(where: str, record: dict[Any, Any]) -> dict[str, str]:
    """Returns the record of a line. Raises UserError if it has too few or too many fields."""
    if None in record or None in record.values():
        raise UserError(f"{where}: it has another number of fields than the header")
    return record


def seconds(where: str, field: str, value: Any) -> float | None:
    """Returns a time in seconds: of a number, of its text, of HH:MM:SS, with .mmm or ,mmm, or of MM:SS. Blanks, None
    and NaN are no time, None. Raises UserError naming the field for anything else."""
    if value is None or (isinstance(value, str) and value.strip().casefold() in NO_TIME):
        return None
    if isinstance(value, datetime.timedelta):
        found = value.total_seconds()
    elif isinstance(value, datetime.time):
        found = 3600 * value.hour + 60 * value.minute + value.second + value.microsecond / 1e6
    elif isinstance(value, str) and (clock := CLOCK.fullmatch(value.strip())):
        hours, minutes, rest = clock.groups()
        found = 3600 * int(hours or 0) + 60 * int(minutes) + float(rest.replace(",", "."))
    else:
        try:
            found = float(value)
        except (TypeError, ValueError):
            raise UserError(f"{where}: {field} is {value!r:.60}, not a number of seconds or HH:MM:SS.mmm") from None
    if math.isnan(found):
        return None
    if not 0 <= found < LATEST:
        raise UserError(f"{where}: {field} is {value!s:.60}, which cannot be")
    return found
