"""The audit makes findings: this is what one holds, and what all of a corpus hold."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.audit.floor import Floor
from mer_jax.data.corpus import Corpus

LEVELS = ("problem", "note", "ok")
FEW = 0.01  # MELD's own tables have 3 of 2,610: so few leaked test utterances are a note, more are a problem


@dataclasses.dataclass(frozen=True)
class Finding:
    """`level` is ok, note or problem; `name` says what was looked at; `about` is the modality it is said of, or ""."""

    level: str
    name: str
    about: str
    text: str
    do: str = ""


@dataclasses.dataclass(frozen=True)
class Audit:
    """`classes` counts utterances by split and class; `steps` are time steps by modality, of the utterances that have
    it; `seconds` are those of the utterances with start and end."""

    name: str
    path: str
    manifest_sha256: str
    utterances: int
    findings: tuple[Finding, ...]
    classes: Mapping[str, Mapping[str, int]]
    steps: Mapping[str, np.ndarray]
    seconds: np.ndarray
    floors: tuple[Floor, ...]
    method: str  # how the floors were measured

    def of(self, level: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]


def number(audit: Audit, level: str) -> str:
    """Returns how many findings have the level, as in "2 notes"."""
    n = len(audit.of(level))
    return f"{n} {level}" + "s" * (level != "ok" and n != 1)


def share(n: int, whole: int) -> str:
    return f"{n:,} of {whole:,} ({100 * n / max(whole, 1):.1f} %)"


def first_ids(corpus: Corpus, rows: np.ndarray) -> str:
    names = corpus.index["id"][rows[:3]].tolist()
    return ", ".join(names) + (f" and {len(rows) - 3:,} more" if len(rows) > 3 else "")


def or_ok(findings: Sequence[Finding], name: str, text: str) -> Sequence[Finding]:
    return findings or [Finding("ok", name, "", text)]
