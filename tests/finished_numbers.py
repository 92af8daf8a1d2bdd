"""Workdirs of finished runs that never ran, of numbers, of several emotions, and of several targets together."""

import json

import numpy as np
from finished import LABELS, LEAKAGE, SPEAKERS, about, curves, dump, evaluations, sessions

from mer_jax.config import to_dict
from mer_jax.data.targets import Target
from mer_jax.metrics.metric import mean_sd
from mer_jax.metrics.significance import bootstrap
from mer_jax.models.lsgmer import LSGMERExperiment
from mer_jax.tasks import Classification, Multilabel, Regression, Several
from mer_jax.tasks.several_told import HAS

AFFECT = Target("affect", "regression", ("valence", "arousal"), ("valence", "arousal"), ((1.0, 5.0), (1.0, 5.0)))
SENTIMENT = Target("sentiment", "regression", ("sentiment",), ("sentiment",), ((-3.0, 3.0),), definition="mosei")
EMOTIONS = ("happy", "sad", "anger")
FELT = Target("emotions", "multilabel", EMOTIONS, EMOTIONS, ((0.0, 3.0),) * 3, present_from="half")

LOSS = np.array(1.0)


def tasks():
    return {
        "regression": Regression(AFFECT),
        "sentiment": Regression(SENTIMENT),
        "multilabel": Multilabel(FELT),
        "several": Several([Classification(LABELS), Regression(AFFECT), Multilabel(FELT)]),
    }


def targets_of(task, rng, rows):
    """Targets, of which some are not known."""
    if isinstance(task, Several):
        found = {}
        for i, part in enumerate(task.parts):
            has = rng.random(rows) < 0.8 if i else np.arange(rows) % 3 > 0
            own = targets_of(part, rng, rows)
            found |= {
                f"{i}/{name}": np.where(has[:, None] if v.ndim > 1 else has, v, np.zeros_like(v))
                for name, v in own.items()
            }
            found[f"{i}/{HAS}"] = has
        return found
    if isinstance(task, Classification):
        return {"label": rng.integers(task.width, size=rows).astype(np.int32)}
    low, high = np.array(task.target.ranges).T
    value = rng.uniform(low, high, (rows, task.width))
    if isinstance(task, Multilabel):
        value = np.round(value * (rng.random(value.shape) < 0.5) * 3) / 3
    else:
        value = np.round(value)  # and so some are 0
    known = (rng.random(value.shape) < 0.9) | (np.arange(task.width) == 0)
    return {"value": np.where(known, value, 0).astype(np.float32), "known": known}


def draw(task, rng, targets):
    """What is predicted, [rows, width]."""
    if isinstance(task, Several):
        each = [draw(part, rng, task.of_part(targets, i)) for i, part in enumerate(task.parts)]
        return np.concatenate(each, 1)
    if isinstance(task, Classification):
        p = rng.normal(size=(len(targets["label"]), task.width)) * 1.5
        p[np.arange(len(p)), targets["label"]] += 2
        return np.exp(p) / np.exp(p).sum(1, keepdims=True)
    noise = rng.normal(size=targets["value"].shape)
    if isinstance(task, Multilabel):
        return 1 / (1 + np.exp(-(3 * task.present(targets) - 1.5 + 1.5 * noise)))
    low, high = np.array(task.target.ranges).T
    return (low + high) / 2 + 0.6 * (targets["value"] - (low + high) / 2) + 0.8 * noise


def evaluated(task, targets, predicted):
    """What `score` takes of a part."""
    if isinstance(task, Several):
        found = {"loss": LOSS, "predicted": predicted}
        for i, part in enumerate(task.parts):
            own = task.of_part(targets, i)
            has = own.pop(HAS)
            one = evaluated(part, {n: v[has] for n, v in own.items()}, predicted[has][:, task.slices[i]])
            rows = {n: v for n, v in one.items() if n != "predicted"}
            if not isinstance(part, Classification):
                rows |= {
                    "value": own["value"],
                    "known": own["known"] & has[:, None],
                    "error": np.zeros(own["value"].shape),
                }
            rows["share"] = has.mean()
            found |= {f"{i}/{name}": value for name, value in rows.items()}
        return found
    if isinstance(task, Classification):
        return {"loss": LOSS, "confusion": task.count(targets, task.decisions(predicted)), "predicted": predicted}
    return {"loss": LOSS, "predicted": predicted, "error": np.zeros(predicted.shape), **targets}


def raters(task, targets):
    if isinstance(task, Several):
        own = [(part, task.of_part(targets, i)) for i, part in enumerate(task.parts)]
        return [raters(part, {n: v[one[HAS]] for n, v in one.items()}) for part, one in own]
    return np.zeros((len(targets["label"]), task.width)) if isinstance(task, Classification) else None


def write_numbers(folder, kind, *, seeds=2, folds=1, utterances=120, locked=False, extras=True, diverged=()):
    """kind: of `tasks`; diverged: (fold, seed) each. The validation part is the test part."""
    folder.mkdir(parents=True)
    task, rng = tasks()[kind], np.random.default_rng(3)
    targets, fold_of = targets_of(task, rng, utterances), np.arange(utterances) // 12 % folds
    replicas, lines, history, found = [], [], [], {}
    for fold in range(folds):
        tested = np.flatnonzero(fold_of == fold)
        own = {name: values[tested] for name, values in targets.items()}
        for seed in range(seeds):
            replica = about(0, 1, fold, seed, 4)
            replicas.append(replica)
            history += evaluations(task, replica, 4)
            if (fold, seed) in diverged:
                continue
            predicted = draw(task, np.random.default_rng([fold, seed]), own)
            found[fold, seed] = predicted
            part = task.score(evaluated(task, own, predicted))
            for one in (part, *part.get("parts", {}).values()):
                one["loss"] = float(LOSS)
            tests = {} if locked else {"test": part}
            truth = {"valid": own, "test": own, "raters": raters(task, own)}
            rows = {"predicted": predicted}
            told = task.analyse(rows, None if locked else rows, truth)
            replica |= {"status": "finished", "step": 30, "valid": part, **tests, **told}
            lines += lines_of(task, replica["name"], tested, targets, predicted)
    done = [replica for replica in replicas if replica["status"] == "finished"]
    point = {"values": {}, "chosen": True, "replicas": len(done), "diverged": len(replicas) - len(done)}
    for part in ("valid",) if locked else ("valid", "test"):
        point[part] = {score: mean_sd([r[part][score] for r in done]) for score in task.metrics}
    point |= task.pool(done)
    counts = []
    for seed in range(seeds):
        if not locked and all((fold, seed) in found for fold in range(folds)):
            order = np.concatenate([np.flatnonzero(fold_of == fold) for fold in range(folds)])
            whole = np.concatenate([found[fold, seed] for fold in range(folds)])
            of = {name: values[order] for name, values in targets.items()}
            counts.append(task.count_by_dialogue(of, task.decisions(whole), order // 12))
    if counts:
        point["interval"] = bootstrap(np.stack(counts), samples=200, scores=task.metric_values)
    dump(folder, "metrics", metrics_of(task, targets, fold_of, point, replicas, locked))
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    if not locked:
        (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    if extras and not locked:
        write_extras(task, folder, done[0], lines)
    return folder


def metrics_of(task, targets, fold_of, point, replicas, locked):
    config = to_dict(LSGMERExperiment(experiment="made up"))
    config["train"]["select"] = task.main_metric
    counts = {}
    for fold in range(fold_of.max() + 1):
        own = {name: values[fold_of == fold] for name, values in targets.items()}
        told = {"utterances": int((fold_of == fold).sum()), **task.describe_targets(own)}
        test = {"utterances": told["utterances"]} if locked else told
        counts[str(fold + 1)] = {"train": told, "valid": told, "test": test}
    return {
        "task": task.name,
        **task.describe(),
        "protocol": {
            "name": "official",
            "title": "official",
            "description": "as written",
            "leaky": "",
            "split_sha256": "s" * 64,
            "leakage": LEAKAGE,
            "selection": f"best validation {task.main_metric}",
            "selects_on": "validation",
            "test": "scored once per replica",
            "locked": locked,
        },
        "data": {"name": "small", "manifest_sha256": "m" * 64, "counts": counts},
        **{part: point[part] for part in ("valid", "test") if part in point},
        "points": [point],
        "replicas": replicas,
        "config": config,
        "versions": {"mer_jax": "0.0.0"},
    }


def lines_of(task, replica, tested, targets, predicted):
    """The lines of predictions.jsonl; twelve utterances make a dialogue."""
    rows = []
    for u, values in zip(tested.tolist(), predicted, strict=True):
        dialogue = f"d{u // 12:03d}"
        row = {"replica": replica, "id": f"{dialogue}_u{u:04d}", "dialogue": dialogue, "turn": u % 12}
        row |= {"speaker": SPEAKERS[u % 2], **task.describe_target(targets, u)}
        rows.append(row | task.describe_prediction(values, digits=6) | {"sentence": f"Sentence <{u}>."})
    return rows


def write_extras(task, folder, replica, lines):
    """The files that a run may have."""
    mine, rng = [line for line in lines if line["replica"] == replica["name"]], np.random.default_rng(5)
    x, y = rng.normal(size=(2, len(mine))).tolist()
    about_map = {"replica": replica["name"], "method": "PCA of the fused features", "explained": [0.31, 0.2]}
    dump(folder, "map", about_map | {"ids": [line["id"] for line in mine], "x": x, "y": y})
    dump(folder, "cost", {"sessions": sessions()})
    shares = {name: {"text": 1.5 - i / 2, "audio": i / 3 - 0.4} for i, name in enumerate(task.outputs)}
    mistakes = [
        {
            "id": line["id"],
            "label": task.target_in_words(task.read_target(line)),
            "prediction": task.prediction_in_words(np.array(task.read_prediction(line)[1])),
            "explained": task.outputs[0],
            "sentence": line["sentence"],
            "modalities": {"text": 1.2, "audio": -0.3},
            "top_steps": {"text": [[3, 0.41]]},
        }
        for line in mine[:3]
    ]
    told = {"replica": replica["name"], "utterances_used": 60, "mistakes": mistakes}
    dump(folder, "explain", told | {"shares": {"modalities": ["text", "audio"], "per_class": shares}})
    dump(folder, "robustness", {"replicas": [replica["name"]], **curves(task)})
