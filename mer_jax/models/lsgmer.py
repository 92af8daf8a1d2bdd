"""LSGMER: Leveraging Label Potential for Enhanced Multimodal Emotion Recognition (arXiv 2504.05158).

The paper's equations for H_2, w, H and the moving average are followed to the letter; it leaves open how H_0 and H_1
are made, how the classes axis is reduced and how the modalities are fused. Those are ours, each behind a setting."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.config import Experiment, require
from mer_jax.data.batch import AnyBatch, Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.context import Context, context_of
from mer_jax.models.conversation import by_group
from mer_jax.models.layers import (
    BiGRU,
    MultiHeadAttention,
    Number,
    TransformerLayer,
    drop_steps,
    dropout,
    is_off,
    masked_mean,
    split_key,
    sweepable,
    unit,
    value_of,
)
from mer_jax.models.losses import weighted_mean
from mer_jax.settings import LossSettings, ModelSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = (
    "LSGMER (arXiv 2504.05158): label embeddings attend to every modality, and a joint objective ties the fused"
    " feature's similarity to the labels to the prediction"
)


@dataclasses.dataclass
class LSGMERSettings(ModelSettings):
    """LSGMER (arXiv 2504.05158). Every default here is ours; the paper states none."""

    width: int = setting(256, at_least=1)
    heads: int = setting(4, at_least=1)
    encoder: str = setting("transformer", choices=("transformer", "gru"))  # makes H_1
    dropout: float = setting(0.3, below=1, swept=True)  # before the classifier
    input_dropout: float = setting(0.0, below=1, swept=True)  # on the standardised features
    # On the residual branches of the transformer layer; on the GRU's output.
    encoder_dropout: float = setting(0.2, below=1, swept=True)
    time_dropout: float = setting(0.0, below=1)  # share of time steps hidden while training
    modality_dropout: float = setting(0.0, below=1)  # share of samples of which one modality is hidden while training
    lse: bool = True  # label signal enhancement; False = mean over time of H_1
    gate: bool = True  # w = sigmoid(H_2); False = 1
    # How the classes axis is reduced.
    reduce: str = setting("mean", choices=("mean", "max", "attention", "cosine", "rows"))
    fusion: str = setting("concat", choices=("concat", "gated"))
    label_init: str = setting("words", choices=("words", "random"))
    # L' is the table after its optimiser step, or the class means of the fused features.
    label_update: str = setting("optimizer", choices=("optimizer", "class_mean"))
    label_average: float = setting(0.9, below=1, swept=True)  # alpha; 0 = no moving average


@dataclasses.dataclass
class JointObjectiveSettings(LossSettings):
    """JOO: the classification loss and APC."""

    apc: float = setting(0.5, at_least=0, swept=True)  # lambda, weight of APC beside the classification loss; 0 = none
    # tau of APC's q = softmax(cos / tau), and of model.reduce=cosine; 1 = the paper's formula to the letter.
    temperature: float = setting(0.1, above=0, swept=True)


@dataclasses.dataclass
class LSGMERExperiment(Experiment):
    """LSGMER on any modalities."""

    reads_conversations: ClassVar[bool] = True
    experiment: str = "lsgmer"
    model: LSGMERSettings = group(LSGMERSettings)
    loss: JointObjectiveSettings = group(JointObjectiveSettings)

    def check(self) -> None:
        model = self.model
        require(
            model.width % model.heads == 0, "model.width", model.width, f"a multiple of model.heads = {model.heads}"
        )
        even = model.encoder != "gru" or model.width % 2 == 0
        require(even, "model.width", model.width, "even when model.encoder is gru")
        rows = "optimizer when model.reduce is rows: there is no one fused feature to take the mean of"
        one_feature = model.reduce != "rows" or model.label_update != "class_mean"
        require(one_feature, "model.label_update", model.label_update, rows)
        require(model.lse or model.reduce == "mean", "model.reduce", model.reduce, "mean when model.lse is off")

    def check_task(self, task: Task) -> None:
        if why := task.no_divergence:
            uses = self.loss.apc != 0 or self.sweeps("loss.apc")
            right = f"0 for target {task.asked!r}: {why}. Add --config.loss.apc=0.0"
            require(not uses, "loss.apc", self.loss.apc, right)
        if why := task.no_members:
            means = self.model.label_update != "class_mean"
            words = f"optimizer for target {task.asked!r}: {why}"
            require(means, "model.label_update", self.model.label_update, words)


class Outputs(family.Outputs):
    """`classes` are the outputs of the task. similarity: cos(H, L), Float[batch, classes]. fused: H, Float[batch,
    (classes,) dim]. feature: what is classified, with `rows` the mean over them. attention[m]: of each label over the
    time steps, mean of the heads; none without LSE."""

    similarity: Array
    fused: Array


class Branch(nnx.Module):
    """One modality up to its enhanced feature: [batch, classes, dim] with LSE, [batch, 1, dim] without."""

    def __init__(self, feat: int, settings: LSGMERSettings, *, rngs: nnx.Rngs):
        width, heads = settings.width, settings.heads
        self.gate, self.input_dropout = settings.gate, sweepable(settings.input_dropout)
        self.project = nnx.Linear(feat, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.encoder = (
            TransformerLayer(width, heads, settings.encoder_dropout, rngs=rngs)
            if settings.encoder == "transformer"
            else BiGRU(width, settings.encoder_dropout, rngs=rngs)
        )
        self.lse = MultiHeadAttention(width, heads, rngs=rngs) if settings.lse else None

    def __call__(
        self,
        x: Float[Array, "batch time feat"],
        mask: Bool[Array, "batch time"],
        labels: Float[Array, "classes dim"],
        *,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "batch rows dim"], Float[Array, "batch rows time"] | None]:
        """The enhanced feature, and what the labels attended to."""
        first, second = split_key(key, 2)
        projected = self.norm(self.project(dropout(x, self.input_dropout, first)))
        h0 = masked_mean(projected, mask)[:, None]
        h1 = self.encoder(projected, mask, key=second)
        if self.lse is None:
            return masked_mean(h1, mask)[:, None], None
        queries = jnp.broadcast_to(labels, (x.shape[0], *labels.shape))
        h2, attended = self.lse(queries, h1, mask)  # H_2 = Attention(L, H_1, H_1)
        # H = w * H_0 + H_2, w = sigmoid(H_2)
        return (nnx.sigmoid(h2) * h0 if self.gate else h0) + h2, attended.mean(1)


class LSGMER(nnx.Module):
    """Any number of modalities -> emotion logits and the similarity of the fused feature to the label embeddings.

    widths: features per modality, in order. label_words: Float[classes, any], embeddings of the label words.
    temperature: of the reduction `cosine`. context: see `context_of`."""

    def __init__(
        self,
        settings: LSGMERSettings,
        *,
        widths: Mapping[str, int],
        label_words: np.ndarray,
        temperature: Number,
        context: Callable[[int, nnx.Rngs], Context] | None = None,
        rngs: nnx.Rngs,
    ):
        width, classes = settings.width, len(label_words)
        self.modalities = tuple(widths)
        self.dropout, self.reduce, self.temperature = (
            sweepable(settings.dropout),
            settings.reduce,
            sweepable(temperature),
        )
        self.time_dropout, self.modality_dropout = settings.time_dropout, settings.modality_dropout
        self.branches = nnx.Dict({m: Branch(feat, settings, rngs=rngs) for m, feat in widths.items()})
        self.labels = nnx.Param(initial_labels(label_words, width, settings.label_init, rngs.params()))
        if self.reduce == "attention":
            self.pool = nnx.Linear(width, 1, use_bias=False, rngs=rngs)
        self.fusion = settings.fusion if len(widths) > 1 else "concat"  # one modality has nothing to weigh
        if self.fusion == "gated":
            self.fusion_gate = nnx.Linear(len(widths) * width, len(widths) * width, rngs=rngs)
            self.fuse = nnx.Linear(width, width, rngs=rngs)
        else:
            self.fuse = nnx.Linear(len(widths) * width, width, rngs=rngs)
        self.fuse_norm = nnx.LayerNorm(width, rngs=rngs)
        self.context = context(width, rngs) if context else None
        if self.reduce == "rows":
            self.classifier = nnx.Linear(width, 1, use_bias=False, rngs=rngs)
            self.row_bias = nnx.Param(jnp.zeros((classes,)))
        else:
            self.classifier = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, batch: AnyBatch, *, key: PRNGKeyArray | None = None) -> Outputs:
        last = self._keys(key)[-1]
        fused, attention = by_group(self._encode, batch, key)  # [batch, classes or 1, dim]
        utterance = fused.mean(1)
        if self.context is not None:
            # What the labels meet knows the dialogue; of rows through labels, each gets what their mean does.
            heard, memory = self.context(utterance, batch, key=split_key(last, 2)[0])
            fused = fused + (heard - utterance)[:, None]
        labels = self.labels[...]
        similarity = jnp.einsum("brd,cd->brc", unit(fused), unit(labels))
        logits = self.classifier(dropout(fused, self.dropout, last))
        found = Outputs(
            logits=logits[:, 0],
            similarity=similarity[:, 0],
            fused=fused[:, 0],
            feature=fused[:, 0],
            attention=attention,
        )
        if self.reduce == "rows":
            # Row c is the sample seen through label c: it is scored by itself and compared with its own label.
            found["logits"] = logits[..., 0] + self.row_bias[...][None]
            found["similarity"] = jnp.einsum("bcc->bc", similarity)
            found["fused"], found["feature"] = fused, fused.mean(1)
        if self.context is not None:
            found["utterance"], found["memory"] = utterance, memory
        return found

    def _keys(self, key: PRNGKeyArray | None) -> list[PRNGKeyArray | None]:
        """Of every modality's branch, of what is hidden, of the rest."""
        return split_key(key, len(self.modalities) + 2)

    def _encode(
        self, batch: Batch, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "batch rows dim"], dict[str, Float[Array, "batch classes _"]]]:
        """The fused feature of every utterance by itself, and what the labels attended to."""
        *keys, first, _ = self._keys(key)
        labels = self.labels[...]
        mask = drop_steps(batch.mask, self.time_dropout, self.modality_dropout, first)
        enhanced = {
            m: self.branches[m](batch.features[m], mask[m], labels, key=k)
            for m, k in zip(self.modalities, keys, strict=True)
        }
        rows = [h for h, _ in enhanced.values()]
        attention = {m: attended for m, (_, attended) in enhanced.items() if attended is not None}
        if self.reduce != "rows":
            rows = [self._reduce(h, labels)[:, None] for h in rows]
        return self._fuse(rows), attention

    def _reduce(
        self, h: Float[Array, "batch classes dim"], labels: Float[Array, "labels dim"]
    ) -> Float[Array, "batch dim"]:
        if self.reduce == "mean":
            return h.mean(1)
        if self.reduce == "max":
            return h.max(1)
        if self.reduce == "attention":
            score = self.pool(h)[..., 0]
        else:  # cosine: a class counts for as much as its row agrees with its label
            score = jnp.einsum("bcd,cd->bc", unit(h), unit(labels))
            score = score / value_of(self.temperature, score.dtype)
        return jnp.einsum("bc,bcd->bd", jax.nn.softmax(score, axis=-1), h)

    def _fuse(self, rows: list[Array]) -> Float[Array, "batch rows dim"]:
        joined = jnp.concatenate(rows, axis=-1)
        if self.fusion == "gated":  # per feature, a softmax over the modalities
            gates = jnp.stack(jnp.split(self.fusion_gate(joined), len(rows), axis=-1))
            joined = (jax.nn.softmax(gates, axis=0) * jnp.stack(rows)).sum(0)
        return self.fuse_norm(nnx.gelu(self.fuse(joined)))


def initial_labels(words: np.ndarray, width: int, how: str, key: PRNGKeyArray) -> Float[Array, "classes dim"]:
    """The label table at the start, rows of length about one: label words through a random Dense, or plain noise
    [ours]."""
    scale = width**-0.5
    if how == "random":
        return scale * jax.random.normal(key, (len(words), width))
    return unit(jnp.asarray(words)) @ (scale * jax.random.normal(key, (words.shape[1], width)))


def average_labels(
    old: Float[Array, "classes dim"], new: Float[Array, "classes dim"], alpha: Any
) -> Float[Array, "classes dim"]:
    """L_t = alpha L_(t-1) + (1 - alpha) L'_(t-1), written so that alpha = 0 returns L' bit for bit."""
    return new + alpha * (old - new)


def class_means(
    fused: Float[Array, "batch dim"],
    members: Float[Array, "batch classes"],
    weight: Float[Array, "batch"],
    labels: Float[Array, "classes dim"],
) -> Float[Array, "classes dim"]:
    """L' as a prototype memory: mean fused feature of each class in the batch, a row counting as far as it is a member
    (`Task.members`); a class not in it keeps its embedding."""
    member = members * weight[:, None]
    count = member.sum(0)[:, None]
    mean = jnp.einsum("bc,bd->cd", member, fused) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, labels)


def update_labels(
    config: LSGMERExperiment, old: dict[str, Any], new: dict[str, Any], outputs: Outputs, batch: AnyBatch, *, task: Task
) -> dict[str, Any]:
    """The new params with the label embeddings' moving average done.

    label_update "optimizer": L' is the table after the optimiser's step, so alpha slows that step down. "class_mean":
    L' is each class's mean fused feature, and the optimiser's step on the table is dropped."""
    target = new["labels"]
    if config.model.label_update == "class_mean":
        fused = jax.lax.stop_gradient(outputs["fused"])
        target = class_means(fused, task.members(batch.targets), batch.weight, old["labels"])
    return new | {"labels": average_labels(old["labels"], target, config.model.label_average)}


def objective(
    config: LSGMERExperiment, outputs: Outputs, batch: AnyBatch, prior: Any, *, task: Task
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """JOO of LSGMER: mean classification loss + lambda * mean APC, and the two terms by name.

    APC is JS(q, p), p = softmax(logits), q = softmax(cos(H, L) / temperature), or what takes its place where the task
    is another one: see `Task.divergence`. The paper has no temperature (= 1); without one q can hardly leave the
    uniform distribution."""
    settings = config.loss
    loss = task.loss(outputs["logits"], batch.targets, batch.weight, prior=prior, settings=settings)
    terms = {"classification": loss}
    if is_off(settings.apc):
        return loss, terms
    apart = task.divergence(outputs["logits"], outputs["similarity"] / settings.temperature)
    terms["apc"] = weighted_mean(apart, batch.weight)
    return loss + settings.apc * terms["apc"], terms


def build(config: LSGMERExperiment, manifest: Manifest, task: Task) -> family.Family:
    """LSGMER for a corpus, whose manifest embeds the words of its labels. Where the task has no classes, the labels are
    the names of its numbers or emotions [ours]."""
    words = task.label_words(manifest)
    widths = family.widths_of(config, manifest)

    def module(config: LSGMERExperiment, rngs: nnx.Rngs) -> LSGMER:
        return LSGMER(
            config.model,
            widths=widths,
            label_words=words,
            temperature=config.loss.temperature,
            context=context_of(config),
            rngs=rngs,
        )

    return family.Family(
        module=module,
        objective=functools.partial(objective, task=task),
        sentence=SENTENCE,
        after_update=functools.partial(update_labels, task=task),
        attribution_baseline=family.utterance_means,
    )
