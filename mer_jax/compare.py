"""Whether one finished run is better than another on the same test utterances: paired tests. No JAX.

`python -m mer_jax.compare RUN_A RUN_B` reads metrics.json and predictions.jsonl of both folders. Every score of the
task is computed from the predictions, also those that are newer than a run."""

import argparse
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.table

from mer_jax.errors import UserError, reported
from mer_jax.evaluation.finished_run import FinishedRun, first_difference, read_run
from mer_jax.evaluation.score_table import LOCKED, looks
from mer_jax.files import write_json
from mer_jax.metrics.metric import Metric, mean_sd
from mer_jax.metrics.significance import FEW_DIALOGUES, mcnemar, paired_bootstrap
from mer_jax.runtime.console import Console

MIN_SAMPLES = 100
EPILOG = """\
The runs must have tested the same utterances: same split and labels. Their numbers of seeds may differ. A score's
difference is that of the means over seeds; its interval and p come from resampling dialogues. McNemar's test compares
the ensembles of the seeds, utterance by utterance."""


def left_out(run: FinishedRun) -> list[str]:
    """The seeds that did not finish every fold, in words. Raises UserError if no seed did."""
    words = [
        f"seed {seed} of {run.path} is left out: fold {', '.join(folds)} is not finished"
        for seed, folds in run.unfinished_folds.items()
        if folds
    ]
    if not run.complete_seeds:
        raise UserError("; ".join([f"{run.path} has no seed that finished every fold: nothing to compare", *words]))
    return words


def refuse_unpaired(a: FinishedRun, b: FinishedRun) -> None:
    """Raises UserError unless both runs have the same split and tested the same utterances with the same labels."""
    for run in (a, b):
        if run.locked:
            raise UserError(f"nothing to compare: the test part of {run.path} is {LOCKED}")
    if difference := first_difference(a, b):
        what, of_a, of_b = difference
        raise UserError(
            f"the runs cannot be compared, they have not the same {what}:\n  {a.path}: {of_a}\n  {b.path}: {of_b}"
        )


def ensemble_correct(run: FinishedRun) -> np.ndarray:
    """Where what is decided by the mean prediction over the complete seeds is right, Bool[utterances]."""
    mean = np.mean([run.predictions.predicted[run.lines_of(seed)] for seed in run.complete_seeds], axis=0)
    correct = np.ones(len(mean), bool)
    correct[run.task.mistakes(mean, run.predictions.targets)] = False
    return correct


def compare(a: FinishedRun, b: FinishedRun, *, samples: int = 10000, seed: int = 0) -> dict[str, Any]:
    """What the command prints and writes: paired tests of b against a, as fractions. Raises UserError if they are not
    paired."""
    incomplete = list(dict.fromkeys(left_out(a) + left_out(b)))
    refuse_unpaired(a, b)
    if samples < MIN_SAMPLES:
        raise UserError(f"--samples is {samples}; an interval needs at least {MIN_SAMPLES}")
    task, counts = a.task, (a.counts(), b.counts())
    utterances, dialogues = len(a.predictions.ids), counts[0].shape[1]
    if dialogues < 2:
        raise UserError(
            f"all {utterances} test utterances of {a.path} and {b.path} are of one dialogue: what another dialogue "
            "would give cannot be estimated"
        )
    tested: dict[str, dict[str, Any]] = paired_bootstrap(*counts, samples=samples, seed=seed, scores=task.metric_values)
    for side, members in zip("ab", counts, strict=True):
        for name, values in task.metric_values(members.sum(1)).items():
            tested[name][f"{side}_sd"] = mean_sd(values.tolist())["sd"]
    main, protocol = task.main_metric, a.metrics["protocol"]
    return {
        "a": _about(a),
        "b": _about(b),
        "left_out": incomplete,
        "data": {
            side: {field: run.metrics["data"][field] for field in ("name", "manifest_sha256")}
            for side, run in zip("ab", (a, b), strict=True)
        },
        "protocol": {field: protocol[field] for field in ("title", "leaky", "split_sha256")}
        | {"title": " against ".join(dict.fromkeys(run.metrics["protocol"]["title"] for run in (a, b)))},
        "utterances": utterances,
        "dialogues": dialogues,
        "samples": samples,
        "seed": seed,
        "scores": tested,
        **({"mcnemar": mcnemar(ensemble_correct(a), ensemble_correct(b))} if task.right_or_wrong else {}),
        "conclusion": conclusion(task.metrics[main], tested[main]),
    }


def _about(run: FinishedRun) -> dict[str, Any]:
    counted = {name: n for name, n in run.metrics["protocol"].items() if name in ("test_looks", "selects_on")}
    return {"path": str(run.path), "seeds": run.complete_seeds, **counted}


def conclusion(metric: Metric, found: Mapping[str, float]) -> str:
    """A score's test in plain words; a difference is shown if its interval leaves 0 out and p is below 0.05."""
    difference, ends = found["difference"], (found["low"], found["high"])
    name, p = (f"points of {metric.title}" if metric.unit == "percent" else metric.title), _format_p(found["p"])

    def values(sign: int, low: float, high: float) -> str:
        size, low_end, high_end = (_format(metric, sign * value) for value in (difference, low, high))
        return f"{size} {name} (95 % interval {low_end} to {high_end}), {p}"

    if not (found["p"] < 0.05 and (found["low"] > 0 or found["high"] < 0)):
        return f"no difference that this test can show: B - A is {values(1, *ends)}"
    better, worse = ("B", "A") if metric.better(difference, 0.0) else ("A", "B")
    size = values(1, *ends) if difference > 0 else values(-1, *reversed(ends))
    return f"{better} is better than {worse} by {size}"


def _format(metric: Metric, value: float) -> str:
    """With one more decimal than reports have; + 0.0: no "-0.00"."""
    return f"{round(100 * value, 2) + 0.0:.2f}" if metric.unit == "percent" else f"{round(value, 5) + 0.0:.5f}"


def _format_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def print_comparison(result: Mapping[str, Any], metrics: Mapping[str, Metric]) -> None:
    """Prints what `compare` found. metrics: the task's."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160
    for side in "ab":
        seeds = result[side]["seeds"]
        seen = f", test part {looks(result[side])}" if looks(result[side]) else ""
        console.print(f"{side.upper()}: {result[side]['path']}, {len(seeds)} seed{'s' * (len(seeds) > 1)}{seen}")
    for text in result["left_out"]:
        console.print(text)
    data = result["data"]
    console.print(
        f"{data['a']['name']}, protocol {result['protocol']['title']}: "
        f"{result['utterances']} test utterances in {result['dialogues']} dialogues"
    )
    if data["a"] != data["b"]:
        both = " and ".join(f"{one['name']} (manifest sha256 {one['manifest_sha256'][:12]}…)" for one in data.values())
        console.print(f"The corpora are two, {both}: the same utterances and labels, other features.")
    console.print(_table(result["scores"], metrics))
    console.print(
        "A and B: mean ± sample standard deviation over the seeds. 95 % interval and p of B - A: "
        f"{result['samples']} resamples of the dialogues; what other seeds would give is not part of them."
    )
    if result["dialogues"] < FEW_DIALOGUES:
        console.print(f"{result['dialogues']} dialogues are few: the intervals are too narrow, the p too small.")
    if test := result.get("mcnemar"):
        console.print(
            f"Ensembles of the seeds: only A right {test['only_a']}, only B right {test['only_b']}, "
            f"McNemar's {_format_p(test['p'])}"
        )
    console.print(result["conclusion"])


def _table(scores: Mapping[str, Mapping[str, Any]], metrics: Mapping[str, Metric]) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("percent" if all(metric.unit == "percent" for metric in metrics.values()) else "")
    for column in ("A", "B", "B - A", "95 % interval", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, found in scores.items():
        show = functools.partial(_format, metrics[name])
        sides = [show(found[s]) + ("" if found[f"{s}_sd"] is None else f" ± {show(found[f'{s}_sd'])}") for s in "ab"]
        interval, p = f"{show(found['low'])} to {show(found['high'])}", _format_p(found["p"]).removeprefix("p = ")
        table.add_row(metrics[name].title, *sides, show(found["difference"]), interval, p)
    return table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.compare",
        description="Is run B better than run A? Paired tests on the test utterances of both.",
        epilog=EPILOG,
    )
    parser.add_argument("run_a", type=Path, metavar="RUN_A", help="workdir of a finished run")
    parser.add_argument("run_b", type=Path, metavar="RUN_B", help="workdir of another, such as one with your change")
    parser.add_argument(
        "--samples", type=int, default=10000, metavar="N", help="resamples of the dialogues (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the resampling (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well, as fractions")
    flags = parser.parse_args(argv)
    with reported():
        a, b = read_run(flags.run_a), read_run(flags.run_b)
        result = compare(a, b, samples=flags.samples, seed=flags.seed)
        print_comparison(result, a.task.metrics)
        if flags.json:
            write_json(flags.json, result)


if __name__ == "__main__":
    main()
