"""A whole experiment of N replicas in one run, against N runs started by hand: one after the other, and as many at a
time as there are cores. Start-up, reading and scoring are included; the compilation cache is filled before."""

import argparse
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(folder, name, flags, cores=None):
    """Seconds that one command takes."""
    command = [sys.executable, "-m", "mer_jax.main", *flags, f"--workdir={folder / name}"]
    if cores is not None:
        command = ["taskset", "-c", str(cores), *command]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def measure(folder, flags, count):
    together = run(folder, f"together{count}", [*flags, f"--config.replicas.seeds={count}"])
    metrics = json.loads((folder / f"together{count}" / "metrics.json").read_text())
    config = metrics["config"]["train"]
    train = metrics["data"]["counts"]["official"]["train"]["utterances"]
    steps = config["epochs"] * -(-train // config["batch_size"]) * count  # where no replica stops early
    began = time.perf_counter()
    for seed in range(count):
        run(folder, f"turn{count}-{seed}", [*flags, f"--config.seed={seed}"])
    turn = time.perf_counter() - began
    began = time.perf_counter()
    cores = sorted(os.sched_getaffinity(0))
    with concurrent.futures.ThreadPoolExecutor(len(cores)) as pool:
        free = list(cores)

        def pinned(seed):
            core = free.pop()
            run(folder, f"pinned{count}-{seed}", [*flags, f"--config.seed={seed}"], core)
            free.append(core)

        list(pool.map(pinned, range(count)))
    parallel = time.perf_counter() - began
    return {
        "replicas": count,
        "seconds, one run": round(together, 1),
        "milliseconds per replica-step, everything included": round(1e3 * together / steps, 1),
        "seconds by hand, one after the other": round(turn, 1),
        f"seconds by hand, {len(cores)} at a time on a core each": round(parallel, 1),
        "times faster than one after the other": round(turn / together, 2),
        f"times faster than {len(cores)} at a time": round(parallel / together, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/deepmsi_mer.py")
    parser.add_argument("--count", type=int, nargs="+", default=[1, 5, 10, 30])
    parser.add_argument("flag", nargs="*", help="further flags of mer_jax.main, behind --")
    arguments = parser.parse_args()
    flags = [f"--config={arguments.config}", "--config.train.patience=0", *arguments.flag]
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), "warm", flags)
        for count in arguments.count:
            print(json.dumps(measure(Path(folder), flags, count), indent=1), flush=True)


if __name__ == "__main__":
    main()
