"""Describes a corpus and verifies every byte of it: `python -m mer_jax.data DIR`. Tells which encoder is known to have
seen which corpus: `python -m mer_jax.data --contamination`."""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from mer_jax.data.contamination import exposures, table_lines
from mer_jax.data.corpus import Corpus
from mer_jax.data.description import describe_spec
from mer_jax.data.frames import EncodedFrames
from mer_jax.data.targets import CLASSES
from mer_jax.errors import UserError, reported
from mer_jax.files import sha256_of


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.data", description="Describe a corpus and verify all of it."
    )
    parser.add_argument("folder", type=Path, nargs="?", help="a corpus folder: manifest.json and its shards")
    parser.add_argument(
        "--contamination",
        nargs="?",
        const="",
        metavar="ENCODER",
        help="print which encoders, or what this one, are known to have seen of which corpora, each with its source; "
        "ENCODER is its name on a hub, or that of its folder",
    )
    arguments = parser.parse_args(argv)
    if (arguments.folder is None) == (arguments.contamination is None):
        parser.error("give a corpus folder, or --contamination and maybe an encoder")
    if arguments.contamination is not None:
        with reported():
            print("\n".join(table_lines(arguments.contamination or None)))
        return
    with reported():
        describe(arguments.folder)


def describe(folder: Path) -> None:
    """Prints what the corpus says of itself, and reads all of it. Raises UserError where it is damaged."""
    corpus = Corpus(folder)
    print(f"{corpus.manifest['name']}: {len(corpus)} utterances, manifest sha256 {corpus.manifest_sha256}")
    for name, spec in corpus.modalities.items():
        print(f"  {name}: {describe_spec(spec)}, up to {spec['longest']} steps, {spec['extractor']}")
    for one in exposures(corpus, corpus.modalities):
        print(f"  {one.in_words()}")
    for target in corpus.targets.values():
        if target.name != CLASSES:
            print(f"  can be asked for (--config.data.task): {target.describe()}")
    if corpus.groups:
        print(f"  people are told apart by {', '.join(corpus.groups)}")
    for name, split in corpus.manifest["splits"].items():
        known = split["classes"] | {f"with {number}": n for number, n in split.get("known", {}).items()}
        print(f"  {name}: {split['count']}  " + "  ".join(f"{k} {v}" for k, v in known.items()))
        if without := split.get("unlabelled"):
            print(f"    {without} of them have no class: a conversation hears them, nothing is learnt from them")
    if voted := corpus.manifest.get("voted"):
        print(f"  the raters' votes on {voted} utterances")
    nonfinite: Counter[str] = Counter()
    for row in range(len(corpus)):
        for modality, value in corpus[row].features.items():
            if isinstance(value, EncodedFrames):
                corpus.decode_frames(row, value)
            else:
                nonfinite[modality] += not np.isfinite(value).all()
    for shard in corpus.manifest["shards"]:
        if sha256_of(folder / shard["file"]) != shard["sha256"]:
            raise UserError(f"{folder / shard['file']}: every record is intact, but the sha256 is not the manifest's")
    print(
        "  every record and sha256 verified; utterances with NaN or infinite values: "
        + (", ".join(f"{m} {n}" for m, n in nonfinite.items() if n) or "none")
    )


if __name__ == "__main__":
    main()
