"""LMF: Low-rank Multimodal Fusion (Liu et al. 2018, arXiv 1806.00064).

An embedding subnetwork makes a vector z of every modality: the last state of an LSTM over the text, of all others two
ReLU layers of the mean over time. The outer product of the vectors [z; 1] is read by a dense layer (equations 1 and 2)
whose weights are a sum of r outer products, with a factor w_m^(i) for each modality (3 and 4): h = sum_i prod_m
(w_m^(i) [z_m; 1]) + b, the products elementwise (8). The tensor is never made, and h is exactly what that dense layer
makes of it. The last line of the paper's equation 6, and 7, multiply over the modalities what is summed over i; that
exchange of sum and product is no identity, and it is not what is computed here.

Ours: sizes, the factors' start, and dropout before every dense layer but the fusion."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from mer_jax.config import Experiment
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_utterances import Head, MakeContext, OverUtterances, build_with
from mer_jax.models.baselines.tfn import MeanSubnetwork, TextSubnetwork, with_one
from mer_jax.models.layers import split_key
from mer_jax.settings import LossSettings, ModelSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = "LMF (arXiv 1806.00064): tensor fusion of the modalities' vectors by weights of low rank; frozen text"


@dataclasses.dataclass
class LMFSettings(ModelSettings):
    """LMF. Sizes are ours."""

    rank: int = setting(4, at_least=1)  # r
    text_width: int = setting(64, at_least=1)  # of the LSTM's state, which is z of the text
    width: int = setting(32, at_least=1)  # of the layers and of z of every other modality
    fusion_width: int = setting(64, at_least=1)  # of h
    dropout: float = setting(0.3, below=1, swept=True)  # before every dense layer


@dataclasses.dataclass
class LMFExperiment(Experiment):
    """LMF on any modalities."""

    reads_conversations: ClassVar[bool] = True
    experiment: str = "lmf"
    model: LMFSettings = group(LMFSettings)
    loss: LossSettings = group(LossSettings)


class Factor(nnx.Module):
    """The factors w^(i) of one modality: [batch, feat] -> [batch, rank, dim]. The sum over the ranks starts as large as
    one of its terms would be alone if there are `modalities` factors to each [ours]."""

    def __init__(self, feat: int, rank: int, width: int, *, modalities: int, rngs: nnx.Rngs):
        scale = feat**-0.5 * rank ** (-0.5 / modalities)
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (rank, feat, width)))

    def __call__(self, z: Float[Array, "batch feat"]) -> Float[Array, "batch rank dim"]:
        return jnp.einsum("bf,rfd->brd", z, self.kernel[...])


class LMF(OverUtterances):
    """widths: features per time step of each modality, in order. outputs: how many logits."""

    def __init__(
        self,
        settings: LMFSettings,
        *,
        widths: Mapping[str, int],
        outputs: int,
        context: MakeContext = None,
        rngs: nnx.Rngs,
    ):
        rate, fused, rank = settings.dropout, settings.fusion_width, settings.rank
        self.modalities = tuple(widths)
        sizes = {m: settings.text_width if m == "text" else settings.width for m in widths}
        self.subnetworks = nnx.Dict(
            {
                m: TextSubnetwork(feat, sizes[m], rate, depth=0, rngs=rngs)
                if m == "text"
                else MeanSubnetwork(feat, sizes[m], rate, depth=2, rngs=rngs)
                for m, feat in widths.items()
            }
        )
        many = len(widths)
        self.factors = nnx.Dict({m: Factor(n + 1, rank, fused, modalities=many, rngs=rngs) for m, n in sizes.items()})
        self.bias = nnx.Param(jnp.zeros(fused))
        self.head = Head(fused, outputs, rate, context, rngs=rngs)

    def _encode(self, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "batch dim"]:
        keys = split_key(key, len(self.modalities))
        factors = []
        for m, k in zip(self.modalities, keys, strict=True):
            z = self.subnetworks[m](batch.features[m], batch.mask[m], key=k)
            factors.append(self.factors[m](with_one(z)))
        return functools.reduce(jnp.multiply, factors).sum(1) + self.bias[...][None]


def build(config: LMFExperiment, manifest: Manifest, task: Task) -> family.Family:
    """LMF for a corpus."""
    return build_with(LMF, SENTENCE, config, manifest, task)
