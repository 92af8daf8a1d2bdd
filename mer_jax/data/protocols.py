"""Evaluation protocols by name: which utterances train, validate and test, per fold. No JAX.

An utterance without a class is in no part, and the folds are those of the corpus without it.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mer_jax.data.contamination import exposures
from mer_jax.data.corpus import SPLITS, Corpus
from mer_jax.errors import UserError

DRAWN = "valid is whole dialogues, about a tenth of the rest, drawn by the seed; train is what remains"
PUBLISHED_FOLDS = 10
MIXED = "train and test have utterances of the same dialogues"


class Protocol(NamedTuple):
    """k_optional: its name may stand without `:k`. min_k: the least k, 0 where there is none. leaky: why its figures
    are not to be trusted, "" where they are. selects_on_test: the valid part is the test part."""

    k_optional: bool
    min_k: int
    description: str
    leaky: str = ""
    selects_on_test: bool = False


PROTOCOLS = {
    "official": Protocol(True, 0, "train, valid and test are as written in the records"),
    "dialoguernn": Protocol(True, 0, "test is the last session, {last}; {valid}"),
    "loso": Protocol(True, 2, "test is {each} in turn; {valid}"),
    "speaker": Protocol(True, 2, "test is {each} in turn, the others in those dialogues stay in train; {valid}"),
    "kfold_dialogue": Protocol(
        False, 3, "of {k} random groups of dialogues, test is each in turn, valid the next, train the others"
    ),
    "kfold_utterance": Protocol(
        False,
        3,
        "every utterance is test in one of {k} folds at random; valid is whole dialogues, train the rest",
        MIXED,
    ),
    "published": Protocol(
        True,
        0,
        f"test is each of {PUBLISHED_FOLDS} random groups of utterances in turn and chooses the epoch; train is the "
        "rest",
        f"the test part chooses the epoch, and {MIXED}",
        selects_on_test=True,
    ),
}
LEFT_OUT = {"loso": "session", "speaker": "speaker"}
MAX_FOLDS = 20  # where the corpus sets the number of folds
Index = Mapping[str, np.ndarray]  # of the utterances that have a class; the folds made of it are positions in it


@dataclasses.dataclass(frozen=True)
class Fold:
    name: str
    train: np.ndarray  # positions in the corpus, int64, sorted; so are the others
    valid: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Split:
    protocol: str
    description: str
    leaky: str  # why figures are not to be trusted; "" = they are
    selects_on_test: bool  # valid is the test part
    folds: tuple[Fold, ...]

    def title(self) -> str:
        return f"{self.protocol} (leaky: {self.leaky})" if self.leaky else self.protocol


def _refusal(protocol: str, why: str) -> UserError:
    return UserError(f"--config.data.protocol={protocol}: {why}")


def check_name(protocol: str) -> None:
    """Raises UserError, listing what there is, unless the name and its number of folds are right."""
    name, colon, k = protocol.partition(":")
    if name in PROTOCOLS:
        known = PROTOCOLS[name]
        k_is_valid = known.min_k > 0 and re.fullmatch("[1-9][0-9]{0,5}", k) is not None and int(k) >= known.min_k
        if k_is_valid if colon else known.k_optional:
            return
    spellings = [
        ", ".join([name] * protocol.k_optional + [f"{name}:k (k >= {protocol.min_k})"] * (protocol.min_k > 0))
        for name, protocol in PROTOCOLS.items()
    ]
    raise _refusal(protocol, f"must be one of {', '.join(spellings)}")


def selects_on_test(protocol: str) -> bool:
    """Whether the test part chooses the epoch under the protocol of this name."""
    return PROTOCOLS[protocol.partition(":")[0]].selects_on_test


def split(corpus: Corpus, protocol: str, seed: int) -> Split:
    """The same folds for the same utterances, protocol and seed; raises UserError where the corpus forbids it."""
    check_name(protocol)
    name, _, k = protocol.partition(":")
    words = {"k": k, "valid": DRAWN}
    rows = np.flatnonzero(corpus.labelled)
    if not len(rows):
        raise _refusal(protocol, f"none of the {len(corpus)} utterances of {corpus.path} has a class")
    index = {field: column[rows] for field, column in corpus.index.items()}
    if name == "official":
        folds = [Fold(name, *(np.searchsorted(rows, corpus.rows(part)) for part in SPLITS))]
    elif name == "dialoguernn":
        folds, words["valid"] = _dialoguernn(index, protocol, seed)
        words["last"] = folds[0].name
    elif name in LEFT_OUT:
        folds = _leave_out(index, protocol, seed, LEFT_OUT[name], int(k or 0))
        words["each"] = f"each of {k} groups of {LEFT_OUT[name]}s" if k else f"each {LEFT_OUT[name]}"
    else:
        folds = _kfold(index, protocol, seed, name, int(k or PUBLISHED_FOLDS))
    for fold in folds:
        if empty := [part for part in SPLITS if not len(getattr(fold, part))]:
            raise _refusal(protocol, f"{len(rows)} utterances are too few: {empty[0]} of fold {fold.name} is empty")
    folds = [Fold(fold.name, *(rows[getattr(fold, part)] for part in SPLITS)) for fold in folds]
    known = PROTOCOLS[name]
    return Split(protocol, known.description.format(**words), known.leaky, known.selects_on_test, tuple(folds))


def refuse_retest(corpus: Corpus, split: Split, modalities: Sequence[str]) -> None:
    """Raises UserError if a fold tests utterances on whose labels features of one of the modalities were trained, or,
    as nobody says on which, may have been."""
    for one in exposures(corpus, modalities):
        if not (tested := _tested_of(corpus, split, one.tuned_parts())):
            continue
        part, count = next(iter(tested.items()))
        if one.parts:
            why = (
                f"it tests {count} utterances of {part}, on whose labels the corpus's {one.modality} features were "
                "trained: their figures would be too good. Use official, leave"
            )
        else:
            why = (
                f"it tests {sum(tested.values())} utterances whose labels the features may know: {one.in_words()}. "
                "Take another encoder, say with --trained-on of the import which parts it was trained on, leave"
            )
        raise _refusal(
            split.protocol,
            f"{why} the modality out with --config.data.modalities, or force it with "
            "--config.data.test_on_trained=True, which is told in metrics.json",
        )


def told_retest(corpus: Corpus, split: Split, modalities: Sequence[str]) -> Split:
    """The split, leaky by what `refuse_retest` refuses."""
    seen = [one for one in exposures(corpus, modalities) if _tested_of(corpus, split, one.tuned_parts())]
    why = [split.leaky] * bool(split.leaky)
    for one in seen:
        trained = "were trained" if one.parts else "were trained, nobody says on which part,"
        why.append(f"the {one.modality} features {trained} on labels of the test part")
    return dataclasses.replace(split, leaky="; ".join(why))


def _tested_of(corpus: Corpus, split: Split, parts: Sequence[str]) -> dict[str, int]:
    """How many utterances of the parts, as written in the records, are tested in any fold; only parts that are."""
    written = corpus.index["split"]
    counts = {part: sum(int((written[fold.test] == part).sum()) for fold in split.folds) for part in parts}
    return {part: count for part, count in counts.items() if count}


def _dialoguernn(index: Index, protocol: str, seed: int) -> tuple[list[Fold], str]:
    names, session = _values(index, protocol, "session")
    at = max(range(len(names)), key=lambda i: in_order(str(names[i])))
    last, test = str(names[at]), session == at
    written = index["split"]
    if np.array_equal(test, written == "test") and set(SPLITS) <= set(written.tolist()):
        return [_fold(last, valid=written == "valid", test=test)], "train and valid are as written in the records"
    return _with_drawn_valid(index, protocol, seed, [last], np.where(test, 0, -1)), DRAWN


def _leave_out(index: Index, protocol: str, seed: int, field: str, k: int) -> list[Fold]:
    """Which sessions or speakers are tested together does not depend on the seed."""
    names, value = _values(index, protocol, field, k)
    if k:
        value = _balanced(value, k)
        names = np.arange(1, k + 1).astype(str)
    elif len(names) > MAX_FOLDS:
        raise _refusal(
            protocol,
            f"the corpus has {len(names)} {field}s, each of which would be a fold; "
            f"test them in groups, as with --config.data.protocol={protocol}:10",
        )
    return _with_drawn_valid(index, protocol, seed, names.tolist(), value)


def _kfold(index: Index, protocol: str, seed: int, name: str, k: int) -> list[Fold]:
    rng = np.random.default_rng(seed)
    by_id = np.argsort(index["id"])  # draws follow the ids, not the order of the records
    if name == "published":
        tested = np.empty(len(index["id"]), np.int64)
        tested[rng.permutation(by_id)] = np.arange(len(index["id"])) % k
        return [_fold(str(f + 1), valid=tested == f, test=tested == f) for f in range(k)]
    _, dialogue = _values(index, protocol, "dialogue", k)
    group = _balanced(dialogue, k, rng)
    if name == "kfold_dialogue":
        return [_fold(str(f + 1), valid=group == (f + 1) % k, test=group == f) for f in range(k)]
    # An utterance is tested in any fold but the one its dialogue validates, the folds with the fewest so far first.
    tested, load = np.empty(len(index["id"]), np.int64), np.zeros(k, np.int64)
    for g in range(k):
        rows = rng.permutation(by_id[group[by_id] == g])
        others = rng.permutation(np.delete(np.arange(k), g))
        tested[rows] = np.resize(others[np.argsort(load[others], kind="stable")], len(rows))
        load += np.bincount(tested[rows], minlength=k)
    return [_fold(str(f + 1), valid=group == f, test=tested == f) for f in range(k)]


def _fold(name: str, valid: np.ndarray, test: np.ndarray) -> Fold:
    return Fold(name, np.flatnonzero(~(valid | test)), np.flatnonzero(valid), np.flatnonzero(test))


def _values(index: Index, protocol: str, field: str, k: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The sorted values of a field, enough for k groups, and for every utterance the position of its own among them."""
    names, value = np.unique(index[field], return_inverse=True)
    if len(names) < 2 or "" in names:
        missing = np.count_nonzero(index[field] == "")
        found = f"{missing} of {len(value)} have none" if missing else f"all of them have {str(names[0])!r}"
        raise _refusal(
            protocol,
            f"needs the field {field!r} in every utterance, with at least two different values in the corpus; {found}",
        )
    if k > len(names):
        least = PROTOCOLS[protocol.partition(":")[0]].min_k
        right = f"k must be at most {len(names)}" if len(names) >= least else f"it takes at least {least}"
        raise _refusal(protocol, f"the corpus has only {len(names)} {field}s; {right}")
    return names, value


def _balanced(value: np.ndarray, k: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Which of k groups each utterance is in, by its value. Frequent values first (with an rng: rather early), each
    joins the group that is smallest so far, so groups come out even and none stays empty."""
    sizes = np.bincount(value)
    order = np.argsort(-sizes * (1.0 if rng is None else rng.random(len(sizes))), kind="stable")
    group, load = np.empty(len(sizes), np.int64), np.zeros(k, np.int64)
    for item in order:
        group[item] = load.argmin()
        load[group[item]] += sizes[item]
    return group[value]


def _with_drawn_valid(index: Index, protocol: str, seed: int, names: list[str], tested: np.ndarray) -> list[Fold]:
    """Fold f tests where `tested` is f. Of the rest, about a tenth validates: whole dialogues without test ones."""
    dialogues, dialogue = _values(index, protocol, "dialogue")
    folds = []
    for f, name in enumerate(names):
        test = tested == f
        rest = np.bincount(dialogue[~test], minlength=len(dialogues))
        free = np.setdiff1d(np.flatnonzero(rest), dialogue[test])
        max_valid = min(len(free), int(np.count_nonzero(rest)) - 1)
        if max_valid < 1:
            raise _refusal(
                protocol,
                f"fold {name} leaves {np.count_nonzero(rest)} of the {len(dialogues)} dialogues, {len(free)} of them "
                "without test utterances; it takes at least one of these for valid and another dialogue for train",
            )
        drawn = np.random.default_rng([seed, f]).permutation(free)[:max_valid]
        take = int(np.argmin(np.abs(np.cumsum(rest[drawn]) - rest.sum() / 10))) + 1
        folds.append(_fold(name, valid=np.isin(dialogue, drawn[:take]), test=test))
    return folds


def in_order(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts Ses2 before Ses10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def sha256(corpus: Corpus, split: Split) -> str:
    """Of which utterance ids are in which part of each fold; neither the order of the records nor any name matters."""
    digest = hashlib.sha256()
    for fold in split.folds:
        for part in SPLITS:
            digest.update(json.dumps(sorted(corpus.index["id"][getattr(fold, part)].tolist())).encode())
    return digest.hexdigest()
