import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import class_targets
from experiments import in_float64, of_family, remembered

from mer_jax.data.batch import Batch
from mer_jax.models.deepmsi_mer import DeepMSIExperiment, DeepMSIMER, DeepMSISettings, VisualInput, objective
from mer_jax.models.family import family_of
from mer_jax.models.functional import functionalize
from mer_jax.tasks.classification import Classification

WIDTHS = {"text": 7, "audio": 5, "visual": 6}
CLASSES = 4
SETTINGS = {"threshold": 0.3, "early_width": 9, "tcn_widths": (8, 6), "projection": 8, "late_widths": (10, 6)}
SETTINGS |= {"early_dropout": 0.3, "projection_dropout": 0.3}
SUBSETS = [
    pytest.param(s, {}, marks=pytest.mark.slow if len(s) < 3 else pytest.mark.nnx)
    for n in (1, 2, 3)
    for s in itertools.combinations(WIDTHS, n)
]
LENGTHS = [
    {"text": 3, "audio": 1, "visual": 9},
    {"text": 5, "audio": 2, "visual": 4},
    {"text": 1, "audio": 4, "visual": 1},
]


@remembered
def make(modalities=tuple(WIDTHS), compute=None, tokens=1, attended=None, learn_temperature=False, **changes):
    """(apply(params, batch, key) -> (outputs, model state), params moved off their start)."""
    settings = DeepMSISettings(**(SETTINGS | changes))
    if attended is None:
        attended = tuple(m for m in ("text", "audio") if m in modalities)

    def module(overrides, rngs):
        return DeepMSIMER(
            settings,
            widths={m: WIDTHS[m] * (tokens if m == "visual" else 1) for m in modalities},
            visual=VisualInput(tokens, compress=settings.vsc),
            attended=attended,
            outputs=CLASSES,
            temperature=0.5,
            learn_temperature=learn_temperature,
            rngs=rngs,
        )

    model = functionalize(module, compute=compute)
    params, model_state = model.init(jax.random.key(1))
    rng = np.random.default_rng(2)
    moved = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), params)
    return (lambda p, batch, key=None: model.apply(p, model_state, batch, key)), moved


def make_batch(modalities=tuple(WIDTHS), lengths=LENGTHS, pad=0, tokens=1):
    rng = np.random.default_rng(3)
    features, mask = {}, {}
    for m in modalities:
        width = WIDTHS[m] * (tokens if m == "visual" else 1)
        longest = max(sample[m] for sample in lengths) + pad
        features[m] = np.full((len(lengths), longest, width), 1e3 if pad else 0, np.float32)
        mask[m] = np.arange(longest)[None] < np.array([sample[m] for sample in lengths])[:, None]
        features[m][mask[m]] = rng.normal(size=(int(mask[m].sum()), width))
    label = np.arange(len(lengths), dtype=np.int32) % 2
    return jax.tree.map(
        jnp.asarray,
        Batch(features, mask, class_targets(label, CLASSES), np.ones(len(lengths), np.float32)),
    )


def samples(batch):
    for i in range(len(batch.weight)):
        yield {m: np.asarray(batch.features[m][i])[np.asarray(batch.mask[m][i])] for m in batch.features}


@pytest.mark.parametrize(
    ("modalities", "switch"),
    [
        *SUBSETS,
        pytest.param(tuple(WIDTHS), {"variant": "published"}, marks=pytest.mark.nnx),
        (tuple(WIDTHS), {"vsc": False}),
        (("text", "visual"), {"keep": 0.2}),
        (("text", "audio"), {"attended": ("audio",)}),
    ],
    ids=str,
)
def test_forward_pass_is_the_formula(modalities, switch):
    apply, params = make(modalities, **switch)
    batch = make_batch(modalities)
    outputs, _ = apply(params, batch)
    how = {"published": switch.get("variant") == "published", "vsc": switch.get("vsc", True)}
    for i, sample in enumerate(samples(batch)):
        wanted, projections = reference.deepmsi(params, sample, keep=switch.get("keep", 0.5), threshold=0.3, **how)
        np.testing.assert_allclose(outputs["logits"][i], wanted, atol=1e-5)
        assert outputs["projections"].keys() == projections.keys()
        for m, projection in projections.items():
            np.testing.assert_allclose(outputs["projections"][m][i], projection, atol=1e-5)


def gradients(modalities, key=None, **switch):
    apply, params = make(modalities, **switch)
    batch = make_batch(modalities, [*LENGTHS, {"text": 2, "audio": 3, "visual": 7}])
    config, task = DeepMSIExperiment(), Classification("abcd")
    config.loss.label_smoothing = 0.0

    def total(p):
        outputs, _ = apply(p, batch, key)
        return objective(config, outputs, batch, jnp.ones(CLASSES) / CLASSES, task=task)[0]

    flat = jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(total))(params))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.abs(leaf).max() for path, leaf in flat}


@pytest.mark.parametrize(
    ("modalities", "switch"),
    [*SUBSETS, (tuple(WIDTHS), {"learn_temperature": True}), (tuple(WIDTHS), {"vsc": False})],
    ids=str,
)
def test_a_gradient_reaches_every_parameter(modalities, switch):
    found = gradients(modalities, **switch)
    assert not [name for name, size in found.items() if size < 1e-8]
    assert any(name.startswith("early/") for name in found) == (
        "visual" in modalities and len(modalities) > 1 and switch.get("vsc", True)
    )


@pytest.mark.slow
def test_what_gets_no_gradient_as_published(demo):
    """The early fusion chooses tokens by rank alone, so nothing of it learns; a BatchNorm takes away the bias before
    it."""
    found = gradients(tuple(WIDTHS), key=jax.random.key(0), variant="published")
    reached = family_of(of_family("published"), demo, Classification(demo.labels)).reached
    assert {name for name, size in found.items() if size == 0} == {n for n in found if not reached(tuple(n.split("/")))}
    assert {name for name, size in found.items() if size < 1e-6} == {
        "early/hidden/dense/bias",
        "early/hidden/dense/kernel",
        "early/hidden/norm/bias",
        "early/hidden/norm/scale",
        "early/out/bias",
        "early/out/kernel",
        "late/0/dense/bias",
        "late/1/dense/bias",
    }


@pytest.mark.parametrize("switch", [{}, {"variant": "published"}, {"vsc": False}], ids=str)
def test_padding_and_batch_order_change_nothing(switch):
    apply, params = make(**switch)
    batch = make_batch()
    turned = jax.tree.map(lambda x: x[::-1], batch)

    def logits_of(p, b):
        return apply(p, b)[0]["logits"]

    logits, padded, reverse = (in_float64(logits_of, params, b) for b in (batch, make_batch(pad=4), turned))
    np.testing.assert_allclose(padded, logits, atol=1e-12)
    np.testing.assert_allclose(reverse, logits[::-1], atol=1e-12)


@pytest.mark.slow
def test_token_grids_are_compressed_inside_every_frame():
    """tokens > 1: the same VSC on a frame's tokens, their mean, then the TCN over all frames."""
    apply, params = make(tokens=4, attended=())
    batch = make_batch(tokens=4)
    outputs, _ = apply(params, batch)
    for i, sample in enumerate(samples(batch)):
        pooled = np.concatenate([sample[m].mean(0, dtype=np.float64) for m in ("text", "audio")])  # queries are off
        hidden = reference.mlp_block(params["early"]["hidden"], pooled, published=False)
        guide = reference.linear(params["early"]["out"], hidden)
        grid = sample["visual"].reshape(len(sample["visual"]), 4, WIDTHS["visual"]).astype(np.float64)
        frames = np.stack([reference.vsc_fixed(frame, guide, 2, 0.3, 0.9).mean(0) for frame in grid])
        wanted, _ = reference.deepmsi(
            params, sample | {"visual": frames}, keep=1, published=False, vsc=False, threshold=0.3
        )
        np.testing.assert_allclose(outputs["logits"][i], wanted, atol=1e-5)


def test_a_sample_without_a_modality_is_finite():
    apply, params = make()
    batch = make_batch(lengths=[*LENGTHS, {"text": 2, "audio": 0, "visual": 0}])
    value, gradient = jax.jit(jax.value_and_grad(lambda p: jnp.square(apply(p, batch)[0]["logits"]).sum()))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_a_modality_dropped_while_training_is_one_that_is_missing():
    """For the logits and for the contrastive loss."""
    off = dict.fromkeys(("dropout", "early_dropout", "tcn_dropout", "projection_dropout"), 0.0)
    apply, params = make(modality_dropout=0.9, **off)
    still, _ = make(**off)
    apply, still = jax.jit(apply), jax.jit(still)
    batch = make_batch(lengths=LENGTHS * 5)
    found, _ = apply(params, batch, jax.random.key(0))
    gone = {m: ~np.asarray(found["present"][m]) for m in WIDTHS}
    assert all(x.any() for x in gone.values())
    assert sum(x.astype(int) for x in gone.values()).max() == 1
    mask = {m: x & ~gone[m][:, None] for m, x in batch.mask.items()}
    features = {m: jnp.where(mask[m][..., None], x, 0) for m, x in batch.features.items()}
    wanted, _ = still(params, dataclasses.replace(batch, features=features, mask=mask), jax.random.key(1))
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=1e-5)
    for m in WIDTHS:
        np.testing.assert_allclose(found["projections"][m], wanted["projections"][m], atol=1e-5)
        np.testing.assert_array_equal(found["present"][m], wanted["present"][m])


def test_dropout_needs_a_key_and_follows_it():
    apply, params = make()
    batch = make_batch()
    one, same, other = (apply(params, batch, jax.random.key(k))[0]["logits"] for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_dropout_of_the_inputs_reaches_text_and_audio_while_training():
    none = {"early_dropout": 0.0, "projection_dropout": 0.0, "tcn_dropout": 0.0, "dropout": 0.0}
    for modality, reached in (("text", True), ("audio", True), ("visual", False)):
        apply, params = make((modality,), input_dropout=0.5, **none)
        batch = make_batch((modality,))
        still, moved = (apply(params, batch, k)[0]["projections"][modality] for k in (None, jax.random.key(0)))
        assert (np.abs(still - moved).max() > 1e-3) == reached


@pytest.mark.nnx
def test_batch_norm_learns_its_statistics_while_training_only():
    apply, params = make(variant="published")
    batch = make_batch()
    _, still = apply(params, batch)
    _, moved = apply(params, batch, jax.random.key(0))
    means = [model_state["late"]["0"]["norm"]["mean"] for model_state in (still, moved)]
    np.testing.assert_array_equal(means[0], 0)
    assert np.abs(means[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fixed", "published"])
def test_bfloat16_is_close_and_keeps_float32_outside(variant):
    apply, params = make(variant=variant)
    half, _ = make(variant=variant, compute=jnp.bfloat16)
    batch = make_batch()
    exact = apply(params, batch)[0]
    with jax.numpy_dtype_promotion("standard"):  # Flax's norms take their statistics in float32
        close, model_state = half(params, batch)
        outputs, trained = half(params, batch, jax.random.key(0))
    assert close["logits"].dtype == jnp.float32
    np.testing.assert_allclose(close["logits"], exact["logits"], atol=0.1)
    assert np.abs(close["logits"] - exact["logits"]).max() > 1e-5, "nothing was computed in bfloat16"
    assert {str(x.dtype) for x in jax.tree.leaves((model_state, outputs, trained))} == {"float32", "bool", "int32"}
