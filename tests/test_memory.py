"""A batch in microbatches is the same update in less memory; and a trace of what the devices do."""

import itertools

import jax
import numpy as np
import pytest
import store
from conftest import small_description, small_utterances
from experiments import of_family, with_sgd

from mer_jax import config as config_lib
from mer_jax.data import loader
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.models import deepmsi_mer as deepmsi_mer_lib
from mer_jax.runtime import run_log, sharding
from mer_jax.training import setup


@pytest.fixture(scope="module")
def corpus():
    return Corpus(store.demo_corpus("demo-216", counts={"train": 200, "valid": 8, "test": 8}))


def experiment(family):
    config = with_sgd(of_family(family))
    model, config.data.max_length, config.train.batch_size = config.model, (12,), 64
    for name in vars(model):
        if name.endswith("dropout"):
            setattr(model, name, 0.0)
    if family == "lsgmer":
        model.width = 32
    else:
        model.vsc = False
    return config_lib.validate(config)


def steps(config, corpus, count, devices=1):
    """Loss terms of every step, the params, and the bytes that a step needs besides its arguments and results."""
    run = setup.assemble(config, corpus, "unused", jax.devices()[:devices])
    run.groups.begin()
    rows = run.data.rows_of_training()
    order = loader.training_order(run.data.batches.pool, rows, config.train.batch_size, 0, 1)
    terms = []
    for batch in itertools.islice(run.data.batches.training(order, 0), count):
        terms.append(run_log.by_replica(run.groups.train([0], *batch))[0])
    seed, inputs = sharding.device_put_global((np.uint32(0), run.data.inputs[0]), run.steps.per_replica)
    state = run.steps.init(seed, inputs, {})
    weight = sharding.device_put_global(run.data.trains[0][batch[-1]], run.steps.per_replica_batch)
    compiled = run.steps.train.lower(state, weight, *batch[:3]).compile()
    return terms, jax.device_get(run.groups.saved()["state"].params), compiled.memory_analysis().temp_size_in_bytes


def assert_same(a, b):
    for x, y in zip(a[0], b[0], strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_allclose(x[name], y[name], rtol=1e-5, atol=1e-6, err_msg=name)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), a[1], b[1])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["lsgmer", "deepmsi_mer"])
def test_a_batch_in_microbatches_is_the_batch(family, corpus):
    """Also for the contrastive loss, which compares every sample of the batch with every other; 3 microbatches do not
    divide 64."""
    config = experiment(family)
    at_once = steps(config, corpus, 3)
    config.train.microbatches = 3
    assert_same(steps(config, corpus, 3), at_once)
    config.train.microbatches = 8
    cut = steps(config, corpus, 3)
    assert_same(cut, at_once)
    if family == "lsgmer":  # at this size most of DeepMSI-MER's memory is that of its gradients
        assert cut[2] < 0.5 * at_once[2], (cut[2], at_once[2])


@pytest.mark.slow
def test_microbatches_on_eight_devices(corpus):
    config = experiment("lsgmer")
    at_once = steps(config, corpus, 2)
    config.train.microbatches = 2
    assert_same(steps(config, corpus, 2, devices=8), at_once)


def test_batch_norm_takes_no_microbatches():
    config = deepmsi_mer_lib.DeepMSIExperiment()
    config.data.modalities = ("text", "audio", "visual")
    config.model.variant, config.optim.ema_decay, config.train.microbatches = "published", 0.0, 2
    with pytest.raises(UserError, match=r"train.microbatches=2: must be 1 with model.variant=published"):
        config_lib.validate(config)


@pytest.mark.slow
def test_a_trace_of_some_steps(tmp_path, run_cli):
    write_corpus(tmp_path / "small", small_utterances(), small_description())
    flags = [
        "--config=configs/lsgmer.py:tiny",
        f"--config.data.path={tmp_path / 'small'}",
        f"--workdir={tmp_path / 'run'}",
    ]
    flags += ["--config.train.batch_size=8", "--config.train.epochs=2"]
    done = run_cli(*flags, "--profile=3:4")
    assert done.returncode == 0, done.stderr
    assert "a trace of the training is in" in done.stdout
    assert list((tmp_path / "run" / "profile").glob("0/**/*.xplane.pb"))
    assert list((tmp_path / "run" / "profile").glob("0/**/perfetto_trace.json.gz"))
    for wrong in ("3", "0:4", "5:4", "a:b"):
        done = run_cli(*flags, f"--profile={wrong}")
        assert done.returncode == 2
        assert "must be START:STOP" in done.stderr
