"""A new corpus costs one file; everything that importers share is done for it."""

import dataclasses
import importlib.util
from types import SimpleNamespace

import pytest

from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError

ONE_FILE = '''
"""Toy utterances become a corpus."""

import numpy as np
import packs

from data_prep.importer import Importer, Source, checksums
from mer_jax.data.corpus import Utterance


def add_flags(parser):
    parser.add_argument("--count", type=int, default=6)


def read(arguments):
    encoder = packs.Words()
    return Source(
        name="toy",
        utterances=(
            Utterance(
                id=f"u{i}",
                split=("train", "valid", "test")[i % 3],
                dialogue=f"d{i}",
                turn=0,
                speaker=f"s{i}",
                session=f"r{i}",
                label="ab"[i // 3 % 2],
                sentence=f"Said {i}.",
                features={"audio": np.full((1, 2), i, np.float32)},
            )
            for i in range(arguments.count)
        ),
        labels=("a", "b"),
        encoder=encoder,
        extractors={"audio": "the number"},
        protocol={"name": "official", "description": "by position"},
        provenance={"sources": checksums(), "count": arguments.count},
        licence="none",
        label_words=("good", "bad"),
        layers={"audio": (6, 12)},
        closing_lines=["That was all."],
    )


main = Importer("data_prep.toy", __doc__, add_flags, read).main
'''


@pytest.fixture
def toy(tmp_path):
    (tmp_path / "toy.py").write_text(ONE_FILE)
    spec = importlib.util.spec_from_file_location("toy", tmp_path / "toy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_new_corpus_costs_one_file(toy, tmp_path, capsys):
    toy.main(["--count=12", "--out", str(tmp_path / "out")])
    corpus = Corpus(tmp_path / "out")
    assert len(corpus) == 12
    assert corpus.manifest["provenance"] == {"tool": "data_prep.toy", "sources": {}, "count": 12}
    assert corpus.manifest["label_words"] == ["good", "bad"]
    assert corpus.modalities["audio"]["layers"] == [6, 12]
    assert corpus.manifest["label_space"] == "letters", "no features lie in the space of the label words"
    printed = capsys.readouterr().out
    assert "utterances, manifest sha256" in printed, "the audit ends the import"
    assert printed.endswith("That was all.\n")


def test_a_corpus_is_refused_before_its_source_is_read(toy, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with pytest.raises(SystemExit, match="2"):
        toy.main(["--count=-1", "--out", str(tmp_path / "out")])
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        toy.main(["--help"])
    assert "python -m data_prep.toy" in capsys.readouterr().out


def test_features_that_came_along_are_said_to_be_made_by_somebody(toy, tmp_path, capsys):
    toy.main(["--out", str(tmp_path / "out"), "--made-by", "audio=iic/emotion2vec_base"])
    assert Corpus(tmp_path / "out").modalities["audio"]["made_by"] == "iic/emotion2vec_base"
    assert "iic/emotion2vec_base" in capsys.readouterr().out  # in the audit: what it has seen of a corpus called toy
    toy.main(["--out", str(tmp_path / "unsaid")])
    assert "made_by" not in Corpus(tmp_path / "unsaid").modalities["audio"]
    for given, why in (
        ("audio", "must be MODALITY=ENCODER"),
        ("=me/mine", "must be MODALITY=ENCODER"),
        ("text=me/mine", "'text' is none of the modalities audio"),
    ):
        with pytest.raises(SystemExit):
            toy.main(["--out", str(tmp_path / "bad"), "--made-by", given])
        assert why in capsys.readouterr().err


def test_an_encoder_that_is_known_cannot_be_said_to_be_another_one(toy):
    source = toy.read(SimpleNamespace(count=6))
    source.refuse_makers({"audio": "me/mine"})
    known = dataclasses.replace(source, provenance={"audio_encoder": {"name": "egemaps"}})
    with pytest.raises(UserError, match="--made-by=audio=me/mine: the audio features are made here, by the number"):
        known.refuse_makers({"audio": "me/mine"})
    own = dataclasses.replace(source, extractors={"text": source.encoder.extractor})
    with pytest.raises(UserError, match="made here"):
        own.refuse_makers({"text": "me/mine"})
