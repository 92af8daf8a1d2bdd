"""Training and evaluation of one batch: pure functions, no input or output."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mer_jax.batch import Batch
from mer_jax.losses import weighted_mean
from mer_jax.metrics import confusion


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """All that training changes or needs to carry on, and all that a model needs to be used.

    step: updates done. key: base of every random number (`fold_in(key, step)`). params, rest: the model's variables.
    average: running average of params, which is then what is evaluated; an empty dict where none is kept. input_stats[m]: mean and scale, Float[feat], that raw features are standardised with.
    """

    step: Any
    key: Any
    params: Any
    rest: Any
    opt_state: Any
    average: Any
    input_stats: Any

    def evaluated(self) -> Any:
        """The params to evaluate and to use."""
        return self.average or self.params


Loss = Callable[[Any, Batch], tuple[Array, dict[str, Array]]]
AfterUpdate = Callable[[Any, Any, Any, Batch], Any]


def standardize(batch: Batch, input_stats: dict[str, Any]) -> Batch:
    """(x - mean) / scale on the real time steps; padding stays zero."""
    features = {
        m: jnp.where(
            batch.mask[m][..., None], (x - input_stats[m]["mean"][None, None]) / input_stats[m]["scale"][None, None], 0
        )
        for m, x in batch.features.items()
    }
    return dataclasses.replace(batch, features=features)


def init_state(
    key: Array, input_stats: Any, *, init: Callable[..., Any], tx: optax.GradientTransformation, average: bool
) -> TrainState:
    model_key, key = jax.random.split(key)
    params, rest = init(model_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=params,
        rest=rest,
        opt_state=tx.init(params),
        average=jax.tree.map(jnp.copy, params) if average else {},
        input_stats=input_stats,
    )


def gradients(
    state: TrainState, batch: Batch, *, apply: Callable[..., Any], loss: Loss
) -> tuple[Any, tuple[dict[str, Array], Any, Any]]:
    """Gradient of the loss by params, and (loss terms, model outputs, new rest)."""
    key = jax.random.fold_in(state.key, state.step)

    def objective(params: Any) -> tuple[Array, Any]:
        outputs, rest = apply(params, state.rest, batch, key)
        value, terms = loss(outputs, batch)
        return value, (terms | {"loss": value}, outputs, rest)

    return jax.grad(objective, has_aux=True)(state.params)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    apply: Callable[..., Any],
    loss: Loss,
    tx: optax.GradientTransformation,
    after_update: AfterUpdate,
    average: float,
) -> tuple[TrainState, dict[str, Array]]:
    """One update. `after_update(old params, new params, outputs, batch)` has the last word on the new params.

    The running average moves by 1 - average each step, faster at first: it is the mean of about the last
    min(1 / (1 - average), step / 9) steps' params.
    """
    batch = standardize(batch, state.input_stats)
    grads, (terms, outputs, rest) = gradients(state, batch, apply=apply, loss=loss)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = after_update(state.params, optax.apply_updates(state.params, updates), outputs, batch)
    step = state.step + 1
    done = step.astype(jnp.float32)
    slow = jnp.minimum(average, done / (done + 9))
    averaged = jax.tree.map(lambda a, p: p + slow * (a - p), state.average, params) if average else {}
    state = dataclasses.replace(state, step=step, params=params, rest=rest, opt_state=opt_state, average=averaged)
    return state, terms | {"grad_norm": optax.tree.norm(grads)}


def eval_step(state: TrainState, batch: Batch, *, apply: Callable[..., Any]) -> dict[str, Array]:
    """confusion: Int[classes, classes] and nll: the sum over real rows; probabilities: Float[batch, classes]."""
    outputs, _ = apply(state.evaluated(), state.rest, standardize(batch, state.input_stats))
    log_p = jax.nn.log_softmax(outputs["logits"])
    nll = -jnp.take_along_axis(log_p, batch.label[:, None], axis=1)[:, 0]
    return {
        "confusion": confusion(outputs["logits"], batch.label, batch.weight),
        "nll": weighted_mean(nll, batch.weight) * batch.weight.sum(),
        "probabilities": jnp.exp(log_p),
    }
