"""The scores of numbers: how close predictions are to one or more named dimensions. No JAX."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from mer_jax.metrics.classification import ratio
from mer_jax.metrics.definition import Definition, Known, Values
from mer_jax.metrics.metric import Metric

MOMENTS = 7  # counts of a dimension: rows, sums of target, prediction, their squares, their product, their distance
CONSTANT = 1e-12  # a variance below this share of the mean square is rounding, and taken for 0

Counts = Float[np.ndarray, "*lead counts"]
Score = Float[np.ndarray, "*lead"]


def moments(targets: Values, known: Known, predicted: Values) -> Float[np.ndarray, "rows counts"]:
    """`MOMENTS` counts of each dimension, side by side; 0 where the target is not known."""
    x, y = np.where(known, targets, 0.0), np.where(known, predicted, 0.0)
    each = np.stack([known, x, y, x * x, y * y, x * y, np.abs(x - y)], axis=-1)
    return each.reshape(len(each), each.shape[1] * MOMENTS).astype(np.float64)


def _of_dimensions(counts: np.ndarray) -> np.ndarray:
    return counts.reshape(*counts.shape[:-1], -1, MOMENTS)


def _statistics(counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each dimension the two means, the two variances and the covariance, of the population."""
    rows, *sums = np.moveaxis(_of_dimensions(counts), -1, 0)
    x, y, xx, yy, xy, _ = (ratio(total, rows) for total in sums)
    of_x, of_y = xx - x**2, yy - y**2
    of_x, of_y = np.where(of_x > CONSTANT * xx, of_x, 0), np.where(of_y > CONSTANT * yy, of_y, 0)
    return x, y, of_x, of_y, np.where((of_x > 0) & (of_y > 0), xy - x * y, 0)


def each_ccc(counts: Counts) -> Float[np.ndarray, "*lead dims"]:
    """Lin's concordance correlation coefficient (1989) of each dimension, with moments of the population: 2 cov /
    (var + var + (mean - mean)^2). It is 0 where all targets, or all predictions, are one number: 0/0, too, is 0."""
    x, y, of_x, of_y, both = _statistics(counts)
    return ratio(2 * both, of_x + of_y + (x - y) ** 2)


def each_pearson(counts: Counts) -> Float[np.ndarray, "*lead dims"]:
    """Pearson's correlation of each dimension; 0 where all targets, or all predictions, are one number."""
    _, _, of_x, of_y, both = _statistics(counts)
    return np.clip(ratio(both, np.sqrt(of_x) * np.sqrt(of_y)), -1, 1)


def each_mae(counts: Counts) -> Float[np.ndarray, "*lead dims"]:
    """The mean absolute error of each dimension; 0 without a known target."""
    of = _of_dimensions(counts)
    return ratio(of[..., -1], of[..., 0])


EACH = {
    "ccc": Metric("CCC", "CCC", each_ccc, unit=""),
    "mae": Metric("MAE", "MAE", each_mae, "min", unit=""),
    "pearson": Metric("Pearson", "r", each_pearson, unit=""),
}


def _mean(each: Callable[[Counts], np.ndarray]) -> Callable[[Counts], Score]:
    def mean(counts: Counts) -> Score:
        known = _of_dimensions(counts)[..., 0] > 0
        return ratio(each(counts).sum(-1), known.sum(-1))

    return mean


def _of(each: Callable[[Counts], np.ndarray], dimension: int) -> Callable[[Counts], Score]:
    return lambda counts: each(counts)[..., dimension]


def dimensions(names: Sequence[str]) -> Definition:
    """CCC, MAE and Pearson of named dimensions: the mean over these and, where there are several, each one's.

    A row counts for the dimensions of which its target is known. A dimension without any known target is left out of
    the means. CCC and Pearson are 0 where all targets, or all predictions, are one number."""
    metrics = {name: Metric(m.title, m.short, _mean(m.function), m.direction, m.unit) for name, m in EACH.items()}
    for number, dimension in enumerate(names if len(names) > 1 else ()):
        for name, m in EACH.items():
            title, short = f"{m.title} of {dimension}", f"{m.short} {dimension}"
            metrics[f"{name}_{dimension}"] = Metric(title, short, _of(m.function, number), m.direction, m.unit)
    return Definition(
        title=f"CCC, MAE and Pearson of {', '.join(names)}",
        source="CCC: Lin 1989, A concordance correlation coefficient to evaluate reproducibility, with n, not n - 1",
        count=moments,
        metrics=metrics,
    )
