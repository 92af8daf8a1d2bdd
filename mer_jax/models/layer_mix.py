"""Hidden layers of an encoder, which lie side by side in a time step, become one vector before any family sees them."""

import dataclasses
from collections.abc import Mapping

import einops
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mer_jax.data.batch import Batch
from mer_jax.models.layers import sweepable, value_of
from mer_jax.settings import ModelSettings

NAME = "layer_mix"  # the attribute of a model that holds a LayerMix


class LayerMix(nnx.Module):
    """The weighted sum of the standardised layers of every modality that has some. `learned`: the weights are the
    softmax of one learned score for each layer and modality, all zero at the start, which is the mean (SUPERB, Yang et
    al. 2021). `one`: all weight is on model.layer. Time steps stay zero where they are padding.

    layers: by modality, in the order in which they lie in a time step."""

    def __init__(self, settings: ModelSettings, layers: Mapping[str, tuple[int, ...]]):
        self.layers = tuple(layers.items())
        self.learned = settings.layer_mix == "learned"
        if self.learned:
            self.scores = nnx.Dict({m: nnx.Param(jnp.zeros(len(numbers))) for m, numbers in self.layers})
        else:
            self.layer = sweepable(settings.layer)

    def __call__(self, batch: Batch) -> Batch:
        mixed = {m: mix(batch.features[m], self._weights(m, numbers)) for m, numbers in self.layers}
        return dataclasses.replace(batch, features=batch.features | mixed)

    def _weights(self, modality: str, numbers: tuple[int, ...]) -> Float[Array, "layers"]:
        if self.learned:
            return jax.nn.softmax(self.scores[modality][...].astype(jnp.float32))
        chosen = jnp.asarray(numbers, jnp.float32) == value_of(self.layer, jnp.float32)
        return chosen.astype(jnp.float32)


def mix(x: Float[Array, "batch time joined"], weights: Float[Array, "layers"]) -> Float[Array, "batch time feat"]:
    """The weighted sum of the layers. As products and a sum, not as a matrix product, which an accelerator would
    round."""
    apart = einops.rearrange(x, "b t (l f) -> b t l f", l=weights.shape[0])
    return (apart * weights.astype(x.dtype)[None, None, :, None]).sum(2)
