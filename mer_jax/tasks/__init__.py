"""What is predicted; see task.py."""

from typing import Any

from mer_jax.tasks.classification import Classification
from mer_jax.tasks.task import Task


def task_of(manifest: Any) -> Task:
    """The task of a corpus, by its manifest. Manifests name classes; another kind of target is another branch here."""
    return Classification(manifest.labels)


def task_of_results(metrics: dict[str, Any]) -> Task:
    """The task of a finished run, by its metrics.json; runs of 0.8 and before are classification. Raises ValueError if
    the file names no task of this version, or not its targets."""
    kinds = {Classification.name: Classification.of_results}
    name = metrics.get("task", Classification.name)
    if name not in kinds:
        raise ValueError(f"field 'task': this mer_jax knows {', '.join(kinds)}, not {name!r}")
    return kinds[name](metrics).led_by(metrics["config"].get("train", {}).get("select", ""))
