"""EmoDB, the Berlin database of acted emotional speech, goes from its tar to a corpus of openSMILE descriptors.

    python -m data_prep.emodb emodb_wav.tar --out DIR

535 wavs, ten speakers, ten sentences, seven emotions; a name like 03a01Fa.wav is speaker, sentence, emotion, version.
The members are read from the tar, none is written to disk. Speaker, session and dialogue are the speaker, so that
`--config.data.protocol=loso` and `speaker` test one speaker after the other and validate on another that does not
train. Their gender is that of the table of speakers on the database's page. The split written in the corpus is ours,
there is no official one: speakers 12 and 14 validate, 15 and 16 test. Burkhardt et al., Interspeech 2005.
"""

import argparse
import re
import tarfile
from pathlib import Path, PurePosixPath

from data_prep import limits, speech_corpus
from data_prep.encoders import flags
from data_prep.encoders.extract import UtteranceClip
from data_prep.encoders.media import Clip
from data_prep.importer import Importer, Source, checksums, print_note
from data_prep.speech_corpus import SpeechCorpus, acted, numbered
from mer_jax.errors import UserError

NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z])\.wav")
LABELS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
# "Information about the speakers", http://emodb.bilderbar.info/docu
GENDERS = {speaker: "male" for speaker in ("03", "10", "11", "12", "15")} | {
    speaker: "female" for speaker in ("08", "09", "13", "14", "16")
}
PARTS = {"12": "valid", "14": "valid", "15": "test", "16": "test"}  # a man and a woman each; the others train
TOTAL = 535
LARGEST = 1 << 26  # bytes of a member; the longest has 9 s


def read_tar(path: Path) -> list[UtteranceClip]:
    """Returns the recordings in order of their names. Raises UserError naming the tar and the member."""
    rows: list[UtteranceClip] = []
    for name, recording in sorted(_members(path).items()):
        if not (found := NAME.fullmatch(name)) or found[2] not in SENTENCES:
            raise UserError(
                f"{path}: {name} is not named as in EmoDB: speaker, sentence, emotion, version, as 03a01Fa.wav"
            )
        speaker, sentence, emotion, _ = found.groups()
        utterance = acted(
            id=name.removesuffix(".wav"),
            split=PARTS.get(speaker, "train"),
            speaker=speaker,
            label=LABELS[emotion],
            sentence=SENTENCES[sentence],
            gender=GENDERS.get(speaker, ""),
        )
        rows.append(UtteranceClip(utterance, Clip(name, recording), str(path)))
    if not rows:
        raise UserError(f"{path} holds no wav")
    return numbered(rows)


def _members(path: Path) -> dict[str, bytes]:
    """Returns {file name: bytes} of the wavs in the tar, in whatever folder they are."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    found: dict[str, bytes] = {}
    try:
        with limits.bounded(path, limits.budget_of(path.stat().st_size)) as budget, tarfile.open(path) as tar:
            for member in tar:
                budget.spend(member.size)
                name = PurePosixPath(member.name).name
                if not member.isfile() or not name.endswith(".wav") or name.startswith("."):
                    continue
                if name in found:
                    raise UserError(f"{path}: {name} occurs twice")
                if member.size > LARGEST:
                    raise UserError(f"{path}: {name} has {member.size} bytes; no recording of EmoDB is that long")
                file = tar.extractfile(member)
                found[name] = file.read() if file else b""
                if len(found[name]) != member.size:
                    raise UserError(f"{path}: it ends within {name}: it is truncated")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a whole tar ({error})") from None
    return found


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tar", type=Path, metavar="emodb_wav.tar")
    flags.add_audio(parser, default="egemaps")
    speech_corpus.add_skip_broken(parser)


def read(arguments: argparse.Namespace) -> Source:
    rows = read_tar(arguments.tar)
    if len(rows) != TOTAL:
        print_note(f"{arguments.tar.name} has {len(rows)} recordings, EmoDB {TOTAL}")
    corpus = SpeechCorpus(
        name="emodb",
        rows=rows,
        labels=tuple(LABELS.values()),
        protocol={
            "name": "speakers",
            "description": "ours: speakers 12 and 14 validate, 15 and 16 test; the field leaves one speaker out (loso)",
        },
        licence="EmoDB: free for research, cite Burkhardt et al. 2005; openSMILE's features likewise",
        sources=checksums(arguments.tar),
        groups=("gender",),
    )
    return speech_corpus.source_of(corpus, arguments)


main = Importer("data_prep.emodb", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
