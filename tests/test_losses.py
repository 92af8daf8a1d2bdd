import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from mer_jax.data.batch import Batch
from mer_jax.models import deepmsi_mer, losses, lsgmer
from mer_jax.tasks.classification import Classification

RNG = np.random.default_rng(0)


def log_softmax(x):
    return jax.nn.log_softmax(jnp.asarray(x, jnp.float32))


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_apc_is_the_formula(temperature):
    logits, similarity = 3 * RNG.normal(size=(64, 6)), RNG.uniform(-1, 1, (64, 6))
    wanted = [reference.apc(a, b, temperature) for a, b in zip(logits, similarity, strict=True)]
    found = Classification("abcdef").divergence(
        *(jnp.asarray(x, jnp.float32) for x in (logits, similarity / temperature))
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_jensen_shannon_properties():
    p, q = log_softmax(4 * RNG.normal(size=(256, 7))), log_softmax(4 * RNG.normal(size=(256, 7)))
    np.testing.assert_allclose(losses.jensen_shannon(p, p), 0, atol=1e-7)
    np.testing.assert_allclose(losses.jensen_shannon(p, q), losses.jensen_shannon(q, p), atol=1e-7)
    found = np.asarray(losses.jensen_shannon(p, q))
    assert (found > 0).all()
    assert (found < np.log(2)).all()
    far = log_softmax(np.array([[200.0, 0, 0]])), log_softmax(np.array([[0, 200.0, 0]]))
    np.testing.assert_allclose(losses.jensen_shannon(*far), np.log(2), atol=1e-6)


def test_apc_is_finite_at_one_hot_logits_with_its_gradient():
    def total(logits):
        return Classification("abc").divergence(logits, jnp.array([[1.0, -1.0, -1.0]]) / 1e-3).sum()

    for scale in (1e2, 1e4, 1e30):
        value, gradient = jax.value_and_grad(total)(scale * jnp.array([[-1.0, 1.0, -1.0]]))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("classes", [4, 6, 7])
def test_without_a_temperature_q_stays_flat(classes):
    """The largest q there is: one cosine 1, the others -1."""
    similarity = np.full(classes, -1.0)
    similarity[0] = 1
    q = np.exp(log_softmax(similarity))
    assert round(float(q[0]), 3) == {4: 0.711, 6: 0.596, 7: 0.552}[classes]


def reference_cross_entropy(logits, target, prior, imbalance, gamma, smoothing, power=1.0, tau=1.0):
    if imbalance == "logit_adjustment":
        logits = logits + tau * np.log(prior)
    if imbalance == "balanced_softmax":
        logits = logits + np.log(731 * prior)  # of so many training utterances
    p = reference.softmax(logits)
    loss = -sum((q * (1 - smoothing) + smoothing / len(p)) * np.log(x) for q, x in zip(target, p, strict=True))
    rare = [1 / share**power for share in prior]
    mean = sum(share * one for share, one in zip(prior, rare, strict=True))
    weight = sum(q * one / mean for q, one in zip(target, rare, strict=True))
    return loss * {"class_weights": weight, "focal": (1 - np.dot(target, p)) ** gamma}.get(imbalance, 1.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("imbalance", "strength"),
    [
        ("none", 1.0),
        ("class_weights", 1.0),
        ("class_weights", 0.5),
        ("focal", 1.0),
        ("logit_adjustment", 1.0),
        ("logit_adjustment", 0.4),
        ("balanced_softmax", 0.4),
    ],
)
def test_cross_entropy_family(imbalance, strength, smoothing):
    """Half of the rows have a certain label, half what raters said."""
    logits = 2 * RNG.normal(size=(40, 5))
    target = np.concatenate([np.eye(5)[RNG.integers(0, 5, 20)], RNG.multinomial(3, np.full(5, 0.2), 20) / 3])
    prior = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    wanted = [
        reference_cross_entropy(a, b, prior, imbalance, 2.0, smoothing, strength, strength)
        for a, b in zip(logits, target, strict=True)
    ]
    found = losses.cross_entropy(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(target, jnp.float32),
        prior=jnp.asarray(prior, jnp.float32),
        imbalance=imbalance,
        focal_gamma=2.0,
        class_weight_power=strength,
        logit_adjustment_tau=strength,
        label_smoothing=smoothing,
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_focal_loss_of_a_certain_answer_has_a_gradient():
    def total(logits):
        return losses.cross_entropy(
            logits, jnp.array([[1.0, 0.0]]), prior=jnp.ones(2) / 2, imbalance="focal", focal_gamma=0.5
        ).sum()

    assert np.isfinite(jax.grad(total)(jnp.array([[40.0, 0.0]]))).all()


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_class_weights_average_to_one(power):
    target = jnp.asarray(np.repeat(np.eye(3), [60, 30, 10], axis=0), jnp.float32)
    prior = jnp.array([0.6, 0.3, 0.1])
    plain, weighted = (
        losses.cross_entropy(jnp.zeros((100, 3)), target, prior=prior, imbalance=i, class_weight_power=power)
        for i in ("none", "class_weights")
    )
    np.testing.assert_allclose(weighted.mean(), plain.mean(), rtol=1e-6)


def batch_of(target, weight, label=None):
    targets = {"target": target} | ({} if label is None else {"label": jnp.asarray(label)})
    return Batch({}, {}, targets, weight)


def test_joint_objective_adds_weighted_apc_and_ignores_padding():
    logits, similarity = (
        jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32),
        jnp.asarray(RNG.uniform(-1, 1, (8, 3)), jnp.float32),
    )
    target, weight = jnp.tile(jnp.array([1.0, 0, 0]), (8, 1)), jnp.array([1.0] * 5 + [0.0] * 3)

    def run(rows, apc):
        config = lsgmer.LSGMERExperiment()
        config.loss.apc, config.loss.label_smoothing = apc, 0.0
        outputs = {"logits": logits[:rows], "similarity": similarity[:rows]}
        batch = batch_of(target[:rows], weight[:rows])
        return lsgmer.objective(config, outputs, batch, jnp.ones(3) / 3, task=Classification("abc"))

    value, terms = run(8, 0.5)
    np.testing.assert_allclose(value, terms["classification"] + 0.5 * terms["apc"], rtol=1e-6)
    np.testing.assert_allclose(value, run(5, 0.5)[0], rtol=1e-6)
    none, terms = run(8, 0.0)
    assert terms.keys() == {"classification"}
    assert float(none) == float(terms["classification"])


def contrastive_inputs(labels, dim=6):
    a, b = RNG.normal(size=(2, len(labels), dim))
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return a, b, np.asarray(labels, np.int32)


def run_contrastive(a, b, label, weight=None, dtype=jnp.float32, **settings):
    weight = np.ones(len(label)) if weight is None else weight
    same = Classification("ab").similar({"label": jnp.asarray(label)})
    arrays = jnp.asarray(a, dtype), jnp.asarray(b, dtype), same, jnp.asarray(weight, jnp.float32)
    return losses.contrastive(*arrays, **({"temperature": jnp.float32(0.5), "per_positive": False} | settings))


@pytest.mark.parametrize("per_positive", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_contrastive_is_the_formula(per_positive, temperature):
    a, b, label = contrastive_inputs([0, 1, 0, 2, 1, 0, 3, 3])
    found, pairs = run_contrastive(a, b, label, temperature=jnp.float32(temperature), per_positive=per_positive)
    np.testing.assert_allclose(found, reference.contrastive(a, b, label, temperature, per_positive), rtol=1e-5)
    assert int(pairs) == 6 + 2 + 2


@pytest.mark.parametrize("per_positive", [False, True])
def test_contrastive_ignores_padding_and_order(per_positive):
    a, b, label = contrastive_inputs([0, 1, 0, 2, 1, 0, 0, 1])
    weight = np.array([1, 1, 1, 1, 1, 1, 0, 0])
    padded, pairs = run_contrastive(a, b, label, weight, per_positive=per_positive)
    short, fewer = run_contrastive(a[:6], b[:6], label[:6], per_positive=per_positive)
    turned, _ = run_contrastive(a[::-1], b[::-1], label[::-1], weight[::-1], per_positive=per_positive)
    np.testing.assert_allclose([padded, turned], short, rtol=1e-6)
    assert int(pairs) == int(fewer)


@pytest.mark.parametrize("per_positive", [False, True])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0]])
def test_contrastive_is_zero_without_a_positive_pair(labels, per_positive):
    a, b, label = contrastive_inputs(labels)
    value, gradient = jax.value_and_grad(lambda x: run_contrastive(x, b, label, per_positive=per_positive)[0])(
        jnp.asarray(a, jnp.float32)
    )
    assert float(value) == 0
    np.testing.assert_array_equal(gradient, 0)


def test_contrastive_is_finite_without_negatives_and_in_bf16():
    a, b, label = contrastive_inputs([1, 1, 1])
    assert float(run_contrastive(a, b, label)[0]) == 0  # nothing to be told from
    a, b, label = contrastive_inputs([0, 1, 0, 1, 2, 2], dim=32)

    def total(x):
        return run_contrastive(x, b, label, dtype=jnp.bfloat16, temperature=jnp.float32(0.01))[0]

    value, gradient = jax.value_and_grad(total)(jnp.asarray(a, jnp.bfloat16))
    np.testing.assert_allclose(value, reference.contrastive(a, b, label, 0.01, False), rtol=0.05)
    assert np.isfinite(gradient.astype(jnp.float32)).all()


def test_fusion_objective_averages_the_pairs_that_are_there():
    a, b, label = contrastive_inputs([0, 1, 0, 1, 2])
    c = contrastive_inputs([0] * 5)[0]
    projections = {m: jnp.asarray(v, jnp.float32) for m, v in zip(("visual", "text", "audio"), (a, b, c), strict=True)}
    logits, prior = jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32), jnp.ones(3) / 3

    def run(names, pairs, weight=0.5, absent=None):
        config = deepmsi_mer.DeepMSIExperiment()
        config.loss.contrastive, config.loss.pairs, config.loss.per_positive = weight, pairs, False
        config.loss.label_smoothing = 0.0
        outputs = {
            "logits": logits,
            "projections": {m: projections[m] for m in names},
            "present": dict.fromkeys(names, jnp.ones(5, bool)) | (absent or {}),
            "temperature": jnp.float32(0.5),
        }
        batch = batch_of(jax.nn.one_hot(label, 3), jnp.ones(5), label)
        return deepmsi_mer.objective(config, outputs, batch, prior, task=Classification("abc"))

    value, terms = run(("visual", "text", "audio"), ("visual-text", "visual-audio"))
    wanted = [reference.contrastive(a, other, label, 0.5, False) for other in (b, c)]
    np.testing.assert_allclose(terms["contrastive"], np.mean(wanted), rtol=1e-5)
    np.testing.assert_allclose(value, terms["classification"] + 0.5 * terms["contrastive"], rtol=1e-6)
    assert int(terms["positive_pairs"]) == 2 * (2 + 2)
    assert run(("text", "audio"), ("visual-text", "visual-audio"))[1].keys() == {"classification"}
    assert run(("visual", "text", "audio"), ("visual-text",), 0.0)[1].keys() == {"classification"}
    one, _ = run(("visual", "text"), ("visual-text", "visual-audio", "text-audio"))
    np.testing.assert_allclose(one, terms["classification"] + 0.5 * wanted[0], rtol=1e-5)
    lacking = {"text": jnp.array([True, True, False, True, True])}
    _, terms = run(("visual", "text"), ("visual-text",), absent=lacking)
    kept = np.array([0, 1, 3, 4])
    np.testing.assert_allclose(
        terms["contrastive"], reference.contrastive(a[kept], b[kept], label[kept], 0.5, False), rtol=1e-5
    )
    assert int(terms["positive_pairs"]) == 2


@pytest.mark.parametrize("tau", [1.0, jnp.float32(1)])
def test_logit_adjustment_of_strength_one_is_bit_for_bit_the_one_without(tau):
    logits = jnp.asarray(RNG.normal(size=(20, 3)), jnp.float32)
    prior, target = jnp.array([0.7, 0.2, 0.1]), jax.nn.one_hot(jnp.arange(20) % 3, 3)
    found = losses.cross_entropy(logits, target, prior=prior, imbalance="logit_adjustment", logit_adjustment_tau=tau)
    wanted = -(target * jax.nn.log_softmax(logits + jnp.log(prior)[None])).sum(-1)
    np.testing.assert_array_equal(found, wanted)
