"""Fully connected parts of DeepMSI-MER (arXiv 2502.08573): early fusion, blocks of late fusion, projection heads."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.models.layers import BatchNorm, Number, dropout, sweepable, torch_start


def dense(inputs: int, outputs: int, *, published: bool, rngs: nnx.Rngs) -> nnx.Linear:
    """A Dense layer; as published with torch's initial values."""
    return nnx.Linear(inputs, outputs, rngs=rngs, **(torch_start(inputs) if published else {}))


class MLPBlock(nnx.Module):
    """Dense, norm, LeakyReLU(0.01), dropout; the norm is BatchNorm as published, else LayerNorm."""

    def __init__(self, inputs: int, outputs: int, rate: Number, *, published: bool, rngs: nnx.Rngs):
        self.rate, self.published = sweepable(rate), published
        self.dense = dense(inputs, outputs, published=published, rngs=rngs)
        self.norm: Any = BatchNorm(outputs, rngs=rngs) if published else nnx.LayerNorm(outputs, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch feat"], real: Bool[Array, "batch"], *, key: PRNGKeyArray | None
    ) -> Float[Array, "batch dim"]:
        """real: the rows that BatchNorm's statistics are of."""
        x = self.dense(x)
        x = self.norm.normalize(x, real, training=key is not None) if self.published else self.norm(x)
        return dropout(nnx.leaky_relu(x, 0.01), self.rate, key)


class EarlyFusion(nnx.Module):
    """Pooled text and audio -> the guide t_cls, as wide as a visual token."""

    def __init__(self, inputs: int, hidden: int, outputs: int, rate: Number, *, published: bool, rngs: nnx.Rngs):
        self.hidden = MLPBlock(inputs, hidden, rate, published=published, rngs=rngs)
        self.out = dense(hidden, outputs, published=published, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch feat"], real: Bool[Array, "batch"], *, key: PRNGKeyArray | None
    ) -> Float[Array, "batch dim"]:
        return self.out(self.hidden(x, real, key=key))


class ProjectionHead(nnx.Module):
    """p = W x; LayerNorm(p + dropout(W2 GELU(p)))"""

    def __init__(self, inputs: int, outputs: int, rate: Number, *, published: bool, rngs: nnx.Rngs):
        self.rate = sweepable(rate)
        self.project = dense(inputs, outputs, published=published, rngs=rngs)
        self.mix = dense(outputs, outputs, published=published, rngs=rngs)
        self.norm = nnx.LayerNorm(outputs, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "batch feat"], *, key: PRNGKeyArray | None) -> Float[Array, "batch dim"]:
        p = self.project(x)
        return self.norm(p + dropout(self.mix(nnx.gelu(p, approximate=False)), self.rate, key))
