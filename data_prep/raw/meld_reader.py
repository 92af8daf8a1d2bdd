"""MELD.Raw is read into its turns: the three tables and a film of every utterance."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from data_prep.meld_table import FILES, MeldRow, read_rows, utterances
from data_prep.raw.turns import (
    CLIP_ISSUES,
    COUNTS,
    HIDDEN_FILE,
    WINDOWS_1252,
    KnownIssues,
    RawCorpus,
    Turn,
    is_hidden,
    needed_file,
    within,
)
from data_prep.sentences import QUOTES
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError

# As MELD.Raw names them first; then names that copies use.
FOLDERS = {
    "train": ("train_splits", "train_splits_complete", "train"),
    "valid": ("dev_splits_complete", "dev_splits", "dev"),
    "test": ("output_repeated_splits_test", "test_splits", "test_splits_complete", "test"),
}
ARCHIVES = {"train": "train.tar.gz", "valid": "dev.tar.gz", "test": "test.tar.gz"}
CLIP = re.compile(r"dia(\d+)_utt(\d+)\.mp4")
TYPOGRAPHIC = re.compile("[" + "".join(map(chr, QUOTES)) + "]")
ISSUES = {
    **COUNTS,
    "ids-restart": "dialogue numbers that occur in several parts; ids hold the part",
    "missing-dialogue": "a number that no dialogue has (60 of train); numbers are names, not positions",
    "utterance-gaps": "dialogues whose utterance numbers have gaps; turns are positions in the dialogue",
    "moment-shared": "utterances of dev and test at the same time of the same episode as one of train; kept, say so",
    "moment-shared-other-label": "of these, with another label than in train",
    "episode-shared": "episodes of test that occur in train; kept: no figure is for unknown recordings",
    "speaker-shared": "test utterances of speakers that train has; kept: no figure is for unknown speakers",
    "text-typographic": "sentences with typographic quotes and dashes; made plain",
    "text-cp1252": "sentences in Windows-1252 or read as Latin-1; repaired",
    "times": "end before they begin; kept, since clips are cut already",
    **HIDDEN_FILE,
    **CLIP_ISSUES,
}


def sources(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the tables, and the recordings."""
    tables = [needed_file(folder, name, FILES.values()) for name in FILES.values()]
    return tables, [path for split in SPLITS for path in sorted(_clips(folder, split).iterdir())]


def _clips(folder: Path, split: str) -> Path:
    """Returns the folder with the part's clips. Raises UserError if there is none, or if there are several."""
    found = [
        path
        for name in FOLDERS[split]
        for path in within(folder, name)
        if path.is_dir() and any(CLIP.fullmatch(clip.name) for clip in path.iterdir())
    ]
    if not found:
        packed = [f" ({path} is still packed)" for path in within(folder, ARCHIVES[split])]
        raise UserError(
            f"{folder} holds no folder {FOLDERS[split][0]} with clips named as dia0_utt0.mp4{''.join(packed[:1])}"
        )
    if len(found) > 1:
        raise UserError(f"{folder} holds clips of {split} in {found[0]} and in {found[1]}; leave one of them")
    return found[0]


def read(folder: Path) -> RawCorpus:
    """Returns all rows of the tables with their clips, part by part. Raises UserError naming file, line and field."""
    issues = KnownIssues(ISSUES)
    rows: list[MeldRow] = []
    turns: list[Turn] = []
    for split, name in FILES.items():
        of_split = read_rows(needed_file(folder, name, FILES.values()), split)
        rows += of_split
        turns += _turns(folder, split, of_split, issues)
    _numbers(rows, issues)
    _shared(turns, issues)
    for row, turn in zip(rows, turns, strict=True):
        if WINDOWS_1252.search(row.written):
            issues.add("text-cp1252", turn.id)
        elif TYPOGRAPHIC.search(row.written):
            issues.add("text-typographic", turn.id)
        if row.start >= row.end:
            issues.add("times", turn.id)
    return RawCorpus(turns, issues)


def _turns(folder: Path, split: str, rows: list[MeldRow], issues: KnownIssues) -> list[Turn]:
    room = _clips(folder, split)
    clips = {path.name: path.relative_to(folder).as_posix() for path in sorted(room.iterdir())}
    turns, wanted = [], set()
    nothing = np.zeros((1, 1), np.float16)
    for row, u in zip(rows, utterances(rows, [nothing] * len(rows)), strict=True):
        name = f"dia{row.dialogue}_utt{row.utterance}.mp4"
        wanted.add(name)
        if name not in clips:
            issues.add("clip-missing", u.id)
        clip = clips.get(name, "")
        turns.append(
            Turn(
                id=u.id,
                split=split,
                dialogue=u.dialogue,
                turn=u.turn,
                speaker=u.speaker,
                session=u.session,
                label=u.label,
                sentence=u.sentence,
                start=row.start,
                end=row.end,
                votes=(),
                sound=clip,
                film=clip,
            )
        )
    for name, path in clips.items():
        if is_hidden(Path(name)):
            issues.add("hidden-file", path)
        elif name not in wanted:
            issues.add("clip-without-row", path)
    return turns


def _numbers(rows: list[MeldRow], issues: KnownIssues) -> None:
    """Adds what would go wrong with numbers that are taken for positions."""
    numbers: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for row in rows:
        numbers[row.split, row.dialogue].append(row.utterance)
    parts = Counter(dialogue for _, dialogue in numbers)
    issues.add("ids-restart", *(f"dia{d}" for d, n in sorted(parts.items()) if n > 1))
    issues.add(
        "utterance-gaps", *(f"{s}_dia{d}" for (s, d), of in numbers.items() if sorted(of) != list(range(len(of))))
    )
    for split in SPLITS:
        there = {d for s, d in numbers if s == split}
        issues.add("missing-dialogue", *(f"{split}_dia{d}" for d in range(max(there, default=-1)) if d not in there))


def _shared(turns: list[Turn], issues: KnownIssues) -> None:
    """Adds what dev and test share with train."""
    train = [turn for turn in turns if turn.split == "train"]
    labels: defaultdict[tuple[str, float, float], set[str]] = defaultdict(set)
    for turn in train:
        labels[turn.session, turn.start, turn.end].add(turn.label)
    for turn in turns:
        if turn.split != "train" and (of := labels.get((turn.session, turn.start, turn.end))):
            issues.add("moment-shared", turn.id)
            if turn.label not in of:
                issues.add("moment-shared-other-label", turn.id)
    speakers, episodes = ({getattr(turn, field) for turn in train} for field in ("speaker", "session"))
    test = [turn for turn in turns if turn.split == "test"]
    issues.add("episode-shared", *sorted({turn.session for turn in test} & episodes))
    issues.add("speaker-shared", *(turn.id for turn in test if turn.speaker in speakers))
