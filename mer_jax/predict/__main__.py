"""Emotions of new utterances, by a finished run.

    python -m mer_jax.predict RUN clip.wav                         what is said in it is in clip.srt, clip.vtt or clip.txt
    python -m mer_jax.predict RUN clip.mp4 --sentence "Oh, really?"
    python -m mer_jax.predict RUN talk.wav --window 5 --out talk.csv       a line for every 5 seconds
    python -m mer_jax.predict RUN data/mine pack.pkl clips/ sentences.txt table.csv --out all.jsonl

An INPUT is a corpus folder, one of its .tfrecord shards, a feature pack, a clip, a folder of clips, a .txt with a sentence a
line, or a .csv with the columns `file`, `sentence` (one may be missing), `id`, `start`, `end`. Clips are encoded as the run's
corpus was (needs `pip install -e ".[prep]"`); the encoders are those of its manifest, checked to the sha256 of their weights. A
pack's sentences without features go through the text encoder among them.
Probabilities are temperature-scaled on the run's validation part. Exit code 1 if any input could not be used; the others are
there all the same. Memory does not grow with the inputs, but that a pack is read whole.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mer_jax.errors import UserError, reported
from mer_jax.predict.encoder_flags import add_encoders, encoding_of
from mer_jax.predict.inputs import check_flags_apply
from mer_jax.predict.output import PredictionReport, sink

PACK = ("labels", "layout", "mapping")


def main(argv: list[str] | None = None) -> None:
    given = parser().parse_args(argv)
    with reported():
        sys.exit(predict(given))


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m mer_jax.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("run", metavar="RUN", help="workdir of a finished run")
    out.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="see above")
    out.add_argument("--out", type=Path, metavar="FILE", help=".jsonl or .csv; default: JSON lines on stdout")
    out.add_argument("--sentence", help="what is said in the one clip")
    out.add_argument("--transcript", type=Path, metavar="FILE", help=".srt, .vtt or .txt of the one clip")
    out.add_argument(
        "--window",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="cut clips into windows so long, each with its times",
    )
    out.add_argument(
        "--hop", type=seconds, default=0.0, metavar="SECONDS", help="from one window to the next; default: --window"
    )
    out.add_argument("--attribution", action="store_true", help="why: Shapley values of the modalities, evidence of every time step, "
                     "attention, what VSC kept")  # fmt: skip
    out.add_argument(
        "--replica",
        metavar="R",
        help="a replica's number or name, or `all`: the mean of the chosen point's; default: the first of these",
    )
    out.add_argument(
        "--only-test", action="store_true", help="of a corpus only the utterances that the replica was tested on"
    )
    out.add_argument(
        "--any-extractor", action="store_true", help="take features although they were made by another extractor"
    )
    for name, what in zip(PACK, ("A,B,…", "NAME", "FILE"), strict=True):
        out.add_argument(f"--{name}", metavar=what, help="of a pack, as of python -m data_prep.import_pack")
    out.add_argument("--batch-size", type=int, default=64, metavar="N", help="default: %(default)s")
    add_encoders(out)
    return out


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return value


def predict(given: argparse.Namespace) -> int:
    """Writes the predictions; returns the exit code."""
    refuse(given)
    from mer_jax.predict import predictor
    from mer_jax.runtime import console

    console.console.stderr = True  # stdout is for the predictions
    model = predictor.load(given.run)
    replica = given.replica
    only = tested(model, replica) if given.only_test else None
    found = model.predict(
        given.inputs, sentence=given.sentence, replica=replica, attribution=given.attribution, batch_size=given.batch_size,
        transcript_file=given.transcript, window=given.window, hop=given.hop, only=only, any_extractor=given.any_extractor,
        pack=pack_flags(given), encoding=encoding_of(given),
    )  # fmt: skip
    tally = PredictionReport(model.labels)
    with sink(given.out, model.labels) as write:
        for prediction in found:
            write(prediction)
            tally.add(prediction)
    tally.close()
    return 1 if tally.failed else 0


def refuse(given: argparse.Namespace) -> None:
    """Raises UserError for what can be told before anything is loaded."""
    if given.out is not None and (given.out.suffix not in (".jsonl", ".csv") or not given.out.parent.is_dir()):
        raise UserError(f"--out={given.out}: must end in .jsonl or .csv, in a folder that exists")
    if given.attribution and given.out is not None and given.out.suffix == ".csv":
        raise UserError("--attribution has sequences, for which a .csv has no columns: give a .jsonl")
    if given.batch_size < 1:
        raise UserError(f"--batch-size={given.batch_size}: must be at least 1")
    check_flags_apply(
        given.inputs,
        given.sentence,
        given.transcript,
        given.window,
        given.hop,
        given.only_test,
        bool(pack_flags(given)),
    )


def pack_flags(given: argparse.Namespace) -> list[str]:
    """What `python -m data_prep.import_pack` is told."""
    return [f"--{name}={value}" for name in PACK if (value := getattr(given, name))]


def tested(model: Any, replica: str | None) -> list[str]:
    """Ids of the replica's test part, from split.json."""
    members = model.which(replica)
    if len(members) > 1:
        raise UserError("--only-test is of one replica")
    path = Path(model.where) / "split.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: which utterances were tested is not known")
    name = model.metrics["replicas"][members[0]]["fold"]
    return next(fold["test"] for fold in json.loads(path.read_text())["folds"] if fold["name"] == name)


if __name__ == "__main__":
    main()
