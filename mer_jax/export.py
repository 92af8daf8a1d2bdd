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
import copy
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
BATCHES, BATCHES_OF_FRAMES = (1, 7, 64), (1, 2, 3)
# What a program does that has JAX and nothing of ours.
RUN_STABLEHLO = """
import sys
import numpy as np
from jax import export
with open(sys.argv[1], "rb") as file:
    model = export.deserialize(bytearray(file.read()))
for path in sys.argv[2:]:
    with np.load(path) as given:
        parts = [{k.removeprefix(part): given[k] for k in given if k.startswith(part)} for part in ("features/", "mask/")]
    np.save(path.removesuffix("npz") + "npy", np.asarray(model.call(*parts)))
assert "mer_jax" not in sys.modules
"""

Batch = tuple[dict[str, Any], dict[str, Any]]  # features and mask, by modality


class Function(NamedTuple):
    """What is exported. call(features, mask) -> Float32[batch, classes]; shapes: of its two arguments, with symbols where any
    number will do; most[m]: of modality m so many time steps are read, the first."""

    call: Callable[[dict[str, Any], dict[str, Any]], Any]
    shapes: Batch
    most: dict[str, int]


# ---- the function ----


def function_of(trained: Any, replica: int) -> Function:
    """The replica's model as a function of raw features, in float32 whatever it was trained in, all frames of a batch together."""
    import jax
    import jax.numpy as jnp

    from mer_jax import batch, program, step
    from mer_jax.config import DeepMSIFramesExperiment

    config = copy.deepcopy(trained.config)
    config.train.precision = "float32"
    if isinstance(config, DeepMSIFramesExperiment):
        config.backbone.at_once, config.backbone.rematerialize = 0, False
    apply = program.family_of(config, trained.manifest)[0].apply
    # On one device, whatever the models lie on; not NumPy's, which would be computed with, and written, while tracing.
    model = jax.tree.map(jnp.asarray, jax.device_get(trained.model(replica)))
    temperature, most = np.float32(trained.temperature(replica)), most_of(trained)

    def call(features: dict[str, Any], mask: dict[str, Any]) -> Any:
        features = {m: first(x, most[m]) if m in most else x for m, x in features.items()}
        mask = {m: first(x, most[m]) if m in most else x for m, x in mask.items()}
        size = next(iter(mask.values())).shape[0]
        target = jnp.zeros((size, len(trained.labels)))
        given = batch.Batch(features, mask, jnp.zeros((size,), jnp.int32), target, jnp.ones((size,)))
        logits = apply(model.params, model.rest, step.standardize(given, model.input_stats))[0]["logits"]
        return jax.nn.softmax(logits / temperature, axis=-1)

    return Function(call, shapes_of(trained), most)


def longest_of(trained: Any) -> dict[str, int]:
    """The time steps of the longest sequences that the run used."""
    settings = trained.config.data
    limits = settings.max_length * (len(settings.modalities) // len(settings.max_length))
    return {m: min(n, trained.modalities[m]["longest"]) for m, n in zip(settings.modalities, limits, strict=True)}


def most_of(trained: Any) -> dict[str, int]:
    """DeepMSI-MER keeps a share of the visual steps, and its TCN plans by how many there are: that must be a number, and is
    that of the longest that the run used. Padding up to it changes nothing."""
    from mer_jax.config import DeepMSIExperiment

    framed = isinstance(trained.config, DeepMSIExperiment) and "visual" in trained.modalities
    return {"visual": longest_of(trained)["visual"]} if framed else {}


def first(x: Any, count: int) -> Any:
    """The first `count` time steps, zeros where there are no more; the result's length is a number even if x's is a symbol."""
    import jax.numpy as jnp

    nothing = jnp.zeros((x.shape[0], count, *x.shape[2:]), x.dtype)
    return jnp.concatenate([x, nothing], axis=1)[:, :count]


def feature_shape(trained: Any, modality: str) -> tuple[tuple[int, ...], Any]:
    """(shape of a time step, dtype)"""
    spec = trained.modalities[modality]
    if "pixels" in spec:
        size = trained.config.frames.size
        return (size, size, 3), np.uint8
    return (spec["width"],), np.float32


def shapes_of(trained: Any) -> Batch:
    import jax

    size, *times = jax.export.symbolic_shape(", ".join(["batch", *(f"time_{m}" for m in trained.modalities)]))
    features, mask = {}, {}
    for m, steps in zip(trained.modalities, times, strict=True):
        shape, dtype = feature_shape(trained, m)
        features[m] = jax.ShapeDtypeStruct((size, steps, *shape), dtype)
        mask[m] = jax.ShapeDtypeStruct((size, steps), np.bool_)
    return features, mask


# ---- files ----


def write_stablehlo(path: Path, function: Function) -> None:
    import jax

    # Else a GPU or TPU would round float32 products to fewer bits.
    with jax.default_matmul_precision("highest"):
        exported = jax.export.export(jax.jit(function.call), platforms=PLATFORMS)(*function.shapes)
    path.write_bytes(exported.serialize())


def write_onnx(path: Path, function: Function, about: Mapping[str, str]) -> None:
    import jax2onnx
    import onnx

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


def onnx_names(modalities: list[str]) -> list[str]:
    return [*modalities, *(f"{m}_mask" for m in modalities)]


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


# ---- checks ----


def utterances(trained: Any, count: int) -> tuple[list[dict[str, Any]], str]:
    """(features of `count` utterances, where they are from): of the run's corpus, or drawn if it is not there."""
    from mer_jax.inputs import Item
    from mer_jax.main import open_corpus

    manifest, config = trained.manifest, trained.config
    try:
        corpus = open_corpus(config)
        if corpus.manifest_sha256 == manifest.manifest_sha256:
            rows = np.linspace(0, len(corpus) - 1, count).astype(int).tolist()
            items = [trained.checked(Item(str(row), corpus[row].features)) for row in rows]
            if found := [dict(item.features) for item in items if not item.error]:
                return [found[i % len(found)] for i in range(count)], f"utterances of {manifest.manifest['name']}"
    except UserError:
        pass
    rng = np.random.default_rng(0)

    def drawn(m: str) -> np.ndarray:
        shape, dtype = feature_shape(trained, m)
        steps = int(rng.integers(1, longest_of(trained)[m] + 1))
        if dtype == np.uint8:
            return rng.integers(0, 256, (steps, *shape)).astype(np.uint8)
        return rng.normal(size=(steps, *shape)).astype(np.float32)

    return [{m: drawn(m) for m in trained.modalities} for _ in range(count)], "drawn at random: the corpus is not there"


def batches_of(trained: Any, found: list[dict[str, Any]]) -> list[Batch]:
    """Batches of several sizes and lengths: as long as their utterances, cut, and with padding; where there are several
    modalities the last row of a batch has only one."""
    out = []
    framed = any("pixels" in spec for spec in trained.modalities.values())
    for i, size in enumerate(BATCHES_OF_FRAMES if framed else BATCHES):
        features, mask = {}, {}
        for j, m in enumerate(trained.modalities):
            shape, dtype = feature_shape(trained, m)
            values = [x.get(m, np.zeros((0, *shape), dtype)) for x in found[-size:]]
            if size > 1 and j:
                values[-1] = values[-1][:0]
            longest = max(1, *(len(x) for x in values))
            steps = (longest, longest // 2 + 1, longest + 3)[i] + 2 * j * i
            features[m], mask[m] = np.zeros((size, steps, *shape), dtype), np.zeros((size, steps), bool)
            for row, value in enumerate(values):
                value = value[:steps]
                features[m][row, : len(value)], mask[m][row, : len(value)] = value, True
        out.append((features, mask))
    return out


def by_stablehlo(path: Path, batches: list[Batch]) -> list[np.ndarray]:
    """What a new process computes that has JAX, on the CPU, and nothing of ours."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.npz" for i in range(len(batches))]
        for file, (features, mask) in zip(files, batches, strict=True):
            named = {f"features/{m}": x for m, x in features.items()} | {f"mask/{m}": x for m, x in mask.items()}
            np.savez(file, allow_pickle=False, **named)
        command = [sys.executable, "-P", "-c", RUN_STABLEHLO, str(path), *map(str, files)]
        done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"it does not run by itself: {last_line(done.stderr)}")
        return [np.load(file.with_suffix(".npy")) for file in files]


def by_onnx(path: Path, batches: list[Batch]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = []
    for features, mask in batches:
        named = dict(zip(onnx_names(list(features)), [*features.values(), *mask.values()], strict=True))
        found.append(session.run(["probabilities"], named)[0])
    return found


def by_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> float:
    """The most that an array read back differs; infinity if they are not the same arrays."""
    from safetensors.numpy import load_file

    found = load_file(path)
    if {k: (x.shape, x.dtype) for k, x in found.items()} != {k: (x.shape, x.dtype) for k, x in arrays.items()}:
        return float("inf")
    return max(float(np.abs(found[k].astype(np.float64) - x).max(initial=0)) for k, x in arrays.items())


def truth(trained: Any, replica: int, function: Function, batches: list[Batch]) -> tuple[list[np.ndarray], float]:
    """(what the files are compared with, by how much that differs from the model as it was trained): what the model itself
    gives, unless it works in bfloat16; then it is the same model in float32."""
    import jax

    def found(call: Callable[[dict[str, Any], dict[str, Any]], Any]) -> list[np.ndarray]:
        compiled = jax.jit(call)
        with jax.default_matmul_precision("highest"):
            return [np.asarray(compiled(*batch)) for batch in batches]

    of_model = found(trained.forward(replica))
    if trained.config.train.precision == "float32":
        return of_model, 0.0
    of_call = found(function.call)
    return of_call, max(difference(a, b) for a, b in zip(of_model, of_call, strict=True))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest of two tables of probabilities; infinity if one is none."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a.astype(np.float64) - b).max())


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


def io_of(trained: Any, replica: int, function: Function, formats: list[str]) -> dict[str, Any]:
    """io.json, without checks."""
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
    from mer_jax import trained as trained_lib

    trained = trained_lib.load(run)
    number = trained.which(int(replica) if replica and replica.isdigit() else replica)
    if replica == "all" or not number:
        raise UserError("--replica: one model is exported; give its number or name")
    function = function_of(trained, number[0])
    about = io_of(trained, number[0], function, formats)
    told = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in about.items()}
    told |= {"config": json.dumps(config_lib.to_dict(trained.config)), "modalities": json.dumps(trained.modalities),
             "data": json.dumps(trained.metrics["data"]), "protocol": json.dumps(trained.metrics["protocol"])}  # fmt: skip
    found, whence = utterances(trained, max(BATCHES))
    batches = batches_of(trained, found)
    right, apart = truth(trained, number[0], function, batches)
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
    path: Path, name: str, trained: Any, replica: int, function: Function, told: Mapping[str, str]
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
    path: Path, name: str, batches: list[Batch], right: list[np.ndarray], arrays: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """How much the file differs from the model, batch by batch."""
    if name == "safetensors":
        return [{"arrays": len(arrays), "difference": by_safetensors(path, arrays)}]
    found = (by_stablehlo if name == "stablehlo" else by_onnx)(path, batches)
    return [
        {"batch": len(p), "time": {m: x.shape[1] for m, x in mask.items()}, "difference": difference(p, q)}
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
