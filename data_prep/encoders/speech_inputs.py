"""What speech encoders of transformers read, and the time steps that they make of it: samples, filterbanks, or windows
of 30 seconds."""

import abc
import inspect
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.encoders.pretrained import PretrainedModel
from mer_jax.errors import UserError

BATCH_SECONDS = 160  # of sound, padding included, that go through the encoder at a time


class SpeechInput(abc.ABC):
    """One way to read sound. pads: whether what waits is padded to a common length; window: seconds that the model
    hears at a time, None if it hears all; shortest: seconds that give one time step."""

    pads: bool
    window: float | None = None
    shortest = 0.03

    def __init__(self, model: PretrainedModel):
        self.model, self.rate = model, int(model.processor.sampling_rate)

    @abc.abstractmethod
    def ready(self, samples: np.ndarray) -> np.ndarray:
        """Returns what the model takes of a sound, Float32[samples]."""

    @abc.abstractmethod
    def states(self, prepared: Sequence[np.ndarray], layers: Sequence[int]) -> list[np.ndarray]:
        """Returns the hidden states of each sound, Float32[time, layers, width], real time steps only."""

    @abc.abstractmethod
    def steps_of(self, samples: int) -> int:
        """Returns how many time steps a sound of so many samples has."""


class Padded(SpeechInput):
    """Sounds of any length. They are padded to a common one only where a trial shows that the model's mask keeps
    padding from changing anything; others are taken together only where they are equally long."""

    def __init__(self, model: PretrainedModel):
        super().__init__(model)
        self.a_second = len(self.ready(np.zeros(self.rate, np.float32)))  # of what the model takes
        self.pads = True
        self.pads = self._padding_changes_nothing()

    @abc.abstractmethod
    def together(self, prepared: Sequence[np.ndarray]) -> tuple[dict[str, Any], list[int]]:
        """Returns the model's inputs for sounds that go through it together, and the time steps of each."""

    def states(self, prepared: Sequence[np.ndarray], layers: Sequence[int]) -> list[np.ndarray]:
        found: list[Any] = [None] * len(prepared)
        for batch in self._batches([len(p) for p in prepared]):
            inputs, steps = self.together([prepared[i] for i in batch])
            made = self.model.hidden(layers, **inputs)
            if made.shape[1] != max(steps):
                raise UserError(
                    f"{self.model.identity['name']}: its hidden layers have {made.shape[1]} time steps of a sound that "
                    f"should give {max(steps)}, so that real ones cannot be told from padding; take another encoder, "
                    "or write an adapter (data_prep/README.md)"
                )
            for i, states, n in zip(batch, made, steps, strict=True):
                found[i] = states[:n]
        return found

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Returns positions, longest first, a few seconds of sound in each batch; of equal length where the model
        cannot pad."""
        most = BATCH_SECONDS * self.a_second
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        batches = []
        for _, group in itertools.groupby(order, key=lambda i: self.pads or lengths[i]):
            alike = list(group)
            size = max(1, most // max(1, lengths[alike[0]]))
            batches += [alike[at : at + size] for at in range(0, len(alike), size)]
        return batches

    def _padding_changes_nothing(self) -> bool:
        noise = np.random.default_rng(0).normal(size=self.rate).astype(np.float32)
        short, long = self.ready(noise[: self.rate // 2]), self.ready(noise)
        alone, padded = self.states([short], (-1,))[0], self.states([short, long], (-1,))[0]
        return alone.shape == padded.shape and bool(np.abs(alone - padded).max() < 1e-3 * alone.std())


def zero_padded(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sequences [time, …] with zeros behind them, Float32[batch, time, …], and Int64[batch, time], 1 where
    they are."""
    lengths = [len(sequence) for sequence in sequences]
    padded = np.zeros((len(sequences), max(lengths), *sequences[0].shape[1:]), np.float32)
    mask = np.zeros(padded.shape[:2], np.int64)
    for i, sequence in enumerate(sequences):
        padded[i, : len(sequence)], mask[i, : len(sequence)] = sequence, 1
    return padded, mask


class Samples(Padded):
    """wav2vec 2.0, HuBERT, WavLM, data2vec-audio, … read samples. Those that normalise the sound over its whole length
    (wav2vec2-base, hubert-base) cannot be padded."""

    def ready(self, samples: np.ndarray) -> np.ndarray:
        made = self.model.processor(samples, sampling_rate=self.rate, return_tensors="np")
        return made["input_values"][0].astype(np.float32)

    def together(self, prepared: Sequence[np.ndarray]) -> tuple[dict[str, Any], list[int]]:
        padded, mask = zero_padded(prepared)
        masked = {} if mask.all() else {"attention_mask": mask}
        return {"input_values": padded} | masked, [self.steps_of(len(p)) for p in prepared]

    def steps_of(self, samples: int) -> int:
        import torch

        lengths = self.model.model._get_feat_extract_output_lengths
        # An adapter behind the last layer makes fewer steps; hidden states are from before it.
        before = {"add_adapter": False} if "add_adapter" in inspect.signature(lengths).parameters else {}
        return int(lengths(torch.as_tensor([samples]), **before)[0])


class Filterbanks(Padded):
    """w2v-BERT 2.0 reads pairs of filterbank frames, which are its time steps. A frame hears 25 ms, the next one begins
    10 ms later."""

    shortest = 0.04

    def ready(self, samples: np.ndarray) -> np.ndarray:
        made = self.model.processor(samples, sampling_rate=self.rate, return_tensors="np", padding=False)
        real = int(made["attention_mask"][0].sum())
        return made["input_features"][0][:real].astype(np.float32)

    def together(self, prepared: Sequence[np.ndarray]) -> tuple[dict[str, Any], list[int]]:
        padded, mask = zero_padded(prepared)
        return {"input_features": padded, "attention_mask": mask}, [len(p) for p in prepared]

    def steps_of(self, samples: int) -> int:
        return len(self.ready(np.zeros(samples, np.float32)))


class Windows(SpeechInput):
    """Whisper's encoder hears windows of 30 seconds, the last one filled up with silence. Longer sounds are heard in
    several, one behind the other. A step is two frames of the log-mel spectrogram, and counts if the sound reaches into
    it."""

    pads = False

    def __init__(self, model: PretrainedModel):
        super().__init__(model)
        self.samples = int(model.processor.n_samples)
        self.hop = 2 * int(model.processor.hop_length)
        self.window = self.samples / self.rate

    def ready(self, samples: np.ndarray) -> np.ndarray:
        """Returns the spectrograms, Float32[windows, bins, frames], each with one more frame whose first value is how
        many of the window's steps count."""
        windows = [samples[at : at + self.samples] for at in range(0, len(samples), self.samples)]
        made = self.model.processor(windows, sampling_rate=self.rate, return_tensors="np")["input_features"]
        about = np.zeros((*made.shape[:2], 1), np.float32)
        about[:, 0, 0] = [self.steps_of(len(window)) for window in windows]
        return np.concatenate([made, about], 2, dtype=np.float32)

    def states(self, prepared: Sequence[np.ndarray], layers: Sequence[int]) -> list[np.ndarray]:
        windows, found = np.concatenate(prepared), []
        together = max(1, int(BATCH_SECONDS * self.rate / self.samples))
        for at in range(0, len(windows), together):
            batch = windows[at : at + together]
            steps = batch[:, 0, -1].astype(int).tolist()
            states = self.model.hidden(layers, max(steps), input_features=batch[..., :-1])
            found += [s[:n] for s, n in zip(states, steps, strict=True)]
        ends = itertools.accumulate(len(p) for p in prepared)
        return [np.concatenate(found[end - len(p) : end]) for p, end in zip(prepared, ends, strict=True)]

    def steps_of(self, samples: int) -> int:
        whole, rest = divmod(samples, self.samples)
        return whole * -(-self.samples // self.hop) + -(-rest // self.hop)


def input_of(model: PretrainedModel, flag: str, name: str) -> SpeechInput:
    """Returns the way in which the model reads sound. Raises UserError if it is none of these."""
    first, kind = model.processor.model_input_names[0], model.model.config.model_type
    if first == "input_values" and hasattr(model.model, "_get_feat_extract_output_lengths"):
        return Samples(model)
    if kind == "whisper":
        return Windows(model)
    if kind == "wav2vec2-bert":
        return Filterbanks(model)
    raise UserError(
        f"{flag}={name}: {kind} reads sound in a way that is not known here; take wav2vec2, HuBERT, WavLM, data2vec, "
        "w2v-BERT, Whisper or their kin, or write an adapter (data_prep/README.md)"
    )
