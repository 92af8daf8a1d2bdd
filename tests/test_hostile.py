"""Files that want to take more than they should: refused with one clear line, in a moment and within the budget."""

import resource
import time

import bombs
import pytest

from data_prep import limits
from data_prep.packs import safe_pickle, tables
from mer_jax.errors import UserError

BUDGET = 0.05  # GiB


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """The reader keeps to the budget, in memory and in time."""
    monkeypatch.setattr(limits._flags, "memory", BUDGET)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    yield
    assert time.monotonic() - began < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 6 * BUDGET * 2**20, "kilobytes"


@pytest.mark.parametrize("name", bombs.PICKLES)
def test_a_pickle_that_grows(name, tmp_path):
    path = tmp_path / "p.pkl"
    path.write_bytes(bombs.PICKLES[name]())
    with pytest.raises(UserError, match=r"p\.pkl") as caught:
        safe_pickle.load(path)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", bombs.TABLES)
def test_a_table_that_grows(ending, tmp_path):
    path = tmp_path / f"t.{ending}"
    bombs.TABLES[ending](path)
    assert path.stat().st_size < 2 * 10**6
    with pytest.raises(UserError, match=rf"t\.{ending} wants more than 0.05 GiB of memory .* --memory-limit=0.1"):
        tables.read_table(path)
