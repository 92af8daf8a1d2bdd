"""Numbers that an importer brings beside the class: how they are read, in which range they lie, of how many utterances
they are not known, and the targets that corpora of the field have in common."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.encoders.text import TextEncoder
from data_prep.packs import values
from mer_jax.data.corpus import Utterance
from mer_jax.data.targets import Target, check_value
from mer_jax.errors import UserError
from mer_jax.text_files import in_words, is_blank

Range = tuple[float | int, float | int]
SENTIMENT: dict[str, Range] = {"mosi": (-3, 3), "mosei": (-3, 3), "sims": (-1, 1)}  # by the convention that scores it
VAD = ("valence", "arousal", "dominance")
VAD_RANGE: Range = (1, 5)  # IEMOCAP's manikins
EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")  # CMU-MOSEI's
EMOTIONS_RANGE: Range = (0, 3)
GENDERS = {"F": "female", "M": "male"}


def regression(name: str, ranges: Mapping[str, Range], definition: str = "") -> Target:
    """A target of numbers, which has no embeddings yet."""
    names = tuple(ranges)
    return Target(name, "regression", names, names, tuple(ranges.values()), definition=definition)


def multilabel(name: str, names: Sequence[str], of_each: Range, definition: str = "") -> Target:
    """A target of emotions that may be there at once, which has no embeddings yet."""
    each = tuple(names)
    return Target(name, "multilabel", each, each, (of_each,) * len(each), definition=definition)


def vad() -> Target:
    return regression("vad", dict.fromkeys(VAD, VAD_RANGE), "vad")


def sentiment(convention: str) -> Target:
    return regression("sentiment", {"sentiment": SENTIMENT[convention]}, convention)


def mosei_emotions() -> Target:
    return multilabel("emotions", EMOTIONS, EMOTIONS_RANGE, "mosei-emotions")


def embedded(target: Target, encoder: TextEncoder) -> Target:
    """The target with the embeddings of its words, which are its outputs unless it has some."""
    words = target.words or target.outputs
    return dataclasses.replace(target, words=words, embeddings=np.asarray(encoder.words(words), np.float32))


def read(where: str, field: str, value: Any, span: Range) -> float | None:
    """Returns a number, None for one that is not known: a blank, or NaN. Raises UserError for anything else, and for a
    number outside its range."""
    value = values.plain(where, field, value)
    if is_blank(value):
        return None
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if math.isnan(found):
        raise UserError(
            f"{where}: {field} is {in_words(value)}, not a number from {span[0]:g} to {span[1]:g}, or empty"
        )
    check_value(where, field, found, *span)
    return found


def is_known(values_of: Iterable[Mapping[str, float]], names: Sequence[str]) -> dict[str, int]:
    """Returns of how many utterances each number is known."""
    counts = dict.fromkeys(names, 0)
    for of in values_of:
        for name in of:
            counts[name] += 1
    return counts


def names_of(targets: Iterable[Target]) -> list[str]:
    """Returns the names of the numbers, each once."""
    return list(dict.fromkeys(name for target in targets for name in target.names))


def notes_on(where: str, values_of: Sequence[Mapping[str, float]], targets: Sequence[Target]) -> list[str]:
    """Returns a note on each number that is not known of some utterances. Raises UserError for one that is known of
    none."""
    counts, whole = is_known(values_of, names_of(targets)), len(values_of)
    if never := [name for name, n in counts.items() if not n]:
        raise UserError(f"{where}: no utterance has a number for {never[0]}; leave it out, or fill it")
    return [
        f"{name} is not known of {whole - n:,} of {whole:,} utterances: they are neither learnt from nor scored for it"
        for name, n in counts.items()
        if n < whole
    ]


def all_known(utterances: Iterable[Utterance], targets: Sequence[Target]) -> Iterator[Utterance]:
    """Yields the utterances. Raises UserError at their end for a number that none of them has."""
    missing = set(names_of(targets))
    for utterance in utterances:
        missing -= utterance.values.keys()
        yield utterance
    if missing:
        raise UserError(f"no utterance has a number for {min(missing)}, which a target of the corpus reads")
