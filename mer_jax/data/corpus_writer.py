"""Writes a corpus folder, whole or not at all; everything countable is counted here. The format: corpus.py."""

import contextlib
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
    SCHEMA_VERSION,
    SPLITS,
    TEXT_COLUMNS,
    Corpus,
    Utterance,
    check_step,
    soft_label,
    to_example,
)
from mer_jax.data.description import Description, check_description, check_utterance, shortened
from mer_jax.data.dialogues import same_turn
from mer_jax.data.records import frame_record
from mer_jax.errors import UserError, at
from mer_jax.files import sha256_of, sync, write_atomically


class _Shard:
    """An open shard: frames go to the file, metadata into columns, the index is written on close."""

    def __init__(self, folder: Path, stem: str, split: str, description: Description):
        self.path, self.split, self.modalities = folder / f"{stem}.tfrecord", split, tuple(description.extractors)
        self.labels, self.soft = description.labels, list[np.ndarray]()
        self.named: dict[str, list[Any]] = {f"group/{name}": [] for name in description.groups}
        self.named |= {f"{what}/{name}": [] for what in ("value", "spread") for name in description.numbers}
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
        known = {"value": utterance.values, "spread": utterance.spreads, "group": utterance.groups}
        for column, values in self.named.items():
            what, _, name = column.partition("/")
            values.append(known[what].get(name, "" if what == "group" else np.nan))
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
        for column, values in self.named.items():
            index[column] = np.array(values, np.str_ if column.startswith("group/") else np.float32)
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
    check_description(description)
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
    open_shards: dict[str, _Shard] = {}
    shards: list[dict[str, Any]] = []
    per_split: Counter[str] = Counter()
    counts: dict[str, Counter[str]] = {}
    known: dict[str, Counter[str]] = {}  # how often every number is
    specs: dict[str, dict[str, Any]] = {}
    ids: set[str] = set()
    turns: dict[tuple[str, int], str] = {}
    voted = 0
    for utterance in utterances:
        check_utterance(utterance, description, specs)
        if utterance.id in ids:
            raise UserError(f"utterance id {utterance.id!r} occurs twice; ids must be unique in a corpus")
        ids.add(utterance.id)
        place = utterance.dialogue, int(utterance.turn)
        if utterance.dialogue and (other := turns.setdefault(place, utterance.id)) != utterance.id:
            raise UserError(same_turn(f"the utterances {shortened(other)}", shortened(utterance.id), *place))
        split = utterance.split
        if split not in open_shards:
            stem = f"{split}-{per_split[split]:05d}"
            open_shards[split] = _Shard(folder, stem, split, description)
            stack.callback(open_shards[split].file.close)
            per_split[split] += 1
        open_shards[split].add(utterance)
        counts.setdefault(split, Counter())[utterance.label] += 1
        known.setdefault(split, Counter()).update(utterance.values.keys())
        voted += bool(utterance.votes)
        if len(open_shards[split].rows) == shard_records:
            shards.append(open_shards.pop(split).close())
    shards += [shard.close() for shard in open_shards.values()]
    if not ids:
        raise UserError("there is nothing to write: the source holds no utterance")
    _complete_specs(specs, description)
    manifest = _manifest(description, specs, counts, shards, voted)
    for split, of in manifest["splits"].items() if description.targets else ():
        of["known"] = {name: known[split][name] for name in description.numbers}
    return manifest


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
    for target in description.targets:
        if (wide := np.shape(target.embeddings)[-1]) not in widths:
            raise UserError(f"target {target.name!r}: its embeddings are {wide} wide, the label space {widths[0]}")
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
                **({"unlabelled": counts[split][""]} if counts[split][""] and description.labels else {}),
            }
            for split in sorted(counts, key=SPLITS.index)
        },
        "shards": sorted(shards, key=lambda s: (SPLITS.index(s["split"]), s["file"])),
        "provenance": dict(description.provenance),
        "licence": description.licence,
    }
    if voted:
        manifest["voted"] = voted
    if description.targets:
        manifest["targets"] = {target.name: target.to_json() for target in description.targets}
    if description.groups:
        manifest["groups"] = list(description.groups)
    if description.bayes_accuracy is not None:
        manifest["bayes_accuracy"] = dict(description.bayes_accuracy)
    if description.bayes_scores is not None:
        manifest["bayes_scores"] = {name: dict(found) for name, found in description.bayes_scores.items()}
    return manifest
