"""bc-LSTM: Context-Dependent Sentiment Analysis in User-Generated Videos (Poria et al., ACL 2017)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_dialogues import DialogueExperiment, DialogueLayers, DialogueSettings, build_with
from mer_jax.models.conversation import Grid
from mer_jax.models.layers import dropout, split_key, sweepable
from mer_jax.models.recurrent import Recurrent
from mer_jax.settings import LossSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = "bc-LSTM (Poria et al. 2017): an LSTM over the dialogue for every modality, and one over what these say"


@dataclasses.dataclass
class BcLSTMSettings(DialogueSettings):
    """bc-LSTM. The paper has 300 cells and dense layers of 100 for text."""

    width: int = setting(128, at_least=2)  # of every LSTM, both directions together, and of every dense layer
    dropout: float = setting(0.5, below=1, swept=True)  # between LSTM and dense layer
    # Every modality's LSTM first, as the paper's hierarchical fusion; False: one LSTM over all modalities side by side.
    hierarchical: bool = True


@dataclasses.dataclass
class BcLSTMExperiment(DialogueExperiment):
    experiment: str = "bc_lstm"
    model: BcLSTMSettings = group(BcLSTMSettings)
    loss: LossSettings = group(LossSettings)


class ContextualLSTM(nnx.Module):
    """An LSTM over the turns, and a dense layer: z = ReLU(W h + b)."""

    def __init__(self, inputs: int, settings: BcLSTMSettings, *, ahead: bool, rngs: nnx.Rngs):
        self.dropout = sweepable(settings.dropout)
        self.lstm = Recurrent(inputs, settings.width, kind="lstm", ahead=ahead, rngs=rngs)
        self.dense = nnx.Linear(settings.width, settings.width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "lines turns dim"], grid: Grid, *, key: PRNGKeyArray | None
    ) -> Float[Array, "lines turns width"]:
        return nnx.relu(self.dense(dropout(self.lstm(x, grid.dialogue), self.dropout, key)))


class BcLSTM(DialogueLayers):
    """Every modality by itself, then what these say, in the knowledge of the dialogue. The paper trains the first
    level, gives its dense layer's output to the second and trains that; here both learn together [ours]. With one
    modality there is one level. Without `ahead` the LSTMs have one direction (the paper's sc-LSTM)."""

    def __init__(self, settings: BcLSTMSettings, widths: Mapping[str, int], *, ahead: bool, rngs: nnx.Rngs):
        self.width, self.ahead, self.sizes = settings.width, ahead, tuple(widths.items())
        first = settings.hierarchical and len(widths) > 1
        made = {
            m: ContextualLSTM(feat, settings, ahead=ahead, rngs=rngs) for m, feat in (widths.items() if first else ())
        }
        self.single = nnx.Dict(made)
        inputs = len(made) * settings.width if made else sum(widths.values())
        self.fused = ContextualLSTM(inputs, settings, ahead=ahead, rngs=rngs)

    def over_turns(
        self, x: Float[Array, "lines turns dim"], grid: Grid, keys: list[Any]
    ) -> Float[Array, "lines turns width"]:
        last, *apart = split_key(keys[0], 1 + len(self.sizes))
        if self.single:
            parts = self.parted(x)
            each = [self.single[m](part, grid, key=k) for (m, part), k in zip(parts.items(), apart, strict=True)]
            x = jnp.concatenate(each, axis=-1)
        return self.fused(x, grid, key=last)


def build(config: BcLSTMExperiment, manifest: Manifest, task: Task) -> family.Family:
    """bc-LSTM for a corpus."""
    return build_with(BcLSTM, SENTENCE, config, manifest, task)
