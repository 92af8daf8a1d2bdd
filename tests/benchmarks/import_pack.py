"""Importing a pack of IEMOCAP's size, 7,433 utterances of 4 x 1024 + 1582 + 342 floats: seconds and peak memory, beside
bare pickle.load (which runs whatever the file says) and beside the file's size. Every measurement in a process of its
own."""

import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
MEGA = 2**20


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(how, path, out):
    """Seconds and megabytes of one reading; the memory is what came on top of the imports and the encoder of the label
    words."""
    sys.path[:0] = [str(ROOT)]
    import numpy  # noqa: F401

    from data_prep import import_pack
    from data_prep.packs import safe_pickle

    if how == "import":
        arguments = import_pack.IMPORTER.parser().parse_intermixed_args([path, "--out", out])
        encoder = import_pack.text_encoder(arguments)
        encoder.words(("happy",))
        import_pack.text_encoder = lambda _: encoder
    before, began = megabytes(), time.perf_counter()
    if how == "pickle":
        with open(path, "rb") as file:
            pickle.load(file, encoding="latin1")
    elif how == "unpickle":
        safe_pickle.load(Path(path))
    else:
        import_pack.IMPORTER.convert(arguments)
    found = {"seconds": time.perf_counter() - began, "megabytes": megabytes() - before, "before": before}
    print(json.dumps(found))


def make(path):
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import packs as fake

    from data_prep.packs import layouts

    widths = dict.fromkeys(fake.LAYERS, 1024) | {"audio": 1582, "visual": 342}
    fake.write(Path(path), layouts.TUPLES["sdt"], "iemocap", widths, fake.SIX, 151, protocol=4)


def told(*words):
    return subprocess.run(
        [sys.executable, __file__, *map(str, words)], check=True, capture_output=True, text=True
    ).stdout


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pack.pkl"
        told("make", path)  # not here: a process counts its parent's memory as its own
        found = {"file, megabytes": round(path.stat().st_size / MEGA, 1)}
        for how in ("pickle", "unpickle", "import"):
            seen = json.loads(told("measure", how, path, Path(folder) / "out").splitlines()[-1])
            found[f"{how}, seconds"] = round(seen["seconds"], 2)
            found[f"{how}, megabytes on top of {seen['before']:.0f}"] = round(seen["megabytes"], 1)
            found[f"{how}, memory to file"] = round(seen["megabytes"] * MEGA / path.stat().st_size, 2)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    {"make": make, "measure": measure}[sys.argv[1]](*sys.argv[2:]) if len(sys.argv) > 1 else main()
