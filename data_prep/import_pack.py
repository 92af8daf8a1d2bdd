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
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import limits, number_columns, numbers
from data_prep.encoders.extract import axes
from data_prep.encoders.flags import text_encoder
from data_prep.encoders.text import TextEncoder
from data_prep.importer import Importer, Source, add_keep_unlabelled, print_note
from data_prep.packs import layouts, mmsa_numbers, tables, values
from data_prep.packs.columns import records
from data_prep.packs.labels import Named, labelled, name_labels
from data_prep.packs.mapping import as_text, features_of, read_mapping
from data_prep.packs.rows import Reading, refuse_same_turns, separate_parts
from mer_jax.data.corpus import DTYPES, SPLITS, Utterance
from mer_jax.errors import UserError
from mer_jax.files import sha256_of
from mer_jax.text_files import text_of

OF_PART = re.compile(rf"(?:^|[^a-zA-Z])({'|'.join(values.PARTS)})$", re.IGNORECASE)  # of a file's name
DESCRIPTION = "\n".join(
    [
        __doc__ or "",
        *(f"    {name:18s}{fields}" for name, fields in layouts.TUPLES.items()),
        "    mmsa              {train, valid, test: {id, raw_text, text, audio, vision, …, regression_labels}}",
        "    deepmsi           {split}/{video,text,audio}/{name}.pkl",
        "    list              dicts with id, split, label, and vectors by modality; or {split: list}, {id: dict}\n",
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
        "--skip-unlabelled",
        action="store_true",
        help="leave out, and count, utterances without a label, with several, or on which the raters did not agree",
    )
    number_columns.add_flags(parser)
    parser.add_argument(
        "--sentiment",
        choices=(*numbers.SENTIMENT, mmsa_numbers.NOT_READ),
        help="of MMSA's dictionaries: whose regression_labels they are, from -3 to 3 (mosi, mosei) or from -1 to 1 "
        "(sims); none: leave them out; default: what the sizes of the parts, or numbers beyond -1 to 1, tell",
    )
    parser.add_argument(
        "--emotions",
        metavar="A,B,…",
        help="of MMSA's dictionaries: the order of the six columns of emotion_labels, where they have no names",
    )
    add_keep_unlabelled(parser, "utterances that --skip-unlabelled leaves out")
    parser.add_argument("--licence", default="unknown: ask whoever made the pack", help="default: %(default)s")


def read(arguments: argparse.Namespace) -> Source:
    files = arguments.files
    pack, where = read_pack(arguments), str(files[0])
    if not pack.rows:
        raise UserError(f"{where} holds no utterance")
    refuse_idle_flags(where, pack.layout, arguments)
    skip, keep = arguments.skip_unlabelled, arguments.keep_unlabelled
    if skip and keep:
        raise UserError("--skip-unlabelled leaves out what --keep-unlabelled keeps: give one of them")
    pack.rows, left_out = labelled(where, pack.rows, skip=skip, keep=keep)
    with_class = [row for row in pack.rows if not row.unlabelled]
    none: Named = ((), (), "", [])
    labels, words, fits, told = name_labels(where, with_class, arguments.labels) if pack.with_classes else none
    unknown = numbers.notes_on(where, [row.values for row in pack.rows], pack.targets)
    pack.notes += [*left_out, *separate_parts(pack.rows), *unknown]
    refuse_same_turns(where, pack.rows)
    refuse_nothing(where, pack.rows)
    which = "the classes are of no corpus known here" if labels else "it has no classes"
    print(f"{pack.layout}: {sizes_in_words(pack.rows)}; {fits or which}")
    for note in [*pack.notes, *told]:
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
    from_pack = f"as in the pack ({pack.layout})"
    return Source(
        name=arguments.name or (fits.split(",")[0] if fits else files[0].stem),
        utterances=utterances(pack.rows, texts),
        labels=labels,
        kept_unlabelled={row.id: row.unlabelled for row in pack.rows if row.unlabelled} if keep else None,
        encoder=encoder,
        extractors={m: encoder.extractor if texts and m == "text" else from_pack for m in modalities},
        layers=axes({"text": encoder}) if texts else {},
        label_words=words,
        protocol={"name": "pack", "description": "; ".join(["the parts of the pack", *pack.notes])},
        provenance={
            "layout": pack.layout,
            "class_counts": fits,
            "sources": {str(p.relative_to(f.parent)): sha256_of(p) for f in files for p in sources(f)},
            "label_word_encoder": encoder.identity,
            "notes": [*pack.notes, *told],
            "rounded_to_float32": rounding,
        },
        licence=arguments.licence,
        trained_on={m: parts for m, parts in pack.trained_on.items() if m in modalities},
        targets=pack.targets,
        groups=pack.groups,
    )


def refuse_idle_flags(where: str, layout: str, arguments: argparse.Namespace) -> None:
    """Raises UserError for a flag of numbers that the layout has no use for."""
    of_tables, of_mmsa = ("range", "target", "multilabel"), ("sentiment", "emotions")
    idle = (() if layout in ("list", "table") else of_tables) + (() if layout == "mmsa" else of_mmsa)
    for name in idle:
        if getattr(arguments, name):
            which = "tables and lists of dicts" if name in of_tables else "MMSA's dictionaries"
            raise UserError(f"--{name}: {where} is of the layout {layout}; the flag is of {which}")


def read_pack(arguments: argparse.Namespace, *, to_predict: bool = False) -> layouts.Pack:
    """Returns what the files hold. Where each file's name ends in a part, as in meld_train.csv, each is that part."""
    files, valid = arguments.files, validation(arguments.valid)
    mapping = read_mapping(arguments.mapping) if arguments.mapping else {}
    flags = number_columns.asked(arguments)
    reading = Reading(
        files[0].stem,
        features=features_of(mapping),
        to_predict=to_predict,
        renames=mapping.get("values", {}),
        flags=flags,
    )
    parts = {file: ending[1].casefold() for file in files if (ending := OF_PART.search(file.stem))}
    if len(parts) < len(files):
        return _read_together(arguments, files, mapping, reading, valid)
    found = []
    for file, part in parts.items():
        one = dataclasses.replace(reading, stem=file.stem, part=values.PARTS[part])
        found.append(_read_together(arguments, [file], mapping, one, valid))
    notes = list(dict.fromkeys(note for pack in found for note in pack.notes))
    notes += ["where records name no split, it is that of their file's name"] * (len(files) > 1)
    rows = [row for pack in found for row in pack.rows]
    first, other = found[0], [pack for pack in found if about(pack) != about(found[0])]
    if other and not to_predict:
        raise UserError(
            f"{files[0].name} has {about(first)}, another file has {about(other[0])}; all parts must hold the same "
            "numbers, groups and classes"
        )
    return dataclasses.replace(first, rows=rows, notes=notes)


def about(pack: layouts.Pack) -> str:
    """Says what a pack holds of numbers, groups and classes."""
    targets = [target.describe() for target in pack.targets]
    return "; ".join([*targets, *(f"group {name}" for name in pack.groups), *["classes"] * pack.with_classes]) or "none"


def _read_together(
    arguments: argparse.Namespace,
    files: Sequence[Path],
    mapping: Mapping[str, dict[str, Any]],
    reading: Reading,
    valid: layouts.Validation,
) -> layouts.Pack:
    """Reads the files and makes their rows, all within one budget."""
    of_tables = all(file.suffix.lower() in tables.ENDINGS for file in files)
    if len(files) > 1 and not of_tables:
        raise UserError(
            f"several files are read if they are tables ({', '.join(tables.ENDINGS)}), or if the name of each ends in "
            "its part, as in x_train.pkl and x_test.pkl"
        )
    where = files[0].name if of_tables else files[0]
    # What a pickle holds is a budget of its own; text of several layers is joined beside it.
    with limits.bounded(where, _budget(files) * (1 if of_tables else 2)) as budget:
        reading = dataclasses.replace(reading, budget=budget)
        if not of_tables:
            return layouts.read(files[0], arguments.layout, valid, reading, mapping)
        columns = {file.name: tables.read_table(file, as_text(mapping)) for file in files}
        pack = layouts.rows_of(str(where), records(columns, mapping, reading), reading)
        return dataclasses.replace(pack, layout="table")


def _budget(files: Sequence[Path]) -> int:
    """Returns the budget of all files together; that of a folder is of all that is in it."""
    sizes = [[p.stat().st_size for p in sources(file) if p.is_file()] for file in files]
    return sum(
        max(limits.budget_of(sum(of)), limits.TIMES * sum(of) * file.is_dir())
        for file, of in zip(files, sizes, strict=True)
    )


def refuse_nothing(where: str, rows: Sequence[layouts.PackRow]) -> None:
    """Raises UserError, before anything is written, if there is nothing to learn from."""
    if not any(row.features or row.sentence for row in rows):
        raise UserError(
            f"{where}: there is nothing to learn from: no column or field is a feature, and there is no sentence; "
            '[features] in a --mapping names features, as in text = "text_*"'
        )


def sources(file: Path) -> list[Path]:
    return sorted(p for p in file.rglob("*") if p.is_file()) if file.is_dir() else [file]


def validation(given: str) -> layouts.Validation:
    if given.isdecimal():
        return layouts.Validation(every=int(given))
    try:
        return layouts.Validation(frozenset(text_of(Path(given)).split()))
    except UserError as error:
        raise UserError(f"--valid={given}: neither a number nor a readable list of dialogues ({error})") from None


def sizes_in_words(rows: Sequence[layouts.PackRow]) -> str:
    split = Counter(row.split for row in rows)
    return f"{len(rows)} utterances, " + ", ".join(f"{part} {split[part]}" for part in SPLITS if split[part])


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


def utterances(rows: Sequence[layouts.PackRow], texts: Sequence[np.ndarray]) -> Iterator[Utterance]:
    """Yields the utterances in the order of the parts; within one, as the pack has them."""
    for part in SPLITS:
        for i, row in enumerate(rows):
            if row.split == part:
                features = row.features | ({"text": texts[i]} if texts else {})
                fields = {f.name: getattr(row, f.name) for f in dataclasses.fields(Utterance) if hasattr(row, f.name)}
                yield Utterance(**(fields | {"features": features}))


IMPORTER = Importer("data_prep.import_pack", DESCRIPTION, add_flags, read)
main = IMPORTER.main

if __name__ == "__main__":
    main()
