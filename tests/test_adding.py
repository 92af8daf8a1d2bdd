"""mer_jax/models/adding.md, run as it stands: a model in two files, a loss term, a row of the table of scores."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, user_env
from runs import committed, compare

from mer_jax.data.corpus import Corpus

PAGE = (ROOT / "mer_jax" / "models" / "adding.md").read_text()
MODEL, CONFIG, TERM, ROW = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
WITH_ROW = """
import runpy, sys
from mer_jax.metrics.classification import METRICS, class_f1
from mer_jax.metrics.metric import Metric
METRICS.update({ROW})
module = sys.argv.pop(1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


class Folder:
    """The two files in a folder of their own, and the commands as somebody would run them there."""

    def __init__(self, path, corpus, cache):
        self.path, self.corpus, self.cache = path, corpus, cache
        (path / "toy.py").write_text(MODEL)
        (path / "toy_config.py").write_text(CONFIG)
        (path / "with_row.py").write_text(WITH_ROW.replace("ROW", ROW))

    def env(self):
        return user_env(self.cache) | {"PYTHONPATH": os.pathsep.join([str(self.path), str(ROOT)])}

    def run(self, *command, row=False):
        start = [str(self.path / "with_row.py")] if row else ["-m"]
        done = subprocess.run(
            [sys.executable, *start, *map(str, command)],
            cwd=self.path,
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=170,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def train(self, workdir, *flags, row=False):
        known = [f"--config={self.path / 'toy_config.py'}", f"--config.data.path={self.corpus}", f"--workdir={workdir}"]
        return self.run("mer_jax.main", *known, *flags, row=row)


@pytest.fixture
def folder(tmp_path, small_corpus, cache_home):
    (tmp_path / "mine").mkdir()
    return Folder(tmp_path / "mine", small_corpus, cache_home)


@pytest.mark.slow
def test_a_model_is_one_model_file_and_one_config_file(folder, tmp_path):
    run, killed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    folder.train(run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["config"]["family"] == "toy"
    assert metrics["test"]["accuracy"]["mean"] > 0.5, "the label can be read off the features"
    # It stops when asked to, after the first save, and carries on with the same bits.
    command = [sys.executable, "-m", "mer_jax.main", f"--config={folder.path / 'toy_config.py'}"]
    command += [
        f"--config.data.path={folder.corpus}",
        f"--workdir={killed}",
        "--config.train.checkpoint_minutes=0.0001",
    ]
    process = subprocess.Popen(command, cwd=folder.path, env=folder.env(), stdout=subprocess.DEVNULL)
    while process.poll() is None and not committed(killed):
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (killed / "metrics.json").exists(), "it was killed in time"
    assert "resuming after step" in folder.train(killed)
    compare(killed, run)
    # A sweep of what may be swept, a report that compares, predictions, an export.
    swept = tmp_path / "swept"
    folder.train(swept, "--config.replicas.grid=model.dropout=0.1,0.5 optim.learning_rate=1e-2,1e-3")
    assert len(json.loads((swept / "metrics.json").read_text())["points"]) == 4
    folder.run("mer_jax.report", run, swept, "--out", tmp_path / "both.html")
    assert "model.dropout" in (tmp_path / "both.html").read_text()
    lines = folder.run("mer_jax.predict", run, folder.corpus, "--only-test").splitlines()
    told = {row["id"]: row for row in map(json.loads, (run / "predictions.jsonl").read_text().splitlines())}
    found = {row["id"]: row for row in map(json.loads, lines)}
    assert found.keys() == told.keys()
    assert {i: row["prediction"] for i, row in found.items()} == {i: row["prediction"] for i, row in told.items()}
    # The same model in conversations.
    talks = tmp_path / "talks"
    folder.train(talks, "--config.data.context=past", "--config.context.width=16")
    assert json.loads((talks / "metrics.json").read_text())["protocol"]["context"]["hears"] == "past"
    why = folder.run("mer_jax.predict", talks, folder.corpus, "--attribution").splitlines()
    assert any(json.loads(line)["attribution"].get("turns") for line in why)
    formats = "stablehlo" if importlib.util.find_spec("flatbuffers") else "safetensors"
    folder.run("mer_jax.export", run, "--out", tmp_path / "out", "--formats", formats)
    assert "Toy: the means of all modalities" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_a_loss_term_is_a_function_and_a_line_of_the_model_file(folder, tmp_path):
    settings, function = TERM.split("\n\n\ndef mean_square")
    model = MODEL.replace(
        "@dataclasses.dataclass\nclass ToyExperiment", f"{settings}\n\n\n@dataclasses.dataclass\nclass ToyExperiment"
    )
    model = model.replace("loss: LossSettings = group(LossSettings)", "loss: ToyLoss = group(ToyLoss)")
    start, end = model.index("def objective"), model.index("def build")
    model = f"{model[:start]}def mean_square{function}\n\n{model[end:]}"
    model = model.replace("\n\n\n@", "\nfrom mer_jax.models.losses import weighted_mean\n\n\n@", 1)
    (folder.path / "toy.py").write_text(model)
    for weight in (0.0, 5.0):
        folder.train(tmp_path / f"{weight:g}", f"--config.loss.square={weight}")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    last = []
    for weight in ("0", "5"):
        events = EventAccumulator(str(tmp_path / weight / "tensorboard")).Reload()
        assert "train/square" in events.Tags()["scalars"] or "train/square" in events.Tags()["tensors"]
        last.append(json.loads((tmp_path / weight / "history.jsonl").read_text().splitlines()[-1])["valid"]["loss"])
    assert last[0] != last[1], "the weight changes what is learnt"


@pytest.mark.slow
def test_a_metric_is_one_row(folder, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    folder.train(old)
    output = folder.train(new, "--config.train.select=worst_f1", row=True)
    assert "worst class's F1" in output
    metrics = json.loads((new / "metrics.json").read_text())
    matrix = np.array(metrics["replicas"][0]["test"]["confusion"], float)
    f1 = 2 * np.diag(matrix) / np.maximum(matrix.sum(0) + matrix.sum(1), 1e-9)
    assert metrics["test"]["worst_f1"]["mean"] == pytest.approx(f1.min())
    assert metrics["points"][0]["interval"]["worst_f1"]["low"] <= f1.min()
    assert "worst class&#x27;s F1" in (new / "report.html").read_text().replace("&#39;", "&#x27;")
    folder.run("mer_jax.report", old, new, "--out", tmp_path / "both.html", row=True)
    assert "worst_f1" not in json.loads((old / "metrics.json").read_text())["test"]
    output = folder.run("mer_jax.compare", old, new, row=True)
    assert "weighted F1" in output
    assert len(Corpus(folder.corpus).labels) == len(matrix)
