"""Whether an exported file computes what the model does: on utterances of the run's corpus, in batches of several sizes
and lengths."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mer_jax.data.batch import pad_rows
from mer_jax.errors import UserError
from mer_jax.experiment import open_corpus
from mer_jax.export.exported_function import ExportedFunction, FeatureMaskPair, longest_of, onnx_names
from mer_jax.predict.item import Item
from mer_jax.predict.predictor import Predictor

BATCH_SIZES, BATCH_SIZES_OF_FRAMES = (1, 7, 64), (1, 2, 3)
# What a program does that has JAX and nothing of ours.
RUN_STABLEHLO = """
import sys
import numpy as np
from jax import export
with open(sys.argv[1], "rb") as file:
    model = export.deserialize(bytearray(file.read()))
for path in sys.argv[2:]:
    with np.load(path) as given:
        names = ("features/", "mask/")
        parts = [{k.removeprefix(part): given[k] for k in given if k.startswith(part)} for part in names]
    np.save(path.removesuffix("npz") + "npy", np.asarray(model.call(*parts)))
assert "mer_jax" not in sys.modules
"""


def sample_utterances(model: Predictor, count: int) -> tuple[list[dict[str, Any]], str]:
    """(features of `count` utterances, where they are from): of the run's corpus, or drawn if it is not there."""
    manifest = model.manifest
    try:
        corpus = open_corpus(model.config)
        if corpus.manifest_sha256 == manifest.manifest_sha256:
            rows = np.linspace(0, len(corpus) - 1, count).astype(int).tolist()
            items = [model.prepare(Item(str(row), corpus[row].features)) for row in rows]
            if found := [dict(item.features) for item in items if not item.error]:
                return [found[i % len(found)] for i in range(count)], f"utterances of {manifest.manifest['name']}"
    except UserError:
        pass
    rng, longest = np.random.default_rng(0), longest_of(model)

    def drawn(m: str) -> np.ndarray:
        shape, dtype = model.step_spec(m)
        steps = int(rng.integers(1, longest[m] + 1))
        if dtype == np.uint8:
            return rng.integers(0, 256, (steps, *shape)).astype(np.uint8)
        return rng.normal(size=(steps, *shape)).astype(np.float32)

    return [{m: drawn(m) for m in model.modalities} for _ in range(count)], "drawn at random: the corpus is not there"


def batches_of(model: Predictor, utterances: list[dict[str, Any]]) -> list[FeatureMaskPair]:
    """Batches of several sizes and lengths: as long as their utterances, cut, and with padding; where there are several
    modalities the last row of a batch has only one."""
    batches = []
    framed = any("pixels" in spec for spec in model.modalities.values())
    for i, size in enumerate(BATCH_SIZES_OF_FRAMES if framed else BATCH_SIZES):
        features, mask = {}, {}
        for j, m in enumerate(model.modalities):
            shape, dtype = model.step_spec(m)
            values = [x.get(m, np.zeros((0, *shape), dtype)) for x in utterances[-size:]]
            if size > 1 and j:
                values[-1] = values[-1][:0]
            longest = max(1, *(len(x) for x in values))
            steps = (longest, longest // 2 + 1, longest + 3)[i] + 2 * j * i
            features[m], mask[m] = pad_rows(values, size, steps, shape, dtype)
        batches.append((features, mask))
    return batches


def reference_outputs(
    model: Predictor, replica: int, function: ExportedFunction, batches: list[FeatureMaskPair]
) -> tuple[list[np.ndarray], float]:
    """(what the files are compared with, by how much that differs from the model as it was trained): what the model
    itself gives, unless it works in bfloat16; then it is the same model in float32."""

    def outputs(call: Callable[[dict[str, Any], dict[str, Any]], Any]) -> list[np.ndarray]:
        compiled = jax.jit(call)
        with jax.default_matmul_precision("highest"):
            return [np.asarray(compiled(*batch)) for batch in batches]

    of_model = outputs(model.forward(replica))
    if model.config.train.precision == "float32":
        return of_model, 0.0
    of_call = outputs(function.call)
    return of_call, max(max_abs_difference(a, b) for a, b in zip(of_model, of_call, strict=True))


def run_stablehlo(path: Path, batches: list[FeatureMaskPair]) -> list[np.ndarray]:
    """What a new process computes that has JAX, on the CPU, and nothing of ours."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.npz" for i in range(len(batches))]
        for file, (features, mask) in zip(files, batches, strict=True):
            named = {f"features/{m}": x for m, x in features.items()} | {f"mask/{m}": x for m, x in mask.items()}
            np.savez(file, allow_pickle=False, **named)
        command = [sys.executable, "-P", "-c", RUN_STABLEHLO, str(path), *map(str, files)]
        done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"it does not run by itself:\n{done.stderr}")
        return [np.load(file.with_suffix(".npy")) for file in files]


def run_onnx(path: Path, batches: list[FeatureMaskPair]) -> list[np.ndarray]:
    """What ONNX Runtime computes, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = []
    for features, mask in batches:
        named = dict(zip(onnx_names(list(features)), [*features.values(), *mask.values()], strict=True))
        found.append(session.run(None, named)[0])
    return found


def difference_of_arrays(path: Path, arrays: dict[str, np.ndarray]) -> float:
    """The most that an array read back differs; infinity if they are not the same arrays."""
    from safetensors.numpy import load_file

    found = load_file(path)
    if {k: (x.shape, x.dtype) for k, x in found.items()} != {k: (x.shape, x.dtype) for k, x in arrays.items()}:
        return float("inf")
    return max(float(np.abs(found[k].astype(np.float64) - x).max(initial=0)) for k, x in arrays.items())


def max_abs_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest of two tables of outputs; infinity if a value is none."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a.astype(np.float64) - b).max())
