"""TODO: say what lives here."""

import json
from typing import Any

import numpy as np
from etils import epath

from mer_jax import config as config_lib
from mer_jax.data import leakage, protocols
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.evaluation import summary
from mer_jax.evaluation.inspection import (
    MAX_INSPECTED,
    attribution_summary,
    compute_inspection_outputs,
    most_confident_errors,
    pca_projection,
)
from mer_jax.evaluation.predictions import write_predictions
from mer_jax.evaluation.summary import calibrated, points_of, rated, scored
from mer_jax.files import read_json
from mer_jax.runtime import console, run_log
from mer_jax.training.compiled import steps_per_epoch
from mer_jax.training.resume import restore_finished
from mer_jax.training.setup import Run
from mer_jax.training.workdir import identity, is_finished, versions

# ---- the end ----


def finish(whole: Run, leaks: list[Any], cost: run_log.Cost) -> dict[str, Any]:
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
            "leakage": leakage.leak_lines(whole.split, leaks),
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
        write_inspection(whole, first, *tests[first])
    cost.write(whole.config.train.epochs * steps_per_epoch(config, whole.inputs))
    run_log.write_json(whole.workdir / "metrics.json", result)
    print_result(result, whole.workdir)
    return result


def write_inspection(whole: Run, r: int, rows: np.ndarray, probabilities: np.ndarray) -> None:
    """Writes map.json and explain.json of replica r, whose test part are these rows of the pool."""
    inputs, fleet = whole.inputs, whole.fleet
    wrong = most_confident_errors(probabilities, inputs.feed.pool.labels[rows])
    some = np.union1d(np.linspace(0, len(rows) - 1, min(len(rows), MAX_INSPECTED)).astype(int), wrong)
    seen = compute_inspection_outputs(
        whole.program.apply, fleet.best(r), inputs.feed, rows[some], whole.config.train.eval_batch_size
    )
    name, settings = fleet.replicas[r].name, (whole.corpus, inputs.feed.pool)
    run_log.write_json(whole.workdir / "map.json", pca_projection(*settings, rows[some], seen) | {"replica": name})
    reasons = attribution_summary(*settings, rows, probabilities, some, seen, wrong, inputs.sentences)
    run_log.write_json(whole.workdir / "explain.json", reasons | {"replica": name})


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


def print_result(result: dict[str, Any], workdir: epath.Path) -> None:
    summary.print_summary(result)
    if (bayes := result["data"].get("bayes_accuracy")) is not None:
        accuracy = result["test"]["accuracy"]["mean"]
        console.console.print(f"accuracy {accuracy:.4f} is {accuracy / bayes:.3f} of the Bayes-optimal {bayes:.4f}")
    console.console.print(f"metrics.json, predictions.jsonl and the checkpoint are in {workdir}")


def score_again(config: config_lib.Experiment, corpus: Corpus, workdir: epath.Path) -> int:
    """Scores the best models of a finished workdir; exit code 1 if the figures are not those of metrics.json."""
    if not is_finished(workdir, identity(config, corpus), allow_config_change=False):
        raise UserError(f"{workdir} holds no finished run; the same command without --mode=eval finishes it")
    known = read_json(workdir / "metrics.json")
    whole = restore_finished(config, corpus, workdir)
    results, _ = score_parts(whole)
    print_result(known, workdir)
    before, now = ({r["name"]: r for r in found} for found in (known["replicas"], results))
    changed = config_lib.differences(before, json.loads(json.dumps(now)))
    if changed:
        console.console.print("these figures are NOT those of metrics.json:\n  " + "\n  ".join(changed))
        return 1
    console.console.print("the same figures as in metrics.json")
    return 0
