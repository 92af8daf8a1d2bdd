"""Loss functions: pure, one value per sample unless said otherwise.

`contrastive` is DeepMSI-MER's. LSGMER's APC stands in lsgmer.py, with its module."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
    same: Bool[Array, "batch batch"],
    weight: Float[Array, "batch"],
    *,
    temperature: Float[Array, ""],
    per_positive: bool,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Supervised contrastive loss of DeepMSI-MER (arXiv 2502.08573) between two modalities' unit vectors, and its
    number of positive pairs.

    s_ij = anchor_i . other_j / temperature; positives j of i are the `same` as i and not i itself, negatives k are not
    the same; the paper takes those of one class for the same (`Task.similar` says what other tasks do).
    l_i = 1/(B - 1) sum_j -log(e^s_ij / (e^s_ij + sum_k e^s_ik)), the loss is the mean of l_i over the batch, as
    published. `per_positive`: l_i is the mean over i's positives, the loss the mean over the anchors that have any.
    Exactly zero where there is no positive pair. The batch is the global one: under jit over a mesh nothing is split
    off."""
    s = jnp.einsum("id,jd->ij", anchor, other)
    s = s.astype(at_least_float32(s)) / temperature
    real = (weight[:, None] > 0) & (weight[None] > 0)
    positive = same & real & ~jnp.eye(len(weight), dtype=bool)
    negatives = jax.nn.logsumexp(jnp.where(real & ~same, s, -1e9), axis=1, keepdims=True)
    each = jnp.where(positive, jax.nn.softplus(negatives - s), 0).sum(1)
    count = positive.sum(1).astype(jnp.float32)
    if per_positive:
        loss = (each / jnp.maximum(count, 1)).sum() / jnp.maximum((count > 0).sum().astype(jnp.float32), 1)
    else:
        batch = weight.sum()
        loss = each.sum() / (jnp.maximum(batch - 1, 1) * jnp.maximum(batch, 1))
    return loss, count.sum()


def kullback_leibler(
    log_p: Float[Array, "*batch outcomes"], log_q: Float[Array, "*batch outcomes"]
) -> Float[Array, "*batch"]:
    """KL(p || q) in nats. Takes log-probabilities."""
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def jensen_shannon(log_p: Float[Array, "batch classes"], log_q: Float[Array, "batch classes"]) -> Float[Array, "batch"]:
    """JS = KL(p || m)/2 + KL(q || m)/2, m = (p + q)/2, in nats: 0 for equal, at most ln 2. Takes log-probabilities."""
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    return 0.5 * (kullback_leibler(log_p, log_m) + kullback_leibler(log_q, log_m))


def column_mean(
    each: Float[Array, "batch dims"], weight: Float[Array, "batch"], known: Bool[Array, "batch dims"]
) -> Float[Array, ""]:
    """The mean over the columns of the mean over their known rows, a row counting for its weight. A column without any
    is left out."""
    counted = jnp.where(known, weight[:, None], 0)
    total = counted.sum(0)
    means = (jnp.where(known, each, 0) * counted).sum(0) / jnp.maximum(total, 1)
    return means.sum() / jnp.maximum((total > 0).sum(), 1).astype(means.dtype)


def regression_error(
    predicted: Float[Array, "batch dims"],
    target: Float[Array, "batch dims"],
    spread: Float[Array, "batch dims"],
    *,
    kind: str,
    huber_delta: Number = 0.25,
) -> Float[Array, "batch dims"]:
    """The error of every number. mae, mse: its size, its square. huber: half its square up to huber_delta, beyond that
    huber_delta times what is left of it over half huber_delta (Huber 1964). distribution: of the raters' normal
    distribution from one of the same spread about the prediction, KL = error^2 / 2 spread^2."""
    error = predicted - target
    if kind == "mae":
        return jnp.abs(error)
    if kind == "mse":
        return jnp.square(error)
    if kind == "huber":
        within = jnp.minimum(jnp.abs(error), huber_delta)
        return within * (jnp.abs(error) - within / 2)
    return jnp.square(error) / (2 * jnp.square(spread))


def concordance(
    predicted: Float[Array, "batch dims"],
    target: Float[Array, "batch dims"],
    weight: Float[Array, "batch"],
    known: Bool[Array, "batch dims"],
) -> Float[Array, ""]:
    """1 - CCC (Lin 1989), with moments of the whole batch, the mean over the columns; one without two known rows is
    left out. Of a constant target and prediction 1."""
    counted = jnp.where(known, weight[:, None], 0)
    total = counted.sum(0)
    rows = jnp.maximum(total, 1)
    x, y = jnp.where(known, predicted, 0), jnp.where(known, target, 0)
    mean_x, mean_y = (counted * x).sum(0) / rows, (counted * y).sum(0) / rows
    from_x, from_y = x - mean_x[None], y - mean_y[None]
    of_x, of_y = ((counted * jnp.square(d)).sum(0) / rows for d in (from_x, from_y))
    both = (counted * from_x * from_y).sum(0) / rows
    loss = 1 - 2 * both / (of_x + of_y + jnp.square(mean_x - mean_y) + 1e-8)
    enough = total > 1
    return jnp.where(enough, loss, 0).sum() / jnp.maximum(enough.sum(), 1).astype(loss.dtype)


def binary_cross_entropy(
    logits: Float[Array, "batch labels"],
    target: Float[Array, "batch labels"],
    *,
    prevalence: Float[Array, "labels"],
    imbalance: str = "none",
    focal_gamma: Number = 2.0,
    class_weight_power: Number = 1.0,
    logit_adjustment_tau: Number = 1.0,
    label_smoothing: Number = 0.0,
) -> Float[Array, "batch labels"]:
    """-t log p - (1 - t) log(1 - p) in nats, p = sigmoid(logit), t the share of a label that is there; with one answer
    to imbalance, by `prevalence`, the share of the training part that has the label.

    class_weights: presence counts for (prevalence^-1 - 1)^class_weight_power times as much as absence, scaled so that
    the mean weight over the training part is 1
    focal: times |t - p|^gamma (Lin et al. 2017)
    logit_adjustment: logits + logit_adjustment_tau * log odds of the prevalence while training, as Menon et al. 2021 do
    it for classes
    label_smoothing s: t becomes t (1 - s) + s / 2"""
    share = jnp.clip(prevalence, 1e-6, 1 - 1e-6)[None]
    odds = (1 - share) / share
    if imbalance == "logit_adjustment":
        logits = logits - logit_adjustment_tau * jnp.log(odds)
    smooth = target * (1 - label_smoothing) + label_smoothing / 2
    loss = -(smooth * jax.nn.log_sigmoid(logits) + (1 - smooth) * jax.nn.log_sigmoid(-logits))
    if imbalance == "class_weights":
        present = odds**class_weight_power
        loss = loss * (target * present + 1 - target) / (share * present + 1 - share)
    elif imbalance == "focal":
        apart = jnp.abs(target - jax.nn.sigmoid(logits))
        loss = loss * jnp.maximum(apart, 1e-7) ** focal_gamma
    return loss


def asymmetric(
    logits: Float[Array, "batch labels"],
    target: Float[Array, "batch labels"],
    *,
    gamma_present: Number,
    gamma_absent: Number,
    margin: Number,
) -> Float[Array, "batch labels"]:
    """The asymmetric loss of Ridnik et al. 2021 (arXiv 2009.14119), equations 4 to 7: presence (1 - p)^gamma_present
    -log p, absence q^gamma_absent -log(1 - q), where q = max(p - margin, 0)."""
    p = jax.nn.sigmoid(logits)
    shifted = jnp.maximum(p - margin, 0)
    present = -jax.nn.log_sigmoid(logits) * jnp.maximum(1 - p, 1e-7) ** gamma_present
    # A logit that is large makes 1 - p + margin tiny only where margin is 0.
    absent = -jnp.log(jnp.maximum(1 - shifted, 1e-7)) * jnp.maximum(shifted, 1e-7) ** gamma_absent
    return target * present + (1 - target) * absent


def jensen_shannon_bernoulli(
    logit_p: Float[Array, "batch labels"], logit_q: Float[Array, "batch labels"]
) -> Float[Array, "batch"]:
    """The mean over the labels of JS between two Bernoulli distributions, by their logits, in nats [ours]."""

    batch, labels = logit_p.shape
    flat = (bernoulli_logs(logit).reshape(batch * labels, 2) for logit in (logit_p, logit_q))
    return jensen_shannon(*flat).reshape(batch, labels).mean(1)


def bernoulli_logs(logit: Float[Array, "batch labels"]) -> Float[Array, "batch labels 2"]:
    """Log-probabilities of presence and absence."""
    return jnp.stack([jax.nn.log_sigmoid(logit), jax.nn.log_sigmoid(-logit)], axis=-1)


def cumulative_log_probabilities(values: Float[Array, "batch classes"]) -> Float[Array, "batch classes"]:
    """log p(class) of ordered classes by a cumulative link (McCullagh 1980): p(y > k) = sigmoid(s - threshold_k), where
    s is the first value, and the thresholds go up: the first is the second value, each further one is
    softplus(its value) above the one before. The model's weights may move them with the utterance [ours]."""
    steps = jnp.concatenate([values[:, 1:2], jax.nn.softplus(values[:, 2:])], axis=-1)
    above = values[:, :1] - jnp.cumsum(steps, axis=-1)  # logits of y > k, falling
    first, last = jax.nn.log_sigmoid(-above[:, :1]), jax.nn.log_sigmoid(above[:, -1:])
    # log(sigmoid(a) - sigmoid(b)) for a > b: log sigmoid(a) + log sigmoid(-b) + log(1 - e^(b - a))
    gap = jnp.maximum(above[:, :-1] - above[:, 1:], 1e-6)
    middle = jax.nn.log_sigmoid(above[:, :-1]) + jax.nn.log_sigmoid(-above[:, 1:]) + jnp.log(-jnp.expm1(-gap))
    return jnp.concatenate([first, middle, last], axis=-1)
