"""A workdir is one process's at a time."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, corpus_of, user_env
from etils import epath

from mer_jax.runtime import folder_lock
from mer_jax.runtime.folder_lock import FolderLock, InUse, held

HOLD = "import sys, time; from mer_jax.runtime.folder_lock import held\nwith held(sys.argv[1], 'p'): print(1, flush=True); time.sleep(99)"


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/w."""
    line = [sys.executable, "-c", HOLD, str(tmp_path / "w")]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_told_who_holds_it(tmp_path, holder):
    with (
        pytest.raises(InUse, match=rf"w is in use by process {holder.pid} on .*two would destroy") as refused,
        held(tmp_path / "w", "q"),
    ):
        pass
    assert refused.value.holder.purpose == folder_lock.digest("p")


def test_what_a_killed_process_has_left_is_taken_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "w" / ".lock").exists()
    began = time.monotonic()
    with held(tmp_path / "w", "p"):
        pass
    assert time.monotonic() - began < 2
    assert list((tmp_path / "w").iterdir()) == []


def test_two_locks_in_one_process(tmp_path):
    with held(tmp_path, 1), pytest.raises(InUse), held(tmp_path, 1):
        pass
    with held(tmp_path, 1):
        pass


def test_a_number_that_is_another_process_now_holds_nothing(tmp_path):
    with held(tmp_path, 1):
        found = json.loads((tmp_path / ".lock").read_text())
    (tmp_path / ".lock").write_text(json.dumps(found | {"pid": os.getppid(), "started": "1"}))
    with held(tmp_path, 1):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', "null", "\0" * 300])
def test_a_damaged_lock_holds_nothing(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with held(tmp_path, 1):
        pass
    assert list(tmp_path.parent.glob(f"{tmp_path.name}/*")) == []


@pytest.fixture
def of_another_host(tmp_path, monkeypatch):
    """Writes a lock as a host would that shares the folder; its flock is not seen here."""
    monkeypatch.setattr(folder_lock, "SILENT_SECONDS", 1.2)

    def write(beat, since=None):
        about = {"host": "far", "boot": "b", "pid": 7, "started": "1", "purpose": "p", "token": "t"}
        about |= {"since": since or folder_lock._now(), "beat": f"{beat:012d}"}
        (tmp_path / ".lock").write_text(json.dumps(about))

    return write


@pytest.mark.parametrize("since", ["2020-01-01T00:00:00+00:00", None], ids=["years", "just now"])
def test_another_hosts_process_that_counts_on_is_alive(tmp_path, of_another_host, capsys, since):
    of_another_host(5, since)
    count = 'import sys,json,time,pathlib as p\nf=p.Path(sys.argv[1]); time.sleep(.4); d=json.loads(f.read_text()); d["beat"]="6".zfill(12); f.write_text(json.dumps(d))'
    counting = subprocess.Popen([sys.executable, "-c", count, str(tmp_path / ".lock")])
    with pytest.raises(InUse, match="process 7 on far"), held(tmp_path, 1):
        pass
    counting.wait()
    assert "waiting" in capsys.readouterr().err


def test_another_hosts_process_that_does_not_is_gone(tmp_path, of_another_host, capsys):
    of_another_host(5)
    with held(tmp_path, 1):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert "process 7 on far" in capsys.readouterr().err


def test_whoever_finds_another_name_in_its_lock_ends(tmp_path):
    """Two hosts that begin in the same second, where flock knows nothing of the other."""
    line = [sys.executable, "-c", HOLD, str(tmp_path / "w")]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    found = json.loads((tmp_path / "w" / ".lock").read_text())
    (tmp_path / "w" / ".lock").write_text(json.dumps(found | {"token": "t", "host": "far"}))
    assert process.wait(15) == 2
    assert "is in use by process" in process.communicate()[1]


def test_it_counts_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT_SECONDS", 0.1)
    lock = FolderLock(epath.Path(tmp_path), "p")
    first = json.loads((tmp_path / ".lock").read_text())
    time.sleep(1.4)
    then = json.loads((tmp_path / ".lock").read_text())
    lock.release()
    assert int(then["beat"]) > int(first["beat"])
    assert dataclasses.fields(folder_lock.Holder)[0].name in then
    assert not (tmp_path / ".lock").exists()


def main_of(folder, *flags):
    config = f"--config={ROOT / 'configs' / 'lsgmer.py'}:tiny"
    line = [sys.executable, "-m", "mer_jax.main", config, f"--config.data.path={corpus_of(120)}"]
    return [*line, "--config.train.batch_size=8", "--config.train.epochs=2", *flags]


@pytest.mark.slow
def test_runs_that_begin_together(tmp_path, cache_home):
    """Two on one workdir: one is refused in a line. Two seeds without a workdir: two names, which the same commands find
    again."""
    env = user_env(cache_home) | {"PYTHONPATH": str(ROOT)}

    def start(*flags):
        return subprocess.Popen(
            main_of(tmp_path, *flags), cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    together = [start("--workdir=w"), start("--workdir=w"), start("--config.seed=1"), start("--config.seed=2")]
    told = [process.communicate(timeout=170) for process in together]
    codes = [process.returncode for process in together]
    assert sorted(codes[:2]) == [0, 2], told
    (refused,) = (err for (_, err), code in zip(told[:2], codes[:2], strict=True) if code)
    assert "w is in use by process" in refused
    assert "Traceback" not in refused
    assert codes[2:] == [0, 0], told
    runs = sorted((tmp_path / "runs").iterdir())
    assert [run.name for run in runs] == ["lsgmer-tiny", "lsgmer-tiny-2"]
    seeds = {json.loads((run / "metrics.json").read_text())["config"]["seed"]: run for run in runs}
    assert sorted(seeds) == [1, 2]
    for seed, run in seeds.items():
        again = start(f"--config.seed={seed}").communicate(timeout=170)[0]
        assert f"{run.name} is finished" in again
    assert not list(tmp_path.rglob(".lock"))
