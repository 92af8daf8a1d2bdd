"""Config and corpus -> compiled functions over the mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mer_jax.config import Experiment, with_values
from mer_jax.data import loader
from mer_jax.data.batch import AnyBatch
from mer_jax.data.corpus import Manifest
from mer_jax.errors import UserError
from mer_jax.models.family import Family, ReplicaInputs, check_outputs, family_of
from mer_jax.models.functional import FunctionalModel, functionalize
from mer_jax.runtime import sharding
from mer_jax.tasks import Task
from mer_jax.training import optim, step
from mer_jax.training.memory import check_memory
from mer_jax.training.prepare import TrainingData
from mer_jax.training.replicas import swept_fields

PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class CompiledSteps:
    """The experiment as compiled functions over a mesh, of `replicas_per_step` replicas at a time: these are the
    leading axis of all that belongs to replicas; one alone has no such axis.

    init(seed, inputs, start) -> state, `start` the same for all. train(state, weight, source, row_positions,
    padded_lengths) -> (state, terms), which consumes the state. score(model, source, row_positions, padded_lengths) ->
    `step.eval_step`. keep(best, model, better) -> model, which consumes best. eval_state(state) -> a copy of what
    scoring needs. apply: of `FunctionalModel`, the model as it is evaluated. family: what it was built of. start:
    NumPy arrays of the model that are given, not drawn. like: shapes and shardings of the states and best models of
    all replicas, along a leading axis. layout: shardings of what one call takes, `state` and `best`. per_replica,
    per_replica_batch: of [replicas] and of [replicas, batch] arrays."""

    init: Callable[..., step.TrainState]
    train: Callable[..., tuple[step.TrainState, dict[str, Any]]]
    score: Callable[..., Any]
    keep: Callable[..., step.EvalState]
    eval_state: Callable[..., step.EvalState]
    apply: Callable[..., Any]
    family: Family
    like: dict[str, Any]
    layout: dict[str, Any]
    replicas_per_step: int
    per_replica: jax.sharding.NamedSharding
    per_replica_batch: jax.sharding.NamedSharding


def model_of(config: Experiment, manifest: Manifest, task: Task) -> tuple[Family, FunctionalModel]:
    """The config's family and its model. Raises UserError, when it is first traced, if the model's outputs are not
    those of `family.Outputs`."""
    family = family_of(config, manifest, task)
    model = functionalize(
        lambda overrides, rngs: family.module(with_values(config, overrides), rngs),
        swept=swept_fields(config),
        compute=PRECISIONS[config.train.precision],
        frozen=family.frozen,
    )

    def apply(params: Any, model_state: Any, batch: AnyBatch, key: Any = None) -> tuple[Any, Any]:
        outputs, model_state = model.apply(params, model_state, batch, key)
        check_outputs(outputs, batch.weight.shape[0], task, config.family())
        return outputs, model_state

    return family, FunctionalModel(model.init, apply)


def objective_for(config: Experiment, family: Family, steps: int) -> Callable[[ReplicaInputs], step.Objective]:
    """A replica's inputs -> how it learns, with its values of the swept fields. steps: of the whole training."""

    def objective(inputs: ReplicaInputs) -> step.Objective:
        here = with_values(config, inputs.overrides)
        return step.Objective(
            loss=lambda outputs, batch: family.objective(here, outputs, batch, inputs.prior),
            tx=optim.optimizer(here.optim, steps, family.lr_factor, family.reached),
            after_update=functools.partial(family.after_update, here),
            ema_decay=here.optim.ema_decay,
        )

    return objective


def build(
    config: Experiment, manifest: Manifest, task: Task, data: TrainingData, count: int, mesh: jax.sharding.Mesh
) -> CompiledSteps:
    """`count`: replicas in the experiment. Raises UserError if memory cannot hold the replicas."""
    family, model = model_of(config, manifest, task)
    apply = step.microbatched(model.apply, config.train.microbatches)
    objective = objective_for(config, family, config.train.epochs * data.order.steps_per_epoch)
    init = functools.partial(step.init_state, init=model.init, objective=objective)
    per_step = replicas_per_step(config, count)
    several = per_step > 1
    per_replica = sharding.replica_sharding(mesh) if several else sharding.replicated(mesh)
    per_batch = sharding.replica_batch_sharding(mesh) if several else sharding.batch_sharding(mesh)

    def of_all(one: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """A function of one replica -> the same of those that share a call."""
        return jax.vmap(one, in_axes, spmd_axis_name="replica") if several else one

    def train(state: step.TrainState, weight: Any, source: Any, rows: Any, shape: Any) -> Any:
        batch = loader.materialize_batch(source, rows, shape)
        batch = jax.lax.with_sharding_constraint(batch, sharding.batch_sharding(mesh))

        def one(state: step.TrainState, weight: Any) -> Any:
            weighed = batch.with_weight(batch.weight * weight.astype(batch.weight.dtype))
            return step.train_step(state, weighed, apply=apply, objective=objective)

        return of_all(one)(state, weight)

    def score(model_: step.EvalState, source: Any, rows: Any, shape: Any) -> Any:
        def one(model_: step.EvalState, rows: Any) -> Any:
            batch = loader.materialize_batch(source, rows, shape)
            return step.eval_step(model_, batch, apply=model.apply, task=task)

        return of_all(one)(model_, rows)

    like, layout = layouts(config, init, family, data, count, mesh)
    state, best = layout["state"], layout["best"]
    return CompiledSteps(
        init=jax.jit(of_all(init, (0, 0, None)), out_shardings=state),
        train=jax.jit(
            train,
            static_argnums=4,
            donate_argnums=0,
            in_shardings=(state, per_batch, None, None),
            out_shardings=(state, per_replica),
        ),
        score=jax.jit(score, static_argnums=3, in_shardings=(best, None, per_batch), out_shardings=per_replica),
        keep=jax.jit(of_all(step.keep_best), donate_argnums=0, out_shardings=best),
        eval_state=jax.jit(lambda state: jax.tree.map(jnp.copy, state.eval_state()), out_shardings=best),
        apply=model.apply,
        family=family,
        like=like,
        layout=layout,
        replicas_per_step=per_step,
        per_replica=per_replica,
        per_replica_batch=per_batch,
    )


def layouts(
    config: Experiment, init: Any, family: Family, data: TrainingData, count: int, mesh: jax.sharding.Mesh
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`like` and `layout` of CompiledSteps. Raises UserError if the arrays that are given are not the model's, or if
    memory cannot hold the replicas."""
    overrides = {field: np.float32(0) for field in swept_fields(config)}
    state = jax.eval_shape(init, np.uint32(0), dataclasses.replace(data.inputs[0], overrides=overrides), {})
    check_start_shapes(family.start, state)
    shapes = {"state": state, "best": state.eval_state()}

    def stacked(many: int) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((many, *x.shape), x.dtype), shapes)

    def shardings(tree: Any, leading: bool) -> Any:
        return sharding.state_shardings(tree, mesh, leading=leading, fsdp=config.mesh.fsdp)

    everything = stacked(count)
    like = jax.tree.map(
        lambda x, along: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=along), everything, shardings(everything, True)
    )
    per_step = replicas_per_step(config, count)
    check_memory(like, per_step, data, mesh)
    return like, shardings(stacked(per_step), True) if per_step > 1 else shardings(shapes, False)


def replicas_per_step(config: Experiment, count: int) -> int:
    """How many replicas share a compiled step. On a CPU one: its cores are busy with one, and one that has stopped
    early then costs nothing."""
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    return config.replicas.replicas_per_step or (1 if alone else count)


def check_start_shapes(start: dict[str, Any], state: step.TrainState) -> None:
    """Raises UserError if the given backbone is not, array by array, the model's."""
    if not start:
        return

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        """By path; without swept numbers, which lie beside the layers and not in them."""
        leaves = jax.tree_util.tree_leaves_with_path(tree.get("backbone", {}))
        named = {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
        return {name: shape for name, shape in named.items() if "/" in name}

    model, found = shapes(state.params) | shapes(state.model_state), shapes(start)
    for name in sorted(model.keys() | found.keys()):
        if model.get(name) != found.get(name):
            raise UserError(
                f"--config.backbone.weights: {name} has shape {found.get(name, 'none')} in the file and "
                f"{model.get(name, 'none')} in the model; write the file again with this version's "
                "`python -m data_prep.swin`"
            )
