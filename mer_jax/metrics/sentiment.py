"""The scores of sentiment between two ends, as papers on CMU-MOSI, CMU-MOSEI and CH-SIMS report them. No JAX.

Two scores of the same name are not the same: whether a target of 0 counts, and on which side it stands, moves Acc-2 by
points."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from mer_jax.metrics import classification
from mer_jax.metrics.definition import Definition, Known, Values
from mer_jax.metrics.metric import Metric
from mer_jax.metrics.regression import MOMENTS, each_mae, each_pearson, moments

MMSA = "as MMSA computes it (Mao et al. 2022, M-SENA, ACL demos)"
SIMS_BOUNDS = {2: (0.0,), 3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}  # the upper end of a class belongs to it

Column = Float[np.ndarray, "rows"]
Counts = Float[np.ndarray, "*lead counts"]
Score = Float[np.ndarray, "*lead"]


def scored(metric: Callable[[np.ndarray], np.ndarray], counts: Counts, classes: int) -> Score:
    """A score of `classification` of the confusion matrices that `classification.confusion_counts` has counted."""
    return metric(counts.reshape(*counts.shape[:-1], classes, classes))


def sims_class(values: Column, classes: int) -> Int[np.ndarray, "rows"]:
    """The interval of `SIMS_BOUNDS` that a value from -1 to 1 lies in. Compared in float32, as MMSA's tensors are, in
    which a 0.1 is no more than the bound 0.1."""
    return np.searchsorted(np.array(SIMS_BOUNDS[classes], np.float32), values.astype(np.float32), side="left")


def rounded(values: Column, end: int) -> Int[np.ndarray, "rows"]:
    """The whole number from 0 to 2 `end` of a value clipped to [-end, end]; halves go to the even neighbour."""
    return np.rint(np.clip(values, -end, end)).astype(np.int64) + end


# What is counted of each row, side by side: moments, then whether it is right where 7 and where 5 classes are told
# apart, then the confusion matrices of the two readings of Acc-2.
ALL, RIGHT_7, RIGHT_5 = slice(0, MOMENTS), MOMENTS, MOMENTS + 1
WITH_ZEROS, WITHOUT_ZEROS = slice(MOMENTS + 2, MOMENTS + 6), slice(MOMENTS + 6, MOMENTS + 10)


def _count_mosi(targets: Values, known: Known, predicted: Values) -> Float[np.ndarray, "rows counts"]:
    known_row = known[:, 0]
    x, y = np.where(known_row, targets[:, 0], 0.0), np.where(known_row, predicted[:, 0], 0.0)
    right = [known_row & (rounded(x, end) == rounded(y, end)) for end in (3, 2)]
    from_zero = classification.confusion_counts((x >= 0).astype(np.int64), (y >= 0).astype(np.int64), known_row, 2)
    above_zero = classification.confusion_counts(
        (x > 0).astype(np.int64), (y > 0).astype(np.int64), known_row & (x != 0), 2
    )
    return np.concatenate([moments(targets, known, predicted), np.stack(right, 1), from_zero, above_zero], axis=1)


def _share(column: int) -> Callable[[Counts], Score]:
    return lambda counts: classification.ratio(counts[..., column], counts[..., 0])


def _of(where: slice, metric: Callable[[np.ndarray], np.ndarray], classes: int = 2) -> Callable[[Counts], Score]:
    return lambda counts: scored(metric, counts[..., where], classes)


def _zeros(counts: Counts) -> Score:
    """How many targets are 0."""
    return np.asarray(counts[..., 0] - counts[..., WITHOUT_ZEROS].sum(-1))


def _mae(counts: Counts) -> Score:
    return each_mae(counts[..., ALL])[..., 0]


def _pearson(counts: Counts) -> Score:
    return each_pearson(counts[..., ALL])[..., 0]


NUMBERS = {
    "mae": Metric("MAE", "MAE", _mae, "min", unit=""),
    "pearson": Metric("Pearson", "r", _pearson, unit=""),
}


def _cmu(corpus: str, paper: str) -> Definition:
    """MAE and Pearson of the numbers as they are. Acc-7 and Acc-5: clipped to [-3, 3] and [-2, 2], and rounded. Acc-2
    and F1 in two readings: negative against non-negative (a 0 is non-negative), and negative against positive, without
    the rows whose target is 0, where a prediction of 0 is not positive. F1 is the two classes', weighted by support."""
    two = {"nonneg": ("neg/non-neg", WITH_ZEROS), "pos": ("neg/pos", WITHOUT_ZEROS)}
    metrics = NUMBERS | {
        "acc7": Metric("Acc-7", "Acc-7", _share(RIGHT_7)),
        "acc5": Metric("Acc-5", "Acc-5", _share(RIGHT_5)),
    }
    for name, (words, where) in two.items():
        metrics[f"acc2_{name}"] = Metric(f"Acc-2 {words}", f"Acc-2 {words}", _of(where, classification.accuracy))
        metrics[f"f1_{name}"] = Metric(f"weighted F1 {words}", f"F1 {words}", _of(where, classification.weighted_f1))
    return Definition(
        title=f"sentiment from -3 to 3, as papers on {corpus} report it",
        source=f"{paper}; {MMSA}",
        count=_count_mosi,
        metrics=metrics,
        excluded={name: ("targets of 0", _zeros) for name in ("acc2_pos", "f1_pos")},
    )


def mosi() -> Definition:
    """CMU-MOSI's scores, in both readings of Acc-2 and F1; see `_cmu`."""
    return _cmu("CMU-MOSI", "Zadeh et al. 2016, MOSI, IEEE Intelligent Systems 31")


def mosei() -> Definition:
    """CMU-MOSEI's scores of sentiment: those of `mosi`."""
    return _cmu("CMU-MOSEI", "Zadeh et al. 2018, Multimodal language analysis in the wild, ACL")


def sims() -> Definition:
    """CH-SIMS's scores. Everything is of targets and predictions clipped to [-1, 1]. Acc-2, Acc-3 and Acc-5 are the
    shares whose interval is right (`SIMS_BOUNDS`): a 0 is on the negative side. F1 is that of Acc-2's classes, weighted
    by support."""
    metrics, end = dict(NUMBERS), MOMENTS
    for classes in SIMS_BOUNDS:
        where = slice(end, end := end + classes**2)
        metrics[f"acc{classes}"] = Metric(
            f"Acc-{classes}", f"Acc-{classes}", _of(where, classification.accuracy, classes)
        )
        if classes == 2:
            metrics["f1"] = Metric("weighted F1 of Acc-2", "F1", _of(where, classification.weighted_f1))
    return Definition(
        title="sentiment from -1 to 1, as papers on CH-SIMS report it",
        source=f"Yu et al. 2020, CH-SIMS, ACL; {MMSA}",
        count=_count_sims,
        metrics=metrics,
    )


def _count_sims(targets: Values, known: Known, predicted: Values) -> Float[np.ndarray, "rows counts"]:
    known_row = known[:, 0]
    x, y = (np.clip(np.where(known, values, 0.0), -1.0, 1.0) for values in (targets, predicted))
    parts: Sequence[np.ndarray] = [
        classification.confusion_counts(sims_class(x[:, 0], classes), sims_class(y[:, 0], classes), known_row, classes)
        for classes in SIMS_BOUNDS
    ]
    return np.concatenate([moments(x, known, y), *parts], axis=1)
