"""The runs of an experiment: folds x seeds x points of a sweep, each a replica that the same training step carries. No
JAX."""

import dataclasses
import itertools

from mer_jax.config import Experiment, fields, sweepable_fields, validate, with_values
from mer_jax.data.protocols import Split, selects_on_test
from mer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Replica:
    """One run. fold: its number in the split; values: the swept fields and what they are here; point: their number."""

    name: str
    fold: int
    fold_name: str
    seed: int
    point: int
    values: dict[str, float]


def sweep_points(config: Experiment) -> list[dict[str, float]]:
    """The points of the sweep, `{field: value}` each; one empty point without a sweep. Raises UserError."""
    settings = config.replicas
    if (settings.grid or settings.points) and selects_on_test(config.data.protocol):
        raise UserError(
            f"--config.replicas: a sweep under data.protocol={config.data.protocol} would choose its point by the test "
            "part"
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
        points = [
            dict(zip(fields, combination, strict=True))
            for combination in itertools.product(*(values.split(",") for _, values in axes))
        ]
    read = [{field: _number(config, field, text) for field, text in point.items()} for point in points]
    for i, point in enumerate(read):
        if point in read[:i]:
            raise UserError(f"--config.replicas: the point {format_overrides(point)} is there twice")
    for point in read:
        validate(with_values(config, point))
    return read


def swept_fields(config: Experiment) -> tuple[str, ...]:
    """The fields that differ between the points."""
    return tuple(sweep_points(config)[0])


def _pair(where: str, item: str) -> tuple[str, str]:
    field, equals, value = item.partition("=")
    if not (field and equals and value):
        raise UserError(
            f"--config.replicas.{where}: {item!r} must be field=value, as in optim.learning_rate=1e-4; spaces separate"
            f" {'points' if where == 'points' else 'fields'}"
        )
    return field, value


def _number(config: Experiment, field: str, text: str) -> float:
    known, sweepable = fields(config), sweepable_fields(config)
    if field not in known:
        can = ", ".join(sweepable)
        raise UserError(f"--config.replicas: the config has no field {field!r}; a sweep can change {can}")
    if field == "seed":
        raise UserError(
            "--config.replicas: seeds are not swept; --config.replicas.seeds=5 gives seeds config.seed, config.seed +"
            " 1, …"
        )
    if field in ("experiment", "data.path"):
        raise UserError(f"--config.replicas: all replicas share {field}; set it on the command line")
    if field not in sweepable:
        raise UserError(
            f"--config.replicas: {field} cannot differ between replicas of one program: shapes or the course of the"
            " program depend on it. Make it a row of a --sweep file of python -m mer_jax.sweep; here can be swept"
            f" {', '.join(sweepable)}"
        )
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--config.replicas: {field}={text}: {text!r} is not a number") from None


def format_overrides(values: dict[str, float]) -> str:
    return ", ".join(f"{field}={value:g}" for field, value in values.items())


def replicas_of(config: Experiment, split: Split) -> tuple[Replica, ...]:
    """All replicas: points outermost, then folds, then seeds. Raises UserError for a fold that the protocol does not
    have."""
    folds = config.replicas.folds or range(len(split.folds))
    for fold in folds:
        if not 0 <= fold < len(split.folds) or len(set(folds)) < len(folds):
            raise UserError(
                f"--config.replicas.folds={config.replicas.folds}: must be different numbers from 0 to "
                f"{len(split.folds) - 1}, the folds of {split.protocol}"
            )
    found = []
    for point, values in enumerate(sweep_points(config)):
        for fold in folds:
            for seed in range(config.seed, config.seed + config.replicas.seeds):
                name = f"fold {split.folds[fold].name}, seed {seed}" + (
                    f", {format_overrides(values)}" if values else ""
                )
                found.append(Replica(name, fold, split.folds[fold].name, seed, point, values))
    per_step = config.replicas.replicas_per_step
    if per_step and len(found) % per_step:
        raise UserError(
            f"--config.replicas.replicas_per_step={per_step}: must divide the {len(found)} replicas of this experiment,"
            " or be 0"
        )
    return tuple(found)


@dataclasses.dataclass
class ReplicaProgress:
    """How far a replica is: its best step so far by the validation part, for how many epochs none was better, and
    whether it is still `training`, has `stopped` early or has `diverged` to numbers that are none."""

    step: int | None = None
    score: float | None = None
    stale: int = 0
    status: str = "training"

    def update(self, step: int, score: float, better: bool, patience: int) -> None:
        """Takes an epoch's validation score; after `patience` epochs without a better one the replica stops."""
        if better:
            self.step, self.score, self.stale = step, score, 0
            return
        self.stale += 1
        if patience and self.stale >= patience:
            self.status = "stopped"
