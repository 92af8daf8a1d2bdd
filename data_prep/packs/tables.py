"""Tables of a corpus: npz, npy, csv, parquet and h5 files become named columns; what is wrong with a file is told
by name."""

import contextlib
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import limits
from data_prep.packs.field_names import FIELDS
from mer_jax.errors import UserError
from mer_jax.plain import cause
from mer_jax.text_files import check_utf8

ENDINGS = (".npz", ".npy", ".csv", ".tsv", ".parquet", ".h5", ".hdf5")
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
    _refuse_hollow("an array", shape, dtype)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"an array of {list(shape)} {dtype} is announced, {size} bytes are there")


def _refuse_hollow(name: str, shape: Sequence[int], dtype: np.dtype) -> None:
    """Raises ValueError for rows of no size: a file of no size may announce any number of them."""
    if len(shape) and shape[0] and not math.prod(shape[1:]) * dtype.itemsize:
        raise ValueError(f"{name} of {list(shape)} {dtype} has rows that hold nothing")


def read_table(path: Path, as_text: Collection[str] = FIELDS) -> dict[str, Column]:
    """Returns {column: values} of a file, read by its ending; an npy has one column, named as the file. Of a csv the
    columns `as_text` stay as they are written. Raises UserError naming the file."""
    ending = path.suffix.lower()
    if ending == ".npz":
        return dict(read_npz(path))
    with _reading(path, ending[1:]) as budget:
        if ending == ".npy":
            found = np.load(path, mmap_mode="r", allow_pickle=False)  # a map cannot be longer than its file
            _refuse_hollow("an array", found.shape, found.dtype)
            return {path.stem: found}
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
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # what is not UTF-8 stays bytes, and is told with its row
        return [_text_or_bytes(raw) for raw in column.cast(pyarrow.binary()).to_pylist()]


def _text_or_bytes(raw: bytes | None) -> str | bytes | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return raw


def _hdf5(path: Path, budget: limits.Budget) -> dict[str, Column]:
    """Returns datasets by their path; a group of datasets is also a column, by its members' names."""
    import h5py

    found: dict[str, Column] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.is_virtual or item.external:
                raise ValueError(f"{name} lies in another file")
            if item.shape is None:  # h5py's Empty
                return
            _refuse_hollow(name, item.shape, item.dtype)
            budget.spend(item.nbytes)
            value = item[()]
            found[name] = value.tolist() if getattr(value, "dtype", np.dtype(int)).hasobject else value
            group = name.rpartition("/")[0]
            if group:
                found.setdefault(group, {})[name.removeprefix(f"{group}/")] = value  # type: ignore[index]

    with h5py.File(path, "r") as file:
        file.visititems(visit)  # follows no link out of the file
    return found
