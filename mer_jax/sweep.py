"""Several experiments told in one table: `python -m mer_jax.sweep --config=configs/lsgmer.py
--sweep=configs/lsgmer_ablations.py`.

Each row changes fields that no sweep inside one program could (parts of the model, modalities); its folds and seeds
are `config.replicas`. A row is what `mer_jax.main` makes of that config, in WORKDIR/<row>. The same command carries on
where it was stopped; a finished row is not repeated."""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from etils import epath

from mer_jax import config as config_lib
from mer_jax import experiment
from mer_jax.config import Experiment
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError, explained, reported
from mer_jax.evaluation.summary import markdown
from mer_jax.main import CHANGED, CONFIG, DISTRIBUTED, MODE, WORKDIR, jax_started, parse_distributed, parse_flags
from mer_jax.report import render
from mer_jax.runtime import distributed, run_log
from mer_jax.runtime.console import console
from mer_jax.tasks import task_of
from mer_jax.training.workdir import held_alone

SWEEP = flags.DEFINE_string(
    "sweep", None, "A file with get_sweep() -> {row: {field: value}}, e.g. configs/lsgmer_ablations.py."
)
ROWS = flags.DEFINE_list("rows", None, "Only these rows of the sweep, comma-separated.")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    with reported():
        if MODE.value != "train":
            raise UserError(f"--mode={MODE.value} is of one run: python -m mer_jax.main with that run's --workdir")
        if SWEEP.value is None:
            raise UserError(
                "--sweep is missing, as in --sweep=configs/lsgmer_ablations.py; for folds, seeds and values of one "
                "experiment use python -m mer_jax.main with --config.replicas.…"
            )
        base = config_lib.validate(CONFIG.value)
        rows = read_rows(SWEEP.value, ROWS.value)
        how = parse_distributed(DISTRIBUTED.value)
        workdir = epath.Path(WORKDIR.value or f"{config_lib.default_workdir(base)}-sweep")
        configs = {row: change(base, changes) for row, changes in rows.items()}
        corpus = experiment.open_corpus(base)
        for config in configs.values():
            experiment.check(config, corpus)
        purpose = {"config": {row: config_lib.to_dict(c) for row, c in configs.items()}, "data": corpus.manifest_sha256}
        with jax_started(how, workdir), held_alone(workdir, purpose):
            run_rows(configs, corpus, workdir)


def run_rows(configs: dict[str, Experiment], corpus: Corpus, workdir: epath.Path) -> None:
    """Runs every row and writes their table. Raises UserError, at the end, if a row failed."""
    task = task_of(corpus).led_by(next(iter(configs.values())).train.select)
    found: dict[str, dict[str, Any]] = {}  # rows that have finished
    failed: list[str] = []
    for number, (row, config) in enumerate(configs.items(), 1):
        console.print(f"\n[bold]{number} of {len(configs)}: {row}[/bold]")
        try:
            found[row] = experiment.run(config, corpus, workdir / slug(row), allow_config_change=CHANGED.value)
        except (UserError, jax.errors.JaxRuntimeError) as error:
            # A row that diverges, or is too big, must not cost the others; but who knows at which row other processes
            # are.
            why = explained(error)
            if distributed.is_multiprocess() or not isinstance(why, UserError):
                raise
            failed.append(f"{row}: {why}")
            console.print(f"failed: {why}")
        rows = {row: {name: result[name] for name in ("protocol", "points")} for row, result in found.items()}
        run_log.write_json(workdir / "sweep.json", rows)
    table = markdown(task, found)
    run_log.write_text(workdir / "sweep.md", table)
    if found and distributed.is_primary():
        render.write([workdir / slug(row) for row in found], workdir / "report.html")
    shown = ", report.html shows it" * bool(found)
    console.out(f"\n{table}\n{workdir}/sweep.json holds what every row found, sweep.md this table{shown}")
    if failed:
        raise UserError(f"{len(failed)} of {len(configs)} rows failed:\n  " + "\n  ".join(failed))


def read_rows(path: str, only: list[str] | None) -> dict[str, dict[str, Any]]:
    """The rows of a sweep file; raises UserError naming what is wrong with it."""
    spec = importlib.util.spec_from_file_location("sweep_file", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"--sweep={path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        rows = module.get_sweep() if hasattr(module, "get_sweep") else None
    except Exception as error:
        raise UserError(f"{path} does not load: {type(error).__name__}: {error}") from None
    if rows is None:
        raise UserError(f"{path} has no get_sweep()")
    if not (
        isinstance(rows, dict) and rows and all(isinstance(k, str) and isinstance(v, dict) for k, v in rows.items())
    ):
        raise UserError(
            f"{path}: get_sweep() must return {{row: {{field: value}}}} with at least one row, each named by a string"
        )
    if len({slug(name) for name in rows}) < len(rows):
        raise UserError(f"{path}: two rows would share a folder, for their names differ in punctuation only")
    for name in only or ():
        if name not in rows:
            raise UserError(f"--rows={name}: {path} has {', '.join(rows)}")
    return {name: changes for name, changes in rows.items() if not only or name in only}


def change(base: Experiment, changes: dict[str, Any]) -> Experiment:
    """The base experiment with the row's fields changed; raises UserError for a field or type it does not have."""
    config = copy.deepcopy(base)
    known = config_lib.fields(base)
    for field, value in changes.items():
        if field in ("seed", "experiment", "data.path"):
            raise UserError(f"the sweep changes {field}, which all rows share; set it on the command line")
        if field not in known:
            raise UserError(f"the sweep changes {field!r}, which the config does not have; it has {', '.join(known)}")
        *path, last = field.split(".")
        holder: Any = config
        for name in path:
            holder = getattr(holder, name)
        if type(value) is not type(getattr(holder, last)):
            raise UserError(f"the sweep sets {field} to {value!r}; it must be a {type(getattr(holder, last)).__name__}")
        setattr(holder, last, value)
    return config_lib.validate(config)


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
