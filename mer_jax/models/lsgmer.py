"""LSGMER: Leveraging Label Potential for Enhanced Multimodal Emotion Recognition (arXiv 2504.05158).

The paper's equations for H_2, w, H and the moving average are followed to the letter; it leaves open how H_0 and H_1 are
made, how the classes axis is reduced and how the modalities are fused. Those are ours, each behind an argument.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from mer_jax import config as config_lib
from mer_jax.config import Experiment, LossSettings, _require
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family as family_lib
from mer_jax.models import functional
from mer_jax.models.family import shared_settings, widths_of
from mer_jax.models.layers import (
    BiGRU,
    MultiHeadAttention,
    Number,
    TransformerLayer,
    drop_steps,
    dropout,
    masked_mean,
    split_key,
    sweepable,
    unit,
    value_of,
)
from mer_jax.models.losses import Number, cross_entropy, weighted_mean


@dataclasses.dataclass
class LSGMERSettings:
    """LSGMER (arXiv 2504.05158); every default here is ours, the paper states none."""

    width: int = 256
    heads: int = 4
    encoder: str = "transformer"  # H_1: transformer | gru
    dropout: float = 0.3  # before the classifier
    input_dropout: float = 0.0  # on the standardised features
    encoder_dropout: float = 0.2  # on the residual branches of the transformer layer; on the GRU's output
    time_dropout: float = 0.0  # share of time steps hidden while training
    modality_dropout: float = 0.0  # share of samples of which one modality is hidden while training
    lse: bool = True  # label signal enhancement; False = mean over time of H_1
    gate: bool = True  # w = sigmoid(H_2); False = 1
    reduce: str = "mean"  # over the classes axis: mean | max | attention | cosine | rows
    fusion: str = "concat"  # concat | gated
    label_init: str = "words"  # words | random
    label_update: str = "optimizer"  # L' is: optimizer (the table after its step) | class_mean (of the fused features)
    label_average: float = 0.9  # alpha; 0 = no moving average


@dataclasses.dataclass
class JointObjectiveSettings(LossSettings):
    apc: float = 0.5  # lambda, weight of APC beside the classification loss; 0 = none
    temperature: float = 0.1  # tau of q = softmax(cos / tau); 1 = the paper's formula to the letter


@dataclasses.dataclass
class LSGMERExperiment(Experiment):
    experiment: str = "lsgmer"
    model: LSGMERSettings = dataclasses.field(default_factory=LSGMERSettings)
    loss: JointObjectiveSettings = dataclasses.field(default_factory=JointObjectiveSettings)


def _validate_lsgmer(model: LSGMERSettings) -> None:
    _require(model.width % model.heads == 0, "model.width", model.width, f"a multiple of model.heads = {model.heads}")
    _require(
        model.encoder != "gru" or model.width % 2 == 0, "model.width", model.width, "even when model.encoder is gru"
    )
    _require(model.reduce != "rows" or model.label_update != "class_mean", "model.label_update", model.label_update,
             "optimizer when model.reduce is rows: there is no one fused feature to take the mean of")  # fmt: skip
    if not model.lse:
        _require(model.reduce == "mean", "model.reduce", model.reduce, "mean when model.lse is off")


def jensen_shannon(log_p: Float[Array, "batch classes"], log_q: Float[Array, "batch classes"]) -> Float[Array, "batch"]:
    """JS = KL(p || m)/2 + KL(q || m)/2, m = (p + q)/2, in nats: 0 for equal, at most ln 2. Takes log-probabilities."""
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)

    def kl(log_x: Array) -> Array:
        return (jnp.exp(log_x) * (log_x - log_m)).sum(-1)

    return 0.5 * (kl(log_p) + kl(log_q))


def apc(
    logits: Float[Array, "batch classes"], similarity: Float[Array, "batch classes"], temperature: Number
) -> Float[Array, "batch"]:
    """APC of LSGMER (arXiv 2504.05158): JS(q, p), p = softmax(logits), q = softmax(cos(H, L) / temperature).

    The paper has no temperature (= 1); without one q can hardly leave the uniform distribution.
    """
    return jensen_shannon(jax.nn.log_softmax(logits), jax.nn.log_softmax(similarity / temperature))


def joint_objective(
    logits: Float[Array, "batch classes"],
    similarity: Float[Array, "batch classes"],
    target: Float[Array, "batch classes"],
    weight: Float[Array, "batch"],
    *,
    prior: Float[Array, "classes"],
    apc_weight: Number,
    temperature: Number,
    imbalance: str,
    focal_gamma: Number,
    label_smoothing: Number,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """JOO of LSGMER: mean classification loss + apc_weight * mean APC, and the two terms by name. Numbers may be arrays."""
    classification = cross_entropy(
        logits, target, prior=prior, imbalance=imbalance, focal_gamma=focal_gamma, label_smoothing=label_smoothing
    )
    terms = {"classification": weighted_mean(classification, weight)}
    if isinstance(apc_weight, float | int) and apc_weight == 0:
        return terms["classification"], terms
    terms["apc"] = weighted_mean(apc(logits, similarity, temperature), weight)
    return terms["classification"] + apc_weight * terms["apc"], terms


class Outputs(TypedDict):
    """logits: Float[batch, classes]; similarity: cos(H, L), Float[batch, classes]; fused: H, Float[batch, (classes,) dim];
    feature: what is classified, Float[batch, dim], with `rows` the mean over them; attention[m]: of each label over the
    time steps, mean of the heads, Float[batch, classes, time]; none without LSE"""

    logits: Array
    similarity: Array
    fused: Array
    feature: Array
    attention: dict[str, Array]


class Branch(nnx.Module):
    """One modality up to its enhanced feature: [batch, classes, dim] with LSE, [batch, 1, dim] without."""

    def __init__(
        self,
        feat: int,
        width: int,
        heads: int,
        *,
        encoder: str,
        input_dropout: Number,
        encoder_dropout: Number,
        lse: bool,
        gate: bool,
        rngs: nnx.Rngs,
    ):
        self.gate, self.input_dropout = gate, sweepable(input_dropout)
        self.project = nnx.Linear(feat, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.encoder = (
            TransformerLayer(width, heads, encoder_dropout, rngs=rngs)
            if encoder == "transformer"
            else BiGRU(width, encoder_dropout, rngs=rngs)
        )
        self.lse = MultiHeadAttention(width, heads, rngs=rngs) if lse else None

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

    widths: features per modality, in order; label_words: Float[classes, any] embeddings of the label words.
    """

    def __init__(
        self,
        *,
        widths: Mapping[str, int],
        label_words: np.ndarray,
        width: int,
        heads: int,
        encoder: str,
        dropout: Number,
        input_dropout: Number,
        encoder_dropout: Number,
        time_dropout: float,
        modality_dropout: float,
        lse: bool,
        gate: bool,
        reduce: str,
        fusion: str,
        label_init: str,
        temperature: Number,
        rngs: nnx.Rngs,
    ):
        self.modalities = tuple(widths)
        self.dropout, self.reduce, self.temperature = sweepable(dropout), reduce, sweepable(temperature)
        self.time_dropout, self.modality_dropout = time_dropout, modality_dropout
        classes = len(label_words)
        self.branches = nnx.Dict(
            {
                m: Branch(
                    feat,
                    width,
                    heads,
                    encoder=encoder,
                    input_dropout=input_dropout,
                    encoder_dropout=encoder_dropout,
                    lse=lse,
                    gate=gate,
                    rngs=rngs,
                )
                for m, feat in widths.items()
            }
        )
        self.labels = nnx.Param(initial_labels(label_words, width, label_init, rngs.params()))
        if reduce == "attention":
            self.pool = nnx.Linear(width, 1, use_bias=False, rngs=rngs)
        self.fusion = fusion if len(widths) > 1 else "concat"  # one modality has nothing to weigh
        if self.fusion == "gated":
            self.fusion_gate = nnx.Linear(len(widths) * width, len(widths) * width, rngs=rngs)
            self.fuse = nnx.Linear(width, width, rngs=rngs)
        else:
            self.fuse = nnx.Linear(len(widths) * width, width, rngs=rngs)
        self.fuse_norm = nnx.LayerNorm(width, rngs=rngs)
        if reduce == "rows":
            self.classifier = nnx.Linear(width, 1, use_bias=False, rngs=rngs)
            self.row_bias = nnx.Param(jnp.zeros((classes,)))
        else:
            self.classifier = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, batch: Batch, *, key: PRNGKeyArray | None = None) -> Outputs:
        *keys, first, last = split_key(key, len(self.modalities) + 2)
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
        fused = self._fuse(rows)  # [batch, classes or 1, dim]
        similarity = jnp.einsum("brd,cd->brc", unit(fused), unit(labels))
        logits = self.classifier(dropout(fused, self.dropout, last))
        if self.reduce == "rows":
            # Row c is the sample seen through label c: it is scored by itself and compared with its own label.
            return Outputs(
                logits=logits[..., 0] + self.row_bias[...][None],
                similarity=jnp.einsum("bcc->bc", similarity),
                fused=fused,
                feature=fused.mean(1),
                attention=attention,
            )
        fused = fused[:, 0]
        return Outputs(
            logits=logits[:, 0], similarity=similarity[:, 0], fused=fused, feature=fused, attention=attention
        )

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
    """The label table at the start, rows of length about one: label words through a random Dense, or plain noise [ours]."""
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
    label: Int[Array, "batch"],
    weight: Float[Array, "batch"],
    labels: Float[Array, "classes dim"],
) -> Float[Array, "classes dim"]:
    """L' as a prototype memory: mean fused feature of each class in the batch; a class not in it keeps its embedding."""
    member = jax.nn.one_hot(label, len(labels)) * weight[:, None]
    count = member.sum(0)[:, None]
    mean = jnp.einsum("bc,bd->cd", member, fused) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, labels)


def update_labels(
    old: dict[str, Any], new: dict[str, Any], outputs: Outputs, batch: Batch, *, how: str, alpha: Any
) -> dict[str, Any]:
    """The new params with the label embeddings' moving average done.

    how "optimizer": L' is the table after the optimiser's step, so alpha slows that step down. "class_mean": L' is each
    class's mean fused feature, and the optimiser's step on the table is dropped.
    """
    target = new["labels"]
    if how == "class_mean":
        target = class_means(jax.lax.stop_gradient(outputs["fused"]), batch.label, batch.weight, old["labels"])
    return new | {"labels": average_labels(old["labels"], target, alpha)}


def lsgmer_family(config: LSGMERExperiment, corpus: Manifest) -> Any:
    words = np.asarray(corpus.manifest["label_embeddings"], np.float32)

    def arguments(values: dict[str, Any]) -> dict[str, Any]:
        here = config_lib.with_values(config, values)
        model = {k: v for k, v in vars(here.model).items() if k not in ("label_update", "label_average")}
        return model | {
            "label_words": words, "temperature": here.loss.temperature, "widths": widths_of(config, corpus),
        }  # fmt: skip

    def learning(given: family_lib.ReplicaInputs) -> Any:
        here = config_lib.with_values(config, given.values)
        settings = dict(vars(here.loss))
        apc_weight = settings.pop("apc")

        def loss(outputs: Outputs, batch: Batch) -> Any:
            return joint_objective(
                outputs["logits"], outputs["similarity"], batch.target, batch.weight,
                prior=given.prior, apc_weight=apc_weight, **settings,
            )  # fmt: skip

        model = here.model
        return loss, functools.partial(update_labels, how=model.label_update, alpha=model.label_average)

    return functional.functionalize(LSGMER, arguments, **shared_settings(config)), learning
