"""Weights of a public Swin V2 checkpoint (hub name, local folder or file) become a file that a backbone can start from.

python -m data_prep.swin microsoft/swinv2-tiny-patch4-window8-256 --out swin_t.npz
python -m data_prep.swin swinv2_tiny_patch4_window8_256.pth --out swin_t.npz
python -m mer_jax.main --config=configs/deepmsi_mer_frames.py --config.backbone.weights=swin_t.npz …

A file is one of the authors' release or of timm, a folder one of transformers. Features are those of transformers, made
for the same size of images, where the windows divide the grid of every stage or are larger: at frames.size = 256 with
these, and not at 224. There ours makes the windows smaller and even; transformers and timm keep them and fill the grid
up with zeros, which are attended to.
"""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import swin_checkpoint
from data_prep.encoders import pretrained
from mer_jax.errors import UserError, reported
from mer_jax.files import sha256_of
from mer_jax.models import pretrained as pretrained_lib

# A part of a name in transformers -> ours, in this order.
NAMES = (
    (r"^embeddings\.patch_embeddings\.projection", "embed"),
    (r"^embeddings\.norm", "embed_norm"),
    (r"^layernorm", "norm"),
    (r"^encoder\.layers\.(\d+)\.downsample\.reduction", r"merges.\1.reduce"),
    (r"^encoder\.layers\.(\d+)\.downsample\.norm", r"merges.\1.norm"),
    (r"^encoder\.layers\.(\d+)\.blocks\.(\d+)", r"stages.\1.\2"),
    (r"attention\.self\.(query|key|value)", r"attention.\1"),
    (r"attention\.self\.logit_scale", "attention.log_scale"),
    (r"attention\.self\.continuous_position_bias_mlp\.0", "attention.bias_in"),
    (r"attention\.self\.continuous_position_bias_mlp\.2", "attention.bias_out"),
    (r"attention\.output\.dense", "attention.out"),
    (r"layernorm_before", "attention_norm"),
    (r"layernorm_after", "mlp_norm"),
    (r"intermediate\.dense", "mlp_in"),
    (r"output\.dense", "mlp_out"),
)


def renamed(weights: Mapping[str, np.ndarray], names: tuple[tuple[str, str], ...] = NAMES) -> dict[str, np.ndarray]:
    """Returns torch's weights, of transformers' Swinv2Model if not of other `names`, by our names, such as
    `stages/0/1/attention/query/kernel`, in our layouts, float32."""
    found = {}
    for name, value in weights.items():
        if name.endswith(("relative_coords_table", "relative_position_index", "mask_token")):
            continue
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        stem, _, kind = name.rpartition(".")
        if kind == "weight":
            norm = stem.endswith("norm")
            kind = "scale" if norm else "kernel"
            value = value if norm else np.transpose(value, (2, 3, 1, 0) if value.ndim == 4 else (1, 0))
        elif kind == "log_scale":
            value = value.reshape(-1)
        found[f"{stem}.{kind}".replace(".", "/")] = np.asarray(value, np.float32)
    return found


def arguments(config: Any) -> dict[str, Any]:
    """Returns what makes `mer_jax.models.swin.SwinV2` the model of a transformers `Swinv2Config`. `pretrained` has of
    each stage the window that its position bias was trained with, which is smaller where the stage's grid is."""
    size = config.image_size if isinstance(config.image_size, int) else min(config.image_size)
    grids = [-(-size // (config.patch_size * 2**i)) for i in range(len(config.depths))]
    given = config.pretrained_window_sizes[: len(grids)]  # of four stages unless said otherwise
    pretrained = tuple(p or min(config.window_size, grid) for p, grid in zip(given, grids, strict=True))
    return {
        "patch": config.patch_size,
        "width": config.embed_dim,
        "depths": tuple(config.depths),
        "heads": tuple(config.num_heads),
        "window": config.window_size,
        "mlp": int(config.mlp_ratio),
        "pretrained": pretrained,
    }


def convert(name: str, out: Path, window: str = "") -> None:
    """Writes the weights of `name` to `out`; `window` is as in `swin_checkpoint.windows`. Raises UserError if `name` is
    no Swin V2 that ours can be, or `out` is there already."""
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out, or delete it first")
    if not out.parent.is_dir():
        raise UserError(f"--out={out}: the folder {out.parent} does not exist")
    path = Path(name)
    if path.is_file() or (path.suffix in swin_checkpoint.SUFFIXES and not path.is_dir()):
        weights, about = swin_checkpoint.read(path, window)
        arrays, source = renamed(weights, swin_checkpoint.NAMES), {"name": path.name, "sha256": sha256_of(path)}
    elif window:
        raise UserError(f"--window={window}: is for files alone; {name} says its windows in its config.json")
    else:
        arrays, about, source = from_transformers(name)
    pretrained_lib.write(out, arrays, {"arguments": about, "source": source})
    size = sum(array.size for array in arrays.values())
    given = " ".join(f"--config.backbone.{k}={format_flag_value(v)}" for k, v in about.items() if k != "pretrained")
    print(
        f"wrote {size:,} parameters of {name} to {out}; a run takes them with\n--config.backbone.weights={out} {given}"
    )


def from_transformers(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """Returns arrays, arguments of the model, and what it is."""
    found = pretrained.load("NAME", name, "", pretrained.Placement("cpu"))
    config = found.model.config
    if config.model_type != "swinv2":
        raise UserError(f"{name} is a {config.model_type}, not a swinv2")
    if int(config.mlp_ratio) != config.mlp_ratio:
        raise UserError(f"{name}: its mlp_ratio is {config.mlp_ratio}; only whole numbers can be taken over")
    wanted = {
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "use_absolute_embeddings": False,
        "num_channels": 3,
    }
    for field, value in wanted.items():
        if getattr(config, field) != value:
            raise UserError(f"{name}: its {field} is {getattr(config, field)!r}; only {value!r} can be taken over")
    arrays = renamed({key: value.float().numpy() for key, value in found.model.state_dict().items()})
    return arrays, {**arguments(config), "norm_first": False}, found.identity


def format_flag_value(value: Any) -> str:
    return f"'{value}'" if isinstance(value, tuple) else str(value)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.swin", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help="a Swin V2 of transformers, by hub name or local folder; or a file of its authors' release or of timm, "
        + ", ".join(swin_checkpoint.SUFFIXES),
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument(
        "--window",
        default="",
        metavar="W,W,…",
        help="of a file that lacks relative_coords_table, as timm's do: the window that the position bias of each "
        "stage was trained with, 16,16,16,8 for one of window 16 at 256 pixels; of one that was then fine-tuned "
        "with larger windows these are the earlier, and the larger is --config.backbone.window",
    )
    given = parser.parse_args(argv)
    with reported():
        convert(given.name, given.out, given.window)


if __name__ == "__main__":
    main()
