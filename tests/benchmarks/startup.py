"""Seconds from the command to the first update: demo corpus made before, compilation cache empty, then filled."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def first_step(workdir, cache):
    """Runs the main command until its first update is logged, then stops it."""
    command = ["--config=configs/lsgmer.py", "--config.train.checkpoint_minutes=0"]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "mer_jax.main", *command, f"--workdir={workdir}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    while not (workdir / "checkpoints" / "1").exists():
        assert process.poll() is None
        time.sleep(0.01)
    seconds = time.monotonic() - began
    process.kill()
    process.wait()
    return round(seconds, 1)


def main():
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        make = "from mer_jax.data.synthetic import demo_corpus; demo_corpus()"
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", make], check=True, env=os.environ | {"XDG_CACHE_HOME": str(cache)}, cwd=ROOT
        )
        made = round(time.monotonic() - began, 1)
        cold, *warm = [first_step(Path(folder) / f"run{i}", cache) for i in range(4)]
    found = {
        "making the demo corpus, s": made,
        "command to first update saved, empty compilation cache, s": cold,
        "with the cache filled, s": sorted(warm)[1],
        "ratio": round(sorted(warm)[1] / cold, 3),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
