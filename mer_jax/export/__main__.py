"""A finished run as files that need no mer_jax to be used, each checked against the model, with a model card.

    python -m mer_jax.export RUN --out DIR
    python -m mer_jax.export RUN --out DIR --formats onnx,safetensors

    DIR/model.stablehlo     the whole model for CPU, CUDA and TPU; any program with JAX runs it (jax.export.deserialize)
    DIR/model.onnx          the whole model for ONNX Runtime and what else reads ONNX
    DIR/model.safetensors   its arrays by name, to be built into something else
    DIR/io.json             names, shapes and types of inputs and output, the classes, what was checked
    DIR/README.md           the model card: data, scores, calibration, how to feed it, what it must not be used for

The exported function takes features as they come from the extractors and gives probabilities: standardisation and temperature
scaling are in it. Batch size and lengths are free. Exit code 1, and no DIR, if a file computes something else than the model.
"""

import argparse
import importlib.metadata
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError, reported
from mer_jax.export.model_card import model_card
from mer_jax.export.writers import FORMATS, converting, written
from mer_jax.files import made_whole, refuse_filled, sha256_of

MAX_ABS_DIFF = 1e-5  # by which a probability may differ


# ---- all of it ----


def parse_formats(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [""]:
        if name not in FORMATS:
            raise UserError(f"--formats={text}: must be some of {', '.join(FORMATS)}, as in --formats=onnx,safetensors")
    missing = [package for name in names for package in FORMATS[name] if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"--formats={text} needs {', '.join(missing)}: pip install 'mer_jax[export]', or pip install "
                        f"{' '.join(missing)}; or leave {', '.join(n for n in names if set(FORMATS[n]) & set(missing))} out")  # fmt: skip
    return [name for name in FORMATS if name in names]


def versions(formats: list[str]) -> dict[str, str]:
    names = ["mer_jax", "jax", "flax", "numpy", *(package for name in formats for package in FORMATS[name])]
    return {name: importlib.metadata.version(name) for name in dict.fromkeys(names)}


def io_of(trained: Any, replica: int, function: Any, formats: list[str]) -> dict[str, Any]:
    """io.json, without checks."""
    from mer_jax.export.exported_function import longest_of

    inputs = []
    for part, kind in zip(function.shapes, ("features", "mask"), strict=True):
        for m, x in part.items():
            shape = [n if isinstance(n, int) else str(n) for n in x.shape]
            inputs.append({"onnx": m if kind == "features" else f"{m}_mask", "jax": f"{kind}[{m!r}]", "modality": m, "kind": kind,
                           "shape": shape, "dtype": np.dtype(x.dtype).name})  # fmt: skip
    steps = {m: {"longest": n, "read_at_most": function.most.get(m)} for m, n in longest_of(trained).items()}
    return {
        "inputs": inputs,
        "output": {"name": "probabilities", "shape": ["batch", len(trained.labels)], "dtype": "float32"},
        "labels": list(trained.labels),
        "time_steps": steps,
        "extractors": {m: spec["extractor"] for m, spec in trained.modalities.items()},
        "temperature": float(trained.temperature(replica)),
        "replica": trained.replicas[replica],
        "files": {name: f"model.{name}" for name in formats},
        "versions": versions(formats),
    }


def export(run: Path, out: Path, formats: list[str], replica: str | None) -> dict[str, Any]:
    """Writes the folder; returns what io.json says. Raises UserError; `checks` tells whether a file differs, and there is
    then no folder."""
    from mer_jax import config as config_lib
    from mer_jax.export import exported_function, verify
    from mer_jax.predict import predictor as predictor_lib

    trained = predictor_lib.load(run)
    number = trained.which(int(replica) if replica and replica.isdigit() else replica)
    if replica == "all" or not number:
        raise UserError("--replica: one model is exported; give its number or name")
    function = exported_function.exported_function(trained, number[0])
    about = io_of(trained, number[0], function, formats)
    told = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in about.items()}
    told |= {"config": json.dumps(config_lib.to_dict(trained.config)), "modalities": json.dumps(trained.modalities),
             "data": json.dumps(trained.metrics["data"]), "protocol": json.dumps(trained.metrics["protocol"])}  # fmt: skip
    found, whence = verify.utterances(trained, max(verify.BATCHES))
    batches = verify.batches_of(trained, found)
    right, apart = verify.reference_probabilities(trained, number[0], function, batches)
    with made_whole(out) as folder:
        about["checks"] = {"inputs": whence, "allowed": MAX_ABS_DIFF, "precision_of_training": trained.config.train.precision,
                           "float32_against_trained": apart}  # fmt: skip
        good = True
        for name in formats:
            path, began = folder / f"model.{name}", time.monotonic()
            with converting(name):
                arrays = written(path, name, trained, number[0], function, told)
                took = time.monotonic() - began
                about["checks"][name] = compare(path, name, batches, right, arrays)
            worst = max(check["difference"] for check in about["checks"][name])
            good &= worst <= MAX_ABS_DIFF
            print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, written in {took:.1f} s; largest difference {worst:.1e}"
                  + ("" if worst <= MAX_ABS_DIFF else f", more than {MAX_ABS_DIFF:g}"), flush=True)  # fmt: skip
        about["good"] = good
        if not good:
            shutil.rmtree(folder)
            return about
        (folder / "io.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        files = {path.name: (path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())}
        (folder / "README.md").write_text(model_card(trained, number[0], about, files))
    return about


def compare(
    path: Path, name: str, batches: list[Any], right: list[np.ndarray], arrays: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """How much the file differs from the model, batch by batch."""
    from mer_jax.export import verify

    if name == "safetensors":
        return [{"arrays": len(arrays), "difference": verify.run_safetensors(path, arrays)}]
    found = (verify.run_stablehlo if name == "stablehlo" else verify.run_onnx)(path, batches)
    return [
        {
            "batch": len(p),
            "time": {m: x.shape[1] for m, x in mask.items()},
            "difference": verify.max_abs_difference(p, q),
        }
        for (_, mask), p, q in zip(batches, right, found, strict=True)
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="workdir of a finished run")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a folder that is not there yet, or empty"
    )
    parser.add_argument("--formats", default=",".join(FORMATS), help="default: %(default)s")
    parser.add_argument(
        "--replica", metavar="R", help="a replica's number or name; default: the first of the chosen point"
    )
    given = parser.parse_args(argv)
    with reported():
        formats = parse_formats(given.formats)
        refuse_filled(given.out)
        if not export(given.run, given.out, formats, given.replica)["good"]:
            print(f"{given.out} is not written: it would not compute what the model does", file=sys.stderr)
            sys.exit(1)
        print(f"wrote {given.out}; {given.out / 'README.md'} is the model card")


if __name__ == "__main__":
    main()
