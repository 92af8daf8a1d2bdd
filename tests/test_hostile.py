"""Files that want to take more than they should: refused with one clear line, in a moment and within the budget."""

import json
import os
import resource
import subprocess
import sys
import time

import bombs
import hostile_files
import pytest
from conftest import ROOT
from recordings import needs_prep, write_table

from data_prep import import_pack, limits
from data_prep.packs import safe_pickle, tables
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.plain import OBEYED

BUDGET = 0.05  # GiB


@pytest.fixture
def little(monkeypatch):
    """The reader keeps to the budget, in memory and in time."""
    monkeypatch.setattr(limits._flags, "memory", BUDGET)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 6 * BUDGET * 2**20, "kilobytes"


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("name", bombs.PICKLES)
def test_a_pickle_that_grows(name, tmp_path):
    path = tmp_path / "p.pkl"
    path.write_bytes(bombs.PICKLES[name]())
    with pytest.raises(UserError, match=r"p\.pkl") as caught:
        safe_pickle.load(path)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("ending", bombs.TABLES)
def test_a_table_that_grows(ending, tmp_path):
    path = tmp_path / f"t.{ending}"
    bombs.TABLES[ending](path)
    assert path.stat().st_size < 2 * 10**6
    with pytest.raises(UserError, match=rf"t\.{ending} wants more than 0.05 GiB of memory .* --memory-limit=0.1"):
        tables.read_table(path)


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("ending", bombs.ROWS)
def test_rows_that_grow(ending, tmp_path):
    """The budget holds until all rows are made."""
    path = tmp_path / f"t.{ending}"
    bombs.ROWS[ending](path)
    arguments = import_pack.IMPORTER.parser().parse_args([str(path), "--labels=a,b", f"--out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match=rf"t\.{ending} wants more than 0.05 GiB of memory"):
        import_pack.read_pack(arguments)


def told_plainly(line):
    return 10 < len(line) < 2000 and "Traceback" not in line and not OBEYED.search(line)


def user(folder):
    return os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder), "COLUMNS": "240"}


@pytest.mark.parametrize(
    "count", [pytest.param(100, marks=pytest.mark.slow), pytest.param(2000, marks=pytest.mark.nightly)]
)
def test_hostile_packs(count, tmp_path):
    """Each is imported, or refused in one line; none takes more than its budget."""
    command = [sys.executable, "tests/hostile_files.py", str(tmp_path), str(count), "0"]
    done = subprocess.run(command, cwd=ROOT, env=user(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == count
    for one in found:
        assert one["code"] in (0, 2), one
        lines = one["said"].splitlines()
        assert one["code"] == 0 or (len(lines) == 1 and told_plainly(lines[0])), one
        assert not OBEYED.search(one["said"] + one["out"]), one
        assert one["seconds"] < 20, one
        # The limit is 256 MiB: once for what is read and once for the rows; libraries that are loaded for it come on top.
        assert one["mib"] < 2 * 256 + 300, one
    assert {one["code"] for one in found} == {0, 2}, "some are harmless"


@needs_prep
@pytest.mark.parametrize(
    "count", [pytest.param(40, marks=pytest.mark.slow), pytest.param(800, marks=pytest.mark.nightly)]
)
def test_hostile_clips(count, tmp_path):
    """Each has its features, or one line that says why not; the whole ones among them have theirs."""
    folder = tmp_path / "clips"
    whole = hostile_files.write_clips(folder, count, 0)
    rows = [{"file": name, "label": "ab"[i % 2], "split": "train"} for i, name in enumerate(whole)]
    table = write_table(folder / "t.csv", rows)
    command = [sys.executable, "-m", "data_prep.clips", table, "--audio-encoder=egemaps", "--audio-stride-ms=100"]
    command += ["--skip-broken", f"--cache={tmp_path / 'cache'}", "--out", tmp_path / "corpus"]
    done = subprocess.run(command, cwd=ROOT, env=user(tmp_path), capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert not OBEYED.search(done.stderr + done.stdout)
    left = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert all(map(told_plainly, left))
    used = set(Corpus(tmp_path / "corpus").index["id"].tolist())
    assert len(used) + len(left) == count
    assert {name.rpartition(".")[0] for name, is_whole in whole.items() if is_whole} <= used
