"""Swin V2 against the implementation of transformers, on the same weights and images; VSC in a stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from mer_jax import weights
from mer_jax.models import swin

CONFIG = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "window_size": 4, "image_size": 64, "patch_size": 4}


def theirs(seed=0, **changes):
    torch = pytest.importorskip("torch", reason="needs the prep extra")
    transformers = pytest.importorskip("transformers", reason="needs the prep extra")
    torch.manual_seed(seed)
    model = transformers.Swinv2Model(transformers.Swinv2Config(**(CONFIG | changes))).eval()
    for parameter in model.parameters():  # biases and norms start as 0 and 1, which would hide a mistake
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def ours(config, weights):
    from data_prep.swin import arguments, renamed

    model = swin.SwinV2(**arguments(config), drop_path=0.0, rngs=nnx.Rngs(0))
    flat = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    named = {"/".join(map(str, path)): leaf for path, leaf in flat.items()}
    found = renamed(weights)
    assert found.keys() == named.keys()
    for name, leaf in named.items():
        assert leaf[...].shape == found[name].shape, name
        leaf[...] = jnp.asarray(found[name])
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window_size": 8, "depths": [2, 2, 2], "num_heads": [2, 3, 4]},  # the last stages have one window: no shift
        {"pretrained_window_sizes": [6, 3]},
        {"image_size": 32, "window_size": 8},
        {"image_size": 64, "window_size": 16, "depths": [2, 2, 2], "num_heads": [2, 3, 4]},  # grids of 16, 8, 4
    ],
    ids=["", "one window", "pretrained", "small", "windows larger than the last grids"],
)
def test_the_same_as_in_transformers(changes):
    import torch

    model = theirs(**changes)
    images = np.random.default_rng(1).normal(size=(2, model.config.image_size, model.config.image_size, 3))
    images = images.astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(images).permute(0, 3, 1, 2)).last_hidden_state.numpy()
    mine = ours(model.config, {k: v.numpy() for k, v in model.state_dict().items()})
    found = jax.jit(lambda x: mine(x))(jnp.asarray(images))
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


# ---- against loops in float64 ----


def drawn(module, seed=0):
    """The module with other parameters, and these."""
    rng = np.random.default_rng(seed)
    state = nnx.state(module, nnx.Param)
    state = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.5), jnp.float32), state)
    nnx.update(module, state)
    return module, jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(state))


def make_block(width=8, heads=2, seed=0):
    return drawn(swin.Block(width, heads, 2, 0.0, rngs=nnx.Rngs(seed)), seed)


@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 2)], ids=str)
@pytest.mark.parametrize("norm_first", [False, True])
def test_merging_is_its_formula(norm_first, grid):
    """In the order of Swin V2, and in that of Swin V1 and DeepMSI-MER; even sides and odd ones."""
    merging, p = drawn(swin.PatchMerging(8, norm_first, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(1).normal(size=(2, *grid, 8))
    wanted = [reference.patch_merging(frame, p, norm_first) for frame in x]
    np.testing.assert_allclose(merging(jnp.asarray(x, jnp.float32)), wanted, atol=1e-5)


@pytest.mark.parametrize("grid", [(6, 9), (5, 7), (3, 2)], ids=str)
@pytest.mark.parametrize("shifted", [False, True])
def test_a_block_is_its_formula(grid, shifted):
    """Grids that windows of three divide, that they do not, and one smaller than a window."""
    block, p = make_block()
    x = np.random.default_rng(1).normal(size=(2, *grid, 8))
    found, _ = block(jnp.asarray(x, jnp.float32), window=3, shifted=shifted)
    wanted = [reference.swin_block(frame, p, 2, 3, shifted) for frame in x]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("published", [False, True])
def test_compression_in_a_block_is_its_formula(published, shifted):
    block, p = make_block()
    rng = np.random.default_rng(2)
    x, guide = rng.normal(size=(2, 6, 6, 8)), rng.normal(size=(2, 8))
    how = swin.Compression(side=4, threshold=0.6, alpha=0.9, published=published)
    found, _ = block(
        jnp.asarray(x, jnp.float32), jnp.asarray(guide, jnp.float32), window=3, shifted=shifted, compression=how, one_mask=published
    )  # fmt: skip
    wanted = [reference.swin_block(a, p, 2, 3, shifted, 4, g, published) for a, g in zip(x, guide, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def small(**changes):
    sizes = {"width": 8, "depths": (1, 2), "heads": (1, 2), "window": 4, "stage": 1, "norm_first": True}
    return swin.SwinV2(**(sizes | changes), rngs=nnx.Rngs(0))


def test_every_stage_has_its_grid():
    """The published sizes: 256 pixels, 256 -> 196 -> 144 -> 100 tokens in stage 3, 25 of width 768 in the end."""
    sizes = {"norm_first": True, "sides": (14, 12, 10), "published": True}
    graph, state = nnx.split(nnx.eval_shape(lambda: swin.SwinV2(**sizes, rngs=nnx.Rngs(0))))
    seen = []
    real = swin.Block.__call__

    def spy(self, x, *rest, **named):
        seen.append((x.shape[1:], swin.tiling(x.shape[1:3], named["window"], named["shifted"])))
        return real(self, x, *rest, **named)

    images, guide = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32), jax.ShapeDtypeStruct((2, 384), jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swin.Block, "__call__", spy)
        out = jax.eval_shape(lambda s, x, g: nnx.merge(graph, s)(x, g), state, images, guide)
    assert out.shape == (2, 25, 768)
    sides = [64] * 2 + [32] * 2 + [16, 14, 14, 12, 12, 10] + [5] * 2
    assert [shape for shape, _ in seen] == [
        (n, n, 96 * 2**i) for n, i in zip(sides, [0, 0, 1, 1, *[2] * 6, 3, 3], strict=True)
    ]
    assert [t.window[0] for _, t in seen] == [8, 8, 8, 8, 8, 7, 7, 6, 6, 5, 5, 5]
    assert [t.shift[0] for _, t in seen] == [0, 4, 0, 4, 0, 3, 0, 3, 0, 2, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
def test_what_a_gradient_reaches(published):
    """Everything and the guide when fixed; as published the guide only chooses, and gets none."""
    model = small(sides=(6,), published=published, drop_path=0.0, rematerialize=published)
    rng = np.random.default_rng(0)
    images, guide = (
        jnp.asarray(rng.normal(size=(2, 64, 64, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=(2, 16)), jnp.float32),
    )
    graph, params = nnx.split(model)

    def total(params, guide):
        return jnp.square(nnx.merge(graph, params)(images, guide)[..., 0]).sum()

    by_params, by_guide = jax.jit(jax.grad(total, argnums=(0, 1)))(params, guide)
    flat = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(by_params))[0]
    assert [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0] == []
    assert bool((by_guide != 0).any()) is not published


@pytest.mark.slow
def test_frames_do_not_see_each_other():
    model = small(sides=(6,))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 64, 64, 3)), jnp.float32)
    guide = jnp.ones((3, 16))
    run = jax.jit(lambda images, guide: model(images, guide))
    changed = images.at[0].add(1.0).at[2].multiply(2.0)
    found, wanted = run(changed, guide), run(images, guide)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-6)
    assert np.abs(found[0] - wanted[0]).max() > 1e-3


@pytest.mark.slow
def test_half_precision_is_close():
    """Tokens of length 1 in every feature on the whole (they are normalised): a hundredth of that on average."""
    model = small(drop_path=0.0)
    graph, params = nnx.split(model)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 64, 3)), jnp.float32)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    with jax.numpy_dtype_promotion("standard"):  # flax's LayerNorm mixes half and single precision
        found = jax.jit(lambda p, x: nnx.merge(graph, p)(x))(half, images.astype(jnp.bfloat16))
    wanted = model(images)
    assert found.dtype == jnp.bfloat16
    assert np.abs(found.astype(jnp.float32) - wanted).mean() < 0.02
    assert np.abs(found.astype(jnp.float32) - wanted).max() < 0.2


def test_too_many_compressions_are_refused():
    with pytest.raises(ValueError, match="stage 1 has 2 blocks, every second of which may compress: not 2"):
        small(sides=(7, 6))


def test_drop_path_leaves_out_whole_frames_and_keeps_the_mean():
    x = jnp.ones((2000, 2, 3))
    kept = np.asarray(swin.drop_path(x, 0.25, jax.random.key(0)))
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.75)}
    assert (kept == kept[:, :1, :1]).all()
    assert abs(kept.mean() - 1) < 0.05
    assert swin.drop_path(x, 0.25, None) is x


@pytest.mark.slow
@pytest.mark.parametrize("kept_as", ["safetensors", "bin"])
def test_a_public_checkpoint_becomes_a_file(tmp_path, run_cli, kept_as):
    """As transformers saves it, and as older checkpoints are: torch's own format, without an image processor."""
    import torch

    model, folder = theirs(), tmp_path / "swin"
    model.save_pretrained(folder)
    if kept_as == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    done = run_cli(folder, "--out", tmp_path / "w.npz", module="data_prep.swin")
    assert done.returncode == 0, done.stderr
    assert "--config.backbone.depths='(2, 2)'" in done.stdout
    arrays, arguments = weights.read(tmp_path / "w.npz"), weights.arguments_of(tmp_path / "w.npz")
    assert arguments["window"] == 4
    assert arguments["norm_first"] is False
    from data_prep.swin import renamed

    wanted = renamed({k: v.numpy() for k, v in model.state_dict().items()})
    assert arrays.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)
    again = run_cli(folder, "--out", tmp_path / "w.npz", module="data_prep.swin")
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.slow
def test_what_is_no_swin_is_refused(tmp_path, run_cli):
    transformers = pytest.importorskip("transformers", reason="needs the prep extra")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    done = run_cli(tmp_path / "vit", "--out", tmp_path / "w.npz", module="data_prep.swin")
    assert done.returncode == 2
    assert "is a vit, not a swinv2" in done.stderr
    done = run_cli(tmp_path / "nothing", "--out", tmp_path / "w.npz", module="data_prep.swin")
    assert done.returncode == 2
    assert "neither a local folder nor reachable on the hub" in done.stderr
