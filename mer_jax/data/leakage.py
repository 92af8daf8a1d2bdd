"""What the parts of a split share (dialogues, speakers, sessions, sentences), counted and put in words."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.data.contamination import tuned_parts
from mer_jax.data.corpus import SPLITS, Corpus
from mer_jax.data.protocols import Fold, Split, sha256

KINDS = ("dialogue", "speaker", "session", "sentence")
PAIRS = ("train-test", "valid-test", "train-valid")
# x92 is a cp1252 apostrophe read as latin-1, found in MELD packs. Not \W, which would match the vowel signs of some
# scripts.
APOSTROPHES = re.compile("['`´ʼ‘’\x91\x92]")
PUNCTUATION = re.compile("[\x00-/:-@[-`{-\xbf\u2000-\u206f\u3000-\u303f\u060c\u061f\u0964]")
Leaks = dict[str, dict[str, dict[str, int]]]


def normalised_sentence(sentence: str) -> str:
    """A sentence without case, quotes, punctuation and superfluous spaces."""
    sentence = APOSTROPHES.sub("", unicodedata.normalize("NFC", sentence).casefold())
    return " ".join(PUNCTUATION.sub(" ", sentence).split())


def leakage(corpus: Corpus, fold: Fold, sentences: Mapping[int, str]) -> Leaks:
    """What two parts share, by pair (as "train-test") and kind; `sentences` maps positions in the corpus to text.

    shared: distinct values found in both; utterances: those of the second part whose value occurs in the first;
    unknown: those of the second part of which neither can be said, since they have no value, or nothing in the first
    part has one.
    """
    values = {kind: corpus.index[kind].tolist() for kind in KINDS if kind != "sentence"}
    values["sentence"] = [normalised_sentence(sentences[row]) if row in sentences else "" for row in range(len(corpus))]
    leaks: Leaks = {pair: {} for pair in PAIRS}
    for kind in KINDS:
        numbers = {"": 0}
        code = np.array([numbers.setdefault(value, len(numbers)) for value in values[kind]])
        for pair in PAIRS:
            first, second = (code[getattr(fold, part)] for part in pair.split("-"))
            seen = np.zeros(len(numbers), bool)
            seen[first] = True
            seen[0] = False  # what is not known is not shared
            found = second[seen[second]]
            silent = len(first) and not first.any()
            unknown = len(second) if silent else int(np.count_nonzero(second == 0))
            leaks[pair][kind] = {"shared": len(np.unique(found)), "utterances": len(found), "unknown": unknown}
    return leaks


def knowing(corpus: Corpus, fold: Fold, modalities: Sequence[str]) -> np.ndarray:
    """Bool[valid]: of which utterances of the validation part training knows something: others of their dialogue train,
    or features that are read were trained on their labels."""
    dialogue, written = corpus.index["dialogue"], corpus.index["split"]
    known = np.unique(dialogue[fold.train])
    found = np.isin(dialogue[fold.valid], known[known != ""])
    for m in modalities:
        found |= np.isin(written[fold.valid], tuned_parts(corpus, m) or ("",))
    return found


def leak_lines(split: Split, leaks: Sequence[Leaks]) -> list[str]:
    """For the console: what the parts share, over all folds together; `leaks` has one entry per fold."""
    lines = []
    for pair in PAIRS:
        first, second = pair.split("-")
        total = sum(len(getattr(fold, second)) for fold in split.folds)
        if not total or not any(len(getattr(fold, first)) for fold in split.folds):
            continue  # an empty part shares nothing
        counts, unknown = (
            {kind: sum(leak[pair][kind][what] for leak in leaks) for kind in KINDS}
            for what in ("utterances", "unknown")
        )
        shared = [f"{kind}s of {100 * n / total:.1f} % ({n:,})" for kind, n in counts.items() if n]
        unshared = ", ".join(f"no {kind}" for kind, n in counts.items() if not n and unknown[kind] < total)
        if split.selects_on_test and pair == "valid-test":
            lines.append("valid and test are the same utterances: the test part chooses the epoch")
        elif shared:
            shared[0] = shared[0].replace("%", f"% of the {second} utterances")
            lines.append(f"{first} and {second} share: {', '.join(shared)}{unshared and f'; {unshared}'}")
        else:
            lines.append(
                f"{first} and {second} share nothing: {unshared}"
                if unshared
                else f"what {first} and {second} share is not known"
            )
        if pair == "train-test" and (
            told := [f"{kind}s of {n:,}" for kind, n in unknown.items() if n and kind != "sentence"]
        ):
            lines.append(f"not known, and so not counted: the {', '.join(told)} of {total:,} test utterances")
    return lines


def to_json(corpus: Corpus, split: Split, leaks: Sequence[Leaks]) -> dict[str, Any]:
    """Plain values for `split.json`, with the ids of valid and test; train is every other utterance of the corpus
    that has a class."""
    folds: list[dict[str, Any]] = []
    for fold, leak in zip(split.folds, leaks, strict=True):
        counts = {part: len(getattr(fold, part)) for part in SPLITS}
        ids = {part: corpus.index["id"][getattr(fold, part)].tolist() for part in ("valid", "test")}
        folds.append({"name": fold.name, "counts": counts, "leakage": leak} | ids)
    about = {name: getattr(split, name) for name in ("protocol", "description", "leaky", "selects_on_test")}
    hashes = {"manifest_sha256": corpus.manifest_sha256, "sha256": sha256(corpus, split)}
    return about | {"corpus": corpus.manifest["name"]} | hashes | {"folds": folds}
