"""Clips become frames, or the faces in them: one vector each of an image encoder, or the pictures themselves."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL
from PIL import Image

from data_prep.encoders import faces as face
from data_prep.encoders import media, pretrained
from data_prep.encoders.media import Clip
from data_prep.encoders.pretrained import ANYWHERE, Placement
from data_prep.encoders.selection import HALF, Selection
from mer_jax.data.frames import EncodedFrames, encode_frames, middle_square
from mer_jax.errors import UserError

SAVED_TOGETHER = 8  # clips saved to the cache at a time
BATCH = 64  # frames
PICTURES = ("jpeg", "png")  # in place of an encoder's name: no encoder
QUALITY = 95  # of JPEG


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A clip's frames, Float32[frames, channels, height, width], as the model's image processor makes them, and how
    many of them are whole for want of a face."""

    pixels: np.ndarray
    without_face: int = 0

    def __len__(self) -> int:
        return len(self.pixels)


POOLED = Selection(layers=())  # the model's own output instead of hidden layers


class FrameEncoder:
    """ViT, Swin, CLIP's eye, … of transformers: Float16[frames, width].

    Without layers in the `selection` a frame's vector is the model's own pooled output, or the mean over the last
    layer's patches where the checkpoint has no trained pooler; with them the means over the patches of these hidden
    layers. The selection's pool is over the frames.
    """

    batch_size = SAVED_TOGETHER

    def __init__(
        self,
        name: str,
        selection: Selection = POOLED,
        *,
        frames: int = 15,
        per_second: float | None = None,
        faces: bool = False,
        longest: float = 30.0,
        placement: Placement = ANYWHERE,
    ):
        decoder, detector = media.library(), face.library() if faces else None
        # Pillow resizes alike wherever it is installed; torchvision, taken where there is one, does not.
        self._pretrained = pretrained.load("--visual-encoder", name, "AutoImageProcessor", placement, backend="pil")
        config = self._pretrained.model.config
        depth = len(getattr(config, "depths", ())) or config.num_hidden_layers
        layered = selection.layers != ()
        self.selection = selection.resolved("--visual-layers", name, depth) if layered else selection
        self.axis = self.selection.axis
        self.frames, self.per_second, self.longest = frames, per_second, longest
        self.tally = without_face if faces else None
        self.steps_per_second = per_second if selection.pool == "none" else None
        self.pooled = not layered and self._has_pooler()
        if layered:
            of = f"mean over the patches of {self.selection.layers_in_words(depth)}"
        else:
            of = "pooled output" if self.pooled else "mean over the last layer's patches"
        black = self._states(self._black())
        if layered and black.shape[1] < len(self.selection.layers or ()) and (selection.averaged or self.axis):
            raise UserError(f"--visual-layers: the layers of {name} differ in width: they can only lie side by side")
        self.width = self.selection.features(black).shape[1]
        often = often_in_words(frames, per_second)
        self.identity = self._pretrained.identity | (self.selection.identity() if layered else {})
        self.identity |= {"frame": of, "frames": often, "pooling": selection.identity()["pooling"], "longest": longest}
        self.identity |= {"av": decoder, **({"faces": detector} if detector else {})}
        over = "" if selection.pool == "none" else f", {selection.pool_in_words('frame')}"
        what = faces_in_words() if faces else ""
        self.extractor = f"{self.identity['name']}, {of}, {often}{what}{over}, frozen"

    def room(self, seconds: float) -> int:
        """Returns how many bytes the features of so many seconds take."""
        return self.selection.steps(frames_in(self, seconds)) * self.width * HALF

    def prepare(self, clip: Clip) -> Prepared:
        images, without = taken(self, clip)
        return Prepared(self._pixels(images), without)

    def encode(self, prepared: list[Prepared]) -> list[np.ndarray]:
        pixels = np.concatenate([p.pixels for p in prepared])
        states = np.concatenate([self._states(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)])
        ends = list(itertools.accumulate(len(p.pixels) for p in prepared))
        return [self.selection.features(s) for s in np.split(states, ends[:-1])]

    def _pixels(self, images: Sequence[np.ndarray]) -> np.ndarray:
        made = self._pretrained.processor(images=images, return_tensors="np")
        return np.asarray(made["pixel_values"], np.float32)

    def _black(self) -> np.ndarray:
        return self._pixels([np.zeros((64, 64, 3), np.uint8)])

    def _has_pooler(self) -> bool:
        with self._pretrained.computing():
            found = self._pretrained.model(**self._pretrained.on_device({"pixel_values": self._black()}))
        trained = not any("pooler" in key for key in self._pretrained.missing)
        return trained and getattr(found, "pooler_output", None) is not None

    def _states(self, pixels: np.ndarray) -> np.ndarray:
        """Returns Float32[frames, layers, width]."""
        import torch

        layers = self.selection.layers
        with self._pretrained.computing():
            inputs = self._pretrained.on_device({"pixel_values": pixels})
            found = self._pretrained.model(**inputs, output_hidden_states=bool(layers))
            if layers:
                each = [_over_patches(found.hidden_states[layer]) for layer in layers]
                alike = len({x.shape for x in each}) == 1
                states = torch.stack(each, 1) if alike else torch.cat(each, -1)[:, None]  # Swin's grow wider
            else:
                one = found.pooler_output.flatten(1) if self.pooled else _over_patches(found.last_hidden_state)
                states = one[:, None]
            return states.float().cpu().numpy()


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A clip's frames, and how many of them are whole for want of a face."""

    frames: EncodedFrames
    without_face: int = 0

    def __len__(self) -> int:
        return len(self.frames)


class FrameCoder:
    """The frames themselves: of each the largest square in the middle (of the face, too), [size, size] pixels."""

    batch_size, axis = SAVED_TOGETHER, ()

    def __init__(
        self,
        coding: str,
        size: int,
        *,
        frames: int = 15,
        per_second: float | None = None,
        faces: bool = False,
        longest: float = 30.0,
    ):
        decoder, detector = media.library(), face.library() if faces else None
        self.coding, self.size, self.frames, self.per_second, self.longest = coding, size, frames, per_second, longest
        self.tally = without_face if faces else None
        self.steps_per_second = per_second
        often = often_in_words(frames, per_second)
        kind = f"JPEG of quality {QUALITY}" if coding == "jpeg" else "PNG"
        what = f", cut to the largest face ({face.CASCADE}; whole where none is found)" if faces else ""
        self.identity = {
            "name": kind,
            "size": size,
            "frames": often,
            "longest": longest,
            "av": decoder,
            "pillow": PIL.__version__,
            **({"faces": detector} if detector else {}),
        }
        self.extractor = f"{often} as {kind}, {size} x {size} pixels{what}"

    def room(self, seconds: float) -> int:
        """Returns 0: how many bytes pictures take is not known before they are made."""
        return 0

    def prepare(self, clip: Clip) -> Pictures:
        images, without = taken(self, clip)
        return Pictures(encode_frames([_square(image, self.size) for image in images], self.coding, QUALITY), without)

    def encode(self, prepared: list[Pictures]) -> list[np.ndarray]:
        """Returns what the cache holds of each, UInt8[bytes]; see `restored`."""
        found = []
        for pictures in prepared:
            sizes = np.array([len(pictures.frames), *map(len, pictures.frames.data)], "<i8")
            found.append(np.frombuffer(sizes.tobytes() + b"".join(pictures.frames.data), np.uint8))
        return found

    def restored(self, saved: np.ndarray) -> EncodedFrames:
        raw = saved.tobytes()
        count = int(np.frombuffer(raw, "<i8", 1)[0])
        sizes = np.frombuffer(raw, "<i8", count, 8)
        ends = 8 + 8 * count + np.cumsum(sizes)
        data = tuple(raw[end - size : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True))
        return EncodedFrames(self.coding, self.size, self.size, data)


def frames_in(by: Any, seconds: float) -> int:
    """Returns how many frames an encoder takes of a clip of so many seconds."""
    return math.ceil(seconds * by.per_second) if by.per_second else by.frames


def faces_in_words() -> str:
    return f", each cut to its largest face ({face.CASCADE}; whole where none is found)"


def often_in_words(frames: int, per_second: float | None) -> str:
    return f"{per_second:g} frames a second" if per_second else f"{frames} frames evenly spread"


def taken(by: Any, clip: Clip) -> tuple[Sequence[np.ndarray], int]:
    """Returns the clip's frames, cut to their faces if the encoder asks for it, and how many of them have none."""
    images = media.frames(clip, by.longest, count=by.frames, per_second=by.per_second)
    return face.cropped(images) if by.tally else (images, 0)


def _square(image: np.ndarray, size: int) -> np.ndarray:
    side, left, top = middle_square(*image.shape[:2])
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box))


def without_face(prepared: Any) -> tuple[int, int]:
    """Returns how many frames show no face, of how many."""
    return prepared.without_face, len(prepared)


def _over_patches(states):  # type: ignore[no-untyped-def]
    """Averages [frames, patches, width], or a convolutional net's [frames, width, rows, columns], to [frames,
    width]."""
    return states.mean(1) if states.ndim == 3 else states.mean((2, 3))
