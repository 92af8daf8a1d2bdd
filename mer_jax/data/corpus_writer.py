"""Writes a corpus folder, whole or not at all; everything countable is counted here. The format: corpus.py."""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mer_jax.data.corpus import (
    DTYPES,
    SCHEMA_VERSION,
    SPLITS,
    TEXT_COLUMNS,
    Corpus,
    Utterance,
    check_step,
    soft_label,
    to_example,
)
from mer_jax.data.dialogues import same_turn
from mer_jax.data.frames import CODINGS, EncodedFrames
from mer_jax.data.records import frame_record
from mer_jax.errors import UserError, at
from mer_jax.files import sha256_of, sync, write_atomically

LONGEST_TEXT = 1000  # characters: an index gives every id the room of the longest
MOST_SECONDS = 1e9
NUMBERS = (int, float, np.integer, np.floating)


@dataclasses.dataclass(frozen=True)
class Description:
    """What a writer states of a corpus; everything countable is counted by `write_corpus` itself.

    `extractors[m]` says how modality m was made; `label_embeddings` is [classes, width] in the space of modality
    `label_space` (or of an encoder of that name, which no modality uses), of one of its layers or of all where it has
    several; `label_words` are the words it was made of; `protocol` names and describes the split; `tokens[m]` says that
    a time step of m is so many tokens side by side, `layers[m]` that it is these hidden layers of an encoder;
    `trained_on[m]` names the splits on whose labels the features of m were trained: no other protocol may test on
    these. `made_by[m]` names the encoder that made them, as its hub does, where provenance does not hold its identity.
    `steps_per_second[m]`: how many time steps of m a second of a clip gives, where that is the same for all.
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
    layers: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    trained_on: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    made_by: Mapping[str, str] = dataclasses.field(default_factory=dict)
    steps_per_second: Mapping[str, float] = dataclasses.field(default_factory=dict)


class _Shard:
    """An open shard: frames go to the file, metadata into columns, the index is written on close."""

    def __init__(self, folder: Path, stem: str, split: str, modalities: tuple[str, ...], labels: tuple[str, ...]):
        self.path, self.split, self.modalities = folder / f"{stem}.tfrecord", split, modalities
        self.labels, self.soft = labels, list[np.ndarray]()
        self.file: BinaryIO = open(self.path, "wb")  # noqa: SIM115 - closed by close(), or by the writer when it fails
        self.rows: list[tuple[Any, ...]] = []
        self.offset = 0

    def add(self, utterance: Utterance) -> None:
        frame = frame_record(to_example(utterance))
        self.file.write(frame)
        lengths = [len(utterance.features.get(m, ())) for m in self.modalities]
        text = [getattr(utterance, name) for name in TEXT_COLUMNS]
        self.rows.append((self.offset, len(frame) - 16, utterance.turn, *text, *lengths))
        self.soft.append(soft_label(utterance.votes, self.labels))
        self.offset += len(frame)

    def close(self) -> dict[str, Any]:
        sync(self.file)
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
            sync(file)
        return {
            "file": self.path.name,
            "index": path.name,
            "split": self.split,
            "count": len(self.rows),
            "bytes": self.offset,
            "sha256": sha256_of(self.path),
            "index_sha256": sha256_of(path),
        }


def write_corpus(
    out: Path, utterances: Iterable[Utterance], description: Description, *, shard_records: int = 2048
) -> None:
    """Writes an immutable corpus folder. It appears under its name only when complete; a killed writer leaves nothing
    there.

    Raises UserError if `out` exists, an id or a turn of a dialogue occurs twice, a label, split, width or dtype is not
    as declared, something would not be read as it was written, or nothing was given to write.
    """
    refuse_existing(out)
    _check_description(description)
    partial = out.parent / f".{out.name}.partial"
    with at(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with at(out), _lock(out.parent / f".{out.name}.lock"):
        refuse_existing(out)
        shutil.rmtree(partial, ignore_errors=True)  # left by a writer that was killed: we hold its lock
        partial.mkdir()
        try:
            with contextlib.ExitStack() as stack:
                manifest = _write_shards(partial, utterances, description, shard_records, stack)
            write_atomically(partial / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False))
            Corpus(partial)  # what cannot be opened never gets its name
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
    """Writes the shards and their indexes; returns the manifest."""
    modalities = tuple(description.extractors)
    open_shards: dict[str, _Shard] = {}
    shards: list[dict[str, Any]] = []
    per_split: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {}
    specs: dict[str, dict[str, Any]] = {}
    ids: set[str] = set()
    turns: dict[tuple[str, int], str] = {}
    voted = 0
    for utterance in utterances:
        _check(utterance, description, specs)
        if utterance.id in ids:
            raise UserError(f"utterance id {utterance.id!r} occurs twice; ids must be unique in a corpus")
        ids.add(utterance.id)
        place = utterance.dialogue, int(utterance.turn)
        if utterance.dialogue and (other := turns.setdefault(place, utterance.id)) != utterance.id:
            raise UserError(same_turn(f"the utterances {shortened(other)}", shortened(utterance.id), *place))
        split = utterance.split
        if split not in open_shards:
            stem = f"{split}-{per_split[split]:05d}"
            open_shards[split] = _Shard(folder, stem, split, modalities, description.labels)
            stack.callback(open_shards[split].file.close)
            per_split[split] += 1
        open_shards[split].add(utterance)
        counts.setdefault(split, Counter())[utterance.label] += 1
        voted += bool(utterance.votes)
        if len(open_shards[split].rows) == shard_records:
            shards.append(open_shards.pop(split).close())
    shards += [shard.close() for shard in open_shards.values()]
    if not ids:
        raise UserError("there is nothing to write: the source holds no utterance")
    _complete_specs(specs, description)
    return _manifest(description, specs, counts, shards, voted)


def _complete_specs(specs: dict[str, dict[str, Any]], description: Description) -> None:
    """Adds what is stated of the modalities to what was found of them. Raises UserError where the two do not fit."""
    for modality in description.extractors:
        if modality not in specs:
            raise UserError(f"modality {modality!r} is declared but no utterance has it")
    for name in ("tokens", "layers"):
        for modality, value in getattr(description, name).items():
            if modality not in specs:
                raise UserError(f"{name} are given for {modality!r}, which is not declared")
            specs[modality][name] = list(value) if name == "layers" else value
            check_step(name, modality, specs[modality])
    shape = np.shape(description.label_embeddings)
    space = specs.get(description.label_space, {"width": shape[-1]})
    widths = space["width"], space["width"] // len(space.get("layers", [0]))
    if shape[:-1] != (len(description.labels),) or shape[-1] not in widths:
        raise UserError(f"label_embeddings has shape {shape}, not [classes, width of the label space]")
    for modality, splits in description.trained_on.items():
        if modality not in specs or not set(splits) <= set(SPLITS):
            raise UserError(
                f"trained_on: {modality!r} is not declared, or {', '.join(splits)} are not of {', '.join(SPLITS)}"
            )
        specs[modality]["trained_on"] = list(splits)
    for modality, encoder in description.made_by.items():
        if modality not in specs or not encoder:
            raise UserError(f"made_by: {modality!r} is not declared, or its encoder {encoder!r} is no name")
        specs[modality]["made_by"] = encoder
    for modality, rate in description.steps_per_second.items():
        if modality not in specs or not 0 < rate < math.inf:
            raise UserError(f"steps_per_second: {modality!r} is not declared, or {rate!r} is no number above 0")
        specs[modality]["steps_per_second"] = rate


def _manifest(
    description: Description,
    specs: Mapping[str, dict[str, Any]],
    counts: Mapping[str, Counter[str]],
    shards: list[dict[str, Any]],
    voted: int,
) -> dict[str, Any]:
    """voted: of how many utterances the raters' votes are known."""
    embeddings = np.asarray(description.label_embeddings, np.float32)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": description.name,
        "labels": list(description.labels),
        "label_words": list(description.label_words),
        "label_space": description.label_space,
        "label_embeddings": [[round(float(v), 6) for v in row] for row in embeddings],
        "modalities": {m: {**specs[m], "extractor": extractor} for m, extractor in description.extractors.items()},
        "protocol": dict(description.protocol),
        "splits": {
            split: {
                "count": counts[split].total(),
                "classes": {n: counts[split][n] for n in description.labels},
                **({"unlabelled": counts[split][""]} if counts[split][""] else {}),
            }
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


def _check(utterance: Utterance, description: Description, specs: dict[str, dict[str, Any]]) -> None:
    where = f"utterance {shortened(utterance.id)}"
    _check_readable(where, utterance)
    if utterance.label not in ("", *description.labels):
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
            raise UserError(
                f"{where}: {modality} is {describe_spec(found)}; the utterances before it are {describe_spec(spec)}"
            )
        spec["longest"] = max(spec["longest"], len(value))


def _check_readable(where: str, utterance: Utterance) -> None:
    """Raises UserError for what a record or an index cannot hold, so that it would come back as something else."""
    for name in TEXT_COLUMNS:
        check_text(f"{where}: {name}", getattr(utterance, name), LONGEST_TEXT)
    if not utterance.id:
        raise UserError(f"{where}: the id is empty; give every utterance its own")
    check_text(f"{where}: sentence", utterance.sentence)
    for vote in utterance.votes:
        for text in vote:
            check_text(f"{where}: a vote", text, LONGEST_TEXT)
    turn = utterance.turn
    if isinstance(turn, bool) or not isinstance(turn, int | np.integer) or not -(2**31) <= turn < 2**31:
        raise UserError(
            f"{where}: turn {shortened(turn)} is no whole number of 32 bits; count the turns of a dialogue from 0"
        )
    for name in ("start", "end"):
        seconds = getattr(utterance, name)
        if seconds is not None and not (
            isinstance(seconds, NUMBERS) and abs(float(seconds)) <= MOST_SECONDS
        ):  # nor NaN
            raise UserError(f"{where}: {name} {shortened(seconds)} is no number of seconds up to {MOST_SECONDS:.0e}")


def check_text(what: str, text: Any, longest: int | None = None) -> None:
    """Raises UserError unless it is a string that comes back as it was written."""
    if not isinstance(text, str):
        raise UserError(f"{what} is {shortened(text)}, which is no text; write it as a string")
    if longest is not None and len(text) > longest:
        raise UserError(f"{what} {shortened(text)} has {len(text)} characters; at most {longest} are read quickly")
    if longest is not None and "\0" in text:
        raise UserError(f"{what} {shortened(text)} holds the character NUL, which is lost in an index; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = text[error.start]
        raise UserError(
            f"{what} {shortened(text)} holds half of a character ({bad!r}, a surrogate), which UTF-8 cannot "
            "write; read the source with its right encoding"
        ) from None


def shortened(value: Any) -> str:
    """A value of any length in a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def _check_description(description: Description) -> None:
    """Raises UserError for what a manifest cannot say."""
    for label in (*description.labels, *description.label_words):
        check_text("a label", label, LONGEST_TEXT)
    if len(set(description.labels)) < len(description.labels):
        raise UserError(f"a label occurs twice in {', '.join(description.labels)}")
    for name in ("name", "labels", "label_space", "extractors", "protocol"):
        if not getattr(description, name):
            raise UserError(f"the corpus's {name} is empty; say what it is")
    if not np.isfinite(np.asarray(description.label_embeddings, np.float32)).all():
        raise UserError("label_embeddings hold NaN or infinite values")
    for name in ("name", "label_space", "extractors", "protocol", "provenance", "licence"):
        try:
            text = json.dumps(getattr(description, name), ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"the corpus's {name} cannot be written as JSON: {error}") from None
        check_text(f"the corpus's {name}", text)


def _spec(where: str, modality: str, value: Any) -> dict[str, Any]:
    """What all utterances of a modality have in common; frames have their size in `pixels`."""
    if isinstance(value, EncodedFrames):
        if not len(value) or value.coding not in CODINGS:
            raise UserError(
                f"{where}: {modality} must be frames of {', '.join(CODINGS)}, not {len(value)} of {value.coding}"
            )
        size = [value.height, value.width]
        return {"width": 3 * value.height * value.width, "dtype": value.coding, "pixels": size}
    if not isinstance(value, np.ndarray):
        raise UserError(f"{where}: {modality} must be an array, not a {type(value).__name__}")
    if value.ndim != 2 or 0 in value.shape or value.dtype.name not in DTYPES:
        raise UserError(
            f"{where}: {modality} must be [time >= 1, width >= 1] of {' or '.join(DTYPES)}, "
            f"not {list(value.shape)} of {value.dtype}"
        )
    return {"width": value.shape[1], "dtype": value.dtype.name}


def describe_spec(spec: Mapping[str, Any]) -> str:
    """Width and type of a modality, in words."""
    if "pixels" in spec:
        return "{} x {} pixels".format(*spec["pixels"]) + f" as {spec['dtype']}"
    layers = spec.get("layers", ())
    each = f", layers {', '.join(map(str, layers))} of {spec['width'] // len(layers)} each" if layers else ""
    return f"{spec['width']} wide of {spec['dtype']}{each}"
