"""Findings tell of the dialogues: how long they are, what has no class, and what a model that reads conversations would
stumble over."""

from collections.abc import Iterator

import numpy as np

from data_prep.audit.finding import Finding, first_ids, or_ok, share
from data_prep.audit.reading import Reading
from mer_jax.data.corpus import Corpus
from mer_jax.data.dialogues import problem_of_repeated_turns, problem_of_speakers


def dialogues(corpus: Corpus, reading: Reading) -> Iterator[Finding]:
    yield _lengths(corpus)
    yield _without_class(corpus)
    found = []
    if told := problem_of_repeated_turns(corpus):
        do = "import it again from a source that numbers its turns: nothing tells which of them was said first"
        found.append(Finding("problem", "same turn", "", told, do))
    yield from or_ok(found, "same turn", "no two utterances are the same turn of a dialogue")
    found = []
    if told := problem_of_speakers(corpus):
        do = "name them in the source; a model that knows speakers takes those without a name for one more"
        found.append(Finding("note", "unknown speakers", "", told, do))
    yield from or_ok(found, "unknown speakers", "no dialogue has speakers for some of its turns only")
    yield from or_ok(list(_empty_turns(corpus, reading)), "empty turns", "every utterance has features")


def _lengths(corpus: Corpus) -> Finding:
    dialogue = corpus.index["dialogue"]
    names, first, number, turns = np.unique(
        dialogue[dialogue != ""], return_index=True, return_inverse=True, return_counts=True
    )
    if not len(names):
        return Finding("ok", "dialogues", "", "no utterance says of which dialogue it is: none is a conversation")
    text = f"{len(names):,} of {turns.min():,} to {turns.max():,} turns, median {np.median(turns):g}"
    if turns.max() > 1:
        longest = np.flatnonzero(turns == turns.max())
        name = names[longest[first[longest].argmin()]]
        text += f"; the longest is {str(name)!r} with {turns.max():,} turns"
        number_of_turn = corpus.index["turn"][dialogue != ""]
        least, most = np.full(len(names), np.iinfo(np.int32).max), np.full(len(names), np.iinfo(np.int32).min)
        np.minimum.at(least, number, number_of_turn)
        np.maximum.at(most, number, number_of_turn)
        gaps = int(np.count_nonzero(most.astype(np.int64) - least >= turns))
        text += f"; the numbers of {gaps:,} have gaps: turns are in the order of their numbers" * (gaps > 0)
    else:
        text += ": none is a conversation"
    if single := int((dialogue == "").sum()):
        text += f"; {single:,} utterances are of no dialogue"
    return Finding("ok", "dialogues", "", text)


def _without_class(corpus: Corpus) -> Finding:
    name, lacks = ("no class", "no class") if corpus.labels else ("no number", f"no {corpus.lacking}")
    if not len(rows := np.flatnonzero(~corpus.labelled)):
        return Finding("ok", name, "", f"every utterance has {corpus.lacking}")
    told = ", unless for what else is asked for" * (len(corpus.targets) > 1)
    text = (
        f"{share(len(rows), len(corpus))} utterances have {lacks}: {first_ids(corpus, rows)}; they are heard in their "
        f"dialogues, and neither learnt from nor scored{told}"
    )
    return Finding("ok", name, "", text)


def _empty_turns(corpus: Corpus, reading: Reading) -> Iterator[Finding]:
    """Yields a note on utterances that have no features at all."""
    empty = np.all([corpus.index[f"length/{m}"] == 0 for m in corpus.modalities], axis=0)
    if not len(rows := np.flatnonzero(empty)):
        return
    wordless, with_class = (int(np.count_nonzero(of[rows])) for of in (reading.sentence == 0, corpus.labelled))
    what, taken = ("a class", "the class") if corpus.labels else ("a number", "the number")
    yield Finding(
        "note",
        "empty turns",
        "",
        f"{share(len(rows), len(corpus))} utterances have no features at all: {first_ids(corpus, rows)}; {wordless:,} "
        f"of them have no words either, {with_class:,} have {what}",
        f"each stays a turn of its dialogue, of which a model sees nothing; where it has {what}, that is learnt from "
        f"nothing: extract its features, or take {taken} away",
    )
