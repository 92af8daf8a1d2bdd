"""Which columns of a table are ids, groups, targets and predictions, by their names or as the flags say. No JAX."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

import numpy as np
from jaxtyping import Shaped

from mer_jax.errors import UserError
from mer_jax.metrics.definitions import Names, spellings
from mer_jax.plain import brief
from mer_jax.score.tables import ARRAY, Table, listed
from mer_jax.text_files import name as name_of

# Words of a column of targets: ours, Hugging Face's (references, label_ids), MMSA's (regression_labels), MELD's
# (emotion).
TARGETS = (
    "label", "labels", "target", "targets", "reference", "references", "label_id", "label_ids", "regression_labels",
    "true", "truth", "y_true", "gold", "emotion",
)  # fmt: skip
PREDICTIONS = (
    "prediction", "predictions", "pred", "preds", "predicted", "y_pred", "output", "outputs", "logits", "probabilities",
)  # fmt: skip
IDS = ("id", "ids", "utt_id")
WEAK_IDS = ("utterance_id", "utterance", "index")  # taken where there is nothing better
GROUPS = ("dialogue", "dialogue_id", "video", "video_id", "conversation", "group")
PARTS = ("mode", "split", "part")
OF_TURN = ("utterance_id", "clip_id")  # counted anew in every dialogue or video, where there is a column of these
MMSA_ID = "$_$"  # between video and clip


@dataclasses.dataclass(frozen=True)
class Role:
    """What columns are looked for: their words, the flag that names them, and what they are for a person."""

    words: Names
    flag: str
    title: str


TARGET, PREDICTION = Role(TARGETS, "--target", "targets"), Role(PREDICTIONS, "--prediction", "predictions")


def by_words(table: Table, words: Iterable[str]) -> list[str]:
    """The columns that are called by one of the words, whatever their case."""
    return [name for name in table.columns if name.casefold() in words]


def asked_columns(table: Table, role: Role, asked: str) -> list[str]:
    """The columns that a flag names; one that has several values in a row is all of these. Raises UserError."""
    found: list[str] = []
    for name in asked.split(","):
        columns = [name] if name in table.columns else table.wide.get(name)
        if columns is None:
            raise UserError(f"{role.flag}={asked}: {table.path} has no column {name!r}; it has {has(table)}")
        found += columns
    return found


def has(table: Table) -> str:
    """The columns of a table in words."""
    inner = {column for columns in table.wide.values() for column in columns}
    wide = [f"{name} ({len(columns)} values)" for name, columns in table.wide.items()]
    return listed([*(name for name in table.columns if name not in inner), *wide]) or "none"


def one_column(table: Table, role: Role, names: Names, wide: bool) -> list[str]:
    """The column of the targets, or of the predictions, of what has one value in a row: the one that is called by a
    word of the role, or if there is one name only, by that beside such a word; predictions, by the name alone, too.
    wide: where there is none, one with several values in a row will do. Raises UserError unless it is one."""
    words = {word for name in names for word in _beside(role, name)} if len(names) == 1 else set()
    found = _of_another_target(table, role, names[0]) if len(names) == 1 else []
    found = found or by_words(table, {*role.words, *words})
    if not found and len(names) == 1 and role is PREDICTION:
        found = by_words(table, spellings(names[0]))
    if not found and wide:
        called = [name for name in table.wide if name.casefold() in (*role.words, ARRAY)]
        if len(called) == 1:
            return table.wide[called[0]]
        found = called
    if not found and list(table.columns) == [ARRAY]:
        found = [ARRAY]
    if len(found) != 1:
        _refuse(table, role, found)
    return found


def several_columns(table: Table, role: Role, names: Names, shared: bool) -> list[str]:
    """The columns of the targets, or of the predictions, of each name. They are called by a name beside a word of the
    role, as target_valence and valence_true; or they are the values of one wide column, in the order of the names; or
    they are called by the name alone. shared: the table has targets and predictions, and then the name alone is for
    what the others are not. Raises UserError unless there is one for each name."""
    if found := _told_columns(table, role, names):
        return found
    alone = [by_words(table, spellings(name)) for name in names]
    other = TARGET if role is PREDICTION else PREDICTION
    if all(alone) and (not shared or _told_columns(table, other, names)):
        return _one_each(table, role, names, alone)
    missing = [name for name, columns in zip(names, alone, strict=True) if not columns] or names
    _refuse(table, role, [], f" of {listed(missing)}")


def _told_columns(table: Table, role: Role, names: Names) -> list[str] | None:
    """Those that say by their name whether they are targets or predictions."""
    beside = [by_words(table, _beside(role, name)) or _of_another_target(table, role, name) for name in names]
    if all(beside):
        return _one_each(table, role, names, beside)
    wide = [columns for name, columns in table.wide.items() if name.casefold() in (*role.words, ARRAY)]
    fitting = [columns for columns in wide if len(columns) == len(names) and columns[0].endswith("]")]
    return fitting[0] if len(fitting) == 1 else None


def _one_each(table: Table, role: Role, names: Names, found: Sequence[list[str]]) -> list[str]:
    for name, columns in zip(names, found, strict=True):
        if len(columns) > 1:
            _refuse(table, role, columns, f" of {name}")
    return [columns[0] for columns in found]


def _beside(role: Role, name: str) -> set[str]:
    return {f"{a}{sign}{b}" for w in role.words for n in spellings(name) for a, b in ((w, n), (n, w)) for sign in "_."}


def _of_another_target(table: Table, role: Role, name: str) -> list[str]:
    """As a run of several targets writes all but the first one's: `vad_targets.valence`."""
    ends = tuple(f"_{word}.{spelling}" for word in role.words for spelling in spellings(name))
    return [column for column in table.columns if column.casefold().endswith(ends)]


def _refuse(table: Table, role: Role, found: Sequence[str], of: str = "") -> NoReturn:
    what = (
        f"several columns may be the {role.title}{of}: {listed(found)}" if found else f"no {role.title} are found{of}"
    )
    raise UserError(f"{table.path}: {what}; name the column with {role.flag} COLUMN. It has {has(table)}")


def ids_of(table: Table) -> list[str] | None:
    """The id of every row, None if there are none: a column of IDS, or of the video and the clip (or dialogue and
    utterance) together, or of WEAK_IDS. Raises UserError for a row without one."""
    groups, of_turn, ids = by_words(table, GROUPS), by_words(table, OF_TURN), by_words(table, IDS)
    if groups and of_turn and not ids:
        sign = MMSA_ID if of_turn[0].casefold() == "clip_id" else "_"
        parts = [_names(table, name) for name in (groups[0], of_turn[0])]
        return [f"{a}{sign}{b}" for a, b in zip(*parts, strict=True)]
    columns = [*ids, *by_words(table, WEAK_IDS)]
    return _names(table, columns[0]) if columns else None


def _names(table: Table, column: str, blank: Callable[[int], str] | None = None) -> list[str]:
    found = []
    for row, value in enumerate(table.columns[column]):
        text = name_of(table.where(row), column, value)
        if not text and blank is None:
            raise UserError(f"{table.where(row)}: the {column} is empty; every row must have one, and no two the same")
        found.append(text or blank(row))  # type: ignore[misc]
    return found


def refuse_doubled(table: Table, ids: Sequence[str], member: Sequence[str]) -> None:
    """Raises UserError if two rows of a member have the same id."""
    seen: dict[tuple[str, str], int] = {}
    for row, key in enumerate(zip(member, ids, strict=True)):
        if key in seen:
            before = table.where(seen[key]).rpartition(", ")[2]
            raise UserError(
                f"{table.where(row)}: the id {brief(key[1])} is that of {before}, too; each must be there once"
            )
        seen[key] = row


def groups_of(table: Table, ids: Sequence[str] | None, asked: str | None) -> tuple[Shaped[np.ndarray, "rows"], str]:
    """What each row belongs to that is resampled as a whole, and what that is, in words. A row without one is by
    itself."""

    def alone(row: int) -> str:
        return f"\0{ids[row] if ids else row}"

    if asked is not None and asked not in table.columns:
        raise UserError(f"--group={asked}: {table.path} has no column {asked!r}; it has {has(table)}")
    columns = [asked] if asked is not None else by_words(table, GROUPS)
    if columns:
        found = _names(table, columns[0], alone)
        if asked is not None or not all(name.startswith("\0") for name in found):
            return np.array(found, np.str_), f"the column {columns[0]}"
    if ids is not None and all(MMSA_ID in name for name in ids):
        return np.array([name.rpartition(MMSA_ID)[0] for name in ids], np.str_), f"the part of the id before {MMSA_ID}"
    return np.array([alone(row) for row in range(table.rows)], np.str_), ""


FOLD = re.compile(r"fold .*?, (?=seed )")


def members_of(table: Table, asked: str | None) -> tuple[Table, list[str]]:
    """The rows that are asked for, and whose they are: of our own predictions.jsonl the seed, folds taken together; of
    any other file all are one's. Raises UserError for a replica that there is not."""
    columns = by_words(table, ("replica",))
    if not columns:
        if asked is not None:
            raise UserError(f"--replica={asked}: {table.path} has no column replica")
        return table, [""] * table.rows
    names = _names(table, columns[0])
    if asked is not None:
        rows = [row for row, name in enumerate(names) if name == asked]
        if not rows:
            raise UserError(f"--replica={asked}: {table.path} has {listed(dict.fromkeys(names))}")
        return table.taken(rows), [asked] * len(rows)
    return table, [FOLD.sub("", name) for name in names]


def part_of(table: Table, part: str) -> Table:
    """The rows of a part, as `test`, by the column mode or split. Raises UserError."""
    columns = by_words(table, PARTS)
    if not columns:
        raise UserError(f"--part={part}: {table.path} has no column mode or split; it has {has(table)}")
    rows = [row for row, value in enumerate(table.columns[columns[0]]) if str(value) == part]
    if not rows:
        known = listed(dict.fromkeys(map(str, table.columns[columns[0]])))
        raise UserError(f"--part={part}: the column {columns[0]} of {table.path} has {known}")
    return table.taken(rows)


def align(predictions: Table, ids: Sequence[str] | None, labels: Table) -> Table:
    """The labels in the order of the predictions: by id where both files have them, else row by row. Raises UserError
    unless both are of the same utterances."""
    of_labels = ids_of(labels)
    if ids is None or of_labels is None:
        if predictions.rows != labels.rows:
            raise UserError(
                f"{predictions.path} has {predictions.rows} rows and {labels.path} has {labels.rows}; without an id in "
                "both files, row stands for row, and they must be as many"
            )
        return labels
    refuse_doubled(labels, of_labels, [""] * labels.rows)
    row_of = {name: row for row, name in enumerate(of_labels)}
    if unlabelled := [row for row, name in enumerate(ids) if name not in row_of]:
        raise UserError(
            f"{predictions.where(unlabelled[0])}: the id {brief(ids[unlabelled[0]])} is not in {labels.path}"
            + (f", nor are {len(unlabelled) - 1} more" if len(unlabelled) > 1 else "")
        )
    predicted = set(ids)
    if missing := [row for row, name in enumerate(of_labels) if name not in predicted]:
        raise UserError(
            f"{labels.where(missing[0])}: {predictions.path} has no prediction of the id "
            f"{brief(of_labels[missing[0]])}"
            + (f", nor of {len(missing) - 1} more" if len(missing) > 1 else "")
            + ". What is not predicted must not be left out of a score; --part takes one part of the labels"
        )
    return labels.taken([row_of[name] for name in ids])
