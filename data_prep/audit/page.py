"""The audit as one HTML page: no network, no script; plots are inline SVG; light or dark as the reader's system is."""

import html
import itertools
import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from data_prep.audit.findings import LEVELS, Audit, number
from data_prep.audit.floor import Floor

WIDTH = 360  # of a plot's own units: as wide as a phone, so that its text keeps its size there
ROW = 22
BINS = 24
NARROW = "fijlrtI .,:;'|!()/-"
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --faint: #6a7076; --line: #dcdfe3; --bar: #3567b0; --other: #a9b1ba;
  --problem: #b3261e; --note: #8a5a00; --ok: #1b7340; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e8; --paper: #16181b; --faint: #9aa1a8; --line: #34383d; --bar: #7fa9e8;
  --other: #5c646d; --problem: #ff8a80; --note: #f0b950; --ok: #71cf97; } }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h1, h2, p, li { overflow-wrap: anywhere; }
ul { list-style: none; padding: 0; margin: 0; } li { border-top: 1px solid var(--line); padding: .5rem 0; }
li strong { margin-right: .5rem; } .do, .faint { color: var(--faint); } .do { display: block; }
.problem { color: var(--problem); } .note { color: var(--note); } .ok { color: var(--ok); }
.plots { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; flex: 1 1 20rem; max-width: 30rem; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; } .bar { fill: var(--bar); } .other { fill: var(--other); }
"""


def escaped(text: str) -> str:
    """For content and attributes; control characters, which no page may hold, become a replacement mark."""
    return html.escape(CONTROL.sub("\ufffd", text))


def page(audit: Audit) -> str:
    """The whole page, which is well-formed XML, too."""
    tally = ", ".join(
        f'<span class="{level if audit.of(level) else "faint"}">{number(audit, level)}</span>' for level in LEVELS
    )
    findings = "\n".join(
        f'<li><strong class="{f.level}">{f.level}</strong><strong>{escaped(f.name + (f" ({f.about})" if f.about else ""))}</strong>'
        f"{escaped(f.text)}" + (f'<span class="do">→ {escaped(f.do)}</span>' if f.do else "") + "</li>"
        for level in LEVELS
        for f in audit.of(level)
    )
    classes = [
        bars(f"{split}, {sum(of.values()):,}", [(name, n, f"{n:,}") for name, n in of.items()])
        for split, of in audit.classes.items()
    ]
    lengths = [histogram(f"{modality}, time steps", n) for modality, n in audit.steps.items()]
    if len(audit.seconds):
        lengths.append(histogram("seconds, from start to end", audit.seconds))
    title = f"Audit of {escaped(audit.name)}"
    parts = [
        f'<h1>{title}</h1>\n<p>{audit.utterances:,} utterances. {tally}.<br/><span class="faint">manifest sha256 '
        f"{escaped(audit.manifest_sha256)}</span></p>",
        f"<h2>Findings</h2>\n<ul>\n{findings}\n</ul>",
        _section("Utterances per class", classes),
        _section("Lengths", lengths),
    ]
    if measured := [floor for floor in audit.floors if not floor.skipped]:
        parts.append(_section("Floors on test", _floor_plots(measured), f"<p>{escaped(audit.method)}</p>"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def _section(title: str, plots: Sequence[str], text: str = "") -> str:
    return f'<h2>{title}</h2>\n{text}<div class="plots">\n' + "\n".join(plots) + "\n</div>"


def _floor_plots(floors: Sequence[Floor]) -> list[str]:
    plots = []
    for score, title in (("weighted_f1", "weighted F1"), ("accuracy", "accuracy"), ("uar", "UAR")):
        rows = [(floor.modality, floor.scores[score], f"{floor.scores[score]:.3f}") for floor in floors]
        always = floors[0].majority_scores[score]
        rows.append((f"always {floors[0].majority}", always, f"{always:.3f}"))
        plots.append(bars(title, rows, most=1.0, muted=len(floors)))
    return plots


def bars(title: str, rows: Sequence[tuple[str, float, str]], most: float = 0.0, muted: int = -1) -> str:
    """One horizontal bar a row (name, value, text), the longest of value `most`; row `muted` is drawn in grey."""
    most = most or max((value for _, value, _ in rows), default=0) or 1
    left, room = 125, WIDTH - 125 - 55
    drawn = []
    for i, (name, value, text) in enumerate(rows):
        width, y = room * value / most, i * ROW
        drawn.append(
            f'<text x="0" y="{y + 15}">{escaped(_shortened(name, left - 5))}</text>'
            f'<rect class="{"other" if i == muted else "bar"}" x="{left}" y="{y + 4}" width="{width:.1f}" height="{ROW - 8}"/>'
            f'<text x="{left + width + 5:.1f}" y="{y + 15}">{escaped(text)}</text>'
        )
    return _figure(title, drawn, ROW * len(rows))


def _shortened(name: str, room: float) -> str:
    """What of the name fits into so much room at 12 px, whatever sans-serif the reader has."""
    widths = [
        12
        if c in "mwMW@%" or unicodedata.east_asian_width(c) in "WF"
        else 5
        if c in NARROW
        else 9.5
        if c.isupper()
        else 7.7
        for c in name
    ]
    if sum(widths) <= room:
        return name
    return name[: sum(so_far <= room - 12 for so_far in itertools.accumulate(widths))] + "…"


def histogram(title: str, values: np.ndarray) -> str:
    """How many utterances are how long. The last bar holds the longest half per cent, however long they are."""
    low, high, edge = values.min(), values.max(), np.quantile(values, 0.995)
    if low == high:
        return _figure(f"{title}: {low:g} each", [], 1)
    bins = BINS
    if values.dtype.kind in "iu":  # as many lengths in every bar, or some are high for having one more
        each = math.ceil((edge - low + 1) / BINS)
        bins = math.ceil((edge - low + 1) / each)
        edge = low + bins * each - 1
    elif edge == low:
        edge = high
    counts, _ = np.histogram(np.minimum(values, edge), bins, (low, edge + (values.dtype.kind in "iu")))
    height, step = 110, WIDTH / bins
    drawn = [
        f'<rect class="bar" x="{i * step:.1f}" y="{14 + height * (1 - n / counts.max()):.1f}" width="{step - 1:.1f}" '
        f'height="{height * n / counts.max():.1f}"/>'
        for i, n in enumerate(counts)
    ]
    last = f"{edge:.4g}, up to {high:.4g}" if high > edge else f"{high:.4g}"
    drawn.append(f'<text x="0" y="{height + 30}">{low:.3g}</text>')
    drawn.append(f'<text x="{WIDTH}" y="{height + 30}" text-anchor="end">{last}</text>')
    return _figure(f"{title} (highest bar: {counts.max():,} utterances)", drawn, height + 36)


def _figure(title: str, drawn: Sequence[str], height: float) -> str:
    svg = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escaped(title)}">{"".join(drawn)}</svg>'
    return f"<figure><figcaption>{escaped(title)}</figcaption>{svg}</figure>"
