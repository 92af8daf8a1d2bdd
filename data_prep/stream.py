"""Clips and sentences, one request after the other, become features as those of an existing corpus. It is an encoder
server: the other end of a pipe of `python -m mer_jax.predict`.

    python -m data_prep.stream --manifest DIR/manifest.json --modalities text,audio

Requests are lines of JSON on stdin:

    {"id": "a", "file": "clips/a.mp4", "sentence": "I did not expect that.", "start": 1.5, "end": 4}

`file` may be absent, null, for sentences alone; `start` and `end` tell a part of it. {"id": …, "file": …, "length":
true} asks for nothing but its length. {"id": …, "error": …} is of an input that who asks found wrong already; it is
answered in its turn.

Answers are TFRecords on stdout, one a request, in order: tf.train.Example as in a corpus (mer_jax/data/corpus.py),
with a label of "" and the split `test`. Beside it are `notes` (what was done to the clip, why a modality is missing),
`words` (the piece of the sentence that each time step of text stands for, if its encoder tells) and `seconds`, the
length of the whole file. An input that cannot be used has only `id` and `error`, and the stream goes on. Before all
answers comes one Example with `hello`, JSON of the modalities' extractors and of notes; or with `error`, and the
command ends with 1.

What waits is answered together, up to --together, and nothing waits for more to come. Who writes requests must read
answers meanwhile: the command takes in only a few more than it has answered. People are told on stderr.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from data_prep import limits
from data_prep.encoders import flags, from_manifest
from data_prep.encoders.extract import STREAMS
from data_prep.encoders.serving import RequestEncoder, batches
from data_prep.encoders.speech_to_text import SpeechRecogniser
from mer_jax import files
from mer_jax.data.corpus import Manifest
from mer_jax.data.records import encode_example, write_record
from mer_jax.errors import UserError
from mer_jax.plain import plain_output

BATCH_SIZE = 16  # requests answered together: more is hardly faster, and all of it is in memory


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    return Manifest(content, str(path)).manifest


def begin(arguments: argparse.Namespace) -> tuple[RequestEncoder, dict[str, Any]]:
    """Returns the encoders and what the first record says of them. Raises UserError for flags that it cannot use."""
    manifest = read_manifest(arguments.manifest)
    modalities = list(dict.fromkeys(arguments.modalities.split(",")))
    places = {m: place for m in ("text", *STREAMS) if (place := getattr(arguments, f"{m}_encoder"))}
    if idle := [m for m in places if m not in modalities]:
        raise UserError(f"--{idle[0]}-encoder is given, but --modalities={arguments.modalities}")
    made, notes = from_manifest.encoders_of(manifest, modalities, places, arguments.device, arguments.cache)
    recogniser = SpeechRecogniser(arguments.asr, arguments.device) if arguments.asr else None
    if recogniser:
        if "text" not in made:
            raise UserError(f"--asr is given, but --modalities={arguments.modalities} has no text")
        notes.append(f"text: clips without a sentence are transcribed by {recogniser.name}")
    extractors = {m: {"extractor": encoder.extractor} for m, encoder in made.items()}
    return RequestEncoder(made, recogniser), {"modalities": extractors, "notes": notes}


def serve(encoder: RequestEncoder, lines: Iterable[bytes], out: BinaryIO, batch_size: int) -> None:
    asked = (line for line in lines if line.strip())
    for batch in batches(encoder.prepare, asked, batch_size):
        for answer in encoder.answers(batch):
            write_record(out, answer)
        out.flush()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.stream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--manifest", type=Path, required=True, metavar="MANIFEST.json", help="of the corpus whose features to make"
    )
    parser.add_argument("--modalities", required=True, metavar="M,M", help="of text, audio, visual")
    for modality in ("text", *STREAMS):
        parser.add_argument(
            f"--{modality}-encoder",
            metavar="NAME|PATH",
            help="where its model is; default: the hub's name in the manifest",
        )
    parser.add_argument(
        "--asr",
        metavar="NAME|PATH",
        help="transcribe clips that come without a sentence: Whisper or a CTC model of transformers",
    )
    parser.add_argument("--device", default="auto", help="as of python -m data_prep.clips")
    parser.add_argument(
        "--together",
        type=flags.positive,
        default=BATCH_SIZE,
        metavar="N",
        help=(
            "answer up to N waiting requests at a time; with 1 the last bit of a feature does not depend on what else "
            "was waiting; default: %(default)s"
        ),
    )
    limits.add_flags(parser)
    arguments = parser.parse_args(argv)
    limits.use(arguments)
    arguments.cache = files.cache_folder() / "features"  # not written to
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt), open(os.dup(1), "wb") as out, plain_output():
        os.dup2(2, 1)  # whatever a library prints is for people
        converse(arguments, out)


def converse(arguments: argparse.Namespace, out: BinaryIO) -> None:
    try:
        encoder, hello = begin(arguments)
    except UserError as error:
        write_record(out, encode_example({"error": str(error).encode()}))
        raise SystemExit(1) from None
    for note in hello["notes"]:
        print(f"note: {note}", file=sys.stderr)
    write_record(out, encode_example({"hello": json.dumps(hello, ensure_ascii=False).encode()}))
    out.flush()
    # Closing it would wait for a line, if answers are no longer taken.
    lines = open(0, "rb", closefd=False)  # noqa: SIM115
    serve(encoder, lines, out, arguments.together)


if __name__ == "__main__":
    main()
