"""TODO: say what lives here."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from etils import epath

from mer_jax import config as config_lib
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.files import read_json, sha256_of
from mer_jax.models import deepmsi_mer_frames as deepmsi_mer_frames_lib

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


# ---- workdir ----


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"mer_jax": importlib.metadata.version("mer_jax"), "python": platform.python_version(), **found}


def identity(config: config_lib.Experiment, corpus: Corpus) -> dict[str, Any]:
    """What config.json says of a run: two runs of one workdir must agree in config and data."""
    data = {"manifest_sha256": corpus.manifest_sha256}
    if isinstance(config, deepmsi_mer_frames_lib.DeepMSIFramesExperiment) and config.backbone.weights:
        data["weights_sha256"] = sha256_of(Path(config.backbone.weights))
    return {
        "config": config_lib.to_dict(config),
        "data": data,
        "versions": versions(),
    }


def is_finished(workdir: epath.Path, now: dict[str, Any], allow_config_change: bool) -> bool:
    """Whether the workdir holds this experiment's finished run.

    Raises UserError, and touches nothing, if it holds another experiment's or something else.
    """
    path, done = workdir / "config.json", (workdir / "metrics.json").exists()
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; it must be a folder, or not exist yet")
    foreign = UserError(f"{workdir} is not empty and holds no run of ours; choose another --workdir")
    if not path.exists():
        if workdir.exists() and not all(
            p.name.endswith(".partial") for p in workdir.iterdir()
        ):  # of a write that was killed
            raise foreign
        return False
    before = read_json(path)
    if not isinstance(before, dict) or not {"config", "data"} <= before.keys():
        raise foreign
    changed = [
        line
        for group in ("config", "data")
        for line in config_lib.differences(before[group], now[group])
        if not line.startswith(config_lib.CHANGES_NO_RESULT)
    ]
    if changed and (done or not allow_config_change):
        way = "" if done else ", or --allow_config_change to carry on with the new values"
        raise UserError(
            f"{workdir} holds {'a finished' if done else 'an unfinished'} run with another config:\n  "
            + "\n  ".join(changed)
            + f"\nUse another --workdir, or the old values{way}."
        )
    return done
