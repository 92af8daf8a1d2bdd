"""One of several ordered classes, by a cumulative link. No JAX at import."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mer_jax.data.corpus import Corpus
from mer_jax.metrics import ordinal
from mer_jax.tasks.classification import Classification

LEAST_SPREAD = 0.1  # of raters who agree, in levels


class Ordinal(Classification):
    """As `Classification`, but what the model gives are a score and thresholds: see
    `losses.cumulative_log_probabilities`. The scores know how far two classes are apart."""

    name: ClassVar[str] = "ordinal"
    metrics = ordinal.METRICS

    def raters(self, corpus: Corpus, rows: np.ndarray) -> np.ndarray:
        """Of an ordered class whose raters' spread is known, a normal distribution of that spread about it, at the
        classes [ours]; zeros elsewhere."""
        if not self.number:
            return super().raters(corpus, rows)
        value, spread = (of((self.number,), rows).astype(np.float64) for of in (corpus.values, corpus.spreads))
        apart = (np.arange(self.width) - value) / np.maximum(spread, LEAST_SPREAD)
        near = np.exp(-0.5 * np.square(apart))
        known = ~np.isnan(near).any(1, keepdims=True)
        return np.where(known, near / np.where(known, near.sum(1, keepdims=True), 1), 0).astype(np.float32)

    def refuse_soft(self, corpus: Corpus, settings: Any, *, soft: bool) -> None:
        rows = np.arange(len(corpus))
        if not (soft and self.number) or self.raters(corpus, rows).any():
            return
        super().refuse_soft(corpus, settings, soft=soft)

    def logits(self, values: Any) -> Any:
        """The logarithms of the classes' probabilities."""
        from mer_jax.models.losses import cumulative_log_probabilities

        return cumulative_log_probabilities(values)

    def scores(self, confusion: np.ndarray) -> dict[str, Any]:
        found: Mapping[str, Any] = ordinal.overall(np.asarray(confusion, np.int64))
        return super().scores(confusion) | {name: float(value) for name, value in found.items()}
