"""Tables of a corpus: npz, npy, csv, parquet and h5 files become named columns; whatever is wrong with one is told by
name."""

import math
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError

FIELDS = ("id", "split", "label", "dialogue", "turn", "speaker", "session", "sentence", "start", "end")
# One entry per utterance, by position or by id.
Column = Sequence[Any] | np.ndarray | Mapping[str, Any]


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns {column: array}; pickles in the file are never opened. Raises UserError naming the file."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        with zipfile.ZipFile(path) as members:
            for info in members.infolist():
                with members.open(info) as member:
                    _refuse_bigger(member, info.file_size)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, NotImplementedError, MemoryError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not an npz table ({error})") from None


def _refuse_bigger(member: Any, size: int) -> None:
    """Raises ValueError if an array's header announces more than its member holds: NumPy takes the memory before it
    looks."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"an array of {list(shape)} {dtype} is announced, {size} bytes are there")


def read_table(path: Path) -> dict[str, Column]:
    """Returns {column: values} of a file, read by its ending; an npy has one column, named as the file. Raises
    UserError naming the file."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    ending = path.suffix.lower()
    if ending == ".npz":
        return dict(read_npz(path))
    try:
        if ending == ".npy":
            return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}  # a map cannot be longer than its file
        if ending in (".csv", ".tsv", ".parquet"):
            return _arrow(path, ending)
        if ending in (".h5", ".hdf5"):
            return _hdf5(path)
    except ImportError as error:
        raise UserError(f"{path}: reading it needs {error.name}: pip install -e '.[prep]'") from None
    except Exception as error:
        raise UserError(f"{path} cannot be read as {ending[1:]} ({type(error).__name__}: {error})") from None
    raise UserError(f"{path}: a table ends in .npz, .npy, .csv, .tsv, .parquet, .h5 or .hdf5")


def _arrow(path: Path, ending: str) -> dict[str, Column]:
    if ending == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
    else:
        import pyarrow.csv

        parse = pyarrow.csv.ParseOptions(delimiter="\t" if ending == ".tsv" else ",", newlines_in_values=True)
        as_text = pyarrow.csv.ConvertOptions(strings_can_be_null=False, null_values=[], column_types={"id": "string"})
        table = pyarrow.csv.read_csv(path, parse_options=parse, convert_options=as_text)
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


def _hdf5(path: Path) -> dict[str, Column]:
    """Returns datasets by their path; a group of datasets is also a column, by its members' names."""
    import h5py

    found: dict[str, Column] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            stored = item.id.get_storage_size()
            if item.is_virtual or item.external:
                raise ValueError(f"{name} lies in another file")
            if item.nbytes > 1000 * max(stored, 1):  # never written, or compressed beyond what features are
                raise ValueError(f"{name} announces {item.nbytes} bytes, {stored} are there")
            value = item.asstr()[()] if h5py.check_string_dtype(item.dtype) else item[()]
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
        mapping = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--mapping={path}: {error}") from None
    for section, content in mapping.items():
        if section not in ("columns", "features", "values") or not isinstance(content, dict):
            raise UserError(f"--mapping={path}: {section!r} is none of [columns], [features], [values.FIELD]")
    for field in (*mapping.get("columns", {}), *mapping.get("values", {})):
        if field not in FIELDS:
            raise UserError(f"--mapping={path}: {field!r} is not one of {', '.join(FIELDS)}")
    for section in ("columns", "features"):
        for name, column in mapping.get(section, {}).items():
            if not isinstance(column, str):
                raise UserError(f"--mapping={path}: {section}.{name} must be the name of a column")
    return mapping


def records(
    tables: Mapping[str, Mapping[str, Column]], mapping: Mapping[str, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yields one record per utterance, by our names; `tables` has the columns by file name. Raises UserError naming
    file and column."""
    columns = {field: _find(tables, name) for field, name in mapping.get("columns", {}).items()}
    if not mapping:
        columns = {field: tables_[field] for tables_ in tables.values() for field in FIELDS if field in tables_}
    for field in ("id", "label", "split"):
        if field not in columns:
            has = ", ".join(f"{file}: {', '.join(list(found)[:12])}" for file, found in tables.items())
            raise UserError(f"no column {field!r} among those of {has}; --mapping can name it")
    features = {m: _find(tables, name) for m, name in mapping.get("features", {}).items()}
    if not mapping:
        features = {name: x for found in tables.values() for name, x in found.items() if _holds_vectors(x)}
    ids = [str(x) for x in _listed("id", columns["id"], None)]
    listed = {field: _listed(field, column, ids) for field, column in columns.items()}
    vectors = {m: _listed(m, column, ids) for m, column in features.items()}
    values = mapping.get("values", {})
    for i, name in enumerate(ids):
        record = {field: _plain(column[i]) for field, column in listed.items()}
        for field, table in values.items():
            if field in record:
                record[field] = table.get(str(record[field]), record[field])
        yield record | {"id": name} | {m: column[i] for m, column in vectors.items() if column[i] is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def _holds_vectors(column: Column) -> bool:
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


def _listed(field: str, column: Column, ids: Sequence[str] | None) -> Sequence[Any] | np.ndarray:
    if isinstance(column, Mapping):
        if ids is None:
            return list(column)
        return [column.get(name) for name in ids]
    if ids is not None and len(column) != len(ids):
        raise UserError(f"column {field!r} has {len(column)} rows, id has {len(ids)}")
    return column
