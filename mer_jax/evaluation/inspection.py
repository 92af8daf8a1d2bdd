"""What a finished run leaves of its test part: predictions, a map of its features, reasons."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from mer_jax.data import loader
from mer_jax.data.corpus import Corpus
from mer_jax.data.loader import BatchSource
from mer_jax.data.pool import UtterancePool
from mer_jax.evaluation import attribution
from mer_jax.runtime import distributed, sharding
from mer_jax.training import step

MAX_INSPECTED = 2000  # test utterances that are looked at, at most, evenly drawn
MAX_ERRORS = 20  # confident mistakes that are explained
MAX_STEPS = 5  # time steps that are named of a mistake


def most_confident_errors(
    probabilities: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, "rows"]
) -> Int[np.ndarray, "worst"]:
    """Which rows are wrong with the highest probability, the worst first."""
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:MAX_ERRORS]


def compute_inspection_outputs(
    apply: Callable[..., Any], model: step.EvalState, feed: BatchSource, rows: np.ndarray, batch_size: int
) -> dict[str, Any]:
    """Of these rows of the pool (sorted): the features that are classified, `shapley` of every modality, `attention`, `kept`; see
    `explain.Explanation`."""
    everywhere = sharding.replicated(feed.mesh)

    @functools.partial(jax.jit, static_argnums=3, out_shardings=everywhere)
    def look(model: step.EvalState, source: Any, places: Any, pads: loader.PaddedLengths) -> Any:
        outputs, shapley = attribution.shapley_by_modality(apply, model, loader.materialize_batch(source, places, pads))
        kept = outputs.get("kept")
        return {"feature": outputs["feature"], "shapley": shapley, "attention": outputs["attention"], "kept": kept}

    found: dict[int, Any] = {}
    for source, places, pads, here in feed.evaluation([rows], batch_size, 1):
        seen = distributed.to_host(
            look(model, source, sharding.device_put_global(places[0], sharding.batch_sharding(feed.mesh)), pads)
        )
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


def pca_projection(corpus: Corpus, pool: UtterancePool, rows: np.ndarray, seen: dict[str, Any]) -> dict[str, Any]:
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


def attribution_summary(
    corpus: Corpus,
    pool: UtterancePool,
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
                first = np.argsort(-mine, kind="stable")[:MAX_STEPS]
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
