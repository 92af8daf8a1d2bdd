"""A self-contained HTML page and its parts: no network, no script; plots are inline SVG. No JAX."""

import itertools
import math
import re
import unicodedata
from collections.abc import Sequence

from mer_jax.plain import escaped
from mer_jax.report.style import STYLE

WIDTH = 360  # of a plot's own units: as wide as a phone, so that its text keeps its size there
ROW = 22
NARROW = "fijlrtI .,:;'|!()/-"


def breakable(name: str) -> str:
    """Escaped, with places where a narrow column may break it."""
    return re.sub("([._=/])", r"\1<wbr/>", escaped(name))


def document(title: str, parts: Sequence[str]) -> str:
    """The whole page, which is well-formed XML, too. title: text; parts: HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def plots(figures: Sequence[str]) -> str:
    """Figures beside each other, as many as there is room for."""
    return '<div class="plots">\n' + "\n".join(figures) + "\n</div>"


def figure(
    title: str, drawn: Sequence[str], height: int | float, under: str = "", label: str = "", kind: str = ""
) -> str:
    """A picture and its title. drawn: SVG. label: what a reader hears who does not see it. under: HTML below it."""
    heard = escaped(f"{title}: {label}" if label else title)
    svg = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{heard}">{"".join(drawn)}</svg>'
    class_ = f' class="{kind}"' if kind else ""
    return f"<figure{class_}><figcaption>{escaped(title)}</figcaption>{svg}{under}</figure>"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table in a box of its own, which scrolls where the page is narrower.

    columns: text; rows: HTML, the first cell of each its name.
    """
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in columns)
    body = "\n".join(_row(row) for row in rows)
    class_ = f' class="{kind}"' if kind else ""
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escaped(title)}"><table{class_}>'
        f"<caption>{escaped(title)}</caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[str]) -> str:
    """A cell that brings its own <td> keeps it."""
    rest = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells[1:])
    return f'<tr><th scope="row">{cells[0]}</th>{rest}</tr>'


def _width(character: str) -> int | float:
    """At most, at 12 px, in any sans-serif."""
    if character in "mwMW@%" or unicodedata.east_asian_width(character) in "WF":
        return 12
    if character in NARROW:
        return 5
    return 9.5 if character.isupper() else 7.7


def shortened(name: str, room: int | float) -> str:
    """What of the name fits into so much room at 12 px."""
    widths = [_width(character) for character in name]
    if sum(widths) <= room:
        return name
    return name[: sum(so_far <= room - 12 for so_far in itertools.accumulate(widths))] + "…"


def ticks(low: int | float, high: int | float, count: int = 5, integers: bool = False) -> list[float]:
    """About so many round numbers from low to high; integers: none between the integers."""
    if high <= low:
        return [float(low)]
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough * (1 - 1e-9))
    if integers:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def missing(what: str, file: str, why: str = "is not there") -> str:
    """That something is left out, because of a file that a run may have."""
    return f'<p class="faint">{escaped(f"{what} left out: {file} {why}.")}</p>'
