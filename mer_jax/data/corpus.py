"""The on-disk corpus: TFRecord shards of tf.train.Example, an index beside each shard, one manifest. No JAX.

    DIR/manifest.json             what the corpus is: labels, modalities, counts, sha256 of every file, provenance
    DIR/train-00000.tfrecord      one utterance per record
    DIR/train-00000.index.npz     offset and size of every record, and its metadata (everything but the tensors)

A record holds `id split dialogue speaker session label sentence` (bytes), `turn` (int64) and `start end` (float,
seconds, optional). Where people labelled it one by one it holds `votes/rater` and `votes/label` (bytes, one of each per
vote). Per modality m it holds `m/data` (bytes, little-endian, C order), `m/dtype` (bytes) and `m/shape` (int64, [time,
width]). Of frames `m/data` is one JPEG, PNG or uint8 image a frame, `m/dtype` says which, `m/shape` is [time, height,
width, 3]. An utterance may lack a modality, or all of them: it then has none of the three keys. The index holds what
the votes say as `soft`: see `soft_label`. Numbers that targets read (targets.py) are `value/NAME`, how far the raters
lay apart in one is `spread/NAME` (standard deviation), and what people are told apart by is `group/NAME` (bytes); the
index has them as columns of these names, NaN or "" where a record lacks one.

An utterance whose label is "" has no class. Where the class is asked for it is a turn of its dialogue like the others,
and in no part of any protocol; the manifest counts such utterances of each split as `unlabelled`. The turns of a
dialogue are in the order of their numbers, which may have gaps; no two utterances of a dialogue have the same number.
An utterance whose dialogue is "" is of none.

`python -m mer_jax.data DIR` describes a corpus and verifies every byte of it.
"""

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mer_jax.data.corpus_files import ManifestFile, Version, index_columns, open_index
from mer_jax.data.frames import CODINGS, EncodedFrames, decode_frames
from mer_jax.data.records import Value, decode_example, encode_example, unframe_record
from mer_jax.data.targets import CLASSES, check_target, choose, targets_of
from mer_jax.errors import UserError
from mer_jax.files import check_json, parse_json, sha256_of

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test")
DTYPES = ("float16", "float32")
TEXT_COLUMNS = ("id", "split", "dialogue", "speaker", "session", "label")


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One utterance.

    label: "" = it has no class. features[m]: [time, width], float16 or float32, or EncodedFrames. start, end: seconds
    in the recording. votes: what each rater said, (rater, label); one who chose several labels has several. What a
    rater said need not be a class. values: what is known of the numbers that targets read; spreads: the raters'
    standard deviation of some of them. groups: by name, such as gender.
    """

    id: str
    split: str
    dialogue: str
    turn: int
    speaker: str
    session: str
    label: str
    sentence: str
    features: Mapping[str, Any]
    start: float | None = None
    end: float | None = None
    votes: tuple[tuple[str, str], ...] = ()
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    spreads: Mapping[str, float] = dataclasses.field(default_factory=dict)
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)


NAMED: tuple[tuple[str, str], ...] = (("value", "values"), ("spread", "spreads"), ("group", "groups"))


def soft_label(votes: Iterable[tuple[str, str]], labels: tuple[str, ...]) -> np.ndarray:
    """The raters' distribution over the classes, Float32[classes]; zeros where nobody chose a class.

    Every rater who chose a class counts the same, shared evenly among the classes that this rater chose (ours). Choices
    that are no class (`other`, or a class that the corpus leaves out) count for nothing.
    """
    chosen: dict[str, set[str]] = {}
    for rater, label in votes:
        if label in labels:
            chosen.setdefault(rater, set()).add(label)
    shares = np.array([[(name in choice) / len(choice) for name in labels] for choice in chosen.values()])
    return (shares.reshape(len(chosen), len(labels)).sum(0) / max(1, len(shares))).astype(np.float32)


def to_example(utterance: Utterance, more: Mapping[str, Value] | None = None) -> bytes:
    """The utterance as a record, with `more` features beside its own."""
    features: dict[str, Value] = {name: getattr(utterance, name).encode() for name in (*TEXT_COLUMNS, "sentence")}
    features["turn"] = [int(utterance.turn)]
    for name in ("start", "end"):
        if (seconds := getattr(utterance, name)) is not None:
            features[name] = [float(seconds)]
    if utterance.votes:
        raters, labels = zip(*utterance.votes, strict=True)
        features["votes/rater"] = [rater.encode() for rater in raters]
        features["votes/label"] = [label.encode() for label in labels]
    for prefix, field in NAMED:
        for name, value in getattr(utterance, field).items():
            features[f"{prefix}/{name}"] = [value.encode()] if prefix == "group" else [float(value)]
    for modality, value in utterance.features.items():
        if isinstance(value, EncodedFrames):
            features[f"{modality}/data"] = [bytes(frame) for frame in value.data]
            features[f"{modality}/dtype"] = value.coding.encode()
            features[f"{modality}/shape"] = [len(value), value.height, value.width, 3]
            continue
        features[f"{modality}/data"] = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        features[f"{modality}/dtype"] = value.dtype.name.encode()
        features[f"{modality}/shape"] = [int(n) for n in value.shape]
    return encode_example(features | dict(more or {}))


def from_example(record: bytes, modalities: Iterable[str]) -> Utterance:
    """The utterance of a record, with those of the modalities that it has."""
    raw = decode_example(record)
    fields: dict[str, Any] = {name: bytes(raw[name][0]).decode() for name in (*TEXT_COLUMNS, "sentence")}
    features: dict[str, Any] = {}
    for modality in modalities:
        if f"{modality}/data" in raw:
            data, kind = raw[f"{modality}/data"], bytes(raw[f"{modality}/dtype"][0]).decode()
            if kind in CODINGS:
                _, height, width, _ = raw[f"{modality}/shape"]
                features[modality] = EncodedFrames(kind, height, width, tuple(data))
            else:
                dtype = np.dtype(kind).newbyteorder("<")
                features[modality] = np.frombuffer(data[0], dtype).reshape(raw[f"{modality}/shape"])
    fields |= {name: raw[name][0] if name in raw else None for name in ("start", "end")}
    votes = zip(
        *([bytes(x).decode() for x in raw.get(f"votes/{part}", ())] for part in ("rater", "label")), strict=True
    )
    for prefix, field in NAMED:
        held = {name.removeprefix(f"{prefix}/"): x[0] for name, x in raw.items() if name.startswith(f"{prefix}/")}
        fields[field] = {n: bytes(x).decode() for n, x in held.items()} if prefix == "group" else held
    return Utterance(turn=raw["turn"][0], features=features, votes=tuple(votes), **fields)  # type: ignore[arg-type]


def check_step(where: str, modality: str, spec: Mapping[str, Any]) -> None:
    """Raises UserError unless what lies side by side in a time step, tokens or an encoder's layers, shares its width
    evenly."""
    tokens, width = spec.get("tokens", 1), spec.get("width")
    if not (type(tokens) is int and type(width) is int and tokens > 0 and width > 0 and width % tokens == 0):
        raise UserError(
            f"{where}: {modality} is {width!r} wide and has {tokens!r} tokens a step; tokens must share the width"
        )
    if "layers" in spec:
        _check_layers(where, modality, spec)


def _check_layers(where: str, modality: str, spec: Mapping[str, Any]) -> None:
    layers, width = spec["layers"], spec["width"]
    numbers = isinstance(layers, list) and all(type(layer) is int and layer >= 0 for layer in layers)
    if not (numbers and layers and len(set(layers)) == len(layers)):
        raise UserError(f"{where}: layers of {modality} are {layers!r}; they must be different numbers from 0")
    if width % len(layers):
        raise UserError(
            f"{where}: {modality} is {width} wide and has {len(layers)} layers a step; layers must share the width"
        )
    if other := [name for name in ("tokens", "pixels") if name in spec]:
        raise UserError(f"{where}: {modality} has layers and {other[0]}; a time step holds one or the other")


class Manifest:
    """What a corpus says of itself. `content` is what the file holds, `where` names it to a person. asked: the targets
    that are asked for, the first one until `ask` says otherwise. Raises UserError if it is not a manifest of this
    version."""

    def __init__(self, content: str | bytes, where: str):
        self.manifest = _parse_manifest(content, where)
        self.text = content if isinstance(content, str) else content.decode()
        self.manifest_sha256 = hashlib.sha256(self.text.encode()).hexdigest()
        self.labels: tuple[str, ...] = tuple(self.manifest["labels"])
        self.modalities: dict[str, dict[str, Any]] = self.manifest["modalities"]
        self.targets = targets_of(self.manifest)
        for name in self.targets.keys() - {CLASSES}:
            check_target(where, self.targets[name])
        self.groups: tuple[str, ...] = tuple(self.manifest.get("groups") or ())
        names = [name for target in self.targets.values() for name in target.names]
        self.numbers = tuple(dict.fromkeys(names))  # that records hold
        self.asked = choose(self.targets, "", where)

    def ask(self, task: str) -> None:
        """Asks for the targets of data.task; raises UserError if the corpus does not have them."""
        self.asked = choose(self.targets, task, f"corpus {self.manifest['name']!r}")

    def encoder(self, modality: str) -> dict[str, Any]:
        """See `encoder_of`."""
        return encoder_of(self.manifest, modality)


def encoder_of(manifest: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """What data_prep wrote of the encoder of a modality's features; empty where nothing is said."""
    provenance = manifest.get("provenance") or {}
    found = provenance.get(f"{modality}_encoder")
    if found is None and modality == manifest.get("label_space") == "text":
        found = provenance.get("label_word_encoder")  # data_prep.import_pack: of sentences without features
    return found if isinstance(found, dict) and "name" in found else {}


def hub_name(encoder: Mapping[str, Any]) -> str:
    """Where the encoder of `encoder_of` can be had; empty if it was read from a folder, of which only the last part of
    the path is known."""
    name = str(encoder["name"])
    return name if "/" in name or encoder.get("revision") else ""


class Corpus(Manifest):
    """A corpus folder opened for random access: `corpus[i]` is utterance i of the index, read and checked.

    Opening reads the manifest and the indexes, not the shards. Raises UserError naming file, record or field wherever
    the folder is not a whole, undamaged corpus. Instances pickle; every process opens its own files.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        super().__init__(_read_manifest(self.path), str(self.path / "manifest.json"))
        self._files: dict[int, int] = {}
        if not self.manifest["shards"]:
            raise UserError(f"{self.path / 'manifest.json'}: field 'shards' names no shard. Restore the file.")
        indexes = [self._read_index(shard) for shard in self.manifest["shards"]]
        self.index: dict[str, np.ndarray] = {
            name: np.concatenate([index[name] for index in indexes]) for name in indexes[0]
        }
        self.shard = np.repeat(np.arange(len(indexes)), [len(index["id"]) for index in indexes])
        self._check_labels()

    def __len__(self) -> int:
        return len(self.shard)

    def __repr__(self) -> str:
        return f"Corpus({self.manifest['name']!r}, {self.manifest_sha256[:12]})"

    @property
    def labelled(self) -> np.ndarray:
        """Which utterances have any of the targets that are asked for, Bool[utterances]."""
        return np.any([self.has(target.name) for target in self.asked], axis=0)

    def has(self, target: str) -> np.ndarray:
        """Which utterances have a target of this name, or any of its numbers, Bool[utterances]."""
        if target == CLASSES:
            return self.index["label"] != ""
        return np.any([~np.isnan(self.index[f"value/{name}"]) for name in self.targets[target].names], axis=0)

    def values(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """The numbers of these names of `rows`, Float32[rows, names]; NaN where one is not known."""
        return np.stack([self.index[f"value/{name}"][rows] for name in names], 1)

    def spreads(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """How far the raters lay apart in these numbers, Float32[rows, names]; NaN where that is not known."""
        return np.stack([self.index[f"spread/{name}"][rows] for name in names], 1)

    def group(self, name: str) -> np.ndarray:
        """Of every utterance the group of this name, "" where that is not known: `speaker`, `session`, or one of
        `groups`."""
        return self.index[name if name in ("speaker", "session") else f"group/{name}"]

    def rows(self, split: str) -> np.ndarray:
        """Positions of a split's utterances that have what is asked for, in corpus order; raises UserError if there are
        none."""
        rows = np.flatnonzero((self.index["split"] == split) & self.labelled)
        if not len(rows):
            counts = {name: int((self.labelled & (self.index["split"] == name)).sum()) for name in SPLITS}
            without = len(self) - sum(counts.values())
            has = ", ".join(f"{name} {n}" for name, n in counts.items() if name in self.manifest["splits"])
            has += f", and {without} utterances without {self.lacking}" * (without > 0)
            raise UserError(f"{self.path}: the {split!r} split is empty; the corpus has {has}")
        return rows

    @property
    def lacking(self) -> str:
        """What an utterance that is not `labelled` does not have, in words."""
        names = [name for target in self.asked for name in target.names or ("a class",)]
        return " or ".join(dict.fromkeys(names))

    def label_ids(self, rows: np.ndarray) -> np.ndarray:
        """Positions in `labels` of the labels of `rows`, int32. Raises ValueError if one of them has no class."""
        for row in rows[self.index["label"][rows] == ""][:1].tolist():
            raise ValueError(f"{self.where(row)} has no class: only labelled utterances are learnt from and scored")
        position = {name: i for i, name in enumerate(self.labels)}
        return np.array([position[name] for name in self.index["label"][rows].tolist()], np.int32)

    def soft_labels(self, rows: np.ndarray) -> np.ndarray:
        """`soft_label` of `rows`, Float32[rows, classes]: zeros where no rater chose a class, or none is known."""
        return self.index["soft"][rows]

    def __getitem__(self, row: int) -> Utterance:
        shard = int(self.shard[row])
        if shard not in self._files:
            self._files[shard] = os.open(self.path / self.manifest["shards"][shard]["file"], os.O_RDONLY)
        size = int(self.index["size"][row])
        frame = os.pread(self._files[shard], size + 16, int(self.index["offset"][row]))
        try:
            utterance = from_example(unframe_record(frame, size), self.modalities)
            if utterance.id != self.index["id"][row]:
                raise ValueError(f"it holds {utterance.id!r}: the index does not belong to this shard")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise self._damage(row, error) from None
        return utterance

    def decode_frames(
        self, row: int, frames: EncodedFrames, decode: Callable[[EncodedFrames], Any] = decode_frames
    ) -> Any:
        """What `decode` makes of the utterance's frames; raises UserError naming a damaged one."""
        try:
            return decode(frames)
        except ValueError as error:
            raise self._damage(row, error) from None

    def _damage(self, row: int, error: Exception) -> UserError:
        return UserError(f"{self.where(row)}: {error}. Restore the file from its source or rebuild the corpus.")

    def where(self, row: int) -> str:
        """How to name a record to a person."""
        name = self.manifest["shards"][int(self.shard[row])]["file"]
        number = row - int(np.flatnonzero(self.shard == self.shard[row])[0])
        return f"{self.path / name}, record {number} ({self.index['id'][row]})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        """At Python's exit the modules may be empty already, so that `os.close` cannot be looked up."""
        for descriptor in getattr(self, "_files", {}).values():
            try:  # noqa: SIM105 - nor can contextlib
                close(descriptor)
            except OSError:
                pass

    def _read_index(self, shard: dict[str, Any]) -> dict[str, np.ndarray]:
        path, index = self.path / shard["file"], self.path / shard["index"]
        if not path.is_file():
            raise UserError(f"{path} is missing: the manifest lists it with {shard['count']} records. Restore it.")
        if (size := path.stat().st_size) != shard["bytes"]:
            raise UserError(f"{path} has {size} bytes, the manifest says {shard['bytes']}: it is truncated or not ours")
        if not index.is_file():
            raise UserError(f"{index} is missing: a shard is read through the index written beside it. Restore it.")
        if sha256_of(index) != shard["index_sha256"]:
            raise UserError(f"{index} is damaged: its sha256 is not the manifest's. Restore it.")
        try:
            with open_index(index, shard["count"]) as arrays:
                return index_columns(arrays, shard, self.modalities, len(self.labels), self.numbers, self.groups)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{index} is no index of this mer_jax: {error}. Restore it.") from None

    def _check_labels(self) -> None:
        for bad in np.flatnonzero(~np.isin(self.index["label"], (*self.labels, "")))[:1]:
            raise UserError(
                f"{self.where(int(bad))}: label {str(self.index['label'][bad])!r} is not in the manifest's list "
                f"({', '.join(self.labels)})"
            )


def _read_manifest(folder: Path) -> bytes:
    path = folder / "manifest.json"
    if not path.is_file():
        what = "is not a corpus: it has no manifest.json" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {what}. Give a folder made by `python -m data_prep.…`, or leave data.path empty.")
    return path.read_bytes()


def _parse_manifest(content: str | bytes, where: str) -> dict[str, Any]:
    manifest: dict[str, Any] = parse_json(content, where, Version)
    version = manifest["schema_version"]
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{where}: schema_version is {version!r}, this mer_jax reads {SCHEMA_VERSION}. Rebuild the corpus."
        )
    check_json(manifest, where, ManifestFile, "Restore the file.")
    labels, embeddings = manifest["labels"], manifest["label_embeddings"]
    if not labels and not manifest.get("targets"):
        raise UserError(f"{where}: fields 'labels' and 'targets' name nothing to learn. Restore the file.")
    if len(set(labels)) < len(labels):
        raise UserError(f"{where}: field 'labels' names a class twice. Restore the file.")
    if len(embeddings) != len(labels) or len({len(row) for row in embeddings}) > 1:
        raise UserError(f"{where}: field 'label_embeddings' must hold one vector for each label. Restore the file.")
    for shard in manifest["shards"]:
        for name in (shard["file"], shard["index"]):
            if name == ".." or Path(name).name != name:
                raise UserError(f"{where}: a shard or index is {name!r:.200}; it must be a file of the same folder")
    for modality, spec in manifest["modalities"].items():
        check_step(where, modality, spec)
    return manifest
