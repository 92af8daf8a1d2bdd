"""The table of a folder of clips, a CSV with a line for each utterance, is read into utterances and their clips."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep import numbers
from data_prep.encoders.extract import UtteranceClip
from data_prep.encoders.media import Clip
from data_prep.number_columns import NONE, Asked, NumberColumns, columns_of, emotions_of, is_column, several
from data_prep.packs import values
from data_prep.packs.labels import JOINED
from data_prep.packs.rows import restart_in_words, restarting
from data_prep.packs.values import PARTS
from data_prep.sentences import normalise
from mer_jax.data.corpus import Utterance
from mer_jax.data.dialogues import repeated_turns, same_turn
from mer_jax.data.targets import Target
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import csv_records, readable, seconds, whole_line

NEEDED = ("file", "label")
OPTIONAL = ("sentence", "id", "split", "dialogue", "turn", "speaker", "session", "start", "end", "votes")


@dataclass(frozen=True)
class ClipTable:
    """The rows of a table, the targets that their numbers make, and the names of their groups. `with_classes`: the
    labels are classes; else there are none."""

    rows: list[UtteranceClip]
    targets: tuple[Target, ...]
    groups: tuple[str, ...]
    with_classes: bool


def read_table(
    path: Path, folder: Path, cut: bool = False, *, keep_unlabelled: bool = False, flags: Asked | None = None
) -> ClipTable:
    """Reads the utterances of a table; with `cut` a clip is the part of its file from `start` to `end`, and with
    `keep_unlabelled` what has no label, or not one, has the label "". `flags` say what its numbers are.

    Raises UserError naming line and column.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    rows: list[UtteranceClip] = []
    turns: Counter[str] = Counter()
    records = csv_records(path)
    columns, flags = list(next(records)[1]), flags or Asked()
    number_columns = columns_of(str(path), columns, flags)
    with_classes = "label" in columns and not flags.multilabel
    _check_columns(path, columns, cut, needs_label=flags.multilabel or not number_columns.value)
    named: list[tuple[str, ...] | None] = []
    for line, record in records:
        where = f"{path}, line {line}"
        fields = {column: value.strip() for column, value in whole_line(where, record).items()}
        if not with_classes:
            named.append(_emotions(fields, where, keep_unlabelled) if flags.multilabel else None)
            fields = fields | {"label": ""}
        rows.append(_row(fields, where, folder, cut, turns, keep_unlabelled or not with_classes, number_columns))
    if not rows:
        raise UserError(f"{path} holds no utterance")
    _refuse_repeats(rows, cut)
    if with_classes:
        rows = _with_one_label(rows, keep_unlabelled)
    targets = number_columns.targets
    if flags.multilabel:
        emotions, each = emotions_of(named, str(path))
        targets, rows = (*targets, emotions), [_with_values(row, of) for row, of in zip(rows, each, strict=True)]
    rows = _separate_parts(rows)
    _refuse_same_turns(rows)
    for note in numbers.notes_on(str(path), [row.utterance.values for row in rows], targets):
        print(f"note: {note}")
    if "turn" not in columns and max(turns.values()) > 1:
        print("note: the table has no column turn: the turns of a dialogue are numbered in the order of its lines")
    return ClipTable(rows, targets, tuple(number_columns.group), with_classes)


def _emotions(record: dict[str, str], where: str, keep_unlabelled: bool) -> tuple[str, ...] | None:
    if (found := several(where, record["label"])) is None and not keep_unlabelled:
        raise UserError(
            f"{where}: label is empty: which emotions are there is not known; --keep-unlabelled keeps it as a turn, "
            f"and the label {NONE!r} says that there is none"
        )
    return found


def _with_values(row: UtteranceClip, found: dict[str, float]) -> UtteranceClip:
    return replace(row, utterance=replace(row.utterance, values={**row.utterance.values, **found}))


def _separate_parts(rows: list[UtteranceClip]) -> list[UtteranceClip]:
    """Returns the rows, their dialogues with the part's name in front if numbers start again in every part."""
    if not (again := restarting([row.utterance for row in rows])):
        return rows
    print(f"note: {restart_in_words(again)}")
    named = [replace(row.utterance, dialogue=f"{row.utterance.split}_{row.utterance.dialogue}") for row in rows]
    return [replace(row, utterance=utterance) for row, utterance in zip(rows, named, strict=True)]


def _check_columns(path: Path, columns: list[str], cut: bool, *, needs_label: bool) -> None:
    needed = [c for c in (*NEEDED, "start", "end") if (cut or c in NEEDED) and (needs_label or c != "label")]
    if missing := [c for c in needed if c not in columns]:
        has = ", ".join(columns) or "nothing"
        raise UserError(f"{path}: column {missing[0]!r} is missing; it needs {', '.join(needed)} and has {has}")
    if ignored := [c for c in columns if c not in (*NEEDED, *OPTIONAL) and not is_column(c)]:
        print(f"note: columns that are not used: {', '.join(ignored)}")


def _row(
    record: dict[str, str],
    where: str,
    folder: Path,
    cut: bool,
    turns: Counter[str],
    keep_unlabelled: bool,
    number_columns: NumberColumns,
) -> UtteranceClip:
    names: dict[str, str] = {
        c: values.name(where, c, record[c]) for c in ("id", "dialogue", "speaker", "session") if c in record
    }
    needed = [c for c in NEEDED if not (c == "label" and keep_unlabelled)]
    for column in (*needed, *(c for c in ("id", "split", "dialogue", "turn") if c in record)):
        if not (names if column in names else record)[column]:
            what = f"{brief(record[column])}, which names none" if record[column] else "empty"
            raise UserError(f"{where}: {column} is {what}")
    if not Path(readable(where, "file", record["file"])).name:
        raise UserError(f"{where}: file is {brief(record['file'])}, which is a folder")
    if (why := values.label(where, record["label"])["unlabelled"]) and not keep_unlabelled:
        flag = "; --multilabel takes several emotions" * ("|" in record["label"])
        raise UserError(f"{why}; --keep-unlabelled keeps it as a turn without a class{flag}")
    if record.get("split", "train").casefold() not in PARTS:
        raise UserError(f"{where}: split is {record['split']!r}, not one of {', '.join(PARTS)}")
    turn = values.whole_number(where, "turn", record["turn"]) if "turn" in record else None
    start, end = (seconds(where, column, record.get(column)) for column in ("start", "end"))
    if cut and (start is None or end is None):
        raise UserError(f"{where}: --cut needs start and end in every line")
    if start is not None and end is not None and start >= end:
        raise UserError(f"{where}: it starts at {start:g} s and ends at {end:g} s")
    suffix = f"_{start:.2f}_{end:.2f}" if cut else ""
    name = names.get("id") or Path(record["file"]).with_suffix("").as_posix() + suffix
    dialogue = names.get("dialogue") or name
    utterance = Utterance(
        id=name,
        split=PARTS[record.get("split", "train").casefold()],
        dialogue=dialogue,
        turn=turns[dialogue] if turn is None else turn,
        speaker=names.get("speaker", ""),
        session=names.get("session", ""),
        label="" if why else record["label"],
        sentence=normalise(values.word(where, "sentence", record.get("sentence"))),
        start=start,
        end=end,
        votes=tuple(_vote(text, where) for text in record.get("votes", "").split(";") if text.strip()),
        features={},
        **number_columns.read(where, record),
    )
    turns[dialogue] += 1
    source = folder / record["file"]
    clip = Clip(record["file"], source, start or 0.0, end) if cut else Clip(record["file"], source)
    return UtteranceClip(utterance, clip, where)


def _vote(text: str, where: str) -> tuple[str, str]:
    rater, colon, label = (part.strip() for part in readable(where, "votes", text).partition(":"))
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


def _with_one_label(rows: Sequence[UtteranceClip], keep_unlabelled: bool) -> list[UtteranceClip]:
    """Finds happy/sad where happy and sad are labels, too, as the readers of packs do: it becomes none, or is refused
    unless such rows are to be kept."""
    known = {row.utterance.label for row in rows}
    found = []
    for row in rows:
        pieces = JOINED.split(row.utterance.label)
        if len(pieces) > 1 and known.issuperset(pieces):
            if not keep_unlabelled:
                raise UserError(f"{row.where}: the label is {brief(row.utterance.label)}, which is several")
            row = replace(row, utterance=replace(row.utterance, label=""))
        found.append(row)
    return found


def _refuse_same_turns(rows: Sequence[UtteranceClip]) -> None:
    dialogues, turns = ([getattr(row.utterance, name) for row in rows] for name in ("dialogue", "turn"))
    for first, second in repeated_turns(dialogues, turns)[:1]:
        raise UserError(same_turn(rows[first].where, rows[second].where, dialogues[first], turns[first]))
