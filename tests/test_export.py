"""Exported models compute what the run's models do, in processes that have nothing of ours."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, small_description, small_utterances, user_env
from layered import layered_folder

import mer_jax
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.export import command
from mer_jax.export.jaxpr_rewrite import simplify_jaxpr
from mer_jax.files import sha256_of

NO_MER_JAX = 'import sys; sys.modules["mer_jax"] = None\n'


def fails(capsys, *arguments):
    """What the command says when it refuses."""
    with pytest.raises(SystemExit) as stopped:
        command.main([*map(str, arguments)])
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_what_the_command_refuses(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert "stablehlo, onnx, safetensors" in fails(capsys, tmp_path, "--out", out, "--formats", "onnx,tflite")
    assert "must be some of" in fails(capsys, tmp_path, "--out", out, "--formats", ",")
    assert not out.exists()
    (out / "mine").mkdir(parents=True)
    assert "not empty" in fails(capsys, tmp_path, "--out", out, "--formats", "stablehlo")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = fails(capsys, tmp_path, "--out", tmp_path / "other", "--formats", "safetensors")
    assert "pip install 'mer_jax[export]'" in told


def test_rewriting_changes_no_result():
    kernel = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)

    @jax.custom_vjp
    def scaled(x):
        return x @ (kernel / jnp.abs(kernel).sum())

    scaled.defvjp(lambda x: (scaled(x), ()), lambda saved, g: (g,))

    def function(x):
        total, running = jax.lax.scan(lambda a, b: (a + b, a * b), jnp.ones(x.shape[1]), x, reverse=True)
        padded = jnp.pad(jax.checkpoint(jax.nn.relu)(running), ((1, 2), (0, 0)), constant_values=3)
        return jax.jit(scaled)(padded), jax.nn.softmax(total)

    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("time, 2"), jnp.float32)
    for time in (1, 5):
        x = jnp.asarray(np.random.default_rng(time).normal(size=(time, 2)), jnp.float32)
        for a, b in zip(function(x), simplify_jaxpr(function, jax.ShapeDtypeStruct(x.shape, x.dtype))(x), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    found = jax.make_jaxpr(simplify_jaxpr(function, shape))(shape).eqns
    names = [equation.primitive.name for equation in found]
    assert {"scan", "dot_general", "rev"} <= set(names)
    assert not {"pad", "jit", "pjit", "custom_vjp_call", "custom_jvp_call", "checkpoint", "abs"} & set(names)
    assert not any(equation.params.get("reverse") for equation in found if equation.primitive.name == "scan")


@pytest.mark.slow
def test_first_steps_of_any_sequence():
    from mer_jax.export import exported_function

    x = jnp.arange(6).reshape(1, 3, 2)
    np.testing.assert_array_equal(exported_function.first_steps(x, 2), x[:, :2])
    np.testing.assert_array_equal(exported_function.first_steps(x, 5)[:, 3:], 0)
    np.testing.assert_array_equal(exported_function.first_steps(x, 5)[:, :3], x)


@pytest.mark.slow
def test_what_differs_is_seen():
    from mer_jax.export import verify

    p = np.full((2, 3), 1 / 3)
    assert verify.max_abs_difference(p, p) == 0
    assert verify.max_abs_difference(p, p + np.array([0, 0.25, 0])) == pytest.approx(0.25)
    assert verify.max_abs_difference(p, p[:1]) == verify.max_abs_difference(p, p * np.nan) == np.inf


# ---- real runs ----

FAMILIES = ("lsgmer", "deepmsi_mer")


def watched():
    """The small corpus with one more modality, whose sequences are of another length; two dialogues lack it."""
    rng = np.random.default_rng(1)
    for i, utterance in enumerate(small_utterances(120)):
        steps = int(rng.integers(1, 8))
        seen = {} if i < 12 else {"visual": rng.normal(size=(steps, 5)).astype(np.float16)}
        yield dataclasses.replace(utterance, features={**utterance.features, **seen})


# A run of one epoch of either family, then its export: in one process, since JAX and the converter take long to start.
MAKE = """
import runpy, sys
from pathlib import Path
from mer_jax import experiment
from mer_jax.config import validate
from mer_jax.data.corpus import Corpus
from mer_jax.export import command
folder, corpus = Path(sys.argv[1]), Corpus(Path(sys.argv[1]) / "corpus")
for name in ("lsgmer", "deepmsi_mer"):
    config = runpy.run_path(f"configs/{name}.py")["get_config"]("tiny")
    config.train.epochs, config.train.batch_size, config.data.path = 1, 16, str(corpus.path)
    if name == "lsgmer":
        config.data.modalities, config.data.protocol = ("text", "visual"), "kfold_utterance:3"
        config.model.encoder, config.replicas.folds = "gru", (1,)
    experiment.run(validate(config), corpus, folder / name)
    command.main([str(folder / name), "--out", str(folder / f"{name}-exported")])
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory, cache_home):
    """A folder with a run of either family and what the command made of each, name and name-exported; and what it
    said."""
    folder = tmp_path_factory.mktemp("export")
    extractors = {"text": "random", "audio": "random", "visual": "ran | dom"}
    write_corpus(folder / "corpus", watched(), small_description(extractors=extractors), shard_records=50)
    done = subprocess.run(
        [sys.executable, "-c", MAKE, str(folder)],
        cwd=ROOT,
        env=user_env(cache_home),
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture(params=FAMILIES)
def made(request, exported):
    folder, said = exported
    return SimpleNamespace(
        run=folder / request.param,
        folder=folder / f"{request.param}-exported",
        said=said,
        leaky=request.param == "lsgmer",
    )


def drawn(trained):
    """Batches of sizes and lengths that nothing was traced or tested with, and one that only has the first modality."""
    rng = np.random.default_rng(7)
    for size, steps in ((1, 1), (7, 5), (64, 23)):
        features, mask = {}, {}
        for i, (m, spec) in enumerate(trained.modalities.items()):
            time = steps + i
            mask[m] = np.arange(time) < rng.integers(1, min(time, spec["longest"]) + 1, (size, 1))
            features[m] = rng.normal(size=(size, time, spec["width"])).astype(np.float32)
            if i and size > 1:
                mask[m][-1] = False
        yield features, mask


@pytest.mark.slow
def test_onnx_runtime_and_plain_jax_give_the_models_probabilities(made):
    import onnxruntime

    from mer_jax.export import verify

    trained = mer_jax.load(made.run)
    batches = list(drawn(trained))
    wanted = [np.asarray(jax.jit(trained.forward(trained.select_replicas(None)[0]))(*batch)) for batch in batches]
    assert max(np.ptp(p) for p in wanted) > 0.05
    session = onnxruntime.InferenceSession(made.folder / "model.onnx")
    about = json.loads((made.folder / "io.json").read_text())
    assert [(x.name, x.shape) for x in session.get_inputs()] == [(x["onnx"], x["shape"]) for x in about["inputs"]]
    for (features, mask), p in zip(batches, wanted, strict=True):
        found = session.run(None, {**features, **{f"{m}_mask": x for m, x in mask.items()}})[0]
        np.testing.assert_allclose(found, p, atol=1e-5)
    for found, p in zip(verify.run_stablehlo(made.folder / "model.stablehlo", batches), wanted, strict=True):
        np.testing.assert_allclose(found, p, atol=1e-5)


@pytest.mark.slow
def test_the_card_says_what_must_be_known_and_its_programs_run(made):
    text = (made.folder / "README.md").read_text()
    metrics = json.loads((made.run / "metrics.json").read_text())
    assert ("LEAKY" in text) == made.leaky
    mine = next(r for r in metrics["replicas"] if f": {r['name']}." in text)
    scaling, temperature = mine["calibration"]["scaling"], f"{mine['calibration']['temperature']:.4f}"
    used = f"divided by {temperature}, fitted on the \nvalidation part.\nCalibration"
    told = f"since \n{scaling['reason']}.\nCalibration" if scaling["reason"] else used
    assert told in text
    for said in (
        metrics["data"]["manifest_sha256"],
        metrics["protocol"]["title"],
        "article 5(1)(f)",
        "ran \\| dom",
        "not stated",
        f"{100 * mine['test']['weighted_f1']:.1f}",
        "`calm`, `glad`, `cross`",
    ):
        assert said in text
    for name in metrics["labels"]:
        assert f"{100 * mine['test']['per_class'][name]['f1']:.1f} |" in re.search(rf"\| {name} \|.*", text)[0]
    for name in ("io.json", "model.stablehlo", "model.onnx", "model.safetensors"):
        assert sha256_of(made.folder / name) in text
        assert name == "io.json" or name in made.said
    assert text.count(": 0.0e+00") + len(re.findall(r": \d\.\de-0[6-9]", text)) == 6
    onnx, plain, arrays = re.findall("```python\n(.*?)```", text, re.S)
    ends = "assert abs(first - probabilities).max() < 1e-5 and any(k.startswith('params/') for k in arrays)"
    script = "\n".join([NO_MER_JAX, onnx, "first = probabilities", plain, arrays, ends])
    subprocess.run([sys.executable, "-c", script], cwd=made.folder, check=True)


@pytest.mark.slow
def test_arrays_are_the_models_and_say_what_they_are_of(made):
    from safetensors import safe_open

    trained = mer_jax.load(made.run)
    model = trained.model(trained.select_replicas(None)[0])
    with safe_open(made.folder / "model.safetensors", "numpy") as file:
        about = file.metadata()
        for m, stats in model.input_stats.items():
            np.testing.assert_array_equal(file.get_tensor(f"input_stats/{m}/mean"), stats["mean"])
        assert file.get_tensor("temperature") == np.float32(trained.temperature(trained.select_replicas(None)[0]))
        arrays = {name for name in file.keys() if name.startswith("params/")}  # noqa: SIM118 - no dict
        assert len(arrays) == len(jax.tree.leaves(model.params))
    assert json.loads(about["labels"]) == list(trained.task.outputs)
    assert json.loads(about["config"])["experiment"] == trained.config.experiment


@pytest.mark.slow
def test_no_run(tmp_path, capsys):
    assert "does not exist" in fails(capsys, tmp_path / "none", "--out", tmp_path / "out", "--formats", "stablehlo")


@pytest.mark.slow
def test_what_computes_something_else_is_not_written(exported, tmp_path, capsys, monkeypatch):
    from mer_jax.export import folder

    monkeypatch.setattr(folder, "MAX_ABS_DIFF", -1.0)
    with pytest.raises(SystemExit) as stopped:
        command.main([str(exported[0] / "lsgmer"), "--out", str(tmp_path / "out"), "--formats", "safetensors"])
    assert stopped.value.code == 1
    assert "is not written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    for replica in ("all", "7", "nobody"):
        with pytest.raises(UserError, match="replica"):
            folder.export_run(exported[0] / "lsgmer", tmp_path / "out", ["safetensors"], replica)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--config.model.layer_mix=learned"],
        ["--config.model.layer_mix=one", "--config.replicas.grid=model.layer=4,8"],  # the program of the file picks it
    ],
)
def test_an_export_mixes_the_layers_of_an_encoder(flags, tmp_path, cache_home):
    run, out = tmp_path / "run", tmp_path / "out"
    config = [f"--config={ROOT / 'configs' / 'lsgmer.py'}:tiny", f"--workdir={run}", "--config.train.epochs=1"]
    config += [f"--config.data.path={layered_folder()}", "--config.train.batch_size=16", *flags]
    for module, more in (("main", config), ("export", [run, "--out", out])):
        call = [sys.executable, "-m", f"mer_jax.{module}", *map(str, more)]
        done = subprocess.run(call, cwd=ROOT, env=user_env(cache_home), capture_output=True, text=True, timeout=170)
        assert done.returncode == 0, done.stdout + done.stderr
    about = json.loads((out / "io.json").read_text())
    assert about["good"]
    assert next(one for one in about["inputs"] if one["jax"] == "features['text']")["shape"][-1] == 6
