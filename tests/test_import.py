"""Packs of every known layout become corpora: every vector bit for bit, every label by name, the same bytes on every
run."""

import json
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import packs as fake
import pytest
from conftest import ROOT, SHARED

from data_prep import import_pack
from data_prep.packs import labels as labels_lib
from data_prep.packs import layouts
from data_prep.sentences import normalise
from mer_jax import files
from mer_jax.data import protocols
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError

# What is tested here is data_prep; the calls into mer_jax.data are checked in that room's own tests.
pytestmark = pytest.mark.usefixtures("calls_unchecked")

SMALL = {"text": 7, "audio": 5, "visual": 3}
FOUR_LAYERS = dict.fromkeys(fake.LAYERS, 6) | {"audio": 5, "visual": 3}
IEMOCAP, MELD = ("iemocap", (13, 17, 23, 19, 16, 29)), ("meld", (60, 17, 5, 11, 23, 4, 15))
CASES = {
    "dialoguernn": (SMALL, *IEMOCAP),
    "dialoguernn-meld": ({"text": 7, "audio": 5}, *MELD),
    "mmgcn-meld": (SMALL, *MELD),
    "sdt": (FOUR_LAYERS, *IEMOCAP),
    "sdt-meld": (FOUR_LAYERS, *MELD),
    "cfn-esa-meld": (FOUR_LAYERS, *MELD),
    "cosmic": (dict.fromkeys(fake.LAYERS, 6), *IEMOCAP),
    "cosmic-meld": (dict.fromkeys(fake.LAYERS, 6), *MELD),
}
NAMES = {"iemocap": "hap,sad,neu,ang,exc,fru", "meld": "neutral,surprise,fear,sadness,joy,disgust,anger"}


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.setattr(import_pack, "text_encoder", lambda arguments: fake.Words())


def import_(out, *arguments):
    """The corpus, as the command makes it; a SystemExit where it refuses."""
    import_pack.main([*map(str, arguments), f"--out={out}"])
    return Corpus(out)


def check_vectors(corpus, wanted, key=lambda u: (u.dialogue, u.turn)):
    found = {key(u): u for u in (corpus[i] for i in range(len(corpus)))}
    assert found.keys() == wanted.keys()
    for name, vectors in wanted.items():
        assert found[name].features.keys() == vectors.keys()
        for m, vector in vectors.items():
            np.testing.assert_array_equal(found[name].features[m], np.atleast_2d(vector))
    return found


def one_by_one(count=12, **features):
    """A list of dicts: an utterance each, two classes in every part."""
    return [
        {"id": f"u{i:02d}", "split": ("train", "valid", "test")[i % 3], "label": ("joy", "sad")[i // 3 % 2]}
        | {m: make(i) for m, make in features.items()}
        for i in range(count)
    ]


def test_rounding_to_float32_is_told(tmp_path, capsys):
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(12, 5)) * 10.0 ** rng.integers(-9, 9, (12, 5))
    wide[3, 1], wide[4, 2] = np.nan, 0.0
    pack = one_by_one(
        audio=lambda i: wide[i],
        visual=lambda i: np.arange(4) + i,
        text=lambda i: np.float16([i, 0.1]),
        face=lambda i: np.float32([i, 0.1]),
    )
    (tmp_path / "pack.pkl").write_bytes(pickle.dumps(pack))
    corpus = import_(tmp_path / "out", tmp_path / "pack.pkl")
    dtypes = {m: spec["dtype"] for m, spec in corpus.modalities.items()}
    assert dtypes == {"audio": "float32", "visual": "float32", "text": "float16", "face": "float32"}
    known = wide[np.isfinite(wide) & (wide != 0)]
    largest = float(np.max(np.abs(known.astype(np.float32).astype(np.float64) - known) / np.abs(known)))
    assert 1e-8 < largest < 6e-8
    assert corpus.manifest["provenance"]["rounded_to_float32"] == {
        "audio": {"from": "float64", "largest_relative": largest},
        "visual": {"from": "int64", "largest_relative": 0.0},
    }
    said = capsys.readouterr().out
    assert (
        "the audio features are float64 and become float32, which training computes in; "
        f"the largest relative rounding is {largest:.2g}" in said
    )
    assert "the visual features are int64" in said
    assert "text features are" not in said
    assert "face features are" not in said
    for u in (corpus[i] for i in range(12)):
        np.testing.assert_array_equal(u.features["audio"][0], wide[int(u.id[1:])].astype(np.float32))


def test_what_float32_cannot_hold_is_named(tmp_path, capsys):
    (tmp_path / "pack.pkl").write_bytes(pickle.dumps(one_by_one(audio=lambda i: np.array([1.0, -(10.0 ** (i * 5))]))))
    with pytest.raises(SystemExit):
        import_(tmp_path / "out", tmp_path / "pack.pkl")
    assert "pack.pkl, utterance u08: audio reaches 1e+40, which is beyond float32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layout", "protocol"), [*((layout, 2) for layout in CASES), ("sdt", 0), ("sdt", 4), ("cosmic-meld", 5)]
)
def test_every_tuple_is_recognised_and_kept_bit_for_bit(layout, protocol, tmp_path):
    widths, corpus_name, counts = CASES[layout]
    path = tmp_path / "pack.pkl"
    wanted = fake.write(path, layouts.TUPLES[layout], corpus_name, widths, counts, protocol=protocol)
    corpus = import_(tmp_path / "out", path, f"--labels={NAMES[corpus_name]}")
    assert corpus.manifest["provenance"]["layout"] == layout
    found = check_vectors(corpus, wanted)
    raw = pickle.loads(path.read_bytes())
    of_pack = dict(zip(layouts.TUPLES[layout].split(), raw, strict=True))["labels"]
    names = NAMES[corpus_name].split(",")
    for (dialogue, turn), utterance in found.items():
        key = dialogue if dialogue in of_pack else int(dialogue.removeprefix("dia"))
        assert utterance.label == names[of_pack[key][turn]]
        assert utterance.sentence == f"It's sentence {turn} of {key}."
        if corpus_name == "iemocap":
            assert (utterance.session, utterance.speaker) == (dialogue[:5], dialogue[:5] + "FM"[turn % 2])
        else:
            assert utterance.speaker == f"speaker{turn % 9}"
    parts = corpus.manifest["splits"].keys()
    assert list(parts) == ["train", "valid", "test"]
    split_of = {u.dialogue: u.split for u in found.values()}
    assert {u.split for u in found.values() if split_of[u.dialogue] != u.split} == set(), "parts are of whole dialogues"
    seen = ["train"] if "valid" in layouts.TUPLES[layout] else ["train", "valid"]
    assert corpus.modalities["text"].get("trained_on") == (seen if "text1" in widths else None)


def test_mmsa(tmp_path):
    wanted = fake.write_mmsa(tmp_path / "aligned.pkl")
    corpus = import_(tmp_path / "out", tmp_path / "aligned.pkl")
    check_vectors(corpus, wanted, key=lambda u: u.id)
    assert corpus.labels == ("Negative", "Neutral", "Positive")
    assert {u.dialogue.rstrip("0123456789") for u in (corpus[i] for i in range(len(corpus)))} == {
        "trainvideo",
        "validvideo",
        "testvideo",
    }


def test_deepmsi_folders(tmp_path):
    wanted = fake.write_deepmsi(tmp_path / "IEMOCAP")
    corpus = import_(tmp_path / "out", tmp_path / "IEMOCAP", f"--labels={NAMES['iemocap']}")
    found = check_vectors(corpus, wanted, key=lambda u: u.id)
    assert all(u.label == NAMES["iemocap"].split(",")[int(u.id[-3:]) % 6] for u in found.values())
    assert found["Ses01F_impro00_F000"].speaker == "Ses01F"


def test_turns_of_a_deepmsi_folder_go_by_number_over_all_parts(tmp_path, capsys):
    names = [("train", f"dia0_utt{i}", i % 6) for i in range(12)]
    names += [("train", "Ses01F_impro01_M000", 0), ("val", "Ses01F_impro01_F001", 1), ("test", "dia0_utt7", 2)]
    names += [("test", "Ses01F_impro01_F000", 3)]
    for part, name, label in names:
        (tmp_path / "p" / part / "text").mkdir(parents=True, exist_ok=True)
        content = {"text_feature": np.float32([1, label]), "label": label}
        (tmp_path / "p" / part / "text" / f"{name}.pkl").write_bytes(pickle.dumps(content))
    corpus = import_(tmp_path / "out", tmp_path / "p", f"--labels={NAMES['iemocap']}")
    assert "the folder does not say which turn an utterance is" in capsys.readouterr().out
    turns = {(u.dialogue, u.turn): u.id for u in (corpus[i] for i in range(len(corpus)))}
    assert [turns["train_dia0", i] for i in range(12)] == [f"train_dia0_utt{i}" for i in range(12)], "2 before 10"
    of_ses = [turns["Ses01F_impro01", i].partition("_")[2] for i in range(3)]
    assert of_ses == ["Ses01F_impro01_F000", "Ses01F_impro01_M000", "Ses01F_impro01_F001"]


def table():
    rng = np.random.default_rng(0)
    split = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    return {
        "id": [f"u{i:02d}" for i in range(12)],
        "split": split,
        "label": ["ab"[i % 2] for i in range(12)],
        "dialogue": [f"d{i // 3}" for i in range(12)],
    }, rng.normal(size=(12, 4)).astype(np.float32)


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet", "h5", "pkl", "npy"])
def test_tables_and_lists(ending, tmp_path):
    if ending in ("csv", "parquet", "h5", "npy"):
        pytest.importorskip("pyarrow", reason="needs the extra prep")
    columns, vectors = table()
    path, more = tmp_path / f"pack.{ending}", []
    if ending == "npz":
        np.savez(path, **{k: np.array(v) for k, v in columns.items()}, audio=vectors)
    elif ending == "pkl":
        rows = [{k: v[i] for k, v in columns.items()} | {"audio": vectors[i].tolist()} for i in range(12)]
        path.write_bytes(pickle.dumps(rows))
    else:
        (tmp_path / "map.toml").write_text(mapping_of(ending))
        more = [f"--mapping={tmp_path / 'map.toml'}"]
        write_vectors(path, ending, columns, vectors)
        if ending in ("h5", "npy"):
            more.append(write_vectors(tmp_path / "meta.csv", "csv", columns, vectors))
    corpus = import_(tmp_path / "out", path, *more)
    check_vectors(corpus, {f"u{i:02d}": {"audio": vectors[i]} for i in range(12)}, key=lambda u: u.id)
    assert [corpus.manifest["splits"][part]["count"] for part in ("train", "valid", "test")] == [8, 2, 2]
    assert set(corpus.index["dialogue"].tolist()) == {"d0", "d1", "d2", "d3"}
    assert all(corpus[i].label == "ab"[int(corpus[i].id[1:]) % 2] for i in range(12))


def mapping_of(ending):
    column = {"csv": "a_*", "parquet": "vec", "h5": "pack.h5:audio", "npy": "pack.npy"}[ending]
    columns = "".join(f'{name} = "{name}"\n' for name in ("id", "split", "label", "dialogue"))
    return f'[columns]\n{columns}[features]\naudio = "{column}"\n[values.split]\nval = "valid"\n'


def write_vectors(path, ending, columns, vectors):
    if ending == "npy":
        np.save(path, vectors)
    elif ending == "csv":
        names = [f"a_{i}" for i in range(4)]
        rows = [",".join([*columns, *names])]
        rows += [",".join([*(v[i] for v in columns.values()), *map(repr, vectors[i].tolist())]) for i in range(12)]
        path.write_text("\n".join(rows))
    elif ending == "parquet":
        import pyarrow as pa
        import pyarrow.parquet

        vec = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
        pyarrow.parquet.write_table(pa.table({**columns, "vec": vec}), path)
    else:
        h5py = pytest.importorskip("h5py", reason="needs the extra prep")
        with h5py.File(path, "w") as file:
            for i in random.Random(0).sample(range(12), 12):
                file[f"audio/{columns['id'][i]}"] = vectors[i]
    return path


def test_the_order_is_told_by_the_counts(tmp_path):
    path = tmp_path / "p.pkl"
    fake.write(path, layouts.TUPLES["dialoguernn"], "iemocap", {"text": 2, "audio": 1, "visual": 1}, fake.SIX, 151)
    rows = layouts.read(path, None, layouts.Validation()).rows
    with pytest.raises(UserError, match="--labels=hap,sad,neu,ang,exc,fru"):
        labels_lib.name_labels("p", rows, "hap,sad,ang,neu,exc,fru")
    assert all(isinstance(row.label, int) for row in rows)
    labels, words, fits, notes = labels_lib.name_labels("p", rows, None)
    assert labels == ("hap", "sad", "neu", "ang", "exc", "fru")
    assert words == ("happy", "sad", "neutral", "angry", "excited", "frustrated")
    assert fits == "iemocap-6, with the 53 extra happy"
    assert "0, 1, … are hap, sad, neu, ang, exc, fru" in notes[0]
    assert sum(row.label == "ang" for row in rows) == 1103


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "say which is which with --labels, 6 names in order"),
        ("a,b", "2 names, and the pack has label 5"),
        ("a,a,b", "occurs twice"),
    ],
)
def test_numbers_need_names(labels, words, tmp_path, capsys):
    fake.write(tmp_path / "p.pkl", layouts.TUPLES["dialoguernn"], IEMOCAP[0], SMALL, IEMOCAP[1])
    with pytest.raises(SystemExit):
        import_(tmp_path / "out", tmp_path / "p.pkl", *([f"--labels={labels}"] if labels else []))
    assert words in capsys.readouterr().err


def test_features_that_saw_labels_are_not_tested_on_them(tmp_path):
    fake.write(tmp_path / "p.pkl", layouts.TUPLES["cosmic"], IEMOCAP[0], CASES["cosmic"][0], IEMOCAP[1])
    corpus = import_(tmp_path / "out", tmp_path / "p.pkl", f"--labels={NAMES['iemocap']}")
    protocols.refuse_retest(corpus, protocols.split(corpus, "official", 0), ["text"])
    for protocol in ("loso", "kfold_dialogue:3", "speaker"):
        with pytest.raises(UserError, match=rf"{protocol}: it tests \d+ utterances of train, on whose labels .* text"):
            protocols.refuse_retest(corpus, protocols.split(corpus, protocol, 0), ["text"])
    frozen = import_(tmp_path / "o2", tmp_path / "p.pkl", f"--labels={NAMES['iemocap']}", "--trained-on=text=none")
    protocols.refuse_retest(frozen, protocols.split(frozen, "loso", 0), ["text"])


def test_the_validation_part(tmp_path, capsys):
    fake.write(tmp_path / "p.pkl", layouts.TUPLES["sdt"], IEMOCAP[0], FOUR_LAYERS, IEMOCAP[1])
    labels = f"--labels={NAMES['iemocap']}"
    drawn = import_(tmp_path / "a", tmp_path / "p.pkl", labels)
    of_valid = sorted(set(drawn.index["dialogue"][drawn.rows("valid")].tolist()))
    assert len(of_valid) == 4
    assert "4 of the 32 dialogues of train" in capsys.readouterr().out
    (tmp_path / "list").write_text("\n".join(of_valid[:2]))
    listed = import_(tmp_path / "b", tmp_path / "p.pkl", labels, f"--valid={tmp_path / 'list'}")
    assert sorted(set(listed.index["dialogue"][listed.rows("valid")].tolist())) == of_valid[:2]
    assert "valid" not in import_(tmp_path / "c", tmp_path / "p.pkl", labels, "--valid=0").manifest["splits"]
    (tmp_path / "list").write_text("nobody")
    with pytest.raises(SystemExit):
        import_(tmp_path / "d", tmp_path / "p.pkl", labels, f"--valid={tmp_path / 'list'}")
    assert "'nobody' is no dialogue" in capsys.readouterr().err


def spoil(layout, change):
    """A pack with `change(fields by name)` applied."""

    def write(path):
        widths, corpus_name, counts = CASES[layout]
        fake.write(path, layouts.TUPLES[layout], corpus_name, widths, counts)
        fields = dict(zip(layouts.TUPLES[layout].split(), pickle.loads(path.read_bytes()), strict=True))
        change(fields)
        path.write_bytes(pickle.dumps(tuple(fields.values())))

    return write


FIRST = "Ses01F_impro000"
WRONG = [
    (lambda f: f["audio"][FIRST].pop(), rf"dialogue '{FIRST}': \d+ audio for \d+ labels"),
    (lambda f: f["visual"].pop(FIRST), f"dialogue '{FIRST}' has labels but no visual"),
    (lambda f: f["test"].add(FIRST), f"dialogue '{FIRST}' is in train and in test"),
    (lambda f: f["test"].add("nobody"), "dialogue 'nobody' of test has no utterances"),
    (lambda f: f["text"][FIRST].__setitem__(1, "word"), f"dialogue '{FIRST}', utterance 1: text is str, not a vector"),
    (
        lambda f: f["text"][FIRST].__setitem__(1, np.zeros(8, np.float32)),
        "text is 8 wide of float32; the utterances before it are 7",
    ),
    (lambda f: f["labels"][FIRST].__setitem__(0, -1), "utterance 0: the label is -1"),
    (lambda f: f["labels"][FIRST].__setitem__(0, 10**9), "label 1000000000 is no class"),
    (lambda f: f["sentences"][FIRST].__setitem__(0, None), "fits 0 layouts"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_what_is_wrong_is_told_by_name(change, words, tmp_path, capsys):
    import re

    spoil("dialoguernn", change)(tmp_path / "p.pkl")
    with pytest.raises(SystemExit) as stop:
        import_(tmp_path / "out", tmp_path / "p.pkl", f"--labels={NAMES['iemocap']}")
    assert stop.value.code == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


RUN = """
import sys
sys.path[:0] = ["tests"]
import packs
from data_prep import import_pack
import_pack.text_encoder = lambda arguments: packs.Words()
import_pack.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_any_hash_seed_gives_the_same_bytes(tmp_path):
    fake.write(tmp_path / "p.pkl", layouts.TUPLES["dialoguernn"], IEMOCAP[0], SMALL, IEMOCAP[1])
    found = []
    for seed in ("0", "1", "77"):
        out = tmp_path / seed
        subprocess.run(
            [sys.executable, "-c", RUN, str(tmp_path / "p.pkl"), f"--labels={NAMES['iemocap']}", f"--out={out}"],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        found.append({p.name: files.sha256_of(p) for p in sorted(out.iterdir())})
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real corpora beside the checkout")
def test_the_real_cosmic_pack(tmp_path):
    source = SHARED / "iemocap" / "cosmic_iemocap.pkl"
    corpus = import_(tmp_path / "out", source)
    assert corpus.manifest["provenance"]["layout"] == "cosmic-text"
    assert {p: s["count"] for p, s in corpus.manifest["splits"].items()} == {"train": 5163, "valid": 647, "test": 1623}
    speakers, labels, sentences, *_ = pickle.loads(source.read_bytes(), encoding="latin1")
    names = NAMES["iemocap"].split(",")
    for i in random.Random(0).sample(range(len(corpus)), 50):
        u = corpus[i]
        assert u.label == names[labels[u.dialogue][u.turn]]
        assert u.speaker == u.dialogue[:5] + speakers[u.dialogue][u.turn]
        assert u.sentence == normalise(sentences[u.dialogue][u.turn])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["provenance"]["class_counts"].startswith(
        "iemocap-6"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "widths"),
    [
        ("dialoguernn", {"text": 100, "audio": 100, "visual": 512}),
        ("dialoguernn-meld", {"text": 600, "audio": 300}),
        ("mmgcn-meld", {"text": 600, "audio": 300, "visual": 342}),
        *(
            (name, dict.fromkeys(fake.LAYERS, 1024) | {"audio": 1582, "visual": 342})
            for name in ("sdt", "sdt-meld", "cfn-esa-meld")
        ),
        *((name, dict.fromkeys(fake.LAYERS, 1024)) for name in ("cosmic", "cosmic-meld")),
    ],
)
def test_packs_of_real_size(layout, widths, tmp_path):
    corpus_name = "meld" if layout.endswith("meld") else "iemocap"
    counts, dialogues = (fake.SEVEN, 1432) if corpus_name == "meld" else (fake.SIX, 151)
    wanted = fake.write(tmp_path / "p.pkl", layouts.TUPLES[layout], corpus_name, widths, counts, dialogues)
    corpus = import_(tmp_path / "out", tmp_path / "p.pkl")
    assert corpus.labels == tuple(NAMES[corpus_name].split(","))
    check_vectors(corpus, wanted)
