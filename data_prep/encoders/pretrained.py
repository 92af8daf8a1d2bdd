"""Pretrained transformers models are loaded by hub name or local path, with all that tells one from another. They stay
frozen."""

import contextlib
import dataclasses
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError

# Drawn at random where a checkpoint lacks them, and not used for its features.
UNUSED = ("pooler", "masked_spec_embed", "mask_token")
SPREAD = "spread"  # a device: all that there are, and the main memory, share one model
# float32: all of it. autocast: products in bfloat16, weights and everything else in float32. bfloat16, float16: the
# weights, too, for models that would not fit otherwise.
PRECISIONS = ("float32", "autocast", "bfloat16", "float16")
# By the class of transformers that makes a model's inputs: what it is made of, and what the model may call it.
READS = {
    "AutoTokenizer": ("sentences", ("input_ids",)),
    "AutoFeatureExtractor": ("sound", ("input_values", "input_features")),
    "AutoImageProcessor": ("pictures", ("pixel_values",)),
}


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where an encoder computes and how exactly. device: of PyTorch, `auto` or SPREAD."""

    device: str = "auto"
    precision: str = "float32"


ANYWHERE = Placement()


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """`processor` makes the inputs of `model`, which is on `device`; `missing` are weights that the checkpoint
    lacks."""

    processor: Any
    model: Any
    device: str
    missing: tuple[str, ...]
    identity: dict[str, Any]
    precision: str

    def hidden(self, layers: Sequence[int], steps: int | None = None, **inputs: Any) -> np.ndarray:
        """Returns Float32[batch, time, layers, width], the hidden states of the layers by one pass; of the first
        `steps` if that is given."""
        import torch

        with self.computing():
            states = self.model(**self.on_device(inputs), output_hidden_states=True).hidden_states
            return torch.stack([states[layer][:, :steps] for layer in layers], 2).float().cpu().numpy()

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """The model computes within it."""
        import torch

        automatic = torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.precision == "autocast")
        with torch.inference_mode(), automatic:
            yield

    def on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        import torch

        tensors = {name: torch.as_tensor(value).to(self.device) for name, value in inputs.items()}
        return {name: x.to(self.model.dtype) if x.is_floating_point() else x for name, x in tensors.items()}


def load(
    flag: str,
    name: str,
    processor: str,
    placement: Placement = ANYWHERE,
    *,
    path: str | None = None,
    **options: Any,
) -> PretrainedModel:
    """Loads a model, from `path` if not from `name`; of one that encodes and decodes, the encoder. `processor` is the
    transformers class that makes the model's inputs, of `READS`, or empty. Raises UserError in terms of `flag`, the
    option that named the model."""
    try:
        import safetensors
        import torch
        import transformers
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[prep]'") from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    place = path or name
    kind = torch.float32 if placement.precision == "autocast" else getattr(torch, placement.precision)
    where = device_of(placement.device)
    spread = {"device_map": "auto"} if placement.device == SPREAD else {}
    try:
        whole, loaded = transformers.AutoModel.from_pretrained(
            place, trust_remote_code=False, dtype=kind, output_loading_info=True, **spread
        )
        model, prefix = _encoding_part(whole, processor)
        refuse_other_inputs(flag, name, processor, model)
        made = processor and getattr(transformers, processor).from_pretrained(place, trust_remote_code=False, **options)
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, safetensors.SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if Path(place).is_dir():
            raise UserError(f"{flag}={name}: the folder holds no whole model ({reason})") from None
        raise UserError(
            f"{flag}={name}: neither a local folder nor reachable on the hub ({reason}). "
            "Without a network, copy the model's folder here (config.json, the weights, what its processor needs) "
            f"and give its path: {flag}=PATH"
        ) from None
    missing = tuple(sorted(key.removeprefix(prefix) for key in loaded["missing_keys"]))
    weights = {k: v for k, v in model.state_dict().items() if k not in missing}
    if lost := [k for k in missing if k in model.state_dict() and not any(word in k for word in UNUSED)]:
        raise UserError(
            f"{flag}={name}: the checkpoint lacks {len(lost)} of the model's weights, the first is {lost[0]}"
        )
    identity = {
        "name": Path(name).resolve().name if Path(name).exists() else name,
        "revision": getattr(model.config, "_commit_hash", None),
        "weights_sha256": _digest(weights),
        "device": where.split(":")[0],  # a GPU rounds differently
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        **({} if placement.precision == "float32" else {"precision": placement.precision}),
    }
    model = model.eval() if spread else model.eval().to(where)
    return PretrainedModel(made, model, where, missing, identity, placement.precision)


def _encoding_part(model: Any, processor: str) -> tuple[Any, str]:
    """Returns what of a model encodes what the processor makes, and the prefix of its weights' names."""
    if hasattr(model, "vision_model"):  # CLIP and its kin have a tower for pictures and one for sentences
        part = "text_model" if processor == "AutoTokenizer" and hasattr(model, "text_model") else "vision_model"
        return getattr(model, part), f"{part}."
    if getattr(model.config, "is_encoder_decoder", False):  # Whisper, T5, BART
        return model.get_encoder(), "encoder."
    return model, ""


def refuse_other_inputs(flag: str, name: str, processor: str, model: Any) -> None:
    """Raises UserError if the model does not read what the processor makes."""
    wanted, inputs = READS.get(processor, ("", ()))
    if inputs and model.main_input_name not in inputs:
        reads = next((what for what, names in READS.values() if model.main_input_name in names), model.main_input_name)
        raise UserError(f"{flag}={name}: {model.config.model_type} reads {reads}, not {wanted}; take another encoder")


def _digest(weights: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(weights.items()):
        digest.update(key.encode() + np.ascontiguousarray(value.float().cpu().numpy()).tobytes())
    return digest.hexdigest()


def device_of(name: str) -> str:
    """Returns the device that takes the inputs; `auto` is cuda where there is one. Raises UserError for a device that
    is not there."""
    import torch

    if name == SPREAD and importlib.util.find_spec("accelerate") is None:
        raise UserError("--device=spread: accelerate is not installed: pip install accelerate")
    if name in ("auto", SPREAD):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise UserError(f"--device={name}: {str(error).splitlines()[0]}") from None
    return name
