"""TFN: Tensor Fusion Network (Zadeh et al. 2017, arXiv 1707.07250).

An embedding subnetwork makes a vector z of every modality: an LSTM and ReLU layers of the text, of all others three
ReLU layers of the mean over time. The outer product of the vectors [z; 1] holds every product of one, two or three
modalities; the inference subnetwork, two ReLU layers, reads it.

Ours: the text's layers read the LSTM's last state; widths are smaller than the paper's (128 of text, 32 of the others),
because the tensor grows with their product; dropout lies before every dense layer."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.config import Experiment
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_utterances import Head, MakeContext, OverUtterances, ReLULayers, build_with
from mer_jax.models.layers import Number, masked_mean, split_key
from mer_jax.models.recurrent import Recurrent, last_steps
from mer_jax.settings import LossSettings, ModelSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = "TFN (arXiv 1707.07250): the outer product of the modalities' vectors; frozen text"


@dataclasses.dataclass
class TFNSettings(ModelSettings):
    """TFN. The tensor has (text_width + 1) * (width + 1) * (width + 1) entries."""

    text_width: int = setting(64, at_least=1)  # of the LSTM and of z of the text
    width: int = setting(16, at_least=1)  # of the layers and of z of every other modality
    inference_width: int = setting(128, at_least=1)
    dropout: float = setting(0.3, below=1, swept=True)  # before every dense layer


@dataclasses.dataclass
class TFNExperiment(Experiment):
    """TFN on any modalities."""

    reads_conversations: ClassVar[bool] = True
    experiment: str = "tfn"
    model: TFNSettings = group(TFNSettings)
    loss: LossSettings = group(LossSettings)


class TextSubnetwork(nnx.Module):
    """Time steps -> z: the last state of an LSTM, and `depth` ReLU layers of it."""

    def __init__(self, feat: int, width: int, rate: Number, *, depth: int, rngs: nnx.Rngs):
        self.lstm = Recurrent(feat, width, kind="lstm", ahead=False, rngs=rngs)
        self.layers = ReLULayers(width, [width] * depth, rate, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch time feat"], mask: Bool[Array, "batch time"], *, key: PRNGKeyArray | None
    ) -> Float[Array, "batch dim"]:
        return self.layers(last_steps(self.lstm(x, mask), mask), key=key)


class MeanSubnetwork(nnx.Module):
    """Time steps -> z: `depth` ReLU layers of their mean."""

    def __init__(self, feat: int, width: int, rate: Number, *, depth: int, rngs: nnx.Rngs):
        self.layers = ReLULayers(feat, [width] * depth, rate, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch time feat"], mask: Bool[Array, "batch time"], *, key: PRNGKeyArray | None
    ) -> Float[Array, "batch dim"]:
        return self.layers(masked_mean(x, mask), key=key)


class TFN(OverUtterances):
    """widths: features per time step of each modality, in order. outputs: how many logits."""

    def __init__(
        self,
        settings: TFNSettings,
        *,
        widths: Mapping[str, int],
        outputs: int,
        context: MakeContext = None,
        rngs: nnx.Rngs,
    ):
        rate, inference = settings.dropout, settings.inference_width
        self.modalities = tuple(widths)
        sizes = {m: settings.text_width if m == "text" else settings.width for m in widths}
        self.subnetworks = nnx.Dict(
            {
                m: TextSubnetwork(feat, sizes[m], rate, depth=2, rngs=rngs)
                if m == "text"
                else MeanSubnetwork(feat, sizes[m], rate, depth=3, rngs=rngs)
                for m, feat in widths.items()
            }
        )
        tensor = math.prod(size + 1 for size in sizes.values())
        self.inference = ReLULayers(tensor, [inference, inference], rate, rngs=rngs)
        self.head = Head(inference, outputs, rate, context, rngs=rngs)

    def _encode(self, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "batch dim"]:
        *keys, last = split_key(key, len(self.modalities) + 1)
        z = [
            self.subnetworks[m](batch.features[m], batch.mask[m], key=k)
            for m, k in zip(self.modalities, keys, strict=True)
        ]
        return self.inference(tensor_of(z), key=last)


def with_one(z: Float[Array, "batch dim"]) -> Float[Array, "batch _"]:
    """[z; 1]"""
    return jnp.concatenate([z, jnp.ones_like(z[:, :1])], axis=-1)


def tensor_of(z: Sequence[Float[Array, "batch _"]]) -> Float[Array, "batch _"]:
    """The outer product of the vectors [z; 1], flat; the last modality's index runs fastest."""
    found = with_one(z[0])
    for one in z[1:]:
        found = jnp.einsum("bi,bj->bij", found, with_one(one))
        found = found.reshape(found.shape[0], -1)
    return found


def build(config: TFNExperiment, manifest: Manifest, task: Task) -> family.Family:
    """TFN for a corpus."""
    return build_with(TFN, SENTENCE, config, manifest, task)
