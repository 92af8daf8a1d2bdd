"""What a model family is: one file of models/ that holds its settings, its experiment and `build`. Families are
imported by name, from this folder or from anywhere Python finds them; there is no list of them."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any, NotRequired, TypedDict

import jax
from flax import nnx
from jaxtyping import Array, Float

from mer_jax import old_runs, schema
from mer_jax.config import Experiment, fields, fields_without_result, flatten, model_settings
from mer_jax.data.batch import AnyBatch, where_real
from mer_jax.data.corpus import Manifest
from mer_jax.data.encoder_layers import Layers, layers_of
from mer_jax.errors import UserError
from mer_jax.models import layer_mix
from mer_jax.tasks import Task

Path = tuple[str, ...]  # of a parameter in the model's tree


class Outputs(TypedDict):
    """What every model gives, for training, evaluation, reports and explanations alike. A family may add its own.

    logits: Float[batch, width], what the task reads. feature: Float[batch, dim], what is classified in the end.
    attention[m]: over the time steps of modality m, Float[batch, time] or, one row for each output,
    Float[batch, width, time]; a modality without attention is left out. kept: what became of the frames or of their
    tokens, `models.vsc.Kept`, for a model that compresses them. utterance: Float[batch, dim], what is known of the
    utterance before the other turns are heard, for a model that hears them; see `models.context`. memory: what such a
    model keeps of a conversation after a `data.batch.NextTurn`, else None.
    """

    logits: Array
    feature: Array
    attention: dict[str, Array]
    kept: NotRequired[Any]
    utterance: NotRequired[Array]
    memory: NotRequired[Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ReplicaInputs:
    """What makes a replica.

    input_stats[m]: mean and scale, Float[feat] or Float[groups, feat] (`data.speaker_norm`), that raw features are
    standardised with. prior: what the task's loss
    knows of the training part, for classes their shares, Float[classes]. overrides: the swept fields, `{field:
    Float[]}`."""

    input_stats: Any
    prior: Any
    overrides: Any


def zeros(features: dict[str, Array], mask: dict[str, Array]) -> dict[str, Array]:
    """The training part's mean, which standardised features have at zero."""
    return jax.tree.map(jax.numpy.zeros_like, features)


def utterance_means(features: dict[str, Array], mask: dict[str, Array]) -> dict[str, Array]:
    """Every real time step becomes the mean of the utterance's; for a model that normalises each step, whose gradients
    near zero are those of nothing."""

    def mean(x: Float[Array, "batch time *feat"], real: Array) -> Array:
        count = jax.numpy.maximum(jax.numpy.expand_dims(real.sum(1), range(1, x.ndim)), 1).astype(x.dtype)
        return where_real(real, jax.numpy.broadcast_to(x.sum(1, keepdims=True) / count, x.shape))

    return {m: mean(x, mask[m]) for m, x in features.items()}


def keep_update(config: Any, old: Any, new: Any, outputs: Any, batch: AnyBatch) -> Any:
    """The optimiser's update as it is."""
    return new


@dataclasses.dataclass(frozen=True)
class Family:
    """A family built for one config and corpus. Where a function takes `config`, its swept fields may hold arrays.

    module(config, rngs) -> the NNX module, called as module(batch, key=…) -> `Outputs`.
    objective(config, outputs, batch, prior) -> (the loss, its terms by name).
    sentence: what the model is, for cards and reports.
    after_update(config, old params, new params, outputs, batch) -> the new params, with the last word on them.
    frozen(path): whether a parameter does not learn. reached(path): whether the loss depends on it at all; one that it
    does not reach keeps its start, without decay, as in torch. lr_factor(path): factor on its learning rate.
    start: arrays of the model that are given instead of drawn. notes: what a person should know before training.
    attribution_baseline(features, mask) -> where the path of integrated gradients begins.
    fixed_lengths: modalities of which the model must know how many time steps there are when it is compiled.
    """

    module: Callable[[Any, nnx.Rngs], nnx.Module]
    objective: Callable[[Any, Any, AnyBatch, Any], tuple[Array, dict[str, Array]]]
    sentence: str
    after_update: Callable[[Any, Any, Any, Any, AnyBatch], Any] = keep_update
    frozen: Callable[[Path], bool] = lambda path: False
    reached: Callable[[Path], bool] = lambda path: True
    lr_factor: Callable[[Path], float] | None = None
    start: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    attribution_baseline: Callable[[dict[str, Array], dict[str, Array]], dict[str, Array]] = zeros
    fixed_lengths: tuple[str, ...] = ()


def task_objective(
    config: Any, outputs: Any, batch: AnyBatch, prior: Any, *, task: Task
) -> tuple[Array, dict[str, Array]]:
    """The objective of a family that has no term of its own: the task's loss."""
    loss = task.loss(outputs["logits"], batch.targets, batch.weight, prior=prior, settings=config.loss)
    return loss, {"classification": loss}


def family_module(name: str) -> ModuleType:
    """The file of a family; raises UserError if Python does not find it."""
    for module in (f"mer_jax.models.{name}", name):
        try:
            found = importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            found = False
        if found:
            return importlib.import_module(module)
    raise UserError(
        f"the model family {name!r} is neither a file of mer_jax/models nor a module that Python finds; put the folder "
        "that holds it on PYTHONPATH"
    )


def experiment_type(name: str) -> type[Experiment]:
    """The experiment that a family's file defines; raises UserError if there is not exactly one."""
    module = family_module(name)
    found = [x for x in vars(module).values() if isinstance(x, type) and issubclass(x, Experiment)]
    own = [x for x in found if x.__module__ == module.__name__]
    if len(own) != 1:
        raise UserError(f"{module.__file__} must define one subclass of mer_jax.config.Experiment, not {len(own)}")
    return own[0]


def family_of(config: Experiment, manifest: Manifest, task: Task) -> Family:
    """The family of the config, built for a corpus and its task. It knows nothing of layers: `functionalize` mixes
    them before its module is called."""
    found: Family = family_module(config.family()).build(config, manifest, task)
    layers = mixed_layers(config, manifest)
    if not layers:
        return found

    def module(config: Any, rngs: nnx.Rngs) -> nnx.Module:
        model = found.module(config, rngs)
        setattr(model, layer_mix.NAME, layer_mix.LayerMix(model_settings(config), layers))
        return model

    return dataclasses.replace(found, module=module)


def mixed_layers(config: Experiment, manifest: Manifest) -> Layers:
    """The layers of every modality of which the model reads a mix instead of all side by side."""
    if model_settings(config).layer_mix == "joined":
        return {}
    return layers_of(manifest.modalities, config.data.modalities)


def experiment_from(tree: dict[str, Any]) -> Experiment:
    """The experiment whose `config.to_dict` this is; raises UserError if its family has other fields. A field that
    changes no result may be missing, and runs of earlier versions may call fields otherwise."""
    tree = old_runs.read_config(tree)
    experiment = experiment_type(tree["family"])
    config = experiment()
    known = fields(config)
    given = {name: value for name, value in flatten(tree).items() if name != "family"}
    missing = known.keys() - given.keys() - fields_without_result(config)
    if other := sorted(missing | (given.keys() - known.keys())):
        raise UserError(f"the config is of another version of mer_jax: what differs is {', '.join(other)}")
    try:
        schema.check({name: value for name, value in tree.items() if name != "family"}, experiment)
    except ValueError as error:
        raise UserError(f"the config is damaged: {error}") from None
    for name, value in given.items():
        *holder, last = name.split(".")
        owner = getattr(config, holder[0]) if holder else config
        setattr(owner, last, tuple(value) if isinstance(value, list) else value)
    return config


def widths_of(config: Experiment, manifest: Manifest) -> dict[str, int]:
    """Features per time step of every modality, as a family's module is given them."""
    mixed = mixed_layers(config, manifest)
    return {m: manifest.modalities[m]["width"] // len(mixed.get(m, (0,))) for m in config.data.modalities}


def check_outputs(outputs: Any, rows: int, task: Task, family: str) -> None:
    """Raises UserError unless shapes of a model's outputs are those of `Outputs` for a batch of so many rows."""
    missing = [name for name in Outputs.__annotations__ if name in Outputs.__required_keys__ - outputs.keys()]
    if missing:
        raise UserError(f"model family {family!r} gives no {', '.join(missing)}: see mer_jax.models.family.Outputs")
    wanted = {"logits": (rows, task.width), "feature": (rows, None)}
    for name, shape in wanted.items():
        found = getattr(outputs[name], "shape", None)
        if found is None or len(found) != 2 or any(w not in (None, f) for w, f in zip(shape, found, strict=True)):
            form = ", ".join("dim" if size is None else str(size) for size in shape)
            raise UserError(f"model family {family!r}: {name} has shape {found}; it must be ({form})")
    for modality, x in outputs["attention"].items():
        if len(x.shape) not in (2, 3) or x.shape[0] != rows:
            form = f"({rows}, time) or ({rows}, {task.width}, time)"
            raise UserError(f"model family {family!r}: attention[{modality!r}] has shape {x.shape}; it must be {form}")
