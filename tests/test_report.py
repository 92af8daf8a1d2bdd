import json
import math
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from absl import flags
from browser import BROWSER, looked_at
from conftest import ROOT
from finished import LABELS, write_run
from ml_collections import config_flags
from sklearn.metrics import f1_score

from mer_jax import config as config_lib
from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import read_run
from mer_jax.metrics.calibration import reliability as reliability_of
from mer_jax.metrics.classification import METRICS, class_f1, overall
from mer_jax.metrics.metric import Metric
from mer_jax.metrics.significance import bootstrap, bootstrap_classes
from mer_jax.models.family import experiment_type
from mer_jax.report import __main__ as report_main
from mer_jax.report import html, render, style

LEAKY = "the test part chooses the epoch"
TAGS = """html head meta title style body section nav a h1 h2 h3 p ul ol li strong span small br wbr q code pre dl dt dd
div table caption thead tbody tr th td figure figcaption svg g path circle rect text"""
HOSTILE = (
    "</q><script>alert('&')</script><img src=\"https://example.org/x.png\" onerror='x'/> \x00\x1b[31m SURROGATE “ü”"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """a: two folds, three seeds, two points, one replica diverged; b: one replica, with what every run has."""
    folder = tmp_path_factory.mktemp("runs")
    a = write_run(folder / "a", seeds=3, folds=2, points=2, utterances=96, leaky=LEAKY, diverged=((1, 1, 2),))
    b = write_run(folder / "b", seeds=1, utterances=72, split="t" * 64, manifest="n" * 64, extras=False, sentence="")
    return a, b


def tree_of(path):
    return ET.fromstring(path.read_text().removeprefix("<!DOCTYPE html>\n"))


def written(folder, *runs):
    render.write(runs, folder / "report.html")
    return tree_of(folder / "report.html")


def text_of(tree):
    return " ".join("".join(tree.itertext()).split())


def of_class(tree, name):
    return [element for element in tree.iter() if element.get("class") == name]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_hostile_words_stay_words(tmp_path):
    nasty = ("<b>joy</b>", "neutral", "anger & \x92", "sadness", "fear")
    run = write_run(tmp_path / "<i>run</i>", labels=nasty, sentence=HOSTILE, leaky=HOSTILE)
    predictions = run / "predictions.jsonl"
    predictions.write_text(predictions.read_text().replace("SURROGATE", "\\ud800"))

    def rename(explain):
        for turn in explain["conversations"][0]["turns"]:
            turn["speaker"] = HOSTILE
        explain["conversations"][0]["dialogue"] = HOSTILE

    edit(run / "explain.json", rename)
    tree = written(tmp_path, run)
    assert {element.tag for element in tree.iter()} <= set(TAGS.split())
    for element in tree.iter():
        assert element.get("href", "#").startswith("#")
        assert not {name for name in element.attrib if name.startswith("on") or name in ("src", "action")}
    assert "<script>alert('&')</script>" in text_of(tree)
    assert "<b>joy</b>" in text_of(tree)
    assert "url(" not in (tmp_path / "report.html").read_text()
    policy = next(e for e in tree.iter("meta") if e.get("http-equiv") == "Content-Security-Policy")
    assert policy.get("content").startswith("default-src 'none'")


def test_a_leaky_protocol_is_told_in_red_and_only_a_leaky_one(tmp_path, runs):
    a, b = runs
    assert LEAKY in text_of(of_class(written(tmp_path, a), "alarm")[0])
    assert not of_class(written(tmp_path, b), "alarm")


def test_runs_of_other_data_or_another_split_are_not_comparable(tmp_path, runs):
    a, b = runs
    alarms = [text_of(e) for e in of_class(written(tmp_path, a, b), "alarm")]
    for what, of in (("data", "small"), ("split", f"official (leaky: {LEAKY})")):
        assert any(f"have not the same {what}" in alarm and of in alarm for alarm in alarms)
    assert any(alarm.startswith("a: leaky protocol") for alarm in alarms)
    same = write_run(tmp_path / "same", seeds=1, utterances=72, split="t" * 64, manifest="n" * 64, skill=1.0)
    tree = written(tmp_path, b, same)
    assert not of_class(tree, "alarm")
    comparison = next(iter(tree.iter("table")))
    assert [e.get("scope") for e in comparison.iter("th")] == ["col"] * 9 + ["row"] * 2


def test_runs_on_other_features_of_the_same_utterances_are_comparable(tmp_path, runs):
    other = write_run(tmp_path / "other", seeds=1, utterances=72, split="t" * 64, manifest="o" * 64, skill=1.0)
    tree = written(tmp_path, runs[1], other)
    assert not of_class(tree, "alarm")
    assert any(
        "have not the same data" in text_of(e) and "same utterances" in text_of(e) for e in of_class(tree, "note")
    )
    lines = [json.loads(line) for line in (other / "predictions.jsonl").read_text().splitlines()]
    for line in lines:
        line["dialogue"] += "x"  # the ids of another corpus
    (other / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert any("Not comparable" in text_of(e) for e in of_class(written(tmp_path, runs[1], other), "alarm"))


def test_the_points_of_a_sweep_are_rows_and_the_chosen_one_is_marked(tmp_path, runs):
    tables = {e.find("caption").text: e for e in written(tmp_path, runs[0]).iter("table")}
    rows = [text_of(e) for e in tables["Test scores, percent"].iter("tr")][1:]
    point = json.loads((runs[0] / "metrics.json").read_text())["points"][1]
    assert [row.startswith("optim.learning_rate") for row in rows] == [True, False, True, False]
    assert ["chosen" in row for row in rows] == [False, False, True, False]
    assert (
        f"{100 * point['test']['weighted_f1']['mean']:.1f} ± {100 * point['test']['weighted_f1']['sd']:.1f}" in rows[2]
    )
    assert rows[2].endswith("5, 1 diverged")


def test_a_section_without_its_file_says_so(tmp_path, runs):
    text = text_of(written(tmp_path, runs[1]))
    for name in ("map", "cost", "explain", "robustness"):
        assert f"left out: {name}.json is not there" in text
    assert "does not hold the sentences" in text
    full = text_of(written(tmp_path, runs[0]))
    assert "left out: " not in full
    assert "2026-11-22 12:00 UTC" in full
    assert "audio −0.30. Most attention: text step 4 (41 %), 5 (20 %)." in full
    assert "1.03 device-hours" in full  # 1800 s and 45.5 s on two devices


def test_mistakes_are_those_of_the_mean_probability_the_surest_first(tmp_path, runs):
    of_id = {}
    for line in lines_of(runs[0]):
        if "learning_rate=0.0001" in line["replica"]:
            of_id.setdefault(line["id"], (line["label"], []))[1].append([line["probabilities"][x] for x in LABELS])
    wanted = []
    for id, (label, rows) in of_id.items():
        mean = np.mean(rows, axis=0)
        if LABELS[mean.argmax()] != label:
            wanted.append(
                (
                    -mean.max(),
                    f"“So she said: “{int(id[-4:])}” & left.”",
                    f"{label} → {LABELS[mean.argmax()]}",
                    f"{mean.max():.3f}",
                )
            )
    items = [
        e
        for section in written(tmp_path, runs[0]).iter("section")
        if text_of(section).startswith("Most confident")
        for e in section.find("ol")
    ]
    assert wanted
    assert len(items) == len(wanted)
    for item, (_, sentence, classes, probability) in zip(items, sorted(wanted), strict=True):
        assert item.find("q").text == sentence[1:-1]
        assert f"{classes}{probability}" in text_of(item)


def test_the_map_crosses_what_its_replica_got_wrong(tmp_path, runs):
    tree = written(tmp_path, runs[0])
    name = json.loads((runs[0] / "map.json").read_text())["replica"]
    mine = [line for line in lines_of(runs[0]) if line["replica"] == name]
    wrong = [line for line in mine if line["label"] != line["prediction"]]
    large = of_class(tree, "large")[0].find("svg")
    crosses = [e for e in large.iter("path") if e.get("class") == "wrong"]
    assert sorted(e.find("title").text for e in crosses) == sorted(
        f"{x['id']}: {x['label']}, taken for {x['prediction']}" for x in wrong
    )
    dots = [e.get("d").count("M") for e in large.iter("path") if e.get("class") == "right"]
    assert sum(dots) == len(mine) - len(wrong)
    assert {e.text for e in large.iter("text") if e.get("class") == "on"} == set(LABELS)


def test_conversations_are_drawn_with_what_moved_what(tmp_path, runs):
    tree, talks = written(tmp_path, runs[0]), json.loads((runs[0] / "explain.json").read_text())["conversations"]
    drawn = of_class(tree, "talk")
    assert len(drawn) == len(talks) == 2
    for figure, talk in zip(drawn, talks, strict=True):
        assert figure.find("figcaption").text == f"Dialogue {talk['dialogue']}"
        assert text_of(figure.find("p")) == "1 Anna2 Ben"
        svg, lines = figure.find("div/svg"), list(figure.find("div/ol"))
        assert svg.get("role") == "img"
        assert len(lines) == len(talk["turns"]) == 12
        assert [e.text for e in svg.iter("text")] == ["1", "2"] * 6
        for line, turn in zip(lines, talk["turns"], strict=True):
            assert line.find("span/q").text == turn["sentence"]
            wrong = turn.get("wrong", False)
            words = f"{turn['label']} → {turn['prediction']}" if wrong else turn["label"]
            (verdict,) = line.iter("strong")
            assert (text_of(verdict), verdict.get("class")) == (words, "problem" if wrong else None)
            assert ("shift" in [e.text for e in of_class(line, "note")]) == turn["shift"]
            assert ("heard, not tested" in text_of(line)) == ("prediction" not in turn)
            for one in turn["influence"]:
                assert f"{one['turn']} ({one['influence']:+.2f})".replace("-", "−") in text_of(line)
        arrows = [e for e in svg.iter("g") if e.get("class").startswith("arrow")]
        said = [
            (
                f"turn {one['turn']} moves turn {turn['turn']} by {one['influence']:+.2f}".replace("-", "−"),
                one["influence"],
            )
            for turn in talk["turns"]
            for one in turn["influence"]
        ]
        assert [e.find("title").text for e in arrows] == [
            title for title, _ in sorted(said, key=lambda one: abs(one[1]))
        ]
        widths = [float(e.find("path").get("style").split()[1]) for e in arrows]
        assert widths == sorted(widths)
        assert widths[0] < widths[-1] == 4
        broken = {e.find("title").text for e in arrows if e.find("path").get("stroke-dasharray")}
        assert broken == {title for title, size in said if size < 0}
        for e in arrows:  # from the height of one turn to that of the other
            start, end = (int(word) for word in e.find("title").text.split()[1:5:3])
            heights = re.findall(r"M[\d.]+ ([\d.]+)C.* ([\d.]+)$", e.find("path").get("d"))
            assert heights == [(f"{44 * start + 22}", f"{44 * end + 22}")]


def test_scores_by_turn_are_a_table_and_older_runs_have_none(tmp_path, runs):
    tables = {e.find("caption").text: e for e in written(tmp_path, runs[0]).iter("table")}
    rows = [[text_of(cell) for cell in row] for row in tables["Test scores by turn, percent"].iter("tr")][1:]
    found = json.loads((runs[0] / "metrics.json").read_text())["points"][1]["conversation"]
    assert [row[0] for row in rows] == [
        "shifts",
        "the same as before",
        "a speaker’s first",
        "turns 1–5",
        "turns 6–10",
        "turns 11–20",
    ]
    for row, one in zip(
        rows, [*(found[n] for n in ("shifts", "rest", "first")), *found["positions"].values()], strict=True
    ):
        score = one["scores"]["weighted_f1"]
        assert row[1:3] == [str(one["utterances"]), f"{100 * score['mean']:.1f} ± {100 * score['sd']:.1f}"]
    old = write_run(tmp_path / "old")
    edit(
        old / "metrics.json",
        lambda metrics: [drop("conversation")(one) for one in metrics["points"] + metrics["replicas"]],
    )
    edit(old / "explain.json", drop("conversations"))
    lines = lines_of(old)
    for line in lines:
        del line["turn"], line["speaker"]
    (old / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = written(tmp_path, old)
    assert "Scores by turn are left out: metrics.json does not hold them" in text_of(tree)
    assert not of_class(tree, "talk")


def test_of_a_long_dialogue_the_turns_that_are_not_drawn_are_named(tmp_path):
    run = write_run(tmp_path / "run")

    def cut(explain):
        talk = explain["conversations"][0]
        talk["turns"] = talk["turns"][5:]
        for i, turn in enumerate(talk["turns"]):
            turn["speaker"] = f"speaker {i}"

    edit(run / "explain.json", cut)
    figure = of_class(written(tmp_path, run), "talk")[0]
    assert figure.find("figcaption").text == "Dialogue d000, 7 of its 12 turns"
    titles = [e.text for e in figure.iter("title")]
    assert not [title for title in titles if title.startswith("turn 4 ")]
    assert "moved by turn 4 (−0.08), 3 (−0.06)" in text_of(figure.find("div/ol"))
    places = [float(e.get("cx")) for e in figure.find("div/svg").iter("circle")]
    width = float(figure.find("div/svg").get("viewBox").split()[2])
    assert len(set(places)) == 4, "further speakers share the last lane"
    assert max(places) < width


def test_intervals_of_classes_are_those_of_resampled_dialogues():
    rng, samples = np.random.default_rng(3), 40
    members = rng.integers(0, 4, size=(2, 9, 3, 3))
    members[:, 1:, 2] = 0  # a rare class: some resamples do not have it
    found = bootstrap_classes(members, samples=samples)
    drawn = np.random.default_rng(0).multinomial(9, np.full(9, 1 / 9), size=samples)
    cells = [(t, p) for t in range(3) for p in range(3)]
    values = np.zeros((samples, 3))
    for i, times in enumerate(drawn):
        for member in members:
            pairs = [c for d, n in enumerate(times) for c in cells for _ in range(n * member[d][c])]
            true, predicted = zip(*pairs, strict=True)
            values[i] += f1_score(true, predicted, labels=range(3), average=None, zero_division=0) / len(members)
    low, high = np.percentile(values, (2.5, 97.5), axis=0)
    np.testing.assert_allclose([[f["low"], f["high"]] for f in found], np.stack([low, high], 1), atol=1e-12)
    f1 = class_f1(members.sum(1))
    support = members.sum((1, 3))
    np.testing.assert_allclose((f1 * support).sum(1) / support.sum(1), overall(members.sum(1))["weighted_f1"])


def test_the_seeds_that_finished_every_fold_are_what_the_intervals_are_of(runs):
    run = read_run(runs[0])
    matrices = run.counts()
    assert run.complete_seeds == [0, 1]  # the third one's second fold diverged
    lines = [x for x in lines_of(runs[0]) if x["replica"] in run.replicas and run.replicas[x["replica"]]["seed"] == 1]
    for i, dialogue in enumerate(sorted({line["dialogue"] for line in lines})):
        for line in (x for x in lines if x["dialogue"] == dialogue):
            matrices[1, i, LABELS.index(line["label"]), LABELS.index(line["prediction"])] -= 1
    assert not matrices[1].any()
    assert bootstrap(run.counts())["weighted_f1"] == pytest.approx(run.chosen["interval"]["weighted_f1"])


def test_without_a_whole_seed_there_is_no_interval(tmp_path):
    run = write_run(tmp_path / "run", seeds=1, folds=2, diverged=((0, 1, 0),))
    text = text_of(written(tmp_path, run))
    assert "no seed finished every fold" in text
    assert "Left out, diverged: fold 2, seed 0" in text


def test_reliability_adds_up_to_the_calibration_error():
    rng = np.random.default_rng(1)
    p, labels = rng.dirichlet(np.ones(4), 500), rng.integers(0, 4, 500)
    bins = reliability_of(p, labels)
    top, right = p.max(1), p.argmax(1) == labels
    for sure, good, n in bins:
        inside = (np.ceil(top * 15) == np.ceil(sure * 15)).nonzero()[0]
        assert (len(inside), top[inside].mean(), right[inside].mean()) == pytest.approx((n, sure, good))
    assert sum(n for _, _, n in bins) == 500


def lab(colours, seen=None):
    """CIELAB, as someone with the strongest colour blindness sees it (Machado et al. 2009), and luminance."""
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    light = light if seen is None else np.clip(light @ np.array(seen).T, 0, 1)
    xyz = (
        light
        @ np.array(
            [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
        ).T
    )
    f = np.where(
        xyz / [0.95047, 1, 1.08883] > 216 / 24389,
        np.cbrt(xyz / [0.95047, 1, 1.08883]),
        (24389 / 27 * xyz / [0.95047, 1, 1.08883] + 16) / 116,
    )
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1), xyz[:, 1]


BLIND = {
    "none": None,
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize(("colours", "paper"), [(style.LIGHT, "#ffffff"), (style.DARK, "#16181b")])
def test_colours_can_be_told_apart(colours, paper):
    for seen in BLIND.values():
        places, _ = lab(colours, seen)
        apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(colours)) * 1000
        assert apart.min() > 17
        assert apart[:8, :8].min() > 19
    _, luminance = lab([*colours, paper])
    ends = np.sort(np.stack([luminance[:-1], np.full(len(colours), luminance[-1])]), axis=0) + 0.05
    assert (ends[1] / ends[0]).min() >= 2.99


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize("family", ["lsgmer", "deepmsi_mer", "deepmsi_mer_frames"])
def test_the_command_gives_the_same_config(tmp_path, monkeypatch, family):
    config = experiment_type(family)(experiment="it's “mine”")
    config.replicas.folds, config.replicas.points = (2,), "optim.learning_rate=1e-4 optim.learning_rate=3e-5"
    config.data.max_length, config.data.modalities, config.data.standardize = (48, 1), ("text", "visual"), False
    config.optim.learning_rate, config.loss.imbalance = 3.5e-5, "focal"
    run = write_run(tmp_path / "run")
    edit(run / "metrics.json", lambda metrics: metrics.update(config=config_lib.to_dict(config)))
    (command,) = written(tmp_path, run).iter("pre")
    words = shlex.split("".join(command.itertext()))
    assert words[:4] == ["python", "-m", "mer_jax.main", f"--config=configs/{family}.py"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", words[2:])  # where ml_collections looks for fields
    values = flags.FlagValues()
    held = config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    values(words[2:])
    assert config_lib.to_dict(config_lib.validate(held.value)) == config_lib.to_dict(config)


def drop(*path):
    def change(value):
        for name in path[:-1]:
            value = value[name]
        del value[path[-1]]

    return change


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("metrics.json", None, "is not a finished run: it has no metrics.json"),
        ("metrics.json", "{", "metrics.json is not valid JSON"),
        ("metrics.json", drop("protocol", "leaky"), "metrics.json is not what this mer_jax writes.*protocol.leaky"),
        ("metrics.json", drop("points", 0, "pooled"), "points.0.pooled"),
        ("metrics.json", drop("replicas", 1, "calibration"), "replicas.1.calibration"),
        ("metrics.json", lambda m: m.update(points=[]), "no point is chosen"),
        ("predictions.jsonl", (3, '{"replica": '), "predictions.jsonl, line 3 is damaged"),
        ("predictions.jsonl", (2, None), "is incomplete: of fold 1, seed 0 it has 59 utterances, metrics.json 60"),
        ("predictions.jsonl", (2, 1), "line 2 is damaged: utterance .* occurs a second time"),
        ("history.jsonl", (1, "nonsense"), "history.jsonl, line 1 is damaged"),
        ("history.jsonl", (4, '{"epoch": 1, "replica": "fold 1, seed 0"}'), "line 4 .* field 'step' is missing"),
        ("map.json", "[", "map.json is not valid JSON"),
        ("map.json", drop("x"), "map.json is not what .* field 'x' is missing.*remove it"),
        ("map.json", lambda m: m["x"].pop(), "not of one length"),
        ("map.json", lambda m: m.update(replica="fold 9"), "replica 'fold 9', which is no finished one"),
        ("map.json", lambda m: m["ids"].__setitem__(0, "x"), "has no utterance 'x'"),
        ("cost.json", drop("sessions", 1, "seconds"), "sessions.1.seconds"),
        ("cost.json", lambda c: c["sessions"][0].update(began="today"), "cost.json .*Invalid isoformat"),
        ("explain.json", drop("mistakes", 0, "label"), "mistakes.0.label"),
        ("explain.json", drop("conversations", 0, "turns", 1, "influence"), "conversations.0.turns.1.influence"),
        ("metrics.json", drop("points", 0, "conversation", "positions"), "points.0.conversation.positions"),
        ("robustness.json", drop("floor"), "robustness.json .* 'floor'"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_named(tmp_path, file, change, words):
    run = write_run(tmp_path / "run")
    path = run / file
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    elif isinstance(change, tuple):  # a line: what it becomes, or which line it repeats, or that it goes
        lines, (number, new) = path.read_text().splitlines(), change
        lines[number - 1 : number] = [] if new is None else [lines[new - 1] if isinstance(new, int) else new]
        path.write_text("\n".join(lines) + "\n")
    else:
        edit(path, change)
    with pytest.raises(UserError, match=words):
        written(tmp_path, run)
    assert not (tmp_path / "report.html").exists()


def test_seeds_that_tested_other_utterances_are_refused(tmp_path):
    run = write_run(tmp_path / "run")
    lines = lines_of(run)
    next(line for line in lines if line["replica"] == "fold 1, seed 1")["id"] = "x"
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="damaged: only one of the seeds 0 and 1 has "):
        read_run(run)


def test_runs_that_cannot_stand_on_one_page(tmp_path, runs):
    a, b = runs
    other = write_run(tmp_path / "other", labels=("neutral", "joy"))
    with pytest.raises(
        UserError, match=r"not the same labels:\n  .*/b: neutral, joy, anger.*\n  .*/other: neutral, joy\n"
    ):
        written(tmp_path, b, other)
    with pytest.raises(UserError, match="given twice"):
        written(tmp_path, a, a)
    with pytest.raises(UserError, match="nothing does not exist"):
        written(tmp_path, tmp_path / "nothing")


def test_a_new_score_is_one_row_of_the_table_and_a_dash_for_older_runs(tmp_path, monkeypatch):
    old = write_run(tmp_path / "old")

    def error_rate(counts):
        return 1 - np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1))

    metric = Metric("error rate", "ER", error_rate, "min")
    monkeypatch.setitem(METRICS, "error_rate", metric)
    new = write_run(tmp_path / "new")
    tree = written(tmp_path, old, new)
    heads, *rows = [[text_of(cell) for cell in row] for row in next(iter(tree.iter("table"))).iter("tr")]
    place = heads.index("error rate")
    values = [row[place] for row in rows]
    mean = json.loads((new / "metrics.json").read_text())["points"][0]["test"]["error_rate"]["mean"]
    assert [value[:4] for value in values] == ["-", "-", f"{100 * mean:.1f}", values[3][:4]]
    assert values[3] != "-"
    tiles = [[text_of(part) for part in tile] for tile in tree.iter("div") if tile.find("dt") is not None]
    assert [value for title, value, _ in tiles if title == "error rate"] == ["-", values[2]]


def test_a_run_of_0_8_is_reported(tmp_path):
    run = write_run(tmp_path / "run")

    def as_in_0_8(metrics):
        del metrics["task"], metrics["config"]["family"]
        metrics["config"]["optim"]["average"] = metrics["config"]["optim"].pop("ema_decay")

    edit(run / "metrics.json", as_in_0_8)
    (command,) = written(tmp_path, run).iter("pre")
    words = shlex.split("".join(command.itertext()))
    assert words[3] == "--config=configs/lsgmer.py"
    assert "--config.optim.ema_decay=0.99" in words


def test_without_the_family_there_are_no_defaults_to_differ_from(tmp_path):
    run = write_run(tmp_path / "run")
    edit(run / "metrics.json", lambda metrics: metrics["config"].update(family="elsewhere"))
    assert "is left out: the model family 'elsewhere' is neither" in text_of(written(tmp_path, run))


def test_where_the_page_goes(tmp_path, monkeypatch, capsys, runs):
    run = write_run(tmp_path / "run", utterances=24, seeds=1, extras=False)
    monkeypatch.chdir(tmp_path)
    report_main.main(["run"])
    report_main.main(["run", str(runs[1])])
    assert capsys.readouterr().out == "wrote run/report.html\nwrote report.html\n"
    assert "2 runs" in tree_of(tmp_path / "report.html").find("body/h1").text
    assert tree_of(run / "report.html").find("body/h1").text == "run on small"
    for out in ("nowhere/a.html", "run"):
        with pytest.raises(SystemExit) as error:
            report_main.main(["run", "--out", out])
        assert error.value.code == 2
        assert "a file in a folder that exists" in capsys.readouterr().err


def test_ticks_are_round_and_inside():
    assert html.ticks(0.0, 1.0) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert html.ticks(1, 3, 6, integers=True) == [1, 2, 3]
    for low, high in ((0.613, 0.687), (-3.0, 12.0), (1e-4, 3e-4), (5, 5)):
        found = html.ticks(low, high)
        assert found
        assert all(low - 1e-9 <= x <= high + 1e-9 for x in found)
        assert all(math.isclose(x, float(f"{x:.3g}"), abs_tol=1e-12) for x in found)


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_in_a_browser(tmp_path, scheme):
    long = "A" + "W" * 90
    labels = (long, "a label of several words", *(f"class {i}" for i in range(10)))
    a = write_run(
        tmp_path / long,
        seeds=3,
        points=2,
        labels=labels,
        utterances=300,
        leaky=LEAKY,
        sentence=HOSTILE + long,
        skill=1.0,
    )
    b = write_run(tmp_path / "b", seeds=1, labels=labels, utterances=300, split="t" * 64, epochs=1)
    render.write([a, b], tmp_path / "report.html")
    looked_at(tmp_path, tmp_path / "report.html", scheme, widths=(360, 1280))


@pytest.mark.slow
def test_the_command_imports_no_jax():
    sections = ", ".join(f"mer_jax.report.sections_{task}" for task in ("classification", "regression", "multilabel"))
    modules = f"mer_jax.compare, mer_jax.report.__main__, {sections}"
    heavy = {"jax", "flax", "torch", "scipy", "tensorboardX"}
    script = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert re.search(
        "usage.*report",
        subprocess.run([sys.executable, "-m", "mer_jax.report", "-h"], cwd=ROOT, capture_output=True, text=True).stdout,
    )
