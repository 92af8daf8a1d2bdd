"""TODO: say what lives here."""

import dataclasses
from collections.abc import Callable
from typing import Any

from mer_jax import config as config_lib
from mer_jax.config import _require
from mer_jax.models import deepmsi_mer as deepmsi_mer_lib
from mer_jax.models import pretrained, swin
from mer_jax.models.deepmsi_mer import DeepMSIExperiment, DeepMSISettings


@dataclasses.dataclass
class FrameAugmentation:
    """What the backbone sees of the frames in the records. While training a clip's frames are all varied alike."""

    size: int = 256  # pixels along a side
    crop: float = 0.7  # least share of the square's area that is cut out; 1 = always the largest square in the middle
    flip: float = 0.5  # share of clips that are mirrored
    colour: float = 0.2  # brightness, contrast and saturation change by up to this share


@dataclasses.dataclass
class BackboneSettings:
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
class DeepMSIFramesExperiment(DeepMSIExperiment):
    """DeepMSI-MER end to end from frames: of `model`, `keep` is of no use here, the backbone's `sides` say what is kept."""

    experiment: str = "deepmsi_mer_frames"
    frames: FrameAugmentation = dataclasses.field(default_factory=FrameAugmentation)
    backbone: BackboneSettings = dataclasses.field(default_factory=BackboneSettings)


def _validate_frames(config: DeepMSIFramesExperiment) -> None:
    backbone, size = config.backbone, config.frames.size
    _require(config.model.keep == DeepMSISettings.keep, "model.keep", config.model.keep, "left alone with frames: backbone.sides says what is kept")  # fmt: skip
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


def tuned_stages(backbone: BackboneSettings) -> range | None:
    """Which stages learn, from -1, the patches, on; None if `tune` is no choice."""
    stages = len(backbone.depths)
    if backbone.tune in ("all", "none"):
        return range(-1 if backbone.tune == "all" else stages, stages)
    word, _, count = backbone.tune.partition(":")
    good = word == "last" and count.isdigit() and 1 <= int(count) <= stages
    return range(stages - int(count), stages) if good else None


def is_frozen(config: deepmsi_mer_lib.DeepMSIExperiment) -> Callable[[tuple[str, ...]], bool]:
    """Which parameters do not learn, by path."""
    if not isinstance(config, DeepMSIFramesExperiment):
        return lambda path: False
    learns, depths = tuned_stages(config.backbone) or range(0), config.backbone.depths
    return lambda path: path[0] == "backbone" and swin.layer_of(path[1:], depths)[0] not in learns


def factor_of(config: config_lib.Experiment) -> Callable[[tuple[str, ...]], float] | None:
    """Of a parameter's learning rate, by path; None if all have the same."""
    if not isinstance(config, DeepMSIFramesExperiment):
        return None
    backbone = config.backbone
    if backbone.rate == backbone.layer_decay == 1:
        return None

    def factor(path: tuple[str, ...]) -> float:
        if path[0] != "backbone":
            return 1.0
        layer = swin.layer_of(path[1:], backbone.depths)[1]
        return backbone.rate * backbone.layer_decay ** (sum(backbone.depths) - layer)

    return factor


def start_of(config: config_lib.Experiment) -> dict[str, Any]:
    """The arrays that a new model does not draw."""
    if not isinstance(config, DeepMSIFramesExperiment) or not config.backbone.weights:
        return {}
    return {"backbone": pretrained.nested(pretrained.read(config.backbone.weights))}


def backbone_arguments(config: DeepMSIFramesExperiment) -> dict[str, Any]:
    """Of swin.SwinV2, without the numbers of VSC."""
    found = dict(vars(config.backbone))
    for name in ("weights", "tune", "rate", "layer_decay"):
        del found[name]
    found["stage"] -= 1
    if not config.model.vsc:
        found["sides"] = ()
    if config.backbone.weights:
        found["pretrained"] = pretrained.arguments_of(config.backbone.weights)["pretrained"]
    learns = tuned_stages(config.backbone) or range(len(config.backbone.depths), 0)
    return found | {"published": config.model.variant == "published", "still": max(0, learns.start)}
