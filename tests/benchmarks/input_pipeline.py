"""Records per second of the input pipeline, and its ratio to bare reads of the same bytes."""

import argparse
import itertools
import json
import os
import time

import jax
import numpy as np
from absl import flags

from mer_jax.data import loader
from mer_jax.data import pool as pool_lib
from mer_jax.data.corpus import Corpus
from mer_jax.data.synthetic import demo_corpus
from mer_jax.runtime import sharding
from mer_jax.tasks import task_of

BATCH = 32


def rate(count, work, repeats=5):
    """Median records per second over `repeats` runs, after one to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return count / float(np.median(seconds))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", nargs="?", help="a corpus folder; default: the demo corpus")
    path = parser.parse_args().corpus
    flags.FLAGS.mark_as_parsed()
    corpus = Corpus(path) if path else demo_corpus()
    rows = corpus.rows("train")
    lengths, targets = dict.fromkeys(corpus.modalities, 128), task_of(corpus).targets(corpus, rows, soft=False)
    pool = pool_lib.select_utterances(corpus, rows, lengths, targets)
    steps = min(len(pool) // BATCH, 100)
    count = steps * BATCH
    order = np.random.default_rng(0).permutation(len(pool))[:count]
    files = [os.open(corpus.path / s["file"], os.O_RDONLY) for s in corpus.manifest["shards"]]

    def bare():
        for i in order:
            row = int(pool.rows[i])
            size, offset = int(corpus.index["size"][row]), int(corpus.index["offset"][row])
            os.pread(files[int(corpus.shard[row])], size + 16, offset)

    def records():
        for i in order:
            corpus[int(pool.rows[i])]

    def batches(threads):
        mesh = sharding.make_mesh(devices=jax.devices()[:1])
        source = loader.BatchSource(corpus, pool, "refuse", mesh, read_threads=threads)
        stream = source.training(loader.training_order(pool, np.arange(len(pool)), BATCH, 0, 8), 0)
        return lambda: list(itertools.islice(stream, steps))

    rates = {"pread": rate(count, bare), "read, crc, parse": rate(count, records)}
    rates |= {f"shuffled padded batches, {n} threads": rate(count, batches(n)) for n in (0, 1, 2)}
    found = {
        "corpus": corpus.manifest["name"],
        "kilobytes per record": round(float(corpus.index["size"][pool.rows].mean()) / 1024, 1),
        "records per second": {name: round(value) for name, value in rates.items()},
        "ratio to pread": {name: round(value / rates["pread"], 3) for name, value in rates.items()},
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
