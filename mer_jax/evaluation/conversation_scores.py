"""Scores of turns by where they stand in their dialogue: emotion shifts apart from the rest, and by position. Of runs
that hear no other turn, too, so that both can be compared. No JAX."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.data.corpus import Corpus
from mer_jax.metrics.metric import mean_sd
from mer_jax.tasks import Task

GROUPS = ("shifts", "rest", "first")
POSITIONS = ((1, 5), (6, 10), (11, 20), (21, None))  # turns of a dialogue from 1, both ends with them


@dataclasses.dataclass(frozen=True)
class TurnPlaces:
    """Where utterances stand in their dialogues.

    group: Int[utterances], a position in GROUPS. `shifts` are turns whose label is another than that of the same
    speaker's last turn that has a label, `rest` those with the same one, `first` those without such a turn; -1 where
    the speaker or the dialogue is not known, or the turn has no label. position: Int[utterances], from 1 over all turns
    of the dialogue; 0 for utterances of no dialogue."""

    group: np.ndarray
    position: np.ndarray

    def of(self, rows: np.ndarray) -> "TurnPlaces":
        """Those of some of the utterances."""
        return TurnPlaces(self.group[rows], self.position[rows])


def turn_places(task: Task, corpus: Corpus) -> TurnPlaces | None:
    """Of all utterances of the corpus, whatever part they are in: an utterance stands where it does under every
    protocol. None if no dialogue has several turns."""
    dialogue, turn, speaker = (corpus.index[name] for name in ("dialogue", "turn", "speaker"))
    states = task.states(corpus)
    state = np.full(len(dialogue), "") if states is None else states
    group, position = np.full(len(dialogue), -1), np.zeros(len(dialogue), np.int64)
    turns: dict[str, int] = {}
    last: dict[tuple[str, str], str] = {}
    for row in np.argsort(turn, kind="stable").tolist():
        if not (name := str(dialogue[row])):
            continue
        position[row] = turns[name] = turns.get(name, 0) + 1
        who, said = (name, str(speaker[row])), str(state[row])
        if who[1] and said:
            before, last[who] = last.get(who), said
            group[row] = 2 if before is None else 0 if before != said else 1
    return TurnPlaces(group, position) if position.max(initial=0) > 1 else None


def score_turns(
    task: Task, places: TurnPlaces, targets: Mapping[str, np.ndarray], decisions: np.ndarray
) -> dict[str, Any]:
    """What metrics.json says as `conversation` of a replica: of every group, and as `positions` of every range of
    positions, how many utterances it has, and their scores. Nothing of those without an utterance."""

    def scored(members: np.ndarray) -> dict[str, Any]:
        counts = task.count({name: values[members] for name, values in targets.items()}, decisions[members])
        values = {name: float(value) for name, value in task.metric_values(counts).items()}
        known = {name: value for name, value in values.items() if np.isfinite(value)}
        return {"utterances": int(members.sum()), "scores": known}

    groups = {name: places.group == number for number, name in enumerate(GROUPS)}
    ranges = {
        range_name((first, last)): (places.position >= first) & (places.position <= (last or np.inf))
        for first, last in POSITIONS
    }
    found = {name: scored(members) for name, members in groups.items() if members.any()}
    return found | {"positions": {name: scored(members) for name, members in ranges.items() if members.any()}}


def pool_turns(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What metrics.json says as `conversation` of a point. results: of its replicas. utterances: of all folds together;
    scores: mean and sample standard deviation over the replicas that have such utterances."""

    def pooled(parts: Iterable[tuple[str, Mapping[str, Any]]], name: str) -> dict[str, Any]:
        having = [(fold, part[name]) for fold, part in parts if name in part]
        names = dict.fromkeys(score for _, one in having for score in one["scores"])
        return {
            "utterances": sum({fold: one["utterances"] for fold, one in having}.values()),
            "scores": {
                score: mean_sd([one["scores"][score] for _, one in having if score in one["scores"]]) for score in names
            },
        }

    groups = [(result["fold"], result["conversation"]) for result in results]
    ranges = [(fold, found["positions"]) for fold, found in groups]
    found = {name: pooled(groups, name) for name in GROUPS if any(name in one for _, one in groups)}
    names = [name for name in map(range_name, POSITIONS) if any(name in one for _, one in ranges)]
    return found | {"positions": {name: pooled(ranges, name) for name in names}}


def range_name(ends: tuple[int, int | None]) -> str:
    """`6-10`, `21-`"""
    first, last = ends
    return f"{first}-{last or ''}"


def shifts_in_words(task: Task, found: Mapping[str, Any]) -> str:
    """The main score of the groups of a point in a line; nothing where no turn is a shift."""
    if "shifts" not in found:
        return ""
    metric = task.metrics[task.main_metric]
    titles = {"shifts": "shifts", "rest": "the same label as the speaker's last", "first": "a speaker's first turns"}
    said = [
        f"of {title} {metric.format_mean(found[name]['scores'].get(task.main_metric))} ({found[name]['utterances']:,})"
        for name, title in titles.items()
        if name in found
    ]
    return f"{metric.title} {', '.join(said)}"
