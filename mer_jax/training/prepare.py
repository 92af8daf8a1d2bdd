"""TODO: say what lives here."""

import dataclasses
from typing import Any

import jax
import numpy as np
from rich.markup import escape

from mer_jax import config as config_lib
from mer_jax.data import loader
from mer_jax.data import pool as pool_lib
from mer_jax.data.corpus import Corpus
from mer_jax.data.frames import View
from mer_jax.data.protocols import Fold, Split
from mer_jax.models import deepmsi_mer_frames as deepmsi_mer_frames_lib
from mer_jax.models import family as family_lib
from mer_jax.runtime import console

PARTS = ("train", "valid", "test")


# ---- data ----


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The utterances of the experiment, ready to feed, and what was counted on the way.

    folds: the protocol's folds, as positions in the pool; trains: Bool[folds, pool], which utterances train in each; given[i]:
    of fold i; counts[i]: what its parts hold; sentences: of the pool's utterances.
    """

    feed: loader.BatchSource
    folds: tuple[Fold, ...]
    trains: np.ndarray
    given: tuple[family_lib.ReplicaInputs, ...]
    counts: tuple[dict[str, Any], ...]
    sentences: list[str]

    def rows_of_training(self) -> np.ndarray:
        """What is read in an epoch: the utterances that train in any fold, whichever folds are run."""
        return np.flatnonzero(self.trains.any(0))


def prepare_data(config: config_lib.Experiment, corpus: Corpus, split: Split, mesh: jax.sharding.Mesh) -> TrainingData:
    """Reads every utterance of the split once: refuses bad records, measures the statistics, keeps what lives on the device."""
    settings = config.data
    rows = np.unique(np.concatenate([getattr(fold, part) for fold in split.folds for part in PARTS]))
    lengths = config_lib.limits(settings)
    pool = pool_lib.select_utterances(corpus, rows, lengths, soft=settings.soft_labels)
    folds = tuple(
        Fold(fold.name, *(np.searchsorted(rows, getattr(fold, part)) for part in PARTS)) for fold in split.folds
    )
    megabytes = pool_lib.packed_megabytes(corpus, pool)
    frames = config.frames if isinstance(config, deepmsi_mer_frames_lib.DeepMSIFramesExperiment) else None
    resident = frames is None and (
        settings.placement == "resident" or (settings.placement == "auto" and megabytes <= settings.resident_limit_mb)
    )
    trains = np.zeros((len(folds), len(pool)), bool)
    for member, fold in zip(trains, folds, strict=True):
        member[fold.train] = True
    mine = np.concatenate([rows for rows, here in loader.blocks_of(pool, mesh) if here])
    progress = console.Progress("reading", len(mine), "records")
    scan = pool_lib.scan(corpus, pool, trains, settings.nonfinite, mine=mine, keep=resident, progress=progress.advance)
    progress.close()
    feed = loader.BatchSource(
        corpus,
        pool,
        settings.nonfinite,
        mesh,
        source=loader.pack(corpus, pool, scan.features, mesh) if resident else None,
        read_threads=settings.read_threads,
        pieces=config.train.accumulate,
        view=None if frames is None else View(**vars(frames)),
        seed=settings.seed,
    )
    counts = tuple({part: part_counts(corpus, pool, scan, getattr(fold, part)) for part in PARTS} for fold in folds)
    where = f"{megabytes:.0f} MB {'on the device' if resident else 'streamed' + ' (decoded)' * (frames is not None)}"
    if frames is not None and (side := min(corpus.modalities["visual"]["pixels"])) < frames.size:
        console.console.print(f"note: the frames in the records have {side} pixels a side and are enlarged to frames.size = {frames.size}")  # fmt: skip
    if isinstance(config, deepmsi_mer_frames_lib.DeepMSIFramesExperiment) and config.backbone.weights and (grids := deepmsi_mer_frames_lib.undivided_grids(config)):  # fmt: skip
        console.console.print(
            f"note: windows of {config.backbone.window} do not divide the grids of frames.size = {config.frames.size} in stage "
            f"{', '.join(map(str, grids))} ({', '.join(map(str, grids.values()))} tokens a side) and are made smaller: features are not "
            "those of transformers from the same weights"
        )
    print_data_summary(corpus.manifest["name"], settings.modalities, split, counts, int(trains.any(0).sum()), where)
    if settings.soft_labels:
        voted = corpus.soft_labels(rows[trains.any(0)]).any(1)
        console.console.print(
            f"  learnt is what the raters say of {voted.sum()} training utterances; of {(~voted).sum()}, where none of them chose a class, "
            "the label"
        )
    raw = () if settings.standardize else tuple(m for m in lengths if "pixels" not in corpus.modalities[m])
    given = tuple(replica_inputs(pool, scan, i, fold, raw) for i, fold in enumerate(folds))
    return TrainingData(feed, folds, trains, given, counts, scan.sentences)


def replica_inputs(
    pool: pool_lib.UtterancePool, scan: pool_lib.Scan, number: int, fold: Fold, raw: tuple[str, ...]
) -> family_lib.ReplicaInputs:
    """raw: modalities that are left as they are."""
    stats = {m: {name: values[number] for name, values in s.items()} for m, s in scan.stats.items()}
    for m in raw:
        stats[m] = {"mean": np.zeros_like(stats[m]["mean"]), "scale": np.ones_like(stats[m]["scale"])}
    prior = pool.targets[fold.train].mean(0, dtype=np.float64).astype(np.float32)
    return family_lib.ReplicaInputs(stats, prior, {})


def part_counts(corpus: Corpus, pool: pool_lib.UtterancePool, scan: pool_lib.Scan, rows: np.ndarray) -> dict[str, Any]:
    of_class = np.bincount(pool.labels[rows], minlength=len(corpus.labels)).tolist()
    return {
        "utterances": len(rows),
        "classes": dict(zip(corpus.labels, of_class, strict=True)),
        "truncated": {m: int(cut[rows].sum()) for m, cut in pool.cut.items()},
        "nonfinite_zeroed": {m: int(bad[rows].sum()) for m, bad in scan.nonfinite.items()},
    }


def print_data_summary(
    corpus: str, modalities: tuple[str, ...], split: Split, counts: tuple[dict[str, Any], ...], union: int, where: str
) -> None:
    """What was read, and whatever was done to it. union: how many utterances train in any fold."""
    sizes = ", ".join(f"{part} {as_range([c[part]['utterances'] for c in counts])}" for part in PARTS)
    folds = f"{len(counts)} folds, each " if len(counts) > 1 else ""
    console.console.print(f"{corpus}, protocol {split.title()}: {folds}{sizes}; {' + '.join(modalities)}, {where}")
    done = {"truncated": "sequences truncated to data.max_length", "nonfinite_zeroed": "non-finite values set to 0"}
    for part in PARTS:
        for field, words in done.items():
            most = {m: max(c[part][field][m] for c in counts) for m in modalities}
            if found := ", ".join(f"{m} {n}" for m, n in most.items() if n):
                console.console.print(f"  {part}: {found} {words}{' at most' if len(counts) > 1 else ''}")
    if (least := min(c["train"]["utterances"] for c in counts)) < union:
        console.console.print(f"  batches are drawn from all {union} utterances that train in any fold: {100 * least / union:.0f} % of a batch "
                          "or more count in each")  # fmt: skip
    for fold, c in zip(split.folds, counts, strict=True):
        if absent := [name for name, n in c["train"]["classes"].items() if not n]:
            console.console.print(f"  fold {escape(fold.name)}: no training utterance is {', '.join(absent)}")


def as_range(values: list[int]) -> str:
    """`12` or `10–14`"""
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)}–{max(values)}"
