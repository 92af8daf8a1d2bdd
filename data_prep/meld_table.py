"""MELD's three official tables are read into rows, and these into utterances."""

import csv
import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_prep.packs import class_counts
from data_prep.sentences import normalise
from mer_jax.data.corpus import Utterance
from mer_jax.errors import UserError

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


def seconds(stamp: str) -> float:
    """Makes 976.059 of `00:16:16,059`."""
    hours, minutes, rest = stamp.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest.replace(",", "."))


def read_rows(path: Path, split: str) -> list[MeldRow]:
    """Returns the table's rows in order of dialogue and utterance. Raises UserError naming file, line and field."""
    if not path.is_file():
        raise UserError(f"{path} is missing; the folder must hold {', '.join(FILES.values())}")
    rows, seen = [], set()
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        table = csv.DictReader(file)
        if missing := [c for c in COLUMNS if c not in (table.fieldnames or ())]:
            raise UserError(
                f"{path}: column {missing[0]!r} is missing; it has {', '.join(table.fieldnames or ['nothing'])}"
            )
        for record in table:
            where = f"{path}, line {table.line_num}"
            if record["Emotion"] not in LABELS:
                raise UserError(f"{where}: Emotion is {record['Emotion']!r}, not one of {', '.join(LABELS)}")
            try:
                row = _row(record, split)
            except ValueError as error:
                raise UserError(f"{where}: a number or time stamp cannot be read ({error})") from None
            if (row.dialogue, row.utterance) in seen:
                raise UserError(f"{where}: dialogue {row.dialogue}, utterance {row.utterance} occurs twice")
            seen.add((row.dialogue, row.utterance))
            rows.append(row)
    return sorted(rows, key=lambda r: (r.dialogue, r.utterance))


def _row(record: Mapping[str, str | None], split: str) -> MeldRow:
    text = {name: _decoded(value or "") for name, value in record.items() if name}
    return MeldRow(
        split=split,
        dialogue=int(text["Dialogue_ID"]),
        utterance=int(text["Utterance_ID"]),
        speaker=normalise(text["Speaker"]),
        label=text["Emotion"],
        sentence=normalise(text["Utterance"]),
        episode=f"s{int(text['Season']):02d}e{int(text['Episode']):02d}",
        start=seconds(text["StartTime"]),
        end=seconds(text["EndTime"]),
        written=record["Utterance"] or "",
    )


def _decoded(value: str) -> str:
    """Returns the value as Windows-1252 where its bytes are not UTF-8, as in some copies of the tables."""
    if any("\udc80" <= c <= "\udcff" for c in value):
        return value.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    return value


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
