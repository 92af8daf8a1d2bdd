"""Tables, times and bytes as nobody means them: whatever a field holds, it is read or told by file, column and row."""

import json
import re
import types
import zipfile

import numpy as np
import packs
import pytest
from conftest import small_description, small_utterances
from recordings import needs_prep, row, write_table
from test_prep import meld_folder, mosi_table, small_table

from data_prep import iemocap, meld_table, mosi
from data_prep.clip_table import read_table
from data_prep.raw import iemocap as raw_iemocap
from mer_jax import text_files
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.files import load_json, sha256_of, write_json
from mer_jax.predict import inputs, transcript
from mer_jax.predict.item import InputOptions

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
    assert load_json("\ufeff{}") == {}
    assert load_json(b"\xef\xbb\xbf" + json.dumps({"a": "ö"}).encode()) == {"a": "ö"}
    with pytest.raises(ValueError, match="the byte 0xf6 is not UTF-8, at byte 10; it reads"):
        load_json('{"a": "schön"}'.encode("latin1")[:20])
    with pytest.raises(ValueError, match="it is UTF-16"):
        load_json("{}".encode("utf-16"))


COUNT = 24
ROWS = np.arange(COUNT)
ODD = {  # of IEMOCAP's table: what is in it, and what is told, nothing where it can be read
    "label of floats": ({"label": ROWS % 6 * 1.0}, ""),
    "label of half numbers": ({"label": ROWS % 6 + 0.5}, "row 0: the label is 0.5, which is no whole number"),
    "label of text": ({"label": (ROWS % 6).astype(str)}, ""),
    "label of names": ({"label": np.array(["hap", "sad"] * 12)}, ""),
    "label NaN": ({"label": np.full(COUNT, np.nan)}, "row 0: there is no label"),
    "label [N,1]": ({"label": ROWS[:, None] % 6}, ""),
    "label [N,2]": ({"label": np.ones((COUNT, 2))}, "row 0: the label is an array .2. of float64: several"),
    "label below 0": ({"label": ROWS % 6 - 1}, "row 0: the label is -1, which stands for none"),
    "label 0-d": ({"label": np.array(1)}, "column 'label' is one value"),
    "id 0-d": ({"utt_id": np.array("a")}, "column 'utt_id' is one value"),
    "names 0-d": ({"label_names": np.array("hap")}, "column 'label_names' is one value"),
    "names of ints": ({"label_names": np.arange(6)}, "label_names holds 0, 1"),
    "audio 0-d": ({"audio_gemaps47": np.array(1.0)}, "column 'audio_gemaps47' is one value"),
    "audio of text": ({"audio_gemaps47": np.full((COUNT, 2), "a")}, "column 'audio_gemaps47' is an array .24, 2. of <U1"),
    "audio 1-d": ({"audio_gemaps47": ROWS * 1.0}, "column 'audio_gemaps47' is an array .24. of float64"),
    "start empty": ({"start_time": np.full(COUNT, "")}, "row 0: start_time is empty"),
    "start HH:MM:SS": ({"start_time": np.full(COUNT, "00:00:01")}, ""),
    "start of words": ({"start_time": np.full(COUNT, "soon")}, "row 0: start_time is 'soon', not a number of seconds"),
    "start [N,1]": ({"start_time": ROWS[:, None] * 1.0}, ""),
    "end empty": ({"end_time": np.full(COUNT, "")}, ""),
    "sentence of bytes": ({"sentence": np.full(COUNT, "schön".encode())}, ""),
    "sentence in Latin-1": ({"sentence": np.full(COUNT, b"sch\xf6n")}, "row 0: sentence: the byte 0xf6 is not UTF-8"),
    "sentence of numbers": ({"sentence": ROWS * 1.0}, "row 0: the sentence is 0.0, not a text"),
    "ids without _": ({"utt_id": ROWS.astype(str)}, "row 0: utt_id is '0', not the id of a turn"),
    "ids of bytes": ({"utt_id": np.array([f"Ses01F_a_F{i}".encode() for i in ROWS])}, ""),
    "dialogue of numbers": ({"dialogue": ROWS // 12 * 1.0}, ""),
    "dialogue empty": ({"dialogue": np.full(COUNT, "nan")}, "row 0: dialogue is empty"),
    "split of numbers": ({"split": ROWS}, "row 0, split: part 0 is not one of train"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_table_of_iemocap_is_read_or_told(tmp_path, name):
    changes, words = ODD[name]
    path = small_table(tmp_path / "t.npz", **changes)
    if words:
        with pytest.raises(UserError, match=rf"t\.npz(, |: ){words}"):
            iemocap.read_table(path, "audio_gemaps47")
        return
    table = iemocap.read_table(path, "audio_gemaps47")
    rows, states = np.arange(COUNT), [np.zeros((1, 2), np.float16)] * COUNT
    found = list(iemocap.utterances(table, rows, states, table["name"][rows].tolist(), "audio_gemaps47"))
    assert len(found) == COUNT
    for u in found:
        assert u.label in iemocap.WORDS
        assert "b'" not in u.sentence + u.id
        assert u.dialogue in ("0", "1") or u.dialogue.startswith("Ses")
    if name == "end empty":
        assert found[0].end is None


VIDEOS = np.array([f"v{i // 3:02d}" for i in range(39)])
ODD_MOSI = {
    "label [N,1]": ({"label_train": np.ones((39, 1))}, ""),
    "label of text": ({"label_train": np.full(39, "1")}, ""),
    "label true": ({"label_train": np.full(39, True)}, ""),
    "label NaN": ({"label_train": np.full(39, np.nan)}, "row 0: there is no label"),
    "label 0-d": ({"label_train": np.array(1)}, "column 'label_train' is one value"),
    "place NaN": ({"uttidx_train": np.full(39, np.nan)}, "row 0: the uttidx_train is nan, not a whole number"),
    "place of text": ({"uttidx_train": np.full(39, "1")}, ""),
    "place of words": ({"uttidx_train": np.full(39, "first")}, "row 0: the uttidx_train is 'first', not a whole"),
    "place [N,2]": ({"uttidx_train": np.ones((39, 2))}, "row 0: the uttidx_train is an array"),
    "video of numbers": ({"vid_train": np.arange(39) // 3}, ""),
    "video of bytes": ({"vid_train": VIDEOS.astype("S")}, ""),
    "video [N,2]": ({"vid_train": np.stack([VIDEOS, VIDEOS], 1)}, "row 0: the vid_train is an array .2. of <U3"),
    "video empty": ({"vid_train": np.full(39, "")}, "row 0: vid_train is empty"),
    "text of strings": ({"text_train": np.full((39, 5), "a")}, "column 'text_train' is an array .39, 5. of <U1"),
    "text 1-d": ({"text_train": np.zeros(39)}, "column 'text_train' is an array .39. of float64"),
    "sentence of bytes": ({"sent_train": np.full(39, "schön".encode())}, ""),
    "id of bytes": ({"id_train": np.array([f"i{i}".encode() for i in range(39)])}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_MOSI)
def test_an_odd_table_of_mosi_is_read_or_told(tmp_path, name):
    changes, words = ODD_MOSI[name]
    path = mosi_table(tmp_path / "t.npz", **changes)
    if words:
        with pytest.raises(UserError, match=rf"t\.npz(, |: ){words}"):
            mosi.read_table(path)
        return
    table = mosi.read_table(path)
    found = list(mosi.utterances(table, mosi.validation_videos(set(table["train"]["vid"].tolist()))))
    assert len(found) == 51
    assert not any("b'" in u.sentence + u.id + u.dialogue for u in found)
    assert {u.sentence for u in found[:39]} == {"schön" if "sentence" in name else "WELL"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("00:16:10,059", "9" * 400 + ":00:00", "line 2: StartTime is '9999.*00', not a number of seconds"),
        ("00:16:10,059", "", "line 2: StartTime is empty"),
        ("It’s, well, 00", "a" * 200_000, "line 2: field larger than field limit"),
        ("It’s, well, 00", "a\0b", "line 2: the Utterance 'a.x00b' holds"),
        ("0,0,8,21", "first,0,8,21", "line 2: the Dialogue_ID is 'first', not a whole number"),
        ("0,0,8,21", "9" * 5000 + ",0,8,21", "line 2: the Dialogue_ID is '9999.*9999', not a whole number from 0 to "),
        (",neutral,neutral", ",neutral", "line 2: it has another number of fields"),
        ("neutral,neutral", "bored" * 99 + ",neutral", r"line 2: Emotion is 'bored.*\.\.\..*bored', not one of"),
    ],
)
def test_an_odd_line_of_meld_is_told(tmp_path, old, new, words):
    folder = meld_folder(tmp_path / "m", lambda lines: [lines[0], lines[1].replace(old, new, 1), *lines[2:]])
    with pytest.raises(UserError, match=rf"train_sent_emo\.csv, {words}") as caught:
        meld_table.read_rows(folder / "train_sent_emo.csv", "train")
    assert len(str(caught.value)) < 400


def test_a_list_of_dialogues_is_decoded_as_every_file_is(tmp_path):
    (tmp_path / "valid.txt").write_bytes(b"Ses01F_impro01\nSes\xf6\n")
    with pytest.raises(UserError, match=r"valid\.txt, line 2: the byte 0xf6 is not UTF-8"):
        raw_iemocap.listed_dialogues(tmp_path / "valid.txt", [])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [row(file=f"{i}.wav", label=label) for i, label in enumerate(("happy", "sad", "happy/sad"))],
            "line 4: the label is 'happy/sad', which is several",
        ),
        ([row() | {"dialogue": "nan"}], "line 2: dialogue is 'nan', which names none"),
        ([row() | {"id": "None"}], "line 2: id is 'None', which names none"),
        ([row() | {"id": "a\0b"}], r"line 2: the id 'a.x00b' holds"),
        ([row() | {"session": "a\0b"}], r"line 2: the session 'a.x00b' holds"),
        ([row(file="a\0b.wav")], r"line 2: the file 'a.x00b.wav' holds"),
        ([row(file=".")], "line 2: file is '.', which is a folder"),
        ([row(votes="anna:jo\0y")], "line 2: the votes 'anna:jo.x00y' holds"),
        ([row(start="9" * 400 + ":00:00")], "line 2: start is '999"),
    ],
)
def test_an_odd_line_of_a_clip_table_is_told(tmp_path, rows, words):
    with pytest.raises(UserError, match=rf"t\.csv, {words}"):
        read_table(write_table(tmp_path / "t.csv", rows), tmp_path)


def test_a_speaker_who_is_none_is_no_speaker(tmp_path):
    rows = [row(file=f"{i}.wav") | {"speaker": name} for i, name in enumerate(("None", "nan", "Anna", "5"))]
    found = read_table(write_table(tmp_path / "t.csv", rows), tmp_path).rows
    assert [r.utterance.speaker for r in found] == ["", "", "Anna", "5"]


class Stubborn:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array")


NO_MODEL = types.SimpleNamespace(manifest=None, modalities={})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"label": ["sad"]}, {"label": "sad"}),
        ({"label": np.array(["sad"]), "sentence": b"sch\xc3\xb6n"}, {"label": "sad", "sentence": "schön"}),
        ({"label": b"sad", "sentence": np.array("Oh.")}, {"label": "sad", "sentence": "Oh."}),
        ({"label": np.int64(3)}, {"label": "3"}),
        ({"label": np.nan, "sentence": None}, {"label": "", "sentence": ""}),
        ({"start": [1.5], "end": np.array(["00:00:02,5"])}, {"start": 1.5, "end": 2.5}),
        ({"id": np.array(["a"])}, {"id": "a"}),
        ({"id": 7.0}, {"id": "7"}),
    ],
)
def test_one_value_alone_in_a_list_is_that_value(given, wanted):
    (item,) = inputs.items_of(given, NO_MODEL)
    assert item.error == ""
    assert {name: getattr(item, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"label": ["sad", "joy"]}, r"the label is \['sad', 'joy'\], not a name or number"),
        ({"sentence": 5}, "the sentence is 5, not a text"),
        ({"sentence": b"sch\xf6n"}, "sentence: the byte 0xf6 is not UTF-8"),
        ({"audio": Stubborn()}, "^audio: RuntimeError: no array"),
        ({"id": 10**5000}, "the id is <a number of 16610 bits>"),
        ({"id": ["a", "b"]}, r"the id is \['a', 'b'\], not a name or number"),
        ({"start": 10**400}, "start is 1000.*, which cannot be"),
        ([3], r"input 1 is \[3\], not a path, a dict of arrays or an Item"),
        (5, "input 1 is 5, not a path"),
        (b"a.wav", "input 1 is b'a.wav', not a path"),
        (None, "input 1 is None, not a path"),
    ],
)
def test_one_bad_item_costs_itself(bad, words):
    good = {"id": "g", "audio": [1.0]}
    before, found, after = inputs.items_of([good, bad, good], NO_MODEL)
    assert (before.error, after.error) == ("", "")
    assert re.search(words, found.error)
    assert len(found.error) < 300
    if not isinstance(bad, dict):
        with pytest.raises(UserError, match=r"input 0 is .*, not a path"):
            list(inputs.items_of([bad], NO_MODEL))


@pytest.mark.parametrize("given", [5, None, b"a.wav"])
def test_what_is_no_input_is_told(given):
    with pytest.raises(UserError, match=r"the input is .*, not a path"):
        list(inputs.items_of(given, NO_MODEL))


@needs_prep
@pytest.mark.slow
def test_a_folder_of_pickles_is_a_pack(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "pack_encoder_flags", lambda *_: [])
    packs.write_deepmsi(tmp_path / "m", count=4)
    assert inputs.kind_of(tmp_path / "m") == "pack"
    spec = {name: {"extractor": "x"} for name in ("text", "audio", "visual")}
    model = types.SimpleNamespace(manifest=None, modalities=spec)
    found = list(inputs.items_of(tmp_path / "m", model, InputOptions(any_extractor=True)))
    assert len(found) == 12
    assert not any(item.error for item in found)
    assert found[0].features["visual"].shape == (15, 32)


def test_an_index_that_numpy_2_0_wrote_is_read(tmp_path):
    """It wrote its own argument, allow_pickle, among the columns."""
    write_corpus(tmp_path / "c", small_utterances(12), small_description())
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    wanted = Corpus(tmp_path / "c")
    for i, shard in enumerate(manifest["shards"]):
        path = tmp_path / "c" / shard["index"]
        with np.load(path) as found:
            columns = dict(found)
        with zipfile.ZipFile(path, "w") as file:
            for name, column in (columns | {"allow_pickle": np.array(False)} if i % 2 == 0 else columns).items():
                with file.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asanyarray(column))
        shard["index_sha256"] = sha256_of(path)
    assert len(manifest["shards"]) > 1
    write_json(tmp_path / "c" / "manifest.json", manifest)
    corpus = Corpus(tmp_path / "c")
    assert corpus.index.keys() == wanted.index.keys()
    for name, column in wanted.index.items():
        np.testing.assert_array_equal(corpus.index[name], column)
    assert corpus[3].id == wanted[3].id
