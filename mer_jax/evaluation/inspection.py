"""What a finished run leaves of its test part: predictions, a map of its features, reasons."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mer_jax.data import loader
from mer_jax.data.corpus import Corpus
from mer_jax.data.loader import BatchSource
from mer_jax.data.pool import UtterancePool
from mer_jax.evaluation import attribution, path_integral
from mer_jax.models.family import Family
from mer_jax.runtime import distributed, sharding
from mer_jax.tasks import Task
from mer_jax.training import step
from mer_jax.training.prepare import TrainingData

MAX_INSPECTED = 2000  # test utterances that are looked at, at most, evenly drawn
MAX_ERRORS = 20  # confident mistakes that are explained
MAX_EVIDENCE = 16  # test utterances whose integrated gradients are tried for completeness
MAX_STEPS = 5  # time steps that are named of a mistake


def compute_inspection_outputs(
    apply: Callable[..., Any],
    model: step.EvalState,
    batches: BatchSource,
    rows: np.ndarray,
    batch_size: int,
    task: Task,
) -> dict[str, Any]:
    """Of these rows of the pool (sorted): `feature`, `attention` and `kept` of the model's outputs, and `shapley` of
    every modality; see `attribution.BatchAttribution`."""

    @functools.partial(jax.jit, static_argnums=3, out_shardings=sharding.replicated(batches.mesh))
    def inspect(model: step.EvalState, source: Any, row_positions: Any, lengths: loader.BatchShape) -> Any:
        batch = loader.materialize_batch(source, row_positions, lengths)
        outputs, shapley = attribution.shapley_by_modality(apply, model, batch, task)
        kept = outputs.get("kept")
        return {"feature": outputs["feature"], "shapley": shapley, "attention": outputs["attention"], "kept": kept}

    found: dict[int, Any] = {}
    along_batch = sharding.batch_sharding(batches.mesh)
    for source, positions, lengths, here in batches.evaluation([rows], batch_size, 1):
        at = sharding.device_put_global(first_part(positions), along_batch)
        outputs = distributed.to_host(inspect(model, source, at, lengths))
        for i, row in enumerate(here[0].tolist()):
            if row >= 0:
                found[row] = jax.tree.map(lambda x, i=i: x[i], outputs)
    members = [found[row] for row in rows.tolist()]
    return {
        "feature": np.stack([one["feature"] for one in members]),
        "shapley": {m: np.stack([one["shapley"][m] for one in members]) for m in members[0]["shapley"]},
        "attention": [one["attention"] for one in members],
        "kept": [one["kept"] for one in members],
    }


def first_part(positions: Any) -> Any:
    """What `BatchSource.evaluation` gives of the first of its parts."""
    return jax.tree.map(lambda x: x[0], positions)


def completeness(
    apply: Callable[..., Any], model: step.EvalState, batches: BatchSource, rows: np.ndarray, task: Task, family: Family
) -> dict[str, Any]:
    """How nearly integrated gradients add up to what they explain, on a few of these rows of the pool: the gaps of
    `attribution.BatchAttribution`, and how many gradients they took. Frames are left out: hundreds of passes through a
    backbone for each would be more than the run's own cost."""
    if batches.view is not None:
        return {"utterances": 0, "left_out": "the model reads frames, for which they would take too long"}
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAX_EVIDENCE)).astype(int))]

    @functools.partial(jax.jit, static_argnums=3, out_shardings=sharding.replicated(batches.mesh))
    def explain(model: step.EvalState, source: Any, row_positions: Any, lengths: loader.BatchShape) -> Any:
        batch = loader.materialize_batch(source, row_positions, lengths)
        return attribution.gaps(apply, model, batch, task=task, family=family, most=MAX_EVIDENCE)

    gaps, points = [], []
    for source, positions, lengths, _ in batches.evaluation([some], MAX_EVIDENCE, 1):
        at = sharding.device_put_global(first_part(positions), sharding.batch_sharding(batches.mesh))
        gap, used, counts = distributed.to_host(explain(model, source, at, lengths))
        gaps += gap[counts].tolist()
        points += used[counts].tolist()
    return {
        "utterances": len(gaps),
        "median_gap": round(float(np.median(gaps)), 4),
        "largest_gap": round(max(gaps), 4),
        "incomplete": sum(not gap < path_integral.COMPLETE for gap in gaps),
        "most_gradients": max(points),
    }


def completeness_in_words(found: dict[str, Any]) -> str:
    """What `completeness` found, for console and report."""
    if not found["utterances"]:
        return f"integrated gradients were not tried for completeness: {found['left_out']}"
    limit = f"{100 * path_integral.COMPLETE:g} %"
    rest = f"{found['incomplete']} of them miss {limit} or more, and say so when they are predicted"
    return (
        f"integrated gradients of {found['utterances']} test utterances miss {100 * found['median_gap']:.1f} % of what "
        f"they explain (median; at most {100 * found['largest_gap']:.1f} %), with up to {found['most_gradients']} "
        f"gradients; {rest if found['incomplete'] else f'all are below {limit}'}"
    )


def pca_projection(corpus: Corpus, pool: UtterancePool, rows: np.ndarray, outputs: dict[str, Any]) -> dict[str, Any]:
    """Where the utterances lie along the two directions in which their features differ most."""
    x = outputs["feature"].astype(np.float64)
    x -= x.mean(0)
    x = np.pad(x, ((0, max(0, 2 - len(x))), (0, 0)))  # a single utterance lies in the middle
    _, size, directions = np.linalg.svd(x, full_matrices=False)
    at = x[: len(rows)] @ directions[:2].T
    at *= np.where(at[np.abs(at).argmax(0), [0, 1]] < 0, -1, 1)  # the sign of a direction is arbitrary
    explained = np.square(size[:2]) / max(np.square(size).sum(), 1e-12)
    return {
        "method": "principal components of the features that predictions are made of",
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
    task: Task,
    corpus: Corpus,
    data: TrainingData,
    rows: np.ndarray,
    predicted: np.ndarray,
    some: np.ndarray,
    outputs: dict[str, Any],
    wrong: np.ndarray,
) -> dict[str, Any]:
    """What decided: the mean Shapley value of each modality for the logit that is explained, by decision; of the worst
    mistakes their own, and the time steps that had most of the attention.

    rows: the test part's, in the pool. some: which of them `outputs` are of. wrong: which of them are the worst.
    """
    explained = task.explained_output(predicted[some])
    values = {m: x[np.arange(len(some)), explained] for m, x in outputs["shapley"].items()}
    names = np.array([task.outputs[output] for output in explained])
    shares = {
        name: {m: round(float(x[names == name].mean()), 4) for m, x in values.items()}
        for name in task.outputs
        if (names == name).any()
    }
    confidence, mistakes = task.confidence(predicted), []
    for i in wrong.tolist():
        at, row = int(np.searchsorted(some, i)), int(rows[i])
        kept, frames = outputs["kept"][at], {}
        if kept is not None and kept.place.ndim == 1:  # of frames, not of the tokens in each
            frames = {"frames": frames_of(kept, int(data.pool.lengths["visual"][row]))}
        index, corpus_row = corpus.index, data.pool.rows[row]
        mistakes.append(
            {
                "id": str(index["id"][corpus_row]),
                "label": task.label_in_words(corpus, int(corpus_row)),
                "prediction": task.prediction_in_words(predicted[i]),
                "explained": str(names[at]),
                **({} if confidence is None else {"probability": round(float(confidence[i]), 4)}),
                "sentence": data.sentences[row],
                "modalities": {m: round(float(x[at]), 4) for m, x in values.items()},
                "top_steps": top_steps(data, row, outputs["attention"][at], int(explained[at])),
                **frames,
            }
        )
    return {
        "utterances_used": len(some),
        "shares": {"modalities": list(values), "per_class": shares},
        "mistakes": mistakes,
    }


def top_steps(
    data: TrainingData, row: int, attention: dict[str, np.ndarray], explained: int
) -> dict[str, list[list[int | float]]]:
    """The time steps that had most of an utterance's attention, [step, share] each, by modality. explained: the output
    whose attention counts, where every output has its own."""
    found = {}
    for m, weight in attention.items():
        shares = (weight[explained] if weight.ndim > 1 else weight)[: data.pool.lengths[m][row]]
        if len(shares) > 1:
            first = np.argsort(-shares, kind="stable")[:MAX_STEPS]
            found[m] = [[int(step), round(float(shares[step]), 4)] for step in first]
    return found
