"""What a corpus of recordings needs besides its naming convention: the folder is walked, recordings are checked,
listened to and encoded, and its known traps are told.

A new corpus of speech takes one short file, as data_prep/savee.py:

    def read_name(path): return acted(id=..., split=..., speaker=..., label=...)    # of a path within the folder
    def add_flags(parser): speech_corpus.add_flags(parser, "SAVEE")
    def read(arguments):
        issues = KnownIssues(ISSUES | {"trap": "what is done about it"})
        rows = speech_corpus.read_folder(arguments.folder, read_name, issues)
        return speech_corpus.source_of(SpeechCorpus(rows=rows, issues=issues, ...), arguments)
"""

import argparse
import dataclasses
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from data_prep.encoders import flags
from data_prep.encoders.extract import (
    STREAMS,
    AnyEncoder,
    UtteranceClip,
    axes,
    check_clips,
    digest,
    features_of,
    print_faces,
    print_lengths,
    rates,
    refuse_broken,
    utterances,
)
from data_prep.encoders.hearing import listen, told
from data_prep.encoders.media import Checked, Clip
from data_prep.importer import Source, print_note
from data_prep.raw.turns import CLIP_ISSUES, COUNTS, HIDDEN_FILE, SHORT, KnownIssues, is_hidden
from mer_jax.data.corpus import Utterance
from mer_jax.data.targets import Target
from mer_jax.errors import UserError
from mer_jax.files import sha256_of

CLIPS = {name: CLIP_ISSUES[name] for name in ("clip-over-long", "clip-short")} | {
    "clip-unreadable": "cannot be decoded; refused, or left out with --skip-broken",
    "silent": "nothing to hear; kept, or left out with --skip-broken",
    "same-sound": "pairs of recordings that are the same sound; kept, say so",
}
ISSUES = {
    **COUNTS,
    "copy": "a recording that is there twice, byte for byte; counted once",
    **HIDDEN_FILE,
    **CLIPS,
}
POINTER = b"version https://git-lfs"  # so begins what git leaves in place of a file that git-lfs has not fetched


@dataclasses.dataclass(frozen=True)
class SpeechCorpus:
    """An importer has read this. `films` are the clips of the pictures by id, where they are not those of the sound;
    `sources` are the sha256 of tables and archives, `choices` what flags have chosen, and `faulty` says what is wrong
    with recordings that are known to be so. `targets` and `groups` are those of a Source."""

    name: str
    rows: Sequence[UtteranceClip]
    labels: tuple[str, ...]
    protocol: Mapping[str, str]
    licence: str
    issues: KnownIssues | None = None
    label_words: tuple[str, ...] = ()
    films: Mapping[str, Clip] | None = None
    with_text: bool = False
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    choices: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    faulty: Mapping[str, str] = dataclasses.field(default_factory=dict)
    targets: Sequence[Target] = ()
    groups: Sequence[str] = ()


def add_flags(parser: argparse.ArgumentParser, folder: str, *, films: bool = False) -> None:
    """Adds the folder, and the flags of its recordings."""
    parser.add_argument("folder", type=Path, metavar=folder, help="the folder as distributed, unpacked")
    flags.add_audio(parser, default="egemaps")
    if films:
        flags.add_visual(parser)
    add_skip_broken(parser)


def add_skip_broken(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--skip-broken",
        action="store_true",
        help="leave out recordings that cannot be decoded, that are silent or known to be faulty, and name them",
    )


def acted(
    *, id: str, split: str, speaker: str, label: str, sentence: str = "", dialogue: str = "", gender: str = ""
) -> Utterance:
    """Returns an utterance without features that is not part of a conversation. Its session is the speaker, and so is
    its dialogue unless given, so that a protocol that draws dialogues keeps what belongs together in one part. gender:
    the speaker's, female or male, where the corpus says it."""
    return Utterance(
        id=id,
        split=split,
        dialogue=dialogue or speaker,
        turn=0,
        speaker=speaker,
        session=speaker,
        label=label,
        sentence=sentence,
        features={},
        groups={"gender": gender} if gender else {},
    )


def read_folder(
    folder: Path, read_name: Callable[[PurePath], Utterance | None], issues: KnownIssues
) -> list[UtteranceClip]:
    """Returns the wavs of a folder in order of their ids, numbered within their dialogues. `read_name` makes an
    utterance of a path within the folder, or None of a recording that is of no interest. Raises UserError for a folder
    without recordings, and for one that holds two of the same id."""
    found: dict[str, UtteranceClip] = {}
    for path in recordings(folder, ".wav", issues):
        name = path.relative_to(folder)
        if (utterance := read_name(name)) is None:
            continue
        first = found.get(utterance.id)
        if first is None:
            found[utterance.id] = UtteranceClip(utterance, Clip(name.as_posix(), path), str(path))
        else:
            _refuse_other(Path(first.where), path, utterance.id)
            issues.add("copy", name.as_posix())
    if not found:
        raise UserError(f"{folder} holds no wav of the corpus; give the folder as it is distributed, unpacked")
    return numbered(found[name] for name in sorted(found))


def films(folder: Path, suffix: str, issues: KnownIssues) -> dict[str, Path]:
    """Returns the films of a folder by their names. Raises UserError for two of one name that differ."""
    found: dict[str, Path] = {}
    for path in recordings(folder, suffix, issues):
        first = found.setdefault(path.stem, path)
        if first is not path:
            _refuse_other(first, path, path.stem)
            issues.add("copy", path.relative_to(folder).as_posix())
    return found


def _refuse_other(first: Path, second: Path, name: str) -> None:
    if sha256_of(first) != sha256_of(second):
        raise UserError(f"{first} and {second} differ, and both are {name}: leave one of them")


def recordings(folder: Path, suffix: str, issues: KnownIssues) -> list[Path]:
    """Returns the files of a folder whose names end so, in whatever case. Raises UserError for one that git-lfs has not
    fetched, and for a link to nothing, as git-annex leaves them."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    named = sorted(path for path in _walked(folder) if path.suffix.lower() == suffix)
    paths = [path for path in named if path.is_file() or path.is_symlink()]
    hidden = {path for path in paths if any(map(is_hidden, map(Path, path.relative_to(folder).parts)))}
    issues.add("hidden-file", *(path.relative_to(folder).as_posix() for path in paths if path in hidden))
    kept = [path for path in paths if path not in hidden]
    for path in kept:
        if not path.exists():
            raise UserError(
                f"{path} is a link to {os.readlink(path)}, which is not there: fetch it, or delete the link"
            )
        refuse_pointer(path)
    return kept


def _walked(folder: Path) -> Iterator[Path]:
    """Yields all files of a folder, those of linked folders, too; each folder once, as links may lead in a circle."""
    seen = set()
    for room, rooms, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(room)) in seen:
            rooms.clear()
            continue
        seen.add(real)
        rooms.sort()
        yield from (Path(room) / name for name in names)


def refuse_pointer(path: Path) -> None:
    """Raises UserError for what git leaves in place of a file that git-lfs has not fetched."""
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise UserError(
                f"{path} is a pointer of git-lfs, not the file itself: fetch the files with git lfs pull; "
                "a zip of the repository does not hold them"
            )


def numbered(rows: Any) -> list[UtteranceClip]:
    """Returns the rows with turns that count within each dialogue."""
    turns: Counter[str] = Counter()
    found = []
    for row in rows:
        u = row.utterance
        found.append(dataclasses.replace(row, utterance=dataclasses.replace(u, turn=turns[u.dialogue])))
        turns[u.dialogue] += 1
    return found


def compare_classes(rows: Sequence[UtteranceClip], published: Mapping[str, int], issues: KnownIssues) -> None:
    issues.compare(Counter(row.utterance.label for row in rows), published)


def source_of(corpus: SpeechCorpus, arguments: argparse.Namespace) -> Source:
    """Encodes the corpus with the encoders that the flags choose. Raises UserError for recordings that cannot be used,
    unless --skip-broken is given."""
    words, chosen = flags.chosen_encoders(arguments, with_text=corpus.with_text)
    issues = corpus.issues or KnownIssues(CLIPS)
    if differing := issues.found.get("counts"):
        print_note(f"{corpus.name} differs from what is published of it: {'; '.join(differing)}")
    rows, features, found, broken = _features(corpus, chosen, arguments, issues)
    for message in broken.values():
        print(f"left out: {message}", file=sys.stderr)
    return Source(
        name=corpus.name,
        utterances=utterances(rows, features),
        labels=corpus.labels,
        label_words=corpus.label_words,
        encoder=words,
        extractors={modality: encoder.extractor for modality, encoder in chosen.items()},
        steps_per_second=rates(chosen),
        layers=axes(chosen),
        protocol=corpus.protocol,
        provenance={
            **({"arguments": dict(corpus.choices)} if corpus.choices else {}),
            "sources": {**corpus.sources, **found.pop("clips")},
            **({"traps": issues.provenance()} if corpus.issues else {}),
            **found,
            **({"left_out": sorted(broken)} if broken else {}),
            "label_word_encoder": words.identity,
            **{f"{modality}_encoder": encoder.identity for modality, encoder in chosen.items()},
        },
        licence=corpus.licence,
        closing_lines=list(corpus.issues.lines(corpus.name)) if corpus.issues else (),
        targets=corpus.targets,
        groups=corpus.groups,
    )


def _features(
    corpus: SpeechCorpus, chosen: Mapping[str, AnyEncoder], arguments: argparse.Namespace, issues: KnownIssues
) -> tuple[list[UtteranceClip], dict[str, Mapping[str, Any]], dict[str, Any], dict[str, str]]:
    """Returns the rows that every encoder could read, by modality the features by id, what the manifest holds of the
    clips, and what is wrong with the other rows."""
    clips = {modality: clips_of(corpus, modality) for modality in chosen if modality in STREAMS}
    skip_broken = getattr(arguments, "skip_broken", False)
    checked, broken = _checked(corpus, clips, issues, skip_broken)
    if not skip_broken:
        refuse_broken(broken)
    heard: dict[str, Any] = {}
    if "audio" in clips:
        left = [row for row in clips["audio"] if row.utterance.id not in broken]
        wrong, heard = hear(left, checked["audio"], arguments.cache, issues, skip_broken)
        broken |= wrong
    features: dict[str, Mapping[str, Any]] = {}
    rows = [row for row in corpus.rows if row.utterance.id not in broken]
    if "text" in chosen:
        features = features_of(rows, {}, {"text": chosen["text"]}, arguments.cache, skip_broken=False)[1]
    over_longest: list[dict[str, Any]] = []
    for modality, of_modality in clips.items():
        left = [row for row in of_modality if row.utterance.id not in broken]
        over_longest.append(print_lengths(left, checked[modality], arguments.longest))
        add_lengths(left, checked[modality], arguments.longest, issues)
        one = {modality: chosen[modality]}
        _, found, wrong = features_of(left, checked[modality], one, arguments.cache, skip_broken=skip_broken)
        issues.add("clip-unreadable", *wrong)
        broken |= wrong
        features |= found
        if modality == "visual" and arguments.faces:
            heard["frames_without_face"] = print_faces(
                [row for row in left if row.utterance.id not in wrong], found[modality]
            )
    rows = [row for row in rows if row.utterance.id not in broken]
    digests = {
        f"{modality} clips": digest([row for row in of if row.utterance.id not in broken], checked[modality])
        for modality, of in clips.items()
        if any(isinstance(row.clip.source, Path) for row in of)  # those of an archive are in its sha256
    }
    most = max(over_longest, key=lambda of: of["clips_over_longest"], default={})
    return rows, features, {"clips": digests, **most, **heard}, broken


def clips_of(corpus: SpeechCorpus, modality: str) -> list[UtteranceClip]:
    """Returns the rows with the clips of a modality, without those that have no film."""
    films = corpus.films
    if modality != "visual" or films is None:
        return list(corpus.rows)
    return [
        UtteranceClip(row.utterance, films[row.utterance.id], films[row.utterance.id].name)
        for row in corpus.rows
        if row.utterance.id in films
    ]


def _checked(
    corpus: SpeechCorpus, clips: Mapping[str, Sequence[UtteranceClip]], issues: KnownIssues, skip_broken: bool
) -> tuple[dict[str, dict[str, Checked]], dict[str, str]]:
    """Returns by modality and id what the whole clips are, and what is wrong with recordings that cannot be used; with
    --skip-broken those that are known to be faulty are among these."""
    where = {row.utterance.id: row.where for row in corpus.rows}
    broken: dict[str, str] = {}
    if skip_broken and clips:
        broken = {name: f"{where[name]}: {what}" for name, what in corpus.faulty.items() if name in where}
    checked: dict[str, dict[str, Checked]] = {}
    for modality, rows in clips.items():
        left = [row for row in rows if row.utterance.id not in broken]
        checked[modality], wrong = check_clips(left, (STREAMS[modality],))
        issues.add("clip-unreadable", *wrong)
        there = {row.utterance.id for row in rows}
        broken |= wrong | {
            name: f"{at}: the folder holds no film of it" for name, at in where.items() if name not in there
        }
    return checked, broken


def hear(
    rows: Sequence[UtteranceClip], checked: Mapping[str, Checked], cache: Path, issues: KnownIssues, skip_broken: bool
) -> tuple[dict[str, str], dict[str, Any]]:
    """Listens to the recordings and prints what is odd. Returns what is wrong with those that are left out, and what
    is odd of the others, for the manifest. Raises UserError for those whose sound cannot be read."""
    sounds, broken = listen(rows, checked, cache)
    issues.add("clip-unreadable", *broken)
    if not skip_broken:
        refuse_broken(broken)
    left = [row for row in rows if row.utterance.id not in broken]
    notes, found = told(sounds, left)
    for note in notes:
        print_note(note)
    issues.add("silent", *found.get("silent", ()))
    issues.add("same-sound", *(f"{a} {b}" for a, b in found.get("same_sound", ())))
    if skip_broken:
        where = {row.utterance.id: row.where for row in left}
        broken |= {name: f"{where[name]}: there is nothing to hear" for name in found.pop("silent", ())}
    return broken, found


def add_lengths(
    rows: Sequence[UtteranceClip], checked: Mapping[str, Checked], longest: float, issues: KnownIssues
) -> None:
    """Adds which recordings are over-long, and which are short."""
    for row in rows:
        seconds = checked[row.utterance.id].seconds
        name = "clip-over-long" if seconds > longest else "clip-short" if seconds < SHORT else ""
        if name and row.utterance.id not in issues.found[name]:
            issues.add(name, row.utterance.id)
