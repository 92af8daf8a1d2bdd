"""SAVEE becomes a corpus from its folder: four men, seven emotions.

    python -m data_prep.savee FOLDER --out DIR

FOLDER holds AudioData/DC/a01.wav, … as distributed, or DC_a01.wav, … in one folder, as copies have them: speaker (DC,
JE, JK, KL), emotion and number. Of an emotion's letters the two of sadness (sa) and surprise (su) are no s. The
sentences are TIMIT's; names do not say which, so that none is in the corpus.

All speakers are men, as AudioData/Info.txt says. Speaker, session and dialogue are the speaker. The split written in
the corpus is ours, there is no official one; the field leaves one speaker out (loso). Haq and Jackson, Machine
Audition, 2010.
"""

import argparse
import re
from pathlib import Path, PurePath

from data_prep import speech_corpus
from data_prep.encoders.extract import UtteranceClip
from data_prep.importer import Importer, Source
from data_prep.raw.turns import KnownIssues
from data_prep.speech_corpus import SpeechCorpus, acted
from mer_jax.data.corpus import Utterance
from mer_jax.errors import UserError

PARTS = {"DC": "train", "JE": "train", "JK": "valid", "KL": "test"}
NAME = re.compile(rf"(?:({'|'.join(PARTS)})_)?(sa|su|[adfhn])(\d\d)")
LABELS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}
PUBLISHED = {label: 120 if label == "neutral" else 60 for label in LABELS.values()}


def utterance(path: PurePath) -> Utterance:
    found = NAME.fullmatch(path.stem)
    speaker = (found and found[1]) or path.parent.name
    if not found or speaker not in PARTS:
        raise UserError(f"{path} is not named as in SAVEE: speaker, emotion, number, as DC/a01.wav or DC_a01.wav")
    return acted(
        id=f"{speaker}_{found[2]}{found[3]}",
        split=PARTS[speaker],
        speaker=speaker,
        label=LABELS[found[2]],
        gender="male",
    )


def read_corpus(folder: Path) -> tuple[list[UtteranceClip], KnownIssues]:
    """Returns the recordings and the known issues. Raises UserError naming the file."""
    issues = KnownIssues(speech_corpus.ISSUES)
    rows = speech_corpus.read_folder(folder, utterance, issues)
    speech_corpus.compare_classes(rows, PUBLISHED, issues)
    return rows, issues


def add_flags(parser: argparse.ArgumentParser) -> None:
    speech_corpus.add_flags(parser, "SAVEE")


def read(arguments: argparse.Namespace) -> Source:
    rows, issues = read_corpus(arguments.folder)
    corpus = SpeechCorpus(
        name="savee",
        rows=rows,
        labels=tuple(LABELS.values()),
        issues=issues,
        groups=("gender",),
        protocol={
            "name": "speakers",
            "description": "ours: DC and JE train, JK validates, KL tests; the field leaves one speaker out (loso)",
        },
        licence="SAVEE: free for research on registration, cite Haq and Jackson 2010",
    )
    return speech_corpus.source_of(corpus, arguments)


main = Importer("data_prep.savee", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
