"""A file of anybody's -> a table: columns by name, and where each row stands. No JAX.

What has several values in a row (an array of NumPy, a list or an object of JSON) becomes a column for each:
`logits[0]`, `probabilities.joy`. No pickle is read: to open one is to run what is in it."""

import csv
import dataclasses
import io
import itertools
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.files import load_json, open_npz
from mer_jax.plain import brief
from mer_jax.text_files import csv_records, text_of, whole_line

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".npy", ".npz")
ARRAY = "values"  # the column of an .npy, which has no names
MMSA_SUMMARY = ("Model", "Has0_acc_2", "Mult_acc_2", "MAE", "Corr")  # columns of what MMSA's runs leave


@dataclasses.dataclass
class Table:
    """columns: by name the value of every row. wide: by name the columns of what has several values in a row. lines:
    the number of every row's line; without lines rows are numbered from 1."""

    path: Path
    columns: dict[str, list[Any]]
    wide: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    lines: Sequence[int] | None = None

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def where(self, row: int) -> str:
        return f"{self.path}, line {self.lines[row]}" if self.lines else f"{self.path}, row {row + 1}"

    def taken(self, rows: Sequence[int]) -> "Table":
        """The table of some rows, in this order."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Table(self.path, columns, self.wide, [self.lines[row] for row in rows] if self.lines else None)


def read_table(path: Path) -> Table:
    """Raises UserError for a file that is no table, or has no rows."""
    if path.suffix in (".pkl", ".pickle", ".pt", ".pth"):
        raise UserError(
            f"{path} is a pickle, which is not read, since to open one runs what is in it. Save the targets and the "
            "predictions as .npz: np.savez('FILE.npz', labels=..., predictions=...)"
        )
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: must end in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"{path} is a folder; it must be a file" if path.is_dir() else f"{path} does not exist")
    table = READERS[path.suffix](path)
    if not table.rows:
        raise UserError(f"{path} has no rows: there is nothing to score")
    if {"Model"} < set(table.columns) & set(MMSA_SUMMARY):
        raise UserError(
            f"{path} is a table of scores, as MMSA writes it at the end of a run, and not of predictions. MMSA keeps "
            "no predictions: save `pred` and `true` of its do_test as .npz, as predictions and labels"
        )
    return table


def _read_csv(path: Path) -> Table:
    """Values parted by commas, or of a .tsv and .txt by tabs."""
    delimiter = "," if path.suffix == ".csv" else "\t"
    header = next(csv.reader(io.StringIO(text_of(path), newline=""), delimiter=delimiter), [])
    if doubled := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
        raise UserError(f"{path}, line 1: the column {doubled[0]!r} is there {header.count(doubled[0])} times")
    records = itertools.islice(csv_records(path, delimiter=delimiter), 1, None)
    columns: dict[str, list[Any]] = {name: [] for name in header}
    lines = []
    for line, record in records:
        for name, value in whole_line(f"{path}, line {line}", record).items():
            columns[name].append(value)
        lines.append(line)
    return Table(path, columns, lines=lines)


def _read_jsonl(path: Path) -> Table:
    records, lines = [], []
    for line, text in enumerate(text_of(path).splitlines(), 1):
        if text.strip():
            records.append(_object(f"{path}, line {line}", text))
            lines.append(line)
    return _of_records(path, records, lines)


def _object(where: str, text: str) -> dict[str, Any]:
    try:
        value = load_json(text)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: it is {brief(value)}; it must be an object, as in {{'id': 'a', 'label': 'joy', …}}")
    return value


def _read_json(path: Path) -> Table:
    """A list of objects, one a row, or an object of lists, as {"references": […], "predictions": […]}."""
    try:
        value = load_json(text_of(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno} is not valid JSON ({error.msg})") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
    if isinstance(value, list) and all(isinstance(record, dict) for record in value):
        return _of_records(path, value)
    if isinstance(value, dict) and (lists := {name: found for name, found in value.items() if isinstance(found, list)}):
        check_lengths(path, {name: len(found) for name, found in lists.items()})
        return _of_records(path, [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)])
    raise UserError(
        f'{path}: it must be a list of objects, one a row, or an object of lists, as {{"references": […], '
        '"predictions": […]}'
    )


def _of_records(path: Path, records: Sequence[Mapping[str, Any]], lines: Sequence[int] | None = None) -> Table:
    table = Table(path, {}, lines=lines)
    flat = []
    for row, record in enumerate(records):
        cells: dict[str, Any] = {}
        for name, value in record.items():
            if not isinstance(value, list | dict):
                cells[name] = value
                continue
            parts = _parts(name, value)
            if table.wide.setdefault(name, list(parts)) != list(parts):
                of = f"{path}, line {lines[row]}" if lines else f"{path}, row {row + 1}"
                raise UserError(f"{of}: {name} has {', '.join(parts)}; other rows have {', '.join(table.wide[name])}")
            cells |= parts
        flat.append(cells)
    names = dict.fromkeys(name for cells in flat for name in cells)
    table.columns = {name: [cells.get(name) for cells in flat] for name in names}
    return table


def _parts(name: str, value: Any) -> dict[str, Any]:
    """The values of a list or an object by the names of their columns."""
    if isinstance(value, dict):
        return {f"{name}.{part}": found for part, found in value.items()}
    return {f"{name}[{i}]": found for i, found in enumerate(value)}


def _read_npy(path: Path) -> Table:
    return _of_arrays(path, {ARRAY: _loaded(path, lambda: np.load(path, allow_pickle=False))})


def _read_npz(path: Path) -> Table:
    def load() -> dict[str, np.ndarray]:
        with open_npz(path) as file:
            return {name: file[name] for name in file.files}

    found = _loaded(path, load)
    arrays = {name: array for name, array in found.items() if array.ndim}  # a number alone, as a loss, is no column
    return _of_arrays(path, arrays)


def _loaded(path: Path, load: Any) -> Any:
    try:
        return load()
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as {path.suffix[1:]} ({error}); objects are not read") from None


def _of_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Table:
    check_lengths(path, {name: len(array) if array.ndim else 1 for name, array in arrays.items()})
    table = Table(path, {})
    for name, array in arrays.items():
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim > 2 or array.ndim == 0:
            raise UserError(f"{path}: {name} is an array {list(array.shape)}; it must be [rows] or [rows, values]")
        if array.ndim == 1:
            table.columns[name] = array.tolist()
            continue
        table.wide[name] = [f"{name}[{i}]" for i in range(array.shape[1])]
        table.columns |= dict(zip(table.wide[name], array.T.tolist(), strict=True))
    return table


def check_lengths(path: Path, lengths: Mapping[str, int]) -> None:
    """Raises UserError unless all that the file holds has as many rows."""
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {rows}" for name, rows in lengths.items())
        raise UserError(f"{path}: what it holds differs in length ({told}); each must have a value for every row")


READERS = {
    ".csv": _read_csv, ".tsv": _read_csv, ".txt": _read_csv, ".jsonl": _read_jsonl, ".json": _read_json,
    ".npy": _read_npy, ".npz": _read_npz,
}  # fmt: skip


def listed(words: Iterable[str], most: int = 12) -> str:
    """The words, and how many more there are."""
    words = list(words)
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
