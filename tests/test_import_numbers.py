"""Importers bring numbers, several emotions at once, and groups of people; what is wrong with them is told by name."""

import argparse

import numpy as np
import packs
import pytest
import trees
from conftest import SHARED
from test_prep import small_table
from test_raw import selected

from data_prep import iemocap, mosi, numbers
from data_prep.raw import iemocap_reader
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real corpora in ../shared/data")
VAD = np.tile([[2.0, 3.0, 4.5]], (24, 1)) + np.arange(24)[:, None] / 48


@pytest.fixture
def words(monkeypatch):
    for module in (iemocap, mosi):
        monkeypatch.setattr(module, "text_encoder", lambda arguments: packs.Words())


def imported(module, table, out, *flags):
    module.main([str(table), "--out", str(out), *flags])
    return Corpus(out)


def by_id(corpus):
    return {corpus[i].id: corpus[i] for i in range(len(corpus))}


def test_vad_of_the_iemocap_table(tmp_path, words, capsys):
    vad = VAD.copy()
    vad[0], vad[7, 1] = (5.5, 3.0, 0.5), np.nan
    corpus = imported(iemocap, small_table(tmp_path / "t.npz", vad=vad), tmp_path / "out", "--classes=4")
    said, found = capsys.readouterr().out, by_id(corpus)
    assert found["Ses01F_impro01_F000"].values == {"arousal": 3.0}
    assert found["Ses01F_impro01_M007"].values.keys() == {"valence", "dominance"}
    assert found["Ses01F_impro01_F002"].values == pytest.approx(dict(zip(numbers.VAD, vad[2], strict=True)))
    assert {u.groups["gender"] for u in found.values() if "_F" in u.id} == {"female"}
    target = corpus.targets["vad"]
    assert (target.kind, target.names, set(target.ranges), target.definition) == (
        "regression", ("valence", "arousal", "dominance"), {(1, 5)}, "vad",
    )  # fmt: skip
    wanted = packs.Words().words(["valence", "arousal", "dominance"])
    np.testing.assert_array_equal(np.float32(target.embeddings), wanted)
    beyond = (
        "1 utterances have numbers beyond 1 to 5, which are not taken: Ses01F_impro01_F000 valence 5.5, dominance 0.5"
    )
    assert beyond in said
    assert "arousal is not known of 1 of 20 utterances" in said
    assert "valence is not known of 1 of 20" in said
    kept = imported(iemocap, tmp_path / "t.npz", tmp_path / "kept", "--classes=4", "--keep-unlabelled")
    kept.ask("vad")
    assert len(kept) == kept.labelled.sum() == 24, "a turn without a class is learnt for its numbers"
    assert "neither learnt from nor scored, unless for valence, arousal, dominance" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("vad", "says"),
    [
        (np.full((24, 3), 25.0), "row 0: valence is 25, outside its range 0.5 to 5.5"),
        (VAD[:, :2], r"column 'vad' is \[24, 2\], not \[24, 3\]: valence, activation and dominance"),
        (VAD[:9], r"column 'vad' is \[9, 3\], not \[24, 3\]"),
        (np.where(np.arange(3) == 1, np.nan, VAD), "no utterance has a number for arousal; leave it out, or fill it"),
    ],
)
def test_wrong_vad_is_named(tmp_path, words, capsys, vad, says):
    path = small_table(tmp_path / "t.npz", vad=vad)
    with pytest.raises(SystemExit, match="2"):
        iemocap.main([str(path), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match=says) as caught:
        raise UserError(capsys.readouterr().err)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@needs_shared
def test_the_order_of_the_real_iemocaps_vad():
    """As IEMOCAP's own files have it, [valence, activation, dominance]: the happy are the glad, the angry the excited."""
    path = SHARED / "iemocap" / "iemocap_6way_text_audio.npz"
    table = dict(np.load(path)) | {"name": np.load(path)["label_names"][np.load(path)["label"]]}
    table["vad"] = iemocap.read_vad(path, table["vad"], 7433)
    mean = {name: table["vad"][table["name"] == name].mean(0) for name in ("hap", "sad", "ang")}
    assert mean["hap"][0] > 3.5 > 2.5 > mean["ang"][0]
    assert mean["ang"][1] > 3.5 > 3.0 > mean["sad"][1]
    assert mean["ang"][2] > 3.5 > 3.0 > mean["hap"][2]
    assert table["vad"][table["utt_id"] == "Ses01F_impro01_M013"].tolist() == [[2.0, 4.5, 4.5]]
    assert not np.isnan(table["vad"]).any()
    note, *unknown = iemocap.notes_on_vad(SHARED, table, np.arange(7433))
    assert "6 utterances have numbers beyond 1 to 5" in note
    assert [one.partition(":")[0] for one in unknown] == [
        "valence is not known of 4 of 7,433 utterances",
        "dominance is not known of 2 of 7,433 utterances",
    ]


def test_what_the_raters_of_iemocap_gave(raw_folder):
    raw = iemocap_reader.read(raw_folder)
    turns = {turn.id: turn for turn in raw.turns}
    turn = turns["Ses01F_impro01_F000"]
    assert turn.values == {"valence": 2.5, "arousal": 2.5, "dominance": 2.5}
    gave = [(3, 2), (1, 4), (2, 3)]  # the external raters; the actor's own 1, 5, 5 are in no mean of the corpus
    assert turn.spreads == pytest.approx(dict(zip(numbers.VAD, np.std(gave, axis=1, ddof=1), strict=True)))
    odd = turns[trees.VAD_BEYOND]
    assert (odd.values.keys(), odd.spreads.keys()) == ({"arousal"}, {"arousal"})
    chosen, _ = selected(raw)
    assert chosen["Ses01F_impro01_F000"].spreads == turn.spreads
    assert chosen["Ses05M_impro01_M000"].groups == {"gender": "male"}
    kept = selected(raw, keep_unlabelled=True)[0][trees.EXTRA_HAPPY]
    assert (kept.label, kept.values["valence"]) == ("", 2.5)


@pytest.mark.parametrize(
    ("vad", "says"),
    [
        ("2.5, 2.5", "line 3: .2.5, 2.5. is not .valence, activation, dominance"),
        ("2.5, 9, 2.5", "line 3: arousal is 9, outside its range 0.5 to 5.5"),
        ("2.5, high, 2.5", "line 3: arousal is 'high', not a number from 0.5 to 5.5, or empty"),
    ],
)
def test_wrong_means_of_iemocap_are_named(own_raw_folder, vad, says):
    path = own_raw_folder / "IEMOCAP_full_release/Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    path.write_bytes(path.read_bytes().replace(b"2.5000, 2.5000, 2.5000", vad.encode(), 1))
    with pytest.raises(UserError, match=rf"Ses01F_impro01.txt, {says}"):
        iemocap_reader.read(own_raw_folder)


def mosi_table(path, **changes):
    rng, columns = np.random.default_rng(0), {}
    for part, videos in (("train", 6), ("test", 2)):
        count = 3 * videos
        score = np.round(rng.uniform(-3, 3, count), 1)
        columns |= {f"{m}_{part}": rng.normal(size=(count, 4)).astype(np.float32) for m in ("text", "audio", "video")}
        columns |= {
            f"label_{part}": (score >= 0).astype(np.int32),
            f"val_{part}": score.astype(np.float32),
            f"id_{part}": np.array([f"{part}{i // 3}_{i % 3}" for i in range(count)]),
            f"vid_{part}": np.array([f"{part}{i // 3}" for i in range(count)]),
            f"uttidx_{part}": np.arange(count) % 3,
            f"sent_{part}": np.array([f"number {i}" for i in range(count)]),
        }
    columns |= changes
    np.savez(path, **{name: value for name, value in columns.items() if value is not None})
    return path, columns


def test_the_sentiment_of_mosi(tmp_path, words):
    path, columns = mosi_table(tmp_path / "t.npz")
    corpus = imported(mosi, path, tmp_path / "out")
    wanted = dict(zip(columns["id_train"], columns["val_train"], strict=True))
    found = {u.id: u.values for u in by_id(corpus).values() if u.id in wanted}
    assert found == {name: {"sentiment": pytest.approx(value)} for name, value in wanted.items()}
    assert corpus.targets["sentiment"].describe() == "sentiment (regression: sentiment -3 to 3)"
    assert corpus.targets["sentiment"].definition == "mosi"
    path, _ = mosi_table(tmp_path / "none.npz", val_train=None, val_test=None)
    assert list(imported(mosi, path, tmp_path / "without").targets) == ["classes"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"val_test": None}, "column 'val_test' must be one sentiment an utterance"),
        ({"val_train": np.full(18, 3.5)}, "row 0: val_train is 3.5, outside its range -3 to 3"),
        ({"val_train": np.full(18, 1.0)}, r"row \d+: val_train is 1, label_train negative; one of them is another"),
    ],
)
def test_a_wrong_sentiment_of_mosi_is_named(tmp_path, changes, says):
    path, _ = mosi_table(tmp_path / "t.npz", **changes)
    with pytest.raises(UserError, match=says):
        mosi.read_table(path)


@needs_shared
def test_the_sentiment_of_the_real_mosi_agrees_with_its_labels():
    table = mosi.read_table(SHARED / "mosi" / "cmu_mosi_3modal.npz")  # raises where they do not
    assert [len(np.unique(of["val"])) > 30 for of in table.values()] == [True, True]


def test_a_number_that_nobody_has_ends_an_import():
    source = [argparse.Namespace(values={"valence": 1.0, "arousal": 2.0})]
    with pytest.raises(UserError, match="no utterance has a number for dominance, which a target of the corpus reads"):
        list(numbers.all_known(source, (numbers.vad(),)))
