"""ESD, the emotional speech dataset, becomes a corpus from its folder: ten speakers of English, ten of Mandarin, five
emotions.

    python -m data_prep.esd FOLDER --out DIR [--language english]

FOLDER holds 0001 … 0020 (to 0010 Mandarin, from 0011 English), each with Angry/0011_000351.wav, … and the transcript
0011.txt; in Angry there may be evaluation, test and train. These are the official split, written in the corpus; where
they are not there, the numbers say the same: of each emotion's 350 the first 20 validate, the next 30 test.

All speakers are in all three parts of the official split: test unknown ones with speaker or loso. The same 350
sentences are spoken in all five emotions, so that words tell nothing, and no text features are made. Speaker, session
and dialogue are the speaker, whose gender is that of the ReadMe.txt that comes with the recordings. Zhou et al., Speech
Communication 137, 2022.
"""

import argparse
import dataclasses
import re
from pathlib import Path, PurePath

from data_prep import speech_corpus
from data_prep.encoders.extract import UtteranceClip
from data_prep.importer import Importer, Source, checksums
from data_prep.raw.turns import KnownIssues
from data_prep.sentences import normalise
from data_prep.speech_corpus import SpeechCorpus, acted
from mer_jax.data.corpus import Utterance
from mer_jax.errors import UserError

LABELS = {"Neutral": "neutral", "Angry": "angry", "Happy": "happy", "Sad": "sad", "Surprise": "surprise"}
ORDER = tuple(LABELS)  # of the numbers: 1 to 350 are neutral, 351 to 700 angry, …
EACH, VALID, TEST = 350, 20, 30
PARTS = {"train": "train", "evaluation": "valid", "test": "test"}
NAME = re.compile(r"(00(?:0[1-9]|1\d|20))_(\d{6})")
LINE = re.compile(r"(\d{4}_\d{6})\s+(\S.*)")
LAST_MANDARIN = "0010"
WOMEN = ("0001", "0002", "0003", "0007", "0009", "0015", "0016", "0017", "0018", "0019")
UTF8 = "utf-8-sig"
LANGUAGES = ("both", "english", "mandarin")
ISSUES = {
    **speech_corpus.ISSUES,
    "folder-of-another-emotion": "the number is one of another emotion's; the folder counts",
    "folder-of-another-speaker": "in a folder of another speaker than the name says; the name counts",
    "part-of-another-number": "in another part than the number's; the folder counts",
    "transcript-encoding": "transcripts that are not UTF-8 (UTF-16, GB 18030, Windows-1252); read as what they are",
    "transcript-line": "lines of transcripts that are not name, sentence, emotion, with tabs between; read where the "
    "name is whole",
    "no-sentence": "recordings that no transcript has; their sentence is empty",
    "speaker-shared": "test utterances of speakers that train has; kept: no figure is for unknown speakers",
}


def utterance(path: PurePath, issues: KnownIssues) -> Utterance:
    found = NAME.fullmatch(path.stem)
    rooms = path.parts[:-1]
    part = PARTS.get(rooms[-1]) if rooms else None
    emotion = (rooms[:-1] if part else rooms)[-1:]
    if not found or not emotion or emotion[0] not in LABELS or not 0 < int(found[2]) <= EACH * len(ORDER):
        raise UserError(
            f"{path} is not where ESD has it: speaker, emotion, maybe evaluation, test or train, as "
            f"0011/Angry/0011_000351.wav; emotions are {', '.join(LABELS)}"
        )
    speaker, number = found[1], int(found[2]) - 1
    if ORDER[number // EACH] != emotion[0]:
        issues.add("folder-of-another-emotion", path.as_posix())
    if (room := rooms[-3 if part else -2 :][:1]) and room[0].isdigit() and room[0] != speaker:
        issues.add("folder-of-another-speaker", path.as_posix())
    by_number = "valid" if number % EACH < VALID else "test" if number % EACH < VALID + TEST else "train"
    if part and part != by_number:
        issues.add("part-of-another-number", path.as_posix())
    return acted(
        id=path.stem,
        split=part or by_number,
        speaker=speaker,
        label=LABELS[emotion[0]],
        gender="female" if speaker in WOMEN else "male",
    )


def language_of(speaker: str) -> str:
    return "mandarin" if speaker <= LAST_MANDARIN else "english"


def transcript(path: Path, issues: KnownIssues) -> dict[str, str]:
    """Returns {id: sentence} of a speaker's transcript, in whatever encoding and with whatever is between fields."""
    (text, encoding), name = _decoded(path), path.name
    if encoding != UTF8:
        issues.add("transcript-encoding", name)
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.strip().split("\t")]
        if len(fields) != 3:
            issues.add("transcript-line", f"{name}:{number}")
        if match := LINE.fullmatch(line.strip()):
            sentence = fields[1] if len(fields) == 3 else _without_emotion(match[2])
            found[match[1]] = normalise(sentence)
    return found


def _decoded(path: Path) -> tuple[str, str]:
    """Returns what a transcript holds, and its encoding."""
    raw = path.read_bytes()
    try:
        raw.decode(UTF8)
        encoding = UTF8
    except UnicodeDecodeError:
        is_utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        encoding = "utf-16" if is_utf16 else "gb18030" if language_of(path.stem) == "mandarin" else "cp1252"
    return raw.decode(encoding, "replace"), encoding


def _without_emotion(text: str) -> str:
    """Returns a sentence without the emotion behind it, in English or in two Chinese characters."""
    return re.sub(rf"\s+(?:{'|'.join(LABELS)}|[\u4e00-\u9fff]{{2}})$", "", text)


def read_corpus(folder: Path, language: str) -> tuple[list[UtteranceClip], list[Path], KnownIssues]:
    """Returns the recordings of a language, the transcripts, and the known issues. Raises UserError naming the file."""
    issues = KnownIssues(ISSUES)

    def wanted(path: PurePath) -> Utterance | None:
        u = utterance(path, issues)
        return u if language in ("both", language_of(u.speaker)) else None

    rows = speech_corpus.read_folder(folder, wanted, issues)
    speakers = sorted({row.utterance.speaker for row in rows})
    texts = [path for speaker in speakers for path in sorted(folder.rglob(f"{speaker}.txt"))]
    sentences = {name: sentence for path in texts for name, sentence in transcript(path, issues).items()}
    rows = [
        dataclasses.replace(
            row, utterance=dataclasses.replace(row.utterance, sentence=sentences.get(row.utterance.id, ""))
        )
        for row in rows
    ]
    issues.add("no-sentence", *(row.utterance.id for row in rows if not row.utterance.sentence))
    train = {row.utterance.speaker for row in rows if row.utterance.split == "train"}
    tested = [row.utterance for row in rows if row.utterance.split == "test"]
    issues.add("speaker-shared", *(u.id for u in tested if u.speaker in train))
    count = EACH * (20 if language == "both" else 10)
    speech_corpus.compare_classes(rows, dict.fromkeys(LABELS.values(), count), issues)
    return rows, texts, issues


def add_flags(parser: argparse.ArgumentParser) -> None:
    speech_corpus.add_flags(parser, "ESD")
    parser.add_argument(
        "--language", choices=LANGUAGES, default="both", help="of the speakers to take; default: %(default)s"
    )


def read(arguments: argparse.Namespace) -> Source:
    rows, texts, issues = read_corpus(arguments.folder, arguments.language)
    corpus = SpeechCorpus(
        name="esd" if arguments.language == "both" else f"esd-{arguments.language}",
        rows=rows,
        labels=tuple(LABELS.values()),
        issues=issues,
        groups=("gender",),
        protocol={
            "name": "official",
            "description": "ESD's evaluation, test and train: 20, 30 and 300 sentences of each speaker and emotion, "
            "all speakers in all of them",
        },
        sources=checksums(*texts),
        choices={"language": arguments.language},
        licence="ESD: for research, under the licence that its authors ask to sign, cite Zhou et al. 2021 and 2022",
    )
    return speech_corpus.source_of(corpus, arguments)


main = Importer("data_prep.esd", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
