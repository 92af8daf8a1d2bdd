"""Logistic regression on one modality alone is the floor that a trained model has to beat."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_prep.progress import Progress
from mer_jax.data.corpus import Corpus
from mer_jax.metrics.classification import overall

STRENGTHS = (0.001, 0.01, 0.1)  # of C, the inverse of the penalty; valid picks one by weighted F1
SHOWN = ("weighted_f1", "accuracy", "uar")  # of the scores, in this order
MAX_ITERATIONS = 200
MAX_UTTERANCES = 20_000  # utterances that are looked at; of more, so many are drawn
MAX_DEVIATIONS = 100  # standard deviations: values beyond are set there, so that float32 does not overflow
INSTALL = "pip install -e '.[prep]'"


@dataclasses.dataclass(frozen=True)
class Floor:
    """Scores on test, as fractions, by the names of mer_jax.metrics; of the majority class of train likewise.

    `skipped` says why there are no scores, "" where there are; the UAR of guesses stays below `chance` in 97.5 of 100
    cases.
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
    """Returns which utterances the floors look at, bool: all, or MAX_UTTERANCES of them at random, the same in every
    run."""
    chosen = np.ones(utterances, bool)
    if utterances > MAX_UTTERANCES:
        chosen[np.random.default_rng(0).permutation(utterances)[MAX_UTTERANCES:]] = False
    return chosen


def measure(modality: str, means: np.ndarray, split: np.ndarray, label: np.ndarray, names: tuple[str, ...]) -> Floor:
    """Fits one modality. `means` are Float32[utterances, width], over time; `split` has their split's names, and
    `label` their position in `names`. Features are standardised by mean and standard deviation of train; lbfgs runs in
    float32."""
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
    data = {part: np.clip(scaler.transform(means[of]), -MAX_DEVIATIONS, MAX_DEVIATIONS) for part, of in rows.items()}

    def scores(part: str, predicted: np.ndarray) -> dict[str, float]:
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (label[rows[part]], predicted), 1)
        return {name: float(value) for name, value in overall(confusion).items()}

    best, strength, chosen = -1.0, 0.0, None
    for c in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # n_iter_ says so
            model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS).fit(data["train"], label[rows["train"]])
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
        converged=int(np.max(chosen.n_iter_)) < MAX_ITERATIONS,
        counts={part: len(of) for part, of in rows.items()},
    )


def _chance(support: np.ndarray) -> float:
    """Returns mean and two standard errors of the UAR of uniform guesses, for so many test utterances per class."""
    p = 1 / len(support)
    return p + 2 * float(np.sqrt((p * (1 - p) / support).sum())) / len(support)


def floors_of(corpus: Corpus, means_of: Mapping[str, Mapping[int, np.ndarray]]) -> Iterator[Floor]:
    """Yields the floor of each modality; `means_of` has the means over time by modality and position in the corpus."""
    if not corpus.labels:
        yield from (Floor(modality, "the corpus has no classes") for modality in means_of)
        return
    progress = Progress("fitting floors", len(means_of))
    for modality, means in means_of.items():
        rows = np.array(list(means), np.int64)
        values = np.stack(list(means.values())) if means else np.zeros((0, 1), np.float32)
        yield measure(modality, values, corpus.index["split"][rows], corpus.label_ids(rows), corpus.labels)
        progress.update(1)
    progress.close()


def floor_method(floors: Sequence[Floor], utterances: int) -> str:
    """Says what was done, for whoever reads the figures."""
    if not (measured := [floor for floor in floors if not floor.skipped]):
        return ""
    drew = f" of {MAX_UTTERANCES:,} utterances drawn from {utterances:,}" if utterances > MAX_UTTERANCES else ""
    counts = "; ".join(f"{f.modality} " + "/".join(f"{n:,}" for n in f.counts.values()) for f in measured)
    strengths = ", ".join(f"{c:g}" for c in STRENGTHS)
    return (
        f"Floors: logistic regression (scikit-learn, lbfgs, at most {MAX_ITERATIONS} iterations) "
        f"on the mean over time, one modality alone{drew}, standardised on train, values that are not finite as 0, "
        f"C out of {strengths} by weighted F1 on valid. Utterances train/valid/test: {counts}."
    )
