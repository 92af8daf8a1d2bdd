"""data.speaker_norm: by whose mean and scale features are standardised."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import class_targets, corpus_of, small_description, small_utterances
from experiments import of_folds_and_seeds as experiment
from finished import dump, write_run
from test_report import text_of, written

from mer_jax import config as config_lib
from mer_jax.data import loader
from mer_jax.data import pool as pool_lib
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.speaker_norm import describe_norm, norm_groups, title_of
from mer_jax.errors import UserError
from mer_jax.experiment import run, score_test
from mer_jax.predict import loading
from mer_jax.predict.known_speakers import KnownSpeakers
from mer_jax.runtime import sharding
from mer_jax.training import step

ONE = sharding.make_mesh(devices=jax.devices()[:1])
SPEAKERS = ("Anna", "Ben", "Cora", "")  # the last names none
OFFSET = {"Anna": 3.0, "Ben": -2.0, "Cora": 0.5, "": 0.0}


def offset_utterances(count=64):
    """Each speaker says the same, to a scale and an offset of the own; sessions of half the corpus."""
    said = list(small_utterances(count // 4, longest=5))
    for i in range(count):
        base, name = said[i // 4], SPEAKERS[i % 4]
        values = base.features["text"].astype(np.float32) * (1 + i % 4) + OFFSET[name]
        place = {"dialogue": f"d{i // 8}", "turn": i % 8, "session": f"s{2 * i // count}"}
        yield dataclasses.replace(base, id=f"u{i:03d}", speaker=name, features={"text": values}, **place)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offsets") / "c"
    write_corpus(folder, offset_utterances(), small_description(extractors={"text": "random"}), shard_records=20)
    return Corpus(folder)


def pool_of(corpus, kind):
    rows = np.arange(len(corpus))
    targets = class_targets(corpus.label_ids(rows), len(corpus.labels))
    return pool_lib.select_utterances(corpus, rows, {"text": 5}, targets, kind)


def two_folds(corpus):
    trains = np.zeros((2, len(corpus)), bool)
    trains[0, corpus.index["speaker"] != "Cora"] = True
    trains[1, : len(corpus) // 2] = True
    return trains


def scanned(corpus, kind, keep=False):
    pool = pool_of(corpus, kind)
    how = {"local_rows": np.arange(len(pool)), "keep": keep}
    return pool, pool_lib.scan(corpus, pool, two_folds(corpus), "refuse", **how)


def reference(corpus, kind, fold, name):
    """Mean and scale in float64, utterance by utterance."""
    trains = two_folds(corpus)[fold]
    field = corpus.index["session" if kind == "session" else "speaker"]
    mine = (field == name) & (trains if kind == "train" else True)
    whole, own = (
        np.concatenate([corpus[int(i)].features["text"] for i in np.flatnonzero(which)] or [np.zeros((0, 6))])
        for which in (trains, mine)
    )
    if not name or len(own) < 2:
        own = whole
    return own.astype(np.float64).mean(0), own.astype(np.float64).std(0)


@pytest.mark.parametrize("kind", ["train", "own", "session"])
def test_statistics_are_those_of_the_groups(kind, corpus):
    pool, scan = scanned(corpus, kind)
    names = ("s0", "s1") if kind == "session" else ("Anna", "Ben", "Cora")
    assert pool.groups.names == names
    for fold in (0, 1):
        for group, name in enumerate(("", *names)):
            mean, scale = reference(corpus, kind, fold, name)
            np.testing.assert_allclose(scan.stats["text"]["mean"][fold, group], mean, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(scan.stats["text"]["scale"][fold, group], scale, rtol=1e-5)
    wanted = [[True, True, kind != "train"], [True] * 3] if kind != "session" else [[True, True]] * 2
    assert scan.own.tolist() == wanted, "Cora does not train in the first fold"


def test_known_offsets_and_scales_are_removed(corpus):
    pool, scan = scanned(corpus, "own", keep=True)
    stats = {"text": {name: jnp.asarray(x[0]) for name, x in scan.stats["text"].items()}}
    for source in (loader.pack(corpus, pool, scan.features, ONE), None):
        rows = np.arange(64, dtype=np.int32)
        if source is not None:
            batch = loader.gather(source, jnp.asarray(rows), (("text", 5),))
        else:
            read = loader.collate(corpus, pool, rows[::-1], (("text", 5),), "refuse")
            batch = loader.take_rows(jax.tree.map(jnp.asarray, read), jnp.asarray(rows[::-1]))
        found = np.asarray(step.standardize(batch, stats).features["text"])
        order = np.argsort(corpus.index["id"])
        apart = found[order].reshape(16, 4, 5, 6)
        for speaker in (1, 2):
            np.testing.assert_allclose(apart[:, speaker], apart[:, 0], atol=2e-5)
        assert np.abs(apart[:, 3] - apart[:, 0]).max() > 0.1, "nobody is named: the training part's"


def test_too_few_steps_and_constant_features_take_the_training_part(tmp_path):
    def utterances():
        for utterance in small_utterances(24):
            text = utterance.features["text"].astype(np.float32)
            if utterance.id == "u001":
                text, speaker = text[:1], "once"
            elif utterance.id in ("u002", "u003"):
                text, speaker = (
                    np.concatenate([np.full((4, 1), 7.0, np.float32), np.ones((4, 5), np.float32)], 1),
                    "flat",
                )
            else:
                speaker = "other"
            yield dataclasses.replace(utterance, speaker=speaker, features={"text": text})

    write_corpus(tmp_path / "c", utterances(), small_description(extractors={"text": "random"}))
    corpus = Corpus(tmp_path / "c")
    pool = pool_of(corpus, "own")
    trains = np.ones((1, len(pool)), bool)
    scan = pool_lib.scan(corpus, pool, trains, "refuse", local_rows=np.arange(len(pool)), keep=False)
    mean, scale = (scan.stats["text"][name][0] for name in ("mean", "scale"))
    flat, once = (1 + pool.groups.names.index(name) for name in ("flat", "once"))
    np.testing.assert_array_equal(mean[once], mean[0])
    np.testing.assert_array_equal(scale[once], scale[0])
    np.testing.assert_allclose(mean[flat], [7, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(scale[flat], scale[0])
    assert dict(zip(pool.groups.names, scan.own[0].tolist(), strict=True)) == {
        "flat": True,
        "once": False,
        "other": True,
    }


def test_none_is_as_it_was(corpus):
    pool, scan = scanned(corpus, "none", keep=True)
    assert scan.own is None
    assert scan.stats["text"]["mean"].shape == (2, 6)
    batch = loader.gather(loader.pack(corpus, pool, scan.features, ONE), jnp.arange(4, dtype=jnp.int32), (("text", 5),))
    assert batch.norm_group is None


def test_a_batch_without_groups_is_standardised_by_the_training_part():
    stats = {"text": {"mean": jnp.arange(6.0).reshape(2, 3), "scale": jnp.ones((2, 3))}}
    batch = Batch({"text": jnp.zeros((1, 1, 3))}, {"text": jnp.ones((1, 1), bool)}, {}, jnp.ones(1))
    np.testing.assert_array_equal(step.standardize(batch, stats).features["text"][0, 0], [0, -1, -2])
    grouped = dataclasses.replace(batch, norm_group=jnp.array([1], jnp.int32))
    np.testing.assert_array_equal(step.standardize(grouped, stats).features["text"][0, 0], [-3, -4, -5])


def test_what_cannot_be_is_refused(corpus, tmp_path):
    config = experiment()
    config.data.speaker_norm, config.data.standardize = "own", False
    with pytest.raises(UserError, match=r"data.speaker_norm=own: must be none where data.standardize is off"):
        config_lib.validate(config)
    nameless = (dataclasses.replace(u, speaker="") for u in small_utterances(12))
    write_corpus(tmp_path / "c", nameless, small_description())
    with pytest.raises(UserError, match="speaker_norm=train: corpus 'small' names no speaker"):
        norm_groups(Corpus(tmp_path / "c"), np.arange(12), "train")


def test_what_is_told_of_it(corpus):
    tests = [np.flatnonzero(~trains) for trains in two_folds(corpus)]
    speakers, session = corpus.index["speaker"], corpus.index["session"]
    for kind, wanted in (("own", sum((speakers[rows] != "").sum() for rows in tests)),
                         ("session", sum((session[rows] != "").sum() for rows in tests)),
                         ("train", (speakers[tests[1]] != "").sum())):  # fmt: skip
        pool, scan = scanned(corpus, kind)
        told = describe_norm(pool.groups, scan.own, tests, ["1", "2"])
        assert told["by_own"] == wanted
        assert f"{wanted} of {sum(map(len, tests))} test utterances" in told["in_words"]
        assert ("transductive" in told["in_words"]) == (kind != "train") == ("transductive" in title_of(told))
    assert title_of(told | {"kind": "own"}) == ", speakers normalised by their own test utterances (transductive)"
    assert title_of(told | {"kind": "own", "by_own": 0}) == title_of(None) == ""


def test_a_report_says_it_beside_the_protocol(tmp_path):
    folder = write_run(tmp_path / "w")
    metrics = json.loads((folder / "metrics.json").read_text())
    words = "speakers by all of their own utterances (transductive): 9 of 60 test utterances by statistics that hold"
    norm = {"kind": "own", "names": ["A"], "own": {"1": ["A"]}, "by_own": 9, "in_words": words}
    metrics["protocol"]["speaker_norm"] = norm
    dump(folder, "metrics", metrics)
    text = text_of(written(tmp_path, folder))
    assert f"Standardised are {words}" in text
    assert f"They are of {words}" in text, "beside the scores"
    both = text_of(written(tmp_path, folder, write_run(tmp_path / "other")))
    assert both.count("normalised by their own test utterances (transductive)") == 1


def test_speakers_of_later_utterances():
    known = KnownSpeakers({"kind": "train", "names": ["A", "B"], "own": {"1": ["A", "B"], "2": ["B"]}})
    assert known.groups(["B", "Z", ""], 4).tolist() == [2, 0, 0, 0]
    assert known.note("B", ["1", "2"]) == known.note("A", ["1"]) == ""
    assert known.note("A", ["1", "2"]) == "standardised by the whole training part: speaker 'A' did not train"
    assert known.note("", ["1"]) == "standardised by the whole training part: no speaker is named"
    assert KnownSpeakers(None).groups(["A"], 2) is None
    assert KnownSpeakers(None).note("A", ["1"]) == ""


# ---- whole runs ----


def norm_config(kind, placement="auto"):
    config = experiment(seeds=1, folds=(0, 1), replicas_per_step=2)
    config.data.speaker_norm, config.data.placement, config.train.inspect = kind, placement, False
    config.train.epochs = 1
    return config_lib.validate(config)


@pytest.mark.slow
def test_a_run_says_it_and_refuses_to_predict(tmp_path, capsys):
    corpus = Corpus(corpus_of(120))
    config = norm_config("own", placement="stream")
    result = run(config, corpus, tmp_path / "w")
    end = ", speakers normalised by their own test utterances (transductive)"
    assert result["protocol"]["title"].endswith(end)
    tested = sum(result["data"]["counts"][fold]["test"]["utterances"] for fold in ("1", "2", "3"))
    assert result["protocol"]["speaker_norm"]["by_own"] == tested == 120
    out = " ".join(capsys.readouterr().out.split())
    assert "standardised are speakers by all of their own utterances (transductive): 120 of 120 test" in out
    assert end in out
    resident = run(norm_config("own"), corpus, tmp_path / "resident")
    for a, b in zip(result["replicas"], resident["replicas"], strict=True):
        assert a["test"]["confusion"] == b["test"]["confusion"]
        assert a["test"]["loss"] == pytest.approx(b["test"]["loss"], rel=1e-5)
    with pytest.raises(UserError, match=r"speakers by all of their own utterances \(data.speaker_norm=own\)"):
        loading.load(tmp_path / "w")
    assert score_test(config, corpus, tmp_path / "w")["replicas"] == json.loads(json.dumps(result["replicas"]))


@pytest.mark.slow
def test_predictions_know_the_speakers_who_trained(tmp_path):
    corpus = Corpus(corpus_of(120))
    run(norm_config("train"), corpus, tmp_path / "w")
    model = loading.load(tmp_path / "w")
    wanted = {}
    for line in (tmp_path / "w" / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["replica"] == model.replicas[0]:
            wanted[row["id"]] = np.array(list(row["probabilities"].values()))
    found = {p.id: p for p in model.predict(corpus.path)}
    for name, p in wanted.items():
        scaled = p ** (1 / model.temperature(0))
        np.testing.assert_allclose(list(found[name].probabilities.values()), scaled / scaled.sum(), atol=2e-5)
        assert found[name].notes == ()
    features = corpus[0].features
    [nobody] = model.predict({m: features[m] for m in model.modalities})
    assert "standardised by the whole training part: no speaker is named" in nobody.notes
    known = found[str(corpus.index["id"][0])]
    assert list(nobody.probabilities.values()) != list(known.probabilities.values())
