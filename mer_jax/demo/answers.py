"""What the page answers to a sentence, a recording or a clip. No Gradio, and no JAX of its own."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mer_jax.demo import html
from mer_jax.errors import UserError
from mer_jax.predict.encoder_client import EncoderClient

MAX_LETTERS = 2000  # of a sentence
MAX_SECONDS = 600  # of a clip
MAX_WINDOWS = 600


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers as HTML. model: a `Predictor`. uploads: a folder; what lies in it is deleted once it has been answered.
    Not for several threads at a time."""

    model: Any
    encoders: EncoderClient
    replica: str | None = None
    uploads: Path | None = None

    def predict(self, sentence: str, file: str | None) -> Any:
        """A `Prediction`, with reasons if it is of one replica. Raises UserError."""
        request = {"id": "", "file": file, "sentence": sentence.strip() or None, "start": None, "end": None}
        alone = len(self.model.select_replicas(self.replica)) == 1
        items = self.encoders.items([request])
        [found] = self.model.predict(items, replica=self.replica, attribution=alone, encoders=self.encoders)
        return found

    def __call__(
        self, sentence: str, recorded: str | None, uploaded: str | None, over_time: bool, window: float
    ) -> Iterator[str]:
        """First the answer on the whole, then with the timeline if one is wanted. What is wrong with the input is said
        on the page. Clips are deleted at the end, and when nobody waits for it any more."""
        try:
            yield from self._answers(sentence, recorded, uploaded, over_time, window)
        finally:
            for clip in filter(None, (recorded, uploaded)):
                self.delete(Path(clip))

    def delete(self, clip: Path) -> None:
        if self.uploads is not None and clip.resolve().is_relative_to(self.uploads.resolve()):
            with contextlib.suppress(OSError):  # another answer has deleted it
                clip.unlink()

    def _answers(
        self, sentence: str, recorded: str | None, uploaded: str | None, over_time: bool, window: float
    ) -> Iterator[str]:
        file = recorded or uploaded
        try:
            check_input(sentence, recorded, uploaded)
            length = self.encoders.seconds(Path(file)) if file else 0.0
            if length > MAX_SECONDS:
                raise UserError(f"{file} is {length:.0f} s long; {MAX_SECONDS} s are the most.")
            if file and over_time and length > MAX_WINDOWS * window:
                raise UserError(f"{file} has more than {MAX_WINDOWS} parts of {window:g} s: take longer ones.")
            found = self.predict(sentence, file)
            if found.error:
                raise UserError(found.error)
            silent = any(note.startswith("silence") for note in found.notes)
            if silent and not (found.sentence or "visual" in self.model.modalities):
                raise UserError(f"{file}: there is nothing to hear, and no sentence is given.")
            answer = html.answer(found, self.model.task)
            yield answer
            if file and over_time:
                parts = self.model.predict(file, replica=self.replica, encoders=self.encoders, window=window)
                yield answer + html.timeline(list(parts), self.model.task)
        except UserError as error:
            yield html.problem(str(error).replace(file, Path(file).name) if file else str(error))


def check_input(sentence: str, recorded: str | None, uploaded: str | None) -> None:
    """Raises UserError for what cannot be answered."""
    if recorded and uploaded:
        raise UserError("There is a recording and a clip: take one of them away.")
    if not (sentence.strip() or recorded or uploaded):
        raise UserError("Nothing to go by: type a sentence, record something or choose a clip.")
    if len(sentence) > MAX_LETTERS:
        raise UserError(f"The sentence has {len(sentence)} letters; {MAX_LETTERS} are the most.")
