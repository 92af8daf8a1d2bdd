"""The table of definitions by name, one row each: what `python -m mer_jax.score --as NAME` knows. No JAX."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from mer_jax.metrics import classification
from mer_jax.metrics.definition import Definition, Known, Values
from mer_jax.metrics.metric import Metric
from mer_jax.metrics.multilabel import emotions
from mer_jax.metrics.regression import dimensions
from mer_jax.metrics.sentiment import mosei, mosi, scored, sims

# Words that name the same.
SYNONYMS = (
    ("valence", "val", "v", "pleasure"),
    ("arousal", "aro", "a", "activation", "act"),
    ("dominance", "dom", "d", "power"),
    ("hap", "happy", "happiness", "joy"),
    ("sad", "sadness"),
    ("neu", "neutral"),
    ("ang", "anger", "angry"),
    ("exc", "excited", "excitement"),
    ("fru", "frustrated", "frustration"),
    ("sur", "surprise", "surprised"),
    ("dis", "disgust", "disgusted"),
    ("fea", "fear", "fearful"),
)

Names = tuple[str, ...]
MOSEI_EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
IEMOCAP_4 = ("hap", "sad", "neu", "ang")
MELD = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")


@dataclasses.dataclass(frozen=True)
class Row:
    """A definition that can be asked for.

    make: the definition of some names. names: of which dimensions, emotions or classes it is; of several sets the first
    that fits a file is meant. kind: what a prediction is: the number of each dimension, the probability of each
    emotion, or one of the classes. low, high: the ends of its targets."""

    make: Callable[[Names], Definition]
    names: tuple[Names, ...]
    kind: Literal["numbers", "emotions", "classes"]
    low: float | int = -np.inf
    high: float | int = np.inf


def classes(names: Sequence[str], source: str) -> Definition:
    """The scores of one class out of several; targets and predictions are one column, the number of the class."""
    number = len(names)

    def count(targets: Values, known: Known, predicted: Values) -> Float[np.ndarray, "rows cells"]:
        counted = known[:, 0]
        true, guessed = (np.where(counted, values[:, 0], 0).astype(np.int64) for values in (targets, predicted))
        return classification.confusion_counts(true, guessed, counted, number)

    def of(metric: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        return lambda counts: scored(metric, counts, number)

    def of_class(i: int) -> Callable[[np.ndarray], np.ndarray]:
        return of(lambda matrices: np.asarray(classification.class_f1(matrices)[..., i]))

    metrics = {name: Metric(m.title, m.short, of(m.function)) for name, m in classification.METRICS.items()}
    each = {f"f1_{name}": Metric(f"F1 of {name}", f"F1 {name}", of_class(i)) for i, name in enumerate(names)}
    return Definition(f"one of {number} classes: {', '.join(names)}", source, count, metrics | each)


def _iemocap(names: Names) -> Definition:
    return classes(names, "IEMOCAP: Busso et al. 2008. Accuracy is what papers call WA, UAR what they call UA")


def _meld(names: Names) -> Definition:
    return classes(names, "MELD: Poria et al. 2019, ACL, which reports weighted F1")


# A new definition is a row here, and nothing else.
DEFINITIONS = {
    "mosi": Row(lambda _: mosi(), (("sentiment",),), "numbers", -3.0, 3.0),
    "mosei": Row(lambda _: mosei(), (("sentiment",),), "numbers", -3.0, 3.0),
    "sims": Row(lambda _: sims(), (("sentiment",),), "numbers", -1.0, 1.0),
    "vad": Row(dimensions, (("valence", "arousal", "dominance"), ("valence", "arousal")), "numbers"),
    "mosei-emotions": Row(lambda n: emotions(n, "above_zero"), (MOSEI_EMOTIONS,), "emotions", 0.0, 3.0),
    "mosei-emotions-half": Row(lambda n: emotions(n, "half"), (MOSEI_EMOTIONS,), "emotions", 0.0, 3.0),
    "mosei-emotions-one": Row(lambda n: emotions(n, "one"), (MOSEI_EMOTIONS,), "emotions", 0.0, 3.0),
    "iemocap": Row(_iemocap, (IEMOCAP_4, (*IEMOCAP_4, "exc", "fru")), "classes"),
    "meld": Row(_meld, (MELD,), "classes"),
}


def spellings(name: str) -> Names:
    """The words that name the same, the name itself first."""
    return (name, *(word for words in SYNONYMS if name in words for word in words if word != name))


def named(word: str, names: Iterable[str]) -> str | None:
    """Which of the names a word stands for, whatever its case; None if it is none of them."""
    return next((name for name in names if word.strip().casefold() in spellings(name)), None)
