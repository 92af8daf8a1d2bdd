"""GraphSmile: Tracing Intricate Cues in Dialogue: Joint Graph Structure and Sentiment Dynamics for Multimodal Emotion
Recognition (Li et al., IEEE Transactions on Pattern Analysis and Machine Intelligence 2025, arXiv 2407.21536)."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any, NotRequired

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from mer_jax.config import require
from mer_jax.data.batch import AnyBatch, Conversations
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines import over_dialogues
from mer_jax.models.baselines.over_dialogues import (
    DialogueExperiment,
    DialogueLayers,
    DialogueSettings,
    OverDialogues,
    build_with,
)
from mer_jax.models.baselines.sentiments import SENTIMENTS, knows_sentiment, sentiments
from mer_jax.models.conversation import Grid, laid, taken
from mer_jax.models.layers import dropout, split_key, sweepable
from mer_jax.models.losses import weighted_mean
from mer_jax.settings import LossSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = (
    "GraphSmile (arXiv 2407.21536): graphs of two modalities each, whose layers go from one to the other and back, with"
    " the sentiment and its changes between turns as further tasks"
)


@dataclasses.dataclass
class GraphSmileSettings(DialogueSettings):
    """GraphSmile. The authors' command for IEMOCAP: width 512, 17 turns to either side, 7 layers, shifts within 19
    turns; for MELD: 384, 3, 5, 3."""

    width: int = setting(128, at_least=1)
    layers: int = setting(4, at_least=1)
    before: int = setting(10, at_least=0)  # turns before a turn with an edge to it
    after: int = setting(10, at_least=0)  # and after it, with data.context=both
    shift_window: int = setting(10, at_least=1)  # turns among which changes of the sentiment are asked for
    dropout: float = setting(0.3, below=1, swept=True)


@dataclasses.dataclass
class SentimentDynamics(LossSettings):
    sentiment: float = setting(1.0, at_least=0, swept=True)  # weight of the sentiment's cross entropy
    shift: float = setting(0.7, at_least=0, swept=True)  # of that of its changes


@dataclasses.dataclass
class GraphSmileExperiment(DialogueExperiment):
    experiment: str = "graph_smile"
    model: GraphSmileSettings = group(GraphSmileSettings)
    loss: SentimentDynamics = group(SentimentDynamics)

    def check_task(self, task: Task) -> None:
        for field in () if knows_sentiment(task) else ("sentiment", "shift"):
            value, name = getattr(self.loss, field), f"loss.{field}"
            right = (
                f"0 for target {task.asked!r}: which sentiment {', '.join(task.outputs)} are of is not known. Add "
                f"--config.{name}=0.0"
            )
            require(value == 0 and not self.sweeps(name), name, value, right)


class BimodalGraph(nnx.Module):
    """Two modalities of the dialogue's utterances, with edges from each utterance to the near ones in the other
    modality only: an odd number of layers carries what the other modality says, an even one what the same does.

    H_k = D^-1/2 A D^-1/2 H_(k-1) W_k + b_k; what is said in the end is H_0 + sum_k ReLU(V_k H_k + c_k). The strength of
    an edge is learnt for each direction and distance in turns, e^0 at the start [ours]."""

    def __init__(self, settings: GraphSmileSettings, *, rngs: nnx.Rngs):
        self.before, self.after, self.dropout = settings.before, settings.after, sweepable(settings.dropout)
        self.edges = nnx.Param(jnp.zeros((2, settings.before + settings.after + 1)))
        layers = range(settings.layers)
        self.layers = nnx.List([nnx.Linear(settings.width, settings.width, rngs=rngs) for _ in layers])
        self.says = nnx.List([nnx.Linear(settings.width, settings.width, rngs=rngs) for _ in layers])

    def __call__(
        self, pair: Float[Array, "lines 2 turns dim"], grid: Grid, *, ahead: bool, key: PRNGKeyArray | None
    ) -> Float[Array, "lines 2 turns dim"]:
        at = jnp.arange(pair.shape[2], dtype=jnp.int32)
        away = jnp.clip(at[None] - at[:, None] + self.before, 0, self.before + self.after)
        heard = over_dialogues.hearing(grid, before=self.before, after=self.after if ahead else 0)
        strength = jnp.where(heard[:, None], jnp.exp(self.edges[...])[:, away][None], 0).astype(pair.dtype)
        degree = jnp.maximum(strength.sum(-1), jnp.finfo(pair.dtype).tiny) ** -0.5
        graph = strength * degree[..., None] * degree[:, ::-1, None]  # [lines, into, turns, turns of the other]
        h, said = pair, pair
        for layer, says, k in zip(self.layers, self.says, split_key(key, len(self.layers)), strict=True):
            h = layer(jnp.einsum("lmts,lmsd->lmtd", graph, h[:, ::-1]))
            said = said + dropout(nnx.relu(says(h)), self.dropout, k)
        return said


class GraphSmile(DialogueLayers):
    """A graph of every two modalities, of one modality with itself where there is no other; what is classified is the
    mean over all of ReLU of one shared layer. Without `ahead` no edge leads back."""

    def __init__(self, settings: GraphSmileSettings, widths: Mapping[str, int], *, ahead: bool, rngs: nnx.Rngs):
        self.width, self.ahead, self.sizes = settings.width, ahead, tuple(widths.items())
        self.dropout, self.shift_window = sweepable(settings.dropout), settings.shift_window
        self.enter = nnx.Dict({m: nnx.Linear(feat, settings.width, rngs=rngs) for m, feat in widths.items()})
        self.pairs = tuple(itertools.combinations(widths, 2)) or ((next(iter(widths)),) * 2,)
        self.graphs = nnx.Dict({"_".join(pair): BimodalGraph(settings, rngs=rngs) for pair in self.pairs})
        self.fuse = nnx.Linear(settings.width, settings.width, rngs=rngs)

    def over_turns(
        self, x: Float[Array, "lines turns dim"], grid: Grid, keys: list[PRNGKeyArray | None]
    ) -> Float[Array, "lines turns width"]:
        last, *rest = split_key(keys[0], 1 + 2 * len(self.pairs))
        entered = {m: self.enter[m](part) for m, part in self.parted(x).items()}
        found = []
        for pair, first, second in zip(self.pairs, rest[::2], rest[1::2], strict=True):
            nodes = dropout(jnp.stack([entered[m] for m in pair], axis=1), self.dropout, first)
            found.append(self.graphs["_".join(pair)](nodes, grid, ahead=self.ahead, key=second))
        fused = nnx.relu(self.fuse(jnp.concatenate(found, axis=1))).mean(1)
        return dropout(fused, self.dropout, last)


class Outputs(family.Outputs):
    """sentiment: Float[batch, 3], of SENTIMENTS, where the outputs' are known. shift, pairs: Float[batch], while
    training in conversations: over the turns that a turn is compared with, itself among them, the summed cross entropy
    of whether their sentiment is another one, and how many they are."""

    sentiment: NotRequired[Array]
    shift: NotRequired[Array]
    pairs: NotRequired[Array]


class Dynamics(OverDialogues):
    """The classifier, and the two further tasks: sentiment by one linear layer; whether it changes between two turns by
    W ReLU(U [z_i, z_j] + b) + c [hidden layer ours]."""

    def __init__(
        self, modalities: tuple[str, ...], network: Any, outputs: int, *, task: Task, rngs: nnx.Rngs, **more: Any
    ):
        super().__init__(modalities, network, outputs, rngs=rngs, **more)
        self.task, self.window, self.knows = task, network.shift_window, knows_sentiment(task)
        if self.knows:
            self.sentiment = nnx.Linear(network.width, len(SENTIMENTS), rngs=rngs)
            self.shift_one = nnx.Linear(network.width, network.width, rngs=rngs)
            self.shift_other = nnx.Linear(network.width, network.width, use_bias=False, rngs=rngs)
            self.shift = nnx.Linear(network.width, 2, rngs=rngs)

    def __call__(self, batch: AnyBatch, *, key: PRNGKeyArray | None = None) -> Outputs:
        utterance, feature, memory = self.heard(batch, key)
        found = Outputs(
            logits=self.classifier(feature), feature=feature, attention={}, utterance=utterance, memory=memory
        )
        if self.knows:
            found["sentiment"] = self.sentiment(feature)
            if key is not None and isinstance(batch, Conversations):
                found["shift"], found["pairs"] = self.shifts(feature, batch)
        return found

    def shifts(
        self, feature: Float[Array, "batch dim"], batch: Conversations
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
        """`shift` and `pairs` of the outputs. A dialogue is cut into windows of `shift_window` turns; each turn is
        compared with all of its window."""
        turns = batch.turns
        dialogue = laid(turns.dialogue, batch, turns)
        grid = Grid(dialogue, laid(turns.speaker, batch, turns))
        z, sentiment = laid(feature, batch, turns), laid(sentiments(self.task, batch), batch, turns)
        counts = laid(batch.weight > 0, batch, turns)
        at = jnp.arange(dialogue.shape[1], dtype=jnp.int32)
        first = at[None] - over_dialogues.place_of(grid) % self.window
        other = first[..., None] + jnp.arange(self.window, dtype=jnp.int32)[None, None]
        inside, other = other < dialogue.shape[1], jnp.clip(other, 0, dialogue.shape[1] - 1)

        def of_other(x: Array) -> Array:
            return jax.vmap(lambda line, index: line[index])(x, other)

        pairs = inside & (of_other(dialogue) == dialogue[..., None]) & counts[..., None] & of_other(counts)
        hidden = nnx.relu(self.shift_one(z)[:, :, None] + of_other(self.shift_other(z)))
        same = jnp.einsum("lts,ltws->ltw", sentiment, of_other(sentiment))
        log_p = jax.nn.log_softmax(self.shift(hidden))
        loss = -jnp.where(same > 0, log_p[..., 0], log_p[..., 1])
        real = pairs.astype(loss.dtype)
        return taken((loss * real).sum(-1), turns), taken(real.sum(-1), turns)


def objective(
    config: GraphSmileExperiment, outputs: Any, batch: AnyBatch, prior: Any, *, task: Task
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The task's loss, the sentiment's cross entropy, and the mean one of its changes over all pairs of turns."""
    settings = config.loss
    loss = task.loss(outputs["logits"], batch.targets, batch.weight, prior=prior, settings=settings)
    terms = {"classification": loss}
    if "sentiment" not in outputs:
        return loss, terms
    each = -(sentiments(task, batch) * jax.nn.log_softmax(outputs["sentiment"])).sum(-1)
    terms["sentiment"] = weighted_mean(each, batch.weight)
    loss = loss + settings.sentiment * terms["sentiment"]
    if "shift" in outputs:
        terms["shift"] = outputs["shift"].sum() / jnp.maximum(outputs["pairs"].sum(), 1)
        loss = loss + settings.shift * terms["shift"]
    return loss, terms


def build(config: GraphSmileExperiment, manifest: Manifest, task: Task) -> family.Family:
    """GraphSmile for a corpus."""
    module = functools.partial(Dynamics, task=task)
    return build_with(GraphSmile, SENTENCE, config, manifest, task, module=module, objective=objective)
