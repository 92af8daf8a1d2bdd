"""The utterances of a feature pack become records to predict: the other end of a pack given to
`python -m mer_jax.predict`. Neither labels nor parts are needed, and a row that cannot be read costs itself.

    python -m data_prep.pack_stream FILE… --records OUT

FILE and the flags are those of data_prep.import_pack. OUT holds TFRecords as data_prep.stream answers with: `hello`,
JSON of the modalities' extractors and of the text encoder, or `error`; then an Example for each utterance, with its
label where the pack has one that has a name; or with `error`. The dialogue of an utterance that is of none is "".
--by-dialogue: dialogue by dialogue, in the order of their turns.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import import_pack, limits
from data_prep.encoders import flags
from data_prep.encoders.text import TextEncoder
from data_prep.importer import print_note
from data_prep.packs.labels import name_labels
from data_prep.packs.rows import PackRow, separate_parts
from mer_jax.data.corpus import Utterance, to_example
from mer_jax.data.dialogues import repeated_turns, same_turn
from mer_jax.data.records import encode_example, write_record
from mer_jax.errors import UserError, at, reported


def name_known_labels(where: str, rows: list[PackRow], declared: str | None) -> None:
    """Names the labels there are; they go where nothing tells their names. Raises UserError if --labels are wrong."""
    labelled = [row for row in rows if not row.error and not row.unlabelled and row.label != ""]
    for row in rows:
        if row.unlabelled:
            row.label = ""
    if not labelled:
        return
    try:
        name_labels(where, labelled, declared)
    except UserError as error:
        if declared:
            raise
        print_note(f"the labels are not looked at: {error}")
        for row in labelled:
            row.label = ""


def converted(where: str, rows: list[PackRow], encoder: TextEncoder) -> None:
    """Makes the features float32, and those of sentences where the pack has no text features."""
    for row in rows:
        try:
            import_pack.round_to_float32(where, [row])
        except UserError as error:
            row.error = str(error)
    spoken = [row for row in rows if row.sentence and not row.error]
    for row, states in zip(spoken, import_pack.states_of(spoken, encoder), strict=False):
        row.features["text"] = states


def records(arguments: argparse.Namespace) -> Iterator[bytes]:
    where = str(arguments.files[0])
    pack = import_pack.read_pack(arguments, to_predict=True)
    if not pack.rows:
        raise UserError(f"{where} holds no utterance")
    name_known_labels(where, pack.rows, arguments.labels)
    for note in [*pack.notes, *separate_parts([row for row in pack.rows if not row.error])]:
        print_note(note)
    if arguments.by_dialogue:
        refuse_repeated(where, pack.rows)
    encoder = import_pack.text_encoder(arguments)
    encodes = not any("text" in row.features for row in pack.rows)
    converted(where, pack.rows, encoder)
    modalities = sorted({m for row in pack.rows for m in row.features})
    from_pack = f"as in the pack ({pack.layout})"
    made = {m: encoder.extractor if encodes and m == "text" else from_pack for m in modalities}
    hello: dict[str, Any] = {"modalities": {m: {"extractor": extractor} for m, extractor in made.items()}}
    if encodes:
        hello |= {"provenance": {"text_encoder": encoder.identity}}
    yield encode_example({"hello": json.dumps(hello, ensure_ascii=False).encode()})
    sizes = Counter(row.dialogue for row in pack.rows)
    for row in pack.rows:
        if row.dialogue == row.id and sizes[row.dialogue] == 1:  # as utterances without a dialogue are read
            row.dialogue = ""
    for row in by_dialogue(pack.rows) if arguments.by_dialogue else pack.rows:
        yield record_of(row)


def refuse_repeated(where: str, rows: list[PackRow]) -> None:
    """A row with the turn of another row of its dialogue gets an error, and has no place then."""
    usable = [row for row in rows if not row.error and row.dialogue != row.id]
    for first, second in repeated_turns((row.dialogue for row in usable), (row.turn for row in usable)):
        row = usable[second]
        told = same_turn(f"{where}: the utterances {usable[first].id}", row.id, row.dialogue, row.turn)
        row.error, row.dialogue = told, ""


def by_dialogue(rows: list[PackRow]) -> list[PackRow]:
    """The rows dialogue by dialogue, in the order in which these begin, and there by turn; a row of none is by
    itself."""
    first: dict[Any, int] = {}
    began = [first.setdefault(row.dialogue or i, i) for i, row in enumerate(rows)]
    return [rows[i] for i in sorted(range(len(rows)), key=lambda i: (began[i], rows[i].turn))]


def record_of(row: PackRow) -> bytes:
    if row.error:
        place: dict[str, Any] = {"dialogue": _bytes(row.dialogue), "turn": [row.turn], "speaker": _bytes(row.speaker)}
        return encode_example({"id": _bytes(row.id), "error": _bytes(row.error), **(place if row.dialogue else {})})
    fields = {
        name: getattr(row, name) for name in ("id", "split", "dialogue", "turn", "speaker", "session", "sentence")
    }
    return to_example(Utterance(**fields, label=str(row.label), features=row.features, start=row.start, end=row.end))


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.pack_stream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--records", type=Path, required=True, metavar="OUT", help="the file to write")
    parser.add_argument("--by-dialogue", action="store_true", help="dialogue by dialogue, in the order of their turns")
    flags.add_text(parser)
    limits.add_flags(parser)
    import_pack.add_flags(parser)
    arguments = parser.parse_intermixed_args(argv)
    limits.use(arguments)
    with reported(), at(arguments.records), open(arguments.records, "wb") as out:
        try:
            for record in records(arguments):
                write_record(out, record)
        except UserError as error:
            write_record(out, encode_example({"error": _bytes(str(error))}))
            raise


if __name__ == "__main__":
    main()
