"""What every task keeps of its contract, on a corpus that can be asked for all of them."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_description
from experiments import of_family
from test_targets import AFFECT, MOODS, POLARITY, asked_utterances, with_moods

from mer_jax import experiment
from mer_jax.config import validate
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.demo import html
from mer_jax.errors import UserError
from mer_jax.evaluation.predictions import format_predictions, parse_predictions
from mer_jax.metrics.significance import bootstrap
from mer_jax.models.family import family_of
from mer_jax.predict import output
from mer_jax.predict.prediction import Prediction, empty_output
from mer_jax.tasks import task_of, task_of_results
from mer_jax.training import compiled

MOOD = dataclasses.replace(POLARITY, name="mood", kind="classification")
TASKS = ("classes", "affect", "moods", "polarity", "mood", "classes+affect", "affect+moods", "moods+polarity+affect")


@pytest.fixture(scope="module")
def corpus_path(tmp_path_factory):
    """Everything can be asked for; of some utterances something is not known."""

    path = tmp_path_factory.mktemp("tasks") / "asked"
    description = small_description(targets=(AFFECT, POLARITY, MOODS, MOOD), groups=("gender",))
    write_corpus(path, with_moods(asked_utterances(120)), description)
    return path


def asked_for(path, task):
    corpus = Corpus(path)
    corpus.ask(task)
    return corpus


def drawn(task, rows, seed=0):
    """What a model may predict of rows."""
    values = np.random.default_rng(seed).normal(size=(rows, task.width)).astype(np.float32)
    one = task.temperature_of(finished(task))
    return np.asarray(task.calibrate(jnp.asarray(values), np.float32(one)), np.float64)


def finished(task):
    """What metrics.json may say of a replica, as far as calibration needs it."""
    alone = {"calibration": {"temperature": 1.0, "scaling": {"used": True, "rows": 9, "reason": ""}}}
    alone["calibration"] |= {"covered": 0.9, "half_width": {"valence": 0.5, "arousal": None}}
    parts = {part.asked: alone for part in getattr(task, "parts", ())}
    return alone | {"parts": parts}


@pytest.mark.parametrize("name", TASKS)
def test_predictions_come_back(corpus_path, name, tmp_path):
    corpus = asked_for(corpus_path, name)
    task, rows = task_of(corpus), corpus.rows("test")
    targets, predicted = task.targets(corpus, rows, soft=False), drawn(task, len(rows))
    entries = [("one", np.arange(len(rows)), predicted)]
    text = format_predictions(task, corpus, rows, entries, targets, [""] * len(rows))
    lines = list(enumerate(text.encode().splitlines(), 1))
    told = json.loads(json.dumps({"task": task.name, **task.describe(), "config": {}}))
    again = task_of_results(told)
    assert (again.outputs, list(again.metrics), again.describe()) == (task.outputs, list(task.metrics), task.describe())
    found = parse_predictions(tmp_path / "p", lines, again, ["one"], {"one"})
    order = np.argsort(corpus.index["id"][rows])
    np.testing.assert_allclose(found.predicted, predicted[order], atol=1e-6)
    wanted = task.count(targets, task.decisions(predicted))
    counted = again.count(found.targets, found.decisions)
    np.testing.assert_allclose(counted, wanted, atol=1e-4 * max(1, np.abs(wanted).max()))
    first = json.loads(lines[0][1])
    for damage in ({"prediction": "?"}, {"label": "?", "targets": {"valence": "?"}}):
        bad = (1, json.dumps(first | damage).encode())
        with pytest.raises(UserError, match="line 1 is damaged"):
            parse_predictions(tmp_path / "p", [bad], again, ["one"], {"one"})


def plain_distance(task, teacher, values):
    """KL between what distributions say, the squared difference of numbers."""
    if task.name == "several":
        ends = np.cumsum([part.width for part in task.parts])[:-1]
        parts = zip(task.parts, np.split(teacher, ends, -1), np.split(values, ends, -1), strict=True)
        return np.mean([plain_distance(*part) for part in parts], axis=0)
    if task.name == "regression":
        return ((teacher - values) ** 2).mean(-1)
    if task.name == "multilabel":
        p, q = (np.stack([1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))], -1) for x in (teacher, values))
        return (p * np.log(p / q)).sum(-1).mean(-1)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (teacher, values))
    return (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize("name", [name for name in TASKS if "polarity" not in name])
def test_the_distance_from_a_teacher(corpus_path, name):
    task = task_of(asked_for(corpus_path, name))
    teacher, values = np.random.default_rng(0).normal(size=(2, 9, task.width)).astype(np.float32)
    found = task.distance(jnp.asarray(teacher), jnp.asarray(values))
    np.testing.assert_allclose(found, plain_distance(task, np.float64(teacher), np.float64(values)), atol=1e-6)


def test_two_scores_of_one_name_are_refused():
    numbers = dataclasses.replace(AFFECT, names=("ccc", "mae"), outputs=("ccc", "mae"))
    asked = (numbers, dataclasses.replace(AFFECT, name="ccc"))
    with pytest.raises(UserError, match=r"data.task=affect\+ccc: 'CCC of ccc' and 'ccc CCC' are both called ccc_ccc"):
        task_of(type("M", (), {"asked": asked}))


def test_a_range_of_a_run_that_does_not_go_up_is_told(corpus_path):
    told = {"task": "regression", **task_of(asked_for(corpus_path, "affect")).describe(), "config": {}}
    told["target"]["ranges"][1] = [5, 1]
    with pytest.raises(ValueError, match=r"field 'target.ranges': each must go up"):
        task_of_results(told)


def test_an_interval_of_a_run_that_is_of_no_number_is_told(corpus_path):
    task = task_of(asked_for(corpus_path, "affect"))
    widths = {"valence": 0.5, "arousal": None}
    calibration = {"half_width": widths, "test": {"valence": 0.9, "power": 0.9}}
    replica = {"status": "finished", "valid": {"counts": {}}, "test": {"counts": {}}, "calibration": calibration}
    told = {"protocol": {}, "points": [], "replicas": [replica]}
    with pytest.raises(ValueError, match=r"field 'replicas.0.calibration.test': it must have valence, arousal"):
        task.check_results(told)
    calibration["test"] = widths
    task.check_results(told)


@pytest.mark.parametrize("name", TASKS)
def test_counts_add_up_over_dialogues(corpus_path, name):
    corpus = asked_for(corpus_path, name)
    task, rows = task_of(corpus), corpus.rows("train")
    targets, predicted = task.targets(corpus, rows, soft=False), drawn(task, len(rows))
    decisions, dialogues = task.decisions(predicted), corpus.index["dialogue"][rows]
    by = task.count_by_dialogue(targets, decisions, dialogues)
    assert len(by) == len(set(dialogues.tolist()))
    np.testing.assert_allclose(by.sum(0), task.count(targets, decisions), atol=1e-6)
    found = bootstrap(np.stack([by, by]), samples=50, scores=task.metric_values)
    assert found.keys() == task.metrics.keys()
    assert all(np.isfinite([ends["low"], ends["high"]]).all() for ends in found.values())
    assert set(task.headline) <= task.metrics.keys()
    assert task.main_metric in task.metrics


@pytest.mark.parametrize("name", TASKS)
def test_a_part_is_scored_as_it_is_counted(corpus_path, name):
    """Sums over batches, in any order, with rows that only fill up."""
    corpus = asked_for(corpus_path, name)
    task, rows = task_of(corpus), corpus.rows("valid")
    targets = task.targets(corpus, rows, soft=False)
    values = np.random.default_rng(3).normal(size=(len(rows), task.width)).astype(np.float32)
    weight = np.ones(len(rows), np.float32)
    with jax.numpy_dtype_promotion("standard"):
        found = task.evaluate(jnp.asarray(values), {k: jnp.asarray(v) for k, v in targets.items()}, jnp.asarray(weight))
    evaluated = {k: np.asarray(v) for k, v in (found.counts | found.rows).items()}
    evaluated |= {k: float(v) / len(rows) for k, v in found.means.items()}
    scores = task.score(evaluated)
    decisions = np.asarray(task.decide(jnp.asarray(values)))
    wanted = task.metric_values(task.count(targets, decisions))
    for score, value in wanted.items():
        near = 0.02 if score.startswith(("map", "ap_")) or "_map" in score or "_ap_" in score else 1e-4
        assert scores[score] == pytest.approx(float(value), abs=near), score
    assert scores["loss"] > 0
    words = [task.label_in_words(corpus, int(row)) for row in rows[:3]]
    assert all(words)
    assert task.floor(task.targets(corpus, corpus.rows("train"), soft=False), targets).shape == np.shape(
        task.count(targets, decisions)
    )


@pytest.mark.parametrize("name", TASKS)
def test_what_is_true_of_every_output_is_a_number_from_minus_one_to_one(corpus_path, name):
    corpus = asked_for(corpus_path, name)
    task, rows = task_of(corpus), corpus.rows("train")
    targets = {k: jnp.asarray(v) for k, v in task.targets(corpus, rows, soft=False).items()}
    degrees, known = map(np.asarray, task.degrees(targets))
    assert degrees.shape == known.shape == (len(rows), task.width)
    assert np.abs(degrees[known]).max() == 1
    assert known.all() or name not in ("classes", "polarity", "mood")
    if name == "classes+affect":  # of some no class is known
        has = corpus.has("classes")[rows]
        assert 0 < has.sum() < len(rows)
        np.testing.assert_array_equal(known[:, :3], np.tile(has[:, None], 3))
    for i, named in enumerate(task.outputs):
        if (number := named.removeprefix("affect ")) in ("valence", "arousal"):
            value = corpus.values((number,), rows)[:, 0]
            np.testing.assert_array_equal(known[:, i], ~np.isnan(value))
            np.testing.assert_allclose(degrees[known[:, i], i], (value[known[:, i]] - 3) / 2, atol=1e-6)
        else:
            assert set(degrees[known[:, i], i].tolist()) == {-1, 1}
    if not task.no_members:
        np.testing.assert_array_equal((degrees == 1) & known, np.asarray(task.members(targets)) == 1)


def batch_of(corpus, task, rows, widths):
    rng = np.random.default_rng(0)
    features = {m: jnp.asarray(rng.normal(size=(len(rows), 4, w)), jnp.float32) for m, w in widths.items()}
    mask = {m: jnp.ones((len(rows), 4), bool) for m in widths}
    targets = {name: jnp.asarray(x) for name, x in task.targets(corpus, rows, soft=True).items()}
    return Batch(features, mask, targets, jnp.ones(len(rows), jnp.float32))


def config_for(family, task):
    config = of_family(family, ("text", "audio"))
    if family == "lsgmer":
        config.model.width, config.model.heads = 16, 2
        if task == "affect":
            config.loss.apc = 0.0
    else:
        config.model.projection, config.model.late_widths = 16, (16,)
    return validate(config)


FAST = (("lsgmer", "classes+affect"), ("deepmsi_mer", "moods"))
FAMILY_AND_TASK = [
    pytest.param(family, name, marks=[] if (family, name) in FAST else pytest.mark.slow)
    for family in ("lsgmer", "deepmsi_mer")
    for name in ("affect", "moods", "polarity", "classes+affect")
]


@pytest.mark.parametrize(("family", "name"), FAMILY_AND_TASK)
def test_a_gradient_reaches_every_parameter(corpus_path, family, name):
    corpus, config = asked_for(corpus_path, name), config_for(family, name)
    task = task_of(corpus)
    config.check_task(task)
    built = family_of(config, corpus, task)
    _, model = compiled.model_of(config, corpus, task)
    batch = batch_of(
        corpus, task, corpus.rows("train")[:24], {m: corpus.modalities[m]["width"] for m in ("text", "audio")}
    )
    prior = jax.tree.map(jnp.asarray, task.prior(task.targets(corpus, corpus.rows("train"), soft=False)))
    params, state = model.init(jax.random.key(0), {}, {})

    def loss(params):
        outputs, _ = model.apply(params, state, batch, jax.random.key(1))
        return built.objective(config, outputs, batch, prior)[0]

    with jax.numpy_dtype_promotion("standard"):
        value, gradient = jax.value_and_grad(loss)(params)
    assert np.isfinite(value)
    silent = [jax.tree_util.keystr(p) for p, g in jax.tree_util.tree_leaves_with_path(gradient) if not np.abs(g).any()]
    unused = ["['temperature']"] if name == "affect" else []
    assert [p for p in silent if "out']['bias" not in p and p not in unused and "key']['bias" not in p] == []


def checked(path, family="lsgmer", **changes):
    config = of_family(family, ("text", "audio"))
    config.data.path = str(path)
    for field, value in changes.items():
        group, _, name = field.partition("_")
        setattr(getattr(config, group), name, value)
    config.train.batch_size = 8
    experiment.check(validate(config), experiment.open_corpus(config))


REFUSED = [
    ({"data_task": "vad"}, r"data.task=vad: .*no target 'vad'; it has classes \(classification: .*affect \(regression"),
    ({"data_task": "affect"}, "loss.apc=0.5: must be 0 for target 'affect': numbers are no distribution"),
    ({"data_task": "affect", "loss_apc": 0.0}, "train.select=weighted_f1: must for target 'affect' be one of ccc, mae"),
    ({"data_task": "affect", "loss_imbalance": "focal"}, "loss.imbalance=focal: is of other tasks"),
    ({"data_task": "affect", "loss_multilabel": "asymmetric"}, "loss.multilabel=asymmetric: is of other tasks"),
    ({"data_task": "moods", "loss_imbalance": "balanced_softmax"}, "balanced_softmax: is of one class out of several"),
    ({"data_task": "moods", "loss_regression": "ccc"}, "loss.regression=ccc: is of other tasks"),
    ({"loss_regression": "ccc"}, "loss.regression=ccc: is of other tasks; the target 'classes'"),
    ({"data_task": "affect", "loss_regression": "distribution"}, "add --config.data.soft_labels=True"),
    ({"data_task": "affect", "data_soft_labels": True}, "loss.regression=distribution alone"),
    ({"data_task": "polarity", "data_soft_labels": True}, "does not say how its raters voted"),
    (
        {"data_task": "classes+affect", "loss_task_weights": (1.0,)},
        r"task_weights=\(1.0,\): must be one number for each",
    ),
    ({"loss_task_weights": (1.0, 2.0)}, r"task_weights=\(1.0, 2.0\): weighs several targets, and 'classes' is one"),
    ({"data_task": "affect", "loss_task_weights": (1.0,)}, "weighs several targets, and 'affect' is one"),
    ({"data_task": "classes+affect", "loss_task_weights": (0.0, 0.0)}, "at least 0, and one above it"),
    ({"data_task": "classes+affect", "loss_task_weights": (float("inf"), 1.0)}, "must be finite, at least 0"),
    ({"data_task": "moods+polarity", "loss_regression": "ccc"}, "loss.regression=ccc: is of other tasks"),
    ({"data_task": "classes+moods", "loss_imbalance": "balanced_softmax"}, "balanced_softmax: is of one class out of"),
    ({"data_task": "moods", "loss_multilabel": "asymmetric", "loss_imbalance": "focal"}, "imbalance=focal: the asymm"),
    ({"data_task": "classes+affect", "model_label_update": "class_mean"}, "label_update=class_mean: must be optimizer"),
    ({"data_task": "affect", "loss_apc": 0.0, "model_label_update": "class_mean"}, "label_update=class_mean: must be"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_does_not_fit_the_task_is_refused(corpus_path, changes, words):
    with pytest.raises(UserError, match=words):
        checked(corpus_path, **changes)


def test_what_fits_is_not(corpus_path):
    checked(corpus_path, data_task="affect", loss_apc=0.0, train_select="ccc_valence")
    checked(corpus_path, data_task="classes+affect", train_select="affect_mae", loss_task_weights=(1.0, 0.5))
    checked(corpus_path, data_task="classes+affect+moods", loss_regression="ccc", loss_multilabel="asymmetric")
    checked(corpus_path, data_task="classes+affect", loss_imbalance="balanced_softmax")
    checked(corpus_path, "deepmsi_mer", data_task="polarity", train_select="qwk")


def test_a_number_that_a_part_lacks_is_told(tmp_path):
    def lacking():
        for utterance in asked_utterances():
            values = dict(utterance.values)
            if utterance.split == "test":
                values.pop("arousal", None)
            yield dataclasses.replace(utterance, values=values)

    write_corpus(tmp_path / "asked", lacking(), small_description(targets=(AFFECT, POLARITY), groups=("gender",)))
    with pytest.raises(
        UserError, match="arousal of target 'affect' is known of none of the 16 utterances of the test part"
    ):
        checked(tmp_path / "asked", data_task="affect", loss_apc=0.0, train_select="ccc")


def test_intervals_hold_as_many_as_they_should():
    """Split conformal prediction, against the rank counted by hand."""
    rng = np.random.default_rng(0)
    task = task_of(type("M", (), {"asked": (AFFECT,)}))
    truth = {"value": rng.uniform(1, 5, (39, 2)).astype(np.float32), "known": np.ones((39, 2), bool)}
    truth["known"][:, 1] = np.arange(39) < 8  # the 9th of 8 would hold 90 %
    predicted = truth["value"] + np.linspace(-1, 1, 39, dtype=np.float32)[:, None]
    found = task.analyse({"predicted": predicted}, None, {"valid": truth})["calibration"]
    sizes = sorted(np.abs(np.linspace(-1, 1, 39)))
    assert found["half_width"]["valence"] == pytest.approx(sizes[35], abs=1e-5)  # of 40 places the 36th
    assert found["half_width"]["arousal"] is None
    fresh = rng.uniform(1, 5, (4000, 2)).astype(np.float32)
    test = {"value": fresh, "known": np.ones((4000, 2), bool)}
    shifted = {"predicted": fresh + rng.uniform(-1, 1, (4000, 2)).astype(np.float32)}
    found = task.analyse({"predicted": predicted}, shifted, {"valid": truth, "test": test, "raters": None})
    assert found["calibration"]["test"]["valence"] == pytest.approx(sizes[35], abs=0.02)


def prediction_of(task, seed=0, **about):
    fields = {"speaker": "Ann", "sentence": "So <good>.", "start": 0.0, "end": 1.0, "attribution": None}
    output = task.describe_prediction(drawn(task, 1, seed)[0])
    return Prediction(id=f"p{seed}", output=output, **(fields | about))


def test_numbers_that_an_utterance_has_are_written_as_people_gave_them():
    found = Prediction("u", {"prediction": {"valence": 0.5}}, values={"valence": float(np.float32(0.813))})
    assert found.to_json()["values"] == {"valence": 0.813}


@pytest.mark.parametrize("name", TASKS)
def test_a_person_reads_every_task(corpus_path, name, tmp_path):
    corpus = asked_for(corpus_path, name)
    task = task_of(corpus)
    said = [prediction_of(task, seed) for seed in range(3)]
    wrong = dataclasses.replace(said[0], output=empty_output(said[0].output), error="it is noise")
    page = html.answer(said[0], task) + html.timeline([*said, wrong], task) + html.conversation([*said, wrong], task)
    assert "So &lt;good&gt;" in page
    shown = task.shares(said[0].output)
    assert all(0 <= share <= 1 for share in shown.values())
    assert all(f'<th scope="row">{one}</th>' in page for one in shown)
    assert task.output_in_words(said[0].output) in page
    assert task.explained_in_words(said[0].output) in task.outputs
    with output.open_output(tmp_path / "out.csv", task) as write:
        for one in (*said, wrong):
            write(one)
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows[4][-1] == "it is noise"
    about, result = task.describe_export(), finished(task) | {"valid": {"per_class": {}}}
    assert about["output"]["shape"] == ["batch", task.width]
    assert json.dumps(about)
    for part in getattr(task, "parts", ()):
        result.setdefault("valid", {}).setdefault("parts", {})[part.asked] = {"per_class": {}}
    card = task.card(["text"], result, "validation")
    assert all(isinstance(line, str) for line in card.scores)
    words = task.describe_calibration(result, "validation")
    assert words
    assert "None" not in words
    values = {**corpus[0].values, "glad": 1.0, "cross": 0.0}
    assert task.count_prediction(corpus.labels[0], values, said[0].output).sum() > 0
    assert task.count_prediction("nobody knows", {}, said[0].output) is None


def test_an_ordered_class_is_learnt_as_far_as_its_raters_agree(tmp_path):
    """A normal density at the levels, by hand."""

    def spread():
        for i, utterance in enumerate(asked_utterances()):
            yield dataclasses.replace(utterance, spreads={} if i % 2 else {"polarity": 0.5 * (i % 4)})

    write_corpus(tmp_path / "asked", spread(), small_description(targets=(AFFECT, POLARITY), groups=("gender",)))
    corpus = asked_for(tmp_path / "asked", "polarity")
    task, rows = task_of(corpus), np.arange(len(corpus))
    found = task.raters(corpus, rows)
    for row in rows:
        utterance = corpus[int(row)]
        if "polarity" not in utterance.spreads:
            assert not found[row].any()
            continue
        s = max(utterance.spreads["polarity"], 0.1)
        density = np.exp([-((k - utterance.values["polarity"]) ** 2) / (2 * s**2) for k in range(3)])
        np.testing.assert_allclose(found[row], density / density.sum(), atol=1e-6)
    target = task.targets(corpus, rows, soft=True)["target"]
    np.testing.assert_allclose(target.sum(1), 1, atol=1e-6)
    checked(tmp_path / "asked", data_task="polarity", data_soft_labels=True, train_select="qwk")
