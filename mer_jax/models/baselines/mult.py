"""MulT: Multimodal Transformer for unaligned sequences (Tsai et al. 2019, arXiv 1906.00295).

A temporal convolution brings every modality to one width, and sinusoidal positions are added. For every ordered pair a
crossmodal transformer lets the target modality a attend to the source b, whose sequence stays the one of the start:

    z' = CM(LN(z_a), LN(z_b^0)) + LN(z_a),    z_a = f(LN(z')) + LN(z')    in every layer, f position-wise

as the paper's equations have it, residuals behind the norms. What a heard of every other modality is joined along the
features and goes through a transformer that attends to itself; of that the last real step is taken. These are joined,
over the targets, and go through two dense layers with a residual connection, which are ours as in all sizes.

Ours, too: one modality alone has its self-attention transformer only; the transformer that attends to itself has the
same layers, with keys from what it has got to; one rate of dropout everywhere. `attention` are the weights, mean of the
heads, by which the last step of every modality attended to its steps in the last layer."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.config import Experiment, require
from mer_jax.data.batch import AnyBatch, Batch, where_real
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_utterances import Head, MakeContext, build_with
from mer_jax.models.conversation import by_group
from mer_jax.models.layers import MultiHeadAttention, Number, dropout, sinusoids, split_key, sweepable
from mer_jax.models.recurrent import last_steps
from mer_jax.settings import LossSettings, ModelSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = "MulT (arXiv 1906.00295): every modality attends to every other one across time; frozen text"


@dataclasses.dataclass
class MulTSettings(ModelSettings):
    """MulT. Sizes are ours."""

    width: int = setting(32, at_least=2)  # of every modality; its self-attention is as wide as all it heard
    heads: int = setting(4, at_least=1)
    layers: int = setting(2, at_least=1)  # of every transformer
    kernel: int = setting(3, at_least=1)  # time steps that the convolution reads
    dropout: float = setting(0.2, below=1, swept=True)


@dataclasses.dataclass
class MulTExperiment(Experiment):
    """MulT on any modalities."""

    reads_conversations: ClassVar[bool] = True
    experiment: str = "mult"
    model: MulTSettings = group(MulTSettings)
    loss: LossSettings = group(LossSettings)

    def check(self) -> None:
        width, heads = self.model.width, self.model.heads
        right = f"even, and a multiple of model.heads = {heads}"
        require(width % 2 == 0 and width % heads == 0, "model.width", width, right)


class Convolution(nnx.Module):
    """A convolution over time that keeps the length, zeros beyond both ends: a dense layer on `taps` steps side by
    side, the earliest first; place taps // 2 has the step itself."""

    def __init__(self, feat: int, width: int, taps: int, *, rngs: nnx.Rngs):
        self.taps = taps
        self.dense = nnx.Linear(taps * feat, width, rngs=rngs)

    def __call__(self, x: Float[Array, "batch time feat"]) -> Float[Array, "batch time dim"]:
        time, before, behind = x.shape[1], self.taps // 2, (self.taps - 1) // 2
        padded = jnp.pad(x, ((0, 0), (before, behind), (0, 0)))
        return self.dense(jnp.concatenate([padded[:, i : i + time] for i in range(self.taps)], axis=-1))


class Layer(nnx.Module):
    """One layer of a crossmodal transformer; see the head of the file. Without a source it attends to itself."""

    def __init__(self, width: int, source_width: int | None, heads: int, rate: Number, *, rngs: nnx.Rngs):
        self.dropout = sweepable(rate)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.source_norm = nnx.LayerNorm(source_width, rngs=rngs) if source_width else None
        self.attention = MultiHeadAttention(width, heads, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.mlp_in = nnx.Linear(width, 4 * width, rngs=rngs)
        self.mlp_out = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch time dim"],
        source: Float[Array, "batch from dim"],
        mask: Bool[Array, "batch from"],
        *,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "batch time dim"], Float[Array, "batch heads time from"]]:
        """The target after the layer, and how it attended to the source's steps."""
        first, second = split_key(key, 2)
        x = self.norm(x)
        source = x if self.source_norm is None else self.source_norm(source)
        found, weight = self.attention(x, source, mask)
        x = self.mlp_norm(dropout(found, self.dropout, first) + x)
        return dropout(self.mlp_out(nnx.relu(self.mlp_in(x))), self.dropout, second) + x, weight


class Transformer(nnx.Module):
    """Layers in which a sequence attends to another one (`crossmodal`) or to itself."""

    def __init__(self, width: int, *, crossmodal: bool, settings: MulTSettings, rngs: nnx.Rngs):
        source = width if crossmodal else None
        heads, rate = settings.heads, settings.dropout
        self.layers = nnx.List([Layer(width, source, heads, rate, rngs=rngs) for _ in range(settings.layers)])

    def __call__(
        self, x: Array, source: Array, mask: Bool[Array, "batch from"], *, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "batch time dim"], Float[Array, "batch heads time from"]]:
        """The sequence, and the weights of the last layer."""
        for layer, k in zip(self.layers, split_key(key, len(self.layers)), strict=True):
            x, weight = layer(x, source, mask, key=k)
        return x, weight


class MulT(nnx.Module):
    """widths: features per time step of each modality, in order. outputs: how many logits."""

    def __init__(
        self,
        settings: MulTSettings,
        *,
        widths: Mapping[str, int],
        outputs: int,
        context: MakeContext = None,
        rngs: nnx.Rngs,
    ):
        self.modalities, self.dropout, width = tuple(widths), sweepable(settings.dropout), settings.width
        convolutions = {m: Convolution(feat, width, settings.kernel, rngs=rngs) for m, feat in widths.items()}
        self.convolutions = nnx.Dict(convolutions)
        how: Any = {"settings": settings, "rngs": rngs}
        pairs = {a: {b: Transformer(width, crossmodal=True, **how) for b in widths if b != a} for a in widths}
        self.crossmodal = nnx.Dict({a: nnx.Dict(sources) for a, sources in pairs.items()})  # by target, then source
        heard = width * max(1, len(widths) - 1)
        self.own = nnx.Dict({m: Transformer(heard, crossmodal=False, **how) for m in widths})
        joined = heard * len(widths)
        self.hidden, self.mix = (nnx.Linear(joined, joined, rngs=rngs) for _ in range(2))
        self.head = Head(joined, outputs, settings.dropout, context, rngs=rngs)

    def __call__(self, batch: AnyBatch, *, key: PRNGKeyArray | None = None) -> family.Outputs:
        first, last = split_key(key, 2)
        utterance, attention = by_group(self._encode, batch, first)
        return self.head(utterance, attention, batch, key=last)

    def _encode(
        self, batch: Batch, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "batch dim"], dict[str, Float[Array, "batch _"]]]:
        last, *keys = split_key(key, 1 + len(self.modalities) ** 2)
        start = {m: self._start(m, batch.features[m], batch.mask[m]) for m in self.modalities}
        ends, attention = [], {}
        for a in self.modalities:
            heard = [
                self.crossmodal[a][b](start[a], start[b], batch.mask[b], key=keys.pop())[0]
                for b in self.modalities  # an nnx.Dict that was split has another order
                if b != a
            ]
            x = jnp.concatenate(heard or [start[a]], axis=-1)
            x, weight = self.own[a](x, x, batch.mask[a], key=keys.pop())
            ends.append(last_steps(x, batch.mask[a]))
            attention[a] = last_steps(weight.mean(1), batch.mask[a])
        joined = jnp.concatenate(ends, axis=-1)
        hidden = dropout(nnx.relu(self.hidden(joined)), self.dropout, last)
        return joined + self.mix(hidden), attention

    def _start(
        self, modality: str, x: Float[Array, "batch time feat"], mask: Bool[Array, "batch time"]
    ) -> Float[Array, "batch time dim"]:
        """The convolved sequence with its positions."""
        x = self.convolutions[modality](where_real(mask, x))
        time = jnp.arange(x.shape[1], dtype=jnp.int32)
        return x + sinusoids(time, x.shape[2]).astype(x.dtype)[None]


def build(config: MulTExperiment, manifest: Manifest, task: Task) -> family.Family:
    """MulT for a corpus."""
    return build_with(MulT, SENTENCE, config, manifest, task)
