"""Clips become samples and frames: wav, flac, mp3, mp4, mkv, … are decoded by PyAV, in processes of their own.

A clip that is missing, empty, damaged, cut short or without the stream asked for raises UserError naming it, and so
does one that ends its decoder.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_prep.encoders.decoders import ask
from data_prep.encoders.decoding import SLACK, Clip, Probed
from mer_jax.errors import UserError
from mer_jax.files import sha256_of

__all__ = ["SLACK", "Checked", "Clip", "Probed", "check", "filled", "frames", "library", "probe", "samples"]


@dataclasses.dataclass(frozen=True)
class Checked:
    """`check` found this: `sha256` of the whole recording, `key` of the clip's content, its length in seconds, and the
    samples of sound a second, 0 where that was not asked for."""

    sha256: str
    key: str
    seconds: float
    rate: int = 0


def check(clip: Clip, streams: tuple[str, ...]) -> Checked:
    """Reads all of the clip's packets, decoding none; `streams` are those that it must have, of audio and video. A file
    of many parts is read for the first of them."""
    sha256, (whole, rate) = _read_once(_read, clip, streams)
    if clip.start >= whole or (clip.end or 0.0) > whole + SLACK:
        raise UserError(f"{clip.name}: {clip.start} to {clip.end} s is asked for, it is {whole:.2f} s long")
    part = "" if clip.end is None else f" {clip.start!r} {clip.end!r}"
    part += f" {clip.half}" if clip.half else ""
    seconds = min(clip.end or whole, whole) - clip.start
    return Checked(sha256, hashlib.sha256((sha256 + part).encode()).hexdigest(), seconds, rate)


def probe(clip: Clip, streams: tuple[str, ...]) -> Probed:
    """Looks at the recording that the clip is a part of. Raises UserError for one that `check` refuses, but for streams
    that it lacks. A file of many parts is read for the first of them."""
    return _read_once(_probe, clip, streams)


Read = TypeVar("Read")


def _read_once(read: Callable[..., Read], clip: Clip, *arguments: Any) -> Read:
    """Returns `read(clip, *arguments)`, which looks at the whole recording; the answer serves the other parts of a
    file, too."""
    if isinstance(clip.source, Path) and clip.source.is_file():
        stat = clip.source.stat()
        return _cached(read, Clip(clip.name, clip.source), arguments, stat.st_mtime_ns, stat.st_size)
    return read(clip, *arguments)


@functools.lru_cache(maxsize=64)
def _cached(read: Callable[..., Any], clip: Clip, arguments: tuple[Any, ...], changed: int, size: int) -> Any:
    return read(clip, *arguments)


def _read(clip: Clip, streams: tuple[str, ...]) -> tuple[str, tuple[float, int]]:
    """Returns sha256, and (seconds, samples a second), of the whole recording."""
    return _sha256(clip), _ask("whole", clip, streams)[0]


def _probe(clip: Clip, streams: tuple[str, ...]) -> Probed:
    return Probed(*_ask("probe", clip, streams)[0])


def _shown(clip: Clip) -> tuple[float, float]:
    first, last = _ask("shown", clip)[0]
    return first, last


def _ask(do: str, clip: Clip, *arguments: Any) -> tuple[Any, list[np.ndarray]]:
    library()
    _refuse_empty(clip)
    return ask(do, clip, *arguments)


def samples(clip: Clip, rate: int, longest: float) -> np.ndarray:
    """Returns Float32[samples] in [-1, 1], mono, `rate` a second, `longest` seconds at most."""
    return _ask("samples", clip, rate, longest)[1][0]


def filled(samples: np.ndarray, least: float) -> np.ndarray:
    """Returns the samples with silence behind them, so that there are `least` of them."""
    return np.pad(samples, (0, max(0, round(least) - len(samples))))


def frames(clip: Clip, longest: float, *, count: int = 15, per_second: float | None = None) -> list[np.ndarray]:
    """Returns the frames shown in the middles of `count` equal parts of the clip, or of parts of 1/`per_second`
    seconds: UInt8[height, width, 3], RGB. A clip of fewer frames gives some of them several times."""
    return _ask("frames", clip, _read_once(_shown, clip), longest, count, per_second)[1]


def library() -> str:
    """Returns the version of PyAV. Raises UserError if there is none."""
    try:
        import av
    except ImportError:
        raise UserError("av is not installed: pip install -e '.[prep]'") from None
    return str(av.__version__)


def _sha256(clip: Clip) -> str:
    _refuse_empty(clip)
    return hashlib.sha256(clip.source).hexdigest() if isinstance(clip.source, bytes) else sha256_of(clip.source)


def _refuse_empty(clip: Clip) -> None:
    if isinstance(clip.source, Path) and not clip.source.is_file():
        raise UserError(f"{clip.name} does not exist (looked for {clip.source})")
    if not (len(clip.source) if isinstance(clip.source, bytes) else clip.source.stat().st_size):
        raise UserError(f"{clip.name} is empty")
