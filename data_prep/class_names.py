"""Names of classes, emotions and numbers that people take for one: they differ by case, spaces or look only."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from mer_jax.data.targets import Target

# Letters of other scripts that look like Latin ones.
LOOK = str.maketrans(
    "\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456\u0458\u0455\u04bb\u0501\u0251\u0131\u03bf\u03b1\u03bd\u03c1",
    "aceopxyijshdaioavp",
)
NEGATIVE = re.compile(r"^\s*[-\u2212]\s*(?=[.\d])")  # a number below 0


def look(name: str) -> str:
    """Returns what is left of a name without case, spaces, marks that are not seen and look-alike letters."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    plain = NEGATIVE.sub("minus ", plain)
    seen = "".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Cc", "Zs", "Pc", "Pd"))
    return unicodedata.normalize("NFC", seen.translate(LOOK)) or plain


def alike(names: Iterable[str]) -> list[list[str]]:
    """Returns the names that look the same, together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(look(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def alike_names(names: Sequence[str]) -> list[str]:
    """Returns a sentence for each group of names that look the same."""
    return [
        f"the classes {', '.join(map(repr, group))} differ by case, spaces or look only; if they are one, "
        "give them one name in the source; data_prep.import_pack renames by [values.label] in a --mapping"
        for group in alike(names)
    ]


def alike_numbers(targets: Iterable[Target]) -> list[str]:
    """The same of the emotions or numbers of each target, and of its classes."""
    return [
        f"{', '.join(map(repr, group))} of target {target.name!r} differ by case, spaces or look only; if they are "
        "one, give them one name in the source"
        for target in targets
        for group in alike(target.outputs)
    ]
