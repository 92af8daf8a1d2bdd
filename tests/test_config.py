import importlib.util
import re

import jax
import numpy as np
import pytest
import store
from conftest import ROOT
from experiments import FAMILIES

from mer_jax import config as config_lib
from mer_jax import main, old_runs, sweep
from mer_jax.config import validate
from mer_jax.data import loader, protocols
from mer_jax.data import pool as pool_lib
from mer_jax.data.batch import Batch
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.models import deepmsi_mer, family, lsgmer
from mer_jax.models.deepmsi_mer import DeepMSIExperiment
from mer_jax.models.deepmsi_mer_frames import DeepMSIFramesExperiment
from mer_jax.models.lsgmer import LSGMERExperiment
from mer_jax.runtime import sharding
from mer_jax.settings import Rule
from mer_jax.tasks import task_of
from mer_jax.training import compiled, prepare

CONFIGS = sorted(p for p in (ROOT / "configs").glob("*.py") if "def get_config" in p.read_text())
SWEEPS = sorted(p for p in (ROOT / "configs").glob("*.py") if "def get_sweep" in p.read_text())
PARAMETERS = {
    "baselines:ef": 112_647,
    "baselines:lf_dnn": 74_247,
    "baselines:tfn": 193_335,
    "baselines:lmf": 52_551,
    "baselines:mult": 116_103,
    "baselines:misa": 123_847,
    "baselines:self_mm": 66_069,
    "baselines:bc_lstm": 311_559,
    "baselines:dialogue_rnn": 502_807,
    "baselines:dialogue_gcn": 213_207,
    "baselines:mmgcn": 211_351,
    "baselines:sdt": 952_981,
    "baselines:graph_smile": 190_518,
    "baselines:dialogue_rnn_unscaled": 502_807,
    "baselines:dialogue_gcn_unscaled": 213_207,
    "baselines:lsgmer": 1_005_719,
    "baselines:lsgmer_utterance": 571_527,
    "baselines:deepmsi_mer": 747_599,
    "baselines:deepmsi_mer_utterance": 313_407,
    "lsgmer": 2_257_159,
    "lsgmer:tiny": 38_439,
    "lsgmer:iemocap": 1_005_719,
    "lsgmer:meld": 721_559,
    "lsgmer:iemocap_utterance": 2_257_159,
    "lsgmer:meld_utterance": 1_131_783,
    "lsgmer:emodb": 73_543,
    "lsgmer:emodb_vector": 286_343,
    "lsgmer:regression": 2_254_594,
    "lsgmer:multilabel": 2_256_646,
    "deepmsi_mer": 758_887,
    "deepmsi_mer:tiny": 27_559,
    "deepmsi_mer:iemocap": 1_193_079,
    "deepmsi_mer:meld": 1_193_079,
    "deepmsi_mer:iemocap_utterance": 16_993_383,
    "deepmsi_mer:meld_utterance": 16_993_383,
    "deepmsi_mer:iemocap_published": 16_993_327,
    "deepmsi_mer:meld_published": 16_993_327,
    "deepmsi_mer:emodb_vector": 173_087,
    "deepmsi_mer:regression": 758_242,
    "deepmsi_mer:multilabel": 758_758,
    "deepmsi_mer_frames": 47_729_897,
    "deepmsi_mer_frames:published": 47_739_249,
    "deepmsi_mer_frames:meld_published": 47_739_249,
    "deepmsi_mer_frames:tiny": 457_547,
    "deepmsi_mer_frames:tiny_regression": 457_222,
    "deepmsi_mer_frames:tiny_multilabel": 457_482,
}


def load_config(name):
    path, _, arg = name.partition(":")
    spec = importlib.util.spec_from_file_location(path, ROOT / "configs" / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


# What the official code trains with, of each corpus: rate, and dropout of projection, early fusion, late fusion, TCN.
PUBLISHED = {"iemocap": (5e-5, (0.2, 0.3, 0.3, 0.3)), "meld": (1e-4, (0.4, 0.4, 0.4, 0.4))}


@pytest.mark.parametrize("corpus", PUBLISHED)
@pytest.mark.parametrize("family", ["deepmsi_mer", "deepmsi_mer_frames"])
def test_published_configs_are_what_the_official_code_trains_with(family, corpus):
    config = load_config(f"{family}:{corpus}_published")
    model, optim, loss, train = config.model, config.optim, config.loss, config.train
    dropouts = (model.projection_dropout, model.early_dropout, model.dropout, model.tcn_dropout)
    assert (optim.learning_rate, dropouts) == PUBLISHED[corpus]
    assert (model.variant, model.pool) == ("published", "mean")
    assert (optim.name, optim.weight_decay, optim.schedule, optim.clip) == ("adam", 1e-5, "constant", 0.0)
    assert (train.batch_size, train.epochs, train.patience) == (32, 30, 4)
    assert loss.pairs == ("visual-text", "visual-audio")
    if family == "deepmsi_mer":
        assert load_config(f"{family}:{corpus}").model.variant == "fixed"


def test_the_table_of_parameters_names_every_config():
    assert {name.partition(":")[0] for name in PARAMETERS} == {path.stem for path in CONFIGS}


def build_without_reading(config, corpus, replicas):
    """The compiled functions for so many replicas of the official split, and the pool."""
    rows, task = np.arange(len(corpus)), task_of(corpus)
    targets = task.targets(corpus, rows, soft=False)
    pool = pool_lib.select_utterances(corpus, rows, {m: 128 for m in config.data.modalities}, targets)
    fold = protocols.split(corpus, "official", 0).folds[0]
    widths = {m: corpus.modalities[m]["width"] for m in config.data.modalities}
    widths |= {m: 3 for m in widths if "pixels" in corpus.modalities[m]}
    stats = {m: {"mean": np.zeros(w, np.float32), "scale": np.ones(w, np.float32)} for m, w in widths.items()}
    inputs = family.ReplicaInputs(stats, task.prior(targets), {})
    trains = np.isin(np.arange(len(corpus)), fold.train)[None]
    mesh = sharding.make_mesh(replicas)
    batches = loader.BatchSource(corpus, pool, "refuse", mesh)
    order = batches.training_order(fold.train, config.train.batch_size, 0, 1, config.train.epochs)
    data = prepare.TrainingData(batches, (fold,), trains, (inputs,), (), [], order=order)
    return compiled.build(config, corpus, task, data, replicas, mesh), pool


def shapes_of_batch(config, corpus):
    """A batch of 16 time steps of every modality."""
    rows = config.train.batch_size
    widths = {m: (corpus.modalities[m]["width"],) for m in config.data.modalities}
    if isinstance(config, DeepMSIFramesExperiment):
        widths["visual"] = (config.frames.size, config.frames.size, 3)
    types = {m: np.uint8 if len(widths[m]) == 3 else np.float32 for m in widths}
    made = task_of(corpus).targets(corpus, np.zeros(rows, int), soft=False)
    targets = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in made.items()}
    return Batch(
        {m: jax.ShapeDtypeStruct((rows, 16, *width), types[m]) for m, width in widths.items()},
        {m: jax.ShapeDtypeStruct((rows, 16), bool) for m in widths},
        targets,
        jax.ShapeDtypeStruct((rows,), np.float32),
    )


def trace_a_step(config, corpus, steps, pool):
    """The shapes of (state, terms) after a step of two replicas: of frames from a batch that was streamed, else from a
    split that lies on the device."""
    batch, modalities = config.train.batch_size, config.data.modalities
    if isinstance(config, DeepMSIFramesExperiment):
        rows, source = None, shapes_of_batch(config, corpus)
    else:
        rows = jax.ShapeDtypeStruct((batch,), np.int32)
        flat = {m: jax.ShapeDtypeStruct((100, corpus.modalities[m]["width"]), np.float16) for m in modalities}
        column = {m: jax.ShapeDtypeStruct((len(pool),), np.int32) for m in modalities}
        targets = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in pool.targets.items()}
        source = loader.Resident(flat, column, column, targets)
    lengths, weight = tuple((m, 16) for m in modalities), jax.ShapeDtypeStruct((2, batch), bool)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to the power of an integer
        return jax.eval_shape(
            lambda s, w, d, r: steps.train(s, w, d, r, lengths), steps.like["state"], weight, source, rows
        )


FEW_FAST = ("lsgmer", "lsgmer:iemocap", "deepmsi_mer", "deepmsi_mer:iemocap")


def marks_of(name):
    slow = name not in FEW_FAST and not name.endswith(":tiny")
    return [pytest.mark.slow] * slow + [pytest.mark.nnx] * name.endswith(":tiny")


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in PARAMETERS])
def test_every_config_traces_a_step(name, demo, framed):
    config = load_config(name)
    of_frames = isinstance(config, DeepMSIFramesExperiment)
    corpus = framed if of_frames else demo
    if (variant := config.data.path.removeprefix("demo:")) not in ("", "frames"):
        counts = {"train": 120, "valid": 8, "test": 8}
        corpus = Corpus(store.demo_corpus(f"few-{variant}", counts=counts, variant=variant))
    if of_frames:
        config.data.modalities = ("text", "audio", "visual")
    config = validate(config)
    config.check_corpus(corpus)
    steps, pool = build_without_reading(config, corpus, replicas=2)
    state = steps.like["state"]
    count = sum(int(np.prod(x.shape[1:])) for x in jax.tree.leaves(state.params))
    assert count == PARAMETERS[name]
    new, terms = trace_a_step(config, corpus, steps, pool)
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
        ("data.max_length", (5, 5, 5), "there are 3 numbers for 2 modalities"),
        ("data.protocol", "lose", "one of official"),
        ("train.select", "test_weighted_f1", "the test part chooses nothing"),
        ("model.keep", 1.5, "at most 1"),
        ("model.tcn_widths", (), "one or more positive"),
        ("loss.pairs", ("visual-smell",), "pairs of two different modalities"),
        ("model.variant", "official", "one of fixed, published"),
        ("model.tcn_widths", (64.5, 64), "whole numbers"),
        ("model.alpha", -3.0, "at least 0"),
        ("loss.pairs", (1, 2), "names, as in"),
        ("data.max_length", "text", "time steps or seconds"),
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


def test_a_context_that_cannot_be_is_refused():
    config = LSGMERExperiment()
    config.data.context, config.context.kind, config.context.width, config.context.heads = "both", "gru", 15, 1
    with pytest.raises(UserError, match=r"context\.width=15: must be even for the two directions of context\.kind=gru"):
        validate(config)
    config.context.kind, config.context.width, config.context.heads = "speakers", 16, 2
    with pytest.raises(UserError, match=r"context\.heads=2: must be at least 3 for context\.kind=speakers"):
        validate(config)
    config.data.context = "none"
    validate(config)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_sweep_fits_its_config(path):
    own = [c.stem for c in CONFIGS if path.stem.startswith(c.stem)]
    rows = sweep.read_rows(str(path), None)
    for name in own[:1] or [c.stem for c in CONFIGS]:  # a sweep that is named after no family is for all of them
        base = validate(load_config(name))
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
    # What these may hold depends on the corpus, the task, the family or the file system; others check them.
    free = {"experiment", "data.path", "data.task", "data.protocol", "replicas.grid", "replicas.points", "train.select"}
    free |= {"backbone.weights", "backbone.trainable_stages"}
    seen = set()
    for kind in FAMILIES.values():
        rules, values = dict(config_lib.rules(kind())), config_lib.fields(kind())
        assert rules.keys() <= values.keys()
        checked = {k for k, v in values.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
        assert checked - free == rules.keys() - {k for k, v in values.items() if isinstance(v, bool)}
        for name in checked - free:
            rule = rules[name]
            bounds = (rule.at_least, rule.above, rule.below)
            assert rule.choices if isinstance(values[name], str) else bounds != (None, None, None), name
            assert not rule.violation(values[name]), name
        seen |= checked
    assert free <= seen


@pytest.mark.parametrize(
    ("rule", "good", "bad", "words"),
    [
        (Rule(at_least=1), (1, 5), (0, -1, float("nan")), "at least 1"),
        (Rule(at_least=0.01, at_most=1), (0.01, 1), (0.0, float("nan")), "at least 0.01"),
        (Rule(at_least=0.01, at_most=1), (), (1.5, float("inf")), "at most 1"),
        (Rule(above=0), (1e-9, 3), (0, -1.0, float("inf"), float("nan")), "above 0 and finite"),
        (Rule(above=0, at_most=1), (1,), (1.01,), "at most 1"),
        (Rule(below=1), (0, 0.999), (1, -0.1, float("nan")), "in [0, 1)"),
        (Rule(at_least=-1, below=1), (-1,), (-1.5, 1), "in [-1, 1)"),
        (Rule(choices=("mean", "max")), ("max",), ("median", ""), "one of mean, max"),
        (Rule(), (0, -5, "anything"), (), ""),
    ],
    ids=str,
)
def test_a_rule_says_what_would_be_right(rule, good, bad, words):
    assert [rule.violation(value) for value in good] == [""] * len(good)
    assert [rule.violation(value) for value in bad] == [words] * len(bad)


def test_what_may_be_swept_is_a_number_without_a_shape():
    swept = {name for kind in FAMILIES.values() for name in config_lib.sweepable_fields(kind())}
    assert {"optim.learning_rate", "model.dropout", "loss.apc", "model.threshold"} <= swept
    for kind in FAMILIES.values():
        values = config_lib.fields(kind())
        assert all(type(values[name]) in (int, float) for name in config_lib.sweepable_fields(kind()))


def test_a_family_is_found_by_its_name():
    for name, kind in FAMILIES.items():
        assert kind.family() == name
        assert family.experiment_type(name) is kind
        assert config_lib.to_dict(kind())["family"] == name
    for name in ("smell", "no.such.package", "mer_jax.models.smell"):
        with pytest.raises(UserError, match=f"'{name}' is neither a file of mer_jax/models nor a module"):
            family.experiment_type(name)
        with pytest.raises(UserError, match=f"'{name}' is neither"):
            family.experiment_from(config_lib.to_dict(LSGMERExperiment()) | {"family": name})
    with pytest.raises(UserError, match=r"must define one subclass of mer_jax\.config\.Experiment, not 0"):
        family.experiment_type("vsc")


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("lsgmer:tiny", lsgmer.Outputs),
        ("deepmsi_mer:tiny", deepmsi_mer.Outputs),
        ("deepmsi_mer_frames:tiny", deepmsi_mer.Outputs),
    ],
)
def test_outputs_of_every_family_are_complete(name, declared, demo, framed):
    """All that `family.Outputs` and the family's own type name, and nothing else."""
    config = load_config(name)
    corpus = framed if isinstance(config, DeepMSIFramesExperiment) else demo
    config.data.modalities = ("text", "audio", "visual")
    config, task = validate(config), task_of(corpus)
    _, model = compiled.model_of(config, corpus, task)
    batch, rows = shapes_of_batch(config, corpus), config.train.batch_size
    for modality, x in batch.features.items():  # standardised
        batch.features[modality] = jax.ShapeDtypeStruct(x.shape, np.float32)
    outputs = jax.eval_shape(lambda b, k: model.apply(*model.init(k), b, k)[0], batch, jax.random.key(0))
    assert {"logits", "feature", "attention"} == family.Outputs.__required_keys__ < declared.__required_keys__
    compresses = "kept" in outputs
    assert compresses == (declared is deepmsi_mer.Outputs)
    assert outputs.keys() == declared.__required_keys__ | ({"kept"} if compresses else set())
    assert outputs["logits"].shape == (rows, task.width)
    assert outputs["feature"].shape[0] == rows
    assert outputs["attention"].keys() <= batch.mask.keys()
    assert {(x.shape[0], x.shape[-1]) for x in outputs["attention"].values()} <= {(rows, 16)}
    if compresses:
        assert outputs["kept"].into.shape[:2] == (rows, 16)


def test_outputs_that_are_missing_are_refused_when_the_step_is_traced(demo, monkeypatch):
    config, task = validate(load_config("lsgmer:tiny")), task_of(demo)
    steps, pool = build_without_reading(config, demo, replicas=2)
    whole = lsgmer.LSGMER.__call__

    def lacking(self, batch, *, key=None):
        return {name: x for name, x in whole(self, batch, key=key).items() if name not in ("feature", "attention")}

    monkeypatch.setattr(lsgmer.LSGMER, "__call__", lacking)
    with pytest.raises(UserError, match="model family 'lsgmer' gives no feature, attention: see"):
        trace_a_step(config, demo, steps, pool)
    outputs = {"logits": np.zeros((4, task.width)), "feature": np.zeros((4, 9)), "attention": {}}
    family.check_outputs(outputs, 4, task, "lsgmer")
    for name in outputs:
        with pytest.raises(UserError, match=f"gives no {name}"):
            family.check_outputs({k: v for k, v in outputs.items() if k != name}, 4, task, "lsgmer")
    for changed, words in (
        ({"logits": np.zeros((4, 2))}, r"logits has shape \(4, 2\); it must be \(4, 7\)"),
        ({"logits": np.zeros((2, 7))}, r"logits has shape \(2, 7\); it must be \(4, 7\)"),
        ({"feature": np.zeros(4)}, r"feature has shape \(4,\); it must be \(4, dim\)"),
        ({"feature": None}, r"feature has shape None; it must be \(4, dim\)"),
        ({"attention": {"text": np.zeros(4)}}, r"attention\['text'\] has shape \(4,\); it must be \(4, time\) or"),
    ):
        with pytest.raises(UserError, match=words):
            family.check_outputs(outputs | changed, 4, task, "lsgmer")


def test_names_of_0_8_are_understood_on_the_command_line(capsys):
    for old, today in old_runs.FIELDS.items():
        for before, after in (("=0.5", "=0.5"), ("=a=b\nc", "=a=b\nc"), ("", "")):
            assert main.with_todays_names(f"--config.{old}{before}") == f"--config.{today}{after}"
            assert main.with_todays_names(f"-config.{old}{before}") == f"-config.{today}{after}"
        said = capsys.readouterr()
        assert said.err.splitlines() == [f"note: --config.{old} is called --config.{today} since 0.9"] * 6
        assert not said.out
    for argument in (
        "--config.optim.clip=0.5",
        "--config=optim.average",
        "optim.average",
        "--workdir=config.train.look",
    ):
        assert main.with_todays_names(argument) == argument
    assert not capsys.readouterr().err
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
        found = family.experiment_from(config_lib.to_dict(config))
        assert type(found) is type(config)
        assert found == config
    tree = config_lib.to_dict(config)
    del tree["optim"]["clip"]
    with pytest.raises(UserError, match=r"of another version of mer_jax: what differs is optim\.clip"):
        family.experiment_from(tree)


def test_a_field_that_changes_no_result_may_be_of_a_later_version():
    tree = config_lib.to_dict(lsgmer.LSGMERExperiment())
    del tree["train"]["inspect"]
    assert family.experiment_from(tree).train.inspect
    del tree["train"]["patience"]
    with pytest.raises(UserError, match=r"train\.patience"):
        family.experiment_from(tree)
