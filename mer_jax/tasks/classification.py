"""One class of several for every utterance. No JAX at import: reports and comparisons read results without it."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mer_jax.data.corpus import Corpus
from mer_jax.data.targets import CLASSES, Target
from mer_jax.errors import UserError
from mer_jax.metrics.calibration import calibration, choose_temperature, soft_label_metrics
from mer_jax.metrics.classification import METRICS, scores
from mer_jax.metrics.metric import mean_sd
from mer_jax.metrics.significance import by_dialogue
from mer_jax.tasks import classification_results
from mer_jax.tasks.calibrated import Calibrated, calibrated
from mer_jax.tasks.task import Arrays, Card, Evaluation

RATERS = ("nll", "jensen_shannon", "agreement", "agreement_at_most")


class Classification(Calibrated):
    """labels: the classes' names, in the order of the model's logits. number: of the record, which counts through them;
    without one the class is the record's label. Targets are `label`, Int32[rows], and `target`, Float32[rows, classes],
    the distribution to learn: all on the label, or as the raters say."""

    name: ClassVar[str] = "classification"
    report_sections: ClassVar[str] = "mer_jax.report.sections_classification"
    metrics = METRICS
    takes = ("imbalance",)

    def __init__(self, labels: Sequence[str], number: str = ""):
        self.labels = self.outputs = tuple(labels)
        self.number, self.asked = number, CLASSES

    @classmethod
    def of_target(cls, target: Target) -> "Classification":
        """The task of a corpus's target."""
        found = cls(target.outputs, "".join(target.names))
        found.asked = target.name
        return found

    @classmethod
    def of_results(cls, metrics: Mapping[str, Any]) -> "Classification":
        """The task of a finished run; raises ValueError if its classes are not named."""
        classification_results.check_labels(metrics)
        found = cls(metrics["labels"], metrics.get("number", ""))
        found.asked = metrics.get("target", CLASSES)
        return found

    def describe(self) -> dict[str, Any]:
        number = {"number": self.number, "target": self.asked} if self.number else {}
        return {"labels": list(self.labels), **number}

    def check_results(self, metrics: Mapping[str, Any]) -> None:
        classification_results.check(metrics, self.labels)

    def targets(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> dict[str, np.ndarray]:
        """`soft`: what is learnt is what the raters say, where any of them chose a class."""
        label = self._label_ids(corpus, rows)
        target = np.eye(self.width, dtype=np.float32)[label]
        if soft:
            raters = self.raters(corpus, rows)
            target = np.where(raters.any(1, keepdims=True), raters, target)
        return {"label": label, "target": target}

    def _label_ids(self, corpus: Corpus, rows: np.ndarray) -> np.ndarray:
        if not self.number:
            return corpus.label_ids(rows)
        return corpus.values((self.number,), rows)[:, 0].astype(np.int32)

    def raters(self, corpus: Corpus, rows: np.ndarray) -> np.ndarray:
        """The raters' distributions, Float32[rows, classes]: zeros where nobody's vote is known."""
        if not self.number:
            return corpus.soft_labels(rows)
        return np.zeros((len(rows), self.width), np.float32)

    def refuse_soft(self, corpus: Corpus, settings: Any, *, soft: bool) -> None:
        if soft and (self.number or not corpus.manifest.get("voted")):
            raise UserError(
                f"--config.data.soft_labels=True: corpus {corpus.manifest['name']!r} does not say how its raters "
                "voted; leave it off"
            )

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
        voted = self.raters(corpus, rows).any(1)
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
            self.logits(values),
            targets["target"],
            prior=prior,
            imbalance=settings.imbalance,
            focal_gamma=settings.focal_gamma,
            class_weight_power=settings.class_weight_power,
            logit_adjustment_tau=settings.logit_adjustment_tau,
            label_smoothing=settings.label_smoothing,
        )
        return weighted_mean(each, weight)

    def divergence(self, values: Any, similarity: Any) -> Any:
        """JS(q, p), p = softmax(logits), q = softmax(similarity): APC of LSGMER (arXiv 2504.05158)."""
        import jax

        from mer_jax.models.losses import jensen_shannon

        return jensen_shannon(jax.nn.log_softmax(self.logits(values)), jax.nn.log_softmax(similarity))

    def distance(self, teacher: Any, values: Any) -> Any:
        """KL(teacher || values) of the classes' probabilities, in nats."""
        import jax

        from mer_jax.models.losses import kullback_leibler

        return kullback_leibler(*(jax.nn.log_softmax(self.logits(x)) for x in (teacher, values)))

    def similar(self, targets: Arrays) -> Any:
        """Those of one class."""
        return targets["label"][:, None] == targets["label"][None]

    def members(self, targets: Arrays) -> Any:
        import jax

        return jax.nn.one_hot(targets["label"], self.width)

    def evaluate(self, values: Any, targets: Arrays, weight: Any) -> Evaluation:
        """`loss` is the cross entropy in nats; `confusion`: Int[classes, classes]; `predicted`: the
        probabilities, [batch, classes]."""
        import jax
        import jax.numpy as jnp

        from mer_jax.metrics.confusion import confusion
        from mer_jax.models.losses import weighted_mean

        log_p = jax.nn.log_softmax(self.logits(values))
        nll = -jnp.take_along_axis(log_p, targets["label"][:, None], axis=1)[:, 0]
        return Evaluation(
            means={"loss": weighted_mean(nll, weight) * weight.sum()},
            counts={"confusion": confusion(self.logits(values), targets["label"], weight)},
            rows={"predicted": jnp.exp(log_p)},
        )

    def decide(self, values: Any) -> Any:
        """The class of the largest logit, Int32[batch]."""
        return self.logits(values).argmax(-1).astype(np.int32)

    def calibrate(self, values: Any, temperature: Any) -> Any:
        """Temperature-scaled probabilities."""
        import jax

        return jax.nn.softmax(self.logits(values) / temperature, axis=-1)

    def explained(self, logits: Any) -> Any:
        """The logit of the predicted class."""
        import jax

        return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])

    def score(self, evaluated: Mapping[str, Any]) -> dict[str, Any]:
        return {"loss": evaluated["loss"], **self.scores(evaluated["confusion"])}

    def scores(self, confusion: np.ndarray) -> dict[str, Any]:
        """What is printed of a confusion matrix."""
        return scores(confusion, self.labels)

    def analyse(
        self, valid: Mapping[str, Any], test: Mapping[str, Any] | None, truth: Mapping[str, Any]
    ) -> dict[str, Any]:
        """`calibration` as it is and after temperature scaling by the validation part, where `choose_temperature` finds
        that it helps; `raters`, where their votes are known."""
        scaling = choose_temperature(
            valid["predicted"], truth["valid"]["label"], truth.get("dialogues"), truth.get("knowing")
        )
        tested = None if test is None else (test["predicted"], truth["test"]["label"])
        found: dict[str, Any] = {"calibration": calibrated(scaling, tested)}
        if test is None:
            return found
        if truth["raters"].any():
            found["raters"] = soft_label_metrics(test["predicted"], truth["raters"])
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
        found = self.pool_calibration(results)
        if not all("test" in result for result in results):
            return found
        found["pooled"] = self.scores(np.sum([result["test"]["confusion"] for result in results], axis=0))
        if all("raters" in result for result in results):
            found["raters"] = {name: mean_sd([r["raters"][name] for r in results]) for name in RATERS}
        return found

    def describe_ensemble(
        self, counts: np.ndarray, predicted: np.ndarray, targets: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        found = self.scores(counts)
        return {
            "per_class": found["per_class"],
            "confusion": found["confusion"],
            "calibration": calibration(predicted, targets["label"]),
        }

    def print_part(self, title: str, scores: Mapping[str, Any]) -> None:
        from mer_jax.tasks import classification_console

        classification_console.print_classes(title, scores, self.metrics)

    def decisions(self, predicted: np.ndarray) -> np.ndarray:
        return predicted.argmax(-1)

    def describe_prediction(self, predicted: np.ndarray, digits: int | None = None) -> dict[str, Any]:
        """`prediction`, the class's name, and `probabilities` by class name."""
        values = [float(p) if digits is None else round(float(p), digits) for p in predicted]
        probabilities = dict(zip(self.labels, values, strict=True))
        return {"prediction": self.labels[int(predicted.argmax())], "probabilities": probabilities}

    def describe_target(self, targets: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """`label`, the class's name."""
        return {"label": self.labels[int(targets["label"][row])]}

    def read_target(self, line: Mapping[str, Any]) -> Hashable:
        """The class's name."""
        if line.get("label") not in self.labels:
            raise ValueError(f"label {line.get('label')!r} is none of {', '.join(self.labels)}")
        return line["label"]

    def read_prediction(self, line: Mapping[str, Any]) -> tuple[Any, Sequence[float]]:
        """The number of the class, and the probabilities in the order of the classes."""
        if line.get("prediction") not in self.labels:
            raise ValueError(f"prediction {line.get('prediction')!r} is none of {', '.join(self.labels)}")
        probabilities = line.get("probabilities")
        if not isinstance(probabilities, dict) or probabilities.keys() != set(self.labels):
            raise ValueError("its probabilities are not one per label")
        values = [probabilities[name] for name in self.labels]
        possible = all(isinstance(value, int | float) and value >= 0 for value in values)
        if not possible or not math.isclose(sum(values), 1, abs_tol=1e-3):
            raise ValueError("its probabilities do not sum to 1")
        return self.labels.index(line["prediction"]), values

    def read_targets(self, told: Sequence[Any]) -> dict[str, np.ndarray]:
        return {"label": np.array([self.labels.index(label) for label in told], np.int64)}

    def target_in_words(self, told: Any) -> str:
        return told

    def prediction_in_words(self, predicted: np.ndarray) -> str:
        return self.labels[int(predicted.argmax())]

    def states(self, corpus: Corpus) -> np.ndarray | None:
        """The names of the classes."""
        if not self.number:
            return corpus.index["label"]
        value = corpus.values((self.number,), np.arange(len(corpus)))[:, 0]
        names = np.array([*self.labels, ""])
        return names[np.where(np.isnan(value), self.width, value).astype(int)]

    def confidence(self, predicted: np.ndarray) -> np.ndarray | None:
        """The largest probability."""
        return predicted.max(-1)

    def mistakes(self, predicted: np.ndarray, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Those with the highest probability of a wrong class first."""
        wrong = np.flatnonzero(predicted.argmax(1) != targets["label"])
        return wrong[np.argsort(-predicted[wrong].max(1), kind="stable")]

    def explained_output(self, predicted: np.ndarray) -> np.ndarray:
        return predicted.argmax(-1)

    def count_prediction(self, label: str, values: Mapping[str, float], output: Mapping[str, Any]) -> np.ndarray | None:
        if self.number in values:
            label = self.labels[int(values[self.number])]
        if label not in self.labels:
            return None
        true, predicted = self.labels.index(label), self.labels.index(output["prediction"])
        return self.count({"label": np.array([true])}, np.array([predicted]))

    def describe_export(self) -> dict[str, Any]:
        output = {"name": "probabilities", "shape": ["batch", self.width], "dtype": "float32"}
        return {"output": output, "labels": list(self.labels)}

    def card(self, modalities: Sequence[str], result: Mapping[str, Any], selects_on: str) -> Card:
        from mer_jax.tasks import classification_card

        return classification_card.card(self.labels, modalities, result, selects_on)
