"""EmoryNLP becomes a corpus from its three files, text only: scenes of the series Friends, seven emotions.

    python -m data_prep.emorynlp FOLDER --out DIR

FOLDER holds, as deep as two folders down, emotion-detection-trn.json, emotion-detection-dev.json and
emotion-detection-tst.json as the authors publish them (emorynlp/emotion-detection, character-mining): episodes, their
scenes, their utterances. The files are the official split. A scene is a dialogue, its episode the session. Scenes were
cut where nobody labelled, so that turns are positions, not the numbers of the ids. MELD is of the same series: to train
on one and test on the other is to test on known episodes. Zahiri and Choi, AAAI workshops, 2018.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep import speech_corpus
from data_prep.encoders.extract import UtteranceClip
from data_prep.encoders.media import Clip
from data_prep.importer import Importer, Source, checksums
from data_prep.raw.turns import COUNTS, KnownIssues, needed_file
from data_prep.sentences import normalise
from data_prep.speech_corpus import SpeechCorpus
from mer_jax.data.corpus import SPLITS, Utterance
from mer_jax.errors import UserError
from mer_jax.files import load_json
from mer_jax.plain import brief
from mer_jax.text_files import text_of

FILES = {
    "train": "emotion-detection-trn.json",
    "valid": "emotion-detection-dev.json",
    "test": "emotion-detection-tst.json",
}
LABELS = {name: name.lower() for name in ("Neutral", "Joyful", "Peaceful", "Powerful", "Scared", "Mad", "Sad")}
PUBLISHED = {
    "train": (3034, 2184, 900, 784, 1285, 1076, 671),
    "valid": (393, 289, 132, 134, 178, 143, 75),
    "test": (349, 282, 159, 145, 182, 113, 98),
}
SCENES = {"train": 713, "valid": 99, "test": 85}
TOGETHER = " & "  # between speakers
ISSUES = {
    **COUNTS,
    "several-speakers": f"utterances of several speakers; these count as one more, with '{TOGETHER.strip()}' between",
    "speaker-unknown": "utterances without a speaker",
    "no-sentence": "utterances without words; kept",
    "number-gaps": "scenes whose utterance numbers have gaps; turns are positions in the scene",
    "episode-shared": "episodes that are in several parts; kept: no figure is for unknown episodes",
    "speaker-shared": "test utterances of speakers that train has; kept: no figure is for unknown speakers",
}


def read_file(path: Path, split: str, issues: KnownIssues) -> Iterator[Utterance]:
    """Yields the utterances of a part. Raises UserError naming the file, the utterance and the field."""
    try:
        whole = load_json(text_of(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from None
    for episode in _list(str(path), whole, "episodes"):
        session = _text(str(path), episode, "episode_id")
        for scene in _list(f"{path}, {session}", episode, "scenes"):
            dialogue = _text(f"{path}, {session}", scene, "scene_id")
            turns = _list(f"{path}, {dialogue}", scene, "utterances")
            names = [_text(f"{path}, {dialogue}", turn, "utterance_id") for turn in turns]
            numbers = [name.rpartition("_u")[2] for name in names]
            if numbers and [n.lstrip("0") for n in numbers] != [str(i + 1) for i in range(len(numbers))]:
                issues.add("number-gaps", dialogue)
            for turn, (name, given) in enumerate(zip(names, turns, strict=True)):
                where = f"{path}, {name}"
                emotion = _text(where, given, "emotion")
                if emotion not in LABELS:
                    raise UserError(f"{where}: emotion is {brief(emotion)}, not one of {', '.join(LABELS)}")
                yield Utterance(
                    id=name,
                    split=split,
                    dialogue=dialogue,
                    turn=turn,
                    speaker=_speaker(where, name, given, issues),
                    session=session,
                    label=LABELS[emotion],
                    sentence=normalise(_text(where, given, "transcript")),
                    features={},
                )


def _speaker(where: str, name: str, given: Mapping[str, Any], issues: KnownIssues) -> str:
    speakers = sorted({normalise(str(speaker)) for speaker in _list(where, given, "speakers")} - {""})
    if len(speakers) != 1:
        issues.add("several-speakers" if speakers else "speaker-unknown", name)
    return TOGETHER.join(speakers)


def _list(where: str, given: Any, field: str) -> list[Any]:
    found = given.get(field) if isinstance(given, dict) else None
    if not isinstance(found, list):
        raise UserError(f"{where}: it needs a list {field!r}, as EmoryNLP has it")
    return found


def _text(where: str, given: Any, field: str) -> str:
    found = given.get(field) if isinstance(given, dict) else None
    if not isinstance(found, str):
        raise UserError(f"{where}: {field!r} is {brief(found)}, not a text")
    return found


def read_corpus(folder: Path) -> tuple[list[UtteranceClip], list[Path], KnownIssues]:
    """Returns all utterances, the files, and the known issues. Raises UserError naming file, utterance and field."""
    issues = KnownIssues(ISSUES)
    paths = {split: needed_file(folder, name, FILES.values()) for split, name in FILES.items()}
    found: dict[str, Utterance] = {}
    for split, path in paths.items():
        for u in read_file(path, split, issues):
            if u.id in found:
                raise UserError(f"{path}: {u.id} occurs twice, before in {FILES[found[u.id].split]}")
            found[u.id] = u
    whole = list(found.values())
    parts = {split: [u for u in whole if u.split == split] for split in SPLITS}
    for split, of in parts.items():
        counts = Counter(f"{split} {u.label}" for u in of)
        issues.compare(
            counts, {f"{split} {name}": n for name, n in zip(LABELS.values(), PUBLISHED[split], strict=True)}
        )
        issues.compare({f"{split} scenes": len({u.dialogue for u in of})}, {f"{split} scenes": SCENES[split]})
    issues.add("no-sentence", *(u.id for u in whole if not u.sentence))
    episodes = Counter(session for of in parts.values() for session in {u.session for u in of})
    issues.add("episode-shared", *sorted(session for session, n in episodes.items() if n > 1))
    train = {u.speaker for u in parts["train"]} - {""}
    issues.add("speaker-shared", *(u.id for u in parts["test"] if u.speaker in train))
    return [UtteranceClip(u, Clip(u.id, Path()), u.id) for u in whole], list(paths.values()), issues


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds the three files")


def read(arguments: argparse.Namespace) -> Source:
    rows, paths, issues = read_corpus(arguments.folder)
    corpus = SpeechCorpus(
        name="emorynlp",
        rows=rows,
        with_text=True,
        labels=tuple(LABELS.values()),
        issues=issues,
        protocol={"name": "official", "description": "EmoryNLP's own trn, dev and tst: 77, 11 and 9 episodes"},
        sources=checksums(*paths),
        licence="EmoryNLP's annotations are Apache-2.0, cite Zahiri and Choi 2018; the series itself is not free",
    )
    return speech_corpus.source_of(corpus, arguments)


main = Importer("data_prep.emorynlp", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
