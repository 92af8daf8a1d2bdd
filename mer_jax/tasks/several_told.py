"""What a person and the files are told of several targets at once: what the first one's task says, and what the others'
say under names that begin with their target's. No JAX at import."""

import abc
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.data.corpus import Corpus
from mer_jax.tasks import several_results
from mer_jax.tasks.task import Card, Task, placed

HAS = "has"  # Bool[rows] of a part's targets: which rows have any


class Told(Task, abc.ABC):
    """parts: the tasks; slices: where the outputs of each stand among all; shapes: of the counts of each."""

    parts: tuple[Task, ...]
    slices: list[slice]
    shapes: list[tuple[int, ...]]

    def of_part(self, found: Mapping[str, Any], i: int) -> dict[str, Any]:
        """What belongs to part i, under its own names."""
        return {name.removeprefix(f"{i}/"): value for name, value in found.items() if name.startswith(f"{i}/")}

    def parted(self, targets: Mapping[str, Any], i: int) -> tuple[dict[str, Any], Any]:
        """The targets of part i, of all rows, and which of these have any."""
        own = self.of_part(targets, i)
        return own, own.pop(HAS)

    def own_rows(self, targets: Mapping[str, np.ndarray], i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The targets of the rows that have part i, and which these are."""
        own, has = self.parted(targets, i)
        return {name: values[has] for name, values in own.items()}, has

    def whole(self, i: int, own: Mapping[str, np.ndarray], has: np.ndarray) -> dict[str, np.ndarray]:
        """What belongs to part i, of all rows, by what the rows have that have it."""
        return {f"{i}/{name}": values for name, values in placed(own, has, len(has)).items()} | {f"{i}/{HAS}": has}

    def start(self, i: int) -> str:
        """How the names of what is told of part i begin."""
        return f"{self.parts[i].asked}_" if i else ""

    def describe_prediction(self, predicted: np.ndarray, digits: int | None = None) -> dict[str, Any]:
        """What the first part says, and of the others the same under names that begin with their target's."""
        found: dict[str, Any] = {}
        for i, (part, here) in enumerate(zip(self.parts, self.slices, strict=True)):
            one = part.describe_prediction(predicted[here], digits)
            found |= {f"{self.start(i)}{name}": value for name, value in one.items()}
        return found

    def _line_of(self, line: Mapping[str, Any], i: int) -> dict[str, Any]:
        start = self.start(i)
        return {name.removeprefix(start): value for name, value in line.items() if name.startswith(start)}

    def describe_target(self, targets: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i, part in enumerate(self.parts):
            own, has = self.parted(targets, i)
            if has[row]:
                one = part.describe_target(own, row)
                found |= {f"{self.start(i)}{name}": value for name, value in one.items()}
        return found

    def read_target(self, line: Mapping[str, Any]) -> Hashable:
        """Of each part what it reads; None where the line does not tell it."""
        told = [self._line_of(line, i) for i in range(len(self.parts))]
        having = ["label" in one or "targets" in one for one in told]
        return tuple(p.read_target(one) if has else None for p, one, has in zip(self.parts, told, having, strict=True))

    def read_prediction(self, line: Mapping[str, Any]) -> tuple[Any, Sequence[float]]:
        each = [part.read_prediction(self._line_of(line, i))[1] for i, part in enumerate(self.parts)]
        values = [value for one in each for value in one]
        return values, values

    def read_targets(self, told: Sequence[Any]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for i, part in enumerate(self.parts):
            has = np.array([one[i] is not None for one in told], bool)
            own = part.read_targets([one[i] for one in told if one[i] is not None])
            found |= self.whole(i, own, has)
        return found

    def target_in_words(self, told: Any) -> str:
        each = (part.target_in_words(one) for part, one in zip(self.parts, told, strict=True) if one is not None)
        return "; ".join(words for words in each if words)

    def prediction_in_words(self, predicted: np.ndarray) -> str:
        return "; ".join(p.prediction_in_words(predicted[at]) for p, at in zip(self.parts, self.slices, strict=True))

    def states(self, corpus: Corpus) -> np.ndarray | None:
        return self.parts[0].states(corpus)

    def confidence(self, predicted: np.ndarray) -> np.ndarray | None:
        return self.parts[0].confidence(predicted[:, self.slices[0]])

    def describe_calibration(self, result: Mapping[str, Any], selects_on: str) -> str:
        each = (
            part.describe_calibration(several_results.of_replica(result, part.asked), selects_on) for part in self.parts
        )
        return "; ".join(words for words in each if words)

    def count_prediction(self, label: str, values: Mapping[str, float], output: Mapping[str, Any]) -> np.ndarray | None:
        found = [p.count_prediction(label, values, self._line_of(output, i)) for i, p in enumerate(self.parts)]
        if all(one is None for one in found):
            return None
        nothing = (np.zeros(shape) for shape in self.shapes)
        flat = [(zero if one is None else one).ravel() for one, zero in zip(found, nothing, strict=True)]
        return np.concatenate(flat).astype(np.float64)

    def shares(self, output: Mapping[str, Any]) -> dict[str, float]:
        first, *others = (part.shares(self._line_of(output, i)) for i, part in enumerate(self.parts))
        named = zip(self.parts[1:], others, strict=True)
        return first | {f"{part.asked} {name}": share for part, one in named for name, share in one.items()}

    def share_in_words(self, output: Mapping[str, Any], name: str) -> str:
        for i, part in enumerate(self.parts):
            start, told = ("" if i == 0 else f"{part.asked} "), self._line_of(output, i)
            if name in (f"{start}{one}" for one in part.shares(told)):
                return part.share_in_words(told, name.removeprefix(start))
        raise KeyError(name)

    def output_in_words(self, output: Mapping[str, Any]) -> str:
        return "; ".join(part.output_in_words(self._line_of(output, i)) for i, part in enumerate(self.parts))

    def explained_in_words(self, output: Mapping[str, Any]) -> str:
        return self.parts[0].explained_in_words(self._line_of(output, 0))

    def describe_export(self) -> dict[str, Any]:
        """`parts`: in which columns of the output each stands, and what it says of them."""
        parts = {
            part.asked: part.describe_export() | {"columns": [at.start, at.stop]}
            for part, at in zip(self.parts, self.slices, strict=True)
        }
        output = {"name": "outputs", "shape": ["batch", self.width], "dtype": "float32"}
        return {"output": output, "parts": parts}

    def card(self, modalities: Sequence[str], result: Mapping[str, Any], selects_on: str) -> Card:
        cards = [
            part.card(modalities, several_results.of_replica(result, part.asked), selects_on) for part in self.parts
        ]
        scores = [
            line
            for part, card in zip(self.parts, cards, strict=True)
            for line in ("", f"**{part.asked}**", "", *card.scores)
        ]
        spans = [f"columns {at.start} to {at.stop - 1}: {c.output}" for at, c in zip(self.slices, cards, strict=True)]
        return Card(
            purpose=" ".join(card.purpose for card in cards),
            targets="\n".join(dict.fromkeys(card.targets for card in cards)),
            output=" ".join(spans),
            scores=scores,
            limits="\n".join(dict.fromkeys(card.limits for card in cards)),
        )
