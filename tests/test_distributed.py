"""Several real processes as one run: the same numbers, the same files, and what happens when one of them goes."""

import itertools
import json
import random
import re
import signal
import time

import numpy as np
import pytest
import store
from conftest import ROOT, corpus_of, small_description, small_utterances
from processes import launch, outputs, so_far
from runs import committed, compare, final_arrays

from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.synthetic import write_demo
from mer_jax.errors import UserError
from mer_jax.main import parse_distributed

SMALL = ["--config=configs/lsgmer.py:tiny", "--config.train.epochs=3", "--config.train.batch_size=16"]
SMALL += ["--config.train.checkpoint_minutes=0.005", "--config.train.log_steps=1", "--config.train.log_reads=True"]
SGD = ["--config.optim.name=sgd", "--config.optim.learning_rate=0.1", "--config.optim.ema_decay=0.9"]
STREAM = ["--config.data.placement=stream"]
TIMEOUT = 10  # seconds until a process counts as lost


def main_command(workdir, corpus, flags):
    return lambda how: [
        "-m",
        "mer_jax.main",
        *flags,
        f"--config.data.path={corpus}",
        f"--workdir={workdir}",
        f"--distributed={how}",
        f"--distributed_timeout={TIMEOUT}",
    ]


def train(count, cache_home, workdir, corpus, flags, timeout=170):
    processes = launch(count, cache_home, main_command(workdir, corpus, flags))
    told = outputs(processes, timeout)
    assert [p.returncode for p in processes] == [0] * count, "\n".join(told)
    return told


@pytest.fixture(scope="module")
def corpus():
    return corpus_of(480)


def test_the_flag_is_checked():
    assert parse_distributed("auto") == "auto"
    assert parse_distributed("10.0.0.1:8476,4,3") == ("10.0.0.1:8476", 4, 3)
    for wrong in ("", "yes", "host,2,0", "host:1,2", "host:1,2,2", "host:1,0,0"):
        with pytest.raises(UserError, match="auto, none, or HOST:PORT,N,I"):
            parse_distributed(wrong)


@pytest.mark.slow
def test_any_number_of_processes_and_devices_is_one(tmp_path, cache_home):
    """Both models, resident and streamed, step by step."""
    write_demo(tmp_path / "demo", counts={"train": 120, "valid": 8, "test": 37})
    found = {}
    for devices in ((1,), (8,), (4, 4), (2, 2, 2, 2)):
        out = tmp_path / f"{devices}.npz"
        processes = launch(
            len(devices), cache_home, lambda how, out=out: ["tests/steps.py", how, tmp_path / "demo", out], devices
        )
        told = outputs(processes, 400)
        assert all(p.returncode == 0 for p in processes), "\n".join(told)
        found[devices] = np.load(out)
    one = found.pop((1,))
    assert len(one) == 20
    for devices, many in found.items():
        for name, wanted in one.items():
            tolerance = {"rtol": 1e-5} if name.endswith("losses") else {"atol": 1e-5}
            np.testing.assert_allclose(many[name], wanted, **tolerance, err_msg=f"{devices} {name}")
    for family in ("lsgmer none", "deepmsi_mer none", "lsgmer both"):
        losses = one[f"{family} stream losses"]
        assert losses[-1] < losses[0], "it learns"
        assert (np.linalg.norm(one[f"{family} stream gradients"], axis=1) > 0.1).all(), "there are gradients to compare"
    for family in ("lsgmer none", "deepmsi_mer none"):
        np.testing.assert_allclose(one[f"{family} stream losses"], one[f"{family} resident losses"], rtol=1e-5)


def reads(workdir):
    """{(processes, first step - 1): {step: [ids of process 0, ids of process 1, …]}} of every start of a run."""
    found = {}
    for path in (workdir / "reads").glob("*.jsonl"):
        process, count, start = map(int, re.fullmatch(r"(\d+)-of-(\d+)-from-(\d+)", path.stem).groups())
        for line in path.read_text().split("\n")[:-1]:
            row = json.loads(line)
            found.setdefault((count, start), {}).setdefault(row["step"], {})[process] = row["ids"]
    return found


def check_reads(workdir, undisturbed):
    """Every start read, at every step, what the undisturbed run did, every utterance by one process."""
    (wanted,) = reads(undisturbed).values()
    wanted = {step: sorted(itertools.chain(*ids.values())) for step, ids in wanted.items()}
    seen = set()
    for (count, start), steps in reads(workdir).items():
        assert all(step > start for step in steps)
        for step, ids in steps.items():
            if len(ids) == count:  # the others were killed before they wrote
                assert sorted(itertools.chain(*ids.values())) == wanted[step], (count, start, step)
                seen.add(step)
    return seen, set(wanted)


def kill_and_go_on(counts, cache_home, workdir, corpus, flags, kills, seed):
    """Starts the run again and again, each time with one of `counts` processes, and kills one of them at a random
    moment: while it starts, in its first steps, or after it has saved. The last start, with the fewest, is left
    alone."""
    rng = random.Random(seed)
    for _ in range(kills):
        count, when = rng.choice(counts), rng.choice(("start", "steps", "saved", "saved"))
        before, launched = committed(workdir), time.time()
        processes = launch(count, cache_home, main_command(workdir, corpus, flags))
        reached = {
            "start": lambda: True,
            "steps": lambda launched=launched: stepped(workdir, launched),
            "saved": lambda before=before: committed(workdir)[-1:] > before[-1:],
        }[when]
        while not reached():
            assert all(p.poll() is None for p in processes), outputs(processes)
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 10 if when == "start" else 1.5))
        rng.choice(processes).send_signal(signal.SIGKILL)
        began = time.monotonic()
        outputs(processes)
        assert time.monotonic() - began < 5 * TIMEOUT, "the others must not hang"
        assert not (workdir / "metrics.json").exists(), "the run must be longer than the kills"
    assert len({start for _, start in reads(workdir)}) > kills // 4, "hardly any start got further than the one before"
    return train(counts[0], cache_home, workdir, corpus, flags, LONG)


LONG = 600


def stepped(workdir, launched):
    """Whether a process that was started after `launched` has made a step: it says what it read for it."""
    found = [path.stat() for path in (workdir / "reads").glob("*.jsonl")]
    return any(file.st_mtime > launched and file.st_size for file in found)


def lasting(kills):
    """Flags of a run that takes longer than so many kills let it live."""
    epochs = f"--config.train.epochs={max(6 * kills, 48)}"
    return [
        epochs,
        "--config.train.patience=0",
        "--config.train.checkpoint_minutes=0.02",
        "--config.train.log_steps=10",
    ]


@pytest.mark.slow
def test_killed_again_and_again_with_other_process_counts(tmp_path, cache_home, corpus, request):
    kills = request.config.getoption("kills")
    flags = [*SMALL, *SGD, *STREAM, *lasting(kills)]
    train(1, cache_home, tmp_path / "undisturbed", corpus, flags, LONG)
    kill_and_go_on((1, 2, 4), cache_home, tmp_path / "killed", corpus, flags, kills, seed=0)
    ours, wanted = final_arrays(tmp_path / "killed"), final_arrays(tmp_path / "undisturbed")
    for name, value in wanted.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-5, err_msg=name)
    seen, steps = check_reads(tmp_path / "killed", tmp_path / "undisturbed")
    assert seen == steps


@pytest.mark.slow
def test_two_processes_killed_and_resumed_end_with_the_same_bits(tmp_path, cache_home, corpus, request):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed, killed = tmp_path / "a" / "run", tmp_path / "b" / "run"
    kills = request.config.getoption("kills")
    flags = [*SMALL, *STREAM, *lasting(kills)]
    train(2, cache_home, undisturbed, corpus, flags, LONG)
    kill_and_go_on((2,), cache_home, killed, corpus, flags, kills, seed=1)
    compare(killed, undisturbed)
    seen, steps = check_reads(killed, undisturbed)
    assert seen == steps


@pytest.mark.slow
def test_processes_with_unlike_many_devices_are_refused(tmp_path, cache_home, corpus):
    processes = launch(2, cache_home, main_command(tmp_path / "run", corpus, SMALL), devices=(1, 3))
    told = outputs(processes)
    assert [p.returncode for p in processes] == [2, 2], "\n".join(told)
    assert all("must have alike many devices, and they have 1, 3" in text for text in told)


@pytest.mark.slow
def test_a_late_process_is_named(tmp_path, cache_home, corpus):
    began = time.monotonic()
    processes = launch(3, cache_home, main_command(tmp_path / "run", corpus, SMALL))
    processes[1].kill()  # before it could reach the others
    told = outputs(processes)
    assert time.monotonic() - began < 4 * TIMEOUT
    for i in (0, 2):
        assert processes[i].returncode == 1, told[i]
        assert "missing is process 1." in told[i]
    assert not (tmp_path / "run").exists()
    assert [p.name for p in (tmp_path / ".run.arrivals").iterdir()] == ["missing"]


@pytest.mark.slow
def test_a_lost_process_is_named(tmp_path, cache_home, corpus):
    flags = [*SMALL, "--config.train.epochs=500", "--config.train.patience=0"]
    processes = launch(2, cache_home, main_command(tmp_path / "run", corpus, flags))
    while not (tmp_path / "run" / "history.jsonl").exists():
        assert all(p.poll() is None for p in processes)
        time.sleep(0.1)
    began = time.monotonic()
    processes[1].kill()
    told = outputs(processes)
    assert time.monotonic() - began < 4 * TIMEOUT
    assert processes[0].returncode != 0
    assert "unhealthy tasks" in told[0] or "are unhealthy (stopped sending heartbeats):\n1\n" in told[0]
    assert "The same command on all hosts carries on" in told[0]


@pytest.mark.slow
def test_an_error_of_one_process_is_told_by_all_and_ends_all(tmp_path, cache_home, corpus):
    """A record that cannot be read, in the part of one of them."""
    write_corpus(tmp_path / "bad", small_utterances(480), small_description())
    shard = sorted((tmp_path / "bad").glob("train*.tfrecord"))[0]
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(damaged)
    processes = launch(2, cache_home, main_command(tmp_path / "run", tmp_path / "bad", SMALL))
    told = outputs(processes)
    for p, output in zip(processes, told, strict=True):
        assert p.returncode == 2, output
        assert "Traceback" not in output
        assert shard.name in output


@pytest.fixture
def undisturbed(cache_home, corpus, count):
    """The workdir of a SMALL run with so many processes that nothing happened to."""

    def make(folder):
        train(count, cache_home, folder / "run", corpus, SMALL)

    return store.made_once(f"undisturbed-{count}", make) / "run"


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("when", ["step", "evaluation", "save"])
def test_sigterm_saves_and_exits_with_0(tmp_path, cache_home, corpus, undisturbed, count, when):
    stopped = tmp_path / "run"
    epoch = json.loads((undisturbed / "history.jsonl").read_text().splitlines()[0])["step"]
    seldom = ["--config.train.checkpoint_minutes=10"]  # nothing is saved in between
    flags = SMALL if when == "save" else [*SMALL, *seldom]
    processes = launch(count, cache_home, main_command(stopped, corpus, flags))

    def at():
        found = sorted((stopped / "reads").glob("0-*")) if (stopped / "reads").exists() else []
        return len(found[0].read_text().split("\n")) - 1 if found else 0

    reached = {
        "step": lambda: at() >= epoch // 2,
        "evaluation": lambda: at() >= epoch,  # the step is done in a moment; then the validation part is scored
        "save": lambda: list((stopped / "checkpoints").glob("*tmp*")),
    }[when]
    while not reached():
        assert all(p.poll() is None for p in processes), outputs(processes)
        time.sleep(0.001)
    began = time.monotonic()
    processes[-1].send_signal(signal.SIGTERM)  # one of them is told; all stop
    told = outputs(processes)
    seconds = time.monotonic() - began
    assert [p.returncode for p in processes] == [0] * count, told
    assert "the same command carries on" in told[0]
    assert not (stopped / "metrics.json").exists()
    assert seconds < 30
    print(f"{count} processes, in a {when}: {seconds:.1f} s from SIGTERM to exit")
    told = train(count, cache_home, stopped, corpus, SMALL)
    assert "resuming after step" in told[0]
    compare(stopped, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_sigterm_while_a_run_is_resumed(tmp_path, cache_home, corpus, count):
    """It comes before the first step of this start, whose number is not 1."""
    flags = [*SMALL, "--config.train.epochs=400", "--config.train.patience=0"]
    workdir = tmp_path / "run"
    first = launch(count, cache_home, main_command(workdir, corpus, flags))
    while not (workdir / "history.jsonl").exists():
        assert all(p.poll() is None for p in first), outputs(first)
        time.sleep(0.05)
    for process in first:
        process.kill()
    outputs(first)
    again = launch(count, cache_home, main_command(workdir, corpus, flags))
    while "train and test share" not in so_far(again[0]):  # JAX has started, the checkpoint is not read yet
        assert all(p.poll() is None for p in again), outputs(again)
        time.sleep(0.01)
    again[-1].send_signal(signal.SIGTERM)
    told = outputs(again)
    assert [p.returncode for p in again] == [0] * count, told
    assert "asked to stop" in told[0]


ONE_FULL = """
import sys
import jax
from etils import epath
from mer_jax.runtime import distributed
from mer_jax.main import parse_distributed
how = parse_distributed(sys.argv[1])
distributed.start(how, 10, epath.Path(sys.argv[2]))
with distributed.exit_together(10):
    if how[2] == 1:
        jax.numpy.zeros(1 << 46).block_until_ready()
    distributed.barrier("the end")
"""


@pytest.mark.slow
def test_one_process_without_memory_says_so_and_ends_all(tmp_path, cache_home):
    processes = launch(2, cache_home, lambda how: ["-c", ONE_FULL, how, tmp_path])
    told = outputs(processes, 90)
    assert processes[0].returncode != 0
    assert processes[1].returncode == 1
    assert re.search(r"error: process 1 of 2 on .*: the device has too little memory .*train\.batch_size", told[1])
    assert "Traceback" not in told[1]


@pytest.mark.slow
def test_what_one_process_cannot_read_all_leave_aside(tmp_path, cache_home, corpus):
    """With fsdp each process writes, and reads, its own part of the newest checkpoint; one of them is cut off."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed, damaged = tmp_path / "a" / "run", tmp_path / "b" / "run"
    flags = [*SMALL, "--config.mesh.fsdp=True"]
    train(2, cache_home, undisturbed, corpus, flags)
    processes = launch(2, cache_home, main_command(damaged, corpus, flags))
    while not (damaged / "history.jsonl").exists() or len(committed(damaged)) < 2:
        assert all(p.poll() is None for p in processes), outputs(processes)
        time.sleep(0.01)
    for process in processes:
        process.kill()
    outputs(processes)
    newest = damaged / "checkpoints" / str(committed(damaged)[-1])
    part = max((newest / "state" / "ocdbt.process_1" / "d").iterdir(), key=lambda path: path.stat().st_size)
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    told = train(2, cache_home, damaged, corpus, flags)
    assert f"checkpoint {newest.name} in" in told[0]
    assert "is damaged" in told[0]
    assert "resuming after step" in told[0]
    assert not any("Traceback" in text for text in told), told
    compare(damaged, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["stream", "resident"])
def test_each_process_reads_its_share_of_the_bytes(tmp_path, cache_home, corpus, placement):
    """Counted where Python asks the system for them: at the start, at every step and evaluation of a streamed run."""
    flags = [
        *SMALL[:1],
        f"--config.data.placement={placement}",
        "--config.train.epochs=2",
        "--config.train.batch_size=16",
    ]
    read = {}
    for count in (1, 4):
        counts = tmp_path / f"counts{count}"
        counts.mkdir()
        env = {"PYTHONPATH": str(ROOT / "tests" / "counting"), "COUNT_READS": str(counts)}
        processes = launch(count, cache_home, main_command(tmp_path / f"run{count}", corpus, flags), env=env)
        told = outputs(processes)
        assert [p.returncode for p in processes] == [0] * count, told
        read[count] = [int((counts / str(p.pid)).read_text()) for p in processes]
    (alone,), apart = read[1], read[4]
    assert alone > 100_000
    print(placement, alone, apart)
    assert sum(apart) < 1.1 * alone
    for share in apart:
        assert 0.2 * alone < share < 0.3 * alone
