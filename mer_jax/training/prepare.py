"""Config and corpus -> the utterances of an experiment, ready to feed, and what was counted on the way."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.markup import escape

from mer_jax.config import Experiment, max_lengths
from mer_jax.data import conversations, length_limits, loader, pool
from mer_jax.data.conversation_source import ConversationSource
from mer_jax.data.corpus import Corpus
from mer_jax.data.dialogues import heard_with
from mer_jax.data.frames import View
from mer_jax.data.pool import UtterancePool
from mer_jax.data.protocols import Fold, Split
from mer_jax.models.family import ReplicaInputs
from mer_jax.runtime.console import Progress, console
from mer_jax.tasks import Task
from mer_jax.tasks.task import placed

PARTS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The utterances of the experiment.

    batches: what feeds them. folds: the protocol's folds, as positions in the pool. trains: Bool[folds, pool], which
    utterances train in each. inputs[i]: what replicas of fold i are given. counts[i]: what its parts hold. sentences:
    of the pool's utterances. unread: what of every modality's sequences is cut off, and problems: where that is
    much. order: in which they train. own_norm: which groups of the pool have statistics of their own (`pool.Scan`)."""

    batches: loader.BatchSource
    folds: tuple[Fold, ...]
    trains: np.ndarray
    inputs: tuple[ReplicaInputs, ...]
    counts: tuple[dict[str, Any], ...]
    sentences: list[str]
    unread: tuple[length_limits.Unread, ...] = ()
    problems: tuple[str, ...] = ()
    order: Any = None
    own_norm: np.ndarray | None = None

    @property
    def pool(self) -> UtterancePool:
        return self.batches.pool

    def rows_of_training(self) -> np.ndarray:
        """What is read in an epoch: the utterances that train in any fold, whichever folds are run."""
        return np.flatnonzero(self.trains.any(0))

    def targets(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The targets of these utterances."""
        return {name: values[rows] for name, values in self.pool.targets.items()}


def prepare_data(config: Experiment, task: Task, corpus: Corpus, split: Split, mesh: jax.sharding.Mesh) -> TrainingData:
    """Reads every utterance of the split once: refuses bad records, measures the statistics, keeps what lives on the
    device."""
    settings = config.data
    utterances, folds, trains = utterances_of(config, task, corpus, split)
    lengths = max_lengths(settings, corpus.manifest)
    megabytes = pool.packed_megabytes(corpus, utterances)
    resident = is_resident(config, megabytes)
    local_rows = loader.local_rows_of(utterances, mesh)
    progress = Progress("reading", len(local_rows), "records")
    scan = pool.scan(
        corpus,
        utterances,
        trains,
        settings.nonfinite,
        local_rows=local_rows,
        keep=resident,
        progress=progress.advance,
    )
    progress.close()
    source = loader.pack(corpus, utterances, scan.features, mesh) if resident else None
    batches = source_of_batches(config, corpus, utterances, mesh, source)
    order = batches.training_order(
        np.flatnonzero(trains.any(0)),
        config.train.batch_size,
        settings.seed,
        settings.group_by_length,
        config.train.epochs,
    )
    counts = tuple({part: part_counts(task, utterances, scan, getattr(fold, part)) for part in PARTS} for fold in folds)
    how = "on the device" if resident else "streamed" + " (decoded)" * (config.frame_augmentation() is not None)
    print_data_summary(config, corpus, split, counts, int(trains.any(0).sum()), f"{megabytes:.0f} MB {how}")
    if about := batches.describe(order):
        console.print(f"  {about}")
    cut = length_limits.unread(utterances.whole, lengths, corpus.manifest)
    problems = length_limits.unread_problems(cut, settings.max_length)
    if (before := length_limits.cut_in_extraction(corpus.manifest)) and before[2]:
        problems.append("; ".join(before[:2]))
    print_unread(cut, problems)
    print_gaps(task, split, counts)
    if note := task.training_note(corpus, utterances.rows[trains.any(0)], soft=settings.soft_labels):
        console.print(f"  {note}")
    raw = () if settings.standardize else tuple(m for m in lengths if "pixels" not in corpus.modalities[m])
    inputs = tuple(replica_inputs(task, utterances, scan, i, fold, raw) for i, fold in enumerate(folds))
    return TrainingData(
        batches, folds, trains, inputs, counts, scan.sentences, tuple(cut), tuple(problems), order, scan.own
    )


def utterances_of(
    config: Experiment, task: Task, corpus: Corpus, split: Split
) -> tuple[UtterancePool, tuple[Fold, ...], np.ndarray]:
    """(the utterances of the split, and those that are heard with them; the folds as positions among these; which of
    them train in each fold, Bool[folds, pool])."""
    settings = config.data
    used = np.unique(np.concatenate([getattr(fold, part) for fold in split.folds for part in PARTS]))
    rows = used if settings.context == "none" else heard_with(corpus, used)
    utterances = pool.select_utterances(
        corpus,
        rows,
        max_lengths(settings, corpus.manifest),
        targets_of(task, corpus, rows, used, settings.soft_labels),
        settings.speaker_norm,
    )
    folds = tuple(
        Fold(fold.name, *(np.searchsorted(rows, getattr(fold, part)) for part in PARTS)) for fold in split.folds
    )
    trains = np.zeros((len(folds), len(utterances)), bool)
    for member, fold in zip(trains, folds, strict=True):
        member[fold.train] = True
    return utterances, folds, trains


def source_of_batches(
    config: Experiment, corpus: Corpus, utterances: UtterancePool, mesh: jax.sharding.Mesh, source: Any
) -> loader.BatchSource:
    """What feeds the utterances, one by one or in dialogues. source: the pool on the devices, if it lies there."""
    settings, frames = config.data, config.frame_augmentation()
    how: dict[str, Any] = {
        "source": source,
        "read_threads": settings.read_threads,
        "microbatches": config.train.microbatches,
        "view": None if frames is None else View(**vars(frames)),
        "seed": settings.seed,
    }
    if settings.context == "none":
        return loader.BatchSource(corpus, utterances, settings.nonfinite, mesh, **how)
    silent = np.sum(list(utterances.lengths.values()), axis=0) == 0
    known = conversations.dialogues_of(corpus, utterances.rows, silent, settings.context, settings.max_turns)
    return ConversationSource(corpus, utterances, settings.nonfinite, mesh, dialogues=known, **how)


def targets_of(task: Task, corpus: Corpus, rows: np.ndarray, used: np.ndarray, soft: bool) -> dict[str, np.ndarray]:
    """The targets of the utterances `rows`; zeros for those that are only heard, which are not `used`."""
    return placed(task.targets(corpus, used, soft=soft), np.searchsorted(rows, used), len(rows))


def is_resident(config: Experiment, megabytes: float) -> bool:
    """Whether the pool lies on the device; frames never do, they are decoded as they are read."""
    settings = config.data
    small = settings.placement == "auto" and megabytes <= settings.resident_limit_mb
    return config.frame_augmentation() is None and (settings.placement == "resident" or small)


def replica_inputs(
    task: Task, utterances: UtterancePool, scan: pool.Scan, number: int, fold: Fold, raw: tuple[str, ...]
) -> ReplicaInputs:
    """What replicas of the fold are given. raw: modalities that are left as they are."""
    stats = {m: {name: values[number] for name, values in s.items()} for m, s in scan.stats.items()}
    for m in raw:
        stats[m] = {"mean": np.zeros_like(stats[m]["mean"]), "scale": np.ones_like(stats[m]["scale"])}
    prior = task.prior({name: values[fold.train] for name, values in utterances.targets.items()})
    return ReplicaInputs(stats, prior, {})


def part_counts(task: Task, utterances: UtterancePool, scan: pool.Scan, rows: np.ndarray) -> dict[str, Any]:
    """What metrics.json says of a part's utterances."""
    return {
        "utterances": len(rows),
        **task.describe_targets({name: values[rows] for name, values in utterances.targets.items()}),
        "truncated": {m: int((whole > utterances.lengths[m])[rows].sum()) for m, whole in utterances.whole.items()},
        "nonfinite_zeroed": {m: int(bad[rows].sum()) for m, bad in scan.nonfinite.items()},
    }


def print_data_summary(
    config: Experiment, corpus: Corpus, split: Split, counts: tuple[dict[str, Any], ...], union: int, where: str
) -> None:
    """What was read, and whatever was done to it. union: how many utterances train in any fold."""
    modalities, frames = config.data.modalities, config.frame_augmentation()
    if frames is not None and (side := min(corpus.modalities["visual"]["pixels"])) < frames.size:
        console.print(
            f"note: the frames in the records have {side} pixels a side and are enlarged to frames.size = {frames.size}"
        )
    sizes = ", ".join(f"{part} {as_range([c[part]['utterances'] for c in counts])}" for part in PARTS)
    folds = f"{len(counts)} folds, each " if len(counts) > 1 else ""
    name = corpus.manifest["name"]
    console.print(f"{name}, protocol {split.title()}: {folds}{sizes}; {' + '.join(modalities)}, {where}")
    if len(corpus.targets) > 1:
        others = ", ".join(name for name in corpus.targets if name not in {target.name for target in corpus.asked})
        asked = " and ".join(target.describe() for target in corpus.asked)
        console.print(f"  asked for is {asked}" + (f"; the corpus also has {others}" if others else ""), markup=False)
    for part in PARTS:
        most = {m: max(c[part]["nonfinite_zeroed"][m] for c in counts) for m in modalities}
        if found := ", ".join(f"{m} {n}" for m, n in most.items() if n):
            most_of = " at most" if len(counts) > 1 else ""
            console.print(f"  {part}: {found} non-finite values set to 0{most_of}")
    if (least := min(c["train"]["utterances"] for c in counts)) < union:
        console.print(
            f"  batches are drawn from all {union} utterances that train in any fold: {100 * least / union:.0f} % of a "
            "batch or more count in each"
        )


def print_unread(cut: Sequence[length_limits.Unread], problems: Sequence[str]) -> None:
    """What of the sequences is not read, as time and share, and how to read it."""
    for one in cut:
        if one.steps and not one.is_problem:
            console.print(f"  {one.in_words()}", soft_wrap=True)
    for line in problems:
        console.print(f"  problem: {line}", soft_wrap=True)


def print_gaps(task: Task, split: Split, counts: tuple[dict[str, Any], ...]) -> None:
    """What the training part of a fold lacks."""
    for fold, c in zip(split.folds, counts, strict=True):
        if gaps := task.gaps(c["train"]):
            console.print(f"  fold {escape(fold.name)}: {gaps}")


def as_range(values: list[int]) -> str:
    """`12` or `10–14`"""
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)}–{max(values)}"
