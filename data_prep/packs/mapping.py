"""A mapping is a small TOML file that says which column or field is what."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from data_prep.number_columns import is_column
from data_prep.packs.field_names import FIELDS, our_name
from mer_jax import schema
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import text_of

Chosen = Mapping[str, dict[str, Any]]  # what `read_mapping` returns


class Sections(TypedDict, total=False):
    """What a mapping may hold."""

    columns: dict[str, str]
    features: dict[str, str]
    values: dict[str, dict[str, str | int]]


def read_mapping(path: Path) -> dict[str, dict[str, Any]]:
    """Reads a mapping file in TOML: [columns] our field, or "value:NAME" and the like, = "COLUMN" or "FILE:COLUMN";
    [features] modality = the same, or "PREFIX*" for numbered columns; [values.FIELD] theirs = "ours". Raises UserError
    naming the file and key."""
    try:
        mapping = tomllib.loads(text_of(path))
    except RecursionError:
        raise UserError(f"--mapping={path}: it is nested too deep") from None
    except ValueError as error:
        raise UserError(f"--mapping={path}: {error}") from None
    if unknown := [section for section in mapping if section not in Sections.__annotations__]:
        raise UserError(f"--mapping={path}: {brief(unknown[0])} is none of [columns], [features], [values.FIELD]")
    try:
        schema.check(mapping, Sections)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--mapping={path}: {error}; it must be the name of a column, or of a value") from None
    for field in (*mapping.get("columns", {}), *mapping.get("values", {})):
        if field not in FIELDS and not (is_column(field) and field in mapping.get("columns", {})):
            raise UserError(
                f"--mapping={path}: {brief(field)} is not one of {', '.join(FIELDS)}, value:NAME, spread:NAME, "
                "group:NAME"
            )
    if wrong := [m for m in mapping.get("features", {}) if our_name(m) in FIELDS]:
        raise UserError(f"--mapping={path}: {wrong[0]!r} is never a feature; call a modality text, audio, visual")
    return mapping


def features_of(mapping: Chosen) -> frozenset[str] | None:
    """Returns the modalities that a mapping names, None if it leaves finding them to us."""
    if not (mapping.get("columns") or mapping.get("features")):
        return None
    return frozenset(mapping.get("features", {}))


def as_text(mapping: Chosen) -> set[str]:
    """Returns the columns whose values stay as a csv has them."""
    return {*FIELDS, *(name.rpartition(":")[2] for name in mapping.get("columns", {}).values())}
