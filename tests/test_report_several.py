"""What the page of a run of several targets says of each."""

import json
import shutil

import numpy as np
import pytest
from finished_numbers import write_numbers
from test_report import edit, lines_of, text_of, written
from test_report_numbers import section

from mer_jax.evaluation.finished_run import read_run
from mer_jax.evaluation.part_of_run import parts_of


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Of two folds and two seeds."""
    return write_numbers(tmp_path_factory.mktemp("runs") / "several", "several", folds=2)


@pytest.fixture
def run(tmp_path, several):
    """A copy that may be changed."""
    return shutil.copytree(several, tmp_path / "run")


def test_each_of_several_targets_is_a_run_of_its_own(several):
    run = read_run(several)
    lines = lines_of(several)
    fields = {"classes": "label", "affect": "affect_targets", "emotions": "emotions_targets"}
    for i, part in enumerate(parts_of(run)):
        having = [line for line in lines if fields[part.task.asked] in line]
        assert 0 < len(having) < len(lines)
        p = part.predictions
        assert [(p.names[r], p.ids[u]) for r, u in zip(p.replica, p.utterance, strict=True)] == [
            (line["replica"], line["id"]) for line in having
        ]
        start = f"{part.task.asked}_" * (i > 0)
        assert {start + name for name in part.chosen["test"]} <= set(run.chosen["test"])
        for name, value in part.task.metric_values(part.counts().sum(1)).items():
            low, high = (part.chosen["interval"][name][end] for end in ("low", "high"))
            assert low - 1e-6 <= np.mean(value) <= high + 1e-6, "scores and intervals are of the same utterances"
        assert ("explain" in part.extra) == (i == 0)
        assert set(part.extra["map"]["ids"]) <= set(p.ids)


def test_a_run_may_be_led_by_the_second_target(tmp_path, run):
    edit(run / "metrics.json", lambda metrics: metrics["config"]["train"].update(select="affect_mae"))
    tree = written(tmp_path, run)
    titles = [text_of(next(iter(e))) for e in tree.iter("section")]
    assert [title for title in titles if "Groups" in title] == ["classes: Groups", "emotions: Groups", "Groups"]
    assert "The affect MAE by group" in text_of(section(tree, "Groups"))
    assert [part.task.main_metric for part in parts_of(read_run(run))] == ["weighted_f1", "mae", "macro_f1"]


def test_a_group_without_the_target_is_not_scored(tmp_path, run):
    lines = lines_of(run)
    for line in lines:
        if "label" not in line:
            line["speaker"] = "Silent"
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = written(tmp_path, run)
    assert "Silent" not in text_of(section(tree, "Groups"))
    assert "Silent" in text_of(section(tree, "affect: Groups"))


def test_a_targets_name_is_put_into_the_page_as_words(tmp_path, run):
    for name in ("metrics.json", "predictions.jsonl"):
        (run / name).write_text((run / name).read_text().replace("affect", "<i>affect</i>"))
    tree = written(tmp_path, run)
    assert text_of(next(iter(section(tree, "<i>affect</i>: Numbers")))) == "<i>affect</i>: Numbers"
    assert not list(tree.iter("i"))
