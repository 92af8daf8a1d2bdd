"""The experiment as a tree of dataclasses: every default is written here, once. No JAX.

A config file in `configs/` returns an `Experiment`; `--config.a.b=…` overrides a field of it.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from mer_jax.errors import UserError


@dataclasses.dataclass
class Data:
    path: str = ""  # a corpus folder (see mer_jax/records.py); empty = the built-in demo corpus
    protocol: str = "official"  # official: the split written in the records
    modalities: tuple[str, ...] = ("text", "audio")
    max_length: tuple[int, ...] = (128,)  # time steps kept, from the start: one number for all, or one per modality
    nonfinite: str = "refuse"  # NaN and infinite values: refuse | zero (both count them)
    standardize: bool = True  # zero mean, unit variance per feature, measured on the training part
    placement: str = "auto"  # splits on the device or streamed: auto | resident | stream
    resident_limit_mb: int = 4096  # auto keeps the splits on the device up to this size
    group_by_length: int = 8  # utterances of so many batches are sorted by length among themselves; 1 = off
    read_threads: int = 1  # threads that read ahead when streaming


@dataclasses.dataclass
class LSGMER:
    """papers.md A; every default here is ours, the paper states none."""

    width: int = 256
    heads: int = 4
    encoder: str = "transformer"  # H_1: transformer | gru
    dropout: float = 0.3  # before the classifier
    input_dropout: float = 0.0  # on the standardised features
    encoder_dropout: float = 0.2  # on the residual branches of the transformer layer; on the GRU's output
    time_dropout: float = 0.0  # share of time steps hidden while training
    modality_dropout: float = 0.0  # share of samples of which one modality is hidden while training
    lse: bool = True  # label signal enhancement; False = mean over time of H_1
    gate: bool = True  # w = sigmoid(H_2); False = 1
    reduce: str = "mean"  # over the classes axis: mean | max | attention | cosine | rows
    fusion: str = "concat"  # concat | gated
    label_init: str = "words"  # words | random
    label_update: str = "optimizer"  # L' is: optimizer (the table after its step) | class_mean (of the fused features)
    label_average: float = 0.9  # alpha; 0 = no moving average


@dataclasses.dataclass
class Loss:
    apc: float = 0.5  # lambda, weight of APC beside the classification loss; 0 = none
    temperature: float = 0.1  # tau of q = softmax(cos / tau); 1 = the paper's formula to the letter
    imbalance: str = "none"  # none | class_weights | focal | logit_adjustment
    focal_gamma: float = 2.0
    label_smoothing: float = 0.1


@dataclasses.dataclass
class Optim:
    name: str = "adamw"  # adamw | sgd
    learning_rate: float = 3e-4
    schedule: str = "cosine"  # constant | linear | cosine, the last two down to 0 after the last epoch
    warmup: float = 0.05  # share of all steps
    weight_decay: float = 1e-2  # on matrices only: no bias, scale or label embedding decays
    clip: float = 1.0  # global gradient norm; 0 = off
    b1: float = 0.9
    b2: float = 0.999
    average: float = 0.99  # decay per step of a running average of the weights, which is then evaluated; 0 = off


@dataclasses.dataclass
class Train:
    batch_size: int = 64
    eval_batch_size: int = 256
    epochs: int = 12
    patience: int = 4  # epochs without a better validation score before stopping; 0 = never
    select: str = "weighted_f1"  # validation score that chooses the checkpoint: weighted_f1 | macro_f1 | accuracy | uar
    checkpoint_steps: int = 0  # save so often besides every epoch's end; 0 = at epochs' ends only
    log_steps: int = 20


@dataclasses.dataclass
class Experiment:
    experiment: str = "lsgmer"  # names the default workdir, runs/<experiment>
    seed: int = 0
    data: Data = dataclasses.field(default_factory=Data)
    model: LSGMER = dataclasses.field(default_factory=LSGMER)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optim: Optim = dataclasses.field(default_factory=Optim)
    train: Train = dataclasses.field(default_factory=Train)


CHOICES = {
    "data.protocol": ("official",),
    "data.nonfinite": ("refuse", "zero"),
    "data.placement": ("auto", "resident", "stream"),
    "model.encoder": ("transformer", "gru"),
    "model.reduce": ("mean", "max", "attention", "cosine", "rows"),
    "model.fusion": ("concat", "gated"),
    "model.label_init": ("words", "random"),
    "model.label_update": ("optimizer", "class_mean"),
    "loss.imbalance": ("none", "class_weights", "focal", "logit_adjustment"),
    "optim.name": ("adamw", "sgd"),
    "optim.schedule": ("constant", "linear", "cosine"),
    "train.select": ("weighted_f1", "macro_f1", "accuracy", "uar"),
}
AT_LEAST: dict[str, float] = {
    "seed": 0, "data.resident_limit_mb": 1, "data.group_by_length": 1, "data.read_threads": 0,
    "model.width": 1, "model.heads": 1, "loss.apc": 0, "loss.focal_gamma": 0,
    "optim.weight_decay": 0, "optim.clip": 0, "train.batch_size": 1, "train.eval_batch_size": 1,
    "train.epochs": 1, "train.patience": 0, "train.checkpoint_steps": 0, "train.log_steps": 1,
}  # fmt: skip
ABOVE_ZERO = ("loss.temperature", "optim.learning_rate")
BELOW_ONE = (
    "model.dropout", "model.input_dropout", "model.encoder_dropout", "model.time_dropout", "model.modality_dropout", "model.label_average", "loss.label_smoothing",
    "optim.warmup", "optim.b1", "optim.b2", "optim.average",
)  # fmt: skip


def to_dict(config: Experiment) -> dict[str, Any]:
    """The tree as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    out = {}
    for key, value in tree.items():
        out.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return out


def validate(config: Experiment) -> Experiment:
    """Returns the config with comma lists split; raises UserError naming the field and what would be right."""
    config.data.modalities = tuple(m.strip() for item in config.data.modalities for m in item.split(",") if m.strip())
    flat = flatten(to_dict(config))
    for name, choices in CHOICES.items():
        _require(flat[name] in choices, name, flat[name], f"one of {', '.join(choices)}")
    for name, low in AT_LEAST.items():
        _require(flat[name] >= low, name, flat[name], f"at least {low:g}")
    for name in ABOVE_ZERO:
        _require(flat[name] > 0, name, flat[name], "above 0")
    for name in BELOW_ONE:
        _require(0 <= flat[name] < 1, name, flat[name], "in [0, 1)")
    _require(config.model.width % config.model.heads == 0, "model.width", config.model.width,
             f"a multiple of model.heads = {config.model.heads}")  # fmt: skip
    modalities, lengths = config.data.modalities, config.data.max_length
    _require(len(modalities) > 0 and len(set(modalities)) == len(modalities), "data.modalities", ",".join(modalities),
             "one or more different names, as in --config.data.modalities=text,audio")  # fmt: skip
    _require(len(lengths) in (1, len(modalities)) and min(lengths) > 0, "data.max_length", lengths,
             "one positive number, or one for each modality, as in --config.data.max_length='(64,1)'")  # fmt: skip
    if not config.model.lse:
        _require(config.model.reduce == "mean", "model.reduce", config.model.reduce, "mean when model.lse is off")
    return config


def _require(true: bool, name: str, value: Any, right: str) -> None:
    if not true:
        raise UserError(f"--config.{name}={value}: must be {right}")


def validate_against(config: Experiment, corpus: Any) -> None:
    """Checks what the config asks of an opened corpus; raises UserError saying what the corpus has."""
    for modality in config.data.modalities:
        if modality not in corpus.modalities:
            has = ", ".join(corpus.modalities)
            raise UserError(
                f"--config.data.modalities={','.join(config.data.modalities)}: corpus {corpus.manifest['name']!r} "
                f"has no {modality!r}; it has {has}. Run with --config.data.modalities={has.replace(', ', ',')}"
            )
    sizes = {split: len(corpus.rows(split)) for split in ("train", "valid", "test")}
    if config.train.batch_size > sizes["train"]:
        raise UserError(
            f"--config.train.batch_size={config.train.batch_size}: the training part has only {sizes['train']} utterances"
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields that differ between two `to_dict` trees, as `name: old -> new` lines."""
    a, b = flatten(old), flatten(new)
    return [
        f"{k}: {a.get(k, '(none)')} -> {b.get(k, '(none)')}"
        for k in sorted(a.keys() | b.keys())
        if a.get(k) != b.get(k)
    ]


def default_workdir(config: Experiment) -> Path:
    return Path("runs") / config.experiment
