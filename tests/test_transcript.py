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
    assert read(vtt) == [Line(61.25, 62.0, "Hello you & me", "Anna"), Line(3600.0, 3601.0, "late")]


def test_plain_text(tmp_path):
    assert read(write(tmp_path, "a.txt", "\ufeffHow <i>are</i>\r\n\r\n you?\n")) == [
        Line(None, None, "How <i>are</i> you?")
    ]
    assert read(write(tmp_path, "b.txt", " \n")) == []
    assert read(write(tmp_path, "b.srt", "")) == []


def captions(*texts):
    """A .srt with a caption for each: one a minute, of ten seconds."""
    return "".join(f"{i}\n00:0{i}:00,000 --> 00:0{i}:10,000\n{text}\n\n" for i, text in enumerate(texts))


def said(lines):
    return [(line.speaker, line.text) for line in lines]


def test_voices_of_a_caption_share_its_time_by_their_words(tmp_path):
    vtt = (
        "WEBVTT\n\n00:00.000 --> 00:10.000\n"
        "<v.loud Anna  &amp; Co>I am\n<i>so</i> glad</v> <v Ben>Oh.</v>\n<v>nobody</v>\n\n"
        "00:10.000 --> 00:20.000\nNote: no name where there are voices\n\n"
        "00:20.000 --> 00:30.000\n<v Ben>Note: not here\n<v Ben>either"
    )
    found = read(write(tmp_path, "a.vtt", vtt.replace("<v>nobody</v>", "")))
    assert found == [
        Line(0.0, 8.0, "I am so glad", "Anna & Co"),
        Line(8.0, 10.0, "Oh.", "Ben"),
        Line(10.0, 20.0, "Note: no name where there are voices"),
        Line(20.0, 30.0, "Note: not here either", "Ben"),
    ]
    srt = write(tmp_path, "a.srt", captions("<v Anna>Hi.</v>"))
    assert read(srt) == [Line(0.0, 10.0, "Hi.")], "a voice is of a .vtt"


def test_names_before_colons_are_speakers(tmp_path):
    """A caption that names nobody is of the one before; a row of it that names somebody begins another line."""
    texts = (
        "- ANNA: I am\nso glad.",
        "You know?",
        ">> BEN (off screen): Oh.\nANNA: Why do you ask?",
        "[ben]: <i>Well</i>: so.",
    )
    assert read(write(tmp_path, "a.srt", captions(*texts))) == [
        Line(0.0, 10.0, "I am so glad.", "ANNA"),
        Line(60.0, 70.0, "You know?", "ANNA"),
        Line(120.0, 122.0, "Oh.", "BEN"),
        Line(122.0, 130.0, "Why do you ask?", "ANNA"),
        Line(180.0, 190.0, "Well: so.", "ben"),
    ]
    text = "Anna:\nI am\n\n  so glad.\nBen: Oh.\nAnna:\nAnna: Why: because.\n"
    assert read(write(tmp_path, "a.txt", text)) == [
        Line(None, None, "I am so glad.", "Anna"),
        Line(None, None, "Oh.", "Ben"),
        Line(None, None, "Why: because.", "Anna"),
    ], "of the turn without a word there is nothing"


@pytest.mark.parametrize(
    "name",
    [
        "Anna",
        "ANNA B.",
        "Dr. von Amsberg-O'Neil",
        "SPEAKER_00",
        "Speaker 1",
        "[SPEAKER_00]",
        "[the man]",
        "Élodie",
        "李雷",
        "Q",
    ],
)
def test_what_a_name_may_be(tmp_path, name):
    text = f"{name}: Hi.\n{name} (laughs): Hello.\n"
    assert said(read(write(tmp_path, "a.txt", text))) == [(name.strip("[]"), "Hi."), (name.strip("[]"), "Hello.")]


@pytest.mark.parametrize(
    "begin",
    [
        "anna:",
        "12:30",
        "At 12:30",
        "[00:12]:",
        "[1]:",
        "Https://a.b",
        "I was told by him:",
        "Well, no:",
        "“No:",
        "N" * 41 + ":",
        ":",
    ],
)
def test_what_no_name_is(tmp_path, begin):
    text = f"{begin} one\n{begin} two"
    assert said(read(write(tmp_path, "a.txt", text))) == [("", text.replace("\n", " "))]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["Note: this."], False),
        (["A: x", "B: y"], True),
        (["x", "A: x", "B: y", "A: z"], False),  # who says the first is not known
        (["A: x", "x", "B: y"], False),  # nobody comes back, as headings do not
        (["A: x", "x", "B: y", "A: z"], True),
        (["A: x", "x", "x", "x", "A: y", "x", "x", "x"], True),
        (["A: x", "x", "x", "x", "A: y", "x", "x", "x", "x"], False),  # fewer than one in four
    ],
)
def test_when_names_are_speakers(tmp_path, rows, told):
    text, film = (write(tmp_path, *file) for file in (("a.txt", "\n".join(rows)), ("a.srt", captions(*rows))))
    assert [any(line.speaker for line in read(path)) for path in (text, film)] == [told, told]
    if not told:
        assert said(read(film)) == [("", row) for row in rows]
        assert said(read(text)) == [("", " ".join(rows))]


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
