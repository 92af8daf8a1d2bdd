"""Runs that earlier versions wrote, in today's words: the one table of what has been renamed since. No JAX."""

import dataclasses
from collections.abc import Collection
from typing import Any

# Fields of the config, 0.8 -> 0.9.
FIELDS = {
    "optim.average": "optim.ema_decay",
    "replicas.together": "replicas.replicas_per_step",
    "train.look": "train.inspect",
    "train.accumulate": "train.microbatches",
    "backbone.stage": "backbone.vsc_stage",
    "backbone.sides": "backbone.vsc_grid_sides",
    "backbone.tune": "backbone.trainable_stages",
    "backbone.rate": "backbone.lr_scale",
    "backbone.at_once": "backbone.frames_per_group",
}
# Defaults of data.max_length until 0.9.0, of all configs and of lsgmer's iemocap and meld. Since then it is empty.
MAX_LENGTHS = ([128], [48])
# Fields of all configs since 0.11, and what a run without them did.
BEFORE_CONTEXT: dict[str, dict[str, Any]] = {
    "data": {"context": "none", "max_turns": 256},
    "context": {
        "kind": "transformer",
        "layers": 2,
        "width": 128,
        "heads": 4,
        "span": 64,
        "dropout": 0.3,
        "alone": 0.1,
    },
    "loss": {"class_weight_power": 1.0},
}
# The same since 0.12; what is of the model in these families, others need not have it.
BEFORE_CHOICES: dict[str, dict[str, Any]] = {
    "replicas": {"choose": "point"},
    "data": {"speaker_norm": "none"},
    "loss": {"logit_adjustment_tau": 1.0},
}
BEFORE_LAYERS = {"model": {"layer_mix": "joined", "layer": 0}}
# The same since 0.13.
BEFORE_TASKS: dict[str, dict[str, Any]] = {
    "data": {"task": ""},
    "loss": {
        "regression": "mae",
        "huber_delta": 0.25,
        "multilabel": "bce",
        "asymmetric_gamma_present": 0.0,
        "asymmetric_gamma_absent": 4.0,
        "asymmetric_margin": 0.05,
        "task_weights": [],
    },
}
BEFORE_INPUT_DROPOUT = {"model": {"input_dropout": 0.0}}  # of DeepMSI-MER
DEEPMSI = ("deepmsi_mer", "deepmsi_mer_frames")
FAMILIES = ("lsgmer", *DEEPMSI)
# Parts of a checkpoint, 0.8 -> 0.9.
ARRAYS = {"rest": "model_state", "average": "ema", "given": "inputs", "values": "overrides"}
OLD_ARRAYS = {today: old for old, today in ARRAYS.items()}


def read_config(tree: dict[str, Any]) -> dict[str, Any]:
    """The config of a run in today's words, with its family. Runs of 0.8 and before do not name it: each of the three
    that there were has a group of settings of its own."""
    found: dict[str, Any] = {"family": tree.get("family") or _family_of_08(tree)}
    for name, value in tree.items():
        if isinstance(value, dict):
            if isinstance(length := value.get("max_length"), int):
                value = value | {"max_length": [length]}
            value = {
                FIELDS.get(f"{name}.{field}", f"{name}.{field}").partition(".")[2]: v for field, v in value.items()
            }
        found[name] = value
    if "data" in found and "context" not in found:
        found |= _with(found, BEFORE_CONTEXT)
    if "data" in found and _lacks(found, "replicas", "choose"):
        found |= _with(found, BEFORE_CHOICES)
    if "data" in found and _lacks(found, "data", "task"):
        found |= _with(found, BEFORE_TASKS)
    if "data" in found and found["family"] in FAMILIES and _lacks(found, "model", "layer_mix"):
        found |= _with(found, BEFORE_LAYERS)
    if "data" in found and found["family"] in DEEPMSI and _lacks(found, "model", "input_dropout"):
        found |= _with(found, BEFORE_INPUT_DROPOUT)
    return found


def _lacks(tree: dict[str, Any], group: str, field: str) -> bool:
    held = tree.get(group, {})
    return isinstance(held, dict) and field not in held


def _with(tree: dict[str, Any], later: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Groups of a config with the fields that came later; a group that is damaged stays so."""
    groups = {name: tree.get(name, {}) for name in later}
    return {name: held | later[name] if isinstance(held, dict) else held for name, held in groups.items()}


def _family_of_08(tree: dict[str, Any]) -> str:
    if "backbone" in tree:
        return "deepmsi_mer_frames"
    return "deepmsi_mer" if "contrastive" in tree.get("loss", {}) else "lsgmer"


def named_as_saved(like: Any, saved: Collection[str]) -> Any:
    """The parts of a checkpoint, dataclasses under the names of their fields, as dicts under the names that 0.8 gave
    them; as it is if the checkpoint has today's names. saved: the paths of its arrays."""
    return _old_names(like) if any(name.startswith("state/given/") for name in saved) else like


def named_as_today(saved: Any, like: Any) -> Any:
    """What was restored, under today's names; `like` is what a checkpoint of today holds."""
    if _holds_parts(like):
        return {name: named_as_today(saved[name], part) for name, part in like.items()}
    if not dataclasses.is_dataclass(like) or isinstance(like, type) or not isinstance(saved, dict):
        return saved
    parts = {
        f.name: named_as_today(saved[OLD_ARRAYS.get(f.name, f.name)], getattr(like, f.name))
        for f in dataclasses.fields(like)
    }
    return dataclasses.replace(like, **parts)


def renamed_arrays(tree: dict[str, Any]) -> dict[str, Any]:
    """The parts of a saved model under today's names."""
    return {ARRAYS.get(name, name): value for name, value in tree.items()}


def _old_names(like: Any) -> Any:
    if dataclasses.is_dataclass(like) and not isinstance(like, type):
        return {OLD_ARRAYS.get(f.name, f.name): _old_names(getattr(like, f.name)) for f in dataclasses.fields(like)}
    return {k: _old_names(v) for k, v in like.items()} if _holds_parts(like) else like


def _holds_parts(like: Any) -> bool:
    return isinstance(like, dict) and like.keys() == {"state", "best"}
