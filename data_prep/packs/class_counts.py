"""The community's corpora are known by how many utterances of each class they have. That tells which number means which
class.

Packs number the classes and do not say how. Two packs of the same corpus may use two orders; the counts tell them
apart.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ReferenceCorpus:
    """A corpus: its classes with the words that they stand for, and the `sets` that are in use: the utterances per
    class, in the order of `words`."""

    name: str
    words: Mapping[str, str]
    sets: Mapping[str, tuple[int, ...]]


SIX = {"hap": "happy", "sad": "sad", "neu": "neutral", "ang": "angry", "exc": "excited", "fru": "frustrated"}
FOUR = {name: SIX[name] for name in ("hap", "sad", "neu", "ang")}
SEVEN = {name: name for name in ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")}
CORPORA = (
    ReferenceCorpus(
        "iemocap-6",
        SIX,
        {
            "with the 53 extra happy": (648, 1084, 1708, 1103, 1041, 1849),
            "official": (595, 1084, 1708, 1103, 1041, 1849),
        },
    ),
    ReferenceCorpus(
        "iemocap-4",
        FOUR,
        {"official": (1636, 1084, 1708, 1103), "with the 53 extra happy": (1689, 1084, 1708, 1103)},
    ),
    ReferenceCorpus(
        "meld",
        SEVEN,
        {
            "train, dev and test": (6436, 1636, 358, 1002, 2308, 361, 1607),
            "train and dev": (5180, 1355, 308, 794, 1906, 293, 1262),
            "train": (4710, 1205, 268, 683, 1743, 271, 1109),
            "dev": (470, 150, 40, 111, 163, 22, 153),
            "test": (1256, 281, 50, 208, 402, 68, 345),
        },
    ),
)
IEMOCAP6, IEMOCAP4, MELD = CORPORA
SETS_OF_MELD = {"train": "train", "valid": "dev", "test": "test"}  # split -> its set
# The share of a set's utterances that may differ and it is still taken for the set: packs lose some to broken clips.
NEAR = 0.03


def difference(counts: Sequence[int], wanted: Sequence[int]) -> float:
    """Returns the share of utterances by which two class counts differ."""
    return float(np.abs(np.subtract(counts, wanted)).sum()) / sum(wanted)


@dataclasses.dataclass(frozen=True)
class ClassOrderFit:
    """A set that class counts are near to, under the order that is nearest. `difference` is the share of utterances
    that remains different."""

    corpus: ReferenceCorpus
    set: str
    order: tuple[str, ...]
    difference: float


def differences(corpus: ReferenceCorpus, which: str, counts: Mapping[str, int]) -> list[str]:
    """Says of each class whose count is not that of the set how many utterances it has, and should have."""
    wanted = dict(zip(corpus.words, corpus.sets[which], strict=True))
    return [f"{name} {n:,} instead of {wanted[name]:,}" for name, n in counts.items() if n != wanted[name]]


def fitting(counts: Sequence[int]) -> list[ClassOrderFit]:
    """Returns the sets of the known corpora that these counts per number may be of, the nearest first."""
    found = []
    for corpus in CORPORA:
        for name, wanted in corpus.sets.items():
            if len(wanted) == len(counts) and difference(sorted(counts), sorted(wanted)) < NEAR:
                # The order with the least difference: the rarest number is the rarest class, and so on.
                rank = np.argsort(np.argsort(counts, kind="stable"))
                best = np.argsort(wanted, kind="stable")[rank].tolist()
                order = tuple(list(corpus.words)[i] for i in best)
                found.append(ClassOrderFit(corpus, name, order, difference(counts, [wanted[i] for i in best])))
    return sorted(found, key=lambda fit: fit.difference)


def check_order(where: str, order: Sequence[str], counts: Sequence[int]) -> str:
    """Compares the counts with a declared order, and returns the corpus and set that they are of, "" if of none that is
    known. Raises UserError if they contradict the order, with the one that fits. Where k utterances are lost, classes
    that differ by no more than k cannot be told apart (MELD's fear and disgust by 3 of train)."""
    fits = [fit for fit in fitting(counts) if set(fit.order) == set(order)]
    if not fits:
        return ""
    fit = fits[0]
    of = dict(zip(fit.corpus.words, fit.corpus.sets[fit.set], strict=True))
    if difference(counts, [of[label] for label in order]) <= 3 * fit.difference:
        return f"{fit.corpus.name}, {fit.set}"
    declared = ", ".join(f"{label} {n}" for label, n in zip(order, counts, strict=True))
    raise UserError(
        f"{where}: the labels cannot be in the order {','.join(order)}, which would make {declared}. "
        f"The counts are those of {fit.corpus.name} ({fit.set}) in the order {','.join(fit.order)}: "
        f"say --labels={','.join(fit.order)}"
    )
