"""The page of runs of numbers, of several emotions at once, and of several targets together."""

import itertools
import json
import re

import numpy as np
import pytest
from browser import BROWSER, looked_at
from finished_numbers import AFFECT, tasks, write_numbers
from scipy import stats
from test_report import TAGS, edit, lines_of, of_class, text_of, tree_of, written

from mer_jax.errors import UserError
from mer_jax.evaluation.group_scores import mean_by_group
from mer_jax.metrics import residuals
from mer_jax.report import svg, svg_numbers
from mer_jax.report.style import RAMP

TITLES = {
    "regression": ["Numbers", "Predictions against targets", "Residuals", "Intervals of predictions",
                   "Map of the utterances", "Largest errors"],
    "multilabel": ["Emotions", "Precision and recall", "Emotions that go together", "Calibration",
                   "Most confident mistakes"],
    "classification": ["Confusion", "Classes", "Calibration", "Map of the utterances", "Most confident mistakes"],
}  # fmt: skip
TITLES["sentiment"] = TITLES["regression"]
TITLES["several"] = [
    *(f"classes: {title}" for title in TITLES["classification"]),
    *(f"affect: {title}" for title in (*TITLES["regression"], "Groups")),
    *(f"emotions: {title}" for title in (*TITLES["multilabel"], "Groups")),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each kind, of two folds and two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    return {kind: write_numbers(folder / kind, kind, folds=2) for kind in tasks()}


def section(tree, title):
    return next(e for e in tree.iter("section") if text_of(next(iter(e))) == title)


def rows_of(found, caption):
    table = next(e for e in found.iter("table") if e.find("caption").text == caption)
    heads, *rows = [[text_of(cell) for cell in row] for row in table.iter("tr")]
    return heads, {row[0]: row[1:] for row in rows}


def seeds_of(run, seed):
    return [line for line in lines_of(run) if line["replica"].endswith(f"seed {seed}")]


@pytest.mark.parametrize("kind", tasks())
def test_every_task_has_its_sections_and_every_figure_is_told(tmp_path, runs, kind):
    tree = written(tmp_path, runs[kind])
    titles = [text_of(next(iter(e))) for e in tree.iter("section")]
    start = titles.index("Learning curves") + 1
    assert titles[start : titles.index("Groups")] == TITLES[kind]
    assert {element.tag for element in tree.iter()} <= set(TAGS.split())
    assert text_of(tree).count("left out: ") == 1, "the scores by turn"
    for figure in tree.iter("figure"):
        picture = figure.find("svg")
        assert picture.get("role") == "img"
        assert picture.get("aria-label").startswith(figure.find("figcaption").text)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"\bnan\b|\binf\b|&lt;Metric|array\(", page)
    assert len(page) < 200_000


@pytest.mark.parametrize("kind", tasks())
def test_of_a_locked_test_part_the_page_tells_validation_only(tmp_path, kind):
    run = write_numbers(tmp_path / "run", kind, locked=True, utterances=60)
    tree = written(tmp_path, run)
    text = text_of(tree)
    assert "95 % intervals" not in text
    assert text.count("is not written while the test part is locked") >= {"several": 8}.get(kind, 4)
    of = json.loads((run / "metrics.json").read_text())
    name = next(n for n in ("affect_ccc", "ccc", "mae", "macro_f1") if n in of["valid"])
    assert (
        f"{of['valid'][name]['mean'] * (100 if name == 'macro_f1' else 1):.{1 if name == 'macro_f1' else 4}f}" in text
    )


@pytest.mark.parametrize("kind", tasks())
def test_a_single_replica_and_no_whole_seed(tmp_path, kind):
    one = write_numbers(tmp_path / "one", kind, seeds=1, extras=False, utterances=60)
    text = text_of(written(tmp_path, one))
    assert "± sample" not in text
    assert "explain.json is not there" in text
    half = write_numbers(tmp_path / "half", kind, seeds=1, folds=2, utterances=60, diverged=((1, 0),))
    assert "no seed finished every fold" in text_of(written(tmp_path, half))


def test_the_scores_of_each_number_are_those_of_its_utterances(tmp_path, runs):
    found = section(written(tmp_path, runs["regression"]), "Numbers")
    heads, rows = rows_of(found, "Scores of each number")
    assert heads == ["number", "utterances", "CCC", "95 %", "MAE", "95 %", "Pearson", "95 %"]
    for name in AFFECT.names:
        each = []
        for replica in sorted({line["replica"] for line in lines_of(runs["regression"])}):
            pairs = [
                (line["targets"][name], line["prediction"][name])
                for line in lines_of(runs["regression"])
                if line["replica"] == replica and line["targets"][name] is not None
            ]
            x, y = np.array(pairs).T
            ccc = 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
            each.append((ccc, np.abs(x - y).mean(), stats.pearsonr(x, y)[0]))
        means = [f"{value:.4f}" for value in np.mean(each, axis=0)]
        assert [cell.split(" ± ")[0] for cell in rows[name][1::2]] == means
        known = sum(line["targets"][name] is not None for line in seeds_of(runs["regression"], 0))
        assert rows[name][0] == str(known)
        assert all(re.fullmatch(r"-?[\d.]+–[\d.]+", cell) for cell in rows[name][2::2])


def test_every_score_of_a_definition_says_what_it_leaves_out(tmp_path, runs):
    found = section(written(tmp_path, runs["sentiment"]), "Numbers")
    _, rows = rows_of(found, "Scores, accuracy and F1 in percent")
    task = tasks()["sentiment"]
    assert len(rows) == len(task.metrics)
    zeros = sum(line["targets"]["sentiment"] == 0 for line in seeds_of(runs["sentiment"], 0))
    assert zeros > 0
    left = {name: row[2] for name, row in rows.items()}
    assert left["Acc-2 neg/pos"] == f"targets of 0, {zeros} of them"
    assert left["Acc-2 neg/non-neg"] == "nothing"
    assert "CMU-MOSEI" in text_of(found)


def test_predictions_lie_against_their_targets(tmp_path, runs):
    found = section(written(tmp_path, runs["regression"]), "Predictions against targets")
    figures = list(found.iter("figure"))
    assert len(figures) == 2
    for figure, name in zip(figures, AFFECT.names, strict=True):
        lines = [line for line in lines_of(runs["regression"]) if line["targets"][name] is not None]
        spots = [e for e in figure.iter("path") if e.get("class") == "spot"]
        assert sum(e.get("d").count("M") for e in spots) == len(lines)
        x, y = (np.array([line[field][name] for line in lines]) for field in ("targets", "prediction"))
        assert f"{name}: predictions spread {100 * y.std() / x.std():.0f} % as widely" in figure.find("figcaption").text


def test_a_dot_lies_on_the_dotted_line_where_the_prediction_is_right():
    picture = svg_numbers.against("t", [(i / 2, i / 2) for i in range(11)] + [(0.0, 9.0)], (0, 5), "x", "y")
    places = re.findall(r"M([\d.]+) ([\d.]+)h0", picture)
    (x0, y0, x1, y1) = map(float, re.search(r'"rule" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)', picture).groups())
    off = [(float(x) - x0) / (x1 - x0) - (float(y) - y0) / (y1 - y0) for x, y in places]
    assert len(off) == 12
    assert sum(abs(one) < 0.01 for one in off) == 11
    assert min(off) == pytest.approx(-1, abs=0.01), "the axes reach as far as the predictions"


def test_of_many_dots_some_are_drawn():
    points = [(i / 1e4, 0.5) for i in range(10_001)]
    drawn = len(re.findall(r"M[\d.]+ [\d.]+h0", svg_numbers.against("t", points, (0, 1), "x", "y")))
    assert 2000 < drawn <= svg_numbers.MOST_DOTS


def test_residuals_in_bins_are_a_loop():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-1, 0.6, 300), [1.0, 0.99, 0.98]])
    r = rng.normal(size=len(x)) - 0.5 * x
    found = residuals.by_target(x, r, (-1.0, 1.0), bins=5)
    edges = np.linspace(-1, 1, 6)
    wanted = []
    for low, high in itertools.pairwise(edges):
        of = sorted(r[i] for i in range(len(x)) if low <= x[i] < high or (high == 1 and x[i] == 1))
        if len(of) >= 5:
            wanted.append(((low + high) / 2, len(of), sum(of) / len(of), *stats.scoreatpercentile(of, (25, 75))))
    assert len(wanted) == 4
    np.testing.assert_allclose([list(vars(one).values()) for one in found], wanted, atol=1e-12)
    assert residuals.spread_ratio(x, 2 * x + 1) == pytest.approx(2)
    assert residuals.spread_ratio(np.ones(3), x[:3]) == 0


def test_low_targets_are_drawn_as_predicted_too_high(tmp_path, runs):
    """The made-up predictions keep to the middle: residuals fall from above 0 to below."""
    for figure in list(section(written(tmp_path, runs["regression"]), "Residuals").iter("figure"))[:2]:
        first, last = re.search(r"mean from (\S+) to (\S+);", figure.find("svg").get("aria-label")).groups()
        assert float(first) > 0.3
        assert float(last) < -0.3


def test_a_speakers_mean_residual_has_the_interval_of_its_dialogues():
    rng = np.random.default_rng(1)
    of, dialogues = np.repeat(["A", "B"], 100), np.repeat([f"d{i}" for i in range(20)], 10)
    values = rng.normal(size=(2, 200)) + np.repeat(rng.normal(size=20), 10) + 3 * (of == "B")
    values[:, 7] = np.nan
    found = mean_by_group(of, dialogues, values)
    own = values[:, :100]
    assert found["A"]["value"] == pytest.approx(np.nanmean(own))
    sums = np.array([[np.nansum(one[i : i + 10]) for i in range(0, 100, 10)] for one in own])
    rows = np.array([[(~np.isnan(own[0, i : i + 10])).sum() for i in range(0, 100, 10)]] * 2)
    times = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), size=2000)
    means = [np.mean([(t * s).sum() / (t * n).sum() for s, n in zip(sums, rows, strict=True)]) for t in times]
    assert [found["A"][end] for end in ("low", "high")] == pytest.approx(np.percentile(means, (2.5, 97.5)).tolist())
    assert found["B"]["low"] > found["A"]["high"]


def test_intervals_of_predictions_are_those_of_the_replicas(tmp_path, runs):
    found = section(written(tmp_path, runs["regression"]), "Intervals of predictions")
    _, rows = rows_of(found, "Intervals")
    done = json.loads((runs["regression"] / "metrics.json").read_text())["replicas"]
    for name in AFFECT.names:
        width, held = ([r["calibration"][part][name] for r in done] for part in ("half_width", "test"))
        assert rows[name][0].startswith(f"± {np.mean(width):.4f} ± ")
        assert rows[name][2].startswith(f"{100 * np.mean(held):.1f} ± ")


def test_the_map_is_coloured_by_the_first_number(tmp_path, runs):
    tree = written(tmp_path, runs["regression"])
    name = json.loads((runs["regression"] / "map.json").read_text())["replica"]
    values = [line["targets"]["valence"] for line in lines_of(runs["regression"]) if line["replica"] == name]
    wanted = np.histogram(values, np.linspace(1, 5, len(RAMP) + 1))[0]
    (large,) = of_class(section(tree, "Map of the utterances"), "large")
    drawn = {e.get("class"): e.find("path").get("d").count("M") for e in large.find("svg").iter("g")}
    assert drawn == {f"v{i}": count for i, count in enumerate(wanted.tolist()) if count}
    assert next(text_of(e) for e in large.find("p")) == "1 to 1.8"


def test_the_largest_errors_come_first(tmp_path, runs):
    items = [text_of(e) for e in section(written(tmp_path, runs["regression"]), "Largest errors").find("ol")]
    of_id = {}
    for line in lines_of(runs["regression"]):
        of_id.setdefault(line["id"], []).append(line)
    errors = {}
    for id, lines in of_id.items():
        mean = {name: np.mean([line["prediction"][name] for line in lines]) for name in AFFECT.names}
        known = {name: value for name, value in lines[0]["targets"].items() if value is not None}
        errors[id] = np.mean([abs(mean[name] - value) for name, value in known.items()])
    order = sorted(errors, key=lambda id: -errors[id])[:20]
    assert [re.search(r"d\d+_u\d+", item)[0] for item in items[:20]] == order
    assert "What moves valence: text +1.20, audio −0.30. Most attention: text step 4 (41 %)." in " ".join(
        items
    ) + text_of(section(tree_of(tmp_path / "report.html"), "Largest errors"))
    first = of_id[order[0]][0]["targets"]
    assert f"valence {first['valence']:.4g}" in items[0]


def test_a_map_of_another_run_is_refused(tmp_path):
    run = write_numbers(tmp_path / "run", "regression")
    edit(run / "map.json", lambda found: found["ids"].__setitem__(0, "elsewhere"))
    with pytest.raises(UserError, match="has no utterance 'elsewhere'"):
        written(tmp_path, run)


@pytest.mark.parametrize("values", [[0.0, 0.31], [-2.4, 0.0, 1.1], [0.5], [0.0], [7.0, 7.0], [-1e-3, 2e-3]])
def test_levels_are_round_and_hold_all(values):
    levels = svg.levels_of(values)
    assert levels[0] <= min(values)
    assert levels[-1] >= max(values)
    assert 2 <= len(levels) <= 8
    np.testing.assert_allclose(np.diff(levels), levels[1] - levels[0])


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("kind", tasks())
def test_the_page_in_a_browser(tmp_path, runs, kind, scheme):
    written(tmp_path, runs[kind])
    looked_at(tmp_path, tmp_path / "report.html", scheme, widths=(360, 1280))
