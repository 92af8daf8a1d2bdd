"""Swin Transformer V2 (Liu et al. 2022, arXiv 2111.09883) over images, with DeepMSI-MER's compression of tokens in a
stage.

All frames of a batch are one call: frames are the batch axis here. Tokens are kept as a grid [frames, height, width,
dim]."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.models import vsc
from mer_jax.models.layers import Number, at_least_float32, split_key, sweepable, torch_start, unit, value_of
from mer_jax.models.windows import into_windows, offsets, out_of_windows, pairs, tiling

HOTTEST = math.log(100)  # the most that a head multiplies its cosines with, as a logarithm
NO_PAIR, PUBLISHED_NO_PAIR = -1e9, -100.0


def small(published: bool) -> nnx.Initializer:
    """How kernels start: normal with deviation 0.02, cut off at two of these; not cut off as published, where timm cuts
    at 2 instead."""
    return nnx.initializers.normal(0.02) if published else nnx.initializers.truncated_normal(0.02)


def drop_path(x: Float[Array, "frames *rest"], rate: float, key: PRNGKeyArray | None) -> Float[Array, "frames *rest"]:
    """Stochastic depth (Huang et al. 2016): a frame's whole branch is left out with probability `rate`; `key` None
    keeps all."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, (len(x), *[1] * (x.ndim - 1)))
    return jnp.where(kept, x / (1 - rate), 0)


class WindowAttention(nnx.Module):
    """Cosine attention within windows (sections 3.2, 3.3): softmax of exp(min(scale, ln 100)) cos(q, k) + 16
    sigmoid(MLP(offset)). published: keys have a bias, too, offsets are scaled by the window's side, and from pairs that
    must not see each other 100 is taken."""

    def __init__(self, width: int, heads: int, *, published: bool = False, rngs: nnx.Rngs):
        start = small(published)
        self.heads, self.published = heads, published
        self.query = nnx.Linear(width, width, kernel_init=start, rngs=rngs)
        self.key = nnx.Linear(width, width, use_bias=published, kernel_init=start, rngs=rngs)
        self.value = nnx.Linear(width, width, kernel_init=start, rngs=rngs)
        self.out = nnx.Linear(width, width, kernel_init=start, rngs=rngs)
        self.log_scale = nnx.Param(jnp.full((heads,), math.log(10)))
        self.bias_in = nnx.Linear(2, 512, kernel_init=start, rngs=rngs)
        self.bias_out = nnx.Linear(512, heads, use_bias=False, kernel_init=start, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "all tokens dim"],
        window: tuple[int, int],
        mask: Bool[np.ndarray, "windows tokens tokens"] | None,
        pretrained: int,
    ) -> Float[Array, "all tokens dim"]:
        """x: the windows of all frames, one frame after the other; mask: of the windows of one frame."""
        q, k, v = (
            einops.rearrange(y, "w t (h d) -> w t h d", h=self.heads)
            for y in (self.query(x), self.key(x), self.value(x))
        )
        wide = at_least_float32(x)
        scale = jnp.exp(jnp.minimum(self.log_scale[...].astype(wide), HOTTEST))
        q = (unit(q.astype(wide)) * scale[None, None, :, None]).astype(x.dtype)
        k = unit(k.astype(wide)).astype(x.dtype)
        score = jnp.einsum("wqhd,wkhd->whqk", q, k, preferred_element_type=wide)
        score = score + self._bias(window, pretrained, x.dtype)[None]
        if mask is not None:
            seen = mask[None, :, None]
            score = einops.rearrange(score, "(n w) h q k -> n w h q k", w=len(mask))
            score = jnp.where(seen, score, score + PUBLISHED_NO_PAIR if self.published else NO_PAIR)
            score = einops.rearrange(score, "n w h q k -> (n w) h q k")
        mixed = jnp.einsum("whqk,wkhd->wqhd", jax.nn.softmax(score, axis=-1).astype(x.dtype), v)
        return self.out(einops.rearrange(mixed, "w q h d -> w q (h d)"))

    def _bias(self, window: tuple[int, int], pretrained: int, dtype: Any) -> Float[Array, "heads query key"]:
        every = offsets(window, pretrained, self.published)
        some, which = np.unique(every.reshape(-1, 2), axis=0, return_inverse=True)
        table = self.bias_out(nnx.relu(self.bias_in(jnp.asarray(some, dtype))))
        table = table.astype(at_least_float32(table))
        bias = table[which.reshape(every.shape[:2]).astype(np.int32)]
        return 16 * jax.nn.sigmoid(einops.rearrange(bias, "q k h -> h q k"))


class Compression(NamedTuple):
    """What VSC does in a block, and its numbers; see `vsc.compress`. side: of the square grid of kept tokens."""

    side: int
    threshold: float | Float[Array, ""]
    alpha: float | Float[Array, ""]


class Block(nnx.Module):
    """x + LN(attention(x)), then x + LN(MLP(x)): the norm is on the branch (res-post-norm, section 3.1). A block that
    compresses does so in between. published: that one starts from a = attention(x) alone, a + LN(a), and has one more
    norm behind VSC, without a way around it."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp: int,
        rate: float,
        *,
        published: bool = False,
        compresses: bool = False,
        rngs: nnx.Rngs,
    ):
        start = small(published)
        self.rate, self.published = rate, published
        self.attention = WindowAttention(width, heads, published=published, rngs=rngs)
        self.attention_norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)
        normed = published and compresses
        self.compression_norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs) if normed else None
        self.mlp_in = nnx.Linear(width, mlp * width, kernel_init=start, rngs=rngs)
        self.mlp_out = nnx.Linear(mlp * width, width, kernel_init=start, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "frames height width dim"],
        guide: Float[Array, "frames dim"] | None = None,
        *,
        window: int,
        shifted: bool,
        pretrained: int = 0,
        compression: Compression | None = None,
        published_shift_mask: bool = False,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "frames kept_height kept_width dim"], vsc.Kept | None]:
        """compression: VSC between attention and MLP, of a block that compresses. Returns what became of the tokens,
        too. published_shift_mask: every shifted window is masked as if it were the only one."""
        first, last, *between = split_key(key, 2 if self.compression_norm is None else 3)
        y, kept = self._attend(x, window, shifted, pretrained, published_shift_mask), None
        around = x if self.compression_norm is None else y
        y = around + drop_path(self.attention_norm(y), self.rate, first)
        if compression is not None:
            y, kept = compress_grid(y, guide, compression, self.published)
            if self.compression_norm is not None:
                y = drop_path(self.compression_norm(y), self.rate, between[0])
        return y + drop_path(self.mlp_norm(self._mlp(y)), self.rate, last), kept

    def _mlp(self, x: Array) -> Array:
        return self.mlp_out(nnx.gelu(self.mlp_in(x), approximate=False))

    def _attend(self, x: Array, window: int, shifted: bool, pretrained: int, published_shift_mask: bool) -> Array:
        grid = (x.shape[1], x.shape[2])
        tiles = tiling(grid, window, shifted, self.published)
        filled = [(0, w * n - side) for side, w, n in zip(grid, tiles.window, tiles.number, strict=True)]
        x = jnp.pad(x, ((0, 0), *filled, (0, 0)))
        x = jnp.roll(x, [-shift for shift in tiles.shift], (1, 2))
        mask = pairs(grid, tiles)
        if published_shift_mask and mask is not None:
            only = pairs(tiles.window, tiles._replace(number=(1, 1)))
            mask = None if only is None else np.repeat(only, math.prod(tiles.number), axis=0)
        y = self.attention(into_windows(x, tiles), tiles.window, mask, pretrained)
        y = jnp.roll(out_of_windows(y, tiles), tiles.shift, (1, 2))
        return y[:, : grid[0], : grid[1]]


def compress_grid(
    x: Float[Array, "frames height width dim"],
    guide: Float[Array, "frames dim"] | None,
    how: Compression,
    published: bool,
) -> tuple[Float[Array, "frames side side dim"], vsc.Kept]:
    """VSC of every frame's tokens, row by row, down to a square of side * side, in the order that they then have; and
    what became of each."""
    n, height, width, _ = x.shape
    tokens = x.reshape(n, height * width, -1)
    found = vsc.compress(
        tokens,
        jnp.ones(tokens.shape[:2], bool),
        guide,
        keep=how.side**2 / (height * width),
        threshold=how.threshold,
        alpha=how.alpha,
        published=published,
    )
    return found.tokens.reshape(n, how.side, how.side, -1), found.kept


class PatchMerging(nnx.Module):
    """2 x 2 tokens side by side become one of twice the width; the norm is after the product (Swin V2) or before it
    (V1, and DeepMSI-MER). An odd side is filled up with zeros."""

    def __init__(self, width: int, norm_first: bool, *, published: bool = False, rngs: nnx.Rngs):
        self.norm_first, start = norm_first, small(published)
        self.norm = nnx.LayerNorm(4 * width if norm_first else 2 * width, epsilon=1e-5, rngs=rngs)
        self.reduce = nnx.Linear(4 * width, 2 * width, use_bias=False, kernel_init=start, rngs=rngs)

    def __call__(
        self, x: Float[Array, "frames height width dim"]
    ) -> Float[Array, "frames half_height half_width 2*dim"]:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        x = einops.rearrange(x, "n (h i) (w j) d -> n h w (j i d)", i=2, j=2)
        return self.reduce(self.norm(x)) if self.norm_first else self.norm(self.reduce(x))


def layer_of(path: Sequence[str], depths: Sequence[int]) -> tuple[int, int]:
    """(stage, layer) of a variable of SwinV2 by its path: layers count from 0, the patches, which are of stage -1;
    every block is one; merging belongs to the block after it, the last norm to the last block."""
    if path[0] == "stages":
        stage, block = int(path[1]), int(path[2])
    elif path[0] == "merges":
        stage, block = int(path[1]) + 1, 0
    elif path[0] == "norm":
        stage, block = len(depths) - 1, depths[-1] - 1
    else:
        return -1, 0
    return stage, 1 + sum(depths[:stage]) + block


@dataclasses.dataclass(frozen=True)
class Architecture:
    """patch: pixels along a side of a patch. drop_path: rate of the last block, growing evenly from 0.
    pretrained_windows: per stage the window its weights were trained with, if another. norm_first: merging norms
    before the product. rematerialize: blocks are computed again in the backward pass. frames_per_group: so many frames
    are gone through together, one such group after the other, and again in the backward pass, with the memory of one
    group; 0 = all frames. Where several devices share the batch a group should divide by their number. frozen_stages:
    so many stages drop no path, those that do not learn. published: as DeepMSI-MER's official code computes it, see
    `WindowAttention`, `Block`, `vsc.compress`."""

    patch: int = 4
    width: int = 96
    depths: Sequence[int] = (2, 2, 6, 2)
    heads: Sequence[int] = (3, 6, 12, 24)
    window: int = 8
    mlp: int = 4
    drop_path: float = 0.2
    pretrained_windows: Sequence[int] = ()
    norm_first: bool = False
    rematerialize: bool = True
    frames_per_group: int = 0
    frozen_stages: int = 0
    published: bool = False


@dataclasses.dataclass(frozen=True)
class StageCompression:
    """VSC in the blocks 0, 2, 4 … of stage `stage` (from 0): the sides of the grids that it leaves; none = no VSC."""

    stage: int = 2
    grid_sides: Sequence[int] = ()
    threshold: Number = 0.6
    alpha: Number = 0.9


class SwinV2(nnx.Module):
    """Images -> tokens: [frames, height, width, 3] -> [frames, height / 2^(stages + 1), …, width * 2^(stages - 1)],
    normalised. Raises ValueError if a stage is to compress more often than it has pairs of blocks."""

    def __init__(
        self, architecture: Architecture, compression: StageCompression = StageCompression(), *, rngs: nnx.Rngs
    ):
        a, stage, depths = architecture, compression.stage, architecture.depths
        sides = tuple(compression.grid_sides)
        if sides and len(sides) > -(-depths[stage] // 2):
            raise ValueError(
                f"stage {stage} has {depths[stage]} blocks, every second of which may compress: not {len(sides)}"
            )
        self.window, self.pretrained_windows = a.window, tuple(a.pretrained_windows) or (0,) * len(depths)
        self.vsc_stage, self.vsc_grid_sides = stage, sides
        self.rematerialize, self.frames_per_group = a.rematerialize, a.frames_per_group
        self.threshold, self.alpha = sweepable(compression.threshold), sweepable(compression.alpha)
        self.published = a.published
        start = torch_start(3 * a.patch**2) if a.published else {}
        self.embed = nnx.Conv(3, a.width, (a.patch, a.patch), (a.patch, a.patch), padding="VALID", rngs=rngs, **start)
        self.embed_norm = nnx.LayerNorm(a.width, epsilon=1e-5, rngs=rngs)
        drops = np.arange(sum(depths)) >= sum(depths[: a.frozen_stages])
        rates = iter(np.linspace(0, a.drop_path, sum(depths)) * drops)
        widths = [a.width * 2**i for i in range(len(depths))]

        def block(i: int, j: int) -> Block:
            how = {"published": a.published, "compresses": self._side(i, j) > 0}
            return Block(widths[i], a.heads[i], a.mlp, float(next(rates)), **how, rngs=rngs)

        self.stages = nnx.List([nnx.List([block(i, j) for j in range(depth)]) for i, depth in enumerate(depths)])
        merges = [PatchMerging(w, a.norm_first, published=a.published, rngs=rngs) for w in widths[:-1]]
        self.merges = nnx.List(merges)
        self.norm = nnx.LayerNorm(widths[-1], epsilon=1e-5, rngs=rngs)
        self.width, self.guide_width = widths[-1], widths[stage] if sides else 0

    def __call__(
        self,
        images: Float[Array, "frames height width 3"],
        guide: Float[Array, "frames guide"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "frames tokens dim"]:
        return self.tokens_and_kept(images, guide, key=key)[0]

    def tokens_and_kept(
        self,
        images: Float[Array, "frames height width 3"],
        guide: Float[Array, "frames guide"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "frames tokens dim"], vsc.Kept | None]:
        """The tokens, and what became of those of VSC's stage, row by row (None without VSC)."""
        count = -(-len(images) // self.frames_per_group) if self.frames_per_group else 1
        if count == 1:
            return self._all(images, guide, key)

        def grouped(x: Array) -> Array:
            """Drawn through the frames, so that each group lies on all devices; filled up with the last frame."""
            x = jnp.pad(x, ((0, -len(x) % count), *[(0, 0)] * (x.ndim - 1)), mode="edge")
            return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

        groups = jax.tree.map(grouped, (images, guide))
        found = jax.lax.map(
            jax.checkpoint(lambda group: self._all(*group)),
            (*groups, None if key is None else jax.random.split(key, count)),
        )
        return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[: len(images)], found)

    def _all(self, images: Array, guide: Array | None, key: PRNGKeyArray | None) -> tuple[Array, vsc.Kept | None]:
        keys = iter(split_key(key, sum(map(len, self.stages))))
        x, kept = self.embed_norm(self.embed(images)), None
        for i, blocks in enumerate(self.stages):
            for j, block in enumerate(blocks):
                x, found = self._run(i, j, block, x, guide, next(keys))
                if found is not None:
                    kept = found if kept is None else kept.compose(found)
            if i < len(self.merges):
                x = self.merges[i](x)
        return self.norm(x.reshape(x.shape[0], -1, x.shape[-1])), kept

    def _side(self, stage: int, block: int) -> int:
        """Of the square grid that the block's VSC leaves; 0 for a block that does not compress."""
        compresses = stage == self.vsc_stage and block % 2 == 0 and block // 2 < len(self.vsc_grid_sides)
        return self.vsc_grid_sides[block // 2] if compresses else 0

    def _run(
        self, i: int, j: int, block: Block, x: Array, guide: Array | None, key: PRNGKeyArray | None
    ) -> tuple[Array, vsc.Kept | None]:
        compression = None
        if side := self._side(i, j):
            threshold, alpha = value_of(self.threshold, x.dtype), value_of(self.alpha, x.dtype)
            compression = Compression(side, threshold, alpha)

        def run(x: Array, guide: Array | None, key: PRNGKeyArray | None) -> tuple[Array, vsc.Kept | None]:
            return block(
                x,
                guide,
                window=self.window,
                shifted=j % 2 == 1,
                pretrained=self.pretrained_windows[i],
                compression=compression,
                published_shift_mask=self.published and i == self.vsc_stage and bool(self.vsc_grid_sides),
                key=key,
            )

        return (jax.checkpoint(run) if self.rematerialize else run)(x, guide if compression else None, key)
