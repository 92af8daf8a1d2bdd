"""FFmpeg's libraries (PyAV) read one recording: what is in it, its samples, its frames. This code meets the bytes of
strangers, and some of them end the process that it runs in, which therefore has nothing else to do:

    python -m data_prep.encoders.decoding FD

decoders.py starts it, and is at the other end of the socket FD. A request is JSON, followed by the bytes of the
recording if it is no file. Answers are JSON, too, followed by the bytes of an `array` if they hold one; the last one
holds a `value` or an `error`.
"""

import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import limits
from mer_jax.errors import UserError
from mer_jax.plain import cause

# Containers round their duration, and an edit list may trim a little; a file cut short usually lacks far more.
SLACK, SLACK_SHARE = 0.5, 0.05  # seconds, share of the duration
PREROLL = 1.0  # seconds decoded before the part asked for: lossy audio codecs need some to settle after a seek
MIN_RATE = 4000  # samples a second: less holds no speech, and grows without bounds when it is resampled
# Containers that hold their own sound and pictures. FFmpeg has others, which name files and addresses to be read.
CONTAINERS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,dv,eac3,flac,flv,gif,gxf,ivf,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,"
    "mpeg,mpegts,mpegvideo,mxf,nistsphere,nut,ogg,rm,tta,voc,w64,wav,wv"
)


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
class Probed:
    """A whole recording has so many seconds, `rate` samples of sound a second, 0 if it has no sound, and maybe
    `pictures`."""

    seconds: float
    rate: int
    pictures: bool


def probe(clip: Clip, streams: tuple[str, ...]) -> Probed:
    """Looks at the recording that the clip is a part of. Raises UserError for one that `whole` refuses, but for streams
    that it lacks."""
    with _opened(clip) as container:
        there = {kind: stream for kind in ("audio", "video") if (stream := _first(container, clip, kind))}
        rate = there["audio"].rate if "audio" in there else 0
    if not there:
        raise UserError(f"{clip.name} has neither sound nor pictures")
    wanted = tuple(kind for kind in streams if kind in there) or tuple(there)
    return Probed(whole(clip, wanted)[0], rate, "video" in there)


def whole(clip: Clip, streams: tuple[str, ...]) -> tuple[float, int]:
    """Returns its seconds, and samples of sound a second, 0 if that is not asked for. Raises UserError unless it has
    these streams, none of them cut short."""
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
        rate = next((int(stream.rate) for kind, stream in zip(streams, wanted, strict=True) if kind == "audio"), 0)
        return max((last for _, last in span.values()), default=0.0) - _origin(container), rate


def shown(clip: Clip) -> tuple[float, float]:
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
        resampler = av.AudioResampler(format="flt", rate=rate)  # PyAV reads beyond the eighth plane of a planar one
        end = _end(clip, longest)
        parts: list[np.ndarray] = []
        began = None
        for frame in container.decode(stream):
            at = (frame.time or 0.0) - _origin(container)
            if began is None:
                began = at
            elif at >= end + PREROLL:
                break
            parts += map(_mono, resampler.resample(frame))
        if began is None:
            raise UserError(f"{clip.name}: its audio stream is empty")
        parts += map(_mono, resampler.resample(None))
    # A recording whose sound sets in late is not filled up: only a part of it must begin where it says.
    skip = max(0, round((clip.start - began) * rate)) if clip.start else 0
    found = np.concatenate(parts)[skip : skip + round((end - clip.start) * rate)]
    if not len(found):
        raise UserError(f"{clip.name}: its audio stream is empty")
    return found


def _mono(frame: Any) -> np.ndarray:
    """Returns the channels' mean: FFmpeg's own mono adds some of them up, and overflows."""
    channels = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    return np.ascontiguousarray(channels.T).mean(0)


def frames(
    clip: Clip, span: tuple[float, float], longest: float, count: int, per_second: float | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the frames shown in the middles of `count` equal parts of the clip, or of parts of 1/`per_second` seconds,
    and how many middles each is shown in; `span` is what `shown` returns."""
    first, last = span
    with _opened(clip) as container:
        stream = _stream(container, clip, "video")
        _seek(container, stream, clip)
        origin = _origin(container)
        begin = max(clip.start, first - origin)
        length = min(_end(clip, longest), last - origin) - begin
        parts = count if per_second is None else max(1, round(length * per_second))
        wanted = deque(begin + (np.arange(parts) + 0.5) * length / parts)
        seen = None
        for number, frame in enumerate(container.decode(stream)):
            time = number / float(stream.average_rate or 25) if frame.time is None else frame.time - origin
            seen = seen or frame
            if times := _passed(wanted, time):
                yield _upright(seen, clip.half), times
            if not wanted:
                return
            seen = frame
        if seen is None:
            raise UserError(f"{clip.name}: none of its frames can be decoded")
        yield _upright(seen, clip.half), len(wanted)


def _passed(wanted: deque[float], time: float) -> int:
    """Returns how many of the times wanted are over at `time`, and takes them away."""
    before = len(wanted)
    while wanted and time > wanted[0] + 1e-6:
        wanted.popleft()
    return before - len(wanted)


def _upright(frame: Any, half: str) -> np.ndarray:
    image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)  # phones film sideways
    return np.ascontiguousarray(_half(image, half))


def _half(image: np.ndarray, half: str) -> np.ndarray:
    middle = image.shape[1] // 2
    return image[:, :middle] if half == "left" else image[:, middle:] if half == "right" else image


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
    import av

    # A path from the root is of no other protocol than that of files.
    source = io.BytesIO(clip.source) if isinstance(clip.source, bytes) else os.path.abspath(clip.source)
    only = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(source, metadata_errors="ignore", options=only) as container:
            yield container
    except (UserError, MemoryError):
        raise
    except av.error.ArgumentError:
        raise UserError(
            f"{clip.name} cannot be decoded: it is no container of sound or pictures (wav, mp4, …)"
        ) from None
    except (av.error.FFmpegError, ValueError) as error:  # ValueError: what is in the stream changes on the way
        raise UserError(f"{clip.name} cannot be decoded: {getattr(error, 'strerror', None) or error}") from None


def _stream(container: Any, clip: Clip, kind: str) -> Any:
    found = _first(container, clip, kind)
    if found is None:
        raise UserError(f"{clip.name} has no {kind} stream")
    return found


def _first(container: Any, clip: Clip, kind: str) -> Any:
    """Returns the container's first stream of a kind; the cover of an album is no film."""
    import av.stream

    cover = av.stream.Disposition.attached_pic
    found = next((s for s in getattr(container.streams, kind) if not s.disposition & cover), None)
    if found is not None and kind == "audio" and (rate := found.rate or 0) < MIN_RATE:
        raise UserError(f"{clip.name}: its sound has {rate} samples a second; it must have {MIN_RATE} at least")
    return found


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


def answers(request: dict[str, Any], clip: Clip) -> Iterator[tuple[Any, int]]:
    """Yields (array, how often it stands there) of samples and frames, (value, 0) of what else is asked."""
    do, given = request["do"], request["arguments"]
    if do == "samples":
        yield samples(clip, *given), 1
    elif do == "frames":
        yield from frames(clip, *given)
    elif do == "probe":
        yield dataclasses.astuple(probe(clip, *given)), 0
    else:
        yield (whole if do == "whole" else shown)(clip, *given), 0


def serve(pipe: Connection) -> None:
    """Answers requests until the other end is closed."""
    while True:
        try:
            request = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        source = Path(request["file"]) if request["file"] is not None else pipe.recv_bytes()
        clip = Clip(request["name"], source, *request["part"])
        signal.alarm(request["seconds"])  # ends the process, wherever in FFmpeg it is
        last: dict[str, Any] = {"value": None}
        try:
            with limits.bounded(clip.name, request["budget"]) as budget:
                for found, times in answers(request, clip):
                    if times:
                        budget.spend(found.nbytes)
                        pipe.send_bytes(json.dumps({"array": [found.dtype.str, found.shape], "times": times}).encode())
                        pipe.send_bytes(found.reshape(-1).view(np.uint8))
                    else:
                        last["value"] = found
        except UserError as error:
            last = {"error": str(error)}
        except Exception as error:  # FFmpeg's and PyAV's, of any kind
            last = {"error": f"{clip.name} cannot be decoded ({cause(error)})"}
        signal.alarm(0)
        pipe.send_bytes(json.dumps(last).encode())


def main() -> None:
    import av  # noqa: F401  (before there is a limit)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks hears it, and closes the socket
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
