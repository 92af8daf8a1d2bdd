"""MMSA's dictionaries bring the sentiment and, where somebody has added them, CMU-MOSEI's emotions."""

import pickle

import numpy as np
import packs
import pytest

from data_prep import numbers

pytestmark = pytest.mark.usefixtures("no_weights")
OLD_ORDER = ("anger", "disgust", "fear", "happy", "sad", "surprise")


def changed(path, change=lambda fields: None, counts=(12, 6, 6)):
    """A pack in which `change` has changed the fields of every part."""
    packs.write_mmsa(path, counts)
    found = pickle.loads(path.read_bytes())
    for fields in found.values():
        change(fields)
    path.write_bytes(pickle.dumps(found))
    return path


def scores(low, high):
    def change(fields):
        count = len(fields["id"])
        fields["regression_labels"] = np.linspace(low, high, count)
        fields.update({f"regression_labels_{m}": np.zeros(count) for m in "TAV"})

    return change


def emotions(count, names=numbers.EMOTIONS):
    """Float[count, 6] in the order of the names; emotion k of utterance i is (i + k of the usual order) mod 4."""
    place = [numbers.EMOTIONS.index(name) for name in names]
    return np.array([[(i + k) % 4 for k in place] for i in range(count)]) * 1.0


def values(corpus, name):
    return dict(zip(corpus.index["id"].tolist(), corpus.index[f"value/{name}"].tolist(), strict=True))


@pytest.mark.parametrize(
    ("flag", "ends", "span", "definition"),
    [
        ("--sentiment=sims", (-1, 1), (-1, 1), "sims"),
        ("--sentiment=mosei", (-1, 1), (-3, 3), "mosei"),
        ("", (-2.5, 3), (-3, 3), "mosi"),
    ],
)
def test_the_sentiment_of_mmsa(imported, tmp_path, flag, ends, span, definition):
    path = changed(tmp_path / "p.pkl", scores(*ends))
    corpus, said = imported(*[path, flag][: 1 + bool(flag)])
    assert corpus is not None, said
    target = corpus.targets["sentiment"]
    assert (target.kind, target.names, target.ranges, target.definition) == (
        "regression", ("sentiment",), (span,), definition,
    )  # fmt: skip
    of_train = pickle.loads(path.read_bytes())["train"]
    wanted = dict(zip(of_train["id"], of_train["regression_labels"], strict=True))
    found = values(corpus, "sentiment")
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert corpus.labels == ("Negative", "Neutral", "Positive"), "the classes stay where they are"
    assert (
        "regression_labels_A, regression_labels_T, regression_labels_V: the sentiment of a modality alone is not"
        in said
    )
    assert ("goes beyond -1 to 1" in said) == (not flag)


def test_whose_sentiment_it_is_is_never_guessed(imported, tmp_path, monkeypatch):
    path = changed(tmp_path / "p.pkl", scores(-1, 1))
    corpus, said = imported(path)
    assert corpus is None
    assert "p.pkl: no regression_labels lies beyond -1 to 1" in said
    assert "--sentiment=sims, mosi or mosei says it, and --sentiment=none leaves them out" in said
    corpus, said = imported(path, "--sentiment=none")
    assert list(corpus.targets) == ["classes"]
    from data_prep.packs import mmsa_numbers

    monkeypatch.setitem(mmsa_numbers.PARTS, (12, 6, 6), "sims")
    corpus, said = imported(path)
    assert corpus.targets["sentiment"].definition == "sims"
    assert "the parts are as large as those of MMSA's sims" in said


@pytest.mark.parametrize(
    ("change", "flag", "words"),
    [
        (scores(-1, 2), "--sentiment=sims", r"utterance \d+ \(.*\): regression_labels is 1\.\d+, outside its range -1 to 1"),
        (scores(-3, 3.5), "", "regression_labels is 3.5, outside its range -3 to 3"),
        (scores(np.nan, np.nan), "--sentiment=mosi", "no utterance has a number for sentiment"),
        (lambda f: f.update(regression_labels=["high"] * len(f["id"])), "--sentiment=mosi", "is 'high', not a number"),
        (lambda f: f.update(regression_labels=[0.0]), "--sentiment=mosi", "the fields differ in length"),
        (lambda f: f.update(regression_labels=3.0), "--sentiment=mosi", "regression_labels is .*not a value an utterance"),
        (lambda f: f.pop("regression_labels"), "--sentiment=mosi", "p.pkl has no regression_labels"),
    ],
)  # fmt: skip
def test_a_wrong_sentiment_is_named(imported, tmp_path, change, flag, words):
    corpus, said = imported(*[changed(tmp_path / "p.pkl", change), flag][: 1 + bool(flag)])
    assert corpus is None
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(said)


def test_a_pack_of_numbers_alone_and_unknown_ones(imported, tmp_path):
    def change(fields):
        del fields["annotations"], fields["classification_labels"]
        fields["regression_labels"] = [2.0, None, *fields["regression_labels"][2:]]

    corpus, said = imported(changed(tmp_path / "p.pkl", change), "--sentiment=mosi")
    assert "it has no classes" in said
    assert "sentiment is not known of 3 of 24 utterances" in said
    assert (corpus.labels, corpus.asked[0].name, corpus.labelled.sum()) == ((), "sentiment", 21)


@pytest.mark.parametrize("kind", ["names", "columns", "cubes"])
def test_the_emotions_of_mosei(imported, tmp_path, kind):
    def change(fields):
        found = emotions(len(fields["id"]), OLD_ORDER)
        if kind == "names":
            names = ["angry", "Disgust", "fear", "happiness", "sadness", "surprised"]
            fields["emotions"] = dict(zip(names, found.T, strict=True))
        else:
            fields["emotion_labels"] = found[:, None] if kind == "cubes" else found.tolist()

    path = changed(tmp_path / "p.pkl", change)
    flags = ["--sentiment=mosei"] + [f"--emotions={','.join(OLD_ORDER)}"] * (kind != "names")
    corpus, said = imported(path, *flags)
    assert corpus is not None, said
    target = corpus.targets["emotions"]
    assert (target.kind, target.names, set(target.ranges), target.definition, target.present_from) == (
        "multilabel", numbers.EMOTIONS, {(0, 3)}, "mosei-emotions", "above_zero",
    )  # fmt: skip
    ids = pickle.loads(path.read_bytes())["train"]["id"]
    for k, name in enumerate(numbers.EMOTIONS):
        found = values(corpus, name)
        assert [found[one] for one in ids] == [(i + k) % 4 for i in range(12)], name


@pytest.mark.parametrize(
    ("field", "flag", "words"),
    [
        (lambda n: emotions(n), "", "without names, and two orders are in use: say --emotions=happy,sad,anger"),
        (lambda n: emotions(n), "--emotions=happy,sad", "in another order, not --emotions=happy,sad"),
        (lambda n: np.ones((n, 7)), "--emotions=" + ",".join(OLD_ORDER), "emotion_labels has 7 numbers, not 6; the first of"),
        (lambda n: emotions(n) * 1.5, "--emotions=" + ",".join(OLD_ORDER), "is 4.5, outside its range 0 to 3"),
        (lambda n: {"joy": np.zeros(n)}, "", "emotion_labels has joy; it needs happy, sad, anger"),
        (lambda n: dict(zip(OLD_ORDER, [*np.zeros((5, n)), [0]], strict=True)), "", "its columns differ in length"),
        (lambda n: np.zeros((n - 1, 6)), "--emotions=" + ",".join(OLD_ORDER), "differ in length"),
    ],
)  # fmt: skip
def test_wrong_emotions_are_named(imported, tmp_path, field, flag, words):
    path = changed(tmp_path / "p.pkl", lambda fields: fields.update(emotion_labels=field(len(fields["id"]))))
    corpus, said = imported(*[path, "--sentiment=mosei", flag][: 2 + bool(flag)])
    assert corpus is None
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(said)


@pytest.mark.parametrize("field", ["regression_labels", "emotion_labels"])
def test_whatever_the_numbers_are_there_is_no_traceback(imported, tmp_path, field):
    flags = ("--emotions=" + ",".join(OLD_ORDER),)
    odd = [
        3,
        "abc",
        np.array(1.0),
        {"a": 1},
        {"a": {}},
        [{"a": 1}] * 12,
        [None] * 12,
        [[1, [2]]] * 12,
        b"x",
        [np.zeros(2)] * 12,
    ]
    for i, value in enumerate(odd):
        path = changed(tmp_path / f"{i}.pkl", lambda fields, value=value: fields.update({field: value}))
        for given in (("--sentiment=mosei",), ()):
            corpus, said = imported(path, *given, *flags)
            assert corpus is not None or f"{i}.pkl" in said, (value, said)
