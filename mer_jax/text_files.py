"""Text that people write, read by one rule everywhere: files in UTF-8, comma-separated values,
names, whole numbers, times. No JAX."""

import codecs
import csv
import datetime
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.plain import brief

LATEST = 1e9  # seconds; no recording is as long
NO_TIME = ("", "nan", "none", "null", "nat")  # what pandas and others write for it
BLANK = ("", "nan", "none", "null", "nat", "n/a", "na", "#n/a", "<na>", "?", "-")  # names that stand for nothing
LARGEST = 2**31 - 1  # an index holds turns as int32
UNREADABLE = re.compile("[\x00\ud800-\udfff]")
CLOCK = re.compile(r"(?:(\d{1,9}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d{0,9})?)")  # 00:01:02.500, 1:02,5


def text_of(path: Path, *, keep_bytes: bool = False) -> str:
    """Returns what a file in UTF-8 holds. Raises UserError naming the line and byte of what is none; with `keep_bytes`
    such bytes are lone surrogates, for `repaired`."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    try:
        return utf8(raw, keep_bytes=keep_bytes)
    except NotUtf8 as error:
        line = raw[: error.at].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: {error}: save it as UTF-8, as with iconv -f {_encoding(raw)[0]} -t utf-8"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


class NotUtf8(ValueError):
    """Bytes that are no text in UTF-8, from the byte `at` on."""

    def __init__(self, raw: bytes, at: int):
        super().__init__(_not_utf8(raw, at))
        self.at = at


def utf8(raw: bytes, *, keep_bytes: bool = False) -> str:
    """Returns the text of bytes in UTF-8, without the mark that some begin with; `keep_bytes` as of `text_of`. Raises
    ValueError for UTF-16, NotUtf8 for anything else."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError("it is UTF-16: save it as UTF-8")
    try:
        return raw.decode("utf-8-sig", "surrogateescape" if keep_bytes else "strict")
    except UnicodeDecodeError as error:
        raise NotUtf8(raw, len(raw) - len(error.object) + error.start) from None  # `object` is without the mark


def repaired(text: str) -> str:
    """Returns a text as Windows-1252 if it holds bytes that are not UTF-8, as in old copies of corpora."""
    if any("\udc80" <= c <= "\udcff" for c in text):
        return text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return text


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
        return utf8(raw)
    except NotUtf8 as error:
        raise UserError(f"{where}: {error}: write it as UTF-8") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


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


def csv_records(path: Path, *, keep_bytes: bool = False, delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the header, as (0, {column: column}), and every (line, {column: value}); a line with another number of
    fields has None among its keys or values. `keep_bytes` as of `text_of`. Raises UserError naming the line, and a name
    that two columns have."""
    text = io.StringIO(text_of(path, keep_bytes=keep_bytes), newline="")
    table = csv.DictReader(text, strict=True, delimiter=delimiter)
    try:
        names = table.fieldnames or ()
        if twice := [name for name in names if name.strip() and names.count(name) > 1]:
            raise UserError(f"{path}: two columns are called {brief(twice[0])}; give each a name of its own")
        yield 0, {name: name for name in names}
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


def plain(where: str, field: str, value: Any) -> Any:
    """Returns the one number or word in an array or list of any shape as that number or word, bytes as their text;
    everything else as it is."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    while isinstance(value, list | tuple) and len(value) == 1:
        value = plain(where, field, value[0])
    if isinstance(value, np.timedelta64):
        return value.astype("timedelta64[us]").item()
    if isinstance(value, np.generic):
        value = value.item()
    return decoded(f"{where}: {field}", value) if isinstance(value, bytes) else value


def is_blank(value: Any) -> bool:
    """Says of a plain value whether it stands for nothing."""
    if isinstance(value, str):
        return value.strip().casefold() in BLANK
    return value is None or (isinstance(value, float) and math.isnan(value))


def readable(where: str, field: str, text: str) -> str:
    """Returns the text. Raises UserError if it holds what is no character."""
    if found := UNREADABLE.search(text):
        raise UserError(
            f"{where}: the {field} {brief(text)} holds {found[0]!r}, which is no character that can be written"
        )
    return text


def name(where: str, field: str, value: Any) -> str:
    """Returns what somebody or something is called, "" for a blank; 5 and 5.0 are called 5. Raises UserError for what
    is neither a name nor a number."""
    value = plain(where, field, value)
    if is_blank(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: the {field} is {in_words(value)}, not a name or number")
    return readable(where, field, str(value))


def whole_number(where: str, field: str, value: Any) -> int:
    """Returns a whole number from 0, also of its text. Raises UserError for anything else."""
    given = value = plain(where, field, value)
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.0*)?\s*", value):
        value = float(value)
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST
    if not fits or int(value) != value:
        raise UserError(f"{where}: the {field} is {in_words(given)}, not a whole number from 0 to {LARGEST}")
    return int(value)


def in_words(value: Any) -> str:
    """Returns what a value is, for a message: itself where that is short, else its kind."""
    if isinstance(value, np.ndarray):
        return f"an array {list(value.shape)} of {value.dtype}"
    if isinstance(value, str | int | float | None):
        return brief(value)
    if isinstance(value, list | tuple) and len(value) < 9 and all(isinstance(x, str | int | float) for x in value):
        return f"{brief(value)}"
    return f"{type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple) else "")


def seconds(where: str, field: str, value: Any) -> float | None:
    """Returns a time in seconds: of a number, of its text, of HH:MM:SS, with .mmm or ,mmm, or of MM:SS; also of one
    alone in an array or list. Blanks, None and NaN are no time, None. Raises UserError naming the field for anything
    else."""
    value = plain(where, field, value)
    if value is None or (isinstance(value, str) and value.strip().casefold() in NO_TIME):
        return None
    try:
        found = _seconds(value)
    except OverflowError:
        found = math.inf
    except (TypeError, ValueError):
        raise UserError(f"{where}: {field} is {brief(value)}, not a number of seconds or HH:MM:SS.mmm") from None
    if math.isnan(found):
        return None
    if not 0 <= found < LATEST:
        raise UserError(f"{where}: {field} is {brief(value)}, which cannot be")
    return found


def _seconds(value: Any) -> float:
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.time):
        return 3600 * value.hour + 60 * value.minute + value.second + value.microsecond / 1e6
    if isinstance(value, str) and (clock := CLOCK.fullmatch(value.strip())):
        hours, minutes, rest = clock.groups()
        return 3600 * int(hours or 0) + 60 * int(minutes) + float(rest.replace(",", "."))
    return float(value)
