"""DeepMSI-MER: multimodal semantic information fusion (arXiv 2502.08573), from pre-extracted features or from frames.

Text and audio guide the compression of the visual sequence (of every frame's tokens, in a Swin V2, where there are
frames), a TCN reads what is left, projection heads bring the modalities into one space for the contrastive loss, late
fusion classifies. Any non-empty set of the three modalities will do."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.config import Experiment, require, split_names
from mer_jax.data.batch import AnyBatch, Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family, vsc
from mer_jax.models.context import Context, context_of
from mer_jax.models.conversation import by_group
from mer_jax.models.fusion import EarlyFusion, MLPBlock, ProjectionHead, dense
from mer_jax.models.layers import Number, drop_steps, dropout, is_off, masked_mean, split_key, sweepable, unit, value_of
from mer_jax.models.losses import contrastive
from mer_jax.models.tcn import TCN
from mer_jax.settings import LossSettings, ModelSettings, group, setting
from mer_jax.tasks import Task

MODALITIES = ("visual", "text", "audio")  # the order in which late fusion reads them
SENTENCE = (
    "DeepMSI-MER (arXiv 2502.08573): text and audio guide the compression of the visual sequence, a temporal"
    " convolutional network reads it, and a contrastive loss aligns the modalities"
)


@dataclasses.dataclass
class DeepMSISettings(ModelSettings):
    """DeepMSI-MER on features. Sizes here are ours; the published ones are in configs/deepmsi_mer.py."""

    # fixed: as the paper means it; published: as the official code computes it.
    variant: str = setting("fixed", choices=("fixed", "published"))
    vsc: bool = True  # visual sequence compression; False = the TCN reads every frame
    # Share of the frames (of a frame's tokens, where it has several) that VSC keeps [ours].
    keep: float = setting(0.5, above=0, at_most=1)
    # VSC merges a dropped frame into the kept ones that are more similar than this (cosine).
    threshold: float = setting(0.6, at_least=-1, at_most=1, swept=True)
    alpha: float = setting(0.9, at_least=0, at_most=1, swept=True)  # share of the kept frame in the merged one
    # How sequences of text and audio become one vector; attention has one learned query [ours].
    pool: str = setting("attention", choices=("mean", "attention"))
    early_width: int = setting(128, at_least=1)
    tcn_widths: tuple[int, ...] = (128, 128, 128)  # one block each; block l looks 2^l steps back
    tcn_kernel: int = setting(3, at_least=1)
    projection: int = setting(256, at_least=1)
    late_widths: tuple[int, ...] = (256, 128)
    input_dropout: float = setting(0.0, below=1, swept=True)  # of the pooled text and audio features [ours]
    dropout: float = setting(0.3, below=1, swept=True)  # in the late fusion
    early_dropout: float = setting(0.1, below=1, swept=True)
    tcn_dropout: float = setting(0.3, below=1, swept=True)
    projection_dropout: float = setting(0.2, below=1, swept=True)
    modality_dropout: float = setting(0.0, below=1)  # share of samples of which one modality is hidden while training


@dataclasses.dataclass
class ContrastiveSettings(LossSettings):
    """The classification loss and the contrastive one."""

    # Weight of the contrastive loss beside the classification loss; 0 = none.
    contrastive: float = setting(0.5, at_least=0, swept=True)
    temperature: float = setting(0.5, above=0, swept=True)
    learn_temperature: bool = False  # start from `temperature` and learn it
    # anchor-other; those that the run does not have are left out.
    pairs: tuple[str, ...] = ("visual-text", "visual-audio", "text-audio")
    per_positive: bool = True  # mean over an anchor's positives; False = their sum over batch - 1, as published


@dataclasses.dataclass
class DeepMSIExperiment(Experiment):
    """DeepMSI-MER on pre-extracted features."""

    reads_conversations: ClassVar[bool] = True
    experiment: str = "deepmsi_mer"
    model: DeepMSISettings = group(DeepMSISettings)
    loss: ContrastiveSettings = group(ContrastiveSettings)

    def known_modalities(self) -> tuple[str, ...]:
        return ("text", "audio", "visual")

    def check(self) -> None:
        for name in ("tcn_widths", "late_widths"):
            widths = getattr(self.model, name)
            positive = len(widths) > 0 and min(widths) > 0
            require(positive, f"model.{name}", widths, "one or more positive numbers")
        self.loss.pairs = split_names(self.loss.pairs)
        for pair in self.loss.pairs:
            anchor, _, other = pair.partition("-")
            different = len({anchor, other} & set(self.known_modalities())) == 2
            example = "pairs of two different modalities, as in --config.loss.pairs=visual-text,visual-audio"
            require(different, "loss.pairs", ",".join(self.loss.pairs), example)
        if self.model.variant == "published":
            decay, pieces = self.optim.ema_decay, self.train.microbatches
            weights = "0 with model.variant=published: its BatchNorm statistics belong to the weights as trained"
            require(decay == 0, "optim.ema_decay", decay, weights)
            whole = "1 with model.variant=published: its BatchNorm takes the mean of the whole batch"
            require(pieces == 1, "train.microbatches", pieces, whole)
            alone = "none with model.variant=published: the official code reads one utterance at a time"
            require(self.data.context == "none", "data.context", self.data.context, alone)
        known = set(self.data.modalities) <= set(self.known_modalities())
        names = "among text, audio, visual for DeepMSI-MER"
        require(known, "data.modalities", ",".join(self.data.modalities), names)


class Outputs(family.Outputs):
    """projections[m]: Float[batch, dim] of length 1. present[m]: Bool[batch], whether the sample has the modality.
    temperature of the contrastive loss: Float[]. attention[m]: of the pooling over the time steps, Float[batch, time].
    kept: what VSC made of the frames, vsc.Kept of [batch, …], or of each frame's tokens, of [batch, time, …]; None
    without VSC."""

    projections: dict[str, Array]
    present: dict[str, Array]
    temperature: Array


@dataclasses.dataclass(frozen=True)
class VisualInput:
    """What a visual time step is. tokens: how many lie side by side in it (1: a step is a frame's one vector, and VSC
    works over the frames; more: VSC works inside every frame, whose tokens are then averaged). compress: whether VSC
    does. backbone(rngs): makes what reads frames instead (`swin.SwinV2`), compresses their tokens itself and gives
    their mean."""

    tokens: int = 1
    compress: bool = False
    backbone: Callable[[nnx.Rngs], nnx.Module] | None = None


class DeepMSIMER(nnx.Module):
    """Text, audio and visual features, any of them -> emotion logits and one projection per modality. Without text and
    audio a learned vector guides VSC [ours].

    widths: features per time step of each modality. outputs: how many logits. attended: of text and audio, those
    pooled over time by attention instead of the mean; for one vector it would be the same. temperature: of the
    contrastive loss. context: see `context_of`."""

    def __init__(
        self,
        settings: DeepMSISettings,
        *,
        widths: Mapping[str, int],
        visual: VisualInput,
        attended: tuple[str, ...],
        outputs: int,
        temperature: Number,
        learn_temperature: bool,
        context: Callable[[int, nnx.Rngs], Context] | None = None,
        rngs: nnx.Rngs,
    ):
        self.modalities = tuple(m for m in MODALITIES if m in widths)
        self.tokens, self.published = visual.tokens, settings.variant == "published"
        self.modality_dropout, self.input_dropout = settings.modality_dropout, sweepable(settings.input_dropout)
        self.vsc, self.keep = visual.compress, settings.keep
        self.threshold, self.alpha = sweepable(settings.threshold), sweepable(settings.alpha)
        self.learn_temperature = learn_temperature
        zero = nnx.initializers.zeros  # attention starts as the mean
        queries = {m: nnx.Linear(widths[m], 1, use_bias=False, kernel_init=zero, rngs=rngs) for m in attended}
        self.queries = nnx.Dict(queries)
        self.backbone: Any = None if visual.backbone is None else visual.backbone(rngs)
        sizes = dict(widths)
        if "visual" in widths:
            self._visual_layers(settings, widths, rngs)
            sizes["visual"] = settings.tcn_widths[-1]
        how: Any = {"published": self.published, "rngs": rngs}
        rate = settings.projection_dropout
        heads = {m: ProjectionHead(sizes[m], settings.projection, rate, **how) for m in self.modalities}
        self.heads = nnx.Dict(heads)
        late = (len(self.modalities) * settings.projection, *settings.late_widths)
        steps = zip(late, settings.late_widths, strict=False)
        self.late = nnx.List([MLPBlock(a, b, settings.dropout, **how) for a, b in steps])
        self.context = context(late[-1], rngs) if context else None
        self.classifier = dense(late[-1], outputs, **how)
        self.temperature = sweepable(temperature)
        if learn_temperature:
            self.log_temperature = nnx.Param(jnp.log(jnp.float32(temperature)))

    def _visual_layers(self, settings: DeepMSISettings, widths: Mapping[str, int], rngs: nnx.Rngs) -> None:
        """What guides VSC, and the TCN that reads what it leaves."""
        guides = sum(widths[m] for m in ("text", "audio") if m in widths)
        token = widths["visual"] // self.tokens
        guided = token if self.vsc else 0
        if self.backbone is not None:
            token, guided = self.backbone.width, self.backbone.guide_width
        hidden, rate = settings.early_width, settings.early_dropout
        published = self.published
        fuses = guided and guides
        self.early = EarlyFusion(guides, hidden, guided, rate, published=published, rngs=rngs) if fuses else None
        alone = bool(guided) and not guides and not self.published
        self.guide = nnx.Param(jnp.zeros(guided)) if alone else None
        he = not self.published
        self.tcn = TCN(token, settings.tcn_widths, settings.tcn_kernel, settings.tcn_dropout, he=he, rngs=rngs)

    def __call__(self, batch: AnyBatch, *, key: PRNGKeyArray | None = None) -> Outputs:
        x, projections, present, attention, kept = by_group(self._encode, batch, key)
        utterance = x
        if self.context is not None:
            x, memory = self.context(x, batch, key=None if key is None else jax.random.fold_in(key, 1))
        temperature = jnp.asarray(value_of(self.temperature, jnp.float32), jnp.float32)
        if self.learn_temperature:
            temperature = jnp.exp(self.log_temperature[...])
        found = Outputs(
            logits=self.classifier(x),
            projections=projections,
            present=present,
            temperature=temperature,
            feature=x,
            attention=attention,
            kept=kept,
        )
        if self.context is not None:
            found["utterance"], found["memory"] = utterance, memory
        return found

    def _encode(
        self, batch: Batch, key: PRNGKeyArray | None
    ) -> tuple[Array, dict[str, Array], dict[str, Array], dict[str, Array], vsc.Kept | None]:
        """Of every utterance by itself: what late fusion makes of it, Float[batch, dim]; `projections`, `present`,
        `attention` and `kept` of the outputs."""
        hidden, early, tcn, *keys = split_key(key, 3 + len(self.modalities) + len(self.late))
        batch = dataclasses.replace(batch, mask=drop_steps(batch.mask, 0.0, self.modality_dropout, hidden))
        real = batch.weight > 0
        real = real | ~real.any()  # the mean of nothing is not a number
        heads, late = keys[: len(self.modalities)], keys[len(self.modalities) :]
        attention = {m: self._attend(m, batch.features[m], batch.mask[m]) for m in self.queries}
        pooled = {
            m: self._pool(batch.features[m], batch.mask[m], attention.get(m)) for m in self.modalities if m != "visual"
        }
        inputs = split_key(None if hidden is None else jax.random.fold_in(hidden, 1), len(pooled))
        pooled = {m: dropout(x, self.input_dropout, k) for (m, x), k in zip(pooled.items(), inputs, strict=True)}
        kept = None
        if "visual" in self.modalities:
            frames, mask, kept = self._compress(batch, pooled, real, early)
            pooled["visual"] = self.tcn.last(frames, mask, key=tcn)
        projections = {m: self.heads[m](pooled[m], key=k) for m, k in zip(self.modalities, heads, strict=True)}
        x = jnp.concatenate([projections[m] for m in self.modalities], axis=-1)
        for block, k in zip(self.late, late, strict=True):
            x = block(x, real, key=k)
        present = {m: batch.mask[m].any(1) for m in self.modalities}
        return x, {m: unit(p) for m, p in projections.items()}, present, attention, kept

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
            guide = jnp.broadcast_to(self.guide[...], (x.shape[0], *self.guide.shape))
        if self.tokens == 1 and self.backbone is None:
            return self._keep(x, mask, guide)
        b, t = mask.shape
        if guide is not None:
            guide = jnp.broadcast_to(guide[:, None], (b, t, guide.shape[-1])).reshape(b * t, -1)
        if self.backbone is not None:
            key = None if key is None else jax.random.fold_in(key, 1)
            x, kept = self.backbone.tokens_and_kept(x.reshape(b * t, *x.shape[2:]), guide, key=key)
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
        threshold, alpha = value_of(self.threshold, x.dtype), value_of(self.alpha, x.dtype)
        found = vsc.compress(x, mask, guide, keep=self.keep, threshold=threshold, alpha=alpha, published=self.published)
        return found.tokens, found.mask, found.kept


def objective(
    config: DeepMSIExperiment, outputs: Outputs, batch: AnyBatch, prior: Any, *, task: Task
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean classification loss + weight * mean contrastive loss over the pairs whose two modalities are there, over the
    samples that have both; the terms by name, with the number of positive pairs."""
    settings, projections, present = config.loss, outputs["projections"], outputs["present"]
    loss = task.loss(outputs["logits"], batch.targets, batch.weight, prior=prior, settings=settings)
    terms = {"classification": loss}
    same = task.similar(batch.targets)
    found = [
        contrastive(
            projections[a],
            projections[b],
            same,
            jnp.where(present[a] & present[b], batch.weight, 0),
            temperature=outputs["temperature"],
            per_positive=settings.per_positive,
        )
        for a, b in (pair.split("-") for pair in settings.pairs)
        if a in projections and b in projections
    ]
    if not found or is_off(settings.contrastive):
        return loss, terms
    terms["contrastive"] = jnp.stack([loss for loss, _ in found]).mean()
    terms["positive_pairs"] = jnp.stack([count for _, count in found]).sum()
    return loss + settings.contrastive * terms["contrastive"], terms


def build(config: DeepMSIExperiment, manifest: Manifest, task: Task) -> family.Family:
    """DeepMSI-MER for a corpus of features."""
    steps = manifest.modalities.get("visual", {}) if "visual" in config.data.modalities else {}
    tokens, longest = steps.get("tokens", 1), steps.get("longest", 0)
    alone = config.model.vsc and longest * tokens == 1
    notes = ("every clip is one visual vector: there is nothing to compress, VSC is off",) if alone else ()
    compress = config.model.vsc and not alone
    return build_with(config, manifest, task, lambda config: VisualInput(tokens, compress), notes=notes)


def build_with(
    config: DeepMSIExperiment,
    manifest: Manifest,
    task: Task,
    visual: Callable[[Any], VisualInput],
    **more: Any,
) -> family.Family:
    """The family with what `visual(config)` says of the visual steps; `more` are further fields of `Family`."""
    pairs = [pair for pair in config.loss.pairs if set(pair.split("-")) <= set(config.data.modalities)]
    swept = config.sweeps("loss.contrastive")
    learned = config.loss.learn_temperature and bool(pairs) and (config.loss.contrastive > 0 or swept)
    sequences = [m for m in config.data.modalities if m != "visual" and manifest.modalities[m]["longest"] > 1]
    attended = tuple(sequences) if config.model.pool == "attention" else ()

    def module(config: DeepMSIExperiment, rngs: nnx.Rngs) -> DeepMSIMER:
        return DeepMSIMER(
            config.model,
            widths=family.widths_of(config, manifest),
            visual=visual(config),
            attended=attended,
            outputs=task.width,
            temperature=config.loss.temperature,
            learn_temperature=learned,
            context=context_of(config),
            rngs=rngs,
        )

    found = family.Family(
        module=module,
        objective=functools.partial(objective, task=task),
        sentence=SENTENCE,
        reached=lambda path: config.model.variant == "fixed" or path[0] != "early",
        # VSC keeps a share of the visual steps, and the TCN plans by how many there are.
        fixed_lengths=("visual",),
    )
    return dataclasses.replace(found, **more)
