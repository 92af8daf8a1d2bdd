"""Whether one finished run is better than another on the same test utterances: paired tests. No JAX.

`python -m mer_jax.compare RUN_A RUN_B` reads metrics.json and predictions.jsonl of both folders.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rich.box

from mer_jax.errors import UserError, reported
from mer_jax.evaluation.predictions import damaged, prediction, read_lines
from mer_jax.evaluation.results import other_version, read_metrics
from mer_jax.metrics.classification import TITLES, mean_sd, overall
from mer_jax.metrics.significance import FEW_DIALOGUES, by_dialogue, mcnemar, paired_bootstrap

DECIDING = "weighted_f1"


@dataclasses.dataclass(frozen=True)
class TestedRun:
    """The test predictions of a finished run. A seed's row holds its predictions of all folds, in the order of `ids`."""

    path: Path
    labels: tuple[str, ...]
    data: str
    manifest_sha256: str
    title: str
    leaky: str
    split_sha256: str
    seeds: tuple[int, ...]
    left_out: tuple[str, ...]  # seeds without one of the folds, and why, in words
    ids: tuple[str, ...]  # sorted
    dialogues: np.ndarray  # str [utterances]
    gold: np.ndarray  # int [utterances]
    predictions: np.ndarray  # int [seeds, utterances]
    probabilities: np.ndarray  # float [seeds, utterances, classes]

    def members(self) -> np.ndarray:
        """Confusion matrices [seeds, dialogues, classes, classes]."""
        each = [by_dialogue(self.gold, row, self.dialogues, len(self.labels)) for row in self.predictions]
        return np.stack([counts for _, counts in each])

    def ensemble_correct(self) -> np.ndarray:
        """Where the class of the largest mean probability over the seeds is right."""
        return self.probabilities.mean(0).argmax(1) == self.gold


# ---- reading ----


def read_run(folder: Path) -> TestedRun:
    """A finished run's replicas at the chosen point. Raises UserError if it is none, is damaged, or no seed has all folds."""
    metrics = read_metrics(folder)
    try:
        labels = tuple(str(name) for name in metrics["labels"])
        data, protocol = metrics["data"], metrics["protocol"]
        about: dict[str, Any] = {
            "data": str(data["name"]),
            "manifest_sha256": str(data["manifest_sha256"]),
            "title": str(protocol["title"]),
            "leaky": str(protocol["leaky"]),
            "split_sha256": str(protocol["split_sha256"]),
        }
        chosen = {at for at, point in enumerate(metrics["points"]) if point["chosen"]}
        replicas = {r["name"]: (r["seed"], r["fold"], r["status"], r["point"] in chosen) for r in metrics["replicas"]}
    except (KeyError, TypeError) as error:
        raise other_version(folder / "metrics.json", error) from None
    seeds, left_out = _complete_seeds(folder, [r[:3] for r in replicas.values() if r[3]])
    wanted = {name: r[0] for name, r in replicas.items() if r[3] and r[0] in seeds}
    rows = _read_predictions(folder / "predictions.jsonl", labels, wanted, set(replicas))
    return TestedRun(path=folder, labels=labels, left_out=left_out, **about, **_aligned(folder, labels, rows))


def _complete_seeds(folder: Path, replicas: list[tuple[int, str, str]]) -> tuple[list[int], tuple[str, ...]]:
    """Seeds whose replicas of every fold are finished, and in words those of the others. `replicas`: seed, fold, status."""
    folds = {fold for _, fold, _ in replicas}
    complete, left_out = [], []
    for seed in sorted({seed for seed, _, _ in replicas}):
        missing = sorted(folds - {f for s, f, status in replicas if s == seed and status == "finished"})
        if missing:
            left_out.append(f"seed {seed} of {folder} is left out: fold {', '.join(missing)} is not finished")
        else:
            complete.append(seed)
    if not complete:
        raise UserError("; ".join([f"{folder} has no seed that finished every fold: nothing to compare", *left_out]))
    return complete, tuple(left_out)


def _read_predictions(
    path: Path, labels: tuple[str, ...], wanted: Mapping[str, int], known: set[str]
) -> dict[int, dict[str, dict[str, Any]]]:
    """Per seed and utterance id the lines of the wanted replicas (name -> seed)."""
    rows: dict[int, dict[str, dict[str, Any]]] = {seed: {} for seed in wanted.values()}
    for number, line in read_lines(path):
        try:
            row = prediction(line, labels, known)
            if row["replica"] not in wanted:
                continue
            seed = wanted[row["replica"]]
            if row["id"] in rows[seed]:
                raise ValueError(f"utterance {row['id']!r} occurs a second time for seed {seed}")
        except ValueError as error:
            raise damaged(path, number, error) from None
        rows[seed][row["id"]] = row
    return rows


def _aligned(folder: Path, labels: tuple[str, ...], rows: dict[int, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """The arrays of Run from its lines; every seed must have tested the same utterances with the same labels."""
    seeds = tuple(sorted(rows))
    first = rows[seeds[0]]
    ids = tuple(sorted(first))
    path = folder / "predictions.jsonl"
    if not first:
        raise UserError(f"{path} holds nothing of seed {seeds[0]} at the chosen point. Restore the file.")
    for seed in seeds:
        if lacking := sorted(first.keys() ^ rows[seed].keys()):
            raise UserError(
                f"{path} is incomplete: seed {seeds[0]} has {len(first)} utterances, seed {seed} {len(rows[seed])}; "
                f"only one of them has {lacking[0]!r}. Restore the file."
            )
        for field in ("label", "dialogue"):
            for bad in [id for id in ids if rows[seed][id][field] != first[id][field]][:1]:
                raise UserError(
                    f"{path} is damaged: the {field} of {bad!r} is {first[bad][field]!r} for seed {seeds[0]} "
                    f"and {rows[seed][bad][field]!r} for seed {seed}. Restore the file."
                )
    position = {name: i for i, name in enumerate(labels)}
    return {
        "seeds": seeds,
        "ids": ids,
        "dialogues": np.array([first[id]["dialogue"] for id in ids]),
        "gold": np.array([position[first[id]["label"]] for id in ids], np.int64),
        "predictions": np.array([[position[rows[s][id]["prediction"]] for id in ids] for s in seeds], np.int64),
        "probabilities": np.array([[rows[s][id]["probabilities"] for id in ids] for s in seeds]),
    }


# ---- comparing ----


def refuse_unpaired(a: TestedRun, b: TestedRun) -> None:
    """Raises UserError unless both runs tested the same utterances with the same labels, and trained on the same ones. Their features
    may be others."""
    same = (
        ("labels", "labels", lambda run: ", ".join(run.labels)),
        ("split", "split_sha256", lambda run: f"{run.data}, {run.title} (sha256 {run.split_sha256})"),
    )
    for what, field, said in same:
        if getattr(a, field) != getattr(b, field):
            _refuse(what, a, said(a), b, said(b))
    only = [sorted(set(x.ids) - set(y.ids)) for x, y in ((a, b), (b, a))]
    if any(only):
        alone = [f"{len(run.ids)} utterances, {len(ids)} of them alone" for run, ids in zip((a, b), only, strict=True)]
        _refuse(f"test utterances (such as {(only[0] + only[1])[0]!r})", a, alone[0], b, alone[1])
    for what, of_a, of_b in (
        ("label", [a.labels[i] for i in a.gold], [b.labels[i] for i in b.gold]),
        ("dialogue", a.dialogues.tolist(), b.dialogues.tolist()),
    ):
        differing = [i for i, (x, y) in enumerate(zip(of_a, of_b, strict=True)) if x != y]
        for i in differing[:1]:
            _refuse(f"{what} for {a.ids[i]!r} ({len(differing)} such utterances)", a, of_a[i], b, of_b[i])


def _refuse(what: str, a: TestedRun, of_a: str, b: TestedRun, of_b: str) -> None:
    raise UserError(
        f"the runs cannot be compared, they have not the same {what}:\n  {a.path}: {of_a}\n  {b.path}: {of_b}"
    )


def compare(a: TestedRun, b: TestedRun, *, samples: int = 10000, seed: int = 0) -> dict[str, Any]:
    """What the command prints and writes: paired tests of b against a, as fractions. Raises UserError if unpaired."""
    refuse_unpaired(a, b)
    if samples < 100:
        raise UserError(f"--samples is {samples}; an interval needs at least 100")
    members = a.members(), b.members()
    dialogues = members[0].shape[1]
    if dialogues < 2:
        raise UserError(
            f"all {len(a.ids)} test utterances of {a.path} and {b.path} are of one dialogue: what another dialogue "
            "would give cannot be estimated"
        )
    tested = paired_bootstrap(*members, samples=samples, seed=seed)
    over_seeds = [overall(counts.sum(1)) for counts in members]
    spread = {
        n: {f"{s}_sd": mean_sd(o[n].tolist())["sd"] for s, o in zip("ab", over_seeds, strict=True)} for n in TITLES
    }
    return {
        "a": {"path": str(a.path), "seeds": list(a.seeds)},
        "b": {"path": str(b.path), "seeds": list(b.seeds)},
        "left_out": list(dict.fromkeys(a.left_out + b.left_out)),
        "data": {
            side: {"name": run.data, "manifest_sha256": run.manifest_sha256} for side, run in (("a", a), ("b", b))
        },
        "protocol": {"title": a.title, "leaky": a.leaky, "split_sha256": a.split_sha256},
        "utterances": len(a.ids),
        "dialogues": dialogues,
        "samples": samples,
        "seed": seed,
        "scores": {name: tested[name] | spread[name] for name in TITLES},
        "mcnemar": mcnemar(a.ensemble_correct(), b.ensemble_correct()),
        "conclusion": conclusion(tested[DECIDING]),
    }


def conclusion(found: Mapping[str, float]) -> str:
    """The weighted F1's test in plain words; a difference is shown if its interval leaves 0 out and p is below 0.05."""
    difference, low, high = (_points(found[k]) for k in ("difference", "low", "high"))
    shown = found["p"] < 0.05 and (found["low"] > 0 or found["high"] < 0)
    if not shown:
        return (
            f"no difference that this test can show: B - A is {difference} points of {TITLES[DECIDING]} "
            f"(95 % interval {low} to {high}), {_p(found['p'])}"
        )
    better, worse = ("B", "A") if found["difference"] > 0 else ("A", "B")
    if better == "A":
        difference, low, high = (_points(-found[k]) for k in ("difference", "high", "low"))
    return (
        f"{better} is better than {worse} by {difference} points of {TITLES[DECIDING]} "
        f"(95 % interval {low} to {high}), {_p(found['p'])}"
    )


def _points(fraction: float) -> str:
    return f"{round(100 * fraction, 2) + 0.0:.2f}"  # + 0.0: no "-0.00"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def print_comparison(result: Mapping[str, Any]) -> None:
    console = rich.console.Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160
    for side in "ab":
        seeds = result[side]["seeds"]
        console.print(f"{side.upper()}: {result[side]['path']}, {len(seeds)} seed{'s' * (len(seeds) > 1)}")
    for text in result["left_out"]:
        console.print(text)
    data = result["data"]
    console.print(
        f"{data['a']['name']}, protocol {result['protocol']['title']}: "
        f"{result['utterances']} test utterances in {result['dialogues']} dialogues"
    )
    if data["a"] != data["b"]:
        told = " and ".join(f"{of['name']} (manifest sha256 {of['manifest_sha256'][:12]}…)" for of in data.values())
        console.print(f"The corpora are two, {told}: the same utterances and labels, other features.")
    console.print(_table(result["scores"]))
    console.print(
        "A and B: mean ± sample standard deviation over the seeds. 95 % interval and p of B - A: "
        f"{result['samples']} resamples of the dialogues; what other seeds would give is not part of them."
    )
    if result["dialogues"] < FEW_DIALOGUES:
        console.print(f"{result['dialogues']} dialogues are few: the intervals are too narrow, the p too small.")
    test = result["mcnemar"]
    console.print(
        f"Ensembles of the seeds: only A right {test['only_a']}, only B right {test['only_b']}, McNemar's {_p(test['p'])}"
    )
    console.print(result["conclusion"])


def _table(scores: Mapping[str, Mapping[str, Any]]) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("percent")
    for name in ("A", "B", "B - A", "95 % interval", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in scores.items():
        sides = [
            _points(found[side]) + ("" if found[f"{side}_sd"] is None else f" ± {_points(found[f'{side}_sd'])}")
            for side in "ab"
        ]
        interval = f"{_points(found['low'])} to {_points(found['high'])}"
        table.add_row(TITLES[name], *sides, _points(found["difference"]), interval, _p(found["p"]).removeprefix("p = "))
    return table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.compare",
        description="Is run B better than run A? Paired tests on the test utterances of both.",
        epilog="The runs must have tested the same utterances: same split and labels. Their numbers of seeds may "
        "differ. A score's difference is that of the means over seeds; its interval and p come from resampling dialogues. "
        "McNemar's test compares the ensembles of the seeds, utterance by utterance.",
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
        result = compare(read_run(flags.run_a), read_run(flags.run_b), samples=flags.samples, seed=flags.seed)
        print_comparison(result)
        if flags.json:
            try:
                flags.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
            except OSError as error:
                raise UserError(f"--json: {flags.json} cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    main()
