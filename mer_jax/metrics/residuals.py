"""How errors of predicted numbers lie over the targets, and about the people. No JAX."""

import dataclasses

import numpy as np
from jaxtyping import Float, Num


@dataclasses.dataclass(frozen=True)
class Bin:
    """Targets that lie close together. middle: of the bin; the residuals' mean, and their lower and upper quartile."""

    middle: float
    rows: int
    mean: float
    lower: float
    upper: float


def by_target(
    targets: Float[np.ndarray, "rows"],
    residuals: Float[np.ndarray, "rows"],
    ends: tuple[float, float],
    bins: int = 10,
    least: int = 5,
) -> list[Bin]:
    """The residuals of the targets in bins of one width between the ends; a bin of fewer than `least` rows is left
    out."""
    low, high = ends
    bin_of = np.clip(((targets - low) / (high - low) * bins).astype(int), 0, bins - 1)
    found = []
    for number in range(bins):
        of = residuals[bin_of == number]
        if len(of) >= least:
            lower, upper = np.percentile(of, (25, 75))
            middle = low + (number + 0.5) * (high - low) / bins
            found.append(Bin(middle, len(of), float(of.mean()), float(lower), float(upper)))
    return found


def spread_ratio(targets: Float[np.ndarray, "rows"], predicted: Float[np.ndarray, "rows"]) -> float:
    """The predictions' standard deviation over the targets': below 1 they keep too close to their mean. 0 without a
    spread of the targets."""
    spread = float(targets.std())
    return float(predicted.std()) / spread if spread > 0 else 0.0


def mean_of(counts: Num[np.ndarray, "*lead two"]) -> Float[np.ndarray, "*lead"]:
    """The mean by a number of rows and their sum; 0 of none."""
    rows = np.maximum(counts[..., 0], 1)
    return counts[..., 1] / rows
