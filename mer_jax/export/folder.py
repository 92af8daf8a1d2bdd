"""The folder that an export writes: the files, checked against the model, io.json and the model card."""

import importlib.metadata
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax import config as config_lib
from mer_jax.errors import UserError
from mer_jax.export import verify
from mer_jax.export.exported_function import ExportedFunction, export_function, longest_of
from mer_jax.export.model_card import model_card
from mer_jax.export.writers import FORMATS, conversion_errors_reported, write_model
from mer_jax.files import atomic_folder, sha256_of, write_json
from mer_jax.predict import loading
from mer_jax.predict.predictor import Predictor

READS_ALONE = (
    "every utterance by itself: the other turns of a dialogue, which the model has learnt to hear, are no inputs of "
    "this program; mer_jax.predict hears them"
)
WHOEVER_SPEAKS = (
    "features are standardised by the whole training part, whoever speaks; mer_jax.predict does it by the speaker, for "
    "those who trained"
)
MAX_ABS_DIFF = 1e-5  # by which an output of a file may differ from the model's


def export_run(run: Path, out: Path, formats: list[str], replica: str | None) -> dict[str, Any]:
    """Writes the folder; returns what io.json says. Its `good` tells whether all files compute what the model does; if
    not, there is no folder. Raises UserError."""
    model = loading.load(run)
    number = replica_number(model, replica)
    function = export_function(model, number)
    about = describe(model, number, function, formats)
    metadata = metadata_of(model, about)
    utterances, origin = verify.sample_utterances(model, max(verify.BATCH_SIZES))
    batches = verify.batches_of(model, utterances)
    wanted, apart = verify.reference_outputs(model, number, function, batches)
    about["checks"] = {
        "inputs": origin,
        "allowed": MAX_ABS_DIFF,
        "precision_of_training": model.config.train.precision,
        "float32_against_trained": apart,
    }
    with atomic_folder(out) as folder:
        for name in formats:
            path, began = folder / f"model.{name}", time.monotonic()
            with conversion_errors_reported(name, out / path.name):
                arrays = write_model(path, name, model, number, function, metadata)
                seconds = time.monotonic() - began
                about["checks"][name] = compare(path, name, batches, wanted, arrays)
            print_check(path, about["checks"][name], seconds)
        about["good"] = all(largest(about["checks"][name]) <= MAX_ABS_DIFF for name in formats)
        if not about["good"]:
            shutil.rmtree(folder)
            return about
        write_json(folder / "io.json", about)
        files = {path.name: (path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())}
        (folder / "README.md").write_text(model_card(model, number, about, files))
    return about


def replica_number(model: Predictor, replica: str | None) -> int:
    """The one replica that is exported."""
    found = model.select_replicas(replica)
    if replica == "all" or not found:
        raise UserError("--replica: one model is exported; give its number or name")
    return found[0]


def describe(model: Predictor, replica: int, function: ExportedFunction, formats: list[str]) -> dict[str, Any]:
    """io.json, without checks."""
    inputs = []
    for part, kind in zip(function.shapes, ("features", "mask"), strict=True):
        for m, x in part.items():
            inputs.append(
                {
                    "onnx": m if kind == "features" else f"{m}_mask",
                    "jax": f"{kind}[{m!r}]",
                    "modality": m,
                    "kind": kind,
                    "shape": [n if isinstance(n, int) else str(n) for n in x.shape],
                    "dtype": np.dtype(x.dtype).name,
                }
            )
    longest = longest_of(model).items()
    return {
        "inputs": inputs,
        **model.task.describe_export(),
        "reads": (READS_ALONE if model.hears else "every utterance by itself, as in training")
        + f"; {WHOEVER_SPEAKS}" * (model.config.data.speaker_norm != "none"),
        "time_steps": {m: {"longest": n, "read_at_most": function.fixed_lengths.get(m)} for m, n in longest},
        "extractors": {m: spec["extractor"] for m, spec in model.modalities.items()},
        "temperature": model.temperature(replica),
        "replica": model.replicas[replica],
        "files": {name: f"model.{name}" for name in formats},
        "versions": versions(formats),
    }


def metadata_of(model: Predictor, about: dict[str, Any]) -> dict[str, str]:
    """What the files say of themselves, as text by name."""
    more = {
        "config": config_lib.to_dict(model.config),
        "modalities": model.modalities,
        "data": model.metrics["data"],
        "protocol": model.metrics["protocol"],
    }
    told = {name: x if isinstance(x, str) else json.dumps(x, ensure_ascii=False) for name, x in about.items()}
    return told | {name: json.dumps(value) for name, value in more.items()}


def versions(formats: list[str]) -> dict[str, str]:
    """The versions of all packages that take part."""
    names = ["mer_jax", "jax", "flax", "numpy", *(package for name in formats for package in FORMATS[name])]
    return {name: importlib.metadata.version(name) for name in dict.fromkeys(names)}


def compare(
    path: Path,
    name: str,
    batches: list[Any],
    wanted: list[np.ndarray],
    arrays: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
    """How much the file differs from the model, batch by batch. arrays: what is in it, if it holds arrays only."""
    if name == "safetensors":
        return [{"arrays": len(arrays), "difference": verify.difference_of_arrays(path, arrays)}]
    found = (verify.run_stablehlo if name == "stablehlo" else verify.run_onnx)(path, batches)
    return [
        {
            "batch": len(p),
            "time": {m: x.shape[1] for m, x in mask.items()},
            "difference": verify.max_abs_difference(p, q),
        }
        for (_, mask), p, q in zip(batches, wanted, found, strict=True)
    ]


def largest(checks: list[dict[str, Any]]) -> float:
    """The largest difference of a file's checks."""
    return max(check["difference"] for check in checks)


def print_check(path: Path, checks: list[dict[str, Any]], seconds: float) -> None:
    """Says how large a file is, and how much it differs."""
    difference = largest(checks)
    verdict = "" if difference <= MAX_ABS_DIFF else f", more than {MAX_ABS_DIFF:g}"
    print(
        f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, written in {seconds:.1f} s; "
        f"largest difference {difference:.1e}{verdict}",
        flush=True,
    )
