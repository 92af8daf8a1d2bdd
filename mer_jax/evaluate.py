"""What a finished run leaves of its test part: predictions, a map of its features, reasons."""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Int

from mer_jax import data, distributed, explain, shard, step
from mer_jax.data import Feed, Pool
from mer_jax.log import write_text
from mer_jax.records import Corpus

LOOKED = 2000  # test utterances that are looked at, at most, evenly drawn
WORST = 20  # confident mistakes that are explained
TOP = 5  # time steps that are named of a mistake


def write_predictions(
    path: epath.Path,
    corpus: Corpus,
    pool: Pool,
    entries: Iterable[tuple[str, np.ndarray, np.ndarray]],
    sentences: Sequence[str],
) -> None:
    """One JSON line per replica and utterance: replica, id, dialogue, label, prediction, probabilities by class name, sentence.

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
                "sentence": sentences[at],
            },
            ensure_ascii=False,
        )
        for name, rows, probabilities in entries
        for at, row, p in zip(rows.tolist(), pool.rows[rows].tolist(), probabilities, strict=True)
    ]
    write_text(path, "\n".join(lines) + "\n")


def worst(
    probabilities: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, "rows"]
) -> Int[np.ndarray, "worst"]:
    """Which rows are wrong with the highest probability, the worst first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:WORST]


def seen_by(
    apply: Callable[..., Any], model: step.Model, feed: Feed, rows: np.ndarray, batch_size: int
) -> dict[str, Any]:
    """Of these rows of the pool (sorted): the features that are classified, `shapley` of every modality, `attention`, `kept`; see
    `explain.Explanation`."""
    everywhere = shard.replicated(feed.mesh)

    @functools.partial(jax.jit, static_argnums=3, out_shardings=everywhere)
    def look(model: step.Model, source: Any, places: Any, pads: data.Pads) -> Any:
        outputs, shapley = explain.by_modality(apply, model, data.fetch(source, places, pads))
        kept = outputs.get("kept")
        return {"feature": outputs["feature"], "shapley": shapley, "attention": outputs["attention"], "kept": kept}

    found: dict[int, Any] = {}
    for source, places, pads, here in feed.evaluation([rows], batch_size, 1):
        seen = distributed.fetch(look(model, source, shard.put(places[0], shard.along_data(feed.mesh)), pads))
        for i, row in enumerate(here[0].tolist()):
            if row >= 0:
                found[row] = jax.tree.map(lambda x, i=i: x[i], seen)
    members = [found[row] for row in rows.tolist()]
    return {
        "feature": np.stack([one["feature"] for one in members]),
        "shapley": {m: np.stack([one["shapley"][m] for one in members]) for m in members[0]["shapley"]},
        "attention": [one["attention"] for one in members],
        "kept": [one["kept"] for one in members],
    }


def map_of(corpus: Corpus, pool: Pool, rows: np.ndarray, seen: dict[str, Any]) -> dict[str, Any]:
    """Where the utterances lie along the two directions in which their features differ most."""
    x = seen["feature"].astype(np.float64)
    x -= x.mean(0)
    x = np.pad(x, ((0, max(0, 2 - len(x))), (0, 0)))  # a single utterance lies in the middle
    _, size, directions = np.linalg.svd(x, full_matrices=False)
    at = x[: len(rows)] @ directions[:2].T
    at *= np.where(at[np.abs(at).argmax(0), [0, 1]] < 0, -1, 1)  # the sign of a direction is arbitrary
    explained = np.square(size[:2]) / max(np.square(size).sum(), 1e-12)
    return {
        "method": "principal components of the features that are classified",
        "explained": np.round(explained, 4).tolist(),
        "ids": corpus.index["id"][pool.rows[rows]].tolist(),
        "x": np.round(at[:, 0], 4).tolist(),
        "y": np.round(at[:, 1], 4).tolist(),
    }


def frames_of(kept: Any, length: int) -> dict[str, Any]:
    """Which of a clip's frames VSC kept, which it merged into which of those ([frame, into]), which it dropped."""
    place = kept.place[kept.place < length].tolist()
    into = [place[k] if k < len(place) else None for k in kept.into[:length].tolist()]
    return {
        "kept": sorted(place),
        "merged": [[t, at] for t, at in enumerate(into) if at is not None and at != t],
        "dropped": [t for t, at in enumerate(into) if at is None],
    }


def reasons_of(
    corpus: Corpus,
    pool: Pool,
    rows: np.ndarray,
    probabilities: np.ndarray,
    some: np.ndarray,
    seen: dict[str, Any],
    wrong: np.ndarray,
    sentences: Sequence[str],
) -> dict[str, Any]:
    """What decided: the mean Shapley value of each modality for the logit of the predicted class, by predicted class; of the
    worst mistakes their own, and the time steps that had most of the predicted label's attention.

    rows: the test part's, in the pool; some: which of them were `seen`; wrong: which of them are the worst.
    """
    predicted = probabilities[some].argmax(1)
    value = {m: x[np.arange(len(some)), predicted] for m, x in seen["shapley"].items()}
    shares = {
        label: {m: round(float(x[predicted == c].mean()), 4) for m, x in value.items()}
        for c, label in enumerate(corpus.labels)
        if (predicted == c).any()
    }
    mistakes = []
    for i in wrong.tolist():
        at, row = int(np.searchsorted(some, i)), int(rows[i])
        top = {}
        for m, weight in seen["attention"][at].items():
            mine = (weight[predicted[at]] if weight.ndim > 1 else weight)[: pool.lengths[m][row]]
            if len(mine) > 1:
                first = np.argsort(-mine, kind="stable")[:TOP]
                top[m] = [[int(t), round(float(mine[t]), 4)] for t in first]
        kept, frames = seen["kept"][at], {}
        if kept is not None and kept.place.ndim == 1:  # of frames, not of the tokens in each
            frames = {"frames": frames_of(kept, int(pool.lengths["visual"][row]))}
        index = corpus.index
        mistakes.append({
            "id": str(index["id"][pool.rows[row]]), "label": str(index["label"][pool.rows[row]]),
            "prediction": corpus.labels[predicted[at]], "probability": round(float(probabilities[i].max()), 4),
            "sentence": sentences[row], "modalities": {m: round(float(x[at]), 4) for m, x in value.items()}, "top_steps": top, **frames,
        })  # fmt: skip
    return {
        "utterances_used": len(some),
        "shares": {"modalities": list(value), "per_class": shares},
        "mistakes": mistakes,
    }
