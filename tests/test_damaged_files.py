"""Files of a run and of a corpus whose JSON somebody edited or a disk spoilt: every reader takes them or names the file, never a
traceback. Every damage is drawn from a seed."""

import copy
import json
import math
import shutil

import numpy as np
import pytest
from conftest import small_description, small_utterances
from experiments import FAMILIES
from finished import write_run
from recordings import needs_prep

from data_prep.encoders import from_manifest
from mer_jax import compare
from mer_jax.config import to_dict, validate
from mer_jax.data import length_limits
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.evaluation.finished_run import read_run
from mer_jax.models.family import experiment_from
from mer_jax.report import render

WRONG = (None, True, -1, 3, 2**70, 0.5, math.nan, math.inf, "", "x", "\ud800", [], ["x"], [[]], {}, {"x": 1}, [None, 3])


def places(tree, path=()):
    """Every place in a tree, but for no more than three entries of a list or dict."""
    if path:
        yield path
    if isinstance(tree, dict | list):
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        for key in [*keys][:12] if isinstance(tree, dict) else [*keys][:3]:
            yield from places(tree[key], (*path, key))


def damaged(tree, rng):
    """A copy in which one value is another, missing or doubled; and what was done."""
    tree = copy.deepcopy(tree)
    at = list(places(tree))
    path = at[int(rng.integers(len(at)))]
    *way, last = path
    holder = tree
    for key in way:
        holder = holder[key]
    if rng.random() < 0.2:
        del holder[last]
        return tree, (path, "removed")
    wrong = WRONG[int(rng.integers(len(WRONG)))]
    holder[last] = copy.deepcopy(wrong)
    return tree, (path, wrong)


def spoilt(content, rng):
    """Bytes that a disk would lose or change."""
    cut = int(rng.integers(len(content) + 1))
    flip = int(rng.integers(len(content)))
    return (content[:cut], content[:flip] + bytes([content[flip] ^ 0x80]) + content[flip + 1 :], b"")[
        int(rng.integers(3))
    ]


def damage_file(path, rng):
    """Damages a value of a JSON file, or of a line of a .jsonl; now and then any byte. Says what was done."""
    if rng.random() < 0.1:
        path.write_bytes(spoilt(path.read_bytes(), rng))
        return path.name, "bytes"
    if path.suffix == ".jsonl":
        lines = path.read_text().splitlines()
        number = int(rng.integers(len(lines)))
        value, done = damaged(json.loads(lines[number]), rng)
        lines[number] = json.dumps(value)
        path.write_text("\n".join(lines) + "\n")
        return path.name, number, done
    value, done = damaged(json.loads(path.read_text()), rng)
    path.write_text(json.dumps(value))
    return path.name, done


def problem(names, read, *arguments):
    """What is wrong with the call if it neither gives something nor raises a UserError that names one of the files."""
    try:
        read(*arguments)
    except UserError as refusal:
        return "" if any(name in str(refusal) for name in names) else f"no file is named: {refusal}"
    except Exception as error:
        place = error.__traceback__
        while place.tb_next:
            place = place.tb_next
        return f"{type(error).__name__}: {error}"[:300] + f" at {place.tb_frame.f_code.co_qualname}:{place.tb_lineno}"
    return ""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    return write_run(folder / "run", seeds=2, folds=2, points=2, utterances=48)


FILES = (
    "metrics.json",
    "predictions.jsonl",
    "history.jsonl",
    "cost.json",
    "map.json",
    "explain.json",
    "robustness.json",
)


@pytest.mark.parametrize(
    "count", [pytest.param(100, id="100"), pytest.param(2000, marks=pytest.mark.nightly, id="2000")]
)
def test_a_report_and_a_comparison_of_a_damaged_run(run, tmp_path, count):
    found = []
    for seed in [*range(count), 322]:  # 322: a swept value becomes a text
        rng = np.random.default_rng(seed)
        copied = tmp_path / str(seed)
        shutil.copytree(run, copied)
        what = damage_file(copied / FILES[seed % len(FILES)], rng)
        found.append((problem(FILES, render.write, [copied], tmp_path / "report.html"), seed, what))
        if seed % 7 < 2:
            found.append((problem((copied.name, *FILES), compared, run, copied), seed, what))
        shutil.rmtree(copied)
    assert not [one for one in found if one[0]]


def compared(a, b):
    compare.compare(read_run(a), read_run(b), samples=100)


def every_row(folder):
    corpus = Corpus(folder)
    for row in range(len(corpus)):
        corpus[row]
    corpus.label_ids(np.arange(len(corpus)))
    length_limits.length_limits((), list(corpus.modalities), corpus.manifest)
    length_limits.cut_in_extraction(corpus.manifest)


@pytest.mark.parametrize(
    "count", [pytest.param(100, id="100"), pytest.param(2000, marks=pytest.mark.nightly, id="2000")]
)
def test_a_corpus_with_a_damaged_manifest(tmp_path, count):
    cut = {"seconds_over_longest": {"cut": 25.5, "of": 247.5, "enough": 5}}
    description = small_description(steps_per_second={"text": 2.0}, provenance=cut)
    write_corpus(tmp_path / "c", small_utterances(), description, shard_records=10)
    path, found = tmp_path / "c" / "manifest.json", []
    content = path.read_bytes()
    for seed in range(count):
        path.write_bytes(content)
        what = damage_file(path, np.random.default_rng(seed))
        found.append((problem((str(path.parent),), every_row, path.parent), seed, what))
    assert not [one for one in found if one[0]]


ENCODERS = {
    "text": {"name": "some folder", "layers": [2], "pooling": "mean"},
    "audio": {"name": "openSMILE eGeMAPSv02 low-level descriptors", "pooling": "mean", "every": 2, "longest": 9.0},
    "visual": {"name": "PNG", "size": 32, "frames": "3 frames evenly spread", "longest": 9.0},
}


@needs_prep
@pytest.mark.parametrize("modality", ENCODERS)
def test_a_damaged_encoder_of_a_manifest(modality, tmp_path):
    """It is made as told, if that can be, or refused in the manifest's words."""
    found = []
    for seed in range(200):
        identity, what = damaged(ENCODERS[modality], np.random.default_rng(seed))
        names = (f"{modality}_encoder", f"{modality} encoder", f"--{modality}-encoder", identity.get("name", "name"))
        call = from_manifest.encoder_from_identity, modality, identity, None, "cpu", tmp_path
        found.append((problem([str(name) for name in names], *call), seed, what))
    assert not [one for one in found if one[0]]


@pytest.mark.parametrize(
    "count", [pytest.param(200, id="200"), pytest.param(2000, marks=pytest.mark.nightly, id="2000")]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_damaged_config(family, count):
    tree, found = to_dict(FAMILIES[family]()), []
    for seed in range(count):
        changed, what = damaged(tree, np.random.default_rng(seed))
        if isinstance(changed.get("family"), str):
            found.append(
                (problem(("--config.", "the config is ", "the model family "), read_config, changed), seed, what)
            )
    assert not [one for one in found if one[0]]


def read_config(tree):
    validate(experiment_from(tree))
