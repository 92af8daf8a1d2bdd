"""Temporal convolutional network: causal, dilated, weight-normed, residual (Bai et al. 2018), as DeepMSI-MER uses it.

Time runs backwards in here: index 0 is the last real step of a sequence, index r the one r steps before it. Padding
then lies behind the data, where a causal convolution pads with zeros anyway, and what the last step depends on is a
slice with a stride: a block that looks back d steps needs every d-th step of the one below it."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.models.layers import Number, at_least_float32, dropout, product, split_key, sweepable, torch_start

Steps = tuple[int, int]  # (stride, count): the steps 0, stride, 2 stride … of a sequence, counted from its end


class CausalConv(nnx.Module):
    """y_t = b + sum_j x_(t - j dilation) W_j with W = magnitude * direction / |direction| per output feature (Salimans
    & Kingma 2016). he: whether it starts as He et al. (2015) say, or as torch does if nobody says otherwise."""

    def __init__(self, inputs: int, outputs: int, taps: int, dilation: int, *, he: bool, rngs: nnx.Rngs):
        self.taps, self.dilation = taps, dilation
        start = torch_start(taps * inputs)
        draw = nnx.initializers.he_normal(in_axis=(0, 1)) if he else start["kernel_init"]
        kernel = draw(rngs.params(), (taps, inputs, outputs), jnp.float32)
        self.direction = nnx.Param(kernel)
        self.magnitude = nnx.Param(jnp.sqrt(jnp.square(kernel).sum((0, 1))))
        self.bias = nnx.Param(jnp.zeros(outputs) if he else start["bias_init"](rngs.params(), (outputs,)))

    def needs(self, steps: Steps, time: int) -> Steps:
        """The steps of the input that the output's `steps` depend on, in a sequence of `time` steps."""
        stride, count = steps
        reach = (count - 1) * stride + (self.taps - 1) * self.dilation
        fine = math.gcd(self.dilation, stride if count > 1 else 0)
        return fine, min(reach, time - 1) // fine + 1

    def __call__(self, x: Float[Array, "batch given feat"], given: Steps, wanted: Steps) -> Float[Array, "batch _ dim"]:
        """x holds the steps `given` of the input; the result holds the steps `wanted`."""
        back = self.dilation // given[0]  # from tap to tap, in steps of x
        count, stride = wanted[1], max(1, wanted[0] // given[0])
        reach = (count - 1) * stride + 1
        x = jnp.pad(x, ((0, 0), (0, max(0, (self.taps - 1) * back + reach - x.shape[1])), (0, 0)))
        seen = jnp.concatenate([x[:, j * back : j * back + reach : stride] for j in range(self.taps)], axis=-1)
        kernel = self.direction[...]
        # The norm scales the product, not the kernel: no second kernel is ever written.
        norm = jnp.sqrt(jnp.square(kernel.astype(at_least_float32(kernel))).sum((0, 1))).astype(kernel.dtype)
        scale = self.magnitude[...] / norm
        return product(seen, kernel.reshape(-1, kernel.shape[-1])) * scale[None, None] + self.bias[...][None, None]


class TemporalBlock(nnx.Module):
    """ReLU(x + dropout(ReLU(conv(dropout(ReLU(conv(x))))))); a linear map of x where the widths differ, which starts
    small without `he`, as published."""

    def __init__(self, inputs: int, outputs: int, taps: int, dilation: int, rate: Number, *, he: bool, rngs: nnx.Rngs):
        self.rate = sweepable(rate)
        self.first = CausalConv(inputs, outputs, taps, dilation, he=he, rngs=rngs)
        self.second = CausalConv(outputs, outputs, taps, dilation, he=he, rngs=rngs)
        start = {} if he else torch_start(inputs) | {"kernel_init": nnx.initializers.normal(0.01)}
        self.shortcut = nnx.Linear(inputs, outputs, rngs=rngs, **start) if inputs != outputs else None

    def plan(self, wanted: Steps, time: int) -> tuple[Steps, Steps, Steps]:
        """What is computed where: steps of the input, of the middle, of the output."""
        middle = self.second.needs(wanted, time)
        return self.first.needs(middle, time), middle, wanted

    def __call__(
        self,
        x: Float[Array, "batch given feat"],
        mask: Bool[Array, "batch time"],
        plan: tuple[Steps, Steps, Steps],
        *,
        key: PRNGKeyArray | None,
    ) -> Float[Array, "batch wanted dim"]:
        given, middle, wanted = plan
        one, two = split_key(key, 2)
        y = dropout(nnx.relu(self.first(x, given, middle)), self.rate, one)
        y = jnp.where(take(mask, (1, mask.shape[1]), middle)[..., None], y, 0)
        y = dropout(nnx.relu(self.second(y, middle, wanted)), self.rate, two)
        x = take(x, given, wanted)
        y = nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))
        return jnp.where(take(mask, (1, mask.shape[1]), wanted)[..., None], y, 0)


def take(x: Array, given: Steps, wanted: Steps) -> Array:
    """The steps `wanted` out of x, which holds the steps `given`."""
    stride = wanted[0] // given[0] if wanted[1] > 1 else 1
    return x[:, : (wanted[1] - 1) * stride + 1 : stride]


class TCN(nnx.Module):
    """Blocks with dilations 1, 2, 4 …; reads the last real step of every sequence, or all of them.

    In `mask` a sequence's real steps come first, its padding last.
    """

    def __init__(self, feat: int, widths: tuple[int, ...], taps: int, rate: Number, *, he: bool, rngs: nnx.Rngs):
        sizes = (feat, *widths)
        self.blocks = nnx.List(
            [
                TemporalBlock(a, b, taps, 2**i, rate, he=he, rngs=rngs)
                for i, (a, b) in enumerate(zip(sizes, widths, strict=False))
            ]
        )

    def last(
        self, x: Float[Array, "batch time feat"], mask: Bool[Array, "batch time"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch dim"]:
        """The output at each sequence's last real step, computing only what it depends on; zero where there is none."""
        return self._run(backwards(x, mask), mask, (1, 1), key)[:, 0]

    def __call__(
        self, x: Float[Array, "batch time feat"], mask: Bool[Array, "batch time"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "batch time dim"]:
        """The output at every real step; zero elsewhere."""
        return backwards(self._run(backwards(x, mask), mask, (1, x.shape[1]), key), mask)

    def _run(self, x: Array, mask: Array, wanted: Steps, key: PRNGKeyArray | None) -> Array:
        plans = []
        for block in reversed(self.blocks):
            plans.append(block.plan(wanted, mask.shape[1]))
            wanted = plans[-1][0]
        x = take(x, (1, mask.shape[1]), wanted)
        for block, plan, k in zip(self.blocks, reversed(plans), split_key(key, len(plans)), strict=True):
            x = block(x, mask, plan, key=k)
        return x


def backwards(x: Float[Array, "batch time feat"], mask: Bool[Array, "batch time"]) -> Float[Array, "batch time feat"]:
    """Every sequence's real steps, last first; the padding behind them is zero. Its own inverse."""
    count = mask.sum(1, dtype=jnp.int32)[:, None, None]
    steps = jnp.arange(x.shape[1], dtype=jnp.int32)
    here, there = steps[None, :, None], steps[None, None, :]
    # A product with ones and zeros, exact at this precision: unlike a gather's, its gradient is a product too.
    chosen = (here + there == count - 1).astype(x.dtype)
    return jnp.einsum("brt,btf->brf", chosen, x, precision="highest")
