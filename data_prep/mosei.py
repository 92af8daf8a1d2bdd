"""CMU-MOSEI becomes a corpus from MMSA's label.csv: sentences, and maybe the clips beside it; negative, neutral or
positive.

    python -m data_prep.mosei FOLDER --out DIR [--audio-encoder NAME] [--visual-encoder NAME]

FOLDER holds label.csv (video_id, clip_id, text, label, label_T, label_A, label_V, annotation, mode) and, where sound or
frames are asked for, Raw/VIDEO/CLIP.mp4. `label` is the sentiment from -3 to 3; its sign is the class, 0 is neutral.
`mode` is the official split. The score itself is the number sentiment; label_T, label_A and label_V, those of a
modality alone, and the six emotions of CMU's own files are not read. A video is dialogue, speaker and session, the
number of a clip its turn. MMSA's packs of features are read by data_prep.import_pack, with the same ids.

Clips were cut by CMU's times, which are wrong for a part of the videos: then what is said in a clip is another sentence
than its text (thuiar/MMSA issue 66). Nothing here finds that. Bagher Zadeh et al., ACL 2018; Yu et al., AAAI 2021.
"""

import argparse
from collections import Counter
from pathlib import Path

from data_prep import numbers, speech_corpus
from data_prep.encoders import flags
from data_prep.encoders.extract import UtteranceClip
from data_prep.encoders.media import Clip
from data_prep.importer import Importer, Source, checksums
from data_prep.packs import values
from data_prep.raw.turns import COUNTS, KnownIssues, file_within
from data_prep.sentences import normalise
from data_prep.speech_corpus import CLIPS, SpeechCorpus
from mer_jax.data.corpus import SPLITS, Utterance
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import csv_records, repaired, whole_line, whole_number

TABLE = "label.csv"
LABELS = ("negative", "neutral", "positive")
COLUMNS = ("video_id", "clip_id", "text", "label", "mode")
LARGEST = 3.0
PUBLISHED = {"train": 16326, "valid": 1871, "test": 4659}  # MMSA's
SPREADSHEET = ("#NAME?", "#REF!", "#VALUE!")  # what a spreadsheet makes of an id that begins with - or =
ISSUES = {
    **COUNTS,
    "annotation-differs": "the annotation is another class than the sign of the score; the score counts",
    "no-sentence": "utterances without words; kept",
    "video-shared": "videos that are in several parts; kept: no figure is for unknown videos",
    **CLIPS,
}


def read_table(path: Path, clips: Path, issues: KnownIssues) -> list[UtteranceClip]:
    """Returns the utterances in order of video and clip. Raises UserError naming file, line and column."""
    records = csv_records(path, keep_bytes=True)
    columns = list(next(records)[1])
    if missing := [column for column in COLUMNS if column not in columns]:
        raise UserError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(columns) or 'nothing'}")
    found: dict[tuple[str, int], UtteranceClip] = {}
    for line, given in records:
        where = f"{path}, line {line}"
        record = whole_line(where, given)
        video, clip = record["video_id"].strip(), whole_number(where, "clip_id", record["clip_id"])
        if not video or video in SPREADSHEET:
            raise UserError(
                f"{where}: video_id is {brief(video)}; ids may begin with '-', a formula to a spreadsheet: "
                "take the file as it is distributed"
            )
        if (video, clip) in found:
            raise UserError(f"{where}: clip {clip} of {video} occurs twice, before in {found[video, clip].where}")
        score = _score(where, record["label"])
        label = LABELS[1 + (score > 0) - (score < 0)]
        utterance = Utterance(
            id=f"{video}$_${clip}",
            split=values.part(where, record["mode"]),
            dialogue=video,
            turn=clip,
            speaker=video,
            session=video,
            label=label,
            sentence=normalise(repaired(record["text"])),
            features={},
            values={"sentiment": score},
        )
        if (said := record.get("annotation", "").strip().lower()) and said != label:
            issues.add("annotation-differs", utterance.id)
        name = f"{video}/{record['clip_id'].strip()}.mp4"
        found[video, clip] = UtteranceClip(utterance, Clip(name, clips / name), where)
    if not found:
        raise UserError(f"{path} holds no utterance")
    return [found[key] for key in sorted(found)]


def _score(where: str, text: str) -> float:
    """Returns a score. Raises UserError for what is none."""
    try:
        score = float(text)
    except ValueError:
        score = LARGEST + 1
    if not -LARGEST <= score <= LARGEST:
        raise UserError(f"{where}: label is {brief(text)}, not a number from -3 to 3")
    return score


def read_corpus(folder: Path) -> tuple[list[UtteranceClip], Path, KnownIssues]:
    """Returns all utterances with the clips that they would have, the table, and the known issues."""
    issues = KnownIssues(ISSUES)
    if (table := file_within(folder, TABLE)) is None:
        raise UserError(f"{folder} holds no {TABLE}, as MMSA distributes it with CMU-MOSEI")
    rows = read_table(table, table.parent / "Raw", issues)
    parts = Counter(row.utterance.split for row in rows)
    issues.compare(parts, PUBLISHED)
    issues.add("no-sentence", *(row.utterance.id for row in rows if not row.utterance.sentence))
    videos = {split: {row.utterance.dialogue for row in rows if row.utterance.split == split} for split in SPLITS}
    shared = Counter(video for of in videos.values() for video in of)
    issues.add("video-shared", *sorted(video for video, n in shared.items() if n > 1))
    return rows, table, issues


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="MOSEI", help="holds label.csv, and Raw with the clips")
    flags.add_audio(parser)
    flags.add_visual(parser)
    speech_corpus.add_skip_broken(parser)


def read(arguments: argparse.Namespace) -> Source:
    rows, table, issues = read_corpus(arguments.folder)
    corpus = SpeechCorpus(
        name="mosei",
        rows=rows,
        with_text=True,
        labels=LABELS,
        issues=issues,
        protocol={"name": "official", "description": "train, valid and test as the column mode has them"},
        sources=checksums(table),
        licence="CMU-MOSEI: for research; the videos belong to their makers",
        targets=(numbers.sentiment("mosei"),),
    )
    return speech_corpus.source_of(corpus, arguments)


main = Importer("data_prep.mosei", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
