"""MISA: Modality-Invariant and -Specific representations (Hazarika et al. 2020, arXiv 2005.03545).

Every modality's vector u goes through one encoder that all share, h^c, and one of its own, h^p, dense layers with a
sigmoid; a decoder makes u again of h^c + h^p. A layer of a Transformer attends among all these vectors, and what it
gives is joined and classified. Beside the task's loss, alpha * similarity + beta * difference + gamma *
reconstruction:

- similarity: the central moment discrepancy of the shared vectors, up to the fifth moment, mean over the pairs;
- difference: || H^c' H^p ||_F^2 of every modality and || H^p' H^p ||_F^2 of every pair, summed; the batch's rows of H
  have their mean taken off, and then each is made one long;
- reconstruction: the mean squared error of u, mean over the modalities.

Ours: u is the states of a bidirectional LSTM at both ends, of text as of the others, through a dense layer and
LayerNorm; H'H is a mean over the batch's rows, not their sum, which grows with the batch; a row that lacks a modality
counts in no term of it, and what is made of it is not attended to; a ReLU layer behind the joined vectors; sizes."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.config import Experiment, require
from mer_jax.data.batch import AnyBatch, Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_utterances import Head, MakeContext, ReLULayers, build_with
from mer_jax.models.baselines.post_norm import PostNormLayer
from mer_jax.models.conversation import by_group
from mer_jax.models.layers import split_key, unit
from mer_jax.models.losses import weighted_mean
from mer_jax.models.recurrent import Recurrent
from mer_jax.settings import LossSettings, ModelSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = "MISA (arXiv 2005.03545): what modalities share and what each has alone, learnt apart; frozen text"


@dataclasses.dataclass
class MISASettings(ModelSettings):
    """MISA. Sizes are ours."""

    width: int = setting(64, at_least=2)  # of the LSTM, both directions together, and of every vector
    heads: int = setting(2, at_least=1)
    dropout: float = setting(0.3, below=1, swept=True)  # in the transformer, before the dense layers behind it


@dataclasses.dataclass
class MISALoss(LossSettings):
    """The weights of the terms beside the task's loss."""

    similarity: float = setting(1.0, at_least=0, swept=True)  # alpha
    difference: float = setting(0.3, at_least=0, swept=True)  # beta
    reconstruction: float = setting(1.0, at_least=0, swept=True)  # gamma


@dataclasses.dataclass
class MISAExperiment(Experiment):
    """MISA on any modalities."""

    reads_conversations: ClassVar[bool] = True
    experiment: str = "misa"
    model: MISASettings = group(MISASettings)
    loss: MISALoss = group(MISALoss)

    def check(self) -> None:
        width, heads = self.model.width, self.model.heads
        fits = width % 2 == 0 and width % heads == 0
        require(fits, "model.width", width, f"even, and a multiple of model.heads = {heads}")


class Outputs(family.Outputs):
    """By modality, Float[batch, dim]: u, h^c, h^p, and u made again; and who has the modality, Bool[batch]."""

    vectors: dict[str, Array]
    shared: dict[str, Array]
    private: dict[str, Array]
    decoded: dict[str, Array]
    present: dict[str, Array]


class Reader(nnx.Module):
    """Time steps -> u."""

    def __init__(self, feat: int, width: int, *, rngs: nnx.Rngs):
        self.half = width // 2
        self.lstm = Recurrent(feat, width, kind="lstm", ahead=True, rngs=rngs)
        self.project = nnx.Linear(width, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch time feat"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch dim"]:
        states = self.lstm(x, mask)  # padding passes them on
        ends = states[:, -1, : self.half], states[:, 0, self.half :]
        return self.norm(self.project(jnp.concatenate(ends, axis=-1)))


class MISA(nnx.Module):
    """widths: features per time step of each modality, in order. outputs: how many logits."""

    def __init__(
        self,
        settings: MISASettings,
        *,
        widths: Mapping[str, int],
        outputs: int,
        context: MakeContext = None,
        rngs: nnx.Rngs,
    ):
        width, rate = settings.width, settings.dropout
        self.modalities = tuple(widths)
        self.readers = nnx.Dict({m: Reader(feat, width, rngs=rngs) for m, feat in widths.items()})
        self.shared = nnx.Linear(width, width, rngs=rngs)
        self.private = nnx.Dict({m: nnx.Linear(width, width, rngs=rngs) for m in widths})
        self.decoder = nnx.Linear(width, width, rngs=rngs)
        self.transformer = PostNormLayer(width, settings.heads, rate, rngs=rngs)
        self.fusion = ReLULayers(2 * len(widths) * width, [width], rate, rngs=rngs)
        self.head = Head(width, outputs, rate, context, rngs=rngs)

    def __call__(self, batch: AnyBatch, *, key: PRNGKeyArray | None = None) -> Outputs:
        first, last = split_key(key, 2)
        utterance, parts = by_group(self._encode, batch, first)
        found: Any = {**self.head(utterance, {}, batch, key=last), **parts}
        return found

    def _encode(
        self, batch: Batch, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "batch dim"], dict[str, dict[str, Array]]]:
        first, last = split_key(key, 2)
        vectors = {m: self.readers[m](batch.features[m], batch.mask[m]) for m in self.modalities}
        shared = {m: nnx.sigmoid(self.shared(u)) for m, u in vectors.items()}
        private = {m: nnx.sigmoid(self.private[m](u)) for m, u in vectors.items()}
        decoded = {m: self.decoder(shared[m] + private[m]) for m in self.modalities}
        present = {m: batch.mask[m].any(1) for m in self.modalities}
        parts = {"vectors": vectors, "shared": shared, "private": private, "decoded": decoded, "present": present}
        stack = jnp.stack([*shared.values(), *private.values()], axis=1)
        there = jnp.stack([*present.values()] * 2, axis=1)
        heard = self.transformer(stack, stack, there, key=first)
        return self.fusion(heard.reshape(heard.shape[0], -1), key=last), parts


def row_mean(x: Float[Array, "batch dim"], weight: Float[Array, "batch"]) -> Float[Array, "dim"]:
    """The mean over the rows, a row counting for its weight; zero where there is none."""
    return jnp.einsum("bd,b->d", x, weight) / jnp.maximum(weight.sum(), 1)


def moment_discrepancy(
    x: Float[Array, "batch dim"], y: Float[Array, "batch dim"], weight: Float[Array, "batch"]
) -> Float[Array, ""]:
    """CMD (Zellinger et al. 2017, arXiv 1702.08811) of two samples of numbers from 0 to 1."""

    def apart(a: Float[Array, "dim"], b: Float[Array, "dim"]) -> Float[Array, ""]:
        return jnp.sqrt(jnp.square(a - b).sum() + 1e-24)  # of zero the gradient is zero

    means = row_mean(x, weight), row_mean(y, weight)
    x, y = x - means[0][None], y - means[1][None]
    return sum((apart(row_mean(x**k, weight), row_mean(y**k, weight)) for k in range(2, 6)), apart(*means))


def overlap(
    x: Float[Array, "batch dim"], y: Float[Array, "batch dim"], weight: Float[Array, "batch"]
) -> Float[Array, ""]:
    """|| X' Y ||_F^2 of the rows without their mean, each made one long; X' Y is a mean over the rows."""
    x, y = (unit(sample - row_mean(sample, weight)[None]) for sample in (x, y))
    return jnp.square(jnp.einsum("bi,bj->ij", x * weight[:, None], y) / jnp.maximum(weight.sum(), 1)).sum()


def objective(
    config: MISAExperiment, outputs: Outputs, batch: AnyBatch, prior: Any, *, task: Task
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The task's loss and the three terms, weighted. One modality has nothing to be similar to."""
    settings, shared, private = config.loss, outputs["shared"], outputs["private"]
    loss = task.loss(outputs["logits"], batch.targets, batch.weight, prior=prior, settings=settings)
    has = {m: jnp.where(there, batch.weight, 0) for m, there in outputs["present"].items()}
    pairs = list(itertools.combinations(shared, 2))
    similarity = [moment_discrepancy(shared[a], shared[b], has[a] * has[b]) for a, b in pairs]
    apart = [overlap(shared[m], private[m], has[m]) for m in shared]
    apart += [overlap(private[a], private[b], has[a] * has[b]) for a, b in pairs]
    errors = {m: jnp.square(outputs["decoded"][m] - u).mean(-1) for m, u in outputs["vectors"].items()}
    terms = {
        "classification": loss,
        "similarity": sum(similarity, jnp.zeros_like(loss)) / max(1, len(pairs)),
        "difference": sum(apart, jnp.zeros_like(loss)),
        "reconstruction": sum(weighted_mean(error, has[m]) for m, error in errors.items()) / len(errors),
    }
    weights = {name: getattr(settings, name) for name in terms if name != "classification"}
    return loss + sum(weight * terms[name] for name, weight in weights.items()), terms


def build(config: MISAExperiment, manifest: Manifest, task: Task) -> family.Family:
    """MISA for a corpus."""
    return build_with(MISA, SENTENCE, config, manifest, task, objective=objective)
