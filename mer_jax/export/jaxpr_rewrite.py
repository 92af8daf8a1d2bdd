"""A JAX function written again with fewer primitives, for converters that do not know them all."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

# Primitives whose params have the function that they call as `jaxpr`; others have it as `call_jaxpr`.
CALLS = ("jit", "pjit", "checkpoint", "remat", "remat2")


def simplify_jaxpr(function: Callable[..., Any], *shapes: jax.ShapeDtypeStruct) -> Callable[..., list[Any]]:
    """The function of arrays of these shapes, which may be symbolic, without calls of other functions (they are written
    out), without loops that run backwards (they run forwards over what is reversed) and without padding (it is
    concatenated); what depends on no input is computed now. Returns a list of arrays; gradients of it need not be those
    of the function."""
    closed = jax.make_jaxpr(function)(*shapes)
    return lambda *inputs: _run(closed.jaxpr, closed.consts, inputs)


def _run(jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation in jaxpr.eqns:
        arguments = [read(variable) for variable in equation.invars]
        values.update(zip(equation.outvars, _outputs(equation, arguments), strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _outputs(equation: core.JaxprEqn, arguments: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    inner = params["jaxpr"] if name in CALLS else params.get("call_jaxpr")
    if inner is not None:
        return _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), arguments)
    if name == "scan" and params["reverse"]:
        body = params["jaxpr"]
        arguments = _reversed_along(arguments, body.in_avals)
        found = equation.primitive.bind(*arguments, **params | {"reverse": False})
        return _reversed_along(found, body.out_avals)
    if name == "pad":
        return [_padded(arguments[0], arguments[1], params["padding_config"])]
    # A broadcast is larger than what it is of, and may be as long as an input.
    traced = any(isinstance(x, jax.core.Tracer) for x in arguments)
    known = arguments and name != "broadcast_in_dim" and not traced
    with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
        found = equation.primitive.bind(*arguments, **params)
    return found if equation.primitive.multiple_results else [found]


def _reversed_along(values: Sequence[Any], of_a_step: Sequence[Any]) -> list[Any]:
    """Those that the scan goes along, which have an axis more than in a step, from their ends to their beginnings."""
    pairs = zip(values, of_a_step, strict=True)
    return [jax.lax.rev(x, (0,)) if jnp.ndim(x) > aval.ndim else x for x, aval in pairs]


def _padded(x: Any, fill: Any, config: Sequence[Any]) -> Any:
    """config: per axis how many are put before, behind and between."""
    for axis, (before, behind, between) in enumerate(config):
        if between or min(before, behind) < 0:
            raise NotImplementedError("padding between elements, or with less than none")

        def filled(count: Any, x: Any = x, axis: int = axis) -> list[Any]:
            shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
            return [jax.lax.broadcast_in_dim(fill, shape, ())] if count else []

        x = jax.lax.concatenate([*filled(before), x, *filled(behind)], axis)
    return x
