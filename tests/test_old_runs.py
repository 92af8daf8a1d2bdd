"""Runs that 0.8 finished are loaded, reported, compared, scored again, disturbed and predicted from."""

import json
import os
import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from conftest import ROOT, user_env
from experiments import FAMILIES

import mer_jax
from mer_jax import old_runs
from mer_jax.config import to_dict
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.models.family import experiment_from

COMMON = ["--config.data.path=corpus", "--config.train.epochs=2", "--config.train.batch_size=8"]
COMMON += ["--config.train.keep_checkpoints=1"]
# As somebody wrote them for 0.8, the field that has another name since among them.
FLAGS = {
    "lsgmer": [
        "--config.replicas.seeds=2",
        "--config.model.width=8",
        "--config.model.heads=2",
        "--config.replicas.together=1",
    ],
    "deepmsi_mer": [
        "--config.data.modalities=text,audio",
        "--config.model.early_width=4",
        "--config.model.projection=8",
        "--config.model.tcn_widths=(4,)",
        "--config.model.late_widths=(8,)",
        "--config.model.variant=published",
        "--config.optim.average=0.0",
        "--config.replicas.grid=optim.learning_rate=0.002,0.02 model.dropout=0.1",
    ],
}


@pytest.fixture
def folder(tmp_path):
    with tarfile.open(ROOT / "tests" / "old_runs" / "0.8.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def command(folder, cache, *arguments):
    env = user_env(cache) | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    call = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True, timeout=170)


def main(folder, cache, name, *flags):
    config = f"--config={ROOT / 'configs' / name}.py:tiny"
    return command(folder, cache, "mer_jax.main", config, *COMMON, *FLAGS[name], f"--workdir={name}-0.8", *flags)


@pytest.mark.parametrize("name", FLAGS)
def test_a_run_of_0_8_predicts_what_it_predicted(name, folder):
    model = mer_jax.load(folder / f"{name}-0.8")
    assert model.config.family() == name
    wanted = {}
    for line in (folder / f"{name}-0.8" / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        wanted.setdefault(row["replica"], {})[row["id"]] = row
    for number, replica in enumerate(model.replicas):
        every = {p.id: p for p in model.predict(folder / "corpus", replica=number)}
        assert len(wanted[replica]) == 16
        for utterance, row in wanted[replica].items():
            assert every[utterance].prediction == row["prediction"]
            scaled = np.array(list(row["probabilities"].values())) ** (1 / model.temperature(number))
            found = list(every[utterance].probabilities.values())
            np.testing.assert_allclose(found, scaled / scaled.sum(), atol=3e-6)  # six digits are written


def test_its_config_is_read_in_todays_words(folder):
    tree = json.loads((folder / "lsgmer-0.8" / "config.json").read_text())["config"]
    assert "family" not in tree
    config = experiment_from(old_runs.read_config(tree))
    assert (config.family(), config.model.width, config.optim.ema_decay) == ("lsgmer", 8, tree["optim"]["average"])
    assert old_runs.read_config(tree | {"backbone": {"rate": 0.5}})["backbone"] == {"lr_scale": 0.5}


def test_a_config_of_0_11_lacks_what_came_later():
    for kind in (FAMILIES[name] for name in old_runs.FAMILIES):  # others came later
        tree = to_dict(kind())
        for group, fields in (old_runs.BEFORE_CHOICES | old_runs.BEFORE_LAYERS).items():
            for field in fields:
                del tree[group][field]
        assert to_dict(experiment_from(tree)) == to_dict(kind())
    tree["replicas"]["seeds"] = "three"
    with pytest.raises(UserError, match="seeds"):
        experiment_from(tree)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_a_run_of_0_8_is_scored_again_reported_and_disturbed(name, folder, cache_home):
    workdir = folder / f"{name}-0.8"
    before = (workdir / "metrics.json").read_bytes()
    again = main(folder, cache_home, name, "--mode=eval")
    if again.returncode:  # another processor may round otherwise
        pairs = re.findall(r": ([-\d.e]+) -> ([-\d.e]+)$", again.stdout, re.MULTILINE)
        assert pairs, again.stdout
        for a, b in pairs:
            assert float(b) == pytest.approx(float(a), rel=1e-5, abs=1e-5), again.stdout
    else:
        assert "the same figures as in metrics.json" in again.stdout, again.stderr
    assert "since 0.9" in again.stderr
    finished = main(folder, cache_home, name)
    assert finished.returncode == 0, finished.stderr
    assert "is finished" in finished.stdout
    disturbed = main(folder, cache_home, name, "--mode=robustness")
    assert disturbed.returncode == 0, disturbed.stderr
    report = (workdir / "report.html").read_text()
    assert "weighted F1" in report
    assert f"--config=configs/{name}.py" in report
    assert (workdir / "metrics.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_a_run_that_0_8_did_not_finish_carries_on(name, folder, cache_home):
    """It was killed after its last checkpoint: what is left is to score it, and that gives the same."""
    workdir = folder / f"{name}-0.8"
    before = {file: (workdir / file).read_text() for file in ("metrics.json", "predictions.jsonl")}
    for file in before:
        (workdir / file).unlink()
    done = main(folder, cache_home, name)
    assert done.returncode == 0, done.stderr
    assert "resuming after step 6\n" in done.stdout
    found, wanted = (
        json.loads(text)["replicas"] for text in ((workdir / "metrics.json").read_text(), before["metrics.json"])
    )
    assert [replica["name"] for replica in found] == [replica["name"] for replica in wanted]
    for ours, its in zip(found, wanted, strict=True):
        assert ours["values"] == its["values"]
        assert ours["test"]["confusion"] == its["test"]["confusion"]
        assert ours["test"]["loss"] == pytest.approx(its["test"]["loss"], rel=1e-5)
    config = json.loads((workdir / "config.json").read_text())["config"]
    assert config["family"] == name
    assert "ema_decay" in config["optim"]


@pytest.mark.slow
def test_a_run_of_0_8_is_compared_with_one_of_today(folder, cache_home):
    config = f"--config={ROOT / 'configs' / 'lsgmer'}.py:tiny"
    flags = [*COMMON, *FLAGS["lsgmer"], "--workdir=today"]
    new = command(folder, cache_home, "mer_jax.main", config, *flags)
    assert new.returncode == 0, new.stderr
    compared = command(folder, cache_home, "mer_jax.compare", "lsgmer-0.8", "today", "--json", "compared.json")
    assert compared.returncode == 0, compared.stderr
    difference = json.loads((folder / "compared.json").read_text())["scores"]["weighted_f1"]["difference"]
    assert abs(difference) < 0.2, "the same seeds and settings"
    both = command(folder, cache_home, "mer_jax.report", "lsgmer-0.8", "today", "--out", "both.html")
    assert both.returncode == 0, both.stderr
    corpus = Corpus(folder / "corpus")
    assert np.array(json.loads((folder / "today" / "metrics.json").read_text())["labels"]).tolist() == list(
        corpus.labels
    )
    assert os.path.getsize(folder / "both.html") > 10_000
