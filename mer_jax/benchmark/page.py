"""benchmark.json as one page without network or script. No JAX."""

from collections.abc import Mapping
from typing import Any

from mer_jax.benchmark.tables import LEGEND, about, columns, metrics_of, reason, settings_in_words, title
from mer_jax.report.html import breakable, document, escaped, plots, table
from mer_jax.report.svg import intervals, levels_of

Told = Mapping[str, Any]


def page(found: Told) -> str:
    """The whole page."""
    links = [f'<a href="#t{i}">{escaped(title(one))}</a>' for i, one in enumerate(found["tables"])]
    parts = ["<h1>Benchmark</h1>", f"<nav>{' '.join(links)}</nav>", f"<p>{escaped(settings_in_words(found))}</p>"]
    for i, one in enumerate(found["tables"]):
        parts.append(f'<section><h2 id="t{i}">{escaped(title(one))}</h2>{section(one)}</section>')
    parts.append(f"<h2>What the columns mean</h2><p>{escaped(LEGEND)}</p>")
    return document("Benchmark", parts)


def section(one: Told) -> str:
    """A table, with what is to be said of it, and its scores and ranks as pictures."""
    parts = []
    for line in about(one):
        alarm = ' class="alarm" role="note"' if line.startswith("Leaky:") else ""
        parts.append(f"<p{alarm}>{escaped(line)}</p>")
    heads = columns(one)
    rows = [[_name(row), *_cells(row, heads)] for row in one["rows"]]
    parts.append(table(f"Test scores, {title(one)}", ["model", *heads], rows))
    parts.append(pictures(one))
    return "".join(parts)


def _name(row: Told) -> str:
    name = breakable(row["model"])
    return name if row["trained"] else f'<span class="faint">{name}</span>'


def _cells(row: Told, heads: Mapping[str, Any]) -> list[str]:
    if row["status"] == "finished":
        return [escaped(of(row)) for of in heads.values()]
    class_ = "problem" if row["status"] == "failed" else "faint"
    words = f'<div style="max-width: min(40rem, 70vw); white-space: normal">{escaped(reason(row))}</div>'
    return [f'<td class="{class_}" colspan="{len(heads)}" style="text-align: left">{words}</td>']


def pictures(one: Told) -> str:
    """The main score of every row with its interval, and the median rank with its."""
    metric = metrics_of(one)[one["main"]]
    done = [row for row in one["rows"] if row["status"] == "finished"]
    if not done:
        return ""
    factor = 100 if metric.unit == "percent" else 1
    points = []
    for row in done:
        ends = [factor * row["interval"][end] for end in ("low", "high")] if row["interval"] else [None, None]
        points.append((row["model"], factor * row["scores"][one["main"]]["mean"], *ends))
    values = [value for _, *ends in points for value in ends if value is not None]
    unit = ", percent" if metric.unit == "percent" else ""
    digits = 1 if metric.unit == "percent" else 3
    drawn = [intervals(f"{metric.title}{unit}", points, levels_of(values), digits)]
    if ranked := [row for row in done if "rank" in row]:
        places = [(row["model"], *(row["rank"][end] for end in ("median", "low", "high"))) for row in ranked]
        drawn.append(intervals("Rank, 1 is the best", places, levels_of([1, len(ranked)]), 1))
    return plots(drawn)
