"""Text from data goes out plain: what a terminal or a page would obey, and what would turn the reading direction over,
is shown as what it is. So is the beginning of what is long."""

import html
import re
import reprlib
from typing import Any

# Control characters but line ends and tabs, lone surrogates, and what embeds, overrides or isolates a direction.
OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes what begins so

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 60


def for_terminal(text: str) -> str:
    """Writes such characters as their escapes, which in JSON are the same characters."""
    return OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def for_page(text: str) -> str:
    """Escapes text for HTML, content and attributes; such characters become a replacement mark."""
    return html.escape(OBEYED.sub("\ufffd", text))


def for_spreadsheet(cell: Any) -> Any:
    """Returns a cell of a CSV table; a quote goes before a text that a spreadsheet would compute."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def brief(value: Any) -> str:
    """Returns the beginning of `repr(value)`, however long that is."""
    return _brief.repr(value)
