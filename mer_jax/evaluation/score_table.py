"""A point of metrics.json as a row of a table: the console, summary.md and the report show the same columns. No JAX."""

from collections.abc import Mapping
from typing import Any

from mer_jax.tasks import Task


def title(what: str, task: Task) -> str:
    """The title of a table of scores, with their unit if they have one in common."""
    return f"{what}, percent" if all(metric.unit == "percent" for metric in task.metrics.values()) else what


def with_titles(text: str, task: Task) -> str:
    """Scores by their titles: `best validation weighted F1`."""
    for name, metric in task.metrics.items():
        text = text.replace(name, metric.title)
    return text


def columns(task: Task) -> list[str]:
    """The heads of the columns, after the one that names the row."""
    first, *others = (metric.title for metric in task.metrics.values())
    return [first, "95 %", *others, f"validation {task.metrics[task.main_metric].short}"]


def cells(task: Task, point: Mapping[str, Any]) -> list[str]:
    """A point's scores: mean ± sample standard deviation over its replicas; `-` where the run does not know a score."""
    main, *others = task.metrics
    interval = task.metrics[main].format_interval((point.get("interval") or {}).get(main))
    test = {name: metric.format_mean(point["test"].get(name)) for name, metric in task.metrics.items()}
    validation = task.metrics[main].format_mean(point["valid"].get(main))
    return [test[main], interval, *(test[name] for name in others), validation]


def ensemble_cells(task: Task, ensemble: Mapping[str, Any]) -> list[str]:
    """The scores of a point's ensemble, which has none on the validation part."""
    main, *others = task.metrics
    values = {
        name: metric.format(ensemble[name]["value"]) if name in ensemble else "-"
        for name, metric in task.metrics.items()
    }
    interval = task.metrics[main].format_interval(ensemble.get(main))
    return [values[main], interval, *(values[name] for name in others), ""]
