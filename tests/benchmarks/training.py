"""The training loop's steps per second and its wait for data, resident and streamed, in processes of their own."""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

STEPS = 200


def measure_lsgmer(path, placement):
    from mer_jax import config as config_lib
    from mer_jax.data.corpus import Corpus
    from mer_jax.data.synthetic import demo_corpus
    from mer_jax.models import lsgmer as lsgmer_lib

    config = config_lib.validate(lsgmer_lib.LSGMERExperiment())
    config.data.placement = placement
    corpus = Corpus(path) if path else demo_corpus()
    config.data.modalities = tuple(m for m in config.data.modalities if m in corpus.modalities)
    return measure(config, corpus)


def measure(config, corpus):
    import jax
    from absl import flags

    from mer_jax import files
    from mer_jax.data import loader
    from mer_jax.runtime import console, sharding
    from mer_jax.training import setup

    flags.FLAGS.mark_as_parsed()
    console.console.quiet = True
    sharding.start(files.cache_folder() / "xla")
    run = setup.assemble(config, corpus, Path("unused"))
    run.groups.begin()
    data = run.data
    order = loader.training_order(
        data.batches.pool, data.rows_of_training(), config.train.batch_size, 0, config.data.group_by_length
    )
    for batch in (x for x, _ in zip(data.batches.training(order, 0), range(STEPS), strict=False)):
        terms = run.groups.train([0], *batch)  # compiles every padded length
    jax.block_until_ready(terms)
    items, waited, began = data.batches.training(order, 0), 0.0, time.perf_counter()
    for _ in range(STEPS):
        before = time.perf_counter()
        batch = next(items)
        waited += time.perf_counter() - before
        terms = run.groups.train([0], *batch)
    jax.block_until_ready(terms)
    seconds = time.perf_counter() - began
    return {
        "steps per second": round(STEPS / seconds, 2),
        "share of the time waiting for data": round(waited / seconds, 4),
        "peak memory, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", nargs="?", help="a corpus folder; default: the demo corpus")
    parser.add_argument("--placement", choices=("resident", "stream"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.placement:
        print(json.dumps(measure_lsgmer(arguments.corpus, arguments.placement)))
        return
    found = {}
    for placement in ("resident", "stream"):
        command = [
            sys.executable,
            __file__,
            *([arguments.corpus] if arguments.corpus else []),
            "--placement",
            placement,
        ]
        found[placement] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found["stream / resident, steps per second"] = round(
        found["stream"]["steps per second"] / found["resident"]["steps per second"], 3
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
