"""Config and corpus -> inputs on the device and compiled functions over the mesh."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mer_jax import config as config_lib
from mer_jax.data import loader
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.models import family as family_lib
from mer_jax.models.deepmsi_mer_frames import factor_of, start_of
from mer_jax.models.family import family_of
from mer_jax.runtime import sharding
from mer_jax.training import optim, replicas, step
from mer_jax.training.prepare import TrainingData

# ---- program ----


@dataclasses.dataclass(frozen=True)
class CompiledSteps:
    """The experiment as compiled functions over a mesh, of `together` replicas at a time: these are the leading axis of all
    that belongs to replicas, laid out as `each` ([replicas, batch] as `both`); one alone has no such axis. `layout`: of states
    and best models.

    init(seed, given, start) -> state, `start` the same for all; train(state, weight, source, places, pads) -> (state, terms), which consumes the state;
    score(model, source, places, pads) -> what step.eval_step returns; keep(best, model, better) -> model, which consumes
    best; model(state) -> a copy of what scoring needs. apply: of `pure.Pure`, the model as it is evaluated. start: NumPy arrays of the model that are given, not drawn. like: shapes and shardings of the states and best models of all
    replicas, along a leading axis.
    """

    init: Callable[..., step.TrainState]
    train: Callable[..., tuple[step.TrainState, dict[str, Any]]]
    score: Callable[..., dict[str, Any]]
    keep: Callable[..., step.EvalState]
    model: Callable[..., step.EvalState]
    apply: Callable[..., Any]
    like: dict[str, Any]
    layout: dict[str, Any]
    start: Any
    together: int
    each: jax.sharding.NamedSharding
    both: jax.sharding.NamedSharding


def steps_per_epoch(config: config_lib.Experiment, inputs: TrainingData) -> int:
    """Updates in which as many utterances are read as train in any fold; the stream does not stop at an epoch's end."""
    return -(-len(inputs.rows_of_training()) // config.train.batch_size)


def objective_for(config: config_lib.Experiment, family: Callable[[family_lib.ReplicaInputs], Any], steps: int) -> Any:
    """given -> step.Rules, with the replica's values of the swept fields in them."""

    def rules(given: family_lib.ReplicaInputs) -> step.Objective:
        settings = dict(vars(config_lib.with_values(config, given.values).optim))
        average = settings.pop("average")
        settings["factor"] = factor_of(config)
        rate = optim.schedule(settings.pop("schedule"), settings.pop("learning_rate"), settings.pop("warmup"), steps)
        loss, after_update = family(given)
        return step.Objective(loss, optim.optimizer(rate=rate, **settings), after_update, average)

    return rules


def build(
    config: config_lib.Experiment, corpus: Corpus, inputs: TrainingData, count: int, mesh: jax.sharding.Mesh
) -> CompiledSteps:
    """`count`: replicas in the experiment. Raises UserError if memory cannot hold the replicas."""
    model, family = family_of(config, corpus)
    apply = step.microbatched(model.apply, config.train.accumulate)
    rules = objective_for(config, family, config.train.epochs * steps_per_epoch(config, inputs))
    together = replicas_per_step(config, count)
    each = sharding.replica_sharding(mesh) if together > 1 else sharding.replicated(mesh)
    both = sharding.replica_batch_sharding(mesh) if together > 1 else sharding.batch_sharding(mesh)

    def of_all(one: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """A function of one replica -> the same of those that share a call."""
        return jax.vmap(one, in_axes, spmd_axis_name="replica") if together > 1 else one

    init = functools.partial(step.init_state, init=model.init, rules=rules)

    def train(state: step.TrainState, weight: Any, source: Any, places: Any, pads: loader.PaddedLengths) -> Any:
        batch = jax.lax.with_sharding_constraint(
            loader.materialize_batch(source, places, pads), sharding.batch_sharding(mesh)
        )

        def one(state: step.TrainState, weight: Any) -> Any:
            weighed = dataclasses.replace(batch, weight=batch.weight * weight.astype(batch.weight.dtype))
            return step.train_step(state, weighed, apply=apply, rules=rules)

        return of_all(one)(state, weight)

    def score(scored: step.EvalState, source: Any, places: Any, pads: loader.PaddedLengths) -> Any:
        def one(scored: step.EvalState, places: Any) -> Any:
            return step.eval_step(scored, loader.materialize_batch(source, places, pads), apply=model.apply)

        return of_all(one)(scored, places)

    values = {field: np.float32(0) for field in replicas.swept_fields(config)}
    start = start_of(config)
    state = jax.eval_shape(init, np.uint32(0), dataclasses.replace(inputs.given[0], values=values), {})
    check_start_shapes(start, state)
    shapes = {"state": state, "best": state.model()}

    def stacked(many: int) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((many, *x.shape), x.dtype), shapes)

    def layout(tree: Any, leading: bool) -> Any:
        return sharding.state_shardings(tree, mesh, leading=leading, fsdp=config.mesh.fsdp)

    all_of_them = stacked(count)
    like = jax.tree.map(
        lambda x, along: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=along), all_of_them, layout(all_of_them, True)
    )
    check_memory(like, together, inputs, mesh)
    lies = layout(stacked(together), True) if together > 1 else layout(shapes, False)
    return CompiledSteps(
        init=jax.jit(of_all(init, (0, 0, None)), out_shardings=lies["state"]),
        train=jax.jit(
            train, static_argnums=4, donate_argnums=0, in_shardings=(lies["state"], both, None, None),
            out_shardings=(lies["state"], each),
        ),
        score=jax.jit(score, static_argnums=3, in_shardings=(lies["best"], None, both), out_shardings=each),
        keep=jax.jit(of_all(step.keep_best), donate_argnums=0, out_shardings=lies["best"]),
        model=jax.jit(lambda state: jax.tree.map(jax.numpy.copy, state.model()), out_shardings=lies["best"]),
        apply=model.apply,
        like=like,
        layout=lies,
        start=start,
        together=together,
        each=each,
        both=both,
    )  # fmt: skip


def replicas_per_step(config: config_lib.Experiment, count: int) -> int:
    """How many replicas share a compiled step. On a CPU one: its cores are busy with one, and one that has stopped early
    then costs nothing."""
    return config.replicas.together or (1 if jax.default_backend() == "cpu" and jax.device_count() == 1 else count)


def check_start_shapes(start: dict[str, Any], state: step.TrainState) -> None:
    """Raises UserError if the given backbone is not, array by array, the model's."""
    if not start:
        return

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        """By path; without swept numbers, which lie beside the layers and not in them."""
        leaves = jax.tree_util.tree_leaves_with_path(tree.get("backbone", {}))
        named = {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
        return {name: shape for name, shape in named.items() if "/" in name}

    model, found = shapes(state.params) | shapes(state.rest), shapes(start)
    for name in sorted(model.keys() | found.keys()):
        if model.get(name) != found.get(name):
            raise UserError(
                f"--config.backbone.weights: {name} has shape {found.get(name, 'none')} in the file and "
                f"{model.get(name, 'none')} in the model; write the file again with this version's `python -m data_prep.swin`"
            )


def check_memory(saved: dict[str, Any], together: int, inputs: TrainingData, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError if what must be in memory at once is more than the device has: every replica's state and best
    model (twice where a save joins several groups), the gradients and updates of the replicas that share a step, and the
    corpus where it is resident, each as the mesh divides it. Activations come on top: less than this cannot do."""
    count = jax.tree.leaves(saved)[0].shape[0]
    whole, params = (
        sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
        for tree in (saved, saved["state"].params)
    )
    source = sum(x.nbytes for x in jax.tree.leaves(inputs.feed.source))
    joined = whole if together < count else 0  # a checkpoint is one tree: saving makes it of the groups
    gradients = 2 * params * together / count
    need = whole + joined + gradients + source
    parameters = sum(x.size for x in jax.tree.leaves(saved["state"].params)) / count
    has = memory_bytes(mesh)
    if has is not None and need > has:
        gigabytes = 2.0**30
        raise UserError(
            f"{count} replicas of {parameters / 1e6:.1f} M parameters need at least {need / gigabytes:.1f} GiB on each device "
            f"(state {whole / gigabytes:.2f} GiB, its copy while saving {joined / gigabytes:.2f}, gradients and updates "
            f"{gradients / gigabytes:.2f}, corpus {source / gigabytes:.2f}), and it has {has / gigabytes:.1f} GiB; run fewer at once with --config.replicas.folds or --config.replicas.seeds, in several "
            "workdirs, or a smaller model"
        )


def memory_bytes(mesh: jax.sharding.Mesh) -> float | None:
    """Memory of one device; on a CPU the machine's, shared by its devices. None where nobody tells."""
    device = mesh.local_mesh.devices.flat[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / mesh.local_mesh.size
    return None
