"""What of an encoder's hidden states becomes features: which layers, side by side, apart or averaged, and what of their
time steps."""

import dataclasses
import math
from typing import Any

import numpy as np

from mer_jax.errors import UserError

POOLS = ("none", "mean", "mean+std", "max", "first", "attention-ready")
STEPS = "tokens"  # what manifests have always called the pooling `none`
HALF = 2  # bytes of a feature
SPANS = 32  # of attention-ready [ours]


@dataclasses.dataclass(frozen=True)
class Selection:
    """layers: 0 is the embedding, -1 the last, None all of them. averaged: their mean is taken. apart: the corpus knows
    them as layers, which a run weighs or picks (model.layer_mix); otherwise they are one vector side by side.

    pool, of the time steps: `none` keeps them, or of each `every` the mean; `mean`, `max`, and `mean+std`, the mean and
    the standard deviation side by side, make one vector of them; `first` takes the first, CLS of most text encoders;
    `attention-ready` takes the means of at most 32 equal spans, short enough to attend to however long the utterance is
    [ours]. stride_ms: what `every` is to be in milliseconds, once the encoder is known."""

    layers: tuple[int, ...] | None = (-1,)
    averaged: bool = False
    apart: bool = False
    pool: str = "none"
    every: int = 1
    stride_ms: float | None = None

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise ValueError(f"pool is {self.pool!r}, none of {', '.join(POOLS)}")
        if self.every > 1 and self.pool != "none":
            raise ValueError(f"pool is {self.pool}, which leaves no steps to take the mean of each {self.every} of")

    def resolved(self, flag: str, name: str, depth: int) -> "Selection":
        """Counts the layers from the front; `depth` is the last. Raises UserError for a layer that is not there."""
        layers = tuple(range(depth + 1)) if self.layers is None else self.layers
        if not layers or not all(-depth - 1 <= layer <= depth for layer in layers):
            raise UserError(f"{flag}={','.join(map(str, layers))}: {name} has layers 0 to {depth}, -1 is the last")
        layers = tuple(layer % (depth + 1) for layer in layers)
        if len(set(layers)) < len(layers):
            raise UserError(f"{flag}={','.join(map(str, self.layers or ()))}: a layer is named twice")
        if self.apart and len(layers) < 2:
            raise UserError(f"{flag}-apart: {name} has one layer alone, {layers[0]}")
        return dataclasses.replace(self, layers=layers)

    def strided(self, rate: float | None, name: str) -> "Selection":
        """Returns the selection with `every` for an encoder of so many steps a second. Raises UserError for a stride
        that is no multiple of the encoder's own, or where there are no steps."""
        if self.stride_ms is None:
            return self
        flag = f"--audio-stride-ms={self.stride_ms:g}"
        if self.pool != "none":
            raise UserError(f"{flag}: --audio-pool={self.pool} leaves no steps; leave out one of the two")
        if rate is None:
            raise UserError(f"{flag}: {name} does not say how many steps a second it makes")
        every = round(self.stride_ms * rate / 1000)
        if every < 1 or abs(every * 1000 / rate - self.stride_ms) > 10 / rate:
            raise UserError(f"{flag}: must be a multiple of {1000 / rate:g}, the milliseconds of a step of {name}")
        return dataclasses.replace(self, every=every, stride_ms=None)

    @property
    def axis(self) -> tuple[int, ...]:
        """The layers that the corpus knows apart; none if they are one vector."""
        return (self.layers or ()) if self.apart and not self.averaged else ()

    def identity(self) -> dict[str, Any]:
        """What a manifest says of it; see `from_identity`."""
        return {
            "layers": list(self.layers or ()),
            **({"averaged": True} if self.averaged else {}),
            **({"apart": True} if self.axis else {}),
            "pooling": STEPS if self.pool == "none" else self.pool,
        }

    @classmethod
    def from_identity(cls, identity: Any) -> "Selection":
        """The selection that an encoder of this identity makes. Raises ValueError for a pooling that is none."""
        pooling = identity["pooling"]
        return cls(
            tuple(identity.get("layers", ())),
            identity.get("averaged", False),
            identity.get("apart", False),
            "none" if pooling == STEPS else pooling,
            identity.get("every", 1),
        )

    def width(self, model: int) -> int:
        """Returns the features of a time step, where a layer of the model has so many."""
        return model * (1 if self.averaged else len(self.layers or ())) * (1 + (self.pool == "mean+std"))

    def steps(self, time: float) -> int:
        """Returns how many steps are left of so many time steps of the model."""
        left = {"none": math.ceil(time / self.every), "attention-ready": min(SPANS, math.ceil(time))}
        return left.get(self.pool, 1)

    def size(self, time: float, model: int) -> int:
        """Returns how many bytes the features of so many time steps of the model take."""
        return self.steps(time) * self.width(model) * HALF

    def layers_in_words(self, depth: int) -> str:
        which = ", ".join(map(str, self.layers or ()))
        if self.averaged:
            return f"the mean over hidden layers {which} of {depth}"
        return f"hidden layers {which} of {depth}{', kept apart' if self.axis else ''}"

    def pool_in_words(self, step: str = "step") -> str:
        whole = {
            "mean": {"token": "mean over the tokens", "frame": "the mean over them"}.get(step, "the mean over time"),
            "mean+std": f"mean and standard deviation over the {step}s",
            "max": f"the maximum over the {step}s",
            "first": f"the first {step}",
            "attention-ready": f"means of at most {SPANS} equal spans",
        }
        return whole.get(self.pool) or (f"means of {self.every} {step}s" if self.every > 1 else f"every {step}")

    def features(self, states: np.ndarray) -> np.ndarray:
        """Makes Float16[steps, features] of Float[time, layers, width]. Raises UserError for states that
        half precision does not hold, NaN among them."""
        return as_half(self.pooled(states))

    def pooled(self, states: np.ndarray) -> np.ndarray:
        """Makes Float32[steps, features] of Float[time, layers, width]; the layers of a step lie one behind the other,
        each with what is taken of it."""
        states = states.astype(np.float32)
        found = self._of_steps(states.mean(1, keepdims=True) if self.averaged else states)
        return found.reshape(len(found), -1)

    def _of_steps(self, states: np.ndarray) -> np.ndarray:
        """Returns Float32[steps, layers, width of what is taken of a layer]."""
        if self.pool == "mean":
            return states.mean(0, keepdims=True)
        if self.pool == "mean+std":
            return np.concatenate([states.mean(0), states.std(0)], -1)[None]
        if self.pool == "max":
            return states.max(0, keepdims=True)
        if self.pool == "first":
            return states[:1]
        if self.pool == "attention-ready":
            spans = min(SPANS, len(states))
            return span_means(states, np.linspace(0, len(states), spans + 1).astype(int)[:-1])
        return span_means(states, np.arange(0, len(states), self.every)) if self.every > 1 else states


def span_means(states: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Returns the mean of the spans of steps that begin there, each up to the next; Float32[spans, …]."""
    sizes = np.diff(np.append(begins, len(states))).reshape(-1, *[1] * (states.ndim - 1))
    return np.add.reduceat(states, begins) / sizes.astype(np.float32)


def as_half(states: np.ndarray) -> np.ndarray:
    """Returns Float16 of the same shape. Raises UserError where that is too narrow, and for what is no number."""
    if not np.isfinite(states).all():
        raise UserError(
            "the encoder's states are NaN or infinite: its weights are damaged, or its --precision is too narrow (of "
            "float16 take bfloat16 or float32)"
        )
    with np.errstate(over="ignore"):
        half = states.astype(np.float16)
    if np.isinf(half).any():
        raise UserError(
            f"the encoder's states reach {np.abs(states).max():.0f}, beyond half precision; take other layers"
        )
    return half


def parse_layers(flag: str, text: str) -> tuple[tuple[int, ...] | None, bool]:
    """Returns the layers and whether their mean is meant, by a list of numbers, `all` or `mean`. Raises UserError for
    anything else."""
    if text in ("all", "mean"):
        return None, text == "mean"
    try:
        return tuple(int(layer) for layer in text.split(",")), False
    except ValueError:
        raise UserError(f"{flag}={text}: must be whole numbers, all or mean, as in {flag}=6,12") from None
