"""train.select=macro_f1: the score by which a run chooses is the one that tables, curves and comparisons lead with."""

import json

import pytest
from conftest import corpus_of
from experiments import of_folds_and_seeds as experiment
from finished import LABELS, dump, write_run
from test_report import text_of, tree_of, written

from mer_jax import compare
from mer_jax.config import validate
from mer_jax.data.corpus import Corpus
from mer_jax.evaluation import score_table
from mer_jax.evaluation.finished_run import read_run
from mer_jax.experiment import run
from mer_jax.tasks.classification import Classification


def selecting(folder, select, **how):
    write_run(folder, **how)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["config"]["train"]["select"] = select
    metrics["protocol"]["selection"] = f"best validation {select}"
    dump(folder, "metrics", metrics)
    return folder


def test_columns_and_cells_are_in_one_order():
    task, point = Classification(LABELS), {"valid": {}, "test": {}}
    for i, name in enumerate(task.metrics):
        point["valid"][name] = {"mean": 0.1 + i / 100, "sd": None}
        point["test"][name] = {"mean": 0.5 + i / 100, "sd": None}
    assert score_table.columns(task, "test")[:3] == ["weighted F1", "95 %", "macro F1"]
    macro = task.led_by("macro_f1")
    assert task.main_metric == "weighted_f1", "a task is not changed"
    heads = score_table.columns(macro, "test")
    assert heads == ["macro F1", "95 %", "weighted F1", "accuracy", "UAR", "validation macro F1"]
    assert score_table.cells(macro, point, "test") == ["51.0", "-", "50.0", "52.0", "53.0", "11.0"]
    assert score_table.columns(macro, "valid")[0] == "macro F1"
    assert score_table.cells(macro, point, "valid") == ["11.0", "10.0", "12.0", "13.0"]
    ensemble = {name: {"value": 0.3 + i / 100, "low": 0.2, "high": 0.4} for i, name in enumerate(task.metrics)}
    assert score_table.ensemble_cells(macro, ensemble)[:3] == ["31.0", "20.0–40.0", "30.0"]
    assert task.led_by("none of these").main_metric == "weighted_f1"


def test_a_report_leads_with_it(tmp_path):
    a, b = selecting(tmp_path / "a", "macro_f1", points=2), write_run(tmp_path / "b", seeds=1)
    tree = written(tmp_path, a)
    heads = [cell.text for table in tree.iter("table") if table.find("caption").text.startswith("Test scores")
             for cell in table.find("thead").iter("th")]  # fmt: skip
    assert [head for head in heads if head][:2] == ["macro F1", "95 %"]
    text = text_of(tree)
    assert "Validation macro F1" in text
    assert "best validation macro F1" in text
    assert "The test macro F1 of the other is" in text
    run = read_run(a)
    both = text_of(written(tmp_path, b, a))
    mean = run.task.metrics["weighted_f1"].format_mean(run.chosen["test"]["weighted_f1"])
    row = both[both.index("Test scores, percent: mean") :]
    assert row.index(mean) < row.index(run.task.metrics["macro_f1"].format_mean(run.chosen["test"]["macro_f1"]))
    assert tree_of(tmp_path / "report.html") is not None


def test_a_comparison_concludes_by_it(tmp_path):
    folders = [selecting(tmp_path / name, "macro_f1", skill=skill) for name, skill in (("a", 0.0), ("b", 3.0))]
    runs = [read_run(folder) for folder in folders]
    assert "points of macro F1" in compare.compare(*runs, samples=200, seed=0)["conclusion"]


@pytest.mark.slow
def test_it_chooses_epochs_and_points(tmp_path, capsys):
    config = experiment(folds=(0,), seeds=1, grid="optim.learning_rate=0.02,0.2")
    config.train.select, config.train.inspect = "macro_f1", False
    result = run(validate(config), Corpus(corpus_of(120)), tmp_path / "w")
    history = [json.loads(line) for line in (tmp_path / "w" / "history.jsonl").read_text().splitlines()]
    for replica in result["replicas"]:
        mine = [row for row in history if row["replica"] == replica["name"]]
        best = max(mine, key=lambda row: row["valid"]["macro_f1"])
        assert replica["step"] == best["step"]
    means = [point["valid"]["macro_f1"]["mean"] for point in result["points"]]
    assert [point["chosen"] for point in result["points"]].index(True) == means.index(max(means))
    output = " ".join(capsys.readouterr().out.split())
    assert "test macro F1" in output
    assert "best validation macro F1" in (tmp_path / "w" / "report.html").read_text()
