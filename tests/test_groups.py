"""Scores by speaker, session and the corpus's own groups: in predictions.jsonl, metrics.json, on the console and on the
page."""

import dataclasses
import json

import numpy as np
import pytest
from finished import LABELS, write_run
from scipy import stats
from sklearn.metrics import f1_score
from test_report import edit, lines_of, text_of, written
from test_targets import AFFECT, asked_description, asked_utterances

from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.evaluation import group_scores
from mer_jax.evaluation.finished_run import read_run
from mer_jax.evaluation.group_scores import SMALL, gaps_in_words, groupings, score_groups
from mer_jax.evaluation.predictions import format_predictions
from mer_jax.metrics import significance
from mer_jax.tasks.classification import Classification
from mer_jax.tasks.regression import Regression

TASK = Classification(LABELS)


def drawn(rows=400, dialogues=20, seeds=2):
    """Labels, predictions [seeds, rows] and dialogues."""
    rng = np.random.default_rng(0)
    label = rng.integers(len(LABELS), size=rows).astype(np.int32)
    predicted = np.where(rng.random((seeds, rows)) < 0.6, label, rng.integers(len(LABELS), size=(seeds, rows)))
    return label, predicted, np.array([f"d{i % dialogues:02d}" for i in range(rows)])


def scored(of, label, predicted, dialogues):
    return score_groups(TASK, {"speaker": np.array(of)}, dialogues, {"label": label}, list(predicted))["speaker"]


def weighted_f1(label, predicted, rows):
    return np.mean([f1_score(label[rows], p[rows], average="weighted") for p in predicted])


def test_the_gap_is_a_slow_loop_that_resamples_each_sort_of_dialogue():
    """Dialogues 0 to 6 are a's alone, 7 to 11 have both, the rest is b's alone."""
    label, predicted, dialogues = drawn(rows=300)
    number = np.arange(300) % 20
    a = (number < 7) | ((number < 12) & (np.arange(300) % 3 == 0))
    names = np.unique(dialogues)
    counts = np.zeros((2, 2, 20, 5, 5))
    for g, rows in enumerate((a, ~a)):
        for s, p in enumerate(predicted):
            np.add.at(counts[g, s], (np.searchsorted(names, dialogues[rows]), label[rows], p[rows]), 1)
    found = significance.bootstrap_gap(counts[0], counts[1], samples=50, seed=4)["weighted_f1"]
    rng, times = np.random.default_rng(4), np.zeros((50, 20), int)
    for some in (range(7), range(12, 20), range(7, 12)):
        times[:, list(some)] = rng.multinomial(len(some), np.full(len(some), 1 / len(some)), size=50)
    differences = []
    for row in times:
        taken = np.concatenate([np.flatnonzero(number == d).repeat(n) for d, n in enumerate(row)])
        each = [weighted_f1(label, predicted, taken[of[taken]]) for of in (a, ~a)]
        differences.append(each[0] - each[1])
    assert found == pytest.approx(dict(zip(("low", "high"), np.percentile(differences, (2.5, 97.5)), strict=True)))


def test_shared_dialogues_make_the_gap_surer():
    """Hard dialogues are hard for both groups: within them, the groups are told apart better than their own intervals."""
    rng, hard = np.random.default_rng(1), np.linspace(0, 1, 40)
    counts = np.zeros((2, 1, 40, 2, 2))
    for g, more in enumerate((0.0, 0.05)):
        right = rng.binomial(50, np.clip(0.2 + 0.6 * hard + more, 0, 1))
        counts[g, 0, :, 0, 0], counts[g, 0, :, 0, 1] = right, 50 - right
    wide = [significance.bootstrap(one)["accuracy"] for one in counts]
    gap = significance.bootstrap_gap(counts[1], counts[0])["accuracy"]
    assert wide[1]["low"] < wide[0]["high"]
    assert gap["low"] > 0
    apart = np.zeros((2, 1, 80, 2, 2))
    apart[0, :, :40], apart[1, :, 40:] = counts
    assert significance.bootstrap_gap(apart[1], apart[0])["accuracy"]["low"] < 0
    one = counts[:, :, :1]
    assert significance.bootstrap_gap(one[0], one[1]) == {}


def test_every_group_is_scored_as_if_it_were_all():
    label, predicted, dialogues = drawn()
    of = np.where(np.arange(400) % 20 < 12, "Anna", "Ben")
    found = scored(of, label, predicted, dialogues)
    assert list(found["groups"]) == ["Anna", "Ben"]
    for name, one in found["groups"].items():
        rows = of == name
        assert (one["utterances"], one["dialogues"]) == (rows.sum(), len(set(dialogues[rows])))
        assert one["value"] == pytest.approx(weighted_f1(label, predicted, rows))
        assert one["low"] < one["value"] < one["high"]
    values = {name: one["value"] for name, one in found["groups"].items()}
    gap = found["gap"]
    assert values[gap["highest"]] - values[gap["lowest"]] == pytest.approx(gap["difference"])
    assert gap["difference"] == pytest.approx(abs(values["Anna"] - values["Ben"]))
    assert (gap["shared_dialogues"], found["others"], found["unknown"]) == (0, {"groups": 0, "utterances": 0}, 0)
    lowest = group_scores.gaps_in_words(TASK, {"speaker": found})
    low, high = (f"{gap[end]} {100 * values[gap[end]]:.1f}" for end in ("lowest", "highest"))
    assert lowest.startswith(
        f"weighted F1 by speaker: {low} to {high}, largest gap {100 * gap['difference']:.1f} (95 %"
    )


def test_small_groups_are_counted_and_not_named():
    label, predicted, dialogues = drawn()
    of = np.array(["Anna"] * 180 + ["Ben"] * 180 + ["Cleo"] * (SMALL - 1) + ["Dan"] * 16 + [""] * 5)
    found = scored(of, label, predicted, dialogues)
    assert list(found["groups"]) == ["Anna", "Ben"]
    rows = np.isin(of, ["Cleo", "Dan"])
    others = found["others"]
    assert (others["groups"], others["utterances"], found["unknown"]) == (2, SMALL - 1 + 16, 5)
    assert others["value"] == pytest.approx(weighted_f1(label, predicted, rows))
    assert "Cleo" not in json.dumps(found)
    alone = scored(np.where(of == "Ben", "", of), label, predicted, dialogues)
    assert alone["groups"] == {}
    assert "gap" not in alone
    assert gaps_in_words(TASK, {"speaker": alone}) == ""
    few = scored(np.where(of == "Dan", "", of), label, predicted, dialogues)["others"]
    assert few == {"groups": 1, "utterances": SMALL - 1}, "no score of a single small group"


def test_a_group_of_one_dialogue_is_named_only_where_all_are():
    label, predicted, dialogues = drawn()
    of = np.where(np.arange(400) % 20 < 9, "Anna", "Ben")
    of[dialogues == "d19"] = "Cleo"  # twenty utterances
    assert list(scored(of, label, predicted, dialogues)["groups"]) == ["Ben", "Anna"]
    found = scored(of, label, predicted, of)
    assert list(found["groups"]) == ["Ben", "Anna", "Cleo"]
    assert all("low" not in one for one in (*found["groups"].values(), found["gap"]))


def test_of_hundreds_the_largest_ten_are_named():
    label, predicted, dialogues = drawn(rows=2000)
    of = np.array([f"s{i % 40:02d}" if i % 40 > 11 else f"s{i % 12:02d}" for i in range(2000)])
    of[of == "s05"] = np.where(np.arange((of == "s05").sum()) % 2 == 0, "s05", "s04")
    found = scored(of, label, predicted, dialogues)
    sizes = {name: one["utterances"] for name, one in found["groups"].items()}
    assert len(sizes) == 10
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    assert next(iter(sizes)) == "s04"
    assert found["others"]["groups"] == 30
    assert found["others"]["utterances"] == 2000 - sum(sizes.values())


def test_numbers_are_scored_by_group_by_their_own_main_score():
    rng, task = np.random.default_rng(2), Regression(AFFECT)
    value = rng.uniform(1, 5, (200, 2)).astype(np.float32)
    predicted = value + rng.normal(size=(200, 2)) * np.where(np.arange(200) < 100, 0.2, 1.5)[:, None]
    targets = {"value": value, "known": np.ones((200, 2), bool)}
    of, dialogues = np.repeat(["Anna", "Ben"], 100), np.array([f"d{i % 10}" for i in range(200)])
    found = score_groups(task.led_by("pearson"), {"speaker": of}, dialogues, targets, [predicted])["speaker"]
    for name, one in found["groups"].items():
        r = [stats.pearsonr(value[of == name, d], predicted[of == name, d])[0] for d in (0, 1)]
        assert one["value"] == pytest.approx(np.mean(r), abs=1e-6)
    assert (found["gap"]["highest"], found["gap"]["shared_dialogues"]) == ("Anna", 10)
    error = score_groups(task.led_by("mae"), {"speaker": of}, dialogues, targets, [predicted])["speaker"]
    assert (error["gap"]["highest"], error["gap"]["difference"] > 0) == ("Ben", True)


@pytest.mark.parametrize("several", [False, True])
def test_lines_say_what_the_corpus_knows(tmp_path, several):
    utterances = (
        dataclasses.replace(u, session=str(int(u.id[1:]) % 3) if several else "1") for u in asked_utterances()
    )
    write_corpus(tmp_path / "asked", utterances, asked_description(), shard_records=10)
    corpus = Corpus(tmp_path / "asked")
    corpus.ask("affect")
    task, rows = Regression(AFFECT), np.arange(len(corpus))
    targets = task.targets(corpus, rows, soft=False)
    text = format_predictions(task, corpus, rows, [("r", rows, targets["value"])], targets, [""] * len(rows))
    lines = {line["id"]: line for line in map(json.loads, text.splitlines())}
    for utterance in asked_utterances():
        line = lines[utterance.id]
        assert line["speaker"] == utterance.speaker
        assert line.get("groups") == (utterance.groups or None)
        assert line.get("session") == (str(int(utterance.id[1:]) % 3) if several else None)
    assert list(groupings(corpus)) == ["speaker", *["session"] * several, "gender"]


def grouped(folder, **kwargs):
    """A finished run of two sessions whose speakers' genders are known."""
    run = write_run(folder, utterances=120, **kwargs)
    lines = lines_of(run)
    for line in lines:
        number = int(line["id"].split("u")[1])
        line |= {"session": "1" if number < 60 else "2", "groups": {"gender": "f" if number % 2 else "m", "age": "30"}}
        if number % 30 == 7:
            line["speaker"], line["groups"] = "<i>Cleo</i>", {"gender": "x"}
    write_lines(run, lines)
    return run


def write_lines(run, lines):
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def section(tree, title):
    return next(e for e in tree.iter("section") if text_of(e).startswith(title))


def test_the_page_has_a_table_and_a_plot_of_every_grouping(tmp_path):
    run = grouped(tmp_path / "run")
    found = section(written(tmp_path, run), "Groups")
    tables = {e.find("caption").text: e for e in found.iter("table")}
    assert list(tables) == ["By speaker, percent", "By session, percent", "By gender, percent"]
    assert "Cleo" not in text_of(found)
    assert "age: there is one group alone" in text_of(found)
    rows = [[text_of(cell) for cell in row] for row in tables["By gender, percent"].iter("tr")][1:]
    lines = [line for line in lines_of(run) if line["groups"]["gender"] == "m"]
    seeds = [[line for line in lines if line["replica"] == name] for name in {line["replica"] for line in lines}]
    f1 = [f1_score([x["label"] for x in s], [x["prediction"] for x in s], average="weighted") for s in seeds]
    (of_men,) = (row for row in rows if row[0] == "m")
    assert of_men[1:4] == ["60", "10", f"{100 * np.mean(f1):.1f}"]
    assert rows[-1][:3] == ["other groups, 1 in number", "4", "-"]
    assert text_of(found).count("Largest gap") == 3
    assert "no dialogue has both), 2 " in text_of(found) or "no dialogue has both), 1 " in text_of(found)
    figures = [e for e in found.iter("svg")]
    assert [e.get("aria-label").split(":")[0] for e in figures] == [
        f"weighted F1 by {name}, percent" for name in ("speaker", "session", "gender")
    ]


def test_where_there_is_nothing_to_tell_by_group_the_page_says_so(tmp_path):
    old = write_run(tmp_path / "old", seeds=1)
    lines = lines_of(old)
    for line in lines:
        del line["speaker"]
    write_lines(old, lines)
    assert "left out: predictions.jsonl names no speaker" in text_of(section(written(tmp_path, old), "Groups"))
    half = write_run(tmp_path / "half", seeds=1, folds=2, diverged=((0, 1, 0),))
    assert "no seed that finished every fold" in text_of(section(written(tmp_path, half), "Groups"))
    few = write_run(tmp_path / "few", seeds=1, utterances=24)
    assert "speaker: of 2 groups no two have 20 utterances" in text_of(section(written(tmp_path, few), "Groups"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": ["f"]}, "line 3 is damaged: its field 'groups' does not hold a text"),
        ({"groups": {"gender": 1}}, "line 3 is damaged: its field 'groups'"),
        ({"session": 2}, "line 3 is damaged: its field 'session' is not a text"),
        ({"groups": {"gender": "other"}}, "another line says something else"),
    ],
)
def test_damaged_groups_are_refused(tmp_path, change, words):
    run = grouped(tmp_path / "run")
    lines = lines_of(run)
    lines[2] |= change
    write_lines(run, lines)
    with pytest.raises(UserError, match=words):
        read_run(run)


def test_metrics_with_groups_are_read(tmp_path):
    run = grouped(tmp_path / "run", seeds=1)
    found = {"speaker": {"groups": {"A": {"utterances": 1, "dialogues": 1, "value": 0.5}}, "unknown": 0}}
    edit(run / "metrics.json", lambda metrics: metrics["points"][0].update(groups=found))
    with pytest.raises(UserError, match=r"points.0.groups.speaker.others"):
        read_run(run)
    found["speaker"]["others"] = {"groups": 0, "utterances": 0}
    edit(run / "metrics.json", lambda metrics: metrics["points"][0].update(groups=found))
    assert read_run(run).chosen["groups"] == found
