"""Tables, times and bytes as nobody means them: whatever a field holds, it is read or told by file, column and row."""

import json

import numpy as np
import pytest

from mer_jax import text_files
from mer_jax.errors import UserError
from mer_jax.files import load_json
from mer_jax.predict import transcript

HUGE = (10**400, -(10**400), 10**5000, "9" * 400, "9" * 5000, "9" * 400 + ":00:00", "9" * 9 + ":00:00", "1e400")


@pytest.mark.parametrize("value", HUGE, ids=map(str, range(len(HUGE))))
def test_a_time_that_cannot_be_is_told_in_short(value):
    with pytest.raises(UserError, match=r"t\.csv, line 2: start is .*(cannot be|not a number of seconds)") as caught:
        text_files.seconds("t.csv, line 2", "start", value)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize("value", [[1.5], np.array([[1.5]]), (np.float32(1.5),), b"1.5", "0:01,5", np.array("1.5")])
def test_a_time_alone_in_an_array_is_a_time(value):
    assert text_files.seconds("t", "start", value) == 1.5


@pytest.mark.parametrize("stamp", ["9" * 400 + ":00:00,000", "9" * 5000 + ":00:00,000", "9" * 9 + ":00:00,000"])
def test_a_caption_that_cannot_be_is_told_in_short(tmp_path, stamp):
    path = tmp_path / "a.srt"
    path.write_text(f"1\n00:00:00,000 --> {stamp}\nHi.\n")
    with pytest.raises(UserError, match=r"a\.srt, line 2: ") as caught:
        transcript.read(path)
    assert len(str(caught.value)) < 300


def test_json_is_decoded_as_every_file_is():
    assert load_json(b"\xef\xbb\xbf" + json.dumps({"a": "ö"}).encode()) == {"a": "ö"}
    with pytest.raises(ValueError, match="the byte 0xf6 is not UTF-8, at byte 10; it reads"):
        load_json('{"a": "schön"}'.encode("latin1")[:20])
    with pytest.raises(ValueError, match="it is UTF-16"):
        load_json("{}".encode("utf-16"))
