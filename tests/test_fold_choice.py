"""replicas.choose=fold: every fold takes the point that its own validation part prefers."""

import json

import numpy as np
import pytest
from conftest import corpus_of
from experiments import of_folds_and_seeds as experiment
from finished import LABELS, dump, write_run
from test_report import text_of, written

from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import read_run
from mer_jax.evaluation.score_table import choices_in_words, point_name, replicas_of_choice
from mer_jax.evaluation.summary import summarise_points
from mer_jax.experiment import run
from mer_jax.metrics.classification import METRICS
from mer_jax.metrics.significance import bootstrap
from mer_jax.predict import loading
from mer_jax.tasks.classification import Classification
from mer_jax.training.prepare import TrainingData
from mer_jax.training.replicas import Replica

# Validation macro F1 and weighted F1 of [point, fold, seed].
MACRO = np.array([[[0.5, 0.7], [0.3, 0.3]], [[0.6, 0.4], [0.9, 0.1]], [[0.1, 0.1], [0.4, 0.7]]])
WEIGHTED = 1 - MACRO


def summarised(choose, select="macro_f1", diverged=()):
    replicas, results = [], []
    for point, fold, seed in np.ndindex(MACRO.shape):
        values = {"model.dropout": point / 10}
        replicas.append(Replica(f"{point} {fold} {seed}", fold, "ab"[fold], seed, point, values))
        score = {"macro_f1": MACRO[point, fold, seed], "weighted_f1": WEIGHTED[point, fold, seed]}
        results.append(
            {"status": "diverged"}
            if (point, fold, seed) in diverged
            else {
                "status": "finished",
                "valid": dict.fromkeys(METRICS, 0.0) | score,
                "calibration": {"scaling": {"reason": ""}},
            }
        )
    corpus, nothing = Corpus(corpus_of(120)), TrainingData.__new__(TrainingData)
    task = Classification(LABELS)
    return summarise_points(task, corpus, nothing, replicas, results, {}, select, choose), replicas


@pytest.mark.parametrize(
    ("select", "diverged", "wanted"),
    [
        ("macro_f1", (), {"a": 0, "b": 2}),  # fold b: 0.3, 0.5 and 0.55 in the mean over its seeds
        ("weighted_f1", (), {"a": 2, "b": 0}),
        ("macro_f1", [(2, 1, 1)], {"a": 0, "b": 1}),  # of point 2 a seed is missing
        ("macro_f1", [(p, 1, 0) for p in range(3)], {"a": 0, "b": 2}),  # of every point one: the best of what is left
    ],
)
def test_every_fold_takes_its_own_best_point(select, diverged, wanted):
    points, replicas = summarised("fold", select, diverged)
    assert [point["chosen"] for point in points] == [False, False, False, True]
    chosen = points[-1]
    assert chosen["by_fold"] == wanted
    scores = MACRO if select == "macro_f1" else WEIGHTED
    taken = [
        scores[p, "ab".index(f), s] for f, p in wanted.items() for s in (0, 1) if (p, "ab".index(f), s) not in diverged
    ]
    assert chosen["valid"][select]["mean"] == pytest.approx(np.mean(taken))
    assert (chosen["replicas"], chosen["diverged"]) == (len(taken), 4 - len(taken))
    members = replicas_of_choice(points, [{"point": r.point, "fold": r.fold_name} for r in replicas])
    assert {(replicas[i].fold_name, replicas[i].point) for i in members} == set(wanted.items())
    assert len(members) == 4
    a, b = (f"fold {fold}: model.dropout={number / 10:g}" for fold, number in wanted.items())
    assert choices_in_words(points, chosen) == f"{a}; {b}"
    assert point_name(chosen) == "every fold's own point"


def test_one_point_for_all_folds_is_chosen_by_their_mean():
    points, replicas = summarised("point")
    assert [point["chosen"] for point in points] == [False, True, False], "0.45, 0.5 and 0.325"
    assert choices_in_words(points, points[1]) == point_name(points[1]) == "model.dropout=0.1"
    members = replicas_of_choice(points, [{"point": r.point, "fold": r.fold_name} for r in replicas])
    assert [replicas[i].point for i in members] == [1] * 4


@pytest.fixture
def by_fold(tmp_path):
    """A finished run of two points, whose folds chose different ones."""
    folder = write_run(tmp_path / "w", seeds=2, folds=2, points=2)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["points"][1]["chosen"] = False
    own = {"values": {}, "chosen": True, "by_fold": {"1": 1, "2": 0}}
    metrics["points"].append(metrics["points"][0] | own)
    metrics["points"][2].pop("ensemble", None)
    dump(folder, "metrics", metrics)
    return folder, metrics


def test_a_report_says_which_fold_chose_what(by_fold, tmp_path):
    folder, _ = by_fold
    found = read_run(folder)
    assert {(r["fold"], r["point"]) for r in found.replicas.values()} == {("1", 1), ("2", 0)}
    assert found.complete_seeds == [0, 1], "each tested every utterance"
    text = text_of(written(tmp_path, folder))
    assert "fold 1: optim.learning_rate=0.0001; fold 2: optim.learning_rate=0.001" in text
    assert "2 folds × 2 seeds × 2 swept points" in text
    assert "every fold's own point chosen" in text


@pytest.mark.parametrize("choice", [{"1": 1, "2": 2}, {"1": 1, "3": 0}])
def test_a_choice_that_cannot_be_is_told(by_fold, choice):
    folder, metrics = by_fold
    metrics["points"][2]["by_fold"] = choice
    dump(folder, "metrics", metrics)
    with pytest.raises(UserError, match=r"field 'points.2.by_fold.[23]'"):
        read_run(folder)


@pytest.mark.slow
def test_the_test_parts_of_what_the_folds_chose_are_pooled(tmp_path, capsys):
    config = experiment(seeds=1, grid="optim.learning_rate=0.02,0.2", choose="fold")
    corpus, workdir = Corpus(corpus_of(240)), tmp_path / "w"
    result = run(config, corpus, workdir)
    chosen = result["points"][-1]
    taken = []
    for fold, number in chosen["by_fold"].items():
        means = [
            np.mean([r["valid"]["weighted_f1"] for r in result["replicas"] if (r["fold"], r["point"]) == (fold, p)])
            for p in (0, 1)
        ]
        assert number == int(np.argmax(means))
        taken += [r for r in result["replicas"] if (r["fold"], r["point"]) == (fold, number)]
    assert len(taken) == 3
    pooled = np.sum([r["test"]["confusion"] for r in taken], axis=0)
    np.testing.assert_array_equal(chosen["pooled"]["confusion"], pooled)
    assert pooled.sum() == 240, "every utterance is tested once"
    assert result["test"] == chosen["test"]
    found = read_run(workdir)
    interval = bootstrap(found.counts(), scores=found.task.metric_values)
    assert chosen["interval"]["weighted_f1"] == pytest.approx(interval["weighted_f1"])
    output = " ".join(capsys.readouterr().out.split())
    assert f"chosen by validation: {choices_in_words(result['points'], chosen)}" in output
    assert "all test parts together at every fold’s own point" in output
    model = loading.load(workdir)
    assert sorted(model.replicas[i] for i in model.chosen_replicas()) == sorted(r["name"] for r in taken)
