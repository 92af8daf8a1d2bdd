"""What every baseline of single utterances keeps of the contract of a family, whatever its formulas."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import small_description
from experiments import OVER_UTTERANCES, hearing, in_float64, of_family
from flax import nnx
from test_targets import AFFECT, MOODS, POLARITY, asked_utterances, with_moods

from mer_jax.config import sweepable_fields, validate, with_values
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.models.baselines import ef, lmf, tfn
from mer_jax.models.functional import functionalize
from mer_jax.tasks import task_of
from mer_jax.training import compiled

TASKS = ("classes", "affect", "moods")
WIDTHS = {"text": 6, "audio": 4, "visual": 5}
# Small sizes, by name; those that a family does not have are left out.
SIZES = {"width": 8, "text_width": 8, "inference_width": 8, "fusion_width": 8, "heads": 2, "layers": 1, "rank": 2}
FEWER = {"mult": ("text", "audio")}  # of three it has nine transformers, which take long to compile
LENGTHS = np.array([[4, 2, 3], [7, 1, 2], [1, 3, 1], [3, 5, 6], [5, 2, 4], [2, 4, 2]])  # of WIDTHS
ROWS = len(LENGTHS)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """A corpus that any of TASKS can be asked for; its features are not read."""

    def several():
        for utterance in with_moods(asked_utterances(48)):
            features = utterance.features | {"visual": np.ones((2, WIDTHS["visual"]), np.float32)}
            yield dataclasses.replace(utterance, features=features)

    path = tmp_path_factory.mktemp("baselines") / "asked"
    extractors = dict.fromkeys(WIDTHS, "random")
    write_corpus(
        path, several(), small_description(targets=(AFFECT, POLARITY, MOODS), groups=("gender",), extractors=extractors)
    )
    return path


def config_of(name, task="classes", modalities=None):
    config = of_family(f"baselines.{name}", modalities or FEWER.get(name, tuple(WIDTHS)))
    for size, value in SIZES.items():
        if hasattr(config.model, size):
            setattr(config.model, size, value)
    config.data.task = task
    return validate(config)


class Made:
    """A family of a corpus: its config, task and functions, and params that are not its start."""

    def __init__(self, config, path):
        self.config, corpus = config, Corpus(path)
        corpus.ask(config.data.task)
        self.task = task_of(corpus)
        config.check_task(self.task)
        self.family, self.model = compiled.model_of(config, corpus, self.task)
        rows = corpus.rows("train")
        self.targets = self.task.targets(corpus, rows[:ROWS], soft=False)
        self.prior = jax.tree.map(jnp.asarray, self.task.prior(self.task.targets(corpus, rows, soft=False)))
        shapes, state = jax.eval_shape(self.model.init, jax.random.key(1))
        rng = np.random.default_rng(2)

        def drawn(x):
            return rng.normal(scale=0.5 if x.ndim < 2 else x.shape[-2] ** -0.5, size=x.shape).astype(np.float32)

        self.params = jax.tree.map(drawn, shapes)
        # What a model remembers of utterances: something, of one visit or two.
        self.state = jax.tree.map(
            lambda x: jnp.asarray(drawn(x) if x.dtype == np.float32 else rng.integers(1, 3, x.shape, x.dtype)), state
        )

    def loss(self, params, batch, key=None):
        """(the loss, its terms and the outputs)"""
        outputs, _ = self.model.apply(params, self.state, batch, key)
        value, terms = self.family.objective(self.config, outputs, batch, self.prior)
        return value, (terms, outputs)

    def batch(self, lengths=LENGTHS, steps=(8, 5, 8), rubbish=0.0, order=None, seed=3):
        """The utterances; what is padding is `rubbish`. order: of the rows, -1 for one of weight 0."""
        rng, order = np.random.default_rng(seed), np.arange(len(lengths)) if order is None else np.asarray(order)
        features, mask = {}, {}
        for m, longest, own in zip(WIDTHS, steps, np.asarray(lengths).T, strict=True):
            drawn = rng.normal(size=(len(lengths), 10, WIDTHS[m])).astype(np.float32)[:, :longest]
            real = np.arange(longest)[None] < own[:, None]
            features[m] = np.where(real[..., None], drawn, np.float32(rubbish))[order]
            mask[m] = real[order]
        targets = {name: x[order] for name, x in self.targets.items()}
        weight, position = (order >= 0).astype(np.float32), np.where(order >= 0, 2 * order, -1).astype(np.int32)
        found = Batch(features, mask, targets, weight, position=position)
        chosen = self.config.data.modalities
        found.features, found.mask = ({m: x[m] for m in chosen} for x in (found.features, found.mask))
        return jax.tree.map(jnp.asarray, found)


@pytest.fixture(scope="module", params=OVER_UTTERANCES)
def learnt(request, manifest):
    """A baseline and its compiled gradient, of classes and numbers together."""
    made = Made(config_of(request.param, "classes+affect"), manifest)
    made.gradient = jax.jit(jax.value_and_grad(made.loss, has_aux=True))
    return made


def silent(gradient):
    """Parameters without a gradient; a bias on the keys of attention has none by nature."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    return [name for name, x in named.items() if not np.abs(x).max() > 1e-9 and not name.endswith("key/bias")]


def test_a_gradient_reaches_every_parameter_and_the_loss_falls(learnt):
    batch, params = learnt.batch(), learnt.params
    (before, (terms, _)), gradient = learnt.gradient(params, batch, jax.random.key(0))
    assert silent(gradient) == []
    assert "classification" in terms
    assert all(np.isfinite(x) and x.shape == () for x in terms.values())
    tx = optax.adam(1e-2)
    state = tx.init(params)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to the power of an integer
        update = jax.jit(lambda g, s, p: (lambda u, s: (optax.apply_updates(p, u), s))(*tx.update(g, s)))
        for step in range(60):
            _, gradient = learnt.gradient(params, batch, jax.random.key(step))
            params, state = update(gradient, state, params)
    (after, _), _ = learnt.gradient(params, batch, jax.random.key(0))
    assert after < 0.7 * before


def test_modalities_may_be_missing(learnt):
    lengths = LENGTHS.copy()
    lengths[0, 0] = lengths[1, 1] = lengths[2, 2] = lengths[3, :2] = lengths[4] = 0
    for batch in map(learnt.batch, (lengths, np.zeros_like(lengths), np.ones_like(lengths))):
        (value, _), gradient = learnt.gradient(learnt.params, batch, jax.random.key(0))
        assert np.isfinite(value)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_no_row_of_weight_zero_counts(learnt):
    batch = learnt.batch(order=[0, 1, 2, 3, -1, -1])
    (value, _), gradient = learnt.gradient(learnt.params, batch, jax.random.key(0))
    changed = {m: x.at[4:].set(7.0) for m, x in batch.features.items()}
    other = dataclasses.replace(batch, features=changed, mask=jax.tree.map(jnp.ones_like, batch.mask))
    other.mask = {m: x.at[:4].set(batch.mask[m][:4]) for m, x in other.mask.items()}
    (same, _), of_other = learnt.gradient(learnt.params, other, jax.random.key(0))
    np.testing.assert_allclose(same, value, rtol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), of_other, gradient)
    (nothing, _), gradient = learnt.gradient(learnt.params, batch.with_weight(jnp.zeros(ROWS)), jax.random.key(0))
    assert np.isfinite(nothing)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_padding_order_and_filling_rows_change_nothing(learnt):
    order = [5, 3, 0, -1, 1, 4, 2, -1]
    pairs = (learnt.batch(), learnt.batch(steps=(10, 7, 9), rubbish=100.0, order=order))
    loss = jax.jit(learnt.loss)
    (one, (terms, outputs)), (other, (terms_of_other, of_other)) = (
        in_float64(loss, learnt.params, batch) for batch in pairs
    )
    at = [order.index(row) for row in range(ROWS)]
    for name in ("logits", "feature"):
        np.testing.assert_allclose(of_other[name][at], outputs[name], atol=1e-10)
    for m, weights in outputs["attention"].items():
        np.testing.assert_allclose(of_other["attention"][m][at, : weights.shape[1]], weights, atol=1e-10)
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
        assert not weights[~np.asarray(pairs[0].mask[m])].any()
    assert terms.keys() == terms_of_other.keys()
    for name in terms:
        np.testing.assert_allclose(terms_of_other[name], terms[name], atol=1e-10)
    assert other == pytest.approx(one, abs=1e-10)


def test_dropout_needs_a_key_and_follows_it(learnt):
    def logits(key):
        return np.asarray(learnt.gradient(learnt.params, learnt.batch(), key)[0][1][1]["logits"])

    one, same, other = (logits(jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("name", OVER_UTTERANCES)
def test_every_task_any_modalities_and_the_dialogue_can_be_traced(name, manifest, calls_unchecked):
    """Shapes alone."""
    for task, modalities, context, precision in (
        *((task, ("text", "audio"), "none", "float32") for task in TASKS),
        ("classes", ("text",), "past", "bfloat16"),
    ):
        config = hearing(config_of(name, task, modalities), context, kind="gru", layers=1)
        config.train.precision = precision
        made = Made(validate(config), manifest)
        batch = made.batch()
        with jax.numpy_dtype_promotion("standard" if precision == "bfloat16" else "strict"):  # for Flax's norms
            value, (_, outputs) = jax.eval_shape(made.loss, made.params, batch, jax.random.key(0))
        assert (value.shape, outputs["logits"].shape) == ((), (ROWS, made.task.width))
        assert ("utterance" in outputs) == (context != "none")
        assert outputs["attention"].keys() <= set(modalities)
        assert "frozen text" in made.family.sentence


@pytest.mark.parametrize("name", OVER_UTTERANCES)
def test_one_modality_of_one_step_is_finite(name, manifest):
    made = Made(config_of(name, modalities=("audio",)), manifest)
    value, (_, outputs) = jax.jit(made.loss)(made.params, made.batch(np.ones_like(LENGTHS), steps=(1, 1, 1)))
    assert np.isfinite(value)
    assert np.abs(np.diff(outputs["logits"], axis=0)).max() > 1e-4


@pytest.mark.parametrize("name", OVER_UTTERANCES)
def test_every_number_that_may_be_swept_is_one_replicas_may_differ_in(name, manifest, calls_unchecked):
    made = Made(config_of(name), manifest)
    fields = [f for f in sweepable_fields(made.config) if f.startswith(("model.", "loss.")) and f != "model.layer"]
    assert "model.dropout" in fields
    swept = functionalize(
        lambda overrides, rngs: made.family.module(with_values(made.config, overrides), rngs), swept=fields
    )

    def loss(overrides, batch, key):
        params, state = swept.init(jax.random.key(0), overrides)
        outputs, _ = swept.apply(params, state, batch, key)
        return made.family.objective(with_values(made.config, overrides), outputs, batch, made.prior)[0]

    several = {field: jax.ShapeDtypeStruct((3,), jnp.float32) for field in fields}
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    assert jax.eval_shape(jax.vmap(loss, (0, None, 0)), several, made.batch(), keys).shape == (3,)


@pytest.mark.parametrize("name", OVER_UTTERANCES)
def test_a_model_is_traced_once_for_any_batch_and_lengths(name, manifest, calls_unchecked):
    made = Made(config_of(name), manifest)
    size, *times = jax.export.symbolic_shape("batch, time_text, time_audio, time_visual")
    steps = {m: 8 if m in made.family.fixed_lengths else time for m, time in zip(WIDTHS, times, strict=True)}
    modalities = made.config.data.modalities
    features = {m: jax.ShapeDtypeStruct((size, steps[m], WIDTHS[m]), jnp.float32) for m in modalities}
    mask = {m: jax.ShapeDtypeStruct((size, steps[m]), bool) for m in modalities}

    def logits(features, mask):
        batch = Batch(features, mask, {}, jnp.ones(mask["text"].shape[0]))
        return made.model.apply(made.params, made.state, batch)[0]["logits"]

    found = jax.export.export(jax.jit(logits))(features, mask)
    assert str(found.out_avals[0].shape) == f"(batch, {made.task.width})"


def test_early_fusion_reads_the_nearest_step_before():
    x = {"a": np.arange(1, 5.0), "b": np.arange(10, 12.0), "c": np.zeros(0)}
    features = tuple(jnp.zeros((1, 5, 1)).at[0, : len(v), 0].set(v) for v in x.values())
    masks = tuple((jnp.arange(5) < len(v))[None] for v in x.values())
    found, real = ef.side_by_side(features, masks)
    np.testing.assert_array_equal(real[0], [True] * 4 + [False])
    np.testing.assert_array_equal(found[0], [[1, 10, 0], [2, 10, 0], [3, 11, 0], [4, 11, 0], [0, 0, 0]])


def test_low_rank_fusion_is_a_dense_layer_on_the_tensor(manifest):
    """Equations 2 and 4 of LMF, with the tensor that it never makes."""
    batch = Made(config_of("lmf"), manifest).batch()
    model = lmf.LMF(config_of("lmf").model, widths=WIDTHS, outputs=3, rngs=nnx.Rngs(0))
    model.bias[...] = jnp.arange(8.0)
    z = [model.subnetworks[m](batch.features[m], batch.mask[m], key=None) for m in WIDTHS]
    kernels = [np.asarray(model.factors[m].kernel[...], np.float64) for m in WIDTHS]
    dense = np.einsum("rad,rbd,rcd->abcd", *kernels).reshape(-1, 8)
    wanted = np.asarray(tfn.tensor_of(z), np.float64) @ dense + np.arange(8.0)[None]
    np.testing.assert_allclose(model(batch)["feature"], wanted, atol=1e-5)
