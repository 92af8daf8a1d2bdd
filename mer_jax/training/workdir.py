"""Whose run a workdir holds, and whether it is finished."""

import contextlib
import copy
import dataclasses
import importlib.metadata
import itertools
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from mer_jax import config as config_lib
from mer_jax import old_runs, run_files
from mer_jax.config import AnyExperiment, Experiment
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError, explained
from mer_jax.files import read_json, sha256_of
from mer_jax.runtime import distributed, folder_lock
from mer_jax.runtime.console import console

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


def with_old_defaults(config: AnyExperiment, workdir: epath.Path) -> AnyExperiment:
    """The config; where it leaves a default that has changed, and the workdir's run began with the old one, with
    that."""
    path = workdir / "config.json"
    before = read_config_file(path)["config"] if path.exists() else {}
    length = before.get("data", {}).get("max_length")
    if config.data.max_length or length not in old_runs.MAX_LENGTHS:
        return config
    console.print(f"note: {workdir} began with data.max_length={length[0]}, the default then, and keeps it")
    changed = copy.copy(config)
    changed.data = dataclasses.replace(config.data, max_length=tuple(length))
    return changed


def is_finished(config: Experiment, workdir: epath.Path, now: dict[str, Any], allow_config_change: bool) -> bool:
    """Whether the workdir holds this experiment's finished run. now: the experiment's `identity`.

    Raises UserError, and touches nothing, if it holds another experiment's or something else.
    """
    path, done = workdir / "config.json", (workdir / "metrics.json").exists()
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; it must be a folder, or not exist yet")
    foreign = UserError(f"{workdir} is not empty and holds no run of ours; choose another --workdir")
    if not path.exists():
        if not is_empty(workdir):
            raise foreign
        return False
    before = read_config_file(path)
    refuse_other_config(config, workdir, before, now, allow_config_change, done)
    return done


def read_config_file(path: epath.PathLike) -> dict[str, Any]:
    """What config.json says of a run; raises UserError if it is damaged, or of something else."""
    advice = "Restore it, or choose another --workdir."
    return read_json(path, run_files.RunIdentity, advice)


def is_empty(workdir: epath.Path) -> bool:
    """Whether nothing is there but a lock, and what a write that was killed has left."""
    return not workdir.exists() or all(
        p.name == folder_lock.NAME or p.name.endswith(".partial") for p in workdir.iterdir()
    )


@contextlib.contextmanager
def held_alone(workdir: epath.Path, now: dict[str, Any], *, or_beside: bool = False) -> Iterator[epath.Path]:
    """Inside, the workdir is this run's alone; of several processes the first one holds it for all. Raises
    UserError, in all of them, if it is in use. or_beside: nobody has named the workdir, so that WORKDIR-2 may be the
    run's own, or become it while another run is at work in WORKDIR."""
    purpose = {"config": now["config"], "data": now["data"]}
    with contextlib.ExitStack() as stack:
        chosen, why = workdir, ""
        if distributed.is_primary():
            try:
                chosen = _take(workdir, purpose, or_beside, stack)
            except Exception as error:  # the other processes must not wait for this one
                told = explained(error, workdir)
                if not isinstance(told, UserError):
                    raise
                why = str(told)
        why, chosen_by_all = json.loads(distributed.all_gather_text(json.dumps([why, str(chosen)]))[0])
        if why:
            raise UserError(why)
        yield epath.Path(chosen_by_all)


def _take(workdir: epath.Path, purpose: dict[str, Any], or_beside: bool, stack: contextlib.ExitStack) -> epath.Path:
    """The folder that is now held, until `stack` ends."""
    if or_beside:
        workdir = next((found for found in _named_alike(workdir) if _is_of(found, purpose)), workdir)
    for chosen in _named_alike(workdir, more=True):
        try:
            stack.enter_context(folder_lock.held(chosen, purpose))
        except folder_lock.InUse as error:
            same = error.holder is None or error.holder.purpose == folder_lock.digest(purpose)
            if same or not or_beside:
                raise
            console.print(f"note: {error.args[0].partition(',')[0]}")
            continue
        if chosen == workdir or is_empty(chosen):
            if chosen != workdir:
                console.print(f"note: this run goes to {chosen} instead")
            return chosen
        stack.close()
    raise AssertionError


def _named_alike(workdir: epath.Path, more: bool = False) -> Iterator[epath.Path]:
    """The workdir, WORKDIR-2 and so on, as long as there are any; or without end."""
    names = itertools.chain([workdir], (workdir.with_name(f"{workdir.name}-{n}") for n in itertools.count(2)))
    return names if more else itertools.takewhile(lambda name: name.exists(), names)


def _is_of(workdir: epath.Path, purpose: dict[str, Any]) -> bool:
    """Whether the folder holds the run of this config and these data."""
    try:
        about = read_config_file(workdir / "config.json")
        return {name: about[name] for name in purpose} == json.loads(json.dumps(purpose))
    except (OSError, UserError, KeyError, TypeError):
        return False


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
    changed = config_lib.differing_results(config, old_runs.read_config(before["config"]), now["config"])
    changed += config_lib.differences(before["data"], now["data"])
    if changed and (done or not allow_config_change):
        way = "" if done else ", or --allow_config_change to carry on with the new values"
        raise UserError(
            f"{workdir} holds {'a finished' if done else 'an unfinished'} run with another config:\n  "
            + "\n  ".join(changed)
            + f"\nUse another --workdir, or the old values{way}."
        )
