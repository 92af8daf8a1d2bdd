import pytest

from mer_jax.errors import UserError
from mer_jax.predict.transcript import Line, read, spoken

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>I'm</i> fine.
{\\an8}Really?

2
00:01:00.5 --> 00:01:02,000 X1:40 X2:600
- No!  I <3 you &amp; him

3
00:01:03,000 --> 00:01:04,000
<font color="red"></font>
"""
VTT = """WEBVTT - some title
Language: en

NOTE of the
author

STYLE
::cue { color: red }

intro
01:01.250 --> 01:02.000 align:start
<v Anna>Hello <00:01:01.500><c.loud>you</c> &amp; me</v>

1:00:00.000 --> 1:00:01.000
late
"""


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_captions(tmp_path, ending):
    srt = write(tmp_path, "a.SRT", b"\xef\xbb\xbf" + SRT.replace("\n", ending).encode())
    assert read(srt) == [Line(1.0, 2.5, "I'm fine. Really?"), Line(60.5, 62.0, "- No! I <3 you &amp; him")]
    vtt = write(tmp_path, "a.vtt", VTT.replace("\n", ending))
    assert read(vtt) == [Line(61.25, 62.0, "Hello you & me"), Line(3600.0, 3601.0, "late")]


def test_plain_text(tmp_path):
    assert read(write(tmp_path, "a.txt", "\ufeffHow <i>are</i>\r\n\r\n you?\n")) == [
        Line(None, None, "How <i>are</i> you?")
    ]
    assert read(write(tmp_path, "b.txt", " \n")) == []
    assert read(write(tmp_path, "b.srt", "")) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.doc", "", r"a\.doc is no transcript that can be read here: give \.txt, \.srt, \.vtt"),
        (
            "a.txt",
            "one\ntwo caf\xe9\n".encode("latin-1"),
            r"a\.txt, line 2: the byte 0xe9 is not UTF-8, .*Latin-1: save it as UTF-8",
        ),
        ("a.srt", SRT.encode("utf-16"), r"a\.srt: it is UTF-16: save it as UTF-8"),
        (
            "a.srt",
            "1\n00:00:01,000 -> 00:00:02,000\nHi\n",
            r"a\.srt, line 2: a caption's times are wanted, .*not '00:00:01,000 -> ",
        ),
        ("a.srt", "\n\nHi\n", r"a\.srt, line 3: a caption's times are wanted, .* not 'Hi'"),
        ("a.srt", "1\n00:00:61,000 --> 00:01:02,000\nHi\n", r"line 2: a caption's times are wanted"),
        (
            "a.srt",
            "1\n00:00:03,000 --> 00:00:02,000\nHi\n",
            r"line 2: the caption ends at 2 s, before it starts at 3 s",
        ),
        ("a.srt", SRT.replace("\n\n2\n", "\n2\n"), r"line 6: an empty line is missing before this caption"),
        ("a.vtt", SRT, r"a\.vtt, line 1: a \.vtt begins with WEBVTT"),
        ("a.vtt", "WEBVTT\n00:01.000 --> 00:02.000\nHi", r"line 2: an empty line is missing"),
    ],
)
def test_what_is_no_transcript_is_named(tmp_path, name, content, words):
    with pytest.raises(UserError, match=words):
        read(write(tmp_path, name, content))


def test_a_missing_transcript_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.srt cannot be read \(No such file"):
        read(tmp_path / "none.srt")


LINES = [
    Line(0.0, 2.0, "one two"),
    Line(4.0, 7.0, "over the edge"),
    Line(8.0, 20.0, "a b c d e f"),
    Line(20.0, 20.0, "now"),
]


def test_a_line_is_of_the_window_that_holds_its_middle():
    assert spoken(LINES) == "one two over the edge a b c d e f now"
    assert spoken(LINES, 0.0, 5.0) == "one two"
    assert spoken(LINES, 5.0, 10.0) == "over the edge a", "5.5 is its middle; of the long line 9 is that of a"
    assert spoken(LINES, 10.0) == "a b c d e f now", "nothing is longer than what has no end"
    assert spoken(LINES, 2.0, 4.0) == spoken([], 0.0, 5.0) == ""


@pytest.mark.parametrize("window", [1.0, 2.5, 5.0, 7.0])
def test_windows_side_by_side_share_out_every_word_once(window):
    """Also where the last window is shorter than the others."""
    count, said = int(21 // window) + 1, []
    for i in range(count):
        said += spoken(LINES, i * window, min(21.0, (i + 1) * window), window).split()
    assert said == spoken(LINES).split()


def test_a_text_without_times_is_of_the_whole_clip_only():
    assert spoken([Line(None, None, "all of it")]) == "all of it"
    for part in ((0.0, 5.0), (5.0, None)):
        with pytest.raises(UserError, match="without times does not tell"):
            spoken([Line(None, None, "all of it")], *part)
