"""The tuples of DialogueRNN and its successors: one dict a field, dialogue -> list over its utterances, and the
dialogues of each part. Which layout a tuple has is told by what its fields hold."""

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.packs import values
from data_prep.packs.rows import Pack, PackRow
from data_prep.packs.values import vector
from data_prep.sentences import normalise
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError

# Fields of every tuple layout, in order; `_` is not read. The order of the features is text, AUDIO, VISUAL.
LAYERS = "text1 text2 text3 text4"
TUPLES = {
    "dialoguernn": "ids speakers labels text audio visual sentences train test",
    "dialoguernn-meld": "ids speakers labels text audio sentences train test sentiments",
    "mmgcn-meld": "ids speakers labels text audio visual sentences train test _",
    "sdt": f"ids speakers labels {LAYERS} audio visual sentences train test",
    "sdt-meld": f"ids speakers labels {LAYERS} audio visual sentences train test _",
    "cfn-esa-meld": f"ids speakers labels sentiments {LAYERS} audio visual sentences train test _",
    "cosmic": f"speakers labels {LAYERS} sentences train test valid",
    "cosmic-meld": f"speakers labels sentiments {LAYERS} sentences train test valid",
    "cosmic-text": "speakers labels sentences train test valid",
}
# What a field may hold, of the kinds that `_kind` tells apart.
KINDS = {
    "ids": ("words", "numbers"),
    "speakers": ("words", "numbers", "vectors"),
    "labels": ("numbers",),
    "sentiments": ("numbers",),
    "sentences": ("words",),
    **{part: ("names",) for part in SPLITS},
}
FEATURES = ("text", *LAYERS.split(), "audio", "visual")
FINE_TUNED = tuple(name for name, fields in TUPLES.items() if LAYERS in fields)  # roberta, trained on train's labels


def misfit(fields: Sequence[str], found: Sequence[Any]) -> str:
    for place, (field, value) in enumerate(zip(fields, found, strict=True)):
        wanted = KINDS.get(field, ("vectors",) if field in FEATURES else ())
        if field != "_" and _kind(value) not in wanted:
            return f"place {place} must be {field}: {' or '.join(wanted)}, and is {_kind(value)}"
    return ""


def _kind(value: Any) -> str:
    """Returns words, numbers or vectors for a dict of lists of them, names for a collection of dialogues."""
    if isinstance(value, set | frozenset | list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return "names" if all(isinstance(x, str | int | np.integer | np.str_) for x in value) else type(value).__name__
    if not isinstance(value, Mapping):
        return type(value).__name__
    for items in value.values():
        if not isinstance(items, list | tuple | np.ndarray):
            return f"dict of {type(items).__name__}"
        if len(items):
            first = items[0]
            if isinstance(first, str):
                return "words"
            if isinstance(first, int | np.integer):
                return "numbers"
            is_vector = isinstance(first, np.ndarray | list | tuple)
            return "vectors" if is_vector else f"dict of lists of {type(first).__name__}"
    return "an empty dict"


@dataclasses.dataclass(frozen=True)
class Validation:
    """Says which dialogues of train validate, where a pack has no such part: those listed, or a share that is drawn by
    a hash of their names."""

    listed: frozenset[str] = frozenset()
    every: int = 10

    def of(self, path: Path, train: Sequence[str]) -> tuple[set[str], str]:
        """Returns the dialogues, and a note on how they were chosen."""
        if self.listed:
            if unknown := sorted(self.listed - set(train)):
                raise UserError(f"--valid: {unknown[0]!r} is no dialogue of {path}'s training part")
            return set(self.listed), f"{len(self.listed)} listed dialogues of train are the validation part"
        if not self.every:
            return set(), "there is no validation part: official cannot be trained on, other protocols draw their own"
        by_hash = sorted(train, key=lambda d: hashlib.sha256(d.encode()).hexdigest())
        drawn = set(by_hash[:: self.every])
        return drawn, (
            f"the pack has no validation part: {len(drawn)} of the {len(train)} dialogues of train, "
            f"every {self.every}th by a hash of its name, are made it (ours; --valid says otherwise)"
        )


def read_tuple(path: Path, layout: str, fields: Mapping[str, Any], valid: Validation) -> Pack:
    dialogues = sorted(fields["labels"], key=_in_order)
    names = {d: d if isinstance(d, str) else f"dia{int(d)}" for d in dialogues}
    if len(set(names.values())) < len(names):
        raise UserError(f"{path}: two dialogues have the same name")
    part_of = _parts(path, fields, names)
    notes = []
    if not isinstance(fields.get("valid"), list | tuple | set | frozenset | np.ndarray):
        train = [name for name in names.values() if part_of.get(name) == "train"]
        drawn, note = valid.of(path, train)
        part_of |= dict.fromkeys(drawn, "valid")
        notes.append(note)
    elif valid.listed:
        raise UserError(f"--valid: {path} has a validation part of its own")
    if out := [name for name in names.values() if name not in part_of]:
        notes.append(
            f"{len(out)} dialogues are in no part and left out: {', '.join(out[:5])}{' …' if len(out) > 5 else ''}"
        )
    rows: list[PackRow] = []
    for d in dialogues:
        if names[d] in part_of:
            rows += _dialogue(path, d, names[d], part_of[names[d]], fields)
    _make_unique(rows)
    # The validation part that we draw was train to whoever made the pack.
    seen = ("train",) if "valid" in fields else ("train", "valid")
    return Pack(layout, rows, notes, {"text": seen} if layout in FINE_TUNED else {})


def _in_order(dialogue: Any) -> tuple[bool, Any]:
    return isinstance(dialogue, str), dialogue  # numbers by value


def _parts(path: Path, fields: Mapping[str, Any], names: Mapping[Any, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in SPLITS:
        for d in sorted(set(fields.get(part, ())), key=_in_order):  # a set has another order in every run
            if d not in names:
                raise UserError(f"{path}: dialogue {d!r} of {part} has no utterances")
            if names[d] in found:
                raise UserError(f"{path}: dialogue {d!r} is in {found[names[d]]} and in {part}")
            found[names[d]] = part
    return found


def _dialogue(path: Path, key: Any, name: str, part: str, fields: Mapping[str, Any]) -> Iterator[PackRow]:
    count = len(fields["labels"][key])
    for field, value in fields.items():
        if field == "_" or field in SPLITS:
            continue
        if key not in value:
            raise UserError(f"{path}: dialogue {key!r} has labels but no {field}")
        if len(value[key]) != count:
            raise UserError(f"{path}, dialogue {key!r}: {len(value[key])} {field} for {count} labels")
    text = [f for f in LAYERS.split() if f in fields]
    session = name[:5] if re.fullmatch(r"Ses\d\d[FM]_\w+", name) else ""  # as IEMOCAP names its dialogues
    for turn in range(count):
        where = f"{path}, dialogue {key!r}, utterance {turn}"
        features = {m: vector(where, m, fields[m][key][turn]) for m in ("text", "audio", "visual") if m in fields}
        if text:  # four layers of one encoder, side by side
            features["text"] = np.concatenate([vector(where, f, fields[f][key][turn]) for f in text], axis=1)
        yield PackRow(
            id=values.name(where, "id", fields["ids"][key][turn]) if "ids" in fields else str(turn),
            split=part,
            **values.label(where, fields["labels"][key][turn]),
            dialogue=name,
            turn=turn,
            features={m: x for m, x in features.items() if x.size},
            speaker=session + values.speaker(where, fields["speakers"][key][turn]),
            session=session,
            sentence=normalise(values.word(where, "sentence", fields["sentences"][key][turn])),
        )


def _make_unique(rows: Sequence[PackRow]) -> None:
    """Puts the dialogue's name before ids that only count within their dialogue."""
    if len({row.id for row in rows}) < len(rows) or any(row.id.isdecimal() for row in rows):
        for row in rows:
            row.id = f"{row.dialogue}_{row.id}"
