"""What regression and several emotions at once have in common: targets are numbers by name, of which some may not be
known. No JAX at import."""

import abc
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.data.corpus import Corpus
from mer_jax.data.targets import Target
from mer_jax.errors import UserError
from mer_jax.metrics.definition import Definition, count_groups
from mer_jax.metrics.metric import scores_by_name
from mer_jax.tasks import numbers_results
from mer_jax.tasks.task import Arrays, Evaluation, Task


class Numbers(Task):
    """names: of the numbers, which are the outputs. Targets are `value`, Float32[rows, names], and `known`, Bool of the
    same shape; a value that is not known is 0 there, and neither learnt nor scored. Decisions are what is predicted,
    [rows, names]. counts: see `Definition`."""

    def __init__(self, target: Target):
        self.target, self.asked, self.outputs = target, target.name, target.names
        self.definition = self.define()
        self.metrics, self.nearly = self.definition.metrics, frozenset(self.definition.exact)

    @property
    def headline(self) -> list[str]:
        single = {score for of in scores_by_name(self.metrics, self.outputs).values() for score in of.values()}
        return [name for name in self.metrics if name not in single]

    @abc.abstractmethod
    def define(self) -> Definition:
        """How the target is scored."""

    @classmethod
    def of_results(cls, metrics: Mapping[str, Any]) -> Any:
        """The task of a finished run; raises ValueError if its numbers are not named."""
        return cls(numbers_results.target_of(metrics, cls.name))

    def describe(self) -> dict[str, Any]:
        return {"target": numbers_results.described(self.target)}

    def check_results(self, metrics: Mapping[str, Any]) -> None:
        numbers_results.check(metrics, self.outputs, self.definition)

    def targets(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> dict[str, np.ndarray]:
        value = corpus.values(self.outputs, rows).astype(np.float32)
        known = ~np.isnan(value)
        return {"value": np.where(known, value, np.float32(0)), "known": known}

    def refuse_parts(self, corpus: Corpus, parts: Mapping[str, np.ndarray]) -> None:
        for part, rows in parts.items():
            for name, known in zip(self.outputs, (~np.isnan(corpus.values(self.outputs, rows))).sum(0), strict=True):
                if not known:
                    raise UserError(
                        f"{corpus.path}: {name} of target {self.asked!r} is known of none of the {len(rows):,} "
                        f"utterances of {part}; choose another --config.data.protocol or --config.data.task"
                    )

    def training_note(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> str:
        known = (~np.isnan(corpus.values(self.outputs, rows))).sum(0)
        lacking = [f"{n} of {len(rows):,} {name}" for name, n in zip(self.outputs, known, strict=True) if n < len(rows)]
        return f"of the training utterances are known: {', '.join(lacking)}" if lacking else ""

    def gaps(self, described: Mapping[str, Any]) -> str:
        return ""

    def evaluate(self, values: Any, targets: Arrays, weight: Any) -> Evaluation:
        """`loss` of the batch alone; of every row `error`, `predicted`, and the targets, of which scores are made on
        the host."""
        from mer_jax.models.losses import column_mean

        error, known = self.error(values, targets), targets["known"]
        return Evaluation(
            means={"loss": column_mean(error, weight, known) * weight.sum()},
            counts={},
            rows={"error": error, "predicted": self.calibrate(values, 1.0), "value": targets["value"], "known": known},
        )

    @abc.abstractmethod
    def error(self, values: Any, targets: Arrays) -> Any:
        """What is told as the loss, whatever is learnt by, of every number, [rows, names]."""

    def decide(self, values: Any) -> Any:
        return self.calibrate(values, 1.0)

    def score(self, evaluated: Mapping[str, Any]) -> dict[str, Any]:
        """And `counts`, of which all of it is made, but for the loss and what `Definition.exact` says: those that are
        not 0 by their place. loss: the mean over the names of the mean over the rows of which they are known, however
        these lay in batches."""
        value, known, predicted = _as_defined(evaluated, evaluated["predicted"])
        counts = self.definition.count(value, known, predicted).sum(0)
        exact = {name: function(value, known, predicted) for name, function in self.definition.exact.items()}
        error = np.asarray(evaluated["error"], np.float64)
        each = [error[of, i].mean() for i, of in enumerate(known.T) if of.any()]
        return {"loss": float(np.mean(each)) if each else 0.0, **self.scores(counts), **exact}

    def scores(self, counts: np.ndarray) -> dict[str, Any]:
        held = {str(i): float(counts[i]) for i in np.flatnonzero(counts)}
        return {name: float(value) for name, value in self.metric_values(counts).items()} | {"counts": held}

    def counts_of(self, scores: Mapping[str, Any]) -> np.ndarray:
        """The counts that `scores` tells."""
        counts = np.zeros(numbers_results.width(self.definition, len(self.outputs)))
        for place, value in scores["counts"].items():
            counts[int(place)] = value
        return counts

    def _count(self, targets: Mapping[str, Any], predicted: np.ndarray) -> np.ndarray:
        return self.definition.count(*_as_defined(targets, predicted))

    def count(self, targets: Mapping[str, np.ndarray], decisions: np.ndarray) -> np.ndarray:
        return self._count(targets, decisions).sum(0)

    def count_by_dialogue(
        self, targets: Mapping[str, np.ndarray], decisions: np.ndarray, dialogues: np.ndarray
    ) -> np.ndarray:
        return count_groups(self._count(targets, decisions), dialogues)[1]

    def pool(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`pooled`: the scores of all test parts together."""
        found: dict[str, Any] = self.pool_calibration(results)
        if all("test" in result for result in results):
            found["pooled"] = self.scores(np.sum([self.counts_of(result["test"]) for result in results], axis=0))
        return found

    @abc.abstractmethod
    def pool_calibration(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What `pool` says besides the scores."""

    def print_part(self, title: str, scores: Mapping[str, Any]) -> None:
        from mer_jax.tasks import numbers_console

        numbers_console.print_scores(title, scores, self.metrics, self.outputs)

    def decisions(self, predicted: np.ndarray) -> np.ndarray:
        return predicted

    def describe_target(self, targets: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """`targets`: each number by its name, None where it is not known."""
        each = zip(self.outputs, targets["value"][row].tolist(), targets["known"][row].tolist(), strict=True)
        return {"targets": {name: round(value, 6) if known else None for name, value, known in each}}

    def read_target(self, line: Mapping[str, Any]) -> Hashable:
        """The numbers in the order of their names, None where one is not known."""
        return tuple(self._numbers(line.get("targets"), "targets", missing=True))

    def _numbers(self, told: Any, field: str, *, missing: bool = False) -> list[Any]:
        if not isinstance(told, dict) or told.keys() != set(self.outputs):
            raise ValueError(f"its {field} are not one for each of {', '.join(self.outputs)}")
        for name, value in told.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number and not (missing and value is None):
                raise ValueError(f"{name} of its {field} is {value!r}, not a number")
        return [told[name] for name in self.outputs]

    def read_targets(self, told: Sequence[Any]) -> dict[str, np.ndarray]:
        values = np.array(told, np.float64).reshape(len(told), self.width)  # None becomes NaN
        known = ~np.isnan(values)
        return {"value": np.where(known, values, 0).astype(np.float32), "known": known}

    def target_in_words(self, told: Any) -> str:
        return ", ".join(f"{n} {v:.4g}" for n, v in zip(self.outputs, told, strict=True) if v is not None)

    def explained(self, logits: Any) -> Any:
        """The output that lies furthest from its middle."""
        import jax

        return jax.nn.one_hot(abs(logits).argmax(-1), logits.shape[-1])

    def count_prediction(self, label: str, values: Mapping[str, float], output: Mapping[str, Any]) -> np.ndarray | None:
        if not set(self.outputs) & values.keys():
            return None
        told = [values.get(name) for name in self.outputs]
        return self.count(self.read_targets([told]), np.array([self.predicted_of(output)]))

    @abc.abstractmethod
    def predicted_of(self, output: Mapping[str, Any]) -> list[float]:
        """What is predicted, in the order of the names, by what `describe_prediction` says."""


def _as_defined(targets: Mapping[str, Any], predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a `Definition` takes: the targets, where they are known, and what is predicted."""
    value, known = np.asarray(targets["value"], np.float64), np.asarray(targets["known"], bool)
    return value, known, np.asarray(predicted, np.float64)
