"""Where tasks of numbers and of several targets could go wrong: rows without targets, batches of unequal parts, and what only
one kind of task does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from experiments import of_family
from test_targets import AFFECT, POLARITY
from test_tasks import MOODS, asked_for, corpus_path, drawn, finished  # noqa: F401 - a fixture

from mer_jax import experiment
from mer_jax.config import validate
from mer_jax.evaluation import final
from mer_jax.settings import LossSettings
from mer_jax.tasks import task_of


def task_for(*targets):
    return task_of(type("Asked", (), {"asked": targets}))


def on_device(targets):
    return {name: jnp.asarray(values) for name, values in targets.items()}


@pytest.mark.parametrize("name", ["affect", "classes+affect"])
def test_rows_without_a_target_leave_the_gradient_alone(corpus_path, name):  # noqa: F811
    """Turns that are only heard have zeros for targets, and so have rows that lack one of several."""
    corpus = asked_for(corpus_path, name)
    task, rows = task_of(corpus), corpus.rows("train")[:6]
    targets = {k: np.concatenate([v, np.zeros_like(v)]) for k, v in task.targets(corpus, rows, soft=True).items()}
    weight, settings = jnp.asarray([1.0] * 6 + [0.0] * 6), LossSettings(regression="distribution")
    prior = jax.tree.map(jnp.asarray, task.prior(targets))
    values = jnp.asarray(np.random.default_rng(0).normal(size=(12, task.width)), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        gradient = jax.grad(lambda v: task.loss(v, on_device(targets), weight, prior=prior, settings=settings))(values)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:6]).max() > 0
    assert not np.asarray(gradient[6:]).any()


def config_of(path, task, **train):
    config = of_family("lsgmer", ("text", "audio"))
    config.data.path, config.data.task = str(path), task
    config.model.width, config.model.heads, config.loss.apc = 8, 2, 0.0
    config.train.batch_size, config.train.epochs, config.train.inspect = 16, 1, False
    for name, value in train.items():
        setattr(config.train, name, value)
    return validate(config)


def test_a_run_of_numbers_is_scored_again(corpus_path, tmp_path, capsys):  # noqa: F811
    """The same figures; those of intervals are of another kind than those of temperatures."""
    config = config_of(corpus_path, "affect", select="ccc")
    corpus = experiment.open_corpus(config)
    experiment.run(config, corpus, tmp_path / "run")
    assert final.score_again(config, corpus, epath.Path(tmp_path / "run")) == 0
    assert "the same figures" in capsys.readouterr().out
