"""Swin V2 against the implementation of transformers, on the same weights and images; VSC in a stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from experiments import swin_v2
from flax import nnx

from mer_jax.errors import UserError
from mer_jax.models import deepmsi_mer_frames as deepmsi_mer_frames_lib
from mer_jax.models import pretrained, swin, windows

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

    model = swin_v2(nnx.Rngs(0), **arguments(config), drop_path=0.0)
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


def drawn(module, seed=0):
    """The module with other parameters, and these."""
    rng = np.random.default_rng(seed)
    state = nnx.state(module, nnx.Param)
    state = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.5), jnp.float32), state)
    nnx.update(module, state)
    return module, jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(state))


def make_block(**how):
    return drawn(swin.Block(8, 2, 2, 0.0, **how, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 2)], ids=str)
@pytest.mark.parametrize("norm_first", [False, True])
def test_merging_is_its_formula(norm_first, grid):
    """In the order of Swin V2, and in that of Swin V1 and DeepMSI-MER; even sides and odd ones."""
    merging, p = drawn(swin.PatchMerging(8, norm_first, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(1).normal(size=(2, *grid, 8))
    wanted = [reference.patch_merging(frame, p, norm_first) for frame in x]
    np.testing.assert_allclose(merging(jnp.asarray(x, jnp.float32)), wanted, atol=1e-5)


@pytest.mark.parametrize("grid", [pytest.param((6, 9), marks=pytest.mark.nnx), (5, 7), (3, 2)], ids=str)
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
    block, p = make_block(published=published, compresses=True)
    rng = np.random.default_rng(2)
    x, guide = rng.normal(size=(2, 6, 6, 8)), rng.normal(size=(2, 8))
    how = swin.Compression(side=4, threshold=0.6, alpha=0.9)
    found, _ = block(
        jnp.asarray(x, jnp.float32),
        jnp.asarray(guide, jnp.float32),
        window=4,
        shifted=shifted,
        compression=how,
        published_shift_mask=published,
    )
    wanted = [reference.swin_block(a, p, 2, 4, shifted, 4, g, published) for a, g in zip(x, guide, strict=True)]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def small(**changes):
    sizes = {"width": 8, "depths": (1, 2), "heads": (1, 2), "window": 4, "stage": 1, "norm_first": True}
    return swin_v2(nnx.Rngs(0), **(sizes | changes))


def test_every_stage_has_its_grid():
    """The published sizes: 256 pixels, 256 -> 196 -> 144 -> 100 tokens in stage 3, 25 of width 768 in the end."""
    sizes = {"norm_first": True, "grid_sides": (14, 12, 10), "published": True}
    graph, state = nnx.split(nnx.eval_shape(lambda: swin_v2(nnx.Rngs(0), **sizes)))
    seen = []
    real = swin.Block.__call__

    def spy(self, x, *rest, **named):
        seen.append((x.shape[1:], windows.tiling(x.shape[1:3], named["window"], named["shifted"], self.published)))
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
    assert [t.shift[0] for _, t in seen] == [0, 4, 0, 4, 0, 4, 0, 4, 0, 4, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
def test_what_a_gradient_reaches(published):
    """Everything and the guide when fixed; as published the guide only chooses, and gets none."""
    model = small(grid_sides=(6,), published=published, drop_path=0.0, rematerialize=published)
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
    model = small(grid_sides=(6,))
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
        small(grid_sides=(7, 6))


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
    arrays, arguments = pretrained.read(tmp_path / "w.npz"), pretrained.arguments_of(tmp_path / "w.npz")
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


def released(model, tables=True, late=False):
    """The weights of transformers' model under the names of the release. late: a stage begins with merging, as in
    timm."""
    import torch

    weights, found = model.state_dict(), {"head.weight": torch.ones(3, 12), "head.bias": torch.ones(3)}
    for kind in ("weight", "bias"):
        found[f"patch_embed.proj.{kind}"] = weights[f"embeddings.patch_embeddings.projection.{kind}"]
        found[f"patch_embed.norm.{kind}"] = weights[f"embeddings.norm.{kind}"]
        found[f"norm.{kind}"] = weights[f"layernorm.{kind}"]
    parts = {
        "attn.logit_scale": "attention.self.logit_scale",
        "attn.q_bias": "attention.self.query.bias",
        "attn.v_bias": "attention.self.value.bias",
        "attn.cpb_mlp.2.weight": "attention.self.continuous_position_bias_mlp.2.weight",
    }
    layers = {
        "attn.cpb_mlp.0": "attention.self.continuous_position_bias_mlp.0",
        "attn.proj": "attention.output.dense",
        "norm1": "layernorm_before",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
        "norm2": "layernorm_after",
    }
    parts |= {f"{mine}.{kind}": f"{name}.{kind}" for mine, name in layers.items() for kind in ("weight", "bias")}
    for i, stage in enumerate(model.encoder.layers):
        for j, block in enumerate(stage.blocks):
            at, there = f"layers.{i}.blocks.{j}", f"encoder.layers.{i}.blocks.{j}"
            found |= {f"{at}.{mine}": weights[f"{there}.{name}"] for mine, name in parts.items()}
            three = [weights[f"{there}.attention.self.{name}.weight"] for name in ("query", "key", "value")]
            found[f"{at}.attn.qkv.weight"] = torch.cat(three)
            if tables:
                attention = block.attention.self
                found[f"{at}.attn.relative_coords_table"] = attention.relative_coords_table
                found[f"{at}.attn.relative_position_index"] = attention.relative_position_index
                found[f"{at}.attn_mask"] = torch.ones(4, 16, 16)
        if stage.downsample is not None:
            for name in ("reduction.weight", "norm.weight", "norm.bias"):
                found[f"layers.{i + late}.downsample.{name}"] = weights[f"encoder.layers.{i}.downsample.{name}"]
    return found


def saved(path, content):
    import safetensors.torch
    import torch

    if path.suffix == ".safetensors":
        safetensors.torch.save_file({name: array.contiguous() for name, array in content.items()}, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "changes", "window"),
    [
        ("w.pth", {}, ""),
        ("w.pt", {"pretrained_window_sizes": [6, 3]}, ""),
        ("w.bin", {"window_size": 16, "depths": [2, 2, 1], "num_heads": [2, 3, 4]}, ""),
        ("w.safetensors", {"window_size": 8, "image_size": 32, "mlp_ratio": 2.0}, "8,4"),
    ],
    ids=["release", "another window before", "windows of 16, 8, 4", "timm"],
)
def test_a_file_is_the_model_that_transformers_has(tmp_path, capsys, file, changes, window):
    from data_prep.swin import arguments, convert, renamed

    model = theirs(**changes)
    content = released(model, tables=not window, late=bool(window))
    path = saved(tmp_path / file, content if window else {"model": content, "epoch": 3})
    convert(str(path), tmp_path / "w.npz", window)
    assert f"--config.backbone.window={model.config.window_size}" in capsys.readouterr().out
    wanted = renamed({name: array.numpy() for name, array in model.state_dict().items()})
    found = pretrained.read(tmp_path / "w.npz")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert pretrained.arguments_of(tmp_path / "w.npz") == arguments(model.config) | {"norm_first": False}


@pytest.mark.slow
def test_files_that_are_no_swin_v2_are_refused(tmp_path, run_cli):
    import argparse

    import torch

    from data_prep.swin import convert

    full = released(theirs())
    bare = {name: array for name, array in full.items() if "relative_coords_table" not in name}
    first = "layers.0.blocks.0"
    v1 = bare | {f"{first}.attn.relative_position_bias_table": torch.ones(49, 2)}

    def without(name):
        return {key: array for key, array in full.items() if key != name}

    cases = [
        (v1, "", r"f\.pth is a Swin V1.*take a Swin V2"),
        (
            {f"swinv2.{name}": array for name, array in theirs().state_dict().items()},
            "",
            "give the folder that it is in",
        ),
        ({"model": 3}, "", "holds no state dict"),
        ([torch.ones(2)], "", "holds no state dict"),
        ({0: torch.ones(2)}, "", "holds no state dict"),
        ({}, "", "holds no state dict"),
        (
            {"model": full, "args": argparse.Namespace(a=1)},
            "",
            r"asks for argparse\.Namespace, and nothing of it is run",
        ),
        ({"a": torch.ones(2)}, "", r"holds no Swin V2: it has no patch_embed\.proj\.weight of 4 axes, but a …"),
        (
            without("layers.1.blocks.0.attn.logit_scale"),
            "",
            r"has no layers\.1\.blocks\.0\.attn\.logit_scale of 3 axes",
        ),
        (without(f"{first}.mlp.fc2.bias"), "", r"layers\.0\.blocks\.0\.mlp\.fc2\.bias is missing; .* \(12,\)"),
        (full | {"absolute_pos_embed": torch.ones(1, 4, 12)}, "", "absolute_pos_embed has no place in a Swin V2"),
        (full | {"layers.0.downsample.norm.bias": torch.ones(48)}, "", r"norm\.bias has shape \(48,\); .* \(24,\)"),
        (full | {"norm.bias": torch.full((24,), np.nan)}, "", r"norm\.bias holds values that are no finite numbers"),
        (
            full | {f"{first}.attn.logit_scale": torch.ones(5, 1, 1)},
            "",
            r"layers\.0 has 5 heads, which do not divide its width 12",
        ),
        (full | {f"{first}.mlp.fc1.weight": torch.ones(30, 12)}, "", r"its mlp_ratio is 2\.5"),
        (bare, "", r"has no layers\.0\.blocks\.0\.attn\.relative_coords_table, .* as in --window=8,8"),
        (full | {f"{first}.attn.relative_coords_table": torch.zeros(1, 7, 7, 2)}, "", "is no table of the offsets"),
        (full | {f"{first}.attn.relative_coords_table": torch.ones(1, 7, 8, 2)}, "", "is no table of the offsets"),
        (bare, "4", r"--window=4: must be a window for each of the 2 stages, as in --window=8,8"),
        (bare, "4,0", "must be a window for each of the 2 stages"),
        (full, "4,4", r"--window=4,4: .*f\.pth says its windows itself"),
    ]
    for content, window, words in cases:
        with pytest.raises(UserError, match=words):
            convert(str(saved(tmp_path / "f.pth", content)), tmp_path / "w.npz", window)
    for name in ("g.pth", "g.safetensors"):
        written = saved(tmp_path / name, full).read_bytes()
        for damaged in (written[: len(written) // 2], written[:5], b"", b"no weights at all"):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(UserError, match=rf"{name} is (damaged|no file that torch saved)"):
                convert(str(tmp_path / name), tmp_path / "w.npz")
    with pytest.raises(UserError, match=r"h\.pth does not exist"):
        convert(str(tmp_path / "h.pth"), tmp_path / "w.npz")
    (tmp_path / "f.txt").write_text("no weights")
    with pytest.raises(
        UserError, match=r"f\.txt: weights are in a \.pth, \.pt, \.bin, \.safetensors file, or in a folder"
    ):
        convert(str(tmp_path / "f.txt"), tmp_path / "w.npz")
    with pytest.raises(UserError, match="--window=4,4: is for files alone"):
        convert(str(tmp_path), tmp_path / "w.npz", "4,4")
    assert not (tmp_path / "w.npz").exists()
    refused = run_cli(saved(tmp_path / "f.pth", v1), "--out", tmp_path / "w.npz", module="data_prep.swin")
    assert refused.returncode == 2
    assert "error: " in refused.stderr
    assert "is a Swin V1" in refused.stderr


@pytest.mark.parametrize(
    ("size", "window", "vsc", "found"),
    [
        (256, 8, True, {}),
        (256, 16, True, {}),  # the last grid is of 8: one window
        (224, 8, True, {2: 28, 3: 14}),
        (224, 7, False, {}),
        (288, 8, True, {2: 36, 3: 18}),
        (288, 8, False, {2: 36, 3: 18, 4: 9}),  # with VSC its sides decide about stage 4
        (64, 8, False, {}),
    ],
)
def test_grids_that_windows_do_not_divide(size, window, vsc, found):
    config = deepmsi_mer_frames_lib.DeepMSIFramesExperiment()
    config.frames.size, config.backbone.window, config.model.vsc = size, window, vsc
    assert deepmsi_mer_frames_lib.undivided_grids(config) == found
