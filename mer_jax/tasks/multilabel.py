"""Several emotions at once, each there or not. No JAX at import."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mer_jax.errors import UserError
from mer_jax.metrics.calibration import calibration, choose_temperature
from mer_jax.metrics.definition import Definition
from mer_jax.metrics.multilabel import PRESENT, decided, emotions
from mer_jax.settings import LossSettings
from mer_jax.tasks.calibrated import Calibrated, calibrated
from mer_jax.tasks.numbers import Numbers
from mer_jax.tasks.task import Arrays, Card

NONE = "none"  # what is said where no emotion is there


class Multilabel(Calibrated, Numbers):
    """A model's values are logits, one for each emotion; predicted is the probability that it is there. What a record
    holds is how strong each emotion is: `Target.present_from` says from where on it is there. Targets have `present`,
    too, Float32[rows, emotions]: 1 where it is, 0 where not; where raters are learnt by, how strong it is as a share of
    its range."""

    name: ClassVar[str] = "multilabel"
    report_sections: ClassVar[str] = "mer_jax.report.sections_multilabel"
    floor_in_words: ClassVar[str] = "every emotion's share in training"
    takes = ("imbalance", "multilabel")

    def define(self) -> Definition:
        return emotions(self.target.names, self.target.present_from)

    def targets(self, corpus: Any, rows: np.ndarray, *, soft: bool) -> dict[str, np.ndarray]:
        """soft: what is learnt is how strong an emotion is, from 0 to 1 over its range: the share of raters who saw it,
        where each said yes or no [ours]."""
        found = super().targets(corpus, rows, soft=soft)
        low, high = np.array(self.target.ranges, np.float32).T
        present = (found["value"] - low) / (high - low) if soft else self.present(found)
        return found | {"present": np.where(found["known"], present, 0).astype(np.float32)}

    def present(self, targets: Mapping[str, Any]) -> Any:
        """Which emotions are there, Bool[rows, emotions]."""
        return PRESENT[self.target.present_from](targets["value"]) & targets["known"]

    def refuse_settings(self, settings: Any) -> None:
        super().refuse_settings(settings)
        if settings.imbalance == "balanced_softmax":
            raise UserError(
                "--config.loss.imbalance=balanced_softmax: is of one class out of several; several emotions at once "
                "take none, class_weights, focal or logit_adjustment"
            )
        if settings.imbalance != LossSettings.imbalance and settings.multilabel == "asymmetric":
            raise UserError(
                f"--config.loss.imbalance={settings.imbalance}: the asymmetric loss is an answer to imbalance itself; "
                "leave it off, or --config.loss.multilabel=asymmetric"
            )

    def names_of(self, there: np.ndarray) -> str:
        """Those of the emotions that are there, Bool[emotions], `happy|surprise`, or `none`."""
        return "|".join(name for name, on in zip(self.outputs, there, strict=True) if on) or NONE

    def describe_targets(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """`emotions`: of each how many are known and how many there."""
        present, known = self.present(targets).sum(0).tolist(), targets["known"].sum(0).tolist()
        each = zip(self.outputs, present, known, strict=True)
        return {"emotions": {name: {"present": there, "known": n} for name, there, n in each}}

    def target_counts(self, described: Mapping[str, Any]) -> dict[str, int]:
        return {name: found["present"] for name, found in described.get("emotions", {}).items()}

    def gaps(self, described: Mapping[str, Any]) -> str:
        absent = [name for name, found in described["emotions"].items() if not found["present"]]
        return f"in no training utterance is {', '.join(absent)}" if absent else ""

    def prior(self, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Every emotion's share of the training part, Float32[emotions]."""
        known = np.maximum(targets["known"].sum(0), 1)
        return (targets["present"].sum(0, dtype=np.float64) / known).astype(np.float32)

    def loss(self, values: Any, targets: Arrays, weight: Any, *, prior: Any, settings: Any) -> Any:
        """The mean over the emotions of `loss.multilabel`."""
        from mer_jax.models.losses import asymmetric, binary_cross_entropy, column_mean

        if settings.multilabel == "asymmetric":
            each = asymmetric(
                values,
                targets["present"],
                gamma_present=settings.asymmetric_gamma_present,
                gamma_absent=settings.asymmetric_gamma_absent,
                margin=settings.asymmetric_margin,
            )
        else:
            each = binary_cross_entropy(
                values,
                targets["present"],
                prevalence=prior,
                imbalance=settings.imbalance,
                focal_gamma=settings.focal_gamma,
                class_weight_power=settings.class_weight_power,
                logit_adjustment_tau=settings.logit_adjustment_tau,
                label_smoothing=settings.label_smoothing,
            )
        return column_mean(each, weight, targets["known"])

    def error(self, values: Any, targets: Arrays) -> Any:
        """The binary cross entropy in nats."""
        import jax.numpy as jnp

        from mer_jax.models.losses import binary_cross_entropy

        prevalence = jnp.full(self.width, 0.5, jnp.float32)
        return binary_cross_entropy(values, self.present(targets).astype(jnp.float32), prevalence=prevalence)

    def calibrate(self, values: Any, temperature: Any) -> Any:
        """Temperature-scaled probabilities."""
        import jax

        return jax.nn.sigmoid(values / temperature)

    def explained(self, logits: Any) -> Any:
        """The logit of the likeliest emotion."""
        import jax

        return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])

    def divergence(self, values: Any, similarity: Any) -> Any:
        """The mean over the emotions of JS between Bernoulli(sigmoid(value)) and Bernoulli(sigmoid(similarity))
        [ours]."""
        from mer_jax.models.losses import jensen_shannon_bernoulli

        return jensen_shannon_bernoulli(values, similarity)

    def distance(self, teacher: Any, values: Any) -> Any:
        """The mean over the emotions of KL(Bernoulli(sigmoid(teacher)) || Bernoulli(sigmoid(value)))."""
        from mer_jax.models.losses import bernoulli_logs, kullback_leibler

        return kullback_leibler(*map(bernoulli_logs, (teacher, values))).mean(-1)

    def similar(self, targets: Arrays) -> Any:
        """Those that have an emotion in common, or both none [ours]."""
        import jax.numpy as jnp

        there = targets["present"] > 0
        common = (there[:, None] & there[None]).any(-1)
        return jnp.where(there.any(-1)[:, None] | there.any(-1)[None], common, True)

    def members(self, targets: Arrays) -> Any:
        return targets["present"]

    def degrees(self, targets: Arrays) -> tuple[Any, Any]:
        return super().degrees(targets)[0], targets["known"]

    def analyse(
        self, valid: Mapping[str, Any], test: Mapping[str, Any] | None, truth: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`calibration` of presence and absence, of all emotions together: as `Classification.analyse`, each emotion of
        an utterance being a row of two classes."""
        known, rows = truth["valid"]["known"], np.arange(len(truth["valid"]["known"]))
        at = np.repeat(rows[:, None], self.width, 1)[known]
        beside = {name: truth[name][at] if truth.get(name) is not None else None for name in ("dialogues", "knowing")}
        p, y = self._flat(valid["predicted"], truth["valid"])
        scaling = choose_temperature(p, y, beside["dialogues"], beside["knowing"], "emotions of utterances")
        tested = None if test is None else self._flat(test["predicted"], truth["test"])
        return {"calibration": calibrated(scaling, tested)}

    def _flat(self, predicted: np.ndarray, targets: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Of every known emotion of every row the probabilities of absence and presence, and which it is."""
        p, y = predicted[targets["known"]], self.present(targets)[targets["known"]]
        return np.stack([1 - p, p], 1).astype(np.float64), y.astype(np.int64)

    def floor(self, train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> np.ndarray:
        """Every emotion's share of the training part is its probability in every utterance."""
        share = self.present(train).sum(0) / np.maximum(train["known"].sum(0), 1)
        return self.count(test, np.tile(share, (len(test["value"]), 1)))

    def describe_ensemble(
        self, counts: np.ndarray, predicted: np.ndarray, targets: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        return {"calibration": calibration(*self._flat(predicted, targets))}

    def describe_prediction(self, predicted: np.ndarray, digits: int | None = None) -> dict[str, Any]:
        """`prediction`, the emotions that are there, `happy|surprise`, or `none`, and `probabilities` by emotion."""
        values = [float(p) if digits is None else round(float(p), digits) for p in predicted]
        return {
            "prediction": self.names_of(decided(predicted)),
            "probabilities": dict(zip(self.outputs, values, strict=True)),
        }

    def read_prediction(self, line: Mapping[str, Any]) -> tuple[Any, Sequence[float]]:
        values, told = self._numbers(line.get("probabilities"), "probabilities"), line.get("prediction")
        if not isinstance(told, str) or not {*told.split("|")} <= {*self.outputs, NONE}:
            raise ValueError(f"prediction {told!r} is not some of {', '.join(self.outputs)} with | between, or {NONE}")
        if not all(0 <= value <= 1 for value in values):
            raise ValueError("a probability is not between 0 and 1")
        return values, values

    def predicted_of(self, output: Mapping[str, Any]) -> list[float]:
        return [output["probabilities"][name] for name in self.outputs]

    def prediction_in_words(self, predicted: np.ndarray) -> str:
        return self.describe_prediction(predicted)["prediction"]

    def states(self, corpus: Any) -> np.ndarray | None:
        """The emotions that are there."""
        found = super().targets(corpus, np.arange(len(corpus)), soft=False)
        words = [self.names_of(row) for row in self.present(found)]
        return np.where(found["known"].all(1), words, "")

    def confidence(self, predicted: np.ndarray) -> np.ndarray | None:
        """The probability of the likeliest set of emotions, taking them as independent."""
        return np.maximum(predicted, 1 - predicted).prod(-1)

    def mistakes(self, predicted: np.ndarray, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Rows of which an emotion is wrong, the highest probability of a wrong answer first."""
        wrong = (decided(predicted) != self.present(targets)) & targets["known"]
        sure = np.where(wrong, np.maximum(predicted, 1 - predicted), 0).max(1)
        rows = np.flatnonzero(wrong.any(1))
        return rows[np.argsort(-sure[rows], kind="stable")]

    def explained_output(self, predicted: np.ndarray) -> np.ndarray:
        return predicted.argmax(-1)

    def describe_export(self) -> dict[str, Any]:
        output = {"name": "probabilities", "shape": ["batch", self.width], "dtype": "float32"}
        return {"output": output, "names": list(self.outputs), "present_above": 0.5}

    def card(self, modalities: Sequence[str], result: Mapping[str, Any], selects_on: str) -> Card:
        from mer_jax.tasks import numbers_card

        return numbers_card.of_multilabel(self.target, modalities, result, selects_on)
