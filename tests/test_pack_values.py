"""Values of strangers' packs, whatever the layout: what is no label, no number, no name; what a mapping renames; and
what prediction does without."""

import pickle

import numpy as np
import packs as fake
import pytest
from strangers import mapping, pickled, predicted, utterances

from data_prep.packs import layouts, safe_pickle
from data_prep.packs.field_names import is_telling
from data_prep.packs.labels import name_labels
from data_prep.packs.rows import PackRow
from mer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("calls_unchecked", "no_weights")
HUGE = 10**5000
SMALL = {"text": 3, "audio": 2, "visual": 2}
COUNTS = (13, 17, 23, 19, 16, 29)
LABELS = "--labels=hap,sad,neu,ang,exc,fru"


def a_tuple(path, change=lambda fields: None):
    """A pack of DialogueRNN's layout, with `change(fields by name)` applied."""
    names = layouts.TUPLES["dialoguernn"]
    fake.write(path, names, "iemocap", SMALL, COUNTS)
    fields = dict(zip(names.split(), pickle.loads(path.read_bytes()), strict=True))
    change(fields)
    return pickled(path, tuple(fields.values()))


def an_mmsa(path, change=lambda fields: None):
    fake.write_mmsa(path)
    found = pickle.loads(path.read_bytes())
    for fields in found.values():
        change(fields)
    return pickled(path, found)


def a_folder(path, change=lambda found: None):
    fake.write_deepmsi(path)
    for file in sorted(path.glob("*/text/*.pkl")):
        found = pickle.loads(file.read_bytes())
        change(found)
        pickled(file, found)
    return path


SAYS = [
    *("label_vec", "label2", "Label1", "labels_soft", "emo_label_1", "emotion_vector", "emo", "y_true", "gt", "truth"),
    *("polarity", "spk", "qmask", "timestamp", "interval", "time", "speaker_vec", "one_hot_label", "sentiment", "y"),
]
FEATURES = [
    *("text_features", "emotion2vec", "wav2vec2", "audio", "text", "openface", "sentence_embedding", "bert_base"),
    *("time_series", "dialogue_features", "video2", "egemaps", "hubert_layer_9", "mfcc13", "yolo"),
]


@pytest.mark.parametrize("field", SAYS)
def test_names_that_say_what_an_utterance_is(field, imported, tmp_path):
    assert is_telling(field)
    corpus, said = imported(pickled(tmp_path / "p.pkl", utterances(**{field: lambda i: np.array([i, 0.5])})))
    assert set(corpus.modalities) == {"audio"}, said
    text = f'[features]\nx = "{field}"\naudio = "audio"\n'
    assert f'as in {field} = "{field}"' in said or f"{field} all are" in said
    corpus, said = imported(tmp_path / "p.pkl", mapping(tmp_path / "m.toml", text))
    assert set(corpus.modalities) == {"audio", "x"}, said


@pytest.mark.parametrize("field", FEATURES)
def test_names_of_features(field, imported, tmp_path):
    assert not is_telling(field)
    corpus, said = imported(pickled(tmp_path / "p.pkl", utterances(**{field: lambda i: np.float32([i, 0.5, i])})))
    assert "not read as features" not in said
    assert len(corpus.modalities) == 1 + (field != "audio")


def test_what_is_one_hot_everywhere_is_no_feature(imported, tmp_path):
    rows = utterances(vec=lambda i: np.eye(4)[i % 4], other=lambda i: np.eye(4)[i % 4] * (2 if i == 3 else 1))
    corpus, said = imported(pickled(tmp_path / "p.pkl", rows))
    assert set(corpus.modalities) == {"audio", "other"}
    assert "vec: not read as features, as they are one-hot in every utterance" in said
    assert 'as in vec = "vec"' in said


def test_a_mapping_of_features_alone_keeps_the_label_whatever_it_is_called(imported, tmp_path):
    rows = utterances(emotion=lambda i: ("happy", "sad")[i // 3 % 2], openface_emo=lambda i: np.float32([i, 1]))
    for row in rows:
        del row["label"]
    corpus, said = imported(pickled(tmp_path / "p.pkl", rows))
    assert set(corpus.modalities) == {"audio"}
    assert 'as in openface_emo = "openface_emo"' in said
    text = '[features]\naudio = "audio"\nopenface_emo = "openface_emo"\n'
    corpus, said = imported(tmp_path / "p.pkl", mapping(tmp_path / "m.toml", text))
    assert (corpus.labels, set(corpus.modalities)) == (("happy", "sad"), {"audio", "openface_emo"}), said


def of_kind(kind, folder, label):
    """A pack of each layout with what `label` makes of the number of its calls."""
    calls = iter(range(10**6))

    def spoil_list(fields):
        for items in fields["labels"].values():
            items[:] = [label(next(calls)) for _ in items]

    def spoil_mmsa(fields):
        fields["annotations"] = [label(next(calls)) for _ in fields["id"]]

    if kind == "tuple":
        return a_tuple(folder / "p.pkl", spoil_list)
    if kind == "mmsa":
        return an_mmsa(folder / "p.pkl", spoil_mmsa)
    if kind == "deepmsi":
        return a_folder(folder / "IEMOCAP", lambda found: found.update(label=label(next(calls))))
    rows = utterances(label=label)
    if kind == "list":
        return pickled(folder / "p.pkl", rows)
    np.savez(folder / "p.npz", **{name: np.array([row[name] for row in rows]) for name in rows[0]})
    return folder / "p.npz"


KINDS = ("tuple", "mmsa", "deepmsi", "list", "npz")


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_a_mapping_rename_labels_of_every_layout(kind, imported, tmp_path):
    path = of_kind(kind, tmp_path, lambda i: i % 2)
    text = '[values.label]\n0 = "calm"\n1 = "glad"\n[values.split]\nvalid = "dev"\n'
    corpus, said = imported(path, mapping(tmp_path / "m.toml", text))
    assert corpus.labels == ("calm", "glad"), said


@pytest.mark.parametrize(
    "wrong", [-1, 0.5, {"a": 1}, None, "unknown", "xxx", "a\nb", HUGE, b"\xff", [[]], "?"], ids=range(11)
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_label_is_left_out_of_every_layout(kind, wrong, imported, tmp_path):
    if kind == "npz" and not isinstance(wrong, int | float):
        pytest.skip("an npz holds values of one type")
    if kind == "npz" and wrong == HUGE:
        pytest.skip("an npz holds no such number")
    path = of_kind(kind, tmp_path, lambda i: wrong if i == 7 else i % 2)
    corpus, said = imported(path, "--labels=calm,glad")
    assert corpus is None
    assert "1 of " in said, said
    assert "have no label, or not one" in said
    corpus, said = imported(path, "--labels=calm,glad", "--skip-unlabelled")
    assert corpus.labels == ("calm", "glad"), said
    assert "are left out" in said


def test_a_missing_label_of_a_folder_is_left_out(imported, tmp_path):
    path = a_folder(tmp_path / "IEMOCAP")
    first = min(path.glob("train/text/*.pkl"))
    found = pickle.loads(first.read_bytes())
    del found["label"]
    pickled(first, found)
    corpus, said = imported(path, LABELS)
    assert corpus is None
    assert f"{first.name}: there is no label" in said
    corpus, said = imported(path, LABELS, "--skip-unlabelled")
    assert len(corpus) == 59, said


def test_several_names_in_words_and_blank_names(imported, tmp_path):
    names = ("happy", "sad", "happy and sad")
    path = pickled(tmp_path / "p.pkl", utterances(label=lambda i: names[2] if i == 7 else names[i // 3 % 2]))
    corpus, said = imported(path)
    assert corpus is None
    assert "'happy and sad', which is several" in said
    for order, words in (("a,", "'' is no name of a class"), ("a,nan", "'nan' is no name of a class")):
        corpus, said = imported(pickled(path, utterances(label=lambda i: i % 2)), f"--labels={order}")
        assert corpus is None
        assert words in said


@pytest.mark.parametrize("labels", [(0, 1, "happy"), ("0", "1", "happy"), (2.0, "sad", "happy")])
def test_numbers_beside_names_are_refused(labels, imported, tmp_path):
    path = pickled(tmp_path / "p.pkl", utterances(label=lambda i: labels[i // 3 % 3]))
    corpus, said = imported(path)
    assert corpus is None
    assert "some labels are numbers" in said
    assert "some are names ('happy'" in said
    order = ",".join(dict.fromkeys(str(int(x)) if isinstance(x, float) else str(x) for x in labels))
    corpus, said = imported(path, f"--labels={order}")
    assert len(corpus.labels) == 3, said


@pytest.mark.parametrize(
    "field", ["id", "turn", "start", "speaker", "session", "dialogue", "sentence", "audio", "split"]
)
@pytest.mark.parametrize("value", [HUGE, -HUGE, "7" * 5000, np.array([HUGE], object), [HUGE, 1]], ids=range(5))
def test_numbers_of_any_length_are_told(field, value, imported, tmp_path):
    corpus, said = imported(pickled(tmp_path / "p.pkl", utterances(**{field: lambda i: value if i == 5 else i % 3})))
    assert len(said) < 3000
    assert "Traceback" not in said
    assert corpus is None or isinstance(value, str) or field == "audio"


def test_labels_of_any_length_are_told():
    rows = [PackRow(str(i), "train", label="9" * 5000) for i in range(3)]
    labels, *_ = name_labels("p", rows, None)
    assert labels == ("9" * 5000,)
    with pytest.raises(UserError, match="is no class"):
        name_labels("p", [PackRow("a", "train", label="9" * 20)], "a,b")


@pytest.mark.parametrize("key", [None, ("a", 1), b"a", float("nan"), 0.5, "a\0", 1.5])
def test_dialogues_have_names(key, imported, tmp_path):
    def change(fields):
        for value in fields.values():
            if isinstance(value, dict):
                value[key] = value.pop(next(iter(value)))

    corpus, said = imported(a_tuple(tmp_path / "p.pkl", change), LABELS)
    assert corpus is None
    assert "p.pkl: the name of a dialogue " in said


SPOILT = {
    "annotations": 3,
    "id": np.array("a"),
    "audio_lengths": 3,
    "text_bert": [float("nan")] * 99,
    "raw_text": 3,
    "audio": 0.5,
    "vision": {"a": 1},
}


@pytest.mark.parametrize("field", SPOILT)
def test_fields_of_mmsa_that_are_something_else(field, imported, tmp_path):
    for value in (SPOILT[field], {"a": 1}, np.array(1.0), "abc", None, [{"a": 1}] * 30, [None] * 30):
        corpus, said = imported(an_mmsa(tmp_path / "p.pkl", lambda fields, value=value: fields.update({field: value})))
        assert corpus is not None or "p.pkl" in said, said
    corpus, said = imported(an_mmsa(tmp_path / "p.pkl", lambda fields: fields.update({field: SPOILT[field]})))
    assert corpus is None
    assert field in said


def test_fields_of_a_tuple_that_are_something_else(imported, tmp_path):
    for field in layouts.TUPLES["dialoguernn"].split():
        for value in (None, 3, "a", np.array(1), {}, [], [None]):
            corpus, said = imported(a_tuple(tmp_path / "p.pkl", lambda f, v=value, n=field: f.update({n: v})), LABELS)
            assert corpus is not None or "p.pkl" in said, (field, value, said)
            if isinstance(value, list) or field in ("train", "test"):
                continue

            def inside(fields, field=field, value=value):
                fields[field][list(fields[field])[-1]] = value

            corpus, said = imported(a_tuple(tmp_path / "p.pkl", inside), LABELS)
            assert corpus is None, (field, value)
            assert "p.pkl" in said


@pytest.mark.parametrize("wrong", [None, -1, {"a": 1}, HUGE, "x" * 3, b"\xff", 0.5], ids=range(7))
@pytest.mark.parametrize("kind", ["tuple", "mmsa", "deepmsi", "list"])
def test_labels_are_not_needed_to_predict(kind, wrong, tmp_path):
    errors = predicted(tmp_path, of_kind(kind, tmp_path, lambda i: wrong))
    assert errors
    assert not any(errors)


def test_a_tuple_without_labels_is_recognised_to_predict(tmp_path):
    for labels in ({}, None):
        errors = predicted(tmp_path, a_tuple(tmp_path / "p.pkl", lambda f, x=labels: f.update(labels=x)))
        assert len(errors) == sum(COUNTS)
        assert not any(errors)


def test_a_bad_value_costs_its_row_to_predict(tmp_path):
    def change(fields):
        first = next(iter(fields["audio"]))
        fields["audio"][first][0] = "word"
        fields["sentences"][first][1] = 3

    errors = predicted(tmp_path, a_tuple(tmp_path / "p.pkl", change))
    assert sum(map(bool, errors)) == 2

    def spoil(fields):
        fields["annotations"], fields["raw_text"] = 3, [3, *fields["raw_text"][1:]]

    assert sum(map(bool, predicted(tmp_path, an_mmsa(tmp_path / "m.pkl", spoil)))) == 3
    folder = a_folder(tmp_path / "IEMOCAP", lambda found: found.pop("label"))
    min(folder.glob("train/text/*.pkl")).write_bytes(b"damaged")
    assert sum(map(bool, predicted(tmp_path, folder))) == 1
    rows = utterances(split=lambda i: "foo", emotion=lambda i: 3, annotation=lambda i: HUGE)
    rows[3]["id"] = b"\x92"
    assert [i for i, error in enumerate(predicted(tmp_path, pickled(tmp_path / "l.pkl", rows))) if error] == [3]


def test_text_of_python_2(tmp_path):
    """`str` of Python 2 is bytes: text in UTF-8, or an array's contents that look like it."""
    text, latin = "très".encode(), b"tr\xe8s"
    array = np.frombuffer("é".encode() * 8, np.float64)
    raw = array.tobytes()

    def string(value):
        return b"U" + bytes([len(value)]) + value

    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    floats = b"cnumpy\ndtype\n(U\x02f8I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntb"
    whole = made + b"(I1\n(I2\nt" + floats + b"I00\n" + string(raw) + b"tb"
    (tmp_path / "p.pkl").write_bytes(b"\x80\x02(" + string(text) + string(latin) + whole + b"t.")
    first, second, found = safe_pickle.load(tmp_path / "p.pkl")
    assert (first, second) == ("très", "très")
    np.testing.assert_array_equal(np.asarray(found), array)
