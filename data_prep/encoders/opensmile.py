"""Clips become openSMILE features (free for research only): low-level descriptors, a vector of 10 ms steps each, or
functionals, one vector of the whole clip."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_prep.encoders import media
from data_prep.encoders.feature_cache import THREADS
from data_prep.encoders.media import Clip, filled
from data_prep.encoders.selection import Selection, as_half
from mer_jax.errors import UserError

# By what flags call them: openSMILE's set, and whether its functionals are meant.
SETS = {
    "egemaps": ("eGeMAPSv02", False),
    "egemaps-functionals": ("eGeMAPSv02", True),
    "compare": ("ComParE_2016", False),
    "compare-functionals": ("ComParE_2016", True),
}
RATE = 16000
STEPS = 100.0  # a second
SHORTEST = 0.06  # seconds; shorter clips are filled up with silence to give one frame
SAVED_TOGETHER = 64  # clips saved to the cache at a time


class OpenSmile:
    """A feature set of openSMILE, at 16 kHz. eGeMAPS has 25 descriptors, Float16[steps, 25], or 88 functionals; ComParE
    65 or 6373. All but the first are Float32: their values are too large for half precision."""

    batch_size, rate, shortest, axis = SAVED_TOGETHER, RATE, SHORTEST, ()

    def __init__(self, features: str, selection: Selection | None = None, *, longest: float = 30.0):
        try:
            import opensmile
        except ImportError as error:
            raise UserError(f"{error.name} is not installed: pip install -e '.[prep]'") from None
        decoder = media.library()
        name, self.functionals = SETS[features]
        selection = selection or Selection()
        self.longest = longest
        if self.functionals and (selection.pool != "none" or selection.stride_ms is not None):
            raise UserError(
                f"--audio-encoder={features} is one vector of a clip: leave out --audio-pool and --audio-stride-ms"
            )
        self.selection = selection.strided(STEPS, features)
        self.half = features == "egemaps"
        level = "Functionals" if self.functionals else "LowLevelDescriptors"
        self._smile = opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel[level])
        has_steps = not self.functionals and self.selection.pool == "none"
        self.steps_per_second = STEPS / self.selection.every if has_steps else None
        self.width = len(self._smile.feature_names) * (1 + (self.selection.pool == "mean+std"))
        self.identity = {
            "name": identity_name(features),
            "rate": RATE,
            "pooling": self.selection.identity()["pooling"],
            "every": self.selection.every,
            "longest": longest,
            "opensmile": opensmile.__version__,
            "av": decoder,
        }
        pooled = "" if self.functionals else f", {self.selection.pool_in_words()}"
        self.extractor = f"{self.identity['name']} at 16 kHz{pooled}"

    def room(self, seconds: float) -> int:
        """Returns how many bytes the features of so many seconds take."""
        descriptors = self.selection.size(seconds * STEPS, len(self._smile.feature_names))
        return 4 * self.width if self.functionals else descriptors * (1 if self.half else 2)

    def prepare(self, clip: Clip) -> np.ndarray:
        return self.ready(media.samples(clip, self.rate, self.longest))

    def ready(self, samples: np.ndarray) -> np.ndarray:
        """Does what `prepare` does, with samples that are decoded already."""
        return filled(samples, self.shortest * self.rate)

    def encode(self, prepared: list[np.ndarray]) -> list[np.ndarray]:
        with ThreadPoolExecutor(THREADS) as threads:
            return list(threads.map(self._features, prepared))

    def _features(self, samples: np.ndarray) -> np.ndarray:
        found = self._smile.process_signal(samples, RATE).to_numpy(np.float32)
        pooled = found if self.functionals else self.selection.pooled(found[:, None])
        return as_half(pooled) if self.half else pooled


def identity_name(features: str) -> str:
    """Returns what manifests call a feature set."""
    name, functionals = SETS[features]
    return f"openSMILE {name} {'functionals' if functionals else 'low-level descriptors'}"


def set_of(name: str) -> str:
    """Returns the flag of a set that manifests call so; nothing if it is none."""
    return next((features for features in SETS if identity_name(features) == name), "")
