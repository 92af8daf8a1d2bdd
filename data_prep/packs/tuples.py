"""The tuples of DialogueRNN and its successors: one dict a field, dialogue -> list over its utterances, and the
dialogues of each part. Which layout a tuple has is told by what its fields hold."""

import dataclasses
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.packs.rows import DEFAULT, Pack, PackRow, Reading, row_of, row_or_error
from data_prep.packs.values import vector
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import readable

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
UNNEEDED = ("labels", "sentiments")  # to predict
SAMPLE = 9  # utterances of a dialogue that tell what its field holds
FEATURES = ("text", *LAYERS.split(), "audio", "visual")
FINE_TUNED = tuple(name for name, fields in TUPLES.items() if LAYERS in fields)  # roberta, trained on train's labels


def misfit(fields: Sequence[str], found: Sequence[Any], *, to_predict: bool = False) -> str:
    """Says what does not fit, "" if all does. To predict, labels may be missing, and single values may be anything."""
    for place, (field, value) in enumerate(zip(fields, found, strict=True)):
        wanted = KINDS.get(field, ("vectors",) if field in FEATURES else ())
        kind = _kind(value, mostly=to_predict)
        if field == "_" or kind in wanted or (to_predict and field in UNNEEDED and kind not in ("vectors", "names")):
            continue
        return f"place {place} must be {field}: {' or '.join(wanted)}, and is {kind}"
    return ""


def _kind(value: Any, *, mostly: bool = False) -> str:
    """Returns words, numbers or vectors for a dict of lists of them, by the first value, or by what the first values of
    the dialogues mostly are; names for a collection of dialogues."""
    if isinstance(value, set | frozenset | list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return "names" if all(isinstance(x, str | int | np.integer | np.str_) for x in value) else type(value).__name__
    if not isinstance(value, Mapping):
        return type(value).__name__
    firsts: Counter[str] = Counter()
    for items in value.values():
        if not _is_listed(items):
            if not mostly:
                return f"dict of {type(items).__name__}"
            firsts[f"dict of {type(items).__name__}"] += 1
        elif len(items):
            for item in items[: SAMPLE if mostly else 1]:
                firsts[_kind_of_items(item)] += 1
            if not mostly:
                break
    return firsts.most_common(1)[0][0] if firsts else "an empty dict"


def _kind_of_items(item: Any) -> str:
    if isinstance(item, str):
        return "words"
    if isinstance(item, int | np.integer):
        return "numbers"
    return "vectors" if isinstance(item, np.ndarray | list | tuple) else f"dict of lists of {type(item).__name__}"


def _is_listed(items: Any) -> bool:
    return isinstance(items, list | tuple) or (isinstance(items, np.ndarray) and items.ndim > 0)


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


def read_tuple(
    path: Path, layout: str, fields: Mapping[str, Any], valid: Validation, reading: Reading = DEFAULT
) -> Pack:
    spoken = fields["sentences" if reading.to_predict else "labels"]
    named = {d: _name_of(path, d) for d in spoken}
    dialogues = sorted(named, key=_in_order)
    names = {d: named[d] for d in dialogues}
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
            rows += _dialogue(path, d, names[d], part_of[names[d]], fields, reading)
    _make_unique(rows)
    # The validation part that we draw was train to whoever made the pack.
    seen = ("train",) if "valid" in fields else ("train", "valid")
    return Pack(layout, rows, notes, {"text": seen} if layout in FINE_TUNED else {})


def _name_of(path: Path, dialogue: Any) -> str:
    if isinstance(dialogue, str):
        return readable(str(path), "name of a dialogue", str(dialogue))
    if isinstance(dialogue, int | np.integer) or (isinstance(dialogue, float) and dialogue.is_integer()):
        return f"dia{int(dialogue)}"
    raise UserError(f"{path}: the name of a dialogue is {brief(dialogue)}, neither a text nor a whole number")


def _in_order(dialogue: Any) -> tuple[bool, Any]:
    return isinstance(dialogue, str), dialogue  # numbers by value


def _parts(path: Path, fields: Mapping[str, Any], names: Mapping[Any, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in SPLITS:
        for d in sorted(set(fields.get(part, ())), key=_in_order):  # a set has another order in every run
            if d not in names:
                raise UserError(f"{path}: dialogue {brief(d)} of {part} has no utterances")
            if names[d] in found:
                raise UserError(f"{path}: dialogue {brief(d)} is in {found[names[d]]} and in {part}")
            found[names[d]] = part
    return found


def _dialogue(
    path: Path, key: Any, name: str, part: str, fields: Mapping[str, Any], reading: Reading
) -> Iterator[PackRow]:
    base = "sentences" if reading.to_predict else "labels"
    if not _is_listed(fields[base][key]):
        raise UserError(f"{path}, dialogue {brief(key)}: its {base} are no list")
    count = len(fields[base][key])
    for field, value in fields.items():
        if field == "_" or field in SPLITS or reading.to_predict:
            continue
        if key not in value:
            raise UserError(f"{path}: dialogue {brief(key)} has {base} but no {field}")
        found = len(value[key]) if _is_listed(value[key]) else 0
        if found != count:
            raise UserError(f"{path}, dialogue {brief(key)}: {found} {field} for {count} {base}")
    for turn in range(count):
        where = f"{path}, dialogue {brief(key)}, utterance {turn}"
        make = functools.partial(_row, where, _Place(key, turn, name, part), fields, reading)
        yield row_or_error(str(turn), part, make, reading)


@dataclasses.dataclass(frozen=True)
class _Place:
    """An utterance: the key of its dialogue, its turn, and the dialogue's name and part."""

    key: Any
    turn: int
    dialogue: str
    part: str

    def of(self, where: str, field: str, fields: Mapping[str, Any]) -> Any:
        """Returns the value of a field. Raises UserError if there is none; None where it is not needed."""
        try:
            return fields[field][self.key][self.turn]
        except (KeyError, IndexError, TypeError):
            if field in UNNEEDED:
                return None
            raise UserError(f"{where}: there is no {field}") from None


def _row(where: str, place: _Place, fields: Mapping[str, Any], reading: Reading) -> PackRow:
    def of(field: str) -> Any:
        return place.of(where, field, fields)

    name = place.dialogue
    session = name[:5] if re.fullmatch(r"Ses\d\d[FM]_\w+", name) else ""  # as IEMOCAP names its dialogues
    features = {m: vector(where, m, of(m)) for m in ("text", "audio", "visual") if m in fields}
    if layers := [vector(where, field, of(field)) for field in LAYERS.split() if field in fields]:
        if len({len(x) for x in layers}) > 1:
            raise UserError(f"{where}: the four layers of text differ in length")
        features["text"] = np.concatenate(layers, axis=1)  # of one encoder, side by side
    said = {
        "id": of("ids") if "ids" in fields else str(place.turn),
        "split": place.part,
        "label": of("labels"),
        "dialogue": name,
        "turn": place.turn,
        "speaker": of("speakers"),
        "session": session,
        "sentence": of("sentences"),
    }
    row = row_of(where, said, features, reading)
    row.speaker = session + row.speaker
    return row


def _make_unique(rows: Sequence[PackRow]) -> None:
    """Puts the dialogue's name before ids that only count within their dialogue."""
    if len({row.id for row in rows}) < len(rows) or any(row.id.isdecimal() for row in rows):
        for row in rows:
            row.id = f"{row.dialogue}_{row.id}"
