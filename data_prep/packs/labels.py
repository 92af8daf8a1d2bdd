"""Labels of a pack get names: numbers by --labels or by what the counts tell, names as they are; what is no label is
refused, or left out and counted."""

import re
from collections import Counter
from collections.abc import Sequence

from data_prep.packs import class_counts
from data_prep.packs.rows import PackRow
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import is_blank

CODED = re.compile(r"(\D*?)(\d{1,30})(?:\.0*)?")  # e0, class_3, 2, 2.0
JOINED = re.compile(r"\s*[/+&]\s*|\s+and\s+", re.IGNORECASE)
HIGHEST = 999
LISTED = 3
Named = tuple[tuple[str, ...], tuple[str, ...], str, list[str]]


def labelled(
    where: str, rows: Sequence[PackRow], *, skip: bool = False, keep: bool = False
) -> tuple[list[PackRow], list[str]]:
    """Returns the rows that have one label, and a note on the others. Raises UserError naming these unless they are to
    be skipped, or kept: these are returned, too, their label being ""."""
    known = {row.label for row in rows if not row.unlabelled}
    for row in rows:
        pieces = JOINED.split(row.label) if isinstance(row.label, str) else []
        if len(pieces) > 1 and known.issuperset(pieces):
            row.unlabelled = f"{where}, utterance {row.id}: the label is {brief(row.label)}, which is several"
    wrong = [row.unlabelled for row in rows if row.unlabelled]
    if not wrong:
        return list(rows), []
    if not (skip or keep) or len(wrong) == len(rows):
        more = f"; and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        flag = "; --multilabel takes several emotions, with | between" * any("|" in str(row.label) for row in rows)
        raise UserError(
            f"{len(wrong)} of {len(rows)} utterances have no label, or not one: {'; '.join(wrong[:LISTED])}{more}. "
            "Leave them out with --skip-unlabelled, keep them as turns without a class with --keep-unlabelled, or name "
            f"them in a --mapping, as in [values.label]{flag}"
        )
    if keep:
        for row in rows:
            row.label = "" if row.unlabelled else row.label
        return list(rows), []
    note = f"{len(wrong)} of {len(rows)} utterances are left out, as they have not one label: {wrong[0]}"
    return [row for row in rows if not row.unlabelled], [note]


def name_labels(where: str, rows: Sequence[PackRow], declared: str | None) -> Named:
    """Returns (labels, words, the known corpus and set that the counts are of, notes); the rows' numbers become names.
    Raises UserError if the order is neither declared nor told by the counts, or contradicts them."""
    order = tuple(name.strip() for name in declared.split(",")) if declared else ()
    if blank := [name for name in order if is_blank(name)]:
        raise UserError(f"--labels={declared}: {blank[0]!r} is no name of a class")
    if len(set(order)) < len(order):
        raise UserError(f"--labels={declared}: a class occurs twice")
    if (numbered := _numbers(rows, order)) is None:
        return _named(where, rows, order)
    codes, prefix = numbered
    first, notes = _first(codes, order)
    highest = max(codes)
    if highest > HIGHEST:
        raise UserError(f"{where}: label {highest} is no class; classes are numbered from 0")
    written = [f"{prefix}{i}" for i in range(first, highest + 1)]
    if order and len(order) < len(written):
        raise UserError(f"--labels={declared}: {len(order)} names, and the pack has label {written[-1]}")
    numbers = [code - first for code in codes]
    size = max(len(order), len(written))
    counts, parts = _counts(rows, numbers, size)
    if not order:
        order, told = _told_by_counts(where, written, counts, parts)
        if not order and prefix.strip():  # names like any others, of no known corpus
            return _named(where, rows, ())
        notes += told
    fit = class_counts.check_order(where, order, counts, parts)
    notes += _doubts(order, counts, parts)
    for row, number in zip(rows, numbers, strict=True):
        row.label = order[number]
    return order, _words(order), fit, notes


def _numbers(rows: Sequence[PackRow], order: tuple[str, ...]) -> tuple[list[int], str] | None:
    """Returns the numbers that the labels are, also as text (`2`, `2.0`) or behind one prefix (`e2`), and the prefix;
    None if they are names, as they are where --labels lists them."""
    if set(order) >= {str(row.label) for row in rows}:
        return None
    found = [CODED.fullmatch(str(row.label).strip()) for row in rows]
    prefixes = {match[1] if match else None for match in found}
    if len(prefixes) > 1 or None in prefixes:
        return None
    return [int(match[2]) for match in found if match], str(prefixes.pop())


def _first(codes: Sequence[int], order: tuple[str, ...]) -> tuple[int, list[str]]:
    """Returns the number that the first class has: 1 where no utterance has 0, unless --labels names a class for it."""
    if min(codes) != 1 or (order and len(order) != max(codes)):
        return 0, []
    return 1, ["the labels are numbered from 1: the first class is 1"]


def _counts(rows: Sequence[PackRow], numbers: Sequence[int], size: int) -> tuple[list[int], dict[str, list[int]]]:
    """Returns how many utterances have each number, of all and by split."""
    of = Counter(zip((row.split for row in rows), numbers, strict=True))
    there = [split for split in SPLITS if any(part == split for part, _ in of)]
    parts = {split: [of[split, i] for i in range(size)] for split in there}
    return [sum(column) for column in zip(*parts.values(), strict=True)], parts


def _told_by_counts(
    where: str, written: Sequence[str], counts: Sequence[int], parts: class_counts.Parts
) -> tuple[tuple[str, ...], list[str]]:
    """Returns the order that the counts tell and a note on it. Raises UserError where they leave a choice; where they
    are of no known corpus, too, if the labels are bare numbers."""
    fits = class_counts.fitting(counts, parts)
    if not fits:
        if not written[0].isdecimal():
            return (), []
        found = ", ".join(f"{code}: {n}" for code, n in zip(written, counts, strict=True))
        raise UserError(
            f"{where}: the labels are numbers, {found}, and the counts are of no corpus known here: "
            f"say which is which with --labels, {len(counts)} names in order"
        )
    fit = fits[0]
    if fit.alike:
        pairs = "; ".join(
            f"{written[fit.order.index(a)]} ({counts[fit.order.index(a)]}) and "
            f"{written[fit.order.index(b)]} ({counts[fit.order.index(b)]}) are {a} and {b}, or {b} and {a}"
            for a, b in fit.alike
        )
        choices = " or ".join(f"--labels={','.join(o)}" for o in (fit.order, *fit.with_pairs_exchanged()))
        raise UserError(
            f"{where}: the counts are nearly those of {fit.corpus.name} ({fit.set}) and cannot tell its classes apart: "
            f"{pairs}. Ask whoever made it, and say {choices}"
        )
    return fit.order, [
        f"the counts are those of {fit.corpus.name} ({fit.set}): {written[0]}, {written[1]}, … are "
        f"{', '.join(fit.order)}"
    ]


def _doubts(order: Sequence[str], counts: Sequence[int], parts: class_counts.Parts) -> list[str]:
    """Returns a note if another order than the declared one fits the counts better, though not by enough to be sure."""
    judged = class_counts.judge(order, counts, parts)
    if judged is None or not judged.better:
        return []
    return [
        f"the counts fit the order {', '.join(judged.better)} better than the declared one, though they cannot tell "
        f"for sure ({judged.name}): find out which is right"
    ]


def _named(where: str, rows: Sequence[PackRow], order: tuple[str, ...]) -> Named:
    counts = Counter(str(row.label) for row in rows)
    if order and (unknown := sorted(counts.keys() - set(order))):
        raise UserError(
            f"{where}: label {brief(unknown[0])} is not among --labels={','.join(order)}; the labels are names: "
            f'[values.label] in a --mapping renames them, as in "{unknown[0]}" = "{order[0]}"'
        )
    if not order:
        _refuse_mixture(where, counts)
    for row in rows:
        row.label = str(row.label)
    if not order:
        of_known = [tuple(corpus.words) for corpus in class_counts.CORPORA if set(corpus.words) == counts.keys()]
        order = of_known[0] if of_known else tuple(sorted(counts))
    numbers = [order.index(str(row.label)) for row in rows]
    judged = class_counts.judge(order, *_counts(rows, numbers, len(order)))
    if judged is None or not judged.contradicted:
        return order, _words(order), judged.name if judged else "", []
    return order, _words(order), "", [swapped_names(judged, order)]


def _refuse_mixture(where: str, counts: Counter[str]) -> None:
    """Raises UserError for names beside numbers, of which each would be a class of its own."""
    numbers = sorted(label for label in counts if (match := CODED.fullmatch(label.strip())) and not match[1].strip())
    names = sorted(counts.keys() - set(numbers))
    if numbers and names:
        raise UserError(
            f"{where}: some labels are numbers ({', '.join(numbers[:LISTED])}) and some are names "
            f"({', '.join(map(brief, names[:LISTED]))}): say which number is which name with [values.label] in a "
            "--mapping, or list them all with --labels if the numbers are names, too"
        )


def swapped_names(judged: class_counts.Judgement, order: Sequence[str]) -> str:
    """Says which names seem to stand for each other, and how they are renamed. Names are what the source says, so that
    they are taken all the same."""
    swapped = judged.swapped(order)
    renamed = "; ".join(f'{a} = "{b}"' for a, b in swapped.items())
    return (
        f"the names {', '.join(swapped)} seem to be exchanged: the counts are those of {judged.fit.corpus.name} "
        f"({judged.fit.set}) if {', '.join(f'{a} is {b}' for a, b in swapped.items())}. If so, [values.label] in a "
        f"--mapping renames them: {renamed}"
    )


def _words(labels: Sequence[str]) -> tuple[str, ...]:
    of = {label: word for corpus in class_counts.CORPORA for label, word in corpus.words.items()}
    return tuple(of.get(label, label.lower()) for label in labels)
