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
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mer_jax import config as config_lib
from mer_jax.config import Experiment, LossSettings, _require, _split
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import deepmsi_mer_frames as deepmsi_mer_frames_lib
from mer_jax.models import family as family_lib
from mer_jax.models import functional
from mer_jax.models import vsc as vsc_lib
from mer_jax.models.deepmsi_mer_frames import backbone_arguments, is_frozen
from mer_jax.models.family import shared_settings, widths_of
from mer_jax.models.layers import Number, drop_steps, dropout, masked_mean, split_key, sweepable, unit, value_of
from mer_jax.models.losses import Number, contrastive, cross_entropy, weighted_mean
from mer_jax.models.swin import SwinV2
from mer_jax.models.tcn import TCN
from mer_jax.runtime import console
from mer_jax.training import replicas


@dataclasses.dataclass
class DeepMSISettings:
    """DeepMSI-MER (arXiv 2502.08573) on features; sizes here are ours, the published ones are in configs/deepmsi_mer.py."""

    variant: str = "fixed"  # fixed (as the paper means it) | published (as the official code computes it)
    vsc: bool = True  # visual sequence compression; False = the TCN reads every frame
    keep: float = 0.5  # share of the frames (of a frame's tokens, where it has several) that VSC keeps [ours]
    threshold: float = 0.6  # VSC merges a dropped frame into the kept ones that are more similar than this (cosine)
    alpha: float = 0.9  # share of the kept frame in the merged one
    pool: str = (
        "attention"  # how sequences of text and audio become one vector: mean | attention (one learned query) [ours]
    )
    early_width: int = 128
    tcn_widths: tuple[int, ...] = (128, 128, 128)  # one block each; block l looks 2^l steps back
    tcn_kernel: int = 3
    projection: int = 256
    late_widths: tuple[int, ...] = (256, 128)
    dropout: float = 0.3  # in the late fusion
    early_dropout: float = 0.1
    tcn_dropout: float = 0.3
    projection_dropout: float = 0.2
    modality_dropout: float = 0.0  # share of samples of which one modality is hidden while training


@dataclasses.dataclass
class ContrastiveSettings(LossSettings):
    contrastive: float = 0.5  # weight of the contrastive loss beside the classification loss; 0 = none
    temperature: float = 0.5
    learn_temperature: bool = False  # start from `temperature` and learn it
    pairs: tuple[str, ...] = (
        "visual-text",
        "visual-audio",
        "text-audio",
    )  # anchor-other; those the run does not have are left out
    per_positive: bool = True  # mean over an anchor's positives; False = their sum over batch - 1, as published


@dataclasses.dataclass
class DeepMSIExperiment(Experiment):
    experiment: str = "deepmsi_mer"
    model: DeepMSISettings = dataclasses.field(default_factory=DeepMSISettings)
    loss: ContrastiveSettings = dataclasses.field(default_factory=ContrastiveSettings)


def _validate_deepmsi(config: DeepMSIExperiment) -> None:
    for name in ("tcn_widths", "late_widths"):
        widths = getattr(config.model, name)
        _require(len(widths) > 0 and min(widths) > 0, f"model.{name}", widths, "one or more positive numbers")
    config.loss.pairs = _split(config.loss.pairs)
    for pair in config.loss.pairs:
        anchor, _, other = pair.partition("-")
        _require(len({anchor, other} & {"text", "audio", "visual"}) == 2, "loss.pairs", ",".join(config.loss.pairs),
                 "pairs of two different modalities, as in --config.loss.pairs=visual-text,visual-audio")  # fmt: skip
    if config.model.variant == "published":
        _require(config.optim.average == 0, "optim.average", config.optim.average,
                 "0 with model.variant=published: its BatchNorm statistics belong to the weights as trained")  # fmt: skip
        _require(config.train.accumulate == 1, "train.accumulate", config.train.accumulate,
                 "1 with model.variant=published: its BatchNorm takes the mean of the whole batch")  # fmt: skip
    unknown = set(config.data.modalities) - {"text", "audio", "visual"}
    _require(
        not unknown, "data.modalities", ",".join(config.data.modalities), "among text, audio, visual for DeepMSI-MER"
    )


def fusion_objective(
    logits: Float[Array, "batch classes"],
    projections: dict[str, Float[Array, "batch dim"]],
    present: dict[str, Bool[Array, "batch"]],
    temperature: Float[Array, ""],
    label: Int[Array, "batch"],
    target: Float[Array, "batch classes"],
    weight: Float[Array, "batch"],
    *,
    prior: Float[Array, "classes"],
    contrastive_weight: Number,
    pairs: tuple[str, ...],
    per_positive: bool,
    imbalance: str,
    focal_gamma: Number,
    label_smoothing: Number,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """DeepMSI-MER's total: mean classification loss + contrastive_weight * mean over `pairs` ("anchor-other", those whose
    two modalities are there, over the samples that have both) of the contrastive loss; the terms by name, with the number of
    positive pairs."""
    classification = cross_entropy(
        logits, target, prior=prior, imbalance=imbalance, focal_gamma=focal_gamma, label_smoothing=label_smoothing
    )
    terms = {"classification": weighted_mean(classification, weight)}
    names = [pair.split("-") for pair in pairs]
    found = [
        contrastive(
            projections[a],
            projections[b],
            label,
            jnp.where(present[a] & present[b], weight, 0),
            temperature=temperature,
            per_positive=per_positive,
        )
        for a, b in names
        if a in projections and b in projections
    ]
    if not found or (isinstance(contrastive_weight, float | int) and contrastive_weight == 0):
        return terms["classification"], terms
    terms["contrastive"] = jnp.stack([loss for loss, _ in found]).mean()
    terms["positive_pairs"] = jnp.stack([count for _, count in found]).sum()
    return terms["classification"] + contrastive_weight * terms["contrastive"], terms


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
    kept: vsc_lib.Kept | None


class MLPBlock(nnx.Module):
    """Dense, norm, LeakyReLU(0.01), dropout; the norm is BatchNorm as published, else LayerNorm."""

    def __init__(self, inputs: int, outputs: int, rate: Number, *, published: bool, rngs: nnx.Rngs):
        self.rate, self.published = sweepable(rate), published
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
        self.rate = sweepable(rate)
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
        self.vsc, self.keep, self.threshold, self.alpha = vsc, keep, sweepable(threshold), sweepable(alpha)
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
        self.temperature = sweepable(temperature)
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
        temperature = jnp.asarray(value_of(self.temperature, jnp.float32), jnp.float32)
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
    ) -> tuple[Float[Array, "batch kept dim"], Bool[Array, "batch kept"], vsc_lib.Kept | None]:
        """The frames that the TCN reads, in order, which of them are real, and `kept` of the outputs."""
        x, mask = batch.features["visual"], batch.mask["visual"]
        guide = None
        if self.early is not None:
            guide = self.early(
                jnp.concatenate([pooled[m] for m in ("text", "audio") if m in pooled], -1), real, key=key
            )
        elif self.guide is not None:
            guide = jnp.broadcast_to(self.guide[...], (x.shape[0], *self.guide.shape))
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
    ) -> tuple[Float[Array, "batch kept dim"], Bool[Array, "batch kept"], vsc_lib.Kept | None]:
        """What VSC leaves of the tokens, and what became of each; all of them without it."""
        if not self.vsc:
            return x, mask, None
        threshold, alpha = value_of(self.threshold, x.dtype), value_of(self.alpha, x.dtype)
        found = vsc_lib.compress(
            x, mask, guide, keep=self.keep, threshold=threshold, alpha=alpha, published=self.published
        )
        return found.tokens, found.mask, found.kept


def deepmsi_family(config: DeepMSIExperiment, corpus: Manifest) -> Any:
    visual = corpus.modalities["visual"] if "visual" in config.data.modalities else {"longest": 0}
    tokens = visual.get("tokens", 1)
    backbone = None
    if isinstance(config, deepmsi_mer_frames_lib.DeepMSIFramesExperiment):
        backbone = backbone_arguments(config)
        if config.backbone.tune != "all" and not config.backbone.weights:
            console.console.print(
                f"note: backbone.tune={config.backbone.tune} without backbone.weights: what does not learn is random"
            )
    compress = config.model.vsc and backbone is None
    if compress and visual["longest"] * tokens == 1:
        console.console.print("every clip is one visual vector: there is nothing to compress, VSC is off")
        compress = False
    compared = [pair for pair in config.loss.pairs if set(pair.split("-")) <= set(config.data.modalities)]
    attended = tuple(
        m
        for m in config.data.modalities
        if m != "visual" and config.model.pool == "attention" and corpus.modalities[m]["longest"] > 1
    )
    swept = "loss.contrastive" in replicas.swept_fields(config)
    learned = config.loss.learn_temperature and bool(compared) and (config.loss.contrastive > 0 or swept)

    def arguments(values: dict[str, Any]) -> dict[str, Any]:
        here = config_lib.with_values(config, values)
        model = {k: v for k, v in vars(here.model).items() if k != "pool"}
        vsc = {"threshold": model["threshold"], "alpha": model["alpha"]}
        return model | {
            "backbone": None if backbone is None else backbone | vsc, "vsc": compress, "classes": len(corpus.labels), "tokens": tokens, "attended": attended,
            "temperature": here.loss.temperature, "learn_temperature": learned, "widths": widths_of(config, corpus),
        }  # fmt: skip

    def learning(given: family_lib.ReplicaInputs) -> Any:
        settings = dict(vars(config_lib.with_values(config, given.values).loss))
        weight = settings.pop("contrastive")
        for name in ("learn_temperature", "temperature"):
            del settings[name]

        def loss(outputs: Outputs, batch: Batch) -> Any:
            return fusion_objective(
                outputs["logits"], outputs["projections"], outputs["present"], outputs["temperature"], batch.label, batch.target,
                batch.weight, prior=given.prior, contrastive_weight=weight, **settings,
            )  # fmt: skip

        return loss, lambda old, new, outputs, batch: new

    return functional.functionalize(
        DeepMSIMER, arguments, **shared_settings(config), frozen=is_frozen(config)
    ), learning
