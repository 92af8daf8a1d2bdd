"""IEMOCAP becomes a corpus from a table of utterances: sentences become token states, one array of audio functionals
comes along.

    python -m data_prep.iemocap TABLE.npz --out DIR

The table is an npz of equally long arrays: utt_id, dialogue, start_time, end_time, label (position in label_names:
hap sad neu ang exc fru), label_names, split (train val test), sentence, and the audio array named by --audio. It may
have vad, [utterances, 3]: valence, activation and dominance, in the order in which IEMOCAP's own files have them; they
become the numbers valence, arousal and dominance, means of raters from 1 to 5. A few of IEMOCAP's lie beyond these
ends, which no mean of such ratings can: they are not known. The gender is the letter of the turn.
"""

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import numbers, typed_columns
from data_prep.encoders.extract import axes
from data_prep.encoders.flags import text_encoder
from data_prep.importer import LISTED, Importer, Source, add_keep_unlabelled, checksums, print_note
from data_prep.packs import class_counts, values
from data_prep.packs.class_counts import SIX as WORDS
from data_prep.packs.tables import read_npz
from data_prep.sentences import normalise
from mer_jax.data.corpus import Utterance
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import text_of

BEYOND = 0.5  # so far IEMOCAP's own values lie outside 1 to 5; more is a mistake
CLASSES = {  # by their number: the label that becomes of each of the table's
    6: {name: name for name in WORDS},
    4: {"hap": "hap", "exc": "hap", "sad": "sad", "neu": "neu", "ang": "ang"},
}
TURN_ID = re.compile(r".{5}\w*_\w+")  # session and speaker are told by it
LICENCE = "IEMOCAP is licensed by USC SAIL for research on request; do not redistribute features made from it"
COLUMNS = ("utt_id", "dialogue", "start_time", "end_time", "label", "split", "sentence")
# How many utterances the known sets have, by (classes, with the extra happy): another number is worth a word.
TOTALS = {
    (len(corpus.words), extra): sum(corpus.sets[name])
    for corpus in (class_counts.IEMOCAP6, class_counts.IEMOCAP4)
    for extra, name in ((True, "with the 53 extra happy"), (False, "official"))
}


def read_table(path: Path, audio: str) -> dict[str, np.ndarray]:
    """Returns the table's columns. Raises UserError naming what is missing or does not fit."""
    table = read_npz(path)
    arrays_of_audio = [n for n, v in table.items() if n.startswith("audio") and v.ndim == 2]
    for name in (*COLUMNS, "label_names", audio):
        if name not in table:
            have = ", ".join(arrays_of_audio) if name == audio else ", ".join(table)
            raise UserError(f"{path}: column {name!r} is missing; the table has {have}")
    typed_columns.refuse_single(path, {name: table[name] for name in (*COLUMNS, "label_names", audio)})
    rows = len(table["utt_id"])
    for name in (*COLUMNS, audio):
        if len(table[name]) != rows:
            raise UserError(f"{path}: column {name!r} has {len(table[name])} rows, utt_id has {rows}")
    names = typed_columns.read(path, "label_names", table["label_names"], typed_columns.name).tolist()
    if unknown := sorted(set(names) - WORDS.keys()):
        raise UserError(f"{path}: label_names holds {', '.join(unknown)}; known are {', '.join(WORDS)}")
    typed = {name: typed_columns.read(path, name, table[name], reader) for name, reader in READERS.items()}
    labels = typed_columns.read(
        path,
        "label",
        table["label"],
        lambda where, field, value: names[typed_columns.position(where, field, value, names)],
    )
    vad = {"vad": read_vad(path, table["vad"], rows)} if "vad" in table else {}
    return table | typed | vad | {"name": labels, audio: typed_columns.vectors(path, audio, table[audio])}


def read_vad(path: Path, column: np.ndarray, rows: int) -> np.ndarray:
    """Returns valence, arousal and dominance, Float64[rows, 3], NaN where one is not given. Raises UserError naming
    file and row."""
    column = typed_columns.vectors(path, "vad", column)
    if column.shape != (rows, len(numbers.VAD)):
        raise UserError(
            f"{path}: column 'vad' is {list(column.shape)}, not [{rows}, 3]: valence, activation and dominance"
        )
    return np.array([vad_of(f"{path}, row {i}", row) for i, row in enumerate(column)], np.float64).reshape(rows, -1)


def vad_of(where: str, given: Sequence[Any]) -> list[float]:
    """Returns the three numbers, NaN for what is not given. Raises UserError for what is none, or far beyond the
    ends."""
    low, high = numbers.VAD_RANGE
    found = [
        numbers.read(where, name, value, (low - BEYOND, high + BEYOND))
        for name, value in zip(numbers.VAD, given, strict=True)
    ]
    return [float("nan") if value is None else value for value in found]


def values_of(vad: Iterable[float]) -> dict[str, float]:
    """Returns the numbers by name, without those that are not given or lie beyond the ends."""
    low, high = numbers.VAD_RANGE
    return {name: float(value) for name, value in zip(numbers.VAD, vad, strict=True) if low <= value <= high}


def beyond(vad: Iterable[float]) -> list[str]:
    """Returns what lies beyond the ends, as `valence 5.5`."""
    low, high = numbers.VAD_RANGE
    return [f"{n} {value:g}" for n, value in zip(numbers.VAD, vad, strict=True) if value < low or value > high]


def _turn_id(where: str, field: str, value: Any) -> str:
    found = typed_columns.name(where, field, value)
    if not TURN_ID.fullmatch(found):
        raise UserError(f"{where}: {field} is {brief(found)}, not the id of a turn, as Ses01F_impro01_F000")
    return found


def _part(where: str, field: str, value: Any) -> str:
    return values.part(f"{where}, {field}", values.plain(where, field, value))


READERS: dict[str, typed_columns.Reader] = {
    "utt_id": _turn_id,
    "dialogue": typed_columns.name,
    "start_time": typed_columns.time,
    "end_time": typed_columns.seconds,
    "split": _part,
    "sentence": values.word,
}


def extra_happy(path: Path, table: dict[str, np.ndarray]) -> set[str]:
    """Returns the ids that the file lists, one a line. Raises UserError unless each is a happy utterance of the
    table."""
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. It must list, one id a line, the 'happy' utterances that have no official happy "
            "majority; name the file with --without-extra-happy=FILE"
        )
    ids = set(text_of(path).split())
    happy = set(table["utt_id"][table["name"] == "hap"].tolist())
    if unknown := sorted(ids - happy):
        raise UserError(f"{path}: {unknown[0]} is not a happy utterance of the table")
    return ids


def utterances(
    table: dict[str, np.ndarray], rows: np.ndarray, texts: list[Any], labels: list[str], audio: str
) -> Iterator[Utterance]:
    """Yields the utterances of the rows; `labels` are theirs, "" for one without a class."""
    turns: dict[int, int] = {}
    for dialogue in np.unique(table["dialogue"][rows]):
        of_dialogue = rows[table["dialogue"][rows] == dialogue]
        order = of_dialogue[np.argsort(table["start_time"][of_dialogue], kind="stable")]
        turns.update({int(row): turn for turn, row in enumerate(order)})
    for row, states, label in zip(rows.tolist(), texts, labels, strict=True):
        name = str(table["utt_id"][row])
        letter = name.rsplit("_", 1)[1][0]  # of the TURN, not of the dialogue
        yield Utterance(
            id=name,
            split=str(table["split"][row]),
            dialogue=str(table["dialogue"][row]),
            turn=turns[row],
            speaker=name[:5] + letter,
            session=name[:5],
            label=label,
            sentence=str(table["sentence"][row]),
            start=float(table["start_time"][row]),
            end=None if np.isnan(table["end_time"][row]) else float(table["end_time"][row]),
            features={"text": states, "audio": table[audio][row][None].astype(np.float32)},
            values=values_of(table["vad"][row]) if "vad" in table else {},
            groups={"gender": numbers.GENDERS[letter]} if letter in numbers.GENDERS else {},
        )


def train_sentences_in_test(sentences: list[str], split: np.ndarray) -> int:
    """Returns how many test sentences occur word for word in train."""
    train = {s for s, part in zip(sentences, split, strict=True) if part == "train"}
    return sum(s in train for s, part in zip(sentences, split, strict=True) if part == "test")


def notes_on_vad(path: Path, table: dict[str, np.ndarray], rows: np.ndarray) -> list[str]:
    if "vad" not in table:
        return [f"{path} has no column vad: there are no valence, arousal and dominance"]
    ids, given = table["utt_id"][rows].tolist(), table["vad"][rows].tolist()
    outside = [f"{name} {', '.join(found)}" for name, row in zip(ids, given, strict=True) if (found := beyond(row))]
    low, high = numbers.VAD_RANGE
    told = f"{path}: {len(outside)} utterances have numbers beyond {low} to {high}, which are not taken: "
    listed = "; ".join(outside[:LISTED]) + f"; and {len(outside) - LISTED} more" * (len(outside) > LISTED)
    notes = numbers.notes_on(str(path), [values_of(row) for row in given], (numbers.vad(),))
    return [*([told + listed] if outside else []), *notes]


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, metavar="TABLE.npz")
    parser.add_argument(
        "--classes", type=int, choices=(6, 4), default=6, help="6, or 4: excited counts as happy, no frustrated"
    )
    parser.add_argument(
        "--without-extra-happy",
        nargs="?",
        const="",
        metavar="FILE",
        help="leave out the 53 'happy' utterances that have no official happy majority; FILE lists their ids "
        "(default: extra_happy_53.txt beside the table)",
    )
    add_keep_unlabelled(parser, "turns of no class (with --classes=4: frustrated), or left out as happy,")
    parser.add_argument("--audio", default="audio_gemaps47", metavar="COLUMN", help="default: %(default)s")


def read(arguments: argparse.Namespace) -> Source:
    table = read_table(arguments.table, arguments.audio)
    labels = CLASSES[arguments.classes]
    keep = np.isin(table["name"], list(labels))
    sources, with_extra = [arguments.table], arguments.without_extra_happy is None
    if not with_extra:
        listed = Path(arguments.without_extra_happy or arguments.table.parent / "extra_happy_53.txt")
        keep &= ~np.isin(table["utt_id"], list(extra_happy(listed, table)))
        sources.append(listed)
    with_class, expected = int(keep.sum()), TOTALS[arguments.classes, with_extra]
    if with_class != expected:
        print_note(f"{with_class} utterances; the community's set of this kind has {expected}")
    rows = np.arange(len(keep)) if arguments.keep_unlabelled else np.flatnonzero(keep)
    keep = keep[rows]
    if bad := int((~np.isfinite(table[arguments.audio][rows])).any(1).sum()):
        print_note(
            f"{bad} utterances have NaN or infinite values in {arguments.audio}; "
            "training refuses them unless told to zero them"
        )
    sentences = [normalise(s) for s in table["sentence"][rows].tolist()]
    split = np.where(keep, table["split"][rows], "")  # what has no class is in no part
    repeated, of_test = train_sentences_in_test(sentences, split), int((split == "test").sum())
    print(f"{repeated} of {of_test} test sentences occur word for word in train (scripted dialogues)")
    encoder = text_encoder(arguments)
    texts = encoder.states(sentences)
    for note in notes_on_vad(arguments.table, table, rows):
        print_note(note)
    without = table["utt_id"][rows][~keep].tolist()
    kept_labels = tuple(dict.fromkeys(labels.values()))
    of_rows = [labels[name] if has else "" for name, has in zip(table["name"][rows].tolist(), keep, strict=True)]
    return Source(
        name=f"iemocap-{arguments.classes}",
        utterances=utterances(table, rows, texts, of_rows, arguments.audio),
        labels=kept_labels,
        kept_unlabelled={name: name for name in without} if arguments.keep_unlabelled else None,
        encoder=encoder,
        extractors={
            "text": encoder.extractor,
            "audio": f"column {arguments.audio} of the table, one vector an utterance",
        },
        layers=axes({"text": encoder}),
        label_words=tuple(WORDS[name] for name in kept_labels),
        protocol={
            "name": "dialoguernn",
            "description": "the table's split: train and validation from sessions 1-4, test is session 5",
        },
        provenance={
            "arguments": {"classes": arguments.classes, "extra_happy": with_extra, "audio": arguments.audio},
            "sources": checksums(*sources),
            "text_encoder": encoder.identity,
            "test_sentences_in_train": repeated,
        },
        licence=LICENCE,
        targets=(numbers.vad(),) if "vad" in table else (),
        groups=("gender",),
    )


main = Importer("data_prep.iemocap", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
