"""The emotions of new utterances, by a finished run.

    python -m mer_jax.predict RUN clip.wav               what is said in it is in clip.srt, clip.vtt or clip.txt
    python -m mer_jax.predict RUN clip.mp4 --sentence "Oh, really?"
    python -m mer_jax.predict RUN talk.wav --window 5 --out talk.csv       a line for every 5 seconds
    python -m mer_jax.predict RUN talk.vtt --out talk.jsonl                who speaks is in <v Anna>, or before a colon
    python -m mer_jax.predict RUN data/mine pack.pkl clips/ sentences.txt table.csv --out all.jsonl

An INPUT is a corpus folder, one of its .tfrecord shards, a feature pack, a clip, a folder of clips, a transcript (.srt,
.vtt), a .txt with a sentence a line, or a .csv with the columns `file`, `sentence` (one may be missing), `id`, `start`,
`end`, `dialogue`, `turn`, `speaker`. Clips are encoded as the run's corpus was (needs `pip install -e ".[prep]"`); the
encoders are those of its manifest, checked to the sha256 of their weights. A pack's sentences without features go
through the text encoder among them.

A transcript alone is a conversation, with a turn for every caption. So is a .txt, and without --window a clip, whose
transcript says who speaks: <v Anna> in a .vtt, or lines that begin with `Anna: `, `ANNA: ` or `[Anna]: `. All lines
must, or the first and at least every fourth, with a name that comes back: a line without one is of the speaker before.
In a table without turns the order of its rows is that of a dialogue's turns. Dialogue, turn and speaker are in the
output where they are known.

Probabilities are temperature-scaled on the run's validation part where that was found to help; stderr says so. Exit
code 1 if any input could not be used; the others are there all the same. Memory does not grow with the inputs, but that
a pack is read whole.
"""

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Any

from mer_jax import files, run_files
from mer_jax.errors import UserError, reported
from mer_jax.evaluation.score_table import LOCKED
from mer_jax.predict.encoder_client import EncoderClient
from mer_jax.predict.encoder_flags import add_encoder_flags, locations_of
from mer_jax.predict.inputs import check_flags_apply
from mer_jax.predict.item import InputOptions
from mer_jax.predict.output import PredictionReport, open_output

PACK_FLAGS = {"labels": "A,B,…", "layout": "NAME", "mapping": "FILE"}


def main(argv: list[str] | None = None) -> None:
    arguments = flags().parse_args(argv)
    with reported():
        sys.exit(predict(arguments))


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="workdir of a finished run")
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="see above")
    add("--out", type=Path, metavar="FILE", help=".jsonl or .csv; default: JSON lines on stdout")
    add("--sentence", help="what is said in the one clip")
    add("--transcript", type=Path, metavar="FILE", help=".srt, .vtt or .txt of the one clip")
    window = "cut clips into windows so long, each with its times"
    add("--window", type=seconds, default=0.0, metavar="SECONDS", help=window)
    hop = "from one window to the next; default: --window"
    add("--hop", type=seconds, default=0.0, metavar="SECONDS", help=hop)
    attribution = "why: Shapley values of the modalities, evidence of every time step, attention, what VSC kept"
    add("--attribution", action="store_true", help=attribution)
    replica = "a replica's number or name, or `all`: the mean of the chosen point's; default: the first of these"
    add("--replica", metavar="R", help=replica)
    add("--only-test", action="store_true", help="of a corpus only the utterances that the replica was tested on")
    add("--any-extractor", action="store_true", help="take features although they were made by another extractor")
    for name, metavar in PACK_FLAGS.items():
        add(f"--{name}", metavar=metavar, help="of a pack, as of python -m data_prep.import_pack")
    add("--batch-size", type=int, default=64, metavar="N", help="default: %(default)s")
    add_encoder_flags(parser)
    return parser


def seconds(text: str) -> float:
    """The type of a flag: a length of time."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return value


def predict(arguments: argparse.Namespace) -> int:
    """Writes the predictions; returns the exit code."""
    options = input_options(arguments)
    check_flags(arguments, options)
    from mer_jax.predict import loading  # JAX starts when the flags are checked
    from mer_jax.runtime.console import console

    console.stderr = True  # stdout is for the predictions
    model = loading.load(arguments.run)
    if arguments.only_test:
        options = dataclasses.replace(options, only=tested_ids(model, arguments.replica))
    for line in dict.fromkeys(model.describe_calibration(r) for r in model.select_replicas(arguments.replica)):
        print(line, file=sys.stderr)
    report = PredictionReport(model.task, locked_ids(model))
    how = {"replica": arguments.replica, "attribution": arguments.attribution, "batch_size": arguments.batch_size}
    with (
        EncoderClient(model, locations_of(arguments)) as encoders,
        open_output(arguments.out, model.task) as write,
    ):
        for prediction in model.predict(arguments.inputs, encoders=encoders, **how, **vars(options)):
            write(prediction)
            report.add(prediction)
    report.close()
    return 1 if report.failed else 0


def input_options(arguments: argparse.Namespace) -> InputOptions:
    """What the flags say; --only-test names nobody before the run is loaded."""
    return InputOptions(
        sentence=arguments.sentence,
        transcript_file=arguments.transcript,
        window=arguments.window,
        hop=arguments.hop,
        only=() if arguments.only_test else None,
        any_extractor=arguments.any_extractor,
        pack=[f"--{name}={value}" for name in PACK_FLAGS if (value := getattr(arguments, name))],
    )


def check_flags(arguments: argparse.Namespace, options: InputOptions) -> None:
    """Raises UserError for what can be told before anything is loaded."""
    out = arguments.out
    if out is not None and (out.suffix not in (".jsonl", ".csv") or not out.parent.is_dir()):
        raise UserError(f"--out={out}: must end in .jsonl or .csv, in a folder that exists")
    if arguments.attribution and out is not None and out.suffix == ".csv":
        raise UserError("--attribution has sequences, for which a .csv has no columns: give a .jsonl")
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size={arguments.batch_size}: must be at least 1")
    check_flags_apply(arguments.inputs, options)


def tested_ids(model: Any, replica: str | None) -> list[str]:
    """The ids of the replica's test part, from split.json. Raises UserError if that is locked."""
    if model.metrics["protocol"].get("locked"):
        raise UserError(f"--only-test: the test part of {model.workdir} is {LOCKED}")
    members = model.select_replicas(replica)
    if len(members) > 1:
        raise UserError("--only-test is of one replica")
    name = model.metrics["replicas"][members[0]]["fold"]
    return next(fold["test"] for fold in folds_of(model) if fold["name"] == name)


def locked_ids(model: Any) -> frozenset[str]:
    """The ids of the run's test parts if they are locked: of these no score is told."""
    if not model.metrics["protocol"].get("locked"):
        return frozenset()
    return frozenset(itertools.chain.from_iterable(fold["test"] for fold in folds_of(model)))


def folds_of(model: Any) -> Any:
    """The folds of split.json, by ids."""
    path = Path(model.workdir) / "split.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: which utterances were tested is not known")
    return files.read_json(path, run_files.SplitIds)["folds"]
