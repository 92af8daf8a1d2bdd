"""DialogueRNN: An Attentive RNN for Emotion Detection in Conversations (Majumder et al., AAAI 2019, arXiv 1811.00405),
as BiDialogueRNN with attention, without the listener's update, which the paper finds no better."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from mer_jax.data.batch import where_real
from mer_jax.data.corpus import Manifest
from mer_jax.models import family, recurrent
from mer_jax.models.baselines.over_dialogues import (
    SPEAKERS,
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
from mer_jax.settings import LossSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = (
    "DialogueRNN (arXiv 1811.00405): GRUs of the dialogue, of every speaker and of the emotion, in both directions, and"
    " attention over the turns"
)


@dataclasses.dataclass
class DialogueRNNSettings(DialogueSettings):
    """DialogueRNN."""

    width: int = setting(100, at_least=1)  # of the states of the dialogue, of a speaker and of the emotion
    hidden: int = setting(100, at_least=1)  # of the last layer before the classifier
    dropout: float = setting(0.5, below=1, swept=True)  # on the emotion's states and the last layer [ours]
    # Of the attention over e: scores over the root of their vectors' length, as in Transformers [ours]; False is the
    # paper's formula.
    scaled: bool = True


@dataclasses.dataclass
class DialogueRNNExperiment(DialogueExperiment):
    experiment: str = "dialogue_rnn"
    model: DialogueRNNSettings = group(DialogueRNNSettings)
    loss: LossSettings = group(LossSettings)


class GRUOfTwo(nnx.Module):
    """The gates of a GRU whose input is an utterance and a state side by side. What the utterance gives them is
    computed for all turns at once."""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        self.utterance = nnx.Linear(inputs, 3 * width, rngs=rngs)
        self.beside = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.recurrent = nnx.Linear(width, 3 * width, kernel_init=nnx.initializers.orthogonal(), rngs=rngs)

    def __call__(self, state: Array, gates: Array, beside: Array) -> Array:
        """gates: what `utterance` has made of the turn."""
        return recurrent.gru(self.recurrent, state, gates + self.beside(beside))


class OneDirection(nnx.Module):
    """Sections 3.3.1 to 3.3.4 of the paper:

    g_t = GRU_G(g_(t-1), [u_t, q_(s,t-1)]), of the dialogue
    c_t = softmax(u_t W [g_1 … g_(t-1)]) [g_1 … g_(t-1)], zero at the first turn
    q_(s,t) = GRU_P(q_(s,t-1), [u_t, c_t]), of the speaker of turn t; the others' stay
    e_t = GRU_E(e_(t-1), q_(s,t)), of the emotion"""

    def __init__(self, inputs: int, width: int, *, rngs: nnx.Rngs):
        self.width = width
        self.of_dialogue, self.of_speaker = (GRUOfTwo(inputs, width, rngs=rngs) for _ in range(2))
        self.query = nnx.Linear(inputs, width, use_bias=False, rngs=rngs)
        self.emotion_in = nnx.Linear(width, 3 * width, rngs=rngs)
        orthogonal = nnx.initializers.orthogonal()
        self.emotion = nnx.Linear(width, 3 * width, kernel_init=orthogonal, rngs=rngs)

    def __call__(
        self, x: Float[Array, "lines turns dim"], grid: Grid, *, reverse: bool
    ) -> Float[Array, "lines turns width"]:
        """e of every turn."""
        lines, turns = grid.dialogue.shape
        at = jnp.arange(turns, dtype=jnp.int32)
        heard = hearing(grid, before=None, after=None)
        heard = heard & ((at[None] > at[:, None]) if reverse else (at[None] < at[:, None]))[None]
        speaker = jax.nn.one_hot(speaker_places(grid, SPEAKERS), SPEAKERS, dtype=x.dtype)
        each = (self.of_dialogue.utterance(x), self.of_speaker.utterance(x), self.query(x), speaker, grid.dialogue)
        by_turn = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (*each, heard))

        def step(before: Any, now: Any) -> Any:
            (g, q, e, said, last), (to_g, to_q, query, who, here, others, t) = before, now
            kept, real = (g, q, e), here > 0
            g, q, e = (where_real(here == last, s) for s in kept)
            own = jnp.einsum("ls,lsd->ld", who, q)
            weight = softmax_over(jnp.einsum("ld,ltd->lt", query, said), others)
            context = jnp.einsum("lt,ltd->ld", weight, said)
            new_g, new_own = self.of_dialogue(g, to_g, own), self.of_speaker(own, to_q, context)
            new_e = recurrent.gru(self.emotion, e, self.emotion_in(new_own))
            new_q = q + who[..., None] * (new_own - own)[:, None]
            g, q, e = recurrent.rows_of(real, (new_g, new_q, new_e), kept)
            return (g, q, e, said.at[:, t].set(g), jnp.where(real, here, last)), e

        zero = jnp.zeros((lines, self.width), x.dtype)
        said = jnp.zeros((lines, turns, self.width), x.dtype)
        start = (zero, jnp.zeros((lines, SPEAKERS, self.width), x.dtype), zero, said, jnp.zeros(lines, jnp.int32))
        _, found = jax.lax.scan(step, start, (*by_turn, at), reverse=reverse)
        return jnp.moveaxis(found, 0, 1)


class DialogueRNN(DialogueLayers):
    """Both directions' e side by side, attended to by every turn, e'_t = softmax_s(e_t W e_s / sqrt(dim)) [e_1 … e_N],
    and l_t = ReLU(W e'_t + b). Without `ahead` there is one direction, and no turn attends to later ones."""

    def __init__(self, settings: DialogueRNNSettings, widths: Mapping[str, int], *, ahead: bool, rngs: nnx.Rngs):
        self.width, self.ahead, self.dropout = settings.hidden, ahead, sweepable(settings.dropout)
        self.scaled = settings.scaled
        ways, inputs = range(2 if ahead else 1), sum(widths.values())
        self.directions = nnx.List([OneDirection(inputs, settings.width, rngs=rngs) for _ in ways])
        joined = len(self.directions) * settings.width
        self.query = nnx.Linear(joined, joined, use_bias=False, rngs=rngs)
        self.last = nnx.Linear(joined, settings.hidden, rngs=rngs)

    def over_turns(
        self, x: Float[Array, "lines turns dim"], grid: Grid, keys: list[PRNGKeyArray | None]
    ) -> Float[Array, "lines turns width"]:
        first, second = split_key(keys[0], 2)
        found = [direction(x, grid, reverse=bool(way)) for way, direction in enumerate(self.directions)]
        e = dropout(jnp.concatenate(found, axis=-1), self.dropout, first)
        heard = hearing(grid, before=None, after=None if self.ahead else 0)
        score = jnp.einsum("ltd,lsd->lts", self.query(e), e)
        weight = softmax_over(score * e.shape[-1] ** -0.5 if self.scaled else score, heard)
        return dropout(nnx.relu(self.last(jnp.einsum("lts,lsd->ltd", weight, e))), self.dropout, second)


def build(config: DialogueRNNExperiment, manifest: Manifest, task: Task) -> family.Family:
    """DialogueRNN for a corpus."""
    return build_with(DialogueRNN, SENTENCE, config, manifest, task)
