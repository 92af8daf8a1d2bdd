"""MELD becomes a corpus from its official tables, text only: sentences become token states.

    python -m data_prep.meld FOLDER --out DIR

FOLDER holds train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv as the authors publish them.
"""

import argparse
from pathlib import Path

from data_prep.encoders.extract import axes
from data_prep.encoders.flags import text_encoder
from data_prep.importer import Importer, Source, checksums, print_note
from data_prep.meld_table import FILES, LABELS, LICENCE, PROTOCOL, TOTALS, overlaps, read_rows, utterances


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER")


def read(arguments: argparse.Namespace) -> Source:
    rows = []
    for split, name in FILES.items():
        found = read_rows(arguments.folder / name, split)
        if len(found) != TOTALS[split]:
            print_note(f"{name} has {len(found)} rows, the official table {TOTALS[split]}")
        rows += found
    shared = overlaps(rows)
    print(f"moments of train that occur again: {shared['valid']} in valid, {shared['test']} in test")
    encoder = text_encoder(arguments)
    texts = encoder.states([row.sentence for row in rows])
    return Source(
        name="meld",
        utterances=utterances(rows, texts),
        labels=LABELS,
        encoder=encoder,
        extractors={"text": encoder.extractor},
        layers=axes({"text": encoder}),
        protocol=PROTOCOL,
        provenance={
            "sources": checksums(*(arguments.folder / name for name in FILES.values())),
            "text_encoder": encoder.identity,
            "moments_shared_with_train": shared,
        },
        licence=LICENCE,
    )


main = Importer("data_prep.meld", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
