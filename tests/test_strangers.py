"""Packs and tables of strangers: what says who, when and what is never a feature, and what is no label, no time or no
text is told by record."""

import pickle
import re
import tomllib

import numpy as np
import packs as fake
import pytest
from strangers import MAP, as_csv, as_table, mapping, pickled, utterances

from data_prep.packs import class_counts, layouts
from data_prep.packs.labels import name_labels
from data_prep.packs.rows import PackRow
from mer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("calls_unchecked", "no_weights")
NEEDS_ARROW = "needs the extra prep"
SEVEN = tuple(class_counts.SEVEN)


SAID = {  # what says who, when and what, as an array
    "label": lambda i: np.array([i % 2]),
    "labels": lambda i: np.eye(2)[i % 2],
    "label_onehot": lambda i: np.eye(2)[i % 2],
    "speaker": lambda i: np.eye(9)[i % 9],
    "speakerID": lambda i: np.array([i % 3, 0]),
    "session": lambda i: np.array([[i % 5]]),
    "turn": lambda i: np.array([i]),
    "dialogue": lambda i: np.array([i // 3]),
    "start": lambda i: np.array([float(i)]),
    "end": lambda i: np.array([[i + 1.0]]),
    "Emotion_Labels": lambda i: np.array([i % 2, 1.0]),
    "target": lambda i: np.array([i % 2, 0]),
    "loudness": lambda i: np.array([[0.5 * i]]),
}


@pytest.mark.parametrize("layout", ["list", "npz", "parts", "by id"])
@pytest.mark.parametrize("field", SAID)
def test_what_says_who_and_what_is_never_a_feature(field, layout, imported, tmp_path):
    rows = utterances(**{field: SAID[field]})
    if field == "labels":
        rows = [{name: value for name, value in row.items() if name != "label"} for row in rows]
    if layout == "npz":
        path = as_table(tmp_path / "pack.npz", rows)
    elif layout == "list":
        path = pickled(tmp_path / "pack.pkl", rows)
    elif layout == "parts":
        path = pickled(tmp_path / "p.pkl", {s: [r for r in rows if r["split"] == s] for s in ("train", "val", "test")})
    else:
        path = pickled(tmp_path / "pack.pkl", {row.pop("id"): row for row in rows})
    numbered = field in ("label", "labels")
    corpus, said = imported(path, *["--labels=happy,sad"] * numbered)
    assert set(corpus.modalities) == {"audio"}, said
    if numbered:
        assert [corpus[i].label for i in range(36)] == [("happy", "sad")[int(corpus[i].id[1:]) % 2] for i in range(36)]


def test_a_mapping_takes_what_a_name_hides_but_no_label(imported, tmp_path):
    path = as_table(tmp_path / "p.npz", utterances(loudness=lambda i: np.array([0.5 * i])))
    columns = '[columns]\nid = "id"\nsplit = "split"\nlabel = "label"\n'
    corpus, _ = imported(path, mapping(tmp_path / "a.toml", columns + '[features]\nlevel = "loudness"\n'))
    assert corpus.modalities["level"]["width"] == 1
    for wrong, words in (('label = "audio"', "'label' is never a feature"), ('audio = "label"', "it is no feature")):
        _, said = imported(path, mapping(tmp_path / "b.toml", f"{columns}[features]\n{wrong}\n"))
        assert words in said


NO_LABELS = ["", " ", "nan", "None", "N/A", "tie", "xxx", "happy;sad", "happy|sad", "happy/sad", "happy + sad"]


@pytest.mark.parametrize(
    "wrong", [*NO_LABELS, None, float("nan"), np.array([1.0, 1.0]), ["happy", "sad"], np.array([])]
)
def test_no_label_is_refused_or_left_out_and_counted(wrong, imported, tmp_path):
    path = pickled(tmp_path / "p.pkl", utterances(label=lambda i: wrong if i == 7 else ("happy", "sad")[i // 3 % 2]))
    corpus, said = imported(path)
    assert corpus is None
    assert "1 of 36 utterances have no label, or not one" in said
    assert re.search("record 7: .*label|utterance u07: the label", said)
    corpus, said = imported(path, "--skip-unlabelled")
    assert (len(corpus), corpus.labels) == (35, ("happy", "sad"))
    assert "1 of 36 utterances are left out" in said
    corpus, said = imported(path, "--keep-unlabelled")
    assert (len(corpus), corpus.labels) == (36, ("happy", "sad"))
    assert corpus.index["id"][~corpus.labelled].tolist() == ["u07"]
    assert re.search("1 utterances are kept without a class, .* (record 7: |utterance u07: )", said)
    assert corpus.manifest["provenance"]["kept_unlabelled"] == {"count": 1, "first": ["u07"]}
    assert sum(counts.get("unlabelled", 0) for counts in corpus.manifest["splits"].values()) == 1


def test_what_has_no_label_is_left_out_or_kept_and_never_all(imported, tmp_path):
    path = pickled(tmp_path / "p.pkl", utterances())
    _, said = imported(path, "--keep-unlabelled", "--skip-unlabelled")
    assert "--skip-unlabelled leaves out what --keep-unlabelled keeps: give one of them" in said
    corpus, said = imported(path, "--keep-unlabelled")
    assert "no utterance is without a class" in said
    assert corpus.manifest["provenance"]["kept_unlabelled"] == {"count": 0, "first": []}
    assert "kept_unlabelled" not in imported(path)[0].manifest["provenance"]
    for flag in ("--keep-unlabelled", "--skip-unlabelled"):
        corpus, said = imported(pickled(path, utterances(label=lambda i: "xxx")), flag)
        assert corpus is None
        assert "36 of 36 utterances have no label" in said


def test_numbers_of_classes_are_told_by_what_has_one(imported, tmp_path):
    rows = utterances(label=lambda i: -1 if i == 7 else 1 + i // 3 % 2)
    corpus, said = imported(pickled(tmp_path / "p.pkl", rows), "--labels=happy,sad", "--keep-unlabelled")
    assert "the labels are numbered from 1" in said
    assert corpus.index["id"][~corpus.labelled].tolist() == ["u07"]
    other = mapping(tmp_path / "m.toml", '[values.label]\nsad = ""\n')
    rows = utterances(label=lambda i: ("happy", "glad", "sad")[i // 3 % 3])
    corpus, said = imported(pickled(tmp_path / "q.pkl", rows), other, "--keep-unlabelled")
    assert (corpus.labels, int(corpus.labelled.sum())) == (("glad", "happy"), 24), "a mapping takes a class away"


def test_no_label_of_a_table_is_told(imported, tmp_path):
    pytest.importorskip("pyarrow", reason=NEEDS_ARROW)
    flag = mapping(tmp_path / "m.toml", MAP.format(more=""))
    for label in (lambda i: "" if i == 7 else i % 2, lambda i: "" if i == 7 else "ab"[i % 2]):
        corpus, said = imported(as_csv(tmp_path / "a.csv", utterances(label=label)), flag, "--labels=a,b")
        assert corpus is None
        assert "record 7: the label is empty" in said
    for label in (np.r_[np.nan, np.arange(35) % 2], np.arange(36) % 2 + 0.5):
        corpus, said = imported(as_table(tmp_path / "b.npz", utterances(label=lambda i, x=label: x[i])), "--labels=a,b")
        assert corpus is None
        assert re.search(r"record 0: (there is no label|the label is 0\.5)", said)


def test_names_that_look_the_same_and_rare_ones_are_told(imported, tmp_path):
    names = ["happy", "Happy", "happy ", "h\u0430ppy", "sad", "SAD"]
    corpus, said = imported(pickled(tmp_path / "p.pkl", utterances(label=lambda i: names[i % 6] if i else "calm")))
    assert len(corpus.labels) == 7, "they are told, not joined"
    assert said.count("note: the classes '") == 2
    assert "differ by case, spaces or look only" in said
    assert "class names" in said, "the audit tells it, too"
    assert "rare class" in said
    assert "calm (1)" in said


def test_numbers_from_1_as_text_and_behind_a_prefix(imported, tmp_path):
    for code in (
        lambda n: n + 1,
        lambda n: str(n + 1),
        lambda n: float(n),
        lambda n: f"e{n}",
        lambda n: f"class_{n + 1}",
    ):
        path = pickled(tmp_path / "p.pkl", utterances(label=lambda i, code=code: code(i // 3 % 3)))
        corpus, said = imported(path, "--labels=x,y,z")
        assert (corpus.labels, "empty class" in said and "has no utterance of" in said) == (("x", "y", "z"), False)
        assert all(corpus[i].label == "xyz"[int(corpus[i].id[1:]) // 3 % 3] for i in range(36))
    corpus, _ = imported(path)
    assert corpus.labels == ("class_1", "class_2", "class_3"), "without names they are names like any others"


def counted(counts, part=""):
    """Rows of so many utterances of each number."""
    numbers = np.repeat(np.arange(len(counts)), counts).tolist()
    return [PackRow(f"{part}u{i}", part or "train", label=n) for i, n in enumerate(numbers)]


def test_an_order_is_asked_for_where_the_counts_cannot_tell():
    counts = list(class_counts.MELD.sets["train"])
    counts[SEVEN.index("disgust")] -= 4
    with pytest.raises(UserError, match=r"cannot tell its classes apart: 2 \(268\) and 5 \(267\)") as caught:
        name_labels("p", counted(counts), None)
    advised = [flag.split(",") for flag in re.findall(r"--labels=(\S+)", str(caught.value))]
    assert {(order[2], order[5]) for order in advised} == {("fear", "disgust"), ("disgust", "fear")}
    for order in advised:
        assert name_labels("p", counted(counts), ",".join(order))[0] == tuple(order), "what is advised works"


def test_parts_tell_what_the_whole_cannot():
    rows = []
    for part, name in (("train", "train"), ("valid", "dev"), ("test", "test")):
        counts = list(class_counts.MELD.sets[name])
        counts[SEVEN.index("disgust")] -= 4 * (part == "train")  # rarer than fear, in train and in all
        rows += counted(counts, part)
    order, _, fits, notes = name_labels("p", rows, None)
    assert (order, fits) == (SEVEN, "meld, train, dev and test")
    assert notes == [f"the counts are those of {fits.replace(', ', ' (', 1)}): 0, 1, … are {', '.join(SEVEN)}"]


def test_a_better_order_is_told():
    counts = [1091, 1636, 1708, 1084]  # 12 of ang are lost, so that ang and sad are 7 apart
    *_, notes = name_labels("p", counted(counts), "sad,hap,neu,ang")
    assert "fit the order ang, hap, neu, sad better" in notes[0]
    assert name_labels("p", counted(counts), "ang,hap,neu,sad")[3] == []


def test_coded_names_are_numbers_where_the_counts_know_them():
    rows = counted([1708, 1636, 1103, 1084])
    for row in rows:
        row.label = f"e{row.label}"
    order, _, fits, notes = name_labels("p", rows, None)
    assert (order, fits) == (("neu", "hap", "ang", "sad"), "iemocap-4, official")
    assert "e0, e1, … are neu, hap, ang, sad" in notes[0]
    assert rows[0].label == "neu"


def test_exchanged_names_are_told_with_what_renames_them():
    names = ("ang", "sad", "neu", "hap")
    rows = counted([1636, 1084, 1708, 1103])
    for row in rows:
        row.label = names[row.label]
    order, _, fits, notes = name_labels("p", rows, None)
    assert (order, fits) == (("hap", "sad", "neu", "ang"), "")
    assert "the names hap, ang seem to be exchanged" in notes[0]
    assert "--labels" not in notes[0]
    renames = tomllib.loads(notes[0].rpartition("renames them: ")[2].replace("; ", "\n"))
    assert renames == {"hap": "ang", "ang": "hap"}
    for row in rows:
        row.label = renames.get(row.label, row.label)
    assert name_labels("p", rows, None)[2:] == ("iemocap-4, official", [])


@pytest.mark.parametrize("reader", ["csv", "mapping", "valid", "npz"])
@pytest.mark.parametrize(("byte", "encoding"), [(b"\x92", "cp1252"), (b"\xe8", "Latin-1")])
def test_text_that_is_not_utf8_is_named(reader, byte, encoding, imported, tmp_path):
    path, more = pickled(tmp_path / "p.pkl", utterances()), []
    if reader == "csv":
        pytest.importorskip("pyarrow", reason=NEEDS_ARROW)
        path = as_csv(tmp_path / "a.csv", utterances(sentence=lambda i: f"no {i}"))
        path.write_bytes(path.read_bytes().replace(b"no 3", b"no" + byte + b"3"))
        more = [mapping(tmp_path / "m.toml", MAP.format(more='sentence = "sentence"\n'))]
        place = "a.csv, line 5"
    elif reader == "npz":
        labels = [b"sad", b"tr" + byte + b"s"]
        path = as_table(tmp_path / "b.npz", utterances(label=lambda i: labels[i % 2]))
        place = "b.npz, record 1: label"
    else:
        (tmp_path / "list").write_bytes(b"# one\n# two " + byte + b"\n")
        more = [f"--{reader}={tmp_path / 'list'}"]
        place = "list, line 2"
    corpus, said = imported(path, *more)
    assert corpus is None
    assert f"{place}: the byte {byte[0]:#04x} is not UTF-8" in said
    assert encoding in said


def test_times_are_read_alike(imported, tmp_path):
    pytest.importorskip("pyarrow", reason=NEEDS_ARROW)
    start = ["00:01:02.500", "1:02,5", "62.5", "", " ", "nan"]
    rows = utterances(start=lambda i: start[i % 6].replace(",", "."))
    flag = mapping(tmp_path / "m.toml", MAP.format(more='start = "start"\n'))
    listed = pickled(tmp_path / "p.pkl", utterances(start=lambda i: [*start[:4], None, np.nan][i % 6]))
    for corpus, said in (imported(as_csv(tmp_path / "a.csv", rows), flag), imported(listed)):
        found = {corpus[i].start for i in range(36) if int(corpus[i].id[1:]) % 6 < 3}
        assert found == {62.5}, said
        assert {corpus[i].start for i in range(36) if int(corpus[i].id[1:]) % 6 > 2} == {None}
    for wrong in ("soon", "-1", "inf", "1:2:3:4", [1, 2]):
        _, said = imported(pickled(tmp_path / "w.pkl", utterances(end=lambda i, wrong=wrong: wrong)))
        assert "record 0: end is" in said


def test_blanks_are_no_names(imported, tmp_path):
    blank = lambda i: (None, float("nan"), "")[i % 3]  # noqa: E731
    rows = utterances(dialogue=blank, speaker=blank, session=blank, sentence=blank)
    corpus, _ = imported(pickled(tmp_path / "p.pkl", rows))
    u = corpus[5]
    assert (u.dialogue, u.speaker, u.session, u.sentence) == (u.id, "", "", "")
    for field, wrong in (("id", None), ("id", "a\0"), ("turn", float("nan")), ("turn", 2**70), ("speaker", "\ud800")):
        corpus, said = imported(pickled(tmp_path / "w.pkl", utterances(**{field: lambda i, wrong=wrong: wrong})))
        assert corpus is None
        assert re.search(rf"record 0: the {field} ", said), said


def test_nothing_is_written_where_nothing_can_be_learned(imported, tmp_path):
    rows = [{name: row[name] for name in ("id", "split", "label")} for row in utterances()]
    fields = {"id": ["a", "b"], "annotations": ["x", "y"], "text": np.zeros((2, 3, 4)), "regression_labels": [0.5, 2]}
    for found in (rows, {"train": fields, "test": fields | {"id": ["c", "d"]}}):
        corpus, said = imported(pickled(tmp_path / "p.pkl", found))
        assert corpus is None
        assert "no column or field is a feature, and there is no sentence" in said


def test_records_without_ids_and_parts_by_file_name(imported, tmp_path):
    rows = [{name: row[name] for name in ("label", "audio")} for row in utterances()]
    files = [pickled(tmp_path / name, rows[i::3]) for i, name in enumerate(("x_train.pkl", "x-VAL.pkl", "x.test.pkl"))]
    corpus, said = imported(*files)
    assert {part: s["count"] for part, s in corpus.manifest["splits"].items()} == dict.fromkeys(
        ("train", "valid", "test"), 12
    )
    assert "no id: they are called by their position, x_train_00000 and on" in said
    assert len(set(corpus.index["id"].tolist())) == 36
    corpus, said = imported(pickled(tmp_path / "p.pkl", rows))
    assert "all are train" in said
    corpus, said = imported(files[0], pickled(tmp_path / "more.pkl", rows))
    assert "x_train.pkl and x_test.pkl" in said


def test_dialogues_that_start_again_in_every_part(imported, tmp_path):
    def dialogues(turn):
        return utterances(dialogue=lambda i: i // 3 % 4, turn=turn, id=lambda i: f"dia{i // 3 % 4}_utt{i // 12}")

    corpus, said = imported(pickled(tmp_path / "p.pkl", dialogues(lambda i: i // 12)))
    assert "the numbers of dialogues start again in every part: 4 dialogues" in said
    assert "the ids start again in every part" in said
    assert set(corpus.index["dialogue"].tolist()) == {f"{p}_{d}" for p in ("train", "valid", "test") for d in range(4)}
    rows = utterances(dialogue=lambda i: i // 3 % 4, turn=lambda i: i)
    corpus, said = imported(pickled(tmp_path / "q.pkl", rows))
    assert "start again" not in said, "a dialogue that is cut into parts has every turn once"
    assert set(corpus.index["dialogue"].tolist()) == set("0123")


def test_two_utterances_of_one_turn_are_refused_by_name(imported, tmp_path):
    rows = utterances(dialogue=lambda i: f"d{i // 12}", turn=lambda i: 7 if i == 9 else i % 12)
    corpus, said = imported(pickled(tmp_path / "p.pkl", rows))
    assert corpus is None
    assert "p.pkl: the utterances u07 and u09 both are turn 7 of dialogue 'd0'" in said


def test_turns_that_records_do_not_number_are_told_or_refused(imported, tmp_path):
    words = "the records have no turn: the turns of a dialogue are numbered in the order of the records"
    path = tmp_path / "p.pkl"
    rows = utterances(dialogue=lambda i: f"d{i // 12}")
    corpus, said = imported(pickled(path, rows))
    assert words in said
    assert words in corpus.manifest["provenance"]["notes"]
    assert corpus.index["turn"][np.argsort(corpus.index["id"])].tolist() == 3 * list(range(12))
    rows[7]["turn"] = 3
    corpus, said = imported(pickled(path, rows))
    assert corpus is None
    assert "record 0: 'turn' is missing, and 1 other records of dialogues have it" in said
    corpus, said = imported(pickled(path, utterances(dialogue=lambda i: f"d{i // 12}", turn=lambda i: i * 3)))
    assert words not in said, "gaps are legal"
    assert sorted(corpus.index["turn"].tolist()) == list(range(0, 108, 3))
    assert words not in imported(pickled(path, utterances()))[1], "without dialogues there is nothing to number"


def test_turns_of_a_file_for_each_part_start_again(imported, tmp_path):
    rows = utterances(60, dialogue=lambda i: i // 3 % 20 // 5)
    rows = [{name: value for name, value in row.items() if name != "split"} for row in rows]
    files = [pickled(tmp_path / f"x_{part}.pkl", rows[i::3]) for i, part in enumerate(("train", "val", "test"))]
    pickled(files[2], rows[2::3][3:])  # its dialogues are at other positions than those of train
    corpus, said = imported(*files)
    assert "the numbers of dialogues start again in every part: 4 dialogues" in said
    turns = {(d, t) for d, t in zip(*(corpus.index[name].tolist() for name in ("dialogue", "turn")), strict=True)}
    assert {("train_0", 0), ("valid_3", 4), ("test_0", 1), ("test_1", 0)} < turns


def test_layouts_are_told_without_a_traceback_or_a_loop(imported, tmp_path):
    rows = utterances()
    for layout in layouts.LAYOUTS:
        for found in (rows, {"train": rows}, {"a": 1}, [1, 2], {"train": {"id": ["a"], "annotations": ["x"]}}):
            corpus, said = imported(pickled(tmp_path / "p.pkl", found), f"--layout={layout}")
            assert (corpus is not None) or "p.pkl" in said, (layout, said)
    for name in ("a.jsonl", "b.txt", "c.xlsx"):
        (tmp_path / name).write_text('{"id": "a"}\n')
        _, said = imported(tmp_path / name)
        assert "is none that is read here" in said


def test_a_mapping_names_fields_of_a_list(imported, tmp_path):
    rows = [{"emo": i // 3 % 2, "vec": np.float32([i, 1, 2]), "other": np.zeros(3)} for i in range(36)]
    text = '[columns]\nlabel = "emo"\n[features]\naudio = "vec"\n[values.label]\n0 = "calm"\n1 = "glad"\n'
    corpus, said = imported(pickled(tmp_path / "p.pkl", rows), mapping(tmp_path / "m.toml", text))
    assert (corpus.labels, set(corpus.modalities)) == (("calm", "glad"), {"audio"}), said


def test_mmsa_without_lengths_has_no_padding(imported, tmp_path):
    path = tmp_path / "p.pkl"
    wanted = fake.write_mmsa(path)
    found = pickle.loads(path.read_bytes())
    for fields in found.values():
        del fields["audio_lengths"], fields["vision_lengths"], fields["text_bert"]
        fields["audio"] = np.roll(fields["audio"], 2, axis=1)  # zeros before the steps, or steps all round
    corpus, said = imported(pickled(path, found))
    assert "train has no audio_lengths: steps of zeros" in said
    for u in (corpus[i] for i in range(len(corpus))):
        np.testing.assert_array_equal(u.features["visual"], wanted[u.id]["visual"])
        assert u.features["audio"].any(1)[[0, -1]].all()


def test_features_that_saw_labels_can_be_said_to_on_any_import(tmp_path, monkeypatch, capsys):
    from data_prep import importer

    of_corpora = ("ravdess", "crema_d", "esd", "savee", "tess", "emorynlp", "dailydialog", "mosei", "emodb", "mosi")
    for tool in (*of_corpora, "clips", "iemocap", "meld", "raw.iemocap", "raw.meld", "import_pack"):
        module = pytest.importorskip(f"data_prep.{tool}", reason="needs the extra prep")
        with pytest.raises(SystemExit):
            module.main(["x", "--out", str(tmp_path / "out"), "--trained-on=text=tset"])
        assert "--trained-on=text=tset: must be MODALITY=PARTS" in capsys.readouterr().err
    assert importer.trained_parts(["text=train,valid", "audio=none"]) == {"text": ("train", "valid"), "audio": ()}


def packed_items(tmp_path, rows):
    """The items that the rows of a pack become."""
    from data_prep import pack_stream
    from mer_jax.data import records
    from mer_jax.predict.encoder_client import item_of

    pack_stream.main([str(pickled(tmp_path / "p.pkl", rows)), f"--records={tmp_path / 'out'}"])
    with open(tmp_path / "out", "rb") as file:
        hello, *found = iter(lambda: records.read_record(file), None)
    assert "hello" in records.decode_example(hello)
    return [item_of(record, ("audio",)) for record in found]


@pytest.mark.parametrize("drop", [("label",), ("label", "split"), ("split",), ("label", "split", "id")])
def test_prediction_needs_no_label_and_no_part_and_a_bad_row_costs_itself(drop, tmp_path, monkeypatch):
    rows = [{name: value for name, value in row.items() if name not in drop} for row in utterances(8)]
    rows[2]["audio"] = "none"
    rows[4]["audio"] = np.array([1e300, 1, 2, 3])
    rows[5]["start"] = "soon"
    rows[6] |= {"label": None, "split": None}
    found = packed_items(tmp_path, rows)
    assert [bool(item.error) for item in found] == [i in (2, 4, 5) for i in range(8)]
    assert [item.id[-1] for item in found] == list("01234567")
    for item, row in zip(found, rows, strict=True):
        if not item.error:
            np.testing.assert_array_equal(item.features["audio"][0], row["audio"])
            assert item.label == (row.get("label") or "")
    for i, words in ((2, "audio is str"), (4, "beyond float32"), (5, "start is 'soon'")):
        assert words in found[i].error


def places(items):
    return [(item.dialogue, item.turn, item.speaker) for item in items]


def test_a_pack_says_who_speaks_when(tmp_path):
    """Also of a row that cannot be used. A dialogue may be called as one of its utterances is."""
    audio = np.arange(3.0)
    rows = [
        {"id": f"u{i}", "dialogue": "d", "turn": 5 - i, "speaker": "FM"[i % 2], "audio": audio + i} for i in range(4)
    ]
    rows += [{"id": name, "dialogue": "e", "turn": turn, "audio": audio} for turn, name in enumerate(("e", "e1"))]
    rows.append({"id": "f", "dialogue": "", "turn": 3, "audio": audio, "speaker": "M"})
    rows[2]["audio"] = np.array([1e300, 1.0, 2.0])
    found = packed_items(tmp_path, rows)
    of_d = [("d", 5 - i, "FM"[i % 2]) for i in range(4)]
    assert places(found) == [*of_d, ("e", 0, ""), ("e", 1, ""), ("", None, "M")]
    assert [item.error != "" for item in found] == [i == 2 for i in range(7)]


def test_a_pack_without_dialogues_has_none_to_predict(tmp_path):
    found = packed_items(tmp_path, [{"id": f"u{i}", "audio": np.arange(3.0) + i} for i in range(4)])
    assert set(places(found)) == {("", None, "")}


def test_a_dict_to_predict_may_hold_anything():
    import types

    from mer_jax.predict import inputs

    given = [
        {"id": "a", "audio": [1.0, 2.0], "label": None, "sentence": "Oh.", "start": "00:00:01.5", "speaker": 3},
        {"audio": np.ones((2, 2)), "label": "sad"},
        {"audio": [[1.0], [1.0, 2.0]]},
        {"audio": None, "end": "soon"},
    ]
    model = types.SimpleNamespace(manifest=None, modalities={})
    a, b, ragged, late = inputs.items_of(given, model)
    assert (a.id, a.sentence, a.label, a.start) == ("a", "Oh.", "", 1.5)
    assert a.features["audio"].shape == (1, 2)
    assert (b.id, b.label, b.error) == ("1", "sad", "")
    assert (ragged.id, "audio: " in ragged.error) == ("2", True)
    assert "end is 'soon'" in late.error
