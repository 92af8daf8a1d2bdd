"""DeepMSI-MER end to end from frames: what learns, from where it starts, and what VSC kept."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from experiments import of_family, swin_v2, with_plain_sgd
from flax import nnx
from PIL import Image

from mer_jax import config as config_lib
from mer_jax import visualize_vsc
from mer_jax.data import loader
from mer_jax.data.batch import Batch, where_real
from mer_jax.errors import UserError
from mer_jax.experiment import print_start
from mer_jax.models import family, pretrained, swin
from mer_jax.models.deepmsi_mer import DeepMSIMER, VisualInput
from mer_jax.models.deepmsi_mer_frames import DeepMSIFramesExperiment, backbone_of
from mer_jax.models.functional import functionalize
from mer_jax.training import compiled, setup, step

# Of swin_v2, which counts stages from 0, without compression and with it; and the same as settings.
SIZES = {
    "patch": 4,
    "width": 8,
    "depths": (3, 1),
    "heads": (1, 2),
    "window": 4,
    "mlp": 2,
    "drop_path": 0.0,
    "norm_first": False,
}
COMPRESSED = SIZES | {"stage": 0, "grid_sides": (6, 4)}
BACKBONE = SIZES | {"vsc_stage": 1, "vsc_grid_sides": (6, 4)}


@pytest.fixture
def corpus(framed):
    return framed


def experiment(**changes):
    """A small one; `changes` by field, as `backbone__trainable_stages`."""
    config = with_plain_sgd(of_family("deepmsi_mer_frames", ("text", "visual")), 0.1)
    config.frames.size, config.train.batch_size, config.optim.ema_decay = 32, 8, 0.0
    config.frames.crop, config.frames.flip, config.frames.colour = 1.0, 0.0, 0.0
    for name, value in BACKBONE.items():
        setattr(config.backbone, name, value)
    model = config.model
    model.early_width = model.projection = 8
    model.tcn_widths, model.late_widths = (8,), (8,)
    model.dropout = model.early_dropout = model.tcn_dropout = model.projection_dropout = 0.0
    for name, value in changes.items():
        group, field = name.split("__")
        setattr(getattr(config, group), field, value)
    return config_lib.validate(config)


def assembled(corpus, **changes):
    run = setup.assemble(experiment(**changes), corpus, "unused", jax.devices()[:1])
    run.groups.begin()
    return run


def flat(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(k.key for k in path): np.asarray(leaf)[0] for path, leaf in leaves}


def after_steps(run, count=1):
    """(params and other variables before, after) so many steps."""

    def now():
        state = run.groups.saved()["state"]
        return flat(state.params), flat(state.model_state)

    before, batches = now(), run.data.batches
    order = loader.training_order(batches.pool, run.data.rows_of_training(), run.config.train.batch_size, 0, 1)
    for item in itertools.islice(batches.training(order, 0), count):
        run.groups.train([0], *item)
    return before, now()


@pytest.mark.slow
def test_the_published_model_has_its_parameters():
    """To the unit. The official code has 57,829,626, of which 9,873,290 get no gradient: the early fusion, which ours has, too,
    and modules that are never called, which ours has not."""
    config = DeepMSIFramesExperiment()
    settings = config.model
    settings.variant, settings.early_width, settings.late_widths = "published", 512, (512, 256, 128)
    settings.tcn_widths = (1024,) * 3

    def module(overrides, rngs):
        return DeepMSIMER(
            settings,
            widths={"text": 1024, "audio": 768, "visual": 3 * 256 * 256},
            visual=VisualInput(backbone=backbone_of(config)),
            attended=(),
            outputs=6,
            temperature=0.5,
            learn_temperature=False,
            rngs=rngs,
        )

    model = functionalize(module)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    early = (1024 + 768) * 512 + 512 + 2 * 512 + 512 * 384 + 384  # Dense, BatchNorm, Dense
    # Of each of the twelve blocks: a second attention or, in the third stage, the first one, and two biases beside that of q, k, v
    # in both; where nothing is compressed the norm behind VSC.
    widths, heads, depths = (96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 6, 2)
    uncalled = 0
    for i, (width, head, depth) in enumerate(zip(widths, heads, depths, strict=True)):
        attention = 4 * width * (width + 1) + head + 3 * 512 + 512 * head
        compresses = depth // 2 if i == 2 else 0
        uncalled += depth * (attention + 2 * 2 * width) + (depth - compresses) * 2 * width
    assert count(params["early"]) == early == 1_116_032
    assert uncalled == 9_873_290 - early == 8_757_258
    assert count(params) == 57_829_626 - uncalled == 49_072_368
    images = jnp.zeros((2, 3, 256, 256, 3))
    features = {"text": jnp.zeros((2, 1, 1024)), "audio": jnp.zeros((2, 1, 768)), "visual": images}
    mask = {m: jnp.ones(x.shape[:2], bool) for m, x in features.items()}
    batch = Batch(features, mask, {}, jnp.ones(2))
    outputs, _ = jax.eval_shape(lambda key: model.apply(*model.init(key), batch), jax.random.key(0))
    assert outputs["kept"].place.shape == (2, 3, 100)
    assert outputs["logits"].shape == (2, 6)


@pytest.mark.slow
def test_what_was_kept_is_followed_through_all_compressions():
    """Of two compressions in a row: a token's own place, found again by a mark that the stage's grid carries."""
    model = swin_v2(nnx.Rngs(0), **(COMPRESSED | {"published": True, "rematerialize": False}))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    guide = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8)), jnp.float32)
    kept = jax.tree.map(np.asarray, model.tokens_and_kept(images, guide)[1])
    found = kept.place
    x = model.embed_norm(model.embed(images))
    how = [swin.Compression(side, 0.6, 0.9) for side in BACKBONE["vsc_grid_sides"]]
    blocks, run = model.stages[0], {"window": 4, "published_shift_mask": True}
    x, first = blocks[0](x, guide, shifted=False, compression=how[0], **run)
    x, none = blocks[1](x, guide, shifted=True, **run)
    x, second = blocks[2](x, guide, shifted=False, compression=how[1], **run)
    assert none is None
    assert found.shape == (2, 16)
    for n in range(2):
        survived = [int(first.place[n][place]) for place in np.asarray(second.place[n])]
        assert found[n].tolist() == survived
        assert len(set(survived)) == 16
        assert kept.into[n].tolist() == [survived.index(t) if t in survived else 16 for t in range(64)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainable", "learns"),
    [
        ("all", ("embed", "embed_norm", "stages/0", "merges/0", "stages/1", "norm")),
        ("last:1", ("merges/0", "stages/1", "norm")),
        ("none", ()),
    ],
)
def test_only_what_is_trainable_learns(corpus, trainable, learns):
    run = assembled(corpus, backbone__trainable_stages=trainable)
    (params, fixed), (new, still) = after_steps(run)
    assert any(name.startswith("tcn") for name in params)
    prefixes = tuple(f"backbone/{part}/" for part in learns)
    learnt = {n for n in params if n.startswith("backbone")}
    assert all(n.startswith(prefixes) for n in learnt)
    assert len({p for p in prefixes if any(n.startswith(p) for n in learnt)}) == len(prefixes)
    assert len(learnt) + sum(n.startswith("backbone") for n in fixed) == len(jax.tree.leaves(params_of(run)))
    for name in fixed:
        np.testing.assert_array_equal(fixed[name], still[name], err_msg=name)
    moved = [name for name in params if not np.array_equal(params[name], new[name])]
    assert set(moved) == set(params)


def params_of(run):
    """All variables of the backbone."""
    make = backbone_of(run.config)
    return nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)


@pytest.mark.slow
def test_frozen_weights_compute_in_half_precision_and_stay_as_they_are(corpus):
    with jax.numpy_dtype_promotion("standard"):  # flax's LayerNorm mixes half and single precision
        run = assembled(corpus, backbone__trainable_stages="none", train__precision="bfloat16")
        (_, fixed), (_, still) = after_steps(run)
    for name in fixed:
        assert still[name].dtype == fixed[name].dtype
        np.testing.assert_array_equal(fixed[name], still[name], err_msg=name)


@pytest.mark.slow
def test_lower_layers_learn_more_slowly(corpus):
    """SGD: the update is the gradient times rate and factor."""

    def step_of(**changes):
        (params, _), (new, _) = after_steps(assembled(corpus, **changes))
        return {name: new[name] - params[name] for name in params}

    plain, apart = step_of(), step_of(backbone__lr_scale=0.5, backbone__layer_decay=0.5)
    wanted = {
        "embed": 0.5**5,
        "stages/0/0": 0.5**4,
        "stages/0/2": 0.5**2,
        "merges/0": 0.5,
        "stages/1/0": 0.5,
        "norm": 0.5,
    }
    for part, factor in wanted.items():
        names = [name for name in plain if name.startswith(f"backbone/{part}/")]
        assert names
        for name in names:
            np.testing.assert_allclose(apart[name], factor * plain[name], rtol=1e-3, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(apart["classifier/kernel"], plain["classifier/kernel"], rtol=1e-4, atol=1e-7)


def write_weights(path, **changes):
    """A file as data_prep.swin writes it, of a model drawn here."""
    arguments = {k: v for k, v in SIZES.items() if k != "drop_path"} | {"pretrained": (4, 3)}
    model = swin_v2(nnx.Rngs(7), **arguments)
    arrays = {"/".join(map(str, p)): np.asarray(v[...]) for p, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    pretrained.write(path, arrays, {"arguments": arguments | changes})
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["all", "last:1"])
def test_a_run_starts_from_given_weights(corpus, tmp_path, trainable):
    arrays = write_weights(tmp_path / "w.npz")
    run = assembled(corpus, backbone__weights=str(tmp_path / "w.npz"), backbone__trainable_stages=trainable)
    state = run.groups.saved()["state"]
    found = flat(state.params) | flat(state.model_state)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[f"backbone/{name}"], value, err_msg=name)
    assert {n.removeprefix("backbone/") for n in found if n.startswith("backbone/")} == set(arrays)
    drawn = flat(assembled(corpus, backbone__trainable_stages=trainable).groups.saved()["state"].params)
    np.testing.assert_array_equal(found["classifier/kernel"], drawn["classifier/kernel"])
    assert backbone_of(run.config)(nnx.Rngs(0)).pretrained_windows == (4, 3)


@pytest.mark.slow
def test_given_weights_in_uneven_windows_are_told_once(corpus, tmp_path, capsys):
    """The grid of 32 pixels is of 8 tokens, then 4; VSC begins in the first stage. Building the model again says
    nothing."""
    write_weights(tmp_path / "w.npz")
    weights, words = {"backbone__weights": str(tmp_path / "w.npz")}, "note: windows of 3 do not divide the grids"
    uneven = {"backbone__window": 3}
    for changes, count in (({}, 0), (uneven, 0), (weights, 0), (weights | uneven, 1)):
        run = assembled(corpus, **changes)
        family.family_of(run.config, corpus, run.task)
        print_start(run)
        said = capsys.readouterr().out
        assert said.count("note: windows") == said.count(words) == count
    assert "of frames.size = 32 in stage 1 (8 tokens a side) and are made smaller" in said


def test_weights_are_refused_where_the_model_has_more():
    with pytest.raises(
        UserError, match=r"weights=w\.npz: must be empty with model.variant=published: public Swin V2 has no bias"
    ):
        experiment(model__variant="published", backbone__weights="w.npz")


def test_weights_of_another_model_are_refused(tmp_path):
    write_weights(tmp_path / "w.npz")
    wanted = {name: BACKBONE[name] for name in ("patch", "width", "depths", "heads", "mlp", "norm_first")}
    pretrained.check(str(tmp_path / "w.npz"), wanted)
    with pytest.raises(
        UserError, match=r"--config.backbone.depths=\(2, 2\): the weights in .* are of a model with \(3, 1\)"
    ):
        pretrained.check(str(tmp_path / "w.npz"), wanted | {"depths": (2, 2)})
    with pytest.raises(UserError, match="does not exist"):
        pretrained.check(str(tmp_path / "none.npz"), wanted)
    (tmp_path / "w.npz").write_bytes((tmp_path / "w.npz").read_bytes()[:500])
    with pytest.raises(UserError, match=r"is no file of `python -m data_prep.swin`, or damaged"):
        pretrained.check(str(tmp_path / "w.npz"), wanted)


SMALL = {"optim__learning_rate": 0.02}  # gradients of some biases are about 20, and what is compared are sums of them


def assert_same(found, wanted, name):
    """To 2e-6, of the largest value where that is above 1: at 3 float32's own steps are a tenth of that, and sums in another
    order differ by ten of them."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * max(1, np.abs(wanted).max()), err_msg=name)


@pytest.mark.slow
def test_microbatches_give_the_same_update(corpus):
    one, pieces = (after_steps(assembled(corpus, train__microbatches=n, **SMALL))[1][0] for n in (1, 4))
    for name in one:
        assert_same(pieces[name], one[name], name)


@pytest.mark.slow
def test_groups_of_frames_give_the_same(corpus):
    """Tokens, what was kept, and gradients; 7 frames in groups of 3."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(7, 32, 32, 3)), jnp.float32)
    guide = jnp.asarray(np.random.default_rng(1).normal(size=(7, 8)), jnp.float32)

    def outputs(frames_per_group):
        sizes = {"depths": (1, 1), "grid_sides": (6,), "rematerialize": False, "frames_per_group": frames_per_group}
        graph, params = nnx.split(swin_v2(nnx.Rngs(0), **(COMPRESSED | sizes)))

        def total(params):
            tokens, kept = nnx.merge(graph, params).tokens_and_kept(images, guide)
            return jnp.square(tokens[..., 0]).sum(), (tokens, kept)

        return jax.jit(jax.grad(total, has_aux=True))(params)

    (wanted, (tokens, kept)), (found, (same, also)) = outputs(0), outputs(3)
    jax.tree.map(np.testing.assert_array_equal, kept, also)
    np.testing.assert_allclose(same, tokens, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max() + 1e-6), found, wanted)


@pytest.mark.slow
def test_frames_beyond_a_clip_s_end_change_nothing(corpus):
    """Padding of a batch: other pictures there, the same logits."""
    run = assembled(corpus)
    model, batches = run.groups.best(0), run.data.batches
    apply = run.steps.apply
    batch = jax.tree.map(
        jnp.asarray,
        loader.collate(corpus, batches.pool, np.arange(6), (("text", 12), ("visual", 4)), "refuse", batches.view),
    )
    logits = jax.jit(lambda b: apply(model.params, model.model_state, b)[0]["logits"])
    visual = batch.features["visual"].astype(jnp.float32)
    real = batch.mask["visual"][..., None, None, None]
    shown = [
        dataclasses.replace(batch, features=batch.features | {"visual": jnp.where(real, visual, fill)})
        for fill in (0.0, 77.0)
    ]
    assert not real.all()
    np.testing.assert_allclose(logits(shown[0]), logits(shown[1]), atol=1e-5)


@pytest.mark.slow
def test_frames_dropped_while_training_are_frames_that_are_missing(corpus):
    """The setting arrives from the config, and what is hidden leaves no trace of its pixels or as a guide."""
    run = assembled(corpus, model__modality_dropout=0.9)
    model, batches = run.groups.best(0), run.data.batches
    dropping, still = (
        compiled.model_of(experiment(model__modality_dropout=rate), corpus, run.task)[1].apply for rate in (0.9, 0.0)
    )
    batch = jax.tree.map(
        jnp.asarray,
        loader.collate(corpus, batches.pool, np.arange(12), (("text", 12), ("visual", 4)), "refuse", batches.view),
    )
    batch = step.standardize(batch, model.input_stats)
    found, _ = jax.jit(dropping)(model.params, model.model_state, batch, jax.random.key(0))
    gone = {m: ~np.asarray(x) for m, x in found["present"].items()}
    assert (sum(x.astype(int) for x in gone.values()) <= 1).all()
    assert all(x.any() for x in gone.values())
    mask = {m: x & ~gone[m][:, None] for m, x in batch.mask.items()}
    features = {m: where_real(mask[m], x) for m, x in batch.features.items()}
    wanted, _ = jax.jit(still)(
        model.params, model.model_state, dataclasses.replace(batch, features=features, mask=mask)
    )
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=1e-5)


@pytest.mark.slow
def test_a_file_that_lacks_an_array_is_refused(corpus, tmp_path):
    arrays = write_weights(tmp_path / "w.npz")
    about = {"arguments": pretrained.arguments_of(tmp_path / "w.npz")}
    name = "stages/0/1/mlp_in/kernel"
    pretrained.write(tmp_path / "w.npz", {k: v for k, v in arrays.items() if k != name}, about)
    with pytest.raises(UserError, match=rf"weights: {name} has shape none in the file and \(8, 16\) in the model"):
        assembled(corpus, backbone__weights=str(tmp_path / "w.npz"))
    np.save(tmp_path / "w.npy", arrays[name])
    with pytest.raises(UserError, match=r"is no file of `python -m data_prep\.swin`"):
        pretrained.read(tmp_path / "w.npy")


@pytest.mark.slow
def test_eight_devices_are_one(corpus):
    """From frames: the same params after two steps, with all frames together and in groups."""

    def params(devices, frames_per_group):
        run = setup.assemble(
            experiment(backbone__frames_per_group=frames_per_group, **SMALL), corpus, "unused", devices
        )
        run.groups.begin()
        return after_steps(run, 2)[1][0]

    one = params(jax.devices()[:1], 0)
    for size in (0, 16):
        eight = params(jax.devices(), size)
        for name in one:
            assert_same(eight[name], one[name], f"{name}, groups of {size}")


@pytest.mark.slow
def test_unstandardised_features_leave_frames_as_they_are(corpus):
    stats = assembled(corpus, data__standardize=False).data.inputs[0].input_stats
    assert (stats["text"]["scale"] == 1).all()
    np.testing.assert_allclose(stats["visual"]["mean"], [123.675, 116.28, 103.53], rtol=1e-5)


@pytest.mark.slow
def test_carrying_on_is_bit_for_bit(corpus):
    """Varied frames, dropout and drop path among them; 3 of 6 steps, then the rest in a new program."""
    changes = {
        "frames__crop": 0.6,
        "frames__flip": 0.5,
        "frames__colour": 0.2,
        "model__dropout": 0.3,
        "backbone__drop_path": 0.3,
    }

    def steps(run, start, stop):
        batches = run.data.batches
        order = loader.training_order(batches.pool, run.data.rows_of_training(), 8, 0, 1)
        for item in itertools.islice(batches.training(order, start), stop - start):
            run.groups.train([0], *item)
        return jax.device_get(run.groups.saved())

    straight = steps(assembled(corpus, **changes), 0, 6)
    half = steps(assembled(corpus, **changes), 0, 3)
    again = assembled(corpus, **changes)
    again.groups.load(jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), half, again.groups.like()))
    jax.tree.map(np.testing.assert_array_equal, steps(again, 3, 6)["state"].params, straight["state"].params)


@pytest.mark.slow
def test_two_replicas_are_two_runs(corpus):
    """Seeds 0 and 1 side by side from frames, against one after the other."""

    def trained(replicas_per_step):
        config = experiment()
        config.replicas.seeds, config.replicas.replicas_per_step = 2, replicas_per_step
        run = setup.assemble(config_lib.validate(config), corpus, "unused", jax.devices()[:1])
        run.groups.begin()
        batches = run.data.batches
        order = loader.training_order(batches.pool, run.data.rows_of_training(), 8, 0, 1)
        for item in itertools.islice(batches.training(order, 0), 3):
            run.groups.train([0, 1], *item)
        scores = run.groups.score([0, 1], "test", 4, best=False)
        return jax.device_get(run.groups.saved()["state"].params), [scores[r]["predicted"] for r in (0, 1)]

    (params, scores), (wanted, apart) = trained(2), trained(1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), params, wanted)
    np.testing.assert_allclose(scores, apart, atol=1e-5)


@pytest.mark.slow
def test_the_commands_end_to_end(run_cli, tmp_path, corpus):
    """A short run on drawn frames, scored again, its picture; and what is refused."""
    run = [
        f"--config={ROOT / 'configs' / 'deepmsi_mer_frames.py'}:tiny",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.path={corpus.path}",
        "--config.train.epochs=2",
        "--config.train.batch_size=8",
    ]
    done = run_cli(*run)
    assert done.returncode == 0, done.stderr
    again = run_cli(*run, "--mode=eval")
    assert "the same figures as in metrics.json" in again.stdout, again.stderr
    shown = run_cli(tmp_path / "run", "--out", tmp_path / "kept.png", "--count=2", module="mer_jax.visualize_vsc")
    assert shown.returncode == 0, shown.stderr
    assert "times as many as by chance (95 % interval over 6 clips" in shown.stdout
    with Image.open(tmp_path / "kept.png") as sheet:
        assert sheet.size[1] == 2 * (visualize_vsc.SIDE + 8)
    for arguments, words in (
        ([tmp_path, "--out", tmp_path / "k.png"], "holds no finished run"),
        ([tmp_path / "run", "--out", tmp_path / "k.png", "--replica=3"], "the run has replicas 0 to 0"),
        ([tmp_path / "run", "--out", tmp_path / "k.jpg"], "--out a .png"),
    ):
        refused = run_cli(*arguments, module="mer_jax.visualize_vsc")
        assert refused.returncode == 2
        assert words in refused.stderr
    features = run_cli(f"--config={ROOT / 'configs' / 'deepmsi_mer_frames.py'}:tiny", "--config.data.path=demo:clutter")
    assert features.returncode == 2
    assert "holds visual features, not frames" in features.stderr
