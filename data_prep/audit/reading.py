"""One pass over a corpus folder's records leaves little in memory: digests, extremes, means over time. Frames are
looked at as pictures of 4 x 4 pixels."""

import dataclasses
import hashlib

import numpy as np

from data_prep.audit.floor import drawn
from data_prep.progress import Progress
from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.frames import EncodedFrames, thumbnails
from mer_jax.data.leakage import normalised_sentence

HUGE = 1e4  # of a feature's absolute value


def _digest(content: bytes) -> int:
    """Returns 64 bits that stand for the content; never 0, which stands for nothing."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1


class Stream:
    """A modality is summed up while its utterances go by: per utterance by a digest (0: it lacks the modality, or is
    silent) and three flags; per dimension by count, mean, sum of squared deviations and the extremes of all time steps'
    finite values, with the utterances that have these."""

    def __init__(self, width: int, utterances: int):
        self.digest = np.zeros(utterances, np.uint64)
        self.nonfinite, self.silent, self.huge = (np.zeros(utterances, bool) for _ in range(3))
        self.count, self.mean, self.squares = (np.zeros(width) for _ in range(3))
        self.bounds = np.array([np.full(width, np.inf), np.full(width, -np.inf)])  # least, greatest
        self.bound_rows = np.zeros((2, width), np.int64)

    def add(self, row: int, value: np.ndarray) -> np.ndarray:
        """Takes in [time, width]; returns the mean over time, values that are not finite counted as 0."""
        finite = np.isfinite(value)
        x = np.where(finite, value, 0).astype(np.float64)
        self.nonfinite[row], self.silent[row] = not finite.all(), not np.any(value)
        self.huge[row] = np.abs(x).max() > HUGE
        if not self.silent[row]:
            self.digest[row] = _digest(repr(value.shape).encode() + value.tobytes())
        count, total = finite.sum(0), x.sum(0)
        mean = total / np.maximum(count, 1)
        squares = np.where(finite, (x - mean) ** 2, 0).sum(0)
        shift, whole = mean - self.mean, np.maximum(self.count + count, 1)
        self.squares += squares + shift**2 * self.count * count / whole
        self.mean += shift * count / whole
        self.count += count
        least, greatest = np.where(finite, x, np.inf).min(0), np.where(finite, x, -np.inf).max(0)
        for side, beyond, found in (
            (0, least < self.bounds[0], least),
            (1, greatest > self.bounds[1], greatest),
        ):
            self.bounds[side, beyond], self.bound_rows[side, beyond] = found[beyond], row
        return (total / len(x)).astype(np.float32)

    def deviations(self) -> np.ndarray:
        """Returns how many standard deviations the extremes are from the mean, [2, width]; both are of the other
        values, since a value is never more than sqrt(n - 1) from a mean that it is part of."""
        n = np.maximum(self.count - 1, 1)
        offset = np.where(np.isfinite(self.bounds), self.bounds - self.mean, 0)
        from_others = offset * self.count / n
        squares = self.squares - offset * from_others
        squares = np.where(squares > 1e-12 * self.squares, squares, 0)  # what is less is rounding
        sd = np.sqrt(squares / n)
        away = np.where(self.bounds[0] < self.bounds[1], np.abs(from_others), 0)
        return np.divide(away, sd, out=np.where(away > 0, np.inf, 0), where=sd > 0)


@dataclasses.dataclass
class Reading:
    """One pass over the records leaves this. Digests are 0 where there is nothing to compare; times are seconds, NaN
    where not given; means by modality are those of the rows that the floors look at."""

    streams: dict[str, Stream]
    sentence: np.ndarray
    words: np.ndarray
    moment: np.ndarray
    start: np.ndarray
    end: np.ndarray
    means: dict[str, dict[int, np.ndarray]]

    def add(self, row: int, utterance: Utterance, keep: bool) -> None:
        if words := normalised_sentence(utterance.sentence):
            self.sentence[row], self.words[row] = _digest(words.encode()), len(words.split())
        if utterance.start is not None and utterance.end is not None:
            self.start[row], self.end[row] = utterance.start, utterance.end
            if utterance.session and utterance.start < utterance.end:
                self.moment[row] = _digest(repr((utterance.session, utterance.start, utterance.end)).encode())
        for modality, value in utterance.features.items():
            mean = self.streams[modality].add(row, value)
            if keep:
                self.means[modality][row] = mean


def read(corpus: Corpus, floor: bool) -> Reading:
    """Passes over the corpus once. Raises UserError where a record is damaged."""
    n = len(corpus)
    reading = Reading(
        streams={m: Stream(48 if "pixels" in spec else spec["width"], n) for m, spec in corpus.modalities.items()},
        sentence=np.zeros(n, np.uint64),
        words=np.zeros(n, np.int32),
        moment=np.zeros(n, np.uint64),
        start=np.full(n, np.nan),
        end=np.full(n, np.nan),
        means={m: {} for m in corpus.modalities},
    )
    in_floors = np.zeros(n, bool)
    if floor:  # what has no class is in no floor
        in_floors[corpus.labelled] = drawn(int(corpus.labelled.sum()))
    progress = Progress("reading utterances", n)
    for row in range(n):
        utterance = corpus[row]
        seen = {
            m: corpus.decode_frames(row, value, thumbnails) if isinstance(value, EncodedFrames) else value
            for m, value in utterance.features.items()
        }
        reading.add(row, dataclasses.replace(utterance, features=seen), bool(in_floors[row]))
        progress.update(1)
    progress.close()
    return reading


def split_across(code: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Returns which utterances, bool, have a code (0: none) that occurs with more than one value."""
    codes, group = np.unique(code, return_inverse=True)
    values, kind = np.unique(value, return_inverse=True)
    pairs = np.unique(group * len(values) + kind)
    return (np.bincount(pairs // len(values), minlength=len(codes))[group] > 1) & (code != 0)


def leaked(code: np.ndarray, split: np.ndarray, first: str, second: str) -> np.ndarray:
    """Returns which utterances, bool, are of the second split and have a code (0: none) of the first."""
    return (split == second) & (code != 0) & np.isin(code, code[split == first])
