"""The rows of a pack, and how records of named fields become rows: which fields say what an utterance is, and which are
its features."""

import dataclasses
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.limits import Budget
from data_prep.number_columns import Asked, NumberColumns, columns_of, emotions_of, is_column, several
from data_prep.packs import values
from data_prep.packs.field_names import FIELDS, is_telling, our_name
from data_prep.sentences import normalise
from mer_jax.data.dialogues import repeated_turns, same_turn
from mer_jax.data.targets import Target
from mer_jax.errors import UserError
from mer_jax.plain import brief

ROW = 1000  # bytes, about, that a record and its row take besides the features


@dataclasses.dataclass
class PackRow:
    """An utterance of a pack. `label` is a name, or the number that stands for it, and `unlabelled` says why it is
    none; `features[m]` are Float[time, width]; `error` says why the row cannot be used. `values`, `spreads` and
    `groups` are those of an utterance."""

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
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    spreads: dict[str, float] = dataclasses.field(default_factory=dict)
    groups: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Pack:
    """What was read of a pack. `notes` say what was left out or changed on the way; `trained_on[m]` names the parts on
    whose labels the features of m were trained; `targets` are what its numbers make, and `groups` the names of its
    groups; `with_classes`: it says of which class utterances are."""

    layout: str
    rows: list[PackRow]
    notes: list[str]
    trained_on: dict[str, tuple[str, ...]]
    targets: tuple[Target, ...] = ()
    groups: tuple[str, ...] = ()
    with_classes: bool = True


@dataclasses.dataclass(frozen=True)
class Reading:
    """How packs are read. `stem` begins the ids of records that have none; `part` is the split of all of them, where
    the file's name says it; `features` are the fields that a mapping names as features, and `renames[field]` its
    [values]; `to_predict`: neither split nor label is needed, and what is wrong with a row costs that row alone. Rows
    are paid from `budget`; `flags` say what numbers are, which is not looked at to predict."""

    stem: str = "row"
    part: str = ""
    features: frozenset[str] | None = None
    to_predict: bool = False
    renames: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    budget: Budget = dataclasses.field(default_factory=lambda: Budget(sys.maxsize))
    flags: Asked = dataclasses.field(default_factory=Asked)

    def value(self, where: str, field: str, given: Any) -> Any:
        """Returns the plain value of a field, as [values] of the mapping renames it."""
        value = values.plain(where, field, given)
        if (table := self.renames.get(field)) and isinstance(value, str | int | float | None):
            return table.get(values.written(value), value)
        return value


DEFAULT = Reading()
NO_FLAGS = Asked()


def row_of(
    where: str, given: Mapping[str, Any], features: Mapping[str, np.ndarray], reading: Reading = DEFAULT
) -> PackRow:
    """Returns the row of an utterance of any layout: `given` holds what is said of it, by our names and as the pack has
    it. Raises UserError for what cannot be used."""
    found = {field: given.get(field) for field in FIELDS if field not in ("split", "label")}
    found = {field: reading.value(where, field, value) for field, value in found.items()}
    if not (key := values.name(where, "id", found["id"])):
        raise UserError(f"{where}: the id is empty")
    return PackRow(
        id=key,
        split=_split(where, given, reading),
        **_label(where, given, reading),
        dialogue=values.name(where, "dialogue", found["dialogue"]) or key,
        turn=values.whole_number(where, "turn", found["turn"]),
        features={m: x for m, x in sorted(features.items()) if x.size},
        speaker=values.speaker(where, found["speaker"]),
        session=values.name(where, "session", found["session"]),
        sentence=normalise(values.word(where, "sentence", found["sentence"])),
        start=values.time(where, "start", found["start"]),
        end=values.time(where, "end", found["end"]),
    )


def row_or_error(key: Any, part: str, make: Callable[[], PackRow], reading: Reading) -> PackRow:
    """Returns what `make` returns. To predict, a UserError becomes the row's error; else it is raised."""
    reading.budget.spend(ROW // 2)
    try:
        return make()
    except UserError as error:
        if not reading.to_predict:
            raise
        return PackRow(key if isinstance(key, str) else brief(key), part, error=str(error))


def _label(where: str, given: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    """Returns `label` and `unlabelled`. What cannot be read as one is none, so that it can be left out."""
    if reading.to_predict and given.get("label") is None:
        return {}
    try:
        return values.label(where, reading.value(where, "label", given.get("label")))
    except UserError as error:
        return {"unlabelled": str(error)}


def _split(where: str, given: Mapping[str, Any], reading: Reading) -> str:
    if "split" not in given:
        return reading.part or "test"
    try:
        return values.part(where, reading.value(where, "split", given["split"]))
    except UserError:
        if not reading.to_predict:
            raise
        return reading.part or "test"


def rows_of(where: str, records: Iterable[Mapping[str, Any]], reading: Reading = DEFAULT) -> Pack:
    """Returns the rows of records that name their fields as ours are named, or as ALIASES says."""
    named = list(_named(where, records, reading))
    features, notes = _features_among(named, reading)
    if named and not any("id" in record for record in named):
        notes.append(f"the records have no id: they are called by their position, {reading.stem}_00000 and on")
        named = [record | {"id": f"{reading.stem}_{i:05d}"} for i, record in enumerate(named)]
    notes += _notes_on_turns(where, named, reading)
    if not (reading.part or reading.to_predict) and named and not any("split" in record for record in named):
        notes.append("the records have no split: all are train; a --mapping can name its column")
        reading = dataclasses.replace(reading, part="train")
    names = dict.fromkeys(str(field) for record in named for field in record)
    numbers = columns_of(where, () if reading.to_predict else names, NO_FLAGS if reading.to_predict else reading.flags)
    multilabel = reading.flags.multilabel and not reading.to_predict
    with_classes = not multilabel and (not numbers.value or "label" in names)
    _refuse_missing(where, named, reading, needs_label=with_classes or multilabel)
    rows = []
    for i, record in enumerate(named):
        key = record.get("id", f"{reading.stem}_{i:05d}")
        make = functools.partial(_row, f"{where}, record {i}", i, record, features, reading, numbers, with_classes)
        rows.append(row_or_error(key, "test", make, reading))
    targets = numbers.targets
    if multilabel:
        targets = (*targets, _several_of(where, rows, named, reading))
    if not any("turn" in record for record in named):
        _number_turns(rows)
    if reading.to_predict:
        _refuse_without_turn(where, rows, named)
    return Pack("list", rows, notes, {}, targets, tuple(numbers.group), with_classes)


def _several_of(where: str, rows: Sequence[PackRow], named: Sequence[Mapping[str, Any]], reading: Reading) -> Target:
    """Gives the rows the emotions that their labels name, and returns their target."""
    found = []
    for i, (row, record) in enumerate(zip(rows, named, strict=True)):
        here = f"{where}, record {i}"
        found.append(several(here, reading.value(here, "label", record.get("label"))))
        row.unlabelled = "" if found[-1] is not None else f"{here}: the label is empty"
    target, each = emotions_of(found, where)
    for row, of in zip(rows, each, strict=True):
        row.values |= of
    return target


def _named(where: str, records: Iterable[Mapping[str, Any]], reading: Reading) -> Iterator[dict[str, Any]]:
    """Yields the records by our names. Raises UserError where two fields have the same."""
    for i, record in enumerate(records):
        reading.budget.spend(ROW // 2)
        found: dict[str, Any] = {}
        for field, value in record.items():
            ours = our_name(field)
            if ours in found and field != ours:
                if ours in record:
                    continue  # it is there under its own name, too
                if reading.to_predict and ours in ("split", "label"):
                    continue
                others = ", ".join(str(other) for other in record if our_name(other) == ours)
                raise UserError(f"{where}, record {i}: {others} all are a {ours}; a --mapping can name the one to take")
            found[ours] = value
        yield found


def _features_among(records: Sequence[Mapping[str, Any]], reading: Reading) -> tuple[set[str], list[str]]:
    """Returns the fields that are features, and notes on those that look like some and are not. One number an utterance
    is no feature, nor is what stands for one of a few things in every utterance, unless a mapping says so."""
    if reading.features is not None:
        return {our_name(field) for field in reading.features}, []
    found: dict[str, bool] = {}  # field -> whether it ever holds more than one number
    for record in records:
        for field, value in record.items():
            if isinstance(value, np.ndarray | list | tuple) and field not in FIELDS and not is_column(field):
                many = value.size > 1 if isinstance(value, np.ndarray) else len(value) > 1 or _nested(value)
                found[field] = found.get(field, False) or many
    telling = sorted(field for field in found if is_telling(field))
    single = sorted(field for field, many in found.items() if not many and field not in telling)
    left = set(found) - {*telling, *single}
    hot = sorted(field for field in left if len(records) > 1 and _one_hot_everywhere(records, field))
    notes = []
    for fields, why in (
        (telling, "by what their names say"),
        (single, "as they are one number an utterance"),
        (hot, "as they are one-hot in every utterance, as labels and speakers are"),
    ):
        if fields:
            lines = ", ".join(f'{field} = "{field}"' for field in fields)
            notes.append(
                f"{', '.join(fields)}: not read as features, {why}; [features] in a --mapping, which then lists all of "
                f"them, takes them, as in {lines}"
            )
    return left - set(hot), notes


def _one_hot_everywhere(records: Sequence[Mapping[str, Any]], field: str) -> bool:
    there = [record[field] for record in records if record.get(field) is not None]
    return len(there) > 1 and all(values.one_hot(value) is not None for value in there)


def _nested(value: Sequence[Any]) -> bool:
    return any(isinstance(x, np.ndarray | list | tuple) and len(np.shape(x)) and len(x) > 1 for x in value)


def _refuse_missing(where: str, named: Sequence[Mapping[str, Any]], reading: Reading, *, needs_label: bool) -> None:
    """Raises UserError for a record without an id or split, or if none of the records has a label that needs one."""
    for field in ("id", "split", "label") if needs_label else ("id", "split"):
        if field != "id" and (reading.to_predict or (field == "split" and reading.part)):
            continue
        lacking = [i for i, record in enumerate(named) if field not in record]
        if not lacking or (field == "label" and len(lacking) < len(named)):
            continue  # a record without a label among others that have one is unlabelled
        if field == "id" and reading.to_predict:
            continue  # costs itself
        raise UserError(
            f"{where}, record {lacking[0]}: {field!r} is missing; it has {', '.join(map(brief, named[lacking[0]]))}. "
            "--mapping can name its column"
        )


def _notes_on_turns(where: str, named: Sequence[Mapping[str, Any]], reading: Reading) -> list[str]:
    """Returns a note if records say of which dialogue they are, and none says which turn. Raises UserError if some of
    them do, and some do not."""
    of_dialogues = [i for i, record in enumerate(named) if record.get("dialogue") is not None]
    lacking = [i for i in of_dialogues if "turn" not in named[i]]
    if not lacking:
        return []
    if len(lacking) < len(of_dialogues) and not reading.to_predict:
        raise UserError(
            f"{where}, record {lacking[0]}: 'turn' is missing, and {len(of_dialogues) - len(lacking)} other records of "
            "dialogues have it; give it to all of them, or to none: then their order counts"
        )
    return ["the records have no turn: the turns of a dialogue are numbered in the order of the records"]


def _number_turns(rows: Sequence[PackRow]) -> None:
    turns: Counter[str] = Counter()
    for row in rows:
        row.turn = turns[row.dialogue]
        turns[row.dialogue] += 1


def _refuse_without_turn(where: str, rows: Sequence[PackRow], named: Sequence[Mapping[str, Any]]) -> None:
    """A row without a turn gets an error where others of its dialogue have one, and has no place then."""
    with_turn = {row.dialogue for row, record in zip(rows, named, strict=True) if "turn" in record and not row.error}
    for i, (row, record) in enumerate(zip(rows, named, strict=True)):
        if not row.error and "turn" not in record and row.dialogue in with_turn:
            told = f"'turn' is missing, and other records of dialogue {brief(row.dialogue)} have it"
            row.error, row.dialogue = f"{where}, record {i}: {told}", ""


def _row(
    where: str,
    i: int,
    record: Mapping[str, Any],
    features: set[str],
    reading: Reading,
    numbers: NumberColumns,
    with_classes: bool,
) -> PackRow:
    vectors = {m: values.vector(where, m, _stepwise(record[m])) for m in features if record.get(m) is not None}
    row = row_of(where, {"turn": i, **record}, vectors, reading)
    if not with_classes:
        row.label, row.unlabelled = "", ""
    return dataclasses.replace(row, **numbers.read(where, record))


def _stepwise(value: Any) -> Any:
    """Returns the value, or a vector of one number where a feature is a single number."""
    return np.asarray([value]) if isinstance(value, int | float | np.number) else value


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


def refuse_same_turns(where: str, rows: Sequence[PackRow]) -> None:
    """Raises UserError for two utterances that are the same turn of a dialogue."""
    for first, second in repeated_turns((row.dialogue for row in rows), (row.turn for row in rows))[:1]:
        one = rows[first]
        names = (f"{where}: the utterances {one.id}", rows[second].id)
        raise UserError(same_turn(*names, one.dialogue, one.turn))


def shape_in_words(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a dict of {', '.join(map(brief, list(found)[:4]))}"
    return f"a {type(found).__name__}" + (f" of {len(found)}" if isinstance(found, tuple | list) else "")
