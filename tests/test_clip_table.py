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
        ([row(turn="second")], "line 2: the turn is 'second', not a whole number"),
        ([row(start="inf")], "line 2: start is 'inf', which cannot be"),
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
        (b"file,label\n\xff\xfe,joy\n", "line 2: the byte 0xff is not UTF-8"),
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
    first, second = read_table(path, tmp_path).rows
    assert (first.utterance.id, first.utterance.turn, first.utterance.split) == ("x/a", 0, "valid")
    assert first.utterance.sentence == 'It\'s "me"'
    assert first.utterance.votes == (("anna", "joy"), ("ben", "sad"), ("ben", "other"))
    assert (second.utterance.turn, second.utterance.session, second.utterance.votes) == (1, "", ())
    assert first.clip.source == tmp_path / "x" / "a.wav"
    with pytest.raises(UserError, match="column 'start' is missing"):
        read_table(path, tmp_path, cut=True)
    path = write_table(tmp_path / "c.csv", [row(), row(start="2", end="3")])
    assert [(r.clip.start, r.clip.end, r.utterance.id) for r in read_table(path, tmp_path, cut=True).rows] == [
        (1.0, 2.0, "a_1.00_2.00"),
        (2.0, 3.0, "a_2.00_3.00"),
    ]


def test_lines_without_a_label_are_kept_where_they_are_wanted(tmp_path):
    labels = ("joy", "", "tie", "joy;sad", "sad", "joy/sad")
    path = write_table(tmp_path / "t.csv", [row(file=f"{i}.wav", label=label) for i, label in enumerate(labels)])
    with pytest.raises(UserError, match="line 3: label is empty"):
        read_table(path, tmp_path)
    found = read_table(path, tmp_path, keep_unlabelled=True).rows
    assert [one.utterance.label for one in found] == ["joy", "", "", "", "sad", ""]


def test_the_turns_of_a_table(tmp_path, capsys):
    rows = [row(file=f"{i}.wav", turn=turn) | {"dialogue": "d"} for i, turn in enumerate((3, 9, 1))]
    path = tmp_path / "t.csv"
    assert [one.utterance.turn for one in read_table(write_table(path, rows), tmp_path).rows] == [3, 9, 1]
    rows[2]["turn"] = 9
    with pytest.raises(UserError, match=r"t.csv, line 3 and .*t.csv, line 4 both are turn 9 of dialogue 'd'"):
        read_table(write_table(path, rows), tmp_path)
    rows[2]["turn"] = ""
    with pytest.raises(UserError, match="line 4: turn is empty"):
        read_table(write_table(path, rows), tmp_path)
    words = "no column turn: the turns of a dialogue are numbered in the order of its lines"
    assert words not in capsys.readouterr().out
    for one in rows:
        del one["turn"]
    assert [one.utterance.turn for one in read_table(write_table(path, rows), tmp_path).rows] == [0, 1, 2]
    assert words in capsys.readouterr().out
    assert len(read_table(write_table(path, [one | {"dialogue": one["file"]} for one in rows]), tmp_path).rows) == 3
    assert words not in capsys.readouterr().out, "with one turn each there is nothing to number"


def test_times_labels_and_dialogues_are_read_as_those_of_packs(tmp_path, capsys):
    rows = [
        row(file=f"{part}{i}.wav", split=part, turn=str(i), start=start, end="") | {"dialogue": "0"}
        for part in ("train", "TEST")
        for i, start in enumerate(("00:00:01.5", "1.5", " "))
    ]
    found = read_table(write_table(tmp_path / "t.csv", rows), tmp_path).rows
    assert [one.utterance.start for one in found] == [1.5, 1.5, None] * 2
    assert [one.utterance.dialogue for one in found] == ["train_0"] * 3 + ["test_0"] * 3
    assert "start again in every part" in capsys.readouterr().out
    for label, words in (("tie", "did not agree"), ("joy;sad", "which is several"), ("nan", "which is none")):
        with pytest.raises(UserError, match=f"line 2: the label is .*{words}"):
            read_table(write_table(tmp_path / "t.csv", [row(label=label)]), tmp_path)
    (tmp_path / "t.csv").write_bytes(b"file,label\na.wav,tr\x92s\n")
    with pytest.raises(UserError, match=r"t.csv, line 2: the byte 0x92 is not UTF-8, at byte 19; .*cp1252"):
        read_table(tmp_path / "t.csv", tmp_path)
