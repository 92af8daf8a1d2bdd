"""MELD becomes a corpus from the folder that its authors distribute: the three tables and a film of every utterance.

    python -m data_prep.raw.meld MELD.Raw --out DIR --audio-encoder egemaps

The folder holds, as deep as two folders down, train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv, and the
unpacked folders of dia0_utt0.mp4, …: train_splits, dev_splits_complete, output_repeated_splits_test. Ids restart in
every part, so an utterance is known by part, dialogue and utterance (train_dia0_utt3); its session is the episode. The
two clips that are known to be broken are left out wherever sound or frames are asked for, any other only with
--skip-broken.
"""

import argparse
from collections import Counter
from pathlib import Path

from data_prep.importer import Importer, Source
from data_prep.meld_table import LABELS, LICENCE, PROTOCOL
from data_prep.packs import class_counts
from data_prep.raw import convert
from data_prep.raw.convert import Selection
from data_prep.raw.meld_reader import ISSUES
from data_prep.raw.turns import KnownIssues, Turn

BROKEN = ("train_dia125_utt3", "valid_dia110_utt7")  # cannot be decoded; is not there


def select(turns: list[Turn], issues: KnownIssues, arguments: argparse.Namespace) -> Selection:
    for split, name in class_counts.SETS_OF_MELD.items():
        found = Counter(turn.label for turn in turns if turn.split == split)
        differing = class_counts.differences(class_counts.MELD, name, {label: found[label] for label in LABELS})
        issues.add("counts", *(f"{split} {said}" for said in differing))
    return Selection(
        name="meld",
        chosen=[(turn, convert.utterance(turn)) for turn in turns],
        labels=LABELS,
        words=LABELS,
        protocol=PROTOCOL,
        licence=LICENCE,
        broken=BROKEN,
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="MELD.Raw", help="the folder as distributed, unpacked")
    convert.add_flags(parser)


def read(arguments: argparse.Namespace) -> Source:
    return convert.read("meld", arguments, ISSUES, select)


main = Importer("data_prep.raw.meld", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
