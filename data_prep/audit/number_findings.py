"""Findings tell of the numbers that utterances hold beside a class, and of the groups of people."""

from collections.abc import Iterator

import numpy as np

from data_prep.audit.finding import Finding, share
from data_prep.class_names import alike_numbers
from mer_jax.data.corpus import SPLITS, Corpus
from mer_jax.data.targets import CLASSES, Target
from mer_jax.metrics.multilabel import IN_WORDS, PRESENT


def numbers(corpus: Corpus) -> Iterator[Finding]:
    """Yields of each number how many utterances know it, its mean and standard deviation, split by split."""
    for target in corpus.targets.values():
        if target.name != CLASSES:
            for name in target.names:
                yield _number(corpus, target, name)
            for text in alike_numbers([target]):
                yield Finding(
                    "note", "names", target.name, text, "a model learns each by itself: join them in the source"
                )
    for name in corpus.groups:
        yield _group(corpus, name)


def _number(corpus: Corpus, target: Target, name: str) -> Finding:
    values, split = corpus.values((name,), np.arange(len(corpus)))[:, 0].astype(np.float64), corpus.index["split"]
    told, empty, alike = [], [], []
    for part in SPLITS:
        if not (whole := int(np.count_nonzero(split == part))):
            continue
        known = values[(split == part) & ~np.isnan(values)]
        if not len(known):
            empty.append(part)
            continue
        told.append(
            f"{part} {share(len(known), whole)}, mean {known.mean():.3g}, sd {known.std():.3g}{_there(target, known)}"
        )
        if part == "train" and known.min() == known.max():
            alike.append(f"all of train are {known[0]:g}")
    low, high = target.ranges[target.names.index(name)]
    text = "; ".join([*(f"{part} has no value" for part in empty), *alike, *told, f"range {low:g} to {high:g}"])
    if not empty and not alike:
        return Finding("ok", "number", name, text)
    if not empty:
        do = "a number that never varies teaches nothing: look at the source, or leave the number out"
        return Finding("problem", "number", name, text, do)
    do = "what train lacks is never learned, and what test lacks is never scored: split anew, or leave the number out"
    return Finding("problem", "number", name, text, do)


def _there(target: Target, known: np.ndarray) -> str:
    """Says how often an emotion is there, of a target of several."""
    if target.kind != "multilabel":
        return ""
    there = int(np.count_nonzero(PRESENT[target.present_from](known)))
    return f", {IN_WORDS[target.present_from]} in {there:,}"


def _group(corpus: Corpus, name: str) -> Finding:
    names, counts = np.unique(corpus.group(name), return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    unknown = found.pop("", 0)
    text = ", ".join(f"{group} {n:,}" for group, n in found.items())
    text += f"; not known of {unknown:,}" * (unknown > 0)
    if len(found) > 1:
        return Finding("ok", "group", name, text)
    return Finding("note", "group", name, text, "there is one group or none: no score can tell groups apart")
