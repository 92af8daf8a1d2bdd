"""Visual sequence compression of DeepMSI-MER (arXiv 2502.08573): keep the tokens that agree with a guide, merge the
others into them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mer_jax.models.layers import at_least_float32, masked_mean, unit


class Kept(NamedTuple):
    """place: where each kept token stood, the input's length where there is none; into: which of the kept tokens each
    token is, or was merged into (most of it), their number where it was dropped."""

    place: Int[Array, "*batch kept"]
    into: Int[Array, "*batch length"]

    def compose(self, later: "Kept") -> "Kept":
        """Of two compressions, one after the other."""
        none = jnp.full((*later.into.shape[:-1], 1), later.place.shape[-1], later.into.dtype)
        into = jnp.take_along_axis(jnp.concatenate([later.into, none], -1), self.into, axis=-1)
        return Kept(jnp.take_along_axis(self.place, later.place, axis=-1), into)


class Compressed(NamedTuple):
    """tokens: those that are left; mask: which of them are real; kept: see `Kept`."""

    tokens: Float[Array, "batch kept dim"]
    mask: Bool[Array, "batch kept"]
    kept: Kept


def guided_scores(
    x: Float[Array, "batch length dim"], mask: Bool[Array, "batch length"], guide: Float[Array, "batch dim"] | None
) -> Float[Array, "batch length"]:
    """softmax over the real tokens of cos(mean of the tokens + guide, token); zero for padding."""
    x = x.astype(at_least_float32(x))  # in bfloat16 similar frames would tie
    centre = masked_mean(x, mask)
    cosine = jnp.einsum("bld,bd->bl", unit(x), unit(centre if guide is None else centre + guide.astype(x.dtype)))
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, cosine, -1e9), axis=-1), 0)


def kept_count(mask: Bool[Array, "batch length"], keep: float) -> Int[Array, "batch"]:
    """How many of its real tokens each sample keeps: the share `keep`, rounded up."""
    return jnp.ceil(keep * mask.sum(1, dtype=jnp.int32).astype(jnp.float32) - 1e-4).astype(jnp.int32)


def compress(
    x: Float[Array, "batch length dim"],
    mask: Bool[Array, "batch length"],
    guide: Float[Array, "batch dim"] | None,
    *,
    keep: float,
    threshold: float | Float[Array, ""],
    alpha: float | Float[Array, ""],
    published: bool,
) -> Compressed:
    """VSC. `published`: the kept tokens as they are, in order of score, and no gradient to the scores, which is all
    that the official code amounts to. Otherwise kept tokens stay in their order in time, tokens similar to one of them
    are merged into it (`merge`), and the scores are differentiable: each kept token is multiplied by 1, with the
    gradient of its score."""
    length = x.shape[1]
    score = guided_scores(x, mask, guide)
    most = max(1, math.ceil(keep * length - 1e-4))
    order = jax.lax.top_k(jnp.where(mask, score, -1.0), most)[1].astype(jnp.int32)
    real = jnp.arange(most, dtype=jnp.int32)[None] < kept_count(mask, keep)[:, None]
    place = jnp.where(real, order, length)
    if not published:
        place = jnp.sort(place, axis=1)
    chosen = jax.nn.one_hot(place, length, dtype=x.dtype)  # an exact product: its gradient needs no scatter
    kept = jnp.einsum("bkl,bld->bkd", chosen, x, precision="highest")
    itself = jnp.argmax(chosen, axis=1).astype(jnp.int32)
    is_kept = chosen.sum(1) > 0
    if published:
        return Compressed(kept, real, Kept(place, jnp.where(is_kept, itself, most)))
    kept, into = merge(kept, real, x, mask & ~is_kept, threshold=threshold, alpha=alpha)
    into = jnp.where(is_kept, itself, into)
    score = jnp.einsum("bkl,bl->bk", chosen.astype(score.dtype), score, precision="highest")
    weight = (1 + score - jax.lax.stop_gradient(score)).astype(kept.dtype)
    return Compressed(kept * weight[..., None], real, Kept(place, into))


def merge(
    kept: Float[Array, "batch kept dim"],
    real: Bool[Array, "batch kept"],
    x: Float[Array, "batch length dim"],
    dropped: Bool[Array, "batch length"],
    *,
    threshold: float | Float[Array, ""],
    alpha: float | Float[Array, ""],
) -> tuple[Float[Array, "batch kept dim"], Int[Array, "batch length"]]:
    """R_j <- alpha R_j + (1 - alpha) sum_i theta_ij N_i / sum_i theta_ij over the dropped tokens N_i with cos(N_i,
    R_j) > threshold, theta_i the softmax of that cosine over the kept tokens; R_j stays where there is none. Besides,
    where most of each N_i went; the number of kept tokens if nowhere."""
    cosine = jnp.einsum("bld,bkd->blk", unit(x), unit(kept))
    theta = jax.nn.softmax(jnp.where(real[:, None], cosine, -1e9), axis=-1)
    theta = jnp.where((cosine > threshold) & dropped[..., None] & real[:, None], theta, 0)
    total = theta.sum(1)[..., None]
    mean = jnp.einsum("blk,bld->bkd", theta, x) / jnp.where(total > 0, total, 1)
    into = jnp.where(theta.any(-1), jnp.argmax(theta, axis=-1), kept.shape[1]).astype(jnp.int32)
    return jnp.where(total > 0, alpha * kept + (1 - alpha) * mean, kept), into
