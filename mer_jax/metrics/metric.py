"""One row of a task's table of scores, and how figures are written. No JAX."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score that a task reports.

    title, short: how it is called in tables and in a line. function: from the task's counts, with any leading axes, to
    the score. direction: whether larger ("max") or smaller ("min") is better. unit: "percent" for fractions, which are
    shown times 100, or "" for numbers shown as they are."""

    title: str
    short: str
    function: Callable[[Any], Any]
    direction: Literal["max", "min"] = "max"
    unit: str = "percent"

    def format(self, value: int | float) -> str:
        """A score as a table shows it: in percent if it is a fraction."""
        return f"{100 * value:.1f}" if self.unit == "percent" else f"{value:.4f}"

    def format_mean(self, found: Mapping[str, int | float | None] | None) -> str:
        """`58.9 ± 1.1`, of what `mean_sd` gives; `-` if no replica has the score."""
        if found is None or found["mean"] is None:
            return "-"
        return self.format(found["mean"]) + ("" if found["sd"] is None else f" ± {self.format(found['sd'])}")

    def format_interval(self, interval: Mapping[str, int | float] | None) -> str:
        """`55.0–61.2`; `-` where there is none."""
        if interval is None or not {"low", "high"} <= interval.keys():  # see `bootstrap`
            return "-"
        return f"{self.format(interval['low'])}–{self.format(interval['high'])}"

    def better(self, new: float, old: float) -> bool:
        """Whether the new value is better than the old one."""
        return new > old if self.direction == "max" else new < old

    def worst(self) -> float:
        """What every value is better than."""
        return -np.inf if self.direction == "max" else np.inf


def scores_by_name(metrics: Iterable[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of every name the scores that are of it alone, {kind: score}, as `ccc` for `ccc_valence`; nothing where scores
    are not told by name. A kind is one that every name has: `ccc_b_a` ends like a score of `a`, and is none."""
    found = {
        name: {score.removesuffix(f"_{name}"): score for score in metrics if score.endswith(f"_{name}")}
        for name in names
    }
    kinds = [kind for kind in next(iter(found.values()), {}) if all(kind in of for of in found.values())]
    return {name: {kind: of[kind] for kind in kinds} for name, of in found.items()} if kinds else {}


def mean_sd(values: Sequence[float]) -> dict[str, float | None]:
    """`mean` and sample standard deviation `sd` (n - 1); sd is None for one value, both are for none."""
    return {
        "mean": float(np.mean(values)) if values else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


FRACTION = Metric("fraction", "fraction", float)  # a share that is no score of a task, shown in percent as scores are


def percent(found: Mapping[str, float | None]) -> str:
    """`58.9 ± 1.1`"""
    return FRACTION.format_mean(found)


def between(interval: Mapping[str, float]) -> str:
    """`55.0–61.2`"""
    return FRACTION.format_interval(interval)
