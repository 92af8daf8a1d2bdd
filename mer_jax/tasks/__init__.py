"""What is predicted; see task.py."""

from collections.abc import Mapping
from typing import Any

from mer_jax.tasks.classification import Classification
from mer_jax.tasks.multilabel import Multilabel
from mer_jax.tasks.ordinal import Ordinal
from mer_jax.tasks.regression import Regression
from mer_jax.tasks.several import Several
from mer_jax.tasks.task import Task

# A new kind of target is a row here.
KINDS: dict[str, Any] = {
    "classification": (Classification.of_target, Classification.of_results),
    "ordinal": (Ordinal.of_target, Ordinal.of_results),
    "regression": (Regression, Regression.of_results),
    "multilabel": (Multilabel, Multilabel.of_results),
}


def task_of(manifest: Any) -> Task:
    """The task of a corpus, by what is asked for of it (`Manifest.ask`)."""
    parts = [KINDS[target.kind][0](target) for target in manifest.asked]
    return parts[0] if len(parts) == 1 else Several(parts)


def task_of_results(metrics: dict[str, Any]) -> Task:
    """The task of a finished run, by its metrics.json; runs of 0.8 and before are classification. Raises ValueError if
    the file names no task of this version, or not its targets."""
    return _told(metrics).led_by(metrics["config"].get("train", {}).get("select", ""))


def _told(metrics: Mapping[str, Any]) -> Task:
    name = metrics.get("task", Classification.name)
    if name == Several.name:
        return Several.of_results(metrics, _told)
    if name not in KINDS:
        raise ValueError(f"field 'task': this mer_jax knows {', '.join((*KINDS, Several.name))}, not {name!r}")
    return KINDS[name][1](metrics)
