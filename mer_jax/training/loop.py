"""The training loop: the only place that counts steps."""

import dataclasses
import time
from collections.abc import Collection
from typing import Any

import jax
from rich.markup import escape

from mer_jax import config
from mer_jax.errors import UserError
from mer_jax.runtime import checkpoint, distributed, run_log
from mer_jax.runtime.console import Progress, Stopwatch, console
from mer_jax.runtime.run_log import by_replica
from mer_jax.training.resume import data_identity
from mer_jax.training.setup import Run

MOST_SCORES = 4  # that the line of an epoch has room for


class Loop:
    """The updates of a run after step `start`, with one evaluation and one checkpoint an epoch."""

    def __init__(
        self, run: Run, checkpoints: checkpoint.Checkpoints, start: int, profile: run_log.Profile, cost: run_log.Cost
    ):
        self._run, self._checkpoints, self._profile, self._cost = run, checkpoints, profile, cost
        self._settings, self._start = run.config.train, start
        self._epoch_steps = run.data.order.steps_per_epoch
        self._total = self._settings.epochs * self._epoch_steps
        batches = run.data.batches
        self._items = batches.training(run.data.order, start)
        self._ids = run.corpus.index["id"][batches.pool.rows]
        self._history = run_log.History(run.workdir, start, start // self._epoch_steps)
        self._watch = Stopwatch()
        self._meter = run_log.Meter(self._history, self._watch)
        self._progress = Progress("training", self._total, "steps", start, self._watch)
        self._reads = run_log.Reads(run.workdir, start) if self._settings.log_reads else None
        self._terms: run_log.Terms = []
        self._saved_at, self._saved_time = start, time.monotonic()

    def train(self, notice: distributed.PreemptionNotice) -> None:
        """Updates until the last epoch or until no replica is left that trains.

        Raises distributed.Preempted when `notice` says that the machine is wanted back, with the last step saved.
        """
        try:
            with jax.transfer_guard("disallow"):
                for step in range(self._start + 1, self._total + 1):
                    if not (live := self._run.live()):
                        break
                    if notice.given():
                        self._stop(step - 1)
                    self._checkpoints.check()
                    self._update(step, live)
                    if step % self._epoch_steps == 0:
                        self._end_epoch(step, live)
                    elif self._save_is_due(step):
                        self._save(step)
            self._meter.fetch()
        finally:
            for part in (self._progress, self._history, self._profile, self._reads):
                if part is not None:
                    part.close()
        self._checkpoints.wait()
        self._print_stopped()

    def _update(self, step: int, live: Collection[int]) -> None:
        """One update of every live replica."""
        self._profile.before(step)
        with self._meter.waiting():
            source, row_positions, padded_lengths, rows = next(self._items)
        if self._reads is not None:
            mine = self._run.data.batches.addressable_rows(rows, padded_lengths)
            self._reads.step(step, self._ids[mine[mine >= 0]].tolist())
        self._terms = self._run.groups.train(live, source, row_positions, padded_lengths, rows)
        self._profile.after(step, self._terms)
        every = self._settings.log_steps
        if step % every == 0:
            drop_diverged(self._run, step - every, self._meter.log(step, self._terms, live))
            self._progress.update(step)

    def _end_epoch(self, step: int, live: Collection[int]) -> None:
        """Scores the validation part, keeps what is best, and saves."""
        run, settings, epoch = self._run, self._settings, step // self._epoch_steps
        with self._watch.paused():
            found = run.groups.score(live, "valid", settings.eval_batch_size, best=False)
            drop_diverged(run, step, {r: {"validation_loss": found[r]["loss"]} for r in live})
            valid = {r: run.task.score(found[r]) for r in run.live()}
            better = {r: self._is_better(r, step, valid[r][settings.select]) for r in valid}
            run.groups.keep([r for r in valid if better[r]])
            self._history.evaluations(
                [
                    {
                        "step": step,
                        "epoch": epoch,
                        "replica": run.groups.replicas[r].name,
                        "valid": self._scores(valid[r]),
                        "best": better[r],
                    }
                    for r in valid
                ]
            )
            if valid:
                mean = {name: sum(v[name] for v in valid.values()) / len(valid) for name in ("loss", *run.task.metrics)}
                self._history.scalars("valid", step, mean)
                self._print_epoch(epoch, mean, list(better.values()))
            self._save(step)

    def _is_better(self, r: int, step: int, score: float) -> bool:
        progress = self._run.progress[r]
        better = self._run.task.is_better(self._settings.select, score, progress.score)
        progress.update(step, score, better, self._settings.patience)
        return better

    def _scores(self, found: dict[str, Any]) -> dict[str, float]:
        return {name: found[name] for name in ("loss", *self._run.task.metrics)}

    def _save(self, step: int) -> None:
        run = self._run
        drop_diverged(run, step, by_replica(self._terms))
        replicas = zip(run.groups.replicas, run.progress, strict=True)
        info = {
            "replicas": [{"name": replica.name, **dataclasses.asdict(progress)} for replica, progress in replicas],
            "data": data_identity(run),
            "config": config.to_dict(run.config),
            "labels": run.corpus.labels,
        }
        self._checkpoints.save(step, run.groups.saved(), info)
        self._cost.write(step)
        self._saved_at, self._saved_time = step, time.monotonic()

    def _save_is_due(self, step: int) -> bool:
        """Several processes ask the first one's clock, at log steps."""
        if distributed.is_multiprocess() and step % self._settings.log_steps:
            return False
        waited = time.monotonic() - self._saved_time
        return distributed.broadcast_from_0(waited > 60 * self._settings.checkpoint_minutes)

    def _stop(self, done: int) -> None:
        """Saves after step `done` and raises distributed.Preempted."""
        began = time.monotonic()
        if done > self._saved_at:
            self._save(done)
        self._checkpoints.wait()
        what = f"step {done} of {self._total} is saved" if done else "nothing is trained yet"
        seconds = time.monotonic() - began
        console.print(f"asked to stop: {what}, {seconds:.1f} s after the notice was seen; the same command carries on")
        raise distributed.Preempted

    def _print_epoch(self, epoch: int, mean: dict[str, float], better: list[bool]) -> None:
        """A line for an epoch; of several replicas the means."""
        run, loss = self._run, self._meter.loss
        names = run.task.headline
        if len(names) > MOST_SCORES:
            names = [run.task.main_metric, *run.task.other_metrics[: MOST_SCORES - 1]]
        shown = ((run.task.metrics[name].short, mean[name]) for name in names)
        scores = "  ".join(f"{short} {value:.4f}" for short, value in shown)
        end = f"  {sum(better)} of {len(better)} better, {len(run.live())} of {len(run.progress)} train on"
        if len(run.progress) == 1:
            end = "  *best*" if any(better) else "        "
        rate = self._progress.rate()
        pace = f"  {rate} at most" if rate else ""
        console.print(
            f"epoch {epoch:>3}/{self._settings.epochs}  train loss {'-' if loss is None else f'{loss:.4f}'}  "
            f"valid loss {mean['loss']:.4f}  {scores}{end}{pace}"
        )

    def _print_stopped(self) -> None:
        progress, settings = self._run.progress, self._settings
        stopped = [replica for replica in progress if replica.status == "stopped"]
        if stopped:
            many = "stopping early" if len(progress) == 1 else f"{len(stopped)} replicas stopped early"
            title = self._run.task.metrics[settings.select].title
            console.print(f"no better {title} for {settings.patience} epochs: {many}")


def drop_diverged(run: Run, step: int, values: dict[int, dict[str, float]]) -> None:
    """Freezes the replicas of which a value is no number, and says so. Raises UserError if no other is left."""
    for r, named in values.items():
        bad = run_log.nonfinite(named)
        if bad is None or run.progress[r].status != "training":
            continue
        run.progress[r].status = "diverged"
        what = f"the training's {bad} is {named[bad]} at step {step}"
        if all(progress.status == "diverged" for progress in run.progress):
            each = "" if len(run.progress) == 1 else "; so did every other replica before"
            raise UserError(
                f"{what}{each}; lower --config.optim.learning_rate or look at the features. The checkpoints saved"
                " before are untouched."
            )
        console.print(f"{escape(run.groups.replicas[r].name)}: {what}; this replica is left out, the others go on")
