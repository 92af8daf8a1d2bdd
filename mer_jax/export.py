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
import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.card import card
from mer_jax.errors import UserError, reported
from mer_jax.records import sha256_of

FORMATS = {
    "stablehlo": (),
    "onnx": ("jax2onnx", "onnx", "onnxruntime"),
    "safetensors": ("safetensors",),
}  # and what they need
PLATFORMS = ("cpu", "cuda", "tpu")
OPSET = 18  # of ONNX; later ones say nothing better of our models, and older runtimes do not know them
MOST = 1e-5  # by which a probability may differ
# ---- files ----


def write_stablehlo(path: Path, function: Any) -> None:
    import jax

    # Else a GPU or TPU would round float32 products to fewer bits.
    with jax.default_matmul_precision("highest"):
        exported = jax.export.export(jax.jit(function.call), platforms=PLATFORMS)(*function.shapes)
    path.write_bytes(exported.serialize())


def write_onnx(path: Path, function: Any, about: Mapping[str, str]) -> None:
    import jax2onnx
    import onnx

    from mer_jax.inference import onnx_names
    from mer_jax.rewrite import rewritten

    modalities = list(function.shapes[0])

    def flat(*inputs: Any) -> Any:
        parts = inputs[: len(modalities)], inputs[len(modalities) :]
        return function.call(*(dict(zip(modalities, part, strict=True)) for part in parts))

    shapes = [x for part in function.shapes for x in part.values()]
    with talkative("onnx_ir", "jax2onnx"):
        model = jax2onnx.to_onnx(
            rewritten(flat, *shapes), shapes, model_name="mer_jax", opset=OPSET, input_names=onnx_names(modalities),
            output_names=["probabilities"],
        )  # fmt: skip
    # The converter gives the lengths of all loops' outputs one name, from which runtimes conclude that they are equal.
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model)
    onnx.save(model, path)


@contextlib.contextmanager
def talkative(*loggers: str) -> Iterator[None]:
    """Packages that tell everybody about their inner life are not listened to."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def arrays_of(trained: Any, replica: int) -> dict[str, np.ndarray]:
    """Every array of the model by path."""
    import jax

    model = {**vars(jax.device_get(trained.model(replica))), "temperature": np.float32(trained.temperature(replica))}
    leaves = jax.tree_util.tree_leaves_with_path(model)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.array(x, order="C") for path, x in leaves}


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], about: Mapping[str, str]) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, path, metadata=dict(about))
    path.chmod(0o644)  # it is written for its owner alone


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


def refuse_filled(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} exists already and is not empty; choose another, or delete it first")


def versions(formats: list[str]) -> dict[str, str]:
    names = ["mer_jax", "jax", "flax", "numpy", *(package for name in formats for package in FORMATS[name])]
    return {name: importlib.metadata.version(name) for name in dict.fromkeys(names)}


def io_of(trained: Any, replica: int, function: Any, formats: list[str]) -> dict[str, Any]:
    """io.json, without checks."""
    from mer_jax.inference import longest_of

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
    from mer_jax import agreement, inference
    from mer_jax import config as config_lib
    from mer_jax import trained as trained_lib

    trained = trained_lib.load(run)
    number = trained.which(int(replica) if replica and replica.isdigit() else replica)
    if replica == "all" or not number:
        raise UserError("--replica: one model is exported; give its number or name")
    function = inference.function_of(trained, number[0])
    about = io_of(trained, number[0], function, formats)
    told = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in about.items()}
    told |= {"config": json.dumps(config_lib.to_dict(trained.config)), "modalities": json.dumps(trained.modalities),
             "data": json.dumps(trained.metrics["data"]), "protocol": json.dumps(trained.metrics["protocol"])}  # fmt: skip
    found, whence = agreement.utterances(trained, max(agreement.BATCHES))
    batches = agreement.batches_of(trained, found)
    right, apart = agreement.truth(trained, number[0], function, batches)
    with made_whole(out) as folder:
        about["checks"] = {"inputs": whence, "allowed": MOST, "precision_of_training": trained.config.train.precision,
                           "float32_against_trained": apart}  # fmt: skip
        good = True
        for name in formats:
            path, began = folder / f"model.{name}", time.monotonic()
            with converting(name):
                arrays = written(path, name, trained, number[0], function, told)
                took = time.monotonic() - began
                about["checks"][name] = compare(path, name, batches, right, arrays)
            worst = max(check["difference"] for check in about["checks"][name])
            good &= worst <= MOST
            print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, written in {took:.1f} s; largest difference {worst:.1e}"
                  + ("" if worst <= MOST else f", more than {MOST:g}"), flush=True)  # fmt: skip
        about["good"] = good
        if not good:
            shutil.rmtree(folder)
            return about
        (folder / "io.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        files = {path.name: (path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())}
        (folder / "README.md").write_text(card(trained, number[0], about, files))
    return about


def written(
    path: Path, name: str, trained: Any, replica: int, function: Any, told: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Writes one of the files. Returns what must be in it, where that are arrays."""
    if name == "safetensors":
        arrays = arrays_of(trained, replica)
        write_safetensors(path, arrays, told)
        return arrays
    if name == "stablehlo":
        write_stablehlo(path, function)
    else:
        write_onnx(path, function, told)
    return {}


def compare(
    path: Path, name: str, batches: list[Any], right: list[np.ndarray], arrays: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """How much the file differs from the model, batch by batch."""
    from mer_jax import agreement

    if name == "safetensors":
        return [{"arrays": len(arrays), "difference": agreement.by_safetensors(path, arrays)}]
    found = (agreement.by_stablehlo if name == "stablehlo" else agreement.by_onnx)(path, batches)
    return [
        {"batch": len(p), "time": {m: x.shape[1] for m, x in mask.items()}, "difference": agreement.difference(p, q)}
        for (_, mask), p, q in zip(batches, right, found, strict=True)
    ]


@contextlib.contextmanager
def converting(name: str) -> Iterator[None]:
    """What converters and runtimes raise becomes a UserError."""
    try:
        yield
    except Exception as error:
        others = ",".join(other for other in FORMATS if other != name)
        why = last_line(str(error)) or type(error).__name__
        raise UserError(
            f"this model cannot be written as {name} ({why}); leave that out: --formats={others}"
        ) from error


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


@contextlib.contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes `out` when all is well; if it was removed, or something failed, there is nothing."""
    refuse_filled(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    except (OSError, ValueError) as error:
        raise UserError(f"--out={out} cannot be made: {error}") from None
    try:
        partial.chmod(0o755)
        yield partial
        if partial.exists():
            refuse_filled(out)
            partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
