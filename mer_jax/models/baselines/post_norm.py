"""The Transformer's layer as its paper draws it (Vaswani et al. 2017, figure 1), which SDT and MISA build on."""

import einops
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.models.baselines.over_dialogues import softmax_over
from mer_jax.models.layers import Number, dropout, split_key, sweepable


class PostNormLayer(nnx.Module):
    """x + attention, norm, x + feed-forward network with ReLU, norm. Queries are of x, keys and values of a memory."""

    def __init__(self, width: int, heads: int, rate: Number, *, rngs: nnx.Rngs):
        self.heads, self.dropout = heads, sweepable(rate)
        self.query, self.key, self.value, self.out = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))
        self.mlp_in = nnx.Linear(width, 4 * width, rngs=rngs)
        self.mlp_out = nnx.Linear(4 * width, width, rngs=rngs)
        self.attention_norm, self.mlp_norm = (nnx.LayerNorm(width, rngs=rngs) for _ in range(2))

    def __call__(
        self,
        x: Float[Array, "batch places dim"],
        memory: Float[Array, "batch others dim"],
        heard: Bool[Array, "batch places others"],
        *,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch places dim"]:
        """heard: which places of the memory each place attends to; where it is none, attention gives zero."""
        first, second = split_key(key, 2)
        q, k, v = (
            einops.rearrange(y, "b t (h d) -> b h t d", h=self.heads)
            for y in (self.query(x), self.key(memory), self.value(memory))
        )
        score = jnp.einsum("bhtd,bhsd->bhts", q, k) * q.shape[-1] ** -0.5
        weight = softmax_over(score, jnp.broadcast_to(heard[:, None], score.shape))
        found = self.out(einops.rearrange(jnp.einsum("bhts,bhsd->bhtd", weight, v), "b h t d -> b t (h d)"))
        x = self.attention_norm(x + dropout(found, self.dropout, first))
        return self.mlp_norm(x + dropout(self.mlp_out(nnx.relu(self.mlp_in(x))), self.dropout, second))
