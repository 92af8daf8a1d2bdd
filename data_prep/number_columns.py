"""Columns of a table that hold numbers and groups of people, and the flags that say what they are.

    value:NAME    a number, empty where it is not known; its range is given by --range
    spread:NAME   the standard deviation among raters of a number that has its own column
    group:NAME    what people are told apart by, as group:gender

All numbers are the target `values`, unless --target takes some of them for a target of its own."""

import argparse
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from data_prep import numbers
from data_prep.packs import values
from mer_jax.data.targets import Target, check_range
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import is_blank

KINDS = ("value", "spread", "group")
REST = "values"  # the target of the numbers that no --target takes
SEVERAL = "emotions"  # the target of --multilabel
NONE = "no emotion"  # a label that says so; `none` is what others write for a blank
FIELDS = ("speaker", "session", "dialogue", "label", "id", "split", "turn", "sentence")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the flags say. `sentiment` and `emotions` are of MMSA's dictionaries alone."""

    ranges: Mapping[str, numbers.Range] = dataclasses.field(default_factory=dict)
    targets: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    multilabel: bool = False
    sentiment: str = ""
    emotions: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class NumberColumns:
    """The columns of a table that hold numbers and groups, by the name of what they hold."""

    value: Mapping[str, str]
    spread: Mapping[str, str]
    group: Mapping[str, str]
    asked: Asked

    def read(self, where: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields `values`, `spreads` and `groups` of a record. Raises UserError naming column and value."""
        found: dict[str, dict[str, Any]] = {"values": {}, "spreads": {}, "groups": {}}
        for name, column in self.value.items():
            try:
                value = numbers.read(where, column, record.get(column), self.asked.ranges[name])
            except UserError as error:
                raise UserError(f"{error}; --range={name}=LOW:HIGH gives the range") from None
            if value is not None:
                found["values"][name] = value
        for name, column in self.spread.items():
            low, high = self.asked.ranges[name]
            if (spread := numbers.read(where, column, record.get(column), (0, high - low))) is None:
                continue
            if name not in found["values"]:
                raise UserError(
                    f"{where}: {column} is {spread:g}, and {self.value[name]} is empty; give both or neither"
                )
            found["spreads"][name] = spread
        for name, column in self.group.items():
            if group := values.name(where, column, record.get(column)):
                found["groups"][name] = group
        return found

    @property
    def rest(self) -> tuple[str, ...]:
        """The numbers that no flag takes for a target."""
        taken = {name for names in self.asked.targets.values() for name in names}
        return tuple(name for name in self.value if name not in taken)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the numbers make, in the order of the flags; what no flag takes comes last."""
        made = {**self.asked.targets, **({REST: self.rest} if self.rest else {})}
        ranges = self.asked.ranges
        return tuple(numbers.regression(name, {one: ranges[one] for one in names}) for name, names in made.items())


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="NAME=LOW:HIGH",
        help="the least and greatest that the column value:NAME can hold, as in valence=1:5; each such column needs it",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME=A,B",
        help=f"these numbers are a target of their own, as in vad=valence,arousal,dominance; the others are {REST!r}",
    )
    parser.add_argument(
        "--multilabel",
        action="store_true",
        help=f"the label names all emotions that are there, as in happy|surprised, or it is {NONE!r}; they are the "
        f"target {SEVERAL!r} in place of classes; empty: not known",
    )


def asked(arguments: argparse.Namespace) -> Asked:
    """Returns what the flags say. Raises UserError for what they cannot mean."""
    ranges: dict[str, numbers.Range] = {}
    for text in arguments.range:
        name, _, span = text.partition("=")
        low, high = (_number(part) for part in (span.partition(":")[0], span.partition(":")[2]))
        if not (name and low < high):
            raise UserError(f"--range={text}: must be NAME=LOW:HIGH, two numbers that go up, as in valence=1:5")
        check_range(f"--range={text}: the range of {name}", low, high)
        if name in ranges:
            raise UserError(f"--range={text}: {name} has a range already")
        ranges[name] = (low, high)
    targets: dict[str, tuple[str, ...]] = {}
    for text in arguments.target:
        name, _, names = text.partition("=")
        each = tuple(part.strip() for part in names.split(","))
        if not name or not all(each) or len(set(each)) < len(each):
            raise UserError(f"--target={text}: must be NAME=A,B, each once, as in vad=valence,arousal,dominance")
        if name in targets:
            raise UserError(f"--target={text}: the target {name!r} is given twice")
        targets[name] = each
    order = tuple(part.strip() for part in (getattr(arguments, "emotions", None) or "").split(",") if part.strip())
    convention = getattr(arguments, "sentiment", None) or ""
    return Asked(ranges, targets, arguments.multilabel, convention, order)


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        return math.nan
    return found if math.isfinite(found) else math.nan


def is_column(name: Any) -> bool:
    """Says whether a column holds numbers or groups, by its name."""
    return str(name).partition(":")[0].strip() in KINDS and ":" in str(name)


def columns_of(where: str, header: Iterable[str], flags: Asked) -> NumberColumns:
    """Finds the columns. Raises UserError naming the column, or the flag, that cannot be used."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    header = list(header)
    for column in header:
        kind, colon, name = (part.strip() for part in str(column).partition(":"))
        if colon and kind not in KINDS and kind.casefold() in KINDS:
            raise UserError(f"{where}: column {brief(column)} must be called {kind.casefold()}:{name}")
    for column in filter(is_column, header):
        kind, name = (part.strip() for part in column.split(":", 1))
        if not name or "/" in name:
            raise UserError(f"{where}: column {brief(column)} names nothing; a name has a letter, and no '/'")
        if name in found[kind]:
            raise UserError(f"{where}: columns {found[kind][name]!r} and {column!r} are both the {kind} {name!r}")
        if kind == "group" and name in FIELDS:
            raise UserError(f"{where}: column {column!r}: {name} is a field of every utterance; call the column {name}")
        found[kind][name] = column
    value, spread, group = (found[kind] for kind in KINDS)
    for name, column in value.items():
        if name not in flags.ranges:
            raise UserError(
                f"{where}: column {column!r} needs its range, which nothing in a table says: --range={name}=LOW:HIGH"
            )
        if name in group:
            raise UserError(f"{where}: {name!r} is a number and a group; give one of the columns another name")
    for name, column in spread.items():
        if name not in value:
            raise UserError(f"{where}: column {column!r} is the spread of a number that has no column value:{name}")
    has = ", ".join(value) or "none"
    if unknown := [name for name in flags.ranges if name not in value]:
        raise UserError(
            f"{where}: --range={unknown[0]}=…: there is no column value:{unknown[0]}; the numbers are {has}"
        )
    for target, names in flags.targets.items():
        if unknown := [name for name in names if name not in value]:
            raise UserError(
                f"{where}: --target={target}=…: there is no column value:{unknown[0]}; the numbers are {has}"
            )
    columns = NumberColumns(value, spread, group, flags)
    made = [*flags.targets, *[REST] * bool(columns.rest), *[SEVERAL] * flags.multilabel]
    if len(set(made)) < len(made):
        raise UserError(f"{where}: --target: {next(n for n in made if made.count(n) > 1)!r} is a target already")
    return columns


def several(where: str, label: Any) -> tuple[str, ...] | None:
    """Returns the emotions that a label names, none of them for `no emotion`, and None where it is empty. Raises
    UserError for names that cannot be."""
    text = values.word(where, "label", label)
    if is_blank(text):
        return None
    pieces = tuple(piece.strip() for piece in text.split("|"))
    if pieces == (NONE,):
        return ()
    if NONE in pieces or not all(pieces) or len(set(pieces)) < len(pieces) or "/" in text:
        raise UserError(
            f"{where}: the label is {brief(text)}; with --multilabel it is names with | between, each once and without "
            f"'/', or {NONE!r}"
        )
    for piece in pieces:
        if why := values.label(where, piece)["unlabelled"]:
            raise UserError(f"{why}; with --multilabel names have | between")
    return pieces


def emotions_of(named: Sequence[tuple[str, ...] | None], where: str) -> tuple[Target, list[dict[str, float]]]:
    """Returns the target of the emotions that are named anywhere, and of every utterance 1 for those that are there and
    0 for the others. Raises UserError if nobody names one."""
    names = sorted({name for of in named for name in of or ()})
    if not names:
        raise UserError(f"{where}: --multilabel: no label names an emotion")
    each = [{} if of is None else {name: float(name in of) for name in names} for of in named]
    return numbers.multilabel(SEVERAL, names, (0, 1)), each
