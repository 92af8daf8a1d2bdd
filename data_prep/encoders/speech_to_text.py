"""Speech becomes sentences, for clips that come without them: by Whisper and its kin, or a CTC model, of
transformers."""

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.encoders import pretrained
from mer_jax.errors import UserError

WINDOW = 30.0  # seconds that Whisper hears at a time; longer sounds it hears in several, which needs its time stamps


class SpeechRecogniser:
    """Returns what is said in a sound of `rate` samples a second."""

    def __init__(self, name: str, device: str = "auto"):
        self._pipeline = _pipeline(name, device)
        self.name = Path(name).resolve().name if Path(name).exists() else name
        self.rate = int(self._pipeline.feature_extractor.sampling_rate)

    def __call__(self, samples: np.ndarray) -> str:
        long = self._pipeline.type == "seq2seq_whisper" and len(samples) > WINDOW * self.rate
        options = {"return_timestamps": True} if long else {}
        return str(self._pipeline({"raw": samples, "sampling_rate": self.rate}, **options)["text"]).strip()


def _pipeline(name: str, device: str) -> Any:
    """Loads the model. Raises UserError for what cannot be loaded, and for one that was not trained to transcribe."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[prep]'") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    where = pretrained.device_of(device)
    try:
        made = transformers.pipeline(
            "automatic-speech-recognition", name, device=where, dtype=torch.float32, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        here = Path(name).is_dir()
        what = "the folder holds no whole model" if here else "neither a local folder nor reachable on the hub"
        raise UserError(f"--asr={name}: {what} ({reason}); take Whisper or a CTC model, by name or path") from None
    made_as, loaded_as = made.model.config.architectures or [], type(made.model).__name__
    if loaded_as not in made_as:  # its last layer would be random
        kind = ", ".join(made_as) or "nameless model"
        raise UserError(f"--asr={name}: it is a {kind}, which does not transcribe; take Whisper or a CTC model")
    return made
