"""Many runs of one experiment, told in one table: `python -m mer_jax.sweep --config=configs/lsgmer.py --seeds=5`.

Every run is what `mer_jax.main` makes of the same config, in WORKDIR/<row>/seed<n>. The same command carries on where it
was stopped; a finished run is not repeated.
"""

import copy
import importlib.util
import statistics
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from mer_jax import cache
from mer_jax import config as config_lib
from mer_jax.errors import UserError, reported
from mer_jax.main import CHANGED, CONFIG, MODE, WORKDIR, open_corpus, parse_flags

SEEDS = flags.DEFINE_integer("seeds", 5, "Runs of every row, with seeds config.seed (0), 1, …", lower_bound=1)
SWEEP = flags.DEFINE_string(
    "sweep",
    None,
    "A file with get_sweep() -> {row: {field: value}}, e.g. configs/lsgmer_ablations.py; one row if not given.",
)
ROWS = flags.DEFINE_list("rows", None, "Only these rows of the sweep, comma-separated.")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    with reported():
        if MODE.value != "train":
            raise UserError("--mode=eval scores one run: python -m mer_jax.main with that run's --workdir")
        base = config_lib.validate(CONFIG.value)
        rows = read_rows(SWEEP.value, ROWS.value, base.experiment)
        workdir = Path(WORKDIR.value) if WORKDIR.value else Path(f"{config_lib.default_workdir(base)}-sweep")
        seeds = range(base.seed, base.seed + SEEDS.value)
        points = [(row, seed, change(base, rows[row], seed)) for row in rows for seed in seeds]
        corpus = open_corpus(base)
        for _row, _seed, experiment in points:
            config_lib.validate_against(experiment, corpus)
        from mer_jax import log, shard, train

        shard.start(cache.folder() / "xla")
        found: dict[str, list[dict[str, Any]]] = {}  # rows with a finished run
        failed: list[str] = []
        for number, (row, seed, experiment) in enumerate(points, 1):
            log.console.print(f"\n[bold]run {number} of {len(points)}: {row}, seed {seed}[/bold]")
            try:
                folder = workdir / slug(row) / f"seed{seed}"
                result = train.run(experiment, corpus, folder, allow_config_change=CHANGED.value)
                found.setdefault(row, []).append(result)
            except UserError as error:  # a row that diverges must not cost the others
                failed.append(f"{row}, seed {seed}: {error}")
                log.console.print(f"failed: {error}")
            log.write_json(workdir / "sweep.json", {row: summary(runs) for row, runs in found.items()})
        log.write_text(workdir / "sweep.md", markdown(found))
        print(f"\n{markdown(found)}\n{workdir}/sweep.json holds every run's scores, sweep.md this table")
        if failed:
            raise UserError(f"{len(failed)} of {len(points)} runs failed:\n  " + "\n  ".join(failed))


def read_rows(path: str | None, only: list[str] | None, default: str) -> dict[str, dict[str, Any]]:
    """The rows of a sweep file; raises UserError naming what is wrong with it."""
    if path is None:
        return {default: {}}
    spec = importlib.util.spec_from_file_location("sweep_file", path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"--sweep={path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} does not load: {type(error).__name__}: {error}") from None
    if not hasattr(module, "get_sweep"):
        raise UserError(f"{path} has no get_sweep()")
    rows = module.get_sweep()
    if not (isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values())):
        raise UserError(f"{path}: get_sweep() must return {{row: {{field: value}}}} with at least one row")
    if len({slug(name) for name in rows}) < len(rows):
        raise UserError(f"{path}: two rows would share a folder, for their names differ in punctuation only")
    for name in only or ():
        if name not in rows:
            raise UserError(f"--rows={name}: {path} has {', '.join(rows)}")
    return {name: changes for name, changes in rows.items() if not only or name in only}


def change(base: config_lib.Experiment, changes: dict[str, Any], seed: int) -> config_lib.Experiment:
    """The base experiment with the row's fields changed; raises UserError for a field or type it does not have."""
    experiment = copy.deepcopy(base)
    experiment.seed = seed
    known = config_lib.flatten(config_lib.to_dict(base))
    for field, value in changes.items():
        if field in ("seed", "experiment", "data.path"):
            raise UserError(f"the sweep changes {field}, which all rows share; set it on the command line")
        if field not in known:
            raise UserError(f"the sweep changes {field!r}, which the config does not have; it has {', '.join(known)}")
        *path, last = field.split(".")
        holder: Any = experiment
        for name in path:
            holder = getattr(holder, name)
        if type(value) is not type(getattr(holder, last)):
            raise UserError(f"the sweep sets {field} to {value!r}; it must be a {type(getattr(holder, last)).__name__}")
        setattr(holder, last, value)
    return config_lib.validate(experiment)


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Every run's overall scores by part, with mean and sample standard deviation over the seeds."""
    scores = ("accuracy", "uar", "weighted_f1", "macro_f1")
    out: dict[str, Any] = {"seeds": [run["config"]["seed"] for run in runs]}
    for part in ("valid", "test"):
        for score in scores:
            values = [run[part][score] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else None
            out[f"{part}/{score}"] = {"values": values, "mean": statistics.mean(values), "sd": spread}
    return out


def markdown(found: dict[str, list[dict[str, Any]]]) -> str:
    """Test scores in percent, mean ± sample standard deviation over the seeds."""
    columns = {"test/weighted_f1": "WF1", "test/macro_f1": "macro F1", "test/accuracy": "accuracy", "test/uar": "UAR",
               "valid/weighted_f1": "validation WF1"}  # fmt: skip
    lines = ["| | " + " | ".join(columns.values()) + " | seeds |", "|---" * (len(columns) + 2) + "|"]
    for name, runs in found.items():
        row = summary(runs)
        cells = []
        for column in columns:
            sd = row[column]["sd"]
            cells.append(f"{100 * row[column]['mean']:.1f}" + (f" ± {100 * sd:.1f}" if sd is not None else ""))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(runs)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
