"""Hidden layers of an encoder as a choice of the run: mixed before any family sees them."""

import copy
import dataclasses
import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import store
from conftest import ROOT, corpus_of, small_description, small_utterances, user_env
from experiments import hearing
from experiments import of_folds_and_seeds as experiment
from flax import nnx
from layered import LAYERS, WIDTH, layered, layered_folder, only
from runs import committed, compare

import mer_jax
from mer_jax import config as config_lib
from mer_jax.data.batch import Batch, Conversations, NextTurn, Surrounded, Turns
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.evaluation.layer_weights import layer_weights, pool_weights, weights_in_words
from mer_jax.experiment import check
from mer_jax.models import family as family_lib
from mer_jax.models.functional import functionalize
from mer_jax.models.layer_mix import LayerMix
from mer_jax.runtime import run_log
from mer_jax.settings import ModelSettings
from mer_jax.tasks import task_of
from mer_jax.training import compiled, setup


@pytest.fixture(scope="module")
def corpus():
    return Corpus(layered_folder())


def with_mix(mix, layer=0, **replicas):
    config = experiment(folds=(0,), seeds=1)
    config.model.layer_mix, config.model.layer = mix, layer
    for name, value in replicas.items():
        setattr(config.replicas, name, value)
    return config


def small_batch(rows=3, steps=4):
    rng = np.random.default_rng(0)
    x = {"text": rng.normal(size=(rows, steps, 6)), "audio": rng.normal(size=(rows, 1, 4))}
    features = {m: jnp.asarray(value, jnp.float32) for m, value in x.items()}
    mask = {m: jnp.ones(value.shape[:2], bool) for m, value in x.items()}
    return x, Batch(features, mask, {}, jnp.ones(rows))


def test_the_mix_is_the_weighted_sum_of_the_layers():
    x, batch = small_batch()
    mix = LayerMix(ModelSettings(layer_mix="learned"), {"text": LAYERS})
    scores = np.array([0.3, -1.2, 0.7])
    mix.scores["text"][...] = jnp.asarray(scores, jnp.float32)
    weights = np.exp(scores) / np.exp(scores).sum()
    wanted = sum(w * x["text"][:, :, WIDTH * i : WIDTH * (i + 1)] for i, w in enumerate(weights))
    found = mix(batch)
    np.testing.assert_allclose(found.features["text"], wanted, atol=1e-6)
    np.testing.assert_array_equal(found.features["audio"], batch.features["audio"], err_msg="it has no layers")
    told = layer_weights({"text": np.asarray(scores, np.float32)}, {"text": LAYERS})
    np.testing.assert_allclose(list(told["text"].values()), weights, atol=1e-7)
    assert list(told["text"]) == ["4", "8", "11"]


def test_it_starts_as_the_mean():
    x, batch = small_batch()
    found = LayerMix(ModelSettings(layer_mix="learned"), {"text": LAYERS})(batch).features["text"]
    np.testing.assert_allclose(found, x["text"].reshape(3, 4, 3, 2).mean(2), atol=1e-6)


def seen_through(settings):
    """A model that gives what a family's module sees of text."""

    class Sees(nnx.Module):
        def __call__(self, batch, *, key=None):
            return batch.features["text"]

    def module(overrides, rngs):
        model = Sees()
        here = copy.copy(settings)
        here.layer = overrides.get("model.layer", settings.layer)
        model.layer_mix = LayerMix(here, {"text": LAYERS})
        return model

    return module


@pytest.mark.parametrize("swept", [False, True])
def test_one_layer_is_taken_bit_for_bit(swept):
    _, batch = small_batch()
    made = functionalize(seen_through(ModelSettings("one", 8)), ["model.layer"] if swept else [])
    variables = made.init(jax.random.key(0), {"model.layer": jnp.float32(8)} if swept else {})
    found, _ = jax.jit(made.apply)(*variables, batch)
    np.testing.assert_array_equal(found, batch.features["text"][:, :, 2:4])


def test_no_family_sees_the_axis(corpus):
    for mix, wanted in (("joined", 6), ("learned", 2), ("one", 2)):
        config = with_mix(mix, 8)
        assert family_lib.widths_of(config, corpus) == {"text": wanted, "audio": 4}
        _, model = compiled.model_of(config, corpus, task_of(corpus))
        params, state = jax.eval_shape(model.init, jax.random.key(0), {}, {})
        assert params["branches"]["text"]["project"]["kernel"].shape[0] == wanted
        assert ("layer_mix" in params) == (mix == "learned")
        _, batch = small_batch()
        outputs, _ = jax.eval_shape(model.apply, params, state, batch)
        assert outputs["logits"].shape == (3, 3)


def test_a_family_without_these_settings_is_as_it_was(corpus):
    config = with_mix("joined")
    plain = [(f.name, f.type, f) for f in dataclasses.fields(config.model) if f.name not in ("layer_mix", "layer")]
    old = dataclasses.make_dataclass("Old", plain)
    config.model = old()
    assert config_lib.model_settings(config) == ModelSettings()
    assert family_lib.widths_of(config, corpus)["text"] == 6
    check(config, corpus)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mix": "one", "layer": 5}, "model.layer=5: corpus 'small' does not hold it; it holds of text 4, 8, 11"),
        ({"mix": "one", "grid": "model.layer=4,8,9"}, "model.layer=9: corpus 'small' does not hold it"),
        ({"mix": "one", "grid": "model.layer=4.5,8"}, "model.layer=4.5: corpus 'small' does not hold it"),
        ({"mix": "learned", "grid": "model.layer=4,8"}, "layer_mix=learned: must be one where model.layer is swept"),
        ({"mix": "joined", "layer": 8}, "model.layer=8 is of --config.model.layer_mix=one, and that is joined; set"),
        ({"mix": "learned", "layer": 8}, "model.layer=8 is of --config.model.layer_mix=one, and that is learned; set"),
        ({"mix": "some"}, "must be one of joined, learned, one"),
    ],
)
def test_what_the_corpus_does_not_hold_is_refused(settings, words, corpus):
    with pytest.raises(UserError, match=words):
        check(config_lib.validate(with_mix(**settings)), corpus)


def test_layers_must_be_there_and_alike(tmp_path):
    for mix in ("learned", "one"):
        with pytest.raises(UserError, match=f"layer_mix={mix}: corpus 'small' holds no layers"):
            check(with_mix(mix), Corpus(corpus_of(120)))
    both = Corpus(layered(tmp_path / "both", layers={"text": LAYERS, "audio": (4, 8)}))
    with pytest.raises(UserError, match="different ones, of text 4, 8, 11; of audio 4, 8; read one of these"):
        check(with_mix("one", 4), both)
    config = with_mix("one", 4)
    config.data.modalities = ("audio",)
    check(config, both)
    check(with_mix("learned"), both)


SURROUNDINGS = (((2, 4, 16), jnp.float32), ((2, 4), bool), ((2, 4), jnp.int32), ((2,), jnp.int32))


def losses(config, corpus, tmp_path, steps=4):
    """Loss and gradient norm of every replica, step by step, and the run."""
    run = setup.assemble(config, corpus, tmp_path, jax.devices()[:1])
    run.groups.begin()
    found = []
    for _, batch in zip(range(steps), run.data.batches.training(run.data.order, 0), strict=False):
        terms = run_log.by_replica(run.groups.train(run.live(), *batch))
        found.append([[terms[r]["loss"], terms[r]["grad_norm"]] for r in range(len(run.progress))])
    return np.swapaxes(np.array(found), 0, 1), run


def test_a_gradient_reaches_every_score():
    _, batch = small_batch()
    made = functionalize(seen_through(ModelSettings("learned")))
    params, state = made.init(jax.random.key(0))
    slope = jax.grad(lambda params: jnp.square(made.apply(params, state, batch)[0]).sum())(params)
    found = slope["layer_mix"]["scores"]["text"]
    assert found.shape == (3,)
    assert np.abs(found).min() > 1e-6
    assert found.sum() == pytest.approx(0, abs=1e-6), "the weights add up to 1"


@pytest.mark.slow
def test_layers_as_replicas_are_the_runs_of_their_own_corpora(corpus, tmp_path):
    grid = with_mix("one", grid="model.layer=4,11", replicas_per_step=2)
    found, _ = losses(grid, corpus, tmp_path)
    for curve, layer in zip(found, (4, 11), strict=True):
        ((alone,), _) = losses(with_mix("one", layer), corpus, tmp_path)
        np.testing.assert_allclose(curve, alone, rtol=1e-5)
        ((wanted,), _) = losses(with_mix("joined"), Corpus(only(tmp_path / f"{layer}", layer)), tmp_path)
        np.testing.assert_array_equal(alone, wanted, err_msg="the corpus that holds this layer alone")
    assert np.abs(found[0] - found[1]).max() > 1e-4


def test_weights_over_replicas_in_words():
    found = [{"text": {"4": 0.2, "11": 0.8}, "audio": {"3": 1.0}}, {"text": {"4": 0.4, "11": 0.6}, "audio": {"3": 1.0}}]
    pooled = pool_weights(found)
    assert pooled["text"]["4"]["mean"] == pytest.approx(0.3)
    assert pooled["text"]["4"]["sd"] == pytest.approx(np.sqrt(0.02))
    assert (
        weights_in_words(pooled) == "weights of the layers: text 4: 0.30 ± 0.14, 11: 0.70 ± 0.14; audio 3: 1.00 ± 0.00"
    )
    assert weights_in_words(pool_weights(found[:1])) == "weights of the layers: text 4: 0.20, 11: 0.80; audio 3: 1.00"
    assert weights_in_words({}) == ""


# ---- whole runs ----

FLAGS = ["--config.train.epochs=3", "--config.train.batch_size=8", "--config.model.layer_mix=learned"]
FLAGS += ["--config.train.checkpoint_minutes=0.005", "--config.replicas.seeds=2", "--config.train.inspect=False"]


def command(workdir):
    config = f"--config={ROOT / 'configs' / 'lsgmer.py'}:tiny"
    return [config, *FLAGS, f"--workdir={workdir}", f"--config.data.path={layered_folder(240)}"]


@pytest.fixture(scope="module")
def learned(cache_home):
    """(workdir, output) of a finished run that learns the mix."""
    return store.finished_run("learned-mix", command, user_env(cache_home), store.ALL)


@pytest.mark.slow
def test_a_run_tells_the_weights(learned):
    workdir, output = learned
    metrics = json.loads((workdir / "metrics.json").read_text())
    for replica in metrics["replicas"]:
        assert list(replica["layer_weights"]["text"]) == ["4", "8", "11"]
        assert sum(replica["layer_weights"]["text"].values()) == pytest.approx(1)
    pooled = metrics["points"][0]["layer_weights"]["text"]
    mean = np.mean([replica["layer_weights"]["text"]["8"] for replica in metrics["replicas"]])
    assert pooled["8"]["mean"] == pytest.approx(mean)
    assert f"weights of the layers: text 4: {pooled['4']['mean']:.2f} ±" in output
    assert "layer_mix/scores/text" in (workdir / "parameters.txt").read_text()
    page = (workdir / "report.html").read_text()
    assert "Encoder layers" in page
    assert f"{pooled['11']['mean']:.3f} ± {pooled['11']['sd']:.3f}" in page


@pytest.mark.slow
def test_it_predicts_by_layers_side_by_side(learned):
    workdir, _ = learned
    model = mer_jax.load(workdir)
    wanted = {}
    for line in (workdir / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["replica"] == model.replicas[0]:
            wanted[row["id"]] = row["probabilities"]
    found = {p.id: p for p in model.predict(layered_folder(240))}
    power = 1 / model.temperature(0)
    for name, values in wanted.items():
        scaled = np.array(list(values.values())) ** power
        np.testing.assert_allclose(list(found[name].probabilities.values()), scaled / scaled.sum(), atol=2e-5)
    [explained] = model.predict({"text": np.ones((3, 6), np.float32)}, attribution=True)
    assert len(explained.attribution.integrated_gradients["text"]) == 3
    [narrow] = model.predict({"text": np.ones((3, 2), np.float32)})
    assert "the model reads [time, 6]" in narrow.error


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(learned, tmp_path, cache_home):
    workdir = tmp_path / "killed"
    line = [sys.executable, "-m", "mer_jax.main", *command(workdir)]
    process = subprocess.Popen(line, cwd=ROOT, env=user_env(cache_home), stdout=subprocess.DEVNULL)
    while process.poll() is None and not committed(workdir):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workdir / "metrics.json").exists(), "it was killed in time"
    done = subprocess.run(line, cwd=ROOT, env=user_env(cache_home), capture_output=True, text=True, timeout=170)
    assert "resuming after step" in done.stdout, done.stderr
    compare(workdir, learned[0])


def shapes_of(config, corpus, batch):
    """Shapes and dtypes of what the config's model gives, by name."""
    _, model = compiled.model_of(config_lib.validate(config), corpus, task_of(corpus))
    params, state = jax.eval_shape(model.init, jax.random.key(0), {}, {})
    with jax.numpy_dtype_promotion("standard"):
        return jax.eval_shape(model.apply, params, state, batch)[0]


@pytest.mark.parametrize("mix", ["learned", pytest.param("one", marks=pytest.mark.slow)])
def test_it_is_mixed_in_conversations_and_in_bfloat16(mix, corpus):
    config = hearing(with_mix(mix, 8), "both")
    config.train.precision = "bfloat16"
    _, group = small_batch(rows=2)
    group = dataclasses.replace(group, turns=Turns(*(jnp.arange(2, dtype=jnp.int32) for _ in range(3))))
    found = shapes_of(config, corpus, Conversations((group, group), 1, 4))["logits"]
    assert (found.shape, found.dtype) == ((4, 3), jnp.float32)
    surrounded = Surrounded(group, *(jnp.zeros(shape, kind) for shape, kind in SURROUNDINGS))
    assert shapes_of(config, corpus, surrounded)["logits"].shape == (2, 3)
    _, one = small_batch(rows=1)
    config.data.context = "past"
    assert shapes_of(config, corpus, NextTurn(one, jnp.ones(1, jnp.int32), None))["logits"].shape == (1, 3)


def test_an_unlayered_modality_of_one_vector_is_no_layer(tmp_path):
    write_corpus(tmp_path / "c", small_utterances(12), small_description(layers={"audio": (7,)}))
    config = with_mix("learned")
    assert family_lib.mixed_layers(config, Corpus(tmp_path / "c")) == {"audio": (7,)}
