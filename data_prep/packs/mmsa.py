"""MMSA's dictionaries: {part: {id, raw_text, text, audio, vision, *_lengths, annotations or classification_labels,
regression_labels}}, each an array over the utterances."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import numbers
from data_prep.packs import mmsa_numbers, values
from data_prep.packs.field_names import ALIASES
from data_prep.packs.rows import DEFAULT, Pack, PackRow, Reading, row_of, row_or_error, shape_in_words
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError
from mer_jax.plain import brief

FEATURES = ("text", "audio", "vision")
LABELS = ("annotations", "classification_labels")  # the first of these that is there
READ = ("id", "raw_text", *FEATURES, *(f"{field}_lengths" for field in FEATURES), "text_bert", *LABELS)


def is_mmsa(found: Any) -> bool:
    return isinstance(found, Mapping) and bool(found) and all(
        isinstance(part, Mapping) and str(name).strip().casefold() in values.PARTS for name, part in found.items()
    )  # fmt: skip


def read_mmsa(path: Path, found: Any, reading: Reading = DEFAULT) -> Pack:
    rows: list[PackRow] = []
    names = sorted(found, key=lambda n: SPLITS.index(values.part(path, n)))
    scored_as, notes = "", list[str]()
    if not reading.to_predict:
        scored_as, notes = mmsa_numbers.convention(str(path), {name: found[name] for name in names}, reading.flags)
    labelled, with_emotions = 0, 0
    for name in names:
        part, where = values.part(path, name), f"{path}, {name}"
        fields, label = _fields(where, found[name], reading, has_numbers=bool(scored_as))
        emotions = [] if reading.to_predict else mmsa_numbers.emotion_rows(where, found[name], reading.flags)
        if emotions and len(emotions) != len(fields["id"]):
            raise UserError(f"{where}: the fields differ in length: id {len(fields['id'])}, emotions {len(emotions)}")
        labelled, with_emotions = labelled + (label is not None), with_emotions + bool(emotions)
        for i, key in enumerate(fields["id"]):
            make = functools.partial(_row, where, part, i, fields, label, reading, scored_as, emotions)
            rows.append(row_or_error(key, part, make, reading))
        notes += [
            f"{name} has no {field}_lengths: steps of zeros before and behind the {ALIASES.get(field, field)} are "
            "taken for padding and left out"
            for field in FEATURES
            if field in fields and f"{field}_lengths" not in fields and (field != "text" or "text_bert" not in fields)
        ]
    if any("$_$" in row.id and not row.id.rpartition("$_$")[2].isdecimal() for row in rows):
        notes.append("where no number ends an id, the turn is the position of the utterance in its part")
    if any("speaker" in part for part in found.values()):
        notes.append("the field speaker is not read")
    targets = [numbers.sentiment(scored_as)] if scored_as else []
    targets += [numbers.mosei_emotions()] if with_emotions else []
    with_classes = bool(labelled) or not targets
    for row in () if with_classes else rows:
        row.unlabelled = ""
    return Pack("mmsa", rows, notes, {}, tuple(targets), (), with_classes)


def _fields(
    where: str, given: Mapping[str, Any], reading: Reading, *, has_numbers: bool
) -> tuple[dict[str, Any], str | None]:
    """Returns the fields that are read, each of them a value an utterance, and the name of that of the labels. One that
    is None is not there. Raises UserError naming what is missing or something else."""
    fields = {field: given[field] for field in READ if given.get(field) is not None}
    if reading.to_predict:  # labels that do not fit are not looked at
        count = len(fields["id"]) if _is_listed(fields.get("id")) else None
        unfit = [f for f in LABELS if f in fields and not (_is_listed(fields[f]) and len(fields[f]) == count)]
        fields = {field: value for field, value in fields.items() if field not in unfit}
    label = next((field for field in LABELS if field in fields), None)
    told = reading.to_predict or has_numbers or mmsa_numbers.emotions_field(given)
    if "id" not in fields or (label is None and not told):
        has = ", ".join(map(str, given))
        raise UserError(
            f"{where}: it needs id, and annotations, classification_labels or regression_labels; it has {has}"
        )
    if has_numbers and given.get(mmsa_numbers.SENTIMENT) is not None:
        fields[mmsa_numbers.SENTIMENT] = given[mmsa_numbers.SENTIMENT]
    for field, value in fields.items():
        if not _is_listed(value):
            raise UserError(f"{where}: {field} is {shape_in_words(value)}, not a value an utterance")
    beside = {} if reading.to_predict else {field: value for field, value in given.items() if _is_listed(value)}
    counts = {field: len(value) for field, value in {**beside, **fields}.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"{where}: the fields differ in length: {', '.join(f'{f} {n}' for f, n in counts.items())}")
    return fields, label


def _is_listed(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _row(
    where: str,
    part: str,
    i: int,
    fields: Mapping[str, Any],
    label: str | None,
    reading: Reading,
    scored_as: str,
    emotions: Sequence[Mapping[str, Any]],
) -> PackRow:
    key = _mmsa_id(where, fields["id"][i])
    dialogue, _, clip = key.rpartition("$_$")
    here = f"{where}, utterance {i} ({brief(key)})"
    said = {
        "id": key,
        "split": part,
        "label": None if label is None else fields[label][i],
        "dialogue": dialogue or key,
        "turn": clip if clip.isdecimal() else i,
        "sentence": fields["raw_text"][i] if "raw_text" in fields else "",
    }
    row = row_of(here, said, _mmsa_features(here, fields, i), reading)
    score = fields[mmsa_numbers.SENTIMENT][i] if mmsa_numbers.SENTIMENT in fields else None
    row.values = mmsa_numbers.values_of(here, score, scored_as, emotions[i] if emotions else None)
    return row


def _mmsa_id(where: str, key: Any) -> str:
    if isinstance(key, np.ndarray | list | tuple) and len(np.shape(key)) and len(key) > 1:
        return "$_$".join(values.name(where, "id", x) for x in key)  # older files: [video, clip]
    if not (found := values.name(where, "id", key)):
        raise UserError(f"{where}: an id is empty")
    return found


def _mmsa_features(where: str, fields: Mapping[str, Any], i: int) -> dict[str, np.ndarray]:
    features = {}
    for field in FEATURES:
        if field in fields:
            value = values.vector(where, field, fields[field][i])
            length = _length(where, fields, field, i)
            if length is None:
                value = without_padding(value)
            elif not 0 <= length <= len(value):
                raise UserError(f"{where}: {field} has {len(value)} steps, {field}_lengths says {length}")
            else:
                value = value[:length]  # what lies behind is padding
            if len(value):
                features[ALIASES.get(field, field)] = value
    return features


def _length(where: str, fields: Mapping[str, Any], field: str, i: int) -> int | None:
    """Returns how many steps are no padding, None where the pack does not say."""
    lengths = f"{field}_lengths"
    if lengths in fields:
        return values.whole_number(where, lengths, fields[lengths][i])
    if field == "text" and "text_bert" in fields:
        return _tokens(where, fields["text_bert"][i])
    return None


def _tokens(where: str, value: Any) -> int:
    """Returns how many tokens the tokeniser's mask counts, the second of three rows."""
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.zeros(0)
    if found.ndim != 2 or len(found) < 2 or not np.isin(found[1], (0, 1)).all():
        raise UserError(f"{where}: text_bert is {shape_in_words(value)}, not ids, a mask of 0 and 1, and segments")
    return int(found[1].sum())


def without_padding(value: np.ndarray) -> np.ndarray:
    """Returns [time, width] without the steps of zeros before and behind."""
    there = np.flatnonzero(np.any(value != 0, axis=1))
    return value[there[0] : there[-1] + 1] if len(there) else value[:0]
