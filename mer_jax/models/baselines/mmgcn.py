"""MMGCN: Multimodal Fusion via Deep Graph Convolution Network for Emotion Recognition in Conversation (Hu et al., ACL
2021, arXiv 2107.06779)."""

import dataclasses
import math
from collections.abc import Mapping

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_dialogues import (
    SPEAKERS,
    DialogueExperiment,
    DialogueLayers,
    DialogueSettings,
    build_with,
    hearing,
    speaker_places,
)
from mer_jax.models.conversation import Grid
from mer_jax.models.layers import at_least_float32, dropout, split_key, sweepable, unit, value_of
from mer_jax.models.recurrent import Recurrent
from mer_jax.settings import LossSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = (
    "MMGCN (arXiv 2107.06779): a deep graph convolution over a dialogue's utterances in every modality, whose edges are"
    " as strong as these are alike"
)
NEARLY_ONE = 1 - 1e-5  # cosines stay below it: the slope of arccos is infinite at 1


@dataclasses.dataclass
class MMGCNSettings(DialogueSettings):
    """MMGCN."""

    width: int = setting(128, at_least=2)  # of what an utterance says in a modality
    speaker_width: int = setting(16, at_least=1)  # of who says it; both side by side are a node [its size ours]
    layers: int = setting(4, at_least=1)  # of the graph convolution
    alpha: float = setting(0.1, below=1, swept=True)  # share of the first representation in every layer
    eta: float = setting(0.5, above=0, swept=True)  # layer l's matrix counts for log(eta / l + 1)
    gamma: float = setting(0.7, at_least=0, swept=True)  # of edges between an utterance's modalities
    dropout: float = setting(0.4, below=1, swept=True)


@dataclasses.dataclass
class MMGCNExperiment(DialogueExperiment):
    experiment: str = "mmgcn"
    model: MMGCNSettings = group(MMGCNSettings)
    loss: LossSettings = group(LossSettings)


class MMGCN(DialogueLayers):
    """Text goes through a bidirectional LSTM over the turns, other modalities through one linear layer; an embedding of
    who speaks, W s + b, lies beside each. Nodes are the utterances in every modality, with edges to all utterances of
    the dialogue in the same modality and to the same utterance in the others, of strength 1 - arccos(cosine) / pi,
    between modalities gamma times that. Layers of GCNII (Chen et al. 2020) over P = D^-1/2 (A + I) D^-1/2, where D has
    the sums of the rows:

    H_(l+1) = ReLU(((1 - alpha) P H_l + alpha H_0) ((1 - b_l) I + b_l W_l)), b_l = log(eta / l + 1)

    What is classified is ReLU of a layer over the nodes before and after the graph, of all modalities. Without `ahead`
    the LSTM has one direction, and edges lead forward only."""

    def __init__(self, settings: MMGCNSettings, widths: Mapping[str, int], *, ahead: bool, rngs: nnx.Rngs):
        width = settings.width
        self.width, self.ahead, self.sizes = width, ahead, tuple(widths.items())
        self.alpha, self.eta, self.gamma, self.dropout = (
            sweepable(value) for value in (settings.alpha, settings.eta, settings.gamma, settings.dropout)
        )
        others = {m: nnx.Linear(feat, width, rngs=rngs) for m, feat in widths.items() if m != "text"}
        self.dense = nnx.Dict(others)
        text = widths.get("text")
        self.text = None if text is None else Recurrent(text, width, kind="lstm", ahead=ahead, rngs=rngs)
        self.speakers = nnx.Linear(SPEAKERS, settings.speaker_width, rngs=rngs)
        node, layers = width + settings.speaker_width, range(settings.layers)
        self.layers = nnx.List([nnx.Linear(node, node, use_bias=False, rngs=rngs) for _ in layers])
        self.last = nnx.Linear(2 * len(widths) * node, width, rngs=rngs)

    def over_turns(
        self, x: Float[Array, "lines turns dim"], grid: Grid, keys: list[PRNGKeyArray | None]
    ) -> Float[Array, "lines turns width"]:
        first, last, *rest = split_key(keys[0], 2 + len(self.layers))
        parts = self.parted(x)
        who = self.speakers(jax.nn.one_hot(speaker_places(grid, SPEAKERS), SPEAKERS, dtype=x.dtype))
        said = [
            self.text(part, grid.dialogue) if m == "text" and self.text is not None else self.dense[m](part)
            for m, part in parts.items()
        ]
        nodes = [jnp.concatenate([h, who], axis=-1) for h in said]
        start = h = dropout(jnp.stack(nodes, axis=1), self.dropout, first)  # [lines, modalities, turns, node]
        alpha, eta = value_of(self.alpha, x.dtype), value_of(self.eta, x.dtype)
        graph = self._graph(start, grid)
        for number, (layer, key) in enumerate(zip(self.layers, rest, strict=True), 1):
            share = jnp.log(jnp.asarray(eta / number + 1, x.dtype))
            told = (1 - alpha) * jnp.einsum("lmtns,lnsd->lmtd", graph, h) + alpha * start
            h = dropout(nnx.relu((1 - share) * told + share * layer(told)), self.dropout, key)
        both = einops.rearrange(jnp.stack([start, h]), "b l m t d -> l t (b m d)")
        return dropout(nnx.relu(self.last(both)), self.dropout, last)

    def _graph(self, nodes: Float[Array, "lines modal turns dim"], grid: Grid) -> Array:
        """P, [lines, modal, turns, modal, turns]."""
        direction = unit(nodes.astype(at_least_float32(nodes)))
        cosine = NEARLY_ONE * jnp.einsum("lmtd,lnsd->lmtns", direction, direction)
        alike = (1 - jnp.arccos(cosine) / math.pi).astype(nodes.dtype)
        at, modal = jnp.arange(nodes.shape[2], dtype=jnp.int32), jnp.arange(nodes.shape[1], dtype=jnp.int32)
        same_turn = (at[:, None] == at[None])[None, None, :, None]
        same_modality = (modal[:, None] == modal[None])[None, :, None, :, None]
        heard = hearing(grid, before=None, after=None if self.ahead else 0)[:, None, :, None]
        within, across = heard & same_modality & ~same_turn, heard & ~same_modality & same_turn
        strength = jnp.where(within, alike, 0) + jnp.where(across, value_of(self.gamma, alike.dtype) * alike, 0)
        strength = strength + (same_modality & same_turn).astype(strength.dtype)
        degree = strength.sum((3, 4)) ** -0.5
        return strength * degree[..., None, None] * degree[:, None, None]


def build(config: MMGCNExperiment, manifest: Manifest, task: Task) -> family.Family:
    """MMGCN for a corpus."""
    return build_with(MMGCN, SENTENCE, config, manifest, task)
