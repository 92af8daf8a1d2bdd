"""Any folder of clips with a table becomes a corpus: sentences, sound and frames go through encoders of your choice.

    python -m data_prep.clips TABLE.csv --out DIR --audio-encoder egemaps --visual-encoder PATH

TABLE.csv has a line for each utterance and a header. It needs the columns `file` (the clip, in --clips or beside the
table) and `label`. It may have `sentence` (then there is text), `id`, `split` (train, valid, test), `dialogue`, `turn`,
`speaker`, `session`, `start` and `end` (seconds), and `votes`, what single raters said, as in `anna:happy; ben:sad;
ben:angry`. Without `split` all utterances are train: take a protocol that splits by session, speaker or dialogue.
Without `dialogue` every utterance is one of its own.

Numbers are columns value:NAME, maybe with spread:NAME (the raters' standard deviation), and each needs its range:
--range=valence=1:5. They are the target `values`, unless --target says otherwise. A table with numbers needs no label;
group:gender and the like are groups of people. With --multilabel a label names several emotions, as happy|surprised.
"""

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import number_columns
from data_prep.clip_table import ClipTable, read_table
from data_prep.encoders import flags
from data_prep.encoders.decoding import SLACK, SLACK_SHARE
from data_prep.encoders.extract import (
    STREAMS,
    UtteranceClip,
    axes,
    check_clips,
    digest,
    features_of,
    print_faces,
    print_lengths,
    rates,
    refuse_broken,
    utterances,
)
from data_prep.encoders.hearing import listen, told
from data_prep.encoders.media import Checked
from data_prep.importer import Importer, Source, add_keep_unlabelled, checksums, print_note
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError

OFFICIAL = {"name": "official", "description": "as the table splits them"}
NONE = {"name": "none", "description": "the table has no whole split; take loso, speaker or kfold_dialogue"}


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, metavar="TABLE.csv")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="where the clips are; default: beside the table")
    parser.add_argument("--without-text", action="store_true", help="leave the sentences unencoded")
    flags.add_audio(parser)
    flags.add_visual(parser)
    number_columns.add_flags(parser)
    parser.add_argument("--cut", action="store_true", help="a clip is the part of its file from start to end")
    add_keep_unlabelled(parser, "lines whose label is empty, tied or several")
    parser.add_argument("--skip-broken", action="store_true", help="leave out clips that cannot be used, and name them")
    parser.add_argument("--name", help="of the corpus; default: that of the folder --out")
    parser.add_argument("--licence", default="that of the clips", help="for the manifest")


def table_of(arguments: argparse.Namespace) -> tuple[ClipTable, list[UtteranceClip], tuple[str, ...]]:
    """Returns the table, its rows and its labels. Raises UserError unless there are two, or none where there are
    numbers."""
    folder, keep = arguments.clips or arguments.table.parent, arguments.keep_unlabelled
    flags = number_columns.asked(arguments)
    table = read_table(arguments.table, folder, arguments.cut, keep_unlabelled=keep, flags=flags)
    labels = tuple(sorted({row.utterance.label for row in table.rows} - {""}))
    if table.with_classes and len(labels) < 2:
        what = f"every utterance is {labels[0]!r}" if labels else "no utterance has a label"
        raise UserError(f"{arguments.table}: {what}; it takes two labels at least")
    return table, table.rows, labels


def read(arguments: argparse.Namespace) -> Source:
    table, rows, labels = table_of(arguments)
    with_text = any(row.utterance.sentence for row in rows) and not arguments.without_text
    if not (with_text or arguments.audio_encoder or arguments.visual_encoder):
        raise UserError(
            "there is nothing to extract: give --audio-encoder (egemaps needs no model), --visual-encoder, "
            "or the column sentence"
        )
    words, chosen = flags.chosen_encoders(arguments, with_text=with_text)
    checked, broken = check_clips(rows, tuple(STREAMS[m] for m in chosen if m in STREAMS))
    if not arguments.skip_broken:
        refuse_broken(broken)
    rows = [row for row in rows if row.utterance.id not in broken]
    notes: list[str] = []
    heard: dict[str, Any] = {}
    if "audio" in chosen:
        sounds, deaf = listen(rows, checked, arguments.cache)
        broken |= deaf
        if not arguments.skip_broken:
            refuse_broken(broken)
        rows = [row for row in rows if row.utterance.id not in broken]
        notes, heard = told(sounds, rows)
    if not arguments.cut:
        rows, without_times = without_impossible_times(rows, checked)
        notes += without_times
    for note in notes:
        print_note(note)
    print_limits(rows, checked, with_text)
    over_longest = print_lengths(rows, checked, arguments.longest)
    rows, features, unreadable = features_of(rows, checked, chosen, arguments.cache, skip_broken=arguments.skip_broken)
    broken |= unreadable
    for message in broken.values():
        print(f"left out: {message}", file=sys.stderr)
    if broken:
        print_note(f"{len(broken)} of {len(rows) + len(broken)} clips are left out")
    faces = {"frames_without_face": print_faces(rows, features["visual"])} if arguments.faces else {}
    return Source(
        name=arguments.name or arguments.out.name,
        utterances=utterances(rows, features),
        labels=labels,
        kept_unlabelled=unlabelled(rows, table) if arguments.keep_unlabelled else None,
        encoder=words,
        extractors={modality: encoder.extractor for modality, encoder in chosen.items()},
        steps_per_second=rates(chosen),
        layers=axes(chosen),
        protocol=OFFICIAL if {row.utterance.split for row in rows} == set(SPLITS) else NONE,
        provenance={
            "sources": {**checksums(arguments.table), "clips": digest(rows, checked)},
            "cut": arguments.cut,
            **over_longest,
            "left_out": sorted(broken),
            **faces,
            **heard,
            "label_word_encoder": words.identity,
            **{f"{modality}_encoder": encoder.identity for modality, encoder in chosen.items()},
        },
        licence=arguments.licence,
        targets=table.targets,
        groups=table.groups,
    )


def unlabelled(rows: Sequence[UtteranceClip], table: ClipTable) -> dict[str, str]:
    """Returns where those are that have no class, or no numbers where there are no classes, by their ids."""
    return {
        row.utterance.id: row.where
        for row in rows
        if not row.utterance.label and (table.with_classes or not row.utterance.values)
    }


def without_impossible_times(
    rows: Sequence[UtteranceClip], checked: Mapping[str, Checked]
) -> tuple[list[UtteranceClip], list[str]]:
    """Returns the rows, those without start and end whose clip is shorter than the time between, and a note on
    these."""
    wrong: dict[str, str] = {}
    for row in rows:
        u, whole = row.utterance, checked[row.utterance.id].seconds
        if u.start is not None and u.end is not None and u.end - u.start > whole + max(SLACK, SLACK_SHARE * whole):
            wrong[u.id] = f"{row.where}: {u.start:g} to {u.end:g} s, the clip {row.clip.name} is {whole:.2f} s long"
    if not wrong:
        return list(rows), []
    kept = [
        dataclasses.replace(row, utterance=dataclasses.replace(row.utterance, start=None, end=None))
        if row.utterance.id in wrong
        else row
        for row in rows
    ]
    more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return kept, [
        f"{len(wrong)} intervals from start to end are longer than their clip and left out: "
        f"{'; '.join(list(wrong.values())[:3])}{more}"
    ]


def print_limits(rows: Sequence[UtteranceClip], checked: Mapping[str, Checked], with_text: bool) -> None:
    """Prints notes on what a corpus of these rows can and cannot be used for."""
    split = Counter(row.utterance.split for row in rows)
    if set(split) != set(SPLITS):
        fields = {"loso": "session", "speaker": "speaker", "kfold_dialogue:10": "dialogue"}
        can = [name for name, of in fields.items() if len({getattr(row.utterance, of) for row in rows} - {""}) > 1]
        absent = " or ".join(part for part in SPLITS if part not in split)
        how = f"train with --config.data.protocol={' or '.join(can)}" if can else "and no protocol can split it"
        print_note(f"all utterances are {' or '.join(split)}, none is {absent}; {how}")
    if with_text and (silent := sum(not row.utterance.sentence for row in rows)):
        print_note(f"{silent} of {len(rows)} sentences are empty")
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(checked[row.utterance.id].key, set()).add(row.utterance.split)
    if shared := sum(len(p) > 1 for p in parts.values()):
        print_note(f"{shared} clips are in more than one of {', '.join(split)}, byte for byte")


main = Importer("data_prep.clips", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
