"""Which turns moved which in a few test dialogues, for a model that hears conversations."""

import functools
from typing import Any

import jax
import numpy as np

from mer_jax.data import loader
from mer_jax.data.batch import Conversations
from mer_jax.data.conversation_source import ConversationSource
from mer_jax.data.conversations import Rows
from mer_jax.data.corpus import Corpus
from mer_jax.evaluation import attribution
from mer_jax.evaluation.conversation_scores import GROUPS, turn_places
from mer_jax.evaluation.inspection import first_part
from mer_jax.runtime import distributed, sharding
from mer_jax.tasks import Task
from mer_jax.training import step
from mer_jax.training.prepare import TrainingData

MAX_DIALOGUES = 3  # that are explained
MAX_TURNS = 30  # of a dialogue that are told, in a row
MAX_OTHERS = 3  # turns that are named as having moved one


def choose_dialogues(
    dialogues: tuple[np.ndarray, ...], tested: np.ndarray, shift: np.ndarray
) -> list[tuple[np.ndarray, int]]:
    """The turns (positions in the pool) that are told of MAX_DIALOGUES test dialogues, and how many turns there are.

    dialogues: of each its turns in order. tested, shift: Bool[pool]. Of the dialogues of 2 to MAX_TURNS turns those
    with the most tested shifts; where these are too few, the shortest of the longer ones, from their first tested turn
    on."""
    some = [rows for rows in dialogues if len(rows) > 1 and tested[rows].any()]

    def rank(rows: np.ndarray) -> tuple[bool, int]:
        long = len(rows) > MAX_TURNS
        return long, len(rows) if long else -int((tested & shift)[rows].sum())

    found = []
    for rows in sorted(some, key=rank)[:MAX_DIALOGUES]:
        first = min(int(np.flatnonzero(tested[rows])[0]), max(0, len(rows) - MAX_TURNS))
        found.append((rows[first : first + MAX_TURNS], len(rows)))
    return found


def explain_conversations(
    apply: Any,
    model: step.EvalState,
    task: Task,
    corpus: Corpus,
    data: TrainingData,
    rows: np.ndarray,
    predicted: np.ndarray,
    batch_size: int,
) -> list[dict[str, Any]]:
    """What explain.json says as `conversations`: of every turn who speaks, its label, what was predicted where it is
    tested, and up to MAX_OTHERS turns that moved that most.

    rows: the test part's, in the pool; predicted: of them. data.batches: a `ConversationSource`."""
    batches, index = data.batches, corpus.index
    assert isinstance(batches, ConversationSource)
    places = turn_places(task, corpus)
    shift, tested = np.zeros(len(data.pool), bool), np.zeros(len(data.pool), bool)
    tested[rows] = True
    if places:
        shift = places.group[data.pool.rows] == GROUPS.index("shifts")
    chosen = choose_dialogues(batches.dialogues.rows, tested, shift)
    if not chosen:
        return []
    wanted = np.concatenate([turns[tested[turns]] for turns, _ in chosen])
    moved = influences(apply, model, task, batches, np.sort(wanted), batch_size)
    confidence, wrong = task.confidence(predicted), set(task.mistakes(predicted, data.targets(rows)).tolist())
    at = {row: i for i, row in enumerate(rows.tolist())}

    def told(row: int) -> dict[str, Any]:
        place, found = data.pool.rows[row], {}
        if (i := at.get(row)) is not None:
            found = {"prediction": task.prediction_in_words(predicted[i]), "wrong": i in wrong}
            found |= {} if confidence is None else {"probability": round(float(confidence[i]), 4)}
        return {
            "id": str(index["id"][place]),
            "turn": int(index["turn"][place]),
            "speaker": str(index["speaker"][place]),
            "label": task.label_in_words(corpus, int(place)),
            "sentence": data.sentences[row],
            "shift": bool(shift[row]),
            **found,
            "influence": [
                {"id": str(index["id"][p]), "turn": int(index["turn"][p]), "influence": size}
                for p, size in ((data.pool.rows[other], size) for other, size in moved.get(row, ()))
            ],
        }

    return [
        {
            "dialogue": str(index["dialogue"][data.pool.rows[turns[0]]]),
            "dialogue_turns": count,
            "turns": [told(row) for row in turns.tolist()],
        }
        for turns, count in chosen
    ]


def influences(
    apply: Any, model: step.EvalState, task: Task, batches: ConversationSource, rows: np.ndarray, batch_size: int
) -> dict[int, list[tuple[int, float]]]:
    """Of each of these rows of the pool (sorted) the MAX_OTHERS turns of its dialogue that moved it most, the strongest
    first, as (row of the pool, `attribution.BatchAttribution.turns`)."""

    @functools.partial(jax.jit, static_argnums=3, out_shardings=sharding.replicated(batches.mesh))
    def influence(model: step.EvalState, source: Any, row_positions: Any, layout: loader.BatchShape) -> Any:
        batch = loader.materialize_batch(source, row_positions, layout)
        assert isinstance(batch, Conversations)
        return attribution.turn_influence(apply, model, batch, task)

    dialogue_of = {int(row): turns for turns in batches.dialogues.rows for row in turns}
    found = {}
    for source, positions, layout, here in batches.evaluation([rows], batch_size, 1):
        batch = first_part(positions)
        at = sharding.device_put_global(batch, sharding.batch_sharding(batches.mesh))
        sizes = distributed.to_host(influence(model, source, at, layout))
        for i, row in enumerate(here[0].tolist()):
            if row >= 0:
                found[row] = strongest(sizes[i], batch, i, row, dialogue_of[row])
    return found


def strongest(sizes: np.ndarray, batch: Rows, i: int, row: int, turns: np.ndarray) -> list[tuple[int, float]]:
    """Of row i of a batch, which is the pool's `row`, the turns that moved it most. sizes: Float[turns of a line], what
    each moved. turns: of the dialogue, positions in the pool in order.

    What a batch holds of a dialogue lies side by side in the order of the turns, so that the place of one turn tells
    those of all."""
    offsets = batch.place[batch.dialogue == batch.dialogue[i]] - batch.place[i]
    own, column = int(np.flatnonzero(turns == row)[0]), int(batch.place[i]) % len(sizes)
    moved = [(int(turns[own + o]), round(float(sizes[column + o]), 4)) for o in offsets.tolist() if o]
    return sorted((one for one in moved if one[1]), key=lambda one: -abs(one[1]))[:MAX_OTHERS]
