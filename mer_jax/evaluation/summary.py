"""Scores of replicas -> what an experiment found: means, intervals, ensembles, calibration; on the console and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.box
from rich.markup import escape

from mer_jax.data.corpus import Corpus
from mer_jax.data.pool import UtterancePool
from mer_jax.metrics.calibration import calibration, fit_temperature, soft_label_metrics, temperature_scale
from mer_jax.metrics.classification import SCORES, between, mean_sd, percent, scores
from mer_jax.metrics.significance import FEW_DIALOGUES, bootstrap, by_dialogue
from mer_jax.runtime import console
from mer_jax.runtime.console import console
from mer_jax.training.replicas import Replica, format_overrides


def print_scores(title: str, scores: Mapping[str, Any]) -> None:
    """Per class precision, recall, F1, support and where its utterances went; below, the overall scores."""
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.add_column("class")
    for name in ("precision", "recall", "F1", "support"):
        table.add_column(name, justify="right")
    for name in scores["per_class"]:
        table.add_column(f"→{name}", justify="right", style="dim")
    for i, (name, row) in enumerate(zip(scores["per_class"], scores["confusion"], strict=True)):
        c = scores["per_class"][name]
        counts = [f"[bold]{n}[/bold]" if i == j else str(n) for j, n in enumerate(row)]
        table.add_row(name, f"{c['precision']:.3f}", f"{c['recall']:.3f}", f"{c['f1']:.3f}", str(c["support"]), *counts)
    console.print(table)
    console.print(
        f"accuracy {scores['accuracy']:.4f}   UAR {scores['uar']:.4f}   "
        f"weighted F1 {scores['weighted_f1']:.4f}   macro F1 {scores['macro_f1']:.4f}"
    )


CALIBRATION = ("ece", "nll", "brier")
RATERS = ("nll", "jensen_shannon", "agreement", "agreement_at_most")


def scored(found: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """What Fleet.score found of a replica's part, as metrics.json holds it."""
    return {"loss": found["loss"], **scores(found["confusion"], labels)}


def calibrated(valid: dict[str, Any], test: dict[str, Any], valid_labels: np.ndarray, test_labels: np.ndarray) -> Any:
    """The test part's calibration as it is, and after temperature scaling fitted on the validation part."""
    temperature = fit_temperature(valid["probabilities"], valid_labels)
    return {
        "temperature": temperature,
        "test": calibration(test["probabilities"], test_labels),
        "test_scaled": calibration(temperature_scale(test["probabilities"], temperature), test_labels),
    }


def rated(test: dict[str, Any], soft: np.ndarray) -> dict[str, Any]:
    """The test part scored against its raters; nothing where their votes are not known. soft: Float32[rows, classes]."""
    return {"raters": soft_label_metrics(test["probabilities"], soft)} if soft.any() else {}


def points_of(
    corpus: Corpus,
    pool: UtterancePool,
    replicas: Sequence[Replica],
    results: Sequence[dict[str, Any]],
    tests: dict[int, tuple[np.ndarray, np.ndarray]],
    select: str,
) -> list[dict[str, Any]]:
    """Of every point of the sweep its finished replicas' mean ± sample standard deviation; of the point that has the best mean
    validation score, and only of that, is said that it is `chosen`.

    results: as in metrics.json's `replicas`; tests[replica]: positions in the pool and probabilities of its test part.
    low, high: bootstrap over dialogues, of all folds' test parts together, averaged over the seeds. pooled: the sum of all
    confusion matrices. ensemble: the seeds' mean probabilities, where there are several.
    """
    points = []
    for number in sorted({replica.point for replica in replicas}):
        of_point = [i for i, replica in enumerate(replicas) if replica.point == number]
        done = [i for i in of_point if results[i]["status"] == "finished"]
        point: dict[str, Any] = {"values": replicas[of_point[0]].values, "chosen": False, "replicas": len(done),
                                 "diverged": len(of_point) - len(done)}  # fmt: skip
        for part in ("valid", "test"):
            point[part] = {score: mean_sd([results[i][part][score] for i in done]) for score in SCORES}
        if done:
            point["pooled"] = scores(np.sum([results[i]["test"]["confusion"] for i in done], axis=0), corpus.labels)
            point |= _over_seeds(corpus, pool, _whole_seeds(replicas, tests, of_point))
            point["calibration"] = {
                when: {name: mean_sd([results[i]["calibration"][when][name] for i in done]) for name in CALIBRATION}
                for when in ("test", "test_scaled")
            }
            if all("raters" in results[i] for i in done):
                point["raters"] = {name: mean_sd([results[i]["raters"][name] for i in done]) for name in RATERS}
        points.append(point)
    finished = [point for point in points if point["replicas"]]
    whole = [point for point in finished if not point["diverged"]]  # the others' means are of fewer folds
    max(whole or finished, key=lambda point: point["valid"][select]["mean"])["chosen"] = True
    return points


def _whole_seeds(
    replicas: Sequence[Replica], tests: dict[int, tuple[np.ndarray, np.ndarray]], of_point: list[int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every seed all of whose folds have finished, the utterances of all test parts, sorted, and their probabilities."""
    members = []
    for seed in sorted({replicas[i].seed for i in of_point}):
        folds = [i for i in of_point if replicas[i].seed == seed]
        if all(i in tests for i in folds):
            rows = np.concatenate([tests[i][0] for i in folds])
            order = np.argsort(rows, kind="stable")
            members.append((rows[order], np.concatenate([tests[i][1] for i in folds])[order]))
    return members


def _over_seeds(corpus: Corpus, pool: UtterancePool, members: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """`dialogues`, how many there are; `interval`, where that is more than one; and, of several seeds, `ensemble`. Nothing where no seed
    is whole."""
    if not members:
        return {}
    labels = corpus.labels
    rows = members[0][0]
    dialogues, gold = corpus.index["dialogue"][pool.rows[rows]], pool.labels[rows]

    def counts(probabilities: np.ndarray) -> np.ndarray:
        return by_dialogue(gold, probabilities.argmax(-1), dialogues, len(labels))[1]

    out: dict[str, Any] = {"dialogues": len(np.unique(dialogues))}
    if interval := bootstrap(np.stack([counts(p) for _, p in members])):
        out["interval"] = interval
    if len(members) > 1:
        mean = np.mean([p for _, p in members], axis=0)
        found = counts(mean)
        whole, interval = scores(found.sum(0), labels), bootstrap(found[None])
        out["ensemble"] = {
            "members": len(members),
            **{score: {"value": whole[score], **interval.get(score, {})} for score in SCORES},
            "per_class": whole["per_class"],
            "confusion": whole["confusion"],
            "calibration": calibration(mean, gold),
        }
    return out


# ---- on the console ----


def print_summary(result: dict[str, Any]) -> None:
    """The table of an experiment; of one single run its classes."""
    replicas, points = result["replicas"], result["points"]
    chosen = next(point for point in points if point["chosen"])
    done = [replica for replica in replicas if replica["status"] == "finished"]
    title = f"test of {result['data']['name']}, protocol {result['protocol']['title']}"
    if len(replicas) == 1:
        print_scores(f"{title}, {result['protocol']['selection']}, at step {done[0]['step']}", done[0]["test"])
        if "interval" in chosen:
            spelled = "  ".join(f"{name} {between(chosen['interval'][name])}" for name in SCORES)
            console.console.print(f"95 % over dialogues, in percent: {spelled}")
    else:
        _print_points(title, points)
        if others := [p["test"]["weighted_f1"]["mean"] for p in points if not p["chosen"] and p["replicas"]]:
            console.console.print(f"chosen by validation: {format_overrides(chosen['values'])}, test weighted F1 "
                              f"{percent(chosen['test']['weighted_f1'])}; the other points' lies between {100 * min(others):.1f} and "
                              f"{100 * max(others):.1f}, which is no reason to choose one of them")  # fmt: skip
        print_scores("all test parts together" + (" at the chosen point" if len(points) > 1 else ""), chosen["pooled"])
    if "dialogues" in chosen:
        console.console.print(few(chosen["dialogues"]), end="")
    before, after = chosen["calibration"]["test"], chosen["calibration"]["test_scaled"]
    console.console.print("calibration: " + ", ".join(
        f"{name.upper() if name != 'brier' else 'Brier'} {before[name]['mean']:.3f} -> {after[name]['mean']:.3f}" for name in CALIBRATION
    ) + f" by temperature scaling on the {result['protocol']['selects_on']} part")  # fmt: skip
    if raters := chosen.get("raters"):
        console.console.print(f"against the raters: NLL {raters['nll']['mean']:.3f}, Jensen-Shannon {raters['jensen_shannon']['mean']:.3f} nats; "
                          f"{percent(raters['agreement'])} % of them chose the predicted class, {percent(raters['agreement_at_most'])} % the one "
                          "that most chose")  # fmt: skip
    for replica in replicas:
        if replica["status"] == "diverged":
            console.console.print(f"left out, diverged: {escape(replica['name'])}")


def few(dialogues: int) -> str:
    """What is to be said of intervals that so many dialogues give; nothing where they are enough."""
    if dialogues < 2:
        return "no interval: all test utterances are of one dialogue\n"
    return f"{dialogues} test dialogues are few: the intervals are too narrow\n" if dialogues < FEW_DIALOGUES else ""


def _print_points(title: str, points: Sequence[dict[str, Any]]) -> None:
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    for name in ("", "replicas", "weighted F1", "95 %", "macro F1", "accuracy", "UAR", "validation WF1"):
        table.add_column(name, justify="left" if not name else "right")
    for point in points:
        name = format_overrides(point["values"]) or "mean ± sd"
        test, interval = point["test"], point.get("interval", {})
        table.add_row(
            f"{name} *" if point["chosen"] and len(points) > 1 else name, str(point["replicas"]), percent(test["weighted_f1"]),
            between(interval["weighted_f1"]) if interval else "", percent(test["macro_f1"]), percent(test["accuracy"]),
            percent(test["uar"]), percent(point["valid"]["weighted_f1"]),
        )  # fmt: skip
        if "ensemble" in point:
            e = point["ensemble"]
            table.add_row(
                f"  ensemble of {e['members']} seeds", "", f"{100 * e['weighted_f1']['value']:.1f}", between(e["weighted_f1"]),
                *(f"{100 * e[name]['value']:.1f}" for name in ("macro_f1", "accuracy", "uar")), "",
            )  # fmt: skip
    console.console.print(table)


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """Test scores in percent: mean ± sample standard deviation over the replicas of the point that validation chose, and
    the 95 % interval over dialogues."""
    columns = {"macro_f1": "macro F1", "accuracy": "accuracy", "uar": "UAR"}
    titles = {result["protocol"]["title"] for result in found.values()}
    if not found:
        return ""
    lines = [f"Protocol {', '.join(sorted(titles))}.", ""]
    lines += ["| | WF1 | 95 % | " + " | ".join(columns.values()) + " | validation WF1 | replicas |",
             "|---" * (len(columns) + 5) + "|"]  # fmt: skip
    for name, result in found.items():
        point = next(point for point in result["points"] if point["chosen"])
        interval = point.get("interval")
        cells = [percent(point["test"]["weighted_f1"]), between(interval["weighted_f1"]) if interval else "-"]
        cells += [percent(point["test"][column]) for column in columns]
        cells += [percent(point["valid"]["weighted_f1"]), str(point["replicas"])]
        row = name + (f", {result['protocol']['title']}" if len(titles) > 1 else "")
        row += f", {format_overrides(point['values'])}" if point["values"] else ""
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
