"""One of several ordered classes, by a cumulative link. No JAX at import."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mer_jax.metrics import ordinal
from mer_jax.tasks.classification import Classification


class Ordinal(Classification):
    """As `Classification`, but what the model gives are a score and thresholds: see
    `losses.cumulative_log_probabilities`. The scores know how far two classes are apart."""

    name: ClassVar[str] = "ordinal"
    metrics = ordinal.METRICS

    def logits(self, values: Any) -> Any:
        """The logarithms of the classes' probabilities."""
        from mer_jax.models.losses import cumulative_log_probabilities

        return cumulative_log_probabilities(values)

    def scores(self, confusion: np.ndarray) -> dict[str, Any]:
        found: Mapping[str, Any] = ordinal.overall(np.asarray(confusion, np.int64))
        return super().scores(confusion) | {name: float(value) for name, value in found.items()}
