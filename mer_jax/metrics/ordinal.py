"""The scores of a confusion matrix whose classes are levels, in their order. No JAX."""

import numpy as np
from jaxtyping import Float

from mer_jax.metrics import classification
from mer_jax.metrics.classification import Matrices, Values, ratio
from mer_jax.metrics.metric import Metric


def _apart(matrices: np.ndarray) -> Float[np.ndarray, "classes classes"]:
    """How many levels the classes are apart."""
    level = np.arange(matrices.shape[-1], dtype=np.float64)
    return np.abs(level[:, None] - level)


def mae(matrices: Matrices) -> Values:
    """The mean absolute error in levels."""
    return ratio((matrices * _apart(matrices)).sum((-1, -2)), matrices.sum((-1, -2)))


def qwk(matrices: Matrices) -> Values:
    """Cohen's kappa (1968) with quadratic weights: 1 less the mean squared error in levels over the one that chance
    would have, given how often each level is true and predicted. Where chance would have none, since all that is true
    and predicted is one level, there is no agreement beyond chance: 0."""
    squares = _apart(matrices) ** 2
    seen = (matrices * squares).sum((-1, -2))
    by_chance = (matrices.sum(-1)[..., :, None] * matrices.sum(-2)[..., None, :] * squares).sum((-1, -2))
    expected = ratio(by_chance, matrices.sum((-1, -2)))
    return np.where(expected > 0, 1 - ratio(seen, expected), 0.0)


# The table, as `classification.METRICS`. The first row is the main score.
METRICS = {
    "qwk": Metric("quadratic weighted kappa", "QWK", qwk, unit=""),
    "mae": Metric("MAE in levels", "MAE", mae, "min", unit=""),
    **classification.METRICS,
}


def overall(matrices: Matrices) -> dict[str, Values]:
    """Every score of METRICS."""
    return {name: metric.function(matrices) for name, metric in METRICS.items()}
