import dataclasses
import itertools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import class_targets, small_description, small_utterances

from mer_jax.data import loader
from mer_jax.data import pool as pool_lib
from mer_jax.data.corpus import Corpus, soft_label
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.errors import UserError
from mer_jax.models import functional
from mer_jax.runtime import sharding
from mer_jax.tasks.classification import Classification

LIMITS = {"text": 5, "audio": 3}
ONE = sharding.make_mesh(devices=jax.devices()[:1])


def training_pool(corpus):
    rows = corpus.rows("train")
    return pool_lib.select_utterances(corpus, rows, LIMITS, class_targets(corpus.label_ids(rows), len(corpus.labels)))


def scan(corpus, pool, nonfinite="refuse", keep=False):
    """With one fold that trains on the whole pool."""
    return scan_folds(corpus, pool, np.ones((1, len(pool)), bool), nonfinite, keep)


def scan_folds(corpus, pool, train, nonfinite="refuse", keep=False):
    return pool_lib.scan(corpus, pool, train, nonfinite, local_rows=np.arange(len(pool)), keep=keep)


@pytest.fixture
def pool(small_corpus):
    return training_pool(Corpus(small_corpus))


def resident(corpus, pool):
    return loader.pack(corpus, pool, scan(corpus, pool, keep=True).features, ONE)


def test_a_pool_cuts_and_counts(pool):
    lengths = [len(u.features["text"]) for u in small_utterances() if u.split == "train"]
    assert sorted(pool.whole["text"].tolist()) == sorted(lengths)
    assert max(lengths) > 5
    assert sorted(pool.lengths["text"].tolist()) == sorted(min(n, 5) for n in lengths)


def test_what_raters_say_is_learnt_where_they_chose_a_class(small_corpus):
    corpus = Corpus(small_corpus)
    rows = corpus.rows("train")
    task = Classification(corpus.labels)
    hard, soft = (task.targets(corpus, rows, soft=soft)["target"] for soft in (False, True))
    np.testing.assert_array_equal(hard, np.eye(3)[corpus.label_ids(rows)])
    for i, row in enumerate(rows.tolist()):
        said = soft_label(corpus[row].votes, corpus.labels)
        np.testing.assert_array_equal(soft[i], said if said.any() else hard[i])
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
    assert 0 < (soft == hard).all(1).sum() < len(rows)


def test_gather_and_collate_give_the_same_batch(small_corpus, pool):
    corpus = Corpus(small_corpus)
    rows = np.array([3, 0, 17, 5, 3, -1], np.int32)
    found = loader.gather(resident(corpus, pool), jnp.asarray(rows), loader.padded_lengths_of(pool, rows[:-1]))
    wanted = loader.collate(corpus, pool, rows, loader.padded_lengths_of(pool, rows[:-1]), "refuse")
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(jnp.asarray, wanted))
    first = corpus[int(pool.rows[3])]
    np.testing.assert_array_equal(wanted.features["text"][0][wanted.mask["text"][0]], first.features["text"][:5])
    assert wanted.weight.tolist() == [1, 1, 1, 1, 1, 0]
    assert wanted.position.tolist() == rows.tolist()
    taken = loader.take_rows(found, jnp.array([2, -1, 0, 5], jnp.int32))
    assert taken.position.tolist() == [17, -1, 3, -1]
    assert functional.cast(taken, jnp.bfloat16).position.dtype == jnp.int32
    assert not wanted.mask["text"][-1].any()


def test_statistics_are_those_of_the_training_parts_steps(small_corpus, pool):
    corpus = Corpus(small_corpus)
    stats = scan(corpus, pool).stats
    steps = np.concatenate([u.features["text"][:5] for u in small_utterances() if u.split == "train"]).astype(
        np.float64
    )
    np.testing.assert_allclose(stats["text"]["mean"], steps.mean(0)[None], rtol=1e-5)
    np.testing.assert_allclose(stats["text"]["scale"], steps.std(0)[None], rtol=1e-5)


def test_a_constant_feature_is_not_divided_by_zero(tmp_path):
    def constant():
        for u in small_utterances():
            u.features["audio"][:, 1] = 7.5
            yield u

    write_corpus(tmp_path / "c", constant(), small_description())
    corpus = Corpus(tmp_path / "c")
    stats = scan(corpus, training_pool(corpus)).stats["audio"]
    assert stats["mean"][0, 1] == 7.5
    assert stats["scale"][0, 1] == 1.0


def test_every_fold_has_the_statistics_of_its_own_training_part(small_corpus, pool):
    corpus = Corpus(small_corpus)
    train = np.stack([np.arange(len(pool)) % 2 == 0, np.arange(len(pool)) < 7])
    both = scan_folds(corpus, pool, train).stats
    for fold in (0, 1):
        alone = scan_folds(corpus, pool, train[fold : fold + 1]).stats
        for m in LIMITS:
            for name in ("mean", "scale"):
                np.testing.assert_array_equal(both[m][name][fold], alone[m][name][0])
    assert np.abs(both["text"]["mean"][0] - both["text"]["mean"][1]).max() > 1e-3
    with pytest.raises(UserError, match=r"training part \(fold 1\) has 'text' features"):
        scan_folds(corpus, pool, np.stack([train[0], ~train[0] & train[0]]))


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
    pool = training_pool(corpus)
    with pytest.raises(UserError, match=r"\(u007\): text\[0, 2\] is (nan|inf|-inf)"):
        scan(corpus, pool)
    found = scan(corpus, pool, "zero", keep=True)
    assert {m: int(bad.sum()) for m, bad in found.nonfinite.items()} == {"text": 1, "audio": 0}
    i = np.flatnonzero(corpus.index["id"][pool.rows] == "u007")[0]
    assert found.nonfinite["text"][i] == 1
    assert found.features[i]["text"][0, 2] == 0
    assert np.isfinite(found.stats["text"]["mean"]).all()


@pytest.mark.parametrize("window", [1, 4])
def test_every_utterance_occurs_once_an_epoch(window):
    rows = np.arange(40, dtype=np.int32) * 3
    order = loader.Order(rows, np.arange(40, dtype=np.int32) % 7, batch_size=8, seed=3, window=window)
    stream = np.concatenate([order[k] for k in range(20)])
    assert not (stream % 3).any()
    stream //= 3
    epochs = [stream[i : i + 40] for i in (0, 40)] if window == 1 else [np.sort(stream[:160])]
    if window == 1:
        for epoch in epochs:
            assert sorted(epoch.tolist()) == list(range(40))
        assert epochs[0].tolist() != epochs[1].tolist()
    else:  # windows of 32 do not end with the epoch of 40, so count over their common multiple
        assert epochs[0].tolist() == sorted(list(range(40)) * 4)


def test_order_is_a_pure_function_of_seed_and_step():
    lengths = np.random.default_rng(0).integers(1, 50, 300).astype(np.int32)
    rows = np.arange(300, dtype=np.int32)
    order = loader.Order(rows, lengths, 16, 5, 4)
    forward = [order[k].tolist() for k in range(30)]
    assert [loader.Order(rows, lengths, 16, 5, 4)[k].tolist() for k in reversed(range(30))] == forward[::-1]
    assert [loader.Order(rows, lengths, 16, 6, 4)[k].tolist() for k in range(30)] != forward


def test_grouping_by_length_saves_padding():
    lengths = np.random.default_rng(0).integers(1, 100, 2000).astype(np.int32)

    def padded(window):
        order = loader.Order(np.arange(2000, dtype=np.int32), lengths, 16, 0, window)
        return sum(16 * lengths[order[k]].max() for k in range(120))

    assert padded(8) < 0.7 * padded(1)


def test_grain_gives_the_same_stream_with_any_threads_and_from_any_step(small_corpus, pool):
    corpus = Corpus(small_corpus)

    def stream(threads, start, count):
        batches = loader.BatchSource(corpus, pool, "refuse", ONE, read_threads=threads)
        return list(itertools.islice(batches.training(order, start), count))

    order = loader.training_order(pool, np.arange(len(pool)), 8, 0, 2)
    whole = stream(0, 0, 9)
    for threads, start in ((1, 0), (4, 0), (2, 5)):
        for (a, *_, rows), (b, *_, same) in zip(whole[start:], stream(threads, start, 9 - start), strict=True):
            jax.tree.map(np.testing.assert_array_equal, a, b)
            np.testing.assert_array_equal(rows, same)
            np.testing.assert_array_equal(a.targets["label"], pool.targets["label"][rows])


def test_sources_pickle_for_worker_processes(small_corpus, pool):
    order = loader.training_order(pool, np.arange(len(pool)), 8, 0, 2)
    wanted = order[3]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(order))[3], wanted)


def test_evaluation_holds_every_row_of_every_part_once(pool):
    parts = [np.arange(len(pool)), np.array([3, 5, 11]), np.array([], int)]
    order = loader.evaluation_order(pool, parts, 7)
    assert order.shape[1:] == (3, 7)
    for k, rows in enumerate(parts):
        seen = order[:, k][order[:, k] >= 0]
        assert sorted(seen.tolist()) == sorted(rows.tolist())


def test_streamed_evaluation_reads_once_and_gives_every_part_its_rows(small_corpus, pool):
    corpus = Corpus(small_corpus)
    parts = [np.array([2, 7, 9, 10, 1]), np.array([2, 7, 9, 10, 1]), np.array([0, 7])]
    streamed = loader.BatchSource(corpus, pool, "refuse", ONE)
    packed = loader.BatchSource(corpus, pool, "refuse", ONE, source=resident(corpus, pool))
    for (block, positions, _, rows), (source, at, lengths, same) in zip(
        streamed.evaluation(parts, 4, 2), packed.evaluation(parts, 4, 2), strict=True
    ):
        np.testing.assert_array_equal(rows, same)
        assert len(block.weight) == 8, "two different parts of 4"
        real = np.unique(rows[rows >= 0])
        assert int(block.weight.sum()) == len(real)
        for k in range(3):
            found, wanted = (
                loader.materialize_batch(block, jnp.asarray(positions[k]), ()),
                loader.materialize_batch(source, jnp.asarray(at[k]), lengths),
            )
            np.testing.assert_array_equal(found.weight, wanted.weight)
            np.testing.assert_array_equal(found.position, wanted.position)
            np.testing.assert_array_equal(found.position, rows[k])
            real = np.asarray(wanted.weight) > 0
            for name, values in wanted.targets.items():
                np.testing.assert_array_equal(found.targets[name][real], values[real])
            for m in LIMITS:
                time = min(found.mask[m].shape[1], wanted.mask[m].shape[1])
                np.testing.assert_array_equal(found.mask[m][:, :time], wanted.mask[m][:, :time])
                np.testing.assert_array_equal(found.features[m][:, :time], wanted.features[m][:, :time])


def test_pads_are_few_and_long_enough():
    pool = pool_lib.UtterancePool(
        np.arange(100),
        {},
        {"text": np.arange(1, 101, dtype=np.int32)},
        {},
    )
    rungs = {loader.padded_lengths_of(pool, np.array([i]))[0][1] for i in range(100)}
    assert rungs == {16, 32, 64, 100}
    for i in range(100):
        assert loader.padded_lengths_of(pool, np.array([i]))[0][1] >= i + 1
