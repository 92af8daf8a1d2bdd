"""Clips become sequences of audio features: hidden states of a speech encoder, or openSMILE's low-level descriptors."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from data_prep.encoders import media, pretrained
from data_prep.encoders.feature_cache import THREADS, pool, pooling_in_words
from data_prep.encoders.media import Clip
from mer_jax.errors import UserError

EGEMAPS, DESCRIPTORS = "egemaps", "openSMILE eGeMAPSv02 low-level descriptors"
SAVED_TOGETHER = 16  # clips saved to the cache at a time
BATCH_SECONDS = 160  # of sound, padding included, that go through the speech encoder at a time
SHORTEST = {"speech": 0.03, EGEMAPS: 0.06}  # seconds; shorter clips are filled up with silence to give one frame
EGEMAPS_RATE = 16000
EGEMAPS_STEPS = 100.0  # a second


class SpeechEncoder:
    """wav2vec 2.0, HuBERT, WavLM, … and whatever else of transformers reads samples. `layers` are as in TextEncoder.

    Clips are padded to common lengths only where a trial shows that the model's mask keeps padding from changing
    anything. Models that normalise the sound over its whole length (wav2vec2-base, hubert-base) are given clips of
    equal length only.
    """

    batch_size, shortest = SAVED_TOGETHER, SHORTEST["speech"]

    def __init__(
        self,
        name: str,
        layers: tuple[int, ...] = (-1,),
        *,
        pooling: str = "tokens",
        every: int = 1,
        longest: float = 30.0,
        device: str = "auto",
    ):
        decoder = media.library()
        self._pretrained = pretrained.load("--audio-encoder", name, "AutoFeatureExtractor", device)
        processor, config = self._pretrained.processor, self._pretrained.model.config
        if processor.model_input_names[0] != "input_values" or not hasattr(
            self._pretrained.model, "_get_feat_extract_output_lengths"
        ):
            raise UserError(
                f"--audio-encoder={name}: {config.model_type} does not read samples; "
                "take wav2vec2, HuBERT, WavLM or their kin"
            )
        self.rate, self.longest = int(processor.sampling_rate), longest
        self.layers = pretrained.resolve("--audio-layers", layers, name, config.num_hidden_layers)
        self.pooling, self.every = pooling, every
        self.pads = self._padding_changes_nothing()
        self.steps_per_second = self._steps_in(100) / 100 / every if pooling == "tokens" else None
        self.identity = self._pretrained.identity | {
            "layers": list(self.layers),
            "pooling": pooling,
            "every": every,
            "rate": self.rate,
            "longest": longest,
            "padded": self.pads,
            "av": decoder,
        }
        of = pretrained.layers_in_words(self.layers, config.num_hidden_layers)
        self.extractor = f"{self.identity['name']}, {pooling_in_words(pooling, every)} of {of}, frozen"

    def prepare(self, clip: Clip) -> np.ndarray:
        """Returns Float32[samples], as the model's feature extractor normalises them."""
        return self.ready(media.samples(clip, self.rate, self.longest))

    def ready(self, samples: np.ndarray) -> np.ndarray:
        """Does what `prepare` does, with samples that are decoded already."""
        return self._normalised(filled(samples, self.shortest * self.rate))

    def encode(self, prepared: list[np.ndarray]) -> list[np.ndarray]:
        found: list[Any] = [None] * len(prepared)
        for batch in self._batches([len(p) for p in prepared]):
            for i, states in zip(batch, self._states([prepared[i] for i in batch]), strict=True):
                found[i] = pool(states, self.pooling, self.every)
        return found

    def _normalised(self, samples: np.ndarray) -> np.ndarray:
        made = self._pretrained.processor(samples, sampling_rate=self.rate, return_tensors="np")
        return made["input_values"][0].astype(np.float32)

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Returns positions, longest clips first, a few seconds of sound in each batch; of equal length where the model
        cannot pad."""
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        batches = []
        for length, group in itertools.groupby(order, key=lambda i: self.pads or lengths[i]):
            alike = list(group)
            longest = lengths[alike[0]] if self.pads else length
            size = max(1, int(BATCH_SECONDS * self.rate / longest))
            batches += [alike[at : at + size] for at in range(0, len(alike), size)]
        return batches

    def _states(self, sounds: list[np.ndarray]) -> list[np.ndarray]:
        """Returns Float32[time, width] of each sound."""
        import torch

        lengths = np.array([len(s) for s in sounds])
        padded = np.zeros((len(sounds), lengths.max()), np.float32)
        mask = np.zeros(padded.shape, np.int64)
        for i, sound in enumerate(sounds):
            padded[i, : len(sound)], mask[i, : len(sound)] = sound, 1
        masked = {} if mask.all() else {"attention_mask": mask}
        states = self._pretrained.hidden(self.layers, input_values=padded, **masked)
        steps = self._pretrained.model._get_feat_extract_output_lengths(torch.as_tensor(lengths)).tolist()
        return [s[:n] for s, n in zip(states, steps, strict=True)]

    def _steps_in(self, seconds: int) -> int:
        """Returns how many more time steps a sound has that is so many seconds longer."""
        import torch

        samples = torch.as_tensor([self.rate, (1 + seconds) * self.rate])
        short, long = self._pretrained.model._get_feat_extract_output_lengths(samples).tolist()
        return int(long - short)

    def _padding_changes_nothing(self) -> bool:
        noise = np.random.default_rng(0).normal(size=self.rate).astype(np.float32)
        short = self._normalised(noise[: self.rate // 2])
        alone, padded = self._states([short])[0], self._states([short, self._normalised(noise)])[0]
        return alone.shape == padded.shape and bool(np.abs(alone - padded).max() < 1e-3 * alone.std())


class Egemaps:
    """eGeMAPS v02 low-level descriptors of openSMILE (free for research): Float16[time, 25], 100 steps a second."""

    batch_size, shortest, rate = 4 * SAVED_TOGETHER, SHORTEST[EGEMAPS], EGEMAPS_RATE

    def __init__(self, *, pooling: str = "tokens", every: int = 1, longest: float = 30.0):
        try:
            import opensmile
        except ImportError as error:
            raise UserError(f"{error.name} is not installed: pip install -e '.[prep]'") from None
        decoder = media.library()
        self._smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
        self.pooling, self.every, self.longest = pooling, every, longest
        self.steps_per_second = EGEMAPS_STEPS / every if pooling == "tokens" else None
        self.identity = {
            "name": DESCRIPTORS,
            "rate": EGEMAPS_RATE,
            "pooling": pooling,
            "every": every,
            "longest": longest,
            "opensmile": opensmile.__version__,
            "av": decoder,
        }
        self.extractor = f"{self.identity['name']} at 16 kHz, {pooling_in_words(pooling, every)}"

    def prepare(self, clip: Clip) -> np.ndarray:
        return self.ready(media.samples(clip, self.rate, self.longest))

    def ready(self, samples: np.ndarray) -> np.ndarray:
        """Does what `prepare` does, with samples that are decoded already."""
        return filled(samples, self.shortest * self.rate)

    def encode(self, prepared: list[np.ndarray]) -> list[np.ndarray]:
        with ThreadPoolExecutor(THREADS) as threads:
            return list(threads.map(self._descriptors, prepared))

    def _descriptors(self, samples: np.ndarray) -> np.ndarray:
        found = self._smile.process_signal(samples, EGEMAPS_RATE).to_numpy(np.float32)
        return pool(found, self.pooling, self.every)


def filled(samples: np.ndarray, least: float) -> np.ndarray:
    return np.pad(samples, (0, max(0, round(least) - len(samples))))
