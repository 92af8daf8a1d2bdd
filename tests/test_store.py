"""What tests keep is whole or made again."""

import os

import pytest
import store
from jax._src.compilation_cache import compress_executable


def test_programs_that_are_damaged_or_old_are_dropped(tmp_path):
    whole = compress_executable(os.urandom(1000))
    for name, data in (("whole", whole), ("short", whole[:500]), ("empty", b""), ("old", whole)):
        (tmp_path / f"{name}-cache").write_bytes(data)
    os.utime(tmp_path / "old-cache", (0, 0))
    store.drop_damaged(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checked", "whole-cache"]
    (tmp_path / "later-cache").write_bytes(whole[:500])
    store.drop_damaged(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checked", "whole-cache"]


def test_what_was_not_finished_is_made_again_and_what_was_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "made", lambda *_: tmp_path)

    def half(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.made_once("it", half)
    folder = store.made_once("it", lambda folder: (folder / "all").touch())
    assert store.made_once("it", half) == folder
    assert [path.name for path in folder.iterdir()] == ["all"]
