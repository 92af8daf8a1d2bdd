"""Items that follow one another in a dialogue, as batches for a model that hears conversations; and a conversation that
goes on."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mer_jax import text_files
from mer_jax.data.batch import Batch, Conversations, NextTurn, Turns
from mer_jax.data.conversations import Dialogues, Layout, Rows, Shapes, Window, lines_of, numbered
from mer_jax.errors import UserError
from mer_jax.predict import inputs
from mer_jax.predict.encoder_client import EncoderClient
from mer_jax.predict.item import Item
from mer_jax.predict.prediction import Prediction


class ConversationBatch(NamedTuple):
    """batch: on the devices. rows: of every row the position of its item, -1 where none is; items: the same where the
    row is what is predicted of the item, and not only heard. place: of every row, in the grid of the batch. members: of
    every dialogue of the batch its rows, in the order of the turns."""

    batch: Conversations
    rows: np.ndarray
    items: np.ndarray
    place: np.ndarray
    members: list[np.ndarray]


def conversations(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items as conversations: those that follow one another in one dialogue with rising turns. An item that is of no
    dialogue is one by itself."""
    current: list[Item] = []
    for item in items:
        if current and not _goes_on(current[-1], item):
            yield current
            current = []
        current.append(item)
    if current:
        yield current


def _goes_on(before: Item, item: Item) -> bool:
    if not item.dialogue or before.dialogue != item.dialogue or before.turn is None or item.turn is None:
        return False
    return item.turn > before.turn


def dialogues_of_items(window: Sequence[Sequence[Item]], context: str, max_turns: int) -> Dialogues:
    """The dialogues of a window of conversations, whose items are numbered one after the other. What cannot be read is
    not heard, nor who speaks there."""
    rows, first = [], 0
    speaker = np.zeros(sum(map(len, window)), np.int32)
    for conversation in window:
        readable = np.array([i for i, item in enumerate(conversation) if not item.error], int)
        if len(readable):
            rows.append(first + readable)
            speaker[rows[-1]] = numbered(conversation[i].speaker for i in readable.tolist())
        first += len(conversation)
    return Dialogues(tuple(rows), speaker, context, max_turns)


def batches(model: Any, window: Sequence[Sequence[Item]], batch_size: int) -> Iterator[ConversationBatch]:
    """Batches of about so many utterances, whole dialogues of the window; model: a `Predictor`."""
    items = [item for conversation in window for item in conversation]
    settings = model.config.data
    dialogues = dialogues_of_items(window, settings.context, settings.max_turns)
    lengths = {m: np.array([len(item.features.get(m, ())) for item in items]) for m in model.modalities}
    shapes = Shapes(lengths, model.row_shards)
    together: list[Window] = []
    for one in dialogues.windows(np.array([item.asked and not item.error for item in items])):
        if together and sum(len(other.rows) for other in together) + len(one.rows) > batch_size:
            yield _batch(model, items, together, dialogues, shapes)
            together = []
        together.append(one)
    if together:
        yield _batch(model, items, together, dialogues, shapes)


def _batch(
    model: Any, items: Sequence[Item], windows: Sequence[Window], dialogues: Dialogues, shapes: Shapes
) -> ConversationBatch:
    """Its shapes are powers of two, of rows as many times what the devices share evenly, so that few programs are
    compiled."""
    sizes = [len(window.rows) for window in windows]
    turns = power_of_two(max(sizes))
    rows = shapes.quantum * power_of_two(-(-sum(sizes) // shapes.quantum))
    layout = Layout(((rows, ()),), power_of_two(len(lines_of(sizes, turns))), turns)
    found: Rows = shapes.arrange(windows, dialogues.speaker, layout)
    group: Batch = model.host_batch([items[i] if i >= 0 else Item("") for i in found.rows], rows)
    group.weight = found.counts.astype(np.float32)
    group.turns = Turns(found.place, found.dialogue, found.speaker)
    batch = Conversations((group,), layout.lines, layout.turns)
    members = [np.flatnonzero(found.dialogue == number + 1) for number in range(len(windows))]
    members = [rows[np.argsort(found.place[rows])] for rows in members]
    return ConversationBatch(
        model.on_devices(batch), found.rows, np.where(found.counts, found.rows, -1), found.place, members
    )


def power_of_two(least: int) -> int:
    """1, 2, 4, …, the first that is enough."""
    return 1 << max(0, least - 1).bit_length()


def turns_heard(
    found: ConversationBatch, items: Sequence[Item], influence: np.ndarray, row: int
) -> tuple[dict[str, Any], ...]:
    """Which other turns moved what is predicted of a row, the strongest first: their id, turn, speaker, and by how much
    the logit falls without each. influence: `attribution.BatchAttribution.turns`."""
    members = next(rows for rows in found.members if row in rows)
    told = []
    for other in members.tolist():
        size = round(float(influence[row, found.place[other] % found.batch.turns_per_line]), 4)  # no rounding error
        if other != row and size:
            item = items[int(found.rows[other])]
            about = {"id": item.id, "turn": item.turn, "speaker": item.speaker}
            told.append({name: x for name, x in about.items() if x not in ("", None)} | {"influence": size})
    return tuple(sorted(told, key=lambda one: -abs(one["influence"])))


class Conversation:
    """A conversation that goes on, for a model that hears what was said before (data.context=past).

    model: a `Predictor`; replica: one of its models, or "all", see `Predictor.select_replicas`. encoders: what encodes
    sentences and clips, to be used again; otherwise they start with the first turn that needs them, and `close` ends
    them. turns: how many there were. What each turn costs does not grow with them. Not for several threads at a
    time."""

    def __init__(self, model: Any, replica: int | str | None = None, encoders: EncoderClient | None = None):
        hears = model.config.data.context
        if hears != "past":
            why = "reads utterances one by one" if hears == "none" else "hears what comes after a turn, too"
            raise UserError(
                f"{model.workdir}: a conversation turn by turn needs a run with --config.data.context=past; this one "
                f"{why}"
            )
        self._model, self._replicas = model, model.select_replicas(replica)
        self._encoders, self._ends_encoders = encoders or EncoderClient(model), encoders is None
        self.reset()

    def reset(self) -> None:
        """Forgets all turns: the next one begins another conversation."""
        self._memory: list[Any] = [None] * len(self._replicas)
        self._speakers = {"": 0}
        self.turns = 0

    def add(
        self, *, sentence: str | None = None, clip: Any = None, features: Any = None, speaker: str = "", id: str = ""
    ) -> Prediction:
        """What is predicted of the next turn.

        sentence, clip: what is said in it, and the path of a clip of it; one may be missing, and a transcript beside
        the clip is not looked for. features: instead of a clip, arrays [time, feat] by modality, as in
        `Predictor.predict`; nothing is encoded then. speaker: who speaks; the same name is the same speaker, "" is
        nobody who is known. id: of the prediction; default: the number of the turn. Raises UserError, and forgets the
        turn, if it cannot be read: the conversation goes on without it."""
        name = text_files.name("the next turn", "id", id) or str(self.turns)
        speaker = text_files.name(f"turn {name}", "speaker", speaker)
        item = dataclasses.replace(self._item(name, sentence, clip, features), speaker=speaker)
        item = self._model.prepare(item, self._replicas)
        if item.error:
            raise UserError(f"turn {name}: {item.error}")
        number = self._speakers.get(speaker, len(self._speakers))
        outputs, after = [], []
        batch = self._model.host_batch([item], 1)
        for replica, memory in zip(self._replicas, self._memory, strict=True):
            predicted, kept = self._model.next_turn(replica, NextTurn(batch, np.array([number], np.int32), memory))
            outputs.append(predicted)
            after.append(kept)
        predicted = np.mean(jax.device_get(outputs), axis=0)[0]
        about = item.about() | {"turn": self.turns}
        self._memory, self._speakers[speaker], self.turns = after, number, self.turns + 1
        return Prediction(output=self._model.task.describe_prediction(predicted), **about)

    def _item(self, name: str, sentence: str | None, clip: Any, features: Any) -> Item:
        where = f"turn {name}"
        if sentence is None and clip is None and features is None:
            raise UserError(f"{where}: give a sentence, a clip or features")
        if not isinstance(sentence, str | None):
            raise UserError(f"{where}: the sentence is {text_files.in_words(sentence)}, not a text")
        if features is not None:
            if clip is not None:
                raise UserError(f"{where}: give a clip or its features, not both")
            if not isinstance(features, Mapping):
                wrong = text_files.in_words(features)
                raise UserError(f"{where}: the features are {wrong}, not a dict of arrays by modality")
            read = {m: features[m] for m in self._model.modalities if m in features}
            return dataclasses.replace(inputs.of_arrays(self.turns, read, sentence or ""), id=name)
        if not isinstance(clip, str | os.PathLike | None):
            raise UserError(f"{where}: the clip is {text_files.in_words(clip)}, not a path")
        file = None if clip is None else os.fsdecode(clip)
        [item] = self._encoders.items([{"id": name, "file": file, "sentence": sentence}])
        return item

    def close(self) -> None:
        """Ends the encoders' process, unless it was given; a turn that needs it starts it again."""
        if self._ends_encoders:
            self._encoders.close()

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
