"""A whole run: the workdir, the loop, the best checkpoint scored once."""

import dataclasses
import functools
import importlib.metadata
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from etils import epath
from rich.markup import escape

from mer_jax import checkpoint, data, distributed, log, protocols, shard, summary
from mer_jax import config as config_lib
from mer_jax.errors import UserError
from mer_jax.evaluate import LOOKED, map_of, reasons_of, seen_by, worst, write_predictions
from mer_jax.fleet import Fleet
from mer_jax.log import by_replica
from mer_jax.program import Inputs, Program, build, load, steps_per_epoch, together_of
from mer_jax.protocols import Split
from mer_jax.records import Corpus, sha256_of
from mer_jax.replicas import replicas_of
from mer_jax.statistics import SCORES
from mer_jax.summary import calibrated, points_of, rated, scored

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


# ---- workdir ----


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"mer_jax": importlib.metadata.version("mer_jax"), "python": platform.python_version(), **found}


def read_json(path: epath.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it, or use another --workdir") from None


def identity(config: config_lib.Experiment, corpus: Corpus) -> dict[str, Any]:
    """What config.json says of a run: two runs of one workdir must agree in config and data."""
    data = {"manifest_sha256": corpus.manifest_sha256}
    if isinstance(config, config_lib.DeepMSIFramesExperiment) and config.backbone.weights:
        data["weights_sha256"] = sha256_of(Path(config.backbone.weights))
    return {
        "config": config_lib.to_dict(config),
        "data": data,
        "versions": versions(),
    }


def finished(workdir: epath.Path, now: dict[str, Any], allow_config_change: bool) -> bool:
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


# ---- the run ----


@dataclasses.dataclass
class Standing:
    """Where a replica stands: its best step so far by the validation part, for how many epochs none was better, and whether
    it is still `training`, has `stopped` early or has `diverged` to numbers that are none."""

    step: int | None = None
    score: float = -1.0
    stale: int = 0
    status: str = "training"

    def offer(self, at: int, score: float, patience: int) -> bool:
        better = score > self.score
        if better:
            self.step, self.score, self.stale = at, score, 0
        else:
            self.stale += 1
            if patience and self.stale >= patience:
                self.status = "stopped"
        return better


@dataclasses.dataclass
class Run:
    """What a run is made of."""

    config: config_lib.Experiment
    corpus: Corpus
    split: Split
    inputs: Inputs
    program: Program
    fleet: Fleet
    standings: list[Standing]
    workdir: epath.Path

    def live(self) -> list[int]:
        return [r for r, standing in enumerate(self.standings) if standing.status == "training"]


def assemble(
    config: config_lib.Experiment, corpus: Corpus, workdir: epath.PathLike, devices: Sequence[jax.Device] | None = None
) -> Run:
    """Everything of the run on the devices (all there are), at no step yet."""
    split = split_of(config, corpus)
    replicas = replicas_of(config, split)
    mesh = shard.make_mesh(together_of(config, len(replicas)), config.mesh.model, devices)
    inputs = load(config, corpus, split, mesh)
    program = build(config, corpus, inputs, len(replicas), mesh)
    fleet = Fleet(program, inputs, replicas)
    return Run(config, corpus, split, inputs, program, fleet, [Standing() for _ in replicas], epath.Path(workdir))


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
    if finished(workdir, now, allow_config_change):
        log.console.print(f"{workdir} is finished; --mode=eval scores it again, another --workdir starts anew")
        return read_json(workdir / "metrics.json")
    distributed.meet("looked at the workdir")  # nobody writes into it before
    notice = distributed.Notice()
    whole = assemble(config, corpus, workdir)
    leaks = tell_split(whole)
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "config.json").exists():
        log.write_json(workdir / "config.json", now)
    log.write_text(
        workdir / "manifest.json", corpus.text
    )  # what a model needs to know of its data, when they are elsewhere
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", config.train.keep_checkpoints)
    try:
        start = resume_or_begin(whole, checkpoints)
        cost = log.Cost(workdir, start)
        log.write_json(workdir / "config.json", now)  # a change that cannot carry on has left the old one
        if start == 0:
            params = whole.fleet.params()
            log.write_text(
                workdir / "parameters.txt",
                parameter_overview.get_parameter_overview(params, include_stats=False) + "\n",
            )
            log.write_json(workdir / "split.json", protocols.to_json(corpus, whole.split, leaks))
        tell_start(whole)
        loop(whole, checkpoints, start, notice, log.Profile(workdir, profile), cost)
    finally:
        checkpoints.close()
    result = finish(whole, leaks, cost)  # a notice that comes now is too late to stop for
    distributed.meet("finished")
    notice.close()
    return result


def split_of(config: config_lib.Experiment, corpus: Corpus) -> Split:
    return protocols.split(corpus, config.data.protocol, config.data.seed)


def tell_split(whole: Run) -> list[Any]:
    """Counts what the parts of every fold share, and says so."""
    sentences = dict(zip(whole.inputs.feed.pool.rows.tolist(), whole.inputs.sentences, strict=True))
    leaks = [protocols.leakage(whole.corpus, fold, sentences) for fold in whole.split.folds]
    for line in protocols.leak_lines(whole.split, leaks):
        log.console.print(f"  {line}")
    return leaks


def tell_start(whole: Run) -> None:
    count, together = len(whole.standings), whole.program.together
    parameters = parameter_overview.count_parameters(whole.fleet.params())
    how = "" if count == 1 else f" x {count} replicas" + (f", {together} at a time" if together < count else "")
    of = (
        f" of {jax.process_count()} processes ({', '.join(distributed.texts(platform.node()))})"
        if distributed.several()
        else ""
    )
    log.console.print(f"{parameters:,} parameters{how} on {jax.device_count()} {jax.devices()[0].platform} device(s){of}; "
                      f"everything goes to {whole.workdir}")  # fmt: skip


def resume_or_begin(whole: Run, checkpoints: checkpoint.Checkpoints) -> int:
    """The step to carry on after."""
    at = take_up(whole, checkpoints)
    if at is None:
        whole.fleet.begin()
        return 0
    log.console.print(f"resuming after step {at}")
    return at


def refuse_other(whole: Run, at: int, info: dict[str, Any]) -> None:
    """Raises UserError if a checkpoint is not of these replicas on these data."""
    names = [replica.name for replica in whole.fleet.replicas]
    if [standing["name"] for standing in info.get("replicas", [])] != names or info.get("data") != data_of(whole):
        raise UserError(f"{whole.workdir}: checkpoint {at} was trained on another split, on other data or as other replicas, "
                        "so that carrying on could test what has been trained on; use another --workdir")  # fmt: skip


def take_up(whole: Run, checkpoints: checkpoint.Checkpoints, *, fall_back: bool = True) -> int | None:
    """The run as its newest checkpoint has it, and that step; None, and nothing done, if there is none."""
    refuse = functools.partial(refuse_other, whole)
    found = checkpoints.newest(whole.fleet.like(), refuse, log.console.print, fall_back=fall_back)
    if found is None:
        return None
    at, info, saved = found
    whole.standings = [Standing(**{k: v for k, v in s.items() if k != "name"}) for s in info["replicas"]]
    whole.fleet.load(saved)
    return at


def data_of(whole: Run) -> dict[str, Any]:
    """What a checkpoint must agree in with the run that carries it on: which data its replicas saw, and how."""
    settings = whole.config.data
    return {"manifest_sha256": whole.corpus.manifest_sha256, "split_sha256": protocols.sha256(whole.corpus, whole.split),
            "modalities": list(settings.modalities), "max_length": list(settings.max_length),
            "standardize": settings.standardize, "nonfinite": settings.nonfinite, "seed": settings.seed}  # fmt: skip


def loop(
    whole: Run,
    checkpoints: checkpoint.Checkpoints,
    start: int,
    notice: distributed.Notice,
    profile: log.Profile,
    cost: log.Cost,
) -> None:
    """Updates until the last epoch or until no replica is left that trains; one evaluation and one checkpoint an epoch.

    Raises distributed.Stopped when `notice` says that the machine is wanted back, with the last step saved.
    """
    settings, feed, fleet = whole.config.train, whole.inputs.feed, whole.fleet
    epoch_steps = steps_per_epoch(whole.config, whole.inputs)
    total = settings.epochs * epoch_steps
    order = data.training_order(
        feed.pool, whole.inputs.rows_of_training(), settings.batch_size, whole.config.data.seed,
        whole.config.data.group_by_length,
    )  # fmt: skip
    items = feed.training(order, start)
    history = log.History(whole.workdir, start)
    watch = log.Stopwatch()
    meter = log.Meter(history, watch)
    progress = log.Progress("training", total, "steps", start, watch)
    read = log.Reads(whole.workdir, start) if settings.log_reads else None
    ids = whole.corpus.index["id"][feed.pool.rows]
    data_seen = data_of(whole)
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
        if distributed.several() and at % settings.log_steps:
            return False
        return distributed.agree(time.monotonic() - saved_time > 60 * settings.checkpoint_minutes)

    terms: log.Terms = []
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
                    log.console.print(f"asked to stop: {what}, {time.monotonic() - began:.1f} s after the notice was seen; "
                                      "the same command carries on")  # fmt: skip
                    raise distributed.Stopped
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
                                              "valid": overall(valid[r]), "best": better[r]} for r in valid])  # fmt: skip
                        if valid:
                            history.scalars("valid", at, mean_of(valid))
                        tell(whole, at // epoch_steps, meter, valid, better, progress)
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
        log.console.print(f"no better {settings.select} for {settings.patience} epochs: {many}")


def drop_diverged(whole: Run, at: int, values: dict[int, dict[str, float]]) -> None:
    """Freezes the replicas of which a value is no number, and says so. Raises UserError if no other is left."""
    for r, named in values.items():
        bad = log.nonfinite(named)
        if bad is None or whole.standings[r].status != "training":
            continue
        whole.standings[r].status = "diverged"
        what = f"the training's {bad} is {named[bad]} at step {at}"
        if all(standing.status == "diverged" for standing in whole.standings):
            each = "" if len(whole.standings) == 1 else "; so did every other replica before"
            raise UserError(f"{what}{each}; lower --config.optim.learning_rate or look at the features. "
                            "The checkpoints saved before are untouched.")  # fmt: skip
        log.console.print(f"{escape(whole.fleet.replicas[r].name)}: {what}; this replica is left out, the others go on")


def overall(scores: dict[str, Any]) -> dict[str, float]:
    return {name: scores[name] for name in ("loss", *SCORES)}


def mean_of(valid: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Over the replicas."""
    return {name: sum(v[name] for v in valid.values()) / len(valid) for name in ("loss", *SCORES)}


def tell(
    whole: Run,
    epoch: int,
    meter: log.Meter,
    valid: dict[int, dict[str, Any]],
    better: dict[int, bool],
    progress: log.Progress,
) -> None:
    """A line for an epoch; of several replicas the means."""
    if not valid:
        return
    loss, mean = meter.loss, mean_of(valid)
    among = f"  {sum(better.values())} of {len(valid)} better, {len(whole.live())} of {len(whole.standings)} train on"
    log.console.print(
        f"epoch {epoch:>3}/{whole.config.train.epochs}  train loss {'-' if loss is None else f'{loss:.4f}'}  valid loss "
        f"{mean['loss']:.4f}  WF1 {mean['weighted_f1']:.4f}  macro F1 {mean['macro_f1']:.4f}  accuracy {mean['accuracy']:.4f}"
        f"  UAR {mean['uar']:.4f}"
        + (("  *best*" if any(better.values()) else "        ") if len(whole.standings) == 1 else among)
        + f"  {progress.rate()} at most"
    )


# ---- the end ----


def finish(whole: Run, leaks: list[Any], cost: log.Cost) -> dict[str, Any]:
    """Scores valid and test with the best models, writes predictions, what there is to see of them and metrics.json, shows
    the table."""
    results, tests = score_parts(whole)
    config, corpus, pool = whole.config, whole.corpus, whole.inputs.feed.pool
    entries = [(whole.fleet.replicas[r].name, *found) for r, found in tests.items()]
    write_predictions(whole.workdir / "predictions.jsonl", corpus, pool, entries, whole.inputs.sentences)
    by = "test" if whole.split.selects_on_test else "validation"
    points = points_of(corpus, pool, whole.fleet.replicas, results, tests, config.train.select)
    chosen = next(point for point in points if point["chosen"])
    result = {
        "labels": list(corpus.labels),
        "protocol": {
            "name": whole.split.protocol,
            "title": whole.split.title(),
            "description": whole.split.description,
            "leaky": whole.split.leaky,
            "split_sha256": protocols.sha256(corpus, whole.split),
            "leakage": protocols.leak_lines(whole.split, leaks),
            "selection": f"best {by} {config.train.select}",
            "selects_on": by,
            "test": "best epoch of the test part itself" if whole.split.selects_on_test
            else "scored once per replica, with the selected checkpoint",
        },
        "data": {"name": corpus.manifest["name"], "manifest_sha256": corpus.manifest_sha256,
                 "counts": {f.name: c for f, c in zip(whole.split.folds, whole.inputs.counts, strict=True)}},
        "valid": chosen["valid"],
        "test": chosen["test"],
        "points": points,
        "replicas": results,
        "config": config_lib.to_dict(config),
        "versions": versions(),
    }  # fmt: skip
    if (bayes := corpus.manifest.get("bayes_accuracy")) is not None:
        result["data"]["bayes_accuracy"] = bayes["+".join(sorted(config.data.modalities))]
    if config.train.look:
        first = next(r for r in tests if whole.fleet.replicas[r].values == chosen["values"])
        look(whole, first, *tests[first])
    cost.write(whole.config.train.epochs * steps_per_epoch(config, whole.inputs))
    log.write_json(whole.workdir / "metrics.json", result)
    show(result, whole.workdir)
    return result


def look(whole: Run, r: int, rows: np.ndarray, probabilities: np.ndarray) -> None:
    """Writes map.json and explain.json of replica r, whose test part are these rows of the pool."""
    inputs, fleet = whole.inputs, whole.fleet
    wrong = worst(probabilities, inputs.feed.pool.labels[rows])
    some = np.union1d(np.linspace(0, len(rows) - 1, min(len(rows), LOOKED)).astype(int), wrong)
    seen = seen_by(whole.program.apply, fleet.best(r), inputs.feed, rows[some], whole.config.train.eval_batch_size)
    name, settings = fleet.replicas[r].name, (whole.corpus, inputs.feed.pool)
    log.write_json(whole.workdir / "map.json", map_of(*settings, rows[some], seen) | {"replica": name})
    reasons = reasons_of(*settings, rows, probabilities, some, seen, wrong, inputs.sentences)
    log.write_json(whole.workdir / "explain.json", reasons | {"replica": name})


def score_parts(whole: Run) -> tuple[list[dict[str, Any]], dict[int, tuple[np.ndarray, np.ndarray]]]:
    """What metrics.json says of every replica; and of those that finished the test part's utterances and probabilities."""
    fleet, labels = whole.fleet, whole.inputs.feed.pool.labels
    done = [r for r, s in enumerate(whole.standings) if s.status != "diverged"]
    valid, test = (fleet.score(done, part, whole.config.train.eval_batch_size, best=True) for part in ("valid", "test"))
    results = []
    for r, (replica, standing) in enumerate(zip(fleet.replicas, whole.standings, strict=True)):
        about = {"name": replica.name, "fold": replica.fold_name, "seed": replica.seed, "point": replica.point,
                 "values": replica.values, "status": "finished" if r in done else "diverged", "step": standing.step}  # fmt: skip
        if r in done:
            fold = whole.inputs.folds[replica.fold]
            about |= {
                "valid": scored(valid[r], whole.corpus.labels),
                "test": scored(test[r], whole.corpus.labels),
                "calibration": calibrated(valid[r], test[r], labels[fold.valid], labels[fold.test]),
                **rated(test[r], whole.corpus.soft_labels(whole.inputs.feed.pool.rows[fold.test])),
            }
        results.append(about)
    tests = {r: (whole.inputs.folds[fleet.replicas[r].fold].test, test[r]["probabilities"]) for r in done}
    return results, tests


def show(result: dict[str, Any], workdir: epath.Path) -> None:
    summary.show(result)
    if (bayes := result["data"].get("bayes_accuracy")) is not None:
        accuracy = result["test"]["accuracy"]["mean"]
        log.console.print(f"accuracy {accuracy:.4f} is {accuracy / bayes:.3f} of the Bayes-optimal {bayes:.4f}")
    log.console.print(f"metrics.json, predictions.jsonl and the checkpoint are in {workdir}")


def resumed(config: config_lib.Experiment, corpus: Corpus, workdir: epath.Path) -> Run:
    """A finished run as its last checkpoint has it, with every replica's best model; raises UserError if there is none."""
    whole = assemble(config, corpus, workdir)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    if take_up(whole, checkpoints, fall_back=False) is None:
        raise UserError(f"{workdir / 'checkpoints'} holds no checkpoint: it cannot be scored again")
    checkpoints.close()
    return whole


def score_again(config: config_lib.Experiment, corpus: Corpus, workdir: epath.Path) -> int:
    """Scores the best models of a finished workdir; exit code 1 if the figures are not those of metrics.json."""
    if not finished(workdir, identity(config, corpus), allow_config_change=False):
        raise UserError(f"{workdir} holds no finished run; the same command without --mode=eval finishes it")
    known = read_json(workdir / "metrics.json")
    whole = resumed(config, corpus, workdir)
    results, _ = score_parts(whole)
    show(known, workdir)
    before, now = ({r["name"]: r for r in found} for found in (known["replicas"], results))
    changed = config_lib.differences(before, json.loads(json.dumps(now)))
    if changed:
        log.console.print("these figures are NOT those of metrics.json:\n  " + "\n  ".join(changed))
        return 1
    log.console.print("the same figures as in metrics.json")
    return 0
