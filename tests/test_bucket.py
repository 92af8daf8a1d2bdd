"""A workdir in a bucket works like a local folder: killed, resumed, scored again, with the same files. The bucket is an
emulator's."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, corpus_of, free_ports, user_env
from runs import without_looks

FLAGS = ["--config=configs/lsgmer.py:tiny", "--config.train.epochs=6", "--config.train.batch_size=16"]


@pytest.fixture
def bucket():
    """The environment in which gs://bucket is the emulator's."""
    pytest.importorskip("gcsfs", reason="needs the extra gcs")
    pytest.importorskip("gcp_storage_emulator", reason="needs the extra test")
    (port,) = free_ports(1)
    server = subprocess.Popen(
        [sys.executable, "tests/bucket.py", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://localhost:{port}"
    yield {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        "GOOGLE_CLOUD_PROJECT": "p",
    }
    server.kill()
    server.wait()


def read(env, *paths):
    """The texts at these paths of the bucket; None where nothing is."""
    script = (
        "import sys, json\nfrom etils import epath\npaths = map(epath.Path, sys.argv[1:])\n"
        "print(json.dumps([path.read_text() if path.exists() else None for path in paths]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *paths], env=os.environ | env, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_run_in_a_bucket(tmp_path, cache_home, bucket):
    flags = [*FLAGS, f"--config.data.path={corpus_of(480)}"]
    env = user_env(cache_home) | bucket

    def command(workdir, *more):
        return [sys.executable, "-m", "mer_jax.main", *flags, f"--workdir={workdir}", *more]

    def finished(*arguments):
        done = subprocess.run(command(*arguments), cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    finished(tmp_path / "local")
    workdir = "gs://bucket/runs/x"
    process = subprocess.Popen(
        command(workdir), cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while read(bucket, f"{workdir}/history.jsonl") == [None]:
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read(bucket, f"{workdir}/metrics.json") == [None], "killed too late"
    finished(workdir)
    names = ("metrics.json", "predictions.jsonl", "history.jsonl", "split.json", "parameters.txt")
    texts = read(bucket, *(f"{workdir}/{name}" for name in names))
    for name, text in zip(names, texts, strict=True):
        assert without_looks(name, text.encode()) == without_looks(name, (tmp_path / "local" / name).read_bytes()), name
    assert "the same figures as in metrics.json" in finished(workdir, "--mode=eval")
    other = subprocess.run(
        command(workdir, "--config.seed=1"), cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert other.returncode == 2
    assert "holds a finished run with another config" in other.stderr
