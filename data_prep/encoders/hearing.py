"""Clips are listened to before they are encoded: whether there is anything to hear, and which of them are the same
sound, in whatever codec. The fingerprint is that of Haitsma and Kalker (ISMIR 2002)."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.encoders import media
from data_prep.encoders.extract import UtteranceClip
from data_prep.encoders.feature_cache import extract
from data_prep.encoders.media import Checked, Clip
from mer_jax.errors import UserError

MAX_SILENCE = -60.0  # dB of full scale
RATE, EACH = 16000, 3  # samples a second; so many are averaged for the fingerprint, which hears up to 2 kHz
FRAME, HOP = 2048, 64  # averaged samples: 0.384 s, 12 ms
LOW, HIGH, BANDS = 300.0, 2000.0, 33  # Hz
# Of EmoDB's 535 recordings, copies in AAC and MP3 at 24 kbit/s differ in at most 22 % of their bits, and the two most
# alike of different ones in 35 %; the vectors of mean bits of copies have a cosine of at least .53, of others mostly 0.
SAME, ALIKE = 0.3, 0.45
MEANS, SHIFTS = 4, 12  # parts of a clip whose bits are averaged; words that a codec may delay
LONGEST = 30.0  # seconds that are listened to
LEAST = 16  # words that must overlap: of 0.576 s
PAUSE = 1e-5  # of the loudest moment's energy


def level(clip: Clip, samples: np.ndarray) -> float:
    """Returns the level in dB of full scale. Raises UserError for samples that are no numbers."""
    peak = float(np.abs(samples).max())
    if not np.isfinite(peak):
        raise UserError(f"{clip.name}: its sound holds NaN or infinite values")
    return 20 * float(np.log10(max(peak, 1e-10)))


@dataclasses.dataclass(frozen=True)
class Heard:
    """A clip's level in dB of full scale, and a word of 32 bits for every 12 ms of it."""

    level: float
    words: np.ndarray


class Ear:
    """An encoder whose features are what is heard: the level, then the words."""

    batch_size, extractor = 64, "level and fingerprint of the sound"

    def __init__(self) -> None:
        decoder = media.library()
        self.identity = {
            "heard": [RATE, EACH, FRAME, HOP, LOW, HIGH, BANDS, LEAST, PAUSE],
            "longest": LONGEST,
            "av": decoder,
        }

    def prepare(self, clip: Clip) -> np.ndarray:
        samples = media.samples(clip, RATE, LONGEST)
        return np.append(np.float32(level(clip, samples)).view(np.uint32), fingerprint(samples))

    def encode(self, prepared: list[np.ndarray]) -> list[np.ndarray]:
        return prepared


def fingerprint(samples: np.ndarray) -> np.ndarray:
    """Returns a word of 32 bits for every HOP: whether the energy of a band grows against its neighbour's. There
    are none of pauses, which are alike in all sounds, and of sounds too short to tell."""
    low = samples[: len(samples) // EACH * EACH].reshape(-1, EACH).mean(1)
    if len(low) < FRAME + HOP * LEAST:
        return np.zeros(0, np.uint32)
    frames = np.lib.stride_tricks.sliding_window_view(low, FRAME)[::HOP]
    edges = np.geomspace(LOW, HIGH, BANDS + 1) * FRAME * EACH / RATE
    window = np.hanning(FRAME)
    energy = np.empty((len(frames), BANDS))
    for at in range(0, len(frames), 256):
        power = np.abs(np.fft.rfft(frames[at : at + 256] * window)) ** 2
        energy[at : at + 256] = np.add.reduceat(power[:, : int(edges[-1])], edges[:-1].astype(int), axis=1)
    across = np.diff(energy, axis=1)
    bits = np.diff(across, axis=0) > 0
    loud = energy.sum(1)[1:]
    bits = bits[loud > PAUSE * loud.max()]
    return np.packbits(bits, axis=1).view(">u4").astype(np.uint32).ravel()


def listen(
    rows: Sequence[UtteranceClip], checked: Mapping[str, Checked], cache: Path
) -> tuple[dict[str, Heard], dict[str, str]]:
    """Returns by id what is heard of the clips, and what is wrong with those whose sound cannot be read."""
    clips = {checked[row.utterance.id].key: row.clip for row in rows}
    unreadable: dict[str, str] = {}
    found = extract(Ear(), clips, cache, "hearing", unreadable)
    heard, broken = {}, {}
    for row in rows:
        key = checked[row.utterance.id].key
        if key in unreadable:
            broken[row.utterance.id] = f"{row.where}: {unreadable[key]}"
        else:
            words = found[key]
            heard[row.utterance.id] = Heard(float(words[:1].view(np.float32)[0]), words[1:])
    return heard, broken


def silent(heard: Mapping[str, Heard]) -> list[str]:
    """Returns the ids of clips in which there is nothing to hear."""
    return [name for name, sound in heard.items() if sound.level <= MAX_SILENCE]


def same_sounds(heard: Mapping[str, Heard]) -> list[tuple[str, str]]:
    """Returns the pairs of clips that are the same sound, in the order of `heard`. Those are compared bit by bit whose
    bits are alike on average."""
    names = [name for name, sound in heard.items() if sound.level > MAX_SILENCE and len(sound.words) >= LEAST]
    words = [heard[name].words for name in names]
    means = np.array([_mean_bits(w) for w in words])
    found = []
    for at in range(0, len(names), 1024):
        near = np.argwhere(means[at : at + 1024] @ means.T > ALIKE)
        near[:, 0] += at
        found += [(a, b) for a, b in near.tolist() if a < b and _differing(words[a], words[b]) < SAME]
    return [(names[a], names[b]) for a, b in found]


def _mean_bits(words: np.ndarray) -> np.ndarray:
    """Returns how often each bit is set in each of a few parts of the clip, as a vector of length 1."""
    bits = np.unpackbits(words.astype(">u4").view(np.uint8)).reshape(len(words), 32).astype(np.float32) - 0.5
    means = np.concatenate([part.mean(0) for part in np.array_split(bits, MEANS)])
    return means / max(float(np.linalg.norm(means)), 1e-9)


def _differing(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the share of bits that differ where the two overlap best: a codec may begin a little later."""
    least = 1.0
    for shift in range(-SHIFTS, SHIFTS + 1):
        left, right = a[max(0, -shift) :], b[max(0, shift) :]
        length = min(len(left), len(right))
        if 2 * length >= max(len(a), len(b)) and length >= LEAST:
            differ = np.bitwise_count(left[:length] ^ right[:length]).sum()
            least = min(least, float(differ) / (32 * length))
    return least


def told(heard: Mapping[str, Heard], rows: Sequence[UtteranceClip]) -> tuple[list[str], dict[str, Any]]:
    """Returns notes on silent clips and on sounds that are in several parts, and both for the manifest."""
    split = {row.utterance.id: row.utterance.split for row in rows}
    clip = {row.utterance.id: row.clip.name for row in rows}
    quiet, twice = silent(heard), same_sounds(heard)
    across = [pair for pair in twice if len({split[name] for name in pair}) > 1]
    notes = []
    if quiet:
        some = ", ".join(clip[name] for name in quiet[:10]) + ", …" * (len(quiet) > 10)
        notes.append(f"{len(quiet)} clips are silent, with no level above {MAX_SILENCE:g} dBFS: {some}")
    if across:
        some = "; ".join(f"{clip[a]} ({split[a]}) and {clip[b]} ({split[b]})" for a, b in across[:5])
        notes.append(f"{len(across)} pairs of clips are the same sound in two parts: {some}{'; …' * (len(across) > 5)}")
    found = {"silent": quiet, "same_sound": [list(pair) for pair in twice]}
    return notes, {name: what for name, what in found.items() if what}
