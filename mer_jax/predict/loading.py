"""A finished run's workdir -> a `Predictor`."""

from pathlib import Path

from etils import epath

from mer_jax import config as config_lib
from mer_jax import files
from mer_jax.data.corpus import Manifest
from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import metrics_of
from mer_jax.models.family import experiment_from
from mer_jax.predict.known_speakers import refuse_unknown_statistics
from mer_jax.predict.predictor import Predictor
from mer_jax.runtime import checkpoint, sharding
from mer_jax.training.resume import refuse_other_models, refuse_other_results
from mer_jax.training.workdir import read_config_file


def load(run: epath.PathLike) -> Predictor:
    """The models of a finished run, from its workdir. Raises UserError, saying what to do, if they cannot be had."""
    run = epath.Path(run)
    if not run.is_dir():
        raise UserError(f"{run} does not exist; give the workdir of a finished run, such as runs/lsgmer")
    if not (run / "config.json").exists():
        raise UserError(f"{run} holds no run: it has no config.json")
    if not (run / "metrics.json").exists():
        raise UserError(f"{run} holds an unfinished run; the command that began it carries it on to the end")
    about, metrics = read_config_file(run / "config.json"), metrics_of(run / "metrics.json")
    written = about.get("versions", {}).get("mer_jax", "unknown")
    try:
        config = config_lib.validate(experiment_from(about["config"]))
        points, sha256 = metrics["points"], about["data"]["manifest_sha256"]
    except (UserError, KeyError, TypeError) as error:
        raise UserError(
            f"{run} was written by mer_jax {written}, whose runs this version cannot read ({error}); use that version, "
            "or train again"
        ) from None
    refuse_unknown_statistics(str(run), metrics["protocol"].get("speaker_norm"))
    manifest = _manifest(run, config, sha256, written)
    sharding.start(files.cache_folder() / "xla")
    info, best_models, digest = checkpoint.best_models(run / "checkpoints")
    if info["data"]["manifest_sha256"] != sha256 or not any(point["chosen"] for point in points):
        raise UserError(
            f"{run}: the checkpoint is of other data than config.json; bring back the file that belongs to it"
        )
    best = {replica["name"]: replica["step"] for replica in info["replicas"]}
    refuse_other_results(run, config, metrics, digest, best)
    found = Predictor(config, manifest, metrics, best_models, str(run))
    refuse_other_models(run, config, found.functions, best_models)
    return found


def _manifest(run: epath.Path, config: config_lib.Experiment, sha256: str, written: str) -> Manifest:
    path = run / "manifest.json"
    if not path.exists() and config.data.path and (Path(config.data.path) / "manifest.json").is_file():
        path = epath.Path(config.data.path) / "manifest.json"  # of runs from before 0.8
    if not path.exists():
        raise UserError(
            f"{run} has no manifest.json (it was written by mer_jax {written}; they do since 0.8): copy the one of its "
            "corpus there"
        )
    found = Manifest(path.read_bytes(), str(path))
    if found.manifest_sha256 != sha256:
        raise UserError(
            f"{path} is not the manifest that the run was trained with (sha256 {sha256[:12]}…); bring that back"
        )
    found.ask(config.data.task)
    return found
