"""Parts that several models share. Masks are True where something real is."""

from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mer_jax.models.recurrent import Directions

Number = float | int | Float[Array, ""]  # of the config: a constant of the program or, swept over replicas, an array


class SweptScalar(nnx.Variable):
    """A number of the config that differs between replicas: one more variable of the model, which no optimiser
    changes."""


def sweepable(value: Number) -> Any:
    """How a module keeps a number of the config: as it is, a constant of the program; or, swept, as a variable."""
    return SweptScalar(value) if isinstance(value, jax.Array) else value


def value_of(held: Any, dtype: Any) -> Any:
    """What `sweepable` kept, to compute with."""
    return held[...].astype(dtype) if isinstance(held, SweptScalar) else held


def is_off(number: Any) -> bool:
    """Whether a number of the config is a constant zero, so that what it weighs is left out of the program."""
    return isinstance(number, float | int) and number == 0


def torch_start(inputs: int) -> dict[str, Any]:
    """Initialisers of kernel and bias of a Dense layer or a convolution, as torch draws both if nobody says otherwise:
    evenly within 1 / sqrt(inputs), the number of inputs of one output."""
    bound = inputs**-0.5

    def draw(key: PRNGKeyArray, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {"kernel_init": draw, "bias_init": draw}


class BatchNorm(nnx.BatchNorm):
    """torch's: what it keeps for evaluation is the unbiased variance, that of a batch of B rows times B / (B - 1)."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        super().__init__(width, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def normalize(
        self, x: Float[Array, "batch feat"], real: Bool[Array, "batch"], *, training: bool
    ) -> Float[Array, "batch feat"]:
        """real: the rows that the statistics are of."""
        before, rows = self.momentum * self.var[...], real.sum(dtype=jnp.int32).astype(self.var[...].dtype)
        y = self(x, use_running_average=not training, mask=real[:, None])
        if training:
            self.var[...] = before + (self.var[...] - before) * (rows / jnp.maximum(rows - 1, 1))
        return y


def dropout(x: Float[Array, "*shape"], rate: Any, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Inverted dropout; `key` None leaves x as it is. rate: what `sweepable` kept."""
    if key is None or is_off(rate):
        return x
    kept = jax.random.bernoulli(key, 1 - value_of(rate, jnp.float32), x.shape)
    return jnp.where(kept, x / (1 - value_of(rate, x.dtype)), 0)


def split_key(key: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    """`count` keys out of one, or as many None."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def drop_steps(
    mask: dict[str, Bool[Array, "batch _"]], time_rate: float, modality_rate: float, key: PRNGKeyArray | None
) -> dict[str, Bool[Array, "batch _"]]:
    """Masks with something real hidden: each time step with probability `time_rate` (never all of a sequence), and with
    probability `modality_rate` one whole modality of a sample that has more than one. `key` None hides nothing."""
    if key is None or not (time_rate or modality_rate):
        return mask
    names = sorted(mask)
    *keys, which, whether = jax.random.split(key, len(names) + 2)
    out = {}
    for m, k in zip(names, keys, strict=True):
        kept = mask[m] & jax.random.bernoulli(k, 1 - time_rate, mask[m].shape)
        out[m] = jnp.where(kept.any(1, keepdims=True), kept, mask[m])
    present = jnp.stack([mask[m].any(1) for m in names], axis=1)
    chosen = jax.random.categorical(which, jnp.where(present, 0.0, -1e9))
    hide = jax.random.bernoulli(whether, modality_rate, present.shape[:1]) & (present.sum(1) > 1)
    return {m: out[m] & ~(hide & (chosen == i))[:, None] for i, m in enumerate(names)}


def unit(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """x scaled to length one along its last axis; a zero vector stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def at_least_float32(x: Array) -> Any:
    """The type in which numbers of the type of x are summed or compared."""
    return x.dtype if x.dtype == jnp.float64 else jnp.float32


@jax.custom_vjp
def product(x: Float[Array, "batch time feat"], kernel: Float[Array, "feat dim"]) -> Float[Array, "batch time dim"]:
    """x @ kernel. It and its gradients ask for sums in float32 at least and round them: XLA's CPU backend has fast
    kernels for bfloat16 products only in that form (twice as fast at 112 x 3072 x 1024)."""
    return jnp.einsum("btf,fd->btd", x, kernel, preferred_element_type=at_least_float32(x)).astype(x.dtype)


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel), (x, kernel)


def _product_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    by_x = jnp.einsum("btd,fd->btf", g, kernel, preferred_element_type=at_least_float32(x)).astype(x.dtype)
    by_kernel = jnp.einsum("btf,btd->fd", x, g, preferred_element_type=at_least_float32(x)).astype(kernel.dtype)
    return by_x, by_kernel


product.defvjp(_product_forward, _product_backward)


def masked_mean(x: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"]) -> Float[Array, "batch dim"]:
    """Mean over the real time steps; zero where there is none."""
    weight = mask.astype(x.dtype)
    total = jnp.einsum("btd,bt->bd", x, weight)
    return total / jnp.maximum(weight.sum(1, keepdims=True), 1)


def sinusoids(position: Int[Array, "*batch"], width: int) -> Float[Array, "*batch width"]:
    """Encodings of positions (Vaswani et al. 2017, section 3.5): of p in place 2i sin(p / 10000^(2i / width)), in
    2i + 1 the cosine."""
    rate = jnp.asarray(10000.0 ** (-np.arange(0, width, 2) / width), jnp.float32)
    angle = position.astype(jnp.float32)[..., None] * jnp.expand_dims(rate, range(position.ndim))
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(*position.shape, width)


def attention(
    query: Float[Array, "batch queries heads dim"],
    key: Float[Array, "batch time heads dim"],
    value: Float[Array, "batch time heads dim"],
    mask: Bool[Array, "batch time"] | Bool[Array, "batch queries time"],
) -> tuple[Float[Array, "batch queries heads dim"], Float[Array, "batch heads queries time"]]:
    """Scaled dot-product attention, softmax(q k / sqrt(dim)) v, over the real time steps, the same or other ones for
    every query, and its weights; both are zero where there is none."""
    score = jnp.einsum("bqhd,bthd->bhqt", query, key) * query.shape[-1] ** -0.5
    real = jnp.expand_dims(mask, (1, 2) if mask.ndim == 2 else 1)
    weight = jax.nn.softmax(jnp.where(real, score, jnp.finfo(score.dtype).min), axis=-1)
    weight = jnp.where(real, weight, 0)
    return jnp.einsum("bhqt,bthd->bqhd", weight, value), weight


class MultiHeadAttention(nnx.Module):
    """Attention with learned projections of query, key, value and output (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        self.query, self.key, self.value, self.out = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))

    def __call__(
        self,
        query: Float[Array, "batch queries dim"],
        memory: Float[Array, "batch time dim"],
        mask: Bool[Array, "batch time"] | Bool[Array, "batch queries time"],
    ) -> tuple[Float[Array, "batch queries dim"], Float[Array, "batch heads queries time"]]:
        """The result, and the weights of the time steps."""
        q, k, v = (
            einops.rearrange(x, "b t (h d) -> b t h d", h=self.heads)
            for x in (self.query(query), self.key(memory), self.value(memory))
        )
        found, weight = attention(q, k, v, mask)
        return self.out(einops.rearrange(found, "b q h d -> b q (h d)")), weight


class TransformerLayer(nnx.Module):
    """One pre-LN Transformer encoder layer (Xiong et al. 2020): attention, then a GELU network four times as wide."""

    def __init__(self, width: int, heads: int, dropout: Number, *, rngs: nnx.Rngs):
        self.dropout = sweepable(dropout)
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = MultiHeadAttention(width, heads, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.mlp_in = nnx.Linear(width, 4 * width, rngs=rngs)
        self.mlp_out = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch time dim"]:
        first, second = split_key(key, 2)
        y = self.attention_norm(x)
        x = x + dropout(self.attention(y, y, mask)[0], self.dropout, first)
        y = self.mlp_out(nnx.gelu(self.mlp_in(self.mlp_norm(x))))
        return x + dropout(y, self.dropout, second)


class BiGRU(Directions):
    """Bidirectional GRU (Cho et al. 2014) over time steps, half of `width` in each direction, and dropout; padding
    passes the state through."""

    def __init__(self, width: int, dropout: Number, *, rngs: nnx.Rngs):
        super().__init__(width, width, kind="gru", ahead=True, rngs=rngs)
        self.dropout = sweepable(dropout)

    def __call__(
        self, x: Float[Array, "batch time dim"], mask: Bool[Array, "batch time"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch time dim"]:
        return dropout(self.states(x, mask), self.dropout, key)
