"""Who speaks, where lines of a text begin with it: `NAME: text`. No JAX."""

import re
from collections.abc import Sequence

MAX_WORDS, MAX_LETTERS = 4, 40  # of a name
# A dash or >> as captions have, a name or [a name], (how it is said), a colon with a blank behind it; "：" needs none.
NAMED = re.compile(
    r"(?:[-–—]|>>)?\s*"
    rf"(?:\[(?P<bracketed>[^][:：]{{1,{MAX_LETTERS}}})\]|(?P<bare>[^][()<>{{}}\"“”:：,;!?]{{1,{MAX_LETTERS}}}?))"
    r"\s*(?:\([^()]*\)\s*)?(?:：|:(?=\s|$))\s*(?P<text>.*)"
)
MIN_NAMED = 4  # of so many lines at least one begins with a name


def name_and_text(row: str) -> tuple[str, str]:
    """The name that a row begins with, and what follows; "" and the row, if it begins with none.

    A name has up to four words and 40 letters and begins with an upper-case letter, or one of a script that has no
    cases; in [brackets], which are not part of it, it may begin with anything. `(off screen)` may follow it.
    """
    if not (found := NAMED.fullmatch(row)):
        return "", row
    bare, name = found["bare"], " ".join((found["bare"] or found["bracketed"]).split())
    fits = any(c.isalpha() for c in name) and len(name.split()) <= MAX_WORDS
    if not fits or (bare and not (name[0].isalpha() and not name[0].islower())):
        return "", row
    return name, found["text"]


def are_speakers(names: Sequence[str]) -> bool:
    """Whether what the lines of a text begin with, "" for nothing, is who speaks, not words such as `Note:`.

    It is if there are several lines and all begin with a name. Where some do not, and so go on with the line before,
    the first line must have a name, at least one line in four, and one name must come back.
    """
    named = [name for name in names if name]
    if len(named) == len(names):
        return len(names) > 1
    return bool(named and names[0]) and len(named) * MIN_NAMED >= len(names) and len(set(named)) < len(named)
