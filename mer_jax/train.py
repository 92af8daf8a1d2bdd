"""A whole run: the workdir, the loop, the best checkpoint scored once."""

import dataclasses
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview

from mer_jax import checkpoint, data, log, metrics, shard
from mer_jax import config as config_lib
from mer_jax.errors import UserError
from mer_jax.evaluate import evaluate, write_predictions
from mer_jax.program import Inputs, Program, build, load, steps_per_epoch
from mer_jax.records import Corpus
from mer_jax.step import TrainState

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


# ---- workdir ----


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"mer_jax": importlib.metadata.version("mer_jax"), "python": platform.python_version(), **found}


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it, or use another --workdir") from None


def identity(config: config_lib.Experiment, corpus: Corpus) -> dict[str, Any]:
    """What config.json says of a run: two runs of one workdir must agree in config and data."""
    return {
        "config": config_lib.to_dict(config),
        "data": {"manifest_sha256": corpus.manifest_sha256},
        "versions": versions(),
    }


def finished(workdir: Path, now: dict[str, Any], allow_config_change: bool) -> bool:
    """Whether the workdir holds this experiment's finished run.

    Raises UserError, and touches nothing, if it holds another experiment's or something else.
    """
    path, done = workdir / "config.json", (workdir / "metrics.json").exists()
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; it must be a folder, or not exist yet")
    foreign = UserError(f"{workdir} is not empty and holds no run of ours; choose another --workdir")
    if not path.exists():
        if workdir.exists() and any(workdir.iterdir()):
            raise foreign
        return False
    before = read_json(path)
    if not isinstance(before, dict) or not {"config", "data"} <= before.keys():
        raise foreign
    changed = [line for group in ("config", "data") for line in config_lib.differences(before[group], now[group])]
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
class Selection:
    """The best checkpoint so far by the validation part, and for how many epochs none was better."""

    step: int | None = None
    score: float = -1.0
    stale: int = 0

    def offer(self, at: int, score: float) -> bool:
        better = score > self.score
        if better:
            self.step, self.score, self.stale = at, score, 0
        else:
            self.stale += 1
        return better


def run(
    config: config_lib.Experiment, corpus: Corpus, workdir: Path, *, allow_config_change: bool = False
) -> dict[str, Any]:
    """Trains or carries on, then scores the best checkpoint once on the test part. Returns what metrics.json holds."""
    now = identity(config, corpus)
    if finished(workdir, now, allow_config_change):
        log.console.print(f"{workdir} is finished; --mode=eval scores it again, another --workdir starts anew")
        return read_json(workdir / "metrics.json")
    mesh = shard.make_mesh()
    inputs = load(config, corpus, mesh)
    program = build(config, corpus, inputs.feeds["train"].part, mesh)
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "config.json").exists():
        log.write_json(workdir / "config.json", now)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    try:
        state, best = resume_or_init(config, program, inputs, checkpoints, mesh)
        log.write_json(workdir / "config.json", now)  # a change that cannot carry on has left the old one
        if int(state.step) == 0:
            log.write_text(workdir / "parameters.txt", parameter_overview.get_parameter_overview(state.params) + "\n")
        log.console.print(f"{parameter_overview.count_parameters(state.params):,} parameters on {mesh.size} "
                          f"{jax.devices()[0].platform} device(s); everything goes to {workdir}")  # fmt: skip
        state, best = loop(config, program, inputs, checkpoints, state, best, workdir)
        assert best.step is not None
        state = checkpoints.restore(best.step, program.like)
    finally:
        checkpoints.close()
    return finish(config, corpus, program, inputs, state, best, workdir)


def resume_or_init(
    config: config_lib.Experiment,
    program: Program,
    inputs: Inputs,
    checkpoints: checkpoint.Checkpoints,
    mesh: jax.sharding.Mesh,
) -> tuple[TrainState, Selection]:
    latest = checkpoints.latest()
    if latest is None:
        stats = shard.put(inputs.stats, shard.replicated(mesh))
        return program.init(shard.put(np.uint32(config.seed), shard.replicated(mesh)), stats), Selection()
    best = Selection(**checkpoints.info(latest)["best"])
    log.console.print(f"resuming after step {latest}")
    return checkpoints.restore(latest, program.like), best


def loop(
    config: config_lib.Experiment,
    program: Program,
    inputs: Inputs,
    checkpoints: checkpoint.Checkpoints,
    state: TrainState,
    best: Selection,
    workdir: Path,
) -> tuple[TrainState, Selection]:
    """Updates until the last epoch or until patience runs out; one evaluation and one checkpoint an epoch."""
    settings, feed = config.train, inputs.feeds["train"]
    epoch_steps = steps_per_epoch(config, feed.part)
    total, start = settings.epochs * epoch_steps, int(state.step)
    order = data.training_order(feed.part, settings.batch_size, config.seed, config.data.group_by_length)
    items = feed.training(order, start)
    history = log.History(workdir, start)
    watch = log.Stopwatch()
    meter = log.Meter(history, watch)
    progress = log.Progress("training", total, "steps", start, watch)

    def save(at: int, **checked: Any) -> None:
        log.refuse_nonfinite(at, checked)
        info = {"best": dataclasses.asdict(best), "config": config_lib.to_dict(config), "labels": feed.corpus.labels}
        checkpoints.save(at, state, info, best.step)

    try:
        with jax.transfer_guard("disallow"):
            for at in range(start + 1, total + 1):
                if stopped(settings.patience, best):
                    break
                with meter.waiting():
                    item, pads = next(items)
                state, terms = program.train(state, feed.source, item, pads)
                if at % settings.log_steps == 0:
                    meter.log(at, terms)
                    progress.update(at)
                if at % epoch_steps == 0:
                    with watch.paused():
                        valid, _ = evaluate(
                            inputs.feeds["valid"], state, program.score, feed.corpus.labels, settings.eval_batch_size
                        )
                        better = best.offer(at, valid[settings.select])
                        history.evaluation(
                            {"step": at, "epoch": at // epoch_steps, "valid": overall(valid), "best": better}
                        )
                        tell(at // epoch_steps, settings.epochs, meter.fetch(), valid, better, progress)
                        save(at, **terms, validation_loss=valid["loss"])
                elif settings.checkpoint_steps and at % settings.checkpoint_steps == 0:
                    save(at, **terms)
        meter.fetch()
    finally:
        progress.close()
        history.close()
    checkpoints.wait()
    if stopped(settings.patience, best):
        log.console.print(f"no better {settings.select} for {best.stale} epochs: stopping early")
    return state, best


def stopped(patience: int, best: Selection) -> bool:
    return patience > 0 and best.stale >= patience


def overall(scores: dict[str, Any]) -> dict[str, float]:
    return {name: scores[name] for name in ("loss", *metrics.SCORES)}


def tell(
    epoch: int, epochs: int, loss: float | None, valid: dict[str, Any], better: bool, progress: log.Progress
) -> None:
    log.console.print(
        f"epoch {epoch:>3}/{epochs}  train loss {'-' if loss is None else f'{loss:.4f}'}  valid loss {valid['loss']:.4f}"
        f"  WF1 {valid['weighted_f1']:.4f}  macro F1 {valid['macro_f1']:.4f}  accuracy {valid['accuracy']:.4f}"
        f"  UAR {valid['uar']:.4f}{'  *best*' if better else '        '}  {progress.rate()} at most"
    )


# ---- the end ----


def finish(
    config: config_lib.Experiment,
    corpus: Corpus,
    program: Program,
    inputs: Inputs,
    state: TrainState,
    best: Selection,
    workdir: Path,
) -> dict[str, Any]:
    """Scores valid and test with the best state, writes predictions and metrics.json, shows the table."""
    result, probabilities = score_parts(config, corpus, program, inputs, state)
    write_predictions(workdir / "predictions.jsonl", inputs.feeds["test"], probabilities)
    result |= {
        "protocol": {
            **corpus.manifest["protocol"],
            "selection": f"best validation {config.train.select}, at step {best.step}",
            "test": "scored once, with the selected checkpoint",
        },
        "data": {"name": corpus.manifest["name"], "manifest_sha256": corpus.manifest_sha256, "counts": inputs.counts},
        "config": config_lib.to_dict(config),
        "versions": versions(),
    }
    if (bayes := corpus.manifest.get("bayes_accuracy")) is not None:
        result["data"]["bayes_accuracy"] = bayes["+".join(sorted(config.data.modalities))]
    log.write_json(workdir / "metrics.json", result)
    show(corpus, result, workdir)
    return result


def score_parts(
    config: config_lib.Experiment, corpus: Corpus, program: Program, inputs: Inputs, state: TrainState
) -> tuple[dict[str, Any], np.ndarray]:
    """Scores of valid and test, and the test part's probabilities."""
    found = {}
    for name in ("valid", "test"):
        found[name], probabilities = evaluate(
            inputs.feeds[name], state, program.score, corpus.labels, config.train.eval_batch_size
        )
    return found, probabilities


def show(corpus: Corpus, result: dict[str, Any], workdir: Path) -> None:
    log.show_scores(f"test of {corpus.manifest['name']}, {result['protocol']['selection']}", result["test"])
    if (bayes := result["data"].get("bayes_accuracy")) is not None:
        share = result["test"]["accuracy"] / bayes
        log.console.print(f"accuracy {result['test']['accuracy']:.4f} is {share:.3f} of the Bayes-optimal {bayes:.4f}")
    log.console.print(f"metrics.json, predictions.jsonl and the checkpoint are in {workdir}")


def score_again(config: config_lib.Experiment, corpus: Corpus, workdir: Path) -> int:
    """Scores the best checkpoint of a finished workdir; exit code 1 if the figures are not those of metrics.json."""
    if not finished(workdir, identity(config, corpus), allow_config_change=False):
        raise UserError(f"{workdir} holds no finished run; the same command without --mode=eval finishes it")
    known = read_json(workdir / "metrics.json")
    mesh = shard.make_mesh()
    inputs = load(config, corpus, mesh)
    program = build(config, corpus, inputs.feeds["train"].part, mesh)
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints")
    latest = checkpoints.latest()
    if latest is None:
        raise UserError(f"{workdir / 'checkpoints'} holds no checkpoint: it cannot be scored again")
    state = checkpoints.restore(checkpoints.info(latest)["best"]["step"], program.like)
    checkpoints.close()
    found, _ = score_parts(config, corpus, program, inputs, state)
    show(corpus, known | found, workdir)
    changed = config_lib.differences({p: known[p] for p in found}, found)
    if changed:
        log.console.print("these figures are NOT those of metrics.json:\n  " + "\n  ".join(changed))
        return 1
    log.console.print("the same figures as in metrics.json")
    return 0
