"""MMSA's dictionaries: {part: {id, raw_text, text, audio, vision, *_lengths, annotations or classification_labels}},
each an array over the utterances."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.packs.rows import ALIASES, Pack, PackRow, split_of, vector, whole_number, word
from data_prep.sentences import normalise
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError


def read_mmsa(path: Path, found: Any) -> Pack:
    rows: list[PackRow] = []
    notes: list[str] = []
    for name in sorted(found, key=lambda n: SPLITS.index(split_of(path, n))):
        part, fields = split_of(path, name), found[name]
        where = f"{path}, {name}"
        label = next((f for f in ("annotations", "classification_labels") if f in fields), None)
        if label is None or "id" not in fields:
            has = ", ".join(map(str, fields))
            raise UserError(f"{where}: it needs id, and annotations or classification_labels; it has {has}")
        counts = {f: len(fields[f]) for f in fields if hasattr(fields[f], "__len__")}
        if len(set(counts.values())) > 1:
            raise UserError(f"{where}: the fields differ in length: {', '.join(f'{f} {n}' for f, n in counts.items())}")
        for i, key in enumerate(fields["id"]):
            key = _mmsa_id(where, key)
            dialogue, _, clip = key.rpartition("$_$")
            here = f"{where}, utterance {i} ({key})"
            rows.append(
                PackRow(
                    id=key,
                    split=part,
                    label=str(fields[label][i])
                    if label == "annotations"
                    else whole_number(here, "label", fields[label][i]),
                    dialogue=dialogue or key,
                    turn=int(clip) if clip.isdecimal() else i,
                    features=_mmsa_features(here, fields, i),
                    sentence=normalise(str(fields["raw_text"][i])) if "raw_text" in fields else "",
                )
            )
    if any("speaker" in part for part in found.values()):
        notes.append("the field speaker is not read")
    return Pack("mmsa", rows, notes, {})


def _mmsa_id(where: str, key: Any) -> str:
    if isinstance(key, np.ndarray | list | tuple):
        return "$_$".join(str(x) for x in key)  # older files: [video, clip]
    return word(where, "id", key)


def _mmsa_features(where: str, fields: Mapping[str, Any], i: int) -> dict[str, np.ndarray]:
    features = {}
    for field in ("text", "audio", "vision"):
        if field in fields:
            value = vector(where, field, fields[field][i])
            length, lengths = len(value), f"{field}_lengths"
            if lengths in fields:
                length = whole_number(where, lengths, np.asarray(fields[lengths]).reshape(-1)[i])
            elif field == "text" and "text_bert" in fields:
                length = int(np.asarray(fields["text_bert"][i])[1].sum())  # the tokeniser's mask
            if not 0 <= length <= len(value):
                raise UserError(f"{where}: {field} has {len(value)} steps, {lengths} says {length}")
            if length:  # what lies behind is padding
                features[ALIASES.get(field, field)] = value[:length]
    return features
