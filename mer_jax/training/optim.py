"""Named settings -> an optax chain."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def schedule(kind: str, learning_rate: Any, warmup: float, steps: int) -> optax.Schedule:
    """Linear warm-up over `warmup` of `steps`, then constant, or down to 0 at `steps` (linear, cosine)."""
    rise = min(round(warmup * steps), steps - 1)
    rest = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, steps - rise),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, steps - rise),
    }[kind]()
    whole = optax.join_schedules([optax.linear_schedule(0.0, learning_rate, rise), rest], [rise]) if rise else rest
    return lambda count: whole(jnp.asarray(count, jnp.float32))


def decayed(params: Any) -> Any:
    """True for matrices called `kernel`, and for the magnitudes of weight-normed ones: biases, norm scales and label
    embeddings do not decay, nor do directions, whose length says nothing."""
    return jax.tree_util.tree_map_with_path(lambda path, x: path[-1].key in ("kernel", "magnitude"), params)


def optimizer(
    *,
    name: str,
    rate: optax.Schedule,
    weight_decay: Any,
    clip: float,
    b1: Any,
    b2: Any,
    factor: Callable[[tuple[str, ...]], float] | None = None,
) -> optax.GradientTransformation:
    """Clip by global norm (0 = off), then AdamW (Loshchilov & Hutter 2019), SGD with the same decoupled decay, or Adam
    with the decay of every parameter added to its gradient (L2 regularisation, what torch's Adam does). Numbers may be arrays. `factor` of a
    parameter's path: on its learning rate, and so on its decoupled decay."""
    clipped = optax.clip_by_global_norm(clip) if clip else optax.identity()
    adam = optax.scale_by_adam(b1, b2)
    mask = None if name == "adam" else decayed
    off = isinstance(weight_decay, float | int) and weight_decay == 0
    decay = optax.identity() if off else optax.add_decayed_weights(weight_decay, mask)
    rule = {"adamw": (adam, decay), "adam": (decay, adam), "sgd": (decay,)}[name]
    apart = () if factor is None else (scaled(factor),)
    return optax.chain(clipped, *rule, *apart, optax.scale_by_learning_rate(rate))


def scaled(factor: Callable[[tuple[str, ...]], float]) -> optax.GradientTransformation:
    """Every update times the factor of its parameter's path."""

    def scale(updates: Any, _: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, x: x * factor(tuple(k.key for k in path)), updates)

    return optax.stateless(scale)
