"""TESS, the Toronto emotional speech set, becomes a corpus from its folder: two women, seven emotions.

    python -m data_prep.tess FOLDER --out DIR

A name like OAF_back_angry.wav is speaker (OAF the older, YAF the younger), word and emotion; ps is a pleasant surprise.
Every sentence is "Say the word …", with the same 200 words in each emotion. Copies of the folder within itself, as
Kaggle's download has one, are counted once.

Both speakers are actresses, as the authors write. Speaker and session are the speaker, a dialogue is a speaker's word.
With two speakers loso has two folds, and each validates on words of the speaker that trains. The split written in the
corpus is ours: OAF trains, a tenth of her words validate, YAF tests. A random split tests on a voice and on words that
it trained on. Dupuis and Pichora-Fuller, 2010.
"""

import argparse
import hashlib
import re
from pathlib import Path, PurePath

from data_prep import speech_corpus
from data_prep.encoders.extract import UtteranceClip
from data_prep.importer import Importer, Source
from data_prep.raw.turns import KnownIssues
from data_prep.speech_corpus import SpeechCorpus, acted
from mer_jax.data.corpus import Utterance
from mer_jax.errors import UserError

LABELS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "surprise",
    "sad": "sad",
}
SPEAKERS = {"OAF": "OAF", "YAF": "YAF", "OA": "OAF"}
MISNAMED = "OA"  # of OA_bite_neutral.wav
NAME = re.compile(rf"({'|'.join(SPEAKERS)})_([a-z]+)_({'|'.join(LABELS)})", re.IGNORECASE)
FOLDER = re.compile(r"(OAF|YAF)_(\w+)", re.IGNORECASE)
PUBLISHED = {label: 400 for label in LABELS.values()}
VALID_OF_TEN = 1  # words
ISSUES = {
    **speech_corpus.ISSUES,
    "speaker-misnamed": "named OA_; taken for OAF",
    "folder-of-another": "in a folder of another speaker or emotion than the name says; the name counts",
    "word-shared": "test utterances of words that train has; kept: no figure is for unknown words",
}


def utterance(path: PurePath, issues: KnownIssues) -> Utterance:
    found = NAME.fullmatch(path.stem)
    if not found:
        raise UserError(f"{path} is not named as in TESS: speaker, word, emotion, as OAF_back_angry.wav")
    given, word, emotion = found[1].upper(), found[2].lower(), found[3].lower()
    speaker, label = SPEAKERS[given], LABELS[emotion]
    if given == MISNAMED:
        issues.add("speaker-misnamed", path.as_posix())
    room = FOLDER.fullmatch(path.parent.name)
    if room and (room[1].upper() != speaker or label not in room[2].lower()):
        issues.add("folder-of-another", path.as_posix())
    return acted(
        id=f"{speaker}_{word}_{emotion}",
        split="test" if speaker == "YAF" else "valid" if validates(word) else "train",
        speaker=speaker,
        dialogue=f"{speaker}_{word}",
        label=label,
        sentence=f"Say the word {word}.",
        gender="female",
    )


def validates(word: str) -> bool:
    """Says whether the word is of the tenth of all words that validates, by a hash of it."""
    return int(hashlib.sha256(word.encode()).hexdigest(), 16) % 10 < VALID_OF_TEN


def read_corpus(folder: Path) -> tuple[list[UtteranceClip], KnownIssues]:
    """Returns the recordings and the known issues. Raises UserError naming the file."""
    issues = KnownIssues(ISSUES)
    rows = speech_corpus.read_folder(folder, lambda path: utterance(path, issues), issues)
    train = {row.utterance.sentence for row in rows if row.utterance.split == "train"}
    tested = [row.utterance for row in rows if row.utterance.split == "test"]
    issues.add("word-shared", *(u.id for u in tested if u.sentence in train))
    speech_corpus.compare_classes(rows, PUBLISHED, issues)
    return rows, issues


def add_flags(parser: argparse.ArgumentParser) -> None:
    speech_corpus.add_flags(parser, "TESS")


def read(arguments: argparse.Namespace) -> Source:
    rows, issues = read_corpus(arguments.folder)
    corpus = SpeechCorpus(
        name="tess",
        rows=rows,
        labels=tuple(LABELS.values()),
        issues=issues,
        groups=("gender",),
        protocol={
            "name": "speakers",
            "description": "ours: of OAF's words a tenth validates and the others train, YAF tests; two speakers only",
        },
        licence="TESS: CC BY-NC-ND 4.0, cite Pichora-Fuller and Dupuis 2020 (doi 10.5683/SP2/E8H2MF)",
    )
    return speech_corpus.source_of(corpus, arguments)


main = Importer("data_prep.tess", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
