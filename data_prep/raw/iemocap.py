"""IEMOCAP becomes a corpus from the folder that USC distributes: sentences, wavs, films and what every rater said.

    python -m data_prep.raw.iemocap IEMOCAP_full_release --out DIR --audio-encoder egemaps

The folder holds Session1 … Session5, each with dialog/EmoEvaluation/*.txt (labels and raters),
dialog/transcriptions/*.txt, sentences/wav/DIALOGUE/TURN.wav and, for --visual-encoder, dialog/avi/DivX/DIALOGUE.avi.
Labels are the official majority labels. The numbers valence, arousal (IEMOCAP's activation) and dominance are the
corpus's means, from 1 to 5, and their spreads the sample standard deviation of the external raters, of whom the means
are; --keep-unlabelled keeps the turns without a class for them. The gender is the letter of the turn's id. The parts
are those of `dialoguernn`: session 5 is test, the others train; loso and speaker split as they like.

A film shows both actors side by side. A turn's frames are cut from it by the turn's times, and of them the half of its
speaker: the actor whose letter the dialogue bears, who wears the markers, is taken to sit on the left, as others'
scripts have it: look at a film first (--marked=right, --marked=both: the whole picture). Nothing says how the community
chose the 53 turns of --extra-happy: bring their list.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_prep import numbers
from data_prep.audit.corpus_audit import listed_ids
from data_prep.iemocap import CLASSES, LICENCE, WORDS
from data_prep.importer import Importer, Source, add_keep_unlabelled
from data_prep.packs import class_counts
from data_prep.raw import convert
from data_prep.raw.convert import Selection
from data_prep.raw.iemocap_reader import CODES, ISSUES, KEPT, MAX_TURNS, MIN_TURNS, SESSIONS
from data_prep.raw.turns import KnownIssues, Turn
from mer_jax.data.corpus import Utterance
from mer_jax.data.leakage import normalised_sentence
from mer_jax.errors import UserError
from mer_jax.text_files import text_of

OTHERS = ("oth", "fea", "sur", "dis")
PER_SESSION = (1085, 1023, 1151, 1031, 1241)  # the four classes, official labels
TURNS, DIALOGUES = 10039, 151


def select(turns: list[Turn], issues: KnownIssues, arguments: argparse.Namespace) -> Selection:
    """Selects the turns of the classes asked for; with --keep-unlabelled the others, too, without a class."""
    classes = CLASSES[arguments.classes]
    labels = tuple(dict.fromkeys(classes.values()))
    extra = listed_ids(arguments.extra_happy) if arguments.extra_happy else set()
    _check_extra(arguments.extra_happy, extra, turns)
    valid = listed_dialogues(arguments.valid, turns)
    chosen = [
        (
            turn,
            convert.utterance(
                turn,
                split="valid" if turn.dialogue in valid else turn.split,
                label=label,
                votes=votes,
                groups={"gender": numbers.GENDERS[turn.id.rsplit("_", 1)[1][0]]},
            ),
        )
        for turn in turns
        if not arguments.improvised_only or "_impro" in turn.dialogue
        for label, votes in _judged(turn, turn.id in extra, classes, issues, arguments)
    ]
    labelled = [u for _, u in chosen if u.label]
    if not labelled:
        raise UserError("no turn is left of the classes asked for")
    if arguments.classes == 6:
        lengths = Counter(u.dialogue for u in labelled)
        issues.add("dialogue-length", *(name for name, n in lengths.items() if not MIN_TURNS <= n <= MAX_TURNS))
    issues.add("scripted", *(turn.id for turn, _ in chosen if "_script" in turn.dialogue))
    train = {normalised_sentence(u.sentence) for u in labelled if u.split == "train"} - {""}
    issues.add(
        "scripted-repeat", *(u.id for u in labelled if u.split == "test" and normalised_sentence(u.sentence) in train)
    )
    if arguments.visual_encoder and arguments.marked != "both":
        issues.add("two-actors-in-the-film", *sorted({turn.film for turn, _ in chosen if turn.film}))
    if not arguments.improvised_only:
        _compare_counts(turns, labelled, labels, bool(extra), issues)
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
        targets=(numbers.vad(),),
        groups=("gender",),
    )


def _judged(
    turn: Turn, is_extra: bool, classes: Mapping[str, str], issues: KnownIssues, arguments: argparse.Namespace
) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Yields the turn's label and votes in terms of the classes; nothing if it is of none of them, or a label of "" if
    such turns are kept."""
    official = "hap" if is_extra else turn.label
    if is_extra:
        issues.add("happy-595-or-648", turn.id)
    elif turn.label not in WORDS:
        issues.add("other-emotion" if turn.label in OTHERS else "no-majority", turn.id)
    if arguments.classes == 4 and official == "exc":
        issues.add("excited-is-happy", turn.id)
    if official not in classes and not arguments.keep_unlabelled:
        return
    votes = (
        (rater, classes.get(CODES.get(word, ""), word))
        for rater, word in turn.votes
        if rater.startswith("E") or not arguments.without_self_evaluation
    )
    yield classes.get(official, ""), tuple(dict.fromkeys(votes))


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
    """Returns the dialogues that validate, listed one a line. Raises UserError unless all are dialogues that train."""
    if path is None:
        return set()
    if not path.is_file():
        raise UserError(f"--valid={path} does not exist; it must list dialogues of train, one a line")
    listed = set(text_of(path).split())
    if unknown := sorted(listed - {turn.dialogue for turn in turns if turn.split == "train"}):
        raise UserError(f"--valid={path}: {unknown[0]} is no dialogue of train, as Ses01F_impro01 is")
    return listed


def _compare_counts(
    turns: list[Turn], chosen: list[Utterance], labels: tuple[str, ...], extra: bool, issues: KnownIssues
) -> None:
    """Adds the issue of counts that are not the published ones."""
    of_all = {"turns": (len(turns), TURNS), "dialogues": (len({turn.dialogue for turn in turns}), DIALOGUES)}
    for name, (n, wanted_n) in of_all.items():
        if n != wanted_n:
            issues.add("counts", f"{n:,} {name} instead of {wanted_n:,}")
    corpus = class_counts.IEMOCAP6 if len(labels) == 6 else class_counts.IEMOCAP4
    found = Counter(u.label for u in chosen)
    which = "with the 53 extra happy" if extra else "official"
    issues.add("counts", *class_counts.differences(corpus, which, {label: found[label] for label in corpus.words}))
    if len(labels) == 4 and not extra:
        per = Counter(u.session for u in chosen)
        for session, n in zip(SESSIONS, PER_SESSION, strict=True):
            if per[f"Ses0{session}"] != n:
                issues.add("counts", f"session {session}: {per[f'Ses0{session}']:,} instead of {n:,}")


def half_of(turn: Turn, marked: str) -> str:
    """Returns the half of the film with the turn's speaker: left, right, or "" for all of it."""
    if marked == "both":
        return ""
    with_markers = turn.dialogue[5] == turn.speaker[5]
    return marked if with_markers else {"left": "right", "right": "left"}[marked]


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="IEMOCAP_full_release", help="the folder as distributed, unpacked")
    parser.add_argument(
        "--classes", type=int, choices=(6, 4), default=6, help="6, or 4: excited counts as happy, no frustrated"
    )
    parser.add_argument(
        "--extra-happy",
        type=Path,
        metavar="FILE",
        help="ids, one a line, of the turns that the community's 7,433 count as happy though they have no official "
        "majority (53); default: the official 7,380",
    )
    add_keep_unlabelled(parser, "turns without a majority, and those of an emotion that is none of the classes,")
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
    parser.add_argument(
        "--marked",
        choices=("left", "right", "both"),
        default="left",
        help="where in the film the actor with the markers sits; both: frames of the whole picture; "
        "default: %(default)s",
    )
    convert.add_flags(parser)


def read(arguments: argparse.Namespace) -> Source:
    return convert.read(
        "iemocap",
        arguments,
        ISSUES | (KEPT if arguments.keep_unlabelled else {}),
        select,
        halves=lambda turn: half_of(turn, arguments.marked),
        extra_happy=arguments.extra_happy,
    )


main = Importer("data_prep.raw.iemocap", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
