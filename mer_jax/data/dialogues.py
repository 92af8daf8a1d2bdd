"""The dialogues of a corpus, and what is wrong with their turns. No JAX."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from mer_jax.data.corpus import SPLITS, Corpus
from mer_jax.errors import UserError


def repeated_turns(dialogues: Iterable[str], turns: Iterable[int]) -> list[tuple[int, int]]:
    """Pairs of positions that are the same turn of the same dialogue: the first one, and each later one. An utterance
    of dialogue "" is of none."""
    first: dict[tuple[str, int], int] = {}
    pairs = []
    for position, (dialogue, turn) in enumerate(zip(dialogues, turns, strict=True)):
        if dialogue and (before := first.setdefault((dialogue, turn), position)) != position:
            pairs.append((before, position))
    return pairs


def same_turn(first: str, second: str, dialogue: str, turn: int) -> str:
    """Says that two utterances, named as the reader knows them, are the same turn."""
    return (
        f"{first} and {second} both are turn {turn} of dialogue {dialogue!r:.80}; the turns of a dialogue need numbers "
        "of their own, in order, and dialogues whose numbers start again need names of their own"
    )


def heard_with(corpus: Corpus, rows: np.ndarray) -> np.ndarray:
    """The corpus's utterances `rows` and all others of their dialogues."""
    dialogue = corpus.index["dialogue"]
    named = np.unique(dialogue[rows])
    return np.union1d(rows, np.flatnonzero(np.isin(dialogue, named[named != ""])))


def turn_problems(corpus: Corpus) -> list[str]:
    """What is wrong with the turns of the corpus's dialogues: a sentence on each kind of problem, which counts them and
    names dialogue, turn and utterances of the first."""
    found = (problem_of_repeated_turns(corpus), problem_of_split_dialogues(corpus), problem_of_speakers(corpus))
    return [problem for problem in found if problem]


def problem_of_repeated_turns(corpus: Corpus) -> str:
    """Of utterances that are the same turn; "" if there are none. A corpus written since 0.11 has none."""
    index = corpus.index
    pairs = repeated_turns(index["dialogue"].tolist(), index["turn"].tolist())
    if not pairs:
        return ""
    first, second = (str(index["id"][row]) for row in pairs[0])
    row = pairs[0][0]
    told = same_turn(first, second, str(index["dialogue"][row]), int(index["turn"][row]))
    return f"{told}{_and_more(len(pairs), 'such pair')}"


def problem_of_split_dialogues(corpus: Corpus) -> str:
    """Of dialogues whose utterances with a class are in more than one split as written; "" if there are none."""
    index = corpus.index
    rows = np.flatnonzero(corpus.labelled & (index["dialogue"] != ""))
    parts: dict[str, Counter[str]] = {}
    first: dict[tuple[str, str], int] = {}
    for row, dialogue, split in zip(
        rows.tolist(), index["dialogue"][rows].tolist(), index["split"][rows].tolist(), strict=True
    ):
        parts.setdefault(dialogue, Counter())[split] += 1
        first.setdefault((dialogue, split), row)
    across = {dialogue: of for dialogue, of in parts.items() if len(of) > 1}
    if not across:
        return ""
    name, of = next(iter(across.items()))
    each = [
        f"{of[split]} in {split} (turn {index['turn'][first[name, split]]}, {index['id'][first[name, split]]}"
        + (", …)" if of[split] > 1 else ")")
        for split in SPLITS
        if split in of
    ]
    return (
        f"dialogue {name!r:.80} has utterances in several splits: {', '.join(each)}{_and_more(len(across), 'dialogue')}"
    )


def problem_of_speakers(corpus: Corpus) -> str:
    """Of dialogues in which it is known of some turns who speaks, and of others not; "" if there are none."""
    index = corpus.index
    names, dialogue = np.unique(index["dialogue"], return_inverse=True)
    unknown = index["speaker"] == ""
    silent, turns = np.bincount(dialogue[unknown], minlength=len(names)), np.bincount(dialogue, minlength=len(names))
    in_part = (silent > 0) & (silent < turns) & (names != "")
    rows = np.flatnonzero(unknown & in_part[dialogue])
    if not len(rows):
        return ""
    row, at = rows[0], dialogue[rows[0]]
    return (
        f"the speaker of some turns is not known in {in_part.sum()} dialogues where that of others is: of dialogue "
        f"{str(names[at])!r:.80} {silent[at]} of {turns[at]} turns have none, turn {index['turn'][row]} "
        f"({index['id'][row]}) for one; {len(rows)} turns in all"
    )


def _and_more(count: int, what: str) -> str:
    return f"; and {count - 1} more {what}{'s' * (count > 2)}" if count > 1 else ""


def refuse_without(corpus: Corpus, context: str) -> None:
    """Raises UserError unless there is something to hear besides an utterance, and the order of the turns is known."""
    names = corpus.index["dialogue"][corpus.index["dialogue"] != ""].tolist()
    if max(Counter(names).values(), default=0) < 2:
        what = "dialogues of one turn each" if names else "utterances that name no dialogue"
        raise UserError(
            f"--config.data.context={context}: corpus {corpus.manifest['name']!r} has only {what}, so that there is "
            "nothing to hear besides an utterance; leave it at none, or import the corpus with its dialogues and turns"
        )
    if repeated := problem_of_repeated_turns(corpus):
        raise UserError(f"--config.data.context={context}: {repeated}")
