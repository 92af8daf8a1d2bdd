"""Packs and tables as strangers make them, and their import."""

import json
import pickle

import numpy as np

from data_prep import import_pack
from mer_jax.data.corpus import Corpus

MAP = '[columns]\nid = "id"\nsplit = "split"\nlabel = "label"\n{more}[features]\naudio = "f*"\n'


def import_or_refuse(out, capsys, *arguments):
    """The corpus, or None where it is refused, and what was said."""
    try:
        import_pack.main([*map(str, arguments), f"--out={out}"])
    except SystemExit as stop:
        assert stop.code == 2  # noqa: PT017
        assert not out.exists(), "nothing is written where nothing can be read"
    printed = capsys.readouterr()
    said = " ".join((printed.out + printed.err).split())
    return (Corpus(out) if out.exists() else None), said


def utterances(count=36, **changes):
    """A list of dicts, each with what `changes` make of its position."""
    rows = [
        {
            "id": f"u{i:02d}",
            "split": ("train", "val", "test")[i % 3],
            "label": ("happy", "sad")[i // 3 % 2],
            "audio": np.arange(4, dtype=np.float32) + i,
        }
        for i in range(count)
    ]
    for i, row in enumerate(rows):
        row.update({name: make(i) for name, make in changes.items()})
    return rows


def pickled(path, found):
    path.write_bytes(pickle.dumps(found))
    return path


def as_table(path, rows):
    np.savez(path, **{name: np.array([row[name] for row in rows]) for name in rows[0]})
    return path


def as_csv(path, rows, encoding="utf-8"):
    fields = [name for name in rows[0] if name != "audio"]
    lines = [",".join([*fields, "f0", "f1"])]
    lines += [",".join([*(str(row[name]) for name in fields), *map(str, row["audio"][:2])]) for row in rows]
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def mapping(path, text):
    path.write_text(text)
    return f"--mapping={path}"


def predicted(folder, *arguments):
    """The errors of the rows to predict."""
    from data_prep import pack_stream
    from mer_jax.data import records

    pack_stream.main([*map(str, arguments), f"--records={folder / 'records'}"])
    with open(folder / "records", "rb") as file:
        hello, *found = iter(lambda: records.read_record(file), None)
    assert "modalities" in json.loads(bytes(records.decode_example(hello)["hello"][0]))
    return [bytes(records.decode_example(record).get("error", [b""])[0]).decode() for record in found]
