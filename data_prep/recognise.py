"""Speech -> sentences, for clips that come without them: Whisper and its kin, or a CTC model, of transformers."""

from pathlib import Path
from typing import Any

import numpy as np

from data_prep import frozen
from mer_jax.errors import UserError

WINDOW = 30.0  # seconds that Whisper hears at a time; longer sounds it hears in several, which needs its time stamps


class Recogniser:
    """What is said in a sound at `rate` samples a second."""

    def __init__(self, name: str, device: str = "auto"):
        try:
            import torch
            import transformers
        except ImportError as error:
            raise UserError(f"{error.name} is not installed: pip install -e '.[prep]'") from None
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            self._pipeline: Any = transformers.pipeline(
                "automatic-speech-recognition", name, device=frozen.device_of(device), dtype=torch.float32,
                trust_remote_code=False,
            )  # fmt: skip
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            what = "the folder holds no whole model that transcribes" if Path(name).is_dir() else "neither a local folder nor reachable on the hub"  # fmt: skip
            raise UserError(f"--asr={name}: {what} ({reason}); take Whisper or a CTC model, by name or path") from None
        self.name = Path(name).resolve().name if Path(name).exists() else name
        self.rate = int(self._pipeline.feature_extractor.sampling_rate)

    def __call__(self, samples: np.ndarray) -> str:
        long = self._pipeline.type == "seq2seq_whisper" and len(samples) > WINDOW * self.rate
        options = {"return_timestamps": True} if long else {}
        found: Any = self._pipeline({"raw": samples, "sampling_rate": self.rate}, **options)
        return str(found["text"]).strip()
