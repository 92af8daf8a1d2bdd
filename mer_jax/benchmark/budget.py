"""How long a row will take. No JAX.

The unit is an update of one replica. A row that has finished on the same corpus tells how long these take, the same
model's if there is one, else the median of the others. Where none has, a rough rule stands in: START_SECONDS for each
stage, and UPDATE_SECONDS for each update, on one CPU core about right for a small model on short sequences. Epochs are
counted as if none were saved by stopping early, here and where rates are measured. Of floors it is the median of those
that have finished on the corpus, else FLOOR_SECONDS."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mer_jax.benchmark import stages
from mer_jax.benchmark.rows import Asked, Row
from mer_jax.data import protocols
from mer_jax.training.replicas import sweep_points

START_SECONDS, UPDATE_SECONDS, FLOOR_SECONDS = 20.0, 0.02, 15.0


@dataclasses.dataclass(frozen=True)
class Work:
    """What is left of a row: `stages` to begin, and `updates` in them."""

    stages: int
    updates: int


def work_of(row: Row, asked: Asked, *, whole: bool = False) -> Work:
    """whole: as if nothing of it had been done."""
    if not row.trained:
        return Work(0 if not whole and stages.finished(row, "final") else 1, 0)
    assert row.config is not None, "a trained row has a config"
    points = 1
    if stages.needs_tuning(row, asked):
        swept = dataclasses.replace(row.config.replicas, grid=asked.grid)
        points = len(sweep_points(dataclasses.replace(row.config, replicas=swept)))
    folds, steps = _folds_and_steps(row)
    parts = {"tune": points * asked.tune_seeds} if stages.needs_tuning(row, asked) else {}
    parts["final"] = asked.seeds
    todo = [replicas for stage, replicas in parts.items() if whole or not stages.finished(row, stage)]
    return Work(len(todo), sum(todo) * folds * steps * row.config.train.epochs)


def _folds_and_steps(row: Row) -> tuple[int, int]:
    """(folds, updates of an epoch); a protocol that the corpus does not allow counts as nothing."""
    assert row.config is not None, "a trained row has a config"
    try:
        split = protocols.split(row.entry.corpus, row.protocol, row.config.data.seed)
    except ValueError:
        return 0, 0
    trains = len(np.unique(np.concatenate([fold.train for fold in split.folds])))
    return len(split.folds), math.ceil(trains / row.config.train.batch_size)


def estimates(rows: Sequence[Row], asked: Asked) -> dict[Path, float]:
    """Seconds that each row that is not finished will take, by its folder and what others took."""
    floors: dict[str, list[float]] = {}
    rates: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if not stages.finished(row, "final"):
            continue
        took = sum(stages.seconds_of(row).values())
        if not took:
            continue
        if not row.trained:
            floors.setdefault(row.entry.name, []).append(took)
        elif (work := work_of(row, asked, whole=True)).updates:
            training = max(took - work.stages * START_SECONDS, 0.1 * took)
            rates.setdefault((row.entry.name, row.name), []).append(training / work.updates)
    return {row.folder: _estimate(row, asked, floors, rates) for row in rows if not stages.finished(row, "final")}


def _estimate(
    row: Row, asked: Asked, floors: Mapping[str, list[float]], rates: Mapping[tuple[str, str], list[float]]
) -> float:
    corpus, work = row.entry.name, work_of(row, asked)
    if not row.trained:
        return float(np.median(floors.get(corpus, [FLOOR_SECONDS])))
    others = [rate for (name, _), of in rates.items() for rate in of if name == corpus]
    known = rates.get((corpus, row.name)) or others or [UPDATE_SECONDS]
    return work.stages * START_SECONDS + work.updates * float(np.median(known))
