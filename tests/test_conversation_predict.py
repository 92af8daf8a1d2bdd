"""A run that hears conversations predicts whole dialogues, and turns as they come."""

import json
import pickle

import jax
import numpy as np
import pytest

import mer_jax
from mer_jax.data.batch import Conversations
from mer_jax.data.corpus import Corpus
from mer_jax.errors import UserError
from mer_jax.metrics.calibration import temperature_scale
from mer_jax.predict.conversations import ConversationBatch, conversations, dialogues_of_items, turns_heard
from mer_jax.predict.encoder_client import EncoderClient
from mer_jax.predict.item import InputOptions, Item
from mer_jax.runtime import sharding

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(hears_the_past):
    return hears_the_past


@pytest.fixture(scope="module")
def model(run):
    return mer_jax.load(run)


@pytest.fixture(scope="module")
def corpus(run):
    return Corpus(run.parent / "small")


@pytest.fixture(scope="module")
def predicted(model, corpus):
    """By id, with reasons."""
    return {found.id: found for found in model.predict(corpus.path, attribution=True)}


def values(found):
    return np.array(list(found.probabilities.values()))


def test_a_corpus_is_predicted_as_the_run_was_tested(run, predicted):
    metrics = json.loads((run / "metrics.json").read_text())
    temperature = metrics["replicas"][0]["calibration"]["temperature"]
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 80
    for row in rows:
        p = temperature_scale(np.array([list(row["probabilities"].values())]), temperature)[0]
        np.testing.assert_allclose(values(predicted[row["id"]]), p, atol=2e-5)
    assert metrics["protocol"]["title"] == "official, the past heard"
    beside = metrics["protocol"]["context"]["test_turns_beside_training"]
    assert beside == 80, "the small corpus cuts all its dialogues"


def test_the_command_reads_a_corpus_by_dialogue_too(model, corpus, predicted):
    """It gives all options, whose defaults leave the records as they lie in their shards."""
    for found in model.predict([corpus.path], **vars(InputOptions())):
        np.testing.assert_allclose(values(found), values(predicted[found.id]), atol=1e-5)


def test_the_other_turns_of_a_dialogue_are_heard_though_nobody_asks_for_them(run, model, corpus, predicted):
    """As in the run's own test: the test part is the last two turns of every dialogue."""
    tested = [str(name) for name in corpus.index["id"][corpus.index["split"] == "test"]]
    for path, only in ((corpus.path, tested), (next(corpus.path.glob("test-*.tfrecord")), None)):
        found = list(model.predict(path, only=only))
        assert {one.id for one in found} == set(tested)
        for one in found:
            np.testing.assert_allclose(values(one), values(predicted[one.id]), atol=1e-5)


def test_the_order_of_a_packs_records_changes_nothing(model, corpus, predicted, tmp_path):
    """With all options given, as the command gives them."""
    of = ("id", "dialogue", "turn", "speaker", "sentence")
    utterances = [corpus[row] for row in np.random.default_rng(0).permutation(len(corpus)).tolist()]
    pack = [{name: getattr(u, name) for name in of} | dict(u.features) for u in utterances]
    twice = pack[5]
    pack.append(twice | {"id": "twice"})
    (tmp_path / "pack.pkl").write_bytes(pickle.dumps(pack))
    *_, wrong = found = list(model.predict(tmp_path / "pack.pkl", **vars(InputOptions(any_extractor=True))))
    assert wrong.error.endswith("of their own")
    assert f"utterances {twice['id']} and twice both are turn {twice['turn']} of dialogue" in wrong.error
    assert len(found) == len(pack)
    for one in found[:-1]:
        np.testing.assert_allclose(values(one), values(predicted[one.id]), atol=1e-5)
    some = [one.id for one in found[3:9]]
    part = list(model.predict(tmp_path / "pack.pkl", any_extractor=True, only=some))
    assert [one.id for one in part] == some
    for one in part:
        np.testing.assert_allclose(values(one), values(predicted[one.id]), atol=1e-5)


def test_turns_as_they_come_are_the_whole_dialogue(model, corpus, predicted):
    members = np.flatnonzero(corpus.index["dialogue"] == "d7")
    with model.conversation() as talk:
        for row in members[np.argsort(corpus.index["turn"][members])].tolist():
            utterance = corpus[row]
            with pytest.raises(UserError, match=r"turn 9: text is \[2, 3\]"):
                talk.add(features={"text": np.zeros((2, 3))}, id="9")  # is forgotten
            found = talk.add(features=utterance.features, speaker=utterance.speaker, id=utterance.id)
            np.testing.assert_allclose(values(found), values(predicted[utterance.id]), atol=1e-5)
            assert (found.id, found.speaker, found.turn) == (utterance.id, utterance.speaker, utterance.turn)
    alone = model.conversation().add(features=utterance.features)
    assert np.abs(values(alone) - values(found)).max() > 1e-4, "what was said before matters"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "turn 0: give a sentence, a clip or features"),
        ({"clip": 5}, "turn 0: the clip is 5, not a path"),
        ({"clip": "a.wav", "features": {}}, "turn 0: give a clip or its features, not both"),
        ({"features": 5}, "turn 0: the features are 5, not a dict of arrays by modality"),
        ({"features": {"speech": 5}}, "turn 0: it has none of text, audio"),
        ({"features": {"text": "Oh."}}, r"turn 0: text is \[\]; the model reads"),
        ({"features": {}, "speaker": "Anna\0"}, "turn 0: the speaker .* which is no character"),
        ({"features": {}, "id": "\ud800"}, "the next turn: the id .* which is no character"),
    ],
)
def test_a_turn_that_cannot_be_read_is_told(model, given, words):
    with model.conversation() as talk, pytest.raises(UserError, match=words):
        talk.add(**given)
    assert talk.turns == 0


def test_a_conversation_begins_again_and_leaves_the_encoders_it_was_given(model, corpus):
    class Encoders(EncoderClient):
        def close(self):
            raise AssertionError("they are somebody else's")

    with model.conversation(encoders=Encoders(model)) as talk:
        first, *_ = found = [talk.add(features=corpus[row].features, speaker="5") for row in range(3)]
        assert [(one.speaker, one.turn, one.id) for one in found] == [("5", turn, str(turn)) for turn in range(3)]
        talk.reset()
        again = talk.add(features=corpus[0].features, speaker="5")
    assert again == first


def test_neither_batches_nor_windows_of_items_matter(model, corpus, predicted):
    for size in (1, 7):
        for found in model.predict(corpus.path, batch_size=size):
            np.testing.assert_allclose(values(found), values(predicted[found.id]), atol=1e-5)


def test_devices_that_are_no_power_of_two_share_a_batch(run, corpus, predicted):
    model = mer_jax.load(run)
    model._mesh = sharding.make_mesh(devices=jax.devices()[:3])
    for found in model.predict(corpus.path):
        np.testing.assert_allclose(values(found), values(predicted[found.id]), atol=1e-5)


def test_reasons_name_earlier_turns_of_the_same_dialogue(corpus, predicted):
    known = {str(corpus.index["id"][row]): row for row in range(len(corpus))}
    moved = 0
    for found in predicted.values():
        assert set(found.attribution.shapley) == {"text", "audio", "context"}
        row = known[found.id]
        turn, dialogue = (corpus.index[name][row] for name in ("turn", "dialogue"))
        told = found.attribution.turns
        moved += len(told)
        assert [abs(one["influence"]) for one in told] == sorted((abs(one["influence"]) for one in told), reverse=True)
        for one in told:
            other = known[one["id"]]
            assert corpus.index["dialogue"][other] == dialogue
            assert corpus.index["turn"][other] == one["turn"] < turn
            assert corpus.index["speaker"][other] == one["speaker"]
        assert json.loads(json.dumps(found.to_json()))["attribution"].get("turns", []) == list(told)
    assert moved > len(predicted)


def test_what_is_but_rounding_has_moved_nothing():
    """Least of all a later turn, for a model that hears the past."""
    place = np.arange(3)
    together = ConversationBatch(Conversations((), 1, 3), place, place, place, [place])
    items = [Item(name, dialogue="d", turn=turn) for turn, name in enumerate("abc")]
    influence = np.array([[0.0, 3e-7, -3e-7], [0.2, 0.0, 3e-6], [-0.3, 0.1, 0.0]])
    told = [[one["id"] for one in turns_heard(together, items, influence, row)] for row in range(3)]
    assert told == [[], ["a"], ["a", "b"]]


def test_items_without_a_dialogue_are_heard_alone(model, corpus):
    some = [corpus[row] for row in range(4)]
    alone = list(model.predict([dict(u.features) for u in some]))
    for found, u in zip(alone, some, strict=True):
        [again] = model.predict([Item("x", u.features, dialogue="d", turn=0)])
        np.testing.assert_allclose(values(found), values(again), atol=1e-5)


def test_what_cannot_be_read_is_not_heard(model, corpus, predicted):
    members = np.flatnonzero(corpus.index["dialogue"] == "d4")
    utterances = [corpus[row] for row in members[np.argsort(corpus.index["turn"][members])].tolist()]
    items = [Item(u.id, u.features, dialogue="d", turn=u.turn, speaker=u.speaker) for u in utterances]
    broken = Item("broken", error="no such clip", dialogue="d", turn=items[-1].turn + 1)
    found = list(model.predict([*items, broken]))
    assert [one.id for one in found] == [item.id for item in [*items, broken]]
    assert found[-1].error == "no such clip"
    for one in found[:-1]:
        np.testing.assert_allclose(values(one), values(predicted[one.id]), atol=1e-5)


def test_who_cannot_be_heard_is_no_speaker():
    """As in `Conversation`, which forgets such a turn: the next new speaker has the next number."""
    said = [("A", ""), ("C", "no such clip"), ("B", ""), ("", ""), ("C", "")]
    items = [Item(str(i), dialogue="d", turn=i, speaker=who, error=error) for i, (who, error) in enumerate(said)]
    found = dialogues_of_items([[Item("x", error="broken")], items], "past", 8)
    [rows] = found.rows
    assert rows.tolist() == [1, 3, 4, 5]
    assert found.speaker[rows].tolist() == [1, 2, 0, 3]


def test_conversations_end_where_turns_do_not_rise():
    def names(*items):
        return [[item.id for item in one] for one in conversations(items)]

    def item(name, dialogue="", turn=None):
        return Item(name, dialogue=dialogue, turn=turn)

    assert names(item("a", "d", 0), item("b", "d", 3), item("c", "e", 4)) == [["a", "b"], ["c"]]
    assert names(item("a", "d", 0), item("b", "d", 0), item("c"), item("d")) == [["a"], ["b"], ["c"], ["d"]]


def test_only_runs_that_hear_the_past_alone_go_on(model):
    from mer_jax.predict.conversations import Conversation

    class Other:
        workdir = "runs/A"

        def __init__(self, hears):
            self.config = type("C", (), {"data": type("D", (), {"context": hears})})

    with pytest.raises(UserError, match=r"runs/A: .*data\.context=past; this one reads utterances one by one"):
        Conversation(Other("none"))
    with pytest.raises(UserError, match="this one hears what comes after a turn, too"):
        Conversation(Other("both"))
    with pytest.raises(UserError, match="turn 0: give a sentence, a clip or features"):
        model.conversation().add()
