"""A feature pack of the community becomes a corpus, with every label by name.

    python -m data_prep.import_pack FILE… --out DIR

FILE is a pickle or torch file of a known layout (recognised by its structure), DeepMSI-MER's folder of pickles, or
tables: npz, npy, csv, parquet, h5, with a --mapping that says which column is what. Nothing in a pickle is run: see
data_prep/packs/safe_pickle.py.

Packs number their classes and do not say how. Where the counts are those of a known corpus the order is found by
itself; a declared order that contradicts the counts is refused. Layouts:
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.encoders.flags import text_encoder
from data_prep.encoders.text import TextEncoder
from data_prep.importer import Importer, Source, print_note
from data_prep.packs import class_counts, layouts, tables
from mer_jax.data.corpus import DTYPES, SPLITS, Utterance
from mer_jax.errors import UserError
from mer_jax.files import sha256_of

TABLES = (".npz", ".npy", ".csv", ".tsv", ".parquet", ".h5", ".hdf5")
DESCRIPTION = "\n".join(
    [
        __doc__ or "",
        *(f"    {name:18s}{fields}" for name, fields in layouts.TUPLES.items()),
        "    mmsa              {train, valid, test: {id, raw_text, text, audio, vision, …}}",
        "    deepmsi           {split}/{video,text,audio}/{name}.pkl",
        "    list              dicts with id, split, label, and vectors by modality\n",
    ]
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--layout", choices=layouts.LAYOUTS, help="where the structure fits several")
    parser.add_argument("--labels", metavar="A,B,…", help="the classes in the order in which the pack numbers them")
    parser.add_argument("--name", help="the corpus's name; default: the known corpus's, or the file's")
    parser.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE.toml",
        help='which column is what: [columns] id = "utt_id" …, [features] text = "text_*" or "FILE:COLUMN" …, '
        '[values.split] val = "valid" …',
    )
    parser.add_argument(
        "--valid",
        default="10",
        metavar="FILE|N",
        help="where a pack has no validation part: a file that lists the dialogues of train to validate on, "
        "one a line; or N: every Nth by a hash of its name; 0: none; default: %(default)s",
    )
    parser.add_argument(
        "--trained-on",
        action="append",
        default=[],
        metavar="MODALITY=PARTS",
        help="features trained on the labels of these parts, as text=train,valid; none: on no labels. "
        "Testing on what they were trained on is then refused. "
        "Default: the text of the layouts with four layers, on what is not test",
    )
    parser.add_argument("--licence", default="unknown: ask whoever made the pack", help="default: %(default)s")


def read(arguments: argparse.Namespace) -> Source:
    files = arguments.files
    pack, where = read_pack(arguments), str(files[0])
    if not pack.rows:
        raise UserError(f"{where} holds no utterance")
    labels, words, fits = name_labels(where, pack.rows, arguments.labels)
    print(f"{pack.layout}: {sizes_in_words(pack.rows)}; {fits or 'the counts are of no corpus known here'}")
    for note in pack.notes:
        print_note(note)
    rounding = round_to_float32(where, pack.rows)
    for m, how in rounding.items():
        print_note(
            f"the {m} features are {how['from']} and become float32, which training computes in; "
            f"the largest relative rounding is {how['largest_relative']:.2g}"
        )
    encoder = text_encoder(arguments)
    texts = states_of(pack.rows, encoder)
    modalities = sorted({m for row in pack.rows for m in row.features} | ({"text"} if texts else set()))
    trained_on = trained_parts(pack, arguments.trained_on, modalities)
    for m, parts in trained_on.items():
        print_note(f"the {m} features were trained on the labels of {' and '.join(parts)}: testing on these is refused")
    from_pack = f"as in the pack ({pack.layout})"
    return Source(
        name=arguments.name or (fits.split(",")[0] if fits else files[0].stem),
        utterances=utterances(pack.rows, texts),
        labels=labels,
        encoder=encoder,
        extractors={m: encoder.extractor if texts and m == "text" else from_pack for m in modalities},
        label_words=words,
        protocol={"name": "pack", "description": "; ".join(["the parts of the pack", *pack.notes])},
        provenance={
            "layout": pack.layout,
            "class_counts": fits,
            "sources": {str(p.relative_to(f.parent)): sha256_of(p) for f in files for p in sources(f)},
            "label_word_encoder": encoder.identity,
            "notes": pack.notes,
            "rounded_to_float32": rounding,
        },
        licence=arguments.licence,
        trained_on=trained_on,
    )


def read_pack(arguments: argparse.Namespace) -> layouts.Pack:
    files, valid = arguments.files, validation(arguments.valid)
    if all(file.suffix.lower() in TABLES for file in files):
        columns = {file.name: tables.read_table(file) for file in files}
        mapping = tables.read_mapping(arguments.mapping) if arguments.mapping else {}
        return layouts.Pack("table", layouts.rows_of(files[0].name, tables.records(columns, mapping)), [], {})
    if len(files) > 1 or arguments.mapping:
        raise UserError("several files, or a --mapping, are for tables: " + ", ".join(TABLES))
    return layouts.read(files[0], arguments.layout, valid)


def sources(file: Path) -> list[Path]:
    return sorted(p for p in file.rglob("*") if p.is_file()) if file.is_dir() else [file]


def validation(given: str) -> layouts.Validation:
    if given.isdecimal():
        return layouts.Validation(every=int(given))
    try:
        return layouts.Validation(frozenset(Path(given).read_text().split()))
    except (OSError, ValueError) as error:
        raise UserError(f"--valid={given}: neither a number nor a readable list of dialogues ({error})") from None


def sizes_in_words(rows: Sequence[layouts.PackRow]) -> str:
    split = Counter(row.split for row in rows)
    return f"{len(rows)} utterances, " + ", ".join(f"{part} {split[part]}" for part in SPLITS if split[part])


def name_labels(
    where: str, rows: Sequence[layouts.PackRow], declared: str | None
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Returns (labels, words, the known corpus and set that the counts are of); the rows' numbers become names. Raises
    UserError if the order is neither declared nor told by the counts, or contradicts them."""
    order = tuple(declared.split(",")) if declared else ()
    if len(set(order)) < len(order):
        raise UserError(f"--labels={declared}: a class occurs twice")
    if any(isinstance(row.label, str) for row in rows):
        return _named(where, rows, order)
    highest = max(int(row.label) for row in rows)
    if highest > 999:
        raise UserError(f"{where}: label {highest} is no class; classes are numbered from 0")
    counts = np.bincount([int(row.label) for row in rows], minlength=highest + 1).tolist()
    if not order:
        fits = class_counts.fitting(counts)
        if not fits:
            raise UserError(
                f"{where}: the labels are numbers, {_counted(counts)}, and the counts are of no corpus known here: "
                f"say which is which with --labels, {len(counts)} names in order"
            )
        order = fits[0].order
        print(f"the counts are those of {fits[0].corpus.name} ({fits[0].set}): 0, 1, … are {', '.join(order)}")
    elif len(order) <= highest:
        raise UserError(f"--labels={declared}: {len(order)} names, and the pack has label {highest}")
    counts += [0] * (len(order) - len(counts))
    fitting = class_counts.check_order(where, order, counts)
    for row in rows:
        row.label = order[int(row.label)]
    return order, _words(order), fitting


def _named(
    where: str, rows: Sequence[layouts.PackRow], order: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    counts = Counter(str(row.label) for row in rows)
    if order and (unknown := sorted(counts.keys() - set(order))):
        raise UserError(f"{where}: label {unknown[0]!r} is not among --labels={','.join(order)}")
    if not order:
        of_known = [tuple(corpus.words) for corpus in class_counts.CORPORA if set(corpus.words) == counts.keys()]
        order = of_known[0] if of_known else tuple(sorted(counts))
    return order, _words(order), class_counts.check_order(where, order, [counts[label] for label in order])


def _words(labels: Sequence[str]) -> tuple[str, ...]:
    of = {label: word for corpus in class_counts.CORPORA for label, word in corpus.words.items()}
    return tuple(of.get(label, label.lower()) for label in labels)


def _counted(counts: Sequence[int]) -> str:
    return ", ".join(f"{i}: {n}" for i, n in enumerate(counts))


def round_to_float32(where: str, rows: Sequence[layouts.PackRow]) -> dict[str, dict[str, Any]]:
    """Makes the rows' features that are neither float16 nor float32 float32. Returns {modality: from which numbers, and
    the largest relative difference}. Raises UserError where a number is beyond float32."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        for m, value in row.features.items():
            if value.dtype.name in DTYPES:
                continue
            with np.errstate(over="ignore", under="ignore"):
                near = value.astype(np.float32)
            counts = np.isfinite(value) & (value != 0)
            size = np.abs(value[counts].astype(np.float64))
            if np.isinf(near[counts]).any():
                raise UserError(f"{where}, utterance {row.id}: {m} reaches {size.max():.3g}, which is beyond float32")
            relative = np.abs(near[counts] - value[counts].astype(np.float64)) / size
            so_far = found.setdefault(m, {"from": value.dtype.name, "largest_relative": 0.0})
            so_far["largest_relative"] = max(so_far["largest_relative"], float(relative.max(initial=0.0)))
            row.features[m] = near
    return found


def states_of(rows: Sequence[layouts.PackRow], encoder: TextEncoder) -> list[np.ndarray]:
    """Returns token states of the sentences where the pack brings no text features; nothing where it does, or has no
    sentences."""
    if any("text" in row.features for row in rows) or not any(row.sentence for row in rows):
        return []
    print("the pack has sentences and no text features: the text encoder reads them")
    return encoder.states([row.sentence for row in rows])


def trained_parts(pack: layouts.Pack, given: Sequence[str], modalities: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns {modality: parts}. Raises UserError for what --trained-on cannot mean."""
    found = {m: parts for m, parts in pack.trained_on.items() if m in modalities}
    for text in given:
        modality, _, parts = text.partition("=")
        named = () if parts == "none" else tuple(parts.split(","))
        if modality not in modalities or not set(named) <= set(SPLITS):
            raise UserError(
                f"--trained-on={text}: must be MODALITY=PARTS of {', '.join(modalities)} "
                f"and of {', '.join(SPLITS)} or none"
            )
        found[modality] = named
    return {m: parts for m, parts in found.items() if parts}


def utterances(rows: Sequence[layouts.PackRow], texts: Sequence[np.ndarray]) -> Iterator[Utterance]:
    """Yields the utterances in the order of the parts; within one, as the pack has them."""
    for part in SPLITS:
        for i, row in enumerate(rows):
            if row.split == part:
                features = row.features | ({"text": texts[i]} if texts else {})
                fields = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
                yield Utterance(**(fields | {"features": features}))


IMPORTER = Importer("data_prep.import_pack", DESCRIPTION, add_flags, read)
main = IMPORTER.main

if __name__ == "__main__":
    main()
