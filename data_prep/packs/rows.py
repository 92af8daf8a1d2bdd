"""The rows of a pack: every value in them is checked, and refused by name where it is not what it must
be."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from data_prep.sentences import normalise
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError

# Names in packs -> ours.
ALIASES = {
    "vision": "visual",
    "video": "visual",
    "val": "valid",
    "dev": "valid",
    "utt_id": "id",
    "raw_text": "sentence",
    "utterance": "sentence",
    "annotation": "label",
    "emotion": "label",
}


@dataclasses.dataclass
class PackRow:
    """An utterance of a pack. `label` is a name, or the number that stands for it; `features[m]` are Float[time,
    width]."""

    id: str
    split: str
    label: str | int
    dialogue: str
    turn: int
    features: dict[str, np.ndarray]
    speaker: str = ""
    session: str = ""
    sentence: str = ""
    start: float | None = None
    end: float | None = None


@dataclasses.dataclass
class Pack:
    """What was read of a pack. `notes` say what was left out or changed on the way; `trained_on[m]` names the parts on
    whose labels the features of m were trained."""

    layout: str
    rows: list[PackRow]
    notes: list[str]
    trained_on: dict[str, tuple[str, ...]]


def rows_of(where: str, records: Iterable[Mapping[str, Any]]) -> list[PackRow]:
    """Returns the rows of records that name their fields as ours are named, or as ALIASES says; every other field that
    holds a vector is a modality."""
    rows = []
    for i, record in enumerate(records):
        here = f"{where}, record {i}"
        fields = {ALIASES.get(str(name), str(name)): value for name, value in record.items()}
        if missing := [name for name in ("id", "split", "label") if name not in fields]:
            raise UserError(
                f"{here}: {missing[0]!r} is missing; it has {', '.join(map(str, record))}. "
                "--mapping can name its column"
            )
        features = {m: vector(here, m, x) for m, x in fields.items() if isinstance(x, np.ndarray | list | tuple)}
        label, dialogue = fields["label"], str(fields.get("dialogue", fields["id"]))
        rows.append(
            PackRow(
                id=str(fields["id"]),
                split=split_of(here, fields["split"]),
                label=str(label) if isinstance(label, str) else whole_number(here, "label", label),
                dialogue=dialogue,
                turn=whole_number(here, "turn", fields["turn"]) if "turn" in fields else i,
                features={m: x for m, x in features.items() if x.size},
                speaker=speaker_of(here, fields["speaker"]) if "speaker" in fields else "",
                session=str(fields.get("session", "")),
                sentence=normalise(word(here, "sentence", fields.get("sentence", ""))),
                **{name: float(fields[name]) for name in ("start", "end") if name in fields},
            )
        )
    return rows


def speaker_of(where: str, value: Any) -> str:
    """Returns a name as it is, a number or one-hot vector as speaker3."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"speaker{int(value)}"
    hot = np.asarray(vector(where, "speaker", value))[0]
    if hot.sum() != 1 or hot.max() != 1:
        raise UserError(f"{where}: the speaker is neither a name, a number nor a one-hot vector")
    return f"speaker{int(hot.argmax())}"


def whole_number(where: str, field: str, value: Any) -> int:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or int(value) != value or value < 0:
        raise UserError(f"{where}: the {field} is {value!r}, not a whole number from 0")
    return int(value)


def word(where: str, field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: the {field} is {value!r:.60}, not a text")
    return str(value)


def vector(where: str, field: str, value: Any) -> np.ndarray:
    """Returns [time, width] of a vector or a sequence of vectors, in the pack's own numbers; empty if there is none."""
    if isinstance(value, list | tuple):
        flat = all(isinstance(x, int | float | np.number) for x in value)
        rows = not flat and all((isinstance(x, np.ndarray) and x.ndim == 1) or _is_flat(x) for x in value)
        value = np.array(value) if flat or (rows and len({len(x) for x in value}) == 1) else None
    if not isinstance(value, np.ndarray) or value.ndim not in (1, 2) or value.dtype.kind not in "fiu":
        what = (
            f"an array {list(value.shape)} of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        )
        raise UserError(f"{where}: {field} is {what}, not a vector or a sequence of vectors of numbers")
    return np.atleast_2d(np.asarray(value))  # a plain array, whatever class the pickle gave it


def _is_flat(x: Any) -> bool:
    return isinstance(x, list | tuple) and all(isinstance(n, int | float | np.number) for n in x)


def split_of(where: Any, name: Any) -> str:
    split = ALIASES.get(str(name), str(name))
    if split not in SPLITS:
        raise UserError(f"{where}: part {name!r} is not one of {', '.join(SPLITS)}")
    return split


def shape_in_words(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a dict of {', '.join(map(repr, list(found)[:4]))}"
    return f"a {type(found).__name__}" + (f" of {len(found)}" if isinstance(found, tuple | list) else "")
