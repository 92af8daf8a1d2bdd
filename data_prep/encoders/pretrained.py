"""Pretrained transformers models are loaded by hub name or local path, with all that tells one from another. They stay
frozen."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError

# Drawn at random where a checkpoint lacks them, and not used for its features.
UNUSED = ("pooler", "masked_spec_embed", "mask_token")


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """`processor` makes the inputs of `model`, which is on `device`; `missing` are weights that the checkpoint
    lacks."""

    processor: Any
    model: Any
    device: str
    missing: tuple[str, ...]
    identity: dict[str, Any]

    def hidden(self, layers: Sequence[int], **inputs: Any) -> np.ndarray:
        """Returns Float32[batch, time, width], the hidden states of the layers side by side."""
        import torch

        with torch.inference_mode():
            states = self.model(**self.on_device(inputs), output_hidden_states=True).hidden_states
            return torch.cat([states[layer] for layer in layers], -1).float().cpu().numpy()

    def on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        import torch

        return {name: torch.as_tensor(value).to(self.device) for name, value in inputs.items()}


def load(
    flag: str, name: str, processor: str, device: str = "auto", *, path: str | None = None, **options: Any
) -> PretrainedModel:
    """Loads a model, from `path` if not from `name`. `processor` is the transformers class that makes the model's
    inputs, or empty. Raises UserError in terms of `flag`, the option that named the model."""
    try:
        import safetensors
        import torch
        import transformers
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[prep]'") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    place = path or name
    try:
        made = processor and getattr(transformers, processor).from_pretrained(place, trust_remote_code=False, **options)
        model, loaded = transformers.AutoModel.from_pretrained(
            place, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        if Path(place).is_dir():
            raise UserError(f"{flag}={name}: the folder holds no whole model ({reason})") from None
        raise UserError(
            f"{flag}={name}: neither a local folder nor reachable on the hub ({reason}). "
            "Without a network, copy the model's folder here (config.json, the weights, what its processor needs) "
            f"and give its path: {flag}=PATH"
        ) from None
    model = getattr(model, "vision_model", model)  # of CLIP and its kin, which also read text
    missing = tuple(sorted(key.removeprefix("vision_model.") for key in loaded["missing_keys"]))
    weights = {k: v for k, v in model.state_dict().items() if k not in missing}
    if lost := [k for k in missing if k in model.state_dict() and not any(word in k for word in UNUSED)]:
        raise UserError(
            f"{flag}={name}: the checkpoint lacks {len(lost)} of the model's weights, the first is {lost[0]}"
        )
    where = device_of(device)
    identity = {
        "name": Path(name).resolve().name if Path(name).exists() else name,
        "revision": getattr(model.config, "_commit_hash", None),
        "weights_sha256": _digest(weights),
        "device": where.split(":")[0],  # a GPU rounds differently
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    return PretrainedModel(made, model.eval().to(where), where, missing, identity)


def _digest(weights: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(weights.items()):
        digest.update(key.encode() + np.ascontiguousarray(value.float().numpy()).tobytes())
    return digest.hexdigest()


def device_of(name: str) -> str:
    """Returns the device; `auto` is cuda where there is one. Raises UserError for a device that is not there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise UserError(f"--device={name}: {str(error).splitlines()[0]}") from None
    return name


def layers_of(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(layer) for layer in text.split(","))
    except ValueError:
        raise UserError(f"{flag}={text}: must be whole numbers, as in {flag}=-3,-1") from None


def resolve(flag: str, layers: tuple[int, ...], name: str, depth: int) -> tuple[int, ...]:
    """Counts the layers from the front: 0 is the embedding, `depth` the last."""
    if not layers or not all(-depth - 1 <= layer <= depth for layer in layers):
        raise UserError(f"{flag}={','.join(map(str, layers))}: {name} has layers 0 to {depth}, -1 is the last")
    return tuple(layer % (depth + 1) for layer in layers)


def layers_in_words(layers: tuple[int, ...], depth: int) -> str:
    return f"hidden layers {', '.join(map(str, layers))} of {depth}"
