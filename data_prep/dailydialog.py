"""DailyDialog becomes a corpus from its folder, text only: dialogues for learners of English, six emotions and none.

    python -m data_prep.dailydialog ijcnlp_dailydialog --out DIR [--without-repeats]

The folder holds, as deep as two folders down, dialogues_train.txt and dialogues_emotion_train.txt, and the same of
validation and test, unpacked: a line is a dialogue, __eou__ ends an utterance, the emotion is a number. These parts are
the official split. No file says who speaks: that two speakers take turns is ours. Dialogues of train occur again in
validation and test, word for word; --without-repeats leaves them out of train. 83 % of the utterances have no emotion,
so that the field's micro-F1 leaves this class out; look at macro F1. Li et al., IJCNLP 2017.
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_prep import speech_corpus
from data_prep.encoders.extract import UtteranceClip
from data_prep.encoders.media import Clip
from data_prep.importer import Importer, Source, checksums
from data_prep.raw.turns import COUNTS, KnownIssues, needed_file
from data_prep.sentences import normalise
from data_prep.speech_corpus import SpeechCorpus
from mer_jax.data.corpus import Utterance
from mer_jax.data.leakage import normalised_sentence
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.text_files import text_of

PARTS = {"train": "train", "valid": "validation", "test": "test"}
FILES = tuple(f"dialogues_{kind}{part}.txt" for part in PARTS.values() for kind in ("", "emotion_"))
END = "__eou__"
LABELS = ("no emotion", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
NUMBERS = {str(number): label for number, label in enumerate(LABELS)}
PUBLISHED = dict(zip(LABELS, (85572, 1022, 353, 174, 12885, 1150, 1823), strict=True))
DIALOGUES = {"train": 11118, "valid": 1000, "test": 1000}
ISSUES = {
    **COUNTS,
    "emotions-missing": "dialogues with another number of emotions than of utterances; left out",
    "dialogue-shared": "dialogues of train that valid or test has word for word; kept, or left out with "
    "--without-repeats",
    "dialogue-twice": "dialogues that are in their part before, word for word; kept",
    "speaker-unknown": "dialogues whose speakers nobody wrote down: A and B take turns (ours)",
    "no-emotion": f"utterances of the class {LABELS[0]!r}; the field's micro-F1 leaves it out",
}


@dataclasses.dataclass(frozen=True)
class Dialogue:
    id: str
    split: str
    sentences: tuple[str, ...]
    labels: tuple[str, ...]

    def words(self) -> tuple[str, ...]:
        return tuple(map(normalised_sentence, self.sentences))

    def utterances(self) -> list[Utterance]:
        return [
            Utterance(
                id=f"{self.id}_{turn}",
                split=self.split,
                dialogue=self.id,
                turn=turn,
                speaker=f"{self.id}_{'AB'[turn % 2]}",
                session="",
                label=label,
                sentence=sentence,
                features={},
            )
            for turn, (sentence, label) in enumerate(zip(self.sentences, self.labels, strict=True))
        ]


def read_part(texts: Path, emotions: Path, split: str, issues: KnownIssues) -> list[Dialogue]:
    """Returns the dialogues of a part. Raises UserError naming file and line."""
    spoken, numbers = _lines(texts), _lines(emotions)
    if len(spoken) != len(numbers):
        raise UserError(f"{texts} has {len(spoken)} dialogues, {emotions} {len(numbers)}: they are not of one corpus")
    found = []
    for i, (line, of) in enumerate(zip(spoken, numbers, strict=True), 1):
        sentences = [normalise(text) for text in line.split(END) if text.strip()]
        if wrong := [number for number in of.split() if number not in NUMBERS]:
            raise UserError(f"{emotions}, line {i}: {brief(wrong[0])} is no emotion; they are numbers from 0 to 6")
        labels = [NUMBERS[number] for number in of.split()]
        name = f"{split}_{i}"
        if len(labels) != len(sentences):
            issues.add("emotions-missing", name)
        else:
            found.append(Dialogue(name, split, tuple(sentences), tuple(labels)))
    return found


def _lines(path: Path) -> list[str]:
    lines = text_of(path).split("\n")  # sentences may hold what splitlines takes for an end
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def add_repeats(dialogues: Sequence[Dialogue], issues: KnownIssues) -> None:
    """Adds which dialogues occur again."""
    held_out = {dialogue.words() for dialogue in dialogues if dialogue.split != "train"}
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for dialogue in dialogues:
        words = dialogue.words()
        if dialogue.split == "train" and words in held_out:
            issues.add("dialogue-shared", dialogue.id)
        if (dialogue.split, words) in seen:
            issues.add("dialogue-twice", dialogue.id)
        seen.add((dialogue.split, words))


def read_corpus(folder: Path, *, without_repeats: bool) -> tuple[list[UtteranceClip], list[Path], KnownIssues]:
    """Returns all utterances, the files, and the known issues. Raises UserError naming file and line."""
    issues = KnownIssues(ISSUES)
    paths = {name: needed_file(folder, name, FILES) for name in FILES}
    dialogues = [
        dialogue
        for split, part in PARTS.items()
        for dialogue in read_part(paths[f"dialogues_{part}.txt"], paths[f"dialogues_emotion_{part}.txt"], split, issues)
    ]
    add_repeats(dialogues, issues)
    of_parts = Counter(dialogue.split for dialogue in dialogues)
    issues.compare(
        {f"{split} dialogues": n for split, n in of_parts.items()},
        {f"{split} dialogues": n for split, n in DIALOGUES.items()},
    )
    whole = [u for dialogue in dialogues for u in dialogue.utterances()]
    issues.compare(Counter(u.label for u in whole), PUBLISHED)
    left_out = set(issues.found["dialogue-shared"]) if without_repeats else set()
    kept = [u for u in whole if u.dialogue not in left_out]
    issues.add("speaker-unknown", *dict.fromkeys(u.dialogue for u in kept))
    issues.add("no-emotion", *(u.id for u in kept if u.label == LABELS[0]))
    return [UtteranceClip(u, Clip(u.id, Path()), u.id) for u in kept], list(paths.values()), issues


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="ijcnlp_dailydialog", help="holds the six files, unpacked")
    parser.add_argument(
        "--without-repeats", action="store_true", help="leave dialogues out of train that valid or test has, too"
    )


def read(arguments: argparse.Namespace) -> Source:
    rows, paths, issues = read_corpus(arguments.folder, without_repeats=arguments.without_repeats)
    corpus = SpeechCorpus(
        name="dailydialog",
        rows=rows,
        with_text=True,
        labels=LABELS,
        label_words=("neutral", *LABELS[1:]),
        issues=issues,
        protocol={
            "name": "official",
            "description": "DailyDialog's own train, validation and test"
            + (", without the dialogues of train that occur again" if arguments.without_repeats else ""),
        },
        sources=checksums(*paths),
        choices={"without_repeats": arguments.without_repeats},
        licence="DailyDialog: CC BY-NC-SA 4.0, cite Li et al. 2017",
    )
    return speech_corpus.source_of(corpus, arguments)


main = Importer("data_prep.dailydialog", __doc__, add_flags, read).main

if __name__ == "__main__":
    main()
