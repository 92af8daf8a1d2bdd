"""The unimodal label generation module of Self-MM (Yu et al. 2021, arXiv 2102.04830).

An utterance's representation F_m of all modalities and F_s of modality s are compared with the centres of all training
utterances, as they were at their last visits: C_positive of those with y_m > 0, C_negative of those with y_m < 0. Where
an utterance lies between them is alpha, and how far s lies elsewhere moves its label:

    D = |F - C|^2 / sqrt(width),    alpha = (D_negative - D_positive) / (D_positive + epsilon)
    y_s = y_m + (alpha_s - alpha_m) / 2 * (y_m + alpha_m) / alpha_m
    y_s^(1) = y_m,    y_s^(i) = (i - 1) / (i + 1) y_s^(i - 1) + 2 / (i + 1) y_s,    i the visit of the utterance

Ours: y_m may be several numbers from -1 to 1, each with centres of its own; y_s is held within -1 and 1, and alpha_m
off 0; where there is no utterance on one side, labels stay; an utterance that lacks s is not visited for s."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

EPSILON = 1e-6


class Remembered(nnx.Variable):
    """What is kept of training utterances; no optimiser changes it."""


class Memory(nnx.Module):
    """One representation of every utterance and its label, as they were at its last visit, and how many it had."""

    def __init__(self, utterances: int, width: int, outputs: int):
        self.features = Remembered(jnp.zeros((utterances, width)))
        self.labels = Remembered(jnp.zeros((utterances, outputs)))
        self.visits = Remembered(jnp.zeros(utterances, jnp.int32))

    def alpha(
        self, x: Float[Array, "batch dim"], of_all: Float[Array, "utterances outputs"]
    ) -> tuple[Float[Array, "batch outputs"], Bool[Array, "outputs"]]:
        """Where x lies between the centres of every output, and of which there are both. of_all: y_m of everybody."""
        negative, any_negative = self._distance(x, of_all < 0)
        positive, any_positive = self._distance(x, of_all > 0)
        return (negative - positive) / (positive + EPSILON), any_negative & any_positive

    def _distance(
        self, x: Float[Array, "batch dim"], side: Bool[Array, "utterances outputs"]
    ) -> tuple[Float[Array, "batch outputs"], Bool[Array, "outputs"]]:
        counted = (side & (self.visits[...] > 0)[:, None]).astype(x.dtype)
        count = counted.sum(0)
        centre = jnp.einsum("no,nd->od", counted, self.features[...]) / jnp.maximum(count, 1)[:, None]
        return jnp.square(x[:, None] - centre[None]).sum(-1) * x.shape[1] ** -0.5, count > 0

    def write(
        self, at: Int[Array, "batch"], x: Float[Array, "batch dim"], labels: Float[Array, "batch outputs"]
    ) -> None:
        """at: which utterances these are; beyond the last one nothing is written."""
        self.features[...] = self.features[...].at[at].set(x, mode="drop")
        self.labels[...] = self.labels[...].at[at].set(labels, mode="drop")
        self.visits[...] = self.visits[...].at[at].add(1, mode="drop")


class UnimodalLabels(nnx.Module):
    """What is remembered of a run's training utterances. fused: F_m and y_m; single[s]: F_s and y_s."""

    def __init__(self, modalities: Sequence[str], utterances: int, width: int, outputs: int):
        self.fused = Memory(utterances, width, outputs)
        self.single = nnx.Dict({m: Memory(utterances, width, outputs) for m in modalities})

    def visit(
        self,
        position: Int[Array, "batch"],
        counts: Bool[Array, "batch"],
        truth: Float[Array, "batch outputs"],
        fused: Float[Array, "batch dim"],
        single: Mapping[str, Float[Array, "batch dim"]],
        present: Mapping[str, Bool[Array, "batch"]],
    ) -> dict[str, Float[Array, "batch outputs"]]:
        """The labels y_s from before this visit; afterwards what belongs to the rows that count is remembered.

        position: see `Batch`. truth: y_m, 0 where it is not known. present[s]: who has modality s."""
        of_all = self.fused.labels[...]
        truth, fused, single = jax.tree.map(
            lambda x: jax.lax.stop_gradient(x).astype(of_all.dtype), (truth, fused, dict(single))
        )
        own, at = jnp.maximum(position, 0), places(position, counts, len(of_all))
        alpha_m, both_m = self.fused.alpha(fused, of_all)
        labels = {}
        for m, memory in self.single.items():
            visit = (memory.visits[...][own] + 1)[:, None]
            labels[m] = jnp.where(visit > 1, memory.labels[...][own], truth)
            alpha_s, both_s = memory.alpha(single[m], of_all)
            made = jnp.clip(shifted(truth, alpha_s, alpha_m), -1, 1)
            moved = labels[m] + 2 / (visit + 1).astype(made.dtype) * (made - labels[m])
            after = jnp.where((visit > 1) & (both_m & both_s)[None], moved, labels[m])
            memory.write(jnp.where(present[m], at, len(of_all)), single[m], after)
        self.fused.write(at, fused, truth)
        return labels


def shifted(
    truth: Float[Array, "batch outputs"], alpha_s: Float[Array, "batch outputs"], alpha_m: Float[Array, "batch outputs"]
) -> Float[Array, "batch outputs"]:
    """y_s of y_m."""
    alpha_m = jnp.where(jnp.abs(alpha_m) < EPSILON, EPSILON, alpha_m)
    return truth + (alpha_s - alpha_m) / 2 * (truth + alpha_m) / alpha_m


def places(position: Int[Array, "batch"], counts: Bool[Array, "batch"], none: int) -> Int[Array, "batch"]:
    """The positions of the rows that count, `none` of the others; of an utterance that is there twice the last one."""
    row = jnp.arange(position.shape[0])
    again = (position[:, None] == position[None]) & counts[None] & (row[:, None] < row[None])
    return jnp.where(counts & ~again.any(1), position, none)
