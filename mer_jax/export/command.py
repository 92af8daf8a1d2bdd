"""A finished run as files that need no mer_jax to be used, each checked against the model, with a model card.

    python -m mer_jax.export RUN --out DIR
    python -m mer_jax.export RUN --out DIR --formats onnx,safetensors

    DIR/model.stablehlo     the whole model for CPU, CUDA and TPU; any program with JAX runs it (jax.export.deserialize)
    DIR/model.onnx          the whole model for ONNX Runtime and what else reads ONNX
    DIR/model.safetensors   its arrays by name, to be built into something else
    DIR/io.json             names, shapes and types of inputs and output, the classes, what was checked
    DIR/README.md           the model card: data, scores, calibration, how to feed it, what it must not be used for

The exported function takes features as they come from the extractors and gives probabilities: standardisation and
temperature scaling are in it. Batch size and lengths are free. Exit code 1, and no DIR, if a file computes something
else than the model.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from mer_jax.errors import UserError, reported
from mer_jax.export.writers import FORMATS
from mer_jax.files import refuse_filled


def main(argv: list[str] | None = None) -> None:
    arguments = flags().parse_args(argv)
    with reported():
        formats = parse_formats(arguments.formats)
        refuse_filled(arguments.out)
        from mer_jax.export.folder import export_run  # JAX starts when the flags are checked

        if not export_run(arguments.run, arguments.out, formats, arguments.replica)["good"]:
            print(f"{arguments.out} is not written: it would not compute what the model does", file=sys.stderr)
            sys.exit(1)
        print(f"wrote {arguments.out}; {arguments.out / 'README.md'} is the model card")


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="workdir of a finished run")
    add("--out", type=Path, required=True, metavar="DIR", help="a folder that is not there yet, or empty")
    add("--formats", default=",".join(FORMATS), help="default: %(default)s")
    add("--replica", metavar="R", help="a replica's number or name; default: the first of the chosen point")
    return parser


def parse_formats(text: str) -> list[str]:
    """The flag --formats, in the order of FORMATS; raises UserError if a name is none or if a package is missing."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [""]:
        if name not in FORMATS:
            raise UserError(f"--formats={text}: must be some of {', '.join(FORMATS)}, as in --formats=onnx,safetensors")
    missing = [package for name in names for package in FORMATS[name] if importlib.util.find_spec(package) is None]
    if missing:
        without = ", ".join(name for name in names if set(FORMATS[name]) & set(missing))
        raise UserError(
            f"--formats={text} needs {', '.join(missing)}: pip install 'mer_jax[export]', or pip install "
            f"{' '.join(missing)}; or leave {without} out"
        )
    return [name for name in FORMATS if name in names]
