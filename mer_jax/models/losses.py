"""Loss functions: pure, one value per sample unless said otherwise.

`contrastive` is DeepMSI-MER's. LSGMER's APC stands in lsgmer.py, with its module."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mer_jax.models.layers import Number, at_least_float32


def weighted_mean(x: Float[Array, "batch"], weight: Float[Array, "batch"]) -> Float[Array, ""]:
    """Mean over the rows, a row counting for its weight; zero where there is none."""
    return (x * weight).sum() / jnp.maximum(weight.sum(), 1)


def cross_entropy(
    logits: Float[Array, "batch classes"],
    target: Float[Array, "batch classes"],
    *,
    prior: Float[Array, "classes"],
    imbalance: str = "none",
    focal_gamma: Number = 2.0,
    class_weight_power: Number = 1.0,
    logit_adjustment_tau: Number = 1.0,
    label_smoothing: Number = 0.0,
) -> Float[Array, "batch"]:
    """Cross entropy -sum target log p in nats, `target` a distribution (one-hot where the label is certain), with one
    answer to class imbalance; `prior` is each class's share of the training part.

    class_weights: times the mean under the target of prior^-class_weight_power, scaled so that the mean weight over
    the training part is 1 (power 1: one over classes * prior)
    focal: times (1 - p)^gamma, p the mean of the probabilities under the target (Lin et al. 2017)
    logit_adjustment: logits + logit_adjustment_tau * log prior while training (Menon et al. 2021); prediction uses the
    bare logits
    balanced_softmax: the softmax of logits + log class counts while training (Ren et al. 2020). The counts are the
    prior times one number, which a softmax does not see: it is logit_adjustment with tau = 1"""
    classes = logits.shape[-1]
    if imbalance in ("logit_adjustment", "balanced_softmax"):
        log_prior = jnp.log(jnp.maximum(prior, 1e-6))[None]
        tau = logit_adjustment_tau if imbalance == "logit_adjustment" else 1.0
        logits = logits + tau * log_prior
    log_p = jax.nn.log_softmax(logits)
    smooth = target * (1 - label_smoothing) + label_smoothing / classes
    loss = -(smooth * log_p).sum(-1)
    if imbalance == "class_weights":
        weights = jnp.maximum(prior, 1e-6) ** -class_weight_power
        loss = loss * (target * (weights / (prior * weights).sum())[None]).sum(-1)
    elif imbalance == "focal":
        p = (target * jnp.exp(log_p)).sum(-1)
        loss = loss * jnp.maximum(1 - p, 1e-7) ** focal_gamma  # at 0 a gamma below 1 has no gradient
    return loss


def contrastive(
    anchor: Float[Array, "batch dim"],
    other: Float[Array, "batch dim"],
    label: Int[Array, "batch"],
    weight: Float[Array, "batch"],
    *,
    temperature: Float[Array, ""],
    per_positive: bool,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Supervised contrastive loss of DeepMSI-MER (arXiv 2502.08573) between two modalities' unit vectors, and its
    number of positive pairs.

    s_ij = anchor_i . other_j / temperature; positives j of i have its class and are not i, negatives k another class;
    l_i = 1/(B - 1) sum_j -log(e^s_ij / (e^s_ij + sum_k e^s_ik)), the loss is the mean of l_i over the batch, as
    published. `per_positive`: l_i is the mean over i's positives, the loss the mean over the anchors that have any.
    Exactly zero where there is no positive pair. The batch is the global one: under jit over a mesh nothing is split
    off."""
    s = jnp.einsum("id,jd->ij", anchor, other)
    s = s.astype(at_least_float32(s)) / temperature
    real = (weight[:, None] > 0) & (weight[None] > 0)
    same = label[:, None] == label[None]
    positive = same & real & ~jnp.eye(len(label), dtype=bool)
    negatives = jax.nn.logsumexp(jnp.where(real & ~same, s, -1e9), axis=1, keepdims=True)
    each = jnp.where(positive, jax.nn.softplus(negatives - s), 0).sum(1)
    count = positive.sum(1).astype(jnp.float32)
    if per_positive:
        loss = (each / jnp.maximum(count, 1)).sum() / jnp.maximum((count > 0).sum().astype(jnp.float32), 1)
    else:
        batch = weight.sum()
        loss = each.sum() / (jnp.maximum(batch - 1, 1) * jnp.maximum(batch, 1))
    return loss, count.sum()


def jensen_shannon(log_p: Float[Array, "batch classes"], log_q: Float[Array, "batch classes"]) -> Float[Array, "batch"]:
    """JS = KL(p || m)/2 + KL(q || m)/2, m = (p + q)/2, in nats: 0 for equal, at most ln 2. Takes log-probabilities."""
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)

    def kl(log_x: Array) -> Array:
        return (jnp.exp(log_x) * (log_x - log_m)).sum(-1)

    return 0.5 * (kl(log_p) + kl(log_q))
