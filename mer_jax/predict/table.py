"""A table of clips and sentences -> what the encoders are asked for, and where in a conversation each row stands."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.predict.item import PLACE, check_place
from mer_jax.text_files import csv_records, is_blank, name, seconds, whole_line, whole_number

Request = dict[str, Any]  # see data_prep/stream.py, and encoder_client.FOR_THE_ITEM
COUNTED = "the table has no turns of this dialogue: the order of its rows is taken for them"


@dataclasses.dataclass
class _Row:
    """A line of the table, where in a conversation it stands, and what is wrong with that. told: it has a turn."""

    where: str
    line: int
    record: dict[str, str]
    dialogue: str = ""
    turn: int | None = None
    speaker: str = ""
    told: bool = False
    notes: tuple[str, ...] = ()
    error: str = ""


def requests_of_table(path: Path, by_dialogue: bool) -> Iterator[Request]:
    """A request for each row; one that cannot be used is asked for with its error. A table with dialogues is read
    whole. by_dialogue: dialogue by dialogue, in the order of their turns. Raises UserError."""
    records = csv_records(path)
    _, columns = next(records)
    if not {"file", "sentence"} & set(columns):
        raise UserError(
            f"{path}: it needs the column file or sentence, or both, and has {', '.join(columns) or 'nothing'}; "
            "a table of features is read with --mapping"
        )
    if "turn" in columns and "dialogue" not in columns:
        raise UserError(f"{path}: it has the column turn and lacks dialogue, which tells whose turns they are")
    rows: Iterable[_Row] = (_row(path, line, record) for line, record in records)
    if "dialogue" in columns:
        rows = list(rows)
        dialogues = _dialogues(rows)
        for members in dialogues:
            _number(members)
        if by_dialogue:
            rows = [row for members in dialogues for row in sorted(members, key=_turn)]
    for row in rows:
        yield _request(path, row)


def _row(path: Path, line: int, record: dict[str, str]) -> _Row:
    row = _Row(f"{path}, line {line}", line, record)
    try:
        record = whole_line(row.where, record)
        row.speaker = name(row.where, "speaker", record.get("speaker"))
        row.dialogue = name(row.where, "dialogue", record.get("dialogue"))
        row.told = not is_blank(record.get("turn"))
        row.turn = whole_number(row.where, "turn", record["turn"]) if row.told else None
        if not row.dialogue:
            check_place(row.where, "", row.turn)
    except UserError as error:
        row.error = str(error)
    return row


def _dialogues(rows: Sequence[_Row]) -> list[list[_Row]]:
    """The rows by dialogue, in the order in which these begin; a row of none is by itself."""
    found: defaultdict[str | int, list[_Row]] = defaultdict(list)
    for row in rows:
        found[row.dialogue or row.line].append(row)
    return list(found.values())


def _number(rows: Sequence[_Row]) -> None:
    """Counts the turns of a dialogue whose rows have none. Where rows have some, one without, or with that of another
    row, gets an error; so has one whose turn cannot be read already. These have no place then."""
    dialogue = rows[0].dialogue
    if not dialogue:
        return
    if not any(row.told for row in rows):
        for turn, row in enumerate(rows):
            row.turn, row.notes = turn, (COUNTED,)
        return
    lines: dict[int, int] = {}
    for row in rows:
        if row.turn in lines:
            row.error = (
                f"{row.where}: turn {row.turn} of dialogue {brief(dialogue)} is that of line {lines[row.turn]}, too"
            )
        elif row.turn is not None:
            lines[row.turn] = row.line
        elif not row.error:
            row.error = f"{row.where}: turn is empty, and other rows of dialogue {brief(dialogue)} have one"
        if row.error:
            row.dialogue, row.turn = "", None


def _turn(row: _Row) -> tuple[bool, int]:
    """Sorts the rows of a dialogue; those that have no place in it come behind it, where they cut nothing in two."""
    return row.turn is None, row.turn or 0


def _request(path: Path, row: _Row) -> Request:
    record, called = row.record, row.record.get("id") or row.record.get("file") or f"{path.name}:{row.line}"
    place = {field: value for field in PLACE if (value := getattr(row, field)) not in ("", None)}
    about = place | ({"notes": row.notes} if row.notes else {})
    try:
        if row.error:
            raise UserError(row.error)
        times = {column: seconds(row.where, column, record.get(column)) for column in ("start", "end")}
    except UserError as error:
        return {"id": called, "error": str(error), **about}
    clip = str(path.parent / record["file"]) if record.get("file") else None
    return {"id": called, "file": clip, "sentence": record.get("sentence"), **times, **about}
