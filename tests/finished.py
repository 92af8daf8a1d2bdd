"""Workdirs of finished runs that never ran: every file that a report reads, of any size."""

import json

import numpy as np

from mer_jax.config import to_dict
from mer_jax.evaluation.conversation_scores import TurnPlaces, pool_turns, score_turns
from mer_jax.metrics.metric import mean_sd
from mer_jax.metrics.significance import bootstrap
from mer_jax.models.lsgmer import LSGMERExperiment
from mer_jax.tasks.classification import Classification

LABELS = ("neutral", "joy", "anger", "sadness", "fear")
SPEAKERS = ("Anna", "Ben")
LEAKAGE = ["train and test share: sentences of 21.3 % of the test utterances (345); no dialogue"]


def write_run(folder, *, labels=LABELS, seeds=2, folds=1, utterances=60, points=1, skill=2.0, diverged=(),
              epochs=4, leaky="", sentence="So she said: “{i}” & left.", manifest="m" * 64, split="s" * 64,
              extras=True):  # fmt: skip
    """skill: how much larger the true class's logit is, plus the point's number; diverged: (point, fold, seed) each."""
    folder.mkdir(parents=True)
    task, replicas, lines, history = Classification(labels), [], [], []
    true = np.random.default_rng(len(labels)).integers(len(labels), size=utterances)
    fold_of = np.arange(utterances) // 12 % folds
    for point in range(points):
        for fold in range(folds):
            tested = np.flatnonzero(fold_of == fold)
            for seed in range(seeds):
                replica = about(point, points, fold, seed, epochs)
                replicas.append(replica)
                history += evaluations(task, replica, epochs)
                if (point, fold, seed) not in diverged:
                    predicted = draw(
                        np.random.default_rng([point, fold, seed]), true[tested], len(labels), skill + point
                    )
                    replica |= {"status": "finished", "step": 10 * epochs - 10, **scored(task, true[tested], predicted)}
                    replica["conversation"] = score_turns(
                        task, places(true).of(tested), {"label": true[tested]}, task.decisions(predicted)
                    )
                    lines += lines_of(task, replica["name"], tested, true, predicted, sentence)
    counts = {str(f + 1): fold_counts(task, true, fold_of == f) for f in range(folds)}
    config = to_dict(LSGMERExperiment(experiment="made up"))
    config["optim"]["learning_rate"] = 0.002
    metrics = {
        "task": task.name,
        "labels": list(labels),
        "protocol": {
            "name": "official",
            "title": "official" + f" (leaky: {leaky})" * bool(leaky),
            "description": "as written",
            "leaky": leaky,
            "split_sha256": split,
            "leakage": LEAKAGE,
            "selection": "best validation weighted_f1",
            "selects_on": "validation",
            "test": "scored once per replica",
        },
        "data": {
            "name": "small",
            "manifest_sha256": manifest,
            "counts": counts,
            "unread": {"text": {"limit": 9, "steps": 2, "total": 99, "utterances": 1, "share": 0.0202}},
            "problems": [],
        },
        "points": [point_of(task, number, replicas, points, lines) for number in range(points)],
        "replicas": replicas,
        "config": config,
        "versions": {"mer_jax": "0.0.0", "jax": "0.0.0"},
    }
    metrics |= {part: next(p for p in metrics["points"] if p["chosen"])[part] for part in ("valid", "test")}
    dump(folder, "metrics", metrics)
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines))
    if extras:
        chosen = next(r for r in replicas if r["point"] == points - 1 and r["status"] == "finished")
        write_extras(task, folder, chosen, [r for r in lines if r["replica"] == chosen["name"]], sentence)
    return folder


def about(point, points, fold, seed, epochs):
    """What metrics.json says of a replica that diverged."""
    values = {"optim.learning_rate": 10.0 ** (-3 - point)} if points > 1 else {}
    name = f"fold {fold + 1}, seed {seed}" + "".join(f", {k}={v:g}" for k, v in values.items())
    place = {"name": name, "fold": str(fold + 1), "seed": seed, "point": point, "values": values}
    return place | {"status": "diverged", "step": None}  # before it was scored


def evaluations(task, replica, epochs):
    """The lines of history.jsonl."""
    rows = []
    for epoch in range(1, epochs + 1):
        score = 0.5 + 0.3 * epoch / epochs - 0.02 * replica["seed"]
        valid = {"loss": 2 / epoch + 0.1 * replica["seed"]} | dict.fromkeys(task.metrics, score)
        row = {"step": 10 * epoch, "epoch": epoch, "replica": replica["name"], "valid": valid, "best": epoch < epochs}
        rows.append(row)
    return rows


def draw(rng, true, classes, skill):
    """Probabilities."""
    p = rng.normal(size=(len(true), classes)) * 1.5
    p[np.arange(len(true)), true] += skill
    return np.exp(p) / np.exp(p).sum(1, keepdims=True)


def scored(task, true, predicted):
    """What metrics.json says of a replica's scores; the validation part has those of the test part."""
    targets = {"label": true}
    part = task.score({"loss": 1.0, "confusion": task.count(targets, task.decisions(predicted))})
    evaluated = {"predicted": predicted}
    truth = {"valid": targets, "test": targets, "raters": np.zeros_like(predicted)}
    return {"valid": part, "test": part, **task.analyse(evaluated, evaluated, truth)}


def lines_of(task, replica, tested, true, predicted, sentence):
    """The lines of predictions.jsonl; twelve utterances make a dialogue."""
    rows = []
    for u, values in zip(tested.tolist(), predicted, strict=True):
        dialogue = f"d{u // 12:03d}"
        about = {"replica": replica, "id": f"{dialogue}_u{u:04d}", "dialogue": dialogue}
        row = about | {"turn": u % 12, "speaker": SPEAKERS[u % 2], "label": task.labels[true[u]]}
        said = {"sentence": sentence.replace("{i}", str(u))} if sentence else {}
        rows.append(row | task.describe_prediction(values, digits=6) | said)
    return rows


def places(true):
    """Where the utterances stand: two speakers take turns in dialogues of twelve."""
    at = np.arange(len(true))
    same = true == np.roll(true, 2)
    return TurnPlaces(np.where(at % 12 < 2, 2, np.where(same, 1, 0)), at % 12 + 1)


def fold_counts(task, true, tested):
    """What metrics.json says of a fold's parts; the other parts are as large as all."""
    parts = {"train": np.ones_like(tested), "valid": np.ones_like(tested), "test": tested}
    return {
        part: {
            "utterances": int(rows.sum()),
            **task.describe_targets({"label": true[rows]}),
            "truncated": {"text": 3},
            "nonfinite_zeroed": {"text": 0},
        }
        for part, rows in parts.items()
    }


def point_of(task, number, replicas, points, lines):
    mine = [r for r in replicas if r["point"] == number]
    done = [r for r in mine if r["status"] == "finished"]
    point = {
        "values": mine[0]["values"],
        "chosen": number == points - 1,
        "replicas": len(done),
        "diverged": len(mine) - len(done),
    }
    for part in ("valid", "test"):
        point[part] = {score: mean_sd([r[part][score] for r in done]) for score in task.metrics}
    point |= task.pool(done)
    point["conversation"] = pool_turns(done)
    counts = members_of(done, len({r["fold"] for r in mine}), task.labels, lines)
    if len(counts):
        point["interval"] = bootstrap(counts, scores=task.metric_values)
    if len(counts) > 1:
        values = task.metric_values(counts[0].sum(0))
        interval = bootstrap(counts[:1], scores=task.metric_values)
        ensemble = {name: {"value": float(values[name]), **interval[name]} for name in task.metrics}
        point["ensemble"] = {"members": len(counts), **ensemble}
    return point


def members_of(done, folds, labels, lines):
    """Of every seed that finished all folds the confusion matrix of each dialogue, counted line by line."""
    dialogues, out = sorted({line["dialogue"] for line in lines}), []
    for seed in sorted({r["seed"] for r in done}):
        names = {r["name"] for r in done if r["seed"] == seed}
        if len(names) == folds:
            counts = np.zeros((len(dialogues), len(labels), len(labels)), np.int64)
            for line in lines:
                if line["replica"] in names:
                    pair = labels.index(line["label"]), labels.index(line["prediction"])
                    counts[dialogues.index(line["dialogue"]), *pair] += 1
            out.append(counts)
    return np.array(out)


def write_extras(task, folder, replica, lines, sentence):
    """The files that a run may have."""
    dump(folder, "map", {"replica": replica["name"], **scattered(task, lines)})
    dump(folder, "cost", {"sessions": sessions()})
    per_class = {label: {"text": 1.5 - i / 2, "audio": i / 3 - 0.4} for i, label in enumerate(task.labels)}
    attributions = {
        "replica": replica["name"],
        "utterances_used": 256,
        "shares": {"modalities": ["text", "audio"], "per_class": per_class},
        "mistakes": [explained(x, sentence) for x in lines if x["label"] != x["prediction"]][:3],
        "integrated_gradients": {"in_words": "integrated gradients miss 1 % of what they explain"},
        "conversations": [talk(lines[:12], sentence), talk(lines[12:24], sentence)],
    }
    dump(folder, "explain", attributions)
    dump(folder, "robustness", {"replicas": [replica["name"]], **curves(task)})


def scattered(task, lines):
    rng = np.random.default_rng(5)
    middle = {label: 4 * rng.normal(size=2) for label in task.labels}
    places = [(middle[line["label"]] + rng.normal(size=2)).tolist() for line in lines]
    x, y = zip(*places, strict=True)
    ids = [line["id"] for line in lines]
    return {"method": "PCA of the fused features", "explained": [0.31, 0.2], "ids": ids, "x": x, "y": y}


def sessions():
    first = {
        "began": "2026-11-22T09:00:00Z",
        "from_step": 0,
        "to_step": 500,
        "seconds": 1800.0,
        "devices": 2,
        "kind": "NVIDIA H100",
        "platform": "gpu",
        "processes": 1,
        "hosts": ["one"],
        "cpus": 16,
        "peak_memory_bytes": 3 * 2**30,
    }
    later = {"began": "2026-11-22T12:00:00Z", "from_step": 500, "to_step": 620, "seconds": 45.5}
    return [first, first | later | {"platform": "cpu", "kind": "cpu", "peak_memory_bytes": None}]


def talk(lines, sentence):
    """A dialogue as explain.json has it: every turn is moved by the two before it, the first is not tested."""
    turns = []
    for i, line in enumerate(lines):
        moved = [
            {"id": lines[j]["id"], "turn": j, "influence": 0.5 - 0.1 * i - j / 50} for j in (i - 1, i - 2) if j >= 0
        ]
        turn = {name: line[name] for name in ("id", "turn", "speaker", "label")} | {
            "sentence": sentence,
            "influence": moved,
        }
        turn["shift"] = i >= 2 and lines[i - 2]["label"] != line["label"]
        if i:
            turn |= {
                "prediction": line["prediction"],
                "probability": 0.75,
                "wrong": line["prediction"] != line["label"],
            }
        turns.append(turn)
    return {"dialogue": lines[0]["dialogue"] if lines else "none", "dialogue_turns": len(turns), "turns": turns}


def explained(line, sentence):
    found = {field: line[field] for field in ("id", "label", "prediction")}
    found |= {"probability": 0.9, "sentence": sentence, "modalities": {"text": 1.2, "audio": -0.3}}
    return found | {"top_steps": {"text": [[3, 0.41], [4, 0.2]]}}


def curves(task):
    rates, sigmas = [i / 10 for i in range(11)], [0.0, 0.25, 0.5, 1.0, 2.0]

    def fall(xs, by):
        return {key: [[0.7 - by * x, 0.02] for x in xs] for key in task.metrics}

    kept = dict.fromkeys(task.metrics, 0.8)
    return {
        "definition": {"missing": "A share lacks it.", "noise": "Gaussian.", "retention": "A mean.", "floor": "Least."},
        "floor": {key: [0.1, 0.0] for key in task.metrics},
        "retention": {"missing": {"text": kept, "all": kept}, "noise": {"all": kept}},
        "missing": {n: {"rates": rates, **fall(rates, b)} for n, b in (("text", 0.5), ("audio", 0.1), ("all", 0.6))},
        "noise": {n: {"sigmas": sigmas, **fall(sigmas, b)} for n, b in (("text", 0.2), ("audio", 0.05), ("all", 0.25))},
        "effective": {"beside": "runs/other", "missing": {"text": dict.fromkeys(task.metrics, 0.05)}, "noise": {}},
    }


def dump(folder, name, value):
    (folder / f"{name}.json").write_text(json.dumps(value))
