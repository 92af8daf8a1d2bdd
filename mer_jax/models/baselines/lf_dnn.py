"""LF-DNN: late fusion by dense layers, the baseline of CH-SIMS (Yu et al., ACL 2020).

Every modality's mean over time goes through dense layers of its own; what these give is joined and goes through dense
layers together. Widths, numbers of layers and places of dropout are ours."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from mer_jax.config import Experiment
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_utterances import Head, MakeContext, OverUtterances, ReLULayers, build_with
from mer_jax.models.layers import masked_mean, split_key
from mer_jax.settings import LossSettings, ModelSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = (
    "LF-DNN (Yu et al. 2020): dense layers over the mean of every modality, then over what these give; frozen text"
)


@dataclasses.dataclass
class LFDNNSettings(ModelSettings):
    """LF-DNN."""

    width: int = setting(128, at_least=1)  # of every dense layer
    layers: int = setting(2, at_least=1)  # of every modality
    fusion_layers: int = setting(1, at_least=1)  # over the joined modalities
    dropout: float = setting(0.3, below=1, swept=True)  # before every dense layer


@dataclasses.dataclass
class LFDNNExperiment(Experiment):
    """LF-DNN on any modalities."""

    reads_conversations: ClassVar[bool] = True
    experiment: str = "lf_dnn"
    model: LFDNNSettings = group(LFDNNSettings)
    loss: LossSettings = group(LossSettings)


class LFDNN(OverUtterances):
    """widths: features per time step of each modality, in order. outputs: how many logits."""

    def __init__(
        self,
        settings: LFDNNSettings,
        *,
        widths: Mapping[str, int],
        outputs: int,
        context: MakeContext = None,
        rngs: nnx.Rngs,
    ):
        width, rate = settings.width, settings.dropout
        self.modalities = tuple(widths)
        own = [width] * settings.layers
        self.subnetworks = nnx.Dict({m: ReLULayers(feat, own, rate, rngs=rngs) for m, feat in widths.items()})
        self.fusion = ReLULayers(len(widths) * width, [width] * settings.fusion_layers, rate, rngs=rngs)
        self.head = Head(width, outputs, rate, context, rngs=rngs)

    def _encode(self, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "batch dim"]:
        *keys, last = split_key(key, len(self.modalities) + 1)
        hidden = [
            self.subnetworks[m](masked_mean(batch.features[m], batch.mask[m]), key=k)
            for m, k in zip(self.modalities, keys, strict=True)
        ]
        return self.fusion(jnp.concatenate(hidden, axis=-1), key=last)


def build(config: LFDNNExperiment, manifest: Manifest, task: Task) -> family.Family:
    """LF-DNN for a corpus."""
    return build_with(LFDNN, SENTENCE, config, manifest, task)
