"""What a confusion matrix and a table of probabilities say: scores, calibration, intervals, paired tests. No JAX."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

FEW_DIALOGUES = 20  # simulated runs that are equally good: p < 0.05 in 12 % of 300 with 10 dialogues, in 4 % with 31
SCORES = ("accuracy", "uar", "weighted_f1", "macro_f1")
FLOOR = 1e-12  # stands for a probability of 0, whose logarithm is needed: 27.6 nats
COLDEST, HOTTEST = 0.05, 20.0
CHUNK_BYTES = 100e6  # of a bootstrap's resamples held at a time
ROUNDING = 1e-12  # a mean of three equal scores need not equal a mean of two: differences below this are none


def overall(matrices: Num[np.ndarray, "*lead classes classes"]) -> dict[str, Float[np.ndarray, "*lead"]]:
    """The four scores of confusion matrices [true, predicted], as fractions; counts may be weighted sums.

    accuracy (WA): fraction correct. uar (UA): mean recall of the classes that occur. weighted_f1: F1 weighted by support.
    macro_f1: mean F1 of the classes that occur or are predicted. A precision, recall or F1 of 0/0 is 0.
    """
    hit = np.diagonal(matrices, axis1=-2, axis2=-1)
    support, predicted = matrices.sum(-1), matrices.sum(-2)
    recall, f1 = _ratio(hit, support), class_f1(matrices)
    total = support.sum(-1)
    return {
        "accuracy": _ratio(hit.sum(-1), total),
        "uar": _ratio(recall.sum(-1), (support > 0).sum(-1)),
        "weighted_f1": _ratio((f1 * support).sum(-1), total),
        "macro_f1": _ratio(f1.sum(-1), (support + predicted > 0).sum(-1)),
    }


def class_f1(matrices: Num[np.ndarray, "*lead classes classes"]) -> Float[np.ndarray, "*lead classes"]:
    """The F1 of every class, as in `overall`."""
    hit = np.diagonal(matrices, axis1=-2, axis2=-1)
    return _ratio(2 * hit, matrices.sum(-1) + matrices.sum(-2))


def _ratio(part: Any, whole: Any) -> np.ndarray:
    """part / whole, and 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole > 0))


def scores(matrix: Int[np.ndarray, "classes classes"], names: Sequence[str]) -> dict[str, Any]:
    """Everything printed of a split, as fractions: the scores of `overall`, `per_class` by name, `confusion`."""
    matrix = np.asarray(matrix, np.int64)
    hit, support, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    precision, recall, f1 = _ratio(hit, predicted), _ratio(hit, support), class_f1(matrix)
    return {
        **{name: float(value) for name, value in overall(matrix).items()},
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(names, precision, recall, f1, support, strict=True)
        },
        "confusion": matrix.tolist(),
    }


def mean_sd(values: Sequence[float]) -> dict[str, float | None]:
    """`mean` and sample standard deviation `sd` (n - 1); sd is None for one value, both are for none."""
    return {
        "mean": float(np.mean(values)) if values else None,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def percent(found: Mapping[str, float | None]) -> str:
    """`58.9 ± 1.1`"""
    mean, sd = found["mean"], found["sd"]
    return "-" if mean is None else f"{100 * mean:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")


def between(interval: Mapping[str, float]) -> str:
    if "low" not in interval:  # see `bootstrap`
        return "-"
    return f"{100 * interval['low']:.1f}–{100 * interval['high']:.1f}"


# ---- calibration ----


def calibration(
    probabilities: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, "rows"], bins: int = 15
) -> dict[str, float]:
    """How far the probabilities can be believed; 0 is perfect.

    ece: expected calibration error (Guo et al. 2017, arXiv 1706.04599): over `bins` bins ((i - 1)/bins, i/bins] of the top
    probability, |accuracy - mean top probability| weighted by the bin's share of the rows.
    nll: mean -log p(label) in nats; a probability of 0 counts as 1e-12.
    brier: sum over classes of (p - [class = label])^2, mean over rows (Brier 1950): 0 to 2.
    """
    p, row = probabilities.astype(np.float64), np.arange(len(labels))
    top = p.max(1)
    bin_of = _bins(top, bins)
    gap = np.bincount(bin_of, (p.argmax(1) == labels) - top, minlength=bins)
    target = np.eye(p.shape[1])[labels]
    return {
        "ece": float(np.abs(gap).sum() / len(labels)),
        "nll": float(-np.log(np.maximum(p[row, labels], FLOOR)).mean()),
        "brier": float(((p - target) ** 2).sum(1).mean()),
    }


def _bins(top: np.ndarray, bins: int) -> np.ndarray:
    return np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)


def reliability(
    probabilities: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, "rows"], bins: int = 15
) -> list[tuple[float, float, int]]:
    """Of each of the bins of `calibration` that has rows: mean top probability, share of right predictions, rows."""
    top, right = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = _bins(top, bins)
    count, sure, good = (np.bincount(bin_of, w, minlength=bins) for w in (np.ones(len(top)), top, right))
    return [(float(s / n), float(g / n), int(n)) for n, s, g in zip(count, sure, good, strict=True) if n]


def against_raters(
    probabilities: Float[np.ndarray, "rows classes"], soft: Float[np.ndarray, "rows classes"]
) -> dict[str, int | float]:
    """How the probabilities p fit the raters' distributions q (`records.soft_label`), over the rows that have one.

    utterances: how many these are. nll: mean -sum q log p in nats. jensen_shannon: mean JS(q, p) in nats, at most ln 2.
    agreement: mean share of the raters who chose the predicted class; agreement_at_most: of the class that most chose.
    """
    known = soft.any(1)
    p, q = probabilities[known].astype(np.float64), soft[known].astype(np.float64)
    middle = (p + q) / 2

    def kl(x: np.ndarray) -> np.ndarray:
        return (x * (_log(x) - _log(middle))).sum(1)

    return {
        "utterances": int(known.sum()),
        "nll": float(-(q * _log(p)).sum(1).mean()),
        "jensen_shannon": float((kl(p) + kl(q)).mean() / 2),
        "agreement": float(q[np.arange(len(q)), p.argmax(1)].mean()),
        "agreement_at_most": float(q.max(1).mean()),
    }


def tempered(probabilities: Float[np.ndarray, "rows classes"], temperature: float) -> Float[np.ndarray, "rows classes"]:
    """softmax(log p / T), float64: T > 1 makes a model less sure, T < 1 surer; no prediction changes."""
    return _softmax(_log(probabilities) / temperature)


def fit_temperature(probabilities: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, "rows"]) -> float:
    """Temperature scaling (Guo et al. 2017): the T in [0.05, 20] of least NLL of softmax(log p / T); 1 if none matters.

    The NLL is convex in 1/T, so that its slope has one zero: mean over rows of E[log p] under the tempered p, less
    log p(label).
    """
    from scipy import optimize  # here and not above: half a second that every training's start would pay

    log_p = _log(probabilities)
    of_label = log_p[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        return float(((_softmax(log_p * inverse) * log_p).sum(1) - of_label).mean())

    low, high = slope(1 / HOTTEST), slope(1 / COLDEST)
    if max(abs(low), abs(high)) < ROUNDING:
        return 1.0
    if low >= 0:
        return HOTTEST
    if high <= 0:
        return COLDEST
    return float(1 / optimize.brentq(slope, 1 / HOTTEST, 1 / COLDEST, xtol=1e-12))


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), FLOOR))


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


# ---- intervals and tests ----


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
    members: Num[np.ndarray, "members dialogues classes classes"], samples: int = 2000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """95 % percentile interval (`low`, `high`) of every score's mean over the members (Efron 1979).

    Dialogues are resampled with replacement, the same ones for all members: utterances of a dialogue are not independent.
    The members (seeds) are held fixed. A handful of dialogues gives intervals that are too narrow, one gives none: {}.
    """
    if members.shape[1] < 2:
        return {}
    means = {name: values.mean(1) for name, values in _resampled(members, samples, seed).items()}
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


def paired_bootstrap(
    a: Num[np.ndarray, "members_a dialogues classes classes"],
    b: Num[np.ndarray, "members_b dialogues classes classes"],
    samples: int = 10000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Per score the means over members `a` and `b`, their `difference` b - a, its 95 % interval `low` to `high`, and `p`.

    As `bootstrap`, each resample of dialogues scored by both sides. p is two-sided (Efron and Tibshirani 1993, chapter 15):
    twice the smaller share of resampled differences <= 0 or >= 0, each count and the number of samples plus 1; at most 1.
    """
    both, first = np.concatenate([a, b]), len(a)
    resampled = _resampled(both, samples, seed)
    found = {}
    for name, values in overall(both.sum(1)).items():
        mean_a, mean_b = float(values[:first].mean()), float(values[first:].mean())
        difference = resampled[name][:, first:].mean(1) - resampled[name][:, :first].mean(1)
        difference[np.abs(difference) < ROUNDING] = 0
        tail = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
        found[name] = {
            "a": mean_a,
            "b": mean_b,
            "difference": mean_b - mean_a,
            **_interval(difference),
            "p": min(1.0, 2 * (tail + 1) / (samples + 1)),
        }
    return found


def _resampled(members: np.ndarray, samples: int, seed: int) -> dict[str, np.ndarray]:
    """The scores [samples, members] of every member on the same resamples of the dialogues."""
    chunks = [overall(chunk) for chunk in _resampled_chunks(members, samples, np.random.default_rng(seed))]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in SCORES}


def _resampled_chunks(members: np.ndarray, samples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The members' confusion matrices [samples, members, classes, classes] on resamples of the dialogues. A resample says how
    often each dialogue was drawn; its matrices are that row times all the dialogues'."""
    count, dialogues, classes, _ = members.shape
    flat = np.moveaxis(members, 1, 0).reshape(dialogues, -1).astype(np.float64)
    rows = max(1, int(CHUNK_BYTES / (16 * (dialogues + flat.shape[1]))))
    for start in range(0, samples, rows):
        size = min(rows, samples - start)
        drawn = rng.multinomial(dialogues, np.full(dialogues, 1 / dialogues), size=size)
        yield (drawn.astype(np.float64) @ flat).reshape(size, count, classes, classes)


def _interval(values: np.ndarray) -> dict[str, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return {"low": float(low), "high": float(high)}


def mcnemar(correct_a: Bool[np.ndarray, "rows"], correct_b: Bool[np.ndarray, "rows"]) -> dict[str, int | float]:
    """Rows that only a or only b has right, and the exact two-sided binomial `p` that both are as likely (McNemar 1947).

    Takes the rows as independent, which utterances of a dialogue are not quite.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return {"only_a": only_a, "only_b": only_b, "p": min(1.0, 2 * tail / 2**n)}
