"""Predictions on disk."""

import json
from collections.abc import Iterable

import numpy as np
from etils import epath

from mer_jax.data import Pool
from mer_jax.log import write_text
from mer_jax.records import Corpus


def write_predictions(
    path: epath.Path, corpus: Corpus, pool: Pool, entries: Iterable[tuple[str, np.ndarray, np.ndarray]]
) -> None:
    """One JSON line per replica and utterance: replica, id, dialogue, label, prediction, probabilities by class name.

    entries: of every replica its name, the positions of its utterances in the pool, and probabilities [utterances, classes].
    """
    lines = [
        json.dumps(
            {
                "replica": name,
                "id": str(corpus.index["id"][row]),
                "dialogue": str(corpus.index["dialogue"][row]),
                "label": str(corpus.index["label"][row]),
                "prediction": corpus.labels[int(p.argmax())],
                "probabilities": {label: round(float(v), 6) for label, v in zip(corpus.labels, p, strict=True)},
            },
            ensure_ascii=False,
        )
        for name, rows, probabilities in entries
        for row, p in zip(pool.rows[rows].tolist(), probabilities, strict=True)
    ]
    write_text(path, "\n".join(lines) + "\n")
