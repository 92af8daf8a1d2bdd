"""A run on one page: open the corpus, check, split, prepare, train, score, report."""

import copy
import dataclasses
import platform
from typing import Any

import jax
from clu import parameter_overview
from etils import epath

from mer_jax.config import Experiment, with_values
from mer_jax.data import contamination, leakage, protocols
from mer_jax.data.corpus import Corpus
from mer_jax.data.synthetic import demo_corpus
from mer_jax.errors import UserError
from mer_jax.evaluation import robustness
from mer_jax.evaluation.final import (
    describe_context,
    describe_speaker_norm,
    finish,
    print_result,
    refuse_unfinished,
    tell_other_figures,
)
from mer_jax.evaluation.finished_run import metrics_of
from mer_jax.report import render
from mer_jax.runtime import checkpoint, distributed, run_log
from mer_jax.runtime.console import console
from mer_jax.settings import LossSettings
from mer_jax.tasks import task_of
from mer_jax.training.loop import Loop
from mer_jax.training.replicas import replicas_of, sweep_points
from mer_jax.training.resume import restore_finished, resume_or_begin
from mer_jax.training.setup import Run, assemble, split_of
from mer_jax.training.workdir import held_alone, identity, is_finished, with_old_defaults


def open_corpus(config: Experiment) -> Corpus:
    """The corpus of the config: a folder, or the built-in demo corpus."""
    if not config.data.path or config.data.path.startswith("demo:"):
        corpus = demo_corpus(variant=config.data.path.removeprefix("demo:"))
    else:
        corpus = Corpus(config.data.path)
    corpus.ask(config.data.task)
    return corpus


def check(config: Experiment, corpus: Corpus) -> None:
    """Checks everything that the config asks of the corpus and that can be refused before a device is used."""
    config.check_corpus(corpus)
    task, select = task_of(corpus), config.train.select
    if isinstance(loss := getattr(config, "loss", None), LossSettings):
        task.refuse_settings(loss)
    task.refuse_soft(corpus, loss, soft=config.data.soft_labels)
    config.check_task(task)
    if select not in task.metrics:
        of = "" if task.name == "classification" else f" for target {task.asked!r}"
        raise UserError(f"--config.train.select={select}: must{of} be one of {', '.join(task.metrics)}")
    split = split_of(config, corpus)
    for fold in split.folds:
        name = f" of fold {fold.name}" if len(split.folds) > 1 else ""
        parts = (("training", fold.train), ("validation", fold.valid), ("test", fold.test))
        task.refuse_parts(corpus, {f"the {part} part{name}": rows for part, rows in parts})
    if not config.data.test_on_trained:
        protocols.refuse_retest(corpus, split, config.data.modalities)
    smallest = min(len(fold.train) for fold in split.folds)
    if config.train.batch_size > smallest:
        raise UserError(
            f"--config.train.batch_size={config.train.batch_size}: the training part has only {smallest} utterances"
        )
    replicas_of(config, split)
    for point in sweep_points(config):
        with_values(config, point).check_layers(corpus)


def run(
    config: Experiment,
    corpus: Corpus,
    workdir: epath.PathLike,
    *,
    allow_config_change: bool = False,
    profile: tuple[int, int] | None = None,
    or_beside: bool = False,
) -> dict[str, Any]:
    """Trains or carries on, scores every replica's best model once on its test part, unless that stays locked, and
    writes the report. Returns what metrics.json holds. or_beside: see `training.workdir.held_alone`.

    Raises distributed.Preempted, with all saved, when the machine is wanted back (SIGTERM, a preemption notice).
    """
    workdir = epath.Path(workdir)
    config = with_old_defaults(config, workdir)
    now = identity(config, corpus)
    if not or_beside:
        is_finished(config, workdir, now, allow_config_change)  # what is refused is not touched, not even to lock it
    with held_alone(workdir, now, or_beside=or_beside) as workdir:
        if is_finished(config, workdir, now, allow_config_change):
            result = metrics_of(workdir / "metrics.json")
            locked = "its test part is locked, --mode=test scores it; " * result["protocol"].get("locked", False)
            console.print(f"{workdir} is finished; {locked}--mode=eval scores it again, another --workdir starts anew")
        else:
            distributed.barrier("looked at the workdir")  # nobody writes into it before
            result = train(config, corpus, workdir, now, profile)
        write_report(workdir)
    return result


def train(
    config: Experiment,
    corpus: Corpus,
    workdir: epath.Path,
    now: dict[str, Any],
    profile: tuple[int, int] | None,
) -> dict[str, Any]:
    """All of `run` between the locking of the workdir and the report. now: the experiment's `identity`."""
    run = assemble(config, corpus, workdir)
    leaks = print_leakage(run)
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "config.json").exists():
        run_log.write_json(workdir / "config.json", now)
    # What a model needs to know of its data, when they are elsewhere.
    run_log.write_text(workdir / "manifest.json", corpus.text)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", config.train.keep_checkpoints)
    try:
        start = resume_or_begin(run, checkpoints)
        cost = run_log.Cost(workdir, start)
        run_log.write_json(workdir / "config.json", now)  # a change that cannot carry on has left the old one
        write_beginning(run, leaks, start)
        print_start(run)
        loop = Loop(run, checkpoints, start, run_log.Profile(workdir, profile), cost)
        with distributed.preemption_notice() as notice:  # else there is nothing to save yet, or nothing any more
            loop.train(notice)
    finally:
        checkpoints.close()
    result = finish(run, leaks, checkpoints.digest(), cost)
    distributed.barrier("finished")
    return result


def score_test(config: Experiment, corpus: Corpus, workdir: epath.PathLike) -> dict[str, Any]:
    """Scores the locked test part of a finished workdir, and writes what a run writes that does so at its end. Returns
    what metrics.json holds. Raises UserError if the run is not finished. A test part that is scored is only shown."""
    workdir = epath.Path(workdir)
    config = with_old_defaults(config, workdir)
    now = identity(config, corpus)
    refuse_unfinished(config, workdir, now, "test")
    with held_alone(workdir, now):
        known = metrics_of(workdir / "metrics.json")
        if known["protocol"].get("locked"):
            unlocked = copy.copy(config)
            unlocked.train = dataclasses.replace(config.train, score_test=True)
            run = restore_finished(unlocked, corpus, workdir)
            result = finish(run, print_leakage(run), known["checkpoint"])
            tell_other_figures(known, result)
            distributed.barrier("finished")
        else:
            console.print(f"the test part is scored already; {workdir} tells its figures without another look")
            print_result(task_of(corpus).led_by(config.train.select), result := known, workdir)
        write_report(workdir)
    return result


def measure_robustness(
    config: Experiment, corpus: Corpus, workdir: epath.Path, beside: epath.PathLike | None
) -> dict[str, Any]:
    """See `robustness.measure`; with the report written anew."""
    config = with_old_defaults(config, workdir)
    with held_alone(workdir, identity(config, corpus)):
        found = robustness.measure(config, corpus, workdir, beside)
        write_report(workdir)
    return found


def write_report(workdir: epath.Path) -> None:
    """Writes the finished run's page; of several processes the first one does."""
    if distributed.is_primary():
        render.write([workdir], workdir / "report.html")


def write_beginning(run: Run, leaks: list[Any], start: int) -> None:
    """Writes what is known before the first step: every parameter's shape, and who is in which part. Of a run that is
    carried on it is written again, and told, if it is no longer what it was."""
    overview = parameter_overview.get_parameter_overview(run.groups.params(), include_stats=False)
    run_log.write_text(run.workdir / "parameters.txt", f"{overview}\n")
    path, split = run.workdir / "split.json", leakage.to_json(run.corpus, run.split, leaks)
    if start and not run_log.holds(path, split):
        console.print(f"note: {path} was missing or damaged, and is written again")
    run_log.write_json(path, split)


def print_leakage(run: Run) -> list[Any]:
    """Counts what the parts of every fold share, and says so, and what the encoders have seen of the corpus."""
    sentences = dict(zip(run.data.pool.rows.tolist(), run.data.sentences, strict=True))
    leaks = [leakage.leakage(run.corpus, fold, sentences) for fold in run.split.folds]
    for line in leakage.leak_lines(run.split, leaks):
        console.print(f"  {line}")
    for line in contamination.exposure_lines(contamination.exposures(run.corpus, run.config.data.modalities)):
        console.print(f"  {line}", markup=False)
    heard = describe_context(run.config.data.context, leaks)
    if heard["test_turns_beside_training"]:
        console.print(f"  {heard['in_words']}")
    if norm := describe_speaker_norm(run):
        console.print(f"  standardised are {norm['in_words']}")
    return leaks


def print_start(run: Run) -> None:
    """Says how large the model is, and on what it trains."""
    for note in run.steps.family.notes:
        console.print(note)
    count, per_step = len(run.progress), run.steps.replicas_per_step
    parameters = parameter_overview.count_parameters(run.groups.params())
    many = "" if count == 1 else f" x {count} replicas" + (f", {per_step} at a time" if per_step < count else "")
    processes = ""
    if distributed.is_multiprocess():
        nodes = ", ".join(distributed.all_gather_text(platform.node()))
        processes = f" of {jax.process_count()} processes ({nodes})"
    devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s){processes}"
    console.print(f"{parameters:,} parameters{many} on {devices}; everything goes to {run.workdir}")
