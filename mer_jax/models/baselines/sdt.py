"""SDT: A Transformer-Based Model With Self-Distillation for Multimodal Emotion Recognition in Conversations (Ma et al.,
IEEE Transactions on Multimedia 2023, arXiv 2310.20494)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from mer_jax.config import require
from mer_jax.data.batch import AnyBatch
from mer_jax.data.corpus import Manifest
from mer_jax.models import family
from mer_jax.models.baselines.over_dialogues import (
    SPEAKERS,
    DialogueExperiment,
    DialogueLayers,
    DialogueSettings,
    OverDialogues,
    build_with,
    hearing,
    place_of,
    speaker_places,
)
from mer_jax.models.baselines.post_norm import PostNormLayer
from mer_jax.models.conversation import Grid
from mer_jax.models.layers import dropout, sinusoids, split_key, sweepable
from mer_jax.models.losses import weighted_mean
from mer_jax.settings import LossSettings, group, setting
from mer_jax.tasks import Task

SENTENCE = (
    "SDT (arXiv 2310.20494): transformers within and between modalities over the dialogue, gates that fuse them, and"
    " every modality's own classifier, which learns from the fused one's"
)


@dataclasses.dataclass
class SDTSettings(DialogueSettings):
    """SDT. The paper's width is 1,024, with 8 heads."""

    width: int = setting(128, at_least=2)
    heads: int = setting(4, at_least=1)
    dropout: float = setting(0.5, below=1, swept=True)


@dataclasses.dataclass
class SelfDistillation(LossSettings):
    """The paper's loss: gamma_1 task + gamma_2 the students' + gamma_3 their distance from the teacher."""

    teacher: float = setting(1.0, at_least=0, swept=True)  # gamma_1
    students: float = setting(1.0, at_least=0, swept=True)  # gamma_2
    distillation: float = setting(1.0, at_least=0, swept=True)  # gamma_3
    temperature: float = setting(1.0, above=0, swept=True)  # tau of both distributions


@dataclasses.dataclass
class SDTExperiment(DialogueExperiment):
    experiment: str = "sdt"
    model: SDTSettings = group(SDTSettings)
    loss: SelfDistillation = group(SelfDistillation)

    def check(self) -> None:
        super().check()
        model = self.model
        whole = f"a multiple of model.heads = {model.heads}"
        require(model.width % model.heads == 0, "model.width", model.width, whole)
        require(model.width % 2 == 0, "model.width", model.width, "even: half of it are sines")


class SDT(DialogueLayers):
    """Of every utterance the fused feature and behind it each modality's own. H_m = W U_m + position + speaker;
    H_(n to m): a `PostNormLayer` whose queries are of H_m and keys of H_n; H'_m = W_m [g_(n to m) * H_(n to m)], over
    all n, g = sigmoid(W H); H' = sum_m softmax_m(W H'_m) * H'_m, feature by feature. Without `ahead` no turn attends to
    later ones."""

    def __init__(self, settings: SDTSettings, widths: Mapping[str, int], *, ahead: bool, rngs: nnx.Rngs):
        width, names = settings.width, tuple(widths)
        self.width, self.ahead, self.sizes = width, ahead, tuple(widths.items())
        self.dropout = sweepable(settings.dropout)
        self.enter = nnx.Dict({m: nnx.Linear(feat, width, rngs=rngs) for m, feat in widths.items()})
        self.speakers = nnx.Param(0.02 * jax.random.normal(rngs.params(), (SPEAKERS, width)))
        pairs = [f"{n}_to_{m}" for m in names for n in names]
        self.encoders = nnx.Dict(
            {pair: PostNormLayer(width, settings.heads, settings.dropout, rngs=rngs) for pair in pairs}
        )
        self.gates = nnx.Dict({pair: nnx.Linear(width, width, use_bias=False, rngs=rngs) for pair in pairs})
        self.join = nnx.Dict({m: nnx.Linear(len(names) * width, width, rngs=rngs) for m in names})
        self.fusion_gate = nnx.Linear(width, width, use_bias=False, rngs=rngs)

    def over_turns(
        self, x: Float[Array, "lines turns dim"], grid: Grid, keys: list[Any]
    ) -> Float[Array, "lines turns joined"]:
        first, *rest = split_key(keys[0], 1 + len(self.encoders))
        position = sinusoids(place_of(grid), self.width).astype(x.dtype)
        more = position + self.speakers[...].astype(x.dtype)[speaker_places(grid, SPEAKERS)]
        inputs = split_key(first, len(self.sizes))
        entered = {
            m: dropout(self.enter[m](part) + more, self.dropout, k)
            for (m, part), k in zip(self.parted(x).items(), inputs, strict=True)
        }
        heard, every = hearing(grid, before=None, after=None if self.ahead else 0), iter(rest)
        own = {}
        for m in entered:
            parts = []
            for n in entered:
                pair = f"{n}_to_{m}"
                h = self.encoders[pair](entered[m], entered[n], heard, key=next(every))
                parts.append(nnx.sigmoid(self.gates[pair](h)) * h)
            own[m] = self.join[m](jnp.concatenate(parts, axis=-1))
        each = jnp.stack(list(own.values()))
        fused = (nnx.softmax(self.fusion_gate(each), axis=0) * each).sum(0)
        return jnp.concatenate([fused, *own.values()], axis=-1)


class Outputs(family.Outputs):
    """students[m]: Float[batch, width], what the classifier of one modality alone gives."""

    students: dict[str, Array]


class Distilled(OverDialogues):
    """The teacher, one linear layer over the fused feature, and the students: W ReLU(H'_m) + b."""

    def __init__(self, modalities: tuple[str, ...], network: Any, outputs: int, *, rngs: nnx.Rngs, **more: Any):
        super().__init__(modalities, network, outputs, rngs=rngs, **more)
        self.students = nnx.Dict({m: nnx.Linear(network.width, outputs, rngs=rngs) for m in modalities})

    def __call__(self, batch: AnyBatch, *, key: PRNGKeyArray | None = None) -> Outputs:
        utterance, joined, memory = self.heard(batch, key)
        fused, *own = jnp.split(joined, 1 + len(self.modalities), axis=-1)
        students = {m: self.students[m](nnx.relu(h)) for m, h in zip(self.modalities, own, strict=True)}
        return Outputs(
            logits=self.classifier(fused),
            feature=fused,
            attention={},
            utterance=utterance,
            memory=memory,
            students=students,
        )


def objective(
    config: SDTExperiment, outputs: Outputs, batch: AnyBatch, prior: Any, *, task: Task
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """gamma_1 task + gamma_2 sum_m task_m + gamma_3 sum_m KL(teacher || student_m), both at temperature tau. The
    gradient goes through the teacher, too: the paper does not say that it stops."""
    settings, students = config.loss, outputs["students"].values()
    learn = functools.partial(task.loss, targets=batch.targets, weight=batch.weight, prior=prior, settings=settings)
    tau = settings.temperature
    terms = {"classification": learn(outputs["logits"])}
    terms["students"] = sum((learn(values) for values in students), jnp.zeros(()))
    apart = [task.distance(outputs["logits"] / tau, values / tau) for values in students]
    terms["distillation"] = weighted_mean(jnp.stack(apart).sum(0), batch.weight)
    loss = settings.teacher * terms["classification"] + settings.students * terms["students"]
    return loss + settings.distillation * terms["distillation"], terms


def build(config: SDTExperiment, manifest: Manifest, task: Task) -> family.Family:
    """SDT for a corpus."""
    return build_with(SDT, SENTENCE, config, manifest, task, module=Distilled, objective=objective)
