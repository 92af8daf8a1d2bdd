"""The Transformer's layer as its paper draws it (Vaswani et al. 2017, figure 1), which SDT and MISA build on."""

from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.models.layers import MultiHeadAttention, Number, dropout, split_key, sweepable


class PostNormLayer(nnx.Module):
    """x + attention, norm, x + feed-forward network with ReLU, norm. Queries are of x, keys and values of a memory."""

    def __init__(self, width: int, heads: int, rate: Number, *, rngs: nnx.Rngs):
        self.dropout = sweepable(rate)
        self.attention = MultiHeadAttention(width, heads, rngs=rngs)
        self.mlp_in = nnx.Linear(width, 4 * width, rngs=rngs)
        self.mlp_out = nnx.Linear(4 * width, width, rngs=rngs)
        self.attention_norm, self.mlp_norm = (nnx.LayerNorm(width, rngs=rngs) for _ in range(2))

    def __call__(
        self,
        x: Float[Array, "batch places dim"],
        memory: Float[Array, "batch others dim"],
        heard: Bool[Array, "batch others"] | Bool[Array, "batch places others"],
        *,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch places dim"]:
        """heard: which places of the memory are attended to, by all or by each place; where it is none, attention gives
        zero."""
        first, second = split_key(key, 2)
        x = self.attention_norm(x + dropout(self.attention(x, memory, heard)[0], self.dropout, first))
        return self.mlp_norm(x + dropout(self.mlp_out(nnx.relu(self.mlp_in(x))), self.dropout, second))
