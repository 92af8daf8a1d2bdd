"""Frames are cut to their largest face, which OpenCV's Haar cascade finds; its weights come with the package.

It finds upright faces that look at the camera, and little else: profiles, bowed and half-hidden faces are missed. A
frame without a found face stays whole; how many there are is counted.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError
from mer_jax.files import sha256_of

CASCADE = "haarcascade_frontalface_alt2.xml"
SIDE = 360  # pixels of the shorter side of what is searched; larger frames are shrunk
LEAST = 0.1  # of the shorter side; smaller faces are not looked for
MARGIN = 0.25  # of the found square's side, added on each side: the cascade's square ends at brows and chin
_OF_THREAD = threading.local()  # a cascade cannot be used by two threads at a time


def library() -> dict[str, Any]:
    """Returns what tells one face detector from another. Raises UserError if there is none."""
    try:
        import cv2
    except ImportError:
        raise UserError("--faces: OpenCV is not installed: pip install -e '.[prep]'") from None
    try:
        weights = sha256_of(_path())
    except OSError:
        raise UserError(
            f"--faces: OpenCV {cv2.__version__} brings no {CASCADE}; pip install 'opencv-python-headless<5'"
        ) from None
    return {"detector": CASCADE, "weights_sha256": weights, "opencv": cv2.__version__, "margin": MARGIN, "least": LEAST}


def cropped(images: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Cuts images, UInt8[height, width, 3], to their largest face and its surroundings; returns how many have none,
    too."""
    once = {id(image): image for image in images}
    squares = {key: largest(image) for key, image in once.items()}
    found = [image if (s := squares[id(image)]) is None else image[s] for image in images]
    return found, sum(squares[id(image)] is None for image in images)


def largest(image: np.ndarray) -> tuple[slice, slice] | None:
    """Returns rows and columns of the largest face with its margin, as far as it is in the image."""
    import cv2

    height, width = image.shape[:2]
    scale = min(1.0, SIDE / min(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    least = max(1, round(LEAST * min(size)))
    found = _cascade().detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(least, least))
    if not len(found):
        return None
    x, y, side, _ = max(map(tuple, np.asarray(found) / scale), key=lambda box: (box[2], box))
    margin = MARGIN * side
    rows, columns = ((max(0, round(at - margin)), round(at + side + margin)) for at in (y, x))
    return slice(*rows), slice(*columns)


def _path() -> Path:
    import cv2

    return Path(getattr(getattr(cv2, "data", None), "haarcascades", "")) / CASCADE


def _cascade() -> Any:
    import cv2

    if not hasattr(_OF_THREAD, "cascade"):
        _OF_THREAD.cascade = cv2.CascadeClassifier(str(_path()))
    return _OF_THREAD.cascade
