"""What a corpus can be asked for: its targets by name, as its manifest has them. No JAX.

Every corpus with `labels` has the target `classes`, one class of them for each utterance. Others stand in the manifest
as `targets`, `{name: {kind, names, …}}`, and read numbers that a record holds by name (`value/NAME`):

    regression      names: the dimensions, each with its range
    multilabel      names: the emotions, each with its range, from none to the strongest; `present_from` says which are
                    there
    ordinal         one name, whose number counts through `levels`, the classes in order, from 0
    classification  the same; their order says nothing

What an utterance has no number for is not known: it is neither learnt nor scored, and never 0."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mer_jax.errors import UserError
from mer_jax.metrics.definitions import DEFINITIONS
from mer_jax.metrics.multilabel import PRESENT

CLASSES = "classes"
KINDS = ("classification", "regression", "multilabel", "ordinal")
LEAST_RANGE, LEAST_SHARE, LARGEST = 0.01, 0.001, 1e7  # numbers are float32, and written with six decimals
Kind = Literal["classification", "regression", "multilabel", "ordinal"]


@dataclasses.dataclass(frozen=True)
class Target:
    """One thing to ask for.

    names: of the numbers that it reads; of `classes` none. outputs: what every output of a model is called, the classes
    or the names. ranges: of each of the names. words, embeddings: of each output, Float[outputs, width], as a manifest
    has those of the labels. definition: the name of the convention that scores it, in `metrics.definitions`; empty for
    the common one. present_from: of `multilabel`, one of `metrics.multilabel.PRESENT`."""

    name: str
    kind: Kind
    names: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    ranges: tuple[tuple[float | int, float | int], ...] = ()
    words: tuple[str, ...] = ()
    embeddings: Any = ()
    definition: str = ""
    present_from: str = "above_zero"

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it."""
        levels = {"levels": list(self.outputs)} if self.kind in ("ordinal", "classification") else {}
        present = {"present_from": self.present_from} if self.kind == "multilabel" else {}
        return {
            "kind": self.kind,
            "names": list(self.names),
            **levels,
            "ranges": [list(pair) for pair in self.ranges],
            "words": list(self.words),
            "embeddings": [[round(float(v), 6) for v in row] for row in np.asarray(self.embeddings, np.float32)],
            "definition": self.definition,
            **present,
        }

    def describe(self) -> str:
        """`vad (regression: valence 1 to 5, arousal 1 to 5)`"""
        if self.kind in ("ordinal", "classification"):
            return f"{self.name} ({self.kind}: {', '.join(self.outputs)})"
        each = (f"{name} {low:g} to {high:g}" for name, (low, high) in zip(self.names, self.ranges, strict=True))
        return f"{self.name} ({self.kind}: {', '.join(each)})"


def levels_range(levels: Sequence[str]) -> tuple[tuple[float | int, float | int], ...]:
    """The range of the number that counts through these classes."""
    return ((0.0, float(len(levels) - 1)),)


def targets_of(manifest: Mapping[str, Any]) -> dict[str, Target]:
    """All targets of a manifest by name, in its order, `classes` first where there are any."""
    found = {}
    if labels := tuple(manifest["labels"]):
        words, embeddings = tuple(manifest.get("label_words") or labels), manifest["label_embeddings"]
        found[CLASSES] = Target(CLASSES, "classification", outputs=labels, words=words, embeddings=embeddings)
    for name, about in (manifest.get("targets") or {}).items():
        found[name] = Target(
            name=name,
            kind=about["kind"],
            names=tuple(about["names"]),
            outputs=tuple(about.get("levels") or about["names"]),
            ranges=tuple((low, high) for low, high in about["ranges"]),
            words=tuple(about["words"]),
            embeddings=about["embeddings"],
            definition=about.get("definition", ""),
            present_from=about.get("present_from", "above_zero"),
        )
    return found


def choose(targets: Mapping[str, Target], task: str, where: str) -> tuple[Target, ...]:
    """The targets that data.task names, `vad` or `classes+vad`; the first one for an empty name. Raises UserError for
    one that the corpus does not have."""
    if not task:
        return (next(iter(targets.values())),)
    names = task.split("+")
    if unknown := [name for name in names if name not in targets]:
        has = "; ".join(target.describe() for target in targets.values())
        raise UserError(f"--config.data.task={task}: {where} has no target {unknown[0]!r}; it has {has}")
    if len(set(names)) < len(names):
        raise UserError(f"--config.data.task={task}: a target is named twice")
    return tuple(targets[name] for name in names)


def check_target(where: str, target: Target) -> None:
    """Raises UserError, naming what is wrong, unless a target is whole and consistent."""
    what = f"{where}: target {target.name!r}"
    levels = target.kind in ("ordinal", "classification")
    if target.kind not in KINDS:
        raise UserError(f"{what} is of kind {target.kind!r}; it must be one of {', '.join(KINDS)}")
    if not target.name or "+" in target.name or target.name == CLASSES:
        raise UserError(f"{what}: a target's name is not empty, not {CLASSES!r}, and holds no '+'")
    for kind, names in (("names", target.names), ("levels", target.outputs)):
        if not names or not all(names) or len(set(names)) < len(names):
            raise UserError(f"{what}: its {kind} are {list(names)}; each must be there once")
    if levels and (len(target.names) != 1 or len(target.outputs) < 2):
        raise UserError(f"{what} counts through {len(target.outputs)} classes by {len(target.names)} numbers; it takes "
                        "two classes or more, and one number")  # fmt: skip
    if not levels and target.outputs != target.names:
        raise UserError(f"{what}: its outputs are not its names")
    if len(target.ranges) != len(target.names):
        raise UserError(f"{what} has {len(target.names)} names and {len(target.ranges)} ranges")
    for name, (low, high) in zip(target.names, target.ranges, strict=True):
        check_range(f"{what}: the range of {name}", low, high)
    if target.kind == "multilabel" and target.present_from not in PRESENT:
        raise UserError(f"{what}: present_from is {target.present_from!r}; it must be one of {', '.join(PRESENT)}")
    _check_definition(what, target)
    count = len(target.outputs)
    if len(target.words) != count or np.shape(target.embeddings)[:1] != (count,) or np.ndim(target.embeddings) != 2:
        raise UserError(f"{what} must have one word and one embedding for each of {', '.join(target.outputs)}")


def _check_definition(what: str, target: Target) -> None:
    """Raises UserError unless the convention that scores the target, if it names one, is of its kind."""
    kind = {"regression": "numbers", "multilabel": "emotions"}.get(target.kind)
    count = len(target.names)
    fitting = [
        name
        for name, row in DEFINITIONS.items()
        if row.kind == kind and (kind == "emotions" or count in map(len, row.names))
    ]
    if target.definition and target.definition not in fitting:
        known = ", ".join(fitting) or "no definition"
        raise UserError(f"{what}: its definition is {target.definition!r}; {target.kind} of {count} takes {known}")


def check_range(what: str, low: float | int, high: float | int) -> None:
    """Raises UserError unless a range goes up, and float32 and six decimals can tell numbers in it apart."""
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{what} is {low} to {high}; it must go up between two numbers")
    size = max(abs(low), abs(high))
    if high - low < LEAST_RANGE or size > LARGEST or high - low < size * LEAST_SHARE:
        raise UserError(
            f"{what} is {low:g} to {high:g}, where six decimals and float32 do not tell numbers well apart; give the "
            f"numbers in another unit: the range must be at least {LEAST_RANGE:g} wide, at least {LEAST_SHARE:g} of "
            f"its larger end, and within ±{LARGEST:,.0f}"
        )


def check_value(where: str, name: str, value: float | int, low: float | int, high: float | int) -> None:
    """Raises UserError unless a number lies in its range."""
    if not low <= value <= high:  # nor NaN
        raise UserError(
            f"{where}: {name} is {value:g}, outside its range {low:g} to {high:g}; leave a number that is not known out"
        )
