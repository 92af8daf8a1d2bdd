"""A module class as two pure functions; the only file that knows how NNX is split and merged."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Pure:
    """init(key, values) -> (params, rest); apply(params, rest, batch, key=None) -> (outputs, rest).

    `params` is what the optimiser changes, `rest` every other variable, both nested dicts of arrays. `values`: the swept
    numbers, `{field: array}`. `key` None means deterministic; otherwise it seeds dropout for this one call.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any]]


def pure(
    module: Callable[..., nnx.Module],
    arguments: Callable[[dict[str, Any]], dict[str, Any]],
    swept: Iterable[str] = (),
    compute: Any = None,
) -> Pure:
    """`module(**arguments(values), rngs=…)` turned into pure functions, for any values of the `swept` fields. `compute`: the
    float type that `apply` works in; variables and outputs stay float32."""

    def make(key: jax.Array, values: dict[str, Any]) -> nnx.Module:
        return module(**arguments(values), rngs=nnx.Rngs(key))

    def split(model: nnx.Module) -> Any:
        return nnx.split(model, nnx.Param, ...)

    some = {field: jax.ShapeDtypeStruct((), jnp.float32) for field in swept}
    graph, params_spec, rest_spec = split(nnx.eval_shape(make, jax.random.key(0), some))

    def fill(spec: Any, values: Any) -> Any:
        state = jax.tree.map(lambda x: x, spec)
        nnx.replace_by_pure_dict(state, values)
        return state

    def init(key: jax.Array, values: dict[str, Any] | None = None) -> tuple[Any, Any]:
        _, params, rest = split(make(key, values or {}))
        return _named(nnx.to_pure_dict(params)), _named(nnx.to_pure_dict(rest))

    def apply(params: Any, rest: Any, batch: Any, key: jax.Array | None = None) -> tuple[Any, Any]:
        if compute is not None:
            params, batch = _cast(params, compute), _cast(batch, compute)
        model: Any = nnx.merge(graph, fill(params_spec, _numbered(params)), fill(rest_spec, _numbered(rest)), copy=True)
        outputs, rest = model(batch, key=key), nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        if compute is not None:
            outputs, rest = _cast(outputs, jnp.float32), _cast(rest, jnp.float32)
        return outputs, _named(rest)

    return Pure(init, apply)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _named(tree: Any) -> Any:
    """List positions become strings: checkpoints know string keys only."""
    return {str(k): _named(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _numbered(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {int(k) if k.isdigit() else k: _numbered(v) for k, v in tree.items()}
