"""SIGINT and SIGTERM end every command at any moment, also twice; what is on disk stays whole."""

import random
import shutil
import signal
import subprocess
import time

import pytest
from conftest import ROOT, corpus_of, user_env
from processes import after
from test_resume import compare

CODES = {signal.SIGINT: (130, -2), signal.SIGTERM: (143, -15, 0)}
WORDS = {signal.SIGINT: "interrupted; the same command", signal.SIGTERM: "asked to stop"}


# A shell lets what it starts in the background ignore SIGINT, and a child inherits that.
AS_IN_A_TERMINAL = "import signal\nfor s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, signal.SIG_DFL)"


def start(line, cache_home):
    return subprocess.Popen(
        after(AS_IN_A_TERMINAL, *map(str, line)), cwd=ROOT, env=user_env(cache_home), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


LOST = """
import gc, sys, time
sys.orig_argv, sys.argv = ["python", "-m", "mer_jax.main"], ["-m"]
import mer_jax
from mer_jax.errors import reported

def swallow(*_):
    time.sleep(0.05)

gc.callbacks.append(swallow)
print(1, flush=True)
with reported():
    while True:
        {body}
"""
BODIES = {
    "a callback of the garbage collector": "gc.collect()",
    "code that catches everything": "\n        try: time.sleep(1)\n        except BaseException: pass",
    "another error": "\n        try: time.sleep(9)\n        except BaseException: raise RuntimeError('lost') from None",
}


@pytest.mark.parametrize("name", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("body", BODIES)
def test_a_signal_is_not_lost(cache_home, name, body):
    twice = body == "code that catches everything" and name == signal.SIGINT  # or after some seconds
    process = start(["-c", LOST.replace("{body}", BODIES[body])], cache_home)
    process.stdout.readline()
    for _ in range(1 + twice):
        time.sleep(0.2)
        process.send_signal(name)
    err = process.communicate(timeout=60)[1]
    assert process.returncode in CODES[name][:1], err
    assert err.count(WORDS[name]) == 1
    assert "Traceback" not in err


LISTENING = """
import sys, time
sys.orig_argv, sys.argv = ["python", "-m", "mer_jax.main"], ["-m"]
import mer_jax
from mer_jax.errors import reported
from mer_jax.runtime import distributed
with reported(), distributed.preemption_notice() as notice:
    print(1, flush=True)
    time.sleep(30)  # a step, or its compilation
"""


def test_sigterm_twice_does_not_wait_for_the_step(cache_home):
    process = start(["-c", LISTENING], cache_home)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=10)[1]
    assert process.returncode == 143
    assert err.count(WORDS[signal.SIGTERM]) == 1


@pytest.mark.parametrize("module", ["mer_jax.main", "mer_jax.report", "mer_jax.data", "data_prep.import_pack"])
def test_a_signal_during_the_first_imports(cache_home, module):
    for name in WORDS:
        process = start(["-X", "importtime", "-m", module, "--help"], cache_home)
        for line in process.stderr:  # the first of ours is imported
            if line.endswith("mer_jax.interrupts\n"):
                break
        next(process.stderr)  # what is imported next: by then it listens
        process.send_signal(name)
        err = process.communicate(timeout=60)[1]
        assert process.returncode in CODES[name][:2], err
        assert WORDS[name] in err or process.returncode < 0
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("count", "seed"),
    [pytest.param(4, 1, marks=pytest.mark.slow), *(pytest.param(30, s, marks=pytest.mark.nightly) for s in range(2))],
)
def test_signals_and_kills_at_any_moment_of_a_run(tmp_path, cache_home, count, seed):
    """Then the same command ends with the same bits."""
    rng, workdir = random.Random(seed), tmp_path / "w"

    def line(folder):
        flags = ["--config.train.batch_size=8", "--config.train.epochs=3", f"--config.data.path={corpus_of(120)}"]
        return ["-m", "mer_jax.main", f"--config={ROOT}/configs/lsgmer.py:tiny", f"--workdir={folder}", *flags,
                "--config.train.checkpoint_minutes=0.005"]  # fmt: skip

    began = time.monotonic()
    whole = start(line(tmp_path / "whole"), cache_home)
    assert "metrics.json" in whole.communicate(timeout=170)[0]
    takes = time.monotonic() - began
    for _ in range(count):
        name = rng.choice([*WORDS, signal.SIGKILL])
        process = start(line(workdir), cache_home)
        time.sleep(rng.uniform(0.05, takes))
        process.send_signal(name)
        sent = time.monotonic()
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0, 0.2))
            process.send_signal(name)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - sent < 15
        assert process.returncode in (*CODES.get(name, (-signal.SIGKILL,)), 0), err
        assert "Traceback" not in err
        finished = (workdir / "metrics.json").exists()
        assert process.returncode < 0 or finished or WORDS.get(name, "killed") in err + out
        if finished and process.returncode == 0:
            compare(workdir, tmp_path / "whole")
            shutil.rmtree(workdir)  # and once more
    again = start(line(workdir), cache_home).communicate(timeout=170)
    assert "metrics.json" in again[0] or "is finished" in again[0], again
    compare(workdir, tmp_path / "whole")
