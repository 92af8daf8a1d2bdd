"""Raw corpora: their turns come through TFDS to shards."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import trees
from recordings import RATE, Letters, corpus_bytes, needs_av, needs_prep, small_bert

from data_prep.encoders import media
from data_prep.encoders.media import Clip
from data_prep.raw import convert, iemocap, iemocap_reader, meld_reader
from data_prep.raw.tfds_builders import BUILDERS, prepared
from mer_jax.data import protocols
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError


@pytest.mark.parametrize(("corpus", "name"), [("iemocap", "IEMOCAP_full_release"), ("meld", "MELD.Raw")])
def test_turns_survive_tfds_without_tensorflow(raw_folder, tmp_path, corpus, name):
    raw = BUILDERS[corpus].reader.read(raw_folder / name)
    turns, issues, mark = prepared(corpus, raw_folder / name, tmp_path / "tfds")
    for turn, wanted in zip(turns, raw.turns, strict=True):
        np.testing.assert_allclose([turn.start, turn.end], [wanted.start, wanted.end], rtol=1e-6)
        assert turn.spreads == pytest.approx(wanted.spreads)
        apart = {"start": 0, "end": 0, "spreads": {}}
        assert vars(turn) | apart == vars(wanted) | apart
    assert issues == raw.issues.found
    files = sorted(path for path in (tmp_path / "tfds").rglob("*") if path.is_file())
    assert any(".array_record-" in path.name for path in files)
    assert "tensorflow" not in sys.modules
    times = [path.stat().st_mtime_ns for path in files]
    assert prepared(corpus, raw_folder / name, tmp_path / "tfds") == (turns, issues, mark)
    assert [path.stat().st_mtime_ns for path in files] == times, "prepared once"


def test_a_folder_that_changed_is_read_again(own_raw_folder, tmp_path):
    root = own_raw_folder / "IEMOCAP_full_release"
    first = prepared("iemocap", root, tmp_path / "tfds")
    path = root / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    path.write_text(path.read_text().replace("F001\tneu", "F001\tsad"))
    second = prepared("iemocap", root, tmp_path / "tfds")
    assert [turn.label for turn in (first[0][2], second[0][2])] == ["neu", "sad"]
    (root / "Session1" / "sentences" / "wav" / "Ses01F_impro01" / "Ses01F_impro01_F001.wav").unlink()
    assert "Ses01F_impro01_F001" in prepared("iemocap", root, tmp_path / "tfds")[1]["clip-missing"]
    path.write_text(path.read_text().replace("[2.0000 -", "[soon -"))
    with pytest.raises(UserError, match=f"{re.escape(str(path))}, line"):
        prepared("iemocap", root, tmp_path / "tfds")
    with pytest.raises(UserError, match="is no folder"):
        prepared("iemocap", root / "nothing", tmp_path / "tfds")


@pytest.mark.parametrize("kind", ["array_record-", "dataset_info.json", "metadata.json"])
def test_a_damaged_dataset_is_named(raw_folder, tmp_path, kind):
    prepared("meld", raw_folder / "MELD.Raw", tmp_path)
    path = next(path for path in sorted(tmp_path.rglob("*")) if kind in path.name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}/\w+ is damaged or cannot be written"):
        prepared("meld", raw_folder / "MELD.Raw", tmp_path)


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    root = tmp_path_factory.mktemp("filmed")
    trees.iemocap(root)
    trees.meld(root)
    return root


class Loudness:
    """An audio encoder that takes no model, and cannot decode one clip."""

    batch_size, identity, extractor, steps_per_second = 8, {"name": "loudness"}, "loudness and length", None
    longest, axis = 3.0, ()

    def room(self, seconds):
        return 4

    def prepare(self, clip):
        if clip.name.endswith("Ses05M_impro01_F002.wav"):
            raise UserError(f"{clip.name} cannot be decoded")
        return media.samples(clip, RATE, self.longest)

    def encode(self, prepared):
        return [np.array([[np.abs(sound).mean(), len(sound) / RATE]], np.float16) for sound in prepared]


@needs_av
def test_from_folder_to_shards(raw_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        convert.flags, "chosen_encoders", lambda arguments: (Letters(), {"text": Letters(), "audio": Loudness()})
    )
    arguments = [
        raw_folder / "IEMOCAP_full_release",
        "--cache",
        tmp_path / "cache",
        "--tfds",
        tmp_path / "tfds",
        "--longest=3",
    ]
    with pytest.raises(SystemExit, match="2"):
        iemocap.main([*map(str, arguments), "--out", str(tmp_path / "a")])
    errors = capsys.readouterr().err
    assert "2 clips cannot be used" in errors
    assert "Ses05M_impro01_F004: it has no audio" in errors
    iemocap.main([*map(str, arguments), "--out", str(tmp_path / "a"), "--skip-broken"])
    corpus = Corpus(tmp_path / "a")
    assert len(corpus) == 47 - 3
    traps = corpus.manifest["provenance"]["traps"]
    assert traps.keys() == iemocap_reader.ISSUES.keys()
    assert {name: traps[name]["first"] for name in trees.OF_CLIPS} == {
        "clip-unreadable": ["Ses05M_impro01_F003", "Ses05M_impro01_F002"],
        "clip-over-long": ["Ses01F_impro01_F004"],
        "clip-short": ["Ses01F_impro01_M004"],
    }
    assert corpus.manifest["provenance"]["left_out"] == [f"Ses05M_impro01_F00{i}" for i in (2, 3, 4)]
    row = corpus.index["id"].tolist().index("Ses01F_impro01_F004")
    assert corpus[row].features["audio"][0, 1] == 3.0, "cut, not dropped"
    row = corpus.index["id"].tolist().index("Ses01F_impro01_F001")
    assert corpus[row].votes == (("E1", "neu"), ("E2", "ang"), ("F1", "sad"))
    said = dict(zip(corpus.labels, corpus.soft_labels(np.array([row]))[0], strict=True))
    assert {name: round(float(share), 3) for name, share in said.items() if share} == {
        "sad": 0.333,
        "neu": 0.333,
        "ang": 0.333,
    }
    told = capsys.readouterr().out
    for name in iemocap_reader.ISSUES:
        assert re.search(rf"^  {name} +[\d,]+  ", told, re.MULTILINE), name
    assert "shared speakers" in told, "the audit"


def test_turns_without_a_class_are_kept_and_told(raw_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert.flags, "chosen_encoders", lambda arguments: (Letters(), {"text": Letters()}))
    arguments = [raw_folder / "IEMOCAP_full_release", "--tfds", tmp_path / "tfds", "--out", tmp_path / "a"]
    iemocap.main([*map(str, arguments), "--keep-unlabelled"])
    corpus, said = Corpus(tmp_path / "a"), capsys.readouterr().out
    assert (len(corpus), int(corpus.labelled.sum())) == (49, 47)
    kept = [trees.EXTRA_HAPPY, "Ses01F_impro01_F003"]
    assert sorted(corpus.index["id"][~corpus.labelled].tolist()) == sorted(kept)
    assert corpus.manifest["provenance"]["kept_unlabelled"] == {"count": 2, "first": kept}
    assert corpus.manifest["provenance"]["traps"]["no-majority"]["handled"].endswith("kept as turns without a class")
    assert "2 utterances are kept without a class, heard in their dialogues" in said
    assert re.search(r"^  other-emotion +1  .*kept as turns without a class", said, re.MULTILINE)


def flags(models, tmp_path):
    return [
        "--cache",
        tmp_path / "cache",
        "--tfds",
        tmp_path / "tfds",
        "--device=cpu",
        "--longest=3",
        "--audio-stride-ms=50",
        *small_bert(models),
        "--audio-encoder=egemaps",
    ]


@pytest.mark.slow
@needs_prep
class TestToShards:
    def test_iemocap(self, models, filmed, tmp_path, run_cli):
        root = filmed / "IEMOCAP_full_release"
        arguments = [root, *flags(models, tmp_path), "--visual-encoder", models / "vit"]
        done = run_cli(*arguments, "--out", tmp_path / "a", module="data_prep.raw.iemocap")
        assert done.returncode == 2, done.stderr
        for words in (
            "16 clips cannot be used",
            "Ses05M_impro01_F004: it has no audio",
            "Ses05M_impro01_F003.wav cannot be decoded",
        ):
            assert words in done.stderr
        assert not list((tmp_path / "cache").rglob("*.npz")), "refused before the long work"
        done = run_cli(*arguments, "--skip-broken", "--out", tmp_path / "a", module="data_prep.raw.iemocap")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        corpus = Corpus(tmp_path / "a")
        assert len(corpus) == 47 - 16
        assert list(corpus.modalities) == ["text", "audio", "visual"]
        assert corpus.labels == ("hap", "sad", "neu", "ang", "exc", "fru")
        assert set(corpus.index["split"].tolist()) == {"train", "test"}
        traps = corpus.manifest["provenance"]["traps"]
        assert traps.keys() == iemocap_reader.ISSUES.keys()
        assert traps["clip-unreadable"]["first"] == ["Ses05M_impro01_F003"]
        assert traps["clip-over-long"]["first"] == ["Ses01F_impro01_F004"]
        assert traps["clip-short"]["first"] == ["Ses01F_impro01_M004"]
        assert len(traps["two-actors-in-the-film"]["first"]) == 3
        assert traps["missing-film"]["first"] == ["Ses05M_impro02", "Ses05M_script01_1"]
        left_out = corpus.manifest["provenance"]["left_out"]
        assert {"Ses05M_impro01_F003", "Ses05M_impro01_F004", "Ses05M_impro01_F005", "Ses05M_impro02_M000"} < set(
            left_out
        )
        by_id = {corpus.index["id"][i]: corpus[i] for i in range(len(corpus))}
        assert by_id["Ses01F_impro01_F004"].features["audio"].shape == (60, 25)  # 3 of 4 s, 100 a second, five together
        faces = [by_id[f"Ses01F_impro01_{turn}"].features["visual"][0] for turn in ("F000", "F001", "M000", "M001")]
        np.testing.assert_array_equal(faces[0], faces[1])
        np.testing.assert_array_equal(faces[2], faces[3])
        assert np.abs(faces[0] - faces[2]).max() > 0, "two halves, two faces"
        again = run_cli(*arguments, "--skip-broken", "--out", tmp_path / "b", module="data_prep.raw.iemocap")
        assert again.stderr.count("are finished already") == 4, "three encoders, and what is heard"
        assert corpus_bytes(tmp_path / "a") == corpus_bytes(tmp_path / "b")
        assert json.dumps(corpus.manifest).count(str(tmp_path)) == 0
        assert [fold.name for fold in protocols.split(corpus, "dialoguernn", 0).folds] == ["Ses05"]
        trained = run_cli(
            "--config=configs/lsgmer.py:tiny",
            f"--config.data.path={tmp_path / 'a'}",
            f"--workdir={tmp_path / 'w'}",
            "--config.data.soft_labels=True",
            "--config.data.protocol=dialoguernn",
            "--config.train.batch_size=4",
            "--config.train.epochs=1",
        )
        assert trained.returncode == 0, trained.stderr
        assert "learnt is what the raters say of" in trained.stdout
        assert "against the raters: NLL" in trained.stdout

    def test_meld(self, models, filmed, tmp_path, run_cli):
        arguments = [filmed / "MELD.Raw", *flags(models, tmp_path), "--out", tmp_path / "out"]
        done = run_cli(*arguments, module="data_prep.raw.meld")
        assert done.returncode == 0, done.stderr
        corpus = Corpus(tmp_path / "out")
        assert len(corpus) == 56
        assert corpus.manifest["provenance"]["left_out"] == ["train_dia125_utt3", "valid_dia110_utt7"]
        traps = corpus.manifest["provenance"]["traps"]
        assert traps.keys() == meld_reader.ISSUES.keys()
        assert traps["clip-unreadable"]["first"] == ["train_dia125_utt3"]
        assert traps["clip-over-long"]["first"] == ["train_dia309_utt0", "test_dia38_utt4", "test_dia220_utt0"]
        assert traps["clip-short"]["first"] == ["train_dia3_utt0"]
        assert "are longer than 3 s and cut to their beginning" in done.stdout
        assert set(corpus.index["id"].tolist()).isdisjoint(["train_dia125_utt3", "valid_dia110_utt7"])

    def test_a_clip_broken_elsewhere_is_refused(self, models, filmed, tmp_path, run_cli):
        root = shutil.copytree(filmed / "MELD.Raw", tmp_path / "MELD.Raw")
        (root / "dev_splits_complete" / "dia0_utt1.mp4").write_bytes(b"")
        done = run_cli(root, *flags(models, tmp_path), "--out", tmp_path / "out", module="data_prep.raw.meld")
        assert done.returncode == 2, done.stderr
        assert "1 clips cannot be used:\n  valid_dia0_utt1: dev_splits_complete/dia0_utt1.mp4 is empty" in done.stderr

    def test_text_alone_needs_no_clip(self, models, raw_folder, tmp_path, run_cli):
        arguments = [
            raw_folder / "MELD.Raw",
            "--out",
            tmp_path / "out",
            "--cache",
            tmp_path / "cache",
            "--tfds",
            tmp_path / "tfds",
            *small_bert(models),
            "--device=cpu",
        ]
        done = run_cli(*arguments, module="data_prep.raw.meld")
        assert done.returncode == 0, done.stderr
        assert len(Corpus(tmp_path / "out")) == 58

    def test_frames_are_of_the_speakers_half(self, filmed):
        film = filmed / "IEMOCAP_full_release" / "Session1" / "dialog" / "avi" / "DivX" / "Ses01F_impro01.avi"
        for half, grey in (("left", 60), ("right", 200)):
            clip = Clip("a", film, 2.0, 2.9, half)
            for image in media.frames(clip, 30.0, count=3):
                assert image.shape == (32, 32, 3)
                assert abs(float(image.mean()) - grey) < 5
        keys = {media.check(Clip("a", film, 2.0, 2.9, half), ("video",)).key for half in ("", "left", "right")}
        assert len(keys) == 3, "features of the halves are kept apart"
