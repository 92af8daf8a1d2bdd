"""`variant=published` against a PyTorch writing of what DeepMSI-MER's official code computes: outputs, gradients, initial values,
statistics, and what its optimiser leaves alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import class_targets
from experiments import in_float64, of_family
from flax import nnx

from mer_jax.config import validate
from mer_jax.data.batch import Batch
from mer_jax.models import family as family_lib
from mer_jax.models import pretrained, swin
from mer_jax.models.deepmsi_mer import DeepMSIMER, DeepMSISettings, VisualInput, objective
from mer_jax.models.deepmsi_mer_frames import DeepMSIFramesExperiment, backbone_of
from mer_jax.models.functional import functionalize
from mer_jax.models.layers import BatchNorm
from mer_jax.settings import OptimSettings
from mer_jax.tasks.classification import Classification
from mer_jax.training import compiled, optim, step

torch = pytest.importorskip("torch", reason="needs the prep extra")
import torch_deepmsi  # noqa: E402

BLOCKS = torch_deepmsi.official_blocks()


def moved(module, scale=0.3):
    """The module in float64, its parameters moved off their start: biases of 0 and scales of 1 would hide a mistake."""
    torch.manual_seed(1)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def gradients_of(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_close(found, wanted, name=""):
    """To 1e-5 of the largest value."""
    assert found.shape == wanted.shape, name
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=name)


def assert_same_trees(found, wanted):
    found = {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(found)
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert_close(found[name], value, name)


@pytest.mark.parametrize(
    "number", [pytest.param(i, marks=() if i == 4 else pytest.mark.slow) for i in range(len(BLOCKS))]
)
def test_every_block_is_the_official_one(number):
    """The twelve in their true grids and windows (8, then 8, 7, 7, 6, 6, 5 in the third stage, then 5), narrower."""
    side = BLOCKS[number][1]
    compare_block(number, official_block(number), np.random.default_rng(number).normal(size=(2, side, side, WIDTH)))


def test_masked_pairs_lose_a_hundred():
    """And no more: in one head at its hottest, where those that are seen have -100 and those that are not +100."""
    number, rng = 7, np.random.default_rng(0)
    _, side, window, shift, _ = BLOCKS[number]
    theirs = official_block(number)
    attention = theirs.attention
    with torch.no_grad():
        attention.key.weight.copy_(-attention.query.weight)
        attention.key.bias.zero_()
        attention.query.bias.zero_()
        attention.log_scale[0] = 5.0
    part = (np.arange(side) - shift) % side % window < window - shift
    x = np.where(part[:, None] == part[None], 1.0, -1.0)[None, ..., None] * rng.normal(size=WIDTH)
    compare_block(number, theirs, x + 0.1 * rng.normal(size=(2, side, side, WIDTH)))


WIDTH, HEADS = 12, 3


def official_block(number):
    stage, side, window, shift, keep = BLOCKS[number]
    return moved(torch_deepmsi.Block(WIDTH, HEADS, side, window, shift, keep, own_mask=stage == 2))


def compare_block(number, theirs, x):
    """The output, and the gradients by input, guide and parameters."""
    (stage, *_, keep), rng = BLOCKS[number], np.random.default_rng(number)
    guide = rng.normal(size=(2, WIDTH))
    x_, guide_ = (torch.tensor(a, requires_grad=True) for a in (x, guide))
    y_ = theirs(x_, guide_)
    weight = rng.normal(size=y_.shape)
    (y_ * torch.tensor(weight)).sum().backward()
    block = swin.Block(WIDTH, HEADS, 4, 0.0, published=True, compresses=keep > 0, rngs=nnx.Rngs(0))
    graph, state = nnx.split(block)
    compression = swin.Compression(keep, 0.6, 0.9) if keep else None

    def ours(params, x, guide, weight):
        def total(params, x, guide):
            filled = jax.tree.map(lambda leaf: leaf, state)
            nnx.replace_by_pure_dict(filled, params)
            how = {"window": 8, "shifted": number % 2 == 1, "published_shift_mask": stage == 2}
            y, _ = nnx.merge(graph, filled)(x, guide, compression=compression, **how)
            return (y * weight).sum(), y

        return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(params, x, guide)

    params = pretrained.nested(torch_deepmsi.as_ours(dict(theirs.named_parameters())))
    (by_params, by_x, by_guide), y = in_float64(ours, params, x, guide, weight)
    assert_close(y, y_.detach().numpy())
    assert_close(by_x, x_.grad.numpy())
    assert guide_.grad is None
    assert not by_guide.any()
    assert_same_trees(by_params, torch_deepmsi.as_ours(gradients_of(theirs)))


SIZES = {
    "widths": (10, 6),
    "width": 12,
    "heads": 3,
    "early": 9,
    "tcn": (16, 16, 12),
    "projection": 8,
    "late": (10, 6),
    "classes": 4,
    "skip": 1,
}


def ours_of(sizes):
    """DeepMSI-MER of the sizes of `torch_deepmsi.DeepMSI`, without dropout, as pure functions."""
    settings = DeepMSISettings(variant="published", pool="mean", early_width=sizes["early"], tcn_widths=sizes["tcn"])
    settings = dataclasses.replace(settings, projection=sizes["projection"], late_widths=sizes["late"])
    for name in ("dropout", "early_dropout", "tcn_dropout", "projection_dropout"):
        setattr(settings, name, 0.0)
    config = DeepMSIFramesExperiment(model=settings)
    config.backbone.width, config.backbone.drop_path, config.backbone.rematerialize = sizes["width"], 0.0, False
    config.backbone.depths = torch_deepmsi.DEPTHS[sizes["skip"] :]
    config.backbone.heads = tuple(sizes["heads"] * 2**i for i in range(len(config.backbone.depths)))
    config.backbone.vsc_stage -= sizes["skip"]
    text, audio = sizes["widths"]
    model = functionalize(
        lambda overrides, rngs: DeepMSIMER(
            settings,
            widths={"text": text, "audio": audio, "visual": 3},
            visual=VisualInput(backbone=backbone_of(config)),
            attended=(),
            outputs=sizes["classes"],
            temperature=0.5,
            learn_temperature=False,
            rngs=rngs,
        )
    )
    return config, model


@pytest.mark.slow
def test_the_whole_path_and_its_updates_are_the_official_ones():
    """From frames to the loss, without the backbone's first stage (its blocks are compared above): evaluation, then training with
    Adam and L2: gradients by inputs and parameters, what has none, the updates, and BatchNorm's running statistics."""
    rng, rows, steps = np.random.default_rng(0), 4, 2
    theirs = moved(torch_deepmsi.DeepMSI(**SIZES), 0.1)
    config, model = ours_of(SIZES)
    inputs = {
        "text": rng.normal(size=(rows, 1, 10)),
        "audio": rng.normal(size=(rows, 1, 6)),
        "visual": rng.normal(size=(rows, 2, 128, 128, 3)),
    }
    label = np.array([0, 1, 1, 3])
    config.loss.label_smoothing, config.loss.pairs, config.loss.per_positive = (
        0.0,
        ("visual-text", "visual-audio"),
        False,
    )
    config.optim.name, config.optim.weight_decay, config.optim.clip, config.optim.ema_decay = "adam", 1e-2, 0.0, 0.0
    config.optim.schedule, config.optim.warmup, config.optim.learning_rate = "constant", 0.0, 1e-3
    task = Classification("abcd")
    tx = optim.optimizer(config.optim, steps, reached=lambda path: path[0] != "early")
    mask = {m: jnp.ones(x.shape[:2], bool) for m, x in inputs.items()}

    def batch_of(inputs):
        return Batch(inputs, mask, jax.tree.map(jnp.asarray, class_targets(label, 4)), jnp.ones(rows))

    @jax.jit
    def update(params, model_state, opt_state, inputs):
        def total(params, inputs):
            outputs, changed = model.apply(params, model_state, batch_of(inputs), jax.random.key(0))
            value, _ = objective(config, outputs, batch_of(inputs), jnp.ones(4) / 4, task=task)
            return value, (value, changed)

        grads, (value, changed) = jax.grad(total, argnums=(0, 1), has_aux=True)(params, inputs)
        updates, opt_state = tx.update(grads[0], opt_state, params)
        return jax.tree.map(jnp.add, params, updates), changed, opt_state, grads, value

    def ours(params, model_state, inputs):
        logits = jax.jit(lambda *a: model.apply(*a)[0]["logits"])(params, model_state, batch_of(inputs))
        opt_state, found = tx.init(params), []
        for _ in range(steps):
            params, model_state, opt_state, grads, value = update(params, model_state, opt_state, inputs)
            found.append((params, model_state, grads, value))
        return logits, found

    named = dict(theirs.named_parameters()), dict(theirs.named_buffers())
    trees = [pretrained.nested(torch_deepmsi.as_ours(each)) for each in named]
    logits, found = in_float64(ours, *trees, inputs)
    given = {m: torch.tensor(x if m == "visual" else x[:, 0], requires_grad=True) for m, x in inputs.items()}
    assert_close(logits, theirs.eval()(given["text"], given["audio"], given["visual"])[0].detach().numpy())
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-3, weight_decay=1e-2)
    theirs.train()
    for params, model_state, (by_params, by_inputs), value in found:
        adam.zero_grad()
        for x in given.values():
            x.grad = None
        total = torch_deepmsi.loss(*theirs(given["text"], given["audio"], given["visual"]), torch.tensor(label))
        total.backward()
        assert_close(value, total.detach().numpy())
        for m, x in given.items():
            assert_close(by_inputs[m].reshape(x.shape), x.grad.numpy(), m)
        gradients = torch_deepmsi.as_ours(gradients_of(theirs))
        assert not any(name.startswith("early/") for name in gradients)
        assert not any(x.any() for x in jax.tree.leaves(by_params.pop("early")))
        # A BatchNorm takes away the bias before it: nothing but rounding is left of its gradient.
        for name in [name for name in gradients if name.startswith("late/") and name.endswith("dense/bias")]:
            assert (
                max(np.abs(gradients.pop(name)).max(), np.abs(by_params["late"][name[5]]["dense"].pop("bias")).max())
                < 1e-12
            )
        assert_same_trees(by_params, gradients)
        adam.step()
        assert_same_trees(params, torch_deepmsi.as_ours(named[0]))
        assert_same_trees(model_state, torch_deepmsi.as_ours(named[1]))


def shape_of(x):
    """What tells distributions apart: deviation, and mean size and greatest value in terms of it."""
    sd = np.sqrt(np.square(x).mean())
    return np.array([sd, np.abs(x).mean() / sd, np.abs(x).max() / sd])


@pytest.mark.slow
def test_it_starts_as_the_official_code_does():
    """Every parameter: the same constant, or the same deviation and form of its distribution, as far as their number shows."""
    torch.manual_seed(0)
    sizes = SIZES | {
        "widths": (64, 32),
        "width": 24,
        "early": 48,
        "tcn": (96, 96, 64),
        "projection": 48,
        "late": (64, 32),
    }
    wanted = torch_deepmsi.as_ours(dict(torch_deepmsi.DeepMSI(**sizes).named_parameters()))
    params, _ = jax.jit(ours_of(sizes)[1].init)(jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x, np.float64) for path, x in leaves}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        if np.ptp(value) == 0:
            np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
        else:
            near = 6 / np.sqrt(value.size)
            ours, theirs = shape_of(found[name]), shape_of(value)
            np.testing.assert_allclose(ours[:2] / theirs[:2], 1, rtol=0, atol=near, err_msg=name)
            if value.size > 2000:  # a uniform distribution ends at 1.73, one that is cut off at two deviations at 2.27
                assert (ours[2] > 2.6) == (theirs[2] > 2.6), name
                assert (ours[2] < 1.9) == (theirs[2] < 1.9), name


@pytest.mark.parametrize(("name", "theirs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_an_optimiser_leaves_alone_what_has_no_gradient(name, theirs):
    """As torch's: one that has none keeps its value, one whose gradient is zero decays."""
    rng, settings = np.random.default_rng(0), OptimSettings(name=name, learning_rate=1e-2, weight_decay=0.1, clip=0.0)
    settings.schedule, settings.warmup = "constant", 0.0
    start = {part: {"kernel": rng.normal(size=(3, 2)).astype(np.float32)} for part in ("early", "late", "still")}
    tensors = {part: torch.nn.Parameter(torch.tensor(p["kernel"])) for part, p in start.items()}
    tx, params = optim.optimizer(settings, 5, reached=lambda path: path[0] != "early"), jax.tree.map(jnp.asarray, start)
    state, adam = tx.init(params), theirs(tensors.values(), lr=1e-2, weight_decay=0.1)
    for _ in range(5):
        gradient = rng.normal(size=(3, 2)).astype(np.float32)
        tensors["late"].grad, tensors["still"].grad = torch.tensor(gradient), torch.zeros(3, 2)
        adam.step()
        grads = {part: {"kernel": jnp.asarray(gradient if part == "late" else 0 * gradient)} for part in start}
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to the power of an integer
            updates, state = tx.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    for part, tensor in tensors.items():
        np.testing.assert_allclose(params[part]["kernel"], tensor.detach().numpy(), rtol=0, atol=2e-6, err_msg=part)
        assert (params[part]["kernel"] == start[part]["kernel"]).all() == (part == "early")


@pytest.mark.parametrize("rows", [2, 8])
def test_running_statistics_are_torchs(rows):
    """After two batches; rows that do not count stand between those that do."""
    theirs, ours = torch.nn.BatchNorm1d(3), BatchNorm(3, rngs=nnx.Rngs(0))
    real = np.arange(12) % (12 // rows) == 0
    for seed in range(2):
        x = np.random.default_rng(seed).normal(2, 3, size=(12, 3)).astype(np.float32)
        wanted = theirs(torch.tensor(x[real])).detach().numpy()
        found = ours.normalize(jnp.asarray(x), jnp.asarray(real), training=True)
        np.testing.assert_allclose(found[real], wanted, atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.var[...], theirs.running_var, rtol=1e-5)


def trained_norms(corpus, reached, steps=300):
    """Norms of the early fusion's arrays by path before and after so many updates of the model on features."""
    config = of_family("published")
    for name in ("early_width", "projection"):
        setattr(config.model, name, 8)
    config.model.tcn_widths, config.model.late_widths = (8,), (8,)
    config.optim.name, config.optim.weight_decay, config.optim.clip = "adam", 1e-5, 0.0
    config.optim.schedule, config.optim.learning_rate = "constant", 1e-3
    config = validate(config)
    task, rng = Classification(corpus.labels), np.random.default_rng(0)
    family, model = compiled.model_of(config, corpus, task)
    family = family if reached is None else dataclasses.replace(family, reached=reached)
    widths = family_lib.widths_of(config, corpus)
    features = {m: jnp.asarray(rng.normal(size=(8, 4, width)), jnp.float32) for m, width in widths.items()}
    label = np.arange(8, dtype=np.int32) % len(corpus.labels)
    mask = {m: jnp.ones((8, 4), bool) for m in features}
    batch = Batch(features, mask, jax.tree.map(jnp.asarray, class_targets(label, len(corpus.labels))), jnp.ones(8))
    stats = {m: {"mean": jnp.zeros(w), "scale": jnp.ones(w)} for m, w in widths.items()}
    inputs = family_lib.ReplicaInputs(stats, jnp.ones(len(corpus.labels)) / len(corpus.labels), {})
    made = compiled.objective_for(config, family, steps)

    @jax.jit
    def train():
        state = step.init_state(jnp.uint32(0), inputs, {}, init=model.init, objective=made)
        one = lambda s, _: (step.train_step(s, batch, apply=model.apply, objective=made)[0], None)  # noqa: E731
        return state.params, jax.lax.scan(one, state, length=steps)[0].params

    def norms(params):
        leaves = jax.tree_util.tree_leaves_with_path(params["early"])
        return {jax.tree_util.keystr(path, simple=True, separator="/"): float(jnp.linalg.norm(x)) for path, x in leaves}

    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to the power of an integer
        before, after = train()
    assert np.abs(after["classifier"]["kernel"] - before["classifier"]["kernel"]).max() > 1e-2
    return norms(before), norms(after)


@pytest.mark.slow
def test_early_fusion_is_left_alone_where_the_loss_does_not_reach_it(demo):
    """After 300 steps with L2 it is what it was; it shrinks to nothing if the optimiser does not know."""
    before, after = trained_norms(demo, None)
    assert after == before
    assert before["hidden/dense/kernel"] > 1
    before, after = trained_norms(demo, lambda path: True)
    assert after["hidden/dense/kernel"] < 0.05 * before["hidden/dense/kernel"]
