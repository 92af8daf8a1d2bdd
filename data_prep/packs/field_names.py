"""What fields of records and columns of tables are called: which names say what an utterance is, so that they are no
feature of it."""

import itertools
import re
from typing import Any

# What is said of an utterance. None of it is ever a feature.
FIELDS = ("id", "split", "label", "dialogue", "turn", "speaker", "session", "sentence", "start", "end")
# Names in packs, in whatever case -> ours.
ALIASES = {
    "vision": "visual",
    "video": "visual",
    "utt_id": "id",
    "ids": "id",
    "raw_text": "sentence",
    "utterance": "sentence",
    "annotation": "label",
    "emotion": "label",
    "labels": "label",
    "dialog": "dialogue",
    "dialogue_id": "dialogue",
    "dialog_id": "dialogue",
    "speaker_id": "speaker",
    "session_id": "session",
}
# A field with one of these words anywhere in its name says what an utterance is: label_vec, emo_label_1, y_true.
TELLING = frozenset(FIELDS) - {"sentence", "dialogue", "end"} | {
    *("ids", "uid", "idx", "turns", "timestamp", "timestamps", "interval", "intervals"),
    *("labels", "class", "classes", "target", "targets", "y", "gt", "truth", "onehot", "annotation", "annotations"),
    *("emotion", "emotions", "emo", "sentiment", "sentiments", "polarity", "votes", "valence", "arousal", "dominance"),
    *("vad", "gender", "speakers", "spk", "qmask"),
}
# These say it at the end of a name only: sentence_embedding, dialogue_features and time_series are features.
TELLING_LAST = {"sentence", "dialogue", "dialog", "conversation", "part", "index", "time", "times", "end"}


def our_name(field: Any) -> str:
    """Returns what we call a field, or its own name if it is none of ours."""
    plain = str(field).strip().casefold()
    plain = ALIASES.get(plain, plain)
    return plain if plain in FIELDS or plain in ALIASES.values() else str(field)


def is_telling(field: str) -> bool:
    """Says whether a field's name says what an utterance is, so that it is no feature of it. Digits behind a word do
    not count (label2); a word with some inside, such as emotion2vec or wav2vec2, is another word."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field).casefold()
    words = [word for part in re.findall(r"[a-z0-9]+", apart) if (word := part.rstrip("0123456789"))]
    if our_name(field) in FIELDS or not TELLING.isdisjoint(words):
        return True
    return bool(words) and (words[-1] in TELLING_LAST or ("one", "hot") in itertools.pairwise(words))
