"""What baselines that read one utterance at a time have in common: dense layers, what comes behind the utterance's
feature, and how a family is made of them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from mer_jax.data.batch import AnyBatch, Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.context import Context, context_of
from mer_jax.models.conversation import by_group
from mer_jax.models.layers import Number, dropout, split_key, sweepable
from mer_jax.tasks import Task

MakeContext = Callable[[int, nnx.Rngs], Context] | None  # see `models.context.context_of`


class ReLULayers(nnx.Module):
    """Dense layers of these widths, each with dropout before it and a ReLU behind it."""

    def __init__(self, inputs: int, widths: Sequence[int], rate: Number, *, rngs: nnx.Rngs):
        self.dropout = sweepable(rate)
        sizes = zip((inputs, *widths), widths, strict=False)
        self.dense = nnx.List([nnx.Linear(before, after, rngs=rngs) for before, after in sizes])

    def __call__(self, x: Float[Array, "batch feat"], *, key: PRNGKeyArray | None) -> Float[Array, "batch dim"]:
        for dense, k in zip(self.dense, split_key(key, len(self.dense)), strict=True):
            x = nnx.relu(dense(dropout(x, self.dropout, k)))
        return x


class Head(nnx.Module):
    """What classifies: dropout and a dense layer; before them the other turns, where they are heard [ours]."""

    def __init__(self, width: int, outputs: int, rate: Number, context: MakeContext, *, rngs: nnx.Rngs):
        self.dropout = sweepable(rate)
        self.context = context(width, rngs) if context else None
        self.out = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(
        self,
        utterance: Float[Array, "batch dim"],
        attention: dict[str, Float[Array, "batch _"]],
        batch: AnyBatch,
        *,
        key: PRNGKeyArray | None,
    ) -> family.Outputs:
        """utterance: the feature of every utterance by itself. attention: see `family.Outputs`."""
        heard, last = split_key(key, 2)
        feature, memory = utterance, None
        if self.context is not None:
            feature, memory = self.context(utterance, batch, key=heard)
        logits = self.out(dropout(feature, self.dropout, last))
        found = family.Outputs(logits=logits, feature=feature, attention=attention)
        if self.context is not None:
            found["utterance"], found["memory"] = utterance, memory
        return found


class OverUtterances(nnx.Module):
    """A model that encodes every utterance by itself, and whose head does the rest."""

    head: Head

    def _encode(self, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "batch dim"]:
        raise NotImplementedError

    def __call__(self, batch: AnyBatch, *, key: PRNGKeyArray | None = None) -> family.Outputs:
        first, last = split_key(key, 2)
        return self.head(by_group(self._encode, batch, first), {}, batch, key=last)


def build_with(
    module: Callable[..., nnx.Module],
    sentence: str,
    config: Any,
    manifest: Manifest,
    task: Task,
    *,
    objective: Callable[..., Any] = family.task_objective,
) -> family.Family:
    """The family whose module is `module(settings, widths=…, outputs=…, context=…, rngs=…)`. objective: takes the task
    as `task`."""
    widths = family.widths_of(config, manifest)

    def made(config: Any, rngs: nnx.Rngs) -> nnx.Module:
        return module(config.model, widths=widths, outputs=task.width, context=context_of(config), rngs=rngs)

    return family.Family(module=made, objective=functools.partial(objective, task=task), sentence=sentence)
