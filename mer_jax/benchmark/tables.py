"""benchmark.json as text: the cells of a table, Markdown, and LaTeX. No JAX."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mer_jax.evaluation.score_table import looks
from mer_jax.metrics.metric import Metric
from mer_jax.metrics.significance import FEW_DIALOGUES
from mer_jax.plain import for_terminal
from mer_jax.runtime.console import duration
from mer_jax.training.replicas import format_overrides

Told = Mapping[str, Any]
HEARD = {"none": "the utterance", "past": "the past", "both": "past and future"}
LEGEND = (
    "Scores: mean ± sample standard deviation over the seeds, of all test parts together; 95 %: interval by resampling "
    "the dialogues, seeds held fixed; validation: the mean over seeds and folds. Behind the best: the difference to "
    "the first row, its 95 % interval, and the p-value of a paired bootstrap over dialogues with Holm’s correction "
    "over the rows of the table; the best row was chosen by the same test part, so that p is a little too small. "
    "First, and rank: how often a row is first, and its median rank with a 95 % interval, when the dialogues are "
    "resampled and a seed is drawn for every row. Chosen among: how many points of the grid validation compared, and "
    "how often it was asked in all, once for every epoch and replica. Time: training on this machine, both stages."
)


def metrics_of(table: Told) -> dict[str, Metric]:
    """The scores of a table, the main one first."""
    found = {name: Metric(function=float, **about) for name, about in table["metrics"].items()}
    return {table["main"]: found[table["main"]]} | found


def _difference(table: Told, row: Told) -> str:
    if "difference" not in row:
        return row.get("not_comparable", "") and "not comparable"
    metric, test = metrics_of(table)[table["main"]], row["difference"]
    value, low, high = (_signed(metric.format(test[name])) for name in ("difference", "low", "high"))
    return f"{value} ({low} to {high})"


def _signed(figure: str) -> str:
    """With a minus sign, but for a zero."""
    return figure.replace("-", "−" if float(figure) else "")


def _p(row: Told) -> str:
    p = row.get("difference", {}).get("p_holm")
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _rank(row: Told) -> str:
    rank = row.get("rank")
    return "" if rank is None else f"{rank['median']:g} ({rank['low']:g}–{rank['high']:g})"


def _first(row: Told) -> str:
    return f"{100 * row['rank']['first']:.0f} %" if "rank" in row else ""


def _heard(row: Told) -> str:
    heard = row["heard"]
    if not heard["modalities"]:
        return "nothing"
    return f"{'+'.join(heard['modalities'])}; {HEARD[heard.get('hears', 'none')]}"


def _point(row: Told) -> str:
    point = row["point"]
    return ", ".join(filter(None, (format_overrides(point["values"]), point["by"] and f"by {point['by']}")))


def _asked(row: Told) -> str:
    found = row["validation"]
    points = f"{found['points']} × {found['seeds']} seed{'s' * (found['seeds'] > 1)}" if found["points"] else "1"
    return f"{points}, {found['evaluations']:,}"


def _time(row: Told) -> str:
    known = [seconds for seconds in row["seconds"].values() if seconds is not None]
    return duration(sum(known), 1) if known else "-"


def columns(table: Told) -> dict[str, Callable[[Told], str]]:
    """The heads after the model's name, each with what stands below it of a row that has finished."""
    metrics, main = metrics_of(table), table["main"]
    scores = {
        metric.title: lambda row, name=name, metric=metric: metric.format_mean(row["scores"].get(name))
        for name, metric in metrics.items()
    }
    first, *others = scores.items()
    return {
        **dict([first]),
        "95 %": lambda row: metrics[main].format_interval(row["interval"]),
        **dict(others),
        f"validation {metrics[main].short}": lambda row: metrics[main].format_mean(row["valid"] | {"sd": None}),
        "behind the best": lambda row: _difference(table, row),
        "p (Holm)": _p,
        "first": _first,
        "rank": _rank,
        "seeds": lambda row: str(len(row["seeds"])),
        "hears": _heard,
        "point": _point,
        "chosen among": _asked,
        "parameters": lambda row: "-" if row["parameters"] is None else f"{row['parameters']:,}",
        "time": _time,
        "test part": lambda row: looks(
            {"test_looks": row["test_looks"], "selects_on": table["selects_on"] if row["trained"] else ""}
        ),
    }


def reason(row: Told) -> str:
    """Why a row has no scores, in a line."""
    stage = f" in {row['stage']}" if row.get("stage") else ""
    return f"{row['status']}{stage}: {for_terminal(' '.join(row['why'].split()))}"


def title(table: Told) -> str:
    return f"{table['corpus']}, {table['protocol']}"


def about(table: Told) -> list[str]:
    """What is to be said of a table before it: who is tested, what leaks, how much the intervals can be believed."""
    if "folds" not in table:
        return ["No row has finished."]
    folds, count = table["folds"], table["dialogues"]
    lines = [
        f"Target {table['target']}; {table['utterances']:,} test utterances in {count:,} dialogues"
        + f", {folds} folds" * (folds > 1)
        + f". {table['description'][0].upper()}{table['description'][1:]}."
    ]
    if table["leaky"]:
        lines.append(f"Leaky: {table['leaky']}.")
    lines += [f"{line[0].upper()}{line[1:]}." for line in table["leakage"]]
    if count < 2:
        lines.append("No intervals, tests and ranks: all test utterances are of one dialogue.")
    elif count < FEW_DIALOGUES:
        lines.append(f"{count} dialogues are few: the intervals are too narrow, the p too small.")
    for row in table["rows"]:
        lines += [f"{row['model']}: {words}." for words in row.get("left_out", ())]
        if "not_comparable" in row:
            lines.append(f"{row['model']} is not compared: {row['not_comparable']}.")
    return lines


def markdown(found: Told) -> str:
    """All tables, and below them what the columns mean."""
    parts = [f"# Benchmark\n\n{settings_in_words(found)}"]
    for table in found["tables"]:
        parts.append(f"## {title(table)}\n\n" + "\n".join(f"- {_plain(line)}" for line in about(table)))
        heads = columns(table)
        lines = [f"| model | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
        for row in table["rows"]:
            ended = row["status"] == "finished"
            cells = [of(row) for of in heads.values()] if ended else [reason(row), *[""] * (len(heads) - 1)]
            lines.append(f"| {' | '.join(_plain(cell) for cell in (row['model'], *cells))} |")
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, LEGEND]) + "\n"


def _plain(cell: str) -> str:
    """For a cell of Markdown: nothing in it ends the cell."""
    return for_terminal(cell).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def settings_in_words(found: Told) -> str:
    """What all rows have in common."""
    asked = found["asked"]
    by = f"{asked['tune_seeds']} seed" + "s" * (asked["tune_seeds"] > 1)
    if asked["grid"]:
        chosen = f"validation chose a point of the grid {asked['grid']} by {by}, with the test part locked; then "
    else:
        chosen = "no grid was searched; at its config's defaults "
    changes = f" Set for all: {', '.join(asked['changes'])}." if asked["changes"] else ""
    return (
        f"Of every trained model {chosen}{asked['seeds']} seeds were trained, and tested once. "
        f"Floors have one seed, and a strength of regularisation that validation chose. mer_jax {found['version']}."
        f"{changes}"
    )


LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$",
    "−": "$-$", "–": "--", "×": r"$\times$", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}", '"': "''",
}  # fmt: skip
PRINTED = (
    "behind the best",
    "p (Holm)",
    "first",
    "rank",
)  # of the columns after the scores; a page has room for no more
MOST_REASON = 60


def escape_latex(text: str) -> str:
    """What LaTeX would obey becomes what prints it; what is neither a letter nor known becomes a question mark."""
    return "".join(LATEX.get(c, c if c.isascii() or c.isalpha() else "?") for c in for_terminal(text))


def latex(found: Told) -> str:
    """A table environment with booktabs for each table."""
    head = "% \\usepackage{booktabs}; what the columns mean stands in benchmark.md\n"
    return head + "\n".join("\n".join(_latex_table(table)) + "\n" for table in found["tables"])


def _latex_table(table: Told) -> Iterator[str]:
    heads = columns(table)
    scores = {metric.title for metric in metrics_of(table).values()} | {"95 %"}
    kept = {name: of for name, of in heads.items() if name in scores or name in PRINTED}
    yield from (r"\begin{table}[t]", r"\centering", r"\small", r"\setlength{\tabcolsep}{4pt}")
    yield rf"\caption{{{escape_latex(title(table))}}}"
    yield rf"\begin{{tabular}}{{l{'r' * len(kept)}}}"
    yield r"\toprule"
    yield _latex_row(["model", *kept])
    yield r"\midrule"
    for row in table["rows"]:
        if row["status"] == "finished":
            yield _latex_row([row["model"], *(of(row) for of in kept.values())])
        else:
            short = reason(row)
            short = short if len(short) <= MOST_REASON else f"{short[:MOST_REASON]}…"
            why = rf"\multicolumn{{{len(kept)}}}{{l}}{{{escape_latex(short)}}}"
            yield rf"{escape_latex(row['model'])} & {why} \\"
    yield from (r"\bottomrule", r"\end{tabular}", r"\end{table}")


def _latex_row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(map(escape_latex, cells))} \\"


def in_a_line(table: Told, row: Told) -> str:
    """What a row found, for the console."""
    if row["status"] != "finished":
        return reason(row)
    heads = columns(table)
    (score, of_score), (_, of_interval) = list(heads.items())[:2]
    return f"{score} {of_score(row)} (95 % {of_interval(row)}) in {heads['time'](row)}"
