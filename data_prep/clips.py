"""Any folder of clips with a table becomes a corpus: sentences, sound and frames go through encoders of your choice.

    python -m data_prep.clips TABLE.csv --out DIR --audio-encoder egemaps --visual-encoder PATH

TABLE.csv has a line for each utterance and a header. It needs the columns `file` (the clip, in --clips or beside the table)
and `label`. It may have `sentence` (then there is text), `id`, `split` (train, valid, test), `dialogue`, `turn`, `speaker`,
`session`, `start` and `end` (seconds), and `votes`, what single raters said, as in `anna:happy; ben:sad; ben:angry`. Without `split` all utterances are train: take a protocol that splits by session,
speaker or dialogue. Without `dialogue` every utterance is one of its own.
"""

import argparse
import csv
import dataclasses
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import encoders
from data_prep.audio import Egemaps, SpeechEncoder
from data_prep.audit import write_and_audit
from data_prep.features import THREADS, Kept, Progress, by_length, extract
from data_prep.media import Checked, Clip, check
from data_prep.text import TextEncoder, encoder_of, normalise, parser_of
from data_prep.visual import FrameCoder, FrameEncoder
from mer_jax.data.corpus import SPLITS, Utterance
from mer_jax.data.corpus_writer import Description, refuse_existing
from mer_jax.errors import UserError, reported
from mer_jax.files import sha256_of

NEEDED = ("file", "label")
OPTIONAL = ("sentence", "id", "split", "dialogue", "turn", "speaker", "session", "start", "end", "votes")
PARTS = {name: name for name in SPLITS} | {"dev": "valid", "val": "valid", "validation": "valid"}
STREAMS = {"audio": "audio", "visual": "video"}
NAMED = 10  # broken clips listed one by one
AnyEncoder = TextEncoder | SpeechEncoder | Egemaps | FrameEncoder | FrameCoder
Encoders = Mapping[str, AnyEncoder]


@dataclasses.dataclass(frozen=True)
class Row:
    """An utterance, still without features, and its clip; `where` is how messages name it."""

    utterance: Utterance
    clip: Clip
    where: str


def read_table(path: Path, folder: Path, cut: bool = False) -> list[Row]:
    """The table's utterances; with `cut` a clip is the part of its file from `start` to `end`.

    Raises UserError naming line and column.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    rows: list[Row] = []
    turns: Counter[str] = Counter()
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True)
            columns = table.fieldnames or []
            needed = (*NEEDED, "start", "end") if cut else NEEDED
            if missing := [c for c in needed if c not in columns]:
                raise UserError(
                    f"{path}: column {missing[0]!r} is missing; it needs {', '.join(needed)} and has {', '.join(columns) or 'nothing'}"
                )
            if ignored := [c for c in columns if c not in (*NEEDED, *OPTIONAL)]:
                print(f"note: columns that are not used: {', '.join(ignored)}")
            for record in table:
                where = f"{path}, line {table.line_num}"
                if None in record or None in record.values():
                    raise UserError(f"{where}: it has another number of fields than the header")
                row = _row({k: v.strip() for k, v in record.items()}, where, folder, cut, turns)
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV table in UTF-8 ({error})") from None
    if not rows:
        raise UserError(f"{path} holds no utterance")
    _refuse_repeats(rows, cut)
    return rows


def _row(record: dict[str, str], where: str, folder: Path, cut: bool, turns: Counter[str]) -> Row:
    for column in (*NEEDED, *(c for c in ("id", "split", "dialogue", "turn") if c in record)):
        if not record[column]:
            raise UserError(f"{where}: {column} is empty")
    if record.get("split", "train") not in PARTS:
        raise UserError(f"{where}: split is {record['split']!r}, not one of {', '.join(PARTS)}")
    numbers: dict[str, float | None] = {}
    for column in ("turn", "start", "end"):
        try:
            numbers[column] = float(record[column]) if record.get(column) else None
        except ValueError:
            raise UserError(f"{where}: {column} is {record[column]!r}, not a number") from None
        if numbers[column] is not None and not 0 <= numbers[column] < 1e9:  # type: ignore[operator]
            raise UserError(f"{where}: {column} is {record[column]}, which cannot be")
    start, end, turn = numbers["start"], numbers["end"], numbers["turn"]
    if cut and (start is None or end is None):
        raise UserError(f"{where}: --cut needs start and end in every line")
    if start is not None and end is not None and start >= end:
        raise UserError(f"{where}: it starts at {start:g} s and ends at {end:g} s")
    suffix = f"_{start:.2f}_{end:.2f}" if cut else ""
    name = record.get("id") or Path(record["file"]).with_suffix("").as_posix() + suffix
    dialogue = record.get("dialogue") or name
    utterance = Utterance(
        id=name,
        split=PARTS[record.get("split", "train")],
        dialogue=dialogue,
        turn=turns[dialogue] if turn is None else int(turn),
        speaker=record.get("speaker", ""),
        session=record.get("session", ""),
        label=record["label"],
        sentence=normalise(record.get("sentence", "")),
        start=start,
        end=end,
        votes=tuple(_vote(text, where) for text in record.get("votes", "").split(";") if text.strip()),
        features={},
    )
    turns[dialogue] += 1
    source = folder / record["file"]
    clip = Clip(record["file"], source, start or 0.0, end) if cut else Clip(record["file"], source)
    return Row(utterance, clip, where)


def _vote(text: str, where: str) -> tuple[str, str]:
    rater, colon, label = (part.strip() for part in text.partition(":"))
    if not (rater and colon and label):
        raise UserError(f"{where}: votes has {text.strip()!r}, not RATER:LABEL, as in anna:happy; ben:sad")
    return rater, label


def _refuse_repeats(rows: Sequence[Row], cut: bool) -> None:
    ids: dict[str, str] = {}
    files: dict[str, str] = {}
    for row in rows:
        if not cut and row.clip.name in files:
            raise UserError(
                f"{row.where}: {row.clip.name} is the clip of {files[row.clip.name]} too; with --cut each line takes the part "
                "from start to end"
            )
        if row.utterance.id in ids:
            raise UserError(f"{row.where}: id {row.utterance.id!r} is that of {ids[row.utterance.id]} too")
        ids[row.utterance.id] = files[row.clip.name] = row.where


def check_clips(rows: Sequence[Row], streams: tuple[str, ...]) -> tuple[dict[str, Checked], dict[str, str]]:
    """By id what the whole clips are and what is wrong with the broken ones, found without decoding."""
    checked: dict[str, Checked] = {}
    broken: dict[str, str] = {}
    progress = Progress("checking clips", len(rows))

    def one(row: Row) -> Checked | UserError:
        try:
            return check(row.clip, streams)
        except UserError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        for row, found in zip(rows, pool.map(one, rows), strict=True):
            if isinstance(found, Checked):
                checked[row.utterance.id] = found
            else:
                broken[row.utterance.id] = f"{row.where}: {found}"
            progress.update(1)
    progress.close()
    return checked, broken


def refuse_broken(broken: Mapping[str, str]) -> None:
    if broken:
        more = [f"… and {len(broken) - NAMED} more"] if len(broken) > NAMED else []
        raise UserError(
            "\n  ".join([f"{len(broken)} clips cannot be used:", *list(broken.values())[:NAMED], *more])
            + "\nRepair them, or leave them out with --skip-broken."
        )


def features_of(
    rows: Sequence[Row], checked: Mapping[str, Checked], encoders: Encoders, cache: Path, skip_broken: bool
) -> tuple[list[Row], dict[str, Mapping[str, np.ndarray]], dict[str, str]]:
    """The rows that every encoder could read, by modality the features by id, and what is wrong with the other rows."""
    features: dict[str, Mapping[str, np.ndarray]] = {}
    broken: dict[str, str] = {}
    for modality, encoder in encoders.items():
        ids = [row.utterance.id for row in rows]
        if isinstance(encoder, TextEncoder):
            features[modality] = dict(zip(ids, encoder.states([row.utterance.sentence for row in rows]), strict=True))
            continue
        clips = {checked[row.utterance.id].key: row.clip for row in rows}
        seconds = _seconds(checked, rows)
        keys = by_length(list(clips), [seconds[key] for key in clips])
        unreadable: dict[str, str] = {}
        kept = extract(encoder, {key: clips[key] for key in keys}, cache, modality, unreadable if skip_broken else None)
        for row in rows:
            if (key := checked[row.utterance.id].key) in unreadable:
                broken[row.utterance.id] = f"{row.where}: {unreadable[key]}"
        features[modality] = ById(kept, {i: checked[i].key for i in ids}, getattr(encoder, "restored", None))
        rows = [row for row in rows if row.utterance.id not in broken]
    return list(rows), features, broken


def _seconds(checked: Mapping[str, Checked], rows: Sequence[Row]) -> dict[str, float]:
    return {checked[row.utterance.id].key: checked[row.utterance.id].seconds for row in rows}


class ById(Mapping[str, Any]):
    """Features by utterance id, read from the cache one at a time; `restored` makes of what is kept what goes to a record."""

    def __init__(self, kept: Kept, keys: Mapping[str, str], restored: Callable[[np.ndarray], Any] | None = None):
        self.kept, self.keys_of, self.restored = kept, keys, restored

    def __getitem__(self, name: str) -> Any:
        kept = self.kept[self.keys_of[name]]
        return kept if self.restored is None else self.restored(kept)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_of)

    def __len__(self) -> int:
        return len(self.keys_of)


def utterances(rows: Sequence[Row], features: Mapping[str, Mapping[str, np.ndarray]]) -> Iterator[Utterance]:
    for row in rows:
        found = {modality: of[row.utterance.id] for modality, of in features.items()}
        yield dataclasses.replace(row.utterance, features=found)


def tell_lengths(rows: Sequence[Row], checked: Mapping[str, Checked], longest: float) -> int:
    """How many clips are cut to `longest` seconds; says so."""
    over = [row for row in rows if checked[row.utterance.id].seconds > longest]
    if over:
        most = max(over, key=lambda row: checked[row.utterance.id].seconds)
        print(
            f"note: {len(over)} clips are longer than {longest:g} s and cut to their beginning; the longest, {most.clip.name}, "
            f"has {checked[most.utterance.id].seconds:.1f} s"
        )
    return len(over)


def tell_faces(rows: Sequence[Row], visual: Mapping[str, np.ndarray]) -> int:
    """How many frames are whole because no face was found in them; says so."""
    assert isinstance(visual, ById)
    counts = visual.kept.tally(visual.keys_of[row.utterance.id] for row in rows)
    without, frames = counts.sum(0).tolist()
    print(
        f"note: no face was found in {without} of {frames} frames, which are taken whole; "
        f"{int((counts[:, 0] == counts[:, 1]).sum())} of {len(counts)} clips have none at all"
    )
    return int(without)


def digest(rows: Sequence[Row], checked: Mapping[str, Checked]) -> str:
    """One sha256 of all clips' names and contents."""
    lines = sorted({f"{checked[row.utterance.id].sha256} {row.clip.name}\n" for row in rows})
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def main(argv: list[str] | None = None) -> None:
    parser = parser_of("data_prep.clips", __doc__)
    parser.add_argument("table", type=Path, metavar="TABLE.csv")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="where the clips are; default: beside the table")
    parser.add_argument("--without-text", action="store_true", help="leave the sentences unencoded")
    encoders.add_audio(parser)
    encoders.add_visual(parser)
    parser.add_argument("--cut", action="store_true", help="a clip is the part of its file from start to end")
    parser.add_argument("--skip-broken", action="store_true", help="leave out clips that cannot be used, and name them")
    parser.add_argument("--name", help="of the corpus; default: that of the folder --out")
    parser.add_argument("--licence", default="that of the clips", help="for the manifest")
    arguments = parser.parse_args(argv)
    with reported():
        convert(arguments)


def convert(arguments: argparse.Namespace) -> None:
    refuse_existing(arguments.out)
    rows = read_table(arguments.table, arguments.clips or arguments.table.parent, arguments.cut)
    labels = tuple(sorted({row.utterance.label for row in rows}))
    if len(labels) < 2:
        raise UserError(f"{arguments.table}: every utterance is {labels[0]!r}; it takes two labels at least")
    with_text = any(row.utterance.sentence for row in rows) and not arguments.without_text
    if not (with_text or arguments.audio_encoder or arguments.visual_encoder):
        raise UserError(
            "there is nothing to extract: give --audio-encoder (egemaps needs no model), --visual-encoder, or the column sentence"
        )
    encoders.refuse_idle(arguments)
    words = encoder_of(arguments)
    chosen: dict[str, AnyEncoder] = {"text": words} if with_text else {}
    if arguments.audio_encoder:
        chosen["audio"] = encoders.audio_of(arguments)
    if arguments.visual_encoder:
        chosen["visual"] = encoders.visual_of(arguments)
    checked, broken = check_clips(rows, tuple(STREAMS[m] for m in chosen if m in STREAMS))
    if not arguments.skip_broken:
        refuse_broken(broken)
    rows = [row for row in rows if row.utterance.id not in broken]
    _tell(rows, checked, with_text)
    longer = tell_lengths(rows, checked, arguments.longest)
    rows, features, unreadable = features_of(rows, checked, chosen, arguments.cache, arguments.skip_broken)
    broken |= unreadable
    for message in broken.values():
        print(f"left out: {message}", file=sys.stderr)
    if broken:
        print(f"note: {len(broken)} of {len(rows) + len(broken)} clips are left out")
    faces = {"frames_without_face": tell_faces(rows, features["visual"])} if arguments.faces else {}
    split = {row.utterance.split for row in rows}
    official = {"name": "official", "description": "as the table splits them"}
    none = {"name": "none", "description": "the table has no whole split; take loso, speaker or kfold_dialogue"}
    write_and_audit(
        arguments.out,
        utterances(rows, features),
        Description(
            name=arguments.name or arguments.out.name,
            labels=labels,
            extractors={modality: encoder.extractor for modality, encoder in chosen.items()},
            label_words=labels,
            label_embeddings=words.words(labels),
            label_space="text" if with_text else str(words.identity["name"]),
            protocol=official if split == set(SPLITS) else none,
            provenance={
                "tool": "data_prep.clips",
                "sources": {arguments.table.name: sha256_of(arguments.table), "clips": digest(rows, checked)},
                "cut": arguments.cut,
                "clips_over_longest": longer,
                "left_out": sorted(broken),
                **faces,
                "label_word_encoder": words.identity,
                **{f"{modality}_encoder": encoder.identity for modality, encoder in chosen.items()},
            },
            licence=arguments.licence,
        ),
    )


def _tell(rows: Sequence[Row], checked: Mapping[str, Checked], with_text: bool) -> None:
    """Notes on what a corpus of these rows can and cannot be used for."""
    split = Counter(row.utterance.split for row in rows)
    if set(split) != set(SPLITS):
        can = [
            name
            for name, field in (("loso", "session"), ("speaker", "speaker"), ("kfold_dialogue:10", "dialogue"))
            if len({getattr(row.utterance, field) for row in rows} - {""}) > 1
        ]
        absent = " or ".join(part for part in SPLITS if part not in split)
        how = f"train with --config.data.protocol={' or '.join(can)}" if can else "and no protocol can split it"
        print(f"note: all utterances are {' or '.join(split)}, none is {absent}; {how}")
    if with_text and (silent := sum(not row.utterance.sentence for row in rows)):
        print(f"note: {silent} of {len(rows)} sentences are empty")
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(checked[row.utterance.id].key, set()).add(row.utterance.split)
    if shared := sum(len(p) > 1 for p in parts.values()):
        print(f"note: {shared} clips are in more than one of {', '.join(split)}, byte for byte")


if __name__ == "__main__":
    main()
