"""What a machine refuses (space, files, memory) is told in a line; the same command carries on when there is enough again."""

import errno
import os
import resource
import subprocess
import sys
from typing import Any

import pytest
from conftest import ROOT, corpus_of, small_description, small_utterances, user_env

from mer_jax import errors, files
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import REFUSALS, UserError, explained


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
    return lambda: resource.setrlimit(kind, (value, value))


def call(cache, *arguments, limit=None):
    line = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(
        line, cwd=ROOT, env=user_env(cache), capture_output=True, text=True, timeout=170, preexec_fn=limit
    )


def told(done, *words):
    """That it failed with one line that holds the words."""
    assert done.returncode not in (0, -6, -11), done
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "RESOURCE_EXHAUSTED" not in done.stderr
    for word in words:
        assert word in lines[0]


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
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError, match="only") as refused:
        files.write_json(disk / "a.json", {})
    assert "can only be read" in str(explained(refused.value))


def test_a_command_of_the_cache_without_room(small_disk, tmp_path):
    told(call(small_disk("512k"), "mer_jax.main", f"--config={ROOT}/configs/lsgmer.py:tiny", f"--workdir={tmp_path}/w"),
         "demo-v3-seed0", "XDG_CACHE_HOME", "the disk is full")  # fmt: skip


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
    known = os.statvfs(disk)
    small_disk(str((known.f_blocks - known.f_bfree) * known.f_frsize + 8192))
    for command in (["mer_jax.predict", disk / "w", corpus_of(1200), "--out", disk / "p.jsonl"],):
        told(call(cache_home, *command), "p.jsonl", "the disk is full")
    assert not list(disk.glob("*p.jsonl*"))


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
    told(call(cache_home, *run_of(tmp_path / "w"), limit=limited(kind, value)), words)
    assert not list(tmp_path.rglob("*partial"))
    assert not list(tmp_path.rglob(".lock"))


def test_a_folder_where_a_file_should_be(tmp_path, capsys):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(SystemExit, match="2"), errors.reported():
        files.read_json(tmp_path / "config.json", Any)
    assert capsys.readouterr().err == f"error: {tmp_path}/config.json is a folder; it must be a file. Restore it.\n"
