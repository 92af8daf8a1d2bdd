"""Floors: what simple predictors reach on the same features and folds, which every trained model has to beat. No JAX at
import, and no scikit-learn before something is fitted.

All but the constants read features that are means over time, standardised by the training part; what an utterance lacks
is 0 then, the training part's mean. Their strength of regularisation is the one of a written grid that the validation
part prefers, in the mean over the folds, the first one where several are as good. Nothing here is drawn at random."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from mer_jax.config import Experiment
from mer_jax.data.protocols import Fold
from mer_jax.errors import UserError
from mer_jax.metrics.classification import ratio
from mer_jax.settings import group, setting
from mer_jax.tasks import Task

PARTS = ("valid", "test")
STRENGTHS = {
    "logistic": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),  # C of scikit-learn: the larger, the freer
    "svm": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "ridge": (1e5, 1e4, 1e3, 1e2, 1e1, 1.0),  # the penalty alpha
}
# The floors of each kind of task: the constant, then those that read features.
OF_TASK = {
    "classification": ("majority", "logistic", "svm"),
    "ordinal": ("majority", "logistic", "svm"),
    "regression": ("mean", "ridge"),
    "multilabel": ("prevalence", "logistic"),
}
KINDS = tuple(dict.fromkeys(kind for kinds in OF_TASK.values() for kind in kinds))
CONSTANTS = ("majority", "mean", "prevalence")
JOINED, DIALOGUE = "joined", "dialogue"
NEIGHBOURS = 2
LEAST = 1e-6  # of a probability: predictions are written with six decimals
ITERATIONS = 5000


@dataclasses.dataclass
class FloorSettings:
    """kind: one of KINDS. features: of a constant none; a modality; all of them joined; or, of those, the neighbouring
    turns of the dialogue, too."""

    kind: str = setting("majority", choices=KINDS)
    features: str = ""
    neighbours: int = setting(NEIGHBOURS, at_least=1)  # turns before (and after) that are heard, side by side
    strength: float = setting(0.0, at_least=0)  # of regularisation; 0 = the validation part chooses


@dataclasses.dataclass
class FloorExperiment(Experiment):
    """A floor has the settings of data that every run has."""

    reads_conversations: ClassVar[bool] = True
    floor: FloorSettings = group(FloorSettings)


@dataclasses.dataclass(frozen=True)
class Floor:
    """A row of the table that is not trained. features: as in `FloorSettings`."""

    kind: str
    features: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.features}" if self.features else self.kind

    def flags(self, strength: float) -> list[str]:
        """What makes it of a `FloorExperiment`."""
        settings = {"kind": self.kind, "features": self.features, "strength": strength}
        return [f"--config.floor.{name}={value}" for name, value in settings.items()]


def floors_of(task: Task, modalities: Sequence[str], *, dialogues: bool) -> list[Floor]:
    """The floors that a corpus has; none of several targets at once. dialogues: whether neighbours can be heard."""
    found = []
    for kind in OF_TASK.get(task.name, ()):
        sets = [*modalities, *[JOINED] * (len(modalities) > 1), *[DIALOGUE] * dialogues]
        found += [Floor(kind)] if kind in CONSTANTS else [Floor(kind, features) for features in sets]
    return found


def require_sklearn() -> None:
    """Raises UserError, saying how to install it, where there is no scikit-learn."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UserError(
            "this floor needs scikit-learn, which is not installed: pip install -e '.[prep]', or pip install "
            "scikit-learn"
        ) from None


def standardised(x: Float[np.ndarray, "rows feat"], train: Int[np.ndarray, "some"]) -> Float[np.ndarray, "rows feat"]:
    """Zero mean and unit variance over the utterances of the training part that have the feature; 0 where it is NaN,
    and where it is constant in training."""
    part = x[train]
    known = ~np.isnan(part)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, part, 0).sum(0) / count
    deviation = np.sqrt(np.where(known, np.square(part - mean[None]), 0).sum(0) / count)
    return np.where(np.isnan(x), 0, ratio(x - mean[None], np.broadcast_to(deviation[None], x.shape)))


def with_neighbours(x: Float[np.ndarray, "rows feat"], beside: Int[np.ndarray, "rows turns"]) -> np.ndarray:
    """The features of every utterance, and those of its neighbours behind them, [rows, (1 + turns) feat]. beside: which
    rows these are; -1, where the dialogue has begun or is over, stands for zeros."""
    turns = np.where((beside >= 0)[:, :, None], x[beside], 0)
    return np.concatenate([x, turns.reshape(len(x), -1)], 1)


def neighbours(dialogue: np.ndarray, turn: np.ndarray, count: int, *, future: bool) -> Int[np.ndarray, "rows turns"]:
    """Of every utterance the rows of the `count` turns before it in its dialogue, the nearest first, and with future
    those after it, too; -1 where there is none. An utterance of dialogue "" is of none."""
    offsets = [-n for n in range(1, count + 1)] + [n for n in range(1, count + 1)] * future
    found = np.full((len(dialogue), len(offsets)), -1)
    for name in np.unique(dialogue[dialogue != ""]):
        rows = np.flatnonzero(dialogue == name)
        rows = rows[np.argsort(turn[rows], kind="stable")]
        for column, offset in enumerate(offsets):
            at = np.arange(len(rows)) + offset
            inside = (at >= 0) & (at < len(rows))
            found[rows[inside], column] = rows[at[inside]]
    return found


Predict = Callable[[np.ndarray], np.ndarray]  # features [rows, feat] -> values [rows, width], see `fit`


def fit(
    task: Task, kind: str, strength: float, x: Float[np.ndarray, "rows feat"], targets: Mapping[str, np.ndarray]
) -> Predict:
    """A floor that has seen these utterances. Its values are probabilities, [rows, classes], of one class of several;
    otherwise what a model of the task gives: numbers in half ranges, or logits of presence."""
    if task.name in ("classification", "ordinal"):
        return _one_class(kind, strength, x, targets["label"], task.width)
    target = targets["present"] if task.name == "multilabel" else task_values(task, targets)
    columns = [
        _column(kind, strength, x[known], values[known])
        for values, known in zip(np.asarray(target, np.float64).T, targets["known"].T, strict=True)
    ]
    return lambda rows: np.stack([column(rows) for column in columns], 1)


def task_values(task: Task, targets: Mapping[str, np.ndarray]) -> np.ndarray:
    """The numbers in half ranges, [rows, names]: what the task's `calibrate` turns into them."""
    zero = task.calibrate(np.zeros((1, task.width)), 1.0)
    half = task.calibrate(np.ones((1, task.width)), 1.0) - zero
    return (targets["value"] - zero) / half


def _one_class(kind: str, strength: float, x: np.ndarray, label: np.ndarray, classes: int) -> Predict:
    counts = np.bincount(label, minlength=classes)
    seen = np.flatnonzero(counts)
    if kind == "majority" or len(seen) < 2:
        return lambda rows: np.tile(_probabilities(counts / counts.sum()), (len(rows), 1))
    model = _quiet(_linear(kind, strength), x, label)

    def predict(rows: np.ndarray) -> np.ndarray:
        p = np.zeros((len(rows), classes))
        p[:, seen] = model.predict_proba(rows) if kind == "logistic" else _softmax(model.decision_function(rows))
        return _probabilities(p)

    return predict


def _column(kind: str, strength: float, x: np.ndarray, target: np.ndarray) -> Predict:
    """Of one number, or of the presence of one emotion."""
    if kind == "mean":
        return lambda rows: np.full(len(rows), target.mean())
    if kind == "prevalence" or (kind == "logistic" and len(np.unique(target)) < 2):
        share = np.clip(target.mean(), LEAST, 1 - LEAST)
        return lambda rows: np.full(len(rows), np.log(share / (1 - share)))
    model = _quiet(_linear(kind, strength), x, target if kind == "ridge" else target > 0.5)
    return model.predict if kind == "ridge" else model.decision_function


def _linear(kind: str, strength: float) -> Any:
    require_sklearn()
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.svm import LinearSVC

    if kind == "ridge":
        return Ridge(alpha=strength)
    if kind == "svm":
        return LinearSVC(C=strength, dual="auto", max_iter=ITERATIONS, random_state=0)
    return LogisticRegression(C=strength, max_iter=ITERATIONS)


def _quiet(model: Any, x: np.ndarray, y: np.ndarray) -> Any:
    """The fitted model; of one that has not converged its last state counts."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def _softmax(distances: np.ndarray) -> np.ndarray:
    """Of signed distances to each class's plane; of two classes scikit-learn gives those to the second one's."""
    two = np.stack([-distances, distances], 1) if distances.ndim == 1 else distances
    e = np.exp(two - two.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _probabilities(p: np.ndarray) -> np.ndarray:
    """None of them 0."""
    p = np.maximum(p, LEAST)
    return p / p.sum(-1, keepdims=True)


def evaluated(task: Task, values: np.ndarray, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What `Task.score` takes of a part, by what `fit` predicts."""
    if task.name not in ("classification", "ordinal"):
        import jax

        arrays = jax.tree.map(jax.numpy.asarray, (np.float32(values), dict(targets), np.ones(len(values), np.float32)))
        found = task.evaluate(*arrays).rows
        return {name: np.asarray(array) for name, array in jax.device_get(found).items()}
    loss = -np.log(values[np.arange(len(values)), targets["label"]]).mean()
    confusion = task.count(targets, task.decisions(values))
    return {"predicted": values.astype(np.float32), "confusion": confusion, "loss": float(loss)}


def best_strength(
    task: Task, select: str, scores: Mapping[float, Sequence[Mapping[str, Any]]]
) -> tuple[float, dict[float, float]]:
    """(the strength of the best mean validation score, the mean of each). scores: what `Task.score` says of every
    fold's validation part, by strength."""
    means = {strength: float(np.mean([one[select] for one in folds])) for strength, folds in scores.items()}
    best: float | None = None
    for strength, mean in means.items():
        if best is None or task.is_better(select, mean, means[best]):
            best = strength
    assert best is not None, "the grid is not empty"
    return best, means


def predict_fold(
    task: Task, settings: FloorSettings, strength: float, x: np.ndarray, targets: Mapping[str, np.ndarray], fold: Fold
) -> dict[str, dict[str, Any]]:
    """Of the fold's validation and test part what `evaluated` says; x: standardised by its training part."""
    train = {name: values[fold.train] for name, values in targets.items()}
    predict = fit(task, settings.kind, strength, x[fold.train], train)
    found = {}
    for part in PARTS:
        rows = getattr(fold, part)
        found[part] = evaluated(task, predict(x[rows]), {name: values[rows] for name, values in targets.items()})
    return found
