"""Clips become hidden states of a speech encoder of transformers."""

import numpy as np

from data_prep.encoders import media, pretrained
from data_prep.encoders.media import Clip, filled
from data_prep.encoders.pretrained import ANYWHERE, Placement
from data_prep.encoders.selection import Selection
from data_prep.encoders.speech_inputs import input_of

SAVED_TOGETHER = 16  # clips saved to the cache at a time


class SpeechEncoder:
    """wav2vec 2.0, HuBERT, WavLM, data2vec, w2v-BERT, the encoder of Whisper: see `speech_inputs`. Float16[steps,
    features]."""

    batch_size = SAVED_TOGETHER

    def __init__(
        self,
        name: str,
        selection: Selection | None = None,
        *,
        longest: float = 30.0,
        placement: Placement = ANYWHERE,
    ):
        decoder = media.library()
        self._pretrained = pretrained.load("--audio-encoder", name, "AutoFeatureExtractor", placement)
        config = self._pretrained.model.config
        self.input = input_of(self._pretrained, "--audio-encoder", name)
        self.rate, self.longest = self.input.rate, longest
        self.shortest = self.input.shortest  # seconds; shorter clips are filled up with silence
        depth = config.num_hidden_layers
        resolved = (selection or Selection()).resolved("--audio-layers", name, depth)
        self._own_rate = (self.input.steps_of(101 * self.rate) - self.input.steps_of(self.rate)) / 100  # steps a second
        self.selection = resolved.strided(self._own_rate, name)
        self._of_model = config.hidden_size
        self.axis, self.width = self.selection.axis, self.selection.width(self._of_model)
        every = self.selection.every
        self.steps_per_second = self._own_rate / every if self.selection.pool == "none" else None
        window = {"window": self.input.window} if self.input.window else {}
        self.identity = self._pretrained.identity | self.selection.identity()
        self.identity |= {"every": every, "rate": self.rate, "longest": longest, "padded": self.input.pads}
        self.identity |= window | {"av": decoder}
        self.extractor = (
            f"{self.identity['name']}, {self.selection.pool_in_words()} of "
            f"{self.selection.layers_in_words(depth)}{self._windows(longest)}, frozen"
        )

    def room(self, seconds: float) -> int:
        """Returns how many bytes the features of so many seconds take."""
        return self.selection.size(seconds * self._own_rate, self._of_model)

    def prepare(self, clip: Clip) -> np.ndarray:
        """Returns Float32[…], as the model's feature extractor makes it."""
        return self.ready(media.samples(clip, self.rate, self.longest))

    def ready(self, samples: np.ndarray) -> np.ndarray:
        """Does what `prepare` does, with samples that are decoded already."""
        return self.input.ready(filled(samples, self.shortest * self.rate))

    def encode(self, prepared: list[np.ndarray]) -> list[np.ndarray]:
        return [self.selection.features(states) for states in self.input.states(prepared, self.selection.layers or ())]

    def _windows(self, longest: float) -> str:
        window = self.input.window
        return f", heard {window:g} s at a time" if window and longest > window else ""
