"""Losses of numbers, of several emotions and of ordered classes against NumPy in float64, written from their papers, and
their gradients against central differences of these."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mer_jax.models import losses

RNG = np.random.default_rng(0)
ROWS, DIMS = 12, 3
VALUES, TARGET = RNG.normal(size=(ROWS, DIMS)), RNG.uniform(-1, 1, (ROWS, DIMS))
SPREAD = RNG.uniform(0.2, 0.6, (ROWS, DIMS))
KNOWN = RNG.random((ROWS, DIMS)) < 0.7
WEIGHT = (np.arange(ROWS) < 10).astype(float)
PRESENT = (RNG.random((ROWS, DIMS)) < 0.4).astype(float)
SHARE = np.array([0.5, 0.2, 0.05])


def by_column(each):
    """The mean of every column over the rows that count and are known, then over the columns."""
    means = []
    for i in range(DIMS):
        rows = [each[r, i] for r in range(ROWS) if WEIGHT[r] and KNOWN[r, i]]
        means.append(sum(rows) / len(rows))
    return sum(means) / DIMS


def mae(v):
    return by_column(np.abs(v - TARGET))


def mse(v):
    return by_column((v - TARGET) ** 2)


def huber(v):
    size = np.abs(v - TARGET)
    return by_column(np.where(size <= 0.3, size**2 / 2, 0.3 * (size - 0.15)))


def distribution(v):
    """KL(N(t, s^2) || N(v, s^2))"""
    return by_column((v - TARGET) ** 2 / (2 * SPREAD**2))


def ccc(v):
    total = 0.0
    for i in range(DIMS):
        rows = [r for r in range(ROWS) if WEIGHT[r] and KNOWN[r, i]]
        x, y = v[rows, i], TARGET[rows, i]
        both = np.mean((x - x.mean()) * (y - y.mean()))
        total += 1 - 2 * both / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    return total / DIMS


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def bce(v, weight=None, shift=0.0, smoothing=0.0, focal=None):
    p = sigmoid(v + shift)
    t = PRESENT * (1 - smoothing) + smoothing / 2
    each = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    if weight is not None:
        each = each * np.where(PRESENT > 0, weight[0], weight[1])
    if focal is not None:
        each = each * np.abs(PRESENT - p) ** focal
    return by_column(each)


def weighted(v, power=0.5):
    """Presence counts (share^-1 - 1)^power times as much, the mean weight of training being 1."""
    present = (1 / SHARE - 1) ** power
    mean = SHARE * present + (1 - SHARE)
    return bce(v, (present / mean, 1 / mean))


def asymmetric(v):
    """Ridnik et al. 2021: L+ = (1 - p)^g+ log p, L- = q^g- log(1 - q), q = max(p - m, 0)."""
    p = sigmoid(v)
    q = np.maximum(p - 0.1, 0)
    return by_column(np.where(PRESENT > 0, -((1 - p) ** 1.0) * np.log(p), -(q**3.0) * np.log(1 - q)))


def array(x):
    return jnp.asarray(x, jnp.float32)


def of_numbers(kind):
    def loss(v):
        if kind == "ccc":
            return losses.concordance(v, array(TARGET), array(WEIGHT), jnp.asarray(KNOWN))
        each = losses.regression_error(v, array(TARGET), array(SPREAD), kind=kind, huber_delta=0.3)
        return losses.column_mean(each, array(WEIGHT), jnp.asarray(KNOWN))

    return loss


def of_labels(**settings):
    def loss(v):
        each = losses.binary_cross_entropy(v, array(PRESENT), prevalence=array(SHARE), **settings)
        return losses.column_mean(each, array(WEIGHT), jnp.asarray(KNOWN))

    return loss


def of_asymmetric(v):
    each = losses.asymmetric(v, array(PRESENT), gamma_present=1.0, gamma_absent=3.0, margin=0.1)
    return losses.column_mean(each, array(WEIGHT), jnp.asarray(KNOWN))


CASES = {
    "mae": (of_numbers("mae"), mae),
    "mse": (of_numbers("mse"), mse),
    "huber": (of_numbers("huber"), huber),
    "distribution": (of_numbers("distribution"), distribution),
    "ccc": (of_numbers("ccc"), ccc),
    "bce": (of_labels(), bce),
    "smoothed": (of_labels(label_smoothing=0.2), lambda v: bce(v, smoothing=0.2)),
    "weighted": (of_labels(imbalance="class_weights", class_weight_power=0.5), weighted),
    "focal": (of_labels(imbalance="focal", focal_gamma=2.0), lambda v: bce(v, focal=2.0)),
    "adjusted": (
        of_labels(imbalance="logit_adjustment", logit_adjustment_tau=0.7),
        lambda v: bce(v, shift=0.7 * np.log(SHARE / (1 - SHARE))),
    ),
    "asymmetric": (of_asymmetric, asymmetric),
}


def differences(function, v, step=1e-6):
    """Central differences."""
    found = np.zeros_like(v)
    for at in np.ndindex(*v.shape):
        up, down = v.copy(), v.copy()
        up[at] += step
        down[at] -= step
        found[at] = (function(up) - function(down)) / (2 * step)
    return found


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_the_formulas(name):
    loss, reference = CASES[name]
    value, gradient = jax.value_and_grad(loss)(array(VALUES))
    assert float(value) == pytest.approx(reference(VALUES), rel=1e-5)
    wanted = differences(reference, VALUES)
    np.testing.assert_allclose(gradient, wanted, atol=1e-5)
    assert np.abs(wanted).max() > 1e-3
    assert not np.asarray(gradient)[~(KNOWN & (WEIGHT > 0)[:, None])].any(), "what is not known teaches nothing"


def cumulative(v):
    """p(class) by P(y > k) = sigmoid(s - threshold_k), thresholds in order."""
    thresholds = np.concatenate([v[:, 1:2], v[:, 1:2] + np.log1p(np.exp(v[:, 2:])).cumsum(1)], 1)
    above = sigmoid(v[:, :1] - thresholds)
    whole = np.concatenate([np.ones((len(v), 1)), above, np.zeros((len(v), 1))], 1)
    return whole[:, :-1] - whole[:, 1:]


def test_a_cumulative_link_is_the_formula():
    values = RNG.normal(size=(20, 5)) * 2
    found = losses.cumulative_log_probabilities(array(values))
    np.testing.assert_allclose(np.exp(found), cumulative(values), atol=1e-6)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)
    gradient = jax.grad(lambda v: losses.cumulative_log_probabilities(v)[jnp.arange(20), jnp.arange(20) % 5].sum())(
        array(values)
    )
    wanted = differences(lambda v: np.log(cumulative(v))[np.arange(20), np.arange(20) % 5].sum(), values)
    np.testing.assert_allclose(gradient, wanted, atol=2e-4)
    far = losses.cumulative_log_probabilities(array([[90.0, -90.0, -90.0], [-90.0, 90.0, 90.0]]))
    assert np.isfinite(far).all()


def test_the_divergence_of_several_emotions_is_the_mean_over_them():
    p, q = sigmoid(VALUES), sigmoid(TARGET)
    both = [np.stack([x, 1 - x], -1) for x in (p, q)]
    middle = (both[0] + both[1]) / 2
    js = sum((x * np.log(x / middle)).sum(-1) for x in both) / 2
    found = losses.jensen_shannon_bernoulli(array(VALUES), array(TARGET))
    np.testing.assert_allclose(found, js.mean(1), atol=1e-6)


def test_ccc_is_of_the_global_batch():
    """On 8 devices, each with a part of the rows, as on one: the mean of the parts' CCC is another number."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    rng = np.random.default_rng(1)
    values, target = rng.normal(size=(64, DIMS)), rng.uniform(-1, 1, (64, DIMS))
    known, weight = rng.random((64, DIMS)) < 0.8, np.ones(64)
    arrays = array(values), array(target), array(weight), jnp.asarray(known)
    step = jax.jit(jax.value_and_grad(losses.concordance))
    alone, gradient = step(*arrays)
    along = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread, its_gradient = step(*(jax.device_put(x, along) for x in arrays))
    assert float(spread) == pytest.approx(float(alone), abs=1e-6)
    np.testing.assert_allclose(its_gradient, gradient, atol=1e-6)
    parts = [float(losses.concordance(*(x[8 * i : 8 * i + 8] for x in arrays))) for i in range(8)]
    assert abs(np.mean(parts) - float(alone)) > 1e-3
