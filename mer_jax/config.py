"""The experiment as a tree of dataclasses: every default is written here, once. No JAX.

A config file in `configs/` returns an `Experiment`; `--config.a.b=…` overrides a field of it.
"""

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any

from mer_jax import protocols
from mer_jax.errors import UserError


@dataclasses.dataclass
class Data:
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
class LSGMER:
    """LSGMER (arXiv 2504.05158); every default here is ours, the paper states none."""

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
class DeepMSI:
    """DeepMSI-MER (arXiv 2502.08573) on features; sizes here are ours, the published ones are in configs/deepmsi_mer.py."""

    variant: str = "fixed"  # fixed (as the paper means it) | published (as the official code computes it)
    vsc: bool = True  # visual sequence compression; False = the TCN reads every frame
    keep: float = 0.5  # share of the frames (of a frame's tokens, where it has several) that VSC keeps [ours]
    threshold: float = 0.6  # VSC merges a dropped frame into the kept ones that are more similar than this (cosine)
    alpha: float = 0.9  # share of the kept frame in the merged one
    pool: str = (
        "attention"  # how sequences of text and audio become one vector: mean | attention (one learned query) [ours]
    )
    early_width: int = 128
    tcn_widths: tuple[int, ...] = (128, 128, 128)  # one block each; block l looks 2^l steps back
    tcn_kernel: int = 3
    projection: int = 256
    late_widths: tuple[int, ...] = (256, 128)
    dropout: float = 0.3  # in the late fusion
    early_dropout: float = 0.1
    tcn_dropout: float = 0.3
    projection_dropout: float = 0.2
    modality_dropout: float = 0.0  # share of samples of which one modality is hidden while training


@dataclasses.dataclass
class Frames:
    """What the backbone sees of the frames in the records. While training a clip's frames are all varied alike."""

    size: int = 256  # pixels along a side
    crop: float = 0.7  # least share of the square's area that is cut out; 1 = always the largest square in the middle
    flip: float = 0.5  # share of clips that are mirrored
    colour: float = 0.2  # brightness, contrast and saturation change by up to this share


@dataclasses.dataclass
class Backbone:
    """The Swin V2 that reads frames, with DeepMSI-MER's compression in one of its stages; published sizes."""

    patch: int = 4  # pixels along a side
    width: int = 96  # of the first stage; every further one is twice as wide and has a quarter of the tokens
    depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks of each stage
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 8  # tokens along a side, at most
    mlp: int = 4
    drop_path: float = 0.2  # of the last block, growing evenly from 0
    norm_first: bool = (
        True  # merging: norm before the product, as in DeepMSI-MER; False = after it, as in public Swin V2
    )
    stage: int = 3  # in which VSC compresses, from 1; on only with model.vsc
    sides: tuple[int, ...] = (14, 12, 10)  # of the square of tokens kept by blocks 1, 3, 5 … of that stage
    weights: str = ""  # start from these, a file of `python -m data_prep.swin`; empty = from scratch
    tune: str = "all"  # which stages learn: all | none | last:K
    rate: float = 1.0  # factor on optim.learning_rate for the last block …
    layer_decay: float = 1.0  # … and for every block below it this times the one above
    rematerialize: bool = (
        True  # compute blocks again in the backward pass, for less memory (not on a CPU, where XLA undoes it)
    )
    at_once: int = (
        0  # frames computed together, one such group after the other, and again in the backward pass; 0 = all
    )


@dataclasses.dataclass
class Loss:
    """What the loss of every family has."""

    imbalance: str = "none"  # none | class_weights | focal | logit_adjustment
    focal_gamma: float = 2.0
    label_smoothing: float = 0.1


@dataclasses.dataclass
class JOO(Loss):
    apc: float = 0.5  # lambda, weight of APC beside the classification loss; 0 = none
    temperature: float = 0.1  # tau of q = softmax(cos / tau); 1 = the paper's formula to the letter


@dataclasses.dataclass
class Contrastive(Loss):
    contrastive: float = 0.5  # weight of the contrastive loss beside the classification loss; 0 = none
    temperature: float = 0.5
    learn_temperature: bool = False  # start from `temperature` and learn it
    pairs: tuple[str, ...] = (
        "visual-text",
        "visual-audio",
        "text-audio",
    )  # anchor-other; those the run does not have are left out
    per_positive: bool = True  # mean over an anchor's positives; False = their sum over batch - 1, as published


@dataclasses.dataclass
class Optim:
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
class Train:
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
class Replicas:
    """The runs that make up the experiment, trained side by side: folds x seeds x points."""

    folds: tuple[int, ...] = ()  # which folds of the protocol, by number from 0; empty = all
    seeds: int = 1  # seeds config.seed, config.seed + 1, …
    grid: str = ""  # swept fields: every combination of "optim.learning_rate=1e-4,3e-4 model.dropout=0.1,0.3"
    points: str = (
        ""  # swept fields: just these points, "optim.learning_rate=1e-4,model.dropout=0.1 optim.learning_rate=…"
    )
    together: int = 0  # replicas in one compiled step; 1 = one after the other; 0 = 1 on a CPU, else all


@dataclasses.dataclass
class Mesh:
    """How the run lies on the devices; changes no result but in rounding. What is left of them is shared by replicas and data."""

    model: int = 1  # devices that share the weights of each layer, by output features
    fsdp: bool = False  # params, moments and averages are split over the devices that share the data


@dataclasses.dataclass
class Experiment:
    """What every model family has; each adds its own `model` and `loss`."""

    experiment: str = ""  # names the default workdir, runs/<experiment>
    seed: int = 0  # of a replica's start and dropout
    replicas: Replicas = dataclasses.field(default_factory=Replicas)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    data: Data = dataclasses.field(default_factory=Data)
    optim: Optim = dataclasses.field(default_factory=Optim)
    train: Train = dataclasses.field(default_factory=Train)


@dataclasses.dataclass
class LSGMERExperiment(Experiment):
    experiment: str = "lsgmer"
    model: LSGMER = dataclasses.field(default_factory=LSGMER)
    loss: JOO = dataclasses.field(default_factory=JOO)


@dataclasses.dataclass
class DeepMSIExperiment(Experiment):
    experiment: str = "deepmsi_mer"
    model: DeepMSI = dataclasses.field(default_factory=DeepMSI)
    loss: Contrastive = dataclasses.field(default_factory=Contrastive)


@dataclasses.dataclass
class DeepMSIFramesExperiment(DeepMSIExperiment):
    """DeepMSI-MER end to end from frames: of `model`, `keep` is of no use here, the backbone's `sides` say what is kept."""

    experiment: str = "deepmsi_mer_frames"
    frames: Frames = dataclasses.field(default_factory=Frames)
    backbone: Backbone = dataclasses.field(default_factory=Backbone)


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

FAMILIES = (LSGMERExperiment, DeepMSIExperiment, DeepMSIFramesExperiment)

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


def from_dict(tree: dict[str, Any]) -> Experiment:
    """The experiment whose `to_dict` this is; raises UserError if no family has these fields. One that changes no result may be
    missing, as in runs of earlier versions."""
    names = flatten(tree).keys()
    for family in FAMILIES:
        known = flatten(to_dict(family())).keys()
        if names <= known and all(name.startswith(CHANGES_NO_RESULT) for name in known - names):
            found = family()
            for name, value in tree.items():
                group = getattr(found, name)
                if not dataclasses.is_dataclass(group):
                    setattr(found, name, value)
                    continue
                for field, inner in value.items():
                    setattr(group, field, tuple(inner) if isinstance(inner, list) else inner)
            return found
    near = min(FAMILIES, key=lambda family: len(flatten(to_dict(family())).keys() ^ names))
    other = ", ".join(sorted(flatten(to_dict(near())).keys() ^ names))
    raise UserError(f"the config is of another version of mer_jax: what differs is {other}")


def limits(settings: Data) -> dict[str, int]:
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


def _validate_lsgmer(model: LSGMER) -> None:
    _require(model.width % model.heads == 0, "model.width", model.width, f"a multiple of model.heads = {model.heads}")
    _require(
        model.encoder != "gru" or model.width % 2 == 0, "model.width", model.width, "even when model.encoder is gru"
    )
    _require(model.reduce != "rows" or model.label_update != "class_mean", "model.label_update", model.label_update,
             "optimizer when model.reduce is rows: there is no one fused feature to take the mean of")  # fmt: skip
    if not model.lse:
        _require(model.reduce == "mean", "model.reduce", model.reduce, "mean when model.lse is off")


def _validate_deepmsi(config: DeepMSIExperiment) -> None:
    for name in ("tcn_widths", "late_widths"):
        widths = getattr(config.model, name)
        _require(len(widths) > 0 and min(widths) > 0, f"model.{name}", widths, "one or more positive numbers")
    config.loss.pairs = _split(config.loss.pairs)
    for pair in config.loss.pairs:
        anchor, _, other = pair.partition("-")
        _require(len({anchor, other} & {"text", "audio", "visual"}) == 2, "loss.pairs", ",".join(config.loss.pairs),
                 "pairs of two different modalities, as in --config.loss.pairs=visual-text,visual-audio")  # fmt: skip
    if config.model.variant == "published":
        _require(config.optim.average == 0, "optim.average", config.optim.average,
                 "0 with model.variant=published: its BatchNorm statistics belong to the weights as trained")  # fmt: skip
        _require(config.train.accumulate == 1, "train.accumulate", config.train.accumulate,
                 "1 with model.variant=published: its BatchNorm takes the mean of the whole batch")  # fmt: skip
    unknown = set(config.data.modalities) - {"text", "audio", "visual"}
    _require(
        not unknown, "data.modalities", ",".join(config.data.modalities), "among text, audio, visual for DeepMSI-MER"
    )


def _validate_frames(config: DeepMSIFramesExperiment) -> None:
    backbone, size = config.backbone, config.frames.size
    _require(config.model.keep == DeepMSI.keep, "model.keep", config.model.keep, "left alone with frames: backbone.sides says what is kept")  # fmt: skip
    _require("visual" in config.data.modalities, "data.modalities", ",".join(config.data.modalities), "with visual")
    _require(config.data.placement != "resident", "data.placement", "resident", "auto or stream: frames are decoded as they are read")  # fmt: skip
    stages = len(backbone.depths)
    _require(
        stages > 0 and min(backbone.depths) > 0, "backbone.depths", backbone.depths, "one or more positive numbers"
    )
    good = len(backbone.heads) == stages and all(
        h > 0 and backbone.width * 2**i % h == 0 for i, h in enumerate(backbone.heads)
    )
    _require(good, "backbone.heads", backbone.heads, "a number for each stage that divides its width, "
             + ", ".join(str(backbone.width * 2**i) for i in range(stages)))  # fmt: skip
    tuned = tuned_stages(backbone)
    _require(tuned is not None, "backbone.tune", backbone.tune, f"all, none, or last:K with K from 1 to {stages}")
    _require(size % backbone.patch == 0, "frames.size", size, f"a multiple of backbone.patch = {backbone.patch}")
    if not config.model.vsc:
        return
    _require(backbone.stage <= stages, "backbone.stage", backbone.stage, f"from 1 to {stages}, the number of stages")
    most = -(-backbone.depths[backbone.stage - 1] // 2)
    side, sides = compressed_grid(config), backbone.sides
    falling = list(sides) == sorted(sides, reverse=True) and all(0 < s <= side for s in sides)
    _require(0 < len(sides) <= most and falling, "backbone.sides", sides,
             f"one to {most} numbers (one for every second block of stage {backbone.stage}) that do not grow, at most {side}: that "
             f"stage's grid at frames.size={size}; or model.vsc=False")  # fmt: skip


def compressed_grid(config: DeepMSIFramesExperiment) -> int:
    """Tokens along a side of a frame where VSC begins."""
    return _grids(config)[config.backbone.stage - 1]


def undivided_grids(config: DeepMSIFramesExperiment) -> dict[int, int]:
    """Of the stages, by number from 1, whose grid is larger than a window and not divided by it: tokens along a side. As far as
    frames.size decides it: after VSC `backbone.sides` does."""
    backbone = config.backbone
    last = backbone.stage if config.model.vsc else len(backbone.depths)
    sides = enumerate(_grids(config)[:last], 1)
    return {stage: side for stage, side in sides if side > backbone.window and side % backbone.window}


def _grids(config: DeepMSIFramesExperiment) -> list[int]:
    """Tokens along a side of a frame in each stage, without VSC."""
    side = config.frames.size // config.backbone.patch
    return [-(-side // 2**stage) for stage in range(len(config.backbone.depths))]


def tuned_stages(backbone: Backbone) -> range | None:
    """Which stages learn, from -1, the patches, on; None if `tune` is no choice."""
    stages = len(backbone.depths)
    if backbone.tune in ("all", "none"):
        return range(-1 if backbone.tune == "all" else stages, stages)
    word, _, count = backbone.tune.partition(":")
    good = word == "last" and count.isdigit() and 1 <= int(count) <= stages
    return range(stages - int(count), stages) if good else None


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
