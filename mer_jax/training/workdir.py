"""Whose run a workdir holds, and whether it is finished."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from etils import epath

from mer_jax import config as config_lib
from mer_jax import old_runs
from mer_jax.config import Experiment
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.files import read_json, sha256_of

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def versions() -> dict[str, str]:
    """The versions that a run was made with."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"mer_jax": importlib.metadata.version("mer_jax"), "python": platform.python_version(), **found}


def identity(config: Experiment, corpus: Corpus) -> dict[str, Any]:
    """What config.json says of a run: two runs of one workdir must agree in config and data."""
    files = {f"{name}_sha256": sha256_of(Path(path)) for name, path in config.files().items()}
    return {
        "config": config_lib.to_dict(config),
        "data": {"manifest_sha256": corpus.manifest_sha256, **files},
        "versions": versions(),
    }


def is_finished(config: Experiment, workdir: epath.Path, now: dict[str, Any], allow_config_change: bool) -> bool:
    """Whether the workdir holds this experiment's finished run. now: the experiment's `identity`.

    Raises UserError, and touches nothing, if it holds another experiment's or something else.
    """
    path, done = workdir / "config.json", (workdir / "metrics.json").exists()
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; it must be a folder, or not exist yet")
    foreign = UserError(f"{workdir} is not empty and holds no run of ours; choose another --workdir")
    if not path.exists():
        # What ends in .partial is left by a write that was killed.
        if workdir.exists() and not all(p.name.endswith(".partial") for p in workdir.iterdir()):
            raise foreign
        return False
    before = read_json(path)
    if not isinstance(before, dict) or not {"config", "data"} <= before.keys():
        raise foreign
    refuse_other_config(config, workdir, before, now, allow_config_change, done)
    return done


def refuse_other_config(
    config: Experiment,
    workdir: epath.Path,
    before: dict[str, Any],
    now: dict[str, Any],
    allow_config_change: bool,
    done: bool,
) -> None:
    """Raises UserError, field by field, if the run that the workdir holds (before: its config.json) has another config
    or other data than the experiment; of a run that is not done a change may be allowed."""
    free = config_lib.fields_without_result(config)
    fields = config_lib.differences(old_runs.read_config(before["config"]), now["config"])
    changed = [line for line in fields if line.partition(":")[0] not in free]
    changed += config_lib.differences(before["data"], now["data"])
    if changed and (done or not allow_config_change):
        way = "" if done else ", or --allow_config_change to carry on with the new values"
        raise UserError(
            f"{workdir} holds {'a finished' if done else 'an unfinished'} run with another config:\n  "
            + "\n  ".join(changed)
            + f"\nUse another --workdir, or the old values{way}."
        )
