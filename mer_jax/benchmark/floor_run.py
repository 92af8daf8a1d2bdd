"""One floor of one corpus and protocol, as a process: `python -m mer_jax.benchmark.floor_run --workdir=DIR
--config.data.path=… --config.floor.kind=logistic --config.floor.features=joined`. The workdir then holds what a run
leaves that reports and comparisons read; `floor.json` says how its strength was chosen."""

import dataclasses
import hashlib
import sys
import types
from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np
from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from mer_jax import config as config_lib
from mer_jax import experiment
from mer_jax.benchmark import floors
from mer_jax.benchmark.floors import FloorExperiment
from mer_jax.data.corpus import Corpus
from mer_jax.data.pool import Scan, UtterancePool, read_utterance
from mer_jax.data.protocols import selects_on_test
from mer_jax.errors import UserError, reported
from mer_jax.evaluation.final import finish
from mer_jax.files import write_json
from mer_jax.main import explain
from mer_jax.runtime import run_log
from mer_jax.runtime.console import Progress, console
from mer_jax.tasks import Task, task_of
from mer_jax.training.prepare import PARTS, TrainingData, part_counts, utterances_of
from mer_jax.training.replicas import Replica, ReplicaProgress, replicas_of
from mer_jax.training.setup import Run, split_of
from mer_jax.training.workdir import held_alone, identity, is_finished


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Floors in the place of `ReplicaGroups`, one for each fold: what `evaluation.final` asks of these."""

    replicas: tuple[Replica, ...]
    parts: Mapping[int, Mapping[str, dict[str, Any]]]

    def score(self, which: Collection[int], part: str, batch_size: int, *, best: bool) -> dict[int, dict[str, Any]]:
        return {r: self.parts[r][part] for r in which}

    def best(self, r: int) -> Any:
        """It has no layers that are mixed."""
        return types.SimpleNamespace(params={})

    def digest(self) -> dict[str, Any]:
        """What is predicted, in the place of a checkpoint."""
        arrays = [np.ascontiguousarray(of["predicted"]) for parts in self.parts.values() for of in parts.values()]
        return {"step": 0, "sha256": hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()}


@dataclasses.dataclass(frozen=True)
class Pooled:
    """In the place of a source of batches."""

    pool: UtterancePool


def main() -> None:
    logging.set_verbosity(logging.WARNING)
    with reported():
        config, workdir = parse_flags(sys.argv)
        config.train.inspect, config.train.batch_size = False, 1
        config = config_lib.validate(config)
        if config.data.speaker_norm != "none":
            norm = config.data.speaker_norm
            raise UserError(f"--config.data.speaker_norm={norm}: floors are standardised as a whole")
        corpus = experiment.open_corpus(config)
        experiment.check(config, corpus)
        now = identity(config, corpus)
        with held_alone(workdir, now):
            if is_finished(config, workdir, now, allow_config_change=False):
                console.print(f"{workdir} is finished")
                return
            run(config, corpus, workdir, now)


def parse_flags(argv: list[str]) -> tuple[FloorExperiment, epath.Path]:
    """The config and the workdir; raises UserError if a flag is wrong."""
    values = flags.FlagValues()
    workdir = flags.DEFINE_string("workdir", None, "Where everything goes.", flag_values=values)
    config = config_flags.DEFINE_config_dataclass("config", FloorExperiment(), flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(explain(error)) from None
    if not workdir.value:
        raise UserError("--workdir is missing")
    return config.value, epath.Path(workdir.value)


def run(config: FloorExperiment, corpus: Corpus, workdir: epath.Path, now: dict[str, Any]) -> None:
    """Fits, chooses, scores and writes everything. now: the experiment's `identity`."""
    task, split = task_of(corpus).led_by(config.train.select), split_of(config, corpus)
    workdir.mkdir(parents=True, exist_ok=True)
    run_log.write_json(workdir / "config.json", now)
    run_log.write_text(workdir / "manifest.json", corpus.text)
    cost = run_log.Cost(workdir, 0)
    utterances, folds, trains = utterances_of(config, task, corpus, split)
    x, scan = read_means(config, corpus, utterances)
    inputs = [features_of(config, corpus, utterances, x, fold.train) for fold in folds]
    chosen, parts, about = choose(config, task, utterances, inputs, folds)
    write_json(workdir / "floor.json", about)
    counts = tuple({part: part_counts(task, utterances, scan, getattr(fold, part)) for part in PARTS} for fold in folds)
    data = TrainingData(cast(Any, Pooled(utterances)), folds, trains, (), counts, scan.sentences)
    values = {"floor.strength": chosen} if chosen else {}
    fitted = Fitted(tuple(dataclasses.replace(r, values=values) for r in replicas_of(config, split)), parts)
    progress = [ReplicaProgress(step=0, status="stopped") for _ in fitted.replicas]
    done = Run(config, task, corpus, split, data, cast(Any, None), cast(Any, fitted), progress, workdir)
    leaks = experiment.print_leakage(done)
    cost.write(0)
    finish(done, leaks, fitted.digest())


def read_means(
    config: FloorExperiment, corpus: Corpus, utterances: UtterancePool
) -> tuple[dict[str, np.ndarray], Scan]:
    """(by modality the mean over time of every utterance, Float64[pool, feat], NaN where it has none; sentences and
    what was not finite)."""
    widths = {m: corpus.modalities[m]["width"] for m in utterances.lengths}
    means = {m: np.full((len(utterances), width), np.nan) for m, width in widths.items()}
    nonfinite = {m: np.zeros(len(utterances), np.int64) for m in widths}
    sentences, progress = [], Progress("reading", len(utterances), "records")
    for i in range(len(utterances)):
        found, zeroed, sentence = read_utterance(corpus, utterances, i, config.data.nonfinite)
        for m, values in found.items():
            nonfinite[m][i] = zeroed.get(m, 0)
            if len(values):
                means[m][i] = values.mean(0, dtype=np.float64)
        sentences.append(sentence)
        progress.advance()
    progress.close()
    return means, Scan({}, nonfinite, sentences, {})


def features_of(
    config: FloorExperiment,
    corpus: Corpus,
    utterances: UtterancePool,
    means: Mapping[str, np.ndarray],
    train: np.ndarray,
) -> np.ndarray:
    """What the floor reads of every utterance in the fold of this training part, Float64[pool, feat]."""
    settings = config.floor
    if settings.kind in floors.CONSTANTS:
        return np.zeros((len(utterances), 0))
    names = [settings.features] if settings.features in means else list(means)
    x = np.concatenate([floors.standardised(means[m], train) for m in names], 1)
    if settings.features != floors.DIALOGUE:
        return x
    index = {name: corpus.index[name][utterances.rows] for name in ("dialogue", "turn")}
    future = config.data.context == "both"
    return floors.with_neighbours(x, floors.neighbours(**index, count=settings.neighbours, future=future))


def choose(
    config: FloorExperiment, task: Task, utterances: UtterancePool, inputs: list[np.ndarray], folds: tuple[Any, ...]
) -> tuple[float, dict[int, Any], dict[str, Any]]:
    """(the chosen strength, 0 of a constant; what it predicts, by the number of the fold; what floor.json says)."""
    settings, select = config.floor, config.train.select
    fixed = settings.kind in floors.CONSTANTS or settings.strength > 0
    if not fixed and selects_on_test(config.data.protocol):
        raise UserError(
            f"--config.floor.strength is missing: under data.protocol={config.data.protocol} the test part would "
            "choose it"
        )
    grid = (settings.strength,) if fixed else floors.STRENGTHS[settings.kind]
    found = {}
    for strength in grid:
        each = zip(inputs, folds, strict=True)
        found[strength] = [floors.predict_fold(task, settings, strength, x, utterances.targets, f) for x, f in each]
        console.print(f"{settings.kind} of strength {strength:g} is fitted")
    scores = {strength: [task.score(fold["valid"]) for fold in parts] for strength, parts in found.items()}
    best, means = floors.best_strength(task, select, scores)
    about = {
        "kind": settings.kind,
        "features": settings.features,
        "grid": [] if fixed else list(grid),
        "valid": {f"{strength:g}": mean for strength, mean in means.items()},
        "select": select,
        "width": inputs[0].shape[1],
    }
    return best, dict(enumerate(found[best])), about


if __name__ == "__main__":
    main()
