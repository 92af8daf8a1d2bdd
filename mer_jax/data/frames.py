"""Frames of a clip as they lie in a record, and as a model sees them: decoded, cut, and while training varied. No JAX.

All frames of a clip are cut, mirrored and coloured alike, so that what moves is what moved.
"""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

CODINGS = ("jpeg", "png", "uint8")  # of a frame: a JPEG file, a PNG file, or its bytes
GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# What public image backbones were trained with: ImageNet's mean and standard deviation, of values from 0 to 255.
MEAN, SCALE = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])


@dataclasses.dataclass(frozen=True)
class EncodedFrames:
    """An utterance's frames, RGB, all [height, width]; `data` holds one `coding` of each."""

    coding: str
    height: int
    width: int
    data: tuple[bytes | memoryview, ...] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, steps: slice) -> "EncodedFrames":
        return dataclasses.replace(self, data=self.data[steps])

    def image(self, i: int) -> Image.Image:
        """Frame i; raises ValueError saying what is wrong with it."""
        if self.coding == "uint8":
            if len(self.data[i]) != 3 * self.height * self.width:
                raise ValueError(f"frame {i} has {len(self.data[i])} bytes, not {self.height} x {self.width} x 3")
            return Image.fromarray(np.frombuffer(self.data[i], np.uint8).reshape(self.height, self.width, 3))
        found = self.open_image(i)
        try:
            found.load()
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"frame {i} is no whole {self.coding} ({error})") from None
        return found if found.mode == "RGB" else found.convert("RGB")

    def open_image(self, i: int) -> Image.Image:
        """Frame i, a file, of which only the head has been read; raises ValueError if that is not of such a frame."""
        try:
            found = Image.open(io.BytesIO(self.data[i]), formats=(self.coding,))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"frame {i} is no {self.coding} ({error})") from None
        if found.size != (self.width, self.height):
            raise ValueError(f"frame {i} is {found.height} x {found.width} pixels, not {self.height} x {self.width}")
        return found

    def check(self) -> None:
        """Looks at every frame without decoding it; raises ValueError if one cannot be of these frames."""
        for i in range(len(self)):
            _ = self.image(i) if self.coding == "uint8" else self.open_image(i)


def middle_square(height: int, width: int) -> tuple[int, float, float]:
    """(side, left, top) of the largest square in the middle, in pixels."""
    side = min(height, width)
    return side, (width - side) / 2, (height - side) / 2


def decode_frames(frames: EncodedFrames) -> UInt8[np.ndarray, "time height width 3"]:
    """Raises ValueError if a frame cannot be decoded."""
    return np.stack([np.asarray(frames.image(i)) for i in range(len(frames))])


def thumbnails(frames: EncodedFrames) -> UInt8[np.ndarray, "time 48"]:
    """Every frame as 4 x 4 pixels; raises ValueError if one cannot be decoded."""
    small = [np.asarray(frames.image(i).resize((4, 4), Image.Resampling.BOX)) for i in range(len(frames))]
    return np.stack(small).reshape(len(frames), 48)


def encode_frames(
    images: Sequence[UInt8[np.ndarray, "height width 3"]], coding: str, quality: int = 95
) -> EncodedFrames:
    """Images of one size -> EncodedFrames; `quality` is JPEG's, whose colours keep their full resolution."""
    height, width = images[0].shape[:2]
    data = []
    for image in images:
        if coding == "uint8":
            data.append(np.ascontiguousarray(image).tobytes())
            continue
        file = io.BytesIO()
        options = {"quality": quality, "subsampling": 0} if coding == "jpeg" else {}
        Image.fromarray(image).save(file, coding, **options)
        data.append(file.getvalue())
    return EncodedFrames(coding, height, width, tuple(data))


@dataclasses.dataclass(frozen=True)
class View:
    """How a model sees frames: [size, size] pixels, the largest square in the middle.

    While training it is a square of at least the share `crop` of that area, anywhere, unless that is 1; it is mirrored
    with probability `flip`; brightness, contrast and saturation are each multiplied by 1 - `colour` to 1 + `colour`.
    """

    size: int
    crop: float
    flip: float
    colour: float

    def apply(
        self, frames: EncodedFrames, rng: np.random.Generator | None = None
    ) -> UInt8[np.ndarray, "time size size 3"]:
        """rng: of a training step; without it nothing is drawn. Raises ValueError if a frame cannot be decoded."""
        full_side, left, top = middle_square(frames.height, frames.width)
        side = float(full_side)
        mirrored, matrix = False, None
        if rng is not None:
            if self.crop < 1:
                side = full_side * np.sqrt(rng.uniform(self.crop, 1))
                left, top = rng.uniform(0, frames.width - side), rng.uniform(0, frames.height - side)
            mirrored = bool(rng.random() < self.flip)
            if self.colour:
                matrix = colour_matrix(*rng.uniform(1 - self.colour, 1 + self.colour, 3))
        out = np.empty((len(frames), self.size, self.size, 3), np.uint8)
        for i in range(len(frames)):
            image = frames.image(i)
            if (side, frames.height, frames.width) != (self.size,) * 3:
                box = (left, top, left + side, top + side)
                image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
            if mirrored:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            out[i] = np.asarray(image if matrix is None else image.convert("RGB", matrix))
        return out


def colour_matrix(brightness: float, contrast: float, saturation: float) -> tuple[float, ...]:
    """Pillow's 3 x 4 matrix: saturation about a pixel's grey, then contrast about middle grey, then brightness."""
    turned = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * GREY)
    offset = np.full((3, 1), brightness * (1 - contrast) * 127.5)
    return tuple(np.concatenate([turned, offset], axis=1).ravel().tolist())
