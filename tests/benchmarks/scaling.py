"""What splitting a step over processes costs: N processes with a device each on batches of N x 16, against one process
that does the same batches alone on the same cores. Data are streamed, LSGMER has its default size, compilation is not
counted."""

import argparse
import json
import os
import socket
import subprocess
import sys
import time

STEPS = 40


def worker(how, batch):
    from absl import flags

    flags.FLAGS.mark_as_parsed()
    import jax
    import numpy as np
    from etils import epath

    from mer_jax import config as config_lib
    from mer_jax import files
    from mer_jax.data import loader
    from mer_jax.data.synthetic import demo_corpus
    from mer_jax.main import parse_distributed
    from mer_jax.models import lsgmer as lsgmer_lib
    from mer_jax.runtime import console, distributed, sharding
    from mer_jax.training import setup

    distributed.start(parse_distributed(how), 60, epath.Path("/tmp/scaling"))
    sharding.start(files.cache_folder() / "xla")
    console.console.quiet = True
    config = lsgmer_lib.LSGMERExperiment()
    config.data.placement, config.data.max_length, config.train.batch_size = "stream", (8,), batch
    run = setup.assemble(config_lib.validate(config), demo_corpus(), "unused")
    run.groups.begin()
    batches = run.data.batches
    order = loader.training_order(batches.pool, run.data.rows_of_training(), batch, 0, 8)
    read, terms = 0, None
    for step, items in enumerate(batches.training(order, 0)):
        if step == 10:
            jax.block_until_ready(terms)
            began = time.perf_counter()
        terms = run.groups.train([0], *items)
        read += int((batches.addressable_rows(items[-1]) >= 0).sum())
        if step == 10 + STEPS:
            break
    jax.block_until_ready(terms)
    seconds = (time.perf_counter() - began) / (STEPS + 1)
    shares = distributed.all_gather({"read": np.array([read])})
    if distributed.is_primary():
        print(json.dumps({"seconds": seconds, "read": [int(share["read"][0]) for share in shares]}))


def measure(count, batch):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    hows = [f"localhost:{port},{count},{i}" for i in range(count)] if count > 1 else ["none"]
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--worker", how, "--batch", str(batch)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for how in hows
    ]
    told = [process.communicate()[0] for process in processes]
    return json.loads(told[0].strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--each", type=int, default=16, help="utterances per process and step")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.batch)
        return
    for count in arguments.count:
        batch = count * arguments.each
        split, alone = measure(count, batch), measure(1, batch)
        found = {
            "processes": count,
            "utterances a step": batch,
            "milliseconds a step": round(1e3 * split["seconds"], 1),
            "milliseconds of one process with the same batch": round(1e3 * alone["seconds"], 1),
            "overhead, milliseconds a step": round(1e3 * (split["seconds"] - alone["seconds"]), 1),
            "records read by each process": split["read"],
        }
        print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
