"""Every fault planted alone in a clean corpus is told by name, and nothing else is."""

import dataclasses
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from browser import BROWSER, looked_at
from conftest import small_description, small_utterances
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.preprocessing import StandardScaler

from data_prep.audit import findings, floor
from data_prep.audit.corpus_audit import audit
from data_prep.audit.floor import STRENGTHS
from data_prep.audit.page import BINS, histogram
from data_prep.audit.reading import Stream
from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError

# What is tested here is data_prep; the calls into mer_jax.data are checked in that room's own tests.
pytestmark = pytest.mark.usefixtures("calls_unchecked")

change = dataclasses.replace


def clean():
    """The small utterances (u000 to u047, of every six three train, one valid, two test), with no dialogue, speaker or
    session in two splits."""
    return [
        change(u, dialogue=f"{u.split} {u.dialogue}", speaker=f"{u.split} {u.speaker}", session=f"{u.split} recording")
        for u in small_utterances()
    ]


def written(folder, utterances, **description):
    untrained = {
        "name": "openSMILE eGeMAPSv02 low-level descriptors"
    }  # of which it is known what they have seen: nothing
    told = {"provenance": {"tool": "tests", "audio_encoder": untrained, "text_encoder": untrained}}
    write_corpus(folder / "c", utterances, small_description(**told | description), shard_records=20)
    return folder / "c"


def told(result):
    return {(f.level, f.name, f.about) for f in result.findings if f.level != "ok"}


def feature(utterance: Utterance, modality, value):
    """With `value` in place of the modality's first time step's first feature, or of all of it, or without it."""
    of = dict(utterance.features)
    array = of.pop(modality).copy()
    if np.ndim(value):
        of[modality] = value
    elif value is not None:
        array[0, 0] = value
        of[modality] = array
    return change(utterance, features=of)


def planted(fault):
    """The clean utterances with one fault; what should be told of it."""
    u = clean()
    train, other, valid, test = 0, 1, 3, 4
    audio, text = (u[train].features[m] for m in ("audio", "text"))
    if fault == "nan":
        u[test] = feature(u[test], "audio", np.nan)
        return u, {("problem", "not finite", "audio")}
    if fault == "inf":
        u[train] = feature(u[train], "text", -np.inf)
        return u, {("problem", "not finite", "text")}
    if fault == "silent":
        u[train], u[test] = (feature(u[i], "audio", np.zeros_like(audio)) for i in (train, test))
        return u, {("note", "silent", "audio")}
    if fault == "constant dimension":
        return [feature(x, "audio", 7.0) for x in u], {("note", "constant", "audio")}
    if fault == "constant modality":
        u = [feature(x, "audio", np.ones_like(audio)) for x in u]
        return u, {("problem", "constant", "audio"), ("problem", "duplicates", "audio")}
    if fault == "lacking":
        u[test] = feature(u[test], "audio", None)
        return u, {("note", "lacking", "audio")}
    if fault == "lacking in a split":
        u = [feature(x, "text", None) if x.split == "valid" else x for x in u]
        return u, {("problem", "lacking", "text")}
    if fault == "huge":
        u = [feature(x, "audio", 9000.0 + 2000 * (i % 2)) for i, x in enumerate(u)]
        return u, {("note", "extreme", "audio")}
    if fault == "far":
        u[test] = feature(u[test], "audio", 250.0)
        return u, {("note", "extreme", "audio")}
    if fault == "duplicate in train":
        u[other] = feature(u[other], "audio", audio)
        return u, {("note", "duplicates", "audio")}
    if fault == "duplicate in test":
        u[test] = feature(u[test], "audio", audio)
        return u, {("problem", "duplicates", "audio")}
    if fault == "text of another sentence":
        u[other] = feature(u[other], "text", text)
        return u, {("note", "duplicates", "text")}
    if fault == "text of the same sentence":
        u[other] = change(feature(u[other], "text", text), sentence=u[train].sentence)
        return u, set()
    if fault == "dialogue in train and test":
        u[test] = change(u[test], dialogue=u[train].dialogue)
        return u, {("problem", "shared dialogues", "")}
    if fault == "dialogue in train and valid":
        u[valid] = change(u[valid], dialogue=u[train].dialogue)
        return u, {("note", "shared dialogues", "")}
    if fault == "speaker":
        u[test] = change(u[test], speaker=u[train].speaker)
        return u, {("note", "shared speakers", "")}
    if fault == "no speakers":
        return [change(x, speaker="") for x in u], {("note", "shared speakers", "")}
    if fault == "some without dialogue":
        u[train], u[test] = change(u[train], dialogue=""), change(u[test], dialogue="")
        return u, {("note", "shared dialogues", "")}
    if fault == "speaker of one turn":
        u[train] = change(u[train], speaker="")
        return u, {("note", "shared speakers", ""), ("note", "unknown speakers", "")}
    if fault == "empty turn":
        u[test] = change(u[test], features={})
        return u, {("note", "empty turns", ""), ("note", "lacking", "text"), ("note", "lacking", "audio")}
    if fault == "no class":
        u[test] = change(u[train], id=u[test].id, turn=9, split="test", label="")  # all that it shares is heard alone
        return u, {("note", "duplicates", "audio")}
    if fault == "session":
        u[test] = change(u[test], session=u[train].session)
        return u, {("note", "shared sessions", "")}
    if fault == "sentence":
        u[test] = change(u[test], sentence='SENTENCE  "0"!')
        return u, {("note", "shared sentences", "")}
    if fault == "moment in train and test":
        u[test] = change(u[test], session=u[train].session, start=u[train].start, end=u[train].end)
        return u, {("note", "shared sessions", ""), ("problem", "shared moments", "")}
    if fault == "moment in train and valid":
        u[valid] = change(u[valid], session=u[train].session, start=u[train].start, end=u[train].end)
        return u, {("note", "shared sessions", ""), ("note", "shared moments", "")}
    if fault == "short":
        u[test] = change(u[test], end=u[test].start + 0.05)
        return u, {("note", "over-short", "")}
    if fault == "long":
        u[test] = change(u[test], end=u[test].start + 40)
        return u, {("note", "over-long", "")}
    if fault == "backwards":
        u[test] = change(u[test], end=u[test].start - 1)
        return u, {("note", "times", "")}
    if fault == "class not in train":
        return [x for x in u if (x.split, x.label) != ("train", "cross")], {("problem", "empty class", "")}
    if fault == "class not in test":
        return [x for x in u if (x.split, x.label) != ("test", "cross")], {("note", "empty class", "")}
    assert fault == "no valid"
    return [x for x in u if x.split != "valid"], {("note", "splits", "")}


FAULTS = (
    "nan",
    "inf",
    "silent",
    "constant dimension",
    "constant modality",
    "lacking",
    "lacking in a split",
    "huge",
    "far",
    "duplicate in train",
    "duplicate in test",
    "text of another sentence",
    "text of the same sentence",
    "dialogue in train and test",
    "dialogue in train and valid",
    "speaker",
    "no speakers",
    "some without dialogue",
    "speaker of one turn",
    "empty turn",
    "no class",
    "session",
    "sentence",
    "moment in train and test",
    "moment in train and valid",
    "short",
    "long",
    "backwards",
    "class not in train",
    "class not in test",
    "no valid",
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_and_nothing_else(tmp_path, fault):
    utterances, wanted = planted(fault)
    assert told(audit(written(tmp_path, utterances), floor=False)) == wanted


def test_a_clean_corpus_is_read_once_and_has_nothing_to_tell(tmp_path, monkeypatch):
    rows, get = [], Corpus.__getitem__
    monkeypatch.setattr(Corpus, "__getitem__", lambda corpus, row: rows.append(row) or get(corpus, row))
    result = audit(written(tmp_path, clean()), floor=False)
    assert not told(result)
    assert rows == list(range(48))
    assert result.floors == ()


def test_progress_counts_each_once(tmp_path, capsys):
    audit(written(tmp_path, clean()))
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["reading utterances: 48/48", "fitting floors: 2/2"]


def finding(result, name):
    (only,) = (f for f in result.findings if f.name == name)
    return only


def test_findings_say_how_many_and_which(tmp_path):
    u = clean()
    audio = u[0].features["audio"]
    u[0], u[4] = change(u[0], label="calm"), change(u[4], label="glad")
    u[4] = change(feature(u[4], "audio", audio), session=u[0].session, start=0.0, end=0.5, sentence=u[1].sentence)
    u[5] = change(feature(u[5], "text", np.nan), end=u[5].start + 305)
    for i in (8, 11):  # of train and of test: what neither has is not shared
        u[i] = change(feature(u[i], "audio", np.zeros_like(audio)), sentence="", start=None, end=None)
    result = audit(written(tmp_path, u), floor=False)
    assert (
        "2 of 48 (4.2 %) utterances have another's features, bit for bit: u000, u004; "
        "2 across splits (1 of test in train), 2 with other labels" in finding(result, "duplicates").text
    )
    assert "1 of test in train: u000, u004; 2 with other labels" in finding(result, "shared moments").text
    assert (
        "train and test share 1: 1 of 16 (6.2 %) test utterances (0 of 5 words and more)"
        in finding(result, "shared sentences").text
    )
    assert "“Sentence “1”.” (u004)" in finding(result, "shared sentences").text
    assert "1 of 48 (2.1 %) utterances: u005" in finding(result, "not finite").text
    assert "u005 (305 s)" in finding(result, "over-long").text
    assert "0.50 to 305.00 s, median 0.50 s; 0 under 0.5 s; 2 without times" in finding(result, "seconds").text


def test_extremes_are_measured_by_the_other_values():
    rng = np.random.default_rng(0)
    values = [rng.normal(50, 3, (t, 2)).astype(np.float32) for t in (3, 1, 7, 5)]
    values[2][4, 1], values[3][0, 0] = 80, np.nan
    stream = Stream(2, 4)
    for row, value in enumerate(values):
        mean = stream.add(row, value)
    np.testing.assert_allclose(mean, np.nan_to_num(values[3]).mean(0), rtol=1e-6)
    every = np.concatenate(values).astype(np.float64)
    np.testing.assert_allclose(stream.mean, np.nanmean(every, 0))
    np.testing.assert_allclose(stream.squares, np.nanvar(every, 0) * [15, 16])
    others = np.delete(every[:, 1], every[:, 1].argmax())
    np.testing.assert_allclose(stream.deviations()[1, 1], (80 - others.mean()) / others.std())
    assert stream.bound_rows[1, 1] == 2
    stream = Stream(1, 20)
    for row in range(20):
        stream.add(row, np.full((1, 1), 1e-3 * (row == 7), np.float32))
    assert stream.deviations()[1, 0] == np.inf, "all others are the same"


def test_floors_are_scikit_learns(tmp_path):
    u = clean()
    u[0], u[4] = feature(u[0], "audio", np.nan), feature(u[4], "text", None)
    # Text is wider in test only: standardised on anything but train, another floor would result.
    wide = np.float16([20, 1, 1, 1, 1, 1])
    u = [feature(x, "text", x.features["text"] * wide) if x.split == "test" and "text" in x.features else x for x in u]
    result = audit(written(tmp_path, u))
    for modality, found in zip(("text", "audio"), result.floors, strict=True):
        x, y = {}, {}
        for split in ("train", "valid", "test"):
            of = [v for v in u if v.split == split and modality in v.features]
            x[split] = np.stack([np.nan_to_num(v.features[modality].astype(np.float32)).mean(0) for v in of])
            y[split] = np.array([v.label for v in of])
        scaler = StandardScaler().fit(x["train"])
        x = {split: scaler.transform(values) for split, values in x.items()}
        models = [LogisticRegression(C=c, max_iter=200).fit(x["train"], y["train"]) for c in STRENGTHS]
        best = max(models, key=lambda m: f1_score(y["valid"], m.predict(x["valid"]), average="weighted"))
        assert found.strength == best.C
        assert found.majority == max(set(y["train"]), key=y["train"].tolist().count)
        for scores, predicted in (
            (found.scores, best.predict(x["test"])),
            (found.majority_scores, np.full(len(y["test"]), found.majority)),
        ):
            np.testing.assert_allclose(scores["weighted_f1"], f1_score(y["test"], predicted, average="weighted"))
            np.testing.assert_allclose(scores["accuracy"], accuracy_score(y["test"], predicted))
            np.testing.assert_allclose(scores["uar"], recall_score(y["test"], predicted, average="macro"))
    assert "text 24/8/15; audio 24/8/16" in result.method


def test_floors_are_of_what_has_a_class(tmp_path, monkeypatch):
    u = [change(x, label="") if i in (0, 4) else x for i, x in enumerate(clean())]
    result = audit(written(tmp_path, u))
    assert "text 23/8/15; audio 23/8/15" in result.method
    monkeypatch.setattr(floor, "MAX_UTTERANCES", 30)
    drew = audit(tmp_path / "c")
    assert sum(drew.floors[0].counts.values()) == 30
    assert "of 30 utterances drawn from 46" in drew.method


def measured(split, label, width=3, seed=0):
    means = np.random.default_rng(seed).normal(size=(len(split), width)).astype(np.float32)
    return floor.measure("text", means, np.array(split), np.array(label), ("a", "b"))


def test_a_floor_is_skipped_with_a_reason():
    assert measured(["train"] * 4 + ["test"] * 2, [0, 1] * 3).skipped == "valid has no utterance with it"
    assert measured(["train"] * 2 + ["valid", "test"], [1, 1, 0, 1]).skipped == "train has one class only"
    (said,) = findings.floor_findings([measured(["train"], [0])])
    assert (said.level, said.text) == ("note", "skipped: valid and test have no utterance with it")


def test_features_that_say_nothing_are_told():
    found = measured(["train"] * 40 + ["valid"] * 20 + ["test"] * 200, [0, 1] * 130)
    assert found.chance == pytest.approx(0.5 + 1 / np.sqrt(200), rel=1e-6)
    (said,) = findings.floor_findings([found])
    assert (said.level, said.name) == ("note", "floor")
    assert "is chance" in said.text


def test_without_scikit_learn_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    (said,) = findings.floor_findings([measured(["train", "train", "valid", "test"], [0, 1, 0, 1])])
    assert "pip install -e '.[prep]'" in said.text
    assert said.level == "note"


def test_of_many_utterances_some_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(floor, "MAX_UTTERANCES", 30)
    result = audit(written(tmp_path, clean()))
    assert sum(result.floors[0].counts.values()) == 30
    assert "of 30 utterances drawn from 48" in result.method


def test_the_page_is_well_formed_escaped_and_needs_no_network(tmp_path):
    nasty, name = "<script>alert('&')</script>\x01\x92", "<b>small</b> & \x1b[31m"
    u = [change(x, label=nasty if x.label == "calm" else x.label, sentence=nasty) for x in clean()]
    u[4] = feature(u[4], "text", np.nan)
    u[4] = change(u[4], id=f"u004 {nasty}")
    labels = (nasty, "glad", "cross")
    corpus = written(tmp_path, u, labels=labels, label_words=labels, name=name)
    result = audit(corpus, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    tree = ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))
    assert {e.tag for e in tree.iter()}.isdisjoint({"script", "b", "link", "img", "iframe"})
    loaded = [value for e in tree.iter() for value in e.attrib.values()] + [e.text or "" for e in tree.iter("style")]
    assert len(loaded) > 20
    assert not [value for value in loaded if "http" in value or "//" in value]  # the text names addresses, as sources
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    said = "".join(tree.itertext())
    assert "1 problem, " in said
    assert "<script>alert('&')</script>" in said
    for f in result.findings:
        assert f.name in said
    # a plot per split, modality with several lengths or not, seconds, and per score of the floors
    assert len(list(tree.iter("svg"))) == 3 + 2 + 1 + 3
    bars = [e for e in tree.iter("rect") if e.get("class") == "bar"]
    assert all(float(e.get("width")) >= 0 and float(e.get("height")) >= 0 for e in bars)


def test_no_seconds_no_plot(tmp_path):
    audit(written(tmp_path, [change(u, start=None, end=None) for u in clean()]), html=tmp_path / "a.html", floor=False)
    assert "seconds, from" not in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"html": "nowhere/a.html"}, "a file in a folder that exists"),
        ({"extra_happy": "none.txt"}, "--extra-happy=.*does not exist"),
    ],
)
def test_wrong_options_are_told_before_anything_is_read(tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        audit(tmp_path / "no corpus either", **{k: tmp_path / v for k, v in flags.items()})


def test_bars_of_whole_lengths_hold_as_many_lengths_each():
    heights = [float(h) for h in re.findall(r'height="([0-9.]+)"', histogram("steps", np.arange(1, 41)))]
    assert heights == [110.0] * 20
    drawn = histogram("steps", np.array([3] * 999 + [2, 700]))
    assert ">3, up to 700<" in drawn
    assert len(re.findall("<rect", drawn)) == 2
    assert len(re.findall("<rect", histogram("seconds", np.array([0.5] * 999 + [7.5])))) == BINS


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_in_a_browser(tmp_path, scheme):
    long = "AWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW"
    u = [change(x, label=long if x.label == "calm" else x.label, id=f"{x.id} {long}") for x in clean()]
    u[4] = change(feature(u[4], "text", np.nan), sentence=u[0].sentence, end=u[4].start + 305)
    labels = (long, "glad", "cross")
    audit(written(tmp_path, u, labels=labels, label_words=labels, name=long), tmp_path / "a.html")
    looked_at(tmp_path, tmp_path / "a.html", scheme)


@pytest.mark.slow
def test_the_exit_code_says_whether_there_are_problems(tmp_path, run_cli):
    def run(*arguments):
        return run_cli(*arguments, module="data_prep.audit")

    u = clean()
    fine = run(written(tmp_path, u), "--html", tmp_path / "a.html")
    assert fine.returncode == 0, fine.stderr
    assert "0 problems" in fine.stdout
    assert "weighted F1" in fine.stdout
    assert "1/48" not in fine.stderr
    assert "48/48" in fine.stderr
    u[0] = feature(u[0], "audio", np.inf)
    (tmp_path / "bad").mkdir()
    bad = run(written(tmp_path / "bad", u), "--no-floor")
    assert bad.returncode == 1, bad.stderr
    assert "not finite (audio)" in bad.stdout
    assert "1 problem, 0 notes" in bad.stdout
    assert "weighted F1" not in bad.stdout
    wrong = run(tmp_path / "nothing")
    assert wrong.returncode == 2
    assert "error:" in wrong.stderr
    assert "does not exist" in wrong.stderr
