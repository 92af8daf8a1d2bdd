"""The turns of a raw corpus become a corpus: they are read through TFDS, selected, and their clips encoded."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import numbers
from data_prep.encoders import flags
from data_prep.encoders.extract import (
    STREAMS,
    AnyEncoder,
    UtteranceClip,
    axes,
    check_clips,
    digest,
    features_of,
    print_lengths,
    rates,
    refuse_broken,
    utterances,
)
from data_prep.encoders.hearing import listen, told
from data_prep.encoders.media import Checked, Clip
from data_prep.importer import Source, checksums, print_note
from data_prep.raw.turns import KnownIssues, Turn
from data_prep.speech_corpus import add_lengths
from mer_jax import files
from mer_jax.data.corpus import Utterance
from mer_jax.data.targets import Target
from mer_jax.errors import UserError

CHOICES = ("classes", "improvised_only", "without_self_evaluation", "marked")  # flags that the manifest holds
LISTS = ("extra_happy", "valid")  # flags that are files


@dataclasses.dataclass(frozen=True)
class Selection:
    """A selection of a raw corpus becomes a corpus: turns, each with its utterance, which has no features yet.
    `broken` names the utterances whose clips are known to be broken wherever the corpus is distributed; `targets` and
    `groups` are those of a Source."""

    name: str
    chosen: list[tuple[Turn, Utterance]]
    labels: tuple[str, ...]
    words: tuple[str, ...]
    protocol: Mapping[str, str]
    licence: str
    broken: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    groups: tuple[str, ...] = ()


def utterance(turn: Turn, **changes: Any) -> Utterance:
    fields = {name: value for name, value in vars(turn).items() if name not in ("sound", "film")}
    return Utterance(**(fields | {"features": {}} | changes))


def add_flags(parser: argparse.ArgumentParser) -> None:
    flags.add_audio(parser)
    flags.add_visual(parser)
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out turns whose clips cannot be used, and name them"
    )
    parser.add_argument(
        "--tfds",
        type=Path,
        default=files.cache_folder() / "tfds",
        metavar="DIR",
        help="the TFDS dataset of all turns goes here; default: %(default)s",
    )


def read(
    corpus: str,
    arguments: argparse.Namespace,
    handled: Mapping[str, str],
    select: Callable[[list[Turn], KnownIssues, argparse.Namespace], Selection],
    *,
    halves: Callable[[Turn], str] = lambda turn: "",
    extra_happy: Path | None = None,
) -> Source:
    """Reads a folder as it is distributed. `handled` are the known issues; `halves` names the half of a turn's film
    that shows its speaker, where a film is of a whole dialogue."""
    try:
        from data_prep.raw.tfds_builders import prepared
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install -e '.[prep]'") from None
    lists = [path for name in LISTS if (path := getattr(arguments, name, None))]
    turns, found, fingerprint = prepared(corpus, arguments.folder, arguments.tfds)
    issues = KnownIssues(handled, found)
    selection = select(turns, issues, arguments)
    encoder, chosen = flags.chosen_encoders(arguments)
    rows, features, clips, over_longest, broken = _features(selection, chosen, arguments, issues, halves)
    for message in broken.values():
        print(f"left out: {message}", file=sys.stderr)
    for note in numbers.notes_on(str(arguments.folder), [row.utterance.values for row in rows], selection.targets):
        print_note(note)
    unlabelled = {row.utterance.id: row.where for row in rows if not row.utterance.label}
    return Source(
        name=selection.name,
        utterances=utterances(rows, features),
        labels=selection.labels,
        kept_unlabelled=unlabelled if getattr(arguments, "keep_unlabelled", False) else None,
        encoder=encoder,
        extractors={modality: encoder.extractor for modality, encoder in chosen.items()},
        steps_per_second=rates(chosen),
        layers=axes(chosen),
        label_words=selection.words,
        protocol=selection.protocol,
        provenance={
            "arguments": {name: getattr(arguments, name) for name in CHOICES if name in arguments},
            "sources": {"annotations": fingerprint, **clips, **checksums(*lists)},
            "traps": issues.provenance(),
            **over_longest,
            "left_out": sorted(broken),
            **{f"{modality}_encoder": encoder.identity for modality, encoder in chosen.items()},
        },
        licence=selection.licence,
        extra_happy=extra_happy,
        closing_lines=list(issues.lines(selection.name)),
        targets=selection.targets,
        groups=selection.groups,
    )


def rows_of(selection: Selection, modality: str, folder: Path, half: Callable[[Turn], str]) -> list[UtteranceClip]:
    """Returns the utterances with the clips of a modality, without those that have none."""
    rows = []
    for turn, u in selection.chosen:
        path = turn.sound if modality == "audio" else turn.film
        part: dict[str, Any] = {}
        if modality == "visual" and Path(turn.film).stem == turn.dialogue:
            part = {"start": turn.start, "end": turn.end, "half": half(turn)}  # the film of the whole dialogue
        if path:
            rows.append(UtteranceClip(u, Clip(path, folder / path, **part), u.id))
    return rows


def _features(
    selection: Selection,
    chosen: dict[str, AnyEncoder],
    arguments: argparse.Namespace,
    issues: KnownIssues,
    half: Callable[[Turn], str],
) -> tuple[list[UtteranceClip], dict[str, Mapping[str, Any]], dict[str, str], dict[str, Any], dict[str, str]]:
    """Returns the rows that every encoder could read, by modality the features by id, sha256 of the clips, what was cut
    of over-long ones, and what is wrong with the other rows."""
    of = {m: rows_of(selection, m, arguments.folder, half) for m in chosen if m in STREAMS}
    broken: dict[str, str] = {}
    checked: dict[str, dict[str, Checked]] = {}
    for modality, rows in of.items():
        checked[modality], wrong = _check(modality, rows, chosen[modality], selection.broken)
        there = {row.utterance.id for row in rows}
        missing = {u.id: f"{u.id}: it has no {STREAMS[modality]}" for _, u in selection.chosen if u.id not in there}
        named = {*broken, *issues.found["times"]}
        issues.add("clip-unreadable", *(name for name in wrong if name not in named))
        broken |= missing | wrong
    if not arguments.skip_broken:
        refuse_broken({name: message for name, message in broken.items() if name not in selection.broken})
    rows = [UtteranceClip(u, Clip(u.id, Path()), u.id) for _, u in selection.chosen if u.id not in broken]
    rows, features, _ = features_of(rows, {}, {"text": chosen["text"]}, arguments.cache, skip_broken=False)
    clips: dict[str, str] = {}
    cut: list[dict[str, Any]] = []
    for modality, of_modality in of.items():
        kept = [row for row in of_modality if row.utterance.id not in broken]
        cut.append(print_lengths(kept, checked[modality], arguments.longest))
        add_lengths(kept, checked[modality], arguments.longest, issues)
        if modality == "audio":
            sounds, _ = listen(kept, checked[modality], arguments.cache)  # what cannot be read is told below
            for note in told(sounds, kept)[0]:
                print_note(note)
        _, found, unreadable = features_of(
            kept, checked[modality], {modality: chosen[modality]}, arguments.cache, skip_broken=arguments.skip_broken
        )
        issues.add("clip-unreadable", *unreadable)
        broken |= unreadable
        features |= found
        clips[f"{modality} clips"] = digest(kept, checked[modality])
    over_longest = max(cut, key=lambda found: found["clips_over_longest"], default={})
    return [row for row in rows if row.utterance.id not in broken], features, clips, over_longest, broken


def _check(
    modality: str, rows: Sequence[UtteranceClip], encoder: Any, suspects: Sequence[str]
) -> tuple[dict[str, Checked], dict[str, str]]:
    """Returns what `check_clips` finds; the suspects are decoded, too, since only that tells."""
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
