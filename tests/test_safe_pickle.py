"""A pickle is a program; none of it is run but what makes arrays, tensors and containers."""

import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import zipfile

import numpy as np
import packs as fake
import pytest
from conftest import ROOT

from data_prep.packs import layouts, safe_pickle, tables
from mer_jax.errors import UserError


def same(a, b):
    if isinstance(b, np.ndarray):
        native = [x.dtype.newbyteorder("=") for x in (a, b)] if isinstance(a, np.ndarray) else (0, 1)
        return native[0] == native[1] and a.shape == b.shape and a.tolist() == b.tolist()
    if isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


VALUES = {
    "numbers": [1, -(2**70), 1.5, True, None, np.float32(2), np.int64(-3), np.bool_(True)],
    "texts": ["é’\x92", "", b"bytes", bytearray(b"more")],
    "containers": ({"a": {1, 2}}, frozenset("ab"), (1, (2,)), [], {}),
    "arrays": [
        np.arange(3.0),
        np.array([[1, 2], [3, 4]], order="F"),
        np.zeros((0, 4), np.float16),
        np.array(5),
        np.array(["a", "bb"]),
        np.array([b"x"]),
        np.array(["x", None, (1,)], dtype=object),
        np.arange(4, dtype=">i4"),
        np.array([True]),
    ],
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_what_packs_are_made_of(name, protocol, tmp_path):
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(VALUES[name], protocol))
    found = safe_pickle.load(tmp_path / "p.pkl")
    if protocol < 5:  # before, pickle had no word for it
        VALUES_ = [bytes(x) if isinstance(x, bytearray) else x for x in VALUES[name]]
        assert same(list(found), list(VALUES_))
    else:
        assert same(found, VALUES[name])


def test_python_2_wrote_arrays_as_text(tmp_path):
    """`numpy.core` names, `str` for bytes: protocol 2 of Python 2, spelt out."""
    raw = np.arange(3, dtype="<f4").tobytes()
    text = b"".join(
        [
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
            b"(I1\n(I3\ntcnumpy\ndtype\n(U\x02f4I0\nI1\ntR",
            b"(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\nU",
            bytes([len(raw)]),
            raw,
            b"tb.",
        ]
    )
    (tmp_path / "p.pkl").write_bytes(text)
    assert same(safe_pickle.load(tmp_path / "p.pkl"), np.arange(3, dtype=np.float32))


@pytest.mark.parametrize("form", ["pickle", "zip", "stream"])
def test_tensors(form, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra prep")
    x = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "a": x,
        "b": x.t()[1:],
        "c": [x.half(), x.to(torch.bfloat16), (x > 3), torch.tensor(4)],
        "d": torch.zeros(0, 3),
    }
    path = tmp_path / "p.pkl"
    if form == "pickle":
        path.write_bytes(pickle.dumps(tensors))
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "zip")
    found = safe_pickle.load(path)
    wanted = {
        "a": x.numpy(),
        "b": x.t()[1:].numpy(),
        "c": [x.half().numpy(), x.numpy(), (x > 3).numpy(), np.array(4)],
        "d": np.zeros((0, 3), np.float32),
    }
    assert same(found, wanted)


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def mark():
    return os.environ["MARK"]


HUGE = 10 * 2**30
NDARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
FLOATS = b"cnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
EVIL = {
    "a shell": (lambda m: pickle.dumps(Call(os.system, f"touch {m}")), "posix.system"),
    "eval": (lambda m: pickle.dumps(Call(eval, f"open({str(m)!r}, 'w')")), "builtins.eval"),
    "exec in Python 2's words": (
        lambda m: f"c__builtin__\nexec\n(Vopen({str(m)!r}, 'w')\ntR.".encode(),
        "builtins.exec",
    ),
    "getattr": (lambda m: pickle.dumps(Call(getattr, "", "format")), "builtins.getattr"),
    "numpy.load of a path": (lambda m: pickle.dumps(Call(np.load, str(m))), "numpy.load"),
    "numpy.memmap": (lambda m: f"cnumpy\nmemmap\n(V{m}\ntR.".encode(), "numpy.memmap"),
    "a module by a dotted name": (lambda m: b"\x80\x04\x8c\x05numpy\x8c\x0dload.__self__\x93.", "numpy.load"),
    "what a class can reach": (lambda m: b"\x80\x04\x8c\x08builtins\x8c\x0edict.__class__\x93.", "dict.__class__"),
    "the state of a function": (lambda m: b"ccollections\nOrderedDict\n(N}Vx\nI1\nstb.", "sets the state"),
    "a list of a string": (lambda m: b"c__builtin__\nlist\n(Vabc\ntR.", "a list of str"),
    "bytes by the gigabyte": (lambda m: f"c__builtin__\nbytearray\n(I{HUGE}\ntR.".encode(), "bytes that are made of"),
    "an array made with a shape": (
        lambda m: f"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I{HUGE}\ntU\x01btR.".encode(),
        "an array made with shape",
    ),
    "a header of 10 GB": (
        lambda m: NDARRAY + f"(I1\n(I{HUGE // 4}\nt".encode() + FLOATS + b"I00\nU\x04aaaatb.",
        "from 4 bytes",
    ),
    "a negative shape": (
        lambda m: NDARRAY + b"(I1\n(I-1\nI-4\nt" + FLOATS + b"I00\nU\x10" + b"a" * 16 + b"tb.",
        "an array of shape",
    ),
    "objects by the gigabyte": (
        lambda m: NDARRAY + f"(I1\n(I{HUGE}\ntcnumpy\ndtype\n(U\x02O8I0\nI1\ntRI00\n]tb.".encode(),
        "from 0 bytes",
    ),
    "a record type": (lambda m: b"cnumpy\ndtype\n(Vi4,(1000000000)f8\nI0\nI1\ntR.", "an array of type"),
    "a string of a promised 10 GB": (lambda m: b"\x80\x04\x8d" + struct.pack("<Q", HUGE) + b"abc.", "are announced"),
    "a place in the memo": (lambda m: b"\x80\x02]r\xff\xff\xff\x7fh\x00.", "not a whole pickle"),
    "something outside": (lambda m: b"\x80\x02Vx\nQ.", "outside the file"),
    "nothing": (lambda m: b"", "not a whole pickle"),
    "a depth": (lambda m: b"(" * 10**5 + b".", "not a whole pickle"),
}


@pytest.mark.parametrize("name", EVIL)
def test_what_is_refused_before_it_runs(name, tmp_path):
    make, words = EVIL[name]
    marked = tmp_path / "marked"
    (tmp_path / "p.pkl").write_bytes(make(marked))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=words):
        safe_pickle.load(tmp_path / "p.pkl")
    assert not marked.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, "half a gigabyte, in kilobytes"


def rebuilt(storage, offset, size, stride):
    """A tensor as torch pickles it, with numbers of our choice."""
    torch = pytest.importorskip("torch", reason="needs the extra prep")
    from torch._utils import _rebuild_tensor_v2

    return pickle.dumps(Call(_rebuild_tensor_v2, torch.zeros(storage).storage(), offset, size, stride, False, {}))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (10**9,), (1,)),
        (0, (4, 4), (4, 1)),
        (4, (1,), (1,)),
        (0, (2,), (10**12,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (10**9,), (0,)),
    ],
)
def test_a_tensor_bigger_than_its_storage(offset, size, stride, tmp_path):
    (tmp_path / "p.pkl").write_bytes(rebuilt(4, offset, size, stride))
    with pytest.raises(UserError, match="a tensor of"):
        safe_pickle.load(tmp_path / "p.pkl")


def test_tables_that_announce_more_than_they_have(tmp_path):
    header = np.lib.format.magic(1, 0)
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({HUGE},), }}".ljust(117).encode() + b"\n"
    array = header + struct.pack("<H", len(text)) + text + b"abcd"
    (tmp_path / "a.npy").write_bytes(array)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", array)
    np.save(tmp_path / "o.npy", np.array([Call(os.system, "true")], dtype=object), allow_pickle=True)
    for name in ("a.npy", "a.npz", "o.npy"):
        with pytest.raises(UserError, match=name):
            tables.read_table(tmp_path / name)


FUZZ = """
import pickle, random, resource, sys
from pathlib import Path
sys.path[:0] = ["tests"]
import packs
from data_prep import import_pack
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
import_pack.text_encoder = lambda arguments: packs.Words()
folder, count = Path(sys.argv[1]), int(sys.argv[2])
rng, codes = random.Random(0), {0: 0, 2: 0}
originals = sorted(folder.glob("*.pkl"))
for i in range(count):
    data = bytearray(rng.choice(originals).read_bytes())
    for _ in range(rng.choice((1, 1, 2, 5, 50))):
        at = rng.randrange(len(data))
        how = rng.randrange(4)
        if how == 0:
            data[at] = rng.randrange(256)
        elif how == 1:
            del data[at : at + rng.randrange(1, 50)]
        elif how == 2:
            data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 50)]
        else:
            data[at] = rng.choice(b"ctRbuaesQo\\x81\\x93\\x92()]}i")
        if not data:
            data = bytearray(b".")
    (folder / "in" / "m.pkl").write_bytes(bytes(data))
    try:
        import_pack.main([str(folder / "in" / "m.pkl"), "--labels=a,b,c,d,e,f,g", f"--out={folder / 'out' / str(i)}"])
        codes[0] += 1
    except SystemExit as stop:
        codes[stop.code] += 1
print(codes)
"""


@pytest.mark.slow
def test_a_thousand_mutated_packs(tmp_path):
    """Each is imported or refused with a message; nothing is written but below the output folder."""
    small = {"text": 2, "audio": 2, "visual": 2}
    for i, layout in enumerate(("dialoguernn", "mmgcn-meld", "cosmic-text", "sdt")):
        widths = {"cosmic-text": {}, "sdt": dict.fromkeys(fake.LAYERS, 2) | {"audio": 1, "visual": 1}}.get(
            layout, small
        )
        corpus = "meld" if "meld" in layout else "iemocap"
        fake.write(
            tmp_path / f"{layout}.pkl",
            layouts.TUPLES[layout],
            corpus,
            widths,
            (3, 4, 5, 3, 4, 6),
            10,
            protocol=(0, 2, 4, 5)[i],
        )
    fake.write_mmsa(tmp_path / "mmsa.pkl", (4, 3, 3))
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    before = {p for p in tmp_path.rglob("*") if p.name != "m.pkl"}
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path), "1000"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    codes = eval(done.stdout.strip().splitlines()[-1])
    assert sum(codes.values()) == 1000
    assert codes[0] > 20, "some are harmless"
    assert codes[2] > 500
    new = {p for p in tmp_path.rglob("*")} - before - {tmp_path / "in" / "m.pkl"}
    assert all(tmp_path / "out" in p.parents for p in new)
    assert len({p for p in new if p.name == "manifest.json"}) == codes[0]


def test_a_few_mutated_packs_in_python(tmp_path):
    rng = random.Random(1)
    whole = pickle.dumps({"a": [np.arange(4.0), {1, 2}, "text"]}, 2)
    for _ in range(300):
        data = bytearray(whole)
        data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "p.pkl").write_bytes(data)
        try:
            safe_pickle.load(tmp_path / "p.pkl")
        except UserError:
            continue
