"""What the page answers to a conversation: a transcript, or turn by turn. No Gradio, and no JAX of its own."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mer_jax.demo import html
from mer_jax.demo.answers import MAX_LETTERS, Answers
from mer_jax.errors import UserError
from mer_jax.plain import brief
from mer_jax.predict.inputs import KINDS, kind_of
from mer_jax.predict.item import InputOptions, Item
from mer_jax.predict.requests import requests_of
from mer_jax.predict.speakers import MAX_LETTERS as MAX_NAME
from mer_jax.predict.table import Request
from mer_jax.predict.transcript import TIMES

MAX_TURNS = 500
MAX_TEXT = 200_000  # letters of a transcript that is typed
MAX_BYTES = 2 * 2**20  # of a file
TEXT_KINDS = ("transcript", "list of sentences", "table")
FILES = tuple(suffix for kind in TEXT_KINDS for suffix in KINDS[kind])
UNHEARD = "the clip is not heard, only what is said in it is read"


@dataclasses.dataclass
class Talk:
    """A conversation that goes on. state: a `predict.conversations.Conversation`; found: its turns, `Prediction`s."""

    state: Any
    found: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class ConversationAnswers:
    """Answers as HTML, with the models and encoders of `answers`. Not for several threads at a time."""

    answers: Answers

    def transcript(self, text: str, uploaded: str | None) -> str:
        """The timeline of a transcript that is typed or uploaded. What is wrong with it is said on the page. The file
        is deleted at the end."""
        with tempfile.TemporaryDirectory(dir=self.answers.uploads) as folder:
            path = Path(uploaded or f"{folder}/text{suffix_of(text)}")
            try:
                check_transcript(text, uploaded)
                if not uploaded:
                    path.write_text(text, encoding="utf-8", errors="replace")
                return self._predicted(as_turns(path, self._requests(path)))
            except UserError as error:
                return html.problem(str(error).replace(str(path), path.name))
            finally:
                if uploaded:
                    self.answers.delete(path)

    def _requests(self, path: Path) -> list[Request]:
        """What the encoders are asked for each turn. Raises UserError."""
        if (kind := kind_of(path)) not in TEXT_KINDS:
            raise UserError(f"{path} is a {kind}: a conversation is read of {', '.join(FILES)}")
        found: list[Request] = []
        for requests in requests_of(path, kind, InputOptions(by_dialogue=True), self.answers.encoders):
            for request in requests:
                found.append(request)
                if len(found) > MAX_TURNS:
                    raise UserError(f"{path} has more than {MAX_TURNS} turns: give it in parts.")
        return found

    def _predicted(self, turns: Sequence[Request]) -> str:
        answers, model = self.answers, self.answers.model
        items: Iterator[Item] = answers.encoders.items(turns)
        found = list(model.predict(items, replica=answers.replica, encoders=answers.encoders))
        if all(one.error for one in found):
            raise UserError(f"None of the {len(found)} turns can be read; the first: {found[0].error}")
        return html.conversation(found, model.task)

    def say(self, sentence: str, speaker: str, talk: Talk | None) -> tuple[str, Talk | None, str]:
        """The timeline with the next turn, the conversation, and what stays in the field of the sentence."""
        try:
            said = checked_turn(sentence, speaker, talk)
            talk = talk or Talk(self.answers.model.conversation(self.answers.replica, self.answers.encoders))
            talk.found.append(talk.state.add(sentence=said, speaker=speaker))
        except UserError as error:
            so_far = html.conversation(talk.found, self.answers.model.task) if talk and talk.found else ""
            return html.problem(str(error)) + so_far, talk, sentence
        return html.conversation(talk.found, self.answers.model.task), talk, ""


def check_transcript(text: str, uploaded: str | None) -> None:
    """Raises UserError for what cannot be answered."""
    if text.strip() and uploaded:
        raise UserError("There is a text and a file: take one of them away.")
    if not (text.strip() or uploaded):
        raise UserError("Nothing to go by: type a conversation, a turn a line, or choose a file.")
    if len(text) > MAX_TEXT:
        raise UserError(f"The text has {len(text)} letters; {MAX_TEXT} are the most.")
    if uploaded and (size := Path(uploaded).stat().st_size) > MAX_BYTES:
        raise UserError(f"{uploaded} has {size / 2**20:.1f} MiB; {MAX_BYTES / 2**20:g} MiB are the most.")


def checked_turn(sentence: str, speaker: str, talk: Talk | None) -> str:
    """The sentence. Raises UserError if it cannot be the next turn."""
    if not sentence.strip():
        raise UserError("Nothing to go by: type what is said next.")
    if len(sentence) > MAX_LETTERS:
        raise UserError(f"The sentence has {len(sentence)} letters; {MAX_LETTERS} are the most.")
    if len(speaker) > MAX_NAME:
        raise UserError(f"The speaker's name has {len(speaker)} letters; {MAX_NAME} are the most.")
    if talk and len(talk.found) >= MAX_TURNS:
        raise UserError(f"The conversation has {MAX_TURNS} turns, which are the most: begin another one.")
    return sentence.strip()


def suffix_of(text: str) -> str:
    """The ending of a file with this text: captions may be typed, too."""
    if text.lstrip("\ufeff").startswith("WEBVTT"):
        return ".vtt"
    return ".srt" if any(TIMES.fullmatch(row.strip()) for row in text.splitlines()) else ".txt"


def as_turns(path: Path, requests: Sequence[Request]) -> list[Request]:
    """The requests as the turns of one conversation, in their order. Clips are not opened: a table may name any file.
    Raises UserError if there are several conversations."""
    if not requests:
        raise UserError(f"{path} holds no turn")
    names = sorted({name for one in requests if (name := one.get("dialogue"))})
    if len(names) > 1:
        several = ", ".join(map(brief, names[:3])) + ", …" * (len(names) > 3)
        raise UserError(f"{path} holds {len(names)} dialogues ({several}): give one of them")
    turns = []
    for number, request in enumerate(requests):
        turn = {**request, "dialogue": path.name, "turn": number}
        if turn.pop("file", None):
            turn["notes"] = (*turn.get("notes", ()), UNHEARD)
        if (length := len(turn.get("sentence") or "")) > MAX_LETTERS:
            turn |= {"sentence": None, "error": f"it has {length} letters; {MAX_LETTERS} are the most"}
        turns.append(turn)
    return turns
