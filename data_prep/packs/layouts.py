"""The community's feature packs become rows: their layouts are recognised by structure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.packs import safe_pickle
from data_prep.packs.deepmsi import read_folder
from data_prep.packs.mmsa import read_mmsa
from data_prep.packs.rows import ALIASES, Pack, PackRow, rows_of, shape_in_words
from data_prep.packs.tuples import TUPLES, Validation, misfit, read_tuple
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError

__all__ = ["LAYOUTS", "TUPLES", "Pack", "PackRow", "Validation", "read", "rows_of"]

LAYOUTS = (*TUPLES, "mmsa", "deepmsi", "list")


def read(path: Path, layout: str | None, valid: Validation) -> Pack:
    """Returns the pack in a pickle or folder. Raises UserError naming file, dialogue and field."""
    if path.is_dir():
        return read_folder(path)
    found = safe_pickle.load(path)
    layout = layout or recognise(path, found)
    if layout == "mmsa":
        return read_mmsa(path, found)
    if layout == "list":
        return Pack("list", rows_of(str(path), found), [], {})
    if layout not in TUPLES:
        raise UserError(f"--layout={layout}: {path} is a file; deepmsi is a folder of pickles")
    if not isinstance(found, tuple | list) or len(found) != len(TUPLES[layout].split()):
        raise UserError(f"{path}: {shape_in_words(found)} is not of the layout {layout}: {TUPLES[layout]}")
    return read_tuple(path, layout, dict(zip(TUPLES[layout].split(), found, strict=True)), valid)


def recognise(path: Path, found: Any) -> str:
    """Returns the name of the one layout that fits. Raises UserError if none or several do."""
    if isinstance(found, Mapping):
        if found and set(found) <= {*SPLITS, *ALIASES} and all(isinstance(part, Mapping) for part in found.values()):
            return "mmsa"
        raise UserError(
            f"{path}: {shape_in_words(found)} is of no known layout; name one with --layout ({', '.join(LAYOUTS)})"
        )
    if isinstance(found, list) and found and all(isinstance(x, Mapping) for x in found):
        return "list"
    if not isinstance(found, tuple | list):
        raise UserError(f"{path}: {shape_in_words(found)} is of no known layout ({', '.join(LAYOUTS)})")
    of_length = {name: fields.split() for name, fields in TUPLES.items() if len(fields.split()) == len(found)}
    why = {name: misfit(fields, found) for name, fields in of_length.items()}
    fits = [name for name, misfit in why.items() if not misfit]
    if len(fits) == 1:
        return fits[0]
    fitting = "; ".join(f"{name}: {misfit or 'fits'}" for name, misfit in why.items())
    lengths = ", ".join(f"{name} {len(fields.split())}" for name, fields in TUPLES.items())
    raise UserError(
        f"{path}: {shape_in_words(found)} fits {len(fits)} layouts ({fitting or 'they have ' + lengths}); "
        "name it with --layout"
    )
