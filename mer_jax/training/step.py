"""Training and evaluation of one batch: pure functions, no input or output."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from mer_jax.data.batch import Batch, where_real
from mer_jax.metrics.confusion import confusion
from mer_jax.models.family import ReplicaInputs
from mer_jax.models.losses import weighted_mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """All that training changes or needs to carry on, of one replica or, with a leading axis, of several.

    step: updates done. key: base of every random number (`fold_in(key, step)`). params, rest: the model's variables.
    average: running average of params, which is then what is evaluated; an empty dict where none is kept. given: what the
    replica was given and nothing changes: see `Given`.
    """

    step: Any
    key: Any
    params: Any
    rest: Any
    opt_state: Any
    average: Any
    given: Any

    def model(self) -> "Model":
        """What scoring needs of it."""
        return EvalState(self.average or self.params, self.rest, self.given.input_stats)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class EvalState:
    """A trained model: its params, its other variables, and the statistics of its input."""

    params: Any
    rest: Any
    input_stats: Any


Loss = Callable[[Any, Batch], tuple[Array, dict[str, Array]]]
AfterUpdate = Callable[[Any, Any, Any, Batch], Any]


class Objective(NamedTuple):
    """How a replica learns. after_update(old params, new params, outputs, batch) has the last word on the new params;
    average: decay per step of the running average of the params, 0 = none."""

    loss: Loss
    tx: optax.GradientTransformation
    after_update: AfterUpdate
    average: float


def standardize(batch: Batch, input_stats: dict[str, Any]) -> Batch:
    """(x - mean) / scale along the last axis on the real time steps; padding stays zero."""

    def of(m: str, x: Array) -> Array:
        mean, scale = (jnp.expand_dims(input_stats[m][name], range(x.ndim - 1)) for name in ("mean", "scale"))
        return where_real(batch.mask[m], (x.astype(jnp.float32) - mean) / scale)

    return dataclasses.replace(batch, features={m: of(m, x) for m, x in batch.features.items()})


def init_state(
    seed: Array,
    given: ReplicaInputs,
    start: Any,
    *,
    init: Callable[..., Any],
    rules: Callable[[ReplicaInputs], Objective],
) -> TrainState:
    """start: arrays of the model that are given instead of drawn; see `pure.Pure`."""
    model_key, key = jax.random.split(jax.random.key(seed))
    params, rest = init(model_key, given.values, start)
    made = rules(given)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=params,
        rest=rest,
        opt_state=made.tx.init(params),
        average=jax.tree.map(jnp.copy, params) if made.average else {},
        given=given,
    )


def microbatched(apply: Callable[..., Any], count: int) -> Callable[..., Any]:
    """`apply` on `count` pieces of the batch, one after the other, each computed again in the backward pass: the memory of a
    piece, and the outputs and gradients of the whole batch, whatever the loss makes of them.

    What depends on more than one row must not be in `apply` (BatchNorm). The pieces are drawn through the batch, so that
    each lies on all devices.
    """
    if count == 1:
        return apply

    def whole(params: Any, rest: Any, batch: Batch, key: Array) -> tuple[Any, Any]:
        pieces = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)

        @jax.checkpoint
        def one(piece: tuple[Batch, Array]) -> Any:
            return apply(params, rest, *piece)[0]

        outputs = jax.lax.map(one, (pieces, jax.random.split(key, count)))
        # A number that belongs to no row, such as a temperature, is the same for all pieces.
        join = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) if x.ndim > 1 else x[0]  # noqa: E731
        return jax.tree.map(join, outputs), rest

    return whole


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
    state: TrainState, batch: Batch, *, apply: Callable[..., Any], rules: Callable[[ReplicaInputs], Objective]
) -> tuple[TrainState, dict[str, Array]]:
    """One update of one replica.

    The running average moves by 1 - average each step, faster at first: it is the mean of about the last
    min(1 / (1 - average), step / 9) steps' params.
    """
    made = rules(state.given)
    batch = standardize(batch, state.given.input_stats)
    grads, (terms, outputs, rest) = gradients(state, batch, apply=apply, loss=made.loss)
    updates, opt_state = made.tx.update(grads, state.opt_state, state.params)
    params = made.after_update(state.params, optax.apply_updates(state.params, updates), outputs, batch)
    # Without a row that counts, the other variables would be statistics of rows that are none of this replica's.
    rest = jax.tree.map(lambda new, old: jnp.where(batch.weight.any(), new, old), rest, state.rest)
    step = state.step + 1
    done = step.astype(jnp.float32)
    slow = jnp.minimum(made.average, done / (done + 9))
    averaged = jax.tree.map(lambda a, p: p + slow * (a - p), state.average, params) if made.average else {}
    state = dataclasses.replace(state, step=step, params=params, rest=rest, opt_state=opt_state, average=averaged)
    return state, terms | {"grad_norm": optax.tree.norm(grads)}


def eval_step(model: EvalState, batch: Batch, *, apply: Callable[..., Any]) -> dict[str, Array]:
    """confusion: Int[classes, classes] and nll: the sum over real rows; probabilities: Float[batch, classes]."""
    outputs, _ = apply(model.params, model.rest, standardize(batch, model.input_stats))
    log_p = jax.nn.log_softmax(outputs["logits"])
    nll = -jnp.take_along_axis(log_p, batch.label[:, None], axis=1)[:, 0]
    return {
        "confusion": confusion(outputs["logits"], batch.label, batch.weight),
        "nll": weighted_mean(nll, batch.weight) * batch.weight.sum(),
        "probabilities": jnp.exp(log_p),
    }


def keep_best(best: EvalState, model: EvalState, better: Bool[Array, ""]) -> EvalState:
    """The model if it is better, else the best one so far."""
    return jax.tree.map(lambda old, new: jnp.where(better, new, old), best, model)
