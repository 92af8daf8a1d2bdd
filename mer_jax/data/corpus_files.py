"""What manifest.json and the indexes of a corpus hold, as types of `schema.check`. No JAX."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from mer_jax.data.targets import Kind
from mer_jax.files import open_npz
from mer_jax.schema import Above0, Count, Finite, Positive, Share, Text, Texts

Split = Literal["train", "valid", "test"]
INDEX_FEW, INDEX_MOST = 1_000_000, 30_000  # bytes of an index, and for each record: ids of 1,000 letters, votes


class Version(TypedDict):
    schema_version: Any


class Modality(TypedDict):
    width: Positive
    dtype: Text
    longest: NotRequired[Count]
    pixels: NotRequired[tuple[Positive, Positive]]
    tokens: NotRequired[Any]
    layers: NotRequired[Any]
    trained_on: NotRequired[list[Split]]
    made_by: NotRequired[Text]
    extractor: NotRequired[str]
    steps_per_second: NotRequired[Above0]


class SplitCounts(TypedDict):
    count: Count
    classes: dict[str, Count]
    unlabelled: NotRequired[Count]
    known: NotRequired[dict[str, Count]]


class Shard(TypedDict):
    file: Text
    index: Text
    split: Split
    count: Positive
    bytes: Positive
    sha256: str
    index_sha256: str


class SecondsOverLongest(TypedDict):
    cut: Finite
    of: Above0
    enough: Positive


class Provenance(TypedDict):
    """And whatever else who wrote the corpus has to say."""

    seconds_over_longest: NotRequired[SecondsOverLongest]


class TargetOfFile(TypedDict):
    kind: Kind
    names: Texts
    levels: NotRequired[Texts]
    ranges: list[tuple[Finite, Finite]]
    words: list[str]
    embeddings: list[list[Finite]]
    definition: NotRequired[str]
    present_from: NotRequired[str]


class ManifestFile(TypedDict):
    schema_version: int
    name: Text
    labels: list[Text]
    targets: NotRequired[dict[Text, TargetOfFile]]
    groups: NotRequired[list[Text]]
    label_words: NotRequired[list[str]]
    label_space: Text
    label_embeddings: list[list[Finite]]
    modalities: dict[Text, Modality]
    protocol: dict[str, Any]
    splits: dict[Split, SplitCounts]
    shards: list[Shard]
    provenance: NotRequired[Provenance | None]
    licence: NotRequired[str | None]
    voted: NotRequired[Count]
    bayes_accuracy: NotRequired[dict[str, Share] | None]
    bayes_scores: NotRequired[dict[str, dict[str, dict[str, Finite]]]]


def open_index(path: Path, count: int) -> Any:
    """`files.open_npz` of an index of so many records."""
    return open_npz(path, INDEX_FEW + count * INDEX_MOST)


def index_columns(
    index: Mapping[str, np.ndarray],
    shard: Mapping[str, Any],
    modalities: Collection[str],
    classes: int,
    numbers: Collection[str] = (),
    groups: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """The columns of a shard's index; what else the file holds is left out (NumPy before 2.2 wrote `allow_pickle`).
    numbers, groups: the names of what the manifest says that records hold.

    Raises ValueError, naming the column, unless each has a row for every record, of the right kind, and every record
    lies in the shard."""
    count = shard["count"]
    kinds = {"offset": "ui", "size": "ui", "turn": "ui", **dict.fromkeys(("id", "split", "dialogue"), "U")}
    kinds |= dict.fromkeys(("speaker", "session", "label"), "U") | {f"length/{m}": "ui" for m in modalities}
    kinds |= {f"{what}/{name}": "f" for what in ("value", "spread") for name in numbers} | {
        f"group/{name}": "U" for name in groups
    }
    columns: dict[str, np.ndarray] = {"soft": np.zeros((count, classes), np.float32)}  # before 0.6 without votes
    columns |= {name: index[name] for name in (*kinds, "soft") if name in index}
    for name, kind in kinds.items():
        if name not in columns:
            raise ValueError(f"it has no column {name!r}")
        column = columns[name]
        if column.shape != (count,) or column.dtype.kind not in kind:
            raise ValueError(
                f"column {name!r} is {column.dtype}{list(column.shape)}, not one value for each of {count} records"
            )
    if columns["soft"].shape != (count, classes) or columns["soft"].dtype.kind != "f":
        raise ValueError("column 'soft' is not one distribution for each record")
    offset, size = (columns[name].astype(object) for name in ("offset", "size"))
    if (offset < 0).any() or (size < 0).any() or (offset + size + 16 > shard["bytes"]).any():
        raise ValueError(f"a record of it lies outside the {shard['bytes']} bytes of the shard")
    if any((columns[f"length/{m}"] < 0).any() for m in modalities):
        raise ValueError("a length is below 0")
    if (columns["split"] != shard["split"]).any():
        raise ValueError(f"a record is of another split than {shard['split']!r}")
    return columns
