"""Findings tell what the encoders have seen of the corpus before it was given to them."""

from collections.abc import Iterator

import numpy as np

from data_prep.audit.finding import Finding
from mer_jax.data.contamination import Exposure, exposures
from mer_jax.data.corpus import Corpus

NAME = "seen by encoder"


def encoders(corpus: Corpus) -> Iterator[Finding]:
    """Yields a finding of each modality; of a test part on whose labels an encoder was trained, a problem."""
    test = np.unique(corpus.index["split"][corpus.labelled]).tolist()
    for one in exposures(corpus, corpus.modalities):
        yield Finding(_level(one, test), NAME, one.modality, one.in_words(), _advice(one))


def _level(one: Exposure, parts: list[str]) -> str:
    if one.what == "none":
        return "ok"
    return "problem" if "test" in one.tuned_parts() and "test" in parts else "note"


def _advice(one: Exposure) -> str:
    if one.what == "tuned" and not one.parts:
        return (
            "take another encoder: a test on these is refused. If you know on which parts it was trained, say it with "
            "--trained-on when you import"
        )
    if one.what == "unknown" and not one.encoder:
        return "say so beside every figure; if you know whose features they are, name it with --made-by when you import"
    return {
        "tuned": "test on other parts: a test on these is refused",
        "pretrained": "say so beside every figure: no label is known, but the test part is not new to the encoder",
        "unknown": "say so beside every figure",
    }.get(one.what, "")
