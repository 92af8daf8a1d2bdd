"""Windows of a grid of tokens: how it is cut, who sees whom in each, and how far apart they are. NumPy alone, but what
is cut may be a JAX array."""

from typing import Any, NamedTuple

import einops
import numpy as np
from jaxtyping import Bool, Float


class Tiling(NamedTuple):
    """How a grid [height, width] is cut into windows: their size, how many, and by how much it is rolled before."""

    window: tuple[int, int]
    number: tuple[int, int]
    shift: tuple[int, int]


def tiling(grid: tuple[int, int], window: int, shifted: bool, published: bool = False) -> Tiling:
    """As few windows as are not larger than `window`, as even as can be; `shifted` by half a window where there are
    several. published: by half of `window`, however large they are.

    A grid that they do not divide is filled up with tokens that nothing attends to. transformers (and timm) keep
    `window` there and fill up with zeros that are attended to: where `window` does not divide a larger grid, features
    are not theirs."""
    count = tuple(-(-side // window) for side in grid)
    size = tuple(-(-side // n) for side, n in zip(grid, count, strict=True))
    shift = tuple(
        (window if published else w) // 2 if shifted and n > 1 else 0 for w, n in zip(size, count, strict=True)
    )
    return Tiling(size, count, shift)  # type: ignore[arg-type]


def pairs(grid: tuple[int, int], tiles: Tiling) -> Bool[np.ndarray, "windows query key"] | None:
    """Which tokens of each window may see each other: those that were neighbours before the grid was rolled; None if
    all."""
    region: Any = 0
    for axis, (side, window, count, shift) in enumerate(zip(grid, *tiles, strict=True)):
        size = window * count
        at = np.arange(size)
        part = (at >= size - window).astype(int) + (at >= size - shift) if shift else np.zeros(size, int)
        part[(at + shift) % size >= side] = 3  # filled up
        region = 4 * region + np.expand_dims(part, 1 - axis)
    found = into_windows(np.asarray(region)[None, ..., None], tiles)[..., 0]
    same = found[:, :, None] == found[:, None]
    return None if same.all() else same


def into_windows(x: Any, tiles: Tiling) -> Any:
    """[frames, height, width, dim] -> [frames * windows, tokens of a window, dim]"""
    (i, j), (r, c), _ = tiles
    return einops.rearrange(x, "n (r i) (c j) d -> (n r c) (i j) d", i=i, j=j, r=r, c=c)


def out_of_windows(x: Any, tiles: Tiling) -> Any:
    (i, j), (r, c), _ = tiles
    return einops.rearrange(x, "(n r c) (i j) d -> n (r i) (c j) d", i=i, j=j, r=r, c=c)


def offsets(window: tuple[int, int], pretrained: int = 0, published: bool = False) -> Float[np.ndarray, "query key 2"]:
    """Of every pair of a window's tokens, query minus key in rows and columns, on a log scale: sign(d) log2(1 + |d|) /
    3 with d scaled so that the largest is 8 (section 3.3).

    pretrained: the window that the weights were trained with, if that was another: its largest offset is then what is
    8. published: the largest is not 8 but the window's side."""
    rows, columns = np.meshgrid(*map(np.arange, window), indexing="ij")
    place = np.stack([rows, columns], -1).reshape(-1, 2)
    most = [max(1, (pretrained or side) - 1) for side in window]
    d = (np.array(window) if published else 8.0) * (place[:, None] - place[None]) / np.array(most)
    return np.sign(d) * np.log2(np.abs(d) + 1) / 3
