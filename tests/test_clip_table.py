"""Whatever is wrong with a table of clips is told by line and column."""

import pytest
from recordings import (
    row,
    write_table,
)

from data_prep.clip_table import read_table
from mer_jax.errors import UserError


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"file": "a.wav"}], "column 'label' is missing; it needs file, label and has file"),
        ([{"clip": "a.wav", "label": "joy"}], "column 'file' is missing"),
        ([row(), row(file="b.wav", label="")], "line 3: label is empty"),
        ([row(split="tset")], "line 2: split is 'tset'"),
        ([row(turn="second")], "line 2: turn is 'second', not a number"),
        ([row(start="nan")], "line 2: start is nan, which cannot be"),
        ([row(votes="anna:joy; ben")], "line 2: votes has 'ben', not RATER:LABEL"),
        ([row(votes=":joy")], "line 2: votes has ':joy'"),
        ([row(start="3")], "line 2: it starts at 3 s and ends at 2 s"),
        ([row(), row()], "line 3: a.wav is the clip of .*, line 2 too; with --cut"),
        ([row() | {"id": "u"}, row(file="b.wav") | {"id": "u"}], "line 3: id 'u' is that of .*, line 2 too"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, rows, words):
    path = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(UserError, match=words) as caught:
        read_table(path, tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "column 'file' is missing; .* has nothing"),
        (b"file,label\n", "holds no utterance"),
        (b"file,label\na.wav\n", "line 2: it has another number of fields"),
        (b"file,label\na.wav,joy,more\n", "line 2: it has another number of fields"),
        (b"file,label\n\xff\xfe,joy\n", "is not a CSV table in UTF-8"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_table(tmp_path / "t.csv", tmp_path)


def test_rows_of_a_table(tmp_path):
    path = write_table(
        tmp_path / "t.csv",
        [
            {
                "file": "x/a.wav",
                "label": "joy",
                "dialogue": "d",
                "split": "dev",
                "sentence": "It\x92s “me”",
                "votes": "anna: joy; ben:sad ;ben:other;",
            },
            {"file": "x/b.wav", "label": "sad", "dialogue": "d", "split": "test", "sentence": "", "votes": ""},
        ],
    )
    first, second = read_table(path, tmp_path)
    assert (first.utterance.id, first.utterance.turn, first.utterance.split) == ("x/a", 0, "valid")
    assert first.utterance.sentence == 'It\'s "me"'
    assert first.utterance.votes == (("anna", "joy"), ("ben", "sad"), ("ben", "other"))
    assert (second.utterance.turn, second.utterance.session, second.utterance.votes) == (1, "", ())
    assert first.clip.source == tmp_path / "x" / "a.wav"
    with pytest.raises(UserError, match="column 'start' is missing"):
        read_table(path, tmp_path, cut=True)
    path = write_table(tmp_path / "c.csv", [row(), row(start="2", end="3")])
    assert [(r.clip.start, r.clip.end, r.utterance.id) for r in read_table(path, tmp_path, cut=True)] == [
        (1.0, 2.0, "a_1.00_2.00"),
        (2.0, 3.0, "a_2.00_3.00"),
    ]
