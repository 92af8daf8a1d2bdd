"""Runs that earlier versions wrote, in today's words: the one table of what has been renamed since. No JAX."""

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
# Parts of a checkpoint, 0.8 -> 0.9.
ARRAYS = {"rest": "model_state", "average": "ema", "given": "inputs", "values": "overrides"}


def read_config(tree: dict[str, Any]) -> dict[str, Any]:
    """The config of a run in today's words, with its family. Runs of 0.8 and before do not name it: each of the three that
    there were has a group of settings of its own."""
    found: dict[str, Any] = {"family": tree.get("family") or _family_of_08(tree)}
    for name, value in tree.items():
        if isinstance(value, dict):
            value = {
                FIELDS.get(f"{name}.{field}", f"{name}.{field}").partition(".")[2]: v for field, v in value.items()
            }
        found[name] = value
    return found


def _family_of_08(tree: dict[str, Any]) -> str:
    if "backbone" in tree:
        return "deepmsi_mer_frames"
    return "deepmsi_mer" if "contrastive" in tree.get("loss", {}) else "lsgmer"


def renamed_arrays(tree: dict[str, Any]) -> dict[str, Any]:
    """The parts of a saved state or model under today's names."""
    return {ARRAYS.get(name, name): value for name, value in tree.items()}
