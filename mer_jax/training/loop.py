"""A whole run: the workdir, the loop, the best checkpoint scored once."""

import dataclasses
import time
from typing import Any

import jax
from rich.markup import escape

from mer_jax import config as config_lib
from mer_jax.data import loader
from mer_jax.errors import UserError
from mer_jax.evaluation.summary import scored
from mer_jax.metrics.classification import SCORES
from mer_jax.runtime import checkpoint, console, distributed, run_log
from mer_jax.runtime.run_log import by_replica
from mer_jax.training.compiled import steps_per_epoch
from mer_jax.training.resume import data_identity
from mer_jax.training.setup import Run


def loop(
    whole: Run,
    checkpoints: checkpoint.Checkpoints,
    start: int,
    notice: distributed.PreemptionNotice,
    profile: run_log.Profile,
    cost: run_log.Cost,
) -> None:
    """Updates until the last epoch or until no replica is left that trains; one evaluation and one checkpoint an epoch.

    Raises distributed.Stopped when `notice` says that the machine is wanted back, with the last step saved.
    """
    settings, feed, fleet = whole.config.train, whole.inputs.feed, whole.fleet
    epoch_steps = steps_per_epoch(whole.config, whole.inputs)
    total = settings.epochs * epoch_steps
    order = loader.training_order(
        feed.pool, whole.inputs.rows_of_training(), settings.batch_size, whole.config.data.seed,
        whole.config.data.group_by_length,
    )  # fmt: skip
    items = feed.training(order, start)
    history = run_log.History(whole.workdir, start)
    watch = console.Stopwatch()
    meter = run_log.Meter(history, watch)
    progress = console.Progress("training", total, "steps", start, watch)
    read = run_log.Reads(whole.workdir, start) if settings.log_reads else None
    ids = whole.corpus.index["id"][feed.pool.rows]
    data_seen = data_identity(whole)
    saved_at, saved_time = start, time.monotonic()

    def save(at: int, checked: dict[int, dict[str, float]]) -> None:
        nonlocal saved_at, saved_time
        drop_diverged(whole, at, checked)
        standings = zip(fleet.replicas, whole.standings, strict=True)
        info = {"replicas": [{"name": replica.name, **dataclasses.asdict(s)} for replica, s in standings],
                "data": data_seen, "config": config_lib.to_dict(whole.config), "labels": whole.corpus.labels}  # fmt: skip
        checkpoints.save(at, fleet.saved(), info)
        cost.write(at)
        saved_at, saved_time = at, time.monotonic()

    def due(at: int) -> bool:
        """Several processes ask the first one's clock, at log steps."""
        if distributed.is_multiprocess() and at % settings.log_steps:
            return False
        return distributed.broadcast_from_0(time.monotonic() - saved_time > 60 * settings.checkpoint_minutes)

    terms: run_log.Terms = []
    try:
        with jax.transfer_guard("disallow"):
            for at in range(start + 1, total + 1):
                if not (live := whole.live()):
                    break
                if notice.given():
                    began = time.monotonic()
                    if at - 1 > saved_at:
                        save(at - 1, by_replica(terms))
                    checkpoints.wait()
                    what = f"step {at - 1} of {total} is saved" if at > 1 else "nothing is trained yet"
                    console.console.print(f"asked to stop: {what}, {time.monotonic() - began:.1f} s after the notice was seen; "
                                      "the same command carries on")  # fmt: skip
                    raise distributed.Preempted
                profile.before(at)
                with meter.waiting():
                    source, places, pads, rows = next(items)
                if read is not None:
                    mine = feed.mine(rows)
                    read.step(at, ids[mine[mine >= 0]].tolist())
                terms = fleet.train(live, source, places, pads, rows)
                profile.after(at, terms)
                if at % settings.log_steps == 0:
                    drop_diverged(whole, at - settings.log_steps, meter.log(at, terms, live))
                    progress.update(at)
                if at % epoch_steps == 0:
                    with watch.paused():
                        found = fleet.score(live, "valid", settings.eval_batch_size, best=False)
                        drop_diverged(whole, at, {r: {"validation_loss": found[r]["loss"]} for r in live})
                        valid = {r: scored(found[r], whole.corpus.labels) for r in whole.live()}
                        better = {
                            r: whole.standings[r].offer(at, valid[r][settings.select], settings.patience) for r in valid
                        }
                        fleet.keep([r for r in valid if better[r]])
                        history.evaluations([{"step": at, "epoch": at // epoch_steps, "replica": fleet.replicas[r].name,
                                              "valid": overall_scores(valid[r]), "best": better[r]} for r in valid])  # fmt: skip
                        if valid:
                            history.scalars("valid", at, mean_of(valid))
                        print_epoch(whole, at // epoch_steps, meter, valid, better, progress)
                        save(at, by_replica(terms))
                elif due(at):
                    save(at, by_replica(terms))
        meter.fetch()
    finally:
        progress.close()
        history.close()
        profile.close()
        if read is not None:
            read.close()
    checkpoints.wait()
    stopped = [standing for standing in whole.standings if standing.status == "stopped"]
    if stopped:
        many = "stopping early" if len(whole.standings) == 1 else f"{len(stopped)} replicas stopped early"
        console.console.print(f"no better {settings.select} for {settings.patience} epochs: {many}")


def drop_diverged(whole: Run, at: int, values: dict[int, dict[str, float]]) -> None:
    """Freezes the replicas of which a value is no number, and says so. Raises UserError if no other is left."""
    for r, named in values.items():
        bad = run_log.nonfinite(named)
        if bad is None or whole.standings[r].status != "training":
            continue
        whole.standings[r].status = "diverged"
        what = f"the training's {bad} is {named[bad]} at step {at}"
        if all(standing.status == "diverged" for standing in whole.standings):
            each = "" if len(whole.standings) == 1 else "; so did every other replica before"
            raise UserError(f"{what}{each}; lower --config.optim.learning_rate or look at the features. "
                            "The checkpoints saved before are untouched.")  # fmt: skip
        console.console.print(
            f"{escape(whole.fleet.replicas[r].name)}: {what}; this replica is left out, the others go on"
        )


def overall_scores(scores: dict[str, Any]) -> dict[str, float]:
    return {name: scores[name] for name in ("loss", *SCORES)}


def mean_of(valid: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Over the replicas."""
    return {name: sum(v[name] for v in valid.values()) / len(valid) for name in ("loss", *SCORES)}


def print_epoch(
    whole: Run,
    epoch: int,
    meter: run_log.Meter,
    valid: dict[int, dict[str, Any]],
    better: dict[int, bool],
    progress: console.Progress,
) -> None:
    """A line for an epoch; of several replicas the means."""
    if not valid:
        return
    loss, mean = meter.loss, mean_of(valid)
    among = f"  {sum(better.values())} of {len(valid)} better, {len(whole.live())} of {len(whole.standings)} train on"
    console.console.print(
        f"epoch {epoch:>3}/{whole.config.train.epochs}  train loss {'-' if loss is None else f'{loss:.4f}'}  valid loss "
        f"{mean['loss']:.4f}  WF1 {mean['weighted_f1']:.4f}  macro F1 {mean['macro_f1']:.4f}  accuracy {mean['accuracy']:.4f}"
        f"  UAR {mean['uar']:.4f}"
        + (("  *best*" if any(better.values()) else "        ") if len(whole.standings) == 1 else among)
        + f"  {progress.rate()} at most"
    )
