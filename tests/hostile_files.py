"""Packs and clips that somebody made to do harm, or that were damaged on the way; drawn by a seed.

python tests/hostile_files.py FOLDER COUNT SEED      imports COUNT packs and prints how each ended, as JSON lines
"""

import contextlib
import io
import json
import pickle
import random
import sys
import time
import traceback
from pathlib import Path

import bombs
import numpy as np
import packs
from recordings import RATE, tone, write_movie, write_wav

EVIL = "\x1b[2J\u202e=1\x07"


def mutated(data, rng):
    """The bytes with some changed, taken out, said again, or cut off."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 50))):
        at, how = rng.randrange(len(data)), rng.randrange(5)
        if how == 0:
            data[at] = rng.randrange(256)
        elif how == 1:
            del data[at : at + rng.randrange(1, 50)]
        elif how == 2:
            data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 50)]
        elif how == 3:
            data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\x00\x00\x00\x80"))
        elif rng.random() < 0.3:
            del data[at:]
        data = data or bytearray(b".")
    return bytes(data)


def table(count=12):
    rng = np.random.default_rng(0)
    parts = ["train", "valid", "test"]
    return {
        "id": np.array([f"u{i}" for i in range(count)]),
        "split": np.array([parts[i % 3] for i in range(count)]),
        "label": np.array(["ab"[i % 2] for i in range(count)]),
        "sentence": np.array([f"words {i}" for i in range(count)]),
        "audio": rng.normal(size=(count, 4)).astype(np.float32),
    }


def write_whole(folder):
    """One file of every kind that is read."""
    import h5py
    import pyarrow as pa
    import pyarrow.parquet

    columns = table()
    rows = [{name: x[i] if x.ndim > 1 else str(x[i]) for name, x in columns.items()} for i in range(12)]
    (folder / "list.pkl").write_bytes(pickle.dumps(rows))
    (folder / "named.pkl").write_bytes(
        pickle.dumps([row | {"label": EVIL + row["label"], "id": EVIL + row["id"]} for row in rows])
    )
    packs.write_mmsa(folder / "mmsa.pkl", (4, 3, 3))
    np.savez_compressed(folder / "a.npz", **columns)
    np.savez(folder / "b.npz", **columns)
    with h5py.File(folder / "a.h5", "w") as file:
        for name, x in columns.items():
            file[name] = x if x.dtype.kind == "f" else [str(each).encode() for each in x]
    flat = {
        name: x.tolist() if x.ndim == 1 else pa.FixedSizeListArray.from_arrays(x.ravel(), 4)
        for name, x in columns.items()
    }
    pyarrow.parquet.write_table(pa.table(flat), folder / "a.parquet")
    numbered = {name: x for name, x in columns.items() if x.ndim == 1}
    lines = [",".join(numbered)] + [",".join(map(str, row)) for row in zip(*numbered.values(), strict=True)]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")


def packs_of(folder, count, rng):
    """Yields paths of such packs, one after the other."""
    whole = folder / "whole"
    whole.mkdir()
    write_whole(whole)
    originals = sorted(whole.iterdir())
    for i in range(count):
        kind = rng.random()
        if kind < 0.2:
            path = folder / f"{i}.pkl"
            path.write_bytes(rng.choice(list(bombs.PICKLES.values()))())
        elif kind < 0.25:
            name, write = rng.choice([*bombs.TABLES.items(), *bombs.HOLLOW.items(), *bombs.ROWS.items()])
            path = folder / f"{i}.{name.split()[-1]}"
            write(path)
        else:
            original = rng.choice(originals)
            ending = (
                original.suffix
                if rng.random() < 0.9
                else rng.choice((".pkl", ".npz", ".npy", ".csv", ".h5", ".parquet"))
            )
            path = folder / f"{i}{ending}"
            path.write_bytes(mutated(original.read_bytes(), rng))
        yield path
        path.unlink()


def memory_mib(name):
    """VmHWM, the most that this process had, or VmRSS, what it has; getrusage would count whoever has started it, too."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith(f"{name}:"))


def forget_peak():
    """From now on VmHWM is of what comes."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def import_all(folder, count, seed):
    from data_prep import import_pack

    import_pack.text_encoder = lambda arguments: packs.Words()
    for path in packs_of(folder, count, random.Random(seed)):
        said, began, code = io.StringIO(), time.process_time(), 0
        forget_peak()
        before = memory_mib("VmRSS")
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                import_pack.main([str(path), "--memory-limit=0.25", f"--out={folder / 'out' / path.name}"])
            except SystemExit as stop:
                code = stop.code
            except BaseException:
                code = traceback.format_exc()
        found = {"file": path.name, "code": code, "said": said.getvalue(), "out": out.getvalue()}
        took = {"seconds": time.process_time() - began, "mib": memory_mib("VmHWM") - before}
        print(json.dumps(found | took), flush=True)


def write_clips(folder, count, seed):
    """Clips of which some are whole; their names by whether they are."""
    import av

    rng, whole = random.Random(seed), folder / "whole"
    whole.mkdir(parents=True)
    write_wav(whole / "a.wav", tone(0.4))
    write_wav(whole / "b.wav", tone(0.3), channels=6)
    write_movie(whole / "c.mp4", tone(0.4), count=8)
    write_movie(whole / "d.mkv", tone(0.4), count=8)
    write_movie(whole / "e.avi", tone(0.4), count=8)
    for name, codec in (("f.flac", "flac"), ("g.mp3", "libmp3lame"), ("h.ogg", "libopus")):
        with av.open(str(whole / name), "w") as out:
            stream = out.add_stream(codec, rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.int16(tone(0.4) * 32767)[None], format="s16", layout="mono")
            frame.sample_rate = RATE
            for part in av.AudioResampler(stream.format.name, "mono", RATE, stream.frame_size or None).resample(frame):
                out.mux(stream.encode(part))
            out.mux(stream.encode(None))
    texts = [
        "ffconcat version 1.0\nfile whole/a.wav\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{whole}/a.wav\n",
        "v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        f"<svg xmlns:x='http://www.w3.org/1999/xlink'><image x:href='file://{whole}/a.wav'/></svg>",
        "\x1b[2Jno clip at all",
    ]
    sound = tone(0.3)
    odd = [
        lambda path: path.write_text(rng.choice(texts)),
        lambda path: path.write_bytes(rng.randbytes(rng.randrange(1, 5000))),
        lambda path: write_wav(path, sound, rng.choice((1, 100, 3999))),
        lambda path: write_wav(path, sound[: rng.randrange(3)]),
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b""),
    ]
    originals, made = sorted(whole.iterdir()), {}
    for i in range(count):
        path, kind = (
            folder / f"{i}{rng.choice(('', EVIL.replace('/', '')))}{rng.choice(originals).suffix}",
            rng.random(),
        )
        if kind < 0.15:
            write_wav(path, sound, channels=rng.choice((8, 12, 16, 32, 64)))
        elif kind < 0.4:
            rng.choice(odd)(path)
        else:
            path.write_bytes(mutated(rng.choice(originals).read_bytes(), rng))
        made[path.name] = kind < 0.15
    return made


if __name__ == "__main__":
    import_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
