"""MMSA's dictionaries: {part: {id, raw_text, text, audio, vision, *_lengths, annotations or classification_labels}},
each an array over the utterances."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.packs import values
from data_prep.packs.rows import ALIASES, Pack, PackRow
from data_prep.sentences import normalise
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError

FEATURES = ("text", "audio", "vision")


def is_mmsa(found: Any) -> bool:
    return isinstance(found, Mapping) and bool(found) and all(
        isinstance(part, Mapping) and str(name).strip().casefold() in values.PARTS for name, part in found.items()
    )  # fmt: skip


def read_mmsa(path: Path, found: Any, *, to_predict: bool = False) -> Pack:
    rows: list[PackRow] = []
    notes: list[str] = []
    for name in sorted(found, key=lambda n: SPLITS.index(values.part(path, n))):
        part, fields = values.part(path, name), found[name]
        where = f"{path}, {name}"
        label = next((f for f in ("annotations", "classification_labels") if f in fields), None)
        if "id" not in fields or (label is None and not to_predict):
            has = ", ".join(map(str, fields))
            raise UserError(f"{where}: it needs id, and annotations or classification_labels; it has {has}")
        counts = {f: len(fields[f]) for f in fields if hasattr(fields[f], "__len__")}
        if len(set(counts.values())) > 1:
            raise UserError(f"{where}: the fields differ in length: {', '.join(f'{f} {n}' for f, n in counts.items())}")
        for i, key in enumerate(fields["id"]):
            try:
                rows.append(_row(where, part, i, fields, label))
            except UserError as error:
                if not to_predict:
                    raise
                rows.append(PackRow(str(key), part, error=str(error)))
        notes += [
            f"{name} has no {field}_lengths: steps of zeros before and behind the {ALIASES.get(field, field)} are "
            "taken for padding and left out"
            for field in FEATURES
            if field in fields and _length(where, fields, field, 0) is None
        ]
    if any("speaker" in part for part in found.values()):
        notes.append("the field speaker is not read")
    return Pack("mmsa", rows, notes, {})


def _row(where: str, part: str, i: int, fields: Mapping[str, Any], label: str | None) -> PackRow:
    key = _mmsa_id(where, fields["id"][i])
    dialogue, _, clip = key.rpartition("$_$")
    here = f"{where}, utterance {i} ({key})"
    return PackRow(
        id=key,
        split=part,
        **({} if label is None else values.label(here, fields[label][i])),
        dialogue=dialogue or key,
        turn=values.whole_number(here, "clip", clip) if clip.isdecimal() else i,
        features=_mmsa_features(here, fields, i),
        sentence=normalise(values.word(here, "raw_text", fields["raw_text"][i])) if "raw_text" in fields else "",
    )


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
        return values.whole_number(where, lengths, np.asarray(fields[lengths]).reshape(-1)[i])
    if field == "text" and "text_bert" in fields:
        return int(np.asarray(fields["text_bert"][i])[1].sum())  # the tokeniser's mask
    return None


def without_padding(value: np.ndarray) -> np.ndarray:
    """Returns [time, width] without the steps of zeros before and behind."""
    there = np.flatnonzero(np.any(value != 0, axis=1))
    return value[there[0] : there[-1] + 1] if len(there) else value[:0]
