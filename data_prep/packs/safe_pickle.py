"""Pickles of feature packs are read without running anything of theirs. This is the project's only unpickler.

A pickle is a program: it names functions and calls them. Packs need a few, those that make arrays, tensors and
containers. Each of these is done here, in NumPy, with its sizes checked against the bytes that are there before memory
is taken; a pickle that names any other is refused at that name. What is made and copied on the way is counted against
the file's budget (data_prep/limits.py), and so is what comes out, with everything that stands there twice counted
twice. Written in Python on Python's own reader of opcodes,
because the one in C takes memory for whatever place in its memo a damaged file asks for.
"""

import functools
import io
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from data_prep import limits
from data_prep.packs import python2
from data_prep.packs.repeats import Keys, Refused, check_expanded
from mer_jax.errors import UserError
from mer_jax.plain import brief, cause


def load(path: Path) -> Any:
    """Returns what the pickle, or torch file, at `path` holds: containers, strings, numbers, NumPy arrays; tensors come
    as arrays, those of bfloat16 as float32. Raises UserError naming the file and what it asked for, or how it is
    damaged."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    size = path.stat().st_size
    with limits.bounded(path, limits.budget_of(size)) as budget:
        try:
            with open(path, "rb") as file:
                found = _read(file, size, budget)
            check_expanded(found, limits.budget_of(size))
            return found
        except Refused as refused:
            raise UserError(f"{path}: refused, and nothing of it was run: {refused}") from None
        except (limits.TooMuch, MemoryError):
            raise
        except Exception as error:
            # Damage can surface as anything: the opcodes of a damaged file are arbitrary.
            raise UserError(f"{path} is not a whole pickle of arrays ({cause(error)})") from None


def _read(file: BinaryIO, size: int, budget: limits.Budget) -> Any:
    if zipfile.is_zipfile(file):
        return _torch_zip(file, budget)
    file.seek(0)
    whole = _Bounded(file, size)
    first = _Reader(whole, budget).load()
    return _torch_stream(whole, budget) if _is_magic(first) else first


class _Bounded:
    """A file that is never asked for more bytes than it has."""

    def __init__(self, file: BinaryIO | io.BytesIO, size: int):
        self._file, self._size = file, size

    def read(self, count: int = -1) -> bytes:
        self.refuse_more(count)
        return self._file.read(count)

    def refuse_more(self, count: int) -> None:
        if count > (left := self._size - self.at()):
            raise EOFError(f"{count} bytes are announced, {left} are there")

    def at(self) -> int:
        return self._file.tell()

    def back_to(self, place: int) -> None:
        self._file.seek(place)

    def readline(self) -> bytes:
        return self._file.readline()


_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Reader(_Unpickler):
    """Makes values of opcodes; `storages` finds a torch storage by its persistent id."""

    dispatch = _Unpickler.dispatch.copy()

    def __init__(self, file: _Bounded, budget: limits.Budget, storages: Callable[[Any], "_Storage"] | None = None):
        super().__init__(file, encoding="latin1")  # NumPy arrays of Python 2
        self.budget, self.keys = budget, Keys(budget)
        self._storages = storages

    def _decode_string(self, raw: bytes) -> str:
        self.budget.spend(2 * len(raw))
        return python2.decoded(raw)

    def find_class(self, module: str, name: str) -> Any:
        module = re.sub(r"^numpy\.core\b", "numpy._core", module).replace("__builtin__", "builtins")
        if (module, name) in NAMES:
            return NAMES[module, name]
        if (module, name) not in CALLS:
            raise Refused(f"it asks for {module}.{name}, which no feature pack needs")
        return functools.partial(CALLS[module, name], self)

    def persistent_load(self, pid: Any) -> Any:
        if self._storages is None:
            raise Refused("it refers to something outside the file")
        return self._storages(pid)

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Array | _Dtype):
            raise Refused(f"it sets the state of a {type(self.stack[-1]).__name__}")
        if isinstance(self.stack[-1], _Array):
            of_each = 1 if isinstance(state[-1], bytes | str) else 8
            self.budget.spend(of_each * len(state[-1]))
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    def load_dict(self) -> None:
        self.keys.check(self.stack[::2])
        super().load_dict()

    def load_setitem(self) -> None:
        self._refuse_other_than_dict(self.stack[-3])
        self.keys.check(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._refuse_other_than_dict(self.metastack[-1][-1])
        self.keys.check(self.stack[::2])
        super().load_setitems()

    def load_additems(self) -> None:
        self.keys.check(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        self.keys.check(self.stack)
        super().load_frozenset()

    def _refuse_other_than_dict(self, found: Any) -> None:
        if not isinstance(found, dict):
            raise Refused(f"it sets items of a {type(found).__name__}")

    dispatch |= {
        code[0]: method
        for code, method in (
            (pickle.BUILD, load_build),
            (pickle.BYTEARRAY8, load_bytearray8),
            (pickle.DICT, load_dict),
            (pickle.SETITEM, load_setitem),
            (pickle.SETITEMS, load_setitems),
            (pickle.ADDITEMS, load_additems),
            (pickle.FROZENSET, load_frozenset),
        )
    }


class _Ndarray:
    """Stands for the class numpy.ndarray, which packs only ever name."""


class _Dtype:
    """Stands for numpy.dtype(code) of numbers, strings or objects."""

    def __init__(self, code: str, *align_and_copy: Any):
        if not re.fullmatch(r"[<>=|]?([biufSU]\d{1,9}|O8?|[?bhilqBHILQefd])", str(code)):
            raise Refused(f"an array of type {brief(code)}")
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: Any) -> None:
        _, order, subtype, names, fields = state[:5]
        if subtype is not None or names is not None or fields is not None:
            raise Refused("an array of a compound type")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """_reconstruct makes this; its contents come with the state."""

    def __setstate__(self, state: Any) -> None:
        shape, kind, fortran, raw = state[-4:]
        raw = python2.bytes_of(raw) if isinstance(raw, str) else raw  # bytes of Python 2
        _check_size(shape, kind.dtype, raw)
        super().__setstate__((1, tuple(shape), kind.dtype, bool(fortran), raw))  # type: ignore[arg-type]


def _check_size(shape: Any, dtype: np.dtype, raw: Any) -> None:
    whole = isinstance(raw, list) if dtype.hasobject else isinstance(raw, bytes | bytearray)
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape) or not whole:
        raise Refused(f"an array of shape {brief(shape)}")
    size = math.prod(shape) * (1 if dtype.hasobject else dtype.itemsize)
    if size != len(raw):
        raise Refused(f"an array of shape {brief(list(shape))} and type {dtype} from {len(raw)} bytes")


def _reconstruct(reader: _Reader, kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not _Ndarray or tuple(shape) != (0,):
        raise Refused(f"an array made with shape {brief(shape)}")
    return np.ndarray.__new__(_Array, (0,))


def _scalar(reader: _Reader, kind: _Dtype, raw: Any) -> Any:
    reader.budget.spend(len(raw))
    raw = python2.bytes_of(raw) if isinstance(raw, str) else raw
    if kind.dtype.hasobject:
        raise Refused("a number of type object")
    _check_size((), kind.dtype, raw)
    return np.frombuffer(raw, kind.dtype)[0]


def _frombuffer(reader: _Reader, raw: Any, kind: _Dtype, shape: Any, order: Any) -> np.ndarray:
    if kind.dtype.hasobject or order not in ("C", "F"):
        raise Refused(f"a buffer of type {kind.dtype} in order {brief(order)}")
    _check_size(shape, kind.dtype, raw)
    return np.frombuffer(raw, kind.dtype).reshape(shape, order=order)


def _container(kind: type) -> Callable[..., Any]:
    def make(reader: _Reader, *items: Any) -> Any:
        if len(items) > 1 or not all(isinstance(x, list | tuple | set | frozenset | dict) for x in items):
            raise Refused(f"a {kind.__name__} of {', '.join(type(x).__name__ for x in items)}")
        for given in items:
            reader.budget.spend(64 * len(given))
            if kind in (set, frozenset):
                reader.keys.check(given)
            elif kind is dict and not isinstance(given, dict):
                reader.keys.check(key for key, _ in given)
        return kind(*items)

    return make


def _bytes(reader: _Reader, *given: Any) -> bytes:
    """Stands for _codecs.encode(text, "latin1") and bytearray(bytes), with which older protocols write bytes."""
    reader.budget.spend(len(given[0]) if given and isinstance(given[0], str | bytes) else 0)
    if len(given) == 2 and isinstance(given[0], str) and given[1] in ("latin1", "latin-1"):
        return python2.bytes_of(given[0])
    if not given or (len(given) == 1 and isinstance(given[0], bytes)):
        return b"".join(given)
    raise Refused("bytes that are made of something else")


def _defaultdict(reader: _Reader, *factory: Any) -> dict[Any, Any]:
    return {}


TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_TYPES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Untyped": np.uint8,
    "Bool": np.bool_,
}


class _Storage:
    """A tensor's numbers, one after the other."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers


def _storage_type(name: str) -> np.dtype:
    return np.dtype(TORCH_TYPES[name])


def _rebuild_tensor(reader: _Reader, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> np.ndarray:
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise Refused("a tensor of unknown storage or negative size")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > len(storage.numbers) or (math.prod(size) and last >= len(storage.numbers)):
        raise Refused(f"a tensor of size {brief(list(size))} from a storage of {len(storage.numbers)} numbers")
    reader.budget.spend(math.prod(size) * 4)
    numbers, step = storage.numbers[offset:], storage.numbers.itemsize
    view = np.lib.stride_tricks.as_strided(numbers, size, [n * step for n in stride], writeable=False)
    return view.astype(np.float32) if view.dtype == ml_dtypes.bfloat16 else view


def _rebuild_parameter(reader: _Reader, data: Any, *rest: Any) -> Any:
    return data


def _is_magic(first: Any) -> bool:
    return isinstance(first, int) and first == TORCH_MAGIC


def _torch_stream(file: _Bounded, budget: limits.Budget) -> Any:
    """Reads torch.save's older form, after its magic number: version, system, the object, then every storage's numbers.
    The object is read twice: before its storages, which it sizes, and with them."""
    waiting: dict[str, _Storage] = {}

    def storage(pid: Any) -> _Storage:
        _, dtype, key, _, count = pid[:5]
        if key not in waiting:
            file.refuse_more(count * dtype.itemsize)
            waiting[key] = _Storage(np.zeros(count, dtype))
        return waiting[key]

    _Reader(file, budget).load()
    _Reader(file, budget).load()
    begin = file.at()
    _Reader(file, budget, storage).load()
    for key in _Reader(file, budget).load():
        (count,) = struct.unpack("<q", file.read(8))
        numbers = waiting[key].numbers
        if count != len(numbers) and count != numbers.nbytes:
            raise Refused(f"a storage of {len(numbers)} numbers from {count}")
        numbers[:] = np.frombuffer(file.read(numbers.nbytes), numbers.dtype)
    file.back_to(begin)
    return _Reader(file, budget, storage).load()


def _load_from_bytes(reader: _Reader, raw: Any) -> Any:
    budget = reader.budget
    budget.spend(len(raw))
    file = _Bounded(io.BytesIO(raw), len(raw))
    if not _is_magic(_Reader(file, budget).load()):
        raise Refused("a storage in a form that is not torch's")
    return _torch_stream(file, budget)


def _torch_zip(file: BinaryIO, budget: limits.Budget) -> Any:
    """Reads torch.save's newer form: a zip with data.pkl and one member a storage."""
    with zipfile.ZipFile(file) as members:
        names = [name for name in members.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise Refused("a zip that torch did not write (an npz? give it its own ending)")
        stem, seen = names[0].removesuffix("data.pkl"), dict[str, _Storage]()

        def member(name: str) -> bytes:
            info = members.getinfo(name)
            # torch does not compress, so that what is read is no more than the file.
            if info.compress_type != zipfile.ZIP_STORED:
                raise Refused(f"a compressed member {name!r}")
            return members.read(info)

        def storage(pid: Any) -> _Storage:
            _, dtype, key, _, count = pid[:5]
            if key not in seen:
                raw = member(f"{stem}data/{key}")
                _check_size((count,), dtype, raw)
                seen[key] = _Storage(np.frombuffer(raw, dtype))
            return seen[key]

        pickled = member(names[0])
        return _Reader(_Bounded(io.BytesIO(pickled), len(pickled)), budget, storage).load()


NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("torch.storage", "UntypedStorage"): _storage_type("Untyped"),
    **{("torch", f"{name}Storage"): _storage_type(name) for name in TORCH_TYPES},
}
CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _bytes,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytes,
    ("collections", "OrderedDict"): _container(dict),
    ("collections", "defaultdict"): _defaultdict,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _load_from_bytes,
    **{("builtins", kind.__name__): _container(kind) for kind in (set, frozenset, list, tuple, dict)},
}
