"""The community's corpora are known by how many utterances of each class they have. That tells which number means which
class.

Packs number the classes and do not say how. Two packs of the same corpus may use two orders; the counts tell them
apart.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.optimize

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
SURE = 3  # an order that differs by up to so many times what the nearest one does may be the right one, too
Parts = Mapping[str, Sequence[int]]  # split -> its counts


def difference(counts: Sequence[int], wanted: Sequence[int]) -> float:
    """Returns the share of utterances by which two class counts differ."""
    return float(np.abs(np.subtract(counts, wanted)).sum()) / sum(wanted)


def in_parts(corpus: ReferenceCorpus) -> dict[str, tuple[int, ...]]:
    """Returns the corpus's counts by split, nothing if only those of the whole are known."""
    return {part: corpus.sets[name] for part, name in SETS_OF_MELD.items() if name in corpus.sets}


@dataclasses.dataclass(frozen=True)
class ClassOrderFit:
    """A set that class counts are near to, under the order that is nearest. `difference` is the share of utterances
    that remains different; `alike` are the pairs of classes that the counts cannot tell apart: exchanged, they fit no
    worse than the nearest order may by the utterances that are lost."""

    corpus: ReferenceCorpus
    set: str
    order: tuple[str, ...]
    difference: float
    alike: tuple[tuple[str, str], ...]
    wanted: tuple[tuple[int, ...], ...]  # the counts that it was compared with, in the order of the corpus's classes

    def name(self) -> str:
        return f"{self.corpus.name}, {self.set}"

    def of_order(self, order: Sequence[str], counts: Sequence[Sequence[int]]) -> float:
        """Returns the share of utterances by which the counts differ if the classes are in this order."""
        places = [list(self.corpus.words).index(label) for label in order]
        lost = sum(_distance(of, [wanted[i] for i in places]) for of, wanted in zip(counts, self.wanted, strict=True))
        return lost / sum(map(sum, self.wanted))

    def with_pairs_exchanged(self) -> list[tuple[str, ...]]:
        """Returns the orders that the counts cannot tell from the nearest one."""
        return [tuple({a: b, b: a}.get(label, label) for label in self.order) for a, b in self.alike]


def differences(corpus: ReferenceCorpus, which: str, counts: Mapping[str, int]) -> list[str]:
    """Says of each class whose count is not that of the set how many utterances it has, and should have."""
    wanted = dict(zip(corpus.words, corpus.sets[which], strict=True))
    return [f"{name} {n:,} instead of {wanted[name]:,}" for name, n in counts.items() if n != wanted[name]]


def _distance(counts: Sequence[int], wanted: Sequence[int]) -> float:
    return float(np.abs(np.subtract(counts, wanted)).sum())


def fitting(counts: Sequence[int], parts: Parts | None = None) -> list[ClassOrderFit]:
    """Returns the sets of the known corpora that these counts per number may be of, the nearest first. The counts of
    each part tell more than their sum, where a corpus is known by its parts: all of them are in one order."""
    found = []
    for corpus in CORPORA:
        for name, wanted in corpus.sets.items():
            if len(wanted) == len(counts) and difference(sorted(counts), sorted(wanted)) < NEAR:
                found.append(_fit(corpus, name, *_compared(corpus, wanted, counts, parts or {})))
    return sorted(found, key=lambda fit: fit.difference)


def _compared(
    corpus: ReferenceCorpus, wanted: tuple[int, ...], counts: Sequence[int], parts: Parts
) -> tuple[tuple[tuple[int, ...], ...], list[Sequence[int]]]:
    """Returns the counts that are wanted and found, of every part if the corpus is known by its parts, else of all."""
    known = in_parts(corpus)
    if known and set(parts) == set(known) and wanted == tuple(np.sum(list(known.values()), axis=0)):
        near = all(difference(sorted(n), sorted(known[part])) < NEAR for part, n in parts.items())
        if near:
            return tuple(known[part] for part in parts), list(parts.values())
    return (wanted,), [counts]


def _fit(
    corpus: ReferenceCorpus, name: str, wanted: tuple[tuple[int, ...], ...], counts: Sequence[Sequence[int]]
) -> ClassOrderFit:
    # cost[i, j]: by how many utterances number i differs if it is class j.
    each = [np.abs(np.subtract.outer(of, to)) for of, to in zip(counts, wanted, strict=True)]
    cost = np.sum(each, axis=0)
    _, best = scipy.optimize.linear_sum_assignment(cost)
    lost = cost[range(len(best)), best].sum()
    classes = list(corpus.words)
    alike = []
    for i, j in itertools.combinations(range(len(best)), 2):
        exchanged = lost - cost[i, best[i]] - cost[j, best[j]] + cost[i, best[j]] + cost[j, best[i]]
        if exchanged <= SURE * lost:
            alike.append((classes[best[i]], classes[best[j]]))
    order = tuple(classes[i] for i in best)
    return ClassOrderFit(corpus, name, order, lost / sum(map(sum, wanted)), tuple(alike), wanted)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the counts say of an order of classes. `name` is the corpus and set that they are of; `better` is the order
    that fits them better, if there is one, and `contradicted` whether it does so by too much to be chance."""

    fit: ClassOrderFit
    better: tuple[str, ...]
    contradicted: bool

    @property
    def name(self) -> str:
        return self.fit.name()

    def swapped(self, order: Sequence[str]) -> dict[str, str]:
        """Returns {class as declared: class by the counts} of those that differ."""
        return {a: b for a, b in zip(order, self.better or order, strict=True) if a != b}


def judge(order: Sequence[str], counts: Sequence[int], parts: Parts | None = None) -> Judgement | None:
    """Compares the counts with an order of classes; None where they are of no known corpus with these classes. Where k
    utterances are lost, classes that differ by no more than k cannot be told apart (MELD's fear and disgust by 3 of
    train)."""
    fits = [fit for fit in fitting(counts, parts) if set(fit.order) == set(order)]
    if not fits:
        return None
    fit = fits[0]
    compared = list((parts or {}).values()) if len(fit.wanted) > 1 else [counts]
    found = fit.of_order(order, compared)
    better = fit.order if found > fit.difference * (1 + 1e-9) else ()
    return Judgement(fit, better, found > SURE * fit.difference * (1 + 1e-9))


def check_order(where: str, order: Sequence[str], counts: Sequence[int], parts: Parts | None = None) -> str:
    """Returns the corpus and set that the counts are of, "" if of none that is known. Raises UserError if they
    contradict the declared order, with the one that fits."""
    judged = judge(order, counts, parts)
    if judged is None:
        return ""
    if judged.contradicted:
        declared = ", ".join(f"{label} {n}" for label, n in zip(order, counts, strict=True))
        better = ",".join(judged.better)
        raise UserError(
            f"{where}: the labels cannot be in the order {','.join(order)}, which would make {declared}. The counts "
            f"are those of {judged.fit.corpus.name} ({judged.fit.set}) in the order {better}: say --labels={better}"
        )
    return judged.name
