import dataclasses
import json

import numpy as np
import pytest
import store
from conftest import small_description, small_utterances

from mer_jax.data.__main__ import main as describe
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.synthetic import MODALITIES, codebook_of, draw_cues, write_demo
from mer_jax.data.synthetic_targets import ASKED
from mer_jax.data.targets import Target, choose
from mer_jax.errors import UserError
from mer_jax.files import sha256_of

WORDS = np.eye(2, 6).tolist()
AFFECT = Target(
    "affect",
    "regression",
    ("valence", "arousal"),
    ("valence", "arousal"),
    ((1, 5), (1, 5)),
    ("valence", "arousal"),
    WORDS,
)
POLARITY = Target(
    "polarity",
    "ordinal",
    ("polarity",),
    ("bad", "none", "good"),
    ((0, 2),),
    ("bad", "none", "good"),
    np.eye(3, 6).tolist(),
)


MOODS = Target(
    "moods",
    "multilabel",
    ("glad", "cross"),
    ("glad", "cross"),
    ((0, 3), (0, 3)),
    ("glad", "cross"),
    np.eye(2, 6).tolist(),
)


def asked_utterances(count=48):
    """Small utterances with numbers: valence in all, arousal in every second one, a class in four of five."""
    for i, utterance in enumerate(small_utterances(count)):
        values = {"valence": 1 + (i % 9) / 2, "polarity": float(i % 3)} | ({"arousal": 2.0} if i % 2 else {})
        spreads = {"valence": 0.5} if i % 4 == 0 else {}
        gender = {"gender": "fm"[i % 2]} if i % 5 else {}
        label = utterance.label if i % 5 != 2 else ""
        yield dataclasses.replace(utterance, label=label, values=values, spreads=spreads, groups=gender)


def with_moods(utterances):
    """The utterances, of six in seven of which MOODS are known."""
    for i, utterance in enumerate(utterances):
        moods = {} if i % 7 == 3 else {"glad": float(i % 4), "cross": float(i % 3 == 0)}
        yield dataclasses.replace(utterance, values={**utterance.values, **moods})


def asked_description(**changes):
    return small_description(targets=(AFFECT, POLARITY), groups=("gender",), **changes)


@pytest.fixture
def asked(tmp_path):
    write_corpus(tmp_path / "asked", asked_utterances(), asked_description(), shard_records=10)
    return tmp_path / "asked"


def test_numbers_come_back(asked, capsys):
    corpus, wanted = Corpus(asked), {u.id: u for u in asked_utterances()}
    for row in range(len(corpus)):
        found, want = corpus[row], wanted[corpus[row].id]
        assert (found.values, found.spreads, found.groups) == (want.values, want.spreads, want.groups)
        valence, arousal = corpus.values(("valence", "arousal"), np.array([row]))[0]
        assert valence == np.float32(want.values["valence"])
        assert np.isnan(arousal) == ("arousal" not in want.values)
        assert np.isnan(corpus.spreads(("valence",), np.array([row]))[0, 0]) == ("valence" not in want.spreads)
        assert corpus.group("gender")[row] == want.groups.get("gender", "")
    assert list(corpus.targets) == ["classes", "affect", "polarity"]
    assert dataclasses.replace(corpus.targets["affect"], embeddings=WORDS) == AFFECT
    assert corpus.manifest["splits"]["train"]["known"] == {"valence": 24, "arousal": 8, "polarity": 24}
    describe([str(asked)])
    said = capsys.readouterr().out
    assert "affect (regression: valence 1 to 5, arousal 1 to 5)" in said
    assert "with arousal 8" in said


def test_who_is_asked_depends_on_what_is_asked_for(asked):
    corpus = Corpus(asked)
    assert corpus.labelled.sum() == 38, "the class, if nothing is said"
    corpus.ask("affect")
    assert corpus.labelled.all()
    corpus.ask("classes+affect")
    assert [target.name for target in corpus.asked] == ["classes", "affect"]
    for task, words in (
        ("vad", "no target 'vad'; it has classes"),
        ("affect+affect", "named twice"),
        ("+", "no target ''"),
    ):
        with pytest.raises(UserError, match=words):
            corpus.ask(task)
    with pytest.raises(UserError, match="small"):
        choose(corpus.targets, "nothing", "corpus 'small'")


def test_a_corpus_needs_no_classes(tmp_path):
    utterances = (dataclasses.replace(u, label="", votes=()) for u in asked_utterances())
    write_corpus(
        tmp_path / "asked", utterances, asked_description(labels=(), label_words=(), label_embeddings=np.zeros((0, 6)))
    )
    corpus = Corpus(tmp_path / "asked")
    assert (corpus.labels, corpus.asked[0].name) == ((), "affect")
    assert len(corpus.rows("train")) == 24


BAD = [
    ({"values": {"valence": 5.5}}, {}, r"u000'?: valence is 5.5, outside its range 1 to 5"),
    ({"values": {"valence": float("nan")}}, {}, "valence is nan, outside"),
    ({"values": {"power": 1.0}}, {}, "'power' is of no target"),
    ({"values": {"polarity": 0.5}}, {}, "polarity is 0.5; it counts through classes, and must be a whole number"),
    ({"spreads": {"arousal": 0.2}}, {}, "spread of arousal"),
    ({"spreads": {"valence": -1.0}}, {}, "spread of valence is -1.0"),
    ({"groups": {"age": "old"}}, {}, "the group 'age' is not declared"),
    ({}, {"targets": (dataclasses.replace(AFFECT, ranges=((1, 5), (5, 1))),)}, "range of arousal is 5 to 1"),
    (
        {},
        {"targets": (dataclasses.replace(AFFECT, ranges=((1, 5), (0, 1e-6))),)},
        r"range of arousal is 0 to 1e-06, where .*at least 0.01 wide.*within ±10,000,000",
    ),
    ({}, {"targets": (dataclasses.replace(AFFECT, ranges=((1, 5), (0, 1e30))),)}, "arousal is 0 to 1e[+]30, where"),
    ({}, {"targets": (dataclasses.replace(AFFECT, ranges=((1, 5), (1e6, 1e6 + 1))),)}, "arousal is 1e[+]06 to"),
    ({}, {"targets": (dataclasses.replace(AFFECT, name="classes"),)}, "not 'classes'"),
    ({}, {"targets": (dataclasses.replace(AFFECT, embeddings=[[1.0] * 6]),)}, "one word and one embedding"),
    (
        {},
        {"targets": (dataclasses.replace(AFFECT, embeddings=np.ones((2, 5)).tolist()),)},
        "are 5 wide, the label space 6",
    ),
    (
        {},
        {"targets": (AFFECT, dataclasses.replace(AFFECT, name="b", ranges=((1, 5), (0, 5))))},
        "arousal has another range",
    ),
    ({}, {"targets": (AFFECT, AFFECT)}, "a target occurs twice"),
    ({}, {"targets": (dataclasses.replace(AFFECT, definition="other"),)}, "is 'other'; regression of 2 takes vad$"),
    ({}, {"targets": (dataclasses.replace(AFFECT, definition="mosi"),)}, "is 'mosi'; regression of 2 takes vad$"),
    ({}, {"targets": (dataclasses.replace(POLARITY, definition="meld"),)}, "ordinal of 1 takes no definition"),
    ({}, {"targets": (dataclasses.replace(POLARITY, outputs=("one",)),)}, "counts through 1 classes"),
    ({}, {"groups": ("speaker",)}, "'speaker' is a field"),
]


@pytest.mark.parametrize(("utterance", "description", "words"), BAD)
def test_what_cannot_be_written_is_refused(tmp_path, utterance, description, words):
    first, *rest = asked_utterances()
    about = dataclasses.replace(asked_description(), **description)
    if description:
        first, rest = dataclasses.replace(first, values={}, spreads={}, groups={}), []
    with pytest.raises(UserError, match=words):
        write_corpus(tmp_path / "asked", [dataclasses.replace(first, **utterance), *rest], about)
    assert not (tmp_path / "asked").exists()


DAMAGES = [
    (lambda m: m["targets"]["affect"].pop("ranges"), "'targets.affect.ranges' is missing"),
    (lambda m: m["targets"]["affect"].update(kind="guess"), "targets.affect.kind"),
    (lambda m: m["targets"]["affect"]["names"].append("more"), "3 names and 2 ranges|names are"),
    (lambda m: m["targets"].update(other=m["targets"]["affect"] | {"names": ["x", "y"]}), "no column 'value/x'"),
    (lambda m: m["targets"]["affect"].update(definition="other"), "its definition is 'other'"),
    (lambda m: m["groups"].append("age"), "no column 'group/age'"),
    (lambda m: m.update(labels=[], label_embeddings=[], targets={}), "name nothing to learn"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_a_damaged_manifest_is_refused(asked, damage, words):
    manifest = json.loads((asked / "manifest.json").read_text())
    damage(manifest)
    (asked / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=words):
        Corpus(asked)


@pytest.mark.parametrize("variant", ASKED)
def test_a_generated_corpus_is_the_same_every_time(variant, tmp_path):
    counts = {"train": 30, "valid": 8, "test": 8}
    for name in "ab":
        write_demo(tmp_path / name, counts=counts, variant=variant)
    assert [sha256_of(p) for p in sorted((tmp_path / "a").iterdir())] == [
        sha256_of(p) for p in sorted((tmp_path / "b").iterdir())
    ]
    corpus = Corpus(tmp_path / "a")
    assert list(corpus.manifest["bayes_scores"]) == [corpus.asked[0].name]
    assert len(corpus.rows("train")) == 30


@pytest.mark.parametrize("variant", ASKED)
def test_the_best_scores_are_those_of_the_exact_posterior(variant):
    """Against an estimate of another kind: each utterance's state is weighed by drawing states and comparing cues."""
    path = store.demo_corpus(f"asked-{variant}", counts={"train": 8, "valid": 8, "test": 8}, variant=variant)
    asked, rng = ASKED[variant](), np.random.default_rng(5)
    means, _ = codebook_of(MODALITIES, np.random.default_rng([1, 0, 0]), asked)
    states = rng.choice(len(asked.prior), 3000, p=asked.prior)
    weight = np.tile(asked.prior, (len(states), 1))
    for m in ("audio", "text"):
        spec, cues = MODALITIES[m], draw_cues(states, means[m], MODALITIES[m].noise, rng)
        clean = np.exp(-0.5 * ((cues[:, None] - means[m]) ** 2).sum(-1))
        weight *= (1 - spec.noise) * clean + spec.noise * np.exp(-0.5 * (cues**2).sum(-1))[:, None]
    weight /= weight.sum(1, keepdims=True)
    truth, found = asked.states[states], weight @ asked.states
    stated = Corpus(path).manifest["bayes_scores"][asked.target.name]["audio+text"]
    if variant == "multilabel":
        from sklearn.metrics import average_precision_score

        assert np.mean((found > 0.5) == (truth > 0)) == pytest.approx(stated["accuracy"], abs=0.015)
        assert average_precision_score(truth > 0, found) == pytest.approx(stated["map"], abs=0.03)
    else:
        rs = [np.corrcoef(t, f)[0, 1] for t, f in zip(truth.T, found.T, strict=True)]
        assert np.mean(rs) == pytest.approx(stated["pearson"], abs=0.015)
        assert np.abs(truth - found).mean() > stated["mae"], "the posterior median errs least"
        assert np.abs(truth - found).mean() < 1.1 * stated["mae"]


def test_the_demo_of_numbers_lacks_some():
    path = store.demo_corpus("lacking", counts={"train": 300, "valid": 8, "test": 8}, variant="regression")
    known = Corpus(path).manifest["splits"]["train"]["known"]
    assert known["valence"] == 300
    assert 250 < known["arousal"] < 290
