"""Workdirs of finished runs that never ran: every file that a report reads, of any size."""

import json

import numpy as np

from mer_jax.config import to_dict
from mer_jax.metrics.calibration import calibration, fit_temperature, temperature_scale
from mer_jax.metrics.classification import SCORES, mean_sd, scores
from mer_jax.metrics.significance import bootstrap, by_dialogue
from mer_jax.models.lsgmer import LSGMERExperiment

LABELS = ("neutral", "joy", "anger", "sadness", "fear")


def write_run(folder, *, seeds=2, folds=1, utterances=60, labels=LABELS, points=1, epochs=4, leaky="", skill=2.0,
              sentence="So she said: “{i}” & left.", manifest="m" * 64, split="s" * 64, extras=True, diverged=()):  # fmt: skip
    """skill: how much larger the true class's logit is, plus the point's number; diverged: (point, fold, seed) each."""
    folder.mkdir(parents=True)
    rng, classes = np.random.default_rng(len(labels)), len(labels)
    gold = rng.integers(classes, size=utterances)
    dialogues = np.array([f"d{i // 12:03d}" for i in range(utterances)])
    ids = [f"{d}_u{i:04d}" for i, d in enumerate(dialogues)]
    fold_of = np.arange(utterances) // 12 % folds
    replicas, lines, history, found = [], [], [], []
    for point in range(points):
        values = {"optim.learning_rate": 10.0 ** (-3 - point)} if points > 1 else {}
        for fold in range(folds):
            here = np.flatnonzero(fold_of == fold)
            for seed in range(seeds):
                name = f"fold {fold + 1}, seed {seed}" + "".join(f", {k}={v:g}" for k, v in values.items())
                about = {"name": name, "fold": str(fold + 1), "seed": seed, "point": point, "values": values, "step": 10 * epochs - 10}  # fmt: skip
                p = np.random.default_rng([point, fold, seed]).normal(size=(len(here), classes)) * 1.5
                p[np.arange(len(here)), gold[here]] += skill + point
                p = np.exp(p) / np.exp(p).sum(1, keepdims=True)
                found.append(p)
                for epoch in range(1, epochs + 1):
                    valid = {"loss": 2 / epoch + 0.1 * seed} | dict.fromkeys(SCORES, 0.5 + 0.3 * epoch / epochs - 0.02 * seed)  # fmt: skip
                    history.append({"step": 10 * epoch, "epoch": epoch, "replica": name, "valid": valid, "best": epoch < epochs})  # fmt: skip
                if (point, fold, seed) in diverged:
                    replicas.append(about | {"status": "diverged"})
                    continue
                matrix = by_dialogue(gold[here], p.argmax(1), dialogues[here], classes)[1].sum(0)
                temperature = fit_temperature(p, gold[here])
                score = {"loss": 1.0, **scores(matrix, labels)}
                replicas.append(about | {"status": "finished", "valid": score, "test": score, "calibration": {
                    "temperature": temperature, "test": calibration(p, gold[here]),
                    "test_scaled": calibration(temperature_scale(p, temperature), gold[here])}})  # fmt: skip
                lines += [
                    {"replica": name, "id": ids[u], "dialogue": dialogues[u], "label": labels[gold[u]], "prediction": labels[row.argmax()],
                     "probabilities": {label: round(float(v), 6) for label, v in zip(labels, row, strict=True)}}
                    | ({"sentence": sentence.replace("{i}", str(u))} if sentence else {})
                    for u, row in zip(here.tolist(), p, strict=True)
                ]  # fmt: skip
    classes_of = {label: int((gold == i).sum()) for i, label in enumerate(labels)}
    part = {"utterances": utterances, "classes": classes_of, "truncated": {"text": 3}, "nonfinite_zeroed": {"text": 0}}
    config = to_dict(LSGMERExperiment(experiment="made up"))
    config["optim"]["learning_rate"] = 0.002
    metrics = {
        "labels": list(labels),
        "protocol": {
            "name": "official", "title": "official" + f" (leaky: {leaky})" * bool(leaky), "description": "as written", "leaky": leaky,
            "split_sha256": split, "leakage": ["train and test share: sentences of 21.3 % of the test utterances (345); no dialogue"],
            "selection": "best validation weighted_f1", "selects_on": "validation", "test": "scored once per replica",
        },
        "data": {"name": "small", "manifest_sha256": manifest, "counts": {str(f + 1): dict.fromkeys(("train", "valid", "test"), part) for f in range(folds)}},
        "points": [point_of(p, replicas, points, labels, gold, dialogues, lines) for p in range(points)],
        "replicas": replicas, "config": config, "versions": {"mer_jax": "0.0.0", "jax": "0.0.0"},
    }  # fmt: skip
    metrics |= {part: next(p for p in metrics["points"] if p["chosen"])[part] for part in ("valid", "test")}
    dump(folder, "metrics", metrics)
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines))
    if extras:
        chosen = next(r for r in replicas if r["point"] == points - 1 and r["status"] == "finished")
        write_extras(folder, chosen, [r for r in lines if r["replica"] == chosen["name"]], labels, sentence)
    return folder


def point_of(number, replicas, points, labels, gold, dialogues, lines):
    mine = [r for r in replicas if r["point"] == number]
    done = [r for r in mine if r["status"] == "finished"]
    point = {"values": mine[0]["values"], "chosen": number == points - 1, "replicas": len(done), "diverged": len(mine) - len(done)}  # fmt: skip
    for part in ("valid", "test"):
        point[part] = {score: mean_sd([r[part][score] for r in done]) for score in SCORES}
    point["pooled"] = scores(np.sum([r["test"]["confusion"] for r in done], axis=0), labels)
    point["calibration"] = {when: {n: mean_sd([r["calibration"][when][n] for r in done]) for n in ("ece", "nll", "brier")}
                            for when in ("test", "test_scaled")}  # fmt: skip
    counts = members_of(done, len({r["fold"] for r in mine}), labels, lines)
    if len(counts):
        point["interval"] = bootstrap(counts)
    if len(counts) > 1:
        whole, interval = scores(counts[0].sum(0), labels), bootstrap(counts[:1])
        point["ensemble"] = {"members": len(counts)} | {s: {"value": whole[s], **interval[s]} for s in SCORES}
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
                    counts[dialogues.index(line["dialogue"]), labels.index(line["label"]), labels.index(line["prediction"])] += 1  # fmt: skip
            out.append(counts)
    return np.array(out)


def write_extras(folder, replica, lines, labels, sentence):
    rng, name = np.random.default_rng(5), replica["name"]
    middle = {label: 4 * rng.normal(size=2) for label in labels}
    places = [middle[line["label"]] + rng.normal(size=2) for line in lines]
    dump(folder, "map", {"replica": name, "method": "PCA of the fused features", "explained": [0.31, 0.2], "ids": [line["id"] for line in lines],
                         "x": [float(p[0]) for p in places], "y": [float(p[1]) for p in places]})  # fmt: skip
    session = {"began": "2026-11-22T09:00:00Z", "from_step": 0, "to_step": 500, "seconds": 1800.0, "devices": 2, "kind": "NVIDIA H100",
               "platform": "gpu", "processes": 1, "hosts": ["one"], "cpus": 16, "peak_memory_bytes": 3 * 2**30}  # fmt: skip
    later = {"began": "2026-11-22T12:00:00Z", "from_step": 500, "to_step": 620, "seconds": 45.5, "platform": "cpu", "kind": "cpu",
             "peak_memory_bytes": None}  # fmt: skip
    dump(folder, "cost", {"sessions": [session, session | later]})
    per = {label: {"text": 1.5 - i / 2, "audio": i / 3 - 0.4} for i, label in enumerate(labels)}
    wrong = [line for line in lines if line["label"] != line["prediction"]][:3]
    explained = [{**{k: line[k] for k in ("id", "label", "prediction")}, "probability": 0.9, "sentence": sentence,
                  "modalities": {"text": 1.2, "audio": -0.3}, "top_steps": {"text": [[3, 0.41], [4, 0.2]]}} for line in wrong]  # fmt: skip
    dump(folder, "explain", {"replica": name, "utterances_used": 256, "mistakes": explained,
                             "shares": {"modalities": ["text", "audio"], "per_class": per}})  # fmt: skip
    rates, sigmas = [i / 10 for i in range(11)], [0.0, 0.25, 0.5, 1.0, 2.0]

    def fall(xs, by):
        return {key: [[0.7 - by * x, 0.02] for x in xs] for key in SCORES}

    kept = dict.fromkeys(SCORES, 0.8)
    dump(folder, "robustness", {
        "replicas": [name], "definition": {"missing": "A share lacks it.", "noise": "Gaussian.", "retention": "A mean."},
        "floor": {key: [0.1, 0.0] for key in SCORES}, "retention": {"missing": {"text": kept, "all": kept}, "noise": {"all": kept}},
        "missing": {n: {"rates": rates, **fall(rates, b)} for n, b in (("text", 0.5), ("audio", 0.1), ("all", 0.6))},
        "noise": {n: {"sigmas": sigmas, **fall(sigmas, b)} for n, b in (("text", 0.2), ("audio", 0.05), ("all", 0.25))},
        "effective": {"beside": "runs/other", "missing": {"text": dict.fromkeys(SCORES, 0.05)}, "noise": {}},
    })  # fmt: skip


def dump(folder, name, value):
    (folder / f"{name}.json").write_text(json.dumps(value))
