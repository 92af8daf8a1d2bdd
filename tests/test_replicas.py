"""Folds x seeds x points side by side: each is the run that it would be alone."""

import json
import re

import jax
import numpy as np
import pytest
from conftest import corpus_of, small_description, small_utterances
from experiments import of_folds_and_seeds as experiment

from mer_jax import config as config_lib
from mer_jax.data import loader, protocols
from mer_jax.data import pool as pool_lib
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.experiment import run
from mer_jax.runtime import run_log
from mer_jax.training import memory, setup
from mer_jax.training import replicas as replicas_lib


@pytest.fixture(scope="module")
def corpus():
    return Corpus(corpus_of(240))


def losses(config, corpus, tmp_path, steps, devices=1, updates=None):
    """Loss and gradient norm by replica name, step by step. updates: a dict that takes what each step added to each
    parameter, by replica name; with SGD that is the gradient, times the rate."""
    assembled = setup.assemble(config, corpus, tmp_path, jax.devices()[:devices])
    assembled.groups.begin()
    data = assembled.data
    found = {replica.name: [] for replica in assembled.groups.replicas}
    params = lambda: jax.device_get(assembled.groups.saved()["state"].params)  # noqa: E731
    before = None if updates is None else params()
    for _, batch in zip(range(steps), data.batches.training(data.order, 0), strict=False):
        terms = run_log.by_replica(assembled.groups.train(assembled.live(), *batch))
        for r, replica in enumerate(assembled.groups.replicas):
            found[replica.name].append([terms[r]["loss"], terms[r]["grad_norm"]])
        if updates is not None:
            after = params()
            for r, replica in enumerate(assembled.groups.replicas):
                added = jax.tree.map(lambda a, b, r=r: (a - b)[r], after, before)
                updates.setdefault(replica.name, []).append(jax.tree_util.tree_leaves_with_path(added))
            before = after
    return {name: np.array(rows) for name, rows in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "context", "together"),
    [
        ("lsgmer", "none", 6),
        ("lsgmer", "none", 1),
        ("lsgmer", "none", 2),
        ("fixed", "none", 6),
        ("published", "none", 6),
        ("lsgmer", "both", 6),
        ("fixed", "past", 2),
    ],
)
def test_a_replica_is_the_single_run_of_its_fold_and_seed(family, context, together, corpus, tmp_path):
    updates, wanted = {}, {}
    found = losses(experiment(family, context, replicas_per_step=together), corpus, tmp_path, 6, updates=updates)
    assert len(found) == 6
    alone = experiment(family, context, folds=(1,), seeds=1)
    alone.seed = 1
    ((name, curve),) = losses(alone, corpus, tmp_path, 6, updates=wanted).items()
    np.testing.assert_allclose(found[name], curve, rtol=1e-5)
    for mine, its in zip(updates[name], wanted[name], strict=True):
        largest = max(np.abs(value).max() for _, value in its)
        for (path, added), (_, value) in zip(mine, its, strict=True):
            close = 1e-5 * largest + np.spacing(np.float32(1))  # to which a scale of about 1 is rounded after each step
            np.testing.assert_allclose(added, value, rtol=0, atol=close, err_msg=jax.tree_util.keystr(path))
    for other in found.keys() - {name}:
        assert np.abs(found[other] - curve).max() > 1e-4, other


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "field", "values"),
    [
        ("lsgmer", "optim.learning_rate", "0.05,0.2"),
        ("lsgmer", "model.dropout", "0.0,0.6"),
        ("lsgmer", "model.encoder_dropout", "0.1,0.6"),
        ("lsgmer", "model.label_average", "0.0,0.9"),
        ("lsgmer", "loss.temperature", "0.1,1.0"),
        ("lsgmer", "loss.apc", "0.1,2.0"),
        ("lsgmer", "loss.label_smoothing", "0.0,0.4"),
        ("lsgmer", "optim.weight_decay", "0.0,3.0"),
        ("fixed", "loss.contrastive", "0.1,2.0"),
        ("fixed", "loss.temperature", "0.1,1.0"),
        ("fixed", "model.projection_dropout", "0.1,0.6"),
    ],
)
def test_a_swept_value_is_what_the_config_would_say(family, field, values, corpus, tmp_path):
    swept = losses(experiment(family, folds=(0,), seeds=1, grid=f"{field}={values}"), corpus, tmp_path, 5)
    alone = experiment(family, folds=(0,), seeds=1)
    for value, (name, curve) in zip(values.split(","), swept.items(), strict=True):
        assert f"{field}={float(value):g}" in name
        ((_, wanted),) = losses(config_lib.with_values(alone, {field: float(value)}), corpus, tmp_path, 5).items()
        np.testing.assert_allclose(curve, wanted, rtol=1e-5)
    one, other = swept.values()
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.slow
def test_replicas_on_their_own_devices_do_not_talk(corpus, tmp_path):
    """Compiled for 8 devices, 8 replicas have no collective; the same program with the batch split has some."""
    texts = []
    for seeds in (8, 2):
        config = experiment(folds=(0,), seeds=seeds)
        assembled = setup.assemble(config, corpus, tmp_path)
        order = loader.training_order(assembled.data.batches.pool, assembled.data.rows_of_training(), 16, 0, 8)
        source, row_positions, padded_lengths, rows = next(assembled.data.batches.training(order, 0))
        state = assembled.groups.like()["state"]
        weight = jax.ShapeDtypeStruct((seeds, len(rows)), bool)
        texts.append(
            assembled.steps.train.lower(state, weight, source, row_positions, padded_lengths).compile().as_text()
        )
    collective = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    assert not re.search(collective, texts[0])
    assert re.search(collective, texts[1])


@pytest.mark.slow
def test_every_utterance_is_read_once_a_step(corpus, tmp_path, monkeypatch):
    config = experiment()
    config.data.placement = "stream"
    assembled = setup.assemble(config, corpus, tmp_path, jax.devices()[:1])
    assembled.groups.begin()
    batches = assembled.data.batches
    read = []
    inner = pool_lib.read_utterance
    monkeypatch.setattr(
        loader, "read_utterance", lambda corpus, pool, i, nonfinite: read.append(i) or inner(corpus, pool, i, nonfinite)
    )
    parts = [assembled.data.folds[r.fold].valid for r in assembled.groups.replicas]
    for _ in batches.evaluation(parts, 16, 3):
        pass
    assert sorted(read) == list(range(240)), "three folds validate on all utterances, each by two seeds"
    read.clear()
    order = loader.training_order(batches.pool, assembled.data.rows_of_training(), 16, 0, 8)
    trained = []
    for _, batch in zip(range(4), batches.training(order, 0), strict=False):
        assembled.groups.train(assembled.live(), *batch)
        trained += batch[-1].tolist()
    assert read[: len(trained)] == trained, "six replicas train on what was read once"


@pytest.mark.slow
def test_a_replica_that_diverges_is_left_out_and_the_others_finish(corpus, tmp_path, capsys):
    config = experiment(folds=(0,), seeds=1, grid="optim.learning_rate=0.1,1e38,0.05")
    config.optim.clip, config.train.log_steps = 0.0, 2
    result = run(config, corpus, tmp_path / "w")
    out = capsys.readouterr().out
    assert [r["status"] for r in result["replicas"]] == ["finished", "diverged", "finished"]
    assert "this replica is left out, the others go on" in out
    assert "left out, diverged: fold 1, seed 0, optim.learning_rate=1e+38" in out
    assert [p["replicas"] for p in result["points"]] == [1, 0, 1]
    assert sum(p["chosen"] for p in result["points"]) == 1
    alone = run(experiment_with(config, 0.1), corpus, tmp_path / "alone")
    assert alone["replicas"][0]["test"]["confusion"] == result["replicas"][0]["test"]["confusion"]
    assert [r["status"] for r in run_turns(config, corpus, tmp_path)] == ["finished", "diverged", "finished"]
    bad = experiment_with(config, 1e38)
    with pytest.raises(UserError, match=r"loss is nan at step \d+; lower"):
        run(bad, corpus, tmp_path / "bad")


def run_turns(config, corpus, tmp_path):
    """The same one replica after the other."""
    config = config_lib.validate(experiment_with(config, config.optim.learning_rate))
    config.replicas.grid, config.replicas.replicas_per_step = "optim.learning_rate=0.1,1e38,0.05", 1
    return run(config, corpus, tmp_path / "turns")["replicas"]


@pytest.mark.slow
@pytest.mark.parametrize("together", [6, 2, 1])
def test_what_is_saved_is_what_is_loaded(together, corpus, tmp_path):
    """Whatever the groups, on disk all replicas lie along the leading axis, in their order."""
    groups = [
        setup.assemble(experiment(replicas_per_step=t), corpus, tmp_path, jax.devices()[:2]).groups
        for t in (6, together)
    ]
    groups[0].begin()
    saved = groups[0].saved()
    like = jax.tree.map(lambda x: (x.shape, x.dtype), groups[1].like())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), saved) == like
    groups[1].load(saved)
    again = groups[1].saved()
    for before, after in zip(jax.tree.leaves(saved), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(plain(after), plain(before))
    rows = np.asarray(saved["state"].params["labels"])
    assert all(np.abs(rows[i] - rows[j]).max() > 1e-3 for i, j in ((0, 1), (2, 3), (4, 5))), "seeds differ"


def plain(x):
    return np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x)


def experiment_with(config, rate):
    config = config_lib.with_values(config, {"optim.learning_rate": rate})
    config.replicas.grid = ""
    return config


@pytest.mark.slow
@pytest.mark.parametrize("imbalance", ["class_weights", "logit_adjustment"])
def test_a_class_that_a_fold_does_not_train_on(imbalance, tmp_path, capsys):
    """All utterances of one class lie in one dialogue: its fold has none to train on."""

    def one_sided():
        for u in small_utterances(120):
            if (u.label == "cross") == (u.dialogue == "d3"):
                yield u

    write_corpus(tmp_path / "c", one_sided(), small_description())
    config = experiment(seeds=1)
    config.loss.imbalance, config.train.epochs, config.train.batch_size = imbalance, 1, 8
    result = run(config, Corpus(tmp_path / "c"), tmp_path / "w")
    assert len(result["replicas"]) == 3
    assert all(np.isfinite(r["test"]["loss"]) for r in result["replicas"])
    assert capsys.readouterr().out.count("no training utterance is cross") == 2, (
        "where it is test and where it is valid"
    )
    counts = [fold["train"]["classes"]["cross"] for fold in result["data"]["counts"].values()]
    assert sorted(counts)[:2] == [0, 0] < sorted(counts)[2:]


@pytest.mark.slow
def test_statistics_of_an_experiment(corpus, tmp_path):
    """Every figure of a point from the predictions on disk."""
    from sklearn.metrics import accuracy_score, f1_score

    result = run(experiment(), corpus, tmp_path / "w")
    rows = [json.loads(line) for line in (tmp_path / "w" / "predictions.jsonl").read_text().splitlines()]
    (point,) = result["points"]
    by = {}
    for row in rows:
        by.setdefault(row["replica"], []).append(row)
    scores = [
        f1_score([r["label"] for r in of], [r["prediction"] for r in of], average="weighted", zero_division=0)
        for of in by.values()
    ]
    assert point["test"]["weighted_f1"] == pytest.approx({"mean": np.mean(scores), "sd": np.std(scores, ddof=1)})
    assert np.sum(point["pooled"]["confusion"]) == len(rows) == 480
    assert point["pooled"]["accuracy"] == accuracy_score([r["label"] for r in rows], [r["prediction"] for r in rows])
    mean = {}
    for row in rows:
        mean[row["id"]] = mean.get(row["id"], 0) + np.array([row["probabilities"][n] for n in corpus.labels]) / 2
    gold = {row["id"]: row["label"] for row in rows}
    right = [corpus.labels[int(p.argmax())] == gold[i] for i, p in mean.items()]
    assert point["ensemble"]["members"] == 2
    assert point["ensemble"]["accuracy"]["value"] == pytest.approx(np.mean(right), abs=0.005)
    split = protocols.split(corpus, "kfold_dialogue:3", 0)
    for fold in split.folds:
        tested = set(corpus.index["id"][fold.test].tolist())
        assert {r["id"] for r in by[f"fold {fold.name}, seed 1"]} == tested


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"grid": "model.width=16,32"}, "model.width cannot differ between replicas of one program: shapes"),
        ({"grid": "model.encoder=gru,transformer"}, "model.encoder cannot differ"),
        ({"grid": "optim.learning_rat=1"}, "has no field 'optim.learning_rat'"),
        ({"grid": "seed=1,2"}, "--config.replicas.seeds=5"),
        ({"grid": "optim.learning_rate"}, "must be field=value"),
        ({"grid": "optim.learning_rate=1e-3,fast"}, "'fast' is not a number"),
        ({"grid": "optim.learning_rate=1e-3,1e-3"}, "is there twice"),
        ({"grid": "model.dropout=0.1,1.5"}, r"model.dropout=1.5: must be in \[0, 1\)"),
        ({"points": "model.dropout=0.1 loss.apc=1"}, "must give the same fields"),
        ({"points": "model.dropout=0.1", "grid": "loss.apc=1"}, "exclude each other"),
        ({"folds": (3,)}, "numbers from 0 to 2"),
        ({"folds": (1, 1)}, "different numbers"),
        ({"replicas_per_step": 4}, "must divide the 6 replicas"),
    ],
)
def test_what_cannot_be_is_refused(settings, words, corpus):
    config = experiment(**settings)
    with pytest.raises(UserError, match=words):
        replicas_lib.replicas_of(config, protocols.split(corpus, config.data.protocol, 0))


def test_grid_and_points():
    config = experiment(grid="optim.learning_rate=1e-4,3e-4 model.dropout=0.1,0.3")
    assert [tuple(p.values()) for p in replicas_lib.sweep_points(config)] == [
        (1e-4, 0.1),
        (1e-4, 0.3),
        (3e-4, 0.1),
        (3e-4, 0.3),
    ]
    config = experiment(points="optim.learning_rate=1e-4,model.dropout=0.1 optim.learning_rate=3e-4,model.dropout=0.3")
    assert [tuple(p.values()) for p in replicas_lib.sweep_points(config)] == [(1e-4, 0.1), (3e-4, 0.3)]
    assert replicas_lib.sweep_points(experiment()) == [{}]


@pytest.mark.slow
def test_what_memory_cannot_hold_is_refused_with_the_numbers(corpus, tmp_path, monkeypatch):
    """State, best models, gradients and updates of all six, and the corpus: a little less is refused, a little more is
    not."""
    assembled = setup.assemble(experiment(replicas_per_step=6), corpus, tmp_path, jax.devices()[:1])
    assembled.groups.begin()
    saved = assembled.groups.saved()

    def size(tree):
        return sum(x.nbytes for x in jax.tree.leaves(tree) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key))

    need = size(saved) + 2 * size(saved["state"].params) + size(assembled.data.batches.source)
    monkeypatch.setattr(memory, "memory_bytes", lambda mesh: 1.001 * need)
    setup.assemble(experiment(replicas_per_step=6), corpus, tmp_path, jax.devices()[:1])
    monkeypatch.setattr(memory, "memory_bytes", lambda mesh: 0.999 * need)
    with pytest.raises(UserError, match=r"6 replicas of 0.0 M parameters need at least \d+\.\d GiB on each device"):
        setup.assemble(experiment(replicas_per_step=6), corpus, tmp_path, jax.devices()[:1])
