"""Weights of a public Swin V2 checkpoint -> the names and layouts of mer_jax.models.swin."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

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


def renamed(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers' Swinv2Model weights by our names (`stages/0/1/attention/query/kernel`), in our layouts, float32."""
    found = {}
    for name, value in weights.items():
        if name.endswith(("relative_coords_table", "relative_position_index", "mask_token")):
            continue
        for pattern, replacement in NAMES:
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
    """What makes `mer_jax.models.swin.SwinV2` the model of a transformers `Swinv2Config`."""
    return {
        "patch": config.patch_size, "width": config.embed_dim, "depths": tuple(config.depths), "heads": tuple(config.num_heads),
        "window": config.window_size, "mlp": int(config.mlp_ratio), "pretrained": tuple(config.pretrained_window_sizes),
    }  # fmt: skip
