"""One class of several for every utterance. No JAX at import: reports and comparisons read results without it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mer_jax.data.corpus import Corpus
from mer_jax.metrics.calibration import (
    CALIBRATION,
    calibration,
    choose_temperature,
    scaling_in_words,
    soft_label_metrics,
    temperature_scale,
)
from mer_jax.metrics.classification import METRICS, scores
from mer_jax.metrics.metric import mean_sd
from mer_jax.metrics.significance import by_dialogue
from mer_jax.tasks import classification_results
from mer_jax.tasks.task import Arrays, Card, Evaluation, Task

RATERS = ("nll", "jensen_shannon", "agreement", "agreement_at_most")


class Classification(Task):
    """labels: the classes' names, in the order of the model's logits. Targets are `label`, Int32[rows], and `target`,
    Float32[rows, classes], the distribution to learn: all on the label, or as the raters say."""

    name: ClassVar[str] = "classification"
    report_sections: ClassVar[str] = "mer_jax.report.sections_classification"
    metrics = METRICS

    def __init__(self, labels: Sequence[str]):
        self.labels = tuple(labels)
        self.width = len(self.labels)

    @classmethod
    def of_results(cls, metrics: Mapping[str, Any]) -> "Classification":
        """The task of a finished run; raises ValueError if its classes are not named."""
        classification_results.check_labels(metrics)
        return cls(metrics["labels"])

    def check_results(self, metrics: Mapping[str, Any]) -> None:
        classification_results.check(metrics, self.labels)

    def targets(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> dict[str, np.ndarray]:
        """`soft`: what is learnt is what the raters say, where any of them chose a class."""
        label = corpus.label_ids(rows)
        target = np.eye(self.width, dtype=np.float32)[label]
        if soft:
            raters = corpus.soft_labels(rows)
            target = np.where(raters.any(1, keepdims=True), raters, target)
        return {"label": label, "target": target}

    def describe_targets(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        counts = np.bincount(targets["label"], minlength=self.width).tolist()
        return {"classes": dict(zip(self.labels, counts, strict=True))}

    def target_counts(self, described: Mapping[str, Any]) -> dict[str, int]:
        """Nothing of a locked test part."""
        return {name: described["classes"].get(name, 0) for name in self.labels} if "classes" in described else {}

    def gaps(self, described: Mapping[str, Any]) -> str:
        absent = [name for name, count in described["classes"].items() if not count]
        return f"no training utterance is {', '.join(absent)}" if absent else ""

    def training_note(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> str:
        if not soft:
            return ""
        voted = corpus.soft_labels(rows).any(1)
        return (
            f"learnt is what the raters say of {voted.sum()} training utterances; of {(~voted).sum()}, where none of"
            " them chose a class, the label"
        )

    def prior(self, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Every class's share of the training part, Float32[classes]."""
        return targets["target"].mean(0, dtype=np.float64).astype(np.float32)

    def loss(self, values: Any, targets: Arrays, weight: Any, *, prior: Any, settings: Any) -> Any:
        """The mean of `losses.cross_entropy`."""
        from mer_jax.models.losses import cross_entropy, weighted_mean

        each = cross_entropy(
            values,
            targets["target"],
            prior=prior,
            imbalance=settings.imbalance,
            focal_gamma=settings.focal_gamma,
            class_weight_power=settings.class_weight_power,
            logit_adjustment_tau=settings.logit_adjustment_tau,
            label_smoothing=settings.label_smoothing,
        )
        return weighted_mean(each, weight)

    def evaluate(self, values: Any, targets: Arrays, weight: Any) -> Evaluation:
        """`loss` is the cross entropy in nats; `confusion`: Int[classes, classes]; `predicted`: the
        probabilities, [batch, classes]."""
        import jax
        import jax.numpy as jnp

        from mer_jax.metrics.confusion import confusion
        from mer_jax.models.losses import weighted_mean

        log_p = jax.nn.log_softmax(values)
        nll = -jnp.take_along_axis(log_p, targets["label"][:, None], axis=1)[:, 0]
        return Evaluation(
            means={"loss": weighted_mean(nll, weight) * weight.sum()},
            counts={"confusion": confusion(values, targets["label"], weight)},
            rows={"predicted": jnp.exp(log_p)},
        )

    def decide(self, values: Any) -> Any:
        """The class of the largest logit, Int32[batch]."""
        return values.argmax(-1).astype(np.int32)

    def calibrate(self, values: Any, temperature: Any) -> Any:
        """Temperature-scaled probabilities."""
        import jax

        return jax.nn.softmax(values / temperature, axis=-1)

    def explained(self, values: Any) -> Any:
        """The logit of the predicted class."""
        import jax

        return jax.nn.one_hot(values.argmax(-1), values.shape[-1])

    def score(self, evaluated: Mapping[str, Any]) -> dict[str, Any]:
        return {"loss": evaluated["loss"], **scores(evaluated["confusion"], self.labels)}

    def analyse(
        self, valid: Mapping[str, Any], test: Mapping[str, Any] | None, truth: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`calibration` as it is and after temperature scaling by the validation part, where `choose_temperature` finds
        that it helps; `raters`, where their votes are known."""
        scaling = choose_temperature(
            valid["predicted"], truth["valid"]["label"], truth.get("dialogues"), truth.get("knowing")
        )
        temperature = scaling.temperature
        found: dict[str, Any] = {"calibration": {"temperature": temperature, "scaling": scaling.to_json()}}
        if test is None:
            return found
        label, p = truth["test"]["label"], test["predicted"]
        found["calibration"] |= {
            "test": calibration(p, label),
            "test_scaled": calibration(temperature_scale(p, temperature), label),
        }
        if truth["soft"].any():
            found["raters"] = soft_label_metrics(p, truth["soft"])
        return found

    def count(self, targets: Mapping[str, np.ndarray], decisions: np.ndarray) -> np.ndarray:
        """The confusion matrix, Int[classes, classes]."""
        cell = targets["label"].astype(np.int64) * self.width + decisions
        return np.bincount(cell, minlength=self.width**2).reshape(self.width, self.width)

    def count_by_dialogue(
        self, targets: Mapping[str, np.ndarray], decisions: np.ndarray, dialogues: np.ndarray
    ) -> np.ndarray:
        return by_dialogue(targets["label"], decisions, dialogues, self.width)[1]

    def floor(self, train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> np.ndarray:
        """The most frequent class is said of every utterance."""
        most = int(np.bincount(train["label"], minlength=self.width).argmax())
        return self.count(test, np.full(len(test["label"]), most))

    def pool(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`pooled`: the sum of all confusion matrices; the means of `calibration` and, where all have them,
        `raters`."""
        reasons = [r["calibration"]["scaling"]["reason"] for r in results]
        left_out = list(dict.fromkeys(reason for reason in reasons if reason))
        scaling = {"used": reasons.count(""), "of": len(reasons), "left_out": left_out}
        if not all("test" in result for result in results):
            return {"calibration": {"scaling": scaling}}
        pooled = scores(np.sum([result["test"]["confusion"] for result in results], axis=0), self.labels)
        found: dict[str, Any] = {"pooled": pooled}
        found["calibration"] = {
            when: {name: mean_sd([r["calibration"][when][name] for r in results]) for name in CALIBRATION}
            for when in ("test", "test_scaled")
        }
        found["calibration"]["scaling"] = scaling
        if all("raters" in result for result in results):
            found["raters"] = {name: mean_sd([r["raters"][name] for r in results]) for name in RATERS}
        return found

    def describe_ensemble(
        self, counts: np.ndarray, predicted: np.ndarray, targets: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        found = scores(counts, self.labels)
        return {
            "per_class": found["per_class"],
            "confusion": found["confusion"],
            "calibration": calibration(predicted, targets["label"]),
        }

    def print_part(self, title: str, scores: Mapping[str, Any]) -> None:
        from mer_jax.tasks import classification_console

        classification_console.print_classes(title, scores)

    def print_analysis(self, point: Mapping[str, Any], selects_on: str) -> None:
        from mer_jax.tasks import classification_console

        classification_console.print_calibration(point, selects_on)

    def decisions(self, predicted: np.ndarray) -> np.ndarray:
        return predicted.argmax(-1)

    def describe_prediction(self, predicted: np.ndarray, digits: int | None = None) -> dict[str, Any]:
        """`prediction`, the class's name, and `probabilities` by class name."""
        values = [float(p) if digits is None else round(float(p), digits) for p in predicted]
        probabilities = dict(zip(self.labels, values, strict=True))
        return {"prediction": self.labels[int(predicted.argmax())], "probabilities": probabilities}

    def read_prediction(self, line: Mapping[str, Any]) -> tuple[Any, Sequence[float]]:
        """The number of the class, and the probabilities in the order of the classes."""
        for field in ("label", "prediction"):
            if line.get(field) not in self.labels:
                raise ValueError(f"{field} {line.get(field)!r} is none of {', '.join(self.labels)}")
        probabilities = line.get("probabilities")
        if not isinstance(probabilities, dict) or probabilities.keys() != set(self.labels):
            raise ValueError("its probabilities are not one per label")
        values = [probabilities[name] for name in self.labels]
        possible = all(isinstance(value, int | float) and value >= 0 for value in values)
        if not possible or not math.isclose(sum(values), 1, abs_tol=1e-3):
            raise ValueError("its probabilities do not sum to 1")
        return self.labels.index(line["prediction"]), values

    def read_targets(self, labels: Sequence[str]) -> dict[str, np.ndarray]:
        return {"label": np.array([self.labels.index(label) for label in labels], np.int64)}

    def confidence(self, predicted: np.ndarray) -> np.ndarray:
        """The largest probability."""
        return predicted.max(-1)

    def mistakes(self, predicted: np.ndarray, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Those with the highest probability of a wrong class first."""
        wrong = np.flatnonzero(predicted.argmax(1) != targets["label"])
        return wrong[np.argsort(-predicted[wrong].max(1), kind="stable")]

    def decision_name(self, decision: Any) -> str:
        return self.labels[int(decision)]

    def decision_names(self) -> tuple[str, ...]:
        return self.labels

    def explained_output(self, predicted: np.ndarray) -> np.ndarray:
        return predicted.argmax(-1)

    def temperature_of(self, result: Mapping[str, Any]) -> float:
        return result["calibration"]["temperature"]

    def describe_calibration(self, result: Mapping[str, Any], selects_on: str) -> str:
        return f"probabilities are {scaling_in_words(result['calibration'], selects_on)}"

    def count_prediction(self, label: str, output: Mapping[str, Any]) -> np.ndarray | None:
        if label not in self.labels:
            return None
        true, predicted = self.labels.index(label), self.labels.index(output["prediction"])
        return self.count({"label": np.array([true])}, np.array([predicted]))

    def shares(self, output: Mapping[str, Any]) -> dict[str, float]:
        """The probabilities."""
        return output["probabilities"]

    def describe_export(self) -> dict[str, Any]:
        output = {"name": "probabilities", "shape": ["batch", self.width], "dtype": "float32"}
        return {"output": output, "labels": list(self.labels)}

    def card(self, modalities: Sequence[str], result: Mapping[str, Any], selects_on: str) -> Card:
        from mer_jax.tasks import classification_card

        return classification_card.card(self.labels, modalities, result, selects_on)
