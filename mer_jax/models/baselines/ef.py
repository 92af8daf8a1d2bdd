"""EF-GRU and EF-LSTM: early fusion, the modalities side by side at every step of one recurrent network; EF-LSTM is a
baseline of MulT (Tsai et al. 2019, arXiv 1906.00295) and of CH-SIMS (Yu et al., ACL 2020).

The modalities of a corpus are not aligned in time. Ours: the real steps of each are brought to as many as the longest
one of the utterance has, by the nearest step before; step t reads step floor(t * own / longest) of a modality with
`own` real steps, which come first. A modality that is missing is zeros. What the network knows after the last step goes
through a ReLU layer; sizes are ours."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.config import Experiment
from mer_jax.data.batch import Batch, where_real
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_utterances import Head, MakeContext, OverUtterances, ReLULayers, build_with
from mer_jax.models.recurrent import Recurrent, last_steps
from mer_jax.settings import LossSettings, ModelSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = "EF-{} (as in arXiv 1906.00295): one recurrent network over all modalities side by side; frozen text"


@dataclasses.dataclass
class EFSettings(ModelSettings):
    """Early fusion."""

    cell: str = setting("lstm", choices=("gru", "lstm"))
    width: int = setting(128, at_least=1)  # of the recurrent state and of the layer behind it
    dropout: float = setting(0.3, below=1, swept=True)  # before the two dense layers


@dataclasses.dataclass
class EFExperiment(Experiment):
    """Early fusion of any modalities."""

    reads_conversations: ClassVar[bool] = True
    experiment: str = "ef"
    model: EFSettings = group(EFSettings)
    loss: LossSettings = group(LossSettings)


class EarlyFusion(OverUtterances):
    """widths: features per time step of each modality, in order. outputs: how many logits."""

    def __init__(
        self,
        settings: EFSettings,
        *,
        widths: Mapping[str, int],
        outputs: int,
        context: MakeContext = None,
        rngs: nnx.Rngs,
    ):
        width, rate = settings.width, settings.dropout
        self.modalities = tuple(widths)
        self.recurrent = Recurrent(sum(widths.values()), width, kind=settings.cell, ahead=False, rngs=rngs)
        self.hidden = ReLULayers(width, [width], rate, rngs=rngs)
        self.head = Head(width, outputs, rate, context, rngs=rngs)

    def _encode(self, batch: Batch, key: PRNGKeyArray | None) -> Float[Array, "batch dim"]:
        x, mask = side_by_side(*zip(*((batch.features[m], batch.mask[m]) for m in self.modalities), strict=True))
        return self.hidden(last_steps(self.recurrent(x, mask), mask), key=key)


def side_by_side(
    features: tuple[Float[Array, "batch _ _"], ...], masks: tuple[Bool[Array, "batch _"], ...]
) -> tuple[Float[Array, "batch time feat"], Bool[Array, "batch time"]]:
    """All modalities of every utterance at each step of its longest one, and which of these steps are real."""
    own = [mask.sum(1, dtype=jnp.int32) for mask in masks]
    longest = functools.reduce(jnp.maximum, own)[:, None]
    step = jnp.arange(max(mask.shape[1] for mask in masks), dtype=jnp.int32)[None]
    found = []
    for x, mask, steps in zip(features, masks, own, strict=True):
        at = step * steps[:, None] // jnp.maximum(longest, 1)
        at = jnp.clip(at, 0, x.shape[1] - 1)
        found.append(jnp.take_along_axis(where_real(mask, x), at[..., None], axis=1))
    real = step < longest
    return where_real(real, jnp.concatenate(found, axis=-1)), real


def build(config: EFExperiment, manifest: Manifest, task: Task) -> family.Family:
    """Early fusion for a corpus."""
    found = build_with(EarlyFusion, SENTENCE.format(config.model.cell.upper()), config, manifest, task)
    # Which of the modalities has the most steps shapes the program.
    return dataclasses.replace(found, fixed_lengths=config.data.modalities)
