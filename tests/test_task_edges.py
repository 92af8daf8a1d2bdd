"""Where tasks of numbers and of several targets could go wrong: rows without targets, batches of unequal parts, and what only
one kind of task does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_targets import AFFECT, POLARITY
from test_tasks import MOODS, asked_for, corpus_path, drawn, finished  # noqa: F401 - a fixture

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
