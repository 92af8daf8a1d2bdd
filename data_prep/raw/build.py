"""From the turns of a raw corpus to shards, through the extraction of data_prep.clips."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import encoders
from data_prep.audit import write_and_audit
from data_prep.clips import (
    STREAMS,
    AnyEncoder,
    Row,
    check_clips,
    digest,
    features_of,
    refuse_broken,
    tell_lengths,
    utterances,
)
from data_prep.media import Checked, Clip
from data_prep.raw.tree import Traps, Turn
from data_prep.text import TextEncoder, encoder_of
from mer_jax import files
from mer_jax.data.corpus import Utterance
from mer_jax.data.corpus_writer import Description, refuse_existing
from mer_jax.errors import UserError
from mer_jax.files import sha256_of

SHORT = 0.5  # seconds
CHOICES = ("classes", "improvised_only", "without_self_evaluation", "marked")  # options that the manifest holds
LISTS = ("extra_happy", "valid")  # options that are files
CLIP_TRAPS = {
    "clip-missing": "no recording; refused or left out where sound or frames are asked for",
    "clip-unreadable": "cannot be decoded; refused or left out where sound or frames are asked for",
    "clip-without-row": "recordings that the annotations do not know; left out",
    "clip-over-long": "longer than --longest: cut to their beginning, not dropped",
    "clip-short": f"under {SHORT} s: kept; what an encoder cannot read alone is filled up with silence",
}
Chosen = dict[str, AnyEncoder]


@dataclasses.dataclass(frozen=True)
class Selection:
    """What of a raw corpus becomes a corpus: turns, each with its utterance, still without features; `broken` names the utterances whose
    clips are known to be broken wherever the corpus is distributed."""

    name: str
    chosen: list[tuple[Turn, Utterance]]
    labels: tuple[str, ...]
    words: tuple[str, ...]
    protocol: Mapping[str, str]
    licence: str
    broken: tuple[str, ...] = ()


def utterance(turn: Turn, **changes: Any) -> Utterance:
    fields = {name: value for name, value in vars(turn).items() if name not in ("sound", "film")}
    return Utterance(**(fields | {"features": {}} | changes))


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out turns whose clips cannot be used, and name them"
    )
    parser.add_argument("--tfds", type=Path, default=files.cache_folder() / "tfds", metavar="DIR", help="the TFDS dataset of all turns goes here; default: %(default)s")  # fmt: skip


def convert(
    corpus: str,
    arguments: argparse.Namespace,
    handled: Mapping[str, str],
    select: Callable[[list[Turn], Traps, argparse.Namespace], Selection],
    halves: Callable[[Turn], str] = lambda turn: "",
    extra_happy: Path | None = None,
) -> None:
    """From folder to shards. `halves` names the half of a turn's film that shows its speaker, where a film is of a whole dialogue."""
    refuse_existing(arguments.out)
    try:
        from data_prep.raw.dataset import prepared
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[prep]'") from None
    lists = [path for name in LISTS if (path := getattr(arguments, name, None))]
    turns, found, mark = prepared(corpus, arguments.folder, arguments.tfds)
    traps = Traps(handled, found)
    selection = select(turns, traps, arguments)
    encoder, chosen = _encoders(arguments)
    rows, features, clips, broken = _features(selection, chosen, arguments, traps, halves)
    for message in broken.values():
        print(f"left out: {message}", file=sys.stderr)
    write_and_audit(
        arguments.out,
        utterances(rows, features),
        Description(
            name=selection.name,
            labels=selection.labels,
            extractors={modality: encoder.extractor for modality, encoder in chosen.items()},
            label_words=selection.words,
            label_embeddings=encoder.words(selection.words),
            label_space="text",
            protocol=selection.protocol,
            provenance={
                "tool": f"data_prep.raw.{corpus}",
                "arguments": {name: getattr(arguments, name) for name in CHOICES if name in arguments},
                "sources": {"annotations": mark, **clips, **{path.name: sha256_of(path) for path in lists}},
                "traps": traps.provenance(),
                "left_out": sorted(broken),
                **{f"{modality}_encoder": encoder.identity for modality, encoder in chosen.items()},
            },
            licence=selection.licence,
        ),
        extra_happy=extra_happy,
    )  # fmt: skip
    traps.show(selection.name)


def _encoders(arguments: argparse.Namespace) -> tuple[TextEncoder, Chosen]:
    encoders.refuse_idle(arguments)
    words = encoder_of(arguments)
    chosen: Chosen = {"text": words}
    if arguments.audio_encoder:
        chosen["audio"] = encoders.audio_of(arguments)
    if arguments.visual_encoder:
        chosen["visual"] = encoders.visual_of(arguments)
    return words, chosen


def rows_of(selection: Selection, modality: str, folder: Path, half: Callable[[Turn], str]) -> list[Row]:
    """The utterances with the clips of a modality, without those that have none."""
    rows = []
    for turn, u in selection.chosen:
        path = turn.sound if modality == "audio" else turn.film
        part: dict[str, Any] = {}
        if modality == "visual" and Path(turn.film).stem == turn.dialogue:
            part = {"start": turn.start, "end": turn.end, "half": half(turn)}  # the film of the whole dialogue
        if path:
            rows.append(Row(u, Clip(path, folder / path, **part), u.id))
    return rows


def _features(
    selection: Selection, chosen: Chosen, arguments: argparse.Namespace, traps: Traps, half: Callable[[Turn], str]
) -> tuple[list[Row], dict[str, Mapping[str, Any]], dict[str, str], dict[str, str]]:
    """The rows that every encoder could read, by modality the features by id, sha256 of the clips, and what is wrong with the other rows."""
    of = {m: rows_of(selection, m, arguments.folder, half) for m in chosen if m in STREAMS}
    broken: dict[str, str] = {}
    checked: dict[str, dict[str, Checked]] = {}
    for modality, rows in of.items():
        checked[modality], wrong = _check(modality, rows, chosen[modality], selection.broken)
        there = {row.utterance.id for row in rows}
        missing = {u.id: f"{u.id}: it has no {STREAMS[modality]}" for _, u in selection.chosen if u.id not in there}
        told = {*broken, *traps.found["times"]}
        traps.add("clip-unreadable", *(name for name in wrong if name not in told))
        broken |= missing | wrong
    if not arguments.skip_broken:
        refuse_broken({name: message for name, message in broken.items() if name not in selection.broken})
    rows = [Row(u, Clip(u.id, Path()), u.id) for _, u in selection.chosen if u.id not in broken]
    rows, features, _ = features_of(rows, {}, {"text": chosen["text"]}, arguments.cache, False)
    clips = {}
    for modality, of_modality in of.items():
        kept = [row for row in of_modality if row.utterance.id not in broken]
        _lengths(kept, checked[modality], arguments.longest, traps)
        _, found, unreadable = features_of(
            kept, checked[modality], {modality: chosen[modality]}, arguments.cache, arguments.skip_broken
        )
        traps.add("clip-unreadable", *unreadable)
        broken |= unreadable
        features |= found
        clips[f"{modality} clips"] = digest(kept, checked[modality])
    return [row for row in rows if row.utterance.id not in broken], features, clips, broken


def _check(
    modality: str, rows: Sequence[Row], encoder: Any, suspects: Sequence[str]
) -> tuple[dict[str, Checked], dict[str, str]]:
    """What clips.check_clips finds; the suspects are decoded, too, since only that tells."""
    checked, broken = check_clips(rows, (STREAMS[modality],))
    for row in rows:
        if row.clip.end is not None and row.clip.start >= row.clip.end:
            broken[row.utterance.id] = (
                f"{row.where}: it starts at {row.clip.start:g} s of {row.clip.name} and ends at {row.clip.end:g} s"
            )
        elif row.utterance.id in suspects and row.utterance.id not in broken:
            try:
                encoder.prepare(row.clip)
            except UserError as error:
                broken[row.utterance.id] = f"{row.where}: {error}"
    return checked, broken


def _lengths(rows: Sequence[Row], checked: Mapping[str, Checked], longest: float, traps: Traps) -> None:
    tell_lengths(rows, checked, longest)
    for row in rows:
        seconds = checked[row.utterance.id].seconds
        name = "clip-over-long" if seconds > longest else "clip-short" if seconds < SHORT else ""
        if name and row.utterance.id not in traps.found[name]:
            traps.add(name, row.utterance.id)
