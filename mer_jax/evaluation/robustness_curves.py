"""How far scores fall when modalities go missing or features get noisy: conditions, draws and curves. No JAX."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mer_jax.metrics.metric import mean_sd
from mer_jax.tasks import Task

RATES = tuple(i / 10 for i in range(11))
SIGMAS = (0.0, 0.25, 0.5, 1.0, 2.0)
SEED = 0  # of draws and noise; never the run's, so that runs can be compared

Curves = dict[str, dict[str, Any]]


class Condition(NamedTuple):
    """What is done to the features of every utterance, modality by modality: hidden or not, and the noise added."""

    hidden: tuple[bool, ...]
    sigma: tuple[float, ...]


def conditions(modalities: Sequence[str]) -> list[Condition]:
    """Every set of modalities, the whole one first; then noise in each alone and in all of them."""
    count = len(modalities)
    zero = (0.0,) * count
    sets = [tuple(bool(code >> i & 1) for i in range(count)) for code in range(2**count - 1)]
    found = [Condition(hidden, zero) for hidden in sets]
    for members in noisy(modalities).values():
        found += [Condition((False,) * count, tuple(s * (m in members) for m in modalities)) for s in SIGMAS if s]
    return found


def noisy(modalities: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The curves of noise: {name: the modalities it is in}."""
    alone = {m: (m,) for m in modalities}
    return alone | ({"all": tuple(modalities)} if len(modalities) > 1 else {})


def key_of(modality: str) -> int:
    """A number of the name, so that a modality's draws do not depend on what other modalities there are."""
    return zlib.crc32(modality.encode())


def draws(modalities: Sequence[str], rows: Int[np.ndarray, "utterances"], seed: int = SEED) -> np.ndarray:
    """Float[utterances, modalities], uniform in [0, 1): a pure function of seed, row of the corpus and name."""
    count = int(rows.max(initial=-1)) + 1
    every = [np.random.default_rng([seed, key_of(m)]).random(count) for m in modalities]
    return np.stack([of[rows] for of in every], axis=1)


def lost(
    drawn: Float[np.ndarray, "utterances modalities"], has: Bool[np.ndarray, "utterances modalities"], rate: float
) -> Bool[np.ndarray, "utterances modalities"]:
    """What each utterance loses of what it has, never its last modality: the one with the largest draw stays."""
    last = np.where(has, drawn, -1.0).argmax(1)
    return has & (drawn < rate) & (np.arange(has.shape[1])[None] != last[:, None])


def losses(
    modalities: Sequence[str],
    drawn: Float[np.ndarray, "utterances modalities"],
    has: Bool[np.ndarray, "utterances modalities"],
) -> dict[str, list[np.ndarray]]:
    """The curves of missing modalities: by name and rate Bool[utterances, modalities]."""
    alone = {
        m: [(drawn < rate) & (np.arange(len(modalities)) == i)[None] for rate in RATES]
        for i, m in enumerate(modalities)
    }
    return alone | {"all": [lost(drawn, has, rate) for rate in RATES]}


def over_replicas(values: Float[np.ndarray, "replicas"]) -> list[float | None]:
    """[mean, sample standard deviation]"""
    return list(mean_sd(values.tolist()).values())


def curve(task: Task, counts: np.ndarray) -> dict[str, Any]:
    """{SCORE: [[mean, sd] of every point], "pooled": {SCORE: [of every point]}}, of counts [replicas, points, …]."""
    each, pooled = task.metric_values(counts), task.metric_values(counts.sum(0))
    by_point = {name: [over_replicas(column) for column in each[name].T] for name in task.metrics}
    return by_point | {"pooled": {name: pooled[name].tolist() for name in task.metrics}}


def means(of: Mapping[str, Any], score: str) -> Float[np.ndarray, "points"]:
    """A curve's means over the replicas."""
    return np.array([mean for mean, _ in of[score]], np.float64)


def retention(task: Task, of: Mapping[str, Any]) -> dict[str, float | None]:
    """By score, as in DEFINITION; None where the clean score is not above 0, and of scores that fall as models get
    better."""
    values = {score: means(of, score) for score in task.metrics}
    return {
        score: float((v[1:] / v[0]).mean()) if v[0] > 0 and task.metrics[score].direction == "max" else None
        for score, v in values.items()
    }


def effective(task: Task, of: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, float]:
    """By score, as in DEFINITION."""
    falls = {score: [means(x, score)[1:] - means(x, score)[0] for x in (of, beside)] for score in task.metrics}
    sign = {score: 1 if metric.direction == "max" else -1 for score, metric in task.metrics.items()}
    return {score: sign[score] * float((mine - theirs).mean()) for score, (mine, theirs) in falls.items()}


class Tested(NamedTuple):
    """A replica's test part. decisions: [conditions, utterances]. targets: what is true. drawn, has: draws, and which
    modalities there are, both [utterances, modalities]."""

    decisions: np.ndarray
    targets: dict[str, np.ndarray]
    drawn: np.ndarray
    has: np.ndarray


def curves(
    task: Task, modalities: Sequence[str], listed: Sequence[Condition], tested: Sequence[Tested]
) -> dict[str, Any]:
    """`clean`, `present`, `missing` and `noise` of the file; `listed` are the conditions of the decisions."""
    count, at = len(modalities), {condition: i for i, condition in enumerate(listed)}
    nothing_hidden, zero = (False,) * count, (0.0,) * count

    def counts(rows: Sequence[np.ndarray]) -> np.ndarray:
        """rows: of each replica the condition of each utterance."""
        pairs = zip(tested, rows, strict=True)
        return np.stack([task.count(of.targets, of.decisions[c, np.arange(len(c))]) for of, c in pairs])

    def under(condition: Condition) -> np.ndarray:
        return counts([np.full(of.decisions.shape[1], at[condition]) for of in tested])

    def without(gone: Sequence[np.ndarray]) -> np.ndarray:
        return counts([np.array([at[Condition(tuple(row), zero)] for row in rows.tolist()], int) for rows in gone])

    def point(counted: np.ndarray) -> dict[str, Any]:
        return {name: over_replicas(values) for name, values in task.metric_values(counted).items()}

    present = {}
    for condition in listed:
        if not any(condition.sigma):
            left = sorted(m for m, hidden in zip(modalities, condition.hidden, strict=True) if not hidden)
            present["+".join(left)] = point(under(condition))
    missing: Curves = {}
    if count > 1:
        gone = [losses(modalities, of.drawn, of.has) for of in tested]
        for name in gone[0]:
            points = np.stack([without([each[name][i] for each in gone]) for i in range(len(RATES))], axis=1)
            alone = [] if name == "all" else [gone_to_nothing(of.has, modalities.index(name)) for of in tested]
            nothing = sum(int(rows.sum()) for rows in alone)
            missing[name] = {"rates": list(RATES), **curve(task, points), "left_with_nothing": nothing}
    noises: Curves = {}
    for name, members in noisy(modalities).items():
        strengths = [Condition(nothing_hidden, tuple(s * (m in members) for m in modalities)) for s in SIGMAS]
        points = np.stack([under(c) for c in strengths], axis=1)
        noises[name] = {"sigmas": list(SIGMAS), **curve(task, points)}
    clean = point(under(Condition(nothing_hidden, zero)))
    return {"clean": clean, "present": present, "missing": missing, "noise": noises}


def gone_to_nothing(has: Bool[np.ndarray, "utterances modalities"], i: int) -> Bool[np.ndarray, "utterances"]:
    """Which utterances have modality i and no other."""
    return has[:, i] & (has.sum(1) == 1)


def floor(task: Task, parts: Sequence[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]) -> dict[str, Any]:
    """parts: of each replica the targets of its training part and of its test part."""
    counted = np.stack([task.floor(train, test) for train, test in parts])
    return {name: over_replicas(values) for name, values in task.metric_values(counted).items()}


def effective_of(task: Task, mine: Mapping[str, Any], theirs: Mapping[str, Any], beside: str) -> dict[str, Any]:
    """Of the curves that both runs have; "all" only where it means the same modalities."""
    same = sorted(mine["modalities"]) == sorted(theirs["modalities"])
    found: dict[str, Any] = {"beside": beside}
    for kind in ("missing", "noise"):
        shared = {m: of for m, of in mine[kind].items() if m in theirs[kind] and (same or m != "all")}
        found[kind] = {m: effective(task, of, theirs[kind][m]) for m, of in shared.items()}
    return found


def percent(fraction: float | None, *, sign: bool = False) -> str:
    """`58.9`; `+1.1` with its sign."""
    if fraction is None:
        return "-"
    points = round(100 * fraction, 1) + 0.0  # + 0.0: no -0.0
    return f"{points:+.1f}" if sign else f"{points:.1f}"
