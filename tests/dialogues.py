"""A corpus of dialogues: sessions, their speakers, and who speaks when."""

import numpy as np
from conftest import SMALL_LABELS

from mer_jax.data.corpus import Utterance

LONGEST = 9  # utterances of a dialogue


def utterances():
    """5 sessions of 6 dialogues between the session's two speakers, of 3 to 9 utterances; the last session is test."""
    for number in range(30):
        session = 1 + number // 6
        for turn in range(3 + 5 * number % (LONGEST - 2)):
            yield Utterance(
                id=f"Ses{session}_d{number:02d}_{'FM'[turn % 2]}{turn}",
                split="test" if session == 5 else "valid" if number in (0, 8) else "train",
                dialogue=f"d{number:02d}",
                turn=turn,
                speaker=f"Ses{session}{'FM'[turn % 2]}",
                session=f"Ses{session}",
                label=SMALL_LABELS[turn % 3],
                sentence="",
                features={"text": np.ones((1, 6), np.float32)},
            )


def values(corpus, rows, kind):
    return set(corpus.index[kind][rows].tolist())
