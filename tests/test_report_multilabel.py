"""What the page of a run of several emotions at once says of each, and of which go together."""

import json
import re

import numpy as np
import pytest
from finished_numbers import EMOTIONS, write_numbers
from sklearn import metrics as sk
from test_report import lines_of, text_of, written
from test_report_numbers import rows_of, section

from mer_jax.metrics import multilabel
from mer_jax.report import svg_numbers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of two folds and two seeds."""
    return write_numbers(tmp_path_factory.mktemp("runs") / "multilabel", "multilabel", folds=2)


def answers(run):
    """Of every line and emotion whether it is there (NaN where not known) and how likely it is said to be."""
    lines = lines_of(run)
    true = [[np.nan if (v := line["targets"][n]) is None else float(v >= 0.5) for n in EMOTIONS] for line in lines]
    return np.array(true), np.array([[line["probabilities"][n] for n in EMOTIONS] for line in lines])


def test_the_scores_of_each_emotion(tmp_path, run):
    found = section(written(tmp_path, run), "Emotions")
    heads, rows = rows_of(found, "Emotions, percent")
    true, p = answers(run)
    means = json.loads((run / "metrics.json").read_text())["points"][0]["test"]
    for i, name in enumerate(EMOTIONS):
        known = ~np.isnan(true[:, i])
        y, said = true[known, i], p[known, i] > 0.5
        row = dict(zip(heads[1:], rows[name], strict=True))
        assert row["precision"] == f"{100 * sk.precision_score(y, said):.1f}"
        assert row["recall"] == f"{100 * sk.recall_score(y, said):.1f}"
        assert row["there"] == f"{y.sum():.0f} of {len(y)}"
        assert row["F1"].split(" ± ")[0] == f"{100 * means[f'f1_{name}']['mean']:.1f}"
        assert row["average precision"].split(" ± ")[0] == f"{100 * means[f'ap_{name}']['mean']:.1f}"
    assert "from 0.5 on" in text_of(found)


def test_precision_over_recall_is_scikit_learns():
    rng = np.random.default_rng(0)
    y, p = rng.random(300) < 0.3, np.round(rng.random(300), 2)
    recall, precision = multilabel.precision_recall(y, p)
    wanted, of_recall, _ = sk.precision_recall_curve(y, p)
    np.testing.assert_allclose(recall, of_recall[:-1][::-1])
    np.testing.assert_allclose(precision, wanted[:-1][::-1])
    assert [len(one) for one in multilabel.precision_recall(np.zeros(3, bool), p[:3])] == [0, 0]


def test_the_curve_that_is_drawn_has_the_area_of_the_average_precision(tmp_path, run):
    figures = list(section(written(tmp_path, run), "Precision and recall").iter("figure"))
    true, p = answers(run)
    for i, figure in enumerate(figures):
        known = ~np.isnan(true[:, i])
        wanted = sk.average_precision_score(true[known, i], p[known, i])
        assert text_of(figure).endswith(f"average precision {100 * wanted:.1f}")
        (line,) = (e.get("d") for e in figure.iter("path") if e.get("class") == "line")
        x, area = float(re.match(r"M([\d.]+)", line)[1]), 0.0
        for up, across in re.findall(r"V([\d.]+)H([\d.]+)", line):
            area += (float(across) - x) * (182 - float(up))
            x = float(across)
        assert area / (306 * 158) == pytest.approx(wanted, abs=0.005)


def test_which_emotions_go_together(tmp_path, run):
    found = section(written(tmp_path, run), "Emotions that go together")
    true, p = answers(run)
    whole = ~np.isnan(true).any(1)
    for caption, there in (("In truth", true[whole] > 0), ("As predicted", p[whole] > 0.5)):
        _, rows = rows_of(found, f"{caption}, percent of the row")
        for i, one in enumerate(EMOTIONS):
            some = [row for row in there if row[i]]
            assert (rows[one][i], rows[one][3]) == ("-", f"{len(some):,}")
            for j in {0, 1, 2} - {i}:
                assert float(rows[one][j]) == pytest.approx(100 * sum(row[j] for row in some) / len(some), abs=0.51)
    assert f"Of {whole.sum()} test utterances (all 4 replicas together)" in text_of(found)


def test_calibration_of_presence_counts_every_known_emotion(tmp_path, run):
    figure = next(section(written(tmp_path, run), "Calibration").iter("figure"))
    true, p = answers(run)
    known = ~np.isnan(true)
    told = [
        tuple(map(float, pair))
        for pair in re.findall(r"([\d.]+) sure, ([\d.]+) right", figure.find("svg").get("aria-label"))
    ]
    bin_of = np.clip(np.ceil(p[known] * 15).astype(int) - 1, 0, 14)
    wanted = [(p[known][bin_of == b].mean(), true[known][bin_of == b].mean()) for b in np.unique(bin_of)]
    np.testing.assert_allclose(told, wanted, atol=0.006)


def test_the_surest_wrong_answer_comes_first(tmp_path, run):
    items = [text_of(e) for e in section(written(tmp_path, run), "Most confident mistakes").find("ol")]
    of_id = {}
    for line in lines_of(run):
        of_id.setdefault(line["id"], []).append(line)
    worst = {}
    for id, lines in of_id.items():
        for name in EMOTIONS:
            p, target = np.mean([line["probabilities"][name] for line in lines]), lines[0]["targets"][name]
            if target is not None and (p > 0.5) != (target >= 0.5):
                worst[id] = max(worst.get(id, (0, "", 0)), (max(p, 1 - p), name, p))
    order = sorted(worst, key=lambda id: -worst[id][0])
    assert [re.search(r"d\d+_u\d+", item)[0] for item in items[:20]] == order[:20]
    for id, item in zip(order, items, strict=False):
        _, name, p = worst[id]
        assert f"{name} {p:.3f} though it is {'not there' if p > 0.5 else 'there'}" in item


def test_a_step_has_the_precision_of_the_recall_where_it_ends():
    """Recall 0.5 at precision 1, then 1.0 at 0.4: the area is 0.5 + 0.2."""
    picture = svg_numbers.precision_recall("t", [0.5, 1.0], [1.0, 0.4], 0.3)
    assert 'd="M42.0 24.0V24.0H195.0V118.8H348.0"' in picture
    assert 'class="rule" d="M42 134.6H348"' in picture
