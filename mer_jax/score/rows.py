"""Targets and predictions out of a table, each value checked, as a definition counts them. No JAX."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.metrics.definition import Definition, Known, Values
from mer_jax.metrics.definitions import Names, Row, named
from mer_jax.plain import brief
from mer_jax.score.columns import PREDICTION, TARGET, Role, asked_columns, one_column, several_columns
from mer_jax.score.tables import Table, listed
from mer_jax.text_files import in_words, is_blank, plain

NUMBER = re.compile(r"[0-9]+(\.0*)?")
ROUNDING = 1e-6  # what float32 may be beyond the end of a range


@dataclasses.dataclass(frozen=True)
class Rows:
    """What is scored: the definition of the names that fit, its inputs [rows, dims], the columns they came from, and
    what else a person should know of these."""

    definition: Definition
    targets: Values
    known: Known
    predicted: Values
    columns: dict[str, list[str]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the flags say: the columns, and whether the predictions are logits."""

    target: str | None = None
    prediction: str | None = None
    logits: bool = False


def rows_of(row: Row, predictions: Table, labels: Table, asked: Asked) -> Rows:
    """The rows as a definition wants them; labels: the same table, or another whose rows stand in the same order.
    Raises UserError, naming file and line, for what the definition cannot be of."""
    if row.kind == "classes":
        return _classes(row, predictions, labels, asked)
    found: UserError | None = None
    for names in row.names:
        try:
            of_targets = _columns(labels, TARGET, asked.target, names, labels is predictions)
            of_predictions = _columns(predictions, PREDICTION, asked.prediction, names, labels is predictions)
        except UserError as error:
            found = found or error
            continue
        targets, known = _targets(labels, of_targets, row)
        predicted = _matrix(predictions, of_predictions, known)
        if row.kind == "emotions":
            predicted = _probabilities(predictions, of_predictions, predicted, known, asked.logits)
        return Rows(row.make(names), targets, known, predicted, {"targets": of_targets, "predictions": of_predictions})
    assert found is not None
    raise found


def _columns(table: Table, role: Role, asked: str | None, names: Names, shared: bool) -> list[str]:
    if asked is None:
        found = several_columns(table, role, names, shared) if len(names) > 1 else one_column(table, role, names, True)
    else:
        found = asked_columns(table, role, asked)
    if len(found) != len(names):
        order = "; their order is this one" if len(names) > 1 else ""
        raise UserError(
            f"{table.path}: the {role.title} are the {len(found)} columns {listed(found)}; there must be {len(names)}, "
            f"of {listed(names)}{order}"
        )
    return found


def _number(table: Table, row: int, column: str, value: Any) -> float:
    where = table.where(row)
    value = plain(where, column, value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {column} is {in_words(value)}, not a number") from None
    if not math.isfinite(number):
        raise UserError(f"{where}: {column} is {number}; it must be a number")
    return number


def _targets(table: Table, columns: Sequence[str], row: Row) -> tuple[np.ndarray, np.ndarray]:
    """The targets, NaN where a cell is blank, and where they are known."""
    found = np.full((table.rows, len(columns)), np.nan)
    for j, column in enumerate(columns):
        for i, value in enumerate(table.columns[column]):
            if is_blank(plain(table.where(i), column, value)):
                continue
            found[i, j] = number = _number(table, i, column, value)
            if not row.low - ROUNDING <= number <= row.high + ROUNDING:
                raise UserError(
                    f"{table.where(i)}: the target {column} is {number:g}; here it must be from {row.low:g} to "
                    f"{row.high:g}"
                )
    return found, ~np.isnan(found)


def _matrix(table: Table, columns: Sequence[str], known: np.ndarray) -> np.ndarray:
    """The predictions, each a finite number; what is predicted of an unknown target is not looked at."""
    found = np.zeros((table.rows, len(columns)))
    for j, column in enumerate(columns):
        for i, value in enumerate(table.columns[column]):
            if known[i, j if known.shape[1] > 1 else 0]:
                found[i, j] = _number(table, i, f"the prediction {column}", value)
    return found


def _probabilities(
    table: Table, columns: Sequence[str], found: np.ndarray, known: np.ndarray, logits: bool
) -> np.ndarray:
    if logits:
        return np.exp(-np.logaddexp(0, -found))
    beyond = np.argwhere(known & ((found < 0) | (found > 1)))
    if len(beyond):
        i, j = beyond[0]
        raise UserError(
            f"{table.where(int(i))}: the prediction {columns[j]} is {found[i, j]:g}, which is no probability; --logits "
            "says that predictions are logits, of which the sigmoid is taken"
        )
    return np.clip(found, 0, 1)


def _classes(row: Row, predictions: Table, labels: Table, asked: Asked) -> Rows:
    if asked.target is not None:
        of_targets = asked_columns(labels, TARGET, asked.target)
    else:
        of_targets = one_column(labels, TARGET, (), False)
    if len(of_targets) != 1:
        raise UserError(f"{labels.path}: the targets are the columns {listed(of_targets)}; a class is in one column")
    if asked.prediction is not None:
        of_predictions = asked_columns(predictions, PREDICTION, asked.prediction)
    else:
        of_predictions = one_column(predictions, PREDICTION, (), True)
    words = [_word(labels, i, of_targets[0]) for i in range(labels.rows)]
    known = np.array([word != "" for word in words])[:, None]
    guesses = [_word(predictions, i, of_predictions[0]) if known[i, 0] else "" for i in range(predictions.rows)]
    wide = len(of_predictions) > 1
    names = _fitting(row, [*words, *(() if wide else guesses)], len(of_predictions) if wide else None)
    if names is None:
        names = row.names[-1] if not wide else _of_width(row, len(of_predictions), predictions)
    targets = _numbers(labels, of_targets[0], words, names)
    if wide:
        predicted = _highest(predictions, of_predictions, names, known)
    else:
        for i, word in enumerate(guesses):
            if known[i, 0] and not word:
                raise UserError(f"{predictions.where(i)}: the prediction {of_predictions[0]} is empty")
        predicted = _numbers(predictions, of_predictions[0], guesses, names)
    columns = {"targets": of_targets, "predictions": of_predictions}
    by_number = of_predictions[0].endswith("]") or any(NUMBER.fullmatch(word) for word in (*words, *guesses))
    note = " Some classes are told by number: the names are those of this order." if by_number else ""
    return Rows(row.make(names), targets, known, predicted, columns, note)


def _word(table: Table, row: int, column: str) -> str:
    """A class as the file has it: a name, or a number, 3 of 3.0; nothing of a blank."""
    value = plain(table.where(row), column, table.columns[column][row])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if is_blank(value) else str(value).strip()


def _position(word: str, names: Names) -> int | None:
    """The number of a class by its name, one that names the same, or by that number itself."""
    if NUMBER.fullmatch(word):
        return int(float(word)) if float(word) < len(names) else None
    name = named(word, names)
    return None if name is None else names.index(name)


def _fitting(row: Row, words: Sequence[str], width: int | None) -> Names | None:
    """The first names of the definition that all words are of."""
    seen = {word for word in words if word}
    sets = [names for names in row.names if width in (None, len(names))]
    return next((names for names in sets if all(_position(word, names) is not None for word in seen)), None)


def _of_width(row: Row, width: int, table: Table) -> Names:
    for names in row.names:
        if len(names) == width:
            return names
    wanted = " or ".join(str(len(names)) for names in row.names)
    raise UserError(f"{table.path}: the predictions have {width} values in a row; here they must have {wanted}")


def _numbers(table: Table, column: str, words: Sequence[str], names: Names) -> np.ndarray:
    """The number of every row's class, NaN where there is none; raises UserError for a word that is no class."""
    position_of = {word: _position(word, names) for word in set(words)}
    found = np.full((len(words), 1), np.nan)
    for i, word in enumerate(words):
        if word:
            position = position_of[word]
            if position is None:
                raise UserError(
                    f"{table.where(i)}: {column} is {brief(word)}, which is none of the classes {', '.join(names)}, "
                    f"nor a number from 0 to {len(names) - 1}"
                )
            found[i] = position
    return found


def _highest(table: Table, columns: Sequence[str], names: Names, known: np.ndarray) -> np.ndarray:
    """The number of the class with the highest value in each row, the first of several."""
    inner = [column.rpartition(".")[2] for column in columns]
    order = list(range(len(names))) if columns[0].endswith("]") else [_position(word, names) for word in inner]
    if sorted(-1 if position is None else position for position in order) != list(range(len(names))):
        raise UserError(
            f"{table.path}: the predictions are of {listed(inner)}; here the classes are {', '.join(names)}"
        )
    values = _matrix(table, columns, known)
    return np.array(order)[values.argmax(1)].astype(np.float64)[:, None]
