"""TODO: say what lives here."""

import platform
from typing import Any

import jax
from clu import parameter_overview
from etils import epath

from mer_jax import config as config_lib
from mer_jax.data import leakage, protocols
from mer_jax.data.corpus import Corpus
from mer_jax.data.synthetic import demo_corpus
from mer_jax.errors import UserError
from mer_jax.evaluation.final import finish
from mer_jax.files import read_json
from mer_jax.models import deepmsi_mer_frames as deepmsi_mer_frames_lib
from mer_jax.models import pretrained
from mer_jax.runtime import checkpoint, console, distributed, run_log
from mer_jax.training.loop import loop
from mer_jax.training.replicas import replicas_of
from mer_jax.training.resume import resume_or_begin
from mer_jax.training.setup import Run, assemble
from mer_jax.training.workdir import identity, is_finished


def check(experiment: config_lib.Experiment, corpus: Corpus) -> None:
    """Everything that the experiment asks of the corpus and that can be refused without JAX."""
    config_lib.validate_against(experiment, corpus)
    if isinstance(experiment, deepmsi_mer_frames_lib.DeepMSIFramesExperiment) and experiment.backbone.weights:
        backbone = vars(experiment.backbone)
        fixed = ("patch", "width", "depths", "heads", "mlp", "norm_first")
        pretrained.check(experiment.backbone.weights, {name: backbone[name] for name in fixed})
    split = protocols.split(corpus, experiment.data.protocol, experiment.data.seed)
    if not experiment.data.test_on_trained:
        protocols.refuse_retest(corpus, split, experiment.data.modalities)
    smallest = min(len(fold.train) for fold in split.folds)
    if experiment.train.batch_size > smallest:
        raise UserError(
            f"--config.train.batch_size={experiment.train.batch_size}: the training part has only {smallest} utterances"
        )
    replicas_of(experiment, split)


def open_corpus(experiment: config_lib.Experiment) -> Corpus:
    if not experiment.data.path or experiment.data.path.startswith("demo:"):
        return demo_corpus(variant=experiment.data.path.removeprefix("demo:"))
    return Corpus(experiment.data.path)


def run(
    config: config_lib.Experiment,
    corpus: Corpus,
    workdir: epath.PathLike,
    *,
    allow_config_change: bool = False,
    profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Trains or carries on, then scores every replica's best model once on its test part. Returns what metrics.json holds.

    Raises distributed.Stopped, with all saved, when the machine is wanted back (SIGTERM, a preemption notice).
    """
    workdir, now = epath.Path(workdir), identity(config, corpus)
    if is_finished(workdir, now, allow_config_change):
        console.console.print(f"{workdir} is finished; --mode=eval scores it again, another --workdir starts anew")
        return read_json(workdir / "metrics.json")
    distributed.barrier("looked at the workdir")  # nobody writes into it before
    notice = distributed.PreemptionNotice()
    whole = assemble(config, corpus, workdir)
    leaks = print_leakage(whole)
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "config.json").exists():
        run_log.write_json(workdir / "config.json", now)
    run_log.write_text(
        workdir / "manifest.json", corpus.text
    )  # what a model needs to know of its data, when they are elsewhere
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", config.train.keep_checkpoints)
    try:
        start = resume_or_begin(whole, checkpoints)
        cost = run_log.Cost(workdir, start)
        run_log.write_json(workdir / "config.json", now)  # a change that cannot carry on has left the old one
        if start == 0:
            params = whole.fleet.params()
            run_log.write_text(
                workdir / "parameters.txt",
                parameter_overview.get_parameter_overview(params, include_stats=False) + "\n",
            )
            run_log.write_json(workdir / "split.json", leakage.to_json(corpus, whole.split, leaks))
        print_start(whole)
        loop(whole, checkpoints, start, notice, run_log.Profile(workdir, profile), cost)
    finally:
        checkpoints.close()
    result = finish(whole, leaks, cost)  # a notice that comes now is too late to stop for
    distributed.barrier("finished")
    notice.close()
    return result


def print_leakage(whole: Run) -> list[Any]:
    """Counts what the parts of every fold share, and says so."""
    sentences = dict(zip(whole.inputs.feed.pool.rows.tolist(), whole.inputs.sentences, strict=True))
    leaks = [leakage.leakage(whole.corpus, fold, sentences) for fold in whole.split.folds]
    for line in leakage.leak_lines(whole.split, leaks):
        console.console.print(f"  {line}")
    return leaks


def print_start(whole: Run) -> None:
    count, together = len(whole.standings), whole.program.together
    parameters = parameter_overview.count_parameters(whole.fleet.params())
    how = "" if count == 1 else f" x {count} replicas" + (f", {together} at a time" if together < count else "")
    of = (
        f" of {jax.process_count()} processes ({', '.join(distributed.all_gather_text(platform.node()))})"
        if distributed.is_multiprocess()
        else ""
    )
    console.console.print(f"{parameters:,} parameters{how} on {jax.device_count()} {jax.devices()[0].platform} device(s){of}; "
                      f"everything goes to {whole.workdir}")  # fmt: skip
