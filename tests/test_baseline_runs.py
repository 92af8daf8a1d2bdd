"""Every baseline as a run: replicas in one program, the past heard, predictions, what decided, a conversation, an export."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from conftest import corpus_of
from experiments import BASELINES, of_family

import mer_jax
from mer_jax import experiment
from mer_jax.config import validate
from mer_jax.data.corpus import Corpus
from mer_jax.export import command as export

SMALL = {"width": 8, "text_width": 8, "inference_width": 8, "fusion_width": 8, "hidden": 8, "heads": 2, "layers": 1}


def config_of(name, corpus):
    config = of_family(f"baselines.{name}", ("text", "audio"))
    for size, value in SMALL.items():
        if hasattr(config.model, size):
            setattr(config.model, size, value)
    config.data.path, config.data.context, config.train.batch_size = str(corpus), "past", 48
    config.train.epochs, config.optim.learning_rate = 3, 1e-2
    config.replicas.grid, config.replicas.replicas_per_step = "model.dropout=0.1,0.4", 2
    return validate(config)


SOME = ("mult", "dialogue_rnn", "graph_smile")  # the others every night: each compiles for half a minute


def marks_of(name):
    return pytest.mark.slow if name in SOME else pytest.mark.nightly


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in BASELINES])
def test_a_run_is_all_that_a_run_is(name, tmp_path, capsys):
    path, run = corpus_of(240), tmp_path / "run"
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to the power of an integer
        metrics = experiment.run(config_of(name, path), Corpus(path), run)
    assert len(metrics["points"]) == 2
    assert metrics["test"]["accuracy"]["mean"] > 0.3
    assert metrics["config"]["family"] == f"baselines.{name}"
    assert "<svg" in (run / "report.html").read_text()
    model, corpus = mer_jax.load(run), Corpus(path)
    test = [corpus[row] for row in corpus.rows("test").tolist()]
    found = {p.id: p for p in model.predict(path, attribution=True) if p.id in {u.id for u in test}}
    told = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    chosen = [line for line in told if line["id"] in found]
    assert {line["id"] for line in chosen} == {u.id for u in test}
    assert all(np.isfinite(list(p.attribution.shapley.values())).all() for p in found.values())
    assert any(p.attribution.turns for p in found.values())
    dialogue = sorted(
        (corpus[row] for row in range(len(corpus)) if corpus[row].dialogue == test[0].dialogue), key=lambda u: u.turn
    )
    with model.conversation() as talk:
        for u in dialogue:
            turn = talk.add(features={m: np.asarray(x, np.float32) for m, x in u.features.items()}, speaker=u.speaker)
            if u.id in found:
                whole = found[u.id].probabilities
                assert turn.probabilities == pytest.approx(whole, abs=1e-5)
    formats = "stablehlo" if importlib.util.find_spec("flatbuffers") else "safetensors"
    export.main([str(run), "--out", str(tmp_path / "out"), "--formats", formats])
    assert "largest difference" in capsys.readouterr().out
