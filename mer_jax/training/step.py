"""Training and evaluation of one batch: pure functions, no input or output."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from mer_jax.data.batch import AnyBatch, Batch, where_real
from mer_jax.models.family import ReplicaInputs
from mer_jax.tasks.task import Evaluation, Task

jax.tree_util.register_dataclass(Evaluation)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class EvalState:
    """What scoring needs of a model: its params, its other variables, and the statistics of its input."""

    params: Any
    model_state: Any
    input_stats: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """All that training changes or needs to carry on, of one replica or, with a leading axis, of several.

    step: updates done. key: base of every random number (`fold_in(key, step)`). params, model_state: the model's
    variables. ema: moving average of params, which is then what is evaluated; an empty dict where none is kept.
    inputs: what the replica was given and nothing changes."""

    step: Any
    key: Any
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any
    inputs: Any

    def eval_state(self) -> EvalState:
        """What scoring needs of it."""
        return EvalState(self.ema or self.params, self.model_state, self.inputs.input_stats)


Loss = Callable[[Any, AnyBatch], tuple[Array, dict[str, Array]]]
AfterUpdate = Callable[[Any, Any, Any, AnyBatch], Any]


class Objective(NamedTuple):
    """How a replica learns.

    loss(outputs, batch) -> (the loss, its terms by name). after_update(old params, new params, outputs, batch) -> the
    new params, with the last word on them. ema_decay: decay per step of the params' moving average, 0 = none."""

    loss: Loss
    tx: optax.GradientTransformation
    after_update: AfterUpdate
    ema_decay: float


def standardize(batch: AnyBatch, input_stats: dict[str, Any]) -> Any:
    """(x - mean) / scale along the last axis on the real time steps; padding stays zero. Where there are statistics of
    groups ([groups, feat]), by those of each row's `norm_group`; by the training part's, group 0, if the batch names
    none."""

    def along(stat: Any, x: Array, norm_group: Array | None) -> Array:
        if stat.ndim == 1 or norm_group is None:
            return jnp.expand_dims(stat if stat.ndim == 1 else stat[0], range(x.ndim - 1))
        return jnp.expand_dims(stat[norm_group], range(1, x.ndim - 1))

    def of(m: str, x: Array, mask: Array, norm_group: Array | None) -> Array:
        mean, scale = (along(input_stats[m][name], x, norm_group) for name in ("mean", "scale"))
        return where_real(mask, (x.astype(jnp.float32) - mean) / scale)

    def of_group(group: Batch) -> Batch:
        features = {m: of(m, x, group.mask[m], group.norm_group) for m, x in group.features.items()}
        return dataclasses.replace(group, features=features)

    return batch.map(of_group)


def init_state(
    seed: Array,
    inputs: ReplicaInputs,
    start: Any,
    *,
    init: Callable[..., Any],
    objective: Callable[[ReplicaInputs], Objective],
) -> TrainState:
    """start: arrays of the model that are given instead of drawn; see `functional.FunctionalModel`."""
    model_key, key = jax.random.split(jax.random.key(seed))
    params, model_state = init(model_key, inputs.overrides, start)
    made = objective(inputs)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=key,
        params=params,
        model_state=model_state,
        opt_state=made.tx.init(params),
        ema=jax.tree.map(jnp.copy, params) if made.ema_decay else {},
        inputs=inputs,
    )


def microbatched(apply: Callable[..., Any], count: int) -> Callable[..., Any]:
    """`apply` on `count` pieces of the batch, one after the other, each computed again in the backward pass: the
    memory of a piece, and the outputs and gradients of the whole batch, whatever the loss makes of them.

    What depends on more than one row must not be in `apply` (BatchNorm). The pieces are drawn through the batch, so
    that each lies on all devices."""
    if count == 1:
        return apply

    def whole(params: Any, model_state: Any, batch: AnyBatch, key: Array) -> tuple[Any, Any]:
        pieces = jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)

        @jax.checkpoint
        def one(piece: tuple[AnyBatch, Array]) -> Any:
            return apply(params, model_state, *piece)[0]

        def join(x: Array) -> Array:
            """A number that belongs to no row, such as a temperature, is the same for all pieces."""
            return x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) if x.ndim > 1 else x[0]

        outputs = jax.lax.map(one, (pieces, jax.random.split(key, count)))
        return jax.tree.map(join, outputs), model_state

    return whole


def gradients(
    state: TrainState, batch: AnyBatch, *, apply: Callable[..., Any], loss: Loss
) -> tuple[Any, tuple[dict[str, Array], Any, Any]]:
    """The gradient of the loss by params, and (loss terms, model outputs, new model state)."""
    key = jax.random.fold_in(state.key, state.step)

    def objective(params: Any) -> tuple[Array, Any]:
        outputs, model_state = apply(params, state.model_state, batch, key)
        value, terms = loss(outputs, batch)
        return value, (terms | {"loss": value}, outputs, model_state)

    return jax.grad(objective, has_aux=True)(state.params)


def train_step(
    state: TrainState, batch: AnyBatch, *, apply: Callable[..., Any], objective: Callable[[ReplicaInputs], Objective]
) -> tuple[TrainState, dict[str, Array]]:
    """One update of one replica.

    The moving average moves by 1 - ema_decay each step, faster at first: it is the mean of about the last
    min(1 / (1 - ema_decay), step / 9) steps' params.
    """
    made = objective(state.inputs)
    batch = standardize(batch, state.inputs.input_stats)
    grads, (terms, outputs, model_state) = gradients(state, batch, apply=apply, loss=made.loss)
    updates, opt_state = made.tx.update(grads, state.opt_state, state.params)
    params = made.after_update(state.params, optax.apply_updates(state.params, updates), outputs, batch)
    # Without a row that counts, the other variables would be statistics of rows that are none of this replica's.
    model_state = jax.tree.map(lambda new, old: jnp.where(batch.weight.any(), new, old), model_state, state.model_state)
    step = state.step + 1
    done = step.astype(jnp.float32)
    slow = jnp.minimum(made.ema_decay, done / (done + 9))
    ema = jax.tree.map(lambda a, p: p + slow * (a - p), state.ema, params) if made.ema_decay else {}
    state = dataclasses.replace(state, step=step, params=params, model_state=model_state, opt_state=opt_state, ema=ema)
    return state, terms | {"grad_norm": optax.tree.norm(grads)}


def eval_step(model: EvalState, batch: AnyBatch, *, apply: Callable[..., Any], task: Task) -> Evaluation:
    """What the task needs of the batch to score it."""
    outputs, _ = apply(model.params, model.model_state, standardize(batch, model.input_stats))
    return task.evaluate(outputs["logits"], batch.targets, batch.weight)


def keep_best(best: EvalState, model: EvalState, better: Bool[Array, ""]) -> EvalState:
    """The model if it is better, else the best one so far."""
    return jax.tree.map(lambda old, new: jnp.where(better, new, old), best, model)
