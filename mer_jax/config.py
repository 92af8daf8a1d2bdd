"""The experiment as a tree of dataclasses. Every default, range and choice stands in the field itself. No JAX.

A config file in `configs/` returns the `Experiment` of a model family; `--config.a.b=…` overrides a field of it.
"""

import copy
import dataclasses
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mer_jax.data import dialogues, length_limits, protocols
from mer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rule:
    """What may stand in a field: see `setting`."""

    at_least: float | int | None = None
    above: float | int | None = None
    at_most: float | int | None = None
    below: float | int | None = None
    choices: tuple[str, ...] = ()
    swept: bool = False
    changes_result: bool = True

    def violation(self, value: Any) -> str:
        """What the value must be, in words, if it is not; otherwise nothing."""
        if self.choices and value not in self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.below is not None:
            low = 0 if self.at_least is None else self.at_least
            if not low <= value < self.below:
                return f"in [{low:g}, {self.below:g})"
        if self.at_least is not None and not value >= self.at_least:
            return f"at least {self.at_least:g}"
        if self.above is not None and not self.above < value < math.inf:
            return f"above {self.above:g} and finite"
        if self.at_most is not None and not value <= self.at_most:
            return f"at most {self.at_most:g}"
        return ""


def setting(default: Any, **rule: Any) -> Any:
    """A field of a settings dataclass: its default, and what may stand in it.

    at_least, above, at_most, below: bounds of a number; `below` alone means from 0. choices: the allowed words. swept:
    replicas of one compiled program may differ in it, because neither a shape nor the course of the program depends on
    it. changes_result=False: the field says where and how a run computes, not what; a run may be carried on with
    another."""
    return dataclasses.field(default=default, metadata={"rule": Rule(**rule)})


def group(kind: type) -> Any:
    """A field that holds a dataclass of settings."""
    return dataclasses.field(default_factory=kind)


@dataclasses.dataclass
class DataSettings:
    """Which utterances are read, and how."""

    path: str = ""  # a corpus folder (see mer_jax/data); empty = the built-in demo corpus; demo:clutter = its variant
    protocol: str = "official"  # who trains, validates and tests whom, by name: see mer_jax/data/protocols.py
    seed: int = setting(0, at_least=0)  # of the order of batches and of protocols that draw; the same for all replicas
    modalities: tuple[str, ...] = ("text", "audio")
    # What a model hears of a dialogue besides the utterance: nothing, all turns before it, or those after it, too.
    context: str = setting("none", choices=("none", "past", "both"))
    max_turns: int = setting(256, at_least=2)  # longer dialogues are read in windows of so many turns, which overlap
    # What is read of a sequence, from its start: time steps or seconds, for all or by modality (48, 30s,
    # audio:30s+text:64); what is not named is cut at 60 s, or 4096 steps where the corpus does not know seconds.
    max_length: tuple[int | str, ...] = ()
    soft_labels: bool = False  # learn what the raters say, where they are known, instead of the label alone
    test_on_trained: bool = False  # test even utterances on whose labels the features were trained (see the manifest)
    # What happens to NaN and infinite values; both choices count them.
    nonfinite: str = setting("refuse", choices=("refuse", "zero"))
    # Zero mean and unit variance of every feature, measured on the training part (of frames always ImageNet's).
    standardize: bool = True
    # Splits lie on the device or are streamed; auto keeps them on the device up to resident_limit_mb.
    placement: str = setting("auto", choices=("auto", "resident", "stream"), changes_result=False)
    resident_limit_mb: int = setting(4096, at_least=1, changes_result=False)
    group_by_length: int = setting(8, at_least=1)  # utterances of so many batches are sorted by length; 1 = off
    read_threads: int = setting(1, at_least=1, changes_result=False)  # threads that read ahead when streaming


@dataclasses.dataclass
class ContextSettings:
    """How the turns of a dialogue are heard together (data.context); see mer_jax/models/context.py. All of it is
    ours."""

    # transformer, gru, or speakers: a transformer whose heads hear all, the same speaker, or the others.
    kind: str = setting("transformer", choices=("transformer", "gru", "speakers"))
    layers: int = setting(2, at_least=1)
    width: int = setting(128, at_least=1)
    heads: int = setting(4, at_least=1)
    span: int = setting(64, at_least=1)  # turns before (and after) a turn that a layer of a transformer hears
    dropout: float = setting(0.3, below=1, swept=True)
    # Share of the dialogues whose turns are heard one by one while training, so that a single utterance will do, too.
    alone: float = setting(0.1, below=1)


@dataclasses.dataclass
class LossSettings:
    """What the loss of every family has."""

    imbalance: str = setting("none", choices=("none", "class_weights", "focal", "logit_adjustment"))
    focal_gamma: float = setting(2.0, at_least=0, swept=True)
    label_smoothing: float = setting(0.1, below=1, swept=True)


@dataclasses.dataclass
class OptimSettings:
    """The optimiser; see mer_jax/training/optim.py."""

    # adam adds the decay to the gradient, adamw and sgd decouple it.
    name: str = setting("adamw", choices=("adamw", "adam", "sgd"))
    learning_rate: float = setting(3e-4, above=0, swept=True)
    # linear and cosine fall to 0 after the last epoch.
    schedule: str = setting("cosine", choices=("constant", "linear", "cosine"))
    warmup: float = setting(0.05, below=1)  # share of all steps
    # adamw and sgd: on matrices only, on no bias, scale or label embedding; adam: on everything.
    weight_decay: float = setting(1e-2, at_least=0, swept=True)
    clip: float = setting(1.0, at_least=0)  # global gradient norm; 0 = off
    b1: float = setting(0.9, below=1)  # the betas of adamw and adam; sgd has none
    b2: float = setting(0.999, below=1)
    # Decay per step of an exponential moving average of the weights, which is then evaluated; 0 = off.
    ema_decay: float = setting(0.99, below=1)


@dataclasses.dataclass
class TrainSettings:
    """How long and how a run trains, and what it writes."""

    batch_size: int = setting(64, at_least=1)
    eval_batch_size: int = setting(256, at_least=1)
    epochs: int = setting(12, at_least=1)
    patience: int = setting(4, at_least=0)  # epochs without a better validation score before stopping; 0 = never
    select: str = "weighted_f1"  # the validation score that chooses the checkpoint, one of the task's
    checkpoint_minutes: float = setting(
        10.0, at_least=0, changes_result=False
    )  # save so often besides every epoch's end
    # How many of the latest checkpoints stay on disk: if one turns out damaged, the one before takes its place.
    keep_checkpoints: int = setting(2, at_least=1, changes_result=False)
    log_steps: int = setting(20, at_least=1, changes_result=False)
    # At the end, score the test part. False keeps it locked while tuning: the run trains, selects and reports by
    # validation only, until --mode=test scores it.
    score_test: bool = setting(True, changes_result=False)
    # At the end, look at what the model attends to and where its features lie, for the report.
    inspect: bool = setting(True, changes_result=False)
    # Every process writes which utterances it took for each step, to WORKDIR/reads.
    log_reads: bool = setting(False, changes_result=False)
    # A batch is computed in so many pieces, for less memory; the update is the whole batch's.
    microbatches: int = setting(1, at_least=1)
    # Of the model's products; parameters, statistics and loss stay float32.
    precision: str = setting("float32", choices=("float32", "bfloat16"))


@dataclasses.dataclass
class ReplicaSettings:
    """The runs that make up the experiment, trained side by side: folds x seeds x points."""

    folds: tuple[int, ...] = ()  # which folds of the protocol, by number from 0; empty = all
    seeds: int = setting(1, at_least=1)  # seeds config.seed, config.seed + 1, …
    grid: str = ""  # swept fields, every combination: "optim.learning_rate=1e-4,3e-4 model.dropout=0.1,0.3"
    points: str = ""  # swept fields, just these points: "optim.learning_rate=1e-4,model.dropout=0.1 …"
    # Replicas in one compiled step; 1 = one after the other; 0 = 1 on a CPU, else all.
    replicas_per_step: int = setting(0, at_least=0, changes_result=False)


@dataclasses.dataclass
class MeshSettings:
    """How the run lies on the devices; it changes no result but in rounding. Replicas and data share what is left."""

    # Devices that share the weights of each layer, by output features.
    model: int = setting(1, at_least=1, changes_result=False)
    # Parameters, moments and averages are split over the devices that share the data.
    fsdp: bool = setting(False, changes_result=False)


@dataclasses.dataclass
class Experiment:
    """What every model family has. A family adds its own `model` and `loss`, and says below what it asks of a
    corpus. reads_conversations: whether its model hears the other turns of a dialogue, by `models.context`."""

    reads_conversations: ClassVar[bool] = False
    experiment: str = ""  # names the default workdir, runs/<experiment>
    seed: int = setting(0, at_least=0)  # of a replica's start and dropout
    replicas: ReplicaSettings = group(ReplicaSettings)
    mesh: MeshSettings = group(MeshSettings)
    data: DataSettings = group(DataSettings)
    context: ContextSettings = group(ContextSettings)
    optim: OptimSettings = group(OptimSettings)
    train: TrainSettings = group(TrainSettings)

    @classmethod
    def family(cls) -> str:
        """The name of the family, which is its file in mer_jax/models, or a module that Python finds elsewhere."""
        return cls.__module__.removeprefix("mer_jax.models.")

    def sweeps(self, field: str) -> bool:
        """Whether replicas of the run differ in the field."""
        return field in re.findall(r"[\w.]+(?==)", f"{self.replicas.grid} {self.replicas.points}")

    def check(self) -> None:
        """Checks what one field alone cannot say, for `validate`; raises UserError."""

    def frame_augmentation(self) -> Any:
        """What the model sees of frames, a `data.frames.View` in settings; None if it reads features only."""
        return None

    def for_export(self) -> Any:
        """A config of the same model for a program that is traced once, for any batch: in float32, whatever it was
        trained in, and without what only saves memory while training."""
        changed = copy.deepcopy(self)
        changed.train.precision = "float32"
        return changed

    def files(self) -> dict[str, str]:
        """Files beside the corpus that the result depends on, by what they hold; their sha256 belong to a run."""
        return {}

    def known_modalities(self) -> tuple[str, ...] | None:
        """The modalities that the family can read; None if it takes any."""
        return None

    def check_corpus(self, corpus: Any) -> None:
        """Checks what the config asks of an opened corpus; raises UserError saying what the corpus has."""
        name, frames = corpus.manifest["name"], self.frame_augmentation() is not None
        for modality in self.data.modalities:
            if modality not in corpus.modalities:
                raise UserError(self._lacks(corpus, modality))
            framed = "pixels" in corpus.modalities[modality]
            if framed and not (frames and modality == "visual"):
                raise UserError(
                    f"--config: corpus {name!r} holds frames as {modality}, which configs/deepmsi_mer_frames.py reads; "
                    "leave them out with --config.data.modalities, or give a corpus of features"
                )
            if frames and modality == "visual" and not framed:
                raise UserError(
                    f"--config: corpus {name!r} holds visual features, not frames; configs/deepmsi_mer.py reads them, "
                    "`python -m data_prep.clips … --visual-encoder=jpeg` makes a corpus with frames"
                )
        if self.data.context != "none":
            dialogues.refuse_without(corpus, self.data.context)
        if self.data.soft_labels and not corpus.manifest.get("voted"):
            raise UserError(
                f"--config.data.soft_labels=True: corpus {name!r} does not say how its raters voted; leave it off"
            )

    def _lacks(self, corpus: Any, modality: str) -> str:
        known = self.known_modalities() or tuple(corpus.modalities)
        if self.frame_augmentation() is None:
            known = tuple(m for m in known if "pixels" not in corpus.modalities.get(m, {}))
        usable = ",".join(m for m in corpus.modalities if m in known)
        return (
            f"--config.data.modalities={','.join(self.data.modalities)}: corpus {corpus.manifest['name']!r} "
            f"has no {modality!r}; it has {', '.join(corpus.modalities)}"
            + (f". Run with --config.data.modalities={usable}" if usable else "")
        )


AnyExperiment = TypeVar("AnyExperiment", bound=Experiment)


def to_dict(config: Experiment) -> dict[str, Any]:
    """The tree as plain JSON values, its family first."""
    return {"family": config.family(), **json.loads(json.dumps(dataclasses.asdict(config)))}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    out = {}
    for key, value in tree.items():
        out.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return out


def fields(config: Experiment) -> dict[str, Any]:
    """Every field by its full name, as in 'optim.learning_rate', with its value."""
    return {name: value for name, value in flatten(to_dict(config)).items() if name != "family"}


def rules(config: Experiment) -> Iterator[tuple[str, Rule]]:
    """The rule of every field that has one, by full name."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inner = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        for name, owner in [(field.name, field), *((f"{field.name}.{f.name}", f) for f in inner)]:
            if "rule" in owner.metadata:
                yield name, owner.metadata["rule"]


def sweepable_fields(config: Experiment) -> tuple[str, ...]:
    """The fields in which replicas of one compiled program may differ."""
    return tuple(name for name, rule in rules(config) if rule.swept)


def fields_without_result(config: Experiment) -> frozenset[str]:
    """The fields in which a run and the command that carries it on may differ."""
    return frozenset(name for name, rule in rules(config) if not rule.changes_result)


def max_lengths(settings: DataSettings, manifest: Mapping[str, Any]) -> dict[str, int]:
    """How many time steps of each modality of the corpus are read, at most."""
    return length_limits.length_limits(settings.max_length, settings.modalities, manifest)


def validate(config: AnyExperiment) -> AnyExperiment:
    """Returns the config with comma lists split; raises UserError naming the field and what would be right."""
    _check_tuples(config)
    config.data.modalities = split_names(config.data.modalities)
    last = config.seed + config.replicas.seeds - 1
    require(last < 2**32, "seed", config.seed, f"such that the last seed, {last}, is below {2**32}")
    values = fields(config)
    if "test" in config.train.select:
        ways = ", ".join(name for name in protocols.PROTOCOLS if protocols.selects_on_test(name))
        raise UserError(
            f"--config.train.select={config.train.select}: the test part chooses nothing; only data.protocol={ways} "
            "does that"
        )
    for name, rule in rules(config):
        violation = rule.violation(values[name])
        require(not violation, name, values[name], violation)
    protocols.check_name(config.data.protocol)
    if protocols.selects_on_test(config.data.protocol):
        right = f"True: under data.protocol={config.data.protocol} the test part chooses the epoch and cannot be locked"
        require(config.train.score_test, "train.score_test", False, right)
    modalities = config.data.modalities
    different = len(modalities) > 0 and len(set(modalities)) == len(modalities)
    names = "one or more different names, as in --config.data.modalities=text,audio"
    require(different, "data.modalities", ",".join(modalities), names)
    length_limits.check_setting(config.data.max_length, modalities)
    hears = config.data.context == "none" or config.reads_conversations
    require(hears, "data.context", config.data.context, f"none: model family {config.family()} reads single utterances")
    context = config.context
    require(
        context.width % context.heads == 0,
        "context.width",
        context.width,
        f"a multiple of context.heads = {context.heads}",
    )
    config.check()
    return config


def _check_tuples(config: Experiment) -> None:
    """The flag parser checks that a tuple is one, not what is in it."""
    for name, settings in vars(config).items():
        if not dataclasses.is_dataclass(settings):
            continue
        for field, hint in typing.get_type_hints(type(settings)).items():
            if typing.get_origin(hint) is tuple:
                kind, value = typing.get_args(hint)[0], getattr(settings, field)
                good = isinstance(value, tuple) and all(
                    type(item) in (typing.get_args(kind) or (kind,)) for item in value
                )
                words = {int: "whole numbers, as in (0,2)", str: "names, as in a,b"}.get(kind, length_limits.RIGHT)
                require(good, f"{name}.{field}", value, words)


def split_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The flag --config.x=a,b arrives as ('a,b',)."""
    return tuple(name.strip() for item in names for name in item.split(",") if name.strip())


def require(true: bool, name: str, value: Any, right: str) -> None:
    """Raises UserError, saying what would be right, unless it is true."""
    if not true:
        raise UserError(f"--config.{name}={value}: must be {right}")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields that differ between two trees, as `name: old -> new` lines."""
    a, b = flatten(old), flatten(new)
    return [
        f"{k}: {a.get(k, '(none)')} -> {b.get(k, '(none)')}"
        for k in sorted(a.keys() | b.keys())
        if a.get(k) != b.get(k)
    ]


def differing_results(config: Experiment, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Of the `differences` between two trees of such a config those in fields that change a result."""
    free = fields_without_result(config)
    return [line for line in differences(old, new) if line.partition(":")[0] not in free]


def default_workdir(config: Experiment) -> Path:
    """runs/<experiment>"""
    return Path("runs") / config.experiment


def with_values(config: AnyExperiment, values: dict[str, Any]) -> AnyExperiment:
    """The config with the fields set, to numbers or arrays; without a sweep of its own."""
    changed = copy.copy(config)
    changed.replicas = dataclasses.replace(config.replicas, grid="", points="")
    for field, value in values.items():
        holder_name, name = field.split(".")
        holder = copy.copy(getattr(changed, holder_name))
        setattr(holder, name, value)
        setattr(changed, holder_name, holder)
    return changed
