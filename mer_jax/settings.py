"""The settings that all families share. Every default, range and choice stands in the field itself. No JAX."""

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """What may stand in a field: see `setting`."""

    at_least: float | int | None = None
    above: float | int | None = None
    at_most: float | int | None = None
    below: float | int | None = None
    choices: tuple[str, ...] = ()
    swept: bool = False
    changes_result: bool = True

    def violation(self, value: Any) -> str:
        """What the value must be, in words, if it is not; otherwise nothing."""
        if self.choices and value not in self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.below is not None:
            low = 0 if self.at_least is None else self.at_least
            if not low <= value < self.below:
                return f"in [{low:g}, {self.below:g})"
        if self.at_least is not None and not value >= self.at_least:
            return f"at least {self.at_least:g}"
        if self.above is not None and not self.above < value < math.inf:
            return f"above {self.above:g} and finite"
        if self.at_most is not None and not value <= self.at_most:
            return f"at most {self.at_most:g}"
        return ""


def setting(default: Any, **rule: Any) -> Any:
    """A field of a settings dataclass: its default, and what may stand in it.

    at_least, above, at_most, below: bounds of a number; `below` alone means from 0. choices: the allowed words. swept:
    replicas of one compiled program may differ in it, because neither a shape nor the course of the program depends on
    it. changes_result=False: the field says where and how a run computes, not what; a run may be carried on with
    another."""
    return dataclasses.field(default=default, metadata={"rule": Rule(**rule)})


def group(kind: type) -> Any:
    """A field that holds a dataclass of settings."""
    return dataclasses.field(default_factory=kind)


@dataclasses.dataclass
class DataSettings:
    """Which utterances are read, and how."""

    path: str = ""  # a corpus folder (see mer_jax/data); empty = the built-in demo corpus; demo:clutter = its variant
    # Which of its targets is asked for, or several, as in classes+vad; empty = the first, classes where there are any.
    task: str = ""
    protocol: str = "official"  # who trains, validates and tests whom, by name: see mer_jax/data/protocols.py
    seed: int = setting(0, at_least=0)  # of the order of batches and of protocols that draw; the same for all replicas
    modalities: tuple[str, ...] = ("text", "audio")
    # What a model hears of a dialogue besides the utterance: nothing, all turns before it, or those after it, too.
    context: str = setting("none", choices=("none", "past", "both"))
    max_turns: int = setting(256, at_least=2)  # longer dialogues are read in windows of so many turns, which overlap
    # What is read of a sequence, from its start: time steps or seconds, for all or by modality (48, 30s,
    # audio:30s+text:64); what is not named is cut at 60 s, or 4096 steps where the corpus does not know seconds.
    max_length: tuple[int | str, ...] = ()
    soft_labels: bool = False  # learn what the raters say, where they are known, instead of the label alone
    test_on_trained: bool = False  # test even utterances on whose labels the features were trained (see the manifest)
    # What happens to NaN and infinite values; both choices count them.
    nonfinite: str = setting("refuse", choices=("refuse", "zero"))
    # Zero mean and unit variance of every feature, measured on the training part (of frames always ImageNet's).
    standardize: bool = True
    # By whose mean and scale: the training part's (none); a speaker's own where the speaker trains (train); every
    # speaker's or session's own, of test utterances, too, without their labels (own, session: transductive).
    speaker_norm: str = setting("none", choices=("none", "train", "own", "session"))
    # Splits lie on the device or are streamed; auto keeps them on the device up to resident_limit_mb.
    placement: str = setting("auto", choices=("auto", "resident", "stream"), changes_result=False)
    resident_limit_mb: int = setting(4096, at_least=1, changes_result=False)
    group_by_length: int = setting(8, at_least=1)  # utterances of so many batches are sorted by length; 1 = off
    read_threads: int = setting(1, at_least=1, changes_result=False)  # threads that read ahead when streaming


@dataclasses.dataclass
class ContextSettings:
    """How the turns of a dialogue are heard together (data.context); see mer_jax/models/context.py. All of it is
    ours."""

    # transformer, gru, or speakers: a transformer whose heads hear all, the same speaker, or the others.
    kind: str = setting("transformer", choices=("transformer", "gru", "speakers"))
    layers: int = setting(2, at_least=1)
    width: int = setting(128, at_least=1)
    heads: int = setting(4, at_least=1)
    span: int = setting(64, at_least=1)  # turns before (and after) a turn that a layer of a transformer hears
    dropout: float = setting(0.3, below=1, swept=True)
    # Share of the dialogues whose turns are heard one by one while training, so that a single utterance will do, too.
    alone: float = setting(0.1, below=1)


@dataclasses.dataclass
class ModelSettings:
    """What the model of every family has: how it reads features that are several hidden layers of an encoder."""

    # joined: side by side; learned: their weighted sum, with a learned weight for each; one: the layer `layer` alone.
    layer_mix: str = setting("joined", choices=("joined", "learned", "one"))
    layer: int = setting(0, at_least=0, swept=True)  # of layer_mix=one, as the corpus numbers them


@dataclasses.dataclass
class LossSettings:
    """What the loss of every family has. Of regression errors are in units of half a number's range."""

    imbalance: str = setting("none", choices=("none", "class_weights", "focal", "logit_adjustment", "balanced_softmax"))
    focal_gamma: float = setting(2.0, at_least=0, swept=True)
    # Of class_weights: 1 = one over the class's share, 0.5 = one over its square root.
    class_weight_power: float = setting(1.0, at_least=0, swept=True)
    logit_adjustment_tau: float = setting(1.0, at_least=0, swept=True)  # strength of logit_adjustment; 0 = none
    label_smoothing: float = setting(0.1, below=1, swept=True)
    # Of numbers: ccc is 1 - CCC over the batch; distribution is the squared error in units of the raters' spread.
    regression: str = setting("mae", choices=("mae", "mse", "huber", "ccc", "distribution"))
    huber_delta: float = setting(0.25, above=0, swept=True)
    # Of several emotions at once: binary cross entropy, or the asymmetric loss.
    multilabel: str = setting("bce", choices=("bce", "asymmetric"))
    asymmetric_gamma_present: float = setting(0.0, at_least=0, swept=True)
    asymmetric_gamma_absent: float = setting(4.0, at_least=0, swept=True)
    asymmetric_margin: float = setting(0.05, below=1, swept=True)
    # Of several targets at once, in the order of data.task: what each one's loss counts for; empty = 1 for each.
    task_weights: tuple[float, ...] = ()


@dataclasses.dataclass
class OptimSettings:
    """The optimiser; see mer_jax/training/optim.py."""

    # adam adds the decay to the gradient, adamw and sgd decouple it.
    name: str = setting("adamw", choices=("adamw", "adam", "sgd"))
    learning_rate: float = setting(3e-4, above=0, swept=True)
    # linear and cosine fall to 0 after the last epoch.
    schedule: str = setting("cosine", choices=("constant", "linear", "cosine"))
    warmup: float = setting(0.05, below=1)  # share of all steps
    # adamw and sgd: on matrices only, on no bias, scale or label embedding; adam: on everything.
    weight_decay: float = setting(1e-2, at_least=0, swept=True)
    clip: float = setting(1.0, at_least=0)  # global gradient norm; 0 = off
    b1: float = setting(0.9, below=1)  # the betas of adamw and adam; sgd has none
    b2: float = setting(0.999, below=1)
    # Decay per step of an exponential moving average of the weights, which is then evaluated; 0 = off.
    ema_decay: float = setting(0.99, below=1)


@dataclasses.dataclass
class TrainSettings:
    """How long and how a run trains, and what it writes."""

    batch_size: int = setting(64, at_least=1)
    eval_batch_size: int = setting(256, at_least=1)
    epochs: int = setting(12, at_least=1)
    patience: int = setting(4, at_least=0)  # epochs without a better validation score before stopping; 0 = never
    select: str = "weighted_f1"  # the validation score that chooses the checkpoint, one of the task's
    checkpoint_minutes: float = setting(
        10.0, at_least=0, changes_result=False
    )  # save so often besides every epoch's end
    # How many of the latest checkpoints stay on disk: if one turns out damaged, the one before takes its place.
    keep_checkpoints: int = setting(2, at_least=1, changes_result=False)
    log_steps: int = setting(20, at_least=1, changes_result=False)
    # At the end, score the test part. False keeps it locked while tuning: the run trains, selects and reports by
    # validation only, until --mode=test scores it.
    score_test: bool = setting(True, changes_result=False)
    # At the end, look at what the model attends to and where its features lie, for the report.
    inspect: bool = setting(True, changes_result=False)
    # Every process writes which utterances it took for each step, to WORKDIR/reads.
    log_reads: bool = setting(False, changes_result=False)
    # A batch is computed in so many pieces, for less memory; the update is the whole batch's.
    microbatches: int = setting(1, at_least=1)
    # Of the model's products; parameters, statistics and loss stay float32.
    precision: str = setting("float32", choices=("float32", "bfloat16"))


@dataclasses.dataclass
class ReplicaSettings:
    """The runs that make up the experiment, trained side by side: folds x seeds x points."""

    folds: tuple[int, ...] = ()  # which folds of the protocol, by number from 0; empty = all
    seeds: int = setting(1, at_least=1)  # seeds config.seed, config.seed + 1, …
    grid: str = ""  # swept fields, every combination: "optim.learning_rate=1e-4,3e-4 model.dropout=0.1,0.3"
    points: str = ""  # swept fields, just these points: "optim.learning_rate=1e-4,model.dropout=0.1 …"
    # Validation chooses one point for all folds, or every fold its own, the best in the mean over the seeds.
    choose: str = setting("point", choices=("point", "fold"))
    # Replicas in one compiled step; 1 = one after the other; 0 = 1 on a CPU, else all.
    replicas_per_step: int = setting(0, at_least=0, changes_result=False)


@dataclasses.dataclass
class MeshSettings:
    """How the run lies on the devices; it changes no result but in rounding. Replicas and data share what is left.
    Where conversations are heard and 8 is no multiple of the devices that share the data, batches are padded otherwise,
    and dropout draws otherwise."""

    # Devices that share the weights of each layer, by output features.
    model: int = setting(1, at_least=1, changes_result=False)
    # Parameters, moments and averages are split over the devices that share the data.
    fsdp: bool = setting(False, changes_result=False)
