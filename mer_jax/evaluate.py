"""A part scored once, and its predictions written down."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mer_jax.data import Feed
from mer_jax.log import write_text
from mer_jax.metrics import scores


def evaluate(
    feed: Feed, state: Any, eval_step: Callable[..., Any], labels: tuple[str, ...], batch_size: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Scores of the part (metrics.scores plus `loss`, mean cross entropy in nats) and probabilities [rows, classes]."""
    pending = [(eval_step(state, feed.source, item, pads), rows) for item, pads, rows in feed.evaluation(batch_size)]
    probabilities = np.zeros((len(feed.part), len(labels)), np.float32)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    nll = 0.0
    for outputs, rows in pending:
        found = jax.device_get(outputs)
        confusion += found["confusion"]
        nll += float(found["nll"])
        probabilities[rows[rows >= 0]] = found["probabilities"][rows >= 0]
    return {"loss": nll / len(feed.part), **scores(confusion, labels)}, probabilities


def write_predictions(path: Path, feed: Feed, probabilities: np.ndarray) -> None:
    """One JSON line per utterance: id, label, prediction, probabilities by class name."""
    corpus, part = feed.corpus, feed.part
    lines = [
        json.dumps(
            {
                "id": str(corpus.index["id"][row]),
                "label": str(corpus.index["label"][row]),
                "prediction": corpus.labels[int(p.argmax())],
                "probabilities": {name: round(float(v), 6) for name, v in zip(corpus.labels, p, strict=True)},
            },
            ensure_ascii=False,
        )
        for row, p in zip(part.rows.tolist(), probabilities, strict=True)
    ]
    write_text(path, "\n".join(lines) + "\n")
