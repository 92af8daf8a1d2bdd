"""The command `python -m mer_jax.benchmark`, with models that are trained, one of which fails; killed, and asked again."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import store
from conftest import ROOT, small_description, small_utterances, user_env

from mer_jax.data.corpus_writer import write_corpus

DIVERGES = """
from mer_jax.models import lsgmer

def get_config(arg=""):
    experiment = lsgmer.LSGMERExperiment(experiment="diverges")
    experiment.model.width, experiment.optim.clip = 16, 0.0
    experiment.optim.name, experiment.optim.weight_decay = "sgd", 1e30
    return experiment
"""
FLAGS = ["--seeds=2", "--grid=optim.learning_rate=1e-3,2e-3", "--set", "train.epochs=2", "--set", "train.batch_size=8"]
FLAGS += ["--set", "train.checkpoint_minutes=0.005", "--modalities=text,audio"]


def line_of(folder, *more):
    models = f"--models=configs/lsgmer.py:tiny,{folder}/diverges.py,majority"
    where = ["--corpus", str(folder / "small"), f"--workdir={folder / 'w'}"]
    return [sys.executable, "-m", "mer_jax.benchmark", models, *where, *FLAGS, *more]


def begin(folder):
    folder.mkdir(exist_ok=True)
    write_corpus(folder / "small", small_utterances(96), small_description())
    (folder / "diverges.py").write_text(DIVERGES)


def start(folder, cache_home, *more):
    return subprocess.Popen(
        line_of(folder, *more), cwd=ROOT, env=user_env(cache_home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def without_seconds(folder):
    """What benchmark.json holds; the folder's path is no part of it."""
    found = json.loads((folder / "w" / "benchmark.json").read_text().replace(str(folder), ""))
    for table in found["tables"]:
        for row in table["rows"]:
            row.pop("seconds", None)
    return found


@pytest.fixture(scope="module")
def whole(cache_home):
    """The folder of a benchmark that nobody has interrupted, and what it said."""

    def make(folder):
        begin(folder)
        done = start(folder, cache_home)
        said = done.communicate(timeout=170)[0]
        assert done.returncode == 1, said  # one row failed
        (folder / "said").write_text(said)

    folder = store.made_once("benchmark", make)
    return folder, (folder / "said").read_text()


@pytest.mark.slow
def test_a_model_that_fails_is_a_row_that_says_so(whole):
    folder, said = whole
    [table] = without_seconds(folder)["tables"]
    tiny, _, failed = table["rows"]
    assert [row["model"] for row in table["rows"]] == ["lsgmer:tiny", "majority", "diverges"]
    assert failed["status"] == "failed"
    assert failed["stage"] == "tune"
    assert "is nan at step" in failed["why"]
    assert tiny["point"]["values"]["optim.learning_rate"] in (1e-3, 2e-3)
    assert tiny["validation"] == {"points": 2, "seeds": 1, "evaluations": 2 * 2 + 2 * 2}
    assert list(tiny["seeds"]) == ["0", "1"]
    assert tiny["parameters"] > 1000
    assert tiny["test_looks"] >= 1
    assert table["dialogues"] == 16
    locked = json.loads((folder / "w" / "small" / "official" / "lsgmer-tiny" / "tune" / "metrics.json").read_text())
    assert locked["protocol"]["locked"]
    assert "test" not in locked["points"][0]
    assert "1 of 3 rows failed" in said
    assert "3 of 3: small, official: majority (elapsed" in said
    assert {p.suffix for p in (folder / "w").glob("benchmark.*")} == {".json", ".md", ".tex", ".html"}


@pytest.mark.slow
def test_the_same_command_repeats_nothing_and_tries_what_failed_when_asked(whole, cache_home, tmp_path):
    copy = shutil.copytree(whole[0], tmp_path / "copy")
    wanted = without_seconds(whole[0])
    where = (copy / "w" / "plan.json").read_text()
    began = time.monotonic()
    again = subprocess.run(
        line_of(copy), cwd=ROOT, env=user_env(cache_home), capture_output=True, text=True, check=False
    )
    assert again.returncode == 1, again.stderr
    assert "3 rows, of which 3 are done" in again.stdout
    assert "failed before; --retry-failed tries it again" in again.stdout
    assert time.monotonic() - began < 40
    assert without_seconds(copy) == wanted
    assert (copy / "w" / "plan.json").read_text() == where
    (copy / "diverges.py").write_text(DIVERGES.replace("1e30", "0.0"))
    mended = subprocess.run(line_of(copy, "--retry-failed"), cwd=ROOT, env=user_env(cache_home), capture_output=True,
                            text=True, check=False)  # fmt: skip
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "1 of 1: small, official: diverges" in mended.stdout
    assert {row["status"] for row in without_seconds(copy)["tables"][0]["rows"]} == {"finished"}


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_table(whole, cache_home, tmp_path, request):
    """By a kill -9 of the benchmark alone, whose child then saves and ends, and by SIGTERM, which it hands on."""
    rng, folder = random.Random(7), tmp_path / "killed"
    begin(folder)
    for i in range(request.config.getoption("--kills")):
        process = start(folder, cache_home)
        time.sleep(rng.uniform(3, 14))
        name = signal.SIGTERM if i == 1 else signal.SIGKILL
        process.send_signal(name)
        said = process.communicate(timeout=60)[0]  # its child has closed the pipe, too
        assert process.returncode in (-name, 0, 1), said
        assert "Traceback" not in said
    done = start(folder, cache_home)
    said = done.communicate(timeout=170)[0]
    assert done.returncode == 1, said
    ours, wanted = without_seconds(folder), without_seconds(whole[0])
    for found in (ours, wanted):  # a run looks for NaN also when it saves, which is a matter of time
        failed = found["tables"][0]["rows"][2]
        failed["why"], count = re.subn(r"\w+ is nan at step \d+", "nan", failed["why"])
        assert count == 1
    assert ours == wanted


@pytest.mark.slow
def test_sigterm_lets_the_child_save_and_ctrl_c_ends_both(cache_home, tmp_path):
    begin(tmp_path / "a")
    for name, code, words in ((signal.SIGTERM, 0, "asked to stop"), (signal.SIGINT, 130, "interrupted")):
        process = start(tmp_path / "a", cache_home)
        log = tmp_path / "a" / "w" / "small" / "official" / "lsgmer-tiny" / "tune.log"
        deadline = time.monotonic() + 60
        while not log.exists() or not log.read_text():  # the child is at work
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, name)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == code, said
        assert words in said
        assert not list((tmp_path / "a" / "w").rglob("failed.json"))
        log.unlink()
