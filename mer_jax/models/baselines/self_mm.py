"""Self-MM: self-supervised multi-task learning (Yu et al. 2021, arXiv 2102.04830).

F_m is a ReLU layer of all modalities' vectors, F_s one of modality s alone; each predicts. Modality s has no labels of
its own; they are made while training of the corpus's, y_m, as `unimodal_labels.py` says. The loss is the task's and,
summed over s, |prediction - y_s| times tanh |y_s - y_m|, with the labels y_s from before the visit.

Ours: what y_m is of other tasks than one number: -1 to 1 for every output (`Task.degrees`), each by itself, so that
classes and emotions have centres of members and of all others, and modalities learn numbers, whatever the task; an
utterance that lacks s does not count for s; every modality, text as well, has an LSTM, whose last state is its vector;
dropout; sizes. Without positions of the utterances, as where nothing is learnt, there are no y_s."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NotRequired

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mer_jax.config import Experiment, require
from mer_jax.data.batch import AnyBatch, Batch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_utterances import Head, MakeContext, ReLULayers, build_with
from mer_jax.models.baselines.unimodal_labels import UnimodalLabels
from mer_jax.models.conversation import by_group
from mer_jax.models.layers import split_key
from mer_jax.models.losses import column_mean
from mer_jax.models.recurrent import Recurrent, last_steps
from mer_jax.settings import LossSettings, ModelSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = "Self-MM (arXiv 2102.04830): every modality learns labels of its own, made while training; frozen text"


@dataclasses.dataclass
class SelfMMSettings(ModelSettings):
    """Self-MM. Sizes are ours."""

    width: int = setting(64, at_least=1)  # of every LSTM and of every F
    dropout: float = setting(0.3, below=1, swept=True)  # before every dense layer but those that predict y_s


@dataclasses.dataclass
class SelfMMLoss(LossSettings):
    """The weight of the modalities' own losses beside the task's; the paper has 1."""

    unimodal: float = setting(1.0, at_least=0, swept=True)


@dataclasses.dataclass
class SelfMMExperiment(Experiment):
    """Self-MM on any modalities."""

    reads_conversations: ClassVar[bool] = True
    experiment: str = "self_mm"
    model: SelfMMSettings = group(SelfMMSettings)
    loss: SelfMMLoss = group(SelfMMLoss)

    def check(self) -> None:
        pieces = self.train.microbatches
        require(pieces == 1, "train.microbatches", pieces, "1 for Self-MM, which remembers what a batch has taught it")


class Outputs(family.Outputs):
    """By modality: what it predicts and its labels y_s, Float[batch, outputs], these while training; and who has it,
    Bool[batch]."""

    predicted: dict[str, Array]
    present: dict[str, Array]
    labels: NotRequired[dict[str, Array]]


class SelfMM(nnx.Module):
    """widths: features per time step of each modality, in order. outputs: how many logits. degrees: `Task.degrees`.
    utterances: how many the corpus has."""

    def __init__(
        self,
        settings: SelfMMSettings,
        *,
        widths: Mapping[str, int],
        outputs: int,
        degrees: Callable[[dict[str, Any]], tuple[Any, Any]],
        utterances: int,
        context: MakeContext = None,
        rngs: nnx.Rngs,
    ):
        width, rate = settings.width, settings.dropout
        self.modalities, self.degrees = tuple(widths), degrees
        lstm = functools.partial(Recurrent, kind="lstm", ahead=False, rngs=rngs)
        self.lstms = nnx.Dict({m: lstm(feat, width) for m, feat in widths.items()})
        self.fused = ReLULayers(len(widths) * width, [width], rate, rngs=rngs)
        self.single = nnx.Dict({m: ReLULayers(width, [width], rate, rngs=rngs) for m in widths})
        self.predict = nnx.Dict({m: nnx.Linear(width, outputs, rngs=rngs) for m in widths})
        self.labels = UnimodalLabels(self.modalities, utterances, width, outputs)
        self.head = Head(width, outputs, rate, context, rngs=rngs)

    def __call__(self, batch: AnyBatch, *, key: PRNGKeyArray | None = None) -> Outputs:
        first, last = split_key(key, 2)
        fused, single, present = by_group(self._encode, batch, first)
        predicted = {m: self.predict[m](x) for m, x in single.items()}
        found: Any = {**self.head(fused, {}, batch, key=last), "predicted": predicted, "present": present}
        if key is not None and batch.position is not None:
            truth, known = self.degrees(batch.targets)
            truth, counts = jnp.where(known, truth, 0), batch.weight > 0
            found["labels"] = self.labels.visit(batch.position, counts, truth, fused, single, present)
        return found

    def _encode(
        self, batch: Batch, key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "batch dim"], dict[str, Float[Array, "batch dim"]], dict[str, Bool[Array, "batch"]]]:
        """F_m, F_s of every modality, and who has it."""
        last, *keys = split_key(key, 1 + len(self.modalities))
        vectors = {
            m: last_steps(self.lstms[m](batch.features[m], batch.mask[m]), batch.mask[m]) for m in self.modalities
        }
        fused = self.fused(jnp.concatenate([*vectors.values()], axis=-1), key=last)
        single = {m: self.single[m](vectors[m], key=k) for m, k in zip(self.modalities, keys, strict=True)}
        return fused, single, {m: batch.mask[m].any(1) for m in self.modalities}


def objective(
    config: SelfMMExperiment, outputs: Outputs, batch: AnyBatch, prior: Any, *, task: Task
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The task's loss, and those of the modalities; of these the mean over the outputs of the mean over the rows."""
    loss = task.loss(outputs["logits"], batch.targets, batch.weight, prior=prior, settings=config.loss)
    truth, known = task.degrees(batch.targets)
    unimodal = jnp.zeros_like(loss)
    for m, labels in outputs.get("labels", {}).items():
        error = jnp.tanh(jnp.abs(labels - truth)) * jnp.abs(outputs["predicted"][m] - labels)
        unimodal = unimodal + column_mean(error, jnp.where(outputs["present"][m], batch.weight, 0), known)
    return loss + config.loss.unimodal * unimodal, {"classification": loss, "unimodal": unimodal}


def build(config: SelfMMExperiment, manifest: Manifest, task: Task) -> family.Family:
    """Self-MM for a corpus."""
    utterances = sum(part["count"] for part in manifest.manifest["splits"].values())
    module = functools.partial(SelfMM, degrees=task.degrees, utterances=utterances)
    return build_with(module, SENTENCE, config, manifest, task, objective=objective)
