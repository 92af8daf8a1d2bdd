"""Where tasks of numbers and of several targets could go wrong: rows without targets, batches of unequal parts, and what only
one kind of task does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from experiments import of_family, with_sgd
from test_targets import AFFECT, POLARITY
from test_tasks import MOODS, asked_for, corpus_path, drawn, finished  # noqa: F401 - a fixture

from mer_jax import experiment
from mer_jax.config import validate
from mer_jax.data.batch import Batch
from mer_jax.data.targets import Target
from mer_jax.demo import html
from mer_jax.evaluation import attribution, final, finished_run, robustness, robustness_curves
from mer_jax.predict import output
from mer_jax.predict.prediction import Prediction
from mer_jax.settings import LossSettings
from mer_jax.tasks import task_of
from mer_jax.training import step


def task_for(*targets):
    return task_of(type("Asked", (), {"asked": targets}))


def on_device(targets):
    return {name: jnp.asarray(values) for name, values in targets.items()}


@pytest.mark.parametrize("name", ["affect", "classes+affect"])
def test_rows_without_a_target_leave_the_gradient_alone(corpus_path, name):  # noqa: F811
    """Turns that are only heard have zeros for targets, and so have rows that lack one of several."""
    corpus = asked_for(corpus_path, name)
    task, rows = task_of(corpus), corpus.rows("train")[:6]
    targets = {k: np.concatenate([v, np.zeros_like(v)]) for k, v in task.targets(corpus, rows, soft=True).items()}
    weight, settings = jnp.asarray([1.0] * 6 + [0.0] * 6), LossSettings(regression="distribution")
    prior = jax.tree.map(jnp.asarray, task.prior(targets))
    values = jnp.asarray(np.random.default_rng(0).normal(size=(12, task.width)), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        gradient = jax.grad(lambda v: task.loss(v, on_device(targets), weight, prior=prior, settings=settings))(values)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:6]).max() > 0
    assert not np.asarray(gradient[6:]).any()


def evaluated(task, values, targets, size):
    """What a part's evaluation holds, in batches of so many rows."""
    rows, found = len(values), {}
    for start in range(0, rows, size):
        here = slice(start, start + size)
        batch = on_device({name: x[here] for name, x in targets.items()})
        with jax.numpy_dtype_promotion("standard"):
            one = task.evaluate(jnp.asarray(values[here]), batch, jnp.ones(len(values[here]), jnp.float32))
        for name, x in one.means.items():
            found[name] = found.get(name, 0.0) + float(x) / rows
        for name, x in one.counts.items():
            found[name] = found.get(name, 0) + np.asarray(x)
        for name, x in one.rows.items():
            found.setdefault(name, []).append(np.asarray(x))
    return {name: np.concatenate(x) if isinstance(x, list) else x for name, x in found.items()}


@pytest.mark.parametrize("name", ["affect", "moods", "classes+affect", "moods+polarity+affect"])
def test_the_loss_of_a_part_does_not_depend_on_batches(corpus_path, name):  # noqa: F811
    """Known numbers lie unequally in them."""
    corpus = asked_for(corpus_path, name)
    task, rows = task_of(corpus), corpus.rows("train")
    rows = rows[np.argsort(corpus.index["value/arousal"][rows], kind="stable")]  # those without one last
    targets = task.targets(corpus, rows, soft=False)
    values = np.random.default_rng(4).normal(size=(len(rows), task.width)).astype(np.float32)
    whole, pieces = (task.score(evaluated(task, values, targets, size)) for size in (len(rows), 7))
    assert pieces["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    if name == "affect":
        each = np.abs(values - (targets["value"] - 3) / 2)
        wanted = np.mean([each[known, i].mean() for i, known in enumerate(targets["known"].T)])
        assert whole["loss"] == pytest.approx(wanted, rel=1e-5)


def test_what_is_told_as_the_loss_is_not_what_raters_say(corpus_path):  # noqa: F811
    corpus = asked_for(corpus_path, "moods")
    task, rows = task_of(corpus), corpus.rows("valid")
    values = np.random.default_rng(5).normal(size=(len(rows), task.width)).astype(np.float32)
    hard, soft = (evaluated(task, values, task.targets(corpus, rows, soft=soft), 64) for soft in (False, True))
    assert task.score(hard)["loss"] == task.score(soft)["loss"]


@pytest.mark.parametrize("task", [task_for(POLARITY), task_for(POLARITY, AFFECT)])
def test_what_is_explained_of_ordered_classes_is_the_class(task):
    """Not the score or a threshold that stands at its place."""
    rng = np.random.default_rng(6)
    params = {m: jnp.asarray(rng.normal(size=(5, task.width)) * 3, jnp.float32) for m in ("text", "audio")}

    def apply(params, state, batch):
        return {"logits": sum(batch.features[m].sum(1) @ params[m] for m in params)}, state

    features = {m: jnp.asarray(rng.normal(size=(9, 2, 5)), jnp.float32) for m in params}
    batch = Batch(features, {m: jnp.ones((9, 2), bool) for m in params}, {}, jnp.ones(9, jnp.float32))
    model = step.EvalState(params, {}, {m: {"mean": jnp.zeros(5), "scale": jnp.ones(5)} for m in params})
    outputs, shapley = attribution.shapley_by_modality(apply, model, batch, task)
    every = task.logits(apply(params, {}, batch)[0]["logits"])
    nothing = task.logits(jnp.zeros((9, task.width), jnp.float32))
    np.testing.assert_allclose(sum(shapley.values()), every - nothing, atol=1e-4)
    decided = np.asarray(task.decide(apply(params, {}, batch)[0]["logits"]))
    decided = decided if decided.ndim == 1 else decided[:, :3].argmax(1)
    np.testing.assert_array_equal(np.asarray(task.explained(outputs["logits"])).argmax(1), decided)
    assert len(set(decided.tolist())) > 1


def test_effective_robustness_is_above_0_where_less_is_lost():
    """Of an error, too, which grows."""
    task = task_for(AFFECT)

    def of(*values):
        return {score: [[v, None] for v in values] for score in task.metrics}

    found = robustness_curves.effective(task, of(0.5, 0.6), of(0.5, 0.9))
    assert found["mae"] == pytest.approx(0.3)
    assert found["ccc"] == pytest.approx(-0.3)


def test_scores_of_bins_are_not_those_of_rows():
    """So that robustness.json's, which are of counts, are not held against those of metrics.json."""
    assert task_for(MOODS).nearly == {"map", "ap_glad", "ap_cross"}
    assert task_for(AFFECT, MOODS).nearly == {"moods_map", "moods_ap_glad", "moods_ap_cross"}
    assert not task_for(AFFECT).nearly
    task, told = task_for(MOODS), []
    result = {"present": {}, "modalities": [], "missing": {}, "effective": None, "utterances": 0}
    result |= {"present": {"": {"macro_f1": [0.5, None]}}, "clean": {name: [0.5, None] for name in task.metrics}}
    known = {"test": {name: {"mean": 0.51} for name in task.metrics}, "protocol": {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness.console, "print", lambda text: told.append(text))
        robustness.print_what_was_tested(task, result, known, 1, 1.0, epath.Path("run"))
    notes = [text for text in told if text.startswith("note: the clean")]
    assert len(notes) == len(task.metrics) - 3
    assert not any(" map " in text for text in notes)


def test_intervals_are_not_of_what_training_knows():
    task, rows = task_for(AFFECT), 60
    truth = {"value": np.full((rows, 2), 3, np.float32), "known": np.ones((rows, 2), bool)}
    error = np.where(np.arange(rows) < 30, 0.0, 1.0)[:, None].astype(np.float32)
    knowing = np.arange(rows) < 30
    found = task.analyse({"predicted": truth["value"] + error}, None, {"valid": truth, "knowing": knowing})
    assert found["calibration"]["half_width"]["valence"] == 1.0
    found = task.analyse({"predicted": truth["value"] + error}, None, {"valid": truth, "knowing": ~knowing})
    assert found["calibration"]["half_width"]["valence"] == 0.0
    knowing[:-8] = True
    found = task.analyse({"predicted": truth["value"] + error}, None, {"valid": truth, "knowing": knowing})
    assert found["calibration"]["half_width"] == {"valence": None, "arousal": None}
    assert "training knows nothing" in task.describe_calibration(found, "validation")


def test_a_page_does_not_take_the_place_of_a_number_for_a_probability():
    task = task_for(POLARITY, AFFECT)
    output = task.describe_prediction(np.array([0.2, 0.5, 0.3, 4.92, 3.0]))
    page = html.conversation([Prediction("a", output, speaker="Ann", sentence="So.")], task)
    assert "<span>50 %</span>" in page
    assert "98 %" not in page


def test_a_temperature_of_emotions_is_not_one_of_so_many_utterances():
    task, rng = task_for(MOODS), np.random.default_rng(7)
    for rows, words in ((20, "since 40 emotions of utterances to fit it on are too few"), (400, "800 emotions of utt")):
        value = rng.integers(0, 2, (rows, 2)).astype(np.float32)
        sure = np.where(rng.random((rows, 2)) < 0.8, value, 1 - value) * 0.98 + 0.01
        truth = {"valid": {"value": value, "known": np.ones((rows, 2), bool)}}
        found = task.analyse({"predicted": sure.astype(np.float32)}, None, truth)
        assert words in task.describe_calibration(found, "validation")


def test_no_two_columns_of_a_table_are_called_the_same(tmp_path):
    classes = Target("classes", "classification", outputs=MOODS.names)
    with output.open_output(tmp_path / "out.csv", task_for(classes, MOODS)):
        pass
    header = (tmp_path / "out.csv").read_text().strip().split(",")
    assert header[3:9] == [
        "prediction",
        "probabilities.glad",
        "probabilities.cross",
        "moods_prediction",
        "moods_probabilities.glad",
        "moods_probabilities.cross",
    ]


def test_targets_that_differ_by_their_ranges_are_told_apart():
    other = dataclasses.replace(AFFECT, ranges=((1, 5), (0, 5)))
    a, b = (finished_run.FinishedRun.__new__(finished_run.FinishedRun) for _ in range(2))
    for run, target in ((a, AFFECT), (b, other)):
        object.__setattr__(run, "task", task_for(target))
    what, of_a, of_b = finished_run.first_difference(a, b)
    assert (what, of_a != of_b) == ("targets", True)


def test_only_what_was_not_tried_is_taken_from_an_old_run():
    old, tried = {"temperature": 2.0, "test": {}, "test_scaled": {"nll": 1.0}}, {"temperature": 2.0, "scaling": {}}
    numbers = {"covered": 0.9, "half_width": {"valence": 0.5}}
    found = [{"name": name, "calibration": x} for name, x in zip("abc", (old, tried, numbers), strict=True)]
    found.append({"name": "diverged"})
    assert final.untested_temperatures(found) == {"a": {"temperature": 2.0, "test_scaled": {"nll": 1.0}}}


def config_of(path, task, **train):
    config = with_sgd(of_family("lsgmer", ("text", "audio")))
    config.data.path, config.data.task = str(path), task
    config.model.width, config.model.heads, config.loss.apc = 8, 2, 0.0
    config.train.batch_size, config.train.epochs, config.train.inspect = 16, 1, False
    for name, value in train.items():
        setattr(config.train, name, value)
    return validate(config)


@pytest.mark.slow
def test_a_run_of_numbers_is_scored_again(corpus_path, tmp_path, capsys):  # noqa: F811
    """The same figures; those of intervals are of another kind than those of temperatures."""
    config = config_of(corpus_path, "affect", select="ccc")
    corpus = experiment.open_corpus(config)
    experiment.run(config, corpus, tmp_path / "run")
    assert final.score_again(config, corpus, epath.Path(tmp_path / "run")) == 0
    assert "the same figures" in capsys.readouterr().out
