"""The real commands, each in a process of its own."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import store
from conftest import ROOT, small_description, small_utterances, user_env
from damage import damage_flipped_bit, damage_missing_index, damage_truncated, damage_version
from etils import epath
from runs import snapshot

from mer_jax import experiment, old_runs, sweep
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.synthetic import MODALITIES
from mer_jax.errors import UserError, explained
from mer_jax.models.lsgmer import LSGMERExperiment
from mer_jax.report import render
from mer_jax.runtime import distributed

CONFIG = f"--config={ROOT / 'configs' / 'lsgmer.py'}:tiny"


def small_run(corpus, workdir, epochs):
    """Flags of a run that takes a moment."""
    flags = [CONFIG, f"--config.data.path={corpus}", f"--workdir={workdir}"]
    return [*flags, "--config.train.batch_size=8", f"--config.train.epochs={epochs}"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache_home, demo_folder):
    """A finished tiny run on the demo corpus: (workdir, console output)."""
    run, output = store.finished_run("tiny", lambda workdir: [CONFIG, f"--workdir={workdir}"], user_env(cache_home))
    workdir = shutil.copytree(run, tmp_path_factory.mktemp("runs") / "tiny")
    render.write([workdir], workdir / "report.html")  # it tells where the run lies
    return workdir, output


def test_a_run_writes_everything(finished, demo):
    workdir, output = finished
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics.keys() == {
        "task",
        "labels",
        "valid",
        "test",
        "points",
        "replicas",
        "protocol",
        "data",
        "checkpoint",
        "config",
        "versions",
    }
    (replica,), (point,) = metrics["replicas"], metrics["points"]
    assert {"accuracy", "uar", "weighted_f1", "macro_f1", "per_class", "confusion"} <= replica["test"].keys()
    assert list(replica["test"]["per_class"]) == metrics["labels"] == list(demo.labels)
    assert metrics["test"] == point["test"]
    assert point["pooled"]["confusion"] == replica["test"]["confusion"]
    for score in ("accuracy", "uar", "weighted_f1", "macro_f1"):
        assert metrics["test"][score] == {"mean": replica["test"][score], "sd": None}
        assert point["interval"][score]["low"] < replica["test"][score] < point["interval"][score]["high"]
    assert (
        replica["calibration"]["test_scaled"]["nll"]
        < replica["calibration"]["test"]["nll"]
        == pytest.approx(replica["test"]["loss"], rel=1e-4)
    )
    assert replica["calibration"]["scaling"]["used"]
    assert point["calibration"]["scaling"] == {"used": 1, "of": 1, "left_out": []}
    assert metrics["data"]["problems"] == []
    evidence = json.loads((workdir / "explain.json").read_text())["integrated_gradients"]
    assert evidence["utterances"] == 16
    assert evidence["in_words"] in output.replace("\n", " ")
    assert evidence["in_words"][1:] in (workdir / "report.html").read_text()
    assert metrics["data"]["manifest_sha256"] == demo.manifest_sha256
    assert metrics["data"]["bayes_accuracy"] == demo.manifest["bayes_accuracy"]["audio+text"]
    assert metrics["data"]["counts"]["official"]["train"]["utterances"] == len(demo.rows("train"))
    assert metrics["config"]["model"]["width"] == 32
    rows = [json.loads(line) for line in (workdir / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    best = max(rows, key=lambda row: row["valid"]["weighted_f1"])
    assert best["step"] == replica["step"]
    assert best["valid"]["weighted_f1"] == replica["valid"]["weighted_f1"]
    split = json.loads((workdir / "split.json").read_text())
    assert sorted(split["folds"][0]["test"]) == sorted(demo.index["id"][demo.rows("test")].tolist())
    assert split["sha256"] == metrics["protocol"]["split_sha256"]
    assert (workdir / "parameters.txt").read_text().count("labels") == 1
    assert json.loads((workdir / "config.json").read_text())["versions"]["jax"]
    for name in (*demo.labels, "weighted F1", "Bayes-optimal", "steps/s"):
        assert name in output


def test_predictions_are_what_was_scored(finished, demo):
    workdir, _ = finished
    rows = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    test = json.loads((workdir / "metrics.json").read_text())["replicas"][0]["test"]
    assert sorted(row["id"] for row in rows) == sorted(demo.index["id"][demo.rows("test")].tolist())
    confusion = np.zeros((7, 7), int)
    for row in rows:
        confusion[demo.labels.index(row["label"]), demo.labels.index(row["prediction"])] += 1
        assert max(row["probabilities"], key=row["probabilities"].get) == row["prediction"]
        assert abs(sum(row["probabilities"].values()) - 1) < 1e-4
    assert confusion.tolist() == test["confusion"]


def test_tensorboard_reads_the_events(finished):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the test extra"
    )
    events = accumulator.EventAccumulator(str(finished[0] / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (finished[0] / "history.jsonl").read_text().splitlines()]
    found = events.Scalars("valid/weighted_f1")
    assert [e.step for e in found] == [row["step"] for row in rows]
    np.testing.assert_allclose([e.value for e in found], [row["valid"]["weighted_f1"] for row in rows], rtol=1e-6)
    assert len(events.Scalars("train/loss")) > 3


def test_same_command_again_says_finished_and_eval_scores_the_same(finished, run_cli):
    workdir, _ = finished
    before = snapshot(workdir)
    done = run_cli(CONFIG, f"--workdir={workdir}")
    assert done.returncode == 0
    assert "is finished" in done.stdout
    again = run_cli(CONFIG, f"--workdir={workdir}", "--mode=eval")
    assert again.returncode == 0, again.stderr
    assert "the same figures as in metrics.json" in again.stdout
    assert snapshot(workdir) == before


@pytest.mark.slow
def test_eval_tells_when_the_figures_are_not_the_same(finished, run_cli, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy")
    path = tmp_path / "copy" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["replicas"][0]["test"]["accuracy"] += 0.01
    path.write_text(json.dumps(metrics))
    done = run_cli(CONFIG, f"--workdir={tmp_path / 'copy'}", "--mode=eval")
    assert done.returncode == 1
    assert "test.accuracy" in done.stdout


def test_another_config_or_seed_is_refused_and_nothing_is_touched(finished, run_cli):
    workdir, _ = finished
    before = snapshot(workdir)
    done = run_cli(CONFIG, f"--workdir={workdir}", "--config.optim.learning_rate=0.5", "--config.seed=4")
    assert done.returncode == 2
    assert "optim.learning_rate: 0.002 -> 0.5" in done.stderr
    assert "seed: 0 -> 4" in done.stderr
    assert snapshot(workdir) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.optim.learning_rat=1"], "did you mean --config.optim.learning_rate"),
        (["--config.optim.learning_rate=fast"], "could not convert string to float"),
        (["--config.train.epochs=2.5"], "--config.train.epochs"),
        (["--config.model.gate=7"], "--config.model.gate"),
        (["--config.data.modalities=text,smell"], "has no 'smell'; it has text, audio, visual"),
        (["--config.model.reduce=median"], "one of mean, max"),
        (["--config.data.soft_labels=True"], "does not say how its raters voted"),
        (["--config.data.path=/nowhere"], "/nowhere does not exist"),
        (["--config.train.batch_size=5000"], "the training part has only"),
        (["--config.model.vsc=False"], "the config has no field 'vsc'; "),
        (["stray"], "is not a flag"),
    ],
)
def test_a_typing_mistake_is_one_clear_message(run_cli, tmp_path, flags, words):
    done = run_cli(CONFIG, f"--workdir={tmp_path / 'w'}", *flags)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 10
    assert not (tmp_path / "w").exists()


def test_names_of_fields_before_0_9_are_understood(finished, run_cli):
    """The run is finished under today's names: the same values by the old names are the same run, others another."""
    names = {"optim.average": "0.99", "replicas.together": "0", "train.look": "True", "train.accumulate": "1"}
    flags = [CONFIG, f"--workdir={finished[0]}"]
    done = run_cli(*flags, *(f"--config.{name}={value}" for name, value in names.items()))
    assert done.returncode == 0, done.stderr
    assert "is finished" in done.stdout
    assert done.stderr.splitlines() == [
        f"note: --config.{name} is called --config.{old_runs.FIELDS[name]} since 0.9" for name in names
    ]
    other = run_cli(*flags, "--config.optim.average", "0.5", "--noconfig.train.look")
    assert other.returncode == 2
    assert "optim.ema_decay: 0.99 -> 0.5" in other.stderr
    assert "note: --config.train.look is called --config.train.inspect" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--config is missing"),
        (["--config=configs/nothing.py"], "nothing.py"),
        ([CONFIG + "y"], "knows the arguments"),
    ],
)
def test_a_missing_config_is_one_clear_message(run_cli, arguments, words):
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "damage",
    [
        damage_flipped_bit,
        damage_version,
        *(pytest.param(damage, marks=pytest.mark.slow) for damage in (damage_truncated, damage_missing_index)),
    ],
)
def test_a_damaged_corpus_stops_the_run_before_it_begins(small_corpus, run_cli, tmp_path, damage):
    words = damage(small_corpus)
    done = run_cli(*small_run(small_corpus, tmp_path / "w", epochs=3))
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "w" / "checkpoints").exists()


@pytest.mark.slow
def test_bad_values_are_refused_or_zeroed_and_counted_in_the_metrics(run_cli, tmp_path):
    def spoilt():
        for u in small_utterances(96):
            if u.id in ("u001", "u005"):
                audio = u.features["audio"].copy()
                audio[0, 1] = np.nan
                u = dataclasses.replace(u, features={**u.features, "audio": audio})
            yield u

    write_corpus(tmp_path / "c", spoilt(), small_description())
    flags = small_run(tmp_path / "c", tmp_path / "w", epochs=1)
    done = run_cli(*flags)
    assert done.returncode == 2
    assert "(u001): audio[0, 1] is nan" in done.stderr
    assert "--config.data.nonfinite=zero" in done.stderr
    done = run_cli(*flags, "--config.data.nonfinite=zero")
    assert done.returncode == 0, done.stderr
    counts = json.loads((tmp_path / "w" / "metrics.json").read_text())["data"]["counts"]["official"]
    assert counts["train"]["nonfinite_zeroed"] == {"text": 0, "audio": 1}
    assert counts["test"]["nonfinite_zeroed"] == {"text": 0, "audio": 1}


@pytest.mark.slow
def test_streaming_trains_to_the_same_numbers_as_resident(run_cli, tmp_path, small_corpus):
    results = []
    for placement in ("resident", "stream"):
        workdir = tmp_path / placement
        done = run_cli(
            *small_run(small_corpus, workdir, epochs=2),
            f"--config.data.placement={placement}",
            "--config.data.max_length=6",
            "--config.data.soft_labels=True",
        )
        assert done.returncode == 0, done.stderr
        assert re.search(r"problem: text: \d+ of \d+ steps \(\d+ %\) are not read", done.stdout), done.stdout
        assert "learnt is what the raters say of 16 training utterances; of 8, where" in done.stdout
        assert "against the raters: NLL " in done.stdout
        results.append(json.loads((workdir / "metrics.json").read_text()))
        assert re.fullmatch(
            r"text: \d+ of \d+ steps .* --config.data.max_length=text:9\+audio:6 reads .*",
            *results[-1]["data"]["problems"],
        )
        assert "Not all is read." in (workdir / "report.html").read_text()
    for part in ("valid", "test"):
        one, other = (result["replicas"][0][part] for result in results)
        assert one["confusion"] == other["confusion"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert [result["replicas"][0]["raters"]["utterances"] for result in results] == [12, 12]
    one, other = (result["points"][0]["raters"]["nll"]["mean"] for result in results)
    assert one == pytest.approx(other, rel=1e-5)


def test_a_device_without_memory_for_a_step_is_told_and_other_errors_are_not_hidden():
    full = explained(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"))
    assert isinstance(full, UserError)
    assert "Out of memory allocating 9 bytes.)" in str(full)
    assert "--config.train.microbatches" in str(full)
    other = RuntimeError("INTERNAL: something")
    assert explained(other) is other
    with pytest.raises(UserError, match="too little memory"), distributed.exit_together(1):
        more_than_there_is()
    with pytest.raises(RuntimeError, match="something"), distributed.exit_together(1):
        raise other


def more_than_there_is():
    return jax.numpy.zeros(1 << 46).block_until_ready()


def test_a_row_that_is_too_big_does_not_cost_the_others(monkeypatch, tmp_path, small_corpus, capsys):
    monkeypatch.setattr(experiment, "run", lambda *_, **__: more_than_there_is())
    rows = dict.fromkeys(["one", "other"], LSGMERExperiment())
    with pytest.raises(UserError, match=r"2 of 2 rows failed:\n  one: the device has too little memory .*\n  other: "):
        sweep.run_rows(rows, Corpus(small_corpus), epath.Path(tmp_path))
    assert "report.html" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_fills_its_table_and_repeats_nothing(run_cli, tmp_path, small_corpus):
    rows = tmp_path / "rows.py"
    rows.write_text(
        "def get_sweep():\n    return {'diverges': {'optim.learning_rate': 1e38, 'optim.clip': 0.0},"
        " 'no gate': {'model.gate': False}, 'other': {'loss.apc': 0.0}}\n"
    )
    flags = small_run(small_corpus, tmp_path / "w", epochs=1)
    flags += [f"--sweep={rows}", "--config.replicas.seeds=2", "--rows=no gate"]
    done = run_cli(*flags, module="mer_jax.sweep")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "w" / "sweep.json").read_text())
    assert summary.keys() == {"no gate"}
    (point,) = summary["no gate"]["points"]
    metrics = json.loads((tmp_path / "w" / "no-gate" / "metrics.json").read_text())
    assert not metrics["config"]["model"]["gate"]
    assert [replica["seed"] for replica in metrics["replicas"]] == [0, 1]
    values = [replica["test"]["weighted_f1"] for replica in metrics["replicas"]]
    assert point["test"]["weighted_f1"] == pytest.approx({"mean": np.mean(values), "sd": np.std(values, ddof=1)})
    cell = f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
    assert cell in (tmp_path / "w" / "sweep.md").read_text()
    for page in (tmp_path / "w" / "report.html", tmp_path / "w" / "no-gate" / "report.html"):
        assert "no-gate on small" in page.read_text()
    again = run_cli(*flags, module="mer_jax.sweep")
    assert again.returncode == 0
    assert again.stdout.count("is finished") == 1
    other = ["--rows=no gate,diverges", f"--workdir={tmp_path / 'v'}"]
    other += ["--config.train.log_steps=1", "--config.replicas.seeds=1"]
    partly = run_cli(*flags, *other, module="mer_jax.sweep")
    assert partly.returncode == 2
    assert "1 of 2 rows failed:\n  diverges: the training's loss is nan at step" in partly.stderr
    assert json.loads((tmp_path / "v" / "sweep.json").read_text()).keys() == {"no gate"}
    wrong = run_cli(*flags, "--rows=nothing", module="mer_jax.sweep")
    assert wrong.returncode == 2
    assert "--rows=nothing" in wrong.stderr


@pytest.mark.parametrize(
    "module",
    [
        "mer_jax.main",
        "mer_jax.sweep",
        "mer_jax.compare",
        "mer_jax.visualize_vsc",
        "mer_jax.data",
        "data_prep.iemocap",
        "data_prep.meld",
        "data_prep.mosi",
        "data_prep.audit",
        "data_prep.swin",
    ],
)
def test_help_explains(run_cli, module):
    done = run_cli("--help", module=module)
    assert done.returncode in (0, 1)  # absl's --help exits with 1
    assert len(done.stdout) > 200


@pytest.mark.slow
def test_the_demo_corpus_is_made_on_first_use(run_cli, tmp_path, monkeypatch):
    script = "from mer_jax.data.synthetic import demo_corpus; print(len(demo_corpus()))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=user_env(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    corpus = Corpus(next((tmp_path / "mer_jax").glob("demo-*")))
    assert int(done.stdout) == len(corpus)
    assert set(corpus.modalities) == set(MODALITIES)
