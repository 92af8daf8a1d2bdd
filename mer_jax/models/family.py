"""TODO: say what lives here."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from mer_jax import config as config_lib
from mer_jax.config import CHANGES_NO_RESULT, Experiment, flatten, to_dict
from mer_jax.data.corpus import Manifest
from mer_jax.errors import UserError
from mer_jax.models import deepmsi_mer as deepmsi_mer_lib
from mer_jax.models import functional
from mer_jax.models import lsgmer as lsgmer_lib
from mer_jax.models.deepmsi_mer import DeepMSIExperiment, deepmsi_family
from mer_jax.models.deepmsi_mer_frames import DeepMSIFramesExperiment
from mer_jax.models.lsgmer import LSGMERExperiment, lsgmer_family
from mer_jax.training import replicas

FAMILIES = (LSGMERExperiment, DeepMSIExperiment, DeepMSIFramesExperiment)


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


def family_of(
    config: config_lib.Experiment, corpus: Manifest
) -> tuple[functional.FunctionalModel, Callable[[ReplicaInputs], Any]]:
    """(the model, given -> (loss, after_update)): the one place where settings become arguments."""
    if isinstance(config, lsgmer_lib.LSGMERExperiment):
        return lsgmer_family(config, corpus)
    if isinstance(config, deepmsi_mer_lib.DeepMSIExperiment):
        return deepmsi_family(config, corpus)
    raise TypeError(f"no model is known for {type(config).__name__}")


def shared_settings(config: config_lib.Experiment) -> dict[str, Any]:
    """What pure.pure is told for every family."""
    return {
        "swept": replicas.swept_fields(config),
        "compute": {"float32": None, "bfloat16": jax.numpy.bfloat16}[config.train.precision],
    }


def widths_of(config: config_lib.Experiment, corpus: Manifest) -> dict[str, int]:
    return {m: corpus.modalities[m]["width"] for m in config.data.modalities}


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ReplicaInputs:
    """What makes a replica: input_stats[m]: mean and scale, Float[feat], that raw features are standardised with; prior:
    Float[classes], the classes' shares of its training part; values: the swept fields, `{field: Float[]}`."""

    input_stats: Any
    prior: Any
    values: Any
