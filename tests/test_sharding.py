"""One device against eight: the same gradients and, under SGD, the same losses."""

from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import small_description, small_utterances

from mer_jax import config as config_lib
from mer_jax import data, log, shard, train
from mer_jax.demo import write_demo
from mer_jax.records import Corpus, write_corpus


@pytest.fixture
def config():
    config = config_lib.LSGMERExperiment()
    config.data.modalities, config.model.width = ("text",), 32
    return with_sgd(config)


def with_sgd(config):
    config.model.dropout, config.train.batch_size = 0.3, 32
    config.optim.name, config.optim.learning_rate, config.optim.warmup = "sgd", 0.1, 0.0
    return config_lib.validate(config)


def losses(config, corpus, devices, steps):
    """Loss and gradient norm of every step and replica, and the final params."""
    whole = train.assemble(config, corpus, Path("unused"), jax.devices()[:devices])
    whole.fleet.begin()
    inputs = whole.inputs
    order = data.training_order(inputs.feed.pool, inputs.rows_of_training(), config.train.batch_size, 0, 8)
    found = []
    for _, batch in zip(range(steps), inputs.feed.training(order, 0), strict=False):
        terms = log.by_replica(whole.fleet.train(whole.live(), *batch))
        found.append([[terms[r]["loss"], terms[r]["grad_norm"]] for r in sorted(terms)])
    state = whole.fleet.saved()["state"]
    assert state.step.sharding.num_devices == devices
    return np.array(found), jax.device_get(state.params)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "small"
    write_corpus(folder, small_utterances(600), small_description())
    return Corpus(folder)


@pytest.mark.slow
def test_one_device_is_eight_devices(config, corpus):
    assert jax.device_count() == 8
    one, params_one = losses(config, corpus, 1, 12)
    eight, params_eight = losses(config, corpus, 8, 12)
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    assert one[-1, 0, 0] < one[0, 0, 0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-5), params_one, params_eight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "variant"),
    [
        (config_lib.LSGMERExperiment, ""),
        (config_lib.DeepMSIExperiment, "fixed"),
        (config_lib.DeepMSIExperiment, "published"),
    ],
)
def test_gradients_of_one_step(family, variant, tmp_path):
    """SGD's first step at rate 1 without clip or decay is the gradient itself. DeepMSI-MER's contrastive loss compares
    every sample with every other, on whatever device it is."""
    config = with_sgd(family())
    config.data.modalities = ("text", "audio", "visual")
    write_demo(tmp_path / "demo", counts={"train": 64, "valid": 8, "test": 8})
    corpus = Corpus(tmp_path / "demo")
    config.optim.learning_rate, config.optim.clip, config.optim.weight_decay = 1.0, 0.0, 0.0
    config.optim.schedule = "constant"
    if family is config_lib.LSGMERExperiment:
        config.model.width, config.model.label_average = 32, 0.0
    else:
        config.model.variant, config.optim.average = variant, 0.0
    _, one = losses(config, corpus, 1, 1)
    _, eight = losses(config, corpus, 8, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=1e-5), one, eight)


def test_a_batch_that_the_devices_cannot_share_is_refused(config, corpus):
    config.train.batch_size = 12
    with pytest.raises(ValueError, match="multiples of the 8 devices"):
        train.assemble(config, corpus, Path("unused"))


def test_replicas_are_spread_first():
    shapes = [tuple(shard.make_mesh(count).shape.values()) for count in (1, 2, 3, 8, 12, 30)]
    assert shapes == [(1, 8), (2, 4), (1, 8), (8, 1), (4, 2), (2, 4)]
