"""Tables of clips and packs bring numbers, several emotions and groups by the names of their columns; what is wrong with
one is told by file, row, column and value."""

import csv
import pickle

import numpy as np
import packs
import pytest
from recordings import Letters, row, write_table
from strangers import as_csv, as_table, mapping, utterances

from data_prep import clips, number_columns
from data_prep.clip_table import read_table
from data_prep.number_columns import Asked
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("no_weights")
RANGES = {"valence": (1.0, 5.0), "arousal": (1.0, 5.0)}
V, A, S, G = "value:valence", "value:arousal", "spread:valence", "group:gender"


def lines(*changes, **same):
    """Rows of a table of clips, one a change, each with a file of its own."""
    return [row(file=f"{i}.wav") | same | change for i, change in enumerate(changes)]


def unlabelled(rows):
    return [{name: value for name, value in one.items() if name != "label"} for one in rows]


def read(tmp_path, rows, **flags):
    return read_table(write_table(tmp_path / "t.csv", rows), tmp_path, flags=Asked(**{"ranges": RANGES} | flags))


def test_numbers_spreads_and_groups_of_a_table(tmp_path, capsys):
    rows = lines(
        {V: "2.5", A: "", S: "0.5", G: "female"},
        {V: "nan", A: "1", S: "", G: ""},
        {V: " 5.0 ", A: "4", S: "", G: "male"},
    )
    table = read(tmp_path, rows)
    found = [(u.values, u.spreads, u.groups) for u in (one.utterance for one in table.rows)]
    assert found == [
        ({"valence": 2.5}, {"valence": 0.5}, {"gender": "female"}),
        ({"arousal": 1.0}, {}, {}),
        ({"valence": 5.0, "arousal": 4.0}, {}, {"gender": "male"}),
    ]
    assert table.groups == ("gender",)
    assert [target.describe() for target in table.targets] == ["values (regression: valence 1 to 5, arousal 1 to 5)"]
    said = capsys.readouterr().out
    assert "valence is not known of 1 of 3 utterances" in said
    assert "not used" not in said
    assert table.with_classes
    bare = read(tmp_path, unlabelled(rows))
    assert not bare.with_classes
    assert {one.utterance.label for one in bare.rows} == {""}


def test_targets_are_those_of_the_flags_and_the_rest(tmp_path):
    of = {"value:polarity": "0.5"}
    rows = lines({V: "2", A: "3"} | of, {V: "3", A: "3"} | of)
    ranges = RANGES | {"polarity": (-1.0, 1.0)}
    made = read(tmp_path, rows, ranges=ranges, targets={"affect": ("arousal", "valence")}).targets
    assert [(target.name, target.names, target.ranges) for target in made] == [
        ("affect", ("arousal", "valence"), ((1.0, 5.0), (1.0, 5.0))),
        ("values", ("polarity",), ((-1.0, 1.0),)),
    ]
    made = read(tmp_path, rows, ranges=ranges, targets={"all": ("valence", "arousal", "polarity")}).targets
    assert [target.name for target in made] == ["all"]


WRONG = [
    (lines({V: "6"}), {}, "line 2: value:valence is 6, outside its range 1 to 5"),
    (lines({V: "2"}, {V: "high"}), {}, "line 3: value:valence is 'high', not a number from 1 to 5, or empty"),
    (lines({V: "inf"}), {}, "line 2: value:valence is inf, outside its range 1 to 5"),
    (lines({"Value:power": "2"}), {}, "column 'Value:power' must be called value:power"),
    (lines({"value:power": "2"}), {}, "column 'value:power' needs its range, .*--range=power=LOW:HIGH"),
    (lines({V: "2", S: "-1"}), {}, "line 2: spread:valence is -1, outside its range 0 to 4"),
    (lines({V: "", S: "1"}, {V: "2", S: ""}), {}, "line 2: spread:valence is 1, and value:valence is empty"),
    (lines({S: "1"}), {}, "column 'spread:valence' is the spread of a number that has no column value:valence"),
    (lines({V: ""}), {}, "no utterance has a number for valence; leave it out, or fill it"),
    (lines({V: "2", "value: valence": "2"}), {}, "'value:valence' and 'value: valence' are both the value 'valence'"),
    (lines({"value:": "2"}), {}, "column 'value:' names nothing"),
    (lines({"group:speaker": "a"}), {}, "speaker is a field of every utterance; call the column speaker"),
    (lines({"group:valence": "a", V: "2"}), {}, "'valence' is a number and a group"),
    (lines({}), {"ranges": RANGES}, "--range=valence=…: there is no column value:valence; the numbers are none"),
    (lines({V: "2"}), {"targets": {"vad": ("power",)}}, "--target=vad=…: there is no column value:power"),
    (lines({V: "2", A: "2"}), {"targets": {"values": ("valence",)}}, "--target: 'values' is a target already"),
    (unlabelled(lines({})), {}, "column 'label' is missing"),
    (unlabelled(lines({V: "2"})), {"multilabel": True}, "column 'label' is missing"),
    (lines({"label": "joy|sad"}), {}, r"line 2: the label is 'joy\|sad', which is several.*--multilabel takes several"),
    (
        lines({"label": "joy|"}),
        {"multilabel": True},
        r"line 2: the label is 'joy\|'; with --multilabel it is names with",
    ),
    (lines({"label": "joy|joy"}), {"multilabel": True}, "each once"),
    (lines({"label": "joy|no emotion"}), {"multilabel": True}, "or 'no emotion'"),
    (lines({"label": "joy;sad"}), {"multilabel": True}, "which is several; with --multilabel names have"),
    (
        lines({"label": "joy"}, {"label": ""}),
        {"multilabel": True},
        "line 3: label is empty: .*the label 'no emotion' says",
    ),
    (lines({"label": "no emotion"}), {"multilabel": True}, "no label names an emotion"),
]


@pytest.mark.parametrize(("rows", "flags", "words"), WRONG)
def test_what_is_wrong_with_numbers_of_a_table_is_named(tmp_path, rows, flags, words):
    columns = {column for one in rows for column in one}
    used = {name: span for name, span in RANGES.items() if f"value:{name}" in columns}
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path, rows, **({"ranges": used} | flags))
    assert "t.csv" in str(caught.value)


def test_two_columns_of_one_name_are_refused(tmp_path):
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file", "label", V, V], ["a.wav", "joy", "1", "2"]])
    with pytest.raises(UserError, match=r"t.csv: two columns are called 'value:valence'; give each a name of its own"):
        read_table(tmp_path / "t.csv", tmp_path, flags=Asked(RANGES))


def test_labels_that_name_several_emotions(tmp_path):
    rows = lines({"label": "joy|sad"}, {"label": "no emotion"}, {"label": "anger"}, {"label": " sad | anger"})
    table = read(tmp_path, rows, multilabel=True, ranges={})
    assert [one.utterance.values for one in table.rows] == [
        {"anger": 0, "joy": 1, "sad": 1},
        {"anger": 0, "joy": 0, "sad": 0},
        {"anger": 1, "joy": 0, "sad": 0},
        {"anger": 1, "joy": 0, "sad": 1},
    ]
    (target,) = table.targets
    assert (target.name, target.kind, set(target.ranges)) == ("emotions", "multilabel", {(0, 1)})
    assert not table.with_classes
    path = write_table(tmp_path / "t.csv", lines({"label": "joy"}, {"label": ""}))
    kept = read_table(path, tmp_path, keep_unlabelled=True, flags=Asked(multilabel=True))
    assert [one.utterance.values for one in kept.rows] == [{"joy": 1}, {}]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--range=valence"], "--range=valence: must be NAME=LOW:HIGH, two numbers that go up, as in valence=1:5"),
        (["--range=valence=5:1"], "must be NAME=LOW:HIGH"),
        (["--range=valence=1:inf"], "must be NAME=LOW:HIGH"),
        (["--range=v=0:1e-6"], "--range=v=0:1e-6: the range of v is 0 to 1e-06, where six decimals"),
        (["--range=v=1:5", "--range=v=1:5"], "v has a range already"),
        (["--target=vad"], "--target=vad: must be NAME=A,B"),
        (["--target=vad=a,a"], "must be NAME=A,B, each once"),
        (["--target=vad=a", "--target=vad=b"], "the target 'vad' is given twice"),
    ],
)
def test_flags_that_mean_nothing_are_refused(tmp_path, capsys, flags, words):
    with pytest.raises(SystemExit, match="2"):
        clips.main([str(tmp_path / "t.csv"), "--out", str(tmp_path / "out"), *flags])
    assert words in capsys.readouterr().err


def test_a_corpus_of_clips_without_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(clips.flags, "chosen_encoders", lambda *_, with_text: (Letters(), {"text": Letters()}))
    monkeypatch.setattr(clips, "check_clips", lambda rows, streams: ({r.utterance.id: None for r in rows}, {}))
    monkeypatch.setattr(clips, "without_impossible_times", lambda rows, checked: (rows, []))
    for name in ("print_limits", "print_lengths"):
        monkeypatch.setattr(clips, name, lambda *_: {})
    monkeypatch.setattr(clips, "digest", lambda rows, checked: "")
    rows = lines(*({V: str(1 + i % 4), G: "fm"[i % 2], "sentence": f"{i} said."} for i in range(9)))
    table = write_table(tmp_path / "t.csv", unlabelled(rows))
    flags = ["--range=valence=1:5", "--target=affect=valence", "--cache", str(tmp_path)]
    clips.main([str(table), "--out", str(tmp_path / "out"), *flags])
    corpus = Corpus(tmp_path / "out")
    assert (corpus.labels, list(corpus.targets), corpus.groups) == ((), ["affect"], ("gender",))
    assert corpus.values(("valence",), np.arange(9))[:, 0].tolist() == [1 + i % 4 for i in range(9)]
    wanted = Letters().words(["valence"])
    np.testing.assert_allclose(np.float32(corpus.targets["affect"].embeddings), wanted, atol=1e-6)


def numbered(count=36, **more):
    return utterances(
        count, **{V: lambda i: 1 + i % 5, S: lambda i: 0.5 if i % 2 else "", G: lambda i: "fm"[i % 2]} | more
    )


def as_pickle(path, rows):
    path.write_bytes(pickle.dumps(rows))
    return path


@pytest.mark.parametrize("kind", ["csv", "list"])
def test_numbers_of_packs(imported, tmp_path, kind):
    if kind == "csv":
        arguments = [as_csv(tmp_path / "p.csv", numbered())]
        arguments += [mapping(tmp_path / "m.toml", '[features]\naudio = "f*"\n')]
    else:
        arguments = [as_pickle(tmp_path / "p.pkl", numbered())]
    corpus, said = imported(*arguments, "--range=valence=1:5")
    assert corpus is not None, said
    found = {u.id: u for u in (corpus[i] for i in range(len(corpus)))}
    for i in range(36):
        u = found[f"u{i:02d}"]
        assert (u.values, u.groups) == ({"valence": 1 + i % 5}, {"gender": "fm"[i % 2]})
        assert u.spreads == ({"valence": 0.5} if i % 2 else {})
    assert (corpus.labels, list(corpus.targets), set(corpus.modalities)) == (
        ("happy", "sad"), ["classes", "values"], {"audio"},
    )  # fmt: skip
    _, said = imported(*arguments)
    assert "column 'value:valence' needs its range" in said
    _, said = imported(*arguments, "--range=valence=1:4")
    assert "record 4: value:valence is 5, outside its range 1 to 4" in said


def test_numbers_of_a_table_are_found_without_a_mapping(imported, tmp_path):
    corpus, said = imported(as_table(tmp_path / "p.npz", numbered(12, **{S: lambda i: 0.5})), "--range=valence=1:5")
    assert corpus is not None, said
    assert corpus.spreads(("valence",), np.arange(12))[:, 0].tolist() == [0.5] * 12
    assert set(corpus.modalities) == {"audio"}


def test_a_pack_without_classes(imported, tmp_path):
    rows = [{name: value for name, value in one.items() if name != "label"} for one in numbered()]
    corpus, said = imported(as_pickle(tmp_path / "p.pkl", rows), "--range=valence=1:5")
    assert "it has no classes" in said
    assert (corpus.labels, list(corpus.targets)) == ((), ["values"])
    corpus, said = imported(as_pickle(tmp_path / "q.pkl", utterances()[:3]), "--multilabel", "--range=x=1:2")
    assert corpus is None
    assert "--range=x=…: there is no column value:x" in said


def test_a_mapping_may_name_the_columns_of_numbers(imported, tmp_path):
    table = as_csv(tmp_path / "p.csv", utterances(vad_v=lambda i: i % 3, sex=lambda i: "fm"[i % 2]))
    text = f'[columns]\n"{V}" = "vad_v"\n"{G}" = "sex"\n[features]\naudio = "f*"\n'
    corpus, said = imported(table, mapping(tmp_path / "m.toml", text), "--range=valence=0:2")
    assert corpus is not None, said
    assert corpus.index["value/valence"].tolist() == [float(int(name[1:]) % 3) for name in corpus.index["id"]]
    assert corpus.group("gender")[0] == "f"
    _, said = imported(table, mapping(tmp_path / "n.toml", '[columns]\n"values:x" = "vad_v"\n'))
    assert "'values:x' is not one of id, split" in said
    assert "value:NAME" in said


def test_several_emotions_of_a_pack(imported, tmp_path):
    rows = utterances(label=lambda i: ("joy|sad", "no emotion", "sad", "joy")[i % 4])
    corpus, said = imported(as_pickle(tmp_path / "p.pkl", rows))
    assert "--multilabel takes several emotions" in said
    corpus, said = imported(as_pickle(tmp_path / "p.pkl", rows), "--multilabel")
    assert corpus is not None, said
    ids = [int(name[1:]) for name in corpus.index["id"]]
    assert corpus.index["value/joy"].tolist() == [float(i % 4 in (0, 3)) for i in ids]
    assert corpus.index["value/sad"].tolist() == [float(i % 4 in (0, 2)) for i in ids]
    rows[5]["label"] = ""
    corpus, said = imported(as_pickle(tmp_path / "q.pkl", rows), "--multilabel")
    assert "1 of 36 utterances have no label, or not one: " in said
    assert "record 5: the label is empty" in said
    corpus, said = imported(as_pickle(tmp_path / "q.pkl", rows), "--multilabel", "--keep-unlabelled")
    assert len(corpus) == 36
    assert (~corpus.labelled).sum() == 1


def test_emotions_and_numbers_that_look_the_same_are_told(imported, tmp_path):
    rows = utterances(label=lambda i: ("joy|sad", "Joy", "sad")[i % 3])
    rows = [one | {"value:v": 0.5 + i % 2, "value:V ": 0.5} for i, one in enumerate(rows)]
    path = as_pickle(tmp_path / "p.pkl", rows)
    corpus, said = imported(path, "--multilabel", "--range=v=0:2", "--range=V=0:2")
    assert corpus is not None, said
    said = " ".join(said.split())
    assert "'Joy', 'joy' of target 'emotions' differ by case, spaces or look only" in said
    assert "'v', 'V' of target 'values' differ by case" in said
    assert "note names (emotions) 'Joy', 'joy'" in said


def test_flags_of_numbers_are_refused_where_nothing_reads_them(imported, tmp_path):
    packs.write_mmsa(tmp_path / "m.pkl", (4, 3, 3))
    _, said = imported(tmp_path / "m.pkl", "--range=sentiment=0:1")
    assert "--range: " in said
    assert "is of the layout mmsa; the flag is of tables and lists of dicts" in said
    _, said = imported(as_pickle(tmp_path / "p.pkl", utterances()), "--sentiment=mosi")
    assert "is of the layout list; the flag is of MMSA's dictionaries" in said


def test_what_a_number_column_is_called():
    names = ("value:x", "group: gender", "values:x", "value", "spread:y", "FILE:value:x")
    assert [number_columns.is_column(name) for name in names] == [True, True, False, False, True, False]
