"""Scores of turns by emotion shifts and by position, and which turns moved which."""

import json

import numpy as np
import pytest
from conftest import SMALL_LABELS, small_description
from sklearn.metrics import accuracy_score, f1_score

import mer_jax
from mer_jax.data.conversations import Rows
from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.evaluation import influence
from mer_jax.evaluation.conversation_scores import (
    GROUPS,
    TurnPlaces,
    pool_turns,
    score_turns,
    shifts_in_words,
    turn_places,
)
from mer_jax.evaluation.finished_run import read_run
from mer_jax.tasks.classification import Classification

TASK = Classification(SMALL_LABELS)
# Dialogue, turn, speaker, label, and what the turn is to be: shift, rest, first or nothing; and its position.
TURNS = (
    ("d1", 1, "A", "calm", "first", 1),
    ("d1", 2, "B", "glad", "first", 2),
    ("d1", 4, "A", "calm", "rest", 3),
    ("d1", 5, "B", "", "", 4),  # no class: passed over
    ("d1", 6, "B", "glad", "rest", 5),
    ("d1", 9, "", "cross", "", 6),  # nobody knows who
    ("d1", 10, "A", "glad", "shifts", 7),
    ("d1", 11, "B", "cross", "shifts", 8),
    ("d1", 12, "A", "calm", "shifts", 9),
    ("d2", 1, "A", "", "", 1),
    ("d2", 3, "A", "calm", "first", 2),  # of another dialogue, though the same speaker
    ("", 1, "A", "glad", "", 0),
    ("", 2, "A", "cross", "", 0),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """These turns, written in another order and spread over the splits."""
    folder = tmp_path_factory.mktemp("turns") / "corpus"
    order = np.random.default_rng(0).permutation(len(TURNS)).tolist()
    utterances = [
        Utterance(
            id=f"{i:02d}",
            split=("train", "valid", "test")[i % 3],
            dialogue=dialogue,
            turn=turn,
            speaker=speaker,
            session="",
            label=label,
            sentence="",
            features={"text": np.ones((1, 6), np.float32), "audio": np.ones((1, 4), np.float32)},
        )
        for i, (dialogue, turn, speaker, label, *_) in ((i, TURNS[i]) for i in order)
    ]
    write_corpus(folder, utterances, small_description())
    return Corpus(folder)


def number(corpus):
    """Of every utterance of the corpus its place in TURNS."""
    return [int(id) for id in corpus.index["id"]]


def test_shifts_are_told_by_the_same_speakers_last_label(corpus):
    places = turn_places(TASK, corpus)
    wanted = [TURNS[i] for i in number(corpus)]
    assert [("", *GROUPS)[group + 1] for group in places.group.tolist()] == [turn[4] for turn in wanted]
    assert places.position.tolist() == [turn[5] for turn in wanted]


def test_without_a_dialogue_of_several_turns_nothing_is_scored_by_turn(tmp_path):
    features = {"text": np.ones((1, 6), np.float32), "audio": np.ones((1, 4), np.float32)}
    alone = [
        Utterance(f"u{i}", split, f"d{i}", 0, "A", "", "calm", "", features)
        for i, split in enumerate(("train", "valid", "test"))
    ]
    write_corpus(tmp_path / "c", alone, small_description())
    assert turn_places(TASK, Corpus(tmp_path / "c")) is None


def random_dialogues(seed, count=400):
    """Labels, decisions, groups and positions, drawn."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, count), rng.integers(0, 3, count), rng.integers(-1, 3, count), rng.integers(0, 40, count)


def scored(seed):
    true, said, group, position = random_dialogues(seed)
    return score_turns(TASK, TurnPlaces(group, position), {"label": true}, said)


def test_the_scores_of_a_group_are_those_of_its_utterances():
    true, said, group, position = random_dialogues(0)
    found = scored(0)
    members = {name: group == i for i, name in enumerate(GROUPS)}
    ranges = {"1-5": (1, 5), "6-10": (6, 10), "11-20": (11, 20), "21-": (21, 99)}
    members |= {name: [low <= p <= high for p in position] for name, (low, high) in ranges.items()}
    parts = {**found, **found["positions"]}
    assert parts.keys() - {"positions"} == members.keys()
    for name, of in members.items():
        rows = np.flatnonzero(of)
        assert parts[name]["utterances"] == len(rows)
        scores = parts[name]["scores"]
        assert scores["accuracy"] == pytest.approx(accuracy_score(true[rows], said[rows]))
        assert scores["weighted_f1"] == pytest.approx(f1_score(true[rows], said[rows], average="weighted"))


def test_over_replicas_utterances_are_counted_once_and_scores_are_means():
    a, b, c = (scored(seed) for seed in range(3))
    del c["first"]
    results = [
        {"fold": fold, "conversation": one} for fold, one in (("1", a), ("1", a | {"shifts": b["shifts"]}), ("2", c))
    ]
    results[1]["conversation"]["shifts"]["utterances"] = a["shifts"]["utterances"]  # the same fold tests the same
    found = pool_turns(results)
    assert found["shifts"]["utterances"] == a["shifts"]["utterances"] + c["shifts"]["utterances"]
    assert found["first"]["utterances"] == a["first"]["utterances"]
    values = [one["shifts"]["scores"]["accuracy"] for one in (a, b, c)]
    mean, sd = found["shifts"]["scores"]["accuracy"].values()
    assert (mean, sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert list(found["positions"]) == ["1-5", "6-10", "11-20", "21-"]
    line = shifts_in_words(TASK, found)
    assert f"{100 * found['shifts']['scores']['weighted_f1']['mean']:.1f} ± " in line
    assert f"({found['shifts']['utterances']})" in line
    assert shifts_in_words(TASK, {"positions": found["positions"]}) == ""


def test_the_dialogues_that_are_told():
    sizes = (8, 1, 30, 50, 31, 12)
    ends = np.cumsum(sizes)
    dialogues = tuple(np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True))
    tested, shift = np.ones(ends[-1], bool), np.zeros(ends[-1], bool)
    shift[dialogues[0][:2]] = shift[dialogues[2][:3]] = shift[dialogues[3]] = shift[dialogues[5][0]] = True
    tested[dialogues[2][0]] = False  # so that it has as many as the first
    chosen = influence.choose_dialogues(dialogues, tested, shift)
    assert [turns.tolist() for turns, _ in chosen] == [dialogues[i].tolist() for i in (0, 2, 5)]
    assert [count for _, count in chosen] == [8, 30, 12]
    tested[dialogues[0]] = tested[dialogues[2]] = False  # are not of the test part
    tested[dialogues[3][:45]] = False
    chosen = influence.choose_dialogues(dialogues, tested, shift)
    assert [turns.tolist() for turns, _ in chosen] == [
        dialogues[5].tolist(),
        dialogues[4][:30].tolist(),
        dialogues[3][20:].tolist(),
    ]
    assert [count for _, count in chosen] == [12, 31, 50]
    assert influence.choose_dialogues(dialogues, np.zeros(ends[-1], bool), shift) == []


def test_the_strongest_turns_are_found_by_their_places():
    """A window of the dialogue's turns 2 to 6 lies in the second line of 8, behind another dialogue."""
    turns = np.array([40, 41, 42, 43, 44, 45, 46, 47])
    rows = np.array([44, -1, 9, 42, 46, 43, 45])
    place = np.array([8 + 3 + 2, -1, 8, 8 + 3, 8 + 3 + 4, 8 + 3 + 1, 8 + 3 + 3])
    dialogue = np.array([2, 0, 1, 2, 2, 2, 2])
    batch = Rows(rows, rows >= 0, place, dialogue, np.zeros(7))
    sizes = np.array([9.0, 9.0, 9.0, 0.1, -0.4, 0.0, 0.00001, 0.2])
    found = influence.strongest(sizes, batch, 0, 44, turns)
    assert found == [(43, -0.4), (46, 0.2), (42, 0.1)]
    sizes[6] = 0.3
    assert influence.strongest(sizes, batch, 0, 44, turns) == [(43, -0.4), (45, 0.3), (46, 0.2)]


@pytest.mark.slow
def test_a_run_tells_its_scores_by_turn(hears_the_past):
    corpus, run = Corpus(hears_the_past.parent / "small"), read_run(hears_the_past)
    lines = [json.loads(line) for line in (hears_the_past / "predictions.jsonl").read_text().splitlines()]
    row_of = {str(id): row for row, id in enumerate(corpus.index["id"])}
    wanted = {"shifts": [], "rest": []}
    for line in lines:
        row = row_of[line["id"]]
        assert (line["turn"], line["speaker"]) == (corpus.index["turn"][row], corpus.index["speaker"][row])
        before = corpus.index["label"][row_of[f"u{int(line['id'][1:]) - 2:03d}"]]  # the speakers take turns
        wanted["rest" if before == line["label"] else "shifts"].append(line["label"] == line["prediction"])
    found = run.chosen["conversation"]
    for name, right in wanted.items():
        assert found[name]["utterances"] == len(right)
        assert found[name]["scores"]["accuracy"]["mean"] == pytest.approx(np.mean(right))
    assert "first" not in found, "no test turn is its speaker's first"
    assert {name: one["utterances"] for name, one in found["positions"].items()} == {"1-5": 40, "6-10": 40}


@pytest.mark.slow
def test_explain_json_names_the_turns_that_moved_one(hears_the_past):
    """They are those that predictions with reasons name."""
    corpus = Corpus(hears_the_past.parent / "small")
    model = mer_jax.load(hears_the_past)
    predicted = {one.id: one for one in model.predict(corpus.path, attribution=True)}
    told = json.loads((hears_the_past / "explain.json").read_text())["conversations"]
    assert len(told) == 3
    for dialogue in told:
        members = np.flatnonzero(corpus.index["dialogue"] == dialogue["dialogue"])
        members = members[np.argsort(corpus.index["turn"][members])]
        assert [turn["id"] for turn in dialogue["turns"]] == corpus.index["id"][members].tolist()
        assert dialogue["dialogue_turns"] == len(members)
        assert ["prediction" in turn for turn in dialogue["turns"]] == (
            corpus.index["split"][members] == "test"
        ).tolist()
        for turn in dialogue["turns"]:
            wanted = predicted[turn["id"]].attribution.turns[: influence.MAX_OTHERS]
            if "prediction" not in turn:
                assert turn["influence"] == []
                continue
            assert turn["prediction"] == predicted[turn["id"]].prediction
            assert turn["wrong"] == (turn["prediction"] != turn["label"])
            assert turn["influence"], "the turns before it are heard"
            assert [one["influence"] for one in turn["influence"]] == pytest.approx(
                [one["influence"] for one in wanted], abs=5e-4
            )
            assert all(one["turn"] < turn["turn"] for one in turn["influence"])
            by_id = {one["id"]: one["influence"] for one in predicted[turn["id"]].attribution.turns}
            for one in turn["influence"]:
                assert one["influence"] == pytest.approx(by_id[one["id"]], abs=5e-4)
