"""IEMOCAP_full_release is read into its turns: sentences, wavs, films and what every rater said, in words and in
numbers."""

import dataclasses
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from data_prep.iemocap import beyond, vad_of, values_of
from data_prep.numbers import VAD
from data_prep.packs.class_counts import SIX
from data_prep.raw.turns import CLIP_ISSUES, COUNTS, HIDDEN_FILE, KnownIssues, RawCorpus, Turn, is_hidden, text_of
from data_prep.sentences import normalise
from mer_jax.errors import UserError
from mer_jax.text_files import seconds

SCORE = re.compile(r"[1-5](\.0*)?")
SESSIONS = ("1", "2", "3", "4", "5")
HEADER = re.compile(r"\[\s*(\d+\.?\d*)\s*-\s*(\d+\.?\d*)\s*\]\s+(\S+)\s+(\w+)\s+\[(.*)\]\s*")
SCORES = re.compile(r"A-([A-Z]+\d+):\s*val\s*([^;]*);\s*act\s*([^;]*);\s*dom\s*([^;]*);.*")
RATER = re.compile(r"C-([A-Z]+\d+):\s*([^(]*)")
TRANSCRIPT_LINE = re.compile(r"(\S+)\s+\[\s*\d+\.?\d*\s*-\s*\d+\.?\d*\s*\]:\s*(.*)")
TURN_ID = re.compile(r"Ses0([1-5])([FM])_\w+_([FM])\d+")
# A rater's words -> the official codes; other words (fear, surprise, disgust, other) stay as they are.
CODES = {
    "happiness": "hap",
    "sadness": "sad",
    "neutral": "neu",
    "neutral state": "neu",
    "anger": "ang",
    "excited": "exc",
    "frustration": "fru",
}
MIN_TURNS, MAX_TURNS = 8, 110  # turns of the six classes in a dialogue
ISSUES = {
    **COUNTS,
    "missing-session": "is not there; protocols by session test fewer",
    "missing-dialogue": "has an evaluation or a transcript, not both: its turns are left out, or have no sentence",
    "dialogue-length": (
        f"not {MIN_TURNS} to {MAX_TURNS} turns of the six classes, as all dialogues have; "
        "look whether its files are whole"
    ),
    "speaker-of-the-turn": (
        "the speaker is the letter of the turn's id; that of the dialogue would name the other actor"
    ),
    "no-majority": "xxx: no label has the majority of the raters; left out",
    "other-emotion": "oth, fea, sur, dis: of no class in use; left out",
    "happy-595-or-648": (
        "'happy' without an official happy majority, as the community's 7,433 have them; only with --extra-happy"
    ),
    "excited-is-happy": "with --classes=4 excited counts as happy",
    "scripted": "turns of scripted dialogues; --improvised-only leaves them out",
    "scripted-repeat": "test sentences that occur in train, but for case and punctuation; say so, or --improvised-only",
    "self-evaluation": (
        "the actors rated themselves (F1, M1, …): among the votes, not in the official label; --without-self-evaluation"
    ),
    "several-labels": "a rater chose several labels: each is a vote",
    "vad-beyond": "a mean beyond 1 to 5, which none can be: that number of the turn is not known",
    "score-unread": "what a rater gave for valence, activation or dominance is no number from 1 to 5; in no spread",
    "no-choice": "a rater chose nothing: no vote",
    "label-nobody-chose": "the official label is none that a rater chose; kept as it is",
    "turn-without-evaluation": "is in the transcript only; left out",
    "turn-without-sentence": "is not in the transcript; its sentence is empty",
    "transcript-line": "a line of a transcript that belongs to no turn; left out",
    "evaluation-line": "a line of an evaluation that could not be read; left out",
    "text-cp1252": "text in Windows-1252; repaired",
    **HIDDEN_FILE,
    "times": "end before they begin; refused, or left out with --skip-broken, where frames are asked for",
    "two-actors-in-the-film": "frames are of the speaker's half only; --marked",
    "missing-film": "no frames; refused, or left out with --skip-broken, where frames are asked for",
    **CLIP_ISSUES,
}

KEPT = {  # of these with --keep-unlabelled
    "no-majority": "xxx: no label has the majority of the raters; kept as turns without a class",
    "other-emotion": "oth, fea, sur, dis: of no class in use; kept as turns without a class",
}


def root_of(folder: Path) -> Path:
    """Returns the folder with the sessions. Raises UserError if there is none."""
    for root in (folder, folder / "IEMOCAP_full_release"):
        if any((root / f"Session{n}" / "dialog").is_dir() for n in SESSIONS):
            return root
    raise UserError(f"{folder} holds no Session1 … Session5 with a folder dialog: give the folder IEMOCAP_full_release")


def sources(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the annotations, and the recordings."""
    root = root_of(folder)
    texts = [*root.glob("Session?/dialog/EmoEvaluation/*.txt"), *root.glob("Session?/dialog/transcriptions/*.txt")]
    media = [*root.glob("Session?/sentences/wav/*/*.wav"), *root.glob("Session?/dialog/avi/DivX/*.avi")]
    return sorted(texts), sorted(media)


def read(folder: Path) -> RawCorpus:
    """Returns all turns that were evaluated, whatever their label, dialogue by dialogue in order of time. Raises
    UserError naming file and line."""
    root = root_of(folder)
    issues = KnownIssues(ISSUES)
    turns: list[Turn] = []
    for session in SESSIONS:
        if not (root / f"Session{session}" / "dialog").is_dir():
            issues.add("missing-session", f"Session{session}")
            continue
        turns += _session(folder, root / f"Session{session}", session, issues)
    if not turns:
        raise UserError(f"{root}: no evaluation holds a turn")
    return RawCorpus(turns, issues)


def _session(folder: Path, room: Path, session: str, issues: KnownIssues) -> list[Turn]:
    evaluations, transcripts = (
        _visible(room / "dialog" / name, "*.txt", issues) for name in ("EmoEvaluation", "transcriptions")
    )
    if not evaluations:
        raise UserError(f"{room / 'dialog' / 'EmoEvaluation'} holds no evaluation (Ses0{session}F_impro01.txt, …)")
    issues.add("missing-dialogue", *sorted(evaluations.keys() ^ transcripts.keys()))
    wavs = _visible(room / "sentences" / "wav", "*/*.wav", issues)
    films = _visible(room / "dialog" / "avi" / "DivX", "*.avi", issues)
    turns: list[Turn] = []
    for dialogue, path in evaluations.items():
        sentences = _transcript(transcripts[dialogue], issues) if dialogue in transcripts else {}
        found = _evaluation(path, session, issues)
        issues.add("turn-without-evaluation", *sorted(sentences.keys() - {turn.id for turn in found}))
        if dialogue not in films:
            issues.add("missing-film", dialogue)
        for number, turn in enumerate(sorted(found, key=lambda turn: turn.start)):
            if turn.id not in sentences:
                issues.add("turn-without-sentence", turn.id)
            if turn.id not in wavs:
                issues.add("clip-missing", turn.id)
            sound, film = (
                path.relative_to(folder).as_posix() if path else "" for path in (wavs.get(turn.id), films.get(dialogue))
            )
            sentence = sentences.get(turn.id, "")
            turns.append(dataclasses.replace(turn, turn=number, sentence=sentence, sound=sound, film=film))
    known_ids = {turn.id for turn in turns}
    issues.add(
        "clip-without-row", *(wavs[name].relative_to(folder).as_posix() for name in sorted(wavs.keys() - known_ids))
    )
    return turns


def _visible(folder: Path, pattern: str, issues: KnownIssues) -> dict[str, Path]:
    """Returns {stem: path} of the files that are no `._` files."""
    found = sorted(folder.glob(pattern))
    issues.add("hidden-file", *(path.name for path in found if is_hidden(path)))
    return {path.stem: path for path in found if not is_hidden(path)}


def _evaluation(path: Path, session: str, issues: KnownIssues) -> list[Turn]:
    """Returns the turns of one dialogue, which have no sentences and recordings yet."""
    text, _ = text_of(path)
    found: dict[str, Turn] = {}
    votes: list[tuple[str, str]] = []
    scores: dict[str, list[list[float]]] = {}  # of the external raters, of each number
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        if line.startswith("["):
            turn = _header(line, where, path.stem, session, issues)
            if turn.id in found:
                raise UserError(f"{where}: turn {turn.id} occurs twice")
            votes = []
            found[turn.id] = turn
        elif rater := RATER.match(line):
            if not found:
                raise UserError(f"{where}: a rater before the first turn; a turn begins with [start - end] and its id")
            last = next(reversed(found))
            votes += _votes(rater[1], rater[2], last, issues)
            found[last] = dataclasses.replace(found[last], votes=tuple(votes))
        elif found and (given := SCORES.fullmatch(line.strip())):
            if given[1].startswith("E"):
                last = next(reversed(found))
                _add_scores(scores.setdefault(last, [[] for _ in VAD]), given, f"{last} {given[1]}", issues)
        elif line.strip() and not line.startswith(("%", "A-")):
            issues.add("evaluation-line", f"{path.name}:{number}")
    for turn in found.values():
        chosen = {CODES.get(word) for rater, word in turn.votes if rater.startswith("E")}
        if turn.label in SIX and turn.label not in chosen:
            issues.add("label-nobody-chose", turn.id)
    return [dataclasses.replace(turn, spreads=_spreads(scores.get(turn.id, ()))) for turn in found.values()]


def _add_scores(scores: list[list[float]], given: re.Match[str], who: str, issues: KnownIssues) -> None:
    """Adds what a rater gave of valence, activation and dominance; a blank is nothing."""
    for of, text in zip(scores, given.groups()[1:], strict=True):
        if SCORE.fullmatch(text.strip()):
            of.append(float(text))
        elif text.strip():
            issues.add("score-unread", who)


def _spreads(scores: Sequence[Sequence[float]]) -> dict[str, float]:
    """Returns the sample standard deviation (n - 1) of each number that two raters gave at least."""
    return {name: statistics.stdev(of) for name, of in zip(VAD, scores, strict=False) if len(of) > 1}


def _header(line: str, where: str, dialogue: str, session: str, issues: KnownIssues) -> Turn:
    if not (header := HEADER.fullmatch(line)):
        raise UserError(
            f"{where}: {line.strip()[:80]!r} is not [start - end], turn, label, [valence, activation, dominance]"
        )
    name = header[3]
    if not (parts := TURN_ID.fullmatch(name)) or name.rsplit("_", 1)[0] != dialogue or parts[1] != session:
        raise UserError(
            f"{where}: {name!r} is no turn of dialogue {dialogue} in session {session}, as {dialogue}_F000 would be"
        )
    start, end = (seconds(where, field, header[i]) or 0.0 for i, field in ((1, "start"), (2, "end")))
    if start >= end:
        issues.add("times", name)
    vad = _vad(where, header[5])
    issues.add("vad-beyond", *(f"{name} {what}" for what in beyond(vad)))
    if parts[2] != parts[3]:
        issues.add("speaker-of-the-turn", name)
    return Turn(
        id=name,
        split="test" if session == SESSIONS[-1] else "train",
        dialogue=dialogue,
        turn=0,
        speaker=f"Ses0{session}{parts[3]}",
        session=f"Ses0{session}",
        label=header[4],
        sentence="",
        start=start,
        end=end,
        votes=(),
        sound="",
        film="",
        values=values_of(vad),
    )


def _vad(where: str, text: str) -> list[float]:
    """Returns the means of valence, activation and dominance that end a header."""
    if len(given := text.split(",")) != len(VAD):
        raise UserError(f"{where}: [{text}] is not [valence, activation, dominance]")
    return vad_of(where, [number.strip() for number in given])


def _votes(rater: str, words: str, turn: str, issues: KnownIssues) -> list[tuple[str, str]]:
    chosen = [word.strip().lower() for word in words.split(";") if word.strip()]
    if not chosen:
        issues.add("no-choice", f"{turn} {rater}")
    if len(chosen) > 1:
        issues.add("several-labels", f"{turn} {rater}")
    if not rater.startswith("E"):
        issues.add("self-evaluation", f"{turn} {rater}")
    return [(rater, word) for word in dict.fromkeys(chosen)]


def _transcript(path: Path, issues: KnownIssues) -> dict[str, str]:
    text, old = text_of(path)
    if old:
        issues.add("text-cp1252", path.name)
    sentences = {}
    for number, line in enumerate(text.split("\n"), 1):
        if (found := TRANSCRIPT_LINE.fullmatch(line.strip())) and found[1].startswith(f"{path.stem}_"):
            sentences[found[1]] = normalise(found[2])
        elif line.strip():
            issues.add("transcript-line", f"{path.name}:{number}")
    return sentences
