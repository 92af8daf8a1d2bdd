"""What a machine refuses (space, files, memory) is told in a line; the same command carries on when there is enough again."""

import contextlib
import errno
import os
import resource
import stat
import subprocess
import sys
from typing import Any

import finished
import numpy as np
import pytest
from conftest import ROOT, corpus_of, small_description, small_utterances, user_env
from etils import epath
from jax._src.compilation_cache import decompress_executable
from processes import after
from recordings import needs_prep, row, tone, write_table, write_wav

from data_prep import clips
from data_prep.audit.corpus_audit import audit
from data_prep.encoders.feature_cache import FeatureCache
from mer_jax import compare, errors, files
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.synthetic import VERSION
from mer_jax.errors import REFUSALS, UserError, explained
from mer_jax.export.writers import conversion_errors_reported
from mer_jax.predict.output import open_output
from mer_jax.predict.prediction import Prediction
from mer_jax.report.__main__ import main as report
from mer_jax.runtime import folder_lock
from mer_jax.runtime.checkpoint import Checkpoints
from mer_jax.runtime.run_log import History
from mer_jax.tasks.classification import Classification


@pytest.fixture
def small_disk(tmp_path):
    """Makes a folder that is a disk of so many bytes."""
    mounted = []

    def make(size, name="disk"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        options = f"{'remount,' * (folder in mounted)}size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in set(mounted):
        subprocess.run(["umount", "-l", folder], check=True)


def limited(kind, value):
    return f"import resource; resource.setrlimit({kind}, ({value}, {value}))"


def call(cache, *arguments, first="", stdout=subprocess.PIPE, **environment):
    """Calls a command, after its process has run `first`."""
    line, env = after(first, "-m", *map(str, arguments)), user_env(cache) | environment
    return subprocess.run(line, cwd=ROOT, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=170)


def told(done, *words):
    """That it failed with one line that holds the words."""
    assert done.returncode not in (0, -6, -11), done
    told_in(done.stderr, *words)


def told_in(err, *words):
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert "RESOURCE_EXHAUSTED" not in err
    for word in words:
        assert word in lines[0]


def fill(disk, but=0):
    """Leaves so many bytes on the disk, in whole pages."""
    known = os.statvfs(disk)
    with open(disk / "filler", "wb") as file:
        file.write(bytes(known.f_bavail * known.f_frsize - but))


def read_only(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


@pytest.mark.parametrize("number", REFUSALS)
def test_every_refusal_names_its_path_and_what_to_do(number):
    error = OSError(number, os.strerror(number), "/a/b")
    assert str(explained(error)).startswith("/a/b: ")
    text = f'RESOURCE_EXHAUSTED: Error writing local file "/a/b": Failed to write 9 bytes: {os.strerror(number)}'
    found = explained(ValueError(text))
    assert isinstance(found, UserError)
    assert str(found) == str(explained(error))
    assert "device" not in str(found)


def test_other_errors_are_not_explained_away():
    named = (
        ValueError("class 'VIDEIO' is unknown"),
        KeyError("label EIO"),
        ValueError("Permission denied by the spec"),
    )
    for error in (*named, ValueError("x"), KeyError("No"), OSError("plain"), RuntimeError("INTERNAL: x")):
        assert explained(error) is error
    assert "in the cache" in str(explained(OSError(errno.ENOSPC, "full", str(files.cache_folder() / "x"))))
    assert "may not have so much memory" in str(explained(MemoryError()))


def test_a_failed_write_names_the_file_and_leaves_no_part_of_it(small_disk):
    disk = small_disk("64k")
    with pytest.raises(OSError, match="a\\.json") as refused:
        files.write_atomically(disk / "a.json", b"x" * 100_000)
    assert refused.value.errno == errno.ENOSPC
    assert list(disk.iterdir()) == []


def test_a_corpus_on_a_full_disk(small_disk):
    disk = small_disk("48k")
    with pytest.raises(OSError, match="corpus"):
        write_corpus(disk / "corpus", small_utterances(800), small_description())
    assert [p.name for p in disk.iterdir()] == [".corpus.lock"]
    small_disk("4m")
    write_corpus(disk / "corpus", small_utterances(800), small_description())
    assert len(Corpus(disk / "corpus")) == 800


def test_a_read_only_disk(small_disk):
    disk = small_disk("64k")
    read_only(disk)
    for write in (lambda: files.write_json(disk / "w", {}), lambda: folder_lock.FolderLock(epath.Path(disk / "w"), "")):
        with pytest.raises(OSError, match="only") as refused:
            write()
        assert str(explained(refused.value)).startswith(f"{disk}/w: the file system there can only be read")


COMMANDS = {
    "report": lambda run, out: report([str(run), "--out", str(out)]),
    "compare": lambda run, out: compare.main([str(run), str(run), "--samples=100", "--json", str(out)]),
    "audit": errors.reported()(lambda _, out: audit(corpus_of(120), out, floor=False)),
}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_predictions_on_a_full_disk(small_disk, suffix):
    disk, task = small_disk("64k"), Classification(("calm", "glad"))
    out = disk / f"p.{suffix}"
    found = Prediction("u", task.describe_prediction(np.array([0.0, 1.0])), sentence="said " * 20)
    fill(disk, but=4096)
    with pytest.raises(OSError, match="p") as refused, open_output(out, task) as write:  # noqa: PT012
        for _ in range(1000):
            write(found)
    assert str(explained(refused.value)).startswith(f"{out}: the disk is full")
    assert [path.name for path in disk.iterdir()] == ["filler"]
    (disk / "filler").unlink()
    with open_output(out, task) as write:
        for _ in range(10):
            write(found)
    assert len(out.read_text().splitlines()) == 10 + (suffix == "csv")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_on_a_full_and_on_a_read_only_disk(small_disk, tmp_path, capsys, name):
    run, disk = finished.write_run(tmp_path / "run", extras=False), small_disk("64k")
    fill(disk)
    for why in ("the disk is full", "can only be read"):
        with pytest.raises(SystemExit, match="2"):
            COMMANDS[name](run, disk / "out")
        told_in(capsys.readouterr().err, f"{disk}/out: ", why)
        assert [path.name for path in disk.iterdir()] == ["filler"]
        read_only(disk)
    subprocess.run(["mount", "-o", "remount,rw,size=1m", disk], check=True)
    COMMANDS[name](run, disk / "out")
    assert (disk / "out").stat().st_size > 100


def test_what_is_no_file_is_written_into_and_stays_what_it_is(tmp_path):
    try:
        os.mknod(tmp_path / "full", stat.S_IFCHR | 0o666, os.makedev(1, 7))
        open(tmp_path / "full").close()
    except PermissionError:
        pytest.skip("a device cannot be made here")
    with pytest.raises(OSError, match="full") as refused:
        files.write_json(tmp_path / "full", {})
    assert str(explained(refused.value)).startswith(f"{tmp_path}/full: the disk is full")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_atomically(tmp_path / "pipe", "said")
    assert os.read(reader, 9) == b"said"
    os.close(reader)
    (tmp_path / "link").symlink_to("file")
    files.write_atomically(tmp_path / "link", "said")
    assert (tmp_path / "file").read_text() == "said"
    assert {path.name for path in tmp_path.iterdir()} == {"full", "pipe", "link", "file"}
    assert (tmp_path / "link").is_symlink()
    assert stat.S_ISCHR((tmp_path / "full").stat().st_mode)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_takes_nothing(cache_home, unbuffered):
    command = (cache_home, "mer_jax.data", corpus_of(120))
    with open("/dev/full", "w") as full:
        done = call(*command, stdout=full, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    told(done, "standard output: the disk is full")
    assert done.stderr.count("\n") == 1
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does
    left = call(*command, stdout=writing, PYTHONUNBUFFERED=unbuffered)
    os.close(writing)
    assert (left.returncode, left.stderr) == (141, "")
    closed = call(*command, stdout=None, first="import os; os.close(1)", PYTHONUNBUFFERED=unbuffered)
    assert (closed.returncode, closed.stderr) == (0, "")


def test_an_export_on_a_full_disk(small_disk):
    disk = small_disk("64k")
    with pytest.raises(UserError) as refused, conversion_errors_reported("onnx", disk / "e" / "model.onnx"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert str(refused.value).startswith(f"{disk}/e/model.onnx: the disk is full")
    with pytest.raises(OSError, match="e") as full, files.atomic_folder(disk / "e") as folder:
        (folder / "README.md").write_bytes(bytes(100_000))
    assert str(explained(full.value)).startswith(f"{disk}/e: the disk is full")
    assert list(disk.iterdir()) == []


def test_the_cache_of_features_on_a_full_and_on_a_read_only_disk(small_disk):
    disk, features = small_disk("16k"), {"key": np.zeros((2, 3))}
    fill(disk)
    with pytest.raises(OSError, match="identity") as refused:
        FeatureCache(disk, "audio", {})
    assert "identity.json: the disk is full" in str(explained(refused.value))
    assert [path for path in disk.rglob("*") if path.is_file()] == [disk / "filler"]
    (disk / "filler").unlink()
    FeatureCache(disk, "audio", {}).save(features)
    read_only(disk)
    assert FeatureCache(disk, "audio", {})["key"].shape == (2, 3)


def test_events_on_a_full_disk(small_disk):
    """Who writes on is told, and does not wait for ever."""
    disk = small_disk("64k")
    history = History(disk, 0)
    fill(disk)
    with pytest.raises(OSError, match="tensorboard") as refused:  # noqa: PT012 - at which of them is free
        for step in range(1000):
            history.scalars("train", step, {"loss": 1.0})
    assert str(explained(refused.value)).startswith(f"{disk}/tensorboard: the disk is full")
    (disk / "filler").unlink()
    history.close()


def test_half_of_a_checkpoint_keeps_no_room_whatever_else_failed(small_disk):
    disk = small_disk("96k")
    checkpoints = Checkpoints(disk / "checkpoints")
    checkpoints.save(1, {"w": np.random.default_rng(0).normal(size=100_000)}, {})
    with pytest.raises(OSError, match="another"), contextlib.closing(checkpoints):
        raise OSError(errno.ENOSPC, "another")
    assert list((disk / "checkpoints").iterdir()) == []


COMPILES = """
import sys
from pathlib import Path
from mer_jax.runtime import program_cache
program_cache.use(Path(sys.argv[1]))
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
for n in range(3):
    jax.jit(lambda x: x * n)(1.0)
"""


def test_compiled_programs_on_a_full_and_on_a_read_only_disk(small_disk, cache_home):
    disk = small_disk("1m")
    folder = disk / "xla"
    env = {k: v for k, v in user_env(cache_home).items() if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}

    def noted(folder):
        line = [sys.executable, "-c", COMPILES, folder]
        done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=170)
        # XLA of JAX 0.8 doubts features that it has itself compiled for, on some processors.
        ours = [row for row in done.stderr.splitlines() if "cpu_aot_loader.cc" not in row]
        assert (done.returncode, ours) == (0, [])
        return done.stdout

    fill(disk, but=4096)  # of an entry's beginning
    said = noted(folder)
    assert said.startswith(f"note: compiled programs are not kept for the next run: {folder}/")
    assert said.count("\n") == 1
    assert "the disk is full" in said
    assert not [path.name for path in folder.iterdir() if path.stat().st_size != 4096 and "partial" in path.name]
    (disk / "filler").unlink()
    assert noted(folder) == ""
    entries = list(folder.iterdir())
    assert len(entries) >= 3
    for entry in entries:
        decompress_executable(entry.read_bytes())
    read_only(disk)
    assert "can only be read" in noted(disk / "other")


@needs_prep
@pytest.mark.slow
def test_an_extraction_on_a_full_disk_carries_on_when_there_is_room(small_disk, tmp_path, capsys):
    for name, pitch in (("a", 200), ("b", 300)):
        write_wav(tmp_path / f"{name}.wav", tone(pitch=pitch))
    rows = [row(id=name, file=f"{name}.wav", label=name, start="", end="") for name in "ab"]
    table = write_table(tmp_path / "table.csv", rows)
    cache, disk = small_disk("4k", "cache"), small_disk("4k")
    command = [str(table), "--audio-encoder=egemaps", f"--cache={cache}", f"--out={disk / 'corpus'}"]
    for words in (f"{cache}/hearing", f"{disk}/corpus: "):
        with pytest.raises(SystemExit, match="2"):
            clips.main(command)
        told_in(capsys.readouterr().err, words, "the disk is full")
        assert not list(tmp_path.rglob("*partial*"))
        small_disk("1m", "cache")
    small_disk("1m")
    clips.main(command)
    assert "2 of 2 utterances are finished already" in capsys.readouterr().err


def test_a_command_of_the_cache_without_room(small_disk, tmp_path):
    told(call(small_disk("512k"), "mer_jax.main", f"--config={ROOT}/configs/lsgmer.py:tiny", f"--workdir={tmp_path}/w"),
         f"demo-v{VERSION}-seed0", "XDG_CACHE_HOME", "the disk is full")  # fmt: skip


def run_of(workdir):
    flags = ["--config.train.batch_size=8", "--config.train.epochs=3", f"--config.data.path={corpus_of(120)}"]
    return ["mer_jax.main", f"--config={ROOT}/configs/lsgmer.py:tiny", f"--workdir={workdir}", *flags]


@pytest.mark.slow
def test_a_run_on_a_full_disk_carries_on_when_there_is_room(small_disk, cache_home):
    disk = small_disk("1500k")
    told(call(cache_home, *run_of(disk / "w")), str(disk / "w"), "the disk is full")
    assert not list(disk.rglob("*tmp*"))
    small_disk("20m")
    done = call(cache_home, *run_of(disk / "w"))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (resource.RLIMIT_AS, 300_000_000, "memory"),
        (resource.RLIMIT_AS, 800_000_000, "memory"),
        (resource.RLIMIT_AS, 1_500_000_000, "GB of addresses"),
        (resource.RLIMIT_NOFILE, 16, "16 files at a time"),
        (resource.RLIMIT_FSIZE, 1000, "may not become so large"),
        (resource.RLIMIT_FSIZE, 40_000, "may not become so large"),
    ],
)
def test_low_limits_of_a_process(tmp_path, cache_home, kind, value, words):
    told(call(cache_home, *run_of(tmp_path / "w"), first=limited(kind, value)), words)
    assert not list(tmp_path.rglob("*partial"))
    assert not list(tmp_path.rglob(".lock"))


def test_a_folder_where_a_file_should_be(tmp_path, capsys):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(SystemExit, match="2"), errors.reported():
        files.read_json(tmp_path / "config.json", Any)
    assert capsys.readouterr().err == f"error: {tmp_path}/config.json is a folder; it must be a file. Restore it.\n"
