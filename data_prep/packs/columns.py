"""Named columns become records, one an utterance: which columns say what an utterance is, and which are its
features."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.number_columns import is_column
from data_prep.packs import values
from data_prep.packs.field_names import FIELDS, is_telling, our_name
from data_prep.packs.mapping import Chosen, features_of
from data_prep.packs.rows import DEFAULT, ROW, Reading
from data_prep.packs.tables import Column
from mer_jax.errors import UserError
from mer_jax.plain import brief

Tables = Mapping[str, Mapping[str, Column]]  # columns by file
NEVER_FEATURES = ("id", "split", "label")  # even where a mapping names them so


@dataclasses.dataclass(frozen=True)
class Found:
    """A column, or several side by side: where they are, (file, name) each, and what they hold."""

    places: tuple[tuple[str, str], ...]
    column: Column

    def __str__(self) -> str:
        file, name = self.places[0]
        return f"{file}: column {brief(name)}"


def renamed(file: str, found: Sequence[Mapping[str, Any]], mapping: Chosen, reading: Reading) -> Iterator[dict]:
    """Yields the records of a list of dicts as a mapping names their fields."""
    names = dict.fromkeys(str(name) for record in found for name in record)
    reading.budget.spend(8 * len(names) * len(found))
    yield from records({file: {name: [record.get(name) for record in found] for name in names}}, mapping, reading)


def records(tables: Tables, mapping: Chosen, reading: Reading = DEFAULT) -> Iterator[dict[str, Any]]:
    """Yields one record per utterance, by our names where there is a mapping, else by the columns'. Raises UserError
    naming file and column."""
    columns, features = _chosen(tables, mapping)
    if not (columns or features):
        raise UserError(f"no column is one of {', '.join(FIELDS)}, or a feature, among those of {_has(tables)}")
    id_column = next((found for name, found in columns.items() if our_name(name) == "id"), None)
    listed = None if id_column is None else _listed(id_column, None, None)
    every = (*columns.values(), *features.values())
    sizes = [len(_listed(found, None, None)) for found in every if not isinstance(found.column, Mapping)]
    count = len(listed) if listed is not None else sizes[0] if sizes else 0
    reading.budget.require(ROW * count)
    ids = None
    if id_column is not None and listed is not None:
        ids = [_name_or_none(id_column, x) for x in listed]
    of_fields = {field: _listed(found, ids, count) for field, found in columns.items()}
    of_features = {m: _listed(found, ids, count) for m, found in features.items()}
    for i in range(count):
        record = {field: column[i] for field, column in of_fields.items()}
        yield record | {m: column[i] for m, column in of_features.items() if column[i] is not None}


def _name_or_none(found: Found, value: Any) -> str | None:
    """Returns an id. What is none is told with its row."""
    try:
        return values.name(str(found), "id", value)
    except UserError:
        return None


def _chosen(tables: Tables, mapping: Chosen) -> tuple[dict[str, Found], dict[str, Found]]:
    """Returns the columns that say what an utterance is, and those that are its features; by what they are of, not by
    what a mapping calls them, none is both. Raises UserError if a mapping says so."""
    every = {name: Found(((file, name),), column) for file, found in tables.items() for name, column in found.items()}
    if features_of(mapping) is None:
        columns = {name: found for name, found in every.items() if our_name(name) in FIELDS or is_column(name)}
        return columns, {n: x for n, x in every.items() if n not in columns and _holds_vectors(x.column)}
    chosen = {field: _find(tables, name) for field, name in mapping.get("columns", {}).items()}
    named = {m: _find(tables, name) for m, name in mapping.get("features", {}).items()}
    taken = {place for found in named.values() for place in found.places}
    own = {name: found for name, found in every.items() if is_column(name)}
    # Others are read under their own name, or are the only one that means it.
    for field in FIELDS:
        alike = [name for name in every if our_name(name) == field]
        if field in every or len(alike) == 1:
            found = every[field if field in every else alike[0]]
            if field in NEVER_FEATURES or taken.isdisjoint(found.places):
                own[field] = found
    columns = own | chosen
    said = {place: field for field, found in columns.items() for place in found.places}
    for m, name in mapping.get("features", {}).items():
        for place in named[m].places:
            if place in said or our_name(place[1]) in NEVER_FEATURES:
                what = said.get(place, our_name(place[1]))
                raise UserError(f"features.{m}: {place[0]}: {brief(place[1])} is the {what}, so that it is no feature")
        if name.endswith("*") and is_telling(name[:-1].rpartition(":")[2]):
            raise UserError(
                f"features.{m}: {brief(name)} says what an utterance is, by its name, so that it is no feature; if it "
                "is one, rename its columns"
            )
    return columns, named


def _holds_vectors(column: Column) -> bool:
    """Says it of arrays; of a list of dicts' fields, each is looked at by itself."""
    if isinstance(column, list):
        return any(isinstance(x, np.ndarray | list | tuple) for x in column)
    return isinstance(column, np.ndarray) and column.ndim in (2, 3) and column.dtype.kind in "fiu"


def _has(tables: Tables) -> str:
    return "; ".join(f"{file}: {', '.join(map(str, list(columns)[:12]))}" for file, columns in tables.items())


def _find(tables: Tables, name: str) -> Found:
    """Finds the column `name`, `FILE:name`, or FILE's only one; for `prefix*` several stand side by side."""
    file, colon, column = name.partition(":")
    if not colon and name in tables and len(tables[name]) == 1:
        only, content = next(iter(tables[name].items()))
        return Found(((name, only),), content)
    where = {file: tables[file]} if colon and file in tables else tables
    column = column if colon and file in tables else name
    if column.endswith("*"):
        return _side_by_side(where, column[:-1])
    found = [Found(((file, column),), columns[column]) for file, columns in where.items() if column in columns]
    if len(found) != 1:
        raise UserError(f"column {brief(name)} is in {len(found)} of the files: {_has(where)}. Say FILE:COLUMN")
    return found[0]


def _side_by_side(tables: Tables, prefix: str) -> Found:
    numbered = re.compile(re.escape(prefix) + r"(\d{1,9})", re.ASCII)
    for file, columns in tables.items():
        found = {int(match[1]): name for name in columns if (match := numbered.fullmatch(name))}
        names = [found[i] for i in sorted(found)]
        if not names:
            continue
        parts = [_listed(Found(((file, name),), columns[name]), None, None) for name in names]
        if len({len(part) for part in parts}) > 1 or any(np.ndim(x) for part in parts for x in part[:1]):
            raise UserError(f"{file}: the columns {prefix}* must be numbers, as many in each")
        places = tuple((file, name) for name in names)
        if all(isinstance(part, np.ndarray) and part.dtype.kind in "fiub" for part in parts):
            return Found(places, np.stack(parts, axis=1))
        return Found(places, [_numbers(file, names, i, cells) for i, cells in enumerate(zip(*parts, strict=True))])
    raise UserError(f"no column is called {prefix}0, {prefix}1, … in {_has(tables)}")


def _numbers(file: str, names: Sequence[str], row: int, cells: Sequence[Any]) -> np.ndarray | values.Unread:
    """Returns the numbers of a row, of which some may be written as text."""
    found = []
    for name, cell in zip(names, cells, strict=True):
        try:
            found.append(float(values.plain(file, name, cell)))
        except (TypeError, ValueError, OverflowError):
            blank = "blank" if isinstance(cell, str) and not cell.strip() else brief(cell)
            return values.Unread(f"{file}, row {row}: column {brief(name)} is {blank}, not a number")
    return np.array(found)


def _listed(found: Found, ids: Sequence[str | None] | None, count: int | None) -> Sequence[Any] | np.ndarray:
    """Returns a column's values in the order of the ids, one for each of `count` utterances."""
    column = found.column
    if isinstance(column, Mapping):
        if count is None:
            return list(column)
        if ids is None:
            raise UserError(f"{found} is by id, and there is no column of ids: --mapping can name it")
        return [None if name is None else column.get(name) for name in ids]
    if not isinstance(column, list | tuple | np.ndarray) or (isinstance(column, np.ndarray) and not column.ndim):
        raise UserError(f"{found} is one value, not one an utterance")
    if count is not None and len(column) != count:
        raise UserError(f"{found} has {len(column)} rows, the utterances are {count}")
    return column
