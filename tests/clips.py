"""Clips and tables of clips as users have them."""

import csv
import importlib.util
import wave

import numpy as np
import pytest

needs_av = pytest.mark.skipif(not importlib.util.find_spec("av"), reason="needs pip install -e '.[prep]'")
needs_prep = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("av", "torch", "transformers", "opensmile"))),
    reason="needs pip install -e '.[prep]'",
)
RATE, STEP = 16000, 8  # samples a second; grey levels between one frame and the next


def tone(seconds=1.5, pitch=220.0):
    """A voice-like sound: harmonics of a pitch that falls."""
    at = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * pitch * (at - 0.1 * at**2)
    return (0.3 * sum(np.sin(k * phase) / k for k in (1, 2, 3, 4))).astype(np.float32)


def write_wav(path, sound, rate=RATE, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(np.int16(sound * 32767), channels).tobytes())
    return path


def write_movie(path, sound=None, count=30, rate=20, rotation=0, **options):
    """Frame i is as grey as i * STEP; its left half is black if it is to be shown turned."""
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        video = out.add_stream("mpeg4", rate=rate)
        video.width, video.height, video.pix_fmt, video.bit_rate = 64, 32, "yuv420p", 8_000_000
        audio = out.add_stream("aac", rate=RATE, layout="mono") if sound is not None else None
        if rotation:
            video.set_display_rotation(rotation)
        for i in range(count):
            image = np.full((32, 64, 3), i * STEP, np.uint8)
            if rotation:
                image[:, :32] = 0
                image[:, 32:] = 200
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return path


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path
