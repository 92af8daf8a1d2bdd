"""Columns of strangers' tables: the label is no feature by whatever way a mapping names it, rows that hold nothing are
refused, and what cannot be read is told by file, row and column."""

import struct
import zipfile

import bombs
import numpy as np
import pytest
from strangers import MAP, as_csv, as_table, mapping, pickled, predicted, utterances

from data_prep import limits
from data_prep.packs.rows import rows_of

pytestmark = pytest.mark.usefixtures("calls_unchecked", "no_weights")
COLUMNS = '[columns]\nid = "id"\nsplit = "split"\nlabel = "label"\n'


@pytest.mark.parametrize("columns", [COLUMNS, ""])
@pytest.mark.parametrize("of", ["label", "q.npz:label", "q.npz:split"])
def test_no_way_to_name_the_label_makes_it_a_feature(columns, of, imported, tmp_path):
    rows = utterances(label=lambda i: i // 3 % 2, split=lambda i: i % 3)
    text = f'{columns}[features]\nx = "{of}"\naudio = "audio"\n'
    corpus, said = imported(as_table(tmp_path / "q.npz", rows), mapping(tmp_path / "m.toml", text), "--labels=a,b")
    assert corpus is None
    assert "so that it is no feature" in said


@pytest.mark.parametrize("prefix", ["label_", "a.csv:label_", "emo", "y_"])
def test_a_label_in_several_columns_is_no_feature(prefix, imported, tmp_path):
    pytest.importorskip("pyarrow", reason="needs the extra prep")
    name = prefix.rpartition(":")[2]
    rows = utterances(**{f"{name}{k}": lambda i, k=k: int(i // 3 % 2 == k) for k in range(2)})
    text = f'{COLUMNS}[features]\nx = "{prefix}*"\naudio = "f*"\n'
    corpus, said = imported(as_csv(tmp_path / "a.csv", rows), mapping(tmp_path / "m.toml", text))
    assert corpus is None
    assert "so that it is no feature" in said


@pytest.mark.parametrize("columns", ["", COLUMNS])
def test_columns_that_are_chosen_are_no_features_of_a_list(columns, imported, tmp_path):
    rows = utterances(vec=lambda i: np.eye(2)[i // 3 % 2])
    path = pickled(tmp_path / "p.pkl", [{k: v for k, v in row.items() if k != "label"} for row in rows])
    text = f'{columns or "[columns]"}\nlabel = "vec"\n'.replace('label = "label"\n', "")
    corpus, said = imported(path, mapping(tmp_path / "m.toml", f'{text}[features]\nx = "vec"\n'), "--labels=a,b")
    assert corpus is None
    assert "features.x: p.pkl: 'vec' is the label, so that it is no feature" in said


def test_a_mapping_of_features_alone_leaves_what_an_utterance_is_to_the_names(imported, tmp_path):
    rows = utterances(Dialogue_ID=lambda i: f"d{i // 12}", turn=lambda i: 40 - i, speaker=lambda i: "ab"[i % 2])
    text = '[features]\naudio = "audio"\n'
    corpus, said = imported(as_table(tmp_path / "q.npz", rows), mapping(tmp_path / "m.toml", text))
    assert corpus is not None, said
    found = {str(corpus.index["id"][i]): i for i in range(len(corpus))}
    place = [str(corpus.index[name][found["u13"]]) for name in ("dialogue", "turn", "speaker")]
    assert place == ["d1", "27", "b"]


@pytest.mark.parametrize("name", bombs.HOLLOW)
def test_rows_that_hold_nothing(name, imported, tmp_path):
    if name.endswith("h5"):
        pytest.importorskip("h5py", reason="needs the extra prep")
    path = tmp_path / f"t.{name.split()[-1]}"
    bombs.HOLLOW[name](path)
    corpus, said = imported(path, mapping(tmp_path / "m.toml", '[features]\naudio = "x"\n'), "--memory-limit=0.1")
    assert corpus is None
    assert "has rows that hold nothing" in said, said


def test_rows_of_a_small_file_are_paid(imported, tmp_path, monkeypatch):
    bombs.zeros(tmp_path / "z.npz")
    monkeypatch.setattr(limits._flags, "memory", None)
    corpus, said = imported(tmp_path / "z.npz", "--memory-limit=0.05")
    assert corpus is None
    assert "z.npz wants more than 0.05 GiB" in said
    budget = limits.Budget(10**6)
    from data_prep.packs.rows import Reading

    with pytest.raises(limits.TooMuch):
        rows_of("p", ({"id": i, "label": 0} for i in range(10**6)), Reading(to_predict=True, budget=budget))


def test_one_value_beside_many_ids(imported, tmp_path):
    whole = {name: np.array([row[name] for row in utterances()]) for name in utterances()[0]}
    for field, value in (
        ("label", np.array("x")),
        ("turn", np.array(1)),
        ("audio", np.array(1.0)),
        ("id", np.array(1)),
    ):
        np.savez(tmp_path / "p.npz", **(whole | {field: value}))
        text = COLUMNS + ('turn = "turn"\n' if field == "turn" else "") + '[features]\naudio = "audio"\n'
        corpus, said = imported(tmp_path / "p.npz", mapping(tmp_path / "m.toml", text))
        assert corpus is None
        assert f"p.npz: column '{field}' is one value, not one an utterance" in said
        corpus, said = imported(tmp_path / "p.npz")
        assert corpus is None, field


def test_what_is_empty_in_h5(imported, tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs the extra prep")
    with h5py.File(tmp_path / "p.h5", "w") as file:
        for name in ("id", "split", "label"):
            file[name] = [str(row[name]).encode() for row in utterances()]
        file["audio"] = np.stack([row["audio"] for row in utterances()])
        file["turn"] = h5py.Empty("i8")
    corpus, said = imported(tmp_path / "p.h5")
    assert len(corpus) == 36, said
    corpus, said = imported(tmp_path / "p.h5", mapping(tmp_path / "m.toml", COLUMNS + 'turn = "turn"\n'))
    assert "column 'turn' is in 0 of the files" in said


MAPPINGS = {
    '[features]\naudio = ["a"]\n': "field 'features.audio'",
    "[columns]\nid = 3\n": "field 'columns.id'",
    '[values]\nlabel = "x"\n': "field 'values.label'",
    "[values.label]\na = [1]\n": "field 'values.label.a'",
    f"values = {'[' * 5000}{']' * 5000}\n": "nested too deep",
    "values = 3\n": "field 'values'",
    "other = 3\n": "'other' is none of [columns]",
}


@pytest.mark.parametrize("text", MAPPINGS, ids=range(len(MAPPINGS)))
def test_a_mapping_of_other_types_is_told(text, imported, tmp_path):
    corpus, said = imported(as_table(tmp_path / "q.npz", utterances()), mapping(tmp_path / "m.toml", text))
    assert corpus is None
    assert "m.toml: " in said
    assert MAPPINGS[text] in said


def test_numbers_of_columns_are_short(imported, tmp_path):
    rows = utterances(**{f"f{'1' * 5000}": lambda i: i})
    path = tmp_path / "p.npz"
    np.savez(
        path, **{name: np.array([row[name] for row in rows]) for name in rows[0] if len(name) < 99}, f0=np.ones(36)
    )
    with zipfile.ZipFile(path, "a") as file:
        text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (36,), }".ljust(117) + b"\n"
        array = np.lib.format.magic(1, 0) + struct.pack("<H", len(text)) + text + bytes(4 * 36)
        file.writestr(f"f{'1' * 5000}.npy", array)
    corpus, said = imported(path, mapping(tmp_path / "m.toml", COLUMNS + '[features]\nx = "f*"\n'))
    assert corpus.modalities["x"]["width"] == 1, said


@pytest.mark.parametrize("cell", ["", "abc", "1,5"])
def test_a_cell_that_is_no_number_is_told_by_file_row_and_column(cell, imported, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="needs the extra prep")
    lines = as_csv(tmp_path / "a.csv", utterances()).read_text().split("\n")
    for i in (8, 12):
        lines[i] = lines[i].rpartition(",")[0] + f',"{cell}"'
    (tmp_path / "a.csv").write_text("\n".join(lines))
    flag = mapping(tmp_path / "m.toml", MAP.format(more=""))
    corpus, said = imported(tmp_path / "a.csv", flag)
    assert corpus is None
    assert f"a.csv, row 7: column 'f1' is {repr(cell) if cell else 'blank'}, not a number" in said
    assert said.count("a.csv") == 1
    errors = predicted(tmp_path, tmp_path / "a.csv", flag)
    assert [i for i, error in enumerate(errors) if error] == [7, 11]
    (tmp_path / "a.csv").write_text(lines[0] + "\n")
    corpus, said = imported(tmp_path / "a.csv", flag)
    assert "a.csv holds no utterance" in said


@pytest.mark.parametrize("ending", ["npz", "h5", "parquet"])
def test_text_that_is_not_utf8_is_told_by_file_and_row(ending, imported, tmp_path):
    ids = [f"u{i:02d}".encode() for i in range(36)]
    ids[5] = b"u\x92\xe9"
    path = tmp_path / f"t.{ending}"
    columns = {"split": [b"train", b"valid", b"test"] * 12, "label": [b"a", b"b"] * 18, "id": ids}
    audio = np.float32(np.arange(72).reshape(36, 2))
    if ending == "npz":
        np.savez(path, audio=audio, **{name: np.array(x) for name, x in columns.items()})
    elif ending == "h5":
        h5py = pytest.importorskip("h5py", reason="needs the extra prep")
        with h5py.File(path, "w") as file:
            for name, x in (columns | {"audio": audio}).items():
                file[name] = x
    else:
        pa = pytest.importorskip("pyarrow", reason="needs the extra prep")
        import pyarrow.parquet

        texts = {
            name: pa.Array.from_buffers(pa.string(), 36, pa.array(x, pa.binary()).buffers())
            for name, x in columns.items()
        }
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(audio.ravel()), 2)
        pyarrow.parquet.write_table(pa.table({**texts, "audio": vectors}), path)
    corpus, said = imported(path)
    assert corpus is None
    assert f"t.{ending}, record 5: id: the byte 0x92 is not UTF-8" in said
    assert [i for i, error in enumerate(predicted(tmp_path, path)) if error] == [5]
