"""What metrics.json holds of a task of numbers, as types of `schema.check`."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from mer_jax import schema
from mer_jax.data.targets import Target
from mer_jax.metrics.definition import Definition
from mer_jax.metrics.definitions import DEFINITIONS
from mer_jax.metrics.multilabel import PRESENT
from mer_jax.schema import Finite, Text, Texts


class TargetTold(TypedDict):
    name: Text
    kind: Literal["regression", "multilabel"]
    names: Texts
    ranges: list[tuple[Finite, Finite]]
    definition: str
    present_from: str


class Told(TypedDict):
    target: TargetTold


class Scores(TypedDict):
    loss: NotRequired[Finite]
    counts: dict[str, Finite]


class Calibration(TypedDict):
    """Of regression `half_width` and `test`; of emotions those of `Classification`."""

    half_width: NotRequired[dict[str, Finite | None]]
    temperature: NotRequired[Finite]
    test: NotRequired[dict[str, Finite | None]]


class LockedReplica(TypedDict):
    valid: Scores
    calibration: Calibration


class FinishedReplica(TypedDict):
    valid: Scores
    test: Scores
    calibration: Calibration


class FinishedPoint(TypedDict):
    pooled: Scores


def described(target: Target) -> dict[str, Any]:
    """The target as metrics.json tells it: without words and embeddings, which the manifest has."""
    return {
        "name": target.name,
        "kind": target.kind,
        "names": list(target.names),
        "ranges": [list(pair) for pair in target.ranges],
        "definition": target.definition,
        "present_from": target.present_from,
    }


def target_of(metrics: Mapping[str, Any], kind: str) -> Target:
    """The target of a finished run; raises ValueError, naming the field, if it is not told."""
    schema.check(metrics, Told)
    told = metrics["target"]
    if told["kind"] != kind:
        raise ValueError(f"field 'target.kind': it is {told['kind']!r} in a run of {kind}")
    names = told["names"]
    if len(set(names)) < len(names) or len(told["ranges"]) != len(names):
        raise ValueError("field 'target.names': each must be there once, with a range in 'target.ranges'")
    if not all(low < high for low, high in told["ranges"]):
        raise ValueError("field 'target.ranges': each must go up")
    if told["definition"] and told["definition"] not in DEFINITIONS:
        raise ValueError(f"field 'target.definition': this mer_jax knows {', '.join(DEFINITIONS)}")
    if told["present_from"] not in PRESENT:
        raise ValueError(f"field 'target.present_from': it must be one of {', '.join(PRESENT)}")
    return Target(
        told["name"],
        told["kind"],
        tuple(names),
        tuple(names),
        tuple((low, high) for low, high in told["ranges"]),
        definition=told["definition"],
        present_from=told["present_from"],
    )


def width(definition: Definition, names: int) -> int:
    """How many counts a definition has of so many names."""
    nothing = np.zeros((0, names))
    return int(definition.count(nothing, nothing > 0, nothing).shape[1])


def check(metrics: Mapping[str, Any], names: Sequence[str], definition: Definition) -> None:
    """Raises ValueError, naming the field, unless metrics.json has what is written of these numbers."""
    locked = metrics["protocol"].get("locked", False)
    counts = width(definition, len(names))
    for i, point in enumerate(metrics["points"]):
        if point["replicas"] and not locked:
            schema.check_at(f"points.{i}", point, FinishedPoint)
            _check_counts(f"points.{i}.pooled", point["pooled"], counts)
    for i, replica in enumerate(metrics["replicas"]):
        if replica["status"] == "finished":
            schema.check_at(f"replicas.{i}", replica, LockedReplica if locked else FinishedReplica)
            for part in ("valid",) if locked else ("valid", "test"):
                _check_counts(f"replicas.{i}.{part}", replica[part], counts)
            for field in ("half_width", "test"):
                told = replica["calibration"].get(field)
                of_numbers = field == "half_width" or "half_width" in replica["calibration"]
                if told is not None and of_numbers and told.keys() != set(names):
                    raise ValueError(f"field 'replicas.{i}.calibration.{field}': it must have {', '.join(names)}")


def _check_counts(where: str, scores: Mapping[str, Any], counts: int) -> None:
    for place in scores["counts"]:
        if not place.isdecimal() or int(place) >= counts:
            raise ValueError(f"field '{where}.counts': there is no count {place!r}; there are {counts}")
