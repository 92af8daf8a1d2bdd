"""IEMOCAP from the folder that USC distributes: sentences, wavs, films and what every rater said.

    python -m data_prep.raw.iemocap IEMOCAP_full_release --out DIR --audio-encoder egemaps

The folder holds Session1 … Session5, each with dialog/EmoEvaluation/*.txt (labels and raters), dialog/transcriptions/*.txt,
sentences/wav/DIALOGUE/TURN.wav and, for --visual-encoder, dialog/avi/DivX/DIALOGUE.avi. Labels are the official majority labels. The
parts are those of `dialoguernn`: session 5 is test, the others train; loso and speaker split as they like.

A film shows both actors side by side. A turn's frames are cut from it by the turn's times, and of them the half of its speaker: the actor
whose letter the dialogue bears, who wears the markers, is taken to sit on the left, as others' scripts have it: look at a film first
(--marked=right, --marked=both: the whole picture). Nothing says how the community chose the 53 turns of --extra-happy: bring their list.
"""

import argparse
import dataclasses
import re
from collections import Counter
from pathlib import Path

from data_prep import encoders, known
from data_prep.audit import listed_ids
from data_prep.iemocap import FOUR, LICENCE, WORDS
from data_prep.raw import build
from data_prep.raw.build import Selection
from data_prep.raw.tree import Traps, Tree, Turn, hidden, text_of
from data_prep.text import normalise, parser_of
from mer_jax.data.corpus import Utterance
from mer_jax.data.leakage import normalised_sentence
from mer_jax.errors import UserError, reported

SESSIONS = ("1", "2", "3", "4", "5")
HEADER = re.compile(r"\[\s*(\d+\.?\d*)\s*-\s*(\d+\.?\d*)\s*\]\s+(\S+)\s+(\w+)\s+\[.*\]\s*")
RATER = re.compile(r"C-([A-Z]+\d+):\s*([^(]*)")
LINE = re.compile(r"(\S+)\s+\[\s*\d+\.?\d*\s*-\s*\d+\.?\d*\s*\]:\s*(.*)")
TURN = re.compile(r"Ses0([1-5])([FM])_\w+_([FM])\d+")
# A rater's words -> the official codes; other words (fear, surprise, disgust, other) stay as they are.
CODES = {
    "happiness": "hap", "sadness": "sad", "neutral": "neu", "neutral state": "neu", "anger": "ang", "excited": "exc", "frustration": "fru"
}  # fmt: skip
OTHERS = ("oth", "fea", "sur", "dis")
PER_SESSION = (1085, 1023, 1151, 1031, 1241)  # the four classes, official labels
TURNS, DIALOGUES = 10039, 151
SHORTEST, LONGEST = 8, 110  # turns of the six classes in a dialogue
TRAPS = {
    "counts": "differ from the published ones; say so beside every figure",
    "missing-session": "is not there; protocols by session test fewer",
    "missing-dialogue": "has an evaluation or a transcript, not both: its turns are left out, or have no sentence",
    "dialogue-length": f"not {SHORTEST} to {LONGEST} turns of the six classes, as all dialogues have; look whether its files are whole",
    "speaker-of-the-turn": "the speaker is the letter of the turn's id; that of the dialogue would name the other actor",
    "no-majority": "xxx: no label has the majority of the raters; left out",
    "other-emotion": "oth, fea, sur, dis: of no class in use; left out",
    "happy-595-or-648": "'happy' without an official happy majority, as the community's 7,433 have them; only with --extra-happy",
    "excited-is-happy": "with --classes=4 excited counts as happy",
    "scripted": "turns of scripted dialogues; --improvised-only leaves them out",
    "scripted-repeat": "test sentences that occur in train, but for case and punctuation; say so, or --improvised-only",
    "self-evaluation": "the actors rated themselves (F1, M1, …): among the votes, not in the official label; --without-self-evaluation",
    "several-labels": "a rater chose several labels: each is a vote",
    "no-choice": "a rater chose nothing: no vote",
    "label-nobody-chose": "the official label is none that a rater chose; kept as it is",
    "turn-without-evaluation": "is in the transcript only; left out",
    "turn-without-sentence": "is not in the transcript; its sentence is empty",
    "transcript-line": "a line of a transcript that belongs to no turn; left out",
    "evaluation-line": "a line of an evaluation that could not be read; left out",
    "text-cp1252": "text in Windows-1252; repaired",
    "hidden-file": "._ files of macOS; left out",
    "times": "end before they begin; refused, or left out with --skip-broken, where frames are asked for",
    "two-actors-in-the-film": "frames are of the speaker's half only; --marked",
    "missing-film": "no frames; refused, or left out with --skip-broken, where frames are asked for",
    **build.CLIP_TRAPS,
}


def root_of(folder: Path) -> Path:
    """The folder with the sessions; raises UserError if there is none."""
    for root in (folder, folder / "IEMOCAP_full_release"):
        if any((root / f"Session{n}" / "dialog").is_dir() for n in SESSIONS):
            return root
    raise UserError(f"{folder} holds no Session1 … Session5 with a folder dialog: give the folder IEMOCAP_full_release")


def sources(folder: Path) -> tuple[list[Path], list[Path]]:
    """The annotations, and the recordings."""
    root = root_of(folder)
    texts = [*root.glob("Session?/dialog/EmoEvaluation/*.txt"), *root.glob("Session?/dialog/transcriptions/*.txt")]
    media = [*root.glob("Session?/sentences/wav/*/*.wav"), *root.glob("Session?/dialog/avi/DivX/*.avi")]
    return sorted(texts), sorted(media)


def read(folder: Path) -> Tree:
    """All turns that were evaluated, whatever their label, dialogue by dialogue in order of time. Raises UserError naming file and line."""
    root = root_of(folder)
    traps = Traps(TRAPS)
    turns: list[Turn] = []
    for session in SESSIONS:
        if not (root / f"Session{session}" / "dialog").is_dir():
            traps.add("missing-session", f"Session{session}")
            continue
        turns += _session(folder, root / f"Session{session}", session, traps)
    if not turns:
        raise UserError(f"{root}: no evaluation holds a turn")
    return Tree(turns, traps)


def _session(folder: Path, room: Path, session: str, traps: Traps) -> list[Turn]:
    evaluations, transcripts = (
        _visible(room / "dialog" / name, "*.txt", traps) for name in ("EmoEvaluation", "transcriptions")
    )
    if not evaluations:
        raise UserError(f"{room / 'dialog' / 'EmoEvaluation'} holds no evaluation (Ses0{session}F_impro01.txt, …)")
    traps.add("missing-dialogue", *sorted(evaluations.keys() ^ transcripts.keys()))
    wavs = _visible(room / "sentences" / "wav", "*/*.wav", traps)
    films = _visible(room / "dialog" / "avi" / "DivX", "*.avi", traps)
    turns: list[Turn] = []
    for dialogue, path in evaluations.items():
        sentences = _transcript(transcripts[dialogue], traps) if dialogue in transcripts else {}
        found = _evaluation(path, session, traps)
        traps.add("turn-without-evaluation", *sorted(sentences.keys() - {turn.id for turn in found}))
        if dialogue not in films:
            traps.add("missing-film", dialogue)
        for number, turn in enumerate(sorted(found, key=lambda turn: turn.start)):
            if turn.id not in sentences:
                traps.add("turn-without-sentence", turn.id)
            if turn.id not in wavs:
                traps.add("clip-missing", turn.id)
            sound, film = (
                path.relative_to(folder).as_posix() if path else "" for path in (wavs.get(turn.id), films.get(dialogue))
            )
            sentence = sentences.get(turn.id, "")
            turns.append(dataclasses.replace(turn, turn=number, sentence=sentence, sound=sound, film=film))
    known_ids = {turn.id for turn in turns}
    traps.add(
        "clip-without-row", *(wavs[name].relative_to(folder).as_posix() for name in sorted(wavs.keys() - known_ids))
    )
    return turns


def _visible(folder: Path, pattern: str, traps: Traps) -> dict[str, Path]:
    """{stem: path} of the files that are no `._` files."""
    found = sorted(folder.glob(pattern))
    traps.add("hidden-file", *(path.name for path in found if hidden(path)))
    return {path.stem: path for path in found if not hidden(path)}


def _evaluation(path: Path, session: str, traps: Traps) -> list[Turn]:
    """The turns of one dialogue, still without sentence and recordings."""
    text, _ = text_of(path)
    found: dict[str, Turn] = {}
    votes: list[tuple[str, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        if line.startswith("["):
            turn = _header(line, where, path.stem, session, traps)
            if turn.id in found:
                raise UserError(f"{where}: turn {turn.id} occurs twice")
            votes = []
            found[turn.id] = turn
        elif rater := RATER.match(line):
            if not found:
                raise UserError(f"{where}: a rater before the first turn; a turn begins with [start - end] and its id")
            last = next(reversed(found))
            votes += _votes(rater[1], rater[2], last, traps)
            found[last] = dataclasses.replace(found[last], votes=tuple(votes))
        elif line.strip() and not line.startswith(("%", "A-")):
            traps.add("evaluation-line", f"{path.name}:{number}")
    for turn in found.values():
        chosen = {CODES.get(word) for rater, word in turn.votes if rater.startswith("E")}
        if turn.label in WORDS and turn.label not in chosen:
            traps.add("label-nobody-chose", turn.id)
    return list(found.values())


def _header(line: str, where: str, dialogue: str, session: str, traps: Traps) -> Turn:
    if not (header := HEADER.fullmatch(line)):
        raise UserError(
            f"{where}: {line.strip()[:80]!r} is not [start - end], turn, label, [valence, activation, dominance]"
        )
    name = header[3]
    if not (parts := TURN.fullmatch(name)) or name.rsplit("_", 1)[0] != dialogue or parts[1] != session:
        raise UserError(
            f"{where}: {name!r} is no turn of dialogue {dialogue} in session {session}, as {dialogue}_F000 would be"
        )
    start, end = float(header[1]), float(header[2])
    if start >= end:
        traps.add("times", name)
    if parts[2] != parts[3]:
        traps.add("speaker-of-the-turn", name)
    return Turn(
        id=name, split="test" if session == SESSIONS[-1] else "train", dialogue=dialogue, turn=0, speaker=f"Ses0{session}{parts[3]}",
        session=f"Ses0{session}", label=header[4], sentence="", start=start, end=end, votes=(), sound="", film="",
    )  # fmt: skip


def _votes(rater: str, words: str, turn: str, traps: Traps) -> list[tuple[str, str]]:
    chosen = [word.strip().lower() for word in words.split(";") if word.strip()]
    if not chosen:
        traps.add("no-choice", f"{turn} {rater}")
    if len(chosen) > 1:
        traps.add("several-labels", f"{turn} {rater}")
    if not rater.startswith("E"):
        traps.add("self-evaluation", f"{turn} {rater}")
    return [(rater, word) for word in dict.fromkeys(chosen)]


def _transcript(path: Path, traps: Traps) -> dict[str, str]:
    text, old = text_of(path)
    if old:
        traps.add("text-cp1252", path.name)
    sentences = {}
    for number, line in enumerate(text.split("\n"), 1):
        if (found := LINE.fullmatch(line.strip())) and found[1].startswith(f"{path.stem}_"):
            sentences[found[1]] = normalise(found[2])
        elif line.strip():
            traps.add("transcript-line", f"{path.name}:{number}")
    return sentences


# ---- from all turns to those of a corpus ----


def select(turns: list[Turn], traps: Traps, arguments: argparse.Namespace) -> Selection:
    """The turns of the classes asked for."""
    classes = {name: name for name in WORDS} if arguments.classes == 6 else FOUR
    labels = tuple(dict.fromkeys(classes.values()))
    extra = listed_ids(arguments.extra_happy) if arguments.extra_happy else set()
    _check_extra(arguments.extra_happy, extra, turns)
    valid = listed_dialogues(arguments.valid, turns)
    improvised = [turn for turn in turns if not arguments.improvised_only or "_impro" in turn.dialogue]
    chosen = []
    for turn in improvised:
        official = "hap" if turn.id in extra else turn.label
        if turn.id in extra:
            traps.add("happy-595-or-648", turn.id)
        elif turn.label not in WORDS:
            traps.add("other-emotion" if turn.label in OTHERS else "no-majority", turn.id)
        if arguments.classes == 4 and official == "exc":
            traps.add("excited-is-happy", turn.id)
        if official not in classes:
            continue
        votes = tuple(
            dict.fromkeys(
                (rater, classes.get(CODES.get(word, ""), word))
                for rater, word in turn.votes
                if rater.startswith("E") or not arguments.without_self_evaluation
            )
        )
        split = "valid" if turn.dialogue in valid else turn.split
        chosen.append((turn, build.utterance(turn, split=split, label=classes[official], votes=votes)))
    if not chosen:
        raise UserError("no turn is left of the classes asked for")
    if arguments.classes == 6:
        lengths = Counter(u.dialogue for _, u in chosen)
        traps.add("dialogue-length", *(name for name, n in lengths.items() if not SHORTEST <= n <= LONGEST))
    traps.add("scripted", *(turn.id for turn, _ in chosen if "_script" in turn.dialogue))
    train = {normalised_sentence(u.sentence) for _, u in chosen if u.split == "train"} - {""}
    traps.add(
        "scripted-repeat", *(u.id for _, u in chosen if u.split == "test" and normalised_sentence(u.sentence) in train)
    )
    if arguments.visual_encoder and arguments.marked != "both":
        traps.add("two-actors-in-the-film", *sorted({turn.film for turn, _ in chosen if turn.film}))
    if not arguments.improvised_only:
        _count(turns, [u for _, u in chosen], labels, bool(extra), traps)
    return Selection(
        name=f"iemocap-{arguments.classes}",
        chosen=chosen,
        labels=labels,
        words=tuple(WORDS[name] for name in labels),
        protocol={
            "name": "dialoguernn",
            "description": "sessions 1-4 train"
            + (", of which the listed dialogues validate" if valid else "")
            + "; session 5 is test",
        },
        licence=LICENCE,
    )


def _check_extra(path: Path | None, extra: set[str], turns: list[Turn]) -> None:
    of = {turn.id: turn.label for turn in turns}
    for name in sorted(extra):
        if name not in of:
            raise UserError(f"--extra-happy={path}: {name} is no turn of this folder")
        if of[name] in WORDS:
            raise UserError(
                f"--extra-happy={path}: {name} has the official label {of[name]}; list turns without one, as the 53 are"
            )


def listed_dialogues(path: Path | None, turns: list[Turn]) -> set[str]:
    """The dialogues that validate, one a line; raises UserError unless all are dialogues that train."""
    if path is None:
        return set()
    if not path.is_file():
        raise UserError(f"--valid={path} does not exist; it must list dialogues of train, one a line")
    listed = set(path.read_text(encoding="utf-8", errors="replace").split())
    if unknown := sorted(listed - {turn.dialogue for turn in turns if turn.split == "train"}):
        raise UserError(f"--valid={path}: {unknown[0]} is no dialogue of train, as Ses01F_impro01 is")
    return listed


def _count(turns: list[Turn], chosen: list[Utterance], labels: tuple[str, ...], extra: bool, traps: Traps) -> None:
    """Against the published counts."""
    of_all = {"turns": (len(turns), TURNS), "dialogues": (len({turn.dialogue for turn in turns}), DIALOGUES)}
    for name, (n, wanted_n) in of_all.items():
        if n != wanted_n:
            traps.add("counts", f"{n:,} {name} instead of {wanted_n:,}")
    corpus = known.IEMOCAP6 if len(labels) == 6 else known.IEMOCAP4
    found = Counter(u.label for u in chosen)
    which = "with the 53 extra happy" if extra else "official"
    traps.add("counts", *known.differences(corpus, which, {label: found[label] for label in corpus.words}))
    if len(labels) == 4 and not extra:
        per = Counter(u.session for u in chosen)
        for session, n in zip(SESSIONS, PER_SESSION, strict=True):
            if per[f"Ses0{session}"] != n:
                traps.add("counts", f"session {session}: {per[f'Ses0{session}']:,} instead of {n:,}")


def half_of(turn: Turn, marked: str) -> str:
    """The half of the film with the turn's speaker: left, right, or "" for all of it."""
    if marked == "both":
        return ""
    with_markers = turn.dialogue[5] == turn.speaker[5]
    return marked if with_markers else {"left": "right", "right": "left"}[marked]


def main(argv: list[str] | None = None) -> None:
    parser = parser_of("data_prep.raw.iemocap", __doc__)
    parser.add_argument("folder", type=Path, metavar="IEMOCAP_full_release", help="the folder as distributed, unpacked")
    parser.add_argument(
        "--classes", type=int, choices=(6, 4), default=6, help="6, or 4: excited counts as happy, no frustrated"
    )
    parser.add_argument("--extra-happy", type=Path, metavar="FILE", help="ids, one a line, of the turns that the community's 7,433 count as "
                        "happy though they have no official majority (53); default: the official 7,380")  # fmt: skip
    parser.add_argument(
        "--improvised-only",
        action="store_true",
        help="leave out the scripted dialogues, which repeat their lines in every session",
    )
    parser.add_argument("--without-self-evaluation", action="store_true", help="votes of the external raters only")
    parser.add_argument(
        "--valid",
        type=Path,
        metavar="FILE",
        help="dialogues of sessions 1-4 that validate, one a line; default: none, protocols draw them",
    )
    parser.add_argument("--marked", choices=("left", "right", "both"), default="left", help="where in the film the actor with the markers sits; "
                        "both: frames of the whole picture; default: %(default)s")  # fmt: skip
    encoders.add_audio(parser)
    encoders.add_visual(parser)
    build.add_flags(parser)
    arguments = parser.parse_args(argv)
    with reported():
        build.convert(
            "iemocap", arguments, TRAPS, select,
            halves=lambda turn: half_of(turn, arguments.marked), extra_happy=arguments.extra_happy,
        )  # fmt: skip


if __name__ == "__main__":
    main()
