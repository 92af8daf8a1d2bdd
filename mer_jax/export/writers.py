"""Writing the model as StableHLO, ONNX and safetensors. JAX and the converters start with the first file."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.errors import UserError, explained

# The formats, and the packages that each needs.
FORMATS = {"stablehlo": (), "onnx": ("jax2onnx", "onnx", "onnxruntime"), "safetensors": ("safetensors",)}
PLATFORMS = ("cpu", "cuda", "tpu")
OPSET = 18  # of ONNX; later ones say nothing better of our models, and older runtimes do not know them


def write_model(
    path: Path, name: str, model: Any, replica: int, function: Any, metadata: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Writes one of the files. Returns what must be in it, if it holds arrays only."""
    if name == "safetensors":
        arrays = arrays_of(model, replica)
        write_safetensors(path, arrays, metadata)
        return arrays
    if name == "stablehlo":
        write_stablehlo(path, function)
    else:
        write_onnx(path, function, metadata)
    return {}


def write_stablehlo(path: Path, function: Any) -> None:
    """Writes a file for `jax.export.deserialize`."""
    import jax

    # Else a GPU or TPU would round float32 products to fewer bits.
    with jax.default_matmul_precision("highest"):
        exported = jax.export.export(jax.jit(function.call), platforms=PLATFORMS)(*function.shapes)
    path.write_bytes(exported.serialize())


def write_onnx(path: Path, function: Any, metadata: Mapping[str, str]) -> None:
    """Writes a file for ONNX Runtime."""
    import jax2onnx
    import onnx

    from mer_jax.export.exported_function import onnx_names
    from mer_jax.export.jaxpr_rewrite import simplify_jaxpr

    modalities = list(function.shapes[0])

    def flat(*inputs: Any) -> Any:
        parts = inputs[: len(modalities)], inputs[len(modalities) :]
        return function.call(*(dict(zip(modalities, part, strict=True)) for part in parts))

    shapes = [x for part in function.shapes for x in part.values()]
    with noisy_output_captured("onnx_ir", "jax2onnx"):
        model = jax2onnx.to_onnx(
            simplify_jaxpr(flat, *shapes),
            shapes,
            model_name="mer_jax",
            opset=OPSET,
            input_names=onnx_names(modalities),
            output_names=[function.output],
        )
    # The converter gives the lengths of all loops' outputs one name, from which runtimes conclude that they are equal.
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes the arrays by name."""
    from safetensors.numpy import save_file

    save_file(arrays, path, metadata=dict(metadata))
    path.chmod(0o644)  # it is written for its owner alone


def arrays_of(model: Any, replica: int) -> dict[str, np.ndarray]:
    """Every array of the model by path."""
    import jax

    arrays = {**vars(jax.device_get(model.model(replica))), "temperature": np.float32(model.temperature(replica))}
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.array(x, order="C") for path, x in leaves}


@contextlib.contextmanager
def noisy_output_captured(*loggers: str) -> Iterator[None]:
    """Warnings and what these loggers say below an error are dropped: it is of no use to who exports."""
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


@contextlib.contextmanager
def conversion_errors_reported(name: str, path: Path) -> Iterator[None]:
    """What converters and runtimes raise becomes a UserError; name: of the format, path: of the file."""
    try:
        yield
    except Exception as error:
        if isinstance(refused := explained(error, path), UserError):
            raise refused from None
        others = ",".join(other for other in FORMATS if other != name)
        why = last_line(str(error)) or type(error).__name__
        raise UserError(
            f"this model cannot be written as {name} ({why}); leave that out: --formats={others}"
        ) from error


def last_line(text: str) -> str:
    """The end of a message, shortened."""
    return (text.strip().splitlines() or [""])[-1][:300]
