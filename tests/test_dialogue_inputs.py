"""Where in a conversation an input stands: who says it, as which turn of what."""

import csv
import io
import shutil
import sys
import types

import dialogues
import numpy as np
import pytest
from conftest import small_description
from test_inputs import NO_MODEL, Lengths, Sentences

from data_prep.packs.rows import Reading, rows_of
from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.predict import encoder_client, inputs, output
from mer_jax.predict import requests as requests_lib
from mer_jax.predict.conversations import conversations
from mer_jax.predict.item import InputOptions, Item
from mer_jax.predict.prediction import Prediction
from mer_jax.predict.table import COUNTED
from mer_jax.tasks.classification import Classification


def requests(path, **options):
    options = InputOptions(**options)
    found = requests_lib.requests_of(path, inputs.kind_of(path), options, Lengths())
    return [request for some in found for request in some]


def place(found):
    get = found.get if isinstance(found, dict) else lambda name: getattr(found, name)
    return get("dialogue") or "", get("turn"), get("speaker") or ""


TABLE = """sentence,dialogue,turn,speaker
b2,b,2,Ben
a7,a,7,
b0,b,0.0,3
alone,,,Cleo
a5,a, 5 ,Anna
"""


def test_a_table_says_who_speaks_when(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    found = requests(path)
    assert [request["sentence"] for request in found] == ["b2", "a7", "b0", "alone", "a5"]
    wanted = [("b", 2, "Ben"), ("a", 7, ""), ("b", 0, "3"), ("", None, "Cleo"), ("a", 5, "Anna")]
    assert list(map(place, found)) == wanted
    assert not any("notes" in request or "error" in request for request in found)
    ordered = requests(path, by_dialogue=True)
    assert [request["sentence"] for request in ordered] == ["b0", "b2", "a5", "a7", "alone"]
    assert ordered[0]["id"] == "t.csv:4", "its line"


def test_a_table_without_dialogues_is_as_before(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("sentence,id\nOh.,a\n")
    wanted = [{"id": "a", "file": None, "sentence": "Oh.", "start": None, "end": None}]
    assert requests(path) == requests(path, by_dialogue=True) == wanted
    path.write_text("sentence,id,speaker\nOh.,a,Anna\n")
    assert requests(path) == [wanted[0] | {"speaker": "Anna"}]
    path.write_text("sentence,turn\nOh.,0\n")
    with pytest.raises(UserError, match=r"t\.csv: it has the column turn and lacks dialogue"):
        requests(path)


def test_turns_that_are_not_told_are_counted_and_it_is_said(tmp_path):
    """Also those of a row that cannot be used: it was said, too."""
    path = tmp_path / "t.csv"
    path.write_text("sentence,dialogue,start\na0,a,\nb0,b,\na1,a,soon\n-,-,\na2,a,\n")
    found = requests(path)
    assert list(map(place, found)) == [("a", 0, ""), ("b", 0, ""), ("a", 1, ""), ("", None, ""), ("a", 2, "")]
    assert [request.get("notes") for request in found] == [(COUNTED,), (COUNTED,), (COUNTED,), None, (COUNTED,)]
    assert "line 4: start is 'soon'" in found[2]["error"]
    path.write_text("sentence,dialogue,turn\na0,a,\nb4,b,4\na1,a,nan\n")
    found = requests(path)
    assert list(map(place, found)) == [("a", 0, ""), ("b", 4, ""), ("a", 1, "")]
    assert [request.get("notes") for request in found] == [(COUNTED,), None, (COUNTED,)]


def test_a_wrong_turn_costs_its_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "sentence,dialogue,turn,start\nok,a,1,\nthe same,a,1,\nhalf,a,1.5,\nhuge,a,99999999999,\nbelow,a,-1,\nnone,a,,\nof nothing,,3,\n"
        "short,a\nlater,a,2,\nsoon,a,3,soon\n"
    )
    found = {request["id"].split(":")[1]: request for request in requests(path, by_dialogue=True)}
    wrong = {
        "3": "turn 1 of dialogue 'a' is that of line 2, too",
        "4": "line 4: the turn is '1.5', not a whole number from 0",
        "5": "line 5: the turn is '99999999999', not a whole number from 0 to 2147483647",
        "6": "line 6: the turn is '-1', not a whole number from 0",
        "7": "line 7: turn is empty, and other rows of dialogue 'a' have one",
        "8": "line 8: it is turn 3 of no dialogue",
        "9": "line 9: it has another number of fields",
        "11": "line 11: start is 'soon'",
    }
    for line, words in wrong.items():
        assert words in found[line]["error"]
    assert {line for line, request in found.items() if "error" not in request} == {"2", "10"}
    assert {line: place(request)[:2] for line, request in found.items() if place(request)[0]} == {
        "2": ("a", 1),
        "10": ("a", 2),
        "11": ("a", 3),
    }, "what is not wrong with the place leaves it"


def test_a_row_without_a_place_cuts_no_dialogue_in_two(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("sentence,dialogue,turn\nHi,a,0\nHo,a,1\nHo,a,1\nHm,a,2\nOh,b,0\n")
    ordered = requests(path, by_dialogue=True)
    assert [request["id"] for request in ordered] == [f"t.csv:{line}" for line in (2, 3, 5, 4, 6)]
    assert "error" in ordered[3]


def test_a_dict_says_who_speaks_when():
    given = [
        {"dialogue": b"d", "turn": np.array([3]), "speaker": 1.0, "text": [1.0]},
        {"dialogue": np.nan, "turn": None, "speaker": "Anna"},
        {"id": "u", "dialogue": "d"},
        {"turn": 0},
        {"dialogue": "d", "turn": "three"},
        {"dialogue": "d", "turn": True},
        {"dialogue": ["d", "e"], "turn": 1},
        {"speaker": [0, 1]},
    ]
    first, second, *wrong = inputs.items_of(given, NO_MODEL)
    assert (place(first), place(second)) == (("d", 3, "1"), ("", None, "Anna"))
    assert list(first.features) == ["text"]
    for item, words in zip(
        wrong,
        (
            "utterance 'u': it is of dialogue 'd' and has no turn",
            "utterance '3': it is turn 0 of no dialogue",
            "the turn is 'three', not a whole number from 0",
            "the turn is True, not",
            "the dialogue is ['d', 'e'], not a name or number",
            "the speaker is [0, 1], not a name or number",
        ),
        strict=True,
    ):
        assert words in item.error
    [bad] = inputs.items_of([{"start": "soon", "text": [1.0], "dialogue": "d", "turn": 1, "speaker": "A"}], NO_MODEL)
    assert "start is 'soon'" in bad.error
    assert place(bad) == ("d", 1, "A"), "so that the turns after it hear those before it"
    found = list(inputs.items_of([Item("a", dialogue="d", turn=0), Item("b", dialogue="d")], NO_MODEL))
    assert [item.error != "" for item in found] == [False, True]


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    """A corpus of dialogues whose turns are not in order, with two utterances that are of none."""
    folder = tmp_path_factory.mktemp("shuffled") / "c"
    found = list(dialogues.utterances())
    alone = [Utterance(f"alone{i}", "test", f"alone{i}", 0, "", "", "calm", "", found[0].features) for i in range(2)]
    np.random.default_rng(0).shuffle(found)
    write_corpus(
        folder, [alone[0], *found, alone[1]], small_description(extractors={"text": "random"}), shard_records=40
    )
    return folder


GIVEN_TURNS = (("a", {"turn": 7}), ("a", {}), ("b", {}), ("b", {}))
TEXT = types.SimpleNamespace(manifest=types.SimpleNamespace(manifest={}), modalities={"text": {"extractor": "random"}})


def test_a_corpus_says_who_speaks_when(shuffled):
    corpus = Corpus(shuffled)
    found = list(inputs.of_corpus(shuffled, TEXT, InputOptions()))
    assert [item.id for item in found] == corpus.index["id"].tolist()
    wanted = {u.id: (u.dialogue, u.turn, u.speaker) for u in dialogues.utterances()}
    wanted |= {f"alone{i}": ("", None, "") for i in range(2)}
    assert {item.id: place(item) for item in found} == wanted


@pytest.mark.parametrize("of", ["shard", "some"])
def test_of_a_part_of_a_corpus_whole_dialogues_come(shuffled, of):
    """Who is not asked for is heard."""
    path, options = next(shuffled.glob("train-00000.tfrecord")), {}
    if of == "some":
        path, options = shuffled, {"only": ["Ses1_d01_F0", "Ses2_d07_M3", "alone1"]}
    wanted = {item.id for item in inputs.of_corpus(path, TEXT, InputOptions(**options))}
    found = list(inputs.of_corpus(path, TEXT, InputOptions(by_dialogue=True, **options)))
    assert [item.id for item in found if item.asked] != [item.id for item in found]
    assert {item.id for item in found if item.asked} == wanted
    heard = {item.dialogue for item in found} - {""}
    assert {item.id for item in found if item.dialogue} == {u.id for u in dialogues.utterances() if u.dialogue in heard}
    assert len(list(conversations(found))) == len(heard) + (of == "some")


def test_a_corpus_comes_by_dialogue_if_asked(shuffled):
    as_it_is = list(inputs.of_corpus(shuffled, TEXT, InputOptions()))
    found = list(inputs.of_corpus(shuffled, TEXT, InputOptions(by_dialogue=True)))
    names = [item.dialogue or item.id for item in as_it_is]
    wanted = sorted(as_it_is, key=lambda item: (names.index(item.dialogue or item.id), item.turn or 0))
    assert [item.id for item in found] == [item.id for item in wanted] != [item.id for item in as_it_is]


def test_a_record_without_a_turn_among_others_costs_itself():
    given = [{"id": str(i), "dialogue": d, "text": [1.0, 2.0]} | t for i, (d, t) in enumerate(GIVEN_TURNS)]
    found = rows_of("p", given, Reading(to_predict=True)).rows
    assert [row.error for row in found if row.error] == [
        "p, record 1: 'turn' is missing, and other records of dialogue 'a' have it"
    ]
    assert [(row.dialogue, row.turn) for row in found if not row.error] == [("a", 7), ("b", 2), ("b", 3)]


def test_a_damaged_record_keeps_its_place(shuffled, tmp_path):
    folder = shutil.copytree(shuffled, tmp_path / "c")
    path = folder / "train-00000.tfrecord"
    raw = bytearray(path.read_bytes())
    raw[30] ^= 1
    path.write_bytes(raw)
    item, *others = inputs.of_corpus(path, TEXT, InputOptions())
    assert "damaged" in item.error
    assert not any(other.error for other in others)
    u = next(u for u in dialogues.utterances() if u.id == item.id)
    assert place(item) == (u.dialogue, u.turn, u.speaker)


SRT = "1\n00:00:04,000 --> 00:00:05,000\nBen: Oh.\n\n2\n00:00:01,000 --> 00:00:03,000\nAnna: Well, then.\n\n"
SILENT_SRT = "1\n00:00:01,000 --> 00:00:01,000\nOh.\n\n2\n00:00:02,000 --> 00:00:03,000\nHi.\n"


@pytest.fixture
def talks(tmp_path):
    for name, text in (
        ("talk.wav", ""),
        ("talk.srt", SRT),
        ("untimed.wav", ""),
        ("untimed.txt", "Anna: Hi.\nBen: Oh.\n"),
        ("plain.wav", ""),
        ("plain.srt", SILENT_SRT),
        ("said.txt", "Oh.\n\nNote: well."),
        ("voices.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Anna>Hi."),
        ("empty.srt", ""),
    ):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_clip_whose_transcript_says_who_speaks_is_a_conversation(talks):
    """Its turns come in the order of their beginnings, whatever that of the file is."""
    first, second = requests(talks / "talk.wav")
    about = {"file": str(talks / "talk.wav"), "dialogue": "talk", "notes": ()}
    told = {"sentence": "Well, then.", "start": 1.0, "end": 3.0, "turn": 0, "speaker": "Anna"}
    assert first == {"id": "talk.wav:0"} | about | told
    assert (second["id"], second["start"], place(second)) == ("talk.wav:1", 4.0, ("talk", 1, "Ben"))
    windows = requests(talks / "talk.wav", window=5.0)
    assert [(request["id"], request["sentence"], place(request)) for request in windows] == [
        ("talk.wav@0", "Oh. Well, then.", ("", None, "")),
        ("talk.wav@5", "", ("", None, "")),
    ]
    assert [request["sentence"] for request in requests(talks / "talk.wav", sentence="All of it.")] == ["All of it."]
    found = requests(talks / "untimed.wav")
    assert [(request["file"], request["start"], request["notes"]) for request in found] == [
        (None, None, (requests_lib.UNTIMED,))
    ] * 2
    [whole] = requests(talks / "plain.wav")
    assert (whole["id"], whole["sentence"], place(whole)) == ("plain.wav", "Oh. Hi.", ("", None, ""))


def test_the_conversations_of_a_folder_are_called_by_where_they_lie(talks):
    folder = talks / "all"
    for name in ("a/talk.wav", "b/talk.wav"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
        (folder / name).with_suffix(".srt").write_text(SRT)
    found = requests(folder)
    assert [(request["id"], request["dialogue"]) for request in found] == [
        (f"{name}/talk.wav:{turn}", f"{name}/talk") for name in "ab" for turn in range(2)
    ]


def test_a_transcript_alone_is_a_conversation(talks):
    found = requests(talks / "talk.srt")
    assert list(map(place, found)) == [("talk", 0, "Anna"), ("talk", 1, "Ben")]
    assert {(request["file"], request["notes"]) for request in found} == {(None, ())}
    now, later = requests(talks / "plain.srt")
    assert (place(now), now["start"], now["end"]) == (("plain", 0, ""), 1.0, None), "no stretch of time is empty"
    assert (place(later), later["end"]) == (("plain", 1, ""), 3.0)
    assert list(map(place, requests(talks / "voices.vtt"))) == [("voices", 0, "Anna")]
    assert list(map(place, requests(talks / "untimed.txt"))) == [("untimed", 0, "Anna"), ("untimed", 1, "Ben")]
    listed = requests(talks / "said.txt")
    assert [(request["id"], request["sentence"], "dialogue" in request) for request in listed] == [
        ("said.txt:1", "Oh.", False),
        ("said.txt:3", "Note: well.", False),
    ]
    with pytest.raises(UserError, match=r"empty\.srt holds no sentence"):
        requests(talks / "empty.srt")
    with pytest.raises(UserError, match=r"talk\.srt is a transcript"):
        inputs.check_flags_apply([talks / "talk.srt"], InputOptions(window=5.0))
    found = list(inputs.items_of([talks / "talk.srt", talks / "empty.srt"], NO_MODEL, encoders=Sentences()))
    assert [item.sentence for item in found] == ["Well, then.", "Oh.", ""]


ECHO = """
import json, sys
from mer_jax.data import corpus, records
records.write_record(sys.stdout.buffer, records.encode_example({"hello": b"{}"}))
sys.stdout.flush()
for line in sys.stdin:
    asked = json.loads(line)
    said = corpus.Utterance(asked["id"], "test", "", 0, "", "", "", ",".join(sorted(asked)), {})
    answer = corpus.to_example(said, {"notes": [b"quiet"]})
    if "error" in asked:
        answer = records.encode_example({"id": b"b", "error": b"broken"})
    records.write_record(sys.stdout.buffer, answer)
    sys.stdout.flush()
"""


def test_the_encoders_are_not_told_who_speaks_and_the_item_is(monkeypatch):
    """Nor would an older process of theirs know the words."""
    popen = encoder_client.subprocess.Popen
    monkeypatch.setattr(encoder_client.subprocess, "Popen", lambda _, **how: popen([sys.executable, "-c", ECHO], **how))
    model = types.SimpleNamespace(manifest=types.SimpleNamespace(text="{}"), modalities={})
    asked = [
        {"id": "a", "sentence": "Oh.", "dialogue": "d", "turn": 0, "speaker": "Anna", "notes": ("counted",)},
        {"id": "b", "error": "broken", "dialogue": "d", "turn": 1},
        {"id": "c", "sentence": "Oh."},
    ]
    with encoder_client.EncoderClient(model) as client:
        a, b, c = client.items(asked)
    assert (place(a), a.sentence, a.notes) == (("d", 0, "Anna"), "id,sentence", ("counted", "quiet"))
    assert (place(b), b.error, b.notes) == (("d", 1, ""), "broken", ())
    assert (place(c), c.notes) == (("", None, ""), ("quiet",))


GOOD = {"prediction": "glad", "probabilities": {"calm": 0.25, "glad": 0.75}}


def test_outputs_say_who_speaks_where_it_is_known(tmp_path):
    alone = Prediction("a", GOOD)
    turn = Prediction("b", GOOD, dialogue="d", turn=0, speaker="=Anna")
    assert list(turn.to_json())[:4] == ["id", "dialogue", "turn", "speaker"]
    assert turn.to_json()["turn"] == 0
    assert not {"dialogue", "turn", "speaker"} & set(alone.to_json())

    def table(*found):
        with output.open_output(tmp_path / "t.csv", Classification(["calm", "glad"])) as write:
            for one in found:
                write(one)
        return list(csv.reader(io.StringIO((tmp_path / "t.csv").read_text())))

    assert [row[:3] for row in table(alone)] == [["id", "start", "end"], ["a", "", ""]]
    assert [row[:6] for row in table(alone, turn, alone)] == [
        ["id", "dialogue", "turn", "speaker", "start", "end"],
        ["a", "", "", "", "", ""],
        ["b", "d", "0", "'=Anna", "", ""],
        ["a", "", "", "", "", ""],
    ], "though the first has none"
    assert len({len(row) for row in table(alone, turn)}) == 1
    assert table() == [["id", "start", "end", "prediction", "calm", "glad", "label", "sentence", "notes", "error"]]
    with pytest.raises(RuntimeError, match="stop"), output.open_output(tmp_path / "u.csv", Classification(["a"])):
        raise RuntimeError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
