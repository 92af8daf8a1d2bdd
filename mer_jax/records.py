"""The on-disk corpus: TFRecord shards of tf.train.Example, an index beside each shard, one manifest. No JAX, no TensorFlow.

    DIR/manifest.json             what the corpus is: labels, modalities, counts, sha256 of every file, provenance
    DIR/train-00000.tfrecord      one utterance per record
    DIR/train-00000.index.npz     offset and size of every record, and its metadata (everything but the tensors)

A record holds `id split dialogue speaker session label sentence` (bytes), `turn` (int64), `start end` (float, seconds,
optional), where people labelled it one by one `votes/rater` and `votes/label` (bytes, one of each per vote), and per modality m
`m/data` (bytes, little-endian, C order), `m/dtype` (bytes), `m/shape` (int64, [time, width]); of frames `m/data` is one JPEG, PNG
or uint8 image a frame, `m/dtype` says which, `m/shape` is [time, height, width, 3]. An utterance may lack a modality: it then
has none of the three keys. The index holds what the votes say as `soft`: see `soft_label`.

`python -m mer_jax.records DIR` describes a corpus and verifies every byte of it.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import google_crc32c
import numpy as np

from mer_jax.errors import UserError, reported
from mer_jax.frames import CODINGS, Frames, as_they_are

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test")
DTYPES = ("float16", "float32")
TEXT_COLUMNS = ("id", "split", "dialogue", "speaker", "session", "label")


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One utterance. `features[m]` is [time, width], float16 or float32, or Frames; `start` and `end` are seconds in the
    recording.

    votes: what each rater said, (rater, label); one who chose several labels has several. A label need not be a class.
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


def soft_label(votes: Iterable[tuple[str, str]], labels: tuple[str, ...]) -> np.ndarray:
    """The raters' distribution over the classes, Float32[classes]; zeros where nobody chose a class.

    Every rater who chose a class counts the same, shared evenly among the classes that this rater chose (ours). Choices that
    are no class (`other`, or a class that the corpus leaves out) count for nothing.
    """
    chosen: dict[str, set[str]] = {}
    for rater, label in votes:
        if label in labels:
            chosen.setdefault(rater, set()).add(label)
    shares = np.array([[(name in choice) / len(choice) for name in labels] for choice in chosen.values()])
    return (shares.reshape(-1, len(labels)).sum(0) / max(1, len(shares))).astype(np.float32)


# ---- tf.train.Example on the wire: Example{1: Features{1: map<string, Feature{1: bytes, 2: float, 3: int64}}}} ----


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


Value = bytes | list[bytes] | list[int] | list[float]


def encode_example(features: Mapping[str, Value]) -> bytes:
    """Serialises a tf.train.Example; a value's Python type chooses bytes_list, int64_list or float_list."""
    entries = []
    for name, value in features.items():
        if isinstance(value, bytes):
            value = [value]
        if value and isinstance(value[0], bytes):
            feature = _delimited(1, b"".join(_delimited(1, item) for item in value))  # type: ignore[arg-type]
        elif value and isinstance(value[0], int):
            feature = _delimited(3, _delimited(1, b"".join(_varint(int(v)) for v in value)))
        else:
            feature = _delimited(2, _delimited(1, struct.pack(f"<{len(value)}f", *value)))
        entries.append(_delimited(1, _delimited(1, name.encode()) + _delimited(2, feature)))
    return _delimited(1, b"".join(entries))


def _read_varint(buffer: memoryview, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = buffer[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7


def _fields(buffer: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message: (number, integer) for varints, (number, payload) for everything else."""
    at, end = 0, len(buffer)
    while at < end:
        tag, at = _read_varint(buffer, at)
        kind = tag & 7
        if kind == 0:
            value, at = _read_varint(buffer, at)
            yield tag >> 3, value
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind, 0)
            if kind == 2:
                size, at = _read_varint(buffer, at)
            if at + size > end:
                raise ValueError("a field runs past the end of its message")
            yield tag >> 3, buffer[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {kind} does not occur in tf.train.Example")


def _values(feature: memoryview) -> list[Any]:
    values: list[Any] = []
    for kind, payload in _fields(feature):
        for _, item in _fields(memoryview(payload)):  # type: ignore[arg-type]
            if kind == 1:
                values.append(item)
            elif kind == 2:
                values.extend(np.frombuffer(item, "<f4").tolist())  # type: ignore[arg-type]
            elif isinstance(item, int):
                values.append(item)
            else:
                at = 0
                while at < len(item):
                    value, at = _read_varint(item, at)
                    values.append(value)
            if kind == 3:
                values = [v - (1 << 64) if v >> 63 else v for v in values]
    return values


def decode_example(record: bytes) -> dict[str, list[Any]]:
    """Parses a serialised tf.train.Example; bytes values come as memoryviews into `record`."""
    out = {}
    for _, features in _fields(memoryview(record)):
        for _, entry in _fields(features):  # type: ignore[arg-type]
            pair = dict(_fields(entry))  # type: ignore[arg-type]
            out[bytes(pair[1]).decode()] = _values(pair[2])  # type: ignore[arg-type]
    return out


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
    for modality, value in utterance.features.items():
        if isinstance(value, Frames):
            features[f"{modality}/data"] = [bytes(frame) for frame in value.data]
            features[f"{modality}/dtype"] = value.coding.encode()
            features[f"{modality}/shape"] = [len(value), value.height, value.width, 3]
            continue
        features[f"{modality}/data"] = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
        features[f"{modality}/dtype"] = value.dtype.name.encode()
        features[f"{modality}/shape"] = [int(n) for n in value.shape]
    return encode_example(features | dict(more or {}))


def from_example(record: bytes, modalities: Iterable[str]) -> Utterance:
    raw = decode_example(record)
    fields: dict[str, Any] = {name: bytes(raw[name][0]).decode() for name in (*TEXT_COLUMNS, "sentence")}
    features: dict[str, Any] = {}
    for modality in modalities:
        if f"{modality}/data" in raw:
            data, kind = raw[f"{modality}/data"], bytes(raw[f"{modality}/dtype"][0]).decode()
            if kind in CODINGS:
                _, height, width, _ = raw[f"{modality}/shape"]
                features[modality] = Frames(kind, height, width, tuple(data))
            else:
                dtype = np.dtype(kind).newbyteorder("<")
                features[modality] = np.frombuffer(data[0], dtype).reshape(raw[f"{modality}/shape"])
    fields |= {name: raw[name][0] if name in raw else None for name in ("start", "end")}
    votes = zip(
        *([bytes(x).decode() for x in raw.get(f"votes/{part}", ())] for part in ("rater", "label")), strict=True
    )
    return Utterance(turn=raw["turn"][0], features=features, votes=tuple(votes), **fields)  # type: ignore[arg-type]


# ---- TFRecord framing ----


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _frame(record: bytes) -> bytes:
    size = struct.pack("<Q", len(record))
    return size + struct.pack("<I", _masked_crc(size)) + record + struct.pack("<I", _masked_crc(record))


def _unframe(frame: bytes, size: int) -> bytes:
    """The record inside a frame; raises ValueError saying what is damaged."""
    if len(frame) < size + 16:
        raise ValueError(f"the file ends {size + 16 - len(frame)} bytes too early (truncated)")
    if frame[:8] != struct.pack("<Q", size) or frame[8:12] != struct.pack("<I", _masked_crc(frame[:8])):
        raise ValueError("its length field is damaged (crc32c does not match)")
    record = frame[12 : 12 + size]
    if frame[12 + size :] != struct.pack("<I", _masked_crc(record)):
        raise ValueError("its content is damaged (crc32c does not match)")
    return record


def write_record(file: IO[bytes], record: bytes) -> None:
    file.write(_frame(record))


def read_record(file: IO[bytes]) -> bytes | None:
    """The next record of a stream, None at its end; raises ValueError saying what is damaged."""
    head = file.read(12)
    if not head:
        return None
    if len(head) < 12 or head[8:] != struct.pack("<I", _masked_crc(head[:8])):
        raise ValueError("what comes is no record: its length is damaged or cut short")
    size = struct.unpack("<Q", head[:8])[0]
    return _unframe(head + file.read(size + 4), size)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- writing ----


@dataclasses.dataclass(frozen=True)
class Description:
    """What a writer states of a corpus; everything countable is counted by `write_corpus` itself.

    `extractors[m]` says how modality m was made; `label_embeddings` is [classes, width] in the space of modality
    `label_space` (or of an encoder of that name, which no modality uses); `label_words` are the words it was made of;
    `protocol` names and describes the split; `tokens[m]` says that a time step of m is so many tokens side by side;
    `trained_on[m]` names the splits on whose labels the features of m were trained: no other protocol may test on these.
    """

    name: str
    labels: tuple[str, ...]
    extractors: Mapping[str, str]
    label_words: tuple[str, ...]
    label_embeddings: np.ndarray
    label_space: str
    protocol: Mapping[str, str]
    provenance: Mapping[str, Any]
    licence: str
    bayes_accuracy: Mapping[str, float] | None = None
    tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    trained_on: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


class _Shard:
    """An open shard: frames go to the file, metadata into columns, the index is written on close."""

    def __init__(self, folder: Path, stem: str, split: str, modalities: tuple[str, ...], labels: tuple[str, ...]):
        self.path, self.split, self.modalities = folder / f"{stem}.tfrecord", split, modalities
        self.labels, self.soft = labels, list[np.ndarray]()
        self.file: BinaryIO = open(self.path, "wb")  # noqa: SIM115 - closed by close(), or by the writer when it fails
        self.rows: list[tuple[Any, ...]] = []
        self.at = 0

    def add(self, utterance: Utterance) -> None:
        frame = _frame(to_example(utterance))
        self.file.write(frame)
        lengths = [len(utterance.features.get(m, ())) for m in self.modalities]
        text = [getattr(utterance, name) for name in TEXT_COLUMNS]
        self.rows.append((self.at, len(frame) - 16, utterance.turn, *text, *lengths))
        self.soft.append(soft_label(utterance.votes, self.labels))
        self.at += len(frame)

    def close(self) -> dict[str, Any]:
        _flush(self.file)
        self.file.close()
        columns = list(zip(*self.rows, strict=True))
        index = {"offset": np.array(columns[0], np.uint64), "size": np.array(columns[1], np.uint64)}
        index["turn"] = np.array(columns[2], np.int32)
        index |= {name: np.array(c) for name, c in zip(TEXT_COLUMNS, columns[3:9], strict=True)}
        index |= {f"length/{m}": np.array(c, np.int32) for m, c in zip(self.modalities, columns[9:], strict=True)}
        index["soft"] = np.stack(self.soft)
        path = self.path.with_suffix(".index.npz")
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **index)
            _flush(file)
        return {
            "file": self.path.name,
            "index": path.name,
            "split": self.split,
            "count": len(self.rows),
            "bytes": self.at,
            "sha256": sha256_of(self.path),
            "index_sha256": sha256_of(path),
        }


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def write_corpus(
    out: Path, utterances: Iterable[Utterance], description: Description, *, shard_records: int = 2048
) -> None:
    """Writes an immutable corpus folder. It appears under its name only when complete; a killed writer leaves nothing there.

    Raises UserError if `out` exists, an id occurs twice, a label, split, width or dtype is not as declared, or nothing
    was given to write.
    """
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial"
    with _lock(out.parent / f".{out.name}.lock"):
        refuse_existing(out)
        shutil.rmtree(partial, ignore_errors=True)  # left by a writer that was killed: we hold its lock
        partial.mkdir()
        try:
            with contextlib.ExitStack() as stack:
                manifest = _write_shards(partial, utterances, description, shard_records, stack)
            with open(partial / "manifest.json", "w") as file:
                json.dump(manifest, file, indent=1, ensure_ascii=False)
                _flush(file)
            os.rename(partial, out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def refuse_existing(out: Path) -> None:
    """Call before long work whose result goes to `out`."""
    if out.exists():
        raise UserError(
            f"{out} exists already; a corpus is never overwritten. Choose another --out, or delete it first."
        )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_shards(
    folder: Path,
    utterances: Iterable[Utterance],
    description: Description,
    shard_records: int,
    stack: contextlib.ExitStack,
) -> dict[str, Any]:
    modalities = tuple(description.extractors)
    open_shards: dict[str, _Shard] = {}
    shards: list[dict[str, Any]] = []
    per_split: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {}
    specs: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    voted = 0
    for utterance in utterances:
        _check(utterance, description, specs)
        if utterance.id in seen:
            raise UserError(f"utterance id {utterance.id!r} occurs twice; ids must be unique in a corpus")
        seen.add(utterance.id)
        split = utterance.split
        if split not in open_shards:
            open_shards[split] = _Shard(
                folder, f"{split}-{per_split[split]:05d}", split, modalities, description.labels
            )
            stack.callback(open_shards[split].file.close)
            per_split[split] += 1
        open_shards[split].add(utterance)
        counts.setdefault(split, Counter())[utterance.label] += 1
        voted += bool(utterance.votes)
        if len(open_shards[split].rows) == shard_records:
            shards.append(open_shards.pop(split).close())
    shards += [shard.close() for shard in open_shards.values()]
    if not seen:
        raise UserError("there is nothing to write: the source holds no utterance")
    missing = [m for m in modalities if m not in specs]
    if missing:
        raise UserError(f"modality {missing[0]!r} is declared but no utterance has it")
    embeddings = np.asarray(description.label_embeddings, np.float32)
    width = specs.get(description.label_space, {}).get("width", embeddings.shape[-1])
    if embeddings.shape != (len(description.labels), width):
        raise UserError(f"label_embeddings has shape {embeddings.shape}, not [classes, width of the label space]")
    for modality, tokens in description.tokens.items():
        if modality not in specs:
            raise UserError(f"tokens are given for {modality!r}, which is not declared")
        specs[modality]["tokens"] = tokens
        _check_tokens("tokens", modality, specs[modality])
    for modality, splits in description.trained_on.items():
        if modality not in specs or not set(splits) <= set(SPLITS):
            raise UserError(
                f"trained_on: {modality!r} is not declared, or {', '.join(splits)} are not of {', '.join(SPLITS)}"
            )
        specs[modality]["trained_on"] = list(splits)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": description.name,
        "labels": list(description.labels),
        "label_words": list(description.label_words),
        "label_space": description.label_space,
        "label_embeddings": [[round(float(v), 6) for v in row] for row in embeddings],
        "modalities": {m: {**specs[m], "extractor": description.extractors[m]} for m in modalities},
        "protocol": dict(description.protocol),
        "splits": {
            split: {"count": counts[split].total(), "classes": {n: counts[split][n] for n in description.labels}}
            for split in sorted(counts, key=SPLITS.index)
        },
        "shards": sorted(shards, key=lambda s: (SPLITS.index(s["split"]), s["file"])),
        "provenance": dict(description.provenance),
        "licence": description.licence,
    }
    if voted:
        manifest["voted"] = voted
    if description.bayes_accuracy is not None:
        manifest["bayes_accuracy"] = dict(description.bayes_accuracy)
    return manifest


def _check_tokens(where: str, modality: str, spec: Mapping[str, Any]) -> None:
    tokens, width = spec.get("tokens", 1), spec.get("width")
    if not (type(tokens) is int and type(width) is int and tokens > 0 and width > 0 and width % tokens == 0):
        raise UserError(
            f"{where}: {modality} is {width!r} wide and has {tokens!r} tokens a step; tokens must share the width"
        )


def _check(utterance: Utterance, description: Description, specs: dict[str, dict[str, Any]]) -> None:
    where = f"utterance {utterance.id!r}"
    if utterance.label not in description.labels:
        raise UserError(f"{where}: label {utterance.label!r} is not one of {', '.join(description.labels)}")
    if utterance.split not in SPLITS:
        raise UserError(f"{where}: split {utterance.split!r} is not one of {', '.join(SPLITS)}")
    if not all(len(vote) == 2 and all(vote) for vote in utterance.votes):
        raise UserError(f"{where}: votes are pairs of a rater and a label, not {utterance.votes!r}")
    for modality, value in utterance.features.items():
        if modality not in description.extractors:
            raise UserError(f"{where}: modality {modality!r} is not declared")
        if not modality.isidentifier():
            raise UserError(f"{where}: modality {modality!r} is no name; use letters, as in text, audio, visual")
        found = _spec(where, modality, value)
        spec = specs.setdefault(modality, {**found, "longest": 0})
        if spec | found != spec:
            raise UserError(f"{where}: {modality} is {_told(found)}; the utterances before it are {_told(spec)}")
        spec["longest"] = max(spec["longest"], len(value))


def _spec(where: str, modality: str, value: Any) -> dict[str, Any]:
    """What all utterances of a modality have in common; frames have their size in `pixels`."""
    if isinstance(value, Frames):
        if not len(value) or value.coding not in CODINGS:
            raise UserError(
                f"{where}: {modality} must be frames of {', '.join(CODINGS)}, not {len(value)} of {value.coding}"
            )
        size = [value.height, value.width]
        return {"width": 3 * value.height * value.width, "dtype": value.coding, "pixels": size}
    if value.ndim != 2 or value.shape[0] == 0 or value.dtype.name not in DTYPES:
        raise UserError(
            f"{where}: {modality} must be [time >= 1, width] of {' or '.join(DTYPES)}, "
            f"not {list(value.shape)} of {value.dtype}"
        )
    return {"width": value.shape[1], "dtype": value.dtype.name}


def _told(spec: Mapping[str, Any]) -> str:
    if "pixels" in spec:
        return "{} x {} pixels".format(*spec["pixels"]) + f" as {spec['dtype']}"
    return f"{spec['width']} wide of {spec['dtype']}"


# ---- reading ----


class Manifest:
    """What a corpus says of itself. `text` is the file as it was; `where` names it to a person. Raises UserError if it is not
    a manifest of this version."""

    def __init__(self, text: str, where: str):
        self.text = text
        self.manifest = _parse_manifest(text, where)
        self.manifest_sha256 = hashlib.sha256(text.encode()).hexdigest()
        self.labels: tuple[str, ...] = tuple(self.manifest["labels"])
        self.modalities: dict[str, dict[str, Any]] = self.manifest["modalities"]

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
    """Where the encoder of `encoder_of` can be had; empty if it was read from a folder, of which only the last part of the path is
    known."""
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

    def rows(self, split: str) -> np.ndarray:
        """Positions of a split's utterances, in corpus order; raises UserError if there are none."""
        rows = np.flatnonzero(self.index["split"] == split)
        if not len(rows):
            has = ", ".join(f"{name} {s['count']}" for name, s in self.manifest["splits"].items())
            raise UserError(f"{self.path}: the {split!r} split is empty; the corpus has {has}")
        return rows

    def label_ids(self, rows: np.ndarray) -> np.ndarray:
        """Positions in `labels` of the labels of `rows`, int32."""
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
            utterance = from_example(_unframe(frame, size), self.modalities)
            if utterance.id != self.index["id"][row]:
                raise ValueError(f"it holds {utterance.id!r}: the index does not belong to this shard")
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{self.where(row)}: {error}. Restore the file from its source or rebuild the corpus."
            ) from None
        return utterance

    def decoded(self, row: int, frames: Frames, view: Callable[[Frames], Any] = as_they_are) -> Any:
        """`view` of the utterance's frames; raises UserError naming a damaged one."""
        try:
            return view(frames)
        except ValueError as error:
            raise UserError(
                f"{self.where(row)}: {error}. Restore the file from its source or rebuild the corpus."
            ) from None

    def where(self, row: int) -> str:
        """How to name a record to a person."""
        name = self.manifest["shards"][int(self.shard[row])]["file"]
        number = row - int(np.flatnonzero(self.shard == self.shard[row])[0])
        return f"{self.path / name}, record {number} ({self.index['id'][row]})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            with contextlib.suppress(OSError):
                os.close(descriptor)

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
        with np.load(index, allow_pickle=False) as arrays:
            unvoted = np.zeros((shard["count"], len(self.labels)), np.float32)  # corpora from before 0.6 hold no votes
            return {"soft": unvoted, **arrays}

    def _check_labels(self) -> None:
        for bad in np.flatnonzero(~np.isin(self.index["label"], self.labels))[:1]:
            raise UserError(
                f"{self.where(int(bad))}: label {str(self.index['label'][bad])!r} is not in the manifest's list "
                f"({', '.join(self.labels)})"
            )


def _read_manifest(folder: Path) -> str:
    path = folder / "manifest.json"
    if not path.is_file():
        what = "is not a corpus: it has no manifest.json" if folder.is_dir() else "does not exist"
        raise UserError(f"{folder} {what}. Give a folder made by `python -m data_prep.…`, or leave data.path empty.")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}). Restore it.") from None


def _parse_manifest(text: str, where: str) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}). Restore it.") from None
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{where}: schema_version is {version!r}, this mer_jax reads {SCHEMA_VERSION}. Rebuild the corpus."
        )
    fields = ("name", "labels", "label_space", "label_embeddings", "modalities", "protocol", "splits", "shards")
    for field in fields:
        if not manifest.get(field):
            raise UserError(f"{where}: field {field!r} is missing or empty. Restore the file.")
    for modality, spec in manifest["modalities"].items():
        _check_tokens(where, modality, spec)
    return manifest


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.records", description="Describe a corpus and verify all of it."
    )
    parser.add_argument("folder", type=Path, help="a corpus folder: manifest.json and its shards")
    folder = parser.parse_args(argv).folder
    with reported():
        corpus = Corpus(folder)
        print(f"{corpus.manifest['name']}: {len(corpus)} utterances, manifest sha256 {corpus.manifest_sha256}")
        for name, spec in corpus.modalities.items():
            print(f"  {name}: {_told(spec)}, up to {spec['longest']} steps, {spec['extractor']}")
        for name, split in corpus.manifest["splits"].items():
            print(f"  {name}: {split['count']}  " + "  ".join(f"{k} {v}" for k, v in split["classes"].items()))
        if voted := corpus.manifest.get("voted"):
            print(f"  the raters' votes on {voted} utterances")
        nonfinite: Counter[str] = Counter()
        for row in range(len(corpus)):
            for modality, value in corpus[row].features.items():
                if isinstance(value, Frames):
                    corpus.decoded(row, value)
                else:
                    nonfinite[modality] += not np.isfinite(value).all()
        for shard in corpus.manifest["shards"]:
            if sha256_of(folder / shard["file"]) != shard["sha256"]:
                raise UserError(
                    f"{folder / shard['file']}: every record is intact, but the sha256 is not the manifest's"
                )
        print(
            "  every record and sha256 verified; utterances with NaN or infinite values: "
            + (", ".join(f"{m} {n}" for m, n in nonfinite.items() if n) or "none")
        )


if __name__ == "__main__":
    main()
