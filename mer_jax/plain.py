"""Text from data goes out plain: what a terminal or a page would obey, and what would turn the reading direction over,
is shown as what it is. So is the beginning of what is long."""

import contextlib
import html
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Control characters but line ends and tabs, lone surrogates, and what embeds, overrides or isolates a direction; a
# carriage return amid a line, which writes over its beginning.
OBEYED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]|(?<=.)\r(?=.)"
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes what begins so

OUTPUT = "standard output"
END = 800  # characters that stay at either end of a long line


class _Repr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write numbers of thousands of digits.
        return super().repr_int(x, level) if x.bit_length() < 10**4 else f"<a number of {x.bit_length()} bits>"


_brief = _Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 60
_brief.maxlevel = 3


def escaped(text: str) -> str:
    """For the content and attributes of a page; characters that no page may hold become a replacement mark."""
    return html.escape(OBEYED.sub("\ufffd", text))


def for_terminal(text: str) -> str:
    """Writes such characters as their escapes, which in JSON are the same characters."""
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def for_spreadsheet(cell: Any) -> Any:
    """Returns a cell of a CSV table, plain; a quote goes before a text that a spreadsheet would compute."""
    if not isinstance(cell, str):
        return cell
    return for_terminal(f"'{cell}" if cell.startswith(FORMULA) else cell)


def brief(value: Any) -> str:
    """Returns the beginning of `repr(value)`, however long that is."""
    return _brief.repr(value)


def shortened(line: str) -> str:
    """Returns the line without its middle, if it is longer than anybody reads."""
    return line if len(line) <= 2 * END else f"{line[:END]} … {line[-END:]}"


def cause(error: BaseException) -> str:
    """Returns what kind of error it is and what it says, in one line: that of a library may have many."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"


class NamedStream:
    """A text stream; what it cannot write is an error that says of which stream."""

    def __init__(self, raw: Any, name: str):
        self._raw, self._name = raw, name

    def write(self, text: str) -> int:
        return self._named(self._raw.write, text)

    def flush(self) -> None:
        self._named(self._raw.flush)

    def _named(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            error.filename = self._name
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class PlainStream:
    """A text stream whose text goes out as `for_terminal` writes it; `raw` is what is behind it."""

    def __init__(self, raw: Any):
        self.raw = raw

    def write(self, text: str) -> int:
        self.raw.write(for_terminal(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """What is printed inside goes out plain. A console that writes codes of its own goes around it, to `raw`."""
    out, err = _plain(sys.stdout, OUTPUT), _plain(sys.stderr, "standard error")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def _plain(stream: Any, name: str) -> Any:
    """None, of a stream that is closed, stays None."""
    return stream if stream is None or isinstance(stream, PlainStream) else PlainStream(NamedStream(stream, name))
