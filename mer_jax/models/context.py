"""Hearing a conversation: an utterance's feature becomes one that knows the other turns of its dialogue. All of it is
ours, after the transformers, recurrent networks and speaker masks of the field (DialogueRNN, arXiv 1811.00405; SDT,
arXiv 2310.20494); any family puts a `Context` between its fused feature and its classification."""

from collections.abc import Callable
from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mer_jax.config import Experiment
from mer_jax.data.batch import NextTurn
from mer_jax.models.conversation import DialogueNetwork, Grid
from mer_jax.models.layers import dropout, split_key, sweepable
from mer_jax.models.recurrent import Directions, gru
from mer_jax.settings import ContextSettings

SPEAKERS = 16  # embeddings of speakers; those with higher numbers share the last one


class TurnAttention(nnx.Module):
    """One pre-LN Transformer layer over turns. A learnt bias of each head says how near a turn is; those farther than
    `span` are not heard, nor those after it unless `ahead`. by_speaker: of three heads one hears everybody, one the
    same speaker, one the others."""

    def __init__(self, width: int, settings: ContextSettings, *, ahead: bool, rngs: nnx.Rngs):
        self.heads, self.span, self.ahead = settings.heads, settings.span, ahead
        self.by_speaker, self.dropout = settings.kind == "speakers", sweepable(settings.dropout)
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.query, self.key, self.value, self.out = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))
        self.distance = nnx.Param(jnp.zeros((settings.heads, 2 * settings.span + 1 if ahead else settings.span + 1)))
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.mlp_in = nnx.Linear(width, 4 * width, rngs=rngs)
        self.mlp_out = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "lines turns dim"], grid: Grid, *, key: PRNGKeyArray | None
    ) -> Float[Array, "lines turns dim"]:
        turns = jnp.arange(x.shape[1], dtype=jnp.int32)
        back = turns[:, None] - turns[None]  # how many turns before a turn the other one is
        near = (back <= self.span) & (back >= (-self.span if self.ahead else 0))
        heard = near[None] & (grid.dialogue[:, :, None] == grid.dialogue[:, None])
        q, k, v = self._projected(x)
        allowed = self._heard_by_head(heard, grid.speaker[:, :, None], grid.speaker[:, None], back == 0)
        return self._finish(x, self._attend(q, k, v, back, allowed), key)

    def step(self, x: Float[Array, "1 dim"], speaker: Int[Array, "1"], memory: Any) -> tuple[Array, Any]:
        """The next turn, and what is remembered after it: `span` turns, the last one at the end."""
        q, k, v = self._projected(x[:, None])
        speakers = jnp.concatenate([memory["speaker"], speaker])
        keys, values = jnp.concatenate([memory["key"], k[0]]), jnp.concatenate([memory["value"], v[0]])
        heard = jnp.concatenate([memory["heard"], jnp.ones(1, bool)])
        back = jnp.arange(self.span, -1, -1, dtype=jnp.int32)[None]
        allowed = self._heard_by_head(heard[None, None], speaker[None, :, None], speakers[None, None], back == 0)
        found = self._attend(q, keys[None], values[None], back, allowed)
        kept = {"key": keys, "value": values, "speaker": speakers, "heard": heard}
        return self._finish(x[:, None], found, None)[:, 0], {name: value[1:] for name, value in kept.items()}

    def nothing(self, x: Array) -> dict[str, Any]:
        """What is remembered before the first turn."""
        past = jnp.zeros((self.span, self.heads, self.query.out_features // self.heads), x.dtype)
        unheard = jnp.zeros(self.span, bool)
        return {"key": past, "value": past, "speaker": jnp.zeros(self.span, jnp.int32), "heard": unheard}

    def _projected(self, x: Array) -> tuple[Array, Array, Array]:
        y = self.attention_norm(x)
        q, k, v = (
            einops.rearrange(of(y), "l t (h d) -> l t h d", h=self.heads) for of in (self.query, self.key, self.value)
        )
        return q, k, v

    def _heard_by_head(
        self, heard: Array, speaker: Array, other: Array, itself: Array
    ) -> Bool[Array, "lines heads q k"]:
        if not self.by_speaker:
            return heard[:, None]
        same = (speaker == other) & (speaker > 0) | itself[None]
        masks = (heard, heard & same, heard & (~same | itself[None]))
        return jnp.stack([masks[head % 3] for head in range(self.heads)], axis=1)

    def _attend(self, q: Array, k: Array, v: Array, back: Array, allowed: Array) -> Array:
        score = jnp.einsum("lqhd,lkhd->lhqk", q, k) * q.shape[-1] ** -0.5
        at = jnp.clip(back, -self.span if self.ahead else 0, self.span) + (self.span if self.ahead else 0)
        score = score + self.distance[...].astype(score.dtype)[:, at][None]
        weight = jax.nn.softmax(jnp.where(allowed, score, jnp.finfo(score.dtype).min), axis=-1)
        return self.out(einops.rearrange(jnp.einsum("lhqk,lkhd->lqhd", weight, v), "l q h d -> l q (h d)"))

    def _finish(self, x: Array, found: Array, key: PRNGKeyArray | None) -> Array:
        first, second = split_key(key, 2)
        x = x + dropout(found, self.dropout, first)
        y = self.mlp_out(nnx.gelu(self.mlp_in(self.mlp_norm(x))))
        return x + dropout(y, self.dropout, second)


class TurnGRU(Directions):
    """A GRU (Cho et al. 2014) over turns with a residual connection, and one in the other direction if `ahead`; its
    state is zero where a dialogue begins."""

    def __init__(self, width: int, settings: ContextSettings, *, ahead: bool, rngs: nnx.Rngs):
        self.dropout = sweepable(settings.dropout)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        super().__init__(width, width, kind="gru", ahead=ahead, rngs=rngs)

    def __call__(
        self, x: Float[Array, "lines turns dim"], grid: Grid, *, key: PRNGKeyArray | None
    ) -> Float[Array, "lines turns dim"]:
        return x + dropout(self.states(self.norm(x), grid.dialogue), self.dropout, key)

    def step(self, x: Float[Array, "1 dim"], speaker: Int[Array, "1"], memory: Any) -> tuple[Array, Any]:
        """The next turn, and the state after it."""
        state = gru(self.recurrent[0], memory["state"], self.inputs[0](self.norm(x)))
        return x + state, {"state": state}

    def nothing(self, x: Array) -> dict[str, Any]:
        """The state before the first turn."""
        return {"state": jnp.zeros((1, self.size), x.dtype)}


class Context(DialogueNetwork):
    """Features of utterances [batch, dim] -> the same, in knowledge of the turns before them and, if it hears `both`,
    after them."""

    def __init__(self, settings: ContextSettings, hears: str, dim: int, *, rngs: nnx.Rngs):
        self.alone, self.dropout, self.width = settings.alone, sweepable(settings.dropout), settings.width
        self.keys = settings.layers
        self.enter = nnx.Linear(dim, settings.width, rngs=rngs)
        self.speakers = nnx.Param(0.02 * jax.random.normal(rngs.params(), (SPEAKERS, settings.width)))
        layer = TurnGRU if settings.kind == "gru" else TurnAttention
        ahead = hears == "both"
        self.layers = nnx.List(
            [layer(settings.width, settings, ahead=ahead, rngs=rngs) for _ in range(settings.layers)]
        )
        self.norm = nnx.LayerNorm(settings.width, rngs=rngs)
        self.leave = nnx.Linear(settings.width, dim, rngs=rngs)
        self.leave_norm = nnx.LayerNorm(dim, rngs=rngs)

    def over_turns(
        self, x: Float[Array, "lines turns dim"], grid: Grid, keys: list[PRNGKeyArray | None]
    ) -> Float[Array, "lines turns dim"]:
        for layer, key in zip(self.layers, keys, strict=True):
            x = layer(x, grid, key=key)
        return x

    def next_turn(self, x: Float[Array, "1 dim"], batch: NextTurn) -> tuple[Float[Array, "1 dim"], Any]:
        """The next turn, layer by layer, and what each layer remembers after it."""
        h, after = self.entered(x, batch.speaker, None), {}
        for i, layer in enumerate(self.layers):
            before = layer.nothing(x) if batch.memory is None else batch.memory[str(i)]
            h, after[str(i)] = layer.step(h, batch.speaker, before)
        return self.left(x, h, None), after

    def entered(self, x: Array, speaker: Array, key: PRNGKeyArray | None) -> Array:
        embedded = self.speakers[...][jnp.clip(speaker, 0, SPEAKERS - 1)]
        return dropout(self.enter(x) + embedded, self.dropout, key)

    def left(self, x: Array, h: Array, key: PRNGKeyArray | None) -> Array:
        return self.leave_norm(x + self.leave(dropout(self.norm(h), self.dropout, key)))


def context_of(config: Experiment) -> Callable[[int, nnx.Rngs], Context] | None:
    """What makes the module for features of some width; None if the run reads utterances one by one."""
    hears = config.data.context
    if hears == "none":
        return None
    return lambda dim, rngs: Context(config.context, hears, dim, rngs=rngs)
