"""DeepMSI-MER end to end from frames: a Swin V2 reads them, and VSC compresses its tokens in one stage."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import nnx

from mer_jax.config import require
from mer_jax.data.corpus import Manifest
from mer_jax.models import deepmsi_mer, family, pretrained, swin
from mer_jax.models.deepmsi_mer import DeepMSIExperiment, DeepMSISettings, VisualInput
from mer_jax.settings import group, setting
from mer_jax.tasks import Task

SENTENCE = (
    "DeepMSI-MER from frames (arXiv 2502.08573): text and audio guide the compression of tokens inside a Swin V2, a"
    " temporal convolutional network reads the frames, and a contrastive loss aligns the modalities"
)


@dataclasses.dataclass
class FrameAugmentation:
    """What the backbone sees of the frames in the records. While training, a clip's frames are all varied alike."""

    size: int = setting(256, at_least=1)  # pixels along a side
    # Least share of the square's area that is cut out; 1 = always the largest square in the middle.
    crop: float = setting(0.7, at_least=0.01, at_most=1)
    flip: float = setting(0.5, at_least=0, at_most=1)  # share of clips that are mirrored
    colour: float = setting(0.2, below=1)  # brightness, contrast and saturation change by up to this share


@dataclasses.dataclass
class BackboneSettings:
    """The Swin V2 that reads frames, with DeepMSI-MER's compression in one of its stages; published sizes."""

    patch: int = setting(4, at_least=1)  # pixels along a side
    # Of the first stage; every further one is twice as wide and has a quarter of the tokens.
    width: int = setting(96, at_least=1)
    depths: tuple[int, ...] = (2, 2, 6, 2)  # blocks of each stage
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = setting(8, at_least=1)  # tokens along a side, at most
    mlp: int = setting(4, at_least=1)
    drop_path: float = setting(0.2, below=1)  # of the last block, growing evenly from 0
    # Merging: the norm before the product, as in DeepMSI-MER; False = after it, as in public Swin V2.
    norm_first: bool = True
    vsc_stage: int = setting(3, at_least=1)  # in which VSC compresses, from 1; on only with model.vsc
    vsc_grid_sides: tuple[int, ...] = (14, 12, 10)  # of the square of tokens kept by blocks 1, 3, 5 … of that stage
    weights: str = ""  # start from these, a file of `python -m data_prep.swin`; empty = from scratch
    trainable_stages: str = "all"  # all | none | last:K
    lr_scale: float = setting(1.0, above=0)  # factor on optim.learning_rate for the last block …
    layer_decay: float = setting(1.0, above=0, at_most=1)  # … and for every block below it this times the one above
    # Compute blocks again in the backward pass, for less memory (not on a CPU, where XLA undoes it).
    rematerialize: bool = True
    # Frames computed together, one such group after the other, and again in the backward pass; 0 = all.
    frames_per_group: int = setting(0, at_least=0)


@dataclasses.dataclass
class DeepMSIFramesExperiment(DeepMSIExperiment):
    """DeepMSI-MER from frames. `model.keep` is of no use here: `backbone.vsc_grid_sides` says what is kept."""

    experiment: str = "deepmsi_mer_frames"
    frames: FrameAugmentation = group(FrameAugmentation)
    backbone: BackboneSettings = group(BackboneSettings)

    def frame_augmentation(self) -> FrameAugmentation:
        return self.frames

    def for_export(self) -> Any:
        changed = super().for_export()
        changed.backbone.frames_per_group, changed.backbone.rematerialize = 0, False
        return changed

    def files(self) -> dict[str, str]:
        return {"weights": self.backbone.weights} if self.backbone.weights else {}

    def check(self) -> None:
        super().check()
        backbone, keep, names = self.backbone, self.model.keep, self.data.modalities
        same = "left alone with frames: backbone.vsc_grid_sides says what is kept"
        require(keep == DeepMSISettings.keep, "model.keep", keep, same)
        require("visual" in names, "data.modalities", ",".join(names), "with visual")
        streamed = "auto or stream: frames are decoded as they are read"
        require(self.data.placement != "resident", "data.placement", "resident", streamed)
        stages = len(backbone.depths)
        positive = stages > 0 and min(backbone.depths) > 0
        require(positive, "backbone.depths", backbone.depths, "one or more positive numbers")
        widths = [backbone.width * 2**i for i in range(stages)]
        divides = len(backbone.heads) == stages and all(
            heads > 0 and width % heads == 0 for width, heads in zip(widths, backbone.heads, strict=True)
        )
        each = "a number for each stage that divides its width, " + ", ".join(map(str, widths))
        require(divides, "backbone.heads", backbone.heads, each)
        known = trainable_stages(backbone) is not None
        choices = f"all, none, or last:K with K from 1 to {stages}"
        require(known, "backbone.trainable_stages", backbone.trainable_stages, choices)
        patches = f"a multiple of backbone.patch = {backbone.patch}"
        require(self.frames.size % backbone.patch == 0, "frames.size", self.frames.size, patches)
        if self.model.variant == "published":
            scratch = "empty with model.variant=published: public Swin V2 has no bias on keys and no norm behind VSC"
            require(not backbone.weights, "backbone.weights", backbone.weights, scratch)
        if self.model.vsc:
            self._check_compression()

    def _check_compression(self) -> None:
        stage, sides, stages = self.backbone.vsc_stage, self.backbone.vsc_grid_sides, len(self.backbone.depths)
        require(stage <= stages, "backbone.vsc_stage", stage, f"from 1 to {stages}, the number of stages")
        most, side = -(-self.backbone.depths[stage - 1] // 2), compressed_grid(self)
        falling = list(sides) == sorted(sides, reverse=True) and all(0 < s <= side for s in sides)
        numbers = (
            f"one to {most} numbers (one for every second block of stage {stage}) that do not grow, at most {side}:"
            f" that stage's grid at frames.size={self.frames.size}; or model.vsc=False"
        )
        require(0 < len(sides) <= most and falling, "backbone.vsc_grid_sides", sides, numbers)

    def check_corpus(self, corpus: Any) -> None:
        super().check_corpus(corpus)
        if self.backbone.weights:
            backbone = vars(self.backbone)
            fixed = ("patch", "width", "depths", "heads", "mlp", "norm_first")
            pretrained.check(self.backbone.weights, {name: backbone[name] for name in fixed})


def compressed_grid(config: DeepMSIFramesExperiment) -> int:
    """Tokens along a side of a frame where VSC begins."""
    return grid_sides(config)[config.backbone.vsc_stage - 1]


def undivided_grids(config: DeepMSIFramesExperiment) -> dict[int, int]:
    """Of the stages, by number from 1, whose grid is larger than a window and not divided by it: tokens along a side.
    As far as frames.size decides it: after VSC `backbone.vsc_grid_sides` does."""
    backbone = config.backbone
    last = backbone.vsc_stage if config.model.vsc else len(backbone.depths)
    sides = enumerate(grid_sides(config)[:last], 1)
    return {stage: side for stage, side in sides if side > backbone.window and side % backbone.window}


def grid_sides(config: DeepMSIFramesExperiment) -> list[int]:
    """Tokens along a side of a frame in each stage, without VSC."""
    side = config.frames.size // config.backbone.patch
    return [-(-side // 2**stage) for stage in range(len(config.backbone.depths))]


def trainable_stages(backbone: BackboneSettings) -> range | None:
    """Which stages learn, from -1, the patches, on; None if `trainable_stages` is no choice."""
    stages = len(backbone.depths)
    if backbone.trainable_stages in ("all", "none"):
        return range(-1 if backbone.trainable_stages == "all" else stages, stages)
    word, _, count = backbone.trainable_stages.partition(":")
    good = word == "last" and count.isdigit() and 1 <= int(count) <= stages
    return range(stages - int(count), stages) if good else None


def is_frozen(config: DeepMSIFramesExperiment) -> Callable[[family.Path], bool]:
    """Which parameters do not learn, by path."""
    learns, depths = trainable_stages(config.backbone) or range(0), config.backbone.depths
    return lambda path: path[0] == "backbone" and swin.layer_of(path[1:], depths)[0] not in learns


def lr_factor(config: DeepMSIFramesExperiment) -> Callable[[family.Path], float] | None:
    """The factor on a parameter's learning rate, by path; None if all have the same rate."""
    backbone = config.backbone
    if backbone.lr_scale == backbone.layer_decay == 1:
        return None

    def factor(path: family.Path) -> float:
        if path[0] != "backbone":
            return 1.0
        layer = swin.layer_of(path[1:], backbone.depths)[1]
        return backbone.lr_scale * backbone.layer_decay ** (sum(backbone.depths) - layer)

    return factor


def backbone_of(config: DeepMSIFramesExperiment) -> Callable[[nnx.Rngs], swin.SwinV2]:
    """Makes the Swin V2 of the config, whose swept fields may hold arrays."""
    settings, model = config.backbone, config.model
    learns = trainable_stages(settings) or range(len(settings.depths), 0)
    architecture = swin.Architecture(
        patch=settings.patch,
        width=settings.width,
        depths=settings.depths,
        heads=settings.heads,
        window=settings.window,
        mlp=settings.mlp,
        drop_path=settings.drop_path,
        norm_first=settings.norm_first,
        pretrained_windows=pretrained.arguments_of(settings.weights)["pretrained"] if settings.weights else (),
        rematerialize=settings.rematerialize,
        frames_per_group=settings.frames_per_group,
        frozen_stages=max(0, learns.start),
        published=model.variant == "published",
    )
    compression = swin.StageCompression(
        stage=settings.vsc_stage - 1,
        grid_sides=settings.vsc_grid_sides if model.vsc else (),
        threshold=model.threshold,
        alpha=model.alpha,
    )
    return lambda rngs: swin.SwinV2(architecture, compression, rngs=rngs)


def build(config: DeepMSIFramesExperiment, manifest: Manifest, task: Task) -> family.Family:
    """DeepMSI-MER for a corpus of frames."""
    weights = config.backbone.weights
    return deepmsi_mer.build_with(
        config,
        manifest,
        task,
        lambda config: VisualInput(backbone=backbone_of(config)),
        sentence=SENTENCE,
        frozen=is_frozen(config),
        lr_factor=lr_factor(config),
        start={"backbone": pretrained.nested(pretrained.read(weights))} if weights else {},
        notes=tuple(notes_on(config)),
    )


def notes_on(config: DeepMSIFramesExperiment) -> list[str]:
    """What a person should know before training."""
    backbone, found = config.backbone, []
    if backbone.trainable_stages != "all" and not backbone.weights:
        found.append(
            f"note: backbone.trainable_stages={backbone.trainable_stages} without backbone.weights: what does not learn"
            " is random"
        )
    if backbone.weights and (grids := undivided_grids(config)):
        found.append(
            f"note: windows of {backbone.window} do not divide the grids of frames.size = {config.frames.size} in stage"
            f" {', '.join(map(str, grids))} ({', '.join(map(str, grids.values()))} tokens a side) and are made smaller:"
            " features are not those of transformers from the same weights"
        )
    return found
