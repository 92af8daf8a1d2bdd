import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from mer_jax.models.layers import product
from mer_jax.models.tcn import TCN, CausalConv

RNG = np.random.default_rng(0)
FEAT, WIDTHS, TIME = 5, (6, 6, 4), 15


def make(taps=3):
    """(full(x, mask), last(x, mask), params as nested dicts), with norms and biases moved off their start."""
    graph, params = nnx.split(TCN(FEAT, WIDTHS, taps, 0.5, he=True, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), params)

    def named(tree):
        return {str(k): named(v) for k, v in tree.items()} if isinstance(tree, dict) else np.asarray(tree)

    full = jax.jit(lambda x, mask: nnx.merge(graph, params)(x, mask))
    last = jax.jit(lambda x, mask: nnx.merge(graph, params).last(x, mask))
    return full, last, named(nnx.to_pure_dict(params))


def sequences(lengths, time=TIME):
    x = np.zeros((len(lengths), time, FEAT), np.float32)
    mask = np.arange(time)[None] < np.array(lengths)[:, None]
    x[mask] = RNG.normal(size=(int(mask.sum()), FEAT))
    return jnp.asarray(x), jnp.asarray(mask)


LENGTHS = (15, 1, 4, 9, 14)


@pytest.mark.parametrize("taps", [1, 2, pytest.param(3, marks=pytest.mark.nnx), 4])
def test_full_and_last_step_are_the_formula(taps):
    run_full, run_last, params = make(taps)
    x, mask = sequences(LENGTHS)
    full, last = run_full(x, mask), run_last(x, mask)
    for i, length in enumerate(LENGTHS):
        wanted = reference.tcn(params, np.asarray(x[i, :length], np.float64))
        np.testing.assert_allclose(full[i, :length], wanted, atol=1e-5)
        np.testing.assert_array_equal(full[i, length:], 0)
        np.testing.assert_allclose(last[i], wanted[-1], atol=1e-5)


@pytest.mark.parametrize("time", [15, 29, 40, 2])
def test_the_last_step_is_that_of_the_full_sequence(time):
    run_full, run_last, _ = make()
    x, mask = sequences([time, max(1, time - 3)], time)
    full = run_full(x, mask)
    np.testing.assert_allclose(run_last(x, mask), [full[0, -1], full[1, max(1, time - 3) - 1]], atol=1e-6)


def test_padding_and_what_lies_in_it_change_nothing():
    _, last, _ = make()
    x, mask = sequences(LENGTHS)
    longer = jnp.pad(x, ((0, 0), (0, 6), (0, 0)))
    wider = jnp.pad(mask, ((0, 0), (0, 6)))
    rubbish = jnp.where(wider[..., None], longer, 1e3)
    np.testing.assert_allclose(last(rubbish, wider), last(x, mask), atol=1e-6)
    np.testing.assert_array_equal(last(x, jnp.zeros_like(mask)), 0)


def test_causality_by_gradient():
    """Step t of the output depends on step s of the input where s <= t lies in the receptive field, and nowhere
    else."""
    full, last, _ = make()
    x, mask = sequences([TIME])
    for t in (0, 6, 14):
        gradient = jax.grad(lambda y, t=t: full(y, mask)[0, t].sum())(x)
        reached = np.abs(gradient[0]).sum(-1) > 0
        np.testing.assert_array_equal(reached, np.arange(TIME) <= t)
    x, mask = sequences([40], 40)
    reached = np.abs(jax.grad(lambda y: last(y, mask).sum())(x)[0]).sum(-1) > 0
    np.testing.assert_array_equal(reached, np.arange(40) >= 40 - 29)  # 1 + 2 * 2 * (1 + 2 + 4) steps back


def multiply_adds(last, time=15):
    """Of the convolutions in the traced program, at the paper's size, for one sample."""
    model = nnx.eval_shape(lambda: TCN(768, (1024, 1024, 1024), 3, 0.0, he=True, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)

    def run(state, x, mask):
        merged = nnx.merge(graph, state)
        return merged.last(x, mask) if last else merged(x, mask)

    inputs = jax.ShapeDtypeStruct((1, time, 768), jnp.float32), jax.ShapeDtypeStruct((1, time), bool)
    total = 0
    for equation in equations(jax.make_jaxpr(run)(state, *inputs).jaxpr):
        if equation.primitive.name == "dot_general":
            inputs = equation.invars[1].aval.shape[0]
            total += (inputs >= 3 * 768) * inputs * int(np.prod(equation.outvars[0].aval.shape))
    return total


def equations(jaxpr):
    for equation in jaxpr.eqns:
        inner = [v.jaxpr for v in equation.params.values() if hasattr(v, "jaxpr")]
        yield from equations(inner[0]) if inner else [equation]


def test_the_last_step_alone_costs_less_than_half():
    assert [multiply_adds(last) // 10**6 for last in (True, False)] == [110, 271]


@pytest.mark.parametrize("he", [True, False])
def test_the_start_keeps_the_scale(he):
    """He et al.: variance 2 / fan-in; torch's default: 1 / (3 fan-in)."""
    conv = CausalConv(400, 300, 3, 1, he=he, rngs=nnx.Rngs(0))
    kernel = np.asarray(conv.direction[...])
    assert kernel.std() == pytest.approx((2 / 1200 if he else 1 / 3600) ** 0.5, rel=0.01)
    np.testing.assert_allclose(conv.magnitude[...], np.sqrt((kernel**2).sum((0, 1))), rtol=1e-5)


def test_a_bfloat16_product_and_its_gradients_are_right_up_to_one_rounding():
    rng = np.random.default_rng(0)
    x, kernel, g = (
        jnp.asarray(rng.uniform(0.5, 1.5, s), jnp.bfloat16) for s in ((2, 1000, 2000), (2000, 3), (2, 1000, 3))
    )
    exact = [np.asarray(a, np.float64) for a in (x, kernel, g)]
    y, back = jax.vjp(product, x, kernel)
    by_x, by_kernel = back(g)
    rounded = {"rtol": 2**-8, "atol": 0}
    np.testing.assert_allclose(np.asarray(y, np.float64), exact[0] @ exact[1], **rounded)
    np.testing.assert_allclose(np.asarray(by_x, np.float64), exact[2] @ exact[1].T, **rounded)
    np.testing.assert_allclose(
        np.asarray(by_kernel, np.float64), np.einsum("btf,btd->fd", exact[0], exact[2]), **rounded
    )
