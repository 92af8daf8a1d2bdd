"""What is predicted: the contract that every task keeps. Training, evaluation, prediction, export and report ask the
task; none of them knows whether the targets are classes, numbers or several labels at once. No JAX at import."""

import abc
import copy
import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.metrics.metric import Metric
from mer_jax.settings import LossSettings

Arrays = dict[str, Any]
CHOICES = ("imbalance", "regression", "multilabel", "task_weights")  # fields of LossSettings that some tasks have


@dataclasses.dataclass
class Evaluation:
    """What evaluating one batch gives, and, added up, a part. A pytree (registered in `training.step`).

    means: sums over the batch's real rows of what is averaged over a part; every task has `loss`. counts: what adds up
    over batches and dialogues. rows: one entry for each row of the batch, kept by utterance; every task has
    `predicted`, [batch, width]."""

    means: Arrays
    counts: Arrays
    rows: Arrays


@dataclasses.dataclass(frozen=True)
class Card:
    """What a task says in a model card, as Markdown. purpose: what the model does; targets: what its targets are, and
    what they are not; output: of the exported numbers, after their shape; scores: lines of tables below the table of
    metrics; limits: items of a list."""

    purpose: str
    targets: str
    output: str
    scores: Sequence[str]
    limits: str


class Task(abc.ABC):
    """One kind of target, of one corpus.

    metrics: the table of its scores. selects: the one by which a run chooses, if that is known. outputs: what each of
    the numbers is called that a model gives for an utterance. Values are what it gives, [rows, width]; what is
    predicted are the values as a person reads them, [rows, width]; decisions are what a model finally says of
    utterances, [rows] or [rows, width]. asked: the target's name. no_divergence: why `divergence` says nothing, if it
    does not; no_members: the same of `members`. takes: those of CHOICES that the task learns by. nearly: the
    scores that counts give only nearly, while `score` gives them exactly."""

    name: ClassVar[str]
    report_sections: ClassVar[str] = ""  # the module whose SECTIONS of a report only this task has
    metrics: Mapping[str, Metric]
    selects: str = ""
    right_or_wrong: bool = True  # whether a prediction is one or the other
    floor_in_words: ClassVar[str] = "the most frequent class"
    outputs: tuple[str, ...]
    asked: str = ""
    no_divergence: str = ""
    no_members: str = ""
    takes: tuple[str, ...] = ()
    nearly: frozenset[str] = frozenset()

    @property
    def width(self) -> int:
        """How many numbers a model gives for an utterance."""
        return len(self.outputs)

    def led_by(self, score: str) -> "Task":
        """The same task for a run that chooses by this score."""
        led = copy.copy(self)
        led.selects = score
        return led

    @property
    def main_metric(self) -> str:
        """The score that tables lead with: the one that selects, else the first of the table."""
        return self.selects if self.selects in self.metrics else next(iter(self.metrics))

    @property
    def headline(self) -> list[str]:
        """The scores that lines and tables show, in the order of the table: all, but for those of single outputs."""
        return list(self.metrics)

    @property
    def other_metrics(self) -> list[str]:
        """The scores of `headline` after the main one."""
        return [name for name in self.headline if name != self.main_metric]

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What metrics.json says of the task besides its name; a task is made of it again."""

    @abc.abstractmethod
    def check_results(self, metrics: Mapping[str, Any]) -> None:
        """Raises ValueError, naming the field, unless metrics.json has what is written of this task."""

    @abc.abstractmethod
    def targets(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> dict[str, np.ndarray]:
        """What is learnt of the corpus's utterances `rows`, an array [rows, …] by name. soft: as the raters say."""

    @abc.abstractmethod
    def describe_targets(self, targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What metrics.json says of a part's targets."""

    def target_counts(self, described: Mapping[str, Any]) -> dict[str, int]:
        """How many utterances of a part have each target, by what `describe_targets` says of it; nothing where targets
        cannot be counted."""
        return {}

    @abc.abstractmethod
    def gaps(self, described: Mapping[str, Any]) -> str:
        """What a training part lacks, in words, by what `describe_targets` says of it; nothing if all is there."""

    @abc.abstractmethod
    def training_note(self, corpus: Corpus, rows: np.ndarray, *, soft: bool) -> str:
        """What a person should know of what is learnt of the training utterances `rows`; often nothing."""

    def refuse_parts(self, corpus: Corpus, parts: Mapping[str, np.ndarray]) -> None:
        """Raises UserError where a part, utterances of the corpus by its name, cannot be learnt from or scored."""
        return

    def refuse_settings(self, settings: Any) -> None:
        """Raises UserError where `config.LossSettings` ask for what the task does not have."""
        for name in CHOICES:
            value, usual = getattr(settings, name), getattr(LossSettings, name)
            if name == "task_weights" and name not in self.takes and value:
                raise UserError(
                    f"--config.loss.task_weights={value}: weighs several targets, and {self.asked!r} is one; name them "
                    "all, as in --config.data.task=classes+vad, or leave it off"
                )
            if name not in self.takes and value != usual:
                raise UserError(
                    f"--config.loss.{name}={value}: is of other tasks; the target {self.asked!r} takes {usual}"
                )

    def refuse_soft(self, corpus: Corpus, settings: Any, *, soft: bool) -> None:
        """Raises UserError unless what raters say can be learnt, if it is to be (`soft`). settings:
        `config.LossSettings`, or None."""
        return

    def raters(self, corpus: Corpus, rows: np.ndarray) -> Any:
        """What is known of single raters of these utterances, as `analyse` takes it; None where that is nothing."""
        return None

    def label_words(self, manifest: Any) -> np.ndarray:
        """The embeddings of the words of the outputs, Float32[width, any]."""
        return np.asarray(manifest.targets[self.asked].embeddings, np.float32)

    @abc.abstractmethod
    def prior(self, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the loss needs to know of the training part's targets."""

    @abc.abstractmethod
    def loss(self, values: Any, targets: Arrays, weight: Any, *, prior: Any, settings: Any) -> Any:
        """The mean loss over the rows that count; settings: `config.LossSettings`, whose numbers may be arrays."""

    def divergence(self, values: Any, similarity: Any) -> Any:
        """How far what is predicted of every row lies from what the similarities to the outputs' labels say, in nats,
        [rows]; both [rows, width]. Asked for only where `no_divergence` is empty."""
        raise NotImplementedError

    @abc.abstractmethod
    def distance(self, teacher: Any, values: Any) -> Any:
        """How far the values lie from the teacher's, which they shall learn, [rows]; both [rows, width]."""

    @abc.abstractmethod
    def similar(self, targets: Arrays) -> Any:
        """Which rows of a batch are of one kind, Bool[rows, rows]: what a contrastive loss draws together."""

    @abc.abstractmethod
    def members(self, targets: Arrays) -> Any:
        """How far every row belongs to each output's label, Float[rows, width], from 0 to 1."""

    def degrees(self, targets: Arrays) -> tuple[Any, Any]:
        """What is true of every row as one number for each output, Float[rows, width], from -1 (no member of its label,
        or the low end of its range) to 1, and where that is known, Bool[rows, width]."""
        members = self.members(targets)
        return 2 * members - 1, members >= 0

    @abc.abstractmethod
    def evaluate(self, values: Any, targets: Arrays, weight: Any) -> Evaluation:
        """What is needed of a batch to score it."""

    @abc.abstractmethod
    def decide(self, values: Any) -> Any:
        """The decision on every row."""

    @abc.abstractmethod
    def calibrate(self, values: Any, temperature: Any) -> Any:
        """What is predicted of every row, [rows, width], calibrated by what `analyse` has fitted."""

    def logits(self, values: Any) -> Any:
        """What belongs to each output, [rows, width], larger where the output is likelier or larger; the values, unless
        these mean something together only."""
        return values

    @abc.abstractmethod
    def explained(self, logits: Any) -> Any:
        """Which of the outputs is explained of every row, as weights [rows, width] of its `logits`."""

    @abc.abstractmethod
    def score(self, evaluated: Mapping[str, Any]) -> dict[str, Any]:
        """What metrics.json says of a part: `loss`, the scores, and what else is printed of it."""

    @abc.abstractmethod
    def analyse(
        self, valid: Mapping[str, Any], test: Mapping[str, Any] | None, truth: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What else metrics.json says of a replica: calibration, agreement with raters. test: None while the test part
        is locked. truth: `valid` targets, and of the validation part `dialogues`, and `knowing`, Bool[rows]: of which
        utterances training knows something; of a test part `test` targets, and the raters' distributions, `soft`."""

    @abc.abstractmethod
    def count(self, targets: Mapping[str, np.ndarray], decisions: np.ndarray) -> np.ndarray:
        """The counts that `metrics` are functions of, by decisions."""

    @abc.abstractmethod
    def count_by_dialogue(
        self, targets: Mapping[str, np.ndarray], decisions: np.ndarray, dialogues: np.ndarray
    ) -> np.ndarray:
        """The counts of each dialogue, [dialogues, …], in the sorted order of their names."""

    @abc.abstractmethod
    def floor(self, train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray]) -> np.ndarray:
        """The counts of the test part if the best constant of the training part is said of every utterance."""

    @abc.abstractmethod
    def pool(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What metrics.json says of all test parts of some replicas together; of locked ones what `analyse` found
        without them."""

    @abc.abstractmethod
    def describe_ensemble(
        self, counts: np.ndarray, predicted: np.ndarray, targets: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """What metrics.json says of the mean of several seeds' predictions, besides the scores."""

    @abc.abstractmethod
    def print_part(self, title: str, scores: Mapping[str, Any]) -> None:
        """Prints what `score` says of a part."""

    @abc.abstractmethod
    def print_analysis(self, point: Mapping[str, Any], selects_on: str) -> None:
        """Prints what `pool` says of a point. selects_on: the part that chose the checkpoint."""

    def metric_values(self, counts: np.ndarray) -> dict[str, Any]:
        """Every score, by counts with any leading axes."""
        return {name: metric.function(counts) for name, metric in self.metrics.items()}

    def is_better(self, score: str, new: float, old: float | None) -> bool:
        """Whether a validation score beats the best one so far."""
        metric = self.metrics[score]
        return metric.better(new, metric.worst() if old is None else old)

    @abc.abstractmethod
    def decisions(self, predicted: np.ndarray) -> np.ndarray:
        """The decisions by what is predicted, on the host."""

    @abc.abstractmethod
    def describe_prediction(self, predicted: np.ndarray, digits: int | None = None) -> dict[str, Any]:
        """What a person reads of one utterance: `prediction`, and what it rests on, rounded to so many digits."""

    @abc.abstractmethod
    def describe_target(self, targets: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """What a line of predictions.jsonl says of a row's targets."""

    @abc.abstractmethod
    def read_target(self, line: Mapping[str, Any]) -> Hashable:
        """The targets that a line of predictions.jsonl tells, as `read_targets` takes them. Raises ValueError saying
        what is wrong with it."""

    @abc.abstractmethod
    def read_prediction(self, line: Mapping[str, Any]) -> tuple[Any, Sequence[float]]:
        """The decision and what is predicted, by a line of predictions.jsonl: what `describe_prediction` says. Raises
        ValueError saying what is wrong with it."""

    @abc.abstractmethod
    def read_targets(self, told: Sequence[Any]) -> dict[str, np.ndarray]:
        """The targets of utterances by what `read_target` gives of each, as far as scores need them."""

    @abc.abstractmethod
    def target_in_words(self, told: Any) -> str:
        """What `read_target` gives, in a few words; nothing where nothing is known."""

    def label_in_words(self, corpus: Corpus, row: int) -> str:
        """The targets of one utterance of the corpus, in a few words; nothing if it has none."""
        if not corpus.labelled[row]:
            return ""
        targets = self.targets(corpus, np.array([row]), soft=False)
        return self.target_in_words(self.read_target(self.describe_target(targets, 0)))

    @abc.abstractmethod
    def prediction_in_words(self, predicted: np.ndarray) -> str:
        """What is predicted of one utterance, in a few words."""

    def states(self, corpus: Corpus) -> np.ndarray | None:
        """Of every utterance of the corpus what changes where a speaker's emotion shifts, in words, "" where that is
        not known; None where a task has no shifts."""
        return None

    def confidence(self, predicted: np.ndarray) -> np.ndarray | None:
        """How sure the model is of every row, from 0 to 1; None where it does not say."""
        return None

    @abc.abstractmethod
    def mistakes(self, predicted: np.ndarray, targets: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which rows are wrong, the worst first."""

    @abc.abstractmethod
    def explained_output(self, predicted: np.ndarray) -> np.ndarray:
        """Which of the outputs is explained of every row, as `explained` says, on the host."""

    @abc.abstractmethod
    def temperature_of(self, result: Mapping[str, Any]) -> Any:
        """What `calibrate` takes, by what metrics.json says of a replica: a number, or one for each part."""

    def describe_calibration(self, result: Mapping[str, Any], selects_on: str) -> str:
        """How predictions are calibrated, in words, by what metrics.json says of a replica; nothing if they are not.
        selects_on: the part that chose the checkpoint."""
        return ""

    @abc.abstractmethod
    def count_prediction(self, label: str, values: Mapping[str, float], output: Mapping[str, Any]) -> np.ndarray | None:
        """The counts of one utterance, by its class in words, the numbers that are known of it, and what
        `describe_prediction` says of it; None if these are no targets of the task."""

    @abc.abstractmethod
    def shares(self, output: Mapping[str, Any]) -> dict[str, float]:
        """What a page draws of a prediction as bars from 0 to 1, by name; nothing if nothing was predicted."""

    def share_in_words(self, output: Mapping[str, Any], name: str) -> str:
        """What stands beside a bar."""
        return f"{100 * self.shares(output)[name]:.1f} %"

    def output_in_words(self, output: Mapping[str, Any]) -> str:
        """What was predicted, by what `describe_prediction` says."""
        return str(output["prediction"])

    def explained_in_words(self, output: Mapping[str, Any]) -> str:
        """Which output is explained, by what `describe_prediction` says."""
        return max(self.shares(output).items(), key=lambda pair: pair[1])[0]

    @abc.abstractmethod
    def describe_export(self) -> dict[str, Any]:
        """What io.json says of the exported numbers: `output`, their name, shape and type, and what they mean."""

    @abc.abstractmethod
    def card(self, modalities: Sequence[str], result: Mapping[str, Any], selects_on: str) -> Card:
        """What a model card says of the task. result: what metrics.json says of the replica; selects_on: the part that
        chose the checkpoint."""


def placed(found: Mapping[str, np.ndarray], at: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """The arrays, by name, of some rows `at` among so many, Int or Bool; zeros elsewhere."""
    whole = {name: np.zeros((rows, *values.shape[1:]), values.dtype) for name, values in found.items()}
    for name, values in found.items():
        whole[name][at] = values
    return whole
