"""What is asked for, and the rows that it makes: corpora x protocols x models. No JAX at import."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mer_jax.benchmark.floors import DIALOGUE, KINDS, Floor, FloorExperiment, floors_of
from mer_jax.benchmark.models import MODELS, Model, known_fields, named
from mer_jax.config import Experiment
from mer_jax.data import dialogues, protocols
from mer_jax.errors import UserError
from mer_jax.files import read_json, write_json
from mer_jax.settings import TrainSettings
from mer_jax.tasks import task_of
from mer_jax.training.replicas import sweep_points

FLOORS = "floors"  # in --models: all that the corpus's task has
PLAN = "plan.json"


@dataclasses.dataclass(frozen=True)
class Asked:
    """The command's flags. changes: FIELD=VALUE each; those fields count that a model's config has."""

    corpora: tuple[str, ...]
    protocols: tuple[str, ...]
    models: tuple[str, ...]
    workdir: Path
    seeds: int = 5
    tune_seeds: int = 1
    grid: str = ""
    modalities: tuple[str, ...] = ()
    context: str = "both"
    changes: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What every row of a workdir has in common; corpora, protocols and models may come later."""
        fields = ("seeds", "tune_seeds", "grid", "modalities", "context", "changes")
        return {name: [*value] if isinstance(value := getattr(self, name), tuple) else value for name in fields}

    def change(self, field: str, default: Any = "") -> Any:
        """What --set says of a field."""
        return dict(change.split("=", 1) for change in self.changes).get(field, default)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A corpus that is opened. path: as data.path takes it. select: the score that chooses and leads. dialogues:
    whether anybody speaks beside an utterance."""

    name: str
    path: str
    corpus: Any
    modalities: tuple[str, ...]
    select: str
    dialogues: bool

    @property
    def task(self) -> Any:
        return task_of(self.corpus).led_by(self.select)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table. config: of a model that is trained, as it is without a point of the grid."""

    entry: Entry
    protocol: str
    model: Model | Floor
    folder: Path
    flags: tuple[str, ...]
    config: Experiment | None = None

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def trained(self) -> bool:
        return isinstance(self.model, Model)

    @property
    def title(self) -> str:
        return f"{self.entry.name}, {self.protocol}: {self.name}"

    @property
    def tunes(self) -> bool:
        """Whether validation may choose: where the test part does that there is nothing to lock."""
        return not protocols.selects_on_test(self.protocol)


def folder_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "-"


def entries(asked: Asked) -> list[Entry]:
    """The corpora, opened. Raises UserError for one that cannot be, or lacks what is asked of it."""
    from mer_jax.experiment import open_corpus

    found: list[Entry] = []
    for path in asked.corpora:
        experiment = Experiment()
        experiment.data.path, experiment.data.task = path, asked.change("data.task")
        corpus = open_corpus(experiment)
        vectors = tuple(m for m, spec in corpus.modalities.items() if "pixels" not in spec)
        if lacking := [m for m in asked.modalities if m not in corpus.modalities]:
            has = ", ".join(corpus.modalities)
            raise UserError(f"--modalities={','.join(asked.modalities)}: {path} has no {lacking[0]!r}; it has {has}")
        name = str(corpus.manifest["name"])
        if taken := [one.path for one in found if folder_name(one.name) == folder_name(name)]:
            raise UserError(
                f"--corpus {path}: is called {name!r}, as {taken[0]} is; give one of them a --workdir of its own"
            )
        metrics = task_of(corpus).metrics
        usual = TrainSettings.select if TrainSettings.select in metrics else next(iter(metrics))
        select = asked.change("train.select", usual)
        if select not in metrics:
            raise UserError(f"--set train.select={select}: of {path} it must be one of {', '.join(metrics)}")
        found.append(Entry(name, path, corpus, asked.modalities or vectors, select, speaks(corpus, asked.context)))
    return found


def speaks(corpus: Any, context: str) -> bool:
    """Whether there are other turns to hear, and they are asked for."""
    if context == "none":
        return False
    try:
        dialogues.refuse_without(corpus, context)
    except UserError:
        return False
    return True


def chosen_models(asked: Asked, found: Sequence[Entry]) -> dict[str, list[Model | Floor]]:
    """By the name of the corpus the models of its table, in the order asked for. Raises UserError for a name that is
    none, or that no corpus has."""
    by_corpus: dict[str, list[Model | Floor]] = {}
    for entry in found:
        known = floors_of(task_of(entry.corpus), entry.modalities, dialogues=entry.dialogues)
        of_corpus: list[Model | Floor] = []
        for name in asked.models:
            fitting = [floor for floor in known if name in (FLOORS, floor.kind, floor.name)]
            model = named(name)
            of_corpus += [model] if model is not None else fitting
        by_corpus[entry.name] = list(dict.fromkeys(of_corpus))
    everywhere = [model for of in by_corpus.values() for model in of]
    for name in asked.models:
        kind = name.partition(":")[0]
        if named(name) is None and not any(
            name == FLOORS or name in (m.name, getattr(m, "kind", "")) for m in everywhere
        ):
            if kind in KINDS:
                raise UserError(f"--models: no corpus has the floor {name!r}: its task or modalities are others")
            words = f"{', '.join(MODELS)}, {FLOORS}, {', '.join(KINDS)}"
            raise UserError(f"--models: {name!r} is none of {words}, nor PATH.py or PATH.py:ARG of a config")
    return by_corpus


def rows_of(asked: Asked) -> list[Row]:
    """All rows, corpora outermost, then protocols. Raises UserError, before anything is run, for what is wrong with the
    flags; what a corpus refuses of a single model is that row's own failure."""
    for protocol in asked.protocols:
        protocols.check_name(protocol)
    for change in asked.changes:
        if not re.fullmatch(r"[\w.]+=.*", change, re.DOTALL):
            raise UserError(f"--set {change}: must be FIELD=VALUE, as in --set train.epochs=20")
        field = change.partition("=")[0]
        if field in OURS or field.startswith(("replicas.", "floor.")):
            raise UserError(f"--set {field}: the benchmark sets it itself; see --help")
    opened = entries(asked)
    by_corpus = chosen_models(asked, opened)
    every = list(dict.fromkeys(model for of in by_corpus.values() for model in of))
    configs = read_configs(asked, every)
    rows = []
    for entry in opened:
        for protocol in asked.protocols:
            for model in by_corpus[entry.name]:
                parts = (folder_name(part) for part in (entry.name, protocol, model.name))
                flags = flags_of(asked, entry, protocol, model, configs[model])
                config = model.read(flags) if isinstance(model, Model) else None
                rows.append(Row(entry, protocol, model, asked.workdir.joinpath(*parts), tuple(flags), config))
    if not rows:
        raise UserError(
            "there is nothing to compare: no floor fits the task of these corpora; name a model in --models"
        )
    _refuse_shared([row.folder for row in rows])
    return rows


OURS = ("experiment", "seed", "data.path", "data.protocol", "data.modalities", "data.context", "train.score_test")


def read_configs(asked: Asked, models: Iterable[Model | Floor]) -> dict[Model | Floor, Experiment]:
    """The config of every model as its file gives it. Raises UserError for one that does not load or cannot be swept,
    and for a field of --set that no model has."""
    configs: dict[Model | Floor, Experiment] = {}
    for model in models:
        configs[model] = model.read() if isinstance(model, Model) else FloorExperiment()
        if isinstance(model, Model) and asked.grid:
            try:
                sweep_points(model.read([f"--config.replicas.grid={asked.grid}"]))
            except UserError as error:
                raise UserError(f"--grid={asked.grid}: model {model.name}: {error}") from None
    for change in asked.changes:
        if not any(known_fields(config, [change]) for config in configs.values()):
            field = change.partition("=")[0]
            raise UserError(
                f"--set {change}: no config of {', '.join(m.name for m in configs)} has the field {field!r}"
            )
    return configs


def flags_of(asked: Asked, entry: Entry, protocol: str, model: Model | Floor, config: Experiment) -> list[str]:
    """What every stage of a row is given, as --config.FIELD=VALUE."""
    readable = config.known_modalities() or entry.modalities
    modalities = [m for m in entry.modalities if m in readable] or list(entry.modalities)
    if isinstance(model, Floor) and model.features in modalities:
        modalities = [model.features]
    fields = {
        "data.path": entry.path,
        "data.protocol": protocol,
        "data.modalities": ",".join(modalities),
        "train.select": entry.select,
        "train.inspect": False,
    }
    hears = config.data.context != "none" if isinstance(model, Model) else model.features == DIALOGUE
    if config.reads_conversations:
        fields["data.context"] = asked.context if entry.dialogues and hears else "none"
    changes = [change for change in known_fields(config, asked.changes) if not change.startswith("train.select=")]
    return [f"--config.{field}={value}" for field, value in fields.items()] + [f"--config.{one}" for one in changes]


def _refuse_shared(folders: Sequence[Path]) -> None:
    for i, folder in enumerate(folders):
        if folder in folders[:i]:
            raise UserError(f"--models: two rows would share the folder {folder}; their names are alike")


def keep_plan(asked: Asked, rows: Sequence[Row]) -> None:
    """Writes what the rows of the workdir have in common; raises UserError if it holds those of another benchmark, or
    something else."""
    path, now = asked.workdir / PLAN, asked.identity()
    corpora = {row.entry.name: row.entry.corpus.manifest_sha256 for row in rows}
    before: dict[str, Any] = {}
    if path.exists():
        before = read_json(path, dict[str, Any], "Restore it, or choose another --workdir.")
        known = before.get("asked", {})
        changed = [f"{name}: {known.get(name)} -> {now[name]}" for name in now if known.get(name) != now[name]]
        held = before.get("corpora", {})
        changed += [f"corpus {name}: another one" for name in corpora if held.get(name, corpora[name]) != corpora[name]]
        if changed:
            lines = "\n  ".join(changed)
            raise UserError(
                f"{asked.workdir} holds a benchmark with other settings:\n  {lines}\nUse another --workdir."
            )
    elif asked.workdir.exists() and any(p.suffix != ".partial" and p.name != ".lock" for p in asked.workdir.iterdir()):
        raise UserError(f"{asked.workdir} is not empty and holds no benchmark; choose another --workdir")
    asked.workdir.mkdir(parents=True, exist_ok=True)
    write_json(path, {"asked": now, "corpora": before.get("corpora", {}) | corpora})
