"""The table of a folder of clips, a CSV with a line for each utterance, is read into utterances and their clips."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_prep.encoders.extract import UtteranceClip
from data_prep.encoders.media import Clip
from data_prep.sentences import normalise
from mer_jax.data.corpus import SPLITS, Utterance
from mer_jax.errors import UserError

NEEDED = ("file", "label")
OPTIONAL = ("sentence", "id", "split", "dialogue", "turn", "speaker", "session", "start", "end", "votes")
PARTS = {name: name for name in SPLITS} | {"dev": "valid", "val": "valid", "validation": "valid"}


def read_table(path: Path, folder: Path, cut: bool = False) -> list[UtteranceClip]:
    """Returns the table's utterances; with `cut` a clip is the part of its file from `start` to `end`.

    Raises UserError naming line and column.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    rows: list[UtteranceClip] = []
    turns: Counter[str] = Counter()
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True)
            _check_columns(path, list(table.fieldnames or []), cut)
            for record in table:
                where = f"{path}, line {table.line_num}"
                if None in record or None in record.values():
                    raise UserError(f"{where}: it has another number of fields than the header")
                rows.append(_row({k: v.strip() for k, v in record.items()}, where, folder, cut, turns))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV table in UTF-8 ({error})") from None
    if not rows:
        raise UserError(f"{path} holds no utterance")
    _refuse_repeats(rows, cut)
    return rows


def _check_columns(path: Path, columns: list[str], cut: bool) -> None:
    needed = (*NEEDED, "start", "end") if cut else NEEDED
    if missing := [c for c in needed if c not in columns]:
        has = ", ".join(columns) or "nothing"
        raise UserError(f"{path}: column {missing[0]!r} is missing; it needs {', '.join(needed)} and has {has}")
    if ignored := [c for c in columns if c not in (*NEEDED, *OPTIONAL)]:
        print(f"note: columns that are not used: {', '.join(ignored)}")


def _row(record: dict[str, str], where: str, folder: Path, cut: bool, turns: Counter[str]) -> UtteranceClip:
    for column in (*NEEDED, *(c for c in ("id", "split", "dialogue", "turn") if c in record)):
        if not record[column]:
            raise UserError(f"{where}: {column} is empty")
    if record.get("split", "train") not in PARTS:
        raise UserError(f"{where}: split is {record['split']!r}, not one of {', '.join(PARTS)}")
    turn, start, end = (_number(record, column, where) for column in ("turn", "start", "end"))
    if cut and (start is None or end is None):
        raise UserError(f"{where}: --cut needs start and end in every line")
    if start is not None and end is not None and start >= end:
        raise UserError(f"{where}: it starts at {start:g} s and ends at {end:g} s")
    suffix = f"_{start:.2f}_{end:.2f}" if cut else ""
    name = record.get("id") or Path(record["file"]).with_suffix("").as_posix() + suffix
    dialogue = record.get("dialogue") or name
    utterance = Utterance(
        id=name,
        split=PARTS[record.get("split", "train")],
        dialogue=dialogue,
        turn=turns[dialogue] if turn is None else int(turn),
        speaker=record.get("speaker", ""),
        session=record.get("session", ""),
        label=record["label"],
        sentence=normalise(record.get("sentence", "")),
        start=start,
        end=end,
        votes=tuple(_vote(text, where) for text in record.get("votes", "").split(";") if text.strip()),
        features={},
    )
    turns[dialogue] += 1
    source = folder / record["file"]
    clip = Clip(record["file"], source, start or 0.0, end) if cut else Clip(record["file"], source)
    return UtteranceClip(utterance, clip, where)


def _number(record: dict[str, str], column: str, where: str) -> float | None:
    if not record.get(column):
        return None
    try:
        number = float(record[column])
    except ValueError:
        raise UserError(f"{where}: {column} is {record[column]!r}, not a number") from None
    if not 0 <= number < 1e9:
        raise UserError(f"{where}: {column} is {record[column]}, which cannot be")
    return number


def _vote(text: str, where: str) -> tuple[str, str]:
    rater, colon, label = (part.strip() for part in text.partition(":"))
    if not (rater and colon and label):
        raise UserError(f"{where}: votes has {text.strip()!r}, not RATER:LABEL, as in anna:happy; ben:sad")
    return rater, label


def _refuse_repeats(rows: Sequence[UtteranceClip], cut: bool) -> None:
    ids: dict[str, str] = {}
    files: dict[str, str] = {}
    for row in rows:
        if not cut and row.clip.name in files:
            raise UserError(
                f"{row.where}: {row.clip.name} is the clip of {files[row.clip.name]} too; "
                "with --cut each line takes the part from start to end"
            )
        if row.utterance.id in ids:
            raise UserError(f"{row.where}: id {row.utterance.id!r} is that of {ids[row.utterance.id]} too")
        ids[row.utterance.id] = files[row.clip.name] = row.where
