"""Numbers of MMSA's dictionaries: the sentiment, and CMU-MOSEI's emotions where somebody has added them.

Sentiment is `regression_labels`, from -3 to 3 in CMU-MOSI and CMU-MOSEI and from -1 to 1 in CH-SIMS; those of a
modality alone (`regression_labels_T`, …) are not read. Emotions are `emotion_labels` (or `emotions`, `emotion`): a dict
of six columns by name, or [utterances, 6], whose order nothing in the file says. Two are in use: happy, sad, anger,
surprise, disgust, fear (CMU-MultimodalSDK issues 144 and 191), and anger, disgust, fear, happy, sad, surprise (issue
124)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep import numbers
from data_prep.number_columns import Asked
from data_prep.packs import values
from data_prep.packs.rows import shape_in_words
from mer_jax.errors import UserError

SENTIMENT = "regression_labels"
ALONE = tuple(f"{SENTIMENT}_{modality}" for modality in "TAV")
EMOTIONS = ("emotion_labels", "emotions", "emotion")  # the first of these that is there
PARTS: dict[tuple[int, ...], str] = {  # how many utterances MMSA's packs have: train, valid, test
    (1284, 229, 686): "mosi",
    (16326, 1871, 4659): "mosei",
    (1368, 456, 457): "sims",
}
ALSO = {"happiness": "happy", "sadness": "sad", "angry": "anger", "surprised": "surprise"}
NOT_READ = "none"  # of --sentiment


def convention(where: str, parts: Mapping[str, Mapping[str, Any]], flags: Asked) -> tuple[str, list[str]]:
    """Returns by which convention the sentiment is scored, "" if there is none, and notes. Raises UserError where
    neither the flag nor the pack says it."""
    given = [
        np.ravel(np.asarray(part[SENTIMENT], object)) for part in parts.values() if part.get(SENTIMENT) is not None
    ]
    if not given:
        if flags.sentiment not in ("", NOT_READ):
            raise UserError(f"--sentiment={flags.sentiment}: {where} has no {SENTIMENT}")
        return "", []
    alone = sorted({name for part in parts.values() for name in ALONE if name in part})
    notes = [f"{', '.join(alone)}: the sentiment of a modality alone is not read"] if alone else []
    if flags.sentiment:
        return ("", [f"{SENTIMENT} is not read"]) if flags.sentiment == NOT_READ else (flags.sentiment, notes)
    sizes = tuple(of.size for of in given)
    if known := PARTS.get(sizes):
        return known, [
            *notes,
            f"the parts are as large as those of MMSA's {known}: the sentiment is scored as its papers do",
        ]
    if any(abs(number) > 1 for of in given for number in map(_number, of)):
        return "mosi", [
            *notes,
            f"{SENTIMENT} goes beyond -1 to 1: the sentiment is from -3 to 3, scored as CMU-MOSI's, which is as "
            "CMU-MOSEI's; --sentiment=mosei names it so",
        ]
    raise UserError(
        f"{where}: no {SENTIMENT} lies beyond -1 to 1: whether they go from -1 to 1, as CH-SIMS's, or from -3 to 3, "
        f"nothing says: --sentiment=sims, mosi or mosei says it, and --sentiment={NOT_READ} leaves them out"
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0


def emotions_field(part: Mapping[str, Any]) -> str:
    return next((field for field in EMOTIONS if part.get(field) is not None), "")


def emotion_rows(where: str, part: Mapping[str, Any], flags: Asked) -> list[dict[str, Any]]:
    """Returns of each utterance what it holds of every emotion; nothing if the part has none. Raises UserError naming
    the field."""
    if not (field := emotions_field(part)):
        return []
    found = part[field]
    if isinstance(found, Mapping):
        columns = {ALSO.get(str(name).strip().lower(), str(name).strip().lower()): of for name, of in found.items()}
        if set(columns) != set(numbers.EMOTIONS) or len(columns) != len(found):
            raise UserError(
                f"{where}: {field} has {', '.join(map(str, found))}; it needs {', '.join(numbers.EMOTIONS)}"
            )
        if len({np.size(of) for of in columns.values()}) > 1:
            raise UserError(f"{where}: {field}: its columns differ in length")
        return [dict(zip(columns, of, strict=True)) for of in zip(*map(np.ravel, columns.values()), strict=True)]
    if set(flags.emotions) != set(numbers.EMOTIONS) or len(flags.emotions) != len(numbers.EMOTIONS):
        said = f", not --emotions={','.join(flags.emotions)}" if flags.emotions else ""
        raise UserError(
            f"{where}: {field} is {shape_in_words(found)} without names, and two orders are in use: say "
            f"--emotions={','.join(numbers.EMOTIONS)}, or these names in another order{said}"
        )
    if not isinstance(found, list | tuple | np.ndarray) or not np.ndim(np.asarray(found, object)):
        raise UserError(f"{where}: {field} is {shape_in_words(found)}, not six numbers an utterance")
    return [_in_order(where, field, i, row, flags.emotions) for i, row in enumerate(found)]


def _in_order(where: str, field: str, i: int, row: Any, order: Sequence[str]) -> dict[str, Any]:
    values_of_row = np.ravel(np.asarray(row, object))
    if len(values_of_row) != len(order):
        more = "; the first of CMU's seven is the sentiment, which is no emotion" if len(values_of_row) == 7 else ""
        raise UserError(f"{where}, utterance {i}: {field} has {len(values_of_row)} numbers, not {len(order)}{more}")
    return dict(zip(order, values_of_row, strict=True))


def values_of(where: str, score: Any, scored_as: str, emotions: Mapping[str, Any] | None) -> dict[str, float]:
    """Returns the numbers of an utterance that are known. Raises UserError naming the field."""
    found = {}
    if scored_as:
        found["sentiment"] = numbers.read(
            where, SENTIMENT, values.plain(where, SENTIMENT, score), numbers.SENTIMENT[scored_as]
        )
    for name, value in (emotions or {}).items():
        found[name] = numbers.read(where, name, value, numbers.EMOTIONS_RANGE)
    return {name: value for name, value in found.items() if value is not None}
