"""The audit is drawn as one HTML page: no network, no script; plots are inline SVG; light or dark as the reader's
system is."""

import math
from collections.abc import Sequence

import numpy as np

from data_prep.audit.finding import LEVELS, Audit, Finding, number
from data_prep.audit.floor import SHOWN, Floor
from mer_jax.metrics.classification import METRICS
from mer_jax.report.html import ROW, WIDTH, document, escaped, figure, plots, shortened

BINS = 24


def page(audit: Audit) -> str:
    """Returns the whole page, which is well-formed XML, too."""
    tally = ", ".join(
        f'<span class="{level if audit.of(level) else "faint"}">{number(audit, level)}</span>' for level in LEVELS
    )
    findings = "\n".join(_item(finding) for level in LEVELS for finding in audit.of(level))
    classes = [
        bars(f"{split}, {sum(of.values()):,}", [(name, n, f"{n:,}") for name, n in of.items()])
        for split, of in audit.classes.items()
    ]
    lengths = [histogram(f"{modality}, time steps", n) for modality, n in audit.steps.items()]
    if len(audit.seconds):
        lengths.append(histogram("seconds, from start to end", audit.seconds))
    title = f"Audit of {audit.name}"
    parts = [
        f"<h1>{escaped(title)}</h1>\n<p>{audit.utterances:,} utterances. {tally}.<br/>"
        f'<span class="faint">manifest sha256 {escaped(audit.manifest_sha256)}</span></p>',
        f"<h2>Findings</h2>\n<ul>\n{findings}\n</ul>",
        *([_section("Utterances per class", classes)] if any(audit.classes.values()) else []),
        _section("Lengths", lengths),
    ]
    if measured := [floor for floor in audit.floors if not floor.skipped]:
        parts.append(_section("Floors on test", _floor_plots(measured), f"<p>{escaped(audit.method)}</p>"))
    return document(title, parts)


def _item(finding: Finding) -> str:
    name = escaped(finding.name + (f" ({finding.about})" if finding.about else ""))
    do = f'<span class="do">→ {escaped(finding.do)}</span>' if finding.do else ""
    level = finding.level
    return f'<li><strong class="{level}">{level}</strong><strong>{name}</strong>{escaped(finding.text)}{do}</li>'


def _section(title: str, figures: Sequence[str], text: str = "") -> str:
    return f"<h2>{title}</h2>\n{text}{plots(figures)}"


def _floor_plots(floors: Sequence[Floor]) -> list[str]:
    drawn = []
    for score in SHOWN:
        rows = [(floor.modality, floor.scores[score], f"{floor.scores[score]:.3f}") for floor in floors]
        always = floors[0].majority_scores[score]
        rows.append((f"always {floors[0].majority}", always, f"{always:.3f}"))
        drawn.append(bars(METRICS[score].title, rows, most=1.0, muted=len(floors)))
    return drawn


def bars(title: str, rows: Sequence[tuple[str, float, str]], most: float = 0.0, muted: int = -1) -> str:
    """Draws one horizontal bar a row (name, value, text), the longest of value `most`; row `muted` is grey."""
    most = most or max((value for _, value, _ in rows), default=0) or 1
    left, room = 125, WIDTH - 125 - 55
    drawn = []
    for i, (name, value, text) in enumerate(rows):
        width, y, kind = room * value / most, i * ROW, "other" if i == muted else "bar"
        drawn.append(
            f'<text x="0" y="{y + 15}">{escaped(shortened(name, left - 5))}</text>'
            f'<rect class="{kind}" x="{left}" y="{y + 4}" width="{width:.1f}" height="{ROW - 8}"/>'
            f'<text x="{left + width + 5:.1f}" y="{y + 15}">{escaped(text)}</text>'
        )
    return figure(title, drawn, ROW * len(rows))


def histogram(title: str, values: np.ndarray) -> str:
    """Draws how many utterances are how long. The last bar holds the longest half per cent, however long they are."""
    low, high, edge = values.min(), values.max(), np.quantile(values, 0.995)
    if low == high:
        return figure(f"{title}: {low:g} each", [], 1)
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
    return figure(f"{title} (highest bar: {counts.max():,} utterances)", drawn, height + 36)
