import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, recall_score

from mer_jax import compare
from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import read_run
from mer_jax.metrics.calibration import CALIBRATION
from mer_jax.metrics.classification import METRICS
from mer_jax.metrics.metric import Metric

LABELS = ("calm", "glad", "cross")
DIALOGUES, TURNS = 24, 10
NO_DIFFERENCE, POINTS = "no difference that this test can show: B - A is", "points of weighted F1 (95 % interval"


def write_run(folder, *, skill=0.5, seeds=(0, 1, 2), folds=("official",), diverged=(), name="small", manifest="m1",
              split="s1", labels=LABELS, dialogues=DIALOGUES, leaky=""):  # fmt: skip
    """A finished run's folder, with what comparisons read. skill: the chance not to guess; diverged: (fold, seed)."""
    folder.mkdir()
    replicas, lines = [], []
    for point in (0, 1):  # point 1 is chosen; point 0 is always wrong, and must not be looked at
        for at, fold in enumerate(folds):
            for seed in seeds:
                replica = f"point {point}, fold {fold}, seed {seed}"
                status = "diverged" if point and (fold, seed) in diverged else "finished"
                about = {"name": replica, "fold": fold, "seed": seed, "point": point, "status": status, "step": 1}
                replicas.append(about)
                if status == "finished":
                    about |= {"valid": of_classes(labels), "test": of_classes(labels), "calibration": calibrated(0.5)}
                    about["calibration"]["temperature"] = 1.0
                    lines += predictions(replica, point * skill, seed, at, len(folds), labels, dialogues)
    tested = {fold: {r["id"]: r["label"] for r in lines if f"fold {fold}," in r["replica"]}.values() for fold in folds}
    protocol = dict.fromkeys(("description", "selection", "selects_on", "test"), "") | {"leakage": []}
    protocol |= {"name": "official", "leaky": leaky, "split_sha256": split}
    protocol["title"] = f"official (leaky: {leaky})" if leaky else "official"
    scores = {"valid": {}, "test": {}, "replicas": len(seeds), "diverged": 0}
    scores |= {"pooled": of_classes(labels), "calibration": calibrated({"mean": 0.5, "sd": None})}
    metrics = {
        "labels": list(labels),
        "data": {"name": name, "manifest_sha256": manifest, "counts": {f: counts(tested[f], labels) for f in folds}},
        "protocol": protocol,
        "replicas": replicas,
        "points": [{"values": {"optim.learning_rate": r}, "chosen": r == 0.1, **scores} for r in (0.01, 0.1)],
        "config": {},
        "versions": {},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return folder


def of_classes(labels):
    """Scores by class that comparisons do not look at."""
    known = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 1}
    return {"per_class": dict.fromkeys(labels, known), "confusion": [[1] * len(labels)] * len(labels)}


def calibrated(value):
    return {when: dict.fromkeys(CALIBRATION, value) for when in ("test", "test_scaled")}


def counts(tested, labels):
    """A fold's parts in metrics.json. tested: the labels of the test part."""
    part = {"utterances": len(tested), "classes": {label: list(tested).count(label) for label in labels}}
    return {"train": part, "valid": part, "test": part}


def predictions(replica, skill, seed, fold, folds, labels, dialogues):
    gold_of, rng = np.random.default_rng(99), np.random.default_rng([seed, round(100 * skill)])
    for i in range(dialogues * TURNS):
        gold, guess, knows = int(gold_of.integers(3)), int(rng.integers(3)), rng.random() < skill
        predicted = gold if knows else guess if skill else (gold + 1) % 3
        p = rng.dirichlet(np.full(3, 0.5))
        p[[predicted, p.argmax()]] = p[[p.argmax(), predicted]]
        if i // TURNS % folds == fold:
            yield {
                "replica": replica,
                "id": f"ü{i:03d}",
                "dialogue": f"d{i // TURNS}",
                "label": labels[gold],
                "prediction": labels[predicted],
                "probabilities": {name: round(float(v), 6) for name, v in zip(labels, p, strict=True)},
            }


def lines_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def chosen_lines(folder, seed):
    """Gold, predictions and probabilities of a seed at the chosen point, in the order of the ids."""
    rows = [r for r in lines_of(folder) if r["replica"].startswith("point 1") and r["replica"].endswith(f"seed {seed}")]
    rows.sort(key=lambda row: row["id"])
    p = np.array([[row["probabilities"][name] for name in LABELS] for row in rows])
    return [row["label"] for row in rows], [row["prediction"] for row in rows], p


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def replace_line(folder, number, change):
    path = folder / "predictions.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[number - 1])
    change(row)
    lines[number - 1] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


def compared(a, b, **kwargs):
    return compare.compare(read_run(a), read_run(b), **{"samples": 200} | kwargs)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Three seeds of a weak run in two folds, two seeds of a better one in one fold."""
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "a", folds=("1", "2")), write_run(folder / "b", skill=0.7, seeds=(0, 5))


def test_means_are_scikit_learns_over_seeds_with_folds_pooled(pair):
    found = compared(*pair)
    assert [found[k]["seeds"] for k in "ab"] == [[0, 1, 2], [0, 5]]
    assert (found["utterances"], found["dialogues"]) == (DIALOGUES * TURNS, DIALOGUES)
    wanted = {
        "accuracy": accuracy_score,
        "uar": lambda *x: recall_score(*x, average="macro"),
        "weighted_f1": lambda *x: f1_score(*x, average="weighted"),
        "macro_f1": lambda *x: f1_score(*x, average="macro"),
    }
    for name, score in wanted.items():
        values = {
            k: [score(*chosen_lines(r, s)[:2]) for s in found[k]["seeds"]] for k, r in zip("ab", pair, strict=True)
        }
        row = found["scores"][name]
        assert [row["a"], row["b"]] == pytest.approx([np.mean(values[k]) for k in "ab"])
        assert [row["a_sd"], row["b_sd"]] == pytest.approx([np.std(values[k], ddof=1) for k in "ab"])
        assert row["difference"] == pytest.approx(np.mean(values["b"]) - np.mean(values["a"]))
        assert row["low"] < row["difference"] < row["high"]


def test_mcnemar_is_of_the_mean_probabilities(pair):
    right = []
    for folder, seeds in zip(pair, ((0, 1, 2), (0, 5)), strict=True):
        gold = np.array(chosen_lines(folder, 0)[0])
        mean = np.mean([chosen_lines(folder, seed)[2] for seed in seeds], axis=0)
        right.append(np.array(LABELS)[mean.argmax(1)] == gold)
    only_a, only_b = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
    p = stats.binomtest(only_a, only_a + only_b).pvalue
    assert compared(*pair)["mcnemar"] == {"only_a": only_a, "only_b": only_b, "p": pytest.approx(p)}


def test_the_command(pair, tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "mer_jax.compare", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    done = run(*pair, "--samples=300", "--seed=1", f"--json={tmp_path / 'out.json'}")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == compared(*pair, samples=300, seed=1)
    row, test = written["scores"]["weighted_f1"], written["mcnemar"]
    assert written["conclusion"].startswith("B is better than A by ")
    words = [f"A: {pair[0]}, 3 seeds", f"B: {pair[1]}, 2 seeds"]
    words += ["small, protocol official: 240 test utterances in 24 dialogues"]
    words += [f"{100 * row[side]:.2f} ± {100 * row[f'{side}_sd']:.2f}" for side in "ab"]
    words += [f"{100 * row['low']:.2f} to {100 * row['high']:.2f}", "weighted F1", "macro F1", "accuracy", "UAR"]
    words += [f"only A right {test['only_a']}, only B right {test['only_b']}", written["conclusion"]]
    for text in words:
        assert text in done.stdout
    refused = run(pair[0], tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"error: {tmp_path} is not a finished run: it has no metrics.json. Give the workdir of a run that has ended.\n"
    )


def test_a_file_that_cannot_be_written_is_named(pair, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        compare.main([*map(str, pair), "--samples=100", f"--json={tmp_path / 'no' / 'out.json'}"])
    assert "out.json: No such file or directory" in capsys.readouterr().err


def test_a_run_compared_with_itself(pair, capsys):
    compare.main([str(pair[0]), str(pair[0]), "--samples=100"])
    assert f"{NO_DIFFERENCE} 0.00 points of weighted F1" in capsys.readouterr().out


def test_swapping_the_sides_swaps_the_result(pair):
    there, back = compared(*pair)["scores"]["uar"], compared(*pair[::-1])["scores"]["uar"]
    assert [back[k] for k in ("a", "b", "difference", "p")] == pytest.approx(
        [there["b"], there["a"], -there["difference"], there["p"]]
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((0.012, 0.003, 0.021, 0.004), f"B is better than A by 1.20 {POINTS} 0.30 to 2.10), p = 0.004"),
        ((-0.012, -0.021, -0.003, 0.0002), f"A is better than B by 1.20 {POINTS} 0.30 to 2.10), p < 0.001"),
        ((0.012, -0.003, 0.021, 0.06), f"{NO_DIFFERENCE} 1.20 {POINTS} -0.30 to 2.10), p = 0.060"),
        ((0.012, -0.0001, 0.021, 0.049), f"{NO_DIFFERENCE} 1.20 {POINTS} -0.01 to 2.10), p = 0.049"),
        ((-0.00001, -0.003, 0.003, 0.9), f"{NO_DIFFERENCE} 0.00 {POINTS} -0.30 to 0.30), p = 0.900"),
        ((0.012, 0.0001, 0.021, 0.051), f"{NO_DIFFERENCE} 1.20 {POINTS} 0.01 to 2.10), p = 0.051"),
    ],
)
def test_conclusion_in_plain_words(found, words):
    fields = dict(zip(("difference", "low", "high", "p"), found, strict=True))
    assert compare.conclusion(METRICS["weighted_f1"], fields) == words


def test_of_errors_fewer_are_better():
    metric = Metric("mean absolute error", "MAE", np.mean, "min", unit="")
    fields = {"difference": -0.25, "low": -0.375, "high": -0.125, "p": 0.0001}
    wanted = "B is better than A by 0.25000 mean absolute error (95 % interval 0.12500 to 0.37500), p < 0.001"
    assert compare.conclusion(metric, fields) == wanted


def test_a_score_newer_than_the_runs_is_compared(pair, monkeypatch, capsys):
    metric = Metric("share of calm", "calm", lambda counts: counts[..., 0].sum(-1) / counts.sum((-2, -1)))
    monkeypatch.setitem(METRICS, "calm", metric)
    found = compared(*pair)["scores"]["calm"]
    means = [
        np.mean([chosen_lines(r, s)[1].count("calm") for s in seeds])
        for r, seeds in zip(pair, ((0, 1, 2), (0, 5)), strict=True)
    ]
    assert [found["a"], found["b"]] == pytest.approx([mean / (DIALOGUES * TURNS) for mean in means])
    compare.main([*map(str, pair), "--samples=100"])
    assert "share of calm" in capsys.readouterr().out


def test_a_leaky_protocol_and_few_dialogues_are_told(tmp_path, capsys):
    a = write_run(tmp_path / "a", leaky="utterances of a dialogue are in train and test", dialogues=4, seeds=(0,))
    compare.main([str(a), str(a), "--samples=100"])
    output = capsys.readouterr().out
    assert "protocol official (leaky: utterances of a dialogue are in train and test): 40 test" in output
    assert "4 dialogues are few" in output
    assert ", 1 seed\n" in output
    assert " ± " not in output.split("A and B:")[0]  # one seed has no deviation


def test_a_seed_that_lacks_a_fold_is_left_out_and_told(pair, tmp_path, capsys):
    a = write_run(tmp_path / "a", folds=("1", "2"), diverged=[("2", 1)])
    compare.main([str(a), str(pair[1]), "--samples=100", f"--json={tmp_path / 'out.json'}"])
    assert f"seed 1 of {a} is left out: fold 2 is not finished" in capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["a"]["seeds"] == [0, 2]
    wanted = np.mean([accuracy_score(*chosen_lines(a, seed)[:2]) for seed in (0, 2)])
    assert written["scores"]["accuracy"]["a"] == pytest.approx(wanted)


def test_no_seed_with_all_folds_is_refused(tmp_path):
    a = write_run(tmp_path / "a", folds=("1", "2"), seeds=(0, 1), diverged=[("2", 1), ("1", 0)])
    with pytest.raises(UserError, match=r"no seed that finished every fold.*seed 0.*fold 1.*seed 1.*fold 2"):
        compared(a, a)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "s2"}, "not the same split:\n.*a: small, official .sha256 s1.\n.*b: small, official .sha256 s2"),
        ({"labels": ("calm", "cross", "glad")}, "not the same labels:\n.*a: calm, glad, cross\n.*b: calm, cross, glad"),
        (
            {"dialogues": 23},
            r"not the same test utterances \(such as 'ü230'\):\n.*a: 240 utterances, 10 of them .*\n.*b: 230 .*, 0 of",
        ),
    ],
)
def test_runs_on_something_else_are_refused(pair, tmp_path, changes, message):
    b = write_run(tmp_path / "b", **changes)
    with pytest.raises(UserError, match=message):
        compared(pair[0], b)
    assert compared(b, b)["scores"]["accuracy"]["p"] == 1


def test_runs_on_other_features_are_compared_and_it_is_told(pair, tmp_path, capsys):
    b = write_run(tmp_path / "b", skill=0.9, name="other", manifest="m2")
    compare.main([str(pair[0]), str(b)])
    output = " ".join(capsys.readouterr().out.split())
    assert "The corpora are two, small (manifest sha256 m1…) and other (manifest sha256 m2…)" in output
    compare.main([str(pair[0]), str(pair[1])])
    assert "The corpora are two" not in capsys.readouterr().out


@pytest.mark.parametrize(("field", "other"), [("label", "glad"), ("dialogue", "d7")])
def test_other_gold_labels_or_dialogues_are_refused(tmp_path, field, other):
    a, b = (write_run(tmp_path / name, seeds=(0,)) for name in "ab")
    utterance, was = next((row["id"], row[field]) for row in lines_of(b) if row[field] != other)
    for number, row in enumerate(lines_of(b), 1):  # of both points
        if row["id"] == utterance:
            replace_line(b, number, lambda row: row.update({field: other}))
    labels = {row["id"]: row["label"] for row in lines_of(b)}.values()
    edit(b / "metrics.json", lambda metrics: metrics["data"].update(counts={"official": counts(labels, LABELS)}))
    message = rf"not the same {field} for '{utterance}' \(1 such utterances\):\n.*a: {was}\n.*b: {other}"
    with pytest.raises(UserError, match=message):
        compared(a, b)


def test_one_dialogue_or_too_few_samples_are_refused(pair, tmp_path):
    a = write_run(tmp_path / "a", dialogues=1)
    with pytest.raises(UserError, match=r"all 10 test utterances of .*a are of one dialogue"):
        compared(a, a)
    with pytest.raises(UserError, match="--samples is 99"):
        compared(*pair, samples=99)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("replicas"), "field 'replicas' is missing"),
        (lambda m: m["protocol"].pop("split_sha256"), "field 'protocol.split_sha256' is missing"),
        (lambda m: m.update(points=[3]), "not what this mer_jax writes"),
        (lambda m: [p.update(chosen=False) for p in m["points"]], "no point is chosen"),
    ],
)
def test_a_metrics_file_of_something_else_is_refused(tmp_path, change, message):
    a = write_run(tmp_path / "a")
    edit(a / "metrics.json", change)
    with pytest.raises(UserError, match=message) as caught:
        read_run(a)
    assert str(a) in str(caught.value)


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path):
    a = write_run(tmp_path / "a")
    (a / "metrics.json").write_text('{"labels": [')
    with pytest.raises(UserError, match=r"metrics\.json is not valid JSON"):
        read_run(a)
    b = write_run(tmp_path / "b")
    (b / "predictions.jsonl").unlink()
    with pytest.raises(UserError, match=r"b is not a finished run: it has no predictions\.jsonl"):
        read_run(b)
    with pytest.raises(UserError, match="nowhere does not exist"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("dialogue"), "it has no text field 'dialogue'"),
        (lambda row: row.update(id=7), "it has no text field 'id'"),
        (lambda row: row.update(turn="3"), "its field 'turn' is not an integer"),
        (lambda row: row.update(turn=True), "its field 'turn' is not an integer"),
        (lambda row: row.update(speaker=None), "its field 'speaker' is not a text"),
        (lambda row: row.update(replica="seed 9"), "metrics.json has no replica 'seed 9'"),
        (lambda row: row.update(prediction="sad"), "prediction 'sad' is none of calm, glad, cross"),
        (lambda row: row["probabilities"].pop("calm"), "its probabilities are not one per label"),
        (lambda row: row["probabilities"].update(calm=float("nan")), "its probabilities do not sum to 1"),
        (lambda row: row["probabilities"].update(calm=1.5), "its probabilities do not sum to 1"),
        (lambda row: row.update(id="ü249"), "utterance 'ü249' occurs a second time for this replica"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, change, message):
    a = write_run(tmp_path / "a", seeds=(0,), dialogues=26)
    number = len(lines_of(a))
    assert lines_of(a)[-11]["id"] == "ü249"
    replace_line(a, number, change)
    with pytest.raises(UserError, match=f"predictions.jsonl, line {number} is damaged: {message}"):
        read_run(a)


def test_a_torn_file_is_refused(tmp_path):
    a = write_run(tmp_path / "a")
    path, whole = a / "predictions.jsonl", (a / "predictions.jsonl").read_bytes()
    number = whole.count(b"\n")
    path.write_bytes(whole[:-30])  # inside the last line
    with pytest.raises(UserError, match=f"line {number} is damaged"):
        read_run(a)
    path.write_bytes(b"\n".join(whole.split(b"\n")[:-2]) + b"\n")  # between two lines
    with pytest.raises(UserError, match=r"incomplete: of point 1, .*seed 2 it has 239 utterances, .* 240"):
        read_run(a)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"predictions\.jsonl is incomplete: of .*, seed 0 it has 0 utterances"):
        read_run(a)


def test_seeds_that_disagree_on_a_label_are_refused(tmp_path):
    a = write_run(tmp_path / "a")
    wrong = next(name for name in LABELS if name != lines_of(a)[-1]["label"])
    replace_line(a, len(lines_of(a)), lambda row: row.update(label=wrong))
    with pytest.raises(UserError, match="damaged: another line says something else of utterance 'ü239'"):
        read_run(a)
