"""Numbers within ranges, such as sentiment, or valence, arousal and dominance. No JAX at import."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.metrics.definition import Definition
from mer_jax.metrics.definitions import DEFINITIONS
from mer_jax.metrics.metric import mean_sd
from mer_jax.metrics.regression import dimensions
from mer_jax.tasks.numbers import Numbers
from mer_jax.tasks.task import Arrays, Card

COVERED = 0.9  # of the predictions that the interval of `analyse` should hold
NEAR = 0.1  # two utterances are near whose numbers lie so far apart on average, as shares of their ranges
# Of the raters what `loss.regression=distribution` believes at least, in half ranges; also where it is unknown.
LEAST_SPREAD = 0.25


class Regression(Numbers):
    """A model's values are numbers from -1 to 1 over each range, linearly, and may lie beyond; losses are in these
    units. Targets have `spread`, too, Float32[rows, names], where the raters' is learnt by: in the same units."""

    name: ClassVar[str] = "regression"
    right_or_wrong = False
    report_sections: ClassVar[str] = "mer_jax.report.sections_regression"
    floor_in_words: ClassVar[str] = "the median of training"
    no_divergence = "numbers are no distribution over the labels, which it compares with another one"
    no_members = "numbers are no members of a label, whose mean could be taken"
    takes = ("regression",)

    def define(self) -> Definition:
        if self.target.definition in DEFINITIONS:
            return DEFINITIONS[self.target.definition].make(self.target.names)
        return dimensions(self.target.names)

    @property
    def _middle(self) -> np.ndarray:
        return np.array(self.target.ranges, np.float32).mean(1)

    @property
    def _half(self) -> np.ndarray:
        low, high = np.array(self.target.ranges, np.float32).T
        return (high - low) / 2

    def targets(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> dict[str, np.ndarray]:
        """soft: `spread` is what the raters' is, not below LEAST_SPREAD."""
        found = super().targets(corpus, rows, soft=soft)
        spread = corpus.spreads(self.outputs, rows) / self._half if soft else np.full_like(found["value"], np.nan)
        return found | {"spread": np.fmax(spread, np.float32(LEAST_SPREAD)).astype(np.float32)}

    def refuse_soft(self, corpus: Corpus, settings: Any, *, soft: bool) -> None:
        by_raters = settings is not None and settings.regression == "distribution"
        if by_raters and not soft:
            raise UserError("--config.loss.regression=distribution: learns by the raters' spread; add "
                            "--config.data.soft_labels=True")  # fmt: skip
        if soft and not by_raters:
            raise UserError(
                f"--config.data.soft_labels=True: of target {self.asked!r} the raters' spread is learnt by "
                "--config.loss.regression=distribution alone; add that, or leave it off"
            )
        rows = np.flatnonzero(corpus.has(self.asked))
        if soft and np.isnan(corpus.spreads(self.outputs, rows)).all():
            name = corpus.manifest["name"]
            raise UserError(
                f"--config.data.soft_labels=True: corpus {name!r} does not say how far its raters lay apart in target "
                f"{self.asked!r}; leave it off"
            )

    def training_note(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> str:
        notes = [super().training_note(corpus, rows, soft=soft)]
        if soft:
            known = (~np.isnan(corpus.spreads(self.outputs, rows))).sum(0)
            each = ", ".join(f"{n} {name}" for name, n in zip(self.outputs, known, strict=True))
            notes.append(
                f"the raters' spread is known of {each}; elsewhere {LEAST_SPREAD:g} of half a range stands for it"
            )
        return "; ".join(note for note in notes if note)

    def describe_targets(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """`numbers`: of each how many are known, their mean and standard deviation."""
        found = {}
        for i, name in enumerate(self.outputs):
            values = targets["value"][targets["known"][:, i], i].astype(np.float64)
            found[name] = {"known": len(values), **{n: v and round(v, 6) for n, v in mean_sd(values.tolist()).items()}}
        return {"numbers": found}

    def prior(self, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Nothing."""
        return np.zeros(1, np.float32)  # no checkpoint holds an empty array

    def loss(self, values: Any, targets: Arrays, weight: Any, *, prior: Any, settings: Any) -> Any:
        """The mean over the numbers of what `loss.regression` says, in half ranges."""
        import jax.numpy as jnp

        from mer_jax.models.losses import column_mean, concordance, regression_error

        target, _ = self.degrees(targets)
        if settings.regression == "ccc":
            return concordance(values, target, weight, targets["known"])
        # A row that is only heard, or fills up, has a spread of 0; to divide by it would leave no gradient at all.
        spread = jnp.where(targets["known"], targets["spread"], 1)
        each = regression_error(values, target, spread, kind=settings.regression, huber_delta=settings.huber_delta)
        return column_mean(each, weight, targets["known"])

    def error(self, values: Any, targets: Arrays) -> Any:
        """The absolute error in half ranges."""
        return abs(values - self.degrees(targets)[0])

    def calibrate(self, values: Any, temperature: Any) -> Any:
        """The numbers in their own units."""
        return values * self._half[None] + self._middle[None]

    def distance(self, teacher: Any, values: Any) -> Any:
        """The mean over the numbers of their squared difference, in units of half a range."""
        return ((teacher - values) ** 2).mean(-1)

    def similar(self, targets: Arrays) -> Any:
        """Those whose numbers that both have lie less than NEAR of their ranges apart, on average [ours]."""
        import jax.numpy as jnp

        both = targets["known"][:, None] & targets["known"][None]
        apart = jnp.abs(targets["value"][:, None] - targets["value"][None]) / (2 * self._half[None, None])
        count = both.sum(-1).astype(apart.dtype)
        return (jnp.where(both, apart, 0).sum(-1) <= NEAR * count) & (count > 0)

    def members(self, targets: Arrays) -> Any:
        raise NotImplementedError("numbers have no members; LSGMERExperiment.check_task refuses it")

    def degrees(self, targets: Arrays) -> tuple[Any, Any]:
        """The numbers in half ranges from their middle."""
        return (targets["value"] - self._middle[None]) / self._half[None], targets["known"]

    def analyse(
        self, valid: Mapping[str, Any], test: Mapping[str, Any] | None, truth: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`calibration`: the half width of an interval about every number that should hold COVERED of them, by the
        validation part (split conformal prediction, Lei et al. 2018, arXiv 1604.04173), and what share of the test part
        it holds. Utterances of which training knows something do not count: errors are smaller there than on new ones.
        None where too few are left: it takes as many as make the share of one of them 1 - COVERED."""
        known, error = truth["valid"]["known"], np.abs(valid["predicted"] - truth["valid"]["value"])
        if (knowing := truth.get("knowing")) is not None:
            known = known & ~knowing[:, None]
        widths = {}
        for i, name in enumerate(self.outputs):
            sizes = np.sort(error[known[:, i], i].astype(np.float64))
            rank = int(np.ceil((len(sizes) + 1) * COVERED))
            widths[name] = float(sizes[rank - 1]) if 0 < rank <= len(sizes) else None
        found: dict[str, Any] = {"covered": COVERED, "half_width": widths}
        if test is not None:
            error, known = np.abs(test["predicted"] - truth["test"]["value"]), truth["test"]["known"]
            within = {
                name: float((error[known[:, i], i] <= width).mean()) if (width := widths[name]) is not None else None
                for i, name in enumerate(self.outputs)
            }
            found["test"] = within
        return {"calibration": found}

    def pool_calibration(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {"covered": COVERED}
        for part in ("half_width", "test"):
            if all(part in result["calibration"] for result in results):
                every = {n: [result["calibration"][part][n] for result in results] for n in self.outputs}
                found[part] = {n: mean_sd([v for v in values if v is not None]) for n, values in every.items()}
        return {"calibration": found}

    def print_analysis(self, point: Mapping[str, Any], selects_on: str) -> None:
        from mer_jax.tasks import numbers_console

        numbers_console.print_coverage(point["calibration"], selects_on)

    def floor(self, train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> np.ndarray:
        """The median of the training part is said of every utterance."""
        known = zip(train["value"].T, train["known"].T, strict=True)
        median = [float(np.median(value[of])) for value, of in known]
        return self.count(test, np.tile(np.array(median), (len(test["value"]), 1)))

    def describe_ensemble(
        self, counts: np.ndarray, predicted: np.ndarray, targets: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        return {}

    def describe_prediction(self, predicted: np.ndarray, digits: int | None = None) -> dict[str, Any]:
        """`prediction`: the numbers by their names."""
        values = [float(v) if digits is None else round(float(v), digits) for v in predicted]
        return {"prediction": dict(zip(self.outputs, values, strict=True))}

    def read_prediction(self, line: Mapping[str, Any]) -> tuple[Any, Sequence[float]]:
        values = self._numbers(line.get("prediction"), "prediction")
        return values, values

    def predicted_of(self, output: Mapping[str, Any]) -> list[float]:
        return [output["prediction"][name] for name in self.outputs]

    def prediction_in_words(self, predicted: np.ndarray) -> str:
        return ", ".join(f"{name} {value:.2f}" for name, value in zip(self.outputs, predicted.tolist(), strict=True))

    def mistakes(self, predicted: np.ndarray, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Every row of which a number is known, the largest error first, in half ranges and as the mean over them."""
        known = targets["known"]
        error = np.where(known, np.abs(predicted - targets["value"]) / self._half, 0).sum(1)
        mean = error / np.maximum(known.sum(1), 1)
        order = np.argsort(-mean, kind="stable")
        return order[np.any(known, axis=1)[order]]

    def explained_output(self, predicted: np.ndarray) -> np.ndarray:
        return np.abs((predicted - self._middle) / self._half).argmax(-1)

    def temperature_of(self, result: Mapping[str, Any]) -> float:
        return 1.0

    def describe_calibration(self, result: Mapping[str, Any], selects_on: str) -> str:
        widths = result["calibration"]["half_width"].items()
        each = ", ".join(f"{name} ± {width:.3g}" for name, width in widths if width is not None)
        held = f"{100 * COVERED:.0f} % of the numbers lie within {each}, by the {selects_on} part"
        few = f"the {selects_on} part has too few numbers of which training knows nothing"
        return held if each else f"no interval is known: {few}"

    def shares(self, output: Mapping[str, Any]) -> dict[str, float]:
        """Where each number lies in its range."""
        low, span = self._middle - self._half, 2 * self._half
        where = (np.array(self.predicted_of(output)) - low) / span if output["prediction"] else np.zeros(self.width)
        return dict(zip(self.outputs, np.clip(where, 0, 1).tolist(), strict=True))

    def share_in_words(self, output: Mapping[str, Any], name: str) -> str:
        return f"{output['prediction'][name]:.2f}"

    def output_in_words(self, output: Mapping[str, Any]) -> str:
        return self.prediction_in_words(np.array(self.predicted_of(output)))

    def explained_in_words(self, output: Mapping[str, Any]) -> str:
        return self.outputs[int(self.explained_output(np.array([self.predicted_of(output)]))[0])]

    def describe_export(self) -> dict[str, Any]:
        output = {"name": "values", "shape": ["batch", self.width], "dtype": "float32"}
        return {"output": output, "names": list(self.outputs), "ranges": [list(r) for r in self.target.ranges]}

    def card(self, modalities: Sequence[str], result: Mapping[str, Any], selects_on: str) -> Card:
        from mer_jax.tasks import numbers_card

        return numbers_card.of_regression(self.target, modalities, result, selects_on)
