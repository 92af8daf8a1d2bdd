"""Packs and tables of a few bytes that want gigabytes, or hours, of who reads them."""

import pickle
import zipfile

import numpy as np

M61 = 2**61 - 1  # Python's hash of an int is its rest by this


class Copy:
    """Pickles as a call that copies one thing."""

    def __init__(self, kind, of, *more):
        self.reduced = kind, (of, *more)

    def __reduce__(self):
        return self.reduced


def nested(kind, depth):
    found = kind()
    for _ in range(depth):
        found = kind([found, found])
    return found


def holds_itself():
    found = []
    found.append(found)
    return found


def copies(kind, of, count, *more):
    return [Copy(kind, of, *more) for _ in range(count)]


def encoded():
    """What pickle's older protocols call for bytes."""
    import _codecs

    return copies(_codecs.encode, "a" * 10**6, 10**4, "latin1")


def deep():
    return b"(" * 1000 + b"t" * 1000 + b"."


def shape_that_doubles():
    """An array whose shape is a tuple that writes out as terabytes."""
    doubled = b"(t" + b"2\x86" * 40  # DUP, TUPLE2
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    floats = b"cnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
    return made + b"(I1\n" + doubled + floats + b"I00\nU\x04aaaatb."


def key_that_doubles():
    return b"}(t" + b"2\x86" * 60 + b"I1\ns."


PICKLES = {
    "a bytearray that is announced": lambda: b"\x80\x05\x96\x00\x00\x00\xc0\x00\x00\x00\x00.",
    "a list of the same lists": lambda: pickle.dumps(nested(list, 60)),
    "a tuple of the same tuples": lambda: pickle.dumps(nested(tuple, 60)),
    "copies of a list": lambda: pickle.dumps(copies(list, [None] * 10**6, 10**4)),
    "copies of a set": lambda: pickle.dumps(copies(frozenset, set(range(10**4)), 10**3)),
    "bytes of the same text": lambda: pickle.dumps(encoded(), 2),
    "one array in many places": lambda: pickle.dumps(dict.fromkeys(range(10**4), np.zeros(10**5))),
    "keys that collide": lambda: pickle.dumps({M61 * i: None for i in range(1000)}),
    "tuples that collide": lambda: pickle.dumps({(M61 * i, 0): None for i in range(1000)}),
    "a set of what collides": lambda: pickle.dumps([Copy(set, [M61 * i for i in range(1000)])]),
    "a key that doubles": key_that_doubles,
    "a shape that doubles": shape_that_doubles,
    "a list that holds itself": lambda: pickle.dumps(holds_itself()),
    "a depth": deep,
}


def npz(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        header = (
            b"\x93NUMPY\x01\x00v\x00"
            + b"{'descr': '<f4', 'fortran_order': False, 'shape': (25000000,), }".ljust(117)
            + b"\n"
        )
        with file.open("x.npy", "w", force_zip64=True) as member:
            member.write(header)
            for _ in range(100):
                member.write(bytes(10**6))


def h5(path):
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("x", (25 * 10**6,), "f4", compression="gzip", chunks=(25 * 10**5,))
        for i in range(10):
            file["x"][i * 25 * 10**5 : (i + 1) * 25 * 10**5] = 0


def parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10**4, np.int32)), pa.array(["a" * 10**5]))
    pq.write_table(pa.table({"sentence": texts}), path)


TABLES = {"npz": npz, "h5": h5, "parquet": parquet}


def _hollow_array(shape, descr):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00v\x00" + text


def hollow_npy(shape, descr):
    return lambda path: path.write_bytes(_hollow_array(shape, descr))


def hollow_npz(shape, descr):
    def write(path):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.npy", _hollow_array(shape, descr))

    return write


def hollow_h5(path):
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10**7, 0), "f4")


HOLLOW = {  # rows without end that hold nothing, in a few bytes
    "10^18 rows npy": hollow_npy((10**18, 0), "<f4"),
    "10^7 rows npy": hollow_npy((10**7, 0), "<f4"),
    "10^7 rows npz": hollow_npz((10**7, 0), "<f4"),
    "10^18 rows npz": hollow_npz((10**18, 0), "<f4"),
    "texts of no length npz": hollow_npz((10**7,), "<U0"),
    "bytes of no length npz": hollow_npz((10**7,), "|S0"),
    "10^7 rows h5": hollow_h5,
}


def zeros(path, count=10**6):
    """Rows of zeros, of which a file of kilobytes holds any number."""
    labels = np.zeros(count, np.uint8)
    np.savez_compressed(path, label=labels, audio=np.zeros((count, 2), np.uint8))


def hollow_list(path):
    """The same record in a million rows."""
    record = {"label": 0, "audio": np.zeros(2)}
    path.write_bytes(pickle.dumps([record] * 10**6))


ROWS = {"npz": zeros, "pkl": hollow_list}  # which begin to grow when rows are made of them
