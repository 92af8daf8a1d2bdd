import json
import re
import types

import numpy as np
import pytest
from conftest import small_description, small_utterances
from etils import epath
from ml_collections.config_flags import tuple_parser

from data_prep.audit.findings import unread_findings
from mer_jax.data import length_limits
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.models import lsgmer
from mer_jax.models.family import experiment_from
from mer_jax.training.workdir import with_old_defaults

EGEMAPS = "openSMILE eGeMAPSv02 low-level descriptors"
BOTH = ("text", "audio")


def manifest(rate=100.0, **provenance):
    audio = {} if rate is None else {"steps_per_second": rate}
    return {"modalities": {"text": {}, "audio": audio}, "provenance": provenance}


def given(text):
    """The value of the flag --config.data.max_length=TEXT."""
    return tuple_parser.TupleParser().parse(text)


@pytest.mark.parametrize(
    ("flag", "text", "audio"),
    [
        ("()", 4096, 6000),
        ("48", 48, 48),
        ("(64,1)", 64, 1),
        ("30s", 4096, 3000),
        ("audio:12.5s", 4096, 1250),
        ("audio:12.5s+text:64", 64, 1250),
        ("text:64", 64, 6000),
        ("('text:64','audio:7')", 64, 7),
        ("48+audio:30s", 48, 3000),
    ],
)
def test_every_modality_has_its_limit(flag, text, audio):
    found = length_limits.length_limits(given(flag), BOTH, manifest())
    assert found == {"text": text, "audio": audio}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ((5, 5, 5), "3 numbers for 2 modalities"),
        ((0,), "1 or more"),
        (("audio:",), "'audio:' is no length"),
        (("0s",), "'0s' is no length"),
        (("audio:2.5",), "is no length"),
        (("smell:3",), "'smell' is not read; data.modalities is text,audio"),
        (("audio:3+audio:4",), "audio is given twice"),
    ],
)
def test_a_limit_that_is_none_is_refused(setting, words):
    with pytest.raises(UserError, match=re.escape("--config.data.max_length=")) as error:
        length_limits.check_setting(setting, BOTH)
    assert words in str(error.value)


def test_seconds_of_what_has_no_rate_are_refused():
    with pytest.raises(UserError, match="does not say how many time steps of text are a second; give steps"):
        length_limits.length_limits(("text:3s",), BOTH, manifest())


def test_the_rate_of_old_corpora_is_known_where_the_encoder_tells_it():
    encoder = {"name": EGEMAPS, "every": 4, "pooling": "tokens"}
    assert length_limits.steps_per_second(manifest(None, audio_encoder=encoder), "audio") == 25.0
    assert length_limits.steps_per_second(manifest(None, audio_encoder=encoder | {"pooling": "mean"}), "audio") is None
    assert length_limits.steps_per_second(manifest(None, audio_encoder={"name": "facebook/w2v"}), "audio") is None


def test_what_is_cut_is_told_in_seconds_and_percent_and_the_flag_mends_it():
    rng = np.random.default_rng(0)
    lengths = {"text": rng.integers(5, 60, 500), "audio": rng.integers(50, 900, 500)}
    found = length_limits.unread(lengths, {"text": 48, "audio": 128}, manifest())
    seconds = np.maximum(lengths["audio"] - 128, 0).sum() / 100
    share = 100 * seconds / (lengths["audio"].sum() / 100)
    assert (
        found[1]
        .in_words()
        .startswith(f"audio: {seconds:,.4g} of {lengths['audio'].sum() / 100:,.4g} s ({share:.2g} %)")
    )
    assert "longer than 1.28 s" in found[1].in_words()
    assert " steps (" in found[0].in_words()
    lines = length_limits.unread_problems(found, ("text:48+audio:128",))
    flag = re.search(r"--config\.data\.max_length=(\S+)", lines[-1])[1]
    length_limits.check_setting(given(flag), BOTH)
    limits = length_limits.length_limits(given(flag), BOTH, manifest())
    again = length_limits.unread(lengths, limits, manifest())
    assert not length_limits.unread_problems(again, given(flag))
    assert limits["text"] < lengths["text"].max(), "what nearly nobody says costs no memory"


def test_half_a_percent_is_no_problem():
    lengths = {"audio": np.array([1000] * 99 + [1400])}
    (one,) = length_limits.unread(lengths, {"audio": 1000}, manifest())
    assert one.steps == 400
    assert not one.is_problem
    assert length_limits.unread_problems([one], ()) == []


def test_the_audit_names_what_is_not_read(tmp_path):
    write_corpus(tmp_path / "c", small_utterances(), small_description(steps_per_second={"text": 0.1}))
    corpus = Corpus(tmp_path / "c")
    assert corpus.modalities["text"]["steps_per_second"] == 0.1
    corpus.manifest["provenance"]["seconds_over_longest"] = {"cut": 25.5, "of": 247.5, "enough": 5}
    found = {finding.name: finding for finding in unread_findings(corpus)}
    assert {finding.level for finding in found.values()} == {"problem"}
    assert found["unread clips"].do.startswith("extract again with --longest=5")
    assert re.match(r"text: \d+ of [\d,]+ s \(\d+ %\) are not read", found["unread time"].text)
    assert found["unread time"].do.startswith("--config.data.max_length=text:")


def test_a_rate_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="steps_per_second: 'smell' is not declared"):
        write_corpus(tmp_path / "c", small_utterances(), small_description(steps_per_second={"smell": 1.0}))
    write_corpus(tmp_path / "c", small_utterances(), small_description(steps_per_second={"text": 4.0}))
    path = tmp_path / "c" / "manifest.json"
    path.write_text(path.read_text().replace('"steps_per_second": 4.0', '"steps_per_second": "fast"'))
    with pytest.raises(UserError, match=r"field 'modalities\.text\.steps_per_second': expected float, got str"):
        Corpus(tmp_path / "c")


@pytest.mark.parametrize(
    ("before", "now", "kept"), [([48], (), (48,)), ([48], (64,), (64,)), ([50], (), ()), (None, (), ())]
)
def test_a_run_that_began_with_an_old_default_keeps_it(tmp_path, before, now, kept):
    config = lsgmer.LSGMERExperiment()
    config.data.max_length = now
    if before:
        about = {"config": {"data": {"max_length": before}}, "data": {"manifest_sha256": "0"}}
        (tmp_path / "config.json").write_text(json.dumps(about))
    assert with_old_defaults(config, epath.Path(tmp_path)).data.max_length == kept
    assert config.data.max_length == now


@pytest.mark.parametrize("old", [48, [48], [64, 1]])
def test_configs_of_old_runs_are_read(old):
    from mer_jax import config as config_lib

    tree = json.loads(json.dumps(config_lib.to_dict(lsgmer.LSGMERExperiment())))
    tree["data"]["max_length"] = old
    config = config_lib.validate(experiment_from(tree))
    expected = old if isinstance(old, list) else [old]
    limits = config_lib.max_lengths(config.data, types.MappingProxyType(manifest()))
    assert list(limits.values()) == (expected * 2)[:2]
