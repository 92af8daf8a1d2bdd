"""Seconds and megabytes of a report of 30 replicas that tested 1,623 utterances each, beside bare `json.loads` of their
predictions; the run is made up."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--utterances", type=int, default=1623, help="default: %(default)s")
    parser.add_argument("--classes", type=int, default=6, help="default: %(default)s")
    flags = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from finished import write_run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        labels = tuple(f"class {i}" for i in range(flags.classes))
        write_run(folder, seeds=flags.replicas, utterances=flags.utterances, labels=labels, epochs=30)
        predictions = folder / "predictions.jsonl"
        began = time.perf_counter()
        for line in predictions.read_bytes().splitlines():
            json.loads(line)
        parsing = time.perf_counter() - began
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "mer_jax.report", str(folder)], check=True, capture_output=True, cwd=ROOT)
        took = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        found = {
            "replicas": flags.replicas,
            "test utterances of each": flags.utterances,
            "predictions.jsonl, MB": round(predictions.stat().st_size / 1e6, 1),
            "seconds, the whole command": round(took, 2),
            "seconds of json.loads of the predictions alone": round(parsing, 2),
            "the page, MB": round((folder / "report.html").stat().st_size / 1e6, 2),
            "peak memory, MB": round(peak / 1e3),
        }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
