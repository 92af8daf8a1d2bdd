"""The experiment as a tree of dataclasses, and its checks. No JAX.

A config file in `configs/` returns the `Experiment` of a model family; `--config.a.b=…` overrides a field of it.
"""

import copy
import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mer_jax.data import dialogues, encoder_layers, length_limits, protocols
from mer_jax.errors import UserError
from mer_jax.settings import (
    ContextSettings,
    DataSettings,
    MeshSettings,
    ModelSettings,
    OptimSettings,
    ReplicaSettings,
    Rule,
    TrainSettings,
    group,
    setting,
)


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

    def check_task(self, task: Any) -> None:
        """Checks what the family asks of the task (`tasks.Task`); raises UserError."""

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

    def check_layers(self, manifest: Any) -> None:
        """Raises UserError unless the corpus holds the encoder's layers that the model reads."""
        held = encoder_layers.layers_of(manifest.modalities, self.data.modalities)
        settings = model_settings(self)
        encoder_layers.check_mix(manifest.manifest["name"], held, settings.layer_mix, settings.layer)

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


def model_settings(config: Experiment) -> ModelSettings:
    """What the model of every family has; the defaults for a family whose settings do not have it."""
    found = getattr(config, "model", None)
    return found if isinstance(found, ModelSettings) else ModelSettings()


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
    norm = config.data.speaker_norm
    require(config.data.standardize or norm == "none", "data.speaker_norm", norm, "none where data.standardize is off")
    mix = model_settings(config).layer_mix
    reads_one = mix == "one" or not config.sweeps("model.layer")
    require(reads_one, "model.layer_mix", mix, "one where model.layer is swept")
    hears = config.data.context == "none" or config.reads_conversations
    require(hears, "data.context", config.data.context, f"none: model family {config.family()} reads single utterances")
    context = config.context
    require(
        context.width % context.heads == 0,
        "context.width",
        context.width,
        f"a multiple of context.heads = {context.heads}",
    )
    even = context.width % 2 == 0 or context.kind != "gru" or config.data.context != "both"
    require(even, "context.width", context.width, "even for the two directions of context.kind=gru")
    enough = context.heads >= 3 or context.kind != "speakers" or config.data.context == "none"
    require(enough, "context.heads", context.heads, "at least 3 for context.kind=speakers: all, the same, the others")
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
                words = {
                    int: "whole numbers, as in (0,2)",
                    float: "numbers, as in (1.0,0.5)",
                    str: "names, as in a,b",
                }.get(kind, length_limits.RIGHT)
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
