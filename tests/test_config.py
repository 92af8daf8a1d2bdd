import importlib.util
import re

import jax
import numpy as np
import pytest
from conftest import ROOT, class_targets
from experiments import FAMILIES

from mer_jax import config as config_lib
from mer_jax import main, old_runs, sweep
from mer_jax.config import validate
from mer_jax.data import loader, protocols
from mer_jax.data import pool as pool_lib
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.models import deepmsi_mer_frames as deepmsi_mer_frames_lib
from mer_jax.models import family
from mer_jax.models import family as family_lib
from mer_jax.models import lsgmer as lsgmer_lib
from mer_jax.models.deepmsi_mer import DeepMSIExperiment
from mer_jax.models.deepmsi_mer_frames import DeepMSIFramesExperiment
from mer_jax.models.lsgmer import LSGMERExperiment
from mer_jax.runtime import sharding
from mer_jax.tasks import task_of
from mer_jax.training import compiled as compiled_lib
from mer_jax.training import prepare

CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.py") if "def get_config" in p.read_text())
SWEEPS = sorted(p for p in (ROOT / "configs").glob("*.py") if "def get_sweep" in p.read_text())
PARAMETERS = {
    "lsgmer": 2_257_159, "lsgmer:tiny": 38_439, "lsgmer:iemocap": 2_257_159, "lsgmer:meld": 1_131_783, "lsgmer:emodb": 73_543,
    "deepmsi_mer_frames": 47_729_897, "deepmsi_mer_frames:published": 47_732_529, "deepmsi_mer_frames:tiny": 457_547,
    "deepmsi_mer": 758_887, "deepmsi_mer:tiny": 27_559, "deepmsi_mer:iemocap": 16_993_383, "deepmsi_mer:meld": 16_993_383,
}  # fmt: skip


def load_config(name):
    path, _, arg = name.partition(":")
    spec = importlib.util.spec_from_file_location(path, ROOT / "configs" / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def test_the_table_of_parameters_names_every_config():
    assert {name.partition(":")[0] for name in PARAMETERS} == {path.stem for path in CONFIGS}


def build_without_reading(config, corpus, replicas):
    """The compiled functions for so many replicas of the official split, and the pool."""
    rows = np.arange(len(corpus))
    targets = class_targets(corpus.label_ids(rows), len(corpus.labels))
    pool = pool_lib.select_utterances(corpus, rows, {m: 128 for m in config.data.modalities}, targets)
    fold = protocols.split(corpus, "official", 0).folds[0]
    widths = {m: corpus.modalities[m]["width"] for m in config.data.modalities}
    widths |= {m: 3 for m in widths if "pixels" in corpus.modalities[m]}
    stats = {m: {"mean": np.zeros(w, np.float32), "scale": np.ones(w, np.float32)} for m, w in widths.items()}
    given = family.ReplicaInputs(stats, np.zeros(len(corpus.labels), np.float32), {})
    trains = np.isin(np.arange(len(corpus)), fold.train)[None]
    mesh = sharding.make_mesh(replicas)
    data = prepare.TrainingData(loader.BatchSource(corpus, pool, "refuse", mesh), (fold,), trains, (given,), (), [])
    return compiled_lib.build(config, corpus, task_of(corpus), data, replicas, mesh), pool


def marks_of(name):
    slow = name.startswith("deepmsi_mer_frames") and ":tiny" not in name
    return [pytest.mark.slow] * slow + [pytest.mark.nnx] * name.endswith(":tiny")


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in PARAMETERS])
def test_every_config_traces_a_step(name, demo, framed):
    config = load_config(name)
    of_frames = isinstance(config, deepmsi_mer_frames_lib.DeepMSIFramesExperiment)
    corpus = framed if of_frames else demo
    if of_frames:
        config.data.modalities = ("text", "audio", "visual")
    config = validate(config)
    config.check_corpus(corpus)
    compiled, pool = build_without_reading(config, corpus, replicas=2)
    state = compiled.like["state"]
    count = sum(int(np.prod(x.shape[1:])) for x in jax.tree.leaves(state.params))
    assert count == PARAMETERS[name]
    batch, classes = config.train.batch_size, len(corpus.labels)
    weight = jax.ShapeDtypeStruct((2, batch), bool)
    if of_frames:
        rows, pixels = None, config.frames.size
        shapes = {m: ((batch, 16, corpus.modalities[m]["width"]), np.float32) for m in ("text", "audio")}
        shapes["visual"] = ((batch, 16, pixels, pixels, 3), np.uint8)
        mask = {m: jax.ShapeDtypeStruct((batch, 16), bool) for m in shapes}
        targets = {"label": jax.ShapeDtypeStruct((batch,), np.int32)}
        targets["target"] = jax.ShapeDtypeStruct((batch, classes), np.float32)
        features = {m: jax.ShapeDtypeStruct(*s) for m, s in shapes.items()}
        source = Batch(features, mask, targets, jax.ShapeDtypeStruct((batch,), np.float32))
    else:
        rows = jax.ShapeDtypeStruct((batch,), np.int32)
        flat = {m: jax.ShapeDtypeStruct((100, demo.modalities[m]["width"]), np.float16) for m in config.data.modalities}
        column = {m: jax.ShapeDtypeStruct((len(pool),), np.int32) for m in config.data.modalities}
        targets = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in pool.targets.items()}
        source = loader.Resident(flat, column, column, targets)
    pads = tuple((m, 16) for m in config.data.modalities)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to the power of an integer
        new, terms = jax.eval_shape(lambda s, w, d, r: compiled.train(s, w, d, r, pads), state, weight, source, rows)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert terms["loss"].shape == (2,)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model.reduce", "median", "one of mean, max"),
        ("model.width", 30, "a multiple of model.heads = 4"),
        ("train.batch_size", 0, "at least 1"),
        ("optim.learning_rate", 0.0, "above 0"),
        ("model.dropout", 1.0, r"in \[0, 1\)"),
        ("data.modalities", ("text", "text"), "one or more different names"),
        ("data.max_length", (5, 5, 5), "one positive number, or one for each"),
        ("data.protocol", "lose", "one of official"),
        ("train.select", "test_weighted_f1", "the test part chooses nothing"),
        ("model.keep", 1.5, "at most 1"),
        ("model.tcn_widths", (), "one or more positive"),
        ("loss.pairs", ("visual-smell",), "pairs of two different modalities"),
        ("model.variant", "official", "one of fixed, published"),
        ("model.tcn_widths", (64.5, 64), "whole numbers"),
        ("model.alpha", -3.0, "at least 0"),
        ("loss.pairs", (1, 2), "names, as in"),
        ("data.max_length", "text", "whole numbers"),
        ("optim.learning_rate", float("inf"), "above 0 and finite"),
        ("seed", 5_000_000_000, "below"),
        ("frames.crop", 0.0, "at least 0.01"),
        ("frames.size", 255, "a multiple of backbone.patch = 4"),
        ("backbone.heads", (3, 6, 12), "a number for each stage that divides its width, 96, 192, 384, 768"),
        ("backbone.heads", (3, 6, 12, 25), "divides its width"),
        ("backbone.depths", (2, 2, 0, 2), "one or more positive"),
        ("backbone.vsc_stage", 5, "from 1 to 4"),
        ("backbone.vsc_grid_sides", (14, 15), "that do not grow, at most 16"),
        ("backbone.vsc_grid_sides", (14, 12, 10, 8), "one to 3 numbers"),
        ("backbone.trainable_stages", "last:5", "all, none, or last:K with K from 1 to 4"),
        ("backbone.layer_decay", 0.0, "above 0"),
    ],
)
def test_a_bad_value_is_named(field, value, words):
    deepmsi = field in ("model.keep", "model.tcn_widths", "loss.pairs", "model.variant", "model.alpha")
    config = DeepMSIExperiment() if deepmsi else LSGMERExperiment()
    if field.startswith(("frames.", "backbone.")):
        config = DeepMSIFramesExperiment()
        config.data.modalities = ("text", "audio", "visual")
    group, _, name = field.rpartition(".")
    setattr(getattr(config, group) if group else config, name, value)
    with pytest.raises(UserError, match=f"--config.{re.escape(field)}=.*{words}"):
        validate(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reduce": "rows", "label_update": "class_mean"}, "optimizer when model.reduce is rows"),
        ({"encoder": "gru", "width": 33, "heads": 1}, "even when model.encoder is gru"),
        ({"lse": False, "reduce": "max"}, "mean when model.lse is off"),
    ],
)
def test_values_that_do_not_go_together_are_refused(changes, words):
    config = LSGMERExperiment()
    for name, value in changes.items():
        setattr(config.model, name, value)
    with pytest.raises(UserError, match=words):
        validate(config)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_sweep_fits_its_config(path):
    base = validate(load_config(next(c.stem for c in CONFIGS if path.stem.startswith(c.stem))))
    rows = sweep.read_rows(str(path), None)
    assert len({str(config_lib.to_dict(sweep.change(base, changes))) for changes in rows.values()}) == len(rows) > 1


@pytest.mark.parametrize("field", ["seed", "data.path", "model.size"])
def test_a_sweep_cannot_change_what_its_rows_share(field):
    with pytest.raises(UserError, match=field):
        sweep.change(LSGMERExperiment(), {field: 1})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_sweep(", "SyntaxError"),
        ("x = 1", "has no get_sweep"),
        ("def get_sweep():\n    return ['a']", "must return"),
        ("def get_sweep():\n    return {0.1: {}}", "each named by a string"),
        ("def get_sweep():\n    return {'a': {'x': nothing}}", "NameError: name 'nothing' is not defined"),
        ("def get_sweep():\n    return {'a 1e-3': {}, 'a 1e+3': {}}", "share a folder"),
    ],
)
def test_a_wrong_sweep_file_is_named(tmp_path, text, words):
    (tmp_path / "rows.py").write_text(text)
    with pytest.raises(UserError, match=words):
        sweep.read_rows(str(tmp_path / "rows.py"), None)


def test_averaged_weights_do_not_go_with_batch_norm():
    config = DeepMSIExperiment()
    config.model.variant = "published"
    with pytest.raises(UserError, match="BatchNorm statistics"):
        validate(config)
    config.optim.ema_decay = 0.0
    validate(config)


def test_commas_separate_modalities():
    config = LSGMERExperiment()
    config.data.modalities = ("text, audio",)
    assert validate(config).data.modalities == ("text", "audio")


def test_every_string_and_number_has_a_rule():
    free = {"experiment", "data.path", "data.protocol", "replicas.grid", "replicas.points", "train.select"}
    free |= {"backbone.weights", "backbone.trainable_stages"}
    for kind in FAMILIES.values():
        ruled = dict(config_lib.rules(kind()))
        values = config_lib.fields(kind())
        assert ruled.keys() <= values.keys()
        checked = {k for k, v in values.items() if isinstance(v, str | int | float) and not isinstance(v, bool)} - free
        assert checked <= ruled.keys()
        for name in checked:
            rule = ruled[name]
            assert rule.choices or (rule.at_least, rule.above, rule.below) != (None, None, None), name
            assert not rule.violation(values[name]), name


def test_what_may_be_swept_is_a_number_without_a_shape():
    swept = {name for kind in FAMILIES.values() for name in config_lib.sweepable_fields(kind())}
    assert {"optim.learning_rate", "model.dropout", "loss.apc", "model.threshold"} <= swept
    for kind in FAMILIES.values():
        values = config_lib.fields(kind())
        assert all(isinstance(values[name], float) for name in config_lib.sweepable_fields(kind()))


def test_a_family_is_found_by_its_name():
    for name, kind in FAMILIES.items():
        if name in ("fixed", "published"):
            continue
        assert kind.family() == name
        assert family_lib.experiment_type(name) is kind
    with pytest.raises(UserError, match="'smell' is neither a file of mer_jax/models nor a module"):
        family_lib.experiment_type("smell")
    with pytest.raises(UserError, match=r"must define one subclass of mer_jax\.config\.Experiment, not 0"):
        family_lib.experiment_type("vsc")


def test_outputs_that_are_missing_are_refused_when_the_step_is_traced(demo, monkeypatch):
    config, task = validate(load_config("lsgmer:tiny")), task_of(demo)
    _, model = compiled_lib.model_of(config, demo, task)
    monkeypatch.setattr(lsgmer_lib.LSGMER, "__call__", lambda self, batch, key=None: {"logits": batch.weight})
    params = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(UserError, match="model family 'lsgmer' gives no feature, attention"):
        jax.eval_shape(lambda p: model.apply(*p, Batch({}, {}, {}, np.ones(4, np.float32))), params)
    outputs = {"logits": np.zeros((4, task.width)), "feature": np.zeros((4, 9)), "attention": {}}
    family_lib.check_outputs(outputs, 4, task, "lsgmer")
    for lacking, words in (
        ("feature", "gives no feature"),
        ("logits", "gives no logits"),
        ("attention", "no attention"),
    ):
        with pytest.raises(UserError, match=words):
            family_lib.check_outputs({k: v for k, v in outputs.items() if k != lacking}, 4, task, "lsgmer")
    for changed, words in (
        ({"logits": np.zeros((4, 2))}, r"logits has shape \(4, 2\); it must be \(4, 7\)"),
        ({"feature": np.zeros(4)}, r"feature has shape \(4,\)"),
        ({"attention": {"text": np.zeros(4)}}, r"attention\['text'\] has shape"),
    ):
        with pytest.raises(UserError, match=words):
            family_lib.check_outputs(outputs | changed, 4, task, "lsgmer")


def test_names_of_0_8_are_understood_on_the_command_line(capsys):
    assert main.with_todays_names("--config.optim.average=0.5") == "--config.optim.ema_decay=0.5"
    assert "is called --config.optim.ema_decay since 0.9" in capsys.readouterr().err
    assert main.with_todays_names("--config.optim.clip=0.5") == "--config.optim.clip=0.5"
    fields = {name for kind in FAMILIES.values() for name in config_lib.fields(kind())}
    assert set(old_runs.FIELDS.values()) <= fields
    assert not set(old_runs.FIELDS) & fields


def test_a_missing_modality_says_what_the_corpus_has(small_corpus):

    config = LSGMERExperiment()
    config.data.modalities = ("text", "visual")
    with pytest.raises(UserError, match=r"'small' has no 'visual'; it has text, audio"):
        config.check_corpus(Corpus(small_corpus))


def test_differences():
    new = config_lib.to_dict(LSGMERExperiment())
    old = config_lib.to_dict(LSGMERExperiment(seed=3))
    old["optim"]["clip"] = 5.0
    assert config_lib.differences(old, new) == ["optim.clip: 5.0 -> 1.0", "seed: 3 -> 0"]


def test_a_config_comes_back_from_its_json():
    for name in PARAMETERS:
        config = validate(load_config(name))
        found = family_lib.experiment_from(config_lib.to_dict(config))
        assert type(found) is type(config)
        assert found == config
    tree = config_lib.to_dict(config)
    del tree["optim"]["clip"]
    with pytest.raises(UserError, match=r"of another version of mer_jax: what differs is optim\.clip"):
        family_lib.experiment_from(tree)


def test_a_field_that_changes_no_result_may_be_of_a_later_version():
    tree = config_lib.to_dict(lsgmer_lib.LSGMERExperiment())
    del tree["train"]["inspect"]
    assert family_lib.experiment_from(tree).train.inspect
    del tree["train"]["patience"]
    with pytest.raises(UserError, match=r"train\.patience"):
        family_lib.experiment_from(tree)
