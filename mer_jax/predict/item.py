"""One utterance to predict, and what a user says about the inputs that become utterances. No JAX."""

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mer_jax.errors import UserError
from mer_jax.plain import brief

PLACE = ("dialogue", "turn", "speaker")  # fields that say where in a conversation an utterance stands


@dataclasses.dataclass(frozen=True)
class Item:
    """One utterance to predict, wherever it comes from.

    features[m]: Float[time, feat], or frames; `error` says why there are none. label: as the input knows it, often
    empty; values: the same of numbers, by name. start, end: seconds in the file. notes: what was done to it, for
    people. words: the sentence in pieces, one for each time step of text, where its encoder tells; empty for the
    encoder's own marks. dialogue, turn: where it stands in which conversation, if it is of one; turns count up, with
    gaps or without. speaker: who speaks, if known. asked: whether it is predicted, and not only heard by the other
    turns.
    """

    id: str
    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sentence: str = ""
    label: str = ""
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    start: float | None = None
    end: float | None = None
    notes: tuple[str, ...] = ()
    error: str = ""
    words: tuple[str, ...] = ()
    dialogue: str = ""
    turn: int | None = None
    speaker: str = ""
    asked: bool = True

    def about(self) -> dict[str, Any]:
        """What a prediction of it says of it, too."""
        return {name: value for name, value in vars(self).items() if name not in ("features", "asked")}


def check_place(where: str, dialogue: str, turn: int | None) -> None:
    """Raises UserError unless an utterance has both a dialogue and a turn, or neither."""
    if dialogue and turn is None:
        raise UserError(f"{where}: it is of dialogue {brief(dialogue)} and has no turn; number the turns from 0")
    if turn is not None and not dialogue:
        raise UserError(f"{where}: it is turn {turn} of no dialogue; name the dialogue, too")


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """How inputs become items.

    sentence: what is said in the one clip; or transcript_file: the .srt, .vtt or .txt that has it. window, hop:
    seconds; a clip becomes windows that begin every hop (the window's length if 0). only: ids of a corpus's utterances;
    the others are left out. any_extractor: features need not be made as the run's were. pack: more arguments of
    `python -m data_prep.pack_stream`, through which packs go. by_dialogue: the utterances of a corpus, shard, pack or
    table come dialogue by dialogue, in the order of their turns; with those of a shard, or of `only`, come the other
    turns of their dialogues, which are heard and not `asked` for.
    """

    sentence: str | None = None
    transcript_file: str | os.PathLike[str] | None = None
    window: float = 0.0
    hop: float = 0.0
    only: Collection[str] | None = None
    any_extractor: bool = False
    pack: Sequence[str] = ()
    by_dialogue: bool = False

    @property
    def transcript(self) -> Path | None:
        """The path of the transcript."""
        return None if self.transcript_file is None else Path(self.transcript_file)
