"""The runs of an experiment: folds x seeds x points of a sweep, each a replica that the same training step carries. No JAX."""

import copy
import dataclasses
import itertools
from typing import Any, TypeVar

from mer_jax import config as config_lib
from mer_jax.config import SWEPT
from mer_jax.errors import UserError
from mer_jax.protocols import Split


@dataclasses.dataclass(frozen=True)
class Replica:
    """One run. fold: its number in the split; values: the swept fields and what they are here; point: their number."""

    name: str
    fold: int
    fold_name: str
    seed: int
    point: int
    values: dict[str, float]


def swept_points(config: config_lib.Experiment) -> list[dict[str, float]]:
    """The points of the sweep, `{field: value}` each; one empty point without a sweep. Raises UserError."""
    settings = config.replicas
    if (settings.grid or settings.points) and config.data.protocol == "published":
        raise UserError(
            "--config.replicas: a sweep under data.protocol=published would choose its point by the test part"
        )
    if settings.grid and settings.points:
        raise UserError("--config.replicas.grid and --config.replicas.points exclude each other; give one of them")
    if settings.points:
        pairs = [[_pair("points", item) for item in point.split(",")] for point in settings.points.split()]
        points = [dict(point) for point in pairs]
        if any(len(p) < len(items) for p, items in zip(points, pairs, strict=True)):
            raise UserError("--config.replicas.points: a point names a field twice")
        if any(p.keys() != points[0].keys() for p in points):
            raise UserError("--config.replicas.points: every point must give the same fields")
    else:
        axes = [_pair("grid", item) for item in settings.grid.split()]
        fields = [field for field, _ in axes]
        if len(set(fields)) < len(fields):
            raise UserError("--config.replicas.grid names a field twice; write field=value,value once")
        points = [dict(zip(fields, combination, strict=True)) for combination in
                  itertools.product(*(values.split(",") for _, values in axes))]  # fmt: skip
    read = [{field: _number(config, field, text) for field, text in point.items()} for point in points]
    for i, point in enumerate(read):
        if point in read[:i]:
            raise UserError(f"--config.replicas: the point {spell(point)} is there twice")
    for point in read:
        config_lib.validate(at(config, point))
    return read


def swept_fields(config: config_lib.Experiment) -> tuple[str, ...]:
    """The fields that differ between the points."""
    return tuple(swept_points(config)[0])


def _pair(where: str, item: str) -> tuple[str, str]:
    field, equals, value = item.partition("=")
    if not (field and equals and value):
        raise UserError(
            f"--config.replicas.{where}: {item!r} must be field=value, as in optim.learning_rate=1e-4; spaces separate"
            f" {'points' if where == 'points' else 'fields'}"
        )
    return field, value


def _number(config: config_lib.Experiment, field: str, text: str) -> float:
    known = config_lib.flatten(config_lib.to_dict(config))
    if field not in known:
        near = [name for name in SWEPT if name in known]
        raise UserError(f"--config.replicas: the config has no field {field!r}; a sweep can change {', '.join(near)}")
    if field == "seed":
        raise UserError(
            "--config.replicas: seeds are not swept; --config.replicas.seeds=5 gives seeds config.seed, config.seed + 1, …"
        )
    if field in ("experiment", "data.path"):
        raise UserError(f"--config.replicas: all replicas share {field}; set it on the command line")
    if field not in SWEPT:
        raise UserError(
            f"--config.replicas: {field} cannot differ between replicas of one program: shapes or the course of the program "
            f"depend on it. Make it a row of a --sweep file of python -m mer_jax.sweep; here can be swept "
            f"{', '.join(name for name in SWEPT if name in known)}"
        )
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--config.replicas: {field}={text}: {text!r} is not a number") from None


AnyExperiment = TypeVar("AnyExperiment", bound=config_lib.Experiment)


def at(config: AnyExperiment, values: dict[str, Any]) -> AnyExperiment:
    """The config with the fields set, numbers or arrays; without a sweep of its own."""
    changed = copy.copy(config)
    changed.replicas = dataclasses.replace(config.replicas, grid="", points="")
    for field, value in values.items():
        group, name = field.split(".")
        holder = copy.copy(getattr(changed, group))
        setattr(holder, name, value)
        setattr(changed, group, holder)
    return changed


def spell(values: dict[str, float]) -> str:
    return ", ".join(f"{field}={value:g}" for field, value in values.items())


def replicas_of(config: config_lib.Experiment, split: Split) -> tuple[Replica, ...]:
    """All replicas: points outermost, then folds, then seeds. Raises UserError for a fold that the protocol does not have."""
    folds = config.replicas.folds or range(len(split.folds))
    for fold in folds:
        if not 0 <= fold < len(split.folds) or len(set(folds)) < len(folds):
            raise UserError(
                f"--config.replicas.folds={config.replicas.folds}: must be different numbers from 0 to "
                f"{len(split.folds) - 1}, the folds of {split.protocol}"
            )
    found = []
    for point, values in enumerate(swept_points(config)):
        for fold in folds:
            for seed in range(config.seed, config.seed + config.replicas.seeds):
                name = f"fold {split.folds[fold].name}, seed {seed}" + (f", {spell(values)}" if values else "")
                found.append(Replica(name, fold, split.folds[fold].name, seed, point, values))
    together = config.replicas.together
    if together and len(found) % together:
        raise UserError(
            f"--config.replicas.together={together}: must divide the {len(found)} replicas of this experiment, or be 0"
        )
    return tuple(found)
