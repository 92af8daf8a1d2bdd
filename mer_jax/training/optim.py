"""Settings -> an optax chain."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mer_jax.models.family import Path
from mer_jax.models.layers import is_off
from mer_jax.settings import OptimSettings


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


def decayed(name: str, path: Path) -> bool:
    """Whether the optimiser `name` lets a parameter decay: Adam every one, the others matrices called `kernel` and the
    magnitudes of weight-normed ones. Biases, norm scales and label embeddings then do not, nor do directions, whose
    length says nothing."""
    return name == "adam" or path[-1] in ("kernel", "magnitude")


def optimizer(
    settings: OptimSettings,
    steps: int,
    lr_factor: Callable[[Path], float] | None = None,
    reached: Callable[[Path], bool] = lambda path: True,
) -> optax.GradientTransformation:
    """Clip by global norm (0 = off), then AdamW (Loshchilov & Hutter 2019), SGD with the same decoupled decay, or Adam
    with the decay of every parameter added to its gradient (L2 regularisation, what torch's Adam does). The settings'
    numbers may be arrays. steps: of the whole training. lr_factor(path): on a parameter's learning rate, and so on its
    decoupled decay. reached(path): whether the loss depends on a parameter; others do not decay."""
    clipped = optax.clip_by_global_norm(settings.clip) if settings.clip else optax.identity()
    adam = optax.scale_by_adam(settings.b1, settings.b2)
    decay = optax.identity()
    if not is_off(settings.weight_decay):
        decay = optax.add_decayed_weights(
            settings.weight_decay, by_path(lambda path: reached(path) and decayed(settings.name, path))
        )
    rule = {"adamw": (adam, decay), "adam": (decay, adam), "sgd": (decay,)}[settings.name]
    apart = () if lr_factor is None else (scaled(lr_factor),)
    rate = schedule(settings.schedule, settings.learning_rate, settings.warmup, steps)
    return optax.chain(clipped, *rule, *apart, optax.scale_by_learning_rate(rate))


def scaled(factor: Callable[[Path], float]) -> optax.GradientTransformation:
    """Every update times the factor of its parameter's path."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda x, by: x * by, updates, by_path(factor)(updates)))


def by_path(of: Callable[[Path], Any]) -> Callable[[Any], Any]:
    """A tree -> the same with what `of` says of each leaf's path."""
    return lambda tree: jax.tree_util.tree_map_with_path(lambda path, _: of(tuple(k.key for k in path)), tree)
