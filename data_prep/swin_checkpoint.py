"""Swin V2 in one file, as its authors' release has it (and timm): the sizes of the model are read off the arrays."""

import pickle
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
# A part of a name in such a file, its query, key and value apart -> ours, in this order.
NAMES = (
    (r"^patch_embed\.proj", "embed"),
    (r"^patch_embed\.norm", "embed_norm"),
    (r"^layers\.(\d+)\.downsample\.reduction", r"merges.\1.reduce"),
    (r"^layers\.(\d+)\.downsample\.norm", r"merges.\1.norm"),
    (r"^layers\.(\d+)\.blocks\.(\d+)", r"stages.\1.\2"),
    (r"\.attn\.logit_scale", ".attention.log_scale"),
    (r"\.attn\.cpb_mlp\.0", ".attention.bias_in"),
    (r"\.attn\.cpb_mlp\.2", ".attention.bias_out"),
    (r"\.attn\.proj", ".attention.out"),
    (r"\.attn\.", ".attention."),
    (r"\.norm1", ".attention_norm"),
    (r"\.norm2", ".mlp_norm"),
    (r"\.mlp\.fc1", ".mlp_in"),
    (r"\.mlp\.fc2", ".mlp_out"),
)
# Of the classifier, or computed from sizes.
UNUSED = re.compile(r"^head\.|\.(relative_coords_table|relative_position_index|attn_mask)$")

# torch's reader may raise these over bytes that were changed.
BROKEN = (
    OSError,
    EOFError,
    MemoryError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    struct.error,
)


def read(path: Path, window: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays by the names that NAMES begins with, and the arguments of `mer_jax.models.swin.SwinV2`;
    `window` is as in `windows`. Raises UserError if the file holds no whole Swin V2 that ours can be."""
    every = loaded(path)
    refuse_kin(path, every)
    if "layers.0.downsample.reduction.weight" not in every:  # timm: a stage begins with it
        every = {re.sub(r"^layers\.(\d+)(?=\.downsample)", one_earlier, name): x for name, x in every.items()}
    arrays = {name: array for name, array in every.items() if not UNUSED.search(name)}
    arguments = sizes(path, arrays)
    wanted = dict(shapes(**arguments))
    for name in sorted(arrays.keys() | wanted.keys()):
        if name not in wanted:
            raise UserError(f"{path}: {name} has no place in a Swin V2 as ours, of depths {arguments['depths']}")
        if name not in arrays or arrays[name].shape != wanted[name]:
            found = f"has shape {arrays[name].shape}" if name in arrays else "is missing"
            raise UserError(f"{path}: {name} {found}; with this width, depths and heads it has {wanted[name]}")
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{path}: {name} holds values that are no finite numbers")
    trained = windows(path, every, len(arguments["depths"]), window)
    return dict(apart(arrays)), arguments | {"window": max(trained[1]), "pretrained": trained[0], "norm_first": False}


def one_earlier(stage: re.Match[str]) -> str:
    return f"layers.{int(stage[1]) - 1}"


def loaded(path: Path) -> dict[str, np.ndarray]:
    """Returns all arrays of the file, in float32; nothing of it is run."""
    try:
        import safetensors.torch
        import torch
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[prep]'") from None
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: weights are in a {', '.join(SUFFIXES)} file, or in a folder of transformers")
    found: Any
    try:
        if path.suffix == ".safetensors":
            found = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} holds more than arrays: it asks for {asked[1]}, and nothing of it is run. "
                "Where you trust it, load it and save its state dict alone, as {'model': …}"
            ) from None
        raise UserError(f"{path} is no file that torch saved, or damaged") from None
    except (*BROKEN, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path} is damaged, or no {path.suffix} file ({(str(error).splitlines() or [''])[0]})"
        ) from None
    for key in ("model", "state_dict"):
        found = found.get(key, found) if isinstance(found, dict) else found
    named = isinstance(found, dict) and all(
        isinstance(k, str) and isinstance(x, torch.Tensor) for k, x in found.items()
    )
    if not named or not found:
        raise UserError(
            f"{path} holds no state dict: it would be one of arrays by name, "
            "alone or as {'model': …} or {'state_dict': …}"
        )
    return {name: array.float().numpy() for name, array in found.items()}


def refuse_kin(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises UserError for weights of which it can be told whose they are."""
    if any(name.endswith("relative_position_bias_table") for name in arrays):
        raise UserError(
            f"{path} is a Swin V1: it has relative_position_bias_table where a Swin V2 has cpb_mlp; take a Swin V2"
        )
    if any("embeddings.patch_embeddings." in name for name in arrays):
        raise UserError(
            f"{path} holds transformers' names; give the folder that it is in, with its config.json, and not the file"
        )


def sizes(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    def first(name: str, sides: int) -> np.ndarray:
        if name not in arrays or arrays[name].ndim != sides:
            raise UserError(
                f"{path} holds no Swin V2: it has no {name} of {sides} axes, but {', '.join([*arrays][:3])} …"
            )
        return arrays[name]

    width, _, _, patch = first("patch_embed.proj.weight", 4).shape
    blocks = (re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name) for name in arrays)
    places = {tuple(map(int, found.groups())) for found in blocks if found}
    count = 1 + max((stage for stage, _ in places), default=0)
    depths = tuple(sum(stage == i for stage, _ in places) for i in range(count))
    heads = tuple(len(first(f"layers.{i}.blocks.0.attn.logit_scale", 3)) for i in range(count))
    for i, number in enumerate(heads):
        if not number or width * 2**i % number:
            raise UserError(f"{path}: layers.{i} has {number} heads, which do not divide its width {width * 2**i}")
    hidden = len(first("layers.0.blocks.0.mlp.fc1.weight", 2))
    if hidden % width:
        raise UserError(f"{path}: its mlp_ratio is {hidden / width:.3g}; only whole numbers can be taken over")
    return {"patch": patch, "width": width, "depths": depths, "heads": heads, "mlp": hidden // width}


def shapes(
    patch: int, width: int, depths: tuple[int, ...], heads: tuple[int, ...], mlp: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the shape of every array of such a file, by name."""

    def layer(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]

    yield from layer("patch_embed.proj", width, 3, patch, patch)
    yield from layer("patch_embed.norm", width)
    for i, (depth, number) in enumerate(zip(depths, heads, strict=True)):
        w = width * 2**i
        for j in range(depth):
            at = f"layers.{i}.blocks.{j}"
            yield f"{at}.attn.qkv.weight", (3 * w, w)
            yield f"{at}.attn.q_bias", (w,)
            yield f"{at}.attn.v_bias", (w,)
            yield f"{at}.attn.logit_scale", (number, 1, 1)
            yield from layer(f"{at}.attn.cpb_mlp.0", 512, 2)
            yield f"{at}.attn.cpb_mlp.2.weight", (number, 512)
            yield from layer(f"{at}.attn.proj", w, w)
            yield from layer(f"{at}.norm1", w)
            yield from layer(f"{at}.mlp.fc1", mlp * w, w)
            yield from layer(f"{at}.mlp.fc2", w, mlp * w)
            yield from layer(f"{at}.norm2", w)
        if i < len(depths) - 1:
            yield f"layers.{i}.downsample.reduction.weight", (2 * w, 4 * w)
            yield from layer(f"layers.{i}.downsample.norm", 2 * w)
    yield from layer("norm", w)


def windows(path: Path, arrays: Mapping[str, np.ndarray], count: int, given: str) -> tuple[tuple[int, ...], list[int]]:
    """Returns of each stage the window that its position bias was trained with, and the one that it has. They are the
    same where they are `given`, one number for each stage; else the tables of offsets tell them."""
    tables = [arrays.get(f"layers.{i}.blocks.0.attn.relative_coords_table") for i in range(count)]
    if given:
        if any(table is not None for table in tables):
            raise UserError(f"--window={given}: {path} says its windows itself; leave the option out")
        if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", given) or given.count(",") != count - 1:
            raise UserError(
                f"--window={given}: must be a window for each of the {count} stages, "
                f"as in --window={','.join('8' * count)}"
            )
        found = [int(number) for number in given.split(",")]
        return tuple(found), found
    for i, table in enumerate(tables):
        name = f"layers.{i}.blocks.0.attn.relative_coords_table"
        if table is None:
            raise UserError(
                f"{path} has no {name}, which tells the stage's window; "
                f"say of all {count} stages with what window their position bias was trained, "
                f"as in --window={','.join('8' * count)}: smaller where the stage's grid was, as in 16,16,16,8"
            )
        length = table.shape[1] if table.ndim == 4 else 0
        if length % 2 == 0 or table.shape != (1, length, length, 2) or not (0 < table.max() < 9 or length == 1):
            raise UserError(f"{path}: {name}, of shape {table.shape}, is no table of the offsets in a square window")
    sides = [(len(table[0]) + 1) // 2 for table in tables if table is not None]
    return tuple(
        trained(side, table.max()) for side, table in zip(sides, tables, strict=True) if table is not None
    ), sides


def trained(side: int, most: float) -> int:
    """Returns the window whose largest offset became 8, of one whose largest became such that log2(1 + it) / 3 is
    `most`."""
    return side if side == 1 else 1 + round(8 * (side - 1) / (2 ** (3 * float(most)) - 1))


def apart(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields query, key and value, which lie one above the other, apart; a key has no bias."""
    for name, array in arrays.items():
        stem, _, kind = name.rpartition(".")
        if name.endswith("attn.qkv.weight"):
            for part, rows in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                yield f"{stem.removesuffix('qkv')}{part}.weight", rows
        elif kind in ("q_bias", "v_bias"):
            yield f"{stem}.{'query' if kind == 'q_bias' else 'value'}.bias", array
        else:
            yield name, array
