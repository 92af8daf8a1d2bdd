"""DeepMSI-MER: multimodal semantic information fusion (arXiv 2502.08573), from pre-extracted features or from frames.

Text and audio guide the compression of the visual sequence (of every frame's tokens, in a Swin V2, where there are frames), a
TCN reads what is left, projection heads bring the modalities into one space for the contrastive loss, late fusion classifies.
Any non-empty set of the three modalities will do.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.batch import Batch
from mer_jax.models import vsc
from mer_jax.models.layers import Number, drop_steps, dropout, hold, masked_mean, number, split_key, unit
from mer_jax.models.swin import SwinV2
from mer_jax.models.tcn import TCN

MODALITIES = ("visual", "text", "audio")  # the order in which late fusion reads them


class Outputs(TypedDict):
    """logits: Float[batch, classes]; projections[m]: Float[batch, dim] of length 1; present[m]: Bool[batch], whether the sample has
    the modality; temperature of the contrastive loss: Float[]; feature: what is classified, Float[batch, dim]; attention[m]: of
    the pooling over the time steps, Float[batch, time]; kept: what VSC made of the frames, vsc.Kept of [batch, …], or of each
    frame's tokens, of [batch, time, …]; None without VSC"""

    logits: Array
    projections: dict[str, Array]
    present: dict[str, Array]
    temperature: Array
    feature: Array
    attention: dict[str, Array]
    kept: vsc.Kept | None


class MLPBlock(nnx.Module):
    """Dense, norm, LeakyReLU(0.01), dropout; the norm is BatchNorm as published, else LayerNorm."""

    def __init__(self, inputs: int, outputs: int, rate: Number, *, published: bool, rngs: nnx.Rngs):
        self.rate, self.published = hold(rate), published
        self.dense = nnx.Linear(inputs, outputs, rngs=rngs)
        self.norm: Any = (
            nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-5, rngs=rngs)
            if published
            else nnx.LayerNorm(outputs, rngs=rngs)
        )

    def __call__(
        self, x: Float[Array, "batch feat"], real: Bool[Array, "batch"], *, key: PRNGKeyArray | None
    ) -> Float[Array, "batch dim"]:
        """real: the rows that BatchNorm's statistics are of."""
        x = self.dense(x)
        x = self.norm(x, use_running_average=key is None, mask=real[:, None]) if self.published else self.norm(x)
        return dropout(nnx.leaky_relu(x, 0.01), self.rate, key)


class EarlyFusion(nnx.Module):
    """Pooled text and audio -> the guide t_cls, as wide as a visual token."""

    def __init__(self, inputs: int, hidden: int, outputs: int, rate: Number, *, published: bool, rngs: nnx.Rngs):
        self.hidden = MLPBlock(inputs, hidden, rate, published=published, rngs=rngs)
        self.out = nnx.Linear(hidden, outputs, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch feat"], real: Bool[Array, "batch"], *, key: PRNGKeyArray | None
    ) -> Float[Array, "batch dim"]:
        return self.out(self.hidden(x, real, key=key))


class ProjectionHead(nnx.Module):
    """p = W x; LayerNorm(p + dropout(W2 GELU(p)))"""

    def __init__(self, inputs: int, outputs: int, rate: Number, *, rngs: nnx.Rngs):
        self.rate = hold(rate)
        self.project = nnx.Linear(inputs, outputs, rngs=rngs)
        self.mix = nnx.Linear(outputs, outputs, rngs=rngs)
        self.norm = nnx.LayerNorm(outputs, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "batch feat"], *, key: PRNGKeyArray | None) -> Float[Array, "batch dim"]:
        p = self.project(x)
        return self.norm(p + dropout(self.mix(nnx.gelu(p, approximate=False)), self.rate, key))


class DeepMSIMER(nnx.Module):
    """Text, audio and visual features, any of them -> emotion logits and one projection per modality. Without text and audio
    a learned vector guides VSC [ours].

    backbone: arguments of `swin.SwinV2`, which then reads frames, compresses their tokens where it has `sides` and gives their
    mean (`vsc` and `keep` are of features only); None where visual steps are features.
    widths: features per time step of each modality; tokens: how many tokens lie side by side in a visual step (1: a step is
    a frame's one vector, and VSC works over the frames; more: VSC works inside every frame, whose tokens are then averaged).
    attended: of text and audio, those pooled over time by attention instead of the mean; for one vector it would be the same.
    """

    def __init__(
        self,
        *,
        widths: Mapping[str, int],
        tokens: int,
        backbone: Mapping[str, Any] | None,
        attended: tuple[str, ...],
        classes: int,
        variant: str,
        vsc: bool,
        keep: float,
        threshold: Number,
        alpha: Number,
        early_width: int,
        tcn_widths: tuple[int, ...],
        tcn_kernel: int,
        projection: int,
        late_widths: tuple[int, ...],
        dropout: Number,
        early_dropout: Number,
        tcn_dropout: Number,
        projection_dropout: Number,
        modality_dropout: float,
        temperature: Number,
        learn_temperature: bool,
        rngs: nnx.Rngs,
    ):
        self.modalities = tuple(m for m in MODALITIES if m in widths)
        self.tokens, self.published, self.modality_dropout = tokens, variant == "published", modality_dropout
        self.vsc, self.keep, self.threshold, self.alpha = vsc, keep, hold(threshold), hold(alpha)
        self.learn_temperature = learn_temperature
        zero = nnx.initializers.zeros  # attention starts as the mean
        self.queries = nnx.Dict(
            {m: nnx.Linear(widths[m], 1, use_bias=False, kernel_init=zero, rngs=rngs) for m in attended}
        )
        guides = sum(widths[m] for m in ("text", "audio") if m in widths)
        sizes = dict(widths)
        self.backbone = None if backbone is None else SwinV2(**backbone, rngs=rngs)
        if "visual" in widths:
            token = widths["visual"] // tokens
            guided = token if vsc else 0
            if self.backbone is not None:
                token, guided = self.backbone.width, self.backbone.guide_width
            self.early = (
                EarlyFusion(guides, early_width, guided, early_dropout, published=self.published, rngs=rngs)
                if guided and guides
                else None
            )
            alone = bool(guided) and not guides and not self.published
            self.guide = nnx.Param(jnp.zeros(guided)) if alone else None
            self.tcn = TCN(token, tcn_widths, tcn_kernel, tcn_dropout, he=not self.published, rngs=rngs)
            sizes["visual"] = tcn_widths[-1]
        self.heads = nnx.Dict(
            {m: ProjectionHead(sizes[m], projection, projection_dropout, rngs=rngs) for m in self.modalities}
        )
        inputs = (len(self.modalities) * projection, *late_widths)
        self.late = nnx.List(
            [
                MLPBlock(a, b, dropout, published=self.published, rngs=rngs)
                for a, b in zip(inputs, late_widths, strict=False)
            ]
        )
        self.classifier = nnx.Linear(late_widths[-1], classes, rngs=rngs)
        self.temperature = hold(temperature)
        if learn_temperature:
            self.log_temperature = nnx.Param(jnp.log(jnp.float32(temperature)))

    def __call__(self, batch: Batch, *, key: PRNGKeyArray | None = None) -> Outputs:
        hidden, early, tcn, *keys = split_key(key, 3 + len(self.modalities) + len(self.late))
        batch = dataclasses.replace(batch, mask=drop_steps(batch.mask, 0.0, self.modality_dropout, hidden))
        real = batch.weight > 0
        real = real | ~real.any()  # the mean of nothing is not a number
        heads, late = keys[: len(self.modalities)], keys[len(self.modalities) :]
        attention = {m: self._attend(m, batch.features[m], batch.mask[m]) for m in self.queries}
        pooled = {
            m: self._pool(batch.features[m], batch.mask[m], attention.get(m)) for m in self.modalities if m != "visual"
        }
        kept = None
        if "visual" in self.modalities:
            frames, mask, kept = self._compress(batch, pooled, real, early)
            pooled["visual"] = self.tcn.last(frames, mask, key=tcn)
        projections = {m: self.heads[m](pooled[m], key=k) for m, k in zip(self.modalities, heads, strict=True)}
        x = jnp.concatenate([projections[m] for m in self.modalities], axis=-1)
        for block, k in zip(self.late, late, strict=True):
            x = block(x, real, key=k)
        temperature = jnp.asarray(number(self.temperature, jnp.float32), jnp.float32)
        if self.learn_temperature:
            temperature = jnp.exp(self.log_temperature[...])
        return Outputs(
            logits=self.classifier(x),
            projections={m: unit(p) for m, p in projections.items()},
            present={m: batch.mask[m].any(1) for m in self.modalities},
            temperature=temperature,
            feature=x,
            attention=attention,
            kept=kept,
        )

    def _attend(
        self, modality: str, x: Float[Array, "batch time feat"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time"]:
        score = jnp.where(mask, self.queries[modality](x)[..., 0], -1e9)
        return jnp.where(mask, nnx.softmax(score, axis=1), 0)

    def _pool(
        self, x: Float[Array, "batch time feat"], mask: Bool[Array, "batch time"], attention: Array | None
    ) -> Float[Array, "batch feat"]:
        return masked_mean(x, mask) if attention is None else jnp.einsum("bt,btf->bf", attention, x)

    def _compress(
        self, batch: Batch, pooled: dict[str, Array], real: Array, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "batch kept dim"], Bool[Array, "batch kept"], vsc.Kept | None]:
        """The frames that the TCN reads, in order, which of them are real, and `kept` of the outputs."""
        x, mask = batch.features["visual"], batch.mask["visual"]
        guide = None
        if self.early is not None:
            guide = self.early(
                jnp.concatenate([pooled[m] for m in ("text", "audio") if m in pooled], -1), real, key=key
            )
        elif self.guide is not None:
            guide = jnp.broadcast_to(self.guide[...], (len(x), *self.guide.shape))
        if self.tokens == 1 and self.backbone is None:
            return self._keep(x, mask, guide)
        b, t = mask.shape
        if guide is not None:
            guide = jnp.broadcast_to(guide[:, None], (b, t, guide.shape[-1])).reshape(b * t, -1)
        if self.backbone is not None:
            key = None if key is None else jax.random.fold_in(key, 1)
            x, kept = self.backbone.look(x.reshape(b * t, *x.shape[2:]), guide, key=key)
            frames = x.mean(1)
        else:
            x = x.reshape(b * t, self.tokens, -1)
            each = jnp.broadcast_to(mask.reshape(-1)[:, None], x.shape[:2])
            x, each, kept = self._keep(x, each, guide)
            frames = masked_mean(x, each)
        return frames.reshape(b, t, -1), mask, jax.tree.map(lambda x: x.reshape(b, t, -1), kept)

    def _keep(
        self, x: Float[Array, "batch length dim"], mask: Bool[Array, "batch length"], guide: Array | None
    ) -> tuple[Float[Array, "batch kept dim"], Bool[Array, "batch kept"], vsc.Kept | None]:
        """What VSC leaves of the tokens, and what became of each; all of them without it."""
        if not self.vsc:
            return x, mask, None
        threshold, alpha = number(self.threshold, x.dtype), number(self.alpha, x.dtype)
        found = vsc.compress(x, mask, guide, keep=self.keep, threshold=threshold, alpha=alpha, published=self.published)
        return found.tokens, found.mask, found.kept
