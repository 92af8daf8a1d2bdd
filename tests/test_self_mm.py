"""What Self-MM remembers of training utterances, by itself and in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import corpus_of
from experiments import hearing, of_family, with_sgd

from mer_jax.config import validate
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.models.baselines.unimodal_labels import UnimodalLabels
from mer_jax.runtime import distributed
from mer_jax.training import setup

UTTERANCES, WIDTH, OUTPUTS = 9, 4, 2
RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(-1, 1, (UTTERANCES, OUTPUTS)).astype(np.float32)
TRUTH[:, 1] = np.abs(TRUTH[:, 1])  # nobody is on the other side
FUSED, AUDIO, TEXT = RNG.normal(size=(3, UTTERANCES, WIDTH)).astype(np.float32)


def visit(labels, rows, weight=None, lacks_text=()):
    """The labels of audio and text of these utterances, before the visit."""
    rows = np.asarray(rows, np.int32)
    weight = np.ones(len(rows)) if weight is None else np.asarray(weight)
    at = np.maximum(rows, 0)
    single = {"audio": jnp.asarray(AUDIO[at]), "text": jnp.asarray(TEXT[at])}
    present = {"audio": jnp.ones(len(rows), bool), "text": jnp.asarray(~np.isin(rows, lacks_text))}
    given = jnp.asarray(rows), jnp.asarray(weight > 0), jnp.asarray(TRUTH[at]), jnp.asarray(FUSED[at])
    return labels.visit(*given, single, present)


def visits(memory):
    return np.asarray(memory.visits[...]).tolist()


@pytest.fixture
def labels():
    return UnimodalLabels(("audio", "text"), UTTERANCES, WIDTH, OUTPUTS)


def test_who_does_not_count_is_not_remembered(labels):
    visit(labels, [3, 5, -1, 0, 2], weight=[1, 0, 0, 1, 1], lacks_text=[2])
    assert visits(labels.fused) == visits(labels.single["audio"]) == [1, 0, 1, 1, 0, 0, 0, 0, 0]
    assert visits(labels.single["text"]) == [1, 0, 0, 1, 0, 0, 0, 0, 0]
    kept = np.asarray(labels.fused.features[...])
    np.testing.assert_array_equal(kept[[0, 2, 3]], FUSED[[0, 2, 3]])
    assert not kept[[1, 4, 5, 6, 7, 8]].any()
    assert not np.asarray(labels.single["text"].features[...])[2].any()


def test_an_utterance_that_is_there_twice_is_visited_once(labels):
    rows = [4, 7, 4, 4]
    x = jnp.arange(16.0).reshape(4, 4)
    present = {m: jnp.ones(4, bool) for m in ("audio", "text")}
    counts = jnp.array([True, True, True, False])
    labels.visit(jnp.array(rows, jnp.int32), counts, x[:, :2] / 16, x, {"audio": x, "text": x}, present)
    assert visits(labels.fused) == [0, 0, 0, 0, 1, 0, 0, 1, 0]
    np.testing.assert_array_equal(labels.fused.features[...][4], x[2])


def test_labels_are_the_corpuss_until_the_second_visit_and_then_move(labels):
    everybody = np.arange(UTTERANCES)
    for _ in range(2):  # the second visit makes labels, which the third one finds
        found = visit(labels, everybody)
        for m in ("audio", "text"):
            np.testing.assert_array_equal(found[m], TRUTH)
    found = visit(labels, everybody)
    for m in ("audio", "text"):
        assert np.abs(found[m][:, 0] - TRUTH[:, 0]).max() > 0.01
        np.testing.assert_array_equal(found[m][:, 1], TRUTH[:, 1])
        assert np.abs(found[m]).max() <= 1
    assert np.abs(found["audio"][:, 0] - found["text"][:, 0]).max() > 0.01
    np.testing.assert_array_equal(labels.fused.labels[...], TRUTH)


def test_a_modality_that_says_what_all_say_keeps_the_label(labels):
    for _ in range(3):
        given = jnp.arange(UTTERANCES, dtype=jnp.int32), jnp.ones(UTTERANCES, bool), jnp.asarray(TRUTH)
        single = {m: jnp.asarray(FUSED) for m in ("audio", "text")}
        found = labels.visit(*given, jnp.asarray(FUSED), single, {m: given[1] for m in single})
    np.testing.assert_allclose(found["audio"], TRUTH, atol=1e-6)


def test_microbatches_are_refused():
    config = of_family("baselines.self_mm")
    config.train.microbatches = 2
    with pytest.raises(UserError, match=r"train\.microbatches=2: must be 1 for Self-MM, which remembers"):
        validate(config)


UTTERANCES_OF_RUN = 48  # which is as many as the corpus has, and all are in the pool
RUNS = [
    ("none", "resident"),
    pytest.param("none", "stream", marks=pytest.mark.slow),
    pytest.param("both", "resident", marks=pytest.mark.slow),
    pytest.param("both", "stream", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("context", "placement"), RUNS)
def test_every_replica_remembers_who_trains_in_its_fold(context, placement, tmp_path, calls_unchecked):
    config = hearing(with_sgd(of_family("baselines.self_mm", ("text", "audio"))), context, kind="gru", layers=1)
    config.data.protocol, config.data.placement, config.model.width = "kfold_dialogue:3", placement, 8
    config.data.max_length, config.train.batch_size, config.train.epochs = (4,), 8, 2
    run = setup.assemble(validate(config), Corpus(corpus_of(UTTERANCES_OF_RUN)), tmp_path)
    run.groups.begin()
    steps = 2 * run.data.order.steps_per_epoch
    times = np.zeros(UTTERANCES_OF_RUN, int)
    for _, batch in zip(range(steps), run.data.batches.training(run.data.order, 0), strict=False):
        terms = run.groups.train(run.live(), *batch)
        times[np.unique(batch[3][batch[3] >= 0])] += 1
    state = distributed.to_host(run.groups.saved()["state"].model_state)["labels"]
    found = state["fused"]["visits"]
    wanted = np.where(run.data.trains, times, 0)
    assert wanted.max() > 1
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(state["single"]["audio"]["visits"], wanted)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(terms))
    assert np.abs(state["single"]["audio"]["labels"] - state["fused"]["labels"])[wanted > 0].max() > 1e-3
