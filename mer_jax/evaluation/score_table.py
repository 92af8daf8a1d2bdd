"""A point of metrics.json as a row of a table: the console, summary.md and the report show the same columns. No JAX."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mer_jax.data.speaker_norm import title_of
from mer_jax.tasks import Task
from mer_jax.training.replicas import format_overrides

LOCKED = "locked, until --mode=test scores it"


def looks(protocol: Mapping[str, Any]) -> str:
    """How often the test part had been looked at when it was scored, by metrics.json's `protocol`, in words; nothing of
    a run that did not score it, or from before 0.11, when looks were not counted. Where the test part chooses the epoch
    the ledger counts the ends of runs, and every epoch looked, too."""
    if protocol.get("locked") or "test_looks" not in protocol:
        return ""
    count = protocol["test_looks"]
    times = "once" if count == 1 else f"{'an unknown number of' if count is None else count} times"
    return f"looked at {times}" + ", and in every epoch" * (protocol.get("selects_on") == "test")


def transductive(protocol: Mapping[str, Any]) -> str:
    """That features of the test part were standardised by themselves, if they were, by metrics.json's `protocol`; as
    its title ends."""
    return title_of(protocol.get("speaker_norm"))


def part_of(points: Iterable[Mapping[str, Any]]) -> str:
    """The part whose scores a table of these points shows: test, unless that is locked for all of them."""
    return "test" if any("test" in point for point in points) else "valid"


def replicas_of_choice(points: Sequence[Mapping[str, Any]], replicas: Sequence[Mapping[str, Any]]) -> list[int]:
    """Of metrics.json's `replicas` the positions of those that validation chose, finished or not: all at the chosen
    point, or at every fold's own."""
    number, chosen = next((i, point) for i, point in enumerate(points) if point["chosen"])
    of_fold = chosen.get("by_fold")
    return [
        i
        for i, replica in enumerate(replicas)
        if replica["point"] == (number if of_fold is None else of_fold.get(replica["fold"]))
    ]


def point_name(point: Mapping[str, Any]) -> str:
    """A point of a sweep in a table; empty without a sweep."""
    return "every fold's own point" if "by_fold" in point else format_overrides(point["values"])


def choices_in_words(points: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> str:
    """Which point was chosen: `model.layer=8`, or `fold 1: model.layer=8; fold 2: model.layer=4`."""
    if "by_fold" not in chosen:
        return format_overrides(chosen["values"])
    return "; ".join(f"fold {fold}: {format_overrides(points[i]['values'])}" for fold, i in chosen["by_fold"].items())


def scores_title(part: str, task: Task) -> str:
    """The title of a table of scores of the part."""
    return title({"test": "Test scores", "valid": "Validation scores"}[part], task)


def title(what: str, task: Task) -> str:
    """The title of a table of scores, with their unit if they have one in common."""
    return f"{what}, percent" if all(task.metrics[name].unit == "percent" for name in task.headline) else what


def with_titles(text: str, task: Task) -> str:
    """Scores by their titles: `best validation weighted F1`."""
    titles = {name: metric.title for name, metric in task.metrics.items()}
    return re.sub(r"\w+", lambda word: titles.get(word[0], word[0]), text)


def columns(task: Task, part: str) -> list[str]:
    """The heads of the columns, after the one that names the row."""
    first, *others = (task.metrics[name].title for name in (task.main_metric, *task.other_metrics))
    if part == "valid":
        return [first, *others]
    return [first, "95 %", *others, f"validation {task.metrics[task.main_metric].short}"]


def cells(task: Task, point: Mapping[str, Any], part: str) -> list[str]:
    """A point's scores of the part: mean ± sample standard deviation over its replicas; `-` where the run does not know
    a score, `locked` where nobody knows one yet."""
    main, others = task.main_metric, task.other_metrics
    valid = {name: metric.format_mean(point["valid"].get(name)) for name, metric in task.metrics.items()}
    if part == "valid":
        return [valid[main], *(valid[name] for name in others)]
    interval = task.metrics[main].format_interval((point.get("interval") or {}).get(main))
    if "test" in point:
        test = {name: metric.format_mean(point["test"].get(name)) for name, metric in task.metrics.items()}
    else:
        test = dict.fromkeys(task.metrics, "locked")
    return [test[main], interval, *(test[name] for name in others), valid[main]]


def ensemble_cells(task: Task, ensemble: Mapping[str, Any]) -> list[str]:
    """The scores of a point's ensemble, which has none on the validation part."""
    main, others = task.main_metric, task.other_metrics
    values = {
        name: metric.format(ensemble[name]["value"]) if name in ensemble else "-"
        for name, metric in task.metrics.items()
    }
    interval = task.metrics[main].format_interval(ensemble.get(main))
    return [values[main], interval, *(values[name] for name in others), ""]
