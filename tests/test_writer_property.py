"""What the corpus writer accepts the reader reads as it was; everything else is refused, and nothing is written."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import small_description
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.description import MOST_SECONDS
from mer_jax.errors import UserError

# Surrogates, NUL, control characters and astral characters are among them.
TEXT = st.one_of(st.text(st.characters(), max_size=12), st.sampled_from(["", "a\0", "\ud800", "é", "e\u0301"]))
TIMES = st.one_of(st.none(), st.floats(), st.sampled_from([1e300, MOST_SECONDS, -0.0]))
TURNS = st.one_of(st.integers(0, 99), st.sampled_from([-(2**31), 2**31 - 1, 2**31, 2**63, 2**70]))
TENSORS = st.one_of(
    arrays.arrays(st.sampled_from(["<f4", ">f4", "<f2", ">f2"]), st.tuples(st.integers(1, 3), st.just(6))),
    arrays.arrays(st.sampled_from(["f8", "i4", "f4"]), st.tuples(st.integers(0, 2), st.integers(0, 2))),
)
FIELDS = st.fixed_dictionaries({
    "id": TEXT, "split": st.sampled_from(["train", "valid", "test"]), "dialogue": TEXT, "turn": TURNS, "speaker": TEXT,
    "session": TEXT, "label": st.sampled_from(["calm", "glad", "cross", "other"]), "sentence": TEXT, "start": TIMES,
    "end": TIMES, "features": st.dictionaries(st.just("text"), TENSORS, min_size=1),
    "votes": st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
})  # fmt: skip


def check(utterances, description):
    """Returns whether they were accepted."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "corpus"
        refused = ""
        try:
            write_corpus(out, utterances, description)
        except UserError as error:
            refused = str(error)
        if refused:
            assert len(refused) < 600
            assert not [p for p in Path(folder).iterdir() if not p.name.endswith(".lock")]
            return False
        corpus, wanted = Corpus(out), {u.id: u for u in utterances}
        assert sorted(corpus.index["id"].tolist()) == sorted(wanted)
        for i in range(len(corpus)):
            same(corpus, i, wanted[corpus[i].id])
        return True


def same(corpus, row, want):
    found = corpus[row]
    for name in ("id", "split", "dialogue", "turn", "speaker", "session", "label"):
        assert getattr(found, name) == getattr(want, name) == corpus.index[name][row]
    assert (found.sentence, found.votes) == (want.sentence, want.votes)
    for name in ("start", "end"):
        seconds = getattr(want, name)
        assert getattr(found, name) == (None if seconds is None else np.float32(seconds))
    assert found.features.keys() == want.features.keys()
    for modality, value in want.features.items():
        np.testing.assert_array_equal(found.features[modality], value)


QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@QUICK
@given(st.lists(FIELDS, min_size=1, max_size=3, unique_by=lambda fields: fields["id"]))
def test_what_is_accepted_is_read(rows):
    check([Utterance(**fields) for fields in rows], small_description(extractors={"text": "made up"}))


PLAIN = {
    "id": "a", "split": "train", "dialogue": "d", "turn": 0, "speaker": "s", "session": "1", "label": "calm",
    "sentence": "One.", "features": {"text": np.ones((1, 6), np.float32)},
}  # fmt: skip


@QUICK
@given(st.fixed_dictionaries({}, optional={"id": TEXT, "sentence": TEXT, "turn": TURNS, "start": TIMES, "end": TIMES}))
def test_one_odd_field_among_plain_ones(changes):
    check([Utterance(**(PLAIN | changes))], small_description(extractors={"text": "made up"}))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("id", "a\0", "NUL"),
        ("id", "x" * 2_000_000, "at most 1000"),
        ("id", "", "empty"),
        ("speaker", None, "no text"),
        ("dialogue", "\ud83d", "surrogate"),
        ("sentence", "half \udc80", "surrogate"),
        ("turn", 2**70, "no whole number of 32 bits"),
        ("turn", 1.5, "no whole number of 32 bits"),
        ("start", "1.0", "no number of seconds"),
        ("start", 1e300, "no number of seconds"),
        ("end", float("nan"), "no number of seconds"),
        ("features", {"text": np.ones((2, 0), np.float32)}, "width >= 1"),
        ("features", {"text": [[1.0]]}, "must be an array"),
    ],
)
def test_what_could_not_be_read_again_is_refused_by_name(tmp_path, field, value, words):
    odd = Utterance(**PLAIN)
    object.__setattr__(odd, field, value)  # tests check the types of what is called; commands do not
    with pytest.raises(UserError, match=words) as refused:
        write_corpus(tmp_path / "c", [odd], small_description(extractors={"text": "made up"}))
    assert field in str(refused.value) or field == "features"
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "\ud800"},
        {"labels": ("calm", "calm", "cross")},
        {"label_words": ("calm", "gl\0ad", "cross")},
        {"provenance": {"tool": object()}},
        {"protocol": {}},
        {"label_embeddings": np.full((3, 6), np.nan)},
    ],
)
def test_a_manifest_that_could_not_be_read_is_refused_before_anything_is_written(tmp_path, changes):
    description = small_description(extractors={"text": "made up"}, **changes)
    with pytest.raises(UserError):
        write_corpus(tmp_path / "c", [Utterance(**PLAIN)], description)
    assert list(tmp_path.iterdir()) == []


def test_plain_utterances_are_accepted():
    assert check([Utterance(**PLAIN)], small_description(extractors={"text": "made up"}))
