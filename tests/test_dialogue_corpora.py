"""EmoryNLP, DailyDialog and CMU-MOSEI come from their files as they are distributed, each known trap by its name."""

import argparse
import json

import corpus_folders
import pytest
import trees
from recordings import Letters, needs_prep, small_bert

from data_prep import dailydialog, emorynlp, mosei
from data_prep.encoders import flags
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError


@pytest.fixture
def letters(monkeypatch):
    """No text encoder is loaded."""
    monkeypatch.setattr(flags, "text_encoder", lambda arguments: Letters())


def source(module, tmp_path, folder, *more):
    parser = argparse.ArgumentParser()
    flags.add_text(parser)
    module.add_flags(parser)
    return module.read(parser.parse_args([str(folder), "--cache", str(tmp_path / "cache"), *more]))


def test_turns_and_traps_of_emorynlp(tmp_path):
    rows, paths, issues = emorynlp.read_corpus(corpus_folders.emorynlp(tmp_path))
    found = [row.utterance for row in rows]
    assert [(u.id, u.split, u.dialogue, u.turn, u.session, u.label, u.speaker) for u in found[:5]] == [
        ("s01_e02_c01_u001", "train", "s01_e02_c01", 0, "s01_e02", "joyful", "Monica Geller"),
        ("s01_e02_c01_u002", "train", "s01_e02_c01", 1, "s01_e02", "neutral", "Joey Tribbiani & Ross Geller"),
        ("s01_e02_c01_u003", "train", "s01_e02_c01", 2, "s01_e02", "mad", "Monica Geller"),
        ("s01_e03_c01_u003", "train", "s01_e03_c01", 0, "s01_e03", "sad", ""),
        ("s01_e03_c01_u004", "train", "s01_e03_c01", 1, "s01_e03", "scared", "Joey Tribbiani"),
    ]
    assert found[0].sentence == "There's nothing to tell, 0!"
    assert [path.name for path in paths] == list(emorynlp.FILES.values())
    assert {name: ids for name, ids in issues.found.items() if name != "counts"} == {
        "several-speakers": ["s01_e02_c01_u002"],
        "speaker-unknown": ["s01_e03_c01_u003"],
        "no-sentence": ["s01_e15_c01_u002"],
        "number-gaps": ["s01_e03_c01"],
        "episode-shared": ["s01_e03"],
        "speaker-shared": ["s01_e03_c02_u001"],
    }
    assert "valid mad 0 instead of 143" in issues.found["counts"]
    assert "test scenes 1 instead of 85" in issues.found["counts"]


def test_published_counts_of_emorynlp_and_dailydialog_add_up():
    assert {split: sum(of) for split, of in emorynlp.PUBLISHED.items()} == {"train": 9934, "valid": 1344, "test": 1328}
    assert sum(dailydialog.PUBLISHED.values()) == 102979
    assert sum(dailydialog.DIALOGUES.values()) == 13118
    assert round(dailydialog.PUBLISHED["no emotion"] / 102979, 2) == 0.83
    assert sum(mosei.PUBLISHED.values()) == 22856


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"emotion": "Bored"}, r"trn\.json, s01_e02_c01_u001: emotion is 'Bored', not one of Neutral, Joyful"),
        ({"emotion": None}, r"s01_e02_c01_u001: 'emotion' is None, not a text"),
        ({"speakers": "Monica"}, r"s01_e02_c01_u001: it needs a list 'speakers'"),
        ({"utterance_id": "s01_e02_c01_u002"}, r"trn\.json: s01_e02_c01_u002 occurs twice, before in .*trn"),
    ],
)
def test_a_wrong_utterance_of_emorynlp_is_named(tmp_path, change, words):
    path = corpus_folders.emorynlp(tmp_path) / "json" / "emotion-detection-trn.json"
    whole = json.loads(path.read_text())
    whole["episodes"][0]["scenes"][0]["utterances"][0] |= change
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=words):
        emorynlp.read_corpus(tmp_path)


def test_wrong_files_of_emorynlp_are_named(tmp_path):
    room = corpus_folders.emorynlp(tmp_path) / "json"
    (room / "emotion-detection-dev.json").write_text("{")
    with pytest.raises(UserError, match=r"dev\.json is not JSON"):
        emorynlp.read_corpus(tmp_path)
    (room / "emotion-detection-dev.json").write_text("[]")
    with pytest.raises(UserError, match=r"dev\.json: it needs a list 'episodes'"):
        emorynlp.read_corpus(tmp_path)
    (room / "emotion-detection-dev.json").unlink()
    with pytest.raises(UserError, match=r"holds no emotion-detection-dev\.json; it must hold emotion-detection-trn"):
        emorynlp.read_corpus(tmp_path)


def test_turns_and_traps_of_dailydialog(tmp_path):
    rows, paths, issues = dailydialog.read_corpus(corpus_folders.dailydialog(tmp_path), without_repeats=False)
    found = [row.utterance for row in rows]
    assert [(u.id, u.split, u.dialogue, u.turn, u.speaker, u.label, u.sentence) for u in found[2:5]] == [
        ("train_2_0", "train", "train_2", 0, "train_2_A", "anger", "I am mad ."),
        ("train_2_1", "train", "train_2", 1, "train_2_B", "no emotion", "Why ?"),
        ("train_2_2", "train", "train_2", 2, "train_2_A", "sadness", "It broke ."),
    ]
    assert [u.label for u in found if u.split == "valid"] == ["disgust", "fear"]
    assert [path.name for path in paths] == list(dailydialog.FILES)
    assert {name: ids for name, ids in issues.found.items() if name != "counts"} == {
        "emotions-missing": ["train_3"],
        "dialogue-shared": ["train_4", "train_5"],
        "dialogue-twice": ["train_5"],
        "speaker-unknown": ["train_1", "train_2", "train_4", "train_5", "valid_1", "test_1"],
        "no-emotion": ["train_1_0", "train_1_1", "train_2_1", "train_4_1", "train_5_1"],
    }
    assert "train dialogues 4 instead of 11,118" in issues.found["counts"]
    assert "surprise 0 instead of 1,823" in issues.found["counts"]
    rows, _, issues = dailydialog.read_corpus(tmp_path, without_repeats=True)
    assert {row.utterance.dialogue for row in rows} == {"train_1", "train_2", "valid_1", "test_1"}
    assert issues.found["dialogue-shared"] == ["train_4", "train_5"], "told all the same"


def test_wrong_files_of_dailydialog_are_named(tmp_path):
    room = corpus_folders.dailydialog(tmp_path)
    emotions = room / "test" / "dialogues_emotion_test.txt"
    emotions.write_text("4 7\n")
    with pytest.raises(UserError, match=r"dialogues_emotion_test\.txt, line 1: '7' is no emotion; .* from 0 to 6"):
        dailydialog.read_corpus(room, without_repeats=False)
    emotions.write_text("4 12\n")
    with pytest.raises(UserError, match="'12' is no emotion"):
        dailydialog.read_corpus(room, without_repeats=False)
    emotions.write_text("4 4\n1 1\n")
    with pytest.raises(UserError, match=r"dialogues_test\.txt has 1 dialogues, .*emotion_test\.txt 2"):
        dailydialog.read_corpus(room, without_repeats=False)
    (room / "dialogues_test.txt").write_text("another")
    with pytest.raises(UserError, match=r"holds dialogues_test\.txt more than once"):
        dailydialog.read_corpus(room, without_repeats=False)


def test_scores_and_traps_of_mosei(tmp_path):
    corpus_folders.mosei_table(tmp_path / "MOSEI" / "label.csv")
    rows, table, issues = mosei.read_corpus(tmp_path)
    found = [row.utterance for row in rows]
    assert [(u.id, u.turn, u.split, u.label, u.sentence) for u in found] == [
        ("-3g5yACwYnA$_$2", 2, "train", "neutral", "it's a chair"),
        ("-3g5yACwYnA$_$10", 10, "train", "positive", "I do like it"),
        ("03bSnISJMiM$_$0", 0, "valid", "negative", "awful"),
        ("100178$_$0", 0, "train", "negative", ""),
        ("100178$_$1", 1, "test", "neutral", "so so"),
        ("1DmNV9C1hbY$_$3", 3, "test", "positive", "fine, and good"),
    ]
    assert {(u.dialogue, u.speaker, u.session) for u in found if "100178" in u.id} == {("100178",) * 3}
    assert rows[0].clip.source == table.parent / "Raw" / "-3g5yACwYnA" / "2.mp4"
    assert {name: ids for name, ids in issues.found.items() if name not in mosei.CLIPS} == {
        "counts": ["train 3 instead of 16,326", "valid 1 instead of 1,871", "test 2 instead of 4,659"],
        "annotation-differs": ["100178$_$0"],
        "no-sentence": ["100178$_$0"],
        "video-shared": ["100178"],
    }


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("#NAME?", "1", "a", "0", "Neutral", "train"), "line 2: video_id is '#NAME\\?'; ids may begin with '-'"),
        (("a", "1.5", "a", "0", "Neutral", "train"), "line 2: the clip_id is '1.5', not a whole number"),
        (("a", "1", "a", "3.5", "Positive", "train"), "line 2: label is '3.5', not a number from -3 to 3"),
        (("a", "1", "a", "nan", "Positive", "train"), "line 2: label is 'nan', not a number from -3 to 3"),
        (("a", "1", "a", "", "Positive", "train"), "line 2: label is '', not a number from -3 to 3"),
        (("a", "1", "a", "1", "Positive", "held-out"), "line 2: part 'held-out' is not one of train"),
    ],
)
def test_a_wrong_line_of_mosei_is_named(tmp_path, row, words):
    corpus_folders.mosei_table(tmp_path / "label.csv", [row])
    with pytest.raises(UserError, match=rf"label\.csv, {words}"):
        mosei.read_corpus(tmp_path)


def test_wrong_tables_of_mosei_are_named(tmp_path):
    with pytest.raises(UserError, match=r"holds no label\.csv, as MMSA distributes it"):
        mosei.read_corpus(tmp_path)
    corpus_folders.mosei_table(tmp_path / "label.csv", [corpus_folders.MOSEI[0]] * 2)
    with pytest.raises(UserError, match=r"label\.csv, line 3: clip 10 of -3g5yACwYnA occurs twice, before in .*line 2"):
        mosei.read_corpus(tmp_path)
    (tmp_path / "label.csv").write_text("video_id,clip_id,text,label\n")
    with pytest.raises(UserError, match=r"label\.csv: column 'mode' is missing; it has video_id, clip_id, text, label"):
        mosei.read_corpus(tmp_path)


def test_text_alone_needs_no_clips(tmp_path, letters):
    corpus_folders.mosei_table(tmp_path / "m" / "label.csv")
    of_mosei = source(mosei, tmp_path, tmp_path / "m")
    made = {u.id: u for u in of_mosei.utterances}
    assert {name for u in made.values() for name in u.features} == {"text"}
    (target,) = of_mosei.targets
    assert (target.describe(), target.definition) == ("sentiment (regression: sentiment -3 to 3)", "mosei")
    assert {name: u.values["sentiment"] for name, u in made.items()} == {
        f"{video}$_${clip}": float(score) for video, clip, _, score, *_ in corpus_folders.MOSEI
    }
    assert of_mosei.provenance["sources"].keys() == {"label.csv"}
    of_daily = source(dailydialog, tmp_path, corpus_folders.dailydialog(tmp_path / "d"), "--without-repeats")
    assert [u.features["text"][0, 0] for u in of_daily.utterances][:2] == [35, 27], "letters of the sentences"
    assert of_daily.provenance["arguments"] == {"without_repeats": True}
    assert of_daily.provenance["traps"]["emotions-missing"]["first"] == ["train_3"]
    assert of_daily.protocol["description"].endswith("without the dialogues of train that occur again")
    assert any(line.split()[:2] == ["no-emotion", "3"] for line in of_daily.closing_lines)
    assert source(emorynlp, tmp_path, corpus_folders.emorynlp(tmp_path / "e")).labels[1] == "joyful"


@needs_prep
def test_sound_and_frames_of_mosei_come_from_the_same_clips(tmp_path, letters):
    table = corpus_folders.mosei_table(tmp_path / "m" / "label.csv", corpus_folders.MOSEI[:2])
    for name, grey in (("10", 60), ("2", 200)):
        trees.write_film(table.parent / "Raw" / "-3g5yACwYnA" / f"{name}.mp4", 0.6, 200.0, left=grey, right=grey)
    asked = ("--audio-encoder=egemaps", "--visual-encoder=png", "--frame-size=16", "--frames=2")
    made = source(mosei, tmp_path, tmp_path / "m", *asked)
    features = {u.id: u.features for u in made.utterances}
    assert {tuple(sorted(of)) for of in features.values()} == {("audio", "text", "visual")}
    assert features["-3g5yACwYnA$_$2"]["visual"].image(0).getpixel((0, 0))[0] > 150
    assert made.provenance["sources"].keys() == {"label.csv", "audio clips", "visual clips"}
    (table.parent / "Raw" / "-3g5yACwYnA" / "2.mp4").unlink()
    with pytest.raises(UserError, match=r"1 clips cannot be used:\n.*label\.csv, line 3: .*2\.mp4 does not exist"):
        source(mosei, tmp_path, tmp_path / "m", *asked)
    made = source(mosei, tmp_path, tmp_path / "m", *asked, "--skip-broken")
    assert [u.id for u in made.utterances] == ["-3g5yACwYnA$_$10"]
    assert made.provenance["left_out"] == ["-3g5yACwYnA$_$2"]


@pytest.mark.slow
@needs_prep
@pytest.mark.parametrize("corpus", ["emorynlp", "dailydialog", "mosei"])
def test_the_whole_command(models, tmp_path, run_cli, corpus):
    if corpus == "mosei":
        corpus_folders.mosei_table(tmp_path / "in" / "label.csv")
    else:
        getattr(corpus_folders, corpus)(tmp_path / "in")
    arguments = [tmp_path / "in", "--out", tmp_path / "out", "--cache", tmp_path / "cache", *small_bert(models)]
    done = run_cli(*arguments, "--device=cpu", module=f"data_prep.{corpus}")
    assert done.returncode == 0, done.stderr
    assert "utterances, manifest sha256" in done.stdout, "the audit ends the import"
    assert f"the known traps of {corpus}" in done.stdout
    made = Corpus(tmp_path / "out")
    assert made.manifest["provenance"]["traps"]["counts"]["count"] > 0
    assert json.dumps(made.manifest).count(str(tmp_path)) == 0


@pytest.mark.parametrize(
    ("read", "file"),
    [
        (emorynlp.read_corpus, "emotion-detection-trn.json"),
        (lambda folder: dailydialog.read_corpus(folder, without_repeats=False), "dialogues_train.txt"),
        (mosei.read_corpus, "label.csv"),
    ],
)
def test_what_is_no_folder_or_still_packed_is_told(tmp_path, read, file):
    """A file of the corpus, or a folder that is misspelled, held nothing; DailyDialog's download holds zips."""
    (tmp_path / file).write_text("")
    for wrong in (tmp_path / file, tmp_path / "away"):
        with pytest.raises(UserError, match=rf"{wrong.name} is no folder$"):
            read(wrong)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.zip").write_bytes(b"PK")
    with pytest.raises(
        UserError, match=rf"holds no {file}" + ("" if file == "label.csv" else ".*in/train.zip is still")
    ):
        read(tmp_path / "in")
