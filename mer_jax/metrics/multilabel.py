"""The scores of emotions of which several may be present at once, as in CMU-MOSEI. No JAX.

An emotion that no row has is left out of the means over emotions that ask how its presence is found (weighted accuracy
and average precision), and of macro F1 unless it is predicted, which then has an F1 of 0."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from mer_jax.metrics import classification
from mer_jax.metrics.classification import confusion_counts, ratio
from mer_jax.metrics.definition import Definition, Known, Values
from mer_jax.metrics.metric import Metric

# From which intensity on an emotion is present. In MOSEI it is the raters' mean, from 0 to 3.
PRESENT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "above_zero": lambda intensity: intensity > 0,
    "half": lambda intensity: intensity >= 0.5,
    "one": lambda intensity: intensity >= 1,
}
IN_WORDS = {"above_zero": "above 0", "half": "from 0.5 on", "one": "from 1 on"}

LAST_LOGIT, STEP = 10.0, 0.1  # the grid on which probabilities are counted for average precision
BINS = 2 * round(LAST_LOGIT / STEP) + 2  # one below and one above the grid
WIDTH = (
    4 + 2 * BINS
)  # counts of an emotion: the confusion matrix [true, predicted], then the bins of absent and present
ROWS = 2  # counts behind those of all emotions: rows of which anything is known, and of these those that are all right

Counts = Float[np.ndarray, "*lead counts"]
Score = Float[np.ndarray, "*lead"]


def decided(probabilities: Float[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """Where an emotion is taken for present: above 0.5, so that one that is undecided is not."""
    return probabilities > 0.5


def average_precision(targets: Bool[np.ndarray, "rows"], probabilities: Float[np.ndarray, "rows"]) -> float:
    """The mean of the precision at each rank where the recall grows, weighted by how much: a step function, without
    interpolation; equal probabilities share a rank. 0 without a present row."""
    if not targets.any():
        return 0.0
    order = np.argsort(-probabilities, kind="stable")
    last = np.flatnonzero(np.diff(probabilities[order], append=-np.inf))
    hits = np.cumsum(targets[order], dtype=np.float64)[last]
    return float(_step_area(hits, last + 1.0))


def _step_area(hits: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The area under precision over recall, of the last axis: how many are taken there, and how many of these hit."""
    gain = np.diff(hits, axis=-1, prepend=0)
    return ratio((gain * ratio(hits, taken)).sum(-1), hits[..., -1])


def precision_recall(
    targets: Bool[np.ndarray, "rows"], probabilities: Float[np.ndarray, "rows"]
) -> tuple[Float[np.ndarray, "thresholds"], Float[np.ndarray, "thresholds"]]:
    """Recall and precision where every probability that occurs is the threshold, from the highest on; both empty
    without a present row. The area of their steps is `average_precision`."""
    if not targets.any():
        return np.zeros(0), np.zeros(0)
    order = np.argsort(-probabilities, kind="stable")
    last = np.flatnonzero(np.diff(probabilities[order], append=-np.inf))
    hits = np.cumsum(targets[order], dtype=np.float64)[last]
    return hits / hits[-1], hits / (last + 1.0)


def co_occurrence(present: Bool[np.ndarray, "rows emotions"]) -> Float[np.ndarray, "emotions emotions"]:
    """Of the rows that have one emotion (first axis) the share that has another, too; 0 where none has the one."""
    there = present.astype(np.float64)
    return ratio(there.T @ there, there.sum(0)[:, None])


def bin_of(probabilities: Float[np.ndarray, "rows emotions"]) -> Int[np.ndarray, "rows emotions"]:
    """The bin of each probability, `STEP` wide in logits, from the lowest on; outside the grid there is one at each
    end."""
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) - np.log1p(-probabilities)
    return np.clip(np.floor((logits + LAST_LOGIT) / STEP) + 1, 0, BINS - 1).astype(np.int64)


def each_average_precision(counts: Counts) -> Float[np.ndarray, "*lead emotions"]:
    """The average precision of each emotion from the counts: `average_precision` where probabilities that share a bin
    are equal. Rows whose logits are less than 0.1 apart may so swap places: in 2,000 rows of spread 2 it moves the
    score by less than 0.01."""
    bins = _of_emotions(counts)[..., 4:].reshape(*counts.shape[:-1], -1, 2, BINS)[..., ::-1]
    hits, taken = np.cumsum(bins[..., 1, :], -1), np.cumsum(bins.sum(-2), -1)
    return _step_area(hits, taken)


def _of_emotions(counts: np.ndarray) -> np.ndarray:
    return counts[..., :-ROWS].reshape(*counts.shape[:-1], -1, WIDTH)


def _matrices(counts: np.ndarray) -> np.ndarray:
    """The confusion matrices [..., emotions, true, predicted]."""
    return _of_emotions(counts)[..., :4].reshape(*counts.shape[:-1], -1, 2, 2)


def each_f1(counts: Counts) -> Float[np.ndarray, "*lead emotions"]:
    """The F1 of each emotion's presence; 0/0 is 0."""
    return classification.class_f1(_matrices(counts))[..., 1]


def each_precision(counts: Counts) -> Float[np.ndarray, "*lead emotions"]:
    """The share of predictions of presence that are right; 0/0 is 0."""
    matrices = _matrices(counts)
    return ratio(matrices[..., 1, 1], matrices[..., 1].sum(-1))


def each_recall(counts: Counts) -> Float[np.ndarray, "*lead emotions"]:
    """The share of presences that are found; 0/0 is 0."""
    matrices = _matrices(counts)
    return ratio(matrices[..., 1, 1], matrices[..., 1, :].sum(-1))


def each_support(counts: Counts) -> Float[np.ndarray, "*lead emotions two"]:
    """In how many rows each emotion is, and of how many that is known."""
    matrices = _matrices(counts)
    return np.stack([matrices[..., 1, :].sum(-1), matrices.sum((-1, -2))], -1)


def each_weighted_accuracy(counts: Counts) -> Float[np.ndarray, "*lead emotions"]:
    """Zadeh et al. 2018: (TP N/P + TN) / 2N, the mean of the recalls of presence and absence. Of an emotion that no row
    has, or every row, it is the one recall that there is."""
    return classification.uar(_matrices(counts))


def each_weighted_f1(counts: Counts) -> Float[np.ndarray, "*lead emotions"]:
    """The F1 of presence and that of absence, weighted by how often they occur."""
    return classification.weighted_f1(_matrices(counts))


def each_accuracy(counts: Counts) -> Float[np.ndarray, "*lead emotions"]:
    """The share of rows where presence or absence is right."""
    return classification.accuracy(_matrices(counts))


def _known(matrices: np.ndarray) -> np.ndarray:
    return matrices.sum((-1, -2)) > 0


def _occurs(matrices: np.ndarray) -> np.ndarray:
    return matrices[..., 1, :].sum(-1) > 0


def _occurs_or_predicted(matrices: np.ndarray) -> np.ndarray:
    return matrices.sum((-1, -2)) > matrices[..., 0, 0]


def micro_f1(counts: Counts) -> Score:
    """The F1 of presence over all emotions together."""
    return classification.class_f1(_matrices(counts).sum(-3))[..., 1]


def exact_match(counts: Counts) -> Score:
    """The share of rows whose known emotions are all right."""
    return ratio(counts[..., -1], counts[..., -2])


# Name, title, the score of each emotion, and of which emotions the mean is.
EACH: dict[str, tuple[str, Callable[[Counts], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "f1": ("F1", each_f1, _occurs_or_predicted),
    "weighted_accuracy": ("weighted accuracy", each_weighted_accuracy, _occurs),
    "weighted_f1": ("weighted F1", each_weighted_f1, _known),
    "accuracy": ("accuracy", each_accuracy, _known),
    "ap": ("average precision", each_average_precision, _occurs),
}
OF_ALL = {"f1": ("macro_f1", "macro F1"), "ap": ("map", "mean average precision")}


def _mean(
    each: Callable[[Counts], np.ndarray], counted: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Counts], Score]:
    def mean(counts: Counts) -> Score:
        of = counted(_matrices(counts))
        return ratio((each(counts) * of).sum(-1), of.sum(-1))

    return mean


def _of(each: Callable[[Counts], np.ndarray], emotion: int) -> Callable[[Counts], Score]:
    return lambda counts: np.asarray(each(counts)[..., emotion])


def emotions(names: Sequence[str], present: str = "above_zero") -> Definition:
    """The scores of named emotions. Targets are intensities, of which `PRESENT[present]` makes presences; predictions
    are probabilities, decided by `decided`. A target that is not known counts nothing for its emotion."""
    binarise = PRESENT[present]

    def count(targets: Values, known: Known, predicted: Values) -> Float[np.ndarray, "rows counts"]:
        true, guessed = binarise(np.where(known, targets, 0.0)), np.where(known, predicted, 0.0)
        right = (true == decided(guessed)).all(1)
        parts = []
        bins = bin_of(guessed)
        for i in range(len(names)):
            parts.append(confusion_counts(true[:, i] * 1, decided(guessed[:, i]) * 1, known[:, i], 2))
            of_row = np.zeros((len(true), 2 * BINS))
            of_row[np.arange(len(true)), true[:, i] * BINS + bins[:, i]] = known[:, i]
            parts.append(of_row)
        some = known.any(1)
        return np.concatenate([*parts, np.stack([some, some & right], 1)], axis=1)

    means, each = {}, {}
    for name, (title, function, counted) in EACH.items():
        called, mean_title = OF_ALL.get(name, (name, title))
        means[called] = Metric(mean_title, mean_title, _mean(function, counted))
        for number, emotion in enumerate(names):
            words = f"{title} of {emotion}"
            each[f"{name}_{emotion}"] = Metric(words, words, _of(function, number))
    metrics = {"macro_f1": means.pop("macro_f1"), "micro_f1": Metric("micro F1", "micro F1", micro_f1)}
    return Definition(
        title=f"emotions of which several may be present; present is what is {IN_WORDS[present]}",
        source="weighted accuracy: Zadeh et al. 2018, Multimodal language analysis in the wild, ACL; the others: "
        "scikit-learn's f1_score, accuracy_score and average_precision_score",
        count=count,
        metrics=metrics | means | {"exact_match": Metric("exact match", "exact match", exact_match)} | each,
        exact=_exact(names, binarise),
    )


def _exact(names: Sequence[str], binarise: Callable[[np.ndarray], np.ndarray]) -> dict[str, Callable[..., float]]:
    """Average precision of the probabilities as they are: of every emotion, 0 where it is nowhere, and their mean over
    those that are somewhere."""

    def of_emotion(i: int, targets: Values, known: Known, predicted: Values) -> float:
        rows = known[:, i]
        return average_precision(binarise(targets[rows, i]), predicted[rows, i])

    def mean(targets: Values, known: Known, predicted: Values) -> float:
        there = [i for i in range(len(names)) if binarise(targets[known[:, i], i]).any()]
        return float(np.mean([of_emotion(i, targets, known, predicted) for i in there])) if there else 0.0

    return {f"ap_{name}": functools.partial(of_emotion, i) for i, name in enumerate(names)} | {"map": mean}
