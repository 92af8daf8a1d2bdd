"""An `Importer` is a command that makes a corpus folder. This file holds everything that all importers share.

A new corpus takes one file:

    def add_flags(parser): parser.add_argument("table", type=Path)
    def read(arguments): return Source(name="mine", utterances=..., labels=("sad", "happy"), ...)
    main = Importer("data_prep.mine", __doc__, add_flags, read).main

    if __name__ == "__main__":
        main()

One of recordings or dialogues that lie in a folder has its clips, encoders and known traps from speech_corpus.py.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import limits, numbers
from data_prep.audit.corpus_audit import write_and_audit
from data_prep.class_names import alike_names, alike_numbers
from data_prep.encoders import flags
from data_prep.encoders.text import TextEncoder
from mer_jax.data.corpus import SPLITS, Utterance
from mer_jax.data.corpus_writer import refuse_existing
from mer_jax.data.description import Description
from mer_jax.data.targets import Target
from mer_jax.errors import UserError, reported
from mer_jax.files import sha256_of

LISTED = 3  # utterances without a class


@dataclasses.dataclass(frozen=True)
class Source:
    """An importer has read this: the utterances, in any order, and what the manifest says of them.

    `encoder` embeds the label words, which are the labels unless `label_words` says otherwise; where the text features
    are its own, too, both lie in one space. `layers` and `steps_per_second` are those of `Description`. `provenance`
    follows the name of the tool in the manifest. `extra_happy` is the file whose ids the audit counts, and
    `closing_lines` are printed last. `kept_unlabelled` says of every utterance without a class, by its id, where it is
    or why; None where --keep-unlabelled is not given. `targets` are what the utterances hold numbers for, their words
    not yet embedded, and `groups` the names of what people are told apart by; with targets, labels may be none.
    """

    name: str
    utterances: Iterable[Utterance]
    labels: tuple[str, ...]
    encoder: TextEncoder
    extractors: Mapping[str, str]
    protocol: Mapping[str, str]
    provenance: Mapping[str, Any]
    licence: str
    label_words: tuple[str, ...] = ()
    layers: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    trained_on: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    made_by: Mapping[str, str] = dataclasses.field(default_factory=dict)
    steps_per_second: Mapping[str, float] = dataclasses.field(default_factory=dict)
    extra_happy: Path | None = None
    closing_lines: Sequence[str] = ()
    kept_unlabelled: Mapping[str, str] | None = None
    targets: Sequence[Target] = ()
    groups: Sequence[str] = ()

    def with_trained_parts(self, given: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Returns `trained_on` with what --trained-on says of it. Raises UserError for a modality that is not here."""
        if other := [m for m in given if m not in self.extractors]:
            raise UserError(f"--trained-on: {other[0]!r} is none of the modalities {', '.join(self.extractors)}")
        return {m: parts for m, parts in {**self.trained_on, **given}.items() if parts}

    def refuse_makers(self, given: Mapping[str, str]) -> None:
        """Raises UserError if --made-by is of a modality that is not here, or whose encoder is known."""
        for m, encoder in given.items():
            if m not in self.extractors:
                raise UserError(f"--made-by: {m!r} is none of the modalities {', '.join(self.extractors)}")
            known = self.provenance.get(f"{m}_encoder") or (self.extractors[m] == self.encoder.extractor)
            if known:
                raise UserError(f"--made-by={m}={encoder}: the {m} features are made here, by {self.extractors[m]}")

    def description(self, tool: str) -> Description:
        words = self.label_words or self.labels
        kept = self.kept_unlabelled
        unlabelled = {} if kept is None else {"kept_unlabelled": {"count": len(kept), "first": list(kept)[:LISTED]}}
        targets = tuple(numbers.embedded(target, self.encoder) for target in self.targets)
        width = np.shape(targets[0].embeddings)[1:] if targets else (1,)
        encodes_text = self.extractors.get("text") == self.encoder.extractor
        return Description(
            name=self.name,
            labels=self.labels,
            extractors=self.extractors,
            label_words=words,
            label_embeddings=self.encoder.words(words) if words else np.zeros((0, *width), np.float32),
            label_space="text" if encodes_text else str(self.encoder.identity["name"]),
            protocol=self.protocol,
            provenance={"tool": tool, **self.provenance, **unlabelled},
            licence=self.licence,
            layers=self.layers,
            trained_on=self.trained_on,
            made_by=self.made_by,
            steps_per_second=self.steps_per_second,
            targets=targets,
            groups=tuple(self.groups),
        )


@dataclasses.dataclass(frozen=True)
class Importer:
    """`python -m TOOL --out DIR` reads a source and writes a corpus folder. `add_flags` adds the flags that only this
    importer has; `read` makes a `Source` of the parsed flags and raises UserError for what it cannot use."""

    tool: str
    description: str | None
    add_flags: Callable[[argparse.ArgumentParser], None]
    read: Callable[[argparse.Namespace], Source]

    def main(self, argv: Sequence[str] | None = None) -> None:
        arguments = self.parser().parse_intermixed_args(argv)
        with reported():
            self.convert(arguments)

    def parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.tool}",
            description=self.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="corpus folder to make; must not exist yet"
        )
        flags.add_text(parser)
        limits.add_flags(parser)
        parser.add_argument(
            "--trained-on",
            action="append",
            default=[],
            metavar="MODALITY=PARTS",
            help="the features, or the encoder that makes them, were trained on the labels of these parts, as in "
            "text=train,valid; none: on no labels. Testing on what they were trained on is then refused. Default: what "
            "is known of the source",
        )
        parser.add_argument(
            "--made-by",
            action="append",
            default=[],
            metavar="MODALITY=ENCODER",
            help="which encoder made features that came with the source, by its name on a hub, as in "
            "audio=iic/emotion2vec_base: python -m mer_jax.data --contamination tells what some have seen",
        )
        self.add_flags(parser)
        return parser

    def convert(self, arguments: argparse.Namespace) -> None:
        refuse_existing(arguments.out)
        limits.use(arguments)
        given, makers = trained_parts(arguments.trained_on), named_makers(arguments.made_by)
        source = self.read(arguments)
        source.refuse_makers(makers)
        source = dataclasses.replace(source, trained_on=source.with_trained_parts(given), made_by=makers)
        for m, parts in source.trained_on.items():
            print_note(
                f"the {m} features were trained on the labels of {' and '.join(parts)}: testing on these is refused"
            )
        if source.kept_unlabelled is not None:
            print_note(kept_in_words(list(source.kept_unlabelled.values()), numbers.names_of(source.targets)))
        for note in (*alike_names(source.labels), *alike_numbers(source.targets)):
            print_note(note)
        description = source.description(self.tool)
        utterances = numbers.all_known(source.utterances, source.targets)
        write_and_audit(arguments.out, utterances, description, extra_happy=source.extra_happy)
        for line in source.closing_lines:
            print(line)


def add_keep_unlabelled(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds --keep-unlabelled, for importers whose source may hold utterances without a class; `what` says which."""
    parser.add_argument(
        "--keep-unlabelled",
        action="store_true",
        help=f"keep {what} as turns without a class: heard in their dialogue, and neither learnt from nor scored where "
        "the class is asked for",
    )


def kept_in_words(kept: Sequence[str], names: Sequence[str] = ()) -> str:
    """Says how many utterances are without a class, and that the numbers of these names are learnt all the same."""
    if not kept:
        return "no utterance is without a class: --keep-unlabelled changes nothing"
    more = f"; and {len(kept) - LISTED:,} more" if len(kept) > LISTED else ""
    told = f", unless for {', '.join(names)}" if names else ""
    return (
        f"{len(kept):,} utterances are kept without a class, heard in their dialogues and neither learnt from nor "
        f"scored{told}: {'; '.join(kept[:LISTED])}{more}"
    )


def trained_parts(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns {modality: parts}, no parts for none. Raises UserError for what --trained-on cannot mean."""
    found = {}
    for text in given:
        modality, _, parts = text.partition("=")
        named = () if parts == "none" else tuple(parts.split(","))
        if not modality or not set(named) <= set(SPLITS):
            raise UserError(f"--trained-on={text}: must be MODALITY=PARTS, parts of {', '.join(SPLITS)}, or none")
        found[modality] = named
    return found


def named_makers(given: Sequence[str]) -> dict[str, str]:
    """Returns {modality: encoder}. Raises UserError for what --made-by cannot mean."""
    found = {}
    for text in given:
        modality, _, encoder = text.partition("=")
        if not modality or not encoder:
            raise UserError(f"--made-by={text}: must be MODALITY=ENCODER, as in audio=iic/emotion2vec_base")
        found[modality] = encoder
    return found


def print_note(text: str) -> None:
    print(f"note: {text}")


def checksums(*paths: Path) -> dict[str, str]:
    """Returns the sha256 of each file by its name, as manifests hold it."""
    return {path.name: sha256_of(path) for path in paths}
