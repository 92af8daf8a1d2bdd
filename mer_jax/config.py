"""The experiment as a tree of dataclasses: every default is written here, once. No JAX.

A config file in `configs/` returns an `Experiment`; `--config.a.b=…` overrides a field of it.
"""

import copy
import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any, TypeVar

from mer_jax.data import protocols
from mer_jax.errors import UserError
from mer_jax.models.deepmsi_mer import DeepMSIExperiment, _validate_deepmsi
from mer_jax.models.deepmsi_mer_frames import DeepMSIFramesExperiment, _validate_frames
from mer_jax.models.lsgmer import LSGMERExperiment, _validate_lsgmer


@dataclasses.dataclass
class DataSettings:
    path: str = (
        ""  # a corpus folder (see mer_jax/records.py); empty = the built-in demo corpus; demo:clutter = its variant
    )
    protocol: str = "official"  # who trains, validates and tests whom, by name: see mer_jax/protocols.py
    seed: int = 0  # of the order of batches, and of the protocols that draw; the same for all replicas
    modalities: tuple[str, ...] = ("text", "audio")
    max_length: tuple[int, ...] = (128,)  # time steps kept, from the start: one number for all, or one per modality
    soft_labels: bool = False  # learn what the raters say, where they are known, instead of the label alone
    test_on_trained: bool = False  # test even utterances on whose labels the features were trained (see the manifest)
    nonfinite: str = "refuse"  # NaN and infinite values: refuse | zero (both count them)
    standardize: bool = (
        True  # zero mean, unit variance per feature, measured on the training part (frames always by ImageNet's)
    )
    placement: str = "auto"  # splits on the device or streamed: auto | resident | stream
    resident_limit_mb: int = 4096  # auto keeps the splits on the device up to this size
    group_by_length: int = 8  # utterances of so many batches are sorted by length among themselves; 1 = off
    read_threads: int = 1  # threads that read ahead when streaming


@dataclasses.dataclass
class LossSettings:
    """What the loss of every family has."""

    imbalance: str = "none"  # none | class_weights | focal | logit_adjustment
    focal_gamma: float = 2.0
    label_smoothing: float = 0.1


@dataclasses.dataclass
class OptimSettings:
    name: str = "adamw"  # adamw | adam (decay added to the gradient) | sgd
    learning_rate: float = 3e-4
    schedule: str = "cosine"  # constant | linear | cosine, the last two down to 0 after the last epoch
    warmup: float = 0.05  # share of all steps
    weight_decay: float = 1e-2  # on matrices only: no bias, scale or label embedding decays
    clip: float = 1.0  # global gradient norm; 0 = off
    b1: float = 0.9
    b2: float = 0.999
    average: float = 0.99  # decay per step of a running average of the weights, which is then evaluated; 0 = off


@dataclasses.dataclass
class TrainSettings:
    batch_size: int = 64
    eval_batch_size: int = 256
    epochs: int = 12
    patience: int = 4  # epochs without a better validation score before stopping; 0 = never
    select: str = "weighted_f1"  # validation score that chooses the checkpoint: weighted_f1 | macro_f1 | accuracy | uar
    checkpoint_minutes: float = 10.0  # save so often besides every epoch's end
    keep_checkpoints: int = (
        2  # how many of the latest stay on disk; one that turns out damaged is made up for by the one before
    )
    log_steps: int = 20
    look: bool = True  # at the end see what the model attends to and how its features lie, for the report
    log_reads: bool = False  # every process writes which utterances it took for each step, to WORKDIR/reads
    accumulate: int = 1  # a batch is gone through in so many pieces, for less memory; the update is the whole batch's
    precision: str = "float32"  # the model's products: float32 | bfloat16; parameters, statistics and loss stay float32


@dataclasses.dataclass
class ReplicaSettings:
    """The runs that make up the experiment, trained side by side: folds x seeds x points."""

    folds: tuple[int, ...] = ()  # which folds of the protocol, by number from 0; empty = all
    seeds: int = 1  # seeds config.seed, config.seed + 1, …
    grid: str = ""  # swept fields: every combination of "optim.learning_rate=1e-4,3e-4 model.dropout=0.1,0.3"
    points: str = (
        ""  # swept fields: just these points, "optim.learning_rate=1e-4,model.dropout=0.1 optim.learning_rate=…"
    )
    together: int = 0  # replicas in one compiled step; 1 = one after the other; 0 = 1 on a CPU, else all


@dataclasses.dataclass
class MeshSettings:
    """How the run lies on the devices; changes no result but in rounding. What is left of them is shared by replicas and data."""

    model: int = 1  # devices that share the weights of each layer, by output features
    fsdp: bool = False  # params, moments and averages are split over the devices that share the data


@dataclasses.dataclass
class Experiment:
    """What every model family has; each adds its own `model` and `loss`."""

    experiment: str = ""  # names the default workdir, runs/<experiment>
    seed: int = 0  # of a replica's start and dropout
    replicas: ReplicaSettings = dataclasses.field(default_factory=ReplicaSettings)
    mesh: MeshSettings = dataclasses.field(default_factory=MeshSettings)
    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    optim: OptimSettings = dataclasses.field(default_factory=OptimSettings)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)


# What a sweep inside one program may change: numbers that neither a shape nor the course of the program depends on.
SWEPT = (
    "optim.learning_rate", "optim.weight_decay",
    "model.dropout", "model.input_dropout", "model.encoder_dropout", "model.early_dropout", "model.tcn_dropout",
    "model.projection_dropout", "model.label_average", "model.threshold", "model.alpha",
    "loss.apc", "loss.contrastive", "loss.temperature", "loss.label_smoothing", "loss.focal_gamma",
)  # fmt: skip

# Fields that may differ between a run and the command that carries it on: where and how it runs, not what it computes.
CHANGES_NO_RESULT = ("mesh.", "train.checkpoint_minutes", "train.keep_checkpoints", "train.log_", "train.look", "data.placement", "data.read_threads",
                     "data.resident_limit_mb", "replicas.together")  # fmt: skip

CHOICES = {
    "data.nonfinite": ("refuse", "zero"),
    "data.placement": ("auto", "resident", "stream"),
    "model.encoder": ("transformer", "gru"),
    "model.reduce": ("mean", "max", "attention", "cosine", "rows"),
    "model.fusion": ("concat", "gated"),
    "model.label_init": ("words", "random"),
    "model.label_update": ("optimizer", "class_mean"),
    "loss.imbalance": ("none", "class_weights", "focal", "logit_adjustment"),
    "model.pool": ("mean", "attention"),
    "model.variant": ("fixed", "published"),
    "optim.name": ("adamw", "adam", "sgd"),
    "optim.schedule": ("constant", "linear", "cosine"),
    "train.precision": ("float32", "bfloat16"),
    "train.select": ("weighted_f1", "macro_f1", "accuracy", "uar"),
}
AT_LEAST: dict[str, float] = {
    "seed": 0, "data.seed": 0, "replicas.seeds": 1, "replicas.together": 0, "data.resident_limit_mb": 1, "data.group_by_length": 1, "data.read_threads": 1,
    "model.width": 1, "model.heads": 1, "model.early_width": 1, "model.tcn_kernel": 1, "model.projection": 1, "model.alpha": 0, "model.threshold": -1, "loss.apc": 0, "loss.focal_gamma": 0, "loss.contrastive": 0, "frames.flip": 0,
    "optim.weight_decay": 0, "optim.clip": 0, "train.batch_size": 1, "train.eval_batch_size": 1,
    "frames.size": 1, "frames.crop": 0.01, "backbone.patch": 1, "backbone.width": 1, "backbone.window": 1, "backbone.mlp": 1, "backbone.stage": 1, "backbone.at_once": 0,
    "train.epochs": 1, "train.patience": 0, "train.checkpoint_minutes": 0, "train.keep_checkpoints": 1, "train.log_steps": 1, "train.accumulate": 1, "mesh.model": 1,
}  # fmt: skip
ABOVE_ZERO = ("loss.temperature", "optim.learning_rate", "model.keep", "backbone.rate", "backbone.layer_decay")
AT_MOST_ONE = ("model.keep", "model.threshold", "model.alpha", "frames.crop", "frames.flip", "backbone.layer_decay")
BELOW_ONE = (
    "model.dropout", "model.early_dropout", "model.tcn_dropout", "model.projection_dropout", "model.input_dropout", "model.encoder_dropout", "model.time_dropout", "model.modality_dropout", "model.label_average", "loss.label_smoothing",
    "optim.warmup", "optim.b1", "optim.b2", "optim.average", "frames.colour", "backbone.drop_path",
)  # fmt: skip


def to_dict(config: Experiment) -> dict[str, Any]:
    """The tree as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def limits(settings: DataSettings) -> dict[str, int]:
    """How many time steps of each modality are read, at most."""
    each = settings.max_length * (len(settings.modalities) // len(settings.max_length))
    return dict(zip(settings.modalities, each, strict=True))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    out = {}
    for key, value in tree.items():
        out.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return out


def validate(config: Experiment) -> Experiment:
    """Returns the config with comma lists split; raises UserError naming the field and what would be right."""
    _check_tuples(config)
    config.data.modalities = _split(config.data.modalities)
    last = config.seed + config.replicas.seeds - 1
    _require(last < 2**32, "seed", config.seed, f"such that the last seed, {last}, is below {2**32}")
    for name, value in flatten(to_dict(config)).items():
        if name == "train.select" and "test" in value:
            raise UserError(
                f"--config.{name}={value}: the test part chooses nothing; only data.protocol=published does that"
            )
        if name in CHOICES:
            _require(value in CHOICES[name], name, value, f"one of {', '.join(CHOICES[name])}")
        if name in AT_LEAST:
            _require(value >= AT_LEAST[name], name, value, f"at least {AT_LEAST[name]:g}")
        if name in ABOVE_ZERO:
            _require(0 < value < math.inf, name, value, "above 0 and finite")
        if name in AT_MOST_ONE:
            _require(value <= 1, name, value, "at most 1")
        if name in BELOW_ONE:
            _require(0 <= value < 1, name, value, "in [0, 1)")
    protocols.check_name(config.data.protocol)
    modalities, lengths = config.data.modalities, config.data.max_length
    _require(len(modalities) > 0 and len(set(modalities)) == len(modalities), "data.modalities", ",".join(modalities),
             "one or more different names, as in --config.data.modalities=text,audio")  # fmt: skip
    _require(len(lengths) in (1, len(modalities)) and min(lengths) > 0, "data.max_length", lengths,
             "one positive number, or one for each modality, as in --config.data.max_length='(64,1)'")  # fmt: skip
    if isinstance(config, LSGMERExperiment):
        _validate_lsgmer(config.model)
    if isinstance(config, DeepMSIExperiment):
        _validate_deepmsi(config)
    if isinstance(config, DeepMSIFramesExperiment):
        _validate_frames(config)
    return config


def _check_tuples(config: Experiment) -> None:
    """The flag parser checks that a tuple is one, not what is in it."""
    for name, group in vars(config).items():
        if not dataclasses.is_dataclass(group):
            continue
        for field, hint in typing.get_type_hints(type(group)).items():
            if typing.get_origin(hint) is tuple:
                kind, value = typing.get_args(hint)[0], getattr(group, field)
                good = isinstance(value, tuple) and all(type(item) is kind for item in value)
                words = {int: "whole numbers, as in (64,32)", str: "names, as in a,b"}[kind]
                _require(good, f"{name}.{field}", value, words)


def _split(names: tuple[str, ...]) -> tuple[str, ...]:
    """The flag --config.x=a,b arrives as ('a,b',)."""
    return tuple(name.strip() for item in names for name in item.split(",") if name.strip())


def _require(true: bool, name: str, value: Any, right: str) -> None:
    if not true:
        raise UserError(f"--config.{name}={value}: must be {right}")


def validate_against(config: Experiment, corpus: Any) -> None:
    """Checks what the config asks of an opened corpus; raises UserError saying what the corpus has."""
    for modality in config.data.modalities:
        if modality not in corpus.modalities:
            known = ("text", "audio", "visual") if isinstance(config, DeepMSIExperiment) else tuple(corpus.modalities)
            if not isinstance(config, DeepMSIFramesExperiment):
                known = tuple(m for m in known if "pixels" not in corpus.modalities.get(m, {}))
            run = ",".join(m for m in corpus.modalities if m in known)
            raise UserError(
                f"--config.data.modalities={','.join(config.data.modalities)}: corpus {corpus.manifest['name']!r} "
                f"has no {modality!r}; it has {', '.join(corpus.modalities)}"
                + (f". Run with --config.data.modalities={run}" if run else "")
            )
        framed, wanted = "pixels" in corpus.modalities[modality], isinstance(config, DeepMSIFramesExperiment)
        if framed and not (wanted and modality == "visual"):
            raise UserError(
                f"--config: corpus {corpus.manifest['name']!r} holds frames as {modality}, which configs/deepmsi_mer_frames.py "
                "reads; leave them out with --config.data.modalities, or give a corpus of features"
            )
        if wanted and modality == "visual" and not framed:
            raise UserError(
                f"--config: corpus {corpus.manifest['name']!r} holds visual features, not frames; configs/deepmsi_mer.py reads them, "
                "`python -m data_prep.clips … --visual-encoder=jpeg` makes a corpus with frames"
            )
    if config.data.soft_labels and not corpus.manifest.get("voted"):
        raise UserError(
            f"--config.data.soft_labels=True: corpus {corpus.manifest['name']!r} does not say how its raters voted; leave it off"
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


AnyExperiment = TypeVar("AnyExperiment", bound=Experiment)


def with_values(config: AnyExperiment, values: dict[str, Any]) -> AnyExperiment:
    """The config with the fields set, numbers or arrays; without a sweep of its own."""
    changed = copy.copy(config)
    changed.replicas = dataclasses.replace(config.replicas, grid="", points="")
    for field, value in values.items():
        group, name = field.split(".")
        holder = copy.copy(getattr(changed, group))
        setattr(holder, name, value)
        setattr(changed, group, holder)
    return changed
