"""What the demo corpora ask for that have no classes: numbers, and several emotions at once. All of it is ours.

An utterance comes about as in synthetic.py, but that its state y is not a class. Of `regression`, `mosei` and `sims` it
is a point z of a grid over the dimensions, all of them as likely, and the mean cue is mu_m[z] = spread_m sum_d z_d u_d,
z_d running from -1 to 1 over the range of dimension d, u_d orthogonal directions of length 1. Of `multilabel` it is a
set of emotions, each there or not whatever the others are, and the mean cue is spread_m times the sum of their
directions. How strong an emotion is that is there is drawn evenly from thirds above 0, and nothing says it.

The posterior p(y | cues) is exact, one state after the other. The best estimate of a number is its posterior mean by
Pearson's correlation and the posterior median by the absolute error; of an emotion the posterior probability that it is
there, by average precision, and by accuracy decided at 0.5."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from mer_jax.data.targets import Target
from mer_jax.metrics.multilabel import average_precision

DRAWN = 4_000  # utterances for the Bayes-optimal scores: standard error of a correlation below 0.01
UNKNOWN = 0.1  # share of utterances of which the second number of `regression` is not known
EMOTIONS = {"happy": 0.5, "sad": 0.25, "angry": 0.22, "surprise": 0.12, "disgust": 0.18, "fear": 0.1}
THIRDS = np.arange(1, 10) / 3  # how strong an emotion is that is there


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a demo corpus asks for. target: without words and embeddings. states: the values of its names in every
    state, Float64[states, names]; prior: of the states."""

    target: Target
    states: np.ndarray
    prior: np.ndarray

    @property
    def coordinates(self) -> np.ndarray:
        """What the cue says of a state, [states, names]: from -1 to 1 over a range, or whether an emotion is there."""
        if self.target.kind == "multilabel":
            return (self.states > 0).astype(np.float64)
        low, high = np.array(self.target.ranges).T
        return 2 * (self.states - low) / (high - low) - 1

    def values(self, state: int, rng: np.random.Generator) -> dict[str, float]:
        """The numbers of an utterance in this state."""
        if self.target.kind == "multilabel":
            strength = rng.choice(THIRDS, len(self.target.names))
            found = np.where(self.states[state] > 0, strength, 0)
        else:
            found = self.states[state]
        known = dict(zip(self.target.names, found.tolist(), strict=True))
        if len(known) > 1 and self.target.kind == "regression" and rng.random() < UNKNOWN:
            del known[self.target.names[1]]
        return known


def _numbers(name: str, ranges: Mapping[str, tuple[float, float]], levels: int, definition: str = "") -> Asked:
    grid = [np.linspace(low, high, levels) for low, high in ranges.values()]
    states = np.array(list(itertools.product(*grid)))
    names = tuple(ranges)
    target = Target(name, "regression", names, names, tuple(ranges.values()), definition=definition)
    return Asked(target, states, np.full(len(states), 1 / len(states)))


def _emotions() -> Asked:
    names, shares = tuple(EMOTIONS), np.array(list(EMOTIONS.values()))
    states = np.array(list(itertools.product((0.0, 1.0), repeat=len(names))))
    prior = np.where(states > 0, shares, 1 - shares).prod(1)
    target = Target("emotions", "multilabel", names, names, ((0.0, 3.0),) * len(names), definition="mosei-emotions")
    return Asked(target, states, prior / prior.sum())


ASKED: dict[str, Callable[[], Asked]] = {
    "regression": lambda: _numbers("affect", {"valence": (1.0, 5.0), "arousal": (1.0, 5.0)}, 9),
    "multilabel": _emotions,
    "mosei": lambda: _numbers("sentiment", {"sentiment": (-3.0, 3.0)}, 19, "mosei"),
    "sims": lambda: _numbers("sentiment", {"sentiment": (-1.0, 1.0)}, 11, "sims"),
}


def directions(count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """[count, width] of length 1: orthogonal as far as there is room, otherwise pushed apart from a random start."""
    if count <= width:
        return np.linalg.qr(rng.normal(size=(width, width)))[0][:count]
    found = rng.normal(size=(count, width))
    for _ in range(200):
        gap = found[:, None] - found[None]
        found = found + 0.1 * (gap / (np.square(gap).sum(-1, keepdims=True) + 0.1)).sum(1)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def best_scores(
    asked: Asked, modalities: Iterable[str], told: Mapping[str, np.ndarray], states: np.ndarray
) -> dict[tuple[str, ...], dict[str, float]]:
    """The scores of the exact posterior, by the set of modalities that is read. told[m]: log p(cue | state) of
    utterances in these `states`, [utterances, states]."""
    found, names = {}, sorted(modalities)
    for subset in itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(1, len(names) + 1)):
        log_p = np.log(asked.prior) + np.sum([told[m] for m in subset], axis=0)
        posterior = np.exp(log_p - log_p.max(1, keepdims=True))
        found[subset] = _scores(asked, posterior / posterior.sum(1, keepdims=True), states)
    return found


def _scores(asked: Asked, posterior: np.ndarray, states: np.ndarray) -> dict[str, float]:
    truth = asked.states[states]
    mean = posterior @ asked.states
    if asked.target.kind == "multilabel":
        precision = [average_precision(t > 0, p) for t, p in zip(truth.T, mean.T, strict=True)]
        right = np.maximum(mean, 1 - mean).mean()  # expected
        return {"map": round(float(np.mean(precision)), 4), "accuracy": round(float(right), 4)}
    pearson = [np.corrcoef(t, p)[0, 1] for t, p in zip(truth.T, mean.T, strict=True)]
    errors = [np.abs(t - _median(values, posterior)).mean() for t, values in zip(truth.T, asked.states.T, strict=True)]
    return {"pearson": round(float(np.mean(pearson)), 4), "mae": round(float(np.mean(errors)), 4)}


def _median(values: np.ndarray, posterior: np.ndarray) -> np.ndarray:
    """The posterior median of a number that has these values in the states."""
    order = np.argsort(values, kind="stable")
    at = (posterior[:, order].cumsum(1) < 0.5).sum(1)
    return values[order][np.minimum(at, len(values) - 1)]


def described(target: Target, embeddings: np.ndarray) -> Target:
    """The target with its names as words, and these embeddings of them."""
    rows: Any = embeddings.tolist()
    return dataclasses.replace(target, words=target.outputs, embeddings=rows)
