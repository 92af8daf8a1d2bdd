"""MELD's three official tables are read into rows, and these into utterances."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_prep.packs import class_counts, values
from data_prep.sentences import normalise
from mer_jax.data.corpus import Utterance
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import csv_records, repaired, seconds, whole_line

FILES = {"train": "train_sent_emo.csv", "valid": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
TOTALS = {split: sum(class_counts.MELD.sets[name]) for split, name in class_counts.SETS_OF_MELD.items()}
LABELS = tuple(class_counts.SEVEN)
LICENCE = "MELD's annotations are GPL-3.0; the series itself is not free"
PROTOCOL = {"name": "official", "description": "MELD's own train, dev and test tables"}
COLUMNS = (
    "Utterance",
    "Speaker",
    "Emotion",
    "Dialogue_ID",
    "Utterance_ID",
    "Season",
    "Episode",
    "StartTime",
    "EndTime",
)


@dataclasses.dataclass(frozen=True)
class MeldRow:
    split: str
    dialogue: int
    utterance: int
    speaker: str
    label: str
    sentence: str
    episode: str
    start: float
    end: float
    written: str  # the sentence as the table has it; bytes that are no UTF-8 as lone surrogates


def read_rows(path: Path, split: str) -> list[MeldRow]:
    """Returns the table's rows in order of dialogue and utterance. Raises UserError naming file, line and field."""
    if not path.is_file():
        raise UserError(f"{path} is missing; the folder must hold {', '.join(FILES.values())}")
    rows, seen = [], set()
    records = csv_records(path, keep_bytes=True)
    columns = list(next(records)[1])
    if missing := [c for c in COLUMNS if c not in columns]:
        raise UserError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(columns) or 'nothing'}")
    for line, record in records:
        where = f"{path}, line {line}"
        row = _row(where, whole_line(where, record), split)
        if (row.dialogue, row.utterance) in seen:
            raise UserError(f"{where}: dialogue {row.dialogue}, utterance {row.utterance} occurs twice")
        seen.add((row.dialogue, row.utterance))
        rows.append(row)
    return sorted(rows, key=lambda r: (r.dialogue, r.utterance))


def _row(where: str, record: Mapping[str, str], split: str) -> MeldRow:
    if record["Emotion"] not in LABELS:
        raise UserError(f"{where}: Emotion is {brief(record['Emotion'])}, not one of {', '.join(LABELS)}")
    numbers = {
        c: values.whole_number(where, c, record[c]) for c in ("Dialogue_ID", "Utterance_ID", "Season", "Episode")
    }
    times = {c: seconds(where, c, record[c]) for c in ("StartTime", "EndTime")}
    if empty := [c for c, time in times.items() if time is None]:
        raise UserError(f"{where}: {empty[0]} is empty")
    speaker, sentence = (values.word(where, c, repaired(record[c])) for c in ("Speaker", "Utterance"))
    return MeldRow(
        split=split,
        dialogue=numbers["Dialogue_ID"],
        utterance=numbers["Utterance_ID"],
        speaker=normalise(speaker),
        label=record["Emotion"],
        sentence=normalise(sentence),
        episode=f"s{numbers['Season']:02d}e{numbers['Episode']:02d}",
        start=times["StartTime"] or 0.0,
        end=times["EndTime"] or 0.0,
        written=record["Utterance"],
    )


def utterances(rows: list[MeldRow], texts: list[np.ndarray]) -> Iterator[Utterance]:
    turns: defaultdict[tuple[str, int], int] = defaultdict(int)  # utterance numbers have gaps: never a position
    for row, states in zip(rows, texts, strict=True):
        dialogue = f"{row.split}_dia{row.dialogue}"
        yield Utterance(
            id=f"{dialogue}_utt{row.utterance}",
            split=row.split,
            dialogue=dialogue,
            turn=turns[row.split, row.dialogue],
            speaker=row.speaker,
            session=row.episode,
            label=row.label,
            sentence=row.sentence,
            start=row.start,
            end=row.end,
            features={"text": states},
        )
        turns[row.split, row.dialogue] += 1


def overlaps(rows: list[MeldRow]) -> dict[str, int]:
    """Returns how many utterances of valid and test are the same moment of the same episode as one of train."""
    moments = {s: {(r.episode, r.start, r.end) for r in rows if r.split == s} for s in FILES}
    return {split: len(moments["train"] & moments[split]) for split in ("valid", "test")}
