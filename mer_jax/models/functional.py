"""A module class as two pure functions; the only file that knows how NNX is split and merged."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mer_jax.models import layer_mix


@dataclasses.dataclass(frozen=True)
class FunctionalModel:
    """init(key, overrides, start) -> (params, model_state); apply(params, model_state, batch, key=None) -> (outputs,
    model_state).

    params: what the optimiser changes; model_state: every other variable; both are nested dicts of arrays. overrides:
    the swept numbers, `{field: array}`. start: arrays of either that are not drawn but given, a part of the same tree.
    key: None means deterministic; otherwise it seeds dropout for this one call."""

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any]]


def functionalize(
    module: Callable[[dict[str, Any], nnx.Rngs], nnx.Module],
    swept: Iterable[str] = (),
    compute: Any = None,
    frozen: Callable[[tuple[str, ...]], bool] = lambda path: False,
) -> FunctionalModel:
    """`module(overrides, rngs)` turned into pure functions, for any values of the `swept` fields. compute: the float
    type that `apply` works in; variables and outputs stay float32. frozen(path): whether a parameter is not learnt and
    so belongs to the model state. A module that has a `LayerMix` is given batches that it has mixed."""
    learnt = nnx.All(nnx.Param, lambda path, variable: not frozen(tuple(map(str, path))))

    def make(key: jax.Array, overrides: dict[str, Any]) -> nnx.Module:
        return module(overrides, nnx.Rngs(key))

    def split(model: nnx.Module) -> Any:
        return nnx.split(model, learnt, ...)

    some = {field: jax.ShapeDtypeStruct((), jnp.float32) for field in swept}
    graph, params_spec, state_spec = split(nnx.eval_shape(make, jax.random.key(0), some))

    def fill(spec: Any, values: Any) -> Any:
        state = jax.tree.map(lambda x: x, spec)
        nnx.replace_by_pure_dict(state, values)
        return state

    def init(key: jax.Array, overrides: dict[str, Any] | None = None, start: Any = None) -> tuple[Any, Any]:
        _, *both = split(make(key, overrides or {}))
        params, model_state = (_with_start(_named(nnx.to_pure_dict(state)), start or {}) for state in both)
        return params, model_state

    def choose(others: Any, still: Any) -> Any:
        """Of two trees like `model_state` the frozen parameters of the second, everything else of the first."""
        return jax.tree_util.tree_map_with_path(
            lambda path, a, b: b if frozen(tuple(key.key for key in path)) else a, others, still
        )

    def apply(params: Any, model_state: Any, batch: Any, key: jax.Array | None = None) -> tuple[Any, Any]:
        held = model_state
        if compute is not None:
            params, batch = cast(params, compute), cast(batch, compute)
            held = choose(model_state, cast(model_state, compute))
        variables = fill(params_spec, _numbered(params)), fill(state_spec, _numbered(held))
        model: Any = nnx.merge(graph, *variables, copy=True)
        if (mix := getattr(model, layer_mix.NAME, None)) is not None:
            batch = batch.map(mix)
        outputs, changed = model(batch, key=key), _named(nnx.to_pure_dict(split(model)[2]))
        if compute is not None:
            outputs, changed = cast(outputs, jnp.float32), cast(changed, jnp.float32)
        return outputs, choose(changed, model_state)

    return FunctionalModel(init, apply)


def cast(tree: Any, dtype: Any) -> Any:
    """The tree with its floating-point arrays in another type."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _with_start(tree: Any, start: Any) -> Any:
    """The tree with the arrays that `start` has of it."""
    if not isinstance(tree, dict):
        return tree if isinstance(start, dict) else start
    return {k: _with_start(v, start.get(k, {})) for k, v in tree.items()}


def _named(tree: Any) -> Any:
    """List positions become strings: checkpoints know string keys only."""
    return {str(k): _named(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _numbered(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _numbered(v) for k, v in tree.items()}
