"""Files and folders appear whole or not at all."""

import json
import os
from typing import Any, TypedDict

import pytest

from mer_jax import files
from mer_jax.errors import UserError
from mer_jax.schema import Count


def test_a_file_is_replaced_when_all_is_written(tmp_path):
    path = tmp_path / "a.txt"
    files.write_atomically(path, "old")
    with files.atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
        assert len(list(tmp_path.iterdir())) == 2
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_atomically(path, "old")

    def fail():
        with files.atomic_file(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"


def test_text_is_utf8_with_the_line_ends_it_has(tmp_path):
    files.write_atomically(tmp_path / "a", "é\r\n")
    assert (tmp_path / "a").read_bytes() == "é\r\n".encode()
    with files.atomic_file(tmp_path / "b", "w", encoding="utf-8", newline="") as file:
        file.write("é\r\n")
    assert (tmp_path / "b").read_bytes() == "é\r\n".encode()


def test_processes_that_write_the_same_file_do_not_share_its_beginnings(tmp_path):
    with files.atomic_file(tmp_path / "a", writers=2):
        (partial,) = tmp_path.iterdir()
        assert partial.name == f".a.{os.getpid()}.partial"


def test_json_is_read_as_it_was_written(tmp_path):
    files.write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert "ä" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert files.read_json(tmp_path / "a.json", Any) == {"ä": [1, None]}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", json.dumps("ä", ensure_ascii=False).encode("latin-1")])
def test_damaged_json_is_refused_by_name(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is not valid JSON .* Restore it\."):
        files.read_json(path, Any)


class Counts(TypedDict):
    counts: dict[str, dict[str, Count]]
    names: list[str]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"counts": {"a": {"train": 1}, "b": {"train": 3, "test": "4"}}, "names": []}, "'counts.b.test': expected int, got str"),
        ({"counts": {"a": {"train": -1}}, "names": []}, "'counts.a.train': expected int >= 0"),
        ({"counts": {"a": {"train": 2**70}}, "names": []}, "'counts.a.train': expected int <= 9007199254740992"),
        ({"counts": {"a": 3}, "names": []}, "'counts.a': expected an object with fields, got int"),
        ({"counts": {}, "names": ["x", None]}, "'names.1': expected str, got null"),
        ({"counts": {}}, "'names' is missing"),
        ([], "expected an object with fields, got array"),
    ],
)  # fmt: skip
def test_what_a_file_holds_is_checked_and_the_field_named(tmp_path, value, words):
    path = tmp_path / "a.json"
    files.write_json(path, value)
    with pytest.raises(UserError, match=r"a\.json is not what this mer_jax writes: .*") as caught:
        files.read_json(path, Counts)
    assert words in str(caught.value)


def test_json_that_is_too_deep_and_a_folder_of_its_name_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        files.read_json(tmp_path / "a.json", Any)
    with pytest.raises(UserError, match="is a folder"):
        files.read_json(tmp_path, Any)


def test_a_folder_appears_when_all_is_well_and_not_otherwise(tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(FileExistsError), files.atomic_folder(out) as folder:
        folder.mkdir()
    with files.atomic_folder(out) as folder:
        folder.rmdir()
    assert list(out.parent.iterdir()) == []
    with pytest.raises(UserError, match="not empty"), files.atomic_folder(tmp_path / "late"):
        (tmp_path / "late" / "theirs").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be made"), files.atomic_folder(tmp_path / "late" / "theirs" / "\0"):
        pass
    out.mkdir()
    with files.atomic_folder(out) as folder:
        (folder / "whole").write_text("")
    assert list(out.parent.iterdir()) == [out]
    assert (out / "whole").exists()
