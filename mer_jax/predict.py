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
import contextlib
import csv
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mer_jax.errors import UserError, reported
from mer_jax.inputs import Encoding, refuse_idle

PACK = ("labels", "layout", "mapping")
SPOKEN = 2.0  # seconds between two lines of progress on a terminal; ten times that elsewhere


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


def add_encoders(out: argparse.ArgumentParser) -> None:
    """The flags that `encoding_of` reads."""
    for what in ("audio", "visual", "text"):
        out.add_argument(
            f"--{what}-encoder",
            default="",
            metavar="PATH",
            help=f"where the run's {what} encoder is, if its name does not tell",
        )
    out.add_argument(
        "--asr",
        default="",
        metavar="NAME",
        help="speech recogniser of transformers for clips without text, by name or path",
    )
    out.add_argument("--device", default="auto", help="of PyTorch, for the encoders; default: %(default)s")


def encoding_of(given: argparse.Namespace) -> Encoding:
    return Encoding(given.audio_encoder, given.visual_encoder, given.text_encoder, given.device, given.asr)


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
    from mer_jax import log, trained  # JAX, after what can be refused without it

    log.console.stderr = True  # stdout is for the predictions
    model = trained.load(given.run)
    replica = given.replica
    only = tested(model, replica) if given.only_test else None
    found = model.predict(
        given.inputs, sentence=given.sentence, replica=replica, attribution=given.attribution, batch_size=given.batch_size,
        transcript_file=given.transcript, window=given.window, hop=given.hop, only=only, any_extractor=given.any_extractor,
        pack=pack_flags(given), encoding=encoding_of(given),
    )  # fmt: skip
    tally = Tally(model.labels)
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
    refuse_idle(
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


@contextlib.contextmanager
def sink(path: Path | None, labels: Iterable[str]) -> Iterator[Any]:
    """A function that writes a prediction: a JSON line, or a row of a table; a file appears under its name when it is whole."""
    if path is None:
        yield tell
        return
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8", newline="") as file:
        yield table(file, list(labels)) if path.suffix == ".csv" else lines(file)
    partial.replace(path)


def tell(found: Any) -> None:
    try:
        print(json.dumps(found.to_json(), ensure_ascii=False), flush=True)
    except BrokenPipeError:  # who read has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


def lines(file: TextIO) -> Any:
    return lambda found: file.write(json.dumps(found.to_json(), ensure_ascii=False) + "\n")


def table(file: TextIO, labels: list[str]) -> Any:
    writer = csv.writer(file)
    writer.writerow(["id", "start", "end", "prediction", *labels, "label", "sentence", "notes", "error"])

    def write(found: Any) -> None:
        shares = [f"{found.probabilities[name]:.6f}" if found.probabilities else "" for name in labels]
        times = ["" if x is None else f"{x:g}" for x in (found.start, found.end)]
        about = [found.label, found.sentence, "; ".join(found.notes), found.error]
        writer.writerow([found.id, *times, found.prediction, *shares, *about])

    return write


class Tally:
    """What is told on stderr: how many and how fast, what was noted and what failed; of known labels the scores."""

    def __init__(self, labels: Iterable[str]):
        self.labels = list(labels)
        self.confusion = np.zeros((len(self.labels), len(self.labels)), np.int64)
        self.done = self.failed = 0
        self.notes: Counter[str] = Counter()
        self.began = self.spoke = time.monotonic()

    def add(self, found: Any) -> None:
        self.done += 1
        if found.error:
            self.failed += 1
            print(f"{found.id}: {found.error}", file=sys.stderr)
        elif found.label in self.labels:
            self.confusion[self.labels.index(found.label), self.labels.index(found.prediction)] += 1
        for note in found.notes:
            self.notes[note] += 1
            if self.notes[note] == 1 and len(self.notes) <= 20:
                print(f"{found.id}: {note}", file=sys.stderr)
        now, watched = time.monotonic(), sys.stderr.isatty()
        if now - self.spoke > SPOKEN * (1 if watched else 10):
            self.spoke = now
            print(f"{self.done} done, {self.rate(now)}", end="\r" if watched else "\n", file=sys.stderr, flush=True)

    def rate(self, now: float) -> str:
        return f"{self.done / max(now - self.began, 1e-9):.1f} a second"

    def close(self) -> None:
        print(f"{self.done - self.failed} utterances classified, {self.rate(time.monotonic())}"
              + (f"; {self.failed} could not be used" if self.failed else ""), file=sys.stderr)  # fmt: skip
        for note, count in self.notes.items():
            if count > 1:
                print(f"note, {count} times: {note}", file=sys.stderr)
        if self.confusion.any():
            from mer_jax.statistics import overall

            told = ", ".join(f"{name} {float(value):.4f}" for name, value in overall(self.confusion).items())
            print(f"of {self.confusion.sum()} with a known label: {told}", file=sys.stderr)


if __name__ == "__main__":
    main()
