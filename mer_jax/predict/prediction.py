"""What is predicted of one utterance, and why."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mer_jax.predict.item import PLACE

EMPTY: tuple[Any, ...] = ("", (), None, {})


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Why one utterance is predicted so: `evaluation.attribution.BatchAttribution` of this utterance alone, without
    padding, with `shapley` of the output that the task explains.

    kept: which frames VSC kept, Int[kept], or which tokens of each frame, Int[time, kept]. into: in which of the kept
    ones each frame or token ended, as many as there are where it was dropped. Both are None without VSC. gap: the share
    of the change of the logit that the integrated gradients miss.
    """

    shapley: dict[str, float]
    integrated_gradients: dict[str, np.ndarray]
    attention: dict[str, np.ndarray]
    kept: np.ndarray | None
    into: np.ndarray | None
    gap: float | None = None
    turns: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what is not there; integrated gradients are called `evidence`."""
        names = {"integrated_gradients": "evidence"}
        values = {names.get(name, name): value for name, value in vars(self).items() if value is not None}
        turns = {"turns": list(found)} if (found := values.pop("turns")) else {}
        return jax.tree.map(lambda x: np.round(np.float64(x), 4).tolist(), values) | turns


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is predicted of an utterance.

    output: what the task says of it, see `Task.describe_prediction`; for classes `prediction`, a name, and calibrated
    `probabilities` by name. Its entries are attributes, too. They are empty where `error` says what is wrong with the
    input. label: as the input has it, often empty; values: the same of numbers, by name. start, end: seconds in the
    file. notes, words, dialogue, turn, speaker: as in `item.Item`.
    """

    id: str
    output: Mapping[str, Any]
    label: str = ""
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sentence: str = ""
    start: float | None = None
    end: float | None = None
    notes: tuple[str, ...] = ()
    error: str = ""
    words: tuple[str, ...] = ()
    dialogue: str = ""
    turn: int | None = None
    speaker: str = ""
    attribution: Attribution | None = None

    def __getattr__(self, name: str) -> Any:
        """The entry of `output`; called for what is no field."""
        if name.startswith("__") or name == "output" or name not in self.output:
            raise AttributeError(f"a prediction has no {name!r}")
        return self.output[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what is empty."""
        place = {name: getattr(self, name) for name in PLACE}
        rest = {
            name: getattr(self, name)
            for name in ("label", "values", "sentence", "start", "end", "notes", "error", "words")
        }
        found = {"id": self.id, **place, **_rounded(self.output), **rest, "values": _rounded(self.values)}
        found = {name: value for name, value in found.items() if value not in EMPTY}
        if self.attribution is not None:
            found["attribution"] = self.attribution.to_json()
        return found


def empty_output(output: Mapping[str, Any]) -> dict[str, Any]:
    """An output of the same form for an utterance of which nothing can be said."""
    return {name: type(value)() if isinstance(value, str | dict) else None for name, value in output.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value
