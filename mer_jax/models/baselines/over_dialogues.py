"""What the baselines that read whole dialogues share: an utterance is the mean over time of every modality, a network
over the dialogue makes a feature of it, and one linear layer classifies that."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mer_jax.config import Experiment, require
from mer_jax.data.batch import AnyBatch, Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.conversation import DialogueNetwork, Grid, by_group
from mer_jax.models.layers import Number, dropout, masked_mean, split_key, sweepable
from mer_jax.settings import ContextSettings, ModelSettings, setting
from mer_jax.tasks import Task

SPEAKERS = 16  # of a dialogue; those with higher numbers are taken for the last one [ours]


@dataclasses.dataclass
class DialogueSettings(ModelSettings):
    """What these models have in common."""

    input_dropout: float = setting(0.3, below=1, swept=True)  # on the standardised means [ours]


@dataclasses.dataclass
class DialogueExperiment(Experiment):
    """How turns hear each other is what these models are, so that of `context` nothing is asked."""

    reads_conversations: ClassVar[bool] = True

    def check(self) -> None:
        for field in dataclasses.fields(ContextSettings):
            value, usual = getattr(self.context, field.name), field.default
            right = f"{usual}: {self.family()} hears a dialogue in its own way, which model.… sets"
            require(value == usual, f"context.{field.name}", value, right)


class DialogueLayers(DialogueNetwork):
    """A network whose features are `width` wide. ahead: whether turns hear what is said after them. sizes: every
    modality and how wide it is, for a network that takes them apart."""

    width: int
    ahead: bool
    sizes: tuple[tuple[str, int], ...]

    def parted(self, x: Float[Array, "*batch dim"]) -> dict[str, Float[Array, "*batch _"]]:
        """The modalities' means, which lie side by side in x."""
        modalities, widths = zip(*self.sizes, strict=True)
        return dict(zip(modalities, jnp.split(x, np.cumsum(widths)[:-1], axis=-1), strict=True))


class OverDialogues(nnx.Module):
    """Any number of modalities -> logits, by a network that reads dialogues."""

    def __init__(
        self, modalities: tuple[str, ...], network: Any, outputs: int, *, input_dropout: Number, rngs: nnx.Rngs
    ):
        self.modalities, self.network, self.input_dropout = modalities, network, sweepable(input_dropout)
        self.classifier = nnx.Linear(network.width, outputs, rngs=rngs)

    def __call__(self, batch: AnyBatch, *, key: PRNGKeyArray | None = None) -> family.Outputs:
        utterance, feature, memory = self.heard(batch, key)
        return family.Outputs(
            logits=self.classifier(feature), feature=feature, attention={}, utterance=utterance, memory=memory
        )

    def heard(self, batch: AnyBatch, key: PRNGKeyArray | None) -> tuple[Array, Array, Any]:
        """`utterance` and `feature` of the outputs, and `memory`."""
        first, second = split_key(key, 2)
        utterance = by_group(self.means, batch, None)
        return utterance, *self.network(dropout(utterance, self.input_dropout, first), batch, key=second)

    def means(self, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "batch dim"]:
        """The means over time of all modalities, side by side; zero, the training part's mean, for one that is not
        there."""
        return jnp.concatenate([masked_mean(batch.features[m], batch.mask[m]) for m in self.modalities], axis=-1)


def build_with(
    network: Callable[..., DialogueLayers],
    sentence: str,
    config: Any,
    manifest: Manifest,
    task: Task,
    *,
    module: Callable[..., OverDialogues] = OverDialogues,
    objective: Callable[..., Any] = family.task_objective,
) -> family.Family:
    """The family whose network is `network(settings, widths, ahead=…, rngs=…)`. module: what is around it; objective:
    takes the task as `task`."""
    widths = family.widths_of(config, manifest)

    def made(config: Any, rngs: nnx.Rngs) -> OverDialogues:
        found = network(config.model, widths, ahead=config.data.context == "both", rngs=rngs)
        found.remembers = config.data.max_turns - 1
        return module(tuple(widths), found, task.width, input_dropout=config.model.input_dropout, rngs=rngs)

    return family.Family(module=made, objective=functools.partial(objective, task=task), sentence=sentence)


def place_of(grid: Grid) -> Int[Array, "lines turns"]:
    """Which turn of its dialogue each one is, from 0; turns that are not heard leave a gap."""
    turns = jnp.arange(grid.dialogue.shape[1], dtype=jnp.int32)
    same = grid.dialogue[:, :, None] == grid.dialogue[:, None]
    return turns[None] - jnp.where(same, turns[None, None], grid.dialogue.shape[1]).min(-1)


def hearing(grid: Grid, *, before: int | None, after: int | None) -> Bool[Array, "lines turns others"]:
    """Which turns each one hears: those of its dialogue, and itself, at most so many `before` and `after` it; None:
    all."""
    turns = jnp.arange(grid.dialogue.shape[1], dtype=jnp.int32)
    ahead = turns[None] - turns[:, None]  # how many turns behind a turn the other one is
    near = jnp.ones(ahead.shape, bool)
    near = near if before is None else near & (ahead >= -before)
    near = near if after is None else near & (ahead <= after)
    real = grid.dialogue > 0
    return near[None] & (grid.dialogue[:, :, None] == grid.dialogue[:, None]) & real[:, :, None] & real[:, None]


def softmax_over(score: Float[Array, "*batch turns others"], heard: Bool[Array, "*batch turns others"]) -> Array:
    """The softmax over the others that are heard; zero where there are none."""
    weight = nnx.softmax(jnp.where(heard, score, jnp.finfo(score.dtype).min), axis=-1)
    return jnp.where(heard, weight, 0)


def speaker_places(grid: Grid, speakers: int) -> Int[Array, "lines turns"]:
    """Which of so many speakers says a turn, from 0. One that is not known is taken for the first, those with higher
    numbers for the last."""
    return jnp.clip(grid.speaker - 1, 0, speakers - 1)
