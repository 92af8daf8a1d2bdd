"""Dialogues as batches: windows, packing, layouts, the order of training."""

import dataclasses
import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import class_targets, small_description, small_utterances

from mer_jax.data import conversations, loader
from mer_jax.data import pool as pool_lib
from mer_jax.data.conversation_source import ConversationSource
from mer_jax.data.conversations import ConversationOrder, Dialogues, Shapes
from mer_jax.data.corpus import Corpus
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.dialogues import heard_with
from mer_jax.runtime import sharding


def dialogues(sizes, context="both", max_turns=256):
    ends = np.cumsum(sizes)
    rows = tuple(np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True))
    return Dialogues(rows, np.arange(ends[-1]) % 2 + 1, context, max_turns)


def random_sizes(count, longest=40, seed=0):
    return np.random.default_rng(seed).integers(1, longest + 1, count)


@pytest.mark.parametrize("context", ["past", "both"])
@pytest.mark.parametrize(("turns", "size"), [(5, 8), (8, 8), (9, 8), (30, 8), (31, 7), (5000, 64), (3, 2)])
def test_every_turn_counts_in_one_window_and_hears_half_a_window(context, turns, size):
    found = dialogues([turns], context, size).windows(np.ones(turns, bool))
    counted = np.concatenate([window.rows[window.counts] for window in found])
    assert sorted(counted.tolist()) == list(range(turns))
    for window in found:
        assert len(window.rows) <= size
        assert np.array_equal(np.diff(window.rows), np.ones(len(window.rows) - 1))
        for at in np.flatnonzero(window.counts):
            before, after = at, len(window.rows) - 1 - at
            row = int(window.rows[at])
            if context == "past":
                assert before >= min(row, size - size // 2)
            else:
                assert before >= min(row, size // 4)
                assert after >= min(turns - 1 - row, size // 4 - 1)


def test_what_a_turn_hears_of_the_past_does_not_tell_how_many_turns_follow():
    def heard(turns):
        """Of every turn the first one that it hears."""
        found = dialogues([turns], "past", 8).windows(np.ones(turns, bool))
        return [int(window.rows[0]) for window in found for _ in range(window.counts.sum())]

    whole = heard(40)
    assert all(heard(turns) == whole[:turns] for turns in range(1, 40))


def test_who_does_not_count_is_heard():
    wanted = np.zeros(12, bool)
    wanted[[1, 9]] = True
    first, last = dialogues([4, 4, 4]).windows(wanted)
    assert first.rows.tolist() == [0, 1, 2, 3]
    assert first.counts.tolist() == [False, True, False, False]
    assert last.rows.tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize("bins", [1, 3, 8])
def test_dealing_is_even(bins):
    sizes = random_sizes(64)
    found = conversations.deal(sizes, bins)
    assert sorted(np.concatenate(found).tolist()) == list(range(64))
    sums = [int(sizes[items].sum()) for items in found]
    assert max(sums) - min(sums) <= sizes.max() / 4
    counts = [len(items) for items in found]
    assert max(counts) - min(counts) <= 1


def test_lines_hold_what_fits():
    sizes = random_sizes(50).tolist()
    lines = conversations.lines_of(sizes, 40)
    assert sorted(itertools.chain(*lines)) == list(range(50))
    filled = [sum(sizes[i] for i in line) for line in lines]
    assert max(filled) <= 40
    assert len(lines) <= np.ceil(sum(sizes) / 40 * 11 / 9) + 1  # first fit, the longest first (Dosa 2007)


def order_of(count=30, per_batch=4, window=3, microbatches=1, seed=0, steps=20, quantum=1):
    sizes = random_sizes(count)
    some = dialogues(sizes)
    rng = np.random.default_rng(1)
    lengths = {"text": rng.integers(0, 50, sizes.sum()), "audio": np.ones(sizes.sum(), int)}
    windows = some.windows(np.ones(sizes.sum(), bool))
    return ConversationOrder(some, windows, Shapes(lengths, quantum), per_batch, seed, window, microbatches, steps)


def test_batches_hold_whole_dialogues_in_order():
    order = order_of()
    layout = order.layout
    for step in range(order.steps):
        batch = order[step]
        assert all(len(x) == layout.rows for x in batch)
        real = batch.rows >= 0
        assert (batch.place[~real] == -1).all()
        assert not batch.counts[~real].any()
        assert len(set(batch.place[real].tolist())) == real.sum()
        assert batch.place.max() < layout.lines * layout.turns
        assert batch.dialogue[real].min() == 1
        for number in set(batch.dialogue[real].tolist()):
            here = np.flatnonzero(batch.dialogue == number)
            here = here[np.argsort(batch.place[here])]
            known = next(rows for rows in order.dialogues.rows if batch.rows[here[0]] in rows)
            assert batch.rows[here].tolist() == known.tolist()
            assert np.array_equal(batch.place[here], batch.place[here[0]] + np.arange(len(here)))
            assert batch.place[here[0]] // layout.turns == batch.place[here[-1]] // layout.turns
            assert np.array_equal(batch.speaker[here], order.dialogues.speaker[known])


def test_no_utterance_is_longer_than_its_group():
    order = order_of(quantum=3)
    assert all(rows % 24 == 0 for rows, _ in order.layout.groups)
    ends = np.cumsum([rows for rows, _ in order.layout.groups])
    for step in range(order.steps):
        rows = order[step].rows
        for (_, lengths), here in zip(order.layout.groups, np.split(rows, ends[:-1]), strict=True):
            for m, longest in lengths:
                assert order.shapes.lengths[m][here[here >= 0]].max(initial=0) <= longest


def test_grouping_by_length_saves_time_steps():
    layout = order_of(steps=200).layout
    longest = max(dict(lengths)["text"] for _, lengths in layout.groups)
    padded = sum(rows * dict(lengths)["text"] for rows, lengths in layout.groups)
    assert len(layout.groups) > 1
    assert padded < 0.75 * layout.rows * longest


def test_the_order_is_a_function_of_seed_and_step():
    first, same, other = order_of(), pickle.loads(pickle.dumps(order_of())), order_of(seed=1)
    for step in (0, 19, 3):
        for a, b in zip(first[step], same[step], strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[3].rows, other[3].rows)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_every_utterance_occurs_once_an_epoch(microbatches):
    order = order_of(count=24, per_batch=4, window=3, microbatches=microbatches)  # two windows of 12 are an epoch
    assert order.steps_per_epoch == 6
    for epoch in range(3):
        rows = np.concatenate([order[6 * epoch + i].rows for i in range(6)])
        assert sorted(rows[rows >= 0].tolist()) == list(range(len(order.dialogues.speaker)))


def test_microbatches_are_whole_batches_of_their_own():
    order = order_of(count=24, microbatches=2, quantum=2)
    layout = order.layout
    batch = order[0]
    ends = np.cumsum([2 * rows for rows, _ in layout.groups])[:-1]
    halves = [np.concatenate([group[k::2] for group in np.split(batch.rows, ends)]) for k in (0, 1)]
    parts = order._parts(0)
    for half, part in zip(halves, parts, strict=True):
        assert sorted(half[half >= 0].tolist()) == sorted(np.concatenate([window.rows for window in part]).tolist())


def test_evaluation_counts_every_utterance_of_every_part_once():
    sizes = random_sizes(20)
    some = dialogues(sizes)
    total = int(sizes.sum())
    lengths = {"text": np.random.default_rng(1).integers(1, 50, total)}
    parts = [np.arange(total) % 3 == 0, np.arange(total) < 25]
    steps, layout = conversations.evaluation_batches(some, parts, Shapes(lengths), 64)
    for i, part in enumerate(parts):
        counted = np.concatenate([step.rows[i][step.counts[i]] for step in steps])
        assert sorted(counted.tolist()) == np.flatnonzero(part).tolist()
    assert all(step.rows.shape == (2, layout.rows) for step in steps)


def test_turns_are_in_the_order_of_the_records_turn(tmp_path):
    def shuffled():
        all_of_them = list(small_utterances())
        for i in np.random.default_rng(0).permutation(len(all_of_them)).tolist():
            yield dataclasses.replace(all_of_them[i], turn=3 * all_of_them[i].turn + 5)  # with gaps

    write_corpus(tmp_path / "c", shuffled(), small_description())
    corpus = Corpus(tmp_path / "c")
    rows = np.arange(len(corpus))
    found = conversations.dialogues_of(corpus, rows, np.zeros(len(rows), bool), "past", 100)
    assert sorted(np.concatenate(found.rows).tolist()) == rows.tolist()
    for members in found.rows:
        assert len(set(corpus.index["dialogue"][members].tolist())) == 1
        assert (np.diff(corpus.index["turn"][members]) == 3).all()
        names = corpus.index["speaker"][members].tolist()
        assert found.speaker[members].tolist() == [1 + (name != names[0]) for name in names]


def test_who_names_no_dialogue_or_has_no_features_is_heard_alone(tmp_path):
    def some_alone():
        for i, u in enumerate(small_utterances()):
            yield dataclasses.replace(u, dialogue="" if i < 4 else u.dialogue, speaker="" if i == 7 else u.speaker)

    write_corpus(tmp_path / "c", some_alone(), small_description())
    corpus = Corpus(tmp_path / "c")
    silent = corpus.index["id"] == "u020"
    found = conversations.dialogues_of(corpus, np.arange(len(corpus)), silent, "past", 100)
    alone = {i for i in range(len(corpus)) if corpus.index["dialogue"][i] == "" or silent[i]}
    assert len(alone) == 5
    assert {int(rows[0]) for rows in found.rows if len(rows) == 1} >= alone
    nameless = np.flatnonzero(corpus.index["speaker"] == "")
    assert found.speaker[nameless].tolist() == [0]


def test_heard_are_all_turns_of_a_dialogue(small_corpus):
    corpus = Corpus(small_corpus)
    some = np.flatnonzero(corpus.index["id"] == "u008")
    heard = heard_with(corpus, some)
    assert sorted(corpus.index["id"][heard].tolist()) == [f"u{i:03d}" for i in range(6, 12)]


@pytest.fixture
def sources(small_corpus):
    """The same batches resident and streamed."""
    corpus = Corpus(small_corpus)
    rows = np.arange(len(corpus))
    targets = class_targets(corpus.label_ids(rows), 3)
    pool = pool_lib.select_utterances(corpus, rows, {"text": 5, "audio": 3}, targets)
    scan = pool_lib.scan(
        corpus, pool, np.ones((1, len(pool)), bool), "refuse", local_rows=np.arange(len(pool)), keep=True
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    known = conversations.dialogues_of(corpus, rows, np.zeros(len(rows), bool), "both", 100)
    resident = loader.pack(corpus, pool, scan.features, mesh)
    return [
        ConversationSource(corpus, pool, "refuse", mesh, source=source, dialogues=known, microbatches=2)
        for source in (resident, None)
    ]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, a), jax.tree.map(np.asarray, b))


def test_resident_and_streamed_training_batches_are_the_same(sources):
    train = np.flatnonzero(sources[0].corpus.index["split"] == "train")
    orders = [source.training_order(train, 12, 0, 2, 3) for source in sources]
    streams = [source.training(order, 1) for source, order in zip(sources, orders, strict=True)]
    for _ in range(3):
        found = [next(stream) for stream in streams]
        batches = [loader.materialize_batch(*item[:3]) for item in found]
        assert_same(*batches)
        np.testing.assert_array_equal(batches[0].position, found[0][3])
        weight = np.asarray(batches[0].weight)
        assert set(found[0][3][weight > 0].tolist()) <= set(train.tolist())
        assert 0 < weight.sum() < (found[0][3] >= 0).sum()  # the others are heard
        np.testing.assert_array_equal(sources[0].addressable_rows(found[0][3], found[0][2]), found[0][3])


def test_the_dialogues_of_a_small_corpus_occur_once_an_epoch(sources):
    train = np.flatnonzero(sources[0].corpus.index["split"] == "train")
    order = sources[0].training_order(train, 12, 0, 8, 3)
    assert order.steps_per_epoch == 4
    for epoch in range(3):
        rows = np.concatenate([order[4 * epoch + i].rows for i in range(4)])
        assert len(set(rows[rows >= 0].tolist())) == (rows >= 0).sum() == len(sources[0].pool)


def test_resident_and_streamed_evaluation_batches_are_the_same(sources):
    split = sources[0].corpus.index["split"]
    parts = [np.flatnonzero(split == "valid"), np.flatnonzero(split == "test")]
    seen = [[], []]
    for a, b in zip(*(source.evaluation(parts, 20, 2) for source in sources), strict=True):
        np.testing.assert_array_equal(a[3], b[3])
        for k in (0, 1):
            both = [
                loader.materialize_batch(source, jax.tree.map(lambda x, k=k: jnp.asarray(x[k]), rows), layout)
                for source, rows, layout, _ in (a, b)
            ]
            for batch in both:  # what does not count may be of anybody
                for group in batch.groups:
                    group.targets = {name: jnp.where(group.weight > 0, x.T, 0).T for name, x in group.targets.items()}
            assert_same(*both)
            counted = a[3][k][a[3][k] >= 0]
            assert np.asarray(both[0].weight).sum() == len(counted)
            seen[k] += counted.tolist()
    assert [sorted(some) for some in seen] == [part.tolist() for part in parts]
