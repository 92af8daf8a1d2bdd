"""Has the encoder seen the corpus? contamination.toml holds what is documented, with a source for every row. No JAX.

An encoder has seen a corpus with labels ("tuned": it was trained on its labels), without labels ("pretrained":
it was trained on its recordings or sentences), or, as its training data are documented, not at all ("none"). All else
is unknown, and said to be.
"""

import dataclasses
import fnmatch
import functools
import importlib.resources
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mer_jax.data.corpus import SPLITS, Manifest, encoder_of, hub_name

WHAT = ("tuned", "pretrained", "none", "unknown")  # from what counts most
SEEN = {
    "tuned": "trained on the labels of",
    "pretrained": "trained on recordings or sentences of",
    "none": "has not seen",
    "unknown": "not known whether it has seen",
}
EVERY, ANY = "*", "any"  # corpora of a row: all that the table knows; these and all others


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table, as the comment on top of contamination.toml says."""

    encoders: tuple[str, ...]
    what: str
    corpora: tuple[str, ...]
    data: str
    source: str
    url: str
    parts: tuple[str, ...] = ()
    note: str = ""
    weights_sha256: tuple[str, ...] = ()

    def reason(self) -> str:
        """What it was trained on, and who says so."""
        note = f"; {self.note}" if self.note else ""
        return f"{self.data} ({self.source}, {self.url}){note}"

    def knows(self, encoder: str) -> bool:
        return any(fnmatch.fnmatchcase(encoder.lower(), pattern.lower()) for pattern in self.encoders)

    def knows_folder(self, folder: str) -> bool:
        """Whether an encoder of the row would lie in a folder of this name."""
        patterns = (pattern.rpartition("/")[2].lower() for pattern in self.encoders)
        return any(fnmatch.fnmatchcase(folder.lower(), pattern) for pattern in patterns)


@dataclasses.dataclass(frozen=True)
class Exposure:
    """What the encoder of a modality has seen of the corpus. encoder: "" where nobody says which it was. what: one of
    WHAT. parts: on whose labels it was trained, if it is tuned and they are known. reason: in words, with the source.
    """

    modality: str
    corpus: str
    encoder: str
    what: str
    reason: str
    parts: tuple[str, ...] = ()

    def tuned_parts(self) -> tuple[str, ...]:
        """The parts that must not be tested; where they are not known these are all."""
        return (self.parts or SPLITS) if self.what == "tuned" else ()

    def in_words(self) -> str:
        """One line; of what is unknown only that it is, and why."""
        who = f"the {self.modality} encoder" + f" {self.encoder}" * bool(self.encoder)
        if self.what == "unknown":
            return f"{who}: {SEEN['unknown']} {self.corpus}: {self.reason}"
        parts = ""
        if self.what == "tuned":
            parts = f", {' and '.join(self.parts)}" if self.parts else ", nobody says which part"
        was = "" if self.what == "none" else "was "
        return f"{who} {was}{SEEN[self.what]} {self.corpus}{parts}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in ("modality", "encoder", "what")}
        return fields | {"parts": list(self.parts), "in_words": self.in_words()}


@functools.cache
def table() -> tuple[Row, ...]:
    """Every row of contamination.toml."""
    rows: list[dict[str, Any]] = [
        {field: tuple(value) if isinstance(value, list) else value for field, value in row.items()}
        for row in _content()["row"]
    ]
    return tuple(Row(**row) for row in rows)


@functools.cache
def corpora() -> dict[str, re.Pattern[str]]:
    """{corpus: what its name looks like}."""
    return {
        name: re.compile(rf"{pattern}([^a-z].*)?", re.IGNORECASE) for name, pattern in _content()["corpora"].items()
    }


@functools.cache
def _content() -> dict[str, Any]:
    return tomllib.loads(importlib.resources.files("mer_jax.data").joinpath("contamination.toml").read_text("utf-8"))


def corpus_of(name: str) -> str:
    """Which corpus of the table a corpus is by its name, "" if none."""
    return next((corpus for corpus, pattern in corpora().items() if pattern.fullmatch(name)), "")


def corpora_of(name: str) -> set[str]:
    """Which corpora of the table a corpus is made of by its name, as emodb-iemocap; none if it begins with none."""
    patterns = _content()["corpora"] if corpus_of(name) else {}
    return {one for one, of in patterns.items() if re.search(rf"(?<![a-z]){of}(?![a-z])", name, re.IGNORECASE)}


def rows_of(encoder: str) -> list[Row]:
    """The rows on an encoder by its name on a hub."""
    return [row for row in table() if row.knows(encoder)]


def exposures(corpus: Manifest, modalities: Iterable[str]) -> list[Exposure]:
    """What is known of the encoder of each modality. The name of a folder or an adapter says that the encoder may have
    seen the corpus, never that it has not."""
    return [_exposure(corpus.manifest, modality) for modality in modalities]


def _exposure(manifest: Mapping[str, Any], modality: str) -> Exposure:
    name, spec, encoder = manifest["name"], manifest["modalities"][modality], encoder_of(manifest, modality)
    who = str(encoder.get("name") or spec.get("made_by", ""))
    found = functools.partial(Exposure, modality, name, who)
    if told := tuple(spec.get("trained_on", ())):
        return found("tuned", "the corpus's manifest says so", told)
    if str((manifest.get("provenance") or {}).get("tool", "")).startswith("mer_jax."):
        return found("none", "the corpus is generated")
    if "pixels" in spec:
        return found("none", "there is none: the features are the frames themselves")
    rows, how = _matching(encoder, spec)
    named = corpora_of(name)
    about = [row for row in rows if named & {*row.corpora}]
    about = about or [row for row in rows if ANY in row.corpora or (EVERY in row.corpora and named)]
    if about:
        row = min(about, key=lambda row: WHAT.index(row.what))
        if how and row.what == "none":
            return found("unknown", f"{row.reason()}{how}, which a fine-tuned model may have, too")
        return found(row.what, row.reason() + how, row.parts)
    if not rows:
        why = (
            "the contamination table does not have it"
            if who
            else "the corpus does not say which encoder made the features"
        )
        return found("unknown", why)
    if not named:
        why = f"the contamination table has no corpus of this name; it was trained on {rows[0].reason()}{how}"
        return found("unknown", why)
    return found("unknown", f"it was trained on {rows[0].reason()}, and what else is not documented{how}")


def _matching(encoder: Mapping[str, Any], spec: Mapping[str, Any]) -> tuple[list[Row], str]:
    """The rows on an encoder, and by what it was recognised, in words; "" if by its own name."""
    sha256 = encoder.get("weights_sha256")
    if sha256 and (rows := [row for row in table() if sha256 in row.weights_sha256]):
        return rows, ""
    if not encoder:
        return rows_of(spec.get("made_by") or str(spec.get("extractor", "")).partition(",")[0]), ""
    if "adapter_sha256" in encoder:
        return rows_of(encoder["name"]), "; recognised by the name alone that its adapter gives"
    if hub_name(encoder) or not sha256:  # what has no weights is no folder, as openSMILE
        return rows_of(encoder["name"]), ""
    return [row for row in table() if row.knows_folder(str(encoder["name"]))], "; recognised by its folder's name alone"


def tuned_parts(corpus: Manifest, modality: str) -> tuple[str, ...]:
    """The parts of the corpus, as written in its records, on whose labels the encoder of the modality was trained, or
    may have been, where nobody says on which."""
    return _exposure(corpus.manifest, modality).tuned_parts()


def exposure_lines(found: Sequence[Exposure]) -> list[str]:
    """For the console: a line for each encoder that has seen the corpus, and one on all of which that is not known."""
    lines = [one.in_words() for one in found if one.what in ("tuned", "pretrained")]
    if unknown := [one for one in found if one.what == "unknown"]:
        which = "; ".join(
            f"{one.modality} ({one.encoder + ': ' if one.encoder else ''}{one.reason})" for one in unknown
        )
        lines.append(f"not known whether the encoders have seen {unknown[0].corpus}: {which}")
    return lines


def table_lines(encoder: str | None = None) -> list[str]:
    """The table in words; of one encoder, by its name on a hub or that of its folder, its rows."""
    rows = list(table())
    if encoder is not None:
        rows = rows_of(encoder) or [row for row in rows if row.knows_folder(encoder)]
        if not rows:
            return [f"{encoder}: the contamination table does not have it; it is not known what it has seen"]
    lines = []
    for row in rows:
        other = " other" * any(one.encoders == row.encoders and one is not row for one in table())
        which = {EVERY: f"any{other} corpus of the table", ANY: "any corpus"}
        whose = ", ".join(which.get(corpus, corpus) for corpus in row.corpora)
        parts = f", {' and '.join(row.parts)}" if row.parts else ""
        lines += [", ".join(row.encoders), f"  {SEEN[row.what]} {whose}{parts}", f"  {row.reason()}", ""]
    return lines[:-1]
