"""The community's feature packs become rows: their layouts are recognised by structure."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.packs import columns, safe_pickle, tables, values
from data_prep.packs.deepmsi import read_folder
from data_prep.packs.mapping import Chosen, features_of
from data_prep.packs.mmsa import is_mmsa, read_mmsa
from data_prep.packs.rows import DEFAULT, Pack, PackRow, Reading, rows_of, shape_in_words
from data_prep.packs.tuples import TUPLES, Validation, misfit, read_tuple
from mer_jax.errors import UserError

__all__ = ["LAYOUTS", "TUPLES", "Pack", "PackRow", "Validation", "read", "rows_of"]

LAYOUTS = (*TUPLES, "mmsa", "deepmsi", "list")
PICKLES = (".pkl", ".pickle", ".p", ".pk", ".pt", ".pth", ".bin", ".dat")
BEGINNINGS = (b"\x80", b"PK")  # of pickles and torch files, whatever they are called


def read(
    path: Path, layout: str | None, valid: Validation, reading: Reading = DEFAULT, mapping: Chosen | None = None
) -> Pack:
    """Returns the pack in a pickle or folder. A mapping renames the fields of a list of dicts. Raises UserError naming
    file, dialogue and field."""
    names_fields = bool(mapping and (mapping.get("columns") or mapping.get("features")))
    if path.is_dir():
        if layout not in (None, "deepmsi"):
            raise UserError(f"--layout={layout}: {path} is a folder, which only deepmsi is")
        _refuse_fields(path, "deepmsi", names_fields)
        return read_folder(path, reading)
    found = _load(path)
    layout = layout or recognise(path, found, to_predict=reading.to_predict)
    if layout == "list":
        records = _records(path, found)
        if mapping and names_fields:
            reading = dataclasses.replace(reading, features=features_of(mapping))
            records = list(columns.renamed(path.name, records, mapping, reading))
        return rows_of(str(path), records, reading)
    _refuse_fields(path, layout, names_fields)
    if layout == "mmsa":
        if not is_mmsa(found):
            raise UserError(f"{path}: {shape_in_words(found)} is not of the layout mmsa: a dict of parts, each a dict")
        return read_mmsa(path, found, reading)
    if layout not in TUPLES:
        raise UserError(f"--layout={layout}: {path} is a file; deepmsi is a folder of pickles")
    fields = TUPLES[layout].split()
    if not isinstance(found, tuple | list) or len(found) != len(fields):
        raise UserError(f"{path}: {shape_in_words(found)} is not of the layout {layout}: {TUPLES[layout]}")
    if wrong := misfit(fields, found, to_predict=reading.to_predict):
        raise UserError(f"{path} is not of the layout {layout}: {wrong}")
    return read_tuple(path, layout, dict(zip(fields, found, strict=True)), valid, reading)


def _refuse_fields(path: Path, layout: str, names_fields: bool) -> None:
    if names_fields:
        raise UserError(
            f"--mapping: {path} is of the layout {layout}, whose fields are known: only [values.label] and such help"
        )


def _load(path: Path) -> Any:
    if path.is_file() and path.suffix.lower() not in PICKLES:
        with open(path, "rb") as file:
            begins = file.read(2)
        if not begins.startswith(BEGINNINGS):
            raise UserError(
                f"{path}: the ending {path.suffix or '(none)'} is none that is read here, and the file is no pickle; "
                f"pickles end in {', '.join(PICKLES)}, tables in {', '.join(tables.ENDINGS)}"
            )
    return safe_pickle.load(path)


def _records(path: Path, found: Any) -> list[dict[str, Any]]:
    """Returns the utterances of a list of dicts; of a dict of such lists by part, and of a dict of dicts by id."""
    if isinstance(found, list | tuple) and all(isinstance(x, Mapping) for x in found):
        return [dict(record) for record in found]
    if isinstance(found, Mapping) and all(isinstance(x, Mapping) for x in found.values()):
        return [{"id": key} | dict(record) for key, record in found.items()]
    if isinstance(found, Mapping) and all(_is_list(x) and str(key).strip() for key, x in found.items()):
        parts = {values.part(path, key): x for key, x in found.items()}
        return [{"split": part} | dict(record) for part, records in parts.items() for record in records]
    raise UserError(
        f"{path}: {shape_in_words(found)} is not of the layout list: a list of dicts, one an utterance; or a dict of "
        "such lists by part, or of dicts by id"
    )


def _is_list(found: Any) -> bool:
    return isinstance(found, list | tuple) and bool(found) and all(isinstance(x, Mapping) for x in found)


def recognise(path: Path, found: Any, *, to_predict: bool = False) -> str:
    """Returns the name of the one layout that fits. Raises UserError if none or several do."""
    if is_mmsa(found):
        return "mmsa"
    if isinstance(found, Mapping):
        of_parts = all(_is_list(part) and str(key).strip().casefold() in values.PARTS for key, part in found.items())
        if found and (of_parts or all(isinstance(record, Mapping) for record in found.values())):
            return "list"
        raise UserError(
            f"{path}: {shape_in_words(found)} is of no known layout ({', '.join(LAYOUTS)}); python -m "
            "data_prep.import_pack --help says what each holds"
        )
    if isinstance(found, list) and found and all(isinstance(x, Mapping) for x in found):
        return "list"
    if not isinstance(found, tuple | list):
        raise UserError(f"{path}: {shape_in_words(found)} is of no known layout ({', '.join(LAYOUTS)})")
    of_length = {name: fields.split() for name, fields in TUPLES.items() if len(fields.split()) == len(found)}
    why = {name: misfit(fields, found, to_predict=to_predict) for name, fields in of_length.items()}
    fits = [name for name, misfit in why.items() if not misfit]
    if len(fits) == 1:
        return fits[0]
    fitting = "; ".join(f"{name}: {misfit or 'fits'}" for name, misfit in why.items())
    lengths = ", ".join(f"{name} {len(fields.split())}" for name, fields in TUPLES.items())
    raise UserError(
        f"{path}: {shape_in_words(found)} fits {len(fits)} layouts ({fitting or 'they have ' + lengths})"
        + ("; name it with --layout" if fits else "")
    )
