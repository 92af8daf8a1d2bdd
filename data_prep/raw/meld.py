"""MELD from the folder that its authors distribute: the three tables and a film of every utterance.

    python -m data_prep.raw.meld MELD.Raw --out DIR --audio-encoder egemaps

The folder holds, as deep as two folders down, train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv, and the unpacked folders of
dia0_utt0.mp4, …: train_splits, dev_splits_complete, output_repeated_splits_test. Ids restart in every part, so an utterance is known by
part, dialogue and utterance (train_dia0_utt3); its session is the episode. The two clips that are known to be broken are left out wherever
sound or frames are asked for, any other only with --skip-broken.
"""

import argparse
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from data_prep import encoders, known
from data_prep.meld import FILES, LABELS, LICENCE, Row, read_rows, utterances
from data_prep.raw import build
from data_prep.raw.build import Selection
from data_prep.raw.tree import Traps, Tree, Turn, hidden
from data_prep.text import QUOTES, parser_of
from mer_jax.data.corpus import SPLITS
from mer_jax.errors import UserError, reported

# As MELD.Raw names them first; then names that copies use.
FOLDERS = {
    "train": ("train_splits", "train_splits_complete", "train"),
    "valid": ("dev_splits_complete", "dev_splits", "dev"),
    "test": ("output_repeated_splits_test", "test_splits", "test_splits_complete", "test"),
}
ARCHIVES = {"train": "train.tar.gz", "valid": "dev.tar.gz", "test": "test.tar.gz"}
CLIP = re.compile(r"dia(\d+)_utt(\d+)\.mp4")
BROKEN = ("train_dia125_utt3", "valid_dia110_utt7")  # cannot be decoded; is not there
TYPOGRAPHIC = re.compile("[" + "".join(map(chr, QUOTES)) + "]")
OLD = re.compile("[\udc80-\udcff\x80-\x9f]")
TRAPS = {
    "counts": "differ from the published ones; say so beside every figure",
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
    "hidden-file": "._ files of macOS; left out",
    **build.CLIP_TRAPS,
}


def sources(folder: Path) -> tuple[list[Path], list[Path]]:
    """The tables, and the recordings."""
    tables = [_table(folder, name) for name in FILES.values()]
    return tables, [path for split in SPLITS for path in sorted(_clips(folder, split).iterdir())]


def _within(folder: Path, name: str) -> list[Path]:
    return [path for depth in ("", "*/", "*/*/") for path in sorted(folder.glob(depth + name))]


def _table(folder: Path, name: str) -> Path:
    found = [path for path in _within(folder, name) if path.is_file()]
    if not found:
        raise UserError(
            f"{folder} holds no {name}; it must hold {', '.join(FILES.values())}, as deep as two folders down"
        )
    if len(found) > 1:
        raise UserError(f"{folder} holds {name} more than once: {found[0]}, {found[1]}; give a folder with one of them")
    return found[0]


def _clips(folder: Path, split: str) -> Path:
    """The folder with the part's clips in it; raises UserError if there are none, or several such folders."""
    found = [
        path for name in FOLDERS[split] for path in _within(folder, name)
        if path.is_dir() and any(CLIP.fullmatch(clip.name) for clip in path.iterdir())
    ]  # fmt: skip
    if not found:
        packed = [f" ({path} is still packed)" for path in _within(folder, ARCHIVES[split])]
        raise UserError(
            f"{folder} holds no folder {FOLDERS[split][0]} with clips named as dia0_utt0.mp4{''.join(packed[:1])}"
        )
    if len(found) > 1:
        raise UserError(f"{folder} holds clips of {split} in {found[0]} and in {found[1]}; leave one of them")
    return found[0]


def read(folder: Path) -> Tree:
    """All rows of the tables with their clips, part by part. Raises UserError naming file, line and field."""
    traps = Traps(TRAPS)
    rows: list[Row] = []
    turns: list[Turn] = []
    for split, name in FILES.items():
        of_split = read_rows(_table(folder, name), split)
        rows += of_split
        turns += _turns(folder, split, of_split, traps)
    _numbers(rows, traps)
    _shared(turns, traps)
    for row, turn in zip(rows, turns, strict=True):
        if OLD.search(row.written):
            traps.add("text-cp1252", turn.id)
        elif TYPOGRAPHIC.search(row.written):
            traps.add("text-typographic", turn.id)
        if row.start >= row.end:
            traps.add("times", turn.id)
    return Tree(turns, traps)


def _turns(folder: Path, split: str, rows: list[Row], traps: Traps) -> list[Turn]:
    room = _clips(folder, split)
    clips = {path.name: path.relative_to(folder).as_posix() for path in sorted(room.iterdir())}
    turns, wanted = [], set()
    nothing = np.zeros((1, 1), np.float16)
    for row, u in zip(rows, utterances(rows, [nothing] * len(rows)), strict=True):
        name = f"dia{row.dialogue}_utt{row.utterance}.mp4"
        wanted.add(name)
        if name not in clips:
            traps.add("clip-missing", u.id)
        clip = clips.get(name, "")
        turns.append(Turn(
            id=u.id, split=split, dialogue=u.dialogue, turn=u.turn, speaker=u.speaker, session=u.session, label=u.label, sentence=u.sentence,
            start=row.start, end=row.end, votes=(), sound=clip, film=clip,
        ))  # fmt: skip
    for name, path in clips.items():
        if hidden(Path(name)):
            traps.add("hidden-file", path)
        elif name not in wanted:
            traps.add("clip-without-row", path)
    return turns


def _numbers(rows: list[Row], traps: Traps) -> None:
    """What would go wrong with numbers taken for positions."""
    numbers: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for row in rows:
        numbers[row.split, row.dialogue].append(row.utterance)
    parts = Counter(dialogue for _, dialogue in numbers)
    traps.add("ids-restart", *(f"dia{d}" for d, n in sorted(parts.items()) if n > 1))
    traps.add(
        "utterance-gaps", *(f"{s}_dia{d}" for (s, d), of in numbers.items() if sorted(of) != list(range(len(of))))
    )
    for split in SPLITS:
        there = {d for s, d in numbers if s == split}
        traps.add("missing-dialogue", *(f"{split}_dia{d}" for d in range(max(there, default=-1)) if d not in there))


def _shared(turns: list[Turn], traps: Traps) -> None:
    """What dev and test share with train."""
    train = [turn for turn in turns if turn.split == "train"]
    labels: defaultdict[tuple[str, float, float], set[str]] = defaultdict(set)
    for turn in train:
        labels[turn.session, turn.start, turn.end].add(turn.label)
    for turn in turns:
        if turn.split != "train" and (of := labels.get((turn.session, turn.start, turn.end))):
            traps.add("moment-shared", turn.id)
            if turn.label not in of:
                traps.add("moment-shared-other-label", turn.id)
    speakers, episodes = ({getattr(turn, field) for turn in train} for field in ("speaker", "session"))
    test = [turn for turn in turns if turn.split == "test"]
    traps.add("episode-shared", *sorted({turn.session for turn in test} & episodes))
    traps.add("speaker-shared", *(turn.id for turn in test if turn.speaker in speakers))


def select(turns: list[Turn], traps: Traps, arguments: argparse.Namespace) -> Selection:
    for split, name in known.SETS_OF_MELD.items():
        found = Counter(turn.label for turn in turns if turn.split == split)
        differing = known.differences(known.MELD, name, {label: found[label] for label in LABELS})
        traps.add("counts", *(f"{split} {said}" for said in differing))
    return Selection(
        name="meld",
        chosen=[(turn, build.utterance(turn)) for turn in turns],
        labels=LABELS,
        words=LABELS,
        protocol={"name": "official", "description": "MELD's own train, dev and test tables"},
        licence=LICENCE,
        broken=BROKEN,
    )


def main(argv: list[str] | None = None) -> None:
    parser = parser_of("data_prep.raw.meld", __doc__)
    parser.add_argument("folder", type=Path, metavar="MELD.Raw", help="the folder as distributed, unpacked")
    encoders.add_audio(parser)
    encoders.add_visual(parser)
    build.add_flags(parser)
    arguments = parser.parse_args(argv)
    with reported():
        build.convert("meld", arguments, TRAPS, select)


if __name__ == "__main__":
    main()
