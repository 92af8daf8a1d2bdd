"""CREMA-D becomes a corpus from its folder: 91 actors, 12 sentences, six emotions, and what thousands of raters heard.

    python -m data_prep.crema_d CREMA-D --out DIR [--labels perceived] [--visual-encoder NAME]

The folder is the repository, fetched with git-lfs: AudioWAV/1001_DFA_ANG_XX.wav, …, for --visual-encoder
VideoFlash/*.flv, and finishedResponses.csv, whose answers become the votes of the utterances. A name is actor,
sentence, emotion and level (LO, MD, HI, XX unspecified). The emotion of the name is what the actor intended: from the
voice alone raters recognise 41 % of them. VideoDemographics.csv says which gender (Sex) an actor has.
--labels=perceived takes what most raters heard instead; where two emotions are equally frequent the utterance is left
out. --rated says whether they heard the voice, saw the face, or both.

Speaker, session and dialogue are the actor. The split written in the corpus is ours, there is no official one: test
unknown actors with speaker:5. Cao et al., IEEE Trans. Affective Computing 5(4), 2014.
"""

import argparse
import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePath

from data_prep import speech_corpus
from data_prep.encoders.extract import UtteranceClip
from data_prep.encoders.media import Clip
from data_prep.importer import Importer, Source, checksums, print_note
from data_prep.raw.turns import KnownIssues, file_within
from data_prep.speech_corpus import SpeechCorpus, acted
from mer_jax.data.corpus import Utterance
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import csv_records, whole_line

LABELS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
LETTERS = {name[0]: label for name, label in LABELS.items()}  # of the raters' answers
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
NAME = re.compile(rf"(10\d\d)_({'|'.join(SENTENCES)})_({'|'.join(LABELS)})_(LO|MD|HI|XX?)")
PUBLISHED = {label: 1087 if label == "neutral" else 1271 for label in LABELS.values()}
PARTS = {"9": "valid", "0": "test"}  # by the last digit of the actor: nine actors each, the others train
RESPONSES = "finishedResponses.csv"
DEMOGRAPHICS = "VideoDemographics.csv"
RATED = {"voice": "1", "face": "2", "both": "3"}  # queryType
FAULTY = {
    "1076_MTI_SAD_XX": "it has no sound",
    "1076_MTI_NEU_XX": "it has next to no sound",
    "1064_TIE_SAD_XX": "it has no length",
    "1064_IEO_DIS_MD": "it is a minute of all emotions",
}
ISSUES = {
    **speech_corpus.ISSUES,
    "faulty": "reported as without sound or of several emotions; kept, or left out with --skip-broken",
    "level-misnamed": "the level is X instead of XX, as in 1040_ITH_SAD_X; taken for XX",
    "intended-not-perceived": "most raters perceived another emotion than intended; --labels says which is the label",
    "no-majority": "no emotion was perceived by most raters; left out with --labels=perceived",
    "no-rater": "nobody rated it; left out with --labels=perceived",
    "rated-twice": "answers of a rater who rated the same twice; the last one counts",
}
Votes = Mapping[str, Mapping[str, str]]  # id -> {rater: label}


def identity(stem: str) -> str:
    """Returns the name of a recording without the known mistake."""
    return f"{stem}X" if stem.endswith("_X") else stem


def utterance(path: PurePath, issues: KnownIssues) -> Utterance:
    found = NAME.fullmatch(path.stem)
    if not found:
        raise UserError(f"{path} is not named as in CREMA-D: actor, sentence, emotion, level, as 1001_DFA_ANG_XX.wav")
    actor, sentence, emotion, _ = found.groups()
    if identity(path.stem) != path.stem:
        issues.add("level-misnamed", path.as_posix())
    if identity(path.stem) in FAULTY:
        issues.add("faulty", identity(path.stem))
    return acted(
        id=identity(path.stem),
        split=PARTS.get(actor[-1], "train"),
        speaker=actor,
        label=LABELS[emotion],
        sentence=SENTENCES[sentence],
    )


def read_votes(path: Path, rated: str, issues: KnownIssues) -> Votes:
    """Returns what raters said who heard, saw or had both, by id. Raises UserError naming file, line and column."""
    speech_corpus.refuse_pointer(path)
    records = csv_records(path)
    columns = list(next(records)[1])
    needed = ("localid", "queryType", "clipName", "respEmo")
    if missing := [column for column in needed if column not in columns]:
        raise UserError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(columns) or 'nothing'}")
    votes: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for line, given in records:
        where = f"{path}, line {line}"
        record = whole_line(where, given)
        if record["queryType"] not in RATED.values():
            raise UserError(f"{where}: queryType is {brief(record['queryType'])}, not 1, 2 or 3")
        if record["queryType"] != RATED[rated]:
            continue
        if record["respEmo"] not in LETTERS:
            raise UserError(f"{where}: respEmo is {brief(record['respEmo'])}, not one of {', '.join(LETTERS)}")
        name, rater = identity(record["clipName"]), record["localid"]
        if rater in votes[name]:
            issues.add("rated-twice", f"{name} {rater}")
        votes[name][rater] = LETTERS[record["respEmo"]]
    return votes


def read_genders(path: Path) -> dict[str, str]:
    """Returns the gender of each actor. Raises UserError naming file, line and column."""
    speech_corpus.refuse_pointer(path)
    records = csv_records(path)
    columns = list(next(records)[1])
    if missing := [column for column in ("ActorID", "Sex") if column not in columns]:
        raise UserError(f"{path}: column {missing[0]!r} is missing; it has {', '.join(columns) or 'nothing'}")
    found = {}
    for line, given in records:
        record = whole_line(f"{path}, line {line}", given)
        if (gender := record["Sex"].strip().lower()) not in ("female", "male"):
            raise UserError(f"{path}, line {line}: Sex is {brief(record['Sex'])}, not Female or Male")
        found[record["ActorID"].strip()] = gender
    return found


def with_genders(rows: list[UtteranceClip], folder: Path) -> list[UtteranceClip]:
    """Returns the rows with the gender of their actors, where the folder says it."""
    if (path := file_within(folder, DEMOGRAPHICS)) is None:
        print_note(f"{folder} holds no {DEMOGRAPHICS}: the gender of no actor is known")
        return rows
    genders = read_genders(path)
    return [
        dataclasses.replace(row, utterance=dataclasses.replace(row.utterance, groups={"gender": gender}))
        if (gender := genders.get(row.utterance.speaker))
        else row
        for row in rows
    ]


def perceived(votes: Mapping[str, str]) -> str:
    """Returns what most raters said, "" where several emotions are equally frequent."""
    first, *others = Counter(votes.values()).most_common(2)
    return "" if others and others[0][1] == first[1] else first[0]


def with_votes(rows: list[UtteranceClip], votes: Votes, labels: str, issues: KnownIssues) -> list[UtteranceClip]:
    """Returns the rows with their votes, and with the labels that are asked for; those without such a label are left
    out."""
    found = []
    for row in rows:
        u, of = row.utterance, votes.get(row.utterance.id, {})
        most = perceived(of) if of else ""
        if not most:
            issues.add("no-majority" if of else "no-rater", u.id)
        elif most != u.label:
            issues.add("intended-not-perceived", u.id)
        label = most if labels == "perceived" else u.label
        if label:
            found.append(
                dataclasses.replace(row, utterance=dataclasses.replace(u, label=label, votes=tuple(of.items())))
            )
    return found


def read_corpus(
    folder: Path, labels: str, rated: str
) -> tuple[list[UtteranceClip], dict[str, Clip], Path | None, KnownIssues]:
    """Returns the recordings, their films by id, the raters' answers, and the known issues. Raises UserError naming the
    file."""
    issues = KnownIssues(ISSUES)
    rows = speech_corpus.read_folder(folder, lambda path: utterance(path, issues), issues)
    speech_corpus.compare_classes(rows, PUBLISHED, issues)
    responses = file_within(folder, RESPONSES)
    if responses is not None:
        rows = with_votes(rows, read_votes(responses, rated, issues), labels, issues)
    elif labels == "perceived":
        raise UserError(f"--labels=perceived: {folder} holds no {RESPONSES}, the answers of the raters")
    else:
        print_note(f"{folder} holds no {RESPONSES}, the answers of the raters: no utterance has votes")
    rows = with_genders(rows, folder)
    films = speech_corpus.films(folder, ".flv", issues)
    pictures = {identity(name): Clip(path.relative_to(folder).as_posix(), path) for name, path in films.items()}
    return speech_corpus.numbered(rows), pictures, responses, issues


def add_flags(parser: argparse.ArgumentParser) -> None:
    speech_corpus.add_flags(parser, "CREMA-D", films=True)
    parser.add_argument(
        "--labels",
        choices=("intended", "perceived"),
        default="intended",
        help="what the actor meant, or what most raters perceived; default: %(default)s",
    )
    parser.add_argument(
        "--rated",
        choices=tuple(RATED),
        default="voice",
        help="whose answers are the votes, of raters who heard the voice, saw the face, or both; default: %(default)s",
    )


def read(arguments: argparse.Namespace) -> Source:
    rows, pictures, responses, issues = read_corpus(arguments.folder, arguments.labels, arguments.rated)
    corpus = SpeechCorpus(
        name=f"crema-d-{arguments.labels}",
        rows=rows,
        films=pictures,
        labels=tuple(LABELS.values()),
        issues=issues,
        groups=("gender",) if any(row.utterance.groups for row in rows) else (),
        faulty=FAULTY,
        protocol={
            "name": "speakers",
            "description": "ours: of the actors, those whose number ends in 9 validate, in 0 test; no official split",
        },
        sources=checksums(responses) if responses else {},
        choices={"labels": arguments.labels, "rated": arguments.rated},
        licence="CREMA-D: Open Database License 1.0, contents DbCL 1.0, cite Cao et al. 2014",
    )
    return speech_corpus.source_of(corpus, arguments)


main = Importer("data_prep.crema_d", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
