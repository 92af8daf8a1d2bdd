"""The benchmark: floors, tables, what is refused. The command itself, with models that are trained: test_benchmark_run.py."""

import json
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import browser
import numpy as np
import pytest
import store
from conftest import ROOT, SMALL_LABELS, small_description, small_utterances
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from mer_jax.benchmark import budget, command, floors, models, page, results, rows, stages, tables
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.protocols import Fold
from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import read_run
from mer_jax.metrics.classification import accuracy
from mer_jax.metrics.significance import bootstrap, bootstrap_ranks, holm
from mer_jax.tasks.classification import Classification

# ---- Holm's correction, ranks ----


def test_holm_by_hand():
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, of which the last is not smaller than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_the_stepwise_procedure_does():
    """Holm 1979: from the smallest p on, as long as it is at most level / (how many are left)."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        p, level = rng.random(rng.integers(1, 9)) ** 3, rng.uniform(0.01, 0.2)
        rejected, left = set(), len(p)
        for i in np.argsort(p):
            if p[i] > level / left:
                break
            rejected.add(int(i))
            left -= 1
        assert {i for i, adjusted in enumerate(holm(p.tolist())) if adjusted <= level} == rejected


def right_of(right, of=10):
    """Counts [1, dialogues, 2, 2] of a row that has so many of each dialogue's utterances right."""
    counts = np.zeros((1, len(right), 2, 2), np.int64)
    counts[0, :, 0, 0], counts[0, :, 0, 1] = right, of - np.array(right)
    return counts


def test_a_row_that_is_better_in_every_dialogue_is_always_first():
    better, worse, worst = right_of([9, 8, 9, 9]), right_of([8, 7, 8, 8]), right_of([1, 1, 0, 1])
    found = bootstrap_ranks([worse, better, worst], accuracy)
    assert [one["first"] for one in found] == [0, 1, 0]
    assert [(one["low"], one["median"], one["high"]) for one in found] == [(2, 2, 2), (1, 1, 1), (3, 3, 3)]
    assert [one["first"] for one in bootstrap_ranks([worse, better, worst], accuracy, larger_is_better=False)] == [
        0,
        0,
        1,
    ]


def test_rows_that_are_equal_share_their_ranks_and_the_first_place():
    found = bootstrap_ranks([right_of([5, 6, 7])] * 3 + [right_of([1, 1, 1])], accuracy)
    assert [one["first"] for one in found] == pytest.approx([1 / 3] * 3 + [0])
    assert [one["median"] for one in found] == [2, 2, 2, 4]


def test_how_often_a_row_is_first_by_all_resamples():
    """a is better in dialogue 0 by 2, b in dialogues 1 and 2 by 1 each: b is first where dialogue 0 is not drawn, with
    8 of 27 resamples; a is where it is drawn twice or more, 7 of 27; once, 12 of 27, they are equal."""
    a, b = right_of([7, 5, 5]), right_of([5, 6, 6])
    found = bootstrap_ranks([a, b], accuracy, samples=40000)
    assert found[0]["first"] == pytest.approx((7 + 6) / 27, abs=0.01)
    assert found[1]["first"] == pytest.approx((8 + 6) / 27, abs=0.01)


def test_a_seed_is_drawn_for_every_row_and_the_dialogues_are_the_same_for_all():
    good, bad, middle = right_of([9] * 5), right_of([1] * 5), right_of([5] * 5)
    found = bootstrap_ranks([np.concatenate([good, bad]), np.concatenate([middle] * 3)], accuracy, samples=8000)
    assert found[0]["first"] == pytest.approx(0.5, abs=0.02)
    draws = [right_of(np.random.default_rng(i).integers(3, 9, 30)) for i in range(2)]
    seen = []  # with a row of members the score of each is that of the resamples of `bootstrap`
    bootstrap_ranks(draws, lambda counts: seen.append(accuracy(counts)) or seen[-1], samples=500, seed=3)
    low = bootstrap(draws[0], samples=500, seed=3, scores=lambda counts: {"x": accuracy(counts)})["x"]["low"]
    assert np.percentile(np.concatenate(seen)[:, 0], 2.5) == low


def test_one_dialogue_gives_no_ranks_and_a_score_that_is_none_is_the_last():
    assert bootstrap_ranks([right_of([5]), right_of([6])], accuracy) == []
    found = bootstrap_ranks(
        [right_of([5, 5]), right_of([0, 0])], lambda c: np.where(accuracy(c) > 0, accuracy(c), np.nan)
    )
    assert [one["median"] for one in found] == [1, 2]


# ---- floors ----


def features(rows=90, seed=0):
    """Features whose first columns tell the class, with scales of their own; what a fold trains, validates and tests."""
    rng = np.random.default_rng(seed)
    label = rng.integers(3, size=rows).astype(np.int32)
    x = rng.normal(size=(rows, 8)) + 1.5 * np.eye(3, 8)[label]
    at = rng.permutation(rows)
    fold = Fold("1", *(np.sort(part) for part in (at[:50], at[50:70], at[70:])))
    return x * np.logspace(-1, 2, 8) + 3, label, fold


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_floors_of_classes_are_scikit_learns(kind):
    x, label, fold = features()
    task = Classification(SMALL_LABELS)
    settings = floors.FloorSettings(kind=kind, features="text")
    targets = {"label": label, "target": np.eye(3, dtype=np.float32)[label]}
    found = floors.predict_fold(task, settings, 0.01, floors.standardised(x, fold.train), targets, fold)
    scaler = StandardScaler().fit(x[fold.train])
    kinds = {
        "logistic": LogisticRegression(C=0.01, max_iter=5000),
        "svm": LinearSVC(C=0.01, dual="auto", random_state=0),
    }
    model = kinds[kind].fit(scaler.transform(x[fold.train]), label[fold.train])
    z = scaler.transform(x[fold.test])
    wanted = model.predict_proba(z) if kind == "logistic" else softmax(model.decision_function(z), 1)
    np.testing.assert_allclose(found["test"]["predicted"], wanted, atol=1e-5)
    assert np.trace(found["test"]["confusion"]) == (model.predict(z) == label[fold.test]).sum()
    scores = task.score(found["test"])
    assert scores["accuracy"] == pytest.approx(model.score(z, label[fold.test]))


def test_two_classes_and_one_that_training_lacks():
    x, label, _ = features()
    for classes in ((0, 2), (1,)):
        of = np.isin(label, classes)
        predict = floors.fit(Classification(SMALL_LABELS), "svm", 0.1, x[of], {"label": label[of]})
        p = predict(x)
        np.testing.assert_allclose(p.sum(1), 1)
        assert set(p.argmax(1)) == set(classes)
        assert p.min() > 0


def test_the_constant_of_classes_is_the_most_frequent():
    label = np.array([1, 1, 2, 1, 0], np.int32)
    predict = floors.fit(Classification(SMALL_LABELS), "majority", 0.0, np.zeros((5, 0)), {"label": label})
    np.testing.assert_allclose(predict(np.zeros((2, 0))), [[0.2, 0.6, 0.2]] * 2)


def number_tasks():
    from mer_jax.data.targets import Target
    from mer_jax.tasks import KINDS

    ranges = ((-3.0, 3.0), (0.0, 10.0))
    about = {"names": ("a", "b"), "outputs": ("a", "b"), "ranges": ranges, "words": ("a", "b"), "embeddings": np.eye(2)}
    return {kind: KINDS[kind][0](Target("t", kind, **about)) for kind in ("regression", "multilabel")}


def numbers(rows=80, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 5))
    value = (x[:, :2] + 0.3 * rng.normal(size=(rows, 2))).astype(np.float32)
    known = rng.random((rows, 2)) < 0.8
    return x, {"value": np.where(known, value, 0).astype(np.float32), "known": known}


def test_ridge_is_scikit_learns_of_what_is_known():
    task = number_tasks()["regression"]
    x, targets = numbers()
    values = floors.fit(task, "ridge", 10.0, x[:60], {name: v[:60] for name, v in targets.items()})(x[60:])
    tested = {name: v[60:] for name, v in targets.items()} | {"spread": np.ones((20, 2), np.float32)}
    found = floors.evaluated(task, values, tested)
    for i in range(2):
        known = targets["known"][:60, i]
        # In half ranges the penalty is the same: ridge scales with its targets.
        model = Ridge(alpha=10.0).fit(x[:60][known], targets["value"][:60, i][known].astype(np.float64))
        np.testing.assert_allclose(found["predicted"][:, i], model.predict(x[60:]), rtol=1e-5, atol=1e-5)
    constant = floors.evaluated(
        task, floors.fit(task, "mean", 0.0, x, targets)(x), targets | {"spread": np.ones_like(targets["value"])}
    )
    means = [targets["value"][of, i].mean() for i, of in enumerate(targets["known"].T)]
    np.testing.assert_allclose(constant["predicted"], np.tile(means, (80, 1)), rtol=1e-5)


def test_each_emotion_has_a_logistic_regression_of_its_own():
    task = number_tasks()["multilabel"]
    x, targets = numbers()
    targets["present"] = (task.present(targets)).astype(np.float32)
    found = floors.evaluated(task, floors.fit(task, "logistic", 0.1, x, targets)(x), targets)
    for i, of in enumerate(targets["known"].T):
        model = LogisticRegression(C=0.1).fit(x[of], targets["present"][of, i])
        np.testing.assert_allclose(found["predicted"][:, i], model.predict_proba(x)[:, 1], atol=1e-5)
    constant = floors.evaluated(task, floors.fit(task, "prevalence", 0.0, x, targets)(x), targets)
    shares = [targets["present"][of, i].mean() for i, of in enumerate(targets["known"].T)]
    np.testing.assert_allclose(constant["predicted"][0], shares, rtol=1e-5)


def test_features_are_standardised_by_training_and_what_is_lacking_is_its_mean():
    x = np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, np.nan], [5.0, 7.0]])
    found = floors.standardised(x, np.array([0, 1, 2]))
    np.testing.assert_allclose(found, [[-1, 0], [1, 0], [0, 0], [3, 0]])


def test_neighbours_are_those_of_the_dialogue_in_the_order_of_its_turns():
    dialogue, turn = np.array(["a", "b", "a", "a", "", ""]), np.array([7, 1, 2, 4, 1, 2])
    found = floors.neighbours(dialogue, turn, 2, future=True)
    assert found.tolist() == [[3, 2, -1, -1], [-1] * 4, [-1, -1, 3, 0], [2, -1, 0, -1], [-1] * 4, [-1] * 4]
    assert floors.neighbours(dialogue, turn, 2, future=False).tolist() == [row[:2] for row in found.tolist()]
    x = np.arange(1.0, 7)[:, None]
    assert floors.with_neighbours(x, found)[3].tolist() == [4, 3, 0, 1, 0]


def test_validation_chooses_the_strength_the_first_of_equals():
    task = Classification(SMALL_LABELS)
    scores = {s: [{"accuracy": v}, {"accuracy": v}] for s, v in ((0.1, 0.5), (1.0, 0.7), (10.0, 0.7))}
    assert floors.best_strength(task, "accuracy", scores) == (1.0, {0.1: 0.5, 1.0: 0.7, 10.0: 0.7})


def test_the_floors_of_a_task():
    found = floors.floors_of(Classification(SMALL_LABELS), ("text", "audio"), dialogues=True)
    kinds = [f"{kind}:{of}" for kind in ("logistic", "svm") for of in ("text", "audio", "joined", "dialogue")]
    assert [floor.name for floor in found] == ["majority", *kinds]
    alone = floors.floors_of(number_tasks()["regression"], ("text",), dialogues=False)
    assert [floor.name for floor in alone] == ["mean", "ridge:text"]


def test_without_scikit_learn_a_floor_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    x, label, _ = features()
    with pytest.raises(UserError, match=r"pip install -e '\.\[prep\]'"):
        floors.fit(Classification(SMALL_LABELS), "logistic", 0.1, x, {"label": label})
    floors.fit(Classification(SMALL_LABELS), "majority", 0.0, x, {"label": label})


# ---- what is asked for ----


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "small"
    write_corpus(folder, small_utterances(60), small_description())
    return folder


def asked(small, workdir, *flags):
    arguments = command.flags().parse_args(["--corpus", str(small), f"--workdir={workdir}", *flags])
    return command.asked_by(arguments)


FAST = ["--models=majority,logistic:text", "--grid="]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--protocols=official,leave_one"], "data.protocol=leave_one: must be one of official"),
        (["--models=lsgmer,lsgmr"], "--models: 'lsgmr' is none of ef, lf_dnn"),
        (["--models=ridge"], "no corpus has the floor 'ridge': its task or modalities are others"),
        (["--models=logistic:visual"], "no corpus has the floor 'logistic:visual'"),
        (["--models=nowhere/model.py"], r"model model \(nowhere/model.py\)"),
        (["--models=configs/lsgmer.py:big"], r"model lsgmer:big \(configs/lsgmer.py:big\): .*knows the arguments"),
        (
            ["--models=lsgmer", "--set", "optim.learning_rat=1"],
            "no config of lsgmer has the field 'optim.learning_rat'",
        ),
        (["--models=lsgmer", "--set", "train.epochs=many"], r"model lsgmer .*train\.epochs"),
        (["--set", "train.epochs"], "must be FIELD=VALUE"),
        (["--set", "data.protocol=loso"], "the benchmark sets it itself"),
        (["--set", "train.select=recall"], "must be one of weighted_f1"),
        (["--models=lsgmer", "--grid=model.width=32,64"], "--grid=model.width=32,64: model lsgmer: .* cannot differ"),
        (["--modalities=text,smell"], "has no 'smell'; it has text, audio"),
        (["--corpus", "/nowhere"], "/nowhere does not exist"),
        (["--seeds=0"], "--seeds=0: must be at least 1"),
        (["--budget=0"], "--budget=0: must be above 0"),
        (["--models= ,"], "--models: names none"),
        (["--models=configs/lsgmer.py:a b,configs/lsgmer.py:a-b"], r"model lsgmer:a b .*knows the arguments"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(small, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        rows.rows_of(asked(small, tmp_path / "w", *flags))
    assert not (tmp_path / "w").exists()


def test_two_corpora_of_one_name_are_refused(small, tmp_path):
    with pytest.raises(UserError, match=r"is called 'small', as .* is"):
        rows.rows_of(asked(small, tmp_path / "w", "--corpus", str(small), *FAST))


def test_two_models_of_one_name_are_refused(small, tmp_path):
    (tmp_path / "lsgmer.py").write_text("from configs.lsgmer import get_config\n")
    flags = [f"--models={tmp_path}/lsgmer.py,configs/lsgmer.py"]
    with pytest.raises(UserError, match="two rows would share the folder"):
        rows.rows_of(asked(small, tmp_path / "w", *flags))


def test_a_workdir_of_other_settings_or_of_something_else_is_refused(small, tmp_path):
    first = asked(small, tmp_path / "w", *FAST)
    rows.keep_plan(first, rows.rows_of(first))
    more = asked(small, tmp_path / "w", "--models=majority,svm", "--grid=", "--protocols=official,kfold_dialogue:3")
    rows.keep_plan(more, rows.rows_of(more))
    other = asked(small, tmp_path / "w", *FAST, "--seeds=3", "--set", "train.epochs=3")
    with pytest.raises(UserError, match=r"seeds: 5 -> 3\n  changes: \[\] -> \['train.epochs=3'\]"):
        rows.keep_plan(other, rows.rows_of(other))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").touch()
    mine = asked(small, tmp_path / "full", *FAST)
    with pytest.raises(UserError, match="is not empty and holds no benchmark"):
        rows.keep_plan(mine, rows.rows_of(mine))


def test_the_flags_of_a_row(small, tmp_path):
    flags = ["--models=lsgmer,deepmsi_mer,logistic", "--set", "train.epochs=3", "--set", "loss.apc=0.5"]
    found = {row.name: set(row.flags) for row in rows.rows_of(asked(small, tmp_path / "w", *flags))}
    everywhere = {f"--config.data.path={small}", "--config.data.protocol=official", "--config.train.select=weighted_f1"}
    assert all(everywhere <= of for of in found.values())
    assert {name for name, of in found.items() if "--config.loss.apc=0.5" in of} == {"lsgmer"}  # who has that field
    assert {name for name, of in found.items() if "--config.data.context=both" in of} == {
        "lsgmer", "deepmsi_mer", "logistic:dialogue",
    }  # fmt: skip
    assert "--config.data.modalities=text" in found["logistic:text"]
    assert "--config.data.modalities=text,audio" in found["logistic:joined"]


def test_a_corpus_without_dialogues_is_heard_by_the_utterance(tmp_path):
    import dataclasses

    alone = [dataclasses.replace(u, dialogue=u.id, turn=0) for u in small_utterances(60)]
    write_corpus(tmp_path / "alone", alone, small_description())
    found = rows.rows_of(asked(tmp_path / "alone", tmp_path / "w", "--models=lsgmer,floors"))
    assert "--config.data.context=none" in found[0].flags
    assert not [row for row in found if "dialogue" in row.name]


def test_help_takes_no_jax():
    script = (
        "import sys; from mer_jax.benchmark import command; command.flags().format_help(); "
        "print({'jax', 'flax', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- stages, and what they will take ----


def row_of(small, workdir, *flags):
    one = asked(small, workdir, *flags)
    return one, rows.rows_of(one)


def test_the_lines_of_the_stages(small, tmp_path, monkeypatch):
    one, [row] = row_of(small, tmp_path / "w", "--models=lsgmer", "--grid=model.dropout=0.1,0.2", "--seeds=3")
    begun = []

    def run_child(line, output, env):
        begun.append(line)
        stage = next(part for part in line if part.startswith("--workdir=")).rpartition("/")[2]
        (row.folder / stage).mkdir()
        (row.folder / stage / "metrics.json").touch()
        return 0

    monkeypatch.setattr(stages, "run_child", run_child)
    monkeypatch.setattr(stages, "_chosen", lambda folder: {"values": {"model.dropout": 0.1}})
    stages.run_row(row, one, [row])
    tune, final = begun
    assert {"--config.replicas.grid=model.dropout=0.1,0.2", "--config.train.score_test=False"} <= set(tune)
    assert "--config.replicas.seeds=1" in tune
    assert {"--config.model.dropout=0.1", "--config.replicas.seeds=3"} <= set(final)
    assert not [part for part in final if "score_test" in part or "grid" in part]
    assert tune[:2] == ["-m", "mer_jax.main"]
    stages.run_row(row, one, [row])
    assert len(begun) == 2  # what has finished is not repeated


def test_where_the_test_part_chooses_nothing_is_tuned(small, tmp_path, monkeypatch):
    flags = ["--models=lsgmer,logistic:text", "--protocols=published,official,kfold_dialogue:3"]
    one, found = row_of(small, tmp_path / "w", *flags)
    published, floor, official = found[0], found[1], found[2]
    assert not stages.needs_tuning(published, one)
    assert stages.choose_point(published, one, found) == {"values": {}, "by": "nobody: the defaults"}
    assert stages.choose_point(floor, one, found)["values"] == {"floor.strength": 1e-2}  # of the middle
    monkeypatch.setattr(stages, "finished", lambda row, stage: row is official and stage == "tune")
    monkeypatch.setattr(stages, "_chosen", lambda folder: {"values": {"model.dropout": 0.5}})
    point = stages.choose_point(published, one, found)
    assert point == {"values": {"model.dropout": 0.5}, "by": "validation of official"}


def test_a_child_that_fails_is_told_by_its_last_words(tmp_path):
    log = tmp_path / "log"
    log.write_text("reading\nerror: first\nmore\n\nerror: the loss is NaN\n  in step 3\n")
    assert stages.last_words(log, 2) == "the loss is NaN\nin step 3"
    log.write_text("Traceback\n  File\nValueError: no\n")
    assert stages.last_words(log, 1) == "ValueError: no"
    assert stages.last_words(log, -9).startswith("ended by SIGKILL, as the system does where memory is short; the last")
    log.write_text("")
    assert stages.last_words(log, 3) == "ended with exit code 3 and said nothing"


def test_a_child_ends_with_who_began_it(tmp_path):
    """Also after a kill -9: then it gets a SIGTERM, on which a run saves."""
    if sys.platform != "linux":
        pytest.skip("Linux alone tells a child")
    child = "import time; print(1, flush=True); time.sleep(60)"
    script = (
        f"import os\nfrom mer_jax.benchmark import stages\nstages.run_child(['-c', {child!r}], None, dict(os.environ))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "1\n"
    began = time.monotonic()
    parent.kill()
    parent.wait()
    assert parent.stdout.read() == ""  # the child has closed it, by its end
    assert time.monotonic() - began < 30
    parent.stdout.close()


def test_a_row_waits_for_who_is_still_at_it(tmp_path, capsys):
    script = (
        "import sys, time\nfrom mer_jax.runtime import folder_lock\n"
        "with folder_lock.held(sys.argv[1], 'run'):\n    print(1, flush=True)\n    time.sleep(1.5)"
    )
    folder = tmp_path / "final"
    folder.mkdir()
    line = [sys.executable, "-c", script, str(folder)]
    other = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    other.stdout.readline()
    began = time.monotonic()
    stages.wait_for_others(folder)
    assert time.monotonic() - began > 0.9
    assert f"in use by process {other.pid}" in capsys.readouterr().out.replace("\n", " ")
    other.communicate()


def test_what_a_row_will_take(small, tmp_path):
    flags = [
        "--models=lsgmer,deepmsi_mer,majority",
        "--grid=model.dropout=0.1,0.2",
        "--seeds=3",
        "--set",
        "train.batch_size=8",
    ]
    one, found = row_of(small, tmp_path / "w", *flags, "--set", "train.epochs=4")
    # 30 utterances train, in 4 batches; 4 epochs; 2 points once, then 3 seeds.
    assert budget.work_of(found[0], one) == budget.Work(2, (2 + 3) * 4 * 4)
    assert budget.work_of(found[2], one) == budget.Work(1, 0)
    guess = budget.estimates(found, one)
    assert guess[found[0].folder] == pytest.approx(2 * budget.START_SECONDS + 80 * budget.UPDATE_SECONDS)
    (found[0].folder / "final").mkdir(parents=True)
    (found[0].folder / "final" / "metrics.json").touch()
    (found[0].folder / stages.SECONDS).write_text(json.dumps({"tune": 60.0, "final": 60.0}))
    known = budget.estimates(found, one)
    assert known.keys() == {found[1].folder, found[2].folder}
    assert known[found[1].folder] == pytest.approx(120)  # as much work as that


def test_a_budget_leaves_out_what_does_not_fit_and_names_it(small, tmp_path, capsys):
    flags = ["--models=lsgmer_utterance,majority", "--grid=", "--set", "train.batch_size=8", "--budget=0.4"]
    one, found = row_of(small, tmp_path / "w", *flags)
    plan = command.Plan(one, found, 0.4 * 60, command.Stopwatch())
    plan.print()
    said = capsys.readouterr().out
    assert (
        "small, official: lsgmer_utterance: left out, about 25 s" in said
    )  # 20 s, and 5 seeds of 12 epochs of 4 updates
    assert "small, official: majority: about 15 s" in said
    plan.leave_out(found[0], 29.0)
    table = results.tables_of(one, found, plan.left_out)["tables"][0]
    assert table["rows"][0]["why"] == "does not fit into --budget: it would take about 29 s"
    assert table["rows"][1]["why"] == "not run yet"
    assert "| lsgmer_utterance | left out: does not fit into --budget: it would take about 29 s |" in tables.markdown(
        results.tables_of(one, found, plan.left_out)
    )


# ---- tables ----


def told_row(model, mean, **changes):
    row = {
        "model": model, "config": "configs/x.py", "trained": True, "status": "finished",
        "seeds": {"0": mean, "1": mean}, "scores": {"weighted_f1": {"mean": mean, "sd": 0.01}, "uar": {"mean": mean, "sd": 0.02}},
        "interval": {"low": mean - 0.05, "high": mean + 0.05}, "valid": {"mean": 0.7, "sd": 0.1},
        "parameters": 1234567, "seconds": {"tune": 30.0, "final": 61.0},
        "heard": {"modalities": ["text", "audio"], "hears": "past", "in_words": ""},
        "point": {"values": {"optim.learning_rate": 5e-4}, "by": "validation"},
        "validation": {"points": 4, "seeds": 1, "evaluations": 1200}, "test_looks": 3, "left_out": [],
        "rank": {"first": 0.75, "median": 1.0, "low": 1.0, "high": 2.0},
    }  # fmt: skip
    return row | changes


def told_table(*told):
    metric = {"short": "WF1", "direction": "max", "unit": "percent"}
    return {
        "version": "0", "asked": {"seeds": 2, "tune_seeds": 1, "grid": "a=1,2", "changes": []}, "tables": [{
            "corpus": "my_corpus", "protocol": "published", "main": "weighted_f1", "target": "classes",
            "metrics": {"uar": metric | {"title": "UAR"}, "weighted_f1": metric | {"title": "weighted F1"}},
            "description": "test is each", "leaky": "the test part chooses the epoch", "leakage": ["train and test share: all"],
            "selects_on": "test", "folds": 10, "utterances": 1000, "dialogues": 12, "rows": list(told),
        }],
    }  # fmt: skip


@pytest.fixture
def told():
    behind = {"difference": -0.0312, "low": -0.05, "high": -0.0001, "p": 0.01, "p_holm": 0.0204}
    failed = {
        "model": "b_ad",
        "config": "",
        "trained": True,
        "status": "failed",
        "stage": "tune",
        "why": "50 % of <all>\n| NaN",
    }
    return told_table(told_row("good", 0.65), told_row("worse_one", 0.62, difference=behind), failed)


def test_markdown_has_every_figure(told):
    text = tables.markdown(told)
    head, _, good, worse, bad = [line for line in text.splitlines() if line.startswith("|")]
    cells = dict(zip(*([cell.strip() for cell in line.split("|")[1:-1]] for line in (head, worse)), strict=True))
    assert list(cells)[:4] == ["model", "weighted F1", "95 %", "UAR"]  # the main score leads
    assert cells["weighted F1"] == "62.0 ± 1.0"
    assert cells["95 %"] == "57.0–67.0"
    assert cells["validation WF1"] == "70.0"
    assert cells["behind the best"] == "−3.1 (−5.0 to 0.0)"
    assert cells["p (Holm)"] == "0.020"
    assert (cells["first"], cells["rank"]) == ("75 %", "1 (1–2)")
    assert cells["hears"] == "text+audio; the past"
    assert cells["point"] == "optim.learning_rate=0.0005, by validation"
    assert cells["chosen among"] == "4 × 1 seed, 1,200"
    assert cells["parameters"] == "1,234,567"
    assert cells["time"] == "1 min 31 s"
    assert cells["test part"] == "looked at 3 times, and in every epoch"
    assert good.startswith("| good | 65.0 ± 1.0 |")
    assert bad.startswith(r"| b_ad | failed in tune: 50 % of &lt;all> \| NaN |  |")
    assert len(re.split(r"(?<!\\)\|", bad)) == len(head.split("|"))
    assert "- Leaky: the test part chooses the epoch." in text
    assert "- 12 dialogues are few" in text


def test_latex_is_a_table_with_as_many_cells_in_every_row(told):
    text = tables.latex(told)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    spec = re.search(r"\\begin\{tabular\}\{(l(r+))\}", text)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{my\_corpus, published}"):
        assert text.count(rule) == 1
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [len(re.split(r"(?<!\\)&", line)) for line in body] == [len(spec[1])] * 3 + [2]
    assert rf"b\_ad & \multicolumn{{{len(spec[2])}}}{{l}}{{failed in tune: 50 \% of $<$all$>$ $|$ NaN}} \\" in text
    assert r"62.0 $\pm$ 1.0 & 57.0--67.0" in text
    assert text.isascii()
    assert not re.search(r"(?<!\\)[%#_]", text.split("\n", 1)[1].replace(r"\setlength{\tabcolsep}", ""))
    assert text.count("{") == text.count("}")
    assert text.count("$") % 2 == 0


def test_what_latex_would_obey_is_printed():
    assert tables.escape_latex(r"a\b{c}$5&#_%~^") == (
        r"a\textbackslash{}b\{c\}\$5\&\#\_\%\textasciitilde{}\textasciicircum{}"
    )
    assert tables.escape_latex("é ☃") == "é ?"


def test_the_page_stands_alone(told):
    text = page.page(told)
    tree = ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert not re.search(r"(?:src|href)=\"(?!#)", text)
    assert "<script" not in text
    assert "prefers-color-scheme: dark" in text
    assert len(tree.findall(".//tbody/tr")) == 3
    heads = len(tree.findall(".//thead/tr/th"))
    assert [len(row) for row in tree.findall(".//tbody/tr")] == [heads, heads, 2]
    assert "failed in tune: 50 % of &lt;all&gt; | NaN" in text
    assert [figure.find("figcaption").text for figure in tree.iter("figure")] == [
        "weighted F1, percent",
        "Rank, 1 is the best",
    ]
    assert len(tree.findall(".//p[@class='alarm']")) == 1


@pytest.mark.slow
@pytest.mark.skipif(browser.BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(told, tmp_path, scheme):
    told["tables"][0]["rows"][2]["why"] = "a long reason " * 30
    (tmp_path / "page.html").write_text(page.page(told))
    browser.looked_at(tmp_path, tmp_path / "page.html", scheme)


def test_a_name_cannot_break_out_of_the_page():
    text = page.page(told_table(told_row("</td><script>x</script>", 0.5)))
    assert "<script" not in text
    ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def test_nothing_has_finished():
    found = told_table({"model": "a", "config": "", "trained": True, "status": "left out", "why": "not run yet"})
    for field in ("folds", "utterances", "dialogues", "leaky", "leakage", "description"):
        del found["tables"][0][field]
    for text in (tables.markdown(found), tables.latex(found), page.page(found)):
        assert "left out: not run yet" in text


def test_a_path_names_a_model(tmp_path):
    assert models.named("my/model.py:small") == models.Model("model:small", "my/model.py:small")
    assert models.named("lsgmer") == models.Model("lsgmer", "configs/baselines.py:lsgmer")
    assert models.named("majority") is None


# ---- floors as a process, and rows compared ----


def of_floors(folder):
    flags = ["--models=majority,logistic:text,logistic:dialogue", "--protocols=kfold_dialogue:3"]
    return row_of(folder / "small", folder / "w", *flags)


@pytest.fixture(scope="module")
def floored():
    """A finished benchmark of floors alone: its folder, what is asked, its rows, and what benchmark.json holds."""

    def make(folder):
        write_corpus(folder / "small", small_utterances(60), small_description())
        one, found = of_floors(folder)
        for row in found:
            stages.run_row(row, one, found)

    folder = store.made_once("benchmark-floors", make)
    one, found = of_floors(folder)
    return folder, found, results.tables_of(one, found, {})


def test_floors_are_runs_like_any_other(floored):
    folder, found, told = floored
    table, by_name = told["tables"][0], {row.name: row for row in found}
    assert not any(stages.failure(row) for row in found), [stages.failure(row) for row in found]
    ranked = {row["model"]: row for row in table["rows"]}
    assert list(ranked)[-1] == "majority"
    run, corpus = read_run(by_name["majority"].folder / "final"), Corpus(folder / "small")
    assert len(run.predictions.ids) == len(corpus) == table["utterances"]
    text = ranked["logistic:text"]
    assert text["point"]["values"]["floor.strength"] in floors.STRENGTHS["logistic"]
    assert text["validation"] == {"points": 6, "seeds": 1, "evaluations": 18}
    assert text["heard"]["modalities"] == ["text"]
    assert ranked["majority"]["heard"]["modalities"] == []
    assert ranked["logistic:dialogue"]["heard"]["hears"] == "both"
    about = json.loads((by_name["logistic:dialogue"].folder / "final" / "floor.json").read_text())
    assert about["width"] == 5 * (6 + 4)
    assert max(about["valid"].values()) == pytest.approx(ranked["logistic:dialogue"]["valid"]["mean"])


def test_rows_are_compared_as_mer_jax_compare_does(floored):
    from mer_jax import compare

    _, found, told = floored
    best, *others = told["tables"][0]["rows"]
    folders = {row.name: row.folder / "final" for row in found}
    assert "difference" not in best
    corrected = holm([row["difference"]["p"] for row in others])
    for row, p in zip(others, corrected, strict=True):
        pair = compare.compare(read_run(folders[best["model"]]), read_run(folders[row["model"]]))["scores"][
            "weighted_f1"
        ]
        assert row["difference"] == {name: pair[name] for name in ("difference", "low", "high", "p")} | {"p_holm": p}
    assert sum(row["rank"]["first"] for row in (best, *others)) == pytest.approx(1)


def test_a_row_that_tested_others_is_not_compared(floored, tmp_path):
    shutil.copytree(floored[0], tmp_path / "copy")
    one, found = of_floors(tmp_path / "copy")
    best = next(row for row in found if row.name == floored[2]["tables"][0]["rows"][0]["model"])
    path = best.folder / "final" / "metrics.json"
    path.write_text(path.read_text().replace('"split_sha256": "', '"split_sha256": "0'))
    alone, *others = results.table_of(one, found, {})["rows"][::-1]
    assert alone["not_comparable"].startswith("not the same split")
    assert "difference" not in alone
    assert "rank" not in alone
    assert others
