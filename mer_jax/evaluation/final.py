"""The end of a run: the best models scored once, and everything that is written of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mer_jax import config as config_lib
from mer_jax.config import Experiment
from mer_jax.data import contamination, leakage, protocols
from mer_jax.data.corpus import Corpus
from mer_jax.data.leakage import knowing
from mer_jax.data.speaker_norm import describe_norm, title_of
from mer_jax.data.synthetic import bayes_key
from mer_jax.errors import UserError
from mer_jax.evaluation.conversation_scores import score_turns, turn_places
from mer_jax.evaluation.finished_run import metrics_of
from mer_jax.evaluation.influence import explain_conversations
from mer_jax.evaluation.inspection import (
    MAX_ERRORS,
    MAX_INSPECTED,
    attribution_summary,
    completeness,
    completeness_in_words,
    compute_inspection_outputs,
    pca_projection,
)
from mer_jax.evaluation.layer_weights import Weights, layer_weights
from mer_jax.evaluation.looks import count_look
from mer_jax.evaluation.predictions import format_predictions
from mer_jax.evaluation.score_table import LOCKED, replicas_of_choice
from mer_jax.evaluation.summary import Tests, print_summary, summarise_points
from mer_jax.models import layer_mix
from mer_jax.models.family import mixed_layers
from mer_jax.runtime import distributed, run_log
from mer_jax.runtime.console import console
from mer_jax.tasks import Task
from mer_jax.training.resume import restore_finished
from mer_jax.training.setup import Run
from mer_jax.training.workdir import identity, is_finished, versions, with_old_defaults

OF_TEST = ("predictions.jsonl", "map.json", "explain.json")  # files that tell of the test part

# What follows the protocol's name beside a score, and what it means, by data.context.
HEARD = {
    "none": ("", "every utterance by itself"),
    "past": (", the past heard", "every turn with what was said before it"),
    "both": (", past and future heard", "every turn with what was said before it and after it"),
}


def finish(run: Run, leaks: list[Any], checkpoint: dict[str, Any], cost: run_log.Cost | None = None) -> dict[str, Any]:
    """Scores valid and, unless it is locked, test with the best models, writes predictions, what there is to see of
    them and metrics.json, and prints the table. checkpoint: which one holds these models. cost: of the training that
    ends here; None for a run that was trained before."""
    config, corpus, replicas = run.config, run.corpus, run.groups.replicas
    protocol = describe_protocol(run, leaks)
    if not protocol["locked"]:
        protocol["test_looks"] = count_look(run, "test" if cost is None else "train", checkpoint)
    results, tests = score_parts(run, locked=protocol["locked"])
    points = summarise_points(
        run.task, corpus, run.data, replicas, results, tests, config.train.select, config.replicas.choose
    )
    chosen = next(point for point in points if point["chosen"])
    write_of_test(run, tests, replicas_of_choice(points, results))
    result: dict[str, Any] = {
        "task": run.task.name,
        **run.task.describe(),
        "protocol": protocol,
        "data": {
            "name": corpus.manifest["name"],
            "manifest_sha256": corpus.manifest_sha256,
            "unread": {one.modality: one.to_json() for one in run.data.unread},
            "problems": list(run.data.problems),
            "counts": counts_of(run, locked=protocol["locked"]),
        },
        **{part: chosen[part] for part in ("valid", "test") if part in chosen},
        "points": points,
        "replicas": results,
        "checkpoint": checkpoint,
        "config": config_lib.to_dict(config),
        "versions": versions(),
    }
    if (bayes := bayes_accuracy(config, corpus.manifest)) is not None:
        result["data"]["bayes_accuracy"] = bayes
    if best := bayes_scores(config, corpus):
        result["data"]["bayes_scores"] = best
    if cost is not None:
        cost.write(config.train.epochs * run.data.order.steps_per_epoch)
    run_log.write_json(run.workdir / "metrics.json", result)
    print_result(run.task, result, run.workdir)
    return result


def describe_protocol(run: Run, leaks: list[Any]) -> dict[str, Any]:
    """What metrics.json says of who trained, validated and tested whom."""
    split, norm = run.split, describe_speaker_norm(run)
    by = "test" if split.selects_on_test else "validation"
    locked = not run.config.train.score_test
    honest = LOCKED if locked else "scored once per replica, with the selected checkpoint"
    return {
        "name": split.protocol,
        "title": split.title() + HEARD[run.config.data.context][0] + title_of(norm),
        "description": split.description,
        "leaky": split.leaky,
        "split_sha256": protocols.sha256(run.corpus, split),
        "leakage": leakage.leak_lines(split, leaks),
        "contamination": [one.to_json() for one in contamination.exposures(run.corpus, run.config.data.modalities)],
        "context": describe_context(run.config.data.context, leaks),
        "selection": f"best {by} {run.config.train.select}",
        "selects_on": by,
        "test": "best epoch of the test part itself" if split.selects_on_test else honest,
        "locked": locked,
        **({} if norm is None else {"speaker_norm": norm}),
    }


def describe_speaker_norm(run: Run) -> dict[str, Any] | None:
    """What metrics.json says of data.speaker_norm; nothing where it is none."""
    data = run.data
    if data.pool.groups is None or data.own_norm is None:
        return None
    tests = [fold.test for fold in data.folds]
    return describe_norm(data.pool.groups, data.own_norm, tests, [fold.name for fold in data.folds])


def bayes_scores(config: Experiment, corpus: Corpus) -> dict[str, float]:
    """The best scores of the first target that a generated corpus allows, by name; nothing where its manifest does not
    say."""
    known = corpus.manifest.get("bayes_scores", {}).get(corpus.asked[0].name, {})
    return dict(known.get(bayes_key(config.data.modalities, context=config.data.context), {}))


def bayes_accuracy(config: Experiment, manifest: Mapping[str, Any]) -> float | None:
    """The best accuracy that a generated corpus allows, with what is heard; None where its manifest does not say."""
    known: dict[str, float] = manifest.get("bayes_accuracy", {})
    return known.get(bayes_key(config.data.modalities, context=config.data.context))


def describe_context(hears: str, leaks: list[Any]) -> dict[str, Any]:
    """What metrics.json says of the other turns that were heard. test_turns_beside_training: of how many test
    utterances others of their dialogue train, over all folds."""
    beside = sum(leak["train-test"]["dialogue"]["utterances"] for leak in leaks)
    words = HEARD[hears][1]
    if hears != "none" and beside:
        words += f"; {beside:,} test turns were heard next to turns that train"
    return {"hears": hears, "in_words": words, "test_turns_beside_training": beside if hears != "none" else 0}


def counts_of(run: Run, *, locked: bool) -> dict[str, Any]:
    """What the parts of every fold hold; of a locked test part not which targets."""
    counts = {fold.name: c for fold, c in zip(run.split.folds, run.data.counts, strict=True)}
    if not locked:
        return counts
    targets = run.task.describe_targets(run.data.targets(run.data.folds[0].valid)).keys()
    return {
        fold: parts | {"test": {name: value for name, value in parts["test"].items() if name not in targets}}
        for fold, parts in counts.items()
    }


def write_of_test(run: Run, tests: Tests, chosen: Sequence[int]) -> None:
    """Writes the files of OF_TEST, map and explanations of the first of the chosen replicas; where nothing is known of
    the test part none stays of a command that was killed."""
    replicas = run.groups.replicas
    if not tests:
        for name in OF_TEST if distributed.is_primary() else ():
            (run.workdir / name).unlink(missing_ok=True)
        return
    entries = [(replicas[r].name, *found) for r, found in tests.items()]
    lines = format_predictions(
        run.task, run.corpus, run.data.pool.rows, entries, run.data.pool.targets, run.data.sentences
    )
    run_log.write_text(run.workdir / "predictions.jsonl", lines)
    if run.config.train.inspect:
        first = next(r for r in chosen if r in tests)
        write_inspection(run, first, *tests[first])


def write_inspection(run: Run, r: int, rows: np.ndarray, predicted: np.ndarray) -> None:
    """Writes map.json and explain.json of replica r, whose test part are these rows of the pool."""
    wrong = run.task.mistakes(predicted, run.data.targets(rows))[:MAX_ERRORS]
    some = np.union1d(np.linspace(0, len(rows) - 1, min(len(rows), MAX_INSPECTED)).astype(int), wrong)
    best, size = run.groups.best(r), run.config.train.eval_batch_size
    outputs = compute_inspection_outputs(run.steps.apply, best, run.data.batches, rows[some], size, run.task)
    replica = {"replica": run.groups.replicas[r].name}
    projection = pca_projection(run.corpus, run.data.pool, rows[some], outputs)
    run_log.write_json(run.workdir / "map.json", projection | replica)
    summary = attribution_summary(run.task, run.corpus, run.data, rows, predicted, some, outputs, wrong)
    found = completeness(run.steps.apply, best, run.data.batches, rows, run.task, run.steps.family)
    words = completeness_in_words(found)
    console.print(words)
    about: dict[str, Any] = {"integrated_gradients": found | {"in_words": words}}
    if run.config.data.context != "none":
        about["conversations"] = explain_conversations(
            run.steps.apply, best, run.task, run.corpus, run.data, rows, predicted, size
        )
    run_log.write_json(run.workdir / "explain.json", summary | about | replica)


def score_parts(run: Run, *, locked: bool) -> tuple[list[dict[str, Any]], Tests]:
    """What metrics.json says of every replica; and what those that finished predict of their test part, nothing if that
    is locked."""
    groups, task, size = run.groups, run.task, run.config.train.eval_batch_size
    done = [r for r, progress in enumerate(run.progress) if progress.status != "diverged"]
    valid = groups.score(done, "valid", size, best=True)
    test = {} if locked else groups.score(done, "test", size, best=True)
    results, places = [], turn_places(task, run.corpus)
    for r, (replica, progress) in enumerate(zip(groups.replicas, run.progress, strict=True)):
        about = {
            "name": replica.name,
            "fold": replica.fold_name,
            "seed": replica.seed,
            "point": replica.point,
            "values": replica.values,
            "status": "finished" if r in done else "diverged",
            "step": progress.step,
        }
        if r in done:
            fold = run.data.folds[replica.fold]
            truth = {
                "valid": run.data.targets(fold.valid),
                "dialogues": run.corpus.index["dialogue"][run.data.pool.rows[fold.valid]],
                "knowing": knowing(run.corpus, run.split.folds[replica.fold], run.config.data.modalities),
            }
            if r in test:
                truth["test"] = run.data.targets(fold.test)
                truth["raters"] = task.raters(run.corpus, run.data.pool.rows[fold.test])
                if places:
                    here, decisions = places.of(run.data.pool.rows[fold.test]), task.decisions(test[r]["predicted"])
                    about["conversation"] = score_turns(task, here, truth["test"], decisions)
            about |= {part: task.score(found[r]) for part, found in (("valid", valid), ("test", test)) if r in found}
            about |= task.analyse(valid[r], test.get(r), truth)
            if weights := weights_of(run, r):
                about["layer_weights"] = weights
        results.append(about)
    tests = {r: (run.data.folds[groups.replicas[r].fold].test, found["predicted"]) for r, found in test.items()}
    return results, tests


def weights_of(run: Run, r: int) -> Weights:
    """How much the best model of replica r takes of each layer of the encoders; empty where it learns no mix."""
    learned = run.groups.best(r).params.get(layer_mix.NAME, {}).get("scores")
    return layer_weights(distributed.to_host(learned), mixed_layers(run.config, run.corpus)) if learned else {}


def print_result(task: Task, result: dict[str, Any], workdir: epath.Path) -> None:
    """The tables of a finished run, and where everything is."""
    print_summary(task, result)
    if result["protocol"].get("locked"):
        console.print(f"the test part is {LOCKED}\nmetrics.json and the checkpoint are in {workdir}")
        return
    if (bayes := result["data"].get("bayes_accuracy")) is not None:
        accuracy = result["test"]["accuracy"]["mean"]
        console.print(f"accuracy {accuracy:.4f} is {accuracy / bayes:.3f} of the Bayes-optimal {bayes:.4f}")
    for name, best in (result["data"].get("bayes_scores") or {}).items():
        metric, found = task.metrics[name], result["test"][name]["mean"]
        share = found / best if metric.direction == "max" else best / found
        console.print(f"{metric.title} {found:.4f}: {share:.3f} of the Bayes-optimal {best:.4f}")
    console.print(f"metrics.json, predictions.jsonl and the checkpoint are in {workdir}")


def refuse_unfinished(config: Experiment, workdir: epath.Path, now: dict[str, Any], mode: str) -> None:
    """Raises UserError unless the workdir holds this experiment's finished run. now: its `identity`."""
    if not is_finished(config, workdir, now, allow_config_change=False):
        raise UserError(f"{workdir} holds no finished run; the same command without --mode={mode} finishes it")


def changed_figures(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """The figures of replicas that are others now, in words; not those that were not known before."""
    a, b = ({replica["name"]: replica for replica in found} for found in (before, json.loads(json.dumps(now))))
    return [line for line in config_lib.differences(a, b) if ": (none) -> " not in line]


def tell_other_figures(known: dict[str, Any], result: dict[str, Any]) -> None:
    """Says so if validation figures are no longer those by which a point was chosen while the test part was locked."""
    if changed := changed_figures(known["replicas"], result["replicas"]):
        console.print("note: these figures are not those of the run when it ended:\n  " + "\n  ".join(changed))


def untested_temperatures(replicas: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By replica what metrics.json says of a temperature, and of the test part scaled by it, where a version has fitted
    it that did not try whether it helps."""
    fitted = {replica["name"]: replica.get("calibration", {}) for replica in replicas}
    return {
        name: {field: found[field] for field in ("temperature", "test_scaled")}
        for name, found in fitted.items()
        if "temperature" in found and "scaling" not in found
    }


def score_again(config: Experiment, corpus: Corpus, workdir: epath.Path) -> int:
    """Scores the best models of a finished workdir, of a locked test part only on validation; exit code 1 if the
    figures are not those of metrics.json."""
    config = with_old_defaults(config, workdir)
    refuse_unfinished(config, workdir, identity(config, corpus), "eval")
    known = metrics_of(workdir / "metrics.json")
    untested = untested_temperatures(known["replicas"])
    run, locked = restore_finished(config, corpus, workdir), known["protocol"].get("locked", False)
    if not locked:
        known["protocol"]["test_looks"] = count_look(run, "eval", known.get("checkpoint", {}))
    results, _ = score_parts(run, locked=locked)
    print_result(run.task, known, workdir)
    for result in results:
        result.get("calibration", {}).update(untested.get(result["name"], {}))
    if changed := changed_figures(known["replicas"], results):
        console.print("these figures are NOT those of metrics.json:\n  " + "\n  ".join(changed))
        return 1
    console.print("the same figures as in metrics.json")
    return 0
