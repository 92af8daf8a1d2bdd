"""CMU-MOSI becomes a corpus from a table of pre-extracted features: text, audio and visual, one vector an utterance;
negative or positive.

    python -m data_prep.mosi TABLE.npz --out DIR

TABLE.npz holds, for `train` and `test`: text_*, audio_*, video_* [utterances, width], label_* (0 negative, 1 positive),
id_*, sent_*, vid_* (the video) and uttidx_* (its place in the video). With val_*, the sentiment from -3 to 3, it is the
number sentiment; label_* is its sign, a 0 being positive. The validation part is taken from the videos of
train: every sixth, in order of a hash of the video's name. The text and video features were trained on the table's
train part; on any other split of the videos they would leak.

MMSA's packs of CMU-MOSI and others (aligned_50.pkl, unaligned_50.pkl) are read by data_prep.import_pack.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import numbers, typed_columns
from data_prep.encoders.flags import text_encoder
from data_prep.importer import Importer, Source, checksums, print_note
from data_prep.packs import values
from data_prep.packs.tables import read_npz
from mer_jax.data.corpus import Utterance
from mer_jax.errors import UserError

LABELS = ("negative", "positive")
MODALITIES = {"text": "text", "audio": "audio", "visual": "video"}
COLUMNS = ("text", "audio", "video", "label", "id", "sent", "vid", "uttidx")
TOTALS = {"train": 1447, "test": 752}
VALID_EVERY = 6
SENTIMENT = numbers.sentiment("mosi")

READERS: dict[str, typed_columns.Reader] = {
    "label": lambda where, field, value: typed_columns.position(where, field, value, LABELS),
    "id": typed_columns.name,
    "sent": values.word,
    "vid": typed_columns.name,
    "uttidx": values.whole_number,
}


def read_table(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Returns {part: {column: array}}. Raises UserError naming file, column and row."""
    whole, table = read_npz(path), {}
    for part in ("train", "test"):
        missing = [f"{c}_{part}" for c in COLUMNS if f"{c}_{part}" not in whole]
        if missing:
            raise UserError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(whole)}")
        typed_columns.refuse_single(path, {f"{c}_{part}": whole[f"{c}_{part}"] for c in COLUMNS})
        lengths = {c: len(whole[f"{c}_{part}"]) for c in COLUMNS}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{path}: the columns of {part!r} differ in length: {lengths}")
        table[part] = {c: typed_columns.vectors(path, f"{c}_{part}", whole[f"{c}_{part}"]) for c in MODALITIES.values()}
        table[part] |= {
            c: typed_columns.read(path, f"{c}_{part}", whole[f"{c}_{part}"], reader) for c, reader in READERS.items()
        }
    if any(f"val_{part}" in whole for part in table):
        _add_sentiment(path, whole, table)
    shared = set(table["train"]["vid"].tolist()) & set(table["test"]["vid"].tolist())
    if shared:
        raise UserError(f"{path}: video {min(shared)!r} is in train and in test")
    return table


def _add_sentiment(path: Path, whole: dict[str, np.ndarray], table: dict[str, dict[str, np.ndarray]]) -> None:
    """Adds the column val, NaN where the sentiment is not known. Raises UserError where it is not in both parts, not
    one an utterance, out of range, or contradicts the label."""
    for part, columns in table.items():
        name = f"val_{part}"
        if name not in whole or np.ndim(whole[name]) < 1 or len(whole[name]) != len(columns["id"]):
            raise UserError(
                f"{path}: column {name!r} must be one sentiment an utterance, as val_train and val_test are"
            )
        columns["val"] = typed_columns.read(path, name, whole[name], _sentiment)
        for row in np.flatnonzero(~np.isnan(columns["val"]) & ((columns["val"] >= 0) != (columns["label"] == 1)))[:1]:
            raise UserError(
                f"{path}, row {row}: {name} is {columns['val'][row]:g}, label_{part} {LABELS[columns['label'][row]]}; "
                "one of them is another utterance's"
            )


def _sentiment(where: str, field: str, value: Any) -> float:
    found = numbers.read(where, field, value, SENTIMENT.ranges[0])
    return float("nan") if found is None else found


def validation_videos(videos: set[str]) -> set[str]:
    """Returns every sixth video in order of a hash of its name: the choice is fixed and does not depend on labels."""
    return set(sorted(videos, key=lambda v: hashlib.sha256(v.encode()).hexdigest())[::VALID_EVERY])


def utterances(table: dict[str, dict[str, np.ndarray]], valid: set[str]) -> Iterator[Utterance]:
    for part, columns in table.items():
        for i, video in enumerate(columns["vid"].tolist()):
            yield Utterance(
                id=str(columns["id"][i]),
                split="valid" if video in valid else part,
                dialogue=video,
                turn=int(columns["uttidx"][i]),
                speaker=video,
                session=video,
                label=LABELS[int(columns["label"][i])],
                sentence=str(columns["sent"][i]),
                features={m: columns[c][i][None].astype(np.float32) for m, c in MODALITIES.items()},
                values=values_of(columns, i),
            )


def values_of(columns: dict[str, np.ndarray], row: int) -> dict[str, float]:
    if "val" not in columns or np.isnan(columns["val"][row]):
        return {}
    return {"sentiment": float(columns["val"][row])}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, metavar="TABLE.npz")


def read(arguments: argparse.Namespace) -> Source:
    table = read_table(arguments.table)
    for part, total in TOTALS.items():
        if len(table[part]["id"]) != total:
            print_note(f"{part} has {len(table[part]['id'])} utterances; the table this was written for has {total}")
    videos = {part: set(columns["vid"].tolist()) for part, columns in table.items()}
    valid = validation_videos(videos["train"])
    targets = (SENTIMENT,) if "val" in table["train"] else ()
    scores = [values_of(columns, i) for columns in table.values() for i in range(len(columns["id"]))]
    for note in numbers.notes_on(str(arguments.table), scores, targets):
        print_note(note)
    encoder = text_encoder(arguments)
    return Source(
        name="mosi",
        utterances=utterances(table, valid),
        labels=LABELS,
        encoder=encoder,
        extractors={m: f"column {c} of the table, one vector an utterance" for m, c in MODALITIES.items()},
        protocol={
            "name": "videos",
            "description": f"{len(videos['train'])}/{len(videos['test'])} videos as the table splits them; "
            f"{len(valid)} videos of train are the validation part",
        },
        provenance={
            "sources": checksums(arguments.table),
            "validation_videos": sorted(valid),
            "label_word_encoder": encoder.identity,
            "warning": "text and video features were trained on the table's train part, validation videos included",
        },
        trained_on={"text": ("train", "valid"), "visual": ("train", "valid")},
        licence="CMU-MOSI: for research; the videos belong to their makers",
        targets=targets,
    )


main = Importer("data_prep.mosi", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
