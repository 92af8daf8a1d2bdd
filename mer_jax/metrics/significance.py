"""Intervals and paired tests by resampling dialogues, of counts that add up over dialogues. No JAX."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Num, Shaped

from mer_jax.metrics.classification import class_f1, overall

FEW_DIALOGUES = 20  # simulated runs that are equally good: p < 0.05 in 12 % of 300 with 10 dialogues, in 4 % with 31
CHUNK_BYTES = 100e6  # of a bootstrap's resamples held at a time
MIN_DIFFERENCE = 1e-12  # a mean of three equal scores need not equal a mean of two: differences below this are none
NO_SCORE = -1e300  # ranks below every score


Scores = Callable[[Any], dict[str, Any]]  # counts with any leading axes -> every score by name


def by_dialogue(
    labels: Int[np.ndarray, "rows"],
    predictions: Int[np.ndarray, "rows"],
    dialogues: Shaped[np.ndarray, "rows"],
    classes: int,
) -> tuple[list[str], Int[np.ndarray, "dialogues classes classes"]]:
    """The names of the dialogues, sorted, and the confusion matrix of each."""
    names, dialogue = np.unique(dialogues, return_inverse=True)
    cell = (dialogue.astype(np.int64) * classes + labels) * classes + predictions
    counts = np.bincount(cell, minlength=len(names) * classes**2)
    return [str(name) for name in names], counts.reshape(len(names), classes, classes)


def bootstrap(
    members: Num[np.ndarray, "members dialogues *counts"], samples: int = 2000, seed: int = 0, scores: Scores = overall
) -> dict[str, dict[str, float]]:
    """95 % percentile interval (`low`, `high`) of every score's mean over the members (Efron 1979).

    Dialogues are resampled with replacement, the same ones for all members: utterances of a dialogue are not
    independent. The members (seeds) are held fixed. A handful of dialogues gives intervals that are too narrow, one
    gives none: {}."""
    if members.shape[1] < 2:
        return {}
    means = {name: values.mean(1) for name, values in _resampled(members, samples, seed, scores).items()}
    return {name: _interval(values) for name, values in means.items()}


def bootstrap_classes(
    members: Num[np.ndarray, "members dialogues classes classes"], samples: int = 2000, seed: int = 0
) -> list[dict[str, float]]:
    """As `bootstrap`, on the same resamples, of every class's F1; of one dialogue []."""
    if members.shape[1] < 2:
        return []
    chunks = _resampled_chunks(members, samples, np.random.default_rng(seed))
    means = np.concatenate([class_f1(chunk).mean(1) for chunk in chunks])
    return [_interval(values) for values in means.T]


def bootstrap_gap(
    a: Num[np.ndarray, "members dialogues *counts"],
    b: Num[np.ndarray, "members dialogues *counts"],
    samples: int = 2000,
    seed: int = 0,
    scores: Scores = overall,
) -> dict[str, dict[str, float]]:
    """95 % percentile interval (`low`, `high`) of every score of group `a` less that of group `b`, the mean over the
    members. a, b: what each group has of the same dialogues, in the same order.

    Dialogues that only a has, that only b has, and that both have are resampled apart from each other, each sort as
    often as there are of it (a stratified bootstrap): groups that share dialogues are compared within these, and groups
    that share none as two independent samples. A group of one dialogue gives no interval: {}."""
    has_a, has_b = (np.any(counts, axis=(0, *range(2, counts.ndim))) for counts in (a, b))
    if min(has_a.sum(), has_b.sum()) < 2:
        return {}
    chunks = _resampled_chunks(np.concatenate([a, b]), samples, np.random.default_rng(seed), has_a + 2 * has_b)
    found: dict[str, list[np.ndarray]] = {}
    for chunk in chunks:
        for name, values in scores(chunk).items():
            found.setdefault(name, []).append(values[:, : len(a)].mean(1) - values[:, len(a) :].mean(1))
    return {name: _interval(np.concatenate(values)) for name, values in found.items()}


def paired_bootstrap(
    a: Num[np.ndarray, "members_a dialogues *counts"],
    b: Num[np.ndarray, "members_b dialogues *counts"],
    samples: int = 10000,
    seed: int = 0,
    scores: Scores = overall,
) -> dict[str, dict[str, float]]:
    """Per score the means over members `a` and `b`, their `difference` b - a, its 95 % interval `low` to `high`, and
    `p`.

    As `bootstrap`, each resample of dialogues scored by both sides. p is two-sided (Efron and Tibshirani 1993, chapter
    15): twice the smaller share of resampled differences <= 0 or >= 0, each count and the number of samples plus 1; at
    most 1."""
    both, first = np.concatenate([a, b]), len(a)
    resampled = _resampled(both, samples, seed, scores)
    found = {}
    for name, values in scores(both.sum(1)).items():
        mean_a, mean_b = float(values[:first].mean()), float(values[first:].mean())
        difference = resampled[name][:, first:].mean(1) - resampled[name][:, :first].mean(1)
        difference[np.abs(difference) < MIN_DIFFERENCE] = 0
        tail = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
        found[name] = {
            "a": mean_a,
            "b": mean_b,
            "difference": mean_b - mean_a,
            **_interval(difference),
            "p": min(1.0, 2 * (tail + 1) / (samples + 1)),
        }
    return found


def holm(p: Sequence[float]) -> list[float]:
    """Each of several p-values, in the order given, adjusted so that the chance of any false rejection among them stays
    below the level (Holm 1979): of n the smallest times n, the next one times n - 1 and so on; none is smaller than
    the one before, and none larger than 1."""
    adjusted, least = [0.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        adjusted[i] = least = max(least, min(1.0, (len(p) - place) * p[i]))
    return adjusted


def bootstrap_ranks(
    rows: Sequence[Num[np.ndarray, "_ dialogues *counts"]],
    score: Callable[[Any], Any],
    *,
    larger_is_better: bool = True,
    samples: int = 2000,
    seed: int = 0,
) -> list[dict[str, float]]:
    """How sure the order of several rows of a table is: of each in which share of the resamples it is `first`, and its
    `median` rank from 1 with a 95 % percentile interval `low` to `high` [ours].

    rows: the counts of each row's members (seeds). score: from counts with any leading axes to the score. All rows are
    scored on the same resamples of the dialogues, and each resample draws one member of every row, so that what other
    dialogues and what other seeds would give both count. Rows with one score share their ranks, and the first place.
    One dialogue gives no ranks: []."""
    if rows[0].shape[1] < 2:
        return []
    values = _resampled(np.concatenate(rows), samples, seed, lambda counts: {"score": score(counts)})["score"]
    values = np.nan_to_num(values if larger_is_better else -values, nan=NO_SCORE)
    rng, ends = np.random.default_rng([seed, 1]), np.cumsum([len(members) for members in rows])
    drawn = [rng.integers(end - len(members), end, samples) for members, end in zip(rows, ends.tolist(), strict=True)]
    picked = np.take_along_axis(values, np.stack(drawn, 1), 1)
    above = (picked[:, None] > picked[:, :, None] + MIN_DIFFERENCE).sum(2)
    beside = (np.abs(picked[:, None] - picked[:, :, None]) <= MIN_DIFFERENCE).sum(2)
    ranks = above + (beside + 1) / 2
    first = np.where(above == 0, 1 / beside, 0)
    return [
        {"first": float(share), "median": float(np.median(rank)), **_interval(rank)}
        for share, rank in zip(first.mean(0), ranks.T, strict=True)
    ]


def _resampled(members: np.ndarray, samples: int, seed: int, scores: Scores) -> dict[str, np.ndarray]:
    """The scores [samples, members] of every member on the same resamples of the dialogues."""
    chunks = [scores(chunk) for chunk in _resampled_chunks(members, samples, np.random.default_rng(seed))]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _resampled_chunks(
    members: np.ndarray, samples: int, rng: np.random.Generator, strata: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """The members' counts [samples, members, *counts] on resamples of the dialogues. A resample says how often each
    dialogue was drawn; its counts are that row times all the dialogues'. strata: of each dialogue which others it is
    drawn among; without them all."""
    count, dialogues, *shape = members.shape
    flat = np.moveaxis(members, 1, 0).reshape(dialogues, -1).astype(np.float64)
    rows = max(1, int(CHUNK_BYTES / (16 * (dialogues + flat.shape[1]))))
    for start in range(0, samples, rows):
        size = min(rows, samples - start)
        drawn = np.zeros((size, dialogues))
        for of in [np.ones(dialogues, bool)] if strata is None else [strata == one for one in np.unique(strata)]:
            drawn[:, of] = rng.multinomial(of.sum(), np.full(of.sum(), 1 / of.sum()), size=size)
        yield (drawn @ flat).reshape(size, count, *shape)


def _interval(values: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return {"low": float(low), "high": float(high)}


def mcnemar(correct_a: Bool[np.ndarray, "rows"], correct_b: Bool[np.ndarray, "rows"]) -> dict[str, int | float]:
    """Rows that only a or only b has right, and the exact two-sided binomial `p` that both are as likely (McNemar
    1947).

    Takes the rows as independent, which utterances of a dialogue are not quite.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return {"only_a": only_a, "only_b": only_b, "p": min(1.0, 2 * tail / 2**n)}
