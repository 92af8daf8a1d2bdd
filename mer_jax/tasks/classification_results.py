"""What metrics.json holds of classification, as types of `schema.check`. A score may be missing: older runs lack it."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from mer_jax import schema
from mer_jax.metrics.calibration import CALIBRATION
from mer_jax.schema import Count, Finite, Share, Text


class MeanSd(TypedDict):
    mean: Finite
    sd: Finite | None


class OfClass(TypedDict):
    precision: Share
    recall: Share
    f1: Share
    support: Count


class Scores(TypedDict):
    per_class: dict[str, OfClass]
    confusion: list[list[Count]]


class Scaling(TypedDict):
    used: bool
    reason: str
    rows: Count
    gain: NotRequired[Finite]
    error: NotRequired[Finite | None]


class ScalingOfAll(TypedDict):
    used: Count
    of: Count
    left_out: list[str]


class Fitted(TypedDict):
    temperature: Finite
    scaling: NotRequired[Scaling]


class Calibrated(Fitted):
    test: dict[str, Finite]
    test_scaled: dict[str, Finite]


class MeanCalibrated(TypedDict):
    test: dict[str, MeanSd]
    test_scaled: dict[str, MeanSd]
    scaling: NotRequired[ScalingOfAll]


class Raters(TypedDict):
    nll: MeanSd
    jensen_shannon: MeanSd
    agreement: MeanSd
    agreement_at_most: MeanSd


class FinishedPoint(TypedDict):
    pooled: Scores
    calibration: MeanCalibrated
    raters: NotRequired[Raters | None]


class FinishedReplica(TypedDict):
    valid: Scores
    test: Scores
    calibration: Calibrated


class LockedReplica(TypedDict):
    """Of which the test part is locked."""

    valid: Scores
    calibration: Fitted


class Counted(TypedDict):
    classes: dict[str, Count]


class Targets(TypedDict):
    """labels: and of every part of every fold `Counted`."""

    labels: list[Text]


def check(metrics: Mapping[str, Any], labels: Sequence[str]) -> None:
    """Raises ValueError, naming the field, unless metrics.json has what is written of these classes."""
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError("field 'labels': it must name two or more classes, each once")
    locked = metrics["protocol"].get("locked", False)
    known = ("valid",) if locked else ("valid", "test")
    for fold, parts in metrics["data"]["counts"].items():
        for name in ("train", *known):
            schema.check_at(f"data.counts.{fold}.{name}", parts[name], Counted)
    for i, point in enumerate(metrics["points"]):
        if point["replicas"] and not locked:
            schema.check_at(f"points.{i}", point, FinishedPoint)
            _check_classes(f"points.{i}.pooled", point["pooled"], labels)
            _check_calibration(f"points.{i}.calibration", point["calibration"])
    for i, replica in enumerate(metrics["replicas"]):
        if replica["status"] == "finished":
            schema.check_at(f"replicas.{i}", replica, LockedReplica if locked else FinishedReplica)
            if not locked:
                _check_calibration(f"replicas.{i}.calibration", replica["calibration"])
            if replica["calibration"]["temperature"] <= 0:
                raise ValueError(f"field 'replicas.{i}.calibration.temperature': it must be above 0")
            for part in known:
                _check_classes(f"replicas.{i}.{part}", replica[part], labels)


def check_labels(metrics: Mapping[str, Any]) -> None:
    """Raises ValueError unless metrics.json names its classes."""
    schema.check(metrics, Targets)


def _check_classes(where: str, scores: Mapping[str, Any], labels: Sequence[str]) -> None:
    if set(scores["per_class"]) != set(labels):
        raise ValueError(f"field '{where}.per_class': it must have one entry for each of {', '.join(labels)}")
    if [len(row) for row in scores["confusion"]] != [len(labels)] * len(labels):
        raise ValueError(f"field '{where}.confusion': it must have {len(labels)} rows of {len(labels)} numbers")


def _check_calibration(where: str, found: Mapping[str, Any]) -> None:
    for when in ("test", "test_scaled"):
        if missing := CALIBRATION.keys() - found[when].keys():
            raise ValueError(f"field '{where}.{when}.{sorted(missing)[0]}' is missing")
