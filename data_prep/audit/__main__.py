"""Tells what is in a corpus folder, before anybody trains on it: classes, lengths, features, leakage between splits,
floors.

    python -m data_prep.audit DIR --html audit.html

Every finding is ok, a note or a problem, and says what to do. Exit code 0: no problem; 1: problems; 2: the folder or an
option is wrong. The records are read once, one after the other; memory holds of every utterance a few numbers and, for
the floors, the mean over time of at most 20,000.
"""

import argparse
from pathlib import Path

from data_prep.audit.corpus_audit import audit, print_audit
from mer_jax.errors import reported


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a corpus folder: manifest.json and its shards")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the findings and plots as one page, too")
    parser.add_argument(
        "--floor",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="logistic regression on each modality alone, tested on test (needs scikit-learn); default: yes",
    )
    parser.add_argument(
        "--extra-happy",
        type=Path,
        metavar="FILE",
        help="ids, one a line, of IEMOCAP's 'happy' utterances without an official happy majority: "
        "counts those in the corpus",
    )
    arguments = parser.parse_args(argv)
    with reported():
        result = audit(arguments.folder, arguments.html, arguments.floor, arguments.extra_happy)
        print_audit(result)
    if result.of("problem"):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
