"""Utterances a second from a corpus on disk to predictions, beside the model's own forward pass on the same batches,
and peak memory as the number of utterances grows.

RUN is a finished run on the demo corpus; without it a `:tiny` one is made first. The corpora are drawn like the demo's.
Each size runs in a process of its own; memory is that process's, of loaded model and compiled programs, too.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def one(run, corpus):
    import jax
    import numpy as np

    import mer_jax
    from mer_jax.predict.inputs import items_of

    model = mer_jax.load(run)
    for _ in zip(range(600), model.predict(corpus), strict=False):  # compiles
        pass
    began, count, rss = time.perf_counter(), 0, []
    for _ in model.predict(corpus):
        count += 1
        if count % 500 == 0:
            rss.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)
    seconds = time.perf_counter() - began
    # The model's own step: 64 utterances padded as above, already on the device.
    items = [model.prepare(item) for _, item in zip(range(64), items_of(corpus, model), strict=False)]
    arguments = (model.model(0), np.float32(1), model.batch_of(items))
    jax.block_until_ready(model._compiled_outputs(*arguments))
    began, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < 3:
        jax.block_until_ready(model._compiled_outputs(*arguments))
        steps += 1
    return {
        "utterances": count,
        "a_second": round(count / seconds),
        "the_model_alone_a_second": round(64 * steps / spent),
        "share_of_the_model": round(count / seconds / (64 * steps / spent), 3),
        "megabytes_after_500": round(rss[0]),
        "megabytes_at_the_end": round(rss[-1]),
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", metavar="RUN")
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.corpus:
        print(json.dumps(one(given.run, given.corpus)))
        return
    from mer_jax.data.synthetic import write_demo

    found = []
    with tempfile.TemporaryDirectory() as folder:
        run = given.run or f"{folder}/run"
        if not given.run:
            command = [sys.executable, "-m", "mer_jax.main", "--config=configs/lsgmer.py:tiny", f"--workdir={run}"]
            subprocess.run(command, check=True, stdout=sys.stderr)
        for test in (1000, 10_000, 40_000):
            corpus = Path(folder) / str(test)
            write_demo(corpus, counts={"train": 100, "valid": 100, "test": test - 200})
            command = [sys.executable, __file__, run, "--corpus", str(corpus)]
            found.append(
                json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
            )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
