import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import class_targets
from experiments import in_float64, remembered

from mer_jax.data.batch import Batch
from mer_jax.models import layers, lsgmer
from mer_jax.models.functional import functionalize
from mer_jax.tasks.classification import Classification

WIDTHS = {"text": 10, "audio": 6}
CLASSES, WIDTH, HEADS = 5, 16, 4
RNG = np.random.default_rng(0)
TASK = Classification("abcde")
WORDS = RNG.normal(size=(CLASSES, 12)).astype(np.float32)
SETTINGS = {"width": WIDTH, "heads": HEADS, "input_dropout": 0.2, "encoder_dropout": 0.1, "time_dropout": 0.1}


@remembered
def make(widths=WIDTHS, **changes):
    """(apply(params, batch, key) -> outputs, params moved off their start so that no bias is zero)."""
    settings = lsgmer.LSGMERSettings(**(SETTINGS | changes))

    def module(overrides, rngs):
        return lsgmer.LSGMER(settings, widths=widths, label_words=WORDS, temperature=0.1, rngs=rngs)

    model = functionalize(module)
    params, model_state = model.init(jax.random.key(1))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(2)
    moved = [leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return (lambda p, batch, key=None: model.apply(p, model_state, batch, key)[0]), jax.tree.unflatten(tree, moved)


def make_batch(lengths, pad=0, widths=WIDTHS, seed=3):
    """`lengths[i][m]` time steps of sample i; `pad` further steps of padding filled with rubbish."""
    rng = np.random.default_rng(seed)
    features, mask = {}, {}
    for m, width in widths.items():
        longest = max(sample[m] for sample in lengths) + pad
        features[m] = np.full((len(lengths), longest, width), 1e3 if pad else 0, np.float32)
        mask[m] = np.zeros((len(lengths), longest), bool)
        for i, sample in enumerate(lengths):
            features[m][i, : sample[m]] = rng.normal(size=(sample[m], width))
            mask[m][i, : sample[m]] = True
    label = rng.integers(0, CLASSES, len(lengths)).astype(np.int32)
    return jax.tree.map(
        jnp.asarray,
        Batch(features, mask, class_targets(label, CLASSES), np.ones(len(lengths), np.float32)),
    )


LENGTHS = [{"text": 4, "audio": 1}, {"text": 7, "audio": 3}, {"text": 1, "audio": 2}]


def samples(batch):
    for i in range(len(batch.weight)):
        yield {m: np.asarray(batch.features[m][i])[np.asarray(batch.mask[m][i])] for m in WIDTHS if m in batch.features}


SWITCHES = [
    {},
    {"encoder": "gru"},
    {"lse": False},
    {"gate": False},
    {"fusion": "gated"},
    {"label_init": "random"},
    *({"reduce": r} for r in ("max", "attention", "cosine", "rows")),
    {"reduce": "rows", "fusion": "gated"},
    {"widths": {"text": 10}},
    {"widths": {"audio": 6}},
    {"widths": {"text": 10}, "fusion": "gated"},
]
FEW = ({}, {"encoder": "gru"}, {"reduce": "rows", "fusion": "gated"}, {"widths": {"audio": 6}})
FEW_FAST = [pytest.param(s, marks=[] if s in FEW else [pytest.mark.slow]) for s in SWITCHES]


@pytest.mark.parametrize("switch", [pytest.param({}, marks=pytest.mark.nnx), *SWITCHES[1:]], ids=str)
def test_forward_pass_is_the_formula(switch):
    apply, params = make(**switch)
    batch = make_batch(LENGTHS, widths=switch.get("widths", WIDTHS))
    outputs = apply(params, batch)
    how = {k: v for k, v in switch.items() if k in ("lse", "gate", "reduce", "fusion")}
    if len(batch.features) == 1:
        how["fusion"] = "concat"
    for i, sample in enumerate(samples(batch)):
        logits, similarity = reference.lsgmer(
            params, sample, heads=HEADS, encoder_kind=switch.get("encoder", "transformer"), **how
        )
        np.testing.assert_allclose(outputs["logits"][i], logits, atol=1e-5)
        np.testing.assert_allclose(outputs["similarity"][i], similarity, atol=1e-5)


def test_attention_with_label_queries_is_the_formula():
    query, memory = RNG.normal(size=(CLASSES, WIDTH)), RNG.normal(size=(9, WIDTH))
    wanted = reference.attention_one(query, memory, memory, HEADS)

    def split(x):
        return jnp.asarray(x, jnp.float32).reshape(1, len(x), HEADS, WIDTH // HEADS)

    real = jnp.arange(9)[None] < 9
    found, weight = layers.attention(split(query), split(memory), split(memory), real)
    np.testing.assert_allclose(weight.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(np.asarray(found).reshape(CLASSES, WIDTH), wanted, atol=1e-5)


def test_the_gate_only_attenuates():
    """w * H_0 with w = sigmoid(H_2): H_2 = 0 gives half of H_0."""
    apply, params = make()
    for branch in params["branches"].values():
        branch["lse"]["out"] = jax.tree.map(jnp.zeros_like, branch["lse"]["out"])
    batch = make_batch(LENGTHS)
    projected = {
        m: [reference.layer_norm(q["norm"], reference.linear(q["project"], s[m])).mean(0) / 2 for s in samples(batch)]
        for m, q in params["branches"].items()
    }
    # The classes axis is averaged, and every row is H_0 / 2.
    fused = reference.linear(params["fuse"], np.concatenate([projected["text"], projected["audio"]], axis=-1))
    fused = reference.layer_norm(params["fuse_norm"], reference.gelu(fused))
    np.testing.assert_allclose(apply(params, batch)["fused"], fused, atol=1e-5)


@pytest.mark.parametrize("switch", FEW_FAST, ids=str)
def test_padding_changes_nothing(switch):
    apply, params = make(**switch)
    widths = switch.get("widths", WIDTHS)
    short, long = (in_float64(apply, params, make_batch(LENGTHS, pad, widths=widths)) for pad in (0, 5))
    for name in ("logits", "similarity"):
        np.testing.assert_allclose(long[name], short[name], atol=1e-12)


def test_batch_order_changes_nothing():
    apply, params = make()
    batch = make_batch(LENGTHS)
    turned = jax.tree.map(lambda x: x[::-1], batch)
    found, wanted = (in_float64(apply, params, b)["logits"] for b in (turned, batch))
    np.testing.assert_allclose(found, wanted[::-1], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["transformer", "gru"])
def test_a_missing_modality_is_finite_with_its_gradient(encoder):
    apply, params = make(encoder=encoder)
    batch = make_batch([{"text": 4, "audio": 2}, {"text": 3, "audio": 0}])

    def total(p):
        outputs = apply(p, batch)
        return outputs["logits"].sum() + outputs["similarity"].sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_dropping_steps_and_modalities():
    """A step with its rate, never all of a sequence; one modality with its rate, each as often, never the only one."""
    count = 3000
    mask = {"a": np.ones((count, 4), bool), "b": np.ones((count, 2), bool), "c": np.ones((count, 1), bool)}
    mask["a"][:, 3] = False
    mask["b"][:1000] = mask["c"][:500] = False
    mask = jax.tree.map(jnp.asarray, mask)
    drop = jax.jit(layers.drop_steps, static_argnums=(1, 2))
    found = {m: np.asarray(x) for m, x in drop(mask, 0.0, 0.3, jax.random.key(0)).items()}
    for m, x in mask.items():
        changed = (found[m] != x).any(1)
        assert not found[m][changed].any(), "a modality goes as a whole"
    hidden = np.stack([(np.asarray(mask[m]) & ~found[m]).any(1) for m in "abc"], axis=1)
    assert not hidden[:500].any(), "its only one stays"
    assert hidden.sum(1).max() == 1
    assert abs(hidden[1000:].any(1).mean() - 0.3) < 0.04
    assert np.abs(hidden[1000:].mean(0) - 0.1).max() < 0.03
    assert np.abs(hidden[500:1000].mean(0) - [0.15, 0, 0.15]).max() < 0.06
    found = drop(mask, 0.5, 0.0, jax.random.key(1))
    assert all((found[m].any(1) == x.any(1)).all() for m, x in mask.items())
    share = float(found["b"][1000:].mean())
    assert abs(share - 0.75) < 0.02, (
        "a quarter has both steps, half has one, and a quarter would have none and keeps both"
    )
    assert drop(mask, 0.5, 0.5, None).keys() == mask.keys()
    for m, x in drop(mask, 0.5, 0.5, None).items():
        np.testing.assert_array_equal(x, mask[m])


def test_a_modality_dropped_while_training_is_one_that_is_missing():
    apply, params = make(dropout=0.0, input_dropout=0.0, encoder_dropout=0.0, time_dropout=0.0, modality_dropout=0.9)
    batch = make_batch([{"text": 4, "audio": 2}] * 12)
    apply = jax.jit(apply)
    found = np.asarray(apply(params, batch, jax.random.key(0))["logits"])

    def lacking(*gone):
        features = {m: jnp.zeros_like(x) if m in gone else x for m, x in batch.features.items()}
        mask = {m: jnp.zeros_like(x) if m in gone else x for m, x in batch.mask.items()}
        return apply(params, dataclasses.replace(batch, features=features, mask=mask))["logits"]

    ways = np.stack([lacking(*gone) for gone in ((), ("text",), ("audio",))])
    near = np.abs(ways - found[None]).max(2) < 1e-5
    assert (near.sum(0) == 1).all()
    assert near[1:].any(1).all(), "each was dropped somewhere"


@pytest.mark.parametrize("switch", FEW_FAST, ids=str)
def test_a_gradient_reaches_every_parameter(switch):
    apply, params = make(**switch)
    batch = make_batch(LENGTHS, widths=switch.get("widths", WIDTHS))
    config, task = lsgmer.LSGMERExperiment(), Classification("abcde")
    config.loss.label_smoothing = 0.0

    def objective(p):
        return lsgmer.objective(config, apply(p, batch), batch, jnp.ones(CLASSES) / CLASSES, task=task)[0]

    for path, leaf in jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(objective))(params))[0]:
        name = jax.tree_util.keystr(path)
        if "'key']['bias']" in name:
            continue  # a bias on the keys adds the same to every score of a softmax: its gradient is zero by nature
        assert np.abs(leaf).max() > 1e-8, name


def test_dropout_needs_a_key_and_follows_it():
    apply, params = make()
    batch = make_batch(LENGTHS)
    one, same, other = (apply(params, batch, jax.random.key(k))["logits"] for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - apply(params, batch)["logits"]).max() > 1e-3


def test_dropout_keeps_the_mean():
    x = jnp.ones((100, 1000))
    dropped = layers.dropout(x, 0.3, jax.random.key(0))
    assert abs(float(dropped.mean()) - 1) < 0.01
    assert abs(float((dropped == 0).mean()) - 0.3) < 0.01
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.7], rtol=1e-6)


def test_label_words_keep_their_geometry():
    """A random projection keeps cosines, up to 1/sqrt(width)."""
    wide = np.asarray(lsgmer.initial_labels(WORDS, 4096, "words", jax.random.key(0)), np.float64)
    for i, j in itertools.combinations(range(CLASSES), 2):
        assert abs(reference.cosine(wide[i], wide[j]) - reference.cosine(WORDS[i].astype(float), WORDS[j])) < 0.08
    for how in ("words", "random"):
        norms = np.linalg.norm(lsgmer.initial_labels(WORDS, 4096, how, jax.random.key(0)), axis=1)
        np.testing.assert_allclose(norms, 1, atol=0.1)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_moving_average_is_the_formula_and_a_learning_rate_multiplier(alpha):
    old, gradient = RNG.normal(size=(CLASSES, WIDTH)), RNG.normal(size=(CLASSES, WIDTH))
    new = old - 0.1 * gradient
    found = lsgmer.average_labels(jnp.asarray(old, jnp.float32), jnp.asarray(new, jnp.float32), alpha)
    np.testing.assert_allclose(found, alpha * old + (1 - alpha) * new, atol=1e-6)
    np.testing.assert_allclose(found, old - (1 - alpha) * 0.1 * gradient, atol=1e-6)


def test_alpha_zero_is_no_moving_average_bit_for_bit():
    old, new = (jnp.asarray(RNG.normal(size=(CLASSES, WIDTH)) * 10.0**e, jnp.float32) for e in (6, -6))
    found = jax.jit(functools.partial(lsgmer.average_labels, alpha=0.0))(old, new)
    np.testing.assert_array_equal(np.asarray(found).view(np.int32), np.asarray(new).view(np.int32))


def test_class_means():
    fused, label = RNG.normal(size=(6, WIDTH)), np.array([0, 0, 1, 3, 3, 3], np.int32)
    weight, table = np.array([1, 1, 1, 1, 1, 0], np.float32), RNG.normal(size=(CLASSES, WIDTH))
    found = lsgmer.class_means(
        jnp.asarray(fused, jnp.float32),
        TASK.members({"label": jnp.asarray(label)}),
        jnp.asarray(weight),
        jnp.asarray(table, jnp.float32),
    )
    wanted = [fused[:2].mean(0), fused[2], table[2], fused[3:5].mean(0), table[4]]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_update_labels_by_class_mean_drops_the_optimisers_step():
    batch = make_batch(LENGTHS)
    fused = jnp.asarray(RNG.normal(size=(3, WIDTH)), jnp.float32)
    old, new = ({"labels": jnp.full((CLASSES, WIDTH), v), "other": jnp.full((2,), v)} for v in (1.0, 2.0))
    config = lsgmer.LSGMERExperiment()
    config.model.label_update, config.model.label_average = "class_mean", 0.9
    found = lsgmer.update_labels(config, old, new, {"fused": fused}, batch, task=TASK)
    wanted = 0.9 + 0.1 * lsgmer.class_means(fused, TASK.members(batch.targets), batch.weight, old["labels"])
    np.testing.assert_allclose(found["labels"], wanted, atol=1e-6)
    np.testing.assert_array_equal(found["other"], new["other"])
