"""RAVDESS becomes a corpus from its folder: speech of 24 actors, eight emotions.

    python -m data_prep.ravdess FOLDER --out DIR [--visual-encoder NAME]

FOLDER holds Actor_01 … Actor_24 as unpacked from Zenodo's Audio_Speech_Actors_01-24.zip, and for --visual-encoder the
films of Video_Speech_Actor_01.zip, …, as deep down as they like. A name like 03-01-06-01-02-01-12.wav is modality,
vocal channel, emotion, intensity, statement, repetition, actor; odd actors are men, even ones women. Sung recordings
are another part of RAVDESS and left out. Films show the performances that the wavs hold (01 with sound, 02 without),
so that they give pictures and no utterances of their own.

Speaker, session and dialogue are the actor. The split written in the corpus is ours, there is no official one: test
unknown actors with loso:6 or speaker:6. Livingstone and Russo, PLoS ONE 13(5), 2018.
"""

import argparse
import re
from pathlib import Path, PurePath

from data_prep import speech_corpus
from data_prep.encoders.extract import UtteranceClip
from data_prep.encoders.media import Clip
from data_prep.importer import Importer, Source
from data_prep.raw.turns import KnownIssues
from data_prep.speech_corpus import SpeechCorpus, acted
from mer_jax.data.corpus import Utterance
from mer_jax.errors import UserError

NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
FULL, SOUND = "01", "03"  # modalities
SONG, NEUTRAL, STRONG = "02", "01", "02"
LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
PUBLISHED = {label: 96 if label == "neutral" else 192 for label in LABELS}
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
PARTS = {"21": "valid", "22": "valid", "23": "test", "24": "test"}  # a man and a woman each; the others train
ISSUES = {
    **speech_corpus.ISSUES,
    "song": "sung recordings, another part of RAVDESS; left out",
    "other-modality": "films of the same performances; they give pictures, no utterances of their own",
    "folder-of-another-actor": "in a folder of another actor than the name says; the name counts",
}


def read_name(path: PurePath) -> tuple[str, ...]:
    """Returns the seven numbers of a name. Raises UserError for one that is none of RAVDESS's."""
    found = NAME.fullmatch(path.stem)
    if not found or (found[3], found[4]) == (NEUTRAL, STRONG):
        why = "neutral has no strong intensity" if found else "seven numbers, as 03-01-06-01-02-01-12"
        raise UserError(f"{path} is not named as in RAVDESS: {why}")
    return found.groups()


def utterance(path: PurePath, issues: KnownIssues) -> Utterance | None:
    modality, channel, emotion, _, statement, _, actor = read_name(path)
    if channel == SONG:
        issues.add("song", path.as_posix())
        return None
    if modality != SOUND:
        issues.add("other-modality", path.as_posix())
        return None
    if path.parent.name.startswith("Actor_") and path.parent.name != f"Actor_{actor}":
        issues.add("folder-of-another-actor", path.as_posix())
    return acted(
        id=path.stem,
        split=PARTS.get(actor, "train"),
        speaker=actor,
        label=LABELS[int(emotion) - 1],
        sentence=STATEMENTS[statement],
        gender="male" if int(actor) % 2 else "female",
    )


def films(folder: Path, issues: KnownIssues) -> dict[str, Clip]:
    """Returns the film of each spoken performance by the id of its sound: the one with sound, else the silent one."""
    found: dict[str, Clip] = {}
    for path in speech_corpus.films(folder, ".mp4", issues).values():
        name = path.relative_to(folder)
        modality, channel, *_ = read_name(name)
        issues.add("song" if channel == SONG else "other-modality", name.as_posix())
        sound = f"{SOUND}{name.stem[2:]}"
        if channel != SONG and (modality == FULL or sound not in found):
            found[sound] = Clip(name.as_posix(), path)
    return found


def read_corpus(folder: Path) -> tuple[list[UtteranceClip], dict[str, Clip], KnownIssues]:
    """Returns the spoken recordings, their films by id, and the known issues. Raises UserError naming the file."""
    issues = KnownIssues(ISSUES)
    rows = speech_corpus.read_folder(folder, lambda path: utterance(path, issues), issues)
    speech_corpus.compare_classes(rows, PUBLISHED, issues)
    return rows, films(folder, issues), issues


def add_flags(parser: argparse.ArgumentParser) -> None:
    speech_corpus.add_flags(parser, "RAVDESS", films=True)


def read(arguments: argparse.Namespace) -> Source:
    rows, pictures, issues = read_corpus(arguments.folder)
    corpus = SpeechCorpus(
        name="ravdess",
        rows=rows,
        films=pictures,
        labels=LABELS,
        issues=issues,
        groups=("gender",),
        protocol={
            "name": "speakers",
            "description": "ours: actors 21 and 22 validate, 23 and 24 test; there is no official split",
        },
        licence="RAVDESS: CC BY-NC-SA 4.0, cite Livingstone and Russo 2018",
    )
    return speech_corpus.source_of(corpus, arguments)


main = Importer("data_prep.ravdess", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
