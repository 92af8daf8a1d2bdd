"""What a person reads of classification on the console."""

from collections.abc import Mapping
from typing import Any

import rich.box
import rich.table

from mer_jax.metrics.calibration import CALIBRATION
from mer_jax.metrics.metric import Metric, percent
from mer_jax.runtime.console import console


def print_classes(title: str, scores: Mapping[str, Any], metrics: Mapping[str, Metric]) -> None:
    """Per class precision, recall, F1, support and where its utterances went; below, the overall scores."""
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.add_column("class")
    for name in ("precision", "recall", "F1", "support"):
        table.add_column(name, justify="right")
    for name in scores["per_class"]:
        table.add_column(f"→{name}", justify="right", style="dim")
    for i, (name, row) in enumerate(zip(scores["per_class"], scores["confusion"], strict=True)):
        c = scores["per_class"][name]
        counts = [f"[bold]{n}[/bold]" if i == j else str(n) for j, n in enumerate(row)]
        table.add_row(name, f"{c['precision']:.3f}", f"{c['recall']:.3f}", f"{c['f1']:.3f}", str(c["support"]), *counts)
    console.print(table)
    known = {name: metric for name, metric in metrics.items() if name in scores}
    console.print("   ".join(f"{metric.title} {scores[name]:.4f}" for name, metric in known.items()))


def print_calibration(point: Mapping[str, Any], selects_on: str) -> None:
    """Calibration before and after temperature scaling, and agreement with the raters, of a point of metrics.json."""
    scaling = point["calibration"].get("scaling", {"used": 1, "of": 1})
    if "test" in point["calibration"]:
        before, after = point["calibration"]["test"], point["calibration"]["test_scaled"]
        to = {n: f" -> {after[n]['mean']:.3f}" if scaling["used"] else "" for n in CALIBRATION}
        values = [f"{title} {before[n]['mean']:.3f}{to[n]}" for n, title in CALIBRATION.items()]
        by = f" by temperature scaling on the {selects_on} part" if scaling["used"] else ""
        console.print(f"calibration: {', '.join(values)}{by}")
    if left := scaling["of"] - scaling["used"]:
        of = f" of {left} of {scaling['of']} replicas" if scaling["of"] > 1 else ""
        console.print(f"temperature scaling{of} is left out: {'; '.join(scaling['left_out'])}")
    if raters := point.get("raters"):
        console.print(
            f"against the raters: NLL {raters['nll']['mean']:.3f}, Jensen-Shannon"
            f" {raters['jensen_shannon']['mean']:.3f} nats; {percent(raters['agreement'])} % of them chose the"
            f" predicted class, {percent(raters['agreement_at_most'])} % the one that most chose"
        )
