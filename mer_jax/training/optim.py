"""Settings -> an optax chain."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mer_jax.config import OptimSettings
from mer_jax.models.layers import is_off


def schedule(kind: str, learning_rate: Any, warmup: float, steps: int) -> optax.Schedule:
    """Linear warm-up over `warmup` of `steps`, then constant, or down to 0 at `steps` (linear, cosine)."""
    rise = min(round(warmup * steps), steps - 1)
    after = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, steps - rise),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, steps - rise),
    }[kind]()
    joined = optax.join_schedules([optax.linear_schedule(0.0, learning_rate, rise), after], [rise]) if rise else after
    return lambda count: joined(jnp.asarray(count, jnp.float32))


def decayed(params: Any) -> Any:
    """True for matrices called `kernel`, and for the magnitudes of weight-normed ones: biases, norm scales and label
    embeddings do not decay, nor do directions, whose length says nothing."""
    return jax.tree_util.tree_map_with_path(lambda path, x: path[-1].key in ("kernel", "magnitude"), params)


def optimizer(
    settings: OptimSettings, steps: int, lr_factor: Callable[[tuple[str, ...]], float] | None = None
) -> optax.GradientTransformation:
    """Clip by global norm (0 = off), then AdamW (Loshchilov & Hutter 2019), SGD with the same decoupled decay, or Adam
    with the decay of every parameter added to its gradient (L2 regularisation, what torch's Adam does). The settings'
    numbers may be arrays. steps: of the whole training. lr_factor(path): on a parameter's learning rate, and so on its
    decoupled decay."""
    clipped = optax.clip_by_global_norm(settings.clip) if settings.clip else optax.identity()
    adam = optax.scale_by_adam(settings.b1, settings.b2)
    mask = None if settings.name == "adam" else decayed
    decay = optax.identity()
    if not is_off(settings.weight_decay):
        decay = optax.add_decayed_weights(settings.weight_decay, mask)
    rule = {"adamw": (adam, decay), "adam": (decay, adam), "sgd": (decay,)}[settings.name]
    apart = () if lr_factor is None else (scaled(lr_factor),)
    rate = schedule(settings.schedule, settings.learning_rate, settings.warmup, steps)
    return optax.chain(clipped, *rule, *apart, optax.scale_by_learning_rate(rate))


def scaled(factor: Callable[[tuple[str, ...]], float]) -> optax.GradientTransformation:
    """Every update times the factor of its parameter's path."""

    def scale(updates: Any, _: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, x: x * factor(tuple(k.key for k in path)), updates)

    return optax.stateless(scale)
