"""DialogueGCN: A Graph Convolutional Neural Network for Emotion Recognition in Conversation (Ghosal et al., EMNLP 2019,
arXiv 1908.11540)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_dialogues import (
    DialogueExperiment,
    DialogueLayers,
    DialogueSettings,
    build_with,
    hearing,
    softmax_over,
    speaker_places,
)
from mer_jax.models.conversation import Grid
from mer_jax.models.layers import dropout, split_key, sweepable
from mer_jax.models.recurrent import Recurrent
from mer_jax.settings import LossSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = (
    "DialogueGCN (arXiv 1908.11540): a recurrent network over the turns, and a graph of the near ones whose edges know"
    " who speaks to whom and in which order"
)


@dataclasses.dataclass
class DialogueGCNSettings(DialogueSettings):
    """DialogueGCN."""

    width: int = setting(100, at_least=2)  # of the recurrent network, both directions together, and of the graph
    before: int = setting(10, at_least=0)  # turns before a turn with an edge to it
    after: int = setting(10, at_least=0)  # and after it, with data.context=both
    # Who are told apart by the relations, 2 * speakers^2 in number; further ones are taken for the last.
    speakers: int = setting(2, at_least=1)
    dropout: float = setting(0.5, below=1, swept=True)  # on the recurrent network's output and the last layer [ours]
    # Of the attention over the whole dialogue: scores over the root of their vectors' length, as in Transformers
    # [ours]. False is the paper's formula; h is a sum over neighbours, whose scores then single out a few turns.
    scaled: bool = True


@dataclasses.dataclass
class DialogueGCNExperiment(DialogueExperiment):
    experiment: str = "dialogue_gcn"
    model: DialogueGCNSettings = group(DialogueGCNSettings)
    loss: LossSettings = group(LossSettings)


class RelationalGraph(nnx.Module):
    """Two convolutions over a graph whose edges have weights a_ij and one relation each:

    h'_i = ReLU(sum_r sum_(j in N_i^r) a_ij / |N_i^r| W_r g_j + a_ii W_0 g_i)
    h_i = ReLU(sum_(j in N_i) W h'_j + a_ii V h'_i)

    N_i: the turns with an edge to i, itself among them. A relation is who says i, who says j, and whether i comes
    before j."""

    def __init__(self, width: int, speakers: int, *, rngs: nnx.Rngs):
        start = nnx.initializers.lecun_normal(batch_axis=(0,))
        self.speakers = speakers
        self.relations = nnx.Param(start(rngs.params(), (2 * speakers**2, width, width)))
        self.itself, self.second_itself = (nnx.Linear(width, width, use_bias=False, rngs=rngs) for _ in range(2))
        self.second = nnx.Linear(width, width, use_bias=False, rngs=rngs)

    def __call__(
        self,
        g: Float[Array, "lines turns dim"],
        weight: Float[Array, "lines turns others"],
        edges: Bool[Array, "lines turns others"],
        relation: Float[Array, "lines turns others relations"],
    ) -> Float[Array, "lines turns dim"]:
        """relation: one-hot."""
        own = jnp.einsum("lii->li", weight)[..., None]
        related = relation * edges[..., None].astype(g.dtype)
        shared = related * (weight[..., None] / jnp.maximum(related.sum(2), 1)[:, :, None])
        told = jnp.einsum("ltsr,lsd->ltrd", shared, g)
        first = jax.nn.relu(jnp.einsum("ltrd,rde->lte", told, self.relations[...]) + own * self.itself(g))
        near = jnp.einsum("lts,lsd->ltd", edges.astype(g.dtype), self.second(first))
        return jax.nn.relu(near + own * self.second_itself(first))


class DialogueGCN(DialogueLayers):
    """g of a bidirectional GRU over the turns; edges between near turns, of weight a_ij = softmax_j(g_i W g_j); h of
    the graph; every turn attends to all, softmax_j([g_i, h_i] W [g_j, h_j] / sqrt(dim)), and l = ReLU(W . + b).
    Without `ahead` the GRU has one direction, and nothing that comes later has an edge to a turn or is attended to."""

    def __init__(self, settings: DialogueGCNSettings, widths: Mapping[str, int], *, ahead: bool, rngs: nnx.Rngs):
        self.width, self.ahead, self.speakers = settings.width, ahead, settings.speakers
        self.scaled = settings.scaled
        self.before, self.after = settings.before, settings.after if ahead else 0
        self.dropout = sweepable(settings.dropout)
        width = settings.width
        self.recurrent = Recurrent(sum(widths.values()), width, kind="gru", ahead=ahead, rngs=rngs)
        self.edge = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.graph = RelationalGraph(width, settings.speakers, rngs=rngs)
        self.query = nnx.Linear(2 * width, 2 * width, use_bias=False, rngs=rngs)
        self.last = nnx.Linear(2 * width, width, rngs=rngs)

    def over_turns(
        self, x: Float[Array, "lines turns dim"], grid: Grid, keys: list[PRNGKeyArray | None]
    ) -> Float[Array, "lines turns width"]:
        first, second = split_key(keys[0], 2)
        g = dropout(self.recurrent(x, grid.dialogue), self.dropout, first)
        edges = hearing(grid, before=self.before, after=self.after)
        weight = softmax_over(jnp.einsum("ltd,lsd->lts", self.edge(g), g), edges)
        joined = jnp.concatenate([g, self.graph(g, weight, edges, self._relations(grid, g.dtype))], axis=-1)
        heard = hearing(grid, before=None, after=None if self.ahead else 0)
        score = jnp.einsum("ltd,lsd->lts", self.query(joined), joined)
        attended = softmax_over(score * joined.shape[-1] ** -0.5 if self.scaled else score, heard)
        found = jnp.einsum("lts,lsd->ltd", attended, joined)
        return dropout(nnx.relu(self.last(found)), self.dropout, second)

    def _relations(self, grid: Grid, dtype: Any) -> Float[Array, "lines turns others relations"]:
        who, at = speaker_places(grid, self.speakers), jnp.arange(grid.dialogue.shape[1], dtype=jnp.int32)
        pair = who[:, :, None] * self.speakers + who[:, None]
        earlier = (at[:, None] < at[None]).astype(jnp.int32)[None]  # whether i comes before j
        return jax.nn.one_hot(2 * pair + earlier, 2 * self.speakers**2, dtype=dtype)


def build(config: DialogueGCNExperiment, manifest: Manifest, task: Task) -> family.Family:
    """DialogueGCN for a corpus."""
    return build_with(DialogueGCN, SENTENCE, config, manifest, task)
