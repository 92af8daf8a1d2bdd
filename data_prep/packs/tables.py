"""Tables of a corpus: npz, npy, csv, parquet and h5 files become named columns; whatever is wrong with one is told by
name."""

import contextlib
import math
import tomllib
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import limits
from data_prep.packs import values
from data_prep.packs.rows import FIELDS, our_name
from mer_jax.errors import UserError
from mer_jax.plain import cause
from mer_jax.text_files import check_utf8, text_of

ENDINGS = (".npz", ".npy", ".csv", ".tsv", ".parquet", ".h5", ".hdf5")
Chosen = Mapping[str, dict[str, Any]]  # what `read_mapping` returns
# One entry per utterance, by position or by id.
Column = Sequence[Any] | np.ndarray | Mapping[str, Any]


@contextlib.contextmanager
def _reading(path: Path, what: str) -> Iterator[limits.Budget]:
    """Whatever goes wrong inside becomes a UserError that says that the file cannot be read as `what`."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    with limits.bounded(path, limits.budget_of(path.stat().st_size)) as budget:
        try:
            yield budget
        except ImportError as error:
            raise UserError(f"{path}: reading it needs {error.name}: pip install -e '.[prep]'") from None
        except (UserError, limits.TooMuch, MemoryError):
            raise
        except Exception as error:  # of the libraries, which have theirs for every kind of damage
            raise UserError(f"{path} cannot be read as {what} ({cause(error)})") from None


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns {column: array}; pickles in the file are never opened. Raises UserError naming the file."""
    with _reading(path, "npz") as budget:
        with zipfile.ZipFile(path) as members:
            for info in members.infolist():
                budget.spend(info.file_size)
                with members.open(info) as member:
                    _refuse_bigger(member, info.file_size)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


def _refuse_bigger(member: Any, size: int) -> None:
    """Raises ValueError if an array's header announces more than its member holds: NumPy takes the memory before it
    looks."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"an array of {list(shape)} {dtype} is announced, {size} bytes are there")


def read_table(path: Path, as_text: Collection[str] = FIELDS) -> dict[str, Column]:
    """Returns {column: values} of a file, read by its ending; an npy has one column, named as the file. Of a csv the
    columns `as_text` stay as they are written. Raises UserError naming the file."""
    ending = path.suffix.lower()
    if ending == ".npz":
        return dict(read_npz(path))
    with _reading(path, ending[1:]) as budget:
        if ending == ".npy":
            return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}  # a map cannot be longer than its file
        if ending in (".csv", ".tsv", ".parquet"):
            return _arrow(path, ending, as_text)
        if ending in (".h5", ".hdf5"):
            return _hdf5(path, budget)
    raise UserError(f"{path}: a table ends in .npz, .npy, .csv, .tsv, .parquet, .h5 or .hdf5")


def _arrow(path: Path, ending: str, as_text: Collection[str]) -> dict[str, Column]:
    if ending == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
    else:
        import pyarrow.csv

        parse = pyarrow.csv.ParseOptions(delimiter="\t" if ending == ".tsv" else ",", newlines_in_values=True)
        convert = pyarrow.csv.ConvertOptions(
            strings_can_be_null=False, null_values=[], column_types=dict.fromkeys(as_text, "string")
        )
        check_utf8(path)
        table = pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert)
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError("two columns have the same name")
    return {name: _values(table[name]) for name in table.column_names}


def _values(column: Any) -> Column:
    import pyarrow

    kind = column.type
    if pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind):
        return column.to_numpy()
    if pyarrow.types.is_fixed_size_list(kind) and not column.null_count:
        flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), kind.list_size)
    return column.to_pylist()


def _hdf5(path: Path, budget: limits.Budget) -> dict[str, Column]:
    """Returns datasets by their path; a group of datasets is also a column, by its members' names."""
    import h5py

    found: dict[str, Column] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise ValueError(f"{name} lies in another file")
            budget.spend(item.nbytes)
            value = item[()]
            found[name] = value.tolist() if getattr(value, "dtype", np.dtype(int)).hasobject else value
            group = name.rpartition("/")[0]
            if group:
                found.setdefault(group, {})[name.removeprefix(f"{group}/")] = value  # type: ignore[index]

    with h5py.File(path, "r") as file:
        file.visititems(visit)  # follows no link out of the file
    return found


def read_mapping(path: Path) -> dict[str, dict[str, Any]]:
    """Reads a mapping file in TOML: [columns] our field = "COLUMN" or "FILE:COLUMN"; [features] modality = the same, or
    "PREFIX*" for numbered columns; [values.FIELD] theirs = "ours". Raises UserError naming the file and key."""
    try:
        mapping = tomllib.loads(text_of(path))
    except ValueError as error:
        raise UserError(f"--mapping={path}: {error}") from None
    for section, content in mapping.items():
        if section not in ("columns", "features", "values") or not isinstance(content, dict):
            raise UserError(f"--mapping={path}: {section!r} is none of [columns], [features], [values.FIELD]")
    for field in (*mapping.get("columns", {}), *mapping.get("values", {})):
        if field not in FIELDS:
            raise UserError(f"--mapping={path}: {field!r} is not one of {', '.join(FIELDS)}")
    if wrong := [m for m in mapping.get("features", {}) if our_name(m) in FIELDS]:
        raise UserError(f"--mapping={path}: {wrong[0]!r} is never a feature; call a modality text, audio, visual")
    if both := set(mapping.get("features", {}).values()) & set(mapping.get("columns", {}).values()):
        raise UserError(f"--mapping={path}: {min(both)!r} says what an utterance is, so that it is no feature")
    for section in ("columns", "features"):
        for name, column in mapping.get(section, {}).items():
            if not isinstance(column, str):
                raise UserError(f"--mapping={path}: {section}.{name} must be the name of a column")
    return mapping


def features_of(mapping: Chosen) -> frozenset[str] | None:
    """Returns the modalities that a mapping names, None if it leaves finding them to us."""
    if not (mapping.get("columns") or mapping.get("features")):
        return None
    return frozenset(mapping.get("features", {}))


def as_text(mapping: Chosen) -> set[str]:
    """Returns the columns whose values stay as a csv has them."""
    return {*FIELDS, *(name.rpartition(":")[2] for name in mapping.get("columns", {}).values())}


def renamed(file: str, found: Sequence[Mapping[str, Any]], mapping: Chosen) -> Iterator[dict[str, Any]]:
    """Yields the records of a list of dicts as a mapping names their fields."""
    names = dict.fromkeys(str(name) for record in found for name in record)
    yield from records({file: {name: [record.get(name) for record in found] for name in names}}, mapping)


def records(tables: Mapping[str, Mapping[str, Column]], mapping: Chosen) -> Iterator[dict[str, Any]]:
    """Yields one record per utterance, by our names where there is a mapping, else by the columns'; `tables` has the
    columns by file name. Raises UserError naming file and column."""
    columns, features = _chosen(tables, mapping)
    has = ", ".join(f"{file}: {', '.join(list(found)[:12])}" for file, found in tables.items())
    if not (columns or features):
        raise UserError(f"no column is one of {', '.join(FIELDS)}, or a feature, among those of {has}")
    id_column = next((name for name in columns if our_name(name) == "id"), None)
    ids = None
    if id_column is not None:
        listed = _listed("id", columns[id_column], None, None)
        ids = [values.name(f"row {i}", "id", x) for i, x in enumerate(listed)]
    lengths = [len(column) for column in (*columns.values(), *features.values()) if not isinstance(column, Mapping)]
    count = len(ids) if ids is not None else lengths[0] if lengths else 0
    of_fields = {field: _listed(field, column, ids, count) for field, column in columns.items()}
    of_features = {m: _listed(m, column, ids, count) for m, column in features.items()}
    renames = mapping.get("values", {})
    for i in range(count):
        record = {field: values.plain(f"row {i}", field, column[i]) for field, column in of_fields.items()}
        for field in record:
            if table := renames.get(our_name(field)):
                record[field] = table.get(_written(record[field]), record[field])
        if ids is not None and id_column is not None:
            record[id_column] = ids[i]
        yield record | {m: column[i] for m, column in of_features.items() if column[i] is not None}


def _written(value: Any) -> str:
    """Returns a value as [values] of a mapping writes it."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _chosen(tables: Mapping[str, Mapping[str, Column]], mapping: Chosen) -> tuple[dict[str, Column], dict[str, Column]]:
    """Returns the columns that say what an utterance is, and those that are its features."""
    every = {name: column for found in tables.values() for name, column in found.items()}
    if features_of(mapping) is None:
        columns = {name: column for name, column in every.items() if our_name(name) in FIELDS}
        return columns, {n: x for n, x in every.items() if n not in columns and _holds_vectors(x)}
    columns = {field: _find(tables, name) for field, name in mapping.get("columns", {}).items()}
    own = {name: every[name] for name in ("id", "split", "label") if name in every}
    return own | columns, {m: _find(tables, name) for m, name in mapping.get("features", {}).items()}


def _holds_vectors(column: Column) -> bool:
    """Says it of arrays; of a list of dicts' fields, each is looked at by itself."""
    if isinstance(column, list):
        return any(isinstance(x, np.ndarray | list | tuple) for x in column)
    return isinstance(column, np.ndarray) and column.ndim in (2, 3) and column.dtype.kind in "fiu"


def _find(tables: Mapping[str, Mapping[str, Column]], name: str) -> Column:
    """Finds the column `name`, `FILE:name`, or FILE's only one; for `prefix*` several stand side by side."""
    file, colon, column = name.partition(":")
    if not colon and name in tables and len(tables[name]) == 1:
        return next(iter(tables[name].values()))
    where = {file: tables[file]} if colon and file in tables else tables
    column = column if colon and file in tables else name
    if column.endswith("*"):
        return _side_by_side(where, column[:-1])
    found = [columns[column] for columns in where.values() if column in columns]
    if len(found) != 1:
        has = "; ".join(f"{file}: {', '.join(list(columns)[:12])}" for file, columns in where.items())
        raise UserError(f"column {name!r} is in {len(found)} of the files: {has}. Say FILE:COLUMN")
    return found[0]


def _side_by_side(tables: Mapping[str, Mapping[str, Column]], prefix: str) -> np.ndarray:
    for columns in tables.values():
        numbered = {int(n[len(prefix) :]): n for n in columns if n.startswith(prefix) and n[len(prefix) :].isdecimal()}
        if numbered:
            wrong = [n for n in numbered.values() if not isinstance(columns[n], np.ndarray)]
            if wrong:
                raise UserError(f"column {wrong[0]!r} holds what is not a number")
            return np.stack([np.asarray(columns[numbered[i]]) for i in sorted(numbered)], axis=1)
    raise UserError(f"no column is called {prefix}0, {prefix}1, …")


def _listed(field: str, column: Column, ids: Sequence[str] | None, count: int | None) -> Sequence[Any] | np.ndarray:
    """Returns a column's values in the order of the ids, one for each of `count` utterances."""
    if isinstance(column, Mapping):
        if count is None:
            return list(column)
        if ids is None:
            raise UserError(f"column {field!r} is by id, and there is no column of ids: --mapping can name it")
        return [column.get(name) for name in ids]
    if isinstance(column, str | bytes) or not np.shape(column[:0] if isinstance(column, list) else column):
        raise UserError(f"column {field!r} is one value, not one an utterance")
    if count is not None and len(column) != count:
        raise UserError(f"column {field!r} has {len(column)} rows, id has {count}")
    return column
