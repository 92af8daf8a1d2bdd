"""The rows of a pack, and how records of named fields become rows: which fields say what an utterance is, and which are
its features."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.packs import values
from data_prep.sentences import normalise
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import seconds

# What is said of an utterance. None of it is ever a feature.
FIELDS = ("id", "split", "label", "dialogue", "turn", "speaker", "session", "sentence", "start", "end")
# Names in packs, in whatever case -> ours.
ALIASES = {
    "vision": "visual",
    "video": "visual",
    "utt_id": "id",
    "ids": "id",
    "raw_text": "sentence",
    "utterance": "sentence",
    "annotation": "label",
    "emotion": "label",
    "labels": "label",
    "dialog": "dialogue",
    "dialogue_id": "dialogue",
    "dialog_id": "dialogue",
    "speaker_id": "speaker",
    "session_id": "session",
}
# A field whose name ends in one of these says what an utterance is, whatever comes before it: label_onehot, speaker_id.
TELLING = frozenset(FIELDS) | {
    *("ids", "uid", "idx", "index", "part", "labels", "class", "classes", "target", "targets", "y", "onehot", "dialog"),
    *(
        "conversation",
        "turns",
        "speakers",
        "emotion",
        "emotions",
        "sentiment",
        "sentiments",
        "annotation",
        "annotations",
    ),
    *("votes", "gender", "valence", "arousal", "dominance", "vad"),
}


@dataclasses.dataclass
class PackRow:
    """An utterance of a pack. `label` is a name, or the number that stands for it, and `unlabelled` says why it is
    none; `features[m]` are Float[time, width]; `error` says why the row cannot be used."""

    id: str
    split: str
    label: str | int = ""
    dialogue: str = ""
    turn: int = 0
    features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    speaker: str = ""
    session: str = ""
    sentence: str = ""
    start: float | None = None
    end: float | None = None
    unlabelled: str = ""
    error: str = ""


@dataclasses.dataclass
class Pack:
    """What was read of a pack. `notes` say what was left out or changed on the way; `trained_on[m]` names the parts on
    whose labels the features of m were trained."""

    layout: str
    rows: list[PackRow]
    notes: list[str]
    trained_on: dict[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How records are read. `stem` begins the ids of records that have none; `part` is the split of all of them, where
    the file's name says it; `features` are the fields that a mapping names as features; `to_predict`: neither split nor
    label is needed, and what is wrong with a row costs that row alone."""

    stem: str = "row"
    part: str = ""
    features: frozenset[str] | None = None
    to_predict: bool = False


DEFAULT = Reading()


def our_name(field: Any) -> str:
    """Returns what we call a field, or its own name if it is none of ours."""
    plain = str(field).strip().casefold()
    plain = ALIASES.get(plain, plain)
    return plain if plain in FIELDS or plain in ALIASES.values() else str(field)


def is_telling(field: str) -> bool:
    """Says whether a field's name says what an utterance is, so that it is no feature of it."""
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field).casefold())
    return our_name(field) in FIELDS or (bool(words) and (words[-1] in TELLING or words[-2:] == ["one", "hot"]))


def rows_of(where: str, records: Iterable[Mapping[str, Any]], reading: Reading = DEFAULT) -> Pack:
    """Returns the rows of records that name their fields as ours are named, or as ALIASES says."""
    named = list(_named(where, records))
    features, notes = _features_among(named, reading)
    if named and not any("id" in record for record in named):
        notes.append(f"the records have no id: they are called by their position, {reading.stem}_00000 and on")
        named = [record | {"id": f"{reading.stem}_{i:05d}"} for i, record in enumerate(named)]
    if not (reading.part or reading.to_predict) and named and not any("split" in record for record in named):
        notes.append("the records have no split: all are train; a --mapping can name its column")
        reading = dataclasses.replace(reading, part="train")
    rows = []
    for i, record in enumerate(named):
        try:
            rows.append(_row(f"{where}, record {i}", i, record, features, reading))
        except UserError as error:
            if not reading.to_predict:
                raise
            rows.append(PackRow(str(record.get("id", f"{reading.stem}_{i:05d}")), "test", error=str(error)))
    return Pack("list", rows, notes, {})


def _named(where: str, records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields the records by our names. Raises UserError where two fields have the same."""
    for i, record in enumerate(records):
        found: dict[str, Any] = {}
        for field, value in record.items():
            ours = our_name(field)
            if ours in found and field != ours:
                if ours in record:
                    continue  # it is there under its own name, too
                others = ", ".join(str(other) for other in record if our_name(other) == ours)
                raise UserError(f"{where}, record {i}: {others} all are a {ours}; a --mapping can name the one to take")
            found[ours] = value
        yield found


def _features_among(records: Sequence[Mapping[str, Any]], reading: Reading) -> tuple[set[str], list[str]]:
    """Returns the fields that are features, and notes on those that look like some and are not. One number an utterance
    is no feature, unless a mapping says so."""
    if reading.features is not None:
        return {our_name(field) for field in reading.features}, []
    found: dict[str, bool] = {}  # field -> whether it ever holds more than one number
    for record in records:
        for field, value in record.items():
            if isinstance(value, np.ndarray | list | tuple) and field not in FIELDS:
                many = value.size > 1 if isinstance(value, np.ndarray) else len(value) > 1 or _nested(value)
                found[field] = found.get(field, False) or many
    telling = sorted(field for field in found if is_telling(field))
    single = sorted(field for field, many in found.items() if not many and field not in telling)
    how = "[features] in a --mapping takes them"
    notes = [f"{', '.join(telling)}: not read as features, by what their names say; {how}"] if telling else []
    notes += [f"{', '.join(single)}: not read as features, as they are one number an utterance; {how}"] * bool(single)
    return set(found) - {*telling, *single}, notes


def _nested(value: Sequence[Any]) -> bool:
    return any(isinstance(x, np.ndarray | list | tuple) and len(np.shape(x)) and len(x) > 1 for x in value)


def _row(where: str, i: int, record: Mapping[str, Any], features: set[str], reading: Reading) -> PackRow:
    lacks = [] if reading.to_predict else [f for f in ("split", "label") if f not in record]
    for field in ("id", *lacks):
        if field not in record and not (field == "split" and reading.part):
            raise UserError(
                f"{where}: {field!r} is missing; it has {', '.join(map(str, record))}. --mapping can name its column"
            )
    key = values.name(where, "id", record["id"])
    if not key:
        raise UserError(f"{where}: the id is empty")
    vectors = {m: values.vector(where, m, _stepwise(record[m])) for m in features if record.get(m) is not None}
    return PackRow(
        id=key,
        split=_split(where, record, reading),
        **({} if reading.to_predict and "label" not in record else values.label(where, record["label"])),
        dialogue=values.name(where, "dialogue", record.get("dialogue")) or key,
        turn=values.whole_number(where, "turn", record["turn"]) if "turn" in record else i,
        features={m: x for m, x in sorted(vectors.items()) if x.size},
        speaker=values.speaker(where, record.get("speaker")),
        session=values.name(where, "session", record.get("session")),
        sentence=normalise(values.word(where, "sentence", record.get("sentence"))),
        start=seconds(where, "start", values.plain(where, "start", record.get("start"))),
        end=seconds(where, "end", values.plain(where, "end", record.get("end"))),
    )


def _stepwise(value: Any) -> Any:
    """Returns the value, or a vector of one number where a feature is a single number."""
    return np.asarray([value]) if isinstance(value, int | float | np.number) else value


def _split(where: str, record: Mapping[str, Any], reading: Reading) -> str:
    if "split" in record and not (
        reading.to_predict and values.is_blank(values.plain(where, "split", record["split"]))
    ):
        return values.part(where, record["split"])
    return reading.part or "test"


def restarting(utterances: Sequence[Any]) -> set[str]:
    """Returns the dialogues that have the same turn in several parts, if they are most of those that several parts
    share: then the numbers of dialogues start again in every part. Fewer are utterances that are in twice."""
    places: dict[tuple[str, int], set[str]] = {}
    parts_of: dict[str, set[str]] = {}
    for u in utterances:
        places.setdefault((u.dialogue, u.turn), set()).add(u.split)
        parts_of.setdefault(u.dialogue, set()).add(u.split)
    shared = {dialogue for dialogue, parts in parts_of.items() if len(parts) > 1}
    again = {dialogue for (dialogue, _), parts in places.items() if len(parts) > 1}
    return again if 2 * len(again) > len(shared) else set()


def restart_in_words(again: set[str]) -> str:
    return (
        f"the numbers of dialogues start again in every part: {len(again)} dialogues, {min(again)} for one, have the "
        f"same turn in several parts; their names begin with their part now, as in train_{min(again)}"
    )


def separate_parts(rows: Sequence[PackRow]) -> list[str]:
    """Puts the part's name before dialogues and before ids whose numbers start again in every part; returns notes."""
    notes = []
    if again := restarting(rows):
        for row in rows:
            row.dialogue = f"{row.split}_{row.dialogue}"
        notes.append(restart_in_words(again))
    ids: dict[str, set[str]] = {}
    for row in rows:
        ids.setdefault(row.id, set()).add(row.split)
    least = min(Counter(row.split for row in rows).values(), default=0)
    if 2 * sum(len(parts) > 1 for parts in ids.values()) > least:  # fewer are utterances that are in twice
        for row in rows:
            row.dialogue = f"{row.split}_{row.id}" if row.dialogue == row.id else row.dialogue
            row.id = f"{row.split}_{row.id}"
        notes.append(f"the ids start again in every part; they begin with their part now, as in {rows[0].id}")
    return notes


def shape_in_words(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a dict of {', '.join(map(brief, list(found)[:4]))}"
    return f"a {type(found).__name__}" + (f" of {len(found)}" if isinstance(found, tuple | list) else "")
