"""Scores of replicas -> what an experiment found: means, intervals, ensembles; on the console and as JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.box
import rich.table
from rich.markup import escape

from mer_jax.data.corpus import Corpus
from mer_jax.evaluation.conversation_scores import pool_turns, shifts_in_words
from mer_jax.evaluation.group_scores import gaps_in_words, groupings, score_groups
from mer_jax.evaluation.layer_weights import pool_weights, weights_in_words
from mer_jax.evaluation.score_table import (
    cells,
    choices_in_words,
    columns,
    ensemble_cells,
    looks,
    part_of,
    point_name,
    title,
    with_titles,
)
from mer_jax.metrics.metric import mean_sd
from mer_jax.metrics.significance import FEW_DIALOGUES, bootstrap
from mer_jax.runtime.console import console
from mer_jax.tasks import Task
from mer_jax.training.prepare import TrainingData
from mer_jax.training.replicas import Replica

# Of replicas that finished, by number: positions in the pool and what is predicted of their test part.
Tests = dict[int, tuple[np.ndarray, np.ndarray]]


def summarise_points(
    task: Task,
    corpus: Corpus,
    data: TrainingData,
    replicas: Sequence[Replica],
    results: Sequence[dict[str, Any]],
    tests: Tests,
    select: str,
    choose: str = "point",
) -> list[dict[str, Any]]:
    """Of every point of the sweep its finished replicas' mean ± sample standard deviation; of the point that has the
    best mean validation score, and only of that, is said that it is `chosen`. Where tests are none, the test part is
    locked, and nothing is said of it.

    choose: "fold" lets every fold choose its own point by its own validation score, the mean over the seeds. What they
    chose is one more point, the last: its `by_fold` has the number of each fold's point by the fold's name.

    results: as in metrics.json's `replicas`. interval: bootstrap over dialogues, of all folds' test parts together,
    averaged over the seeds. ensemble: the seeds' mean predictions, where there are several. conversation: see
    `pool_turns`; groups: of the chosen point, see `score_groups`; layer_weights: `pool_weights`. The rest is what the
    task pools."""

    def summarised(members: list[int]) -> dict[str, Any]:
        point = _of_replicas(task, results, members, ("valid", "test") if tests else ("valid",))
        if point["replicas"]:
            point |= _over_seeds(task, corpus, data, _whole_seeds(replicas, tests, members))
        return point

    members = [[i for i, r in enumerate(replicas) if r.point == n] for n in sorted({r.point for r in replicas})]
    points = [{"values": replicas[some[0]].values, "chosen": False} | summarised(some) for some in members]
    folds = list(dict.fromkeys(replica.fold_name for replica in replicas))
    if choose == "fold" and len(points) > 1 and len(folds) > 1:
        of_fold = {name: [[i for i in some if replicas[i].fold_name == name] for some in members] for name in folds}
        each = {name: [_of_replicas(task, results, some, ("valid",)) for some in of_fold[name]] for name in folds}
        by_fold = {name: _best(task, each[name], select) or 0 for name in folds}
        chosen = sorted(i for name, number in by_fold.items() for i in of_fold[name][number])
        own = {"values": {}, "chosen": True, "by_fold": by_fold} | summarised(chosen)
        return [*points, own | _by_group(task, corpus, data, _whole_seeds(replicas, tests, chosen))]
    best = _best(task, points, select)
    assert best is not None, "at least one replica has finished"
    points[best] |= {"chosen": True, **_by_group(task, corpus, data, _whole_seeds(replicas, tests, members[best]))}
    return points


def _of_replicas(
    task: Task, results: Sequence[dict[str, Any]], members: Sequence[int], parts: Sequence[str]
) -> dict[str, Any]:
    """What is said of some replicas together, by their positions in `results`."""
    done = [results[i] for i in members if results[i]["status"] == "finished"]
    found: dict[str, Any] = {"replicas": len(done), "diverged": len(members) - len(done)}
    for part in parts:
        found[part] = {score: mean_sd([result[part][score] for result in done]) for score in task.metrics}
    if done:
        found |= task.pool(done)
        if all("conversation" in result for result in done):
            found["conversation"] = pool_turns(done)
        if all("layer_weights" in result for result in done):
            found["layer_weights"] = pool_weights([result["layer_weights"] for result in done])
    return found


def _best(task: Task, points: Sequence[dict[str, Any]], select: str) -> int | None:
    """The number of the point with the best mean validation score; None where no replica of any finished. Points of
    which a replica diverged count where there are no others: their means are of fewer folds."""
    finished = [i for i, point in enumerate(points) if point["replicas"]]
    best: int | None = None
    for i in [i for i in finished if not points[i]["diverged"]] or finished:
        before = None if best is None else points[best]["valid"][select]["mean"]
        if task.is_better(select, points[i]["valid"][select]["mean"], before):
            best = i
    return best


def _whole_seeds(replicas: Sequence[Replica], tests: Tests, of_point: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every seed all of whose folds have finished, the utterances of all test parts, sorted, and what is predicted
    of them."""
    members = []
    for seed in sorted({replicas[i].seed for i in of_point}):
        folds = [i for i in of_point if replicas[i].seed == seed]
        if all(i in tests for i in folds):
            rows = np.concatenate([tests[i][0] for i in folds])
            order = np.argsort(rows, kind="stable")
            members.append((rows[order], np.concatenate([tests[i][1] for i in folds])[order]))
    return members


def _over_seeds(
    task: Task, corpus: Corpus, data: TrainingData, members: list[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """`dialogues`, how many there are; `interval`, where that is more than one; and, of several seeds, `ensemble`.
    Nothing where no seed is whole."""
    if not members:
        return {}
    rows = members[0][0]
    dialogues, targets = corpus.index["dialogue"][data.pool.rows[rows]], data.targets(rows)

    def counts(predicted: np.ndarray) -> np.ndarray:
        return task.count_by_dialogue(targets, task.decisions(predicted), dialogues)

    out: dict[str, Any] = {"dialogues": len(np.unique(dialogues))}
    if interval := bootstrap(np.stack([counts(p) for _, p in members]), scores=task.metric_values):
        out["interval"] = interval
    if len(members) > 1:
        mean = np.mean([p for _, p in members], axis=0)
        found = counts(mean)
        whole, interval = task.metric_values(found.sum(0)), bootstrap(found[None], scores=task.metric_values)
        out["ensemble"] = {
            "members": len(members),
            **{score: {"value": float(whole[score]), **interval.get(score, {})} for score in task.metrics},
            **task.describe_ensemble(found.sum(0), mean, targets),
        }
    return out


def _by_group(
    task: Task, corpus: Corpus, data: TrainingData, members: list[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """`groups`; nothing where no seed is whole, or no group is known."""
    if not members:
        return {}
    at = data.pool.rows[members[0][0]]
    found = score_groups(
        task,
        {name: column[at] for name, column in groupings(corpus).items()},
        corpus.index["dialogue"][at],
        data.targets(members[0][0]),
        [task.decisions(predicted) for _, predicted in members],
    )
    return {"groups": found} if found else {}


def print_summary(task: Task, result: dict[str, Any]) -> None:
    """The table of an experiment; of one single run what the task shows of it. Of a locked test part: of validation."""
    replicas, points, protocol = result["replicas"], result["points"], result["protocol"]
    chosen = next(point for point in points if point["chosen"])
    done = [replica for replica in replicas if replica["status"] == "finished"]
    part = part_of(points)
    seen = f" ({looks(protocol)})" if looks(protocol) else ""
    about = (
        f"{'test' if part == 'test' else 'validation'}{seen} of {result['data']['name']}, protocol {protocol['title']}"
    )
    if len(replicas) == 1:
        selection = with_titles(protocol["selection"], task)
        task.print_part(f"{about}, {selection}, at step {done[0]['step']}", done[0][part])
        if "interval" in chosen:
            known = {name: task.metrics[name] for name in task.headline if name in chosen["interval"]}
            intervals = [f"{m.title} {m.format_interval(chosen['interval'][name])}" for name, m in known.items()]
            console.print(f"{title('95 % over dialogues', task)}: {'  '.join(intervals)}")
    else:
        _print_points(task, about, points)
        if len(points) > 1:
            _print_choice(task, points, chosen)
        if part == "test":
            where = f" at {'every fold’s own' if 'by_fold' in chosen else 'the chosen'} point" * (len(points) > 1)
            task.print_part(f"all test parts together{where}", chosen["pooled"])
    if "dialogues" in chosen:
        console.print(few(chosen["dialogues"]), end="")
    if by_turn := shifts_in_words(task, chosen.get("conversation", {})):
        console.print(by_turn)
    if by_group := gaps_in_words(task, chosen.get("groups", {})):
        console.print(by_group)
    if by_layer := weights_in_words(chosen.get("layer_weights", {})):
        console.print(by_layer)
    task.print_analysis(chosen, protocol["selects_on"])
    for replica in replicas:
        if replica["status"] == "diverged":
            console.print(f"left out, diverged: {escape(replica['name'])}")


def _print_choice(task: Task, points: Sequence[dict[str, Any]], chosen: dict[str, Any]) -> None:
    """Which of several points is chosen, and what the others' test scores are."""
    main, values = task.main_metric, escape(choices_in_words(points, chosen))
    metric = task.metrics[main]
    if "test" not in chosen:
        console.print(f"chosen by validation: {values}")
    elif others := [p["test"][main]["mean"] for p in points if not p["chosen"] and p["replicas"]]:
        score, low, high = metric.format_mean(chosen["test"][main]), *map(metric.format, (min(others), max(others)))
        console.print(
            f"chosen by validation: {values}, test {metric.title} {score}; the other points' lies between {low} and "
            f"{high}, which is no reason to choose one of them"
        )


def few(dialogues: int) -> str:
    """What is to be said of intervals that so many dialogues give; nothing where they are enough."""
    if dialogues < 2:
        return "no interval: all test utterances are of one dialogue\n"
    return f"{dialogues} test dialogues are few: the intervals are too narrow\n" if dialogues < FEW_DIALOGUES else ""


def _print_points(task: Task, title: str, points: Sequence[dict[str, Any]]) -> None:
    table, part = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD), part_of(points)
    for name in ("", "replicas", *columns(task, part)):
        table.add_column(name, justify="right" if name else "left")
    for point in points:
        name = point_name(point) or "mean ± sd"
        marked = f"{name} *" if point["chosen"] and len(points) > 1 else name
        table.add_row(marked, str(point["replicas"]), *cells(task, point, part))
        if "ensemble" in point:
            ensemble = point["ensemble"]
            table.add_row(f"  ensemble of {ensemble['members']} seeds", "", *ensemble_cells(task, ensemble))
    console.print(table)


def markdown(task: Task, found: dict[str, dict[str, Any]]) -> str:
    """Test scores in percent: mean ± sample standard deviation over the replicas of the point that validation chose,
    and the 95 % interval over dialogues; validation scores where the test part of all is locked."""
    if not found:
        return ""
    titles = {result["protocol"]["title"] for result in found.values()}
    part = part_of(point for result in found.values() for point in result["points"])
    seen = [result["protocol"]["test_looks"] for result in found.values() if "test_looks" in result["protocol"]]
    heads = ["", *columns(task, part), "replicas"]
    about = [f"Protocol {', '.join(sorted(titles))}."]
    if part == "valid":
        about.append("Validation scores: the test part is locked.")
    elif seen:
        most = max((count for count in seen if count is not None), default=None)
        by = "test" if any(result["protocol"]["selects_on"] == "test" for result in found.values()) else "validation"
        about.append(f"The test part was {looks({'test_looks': most, 'selects_on': by})}.")
    lines = [" ".join(about), "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, result in found.items():
        point = next(point for point in result["points"] if point["chosen"])
        row = name + (f", {result['protocol']['title']}" if len(titles) > 1 else "")
        row += f", {point_name(point)}" if point_name(point) else ""
        lines.append(f"| {' | '.join([row, *cells(task, point, part), str(point['replicas'])])} |")
    return "\n".join(lines) + "\n"
