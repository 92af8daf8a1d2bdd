"""Clips are decoded to samples and frames by PyAV (FFmpeg's libraries): wav, flac, mp3, mp4, mkv, …

A clip that is missing, empty, damaged, cut short or without the stream asked for raises UserError naming it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mer_jax.errors import UserError
from mer_jax.files import sha256_of

# Containers round their duration, and an edit list may trim a little; a file cut short usually lacks far more.
SLACK, SLACK_SHARE = 0.5, 0.05  # seconds, share of the duration
PREROLL = 1.0  # seconds decoded before the part asked for: lossy audio codecs need some to settle after a seek


@dataclasses.dataclass(frozen=True)
class Clip:
    """A recording, as a file or its bytes, or the part of it from `start` to `end`, in seconds; messages call it
    `name`. Its pictures are taken whole, or the `half` of them: left, right."""

    name: str
    source: Path | bytes = dataclasses.field(repr=False)
    start: float = 0.0
    end: float | None = None
    half: str = ""


@dataclasses.dataclass(frozen=True)
class Checked:
    """`check` found this: `sha256` of the whole recording, `key` of the clip's content, its length in seconds."""

    sha256: str
    key: str
    seconds: float


def check(clip: Clip, streams: tuple[str, ...]) -> Checked:
    """Reads all of the clip's packets, decoding none; `streams` are those that it must have, of audio and video. A file
    of many parts is read for the first of them."""
    sha256, whole = _read_once(_read, clip, streams)
    if clip.start >= whole or (clip.end or 0.0) > whole + SLACK:
        raise UserError(f"{clip.name}: {clip.start} to {clip.end} s is asked for, it is {whole:.2f} s long")
    part = "" if clip.end is None else f" {clip.start!r} {clip.end!r}"
    part += f" {clip.half}" if clip.half else ""
    seconds = min(clip.end or whole, whole) - clip.start
    return Checked(sha256, hashlib.sha256((sha256 + part).encode()).hexdigest(), seconds)


@dataclasses.dataclass(frozen=True)
class Probed:
    """A whole recording has so many seconds, `rate` samples of sound a second, 0 if it has no sound, and maybe
    `pictures`."""

    seconds: float
    rate: int
    pictures: bool


def probe(clip: Clip, streams: tuple[str, ...]) -> Probed:
    """Looks at the recording that the clip is a part of. Raises UserError for one that `check` refuses, but for streams
    that it lacks. A file of many parts is read for the first of them."""
    return _read_once(_probe, clip, streams)


def _probe(clip: Clip, streams: tuple[str, ...]) -> Probed:
    _refuse_empty(clip)
    with _opened(clip) as container:
        there = {kind: stream for kind in ("audio", "video") if (stream := _first(container, kind))}
        rate = there["audio"].rate if "audio" in there else 0
    if not there:
        raise UserError(f"{clip.name} has neither sound nor pictures")
    wanted = tuple(kind for kind in streams if kind in there) or tuple(there)
    return Probed(_whole(clip, wanted), rate, "video" in there)


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


def _read(clip: Clip, streams: tuple[str, ...]) -> tuple[str, float]:
    """Returns (sha256, seconds) of the whole recording."""
    return _sha256(clip), _whole(clip, streams)


def _whole(clip: Clip, streams: tuple[str, ...]) -> float:
    """Returns its seconds. Raises UserError unless it has these streams, none of them cut short."""
    _refuse_short_wav(clip)
    with _opened(clip) as container:
        wanted = [_stream(container, clip, kind) for kind in streams]
        span = _span(container, *wanted)
        for kind, stream in zip(streams, wanted, strict=True):
            if stream not in span:
                raise UserError(f"{clip.name}: its {kind} stream is empty")
            first, last = span[stream]
            announced = float(stream.duration * stream.time_base) if stream.duration else 0.0
            if last - first < announced - max(SLACK, SLACK_SHARE * announced):
                raise UserError(
                    f"{clip.name}: {kind} ends after {last - first:.2f} s, its header says {announced:.2f} s: "
                    "it is truncated or damaged"
                )
        return max((last for _, last in span.values()), default=0.0) - _origin(container)


def _shown(clip: Clip) -> tuple[float, float]:
    """Returns when the recording's first picture appears and the last one ends, in seconds."""
    with _opened(clip) as container:
        stream = _stream(container, clip, "video")
        span = _span(container, stream)
        if stream not in span:
            raise UserError(f"{clip.name}: its video stream is empty")
        return span[stream]


def samples(clip: Clip, rate: int, longest: float) -> np.ndarray:
    """Returns Float32[samples] in [-1, 1], mono, `rate` a second, `longest` seconds at most."""
    import av

    with _opened(clip) as container:
        stream = _stream(container, clip, "audio")
        _seek(container, stream, clip)
        resampler = av.AudioResampler(format="fltp", rate=rate)
        end = _end(clip, longest)
        parts: list[np.ndarray] = []  # the channels' mean: FFmpeg's own mono adds some of them up, and overflows
        began = None
        for frame in container.decode(stream):
            at = (frame.time or 0.0) - _origin(container)
            if began is None:
                began = at
            elif at >= end + PREROLL:
                break
            parts += [part.to_ndarray().mean(0) for part in resampler.resample(frame)]
        if began is None:
            raise UserError(f"{clip.name}: its audio stream is empty")
        parts += [part.to_ndarray().mean(0) for part in resampler.resample(None)]
    # A recording whose sound sets in late is not filled up: only a part of it must begin where it says.
    skip = max(0, round((clip.start - began) * rate)) if clip.start else 0
    found = np.concatenate(parts)[skip : skip + round((end - clip.start) * rate)]
    if not len(found):
        raise UserError(f"{clip.name}: its audio stream is empty")
    return found


def frames(clip: Clip, longest: float, *, count: int = 15, per_second: float | None = None) -> list[np.ndarray]:
    """Returns the frames shown in the middles of `count` equal parts of the clip, or of parts of 1/`per_second`
    seconds: UInt8[height, width, 3], RGB. A clip of fewer frames gives some of them several times."""
    first, last = _read_once(_shown, clip)
    with _opened(clip) as container:
        stream = _stream(container, clip, "video")
        _seek(container, stream, clip)
        origin = _origin(container)
        begin = max(clip.start, first - origin)
        length = min(_end(clip, longest), last - origin) - begin
        parts = count if per_second is None else max(1, round(length * per_second))
        wanted = deque(begin + (np.arange(parts) + 0.5) * length / parts)
        chosen: list[Any] = []
        shown = None
        for number, frame in enumerate(container.decode(stream)):
            time = number / float(stream.average_rate or 25) if frame.time is None else frame.time - origin
            while wanted and time > wanted[0] + 1e-6:
                chosen.append(shown or frame)
                wanted.popleft()
            if not wanted:
                break
            shown = frame
        chosen += [shown] * len(wanted)
        if chosen[0] is None:
            raise UserError(f"{clip.name}: none of its frames can be decoded")
        images: dict[int, np.ndarray] = {}
        for frame in chosen:
            if id(frame) not in images:
                upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)  # phones film sideways
                images[id(frame)] = np.ascontiguousarray(_half(upright, clip.half))
        return [images[id(frame)] for frame in chosen]


def _half(image: np.ndarray, half: str) -> np.ndarray:
    middle = image.shape[1] // 2
    return image[:, :middle] if half == "left" else image[:, middle:] if half == "right" else image


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


def _refuse_short_wav(clip: Clip) -> None:
    """FFmpeg takes a wav's length from the file, not from the header: one cut short would go through as a short
    clip."""
    if isinstance(clip.source, bytes):
        head, size = clip.source[:12], len(clip.source)
    else:
        size = clip.source.stat().st_size
        with open(clip.source, "rb") as file:
            head = file.read(12)
    announced = int.from_bytes(head[4:8], "little") + 8
    streamed = announced >= 0xFFFFFFFF  # a writer that could not go back to fill it in
    if head[:4] == b"RIFF" and head[8:] == b"WAVE" and size < announced and not streamed:
        raise UserError(f"{clip.name}: it has {size} bytes, its header says {announced}: it is truncated")


@contextlib.contextmanager
def _opened(clip: Clip) -> Iterator[Any]:
    library()
    import av

    source = io.BytesIO(clip.source) if isinstance(clip.source, bytes) else str(clip.source)
    try:
        with av.open(source, metadata_errors="ignore") as container:
            yield container
    except UserError:
        raise
    except (av.error.FFmpegError, ValueError) as error:  # ValueError: what is in the stream changes on the way
        raise UserError(f"{clip.name} cannot be decoded: {getattr(error, 'strerror', None) or error}") from None


def _stream(container: Any, clip: Clip, kind: str) -> Any:
    found = _first(container, kind)
    if found is None:
        raise UserError(f"{clip.name} has no {kind} stream")
    return found


def _first(container: Any, kind: str) -> Any:
    """Returns the container's first stream of a kind; the cover of an album is no film."""
    import av.stream

    cover = av.stream.Disposition.attached_pic
    return next((s for s in getattr(container.streams, kind) if not s.disposition & cover), None)


def _span(container: Any, *streams: Any) -> dict[Any, tuple[float, float]]:
    """Returns when the first packet begins and the last one ends, in seconds, of every stream that has packets."""
    span: dict[Any, tuple[float, float]] = {}
    for packet in container.demux(*streams):
        at = packet.dts if packet.pts is None else packet.pts
        if at is not None and packet.size:
            begin, end = (float(t * packet.time_base) for t in (at, at + (packet.duration or 0)))
            first, last = span.get(packet.stream, (begin, end))
            span[packet.stream] = min(first, begin), max(last, end)
    return span


def _origin(container: Any) -> float:
    return (container.start_time or 0) / 1e6  # FFmpeg's AV_TIME_BASE


def _end(clip: Clip, longest: float) -> float:
    return clip.start + longest if clip.end is None else min(clip.end, clip.start + longest)


def _seek(container: Any, stream: Any, clip: Clip) -> None:
    if clip.start > PREROLL:
        at = clip.start - PREROLL + _origin(container)
        container.seek(int(at / stream.time_base), stream=stream, backward=True)
