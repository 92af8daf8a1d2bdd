"""Carrying a run on from its newest checkpoint."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from mer_jax import run_files
from mer_jax.config import Experiment, differing_results, to_dict
from mer_jax.data import protocols
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.files import read_json
from mer_jax.models.family import experiment_from
from mer_jax.models.functional import FunctionalModel
from mer_jax.runtime import checkpoint
from mer_jax.runtime.console import console
from mer_jax.training.replicas import ReplicaProgress, swept_fields
from mer_jax.training.setup import Run, assemble


def resume_or_begin(run: Run, checkpoints: checkpoint.Checkpoints) -> int:
    """The step to carry on after."""
    step = restore_newest(run, checkpoints)
    if step is None:
        run.groups.begin()
        return 0
    console.print(f"resuming after step {step}")
    return step


def check_same_replicas(run: Run, step: int, info: dict[str, Any]) -> None:
    """Raises UserError if a checkpoint is not of these replicas on these data."""
    names = [replica.name for replica in run.groups.replicas]
    if [replica["name"] for replica in info.get("replicas", [])] != names or info.get("data") != data_identity(run):
        raise UserError(
            f"{run.workdir}: checkpoint {step} was trained on another split, on other data or as other replicas, so"
            " that carrying on could test what has been trained on; use another --workdir"
        )


def restore_newest(run: Run, checkpoints: checkpoint.Checkpoints, *, fall_back: bool = True) -> int | None:
    """The run as its newest checkpoint has it, and that step; None, and nothing done, if there is none."""
    check = functools.partial(check_same_replicas, run)
    found = checkpoints.newest(run.groups.like(), check, console.print, fall_back=fall_back)
    if found is None:
        return None
    step, info, saved = found
    run.progress = [ReplicaProgress(**{k: v for k, v in s.items() if k != "name"}) for s in info["replicas"]]
    run.groups.load(saved)
    return step


def data_identity(run: Run) -> dict[str, Any]:
    """What a checkpoint must agree in with the run that carries it on: which data its replicas saw, and how."""
    settings = run.config.data
    heard = {"context": settings.context, "max_turns": settings.max_turns} if settings.context != "none" else {}
    norm = {"speaker_norm": settings.speaker_norm} if settings.speaker_norm != "none" else {}
    return (
        heard
        | norm
        | {
            "manifest_sha256": run.corpus.manifest_sha256,
            "split_sha256": protocols.sha256(run.corpus, run.split),
            "modalities": list(settings.modalities),
            "max_length": list(settings.max_length),
            "standardize": settings.standardize,
            "nonfinite": settings.nonfinite,
            "seed": settings.seed,
        }
    )


def refuse_other_results(
    workdir: epath.Path,
    config: Experiment,
    metrics: Mapping[str, Any],
    digest: Mapping[str, Any],
    replicas: Mapping[str, int | None],
) -> None:
    """Raises UserError unless metrics.json tells of models of this config and of this checkpoint. replicas: the step of
    each one's best model. Runs from before 0.10 do not hold the digest."""
    if changed := differing_results(config, to_dict(experiment_from(metrics["config"])), to_dict(config)):
        raise UserError(
            f"{workdir / 'config.json'} is not the config of the run that metrics.json tells of:\n  "
            + "\n  ".join(changed)
            + "\nBring that back, or train again in another --workdir."
        )
    known = metrics.get("checkpoint", digest)
    told = {replica["name"]: replica["step"] for replica in metrics["replicas"]}
    if dict(known) != dict(digest) or told != dict(replicas):
        steps, same = known.get("step"), dict(known) == dict(digest)
        what = (
            "with other best steps" if same else f"of step {steps}" if steps != digest["step"] else "with other arrays"
        )
        raise UserError(
            f"{workdir / 'checkpoints'}: the newest checkpoint, of step {digest['step']}, is not the one that "
            f"metrics.json tells of ({what}): bring that back, or train again in another --workdir"
        )


def refuse_other_models(
    workdir: epath.Path, config: Experiment, model: FunctionalModel, best: Mapping[str, Any]
) -> None:
    """Raises UserError, naming the array, unless a checkpoint's best models have the arrays of the config's model. An
    earlier version's may have had others."""
    overrides = {field: np.float32(0) for field in swept_fields(config)}
    params, model_state = jax.eval_shape(model.init, jax.random.key(0), overrides, {})
    count = len(jax.tree.leaves(best["params"])[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), {"params": params, "model_state": model_state}
    )
    saved = {name: best[name] for name in wanted}
    checkpoint.refuse_other_arrays(saved, wanted, f"{workdir / 'checkpoints'} is of another model than this version's")


def restore_finished(config: Experiment, corpus: Corpus, workdir: epath.Path) -> Run:
    """A finished run as its last checkpoint has it, with every replica's best model; raises UserError if there is
    none, or if it is another's."""
    run = assemble(config, corpus, workdir)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    if restore_newest(run, checkpoints, fall_back=False) is None:
        raise UserError(f"{workdir / 'checkpoints'} holds no checkpoint: it cannot be scored again")
    checkpoints.close()
    best = {replica.name: progress.step for replica, progress in zip(run.groups.replicas, run.progress, strict=True)}
    metrics = read_json(workdir / "metrics.json", run_files.Metrics)
    refuse_other_results(workdir, config, metrics, checkpoints.digest(), best)
    return run
