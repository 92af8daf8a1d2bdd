"""What a person reads of numbers on the console."""

from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.table

from mer_jax.metrics.metric import Metric, scores_by_name
from mer_jax.runtime.console import console


def print_scores(title: str, scores: Mapping[str, Any], metrics: Mapping[str, Metric], names: Sequence[str]) -> None:
    """Of several names a row for each, with the scores that end in it; below, the others."""
    each = scores_by_name(metrics, names)
    if each:
        table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
        table.add_column("")
        for kind in each[names[0]]:
            table.add_column(metrics[f"{kind}_{names[0]}"].title.removesuffix(f" of {names[0]}"), justify="right")
        for name in names:
            table.add_row(name, *(metrics[score].format(scores[score]) for score in each[name].values()))
        console.print(table)
    else:
        console.print(f"\n{title}", markup=False)
    taken = {score for of in each.values() for score in of.values()}
    rest = {name: metric for name, metric in metrics.items() if name in scores and name not in taken}
    console.print("   ".join(f"{metric.title} {metric.format(scores[name])}" for name, metric in rest.items()))


def print_coverage(calibration: Mapping[str, Any], selects_on: str) -> None:
    """How wide the intervals about the numbers are, and what share of the test part they hold."""
    widths = {name: found["mean"] for name, found in calibration["half_width"].items()}
    known = {name: width for name, width in widths.items() if width is not None}
    if not known:
        few = f"the {selects_on} part has too few of which training knows nothing"
        console.print(f"no intervals about the numbers: {few}")
        return
    each = ", ".join(f"{name} ± {width:.3f}{_held(calibration, name)}" for name, width in known.items())
    console.print(f"intervals that should hold {100 * calibration['covered']:.0f} %, by the {selects_on} part: {each}")


def _held(calibration: Mapping[str, Any], name: str) -> str:
    held = calibration.get("test", {}).get(name, {}).get("mean")
    return "" if held is None else f" ({100 * held:.1f} % of the test part)"
