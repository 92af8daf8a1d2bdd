"""A feature pack of the community -> a corpus, with every label by name.

    python -m data_prep.import_pack FILE… --out DIR

FILE is a pickle or torch file of a known layout (recognised by its structure), DeepMSI-MER's folder of pickles, or tables: npz, npy, csv,
parquet, h5, with a --mapping that says which column is what. Nothing in a pickle is run: see data_prep/unpickle.py.

Packs number their classes and do not say how. Where the counts are those of a known corpus the order is found by itself; a declared
order that contradicts the counts is refused. Layouts:
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import known, packs, table
from data_prep.audit import write_and_audit
from data_prep.text import TextEncoder, encoder_of, parser_of
from mer_jax.data.corpus import DTYPES, SPLITS, Utterance
from mer_jax.data.corpus_writer import Description, refuse_existing
from mer_jax.errors import UserError, reported
from mer_jax.files import sha256_of

TABLES = (".npz", ".npy", ".csv", ".tsv", ".parquet", ".h5", ".hdf5")


def parser() -> argparse.ArgumentParser:
    layouts = "".join(f"    {name:18s}{fields}\n" for name, fields in packs.TUPLES.items())
    layouts += "    mmsa              {train, valid, test: {id, raw_text, text, audio, vision, …}}\n"
    layouts += "    deepmsi           {split}/{video,text,audio}/{name}.pkl\n"
    layouts += "    list              dicts with id, split, label, and vectors by modality\n"
    made = parser_of("data_prep.import_pack", f"{__doc__}\n{layouts}")
    made.add_argument("files", type=Path, nargs="+", metavar="FILE")
    made.add_argument("--layout", choices=packs.LAYOUTS, help="where the structure fits several")
    made.add_argument("--labels", metavar="A,B,…", help="the classes in the order in which the pack numbers them")
    made.add_argument("--name", help="the corpus's name; default: the known corpus's, or the file's")
    made.add_argument("--mapping", type=Path, metavar="FILE.toml", help='which column is what: [columns] id = "utt_id" …, [features] '
                        'text = "text_*" or "FILE:COLUMN" …, [values.split] val = "valid" …')  # fmt: skip
    made.add_argument("--valid", default="10", metavar="FILE|N", help="where a pack has no validation part: a file that lists the dialogues of "
                        "train to validate on, one a line; or N: every Nth by a hash of its name; 0: none; default: %(default)s")  # fmt: skip
    made.add_argument("--trained-on", action="append", default=[], metavar="MODALITY=PARTS", help="features trained on the labels of these parts, "
                        "as text=train,valid; none: on no labels. Testing on what they were trained on is then refused. "
                        "Default: the text of the layouts with four layers, on what is not test")  # fmt: skip
    made.add_argument("--licence", default="unknown: ask whoever made the pack", help="default: %(default)s")
    return made


def main(argv: list[str] | None = None) -> None:
    arguments = parser().parse_intermixed_args(argv)
    with reported():
        convert(arguments)


def convert(arguments: argparse.Namespace) -> None:
    refuse_existing(arguments.out)
    pack = read(arguments)
    if not pack.rows:
        raise UserError(f"{arguments.files[0]} holds no utterance")
    labels, words, fits = name_labels(str(arguments.files[0]), pack.rows, arguments.labels)
    print(f"{pack.layout}: {told(pack.rows)}; {fits or 'the counts are of no corpus known here'}")
    for note in pack.notes:
        print(f"note: {note}")
    rounding = rounded(str(arguments.files[0]), pack.rows)
    for m, how in rounding.items():
        print(
            f"note: the {m} features are {how['from']} and become float32, which training computes in; the largest relative "
            f"rounding is {how['largest_relative']:.2g}"
        )
    encoder = encoder_of(arguments)
    texts = states_of(pack.rows, encoder)
    modalities = sorted({m for row in pack.rows for m in row.features} | ({"text"} if texts else set()))
    trained_on = trained(pack, arguments.trained_on, modalities)
    for m, parts in trained_on.items():
        print(
            f"note: the {m} features were trained on the labels of {' and '.join(parts)}: testing on these is refused"
        )
    from_pack = f"as in the pack ({pack.layout})"
    write_and_audit(
        arguments.out,
        utterances(pack.rows, labels, texts),
        Description(
            name=arguments.name or (fits.split(",")[0] if fits else arguments.files[0].stem),
            labels=labels,
            extractors={m: encoder.extractor if texts and m == "text" else from_pack for m in modalities},
            label_words=words,
            label_embeddings=encoder.words(words),
            label_space="text" if texts else str(encoder.identity["name"]),
            protocol={"name": "pack", "description": "; ".join(["the parts of the pack", *pack.notes])},
            provenance={
                "tool": "data_prep.import_pack",
                "layout": pack.layout,
                "class_counts": fits,
                "sources": {str(p.relative_to(f.parent)): sha256_of(p) for f in arguments.files for p in sources(f)},
                "label_word_encoder": encoder.identity,
                "notes": pack.notes,
                "rounded_to_float32": rounding,
            },
            licence=arguments.licence,
            trained_on=trained_on,
        ),
    )


def read(arguments: argparse.Namespace) -> packs.Pack:
    files, valid = arguments.files, validation(arguments.valid)
    if all(file.suffix.lower() in TABLES for file in files):
        tables = {file.name: table.read_table(file) for file in files}
        mapping = table.read_mapping(arguments.mapping) if arguments.mapping else {}
        return packs.Pack("table", packs.rows_of(files[0].name, table.records(tables, mapping)), [], {})
    if len(files) > 1 or arguments.mapping:
        raise UserError("several files, or a --mapping, are for tables: " + ", ".join(TABLES))
    return packs.read(files[0], arguments.layout, valid)


def sources(file: Path) -> list[Path]:
    return sorted(p for p in file.rglob("*") if p.is_file()) if file.is_dir() else [file]


def validation(given: str) -> packs.Validation:
    if given.isdecimal():
        return packs.Validation(every=int(given))
    try:
        return packs.Validation(frozenset(Path(given).read_text().split()))
    except (OSError, ValueError) as error:
        raise UserError(f"--valid={given}: neither a number nor a readable list of dialogues ({error})") from None


def told(rows: Sequence[packs.Row]) -> str:
    split = Counter(row.split for row in rows)
    return f"{len(rows)} utterances, " + ", ".join(f"{part} {split[part]}" for part in SPLITS if split[part])


def name_labels(
    where: str, rows: Sequence[packs.Row], declared: str | None
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """(labels, words, the known corpus and set that the counts are of); the rows' numbers become names. Raises UserError if the order is
    neither declared nor told by the counts, or contradicts them."""
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
        fits = known.fitting(counts)
        if not fits:
            raise UserError(f"{where}: the labels are numbers, {_counted(counts)}, and the counts are of no corpus known here: say which is "
                            f"which with --labels, {len(counts)} names in order")  # fmt: skip
        order = fits[0].order
        print(f"the counts are those of {fits[0].corpus.name} ({fits[0].set}): 0, 1, … are {', '.join(order)}")
    elif len(order) <= highest:
        raise UserError(f"--labels={declared}: {len(order)} names, and the pack has label {highest}")
    counts += [0] * (len(order) - len(counts))
    fits_ = known.check_order(where, order, counts)
    for row in rows:
        row.label = order[int(row.label)]
    return order, _words(order), fits_


def _named(
    where: str, rows: Sequence[packs.Row], order: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    counts = Counter(str(row.label) for row in rows)
    if order and (unknown := sorted(counts.keys() - set(order))):
        raise UserError(f"{where}: label {unknown[0]!r} is not among --labels={','.join(order)}")
    if not order:
        of_known = [tuple(corpus.words) for corpus in known.CORPORA if set(corpus.words) == counts.keys()]
        order = of_known[0] if of_known else tuple(sorted(counts))
    return order, _words(order), known.check_order(where, order, [counts[label] for label in order])


def _words(labels: Sequence[str]) -> tuple[str, ...]:
    of = {label: word for corpus in known.CORPORA for label, word in corpus.words.items()}
    return tuple(of.get(label, label.lower()) for label in labels)


def _counted(counts: Sequence[int]) -> str:
    return ", ".join(f"{i}: {n}" for i, n in enumerate(counts))


def rounded(where: str, rows: Sequence[packs.Row]) -> dict[str, dict[str, Any]]:
    """Makes the rows' features that are neither float16 nor float32 float32; {modality: from which numbers, and the largest
    relative difference}. Raises UserError where a number is beyond float32."""
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


def states_of(rows: Sequence[packs.Row], encoder: TextEncoder) -> list[np.ndarray]:
    """Token states of the sentences where the pack brings no text features; [] where it does, or has no sentences."""
    if any("text" in row.features for row in rows) or not any(row.sentence for row in rows):
        return []
    print("the pack has sentences and no text features: the text encoder reads them")
    return encoder.states([row.sentence for row in rows])


def trained(pack: packs.Pack, given: Sequence[str], modalities: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{modality: parts}; raises UserError for what --trained-on cannot mean."""
    found = {m: parts for m, parts in pack.trained_on.items() if m in modalities}
    for text in given:
        modality, _, parts = text.partition("=")
        named = () if parts == "none" else tuple(parts.split(","))
        if modality not in modalities or not set(named) <= set(SPLITS):
            raise UserError(
                f"--trained-on={text}: must be MODALITY=PARTS of {', '.join(modalities)} and of {', '.join(SPLITS)} or none"
            )
        found[modality] = named
    return {m: parts for m, parts in found.items() if parts}


def utterances(rows: Sequence[packs.Row], labels: Sequence[str], texts: Sequence[np.ndarray]) -> Iterator[Utterance]:
    """In the order of the parts; within one, as the pack has them."""
    for part in SPLITS:
        for i, row in enumerate(rows):
            if row.split == part:
                features = row.features | ({"text": texts[i]} if texts else {})
                fields = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}
                yield Utterance(**(fields | {"features": features}))


if __name__ == "__main__":
    main()
