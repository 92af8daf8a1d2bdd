"""Small experiments that train in seconds."""

import dataclasses
import functools

import jax
import numpy as np

from mer_jax import config as config_lib
from mer_jax.models import deepmsi_mer, deepmsi_mer_frames, family, lsgmer, swin
from mer_jax.models.baselines import OVER_DIALOGUES, OVER_UTTERANCES
from mer_jax.models.functional import cast


def remembered(make):
    """The function `make`, called once for the same arguments in words; who changes a tree that it returns has a copy of it."""
    made = {}

    @functools.wraps(make)
    def again(*args, **changes):
        key = repr((args, sorted(changes.items())))
        if key not in made:
            made[key] = make(*args, **changes)
        return jax.tree.map(lambda leaf: leaf, made[key])

    return again


def in_float64(call, *trees):
    """What `call` makes of the trees with all their numbers in float64: what is the same by formula is the same there to 1e-12, on
    any machine, while float32 rounds as the processor's kernels happen to sum."""
    with jax.enable_x64(), jax.numpy_dtype_promotion("standard"):
        found = jax.tree.map(np.asarray, call(*(cast(tree, np.float64) for tree in trees)))
    assert all(x.dtype != np.float32 for x in jax.tree.leaves(found))
    return found


FAMILIES = {
    "lsgmer": lsgmer.LSGMERExperiment,
    "deepmsi_mer": deepmsi_mer.DeepMSIExperiment,
    "deepmsi_mer_frames": deepmsi_mer_frames.DeepMSIFramesExperiment,
}
BASELINES = (*OVER_UTTERANCES, *OVER_DIALOGUES)
FAMILIES |= {f"baselines.{name}": family.experiment_type(f"baselines.{name}") for name in BASELINES}
VARIANTS = ("fixed", "published")  # of DeepMSI-MER


def of_family(family, modalities=("text", "audio", "visual")):
    """A family's own settings; the name may be that of a variant of DeepMSI-MER."""
    config = FAMILIES["deepmsi_mer" if family in VARIANTS else family]()
    config.data.modalities = modalities
    if family in VARIANTS:
        config.model.variant = family
    if family == "published":
        config.optim.ema_decay = 0.0  # its BatchNorm allows no other
    return config


def with_sgd(config, learning_rate=0.1):
    """SGD: Adam would turn rounding into differences."""
    config.optim.name, config.optim.learning_rate, config.optim.warmup = "sgd", learning_rate, 0.0
    return config


def with_plain_sgd(config, learning_rate):
    """What a step moves the params by is the gradient, times the rate."""
    config.optim.schedule, config.optim.clip, config.optim.weight_decay = "constant", 0.0, 0.0
    return with_sgd(config, learning_rate)


def hearing(config, context, **settings):
    """The config with the other turns of a dialogue heard; `settings` are those of the context."""
    config.data.context = context
    config.context.width, config.context.heads = 16, 2
    for name, value in settings.items():
        setattr(config.context, name, value)
    return config


def of_folds_and_seeds(family="lsgmer", context="none", **replicas):
    """Three folds, two seeds, two epochs; `replicas` are settings of that name. With context the folds cut through
    dialogues."""
    config = hearing(with_sgd(of_family(family, ("text", "audio"))), context)
    config.data.protocol, config.replicas.seeds = "kfold_dialogue:3", 2
    if context != "none":
        config.data.protocol = "kfold_utterance:3"
    for name, value in replicas.items():
        setattr(config.replicas, name, value)
    config.train.batch_size, config.train.epochs = 16, 2
    if family == "lsgmer":
        config.model.width = 16
    else:
        config.optim.ema_decay = 0.0 if family == "published" else 0.9
        config.model.projection, config.model.late_widths = 16, (16,)
    return config_lib.validate(config)


def swin_v2(rngs, **settings):
    """A Swin V2, its architecture and its compression by the names of their fields."""
    if "pretrained" in settings:  # as files of weights call it
        settings["pretrained_windows"] = settings.pop("pretrained")
    compression = {f.name for f in dataclasses.fields(swin.StageCompression)}
    inside = {name: value for name, value in settings.items() if name in compression}
    architecture = swin.Architecture(**{name: v for name, v in settings.items() if name not in compression})
    return swin.SwinV2(architecture, swin.StageCompression(**inside), rngs=rngs)
