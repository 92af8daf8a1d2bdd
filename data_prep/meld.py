"""MELD from its official tables, text only: sentences become token states.

    python -m data_prep.meld FOLDER --out DIR

FOLDER holds train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv as the authors publish them.
"""

import argparse
import csv
import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep import known
from data_prep.audit import write_and_audit
from data_prep.text import encoder_of, normalise, parser_of
from mer_jax.data.corpus import Utterance
from mer_jax.data.corpus_writer import Description, refuse_existing
from mer_jax.errors import UserError, reported
from mer_jax.files import sha256_of

FILES = {"train": "train_sent_emo.csv", "valid": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
TOTALS = {split: sum(known.MELD.sets[name]) for split, name in known.SETS_OF_MELD.items()}
LABELS = tuple(known.SEVEN)
LICENCE = "MELD's annotations are GPL-3.0; the series itself is not free"
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
class Row:
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
    """`00:16:16,059` -> 976.059"""
    hours, minutes, rest = stamp.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(rest.replace(",", "."))


def read_rows(path: Path, split: str) -> list[Row]:
    """The table's rows in order of dialogue and utterance; raises UserError naming file, line and field."""
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
            # Bytes that are not UTF-8 are Windows-1252 in some copies.
            text = {
                k: (v or "").encode("utf-8", "surrogateescape").decode("cp1252", "replace") if _escaped(v) else v or ""
                for k, v in record.items()
                if k
            }
            try:
                row = Row(
                    split, int(text["Dialogue_ID"]), int(text["Utterance_ID"]), normalise(text["Speaker"]), text["Emotion"],
                    normalise(text["Utterance"]), f"s{int(text['Season']):02d}e{int(text['Episode']):02d}",
                    seconds(text["StartTime"]), seconds(text["EndTime"]), record["Utterance"],
                )  # fmt: skip
            except ValueError as error:
                raise UserError(f"{where}: a number or time stamp cannot be read ({error})") from None
            if (row.dialogue, row.utterance) in seen:
                raise UserError(f"{where}: dialogue {row.dialogue}, utterance {row.utterance} occurs twice")
            seen.add((row.dialogue, row.utterance))
            rows.append(row)
    return sorted(rows, key=lambda r: (r.dialogue, r.utterance))


def _escaped(value: str | None) -> bool:
    return any("\udc80" <= c <= "\udcff" for c in value or "")


def utterances(rows: list[Row], texts: list[np.ndarray]) -> Iterator[Utterance]:
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


def overlaps(rows: list[Row]) -> dict[str, int]:
    """How many utterances of valid and test are the same moment of the same episode as one of train."""
    moments = {s: {(r.episode, r.start, r.end) for r in rows if r.split == s} for s in FILES}
    return {split: len(moments["train"] & moments[split]) for split in ("valid", "test")}


def main(argv: list[str] | None = None) -> None:
    parser = parser_of("data_prep.meld", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    with reported():
        convert(arguments)


def convert(arguments: argparse.Namespace) -> None:
    refuse_existing(arguments.out)
    rows = []
    for split, name in FILES.items():
        found = read_rows(arguments.folder / name, split)
        if len(found) != TOTALS[split]:
            print(f"note: {name} has {len(found)} rows, the official table {TOTALS[split]}")
        rows += found
    shared = overlaps(rows)
    print(f"moments of train that occur again: {shared['valid']} in valid, {shared['test']} in test")
    encoder = encoder_of(arguments)
    texts = encoder.states([row.sentence for row in rows])
    write_and_audit(
        arguments.out,
        utterances(rows, texts),
        Description(
            name="meld",
            labels=LABELS,
            extractors={"text": encoder.extractor},
            label_words=LABELS,
            label_embeddings=encoder.words(LABELS),
            label_space="text",
            protocol={"name": "official", "description": "MELD's own train, dev and test tables"},
            provenance={
                "tool": "data_prep.meld",
                "sources": {name: sha256_of(arguments.folder / name) for name in FILES.values()},
                "text_encoder": encoder.identity,
                "moments_shared_with_train": shared,
            },
            licence=LICENCE,
        ),
    )


if __name__ == "__main__":
    main()
