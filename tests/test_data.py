import itertools
import pickle

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_description, small_utterances

from mer_jax import data
from mer_jax.errors import UserError
from mer_jax.records import Corpus, dataclasses, write_corpus

LIMITS = {"text": 5, "audio": 3}


@pytest.fixture
def part(small_corpus):
    return data.take_part(Corpus(small_corpus), "train", LIMITS)


def resident(corpus, part):
    scan = data.scan(corpus, part, "refuse", keep=True)
    return jax.tree.map(jnp.asarray, data.pack(part, scan.features))


def test_part_cuts_and_counts(small_corpus, part):
    lengths = [len(u.features["text"]) for u in small_utterances() if u.split == "train"]
    assert part.truncated == {"text": sum(n > 5 for n in lengths), "audio": 0}
    assert part.truncated["text"] > 0
    assert sorted(part.lengths["text"].tolist()) == sorted(min(n, 5) for n in lengths)


def test_gather_and_collate_give_the_same_batch(small_corpus, part):
    corpus = Corpus(small_corpus)
    rows = np.array([3, 0, 17, 5, 3, -1], np.int32)
    found = data.gather(resident(corpus, part), jnp.asarray(rows), data.pads_of(part, rows[:-1]))
    wanted = data.collate(corpus, part, rows, "refuse")
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(jnp.asarray, wanted))
    first = corpus[int(part.rows[3])]
    np.testing.assert_array_equal(wanted.features["text"][0][wanted.mask["text"][0]], first.features["text"][:5])
    assert wanted.weight.tolist() == [1, 1, 1, 1, 1, 0]
    assert not wanted.mask["text"][-1].any()


def test_statistics_are_those_of_the_training_parts_steps(small_corpus, part):
    corpus = Corpus(small_corpus)
    stats = data.scan(corpus, part, "refuse", keep=False).stats
    steps = np.concatenate([u.features["text"][:5] for u in small_utterances() if u.split == "train"]).astype(
        np.float64
    )
    np.testing.assert_allclose(stats["text"]["mean"], steps.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["text"]["scale"], steps.std(0), rtol=1e-5)


def test_a_constant_feature_is_not_divided_by_zero(tmp_path):
    def constant():
        for u in small_utterances():
            u.features["audio"][:, 1] = 7.5
            yield u

    write_corpus(tmp_path / "c", constant(), small_description())
    corpus = Corpus(tmp_path / "c")
    stats = data.scan(corpus, data.take_part(corpus, "train", LIMITS), "refuse", keep=False).stats["audio"]
    assert stats["mean"][1] == 7.5
    assert stats["scale"][1] == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_are_refused_by_name_or_zeroed_and_counted(tmp_path, value):
    def spoilt():
        for u in small_utterances():
            if u.id == "u007":
                text = u.features["text"].copy()
                text[0, 2] = value
                u = dataclasses.replace(u, features={**u.features, "text": text})
            yield u

    write_corpus(tmp_path / "c", spoilt(), small_description())
    corpus = Corpus(tmp_path / "c")
    part = data.take_part(corpus, "train", LIMITS)
    with pytest.raises(UserError, match=r"\(u007\): text\[0, 2\] is (nan|inf|-inf)"):
        data.scan(corpus, part, "refuse", keep=False)
    scan = data.scan(corpus, part, "zero", keep=True)
    assert scan.nonfinite == {"text": 1, "audio": 0}
    i = np.flatnonzero(corpus.index["id"][part.rows] == "u007")[0]
    assert scan.features[i]["text"][0, 2] == 0
    assert np.isfinite(scan.stats["text"]["mean"]).all()


@pytest.mark.parametrize("window", [1, 4])
def test_every_utterance_occurs_once_an_epoch(window):
    order = data.Order(np.arange(40, dtype=np.int32) % 7, batch_size=8, seed=3, window=window)
    stream = np.concatenate([order[k] for k in range(20)])
    epochs = [stream[i : i + 40] for i in (0, 40)] if window == 1 else [np.sort(stream[:160])]
    if window == 1:
        for epoch in epochs:
            assert sorted(epoch.tolist()) == list(range(40))
        assert epochs[0].tolist() != epochs[1].tolist()
    else:  # windows of 32 do not end with the epoch of 40, so count over their common multiple
        assert epochs[0].tolist() == sorted(list(range(40)) * 4)


def test_order_is_a_pure_function_of_seed_and_step():
    lengths = np.random.default_rng(0).integers(1, 50, 300).astype(np.int32)
    order = data.Order(lengths, 16, 5, 4)
    forward = [order[k].tolist() for k in range(30)]
    assert [data.Order(lengths, 16, 5, 4)[k].tolist() for k in reversed(range(30))] == forward[::-1]
    assert [data.Order(lengths, 16, 6, 4)[k].tolist() for k in range(30)] != forward


def test_grouping_by_length_saves_padding():
    lengths = np.random.default_rng(0).integers(1, 100, 2000).astype(np.int32)

    def padded(window):
        order = data.Order(lengths, 16, 0, window)
        return sum(16 * lengths[order[k]].max() for k in range(120))

    assert padded(8) < 0.7 * padded(1)


def test_grain_gives_the_same_stream_with_any_threads_and_from_any_step(small_corpus, part):
    corpus = Corpus(small_corpus)

    def stream(threads, start, count):
        feed = data.Feed(corpus, part, "refuse", put=lambda x: x, read_threads=threads)
        return list(itertools.islice(feed.training(order, start), count))

    order = data.training_order(part, 8, 0, 2)
    whole = stream(0, 0, 9)
    for threads, start in ((1, 0), (4, 0), (2, 5)):
        for (a, _), (b, _) in zip(whole[start:], stream(threads, start, 9 - start), strict=True):
            jax.tree.map(np.testing.assert_array_equal, a, b)


def test_sources_pickle_for_worker_processes(small_corpus, part):
    order = data.training_order(part, 8, 0, 2)
    wanted = order[3]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(order))[3], wanted)
    assert isinstance(order.dataset(), grain.MapDataset)
    np.testing.assert_array_equal(order.dataset()[3], wanted)


def test_evaluation_holds_every_row_once(part):
    rows = np.concatenate(data.evaluation_order(part, 7))
    assert sorted(rows[rows >= 0].tolist()) == list(range(len(part)))
    assert len(rows) % 7 == 0


def test_pads_are_few_and_long_enough():
    part = data.Part("train", np.arange(100), np.zeros(100, np.int32), {"text": np.arange(1, 101, dtype=np.int32)}, {})
    rungs = {data.pads_of(part, np.array([i]))[0][1] for i in range(100)}
    assert rungs == {16, 32, 64, 100}
    for i in range(100):
        assert data.pads_of(part, np.array([i]))[0][1] >= i + 1


def test_an_empty_split_is_an_error_that_says_what_there_is(tmp_path):
    write_corpus(tmp_path / "c", (u for u in small_utterances() if u.split != "valid"), small_description())
    with pytest.raises(UserError, match="'valid' split is empty; the corpus has train 24, test 16"):
        data.take_part(Corpus(tmp_path / "c"), "valid", LIMITS)
