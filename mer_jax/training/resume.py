"""TODO: say what lives here."""

import functools
from typing import Any

from etils import epath

from mer_jax import config as config_lib
from mer_jax.data import protocols
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.runtime import checkpoint, console
from mer_jax.training.replicas import ReplicaProgress
from mer_jax.training.setup import Run, assemble


def resume_or_begin(whole: Run, checkpoints: checkpoint.Checkpoints) -> int:
    """The step to carry on after."""
    at = restore_newest(whole, checkpoints)
    if at is None:
        whole.fleet.begin()
        return 0
    console.console.print(f"resuming after step {at}")
    return at


def check_same_replicas(whole: Run, at: int, info: dict[str, Any]) -> None:
    """Raises UserError if a checkpoint is not of these replicas on these data."""
    names = [replica.name for replica in whole.fleet.replicas]
    if [standing["name"] for standing in info.get("replicas", [])] != names or info.get("data") != data_identity(whole):
        raise UserError(f"{whole.workdir}: checkpoint {at} was trained on another split, on other data or as other replicas, "
                        "so that carrying on could test what has been trained on; use another --workdir")  # fmt: skip


def restore_newest(whole: Run, checkpoints: checkpoint.Checkpoints, *, fall_back: bool = True) -> int | None:
    """The run as its newest checkpoint has it, and that step; None, and nothing done, if there is none."""
    refuse = functools.partial(check_same_replicas, whole)
    found = checkpoints.newest(whole.fleet.like(), refuse, console.console.print, fall_back=fall_back)
    if found is None:
        return None
    at, info, saved = found
    whole.standings = [ReplicaProgress(**{k: v for k, v in s.items() if k != "name"}) for s in info["replicas"]]
    whole.fleet.load(saved)
    return at


def data_identity(whole: Run) -> dict[str, Any]:
    """What a checkpoint must agree in with the run that carries it on: which data its replicas saw, and how."""
    settings = whole.config.data
    return {"manifest_sha256": whole.corpus.manifest_sha256, "split_sha256": protocols.sha256(whole.corpus, whole.split),
            "modalities": list(settings.modalities), "max_length": list(settings.max_length),
            "standardize": settings.standardize, "nonfinite": settings.nonfinite, "seed": settings.seed}  # fmt: skip


def restore_finished(config: config_lib.Experiment, corpus: Corpus, workdir: epath.Path) -> Run:
    """A finished run as its last checkpoint has it, with every replica's best model; raises UserError if there is none."""
    whole = assemble(config, corpus, workdir)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    if restore_newest(whole, checkpoints, fall_back=False) is None:
        raise UserError(f"{workdir / 'checkpoints'} holds no checkpoint: it cannot be scored again")
    checkpoints.close()
    return whole
