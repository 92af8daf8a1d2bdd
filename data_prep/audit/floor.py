"""What logistic regression makes of one modality alone: the floor that a trained model has to beat."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_prep.features import Progress
from mer_jax.data.corpus import Corpus
from mer_jax.metrics.classification import overall

STRENGTHS = (0.001, 0.01, 0.1)  # of C, the inverse of the penalty; valid picks one by weighted F1
ITERATIONS = 200
MOST = 20_000  # utterances that are looked at; of more, so many are drawn
FARTHEST = 100  # standard deviations: values beyond are set there, so that float32 does not overflow
INSTALL = "pip install -e '.[prep]'"


@dataclasses.dataclass(frozen=True)
class Floor:
    """Scores on test, as fractions, by the names of mer_jax.statistics; of the majority class of train likewise.

    skipped: why there are no scores; "" where there are. chance: what the UAR of guesses stays below in 97.5 of 100 cases.
    """

    modality: str
    skipped: str = ""
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    majority: str = ""
    majority_scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    chance: float = 0.0
    strength: float = 0.0
    converged: bool = True
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)


def drawn(utterances: int) -> np.ndarray:
    """Which utterances the floors look at, bool: all, or MOST of them at random, the same in every run."""
    chosen = np.ones(utterances, bool)
    if utterances > MOST:
        chosen[np.random.default_rng(0).permutation(utterances)[MOST:]] = False
    return chosen


def measure(modality: str, means: np.ndarray, split: np.ndarray, label: np.ndarray, names: tuple[str, ...]) -> Floor:
    """means: Float32[utterances, width], over time; split: their split's name; label: their position in `names`.

    Standardised by mean and standard deviation of train; lbfgs in float32.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        return Floor(modality, f"scikit-learn is not installed: {INSTALL}")
    rows = {part: np.flatnonzero(split == part) for part in ("train", "valid", "test")}
    if empty := [part for part, of in rows.items() if not len(of)]:
        return Floor(modality, f"{' and '.join(empty)} {'has' if len(empty) == 1 else 'have'} no utterance with it")
    if len(np.unique(label[rows["train"]])) < 2:
        return Floor(modality, "train has one class only")
    scaler = StandardScaler().fit(means[rows["train"]])
    data = {part: np.clip(scaler.transform(means[of]), -FARTHEST, FARTHEST) for part, of in rows.items()}

    def scores(part: str, predicted: np.ndarray) -> dict[str, float]:
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (label[rows[part]], predicted), 1)
        return {name: float(value) for name, value in overall(confusion).items()}

    best, strength, chosen = -1.0, 0.0, None
    for c in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # told by n_iter_
            model = LogisticRegression(C=c, max_iter=ITERATIONS).fit(data["train"], label[rows["train"]])
        if (found := scores("valid", model.predict(data["valid"]))["weighted_f1"]) > best:
            best, strength, chosen = found, c, model
    assert chosen is not None
    majority = int(np.bincount(label[rows["train"]]).argmax())
    return Floor(
        modality,
        scores=scores("test", chosen.predict(data["test"])),
        majority=names[majority],
        majority_scores=scores("test", np.full(len(rows["test"]), majority)),
        chance=_chance(np.unique(label[rows["test"]], return_counts=True)[1]),
        strength=strength,
        converged=int(np.max(chosen.n_iter_)) < ITERATIONS,
        counts={part: len(of) for part, of in rows.items()},
    )


def _chance(support: np.ndarray) -> float:
    """Mean and two standard errors of the UAR of uniform guesses, for so many test utterances per class."""
    p = 1 / len(support)
    return p + 2 * float(np.sqrt((p * (1 - p) / support).sum())) / len(support)


def floors_of(corpus: Corpus, kept: Mapping[str, Mapping[int, np.ndarray]]) -> Iterator[Floor]:
    """kept: by modality and position in the corpus, the mean over time."""
    progress = Progress("fitting floors", len(kept))
    for modality, means in kept.items():
        rows = np.array(list(means), np.int64)
        values = np.stack(list(means.values())) if means else np.zeros((0, 1), np.float32)
        yield measure(modality, values, corpus.index["split"][rows], corpus.label_ids(rows), corpus.labels)
        progress.update(1)
    progress.close()


def floor_method(floors: Sequence[Floor], utterances: int) -> str:
    """What was done, for whoever reads the figures."""
    if not (measured := [floor for floor in floors if not floor.skipped]):
        return ""
    drew = f" of {MOST:,} utterances drawn from {utterances:,}" if utterances > MOST else ""
    counts = "; ".join(f"{f.modality} " + "/".join(f"{n:,}" for n in f.counts.values()) for f in measured)
    return (
        f"Floors: logistic regression (scikit-learn, lbfgs, at most {ITERATIONS} iterations) on the mean over time, one modality "
        f"alone{drew}, standardised on train, values that are not finite as 0, C out of {', '.join(f'{c:g}' for c in STRENGTHS)} "
        f"by weighted F1 on valid. Utterances train/valid/test: {counts}."
    )
