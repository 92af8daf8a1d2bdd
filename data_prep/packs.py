"""The community's feature packs: layouts recognised by structure -> rows with everything by name.

The tuples of DialogueRNN and its successors hold one dict per field, dialogue -> list over its utterances, and the dialogues of each
part; MMSA's dictionaries one array per field and part; DeepMSI-MER's folders one pickle per utterance and modality.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import unpickle
from data_prep.text import normalise
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
KINDS = {"ids": ("words", "numbers"), "speakers": ("words", "numbers", "vectors"), "labels": ("numbers",), "sentiments": ("numbers",),
         "sentences": ("words",), **{part: ("names",) for part in SPLITS}}  # fmt: skip
FEATURES = ("text", *LAYERS.split(), "audio", "visual")
LAYOUTS = (*TUPLES, "mmsa", "deepmsi", "list")
FINE_TUNED = tuple(name for name, fields in TUPLES.items() if LAYERS in fields)  # roberta, trained on train's labels
ALIASES = {"vision": "visual", "video": "visual", "val": "valid", "dev": "valid", "utt_id": "id", "raw_text": "sentence",
           "utterance": "sentence", "annotation": "label", "emotion": "label"}  # fmt: skip


@dataclasses.dataclass
class Row:
    """An utterance of a pack. label: a name, or the number that stands for it. features[m]: Float[time, width]."""

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
    """notes: what was left out or changed on the way, to be told. trained_on[m]: the parts on whose labels its features were trained."""

    layout: str
    rows: list[Row]
    notes: list[str]
    trained_on: dict[str, tuple[str, ...]]


def read(path: Path, layout: str | None, valid: "Validation") -> Pack:
    """The pack in a pickle or folder; raises UserError naming file, dialogue and field."""
    if path.is_dir():
        return _deepmsi(path)
    found = unpickle.load(path)
    layout = layout or recognise(path, found)
    if layout == "mmsa":
        return _mmsa(path, found)
    if layout == "list":
        return _list(path, found)
    if layout not in TUPLES:
        raise UserError(f"--layout={layout}: {path} is a file; deepmsi is a folder of pickles")
    if not isinstance(found, tuple | list) or len(found) != len(TUPLES[layout].split()):
        raise UserError(f"{path}: {_shape(found)} is not of the layout {layout}: {TUPLES[layout]}")
    return _tuple(path, layout, dict(zip(TUPLES[layout].split(), found, strict=True)), valid)


def recognise(path: Path, found: Any) -> str:
    """The name of the one layout that fits; raises UserError if none or several do."""
    if isinstance(found, Mapping):
        if found and set(found) <= {*SPLITS, *ALIASES} and all(isinstance(part, Mapping) for part in found.values()):
            return "mmsa"
        raise UserError(f"{path}: {_shape(found)} is of no known layout; name one with --layout ({', '.join(LAYOUTS)})")
    if isinstance(found, list) and found and all(isinstance(x, Mapping) for x in found):
        return "list"
    if not isinstance(found, tuple | list):
        raise UserError(f"{path}: {_shape(found)} is of no known layout ({', '.join(LAYOUTS)})")
    of_length = {name: fields.split() for name, fields in TUPLES.items() if len(fields.split()) == len(found)}
    why = {name: _misfit(fields, found) for name, fields in of_length.items()}
    fits = [name for name, misfit in why.items() if not misfit]
    if len(fits) == 1:
        return fits[0]
    told = "; ".join(f"{name}: {misfit or 'fits'}" for name, misfit in why.items())
    lengths = ", ".join(f"{name} {len(fields.split())}" for name, fields in TUPLES.items())
    raise UserError(
        f"{path}: {_shape(found)} fits {len(fits)} layouts ({told or 'they have ' + lengths}); name it with --layout"
    )


def _shape(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a dict of {', '.join(map(repr, list(found)[:4]))}"
    return f"a {type(found).__name__}" + (f" of {len(found)}" if isinstance(found, tuple | list) else "")


def _misfit(fields: Sequence[str], found: Sequence[Any]) -> str:
    for place, (field, value) in enumerate(zip(fields, found, strict=True)):
        wanted = KINDS.get(field, ("vectors",) if field in FEATURES else ())
        if field != "_" and _kind(value) not in wanted:
            return f"place {place} must be {field}: {' or '.join(wanted)}, and is {_kind(value)}"
    return ""


def _kind(value: Any) -> str:
    """words, numbers or vectors: a dict of lists of them; names: a collection of dialogues."""
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
            return (
                "vectors"
                if isinstance(first, np.ndarray | list | tuple)
                else f"dict of lists of {type(first).__name__}"
            )
    return "an empty dict"


# ---- tuples ----


@dataclasses.dataclass(frozen=True)
class Validation:
    """Which dialogues of train validate, where a pack has no such part: those listed, or a share drawn by a hash of their names."""

    listed: frozenset[str] = frozenset()
    every: int = 10

    def of(self, path: Path, train: Sequence[str]) -> tuple[set[str], str]:
        """(the dialogues, what to tell)."""
        if self.listed:
            if unknown := sorted(self.listed - set(train)):
                raise UserError(f"--valid: {unknown[0]!r} is no dialogue of {path}'s training part")
            return set(self.listed), f"{len(self.listed)} listed dialogues of train are the validation part"
        if not self.every:
            return set(), "there is no validation part: official cannot be trained on, other protocols draw their own"
        by_hash = sorted(train, key=lambda d: hashlib.sha256(d.encode()).hexdigest())
        drawn = set(by_hash[:: self.every])
        return drawn, (f"the pack has no validation part: {len(drawn)} of the {len(train)} dialogues of train, every {self.every}th by a "
                       "hash of its name, are made it (ours; --valid says otherwise)")  # fmt: skip


def _tuple(path: Path, layout: str, fields: Mapping[str, Any], valid: Validation) -> Pack:
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
    rows: list[Row] = []
    for d in dialogues:
        if names[d] in part_of:
            rows += _dialogue(path, d, names[d], part_of[names[d]], fields)
    _make_unique(rows)
    seen = (
        ("train",) if "valid" in fields else ("train", "valid")
    )  # the validation part we draw was train to whoever made the pack
    return Pack(layout, rows, notes, {"text": seen} if layout in FINE_TUNED else {})


def _in_order(dialogue: Any) -> tuple[bool, Any]:
    return isinstance(dialogue, str), dialogue  # numbers by value


def _parts(path: Path, fields: Mapping[str, Any], names: Mapping[Any, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in SPLITS:
        for d in sorted(
            set(fields.get(part, ())), key=lambda d: (isinstance(d, str), d)
        ):  # a set: its own order is of no run
            if d not in names:
                raise UserError(f"{path}: dialogue {d!r} of {part} has no utterances")
            if names[d] in found:
                raise UserError(f"{path}: dialogue {d!r} is in {found[names[d]]} and in {part}")
            found[names[d]] = part
    return found


def _dialogue(path: Path, key: Any, name: str, part: str, fields: Mapping[str, Any]) -> Iterator[Row]:
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
        yield Row(
            id=str(fields["ids"][key][turn]) if "ids" in fields else str(turn),
            split=part,
            label=_whole(where, fields["labels"][key][turn]),
            dialogue=name,
            turn=turn,
            features={m: x for m, x in features.items() if x.size},
            speaker=session + speaker_of(where, fields["speakers"][key][turn]),
            session=session,
            sentence=normalise(word(where, "sentence", fields["sentences"][key][turn])),
        )


def _make_unique(rows: Sequence[Row]) -> None:
    """Ids that only count within their dialogue get its name."""
    if len({row.id for row in rows}) < len(rows) or any(row.id.isdecimal() for row in rows):
        for row in rows:
            row.id = f"{row.dialogue}_{row.id}"


def speaker_of(where: str, value: Any) -> str:
    """A name as it is, a number or one-hot vector as speaker3."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"speaker{int(value)}"
    hot = np.asarray(vector(where, "speaker", value))[0]
    if hot.sum() != 1 or hot.max() != 1:
        raise UserError(f"{where}: the speaker is neither a name, a number nor a one-hot vector")
    return f"speaker{int(hot.argmax())}"


def _whole(where: str, value: Any) -> int:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or int(value) != value or value < 0:
        raise UserError(f"{where}: the label is {value!r}, not a whole number from 0")
    return int(value)


def word(where: str, field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: the {field} is {value!r:.60}, not a text")
    return str(value)


def vector(where: str, field: str, value: Any) -> np.ndarray:
    """[time, width] of a vector or a sequence of vectors, in the pack's own numbers; empty if there is none."""
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


# ---- MMSA ----


def _mmsa(path: Path, found: Any) -> Pack:
    """{part: {id, raw_text, text, audio, vision, *_lengths, annotations or classification_labels}}, arrays over utterances."""
    rows, notes = [], []
    for name in sorted(found, key=lambda n: SPLITS.index(_split(path, n))):
        part, fields = _split(path, name), found[name]
        where = f"{path}, {name}"
        label = next((f for f in ("annotations", "classification_labels") if f in fields), None)
        if label is None or "id" not in fields:
            raise UserError(
                f"{where}: it needs id, and annotations or classification_labels; it has {', '.join(map(str, fields))}"
            )
        counts = {f: len(fields[f]) for f in fields if hasattr(fields[f], "__len__")}
        if len(set(counts.values())) > 1:
            raise UserError(f"{where}: the fields differ in length: {', '.join(f'{f} {n}' for f, n in counts.items())}")
        for i, key in enumerate(fields["id"]):
            key = _mmsa_id(where, key)
            dialogue, _, clip = key.rpartition("$_$")
            here = f"{where}, utterance {i} ({key})"
            rows.append(
                Row(
                    id=key,
                    split=part,
                    label=str(fields[label][i]) if label == "annotations" else _whole(here, fields[label][i]),
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
            length = len(value)
            if f"{field}_lengths" in fields:
                length = _whole(where, np.asarray(fields[f"{field}_lengths"]).reshape(-1)[i])
            elif field == "text" and "text_bert" in fields:
                length = int(np.asarray(fields["text_bert"][i])[1].sum())  # the tokeniser's mask
            if not 0 <= length <= len(value):
                raise UserError(f"{where}: {field} has {len(value)} steps, {field}_lengths says {length}")
            if length:  # what lies behind is padding
                features[ALIASES.get(field, field)] = value[:length]
    return features


def _split(where: Any, name: Any) -> str:
    split = ALIASES.get(str(name), str(name))
    if split not in SPLITS:
        raise UserError(f"{where}: part {name!r} is not one of {', '.join(SPLITS)}")
    return split


# ---- DeepMSI-MER's folders ----

DEEPMSI = {"text": ("text", "text_feature"), "audio": ("audio", "audio_feature"), "visual": ("video", "images")}


def _deepmsi(folder: Path) -> Pack:
    """{split}/{video,text,audio}/{name}.pkl with `images`; `text_feature` and `label`; `audio_feature`."""
    parts = {_split(folder, p.name): p for p in sorted(folder.iterdir()) if p.is_dir()}
    if not parts:
        raise UserError(f"{folder}: it must hold folders train, valid, test with text, audio and video in each")
    rows = []
    for part in sorted(parts, key=SPLITS.index):
        names = sorted({p.stem for kind, _ in DEEPMSI.values() for p in (parts[part] / kind).glob("*.pkl")})
        turns: dict[str, int] = {}
        for name in names:
            label, features = None, {}
            for modality, (kind, field) in DEEPMSI.items():
                path = parts[part] / kind / f"{name}.pkl"
                if not path.is_file():
                    continue
                found = unpickle.load(path)
                if not isinstance(found, Mapping) or field not in found:
                    raise UserError(f"{path}: {_shape(found)} has no {field!r}")
                features[modality] = vector(str(path), field, found[field])
                label = found.get("label", label)
            if label is None:
                raise UserError(f"{parts[part] / 'text' / name}.pkl: there is no label")
            dialogue = re.sub(r"_[^_]+$", "", name)  # Ses01F_impro01_F000, dia0_utt3
            session = name[:5] if re.match(r"Ses\d\d[FM]_", name) else ""
            turns[dialogue] = turns.get(dialogue, -1) + 1
            rows.append(
                Row(
                    id=name,
                    split=part,
                    label=str(label) if isinstance(label, str) else _whole(str(path), label),
                    dialogue=dialogue if session else f"{part}_{dialogue}",  # MELD's numbers start again in every part
                    turn=turns[dialogue],
                    features={m: x for m, x in features.items() if x.size},
                    speaker=session + name.rsplit("_", 1)[1][0] if session else "",
                    session=session,
                )
            )
    _make_unique_across_parts(rows)
    return Pack("deepmsi", rows, [], {})


def _make_unique_across_parts(rows: list[Row]) -> None:
    if len({row.id for row in rows}) < len(rows):
        for row in rows:
            row.id = f"{row.split}_{row.id}"


# ---- lists of dicts ----


def _list(path: Path, found: Any) -> Pack:
    return Pack("list", rows_of(str(path), found), [], {})


def rows_of(where: str, records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of records that name their fields as ours are named, or as ALIASES says; every other field that holds a vector is a modality."""
    rows = []
    for i, record in enumerate(records):
        here = f"{where}, record {i}"
        fields = {ALIASES.get(str(name), str(name)): value for name, value in record.items()}
        if missing := [name for name in ("id", "split", "label") if name not in fields]:
            raise UserError(
                f"{here}: {missing[0]!r} is missing; it has {', '.join(map(str, record))}. --mapping can name its column"
            )
        features = {m: vector(here, m, x) for m, x in fields.items() if isinstance(x, np.ndarray | list | tuple)}
        label, dialogue = fields["label"], str(fields.get("dialogue", fields["id"]))
        rows.append(
            Row(
                id=str(fields["id"]),
                split=_split(here, fields["split"]),
                label=str(label) if isinstance(label, str) else _whole(here, label),
                dialogue=dialogue,
                turn=_whole(here, fields["turn"]) if "turn" in fields else i,
                features={m: x for m, x in features.items() if x.size},
                speaker=speaker_of(here, fields["speaker"]) if "speaker" in fields else "",
                session=str(fields.get("session", "")),
                sentence=normalise(word(here, "sentence", fields.get("sentence", ""))),
                **{name: float(fields[name]) for name in ("start", "end") if name in fields},
            )
        )
    return rows
