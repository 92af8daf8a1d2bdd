"""Requests are answered one after the other: threads decode, the encoders take together what waits."""

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from data_prep.encoders import media
from data_prep.encoders.extract import STREAMS, AnyEncoder, AudioEncoder
from data_prep.encoders.feature_cache import THREADS
from data_prep.encoders.hearing import MAX_SILENCE, level
from data_prep.encoders.media import SLACK, Clip
from data_prep.encoders.requests import Ready, Request, answer, id_of, parse
from data_prep.encoders.speech_to_text import SpeechRecogniser
from data_prep.encoders.text import TextEncoder
from data_prep.sentences import normalise
from mer_jax.errors import UserError

MAX_SECONDS = 30.0  # of sound to transcribe where no speech encoder sets a limit


@dataclasses.dataclass(frozen=True)
class RequestEncoder:
    """Answers requests. `prepare` runs in threads, `answers` where the models are."""

    encoders: Mapping[str, AnyEncoder]
    recogniser: SpeechRecogniser | None = None

    def prepare(self, line: bytes) -> Ready:
        try:
            request = parse(line)
        except UserError as error:
            return Ready(Request(id_of(line)), error=str(error))
        ready = Ready(request, error=request.error)
        if ready.error:
            return ready
        try:
            self._sentence(ready)
            self._clip(ready)
            if not (ready.prepared or ready.sound is not None or request.length):
                raise UserError("; ".join(["nothing of it can be used", *ready.notes]))
        except UserError as error:
            ready.error = str(error)
        return ready

    def _sentence(self, ready: Ready) -> None:
        request = ready.request
        ready.sentence = normalise(request.sentence or "")
        if "text" not in self.encoders or request.length:
            return
        if ready.sentence:
            ready.prepared["text"] = ready.sentence
        elif request.sentence is not None:
            ready.notes.append("no text: the sentence is empty")
        elif self.recogniser is None or request.file is None:
            ready.notes.append("no text: there is no sentence")

    def _clip(self, ready: Ready) -> None:
        request = ready.request
        hear = self.recogniser is not None and request.sentence is None and "text" in self.encoders
        wanted = tuple(STREAMS[m] for m in self.encoders if m in STREAMS) or ("audio",) * hear
        if request.file is None or not (wanted or request.length):
            return
        clip = Clip(str(request.file), request.file, request.start or 0.0, request.end)
        found = media.probe(clip, wanted)
        ready.seconds = found.seconds
        if request.length:
            return
        if clip.start >= found.seconds:
            raise UserError(f"{clip.name}: {clip.start:g} s and on is asked for, it is {found.seconds:.2f} s long")
        if clip.end is not None and clip.end > found.seconds + SLACK:
            ready.notes.append(f"it ends at {found.seconds:.2f} s, before the {clip.end:g} s that are asked for")
        length = min(clip.end or found.seconds, found.seconds) - clip.start
        if "audio" in self.encoders or hear:
            if found.rate:
                self._sound(ready, clip, found.rate, length, hear)
            else:
                lacking = ["audio"] * ("audio" in self.encoders) + ["text"] * hear
                ready.notes += [f"no {modality}: it has no sound track" for modality in lacking]
        if "visual" in self.encoders:
            if found.pictures:
                self._pictures(ready, clip, length)
            else:
                ready.notes.append("no visual: it has no pictures")

    def _sound(self, ready: Ready, clip: Clip, rate: int, length: float, hear: bool) -> None:
        encoder, samples = self.encoders.get("audio"), None
        if isinstance(encoder, AudioEncoder):
            samples = media.samples(clip, encoder.rate, encoder.longest)
            loudest = level(clip, samples)
            ready.notes += [f"resampled from {rate} Hz to {encoder.rate} Hz"] * (rate != encoder.rate)
            ready.notes += _limits("audio", length, encoder.longest)
            if len(samples) < encoder.shortest * encoder.rate:
                ready.notes.append(f"shorter than {encoder.shortest:g} s: filled up with silence")
            ready.prepared["audio"] = encoder.ready(samples)
            longest = encoder.longest
        else:
            longest = MAX_SECONDS
        if hear and self.recogniser is not None:
            if samples is None or encoder.rate != self.recogniser.rate:  # type: ignore[union-attr]
                samples = media.samples(clip, self.recogniser.rate, longest)
                loudest = level(clip, samples)
            ready.notes += _limits("text", length, longest)
            if loudest > MAX_SILENCE:
                ready.sound = samples
            else:
                ready.notes.append("no text: there is nothing to hear")
        if loudest <= MAX_SILENCE:
            ready.notes.append(f"silence: the sound has no level above {MAX_SILENCE:g} dBFS")

    def _pictures(self, ready: Ready, clip: Clip, length: float) -> None:
        encoder: Any = self.encoders["visual"]
        ready.prepared["visual"] = found = encoder.prepare(clip)
        ready.notes += _limits("visual", length, encoder.longest)
        if encoder.tally:
            without, of = encoder.tally(found)
            if without:
                ready.notes.append(f"no face was found in {without} of {of} frames, which are taken whole")

    def answers(self, batch: Sequence[Ready]) -> list[bytes]:
        """Returns an Example for each request; what goes wrong with one of several is found by taking them one by
        one."""
        batch = list(batch)
        try:
            return self._encoded(batch)
        except UserError as error:
            if len(batch) > 1:
                return [found for ready in batch for found in self.answers([ready])]
            batch[0].error = str(error)
            return self._encoded(batch)

    def _encoded(self, batch: list[Ready]) -> list[bytes]:
        for ready in batch:
            self._transcribe(ready)
        features: list[dict[str, Any]] = [{} for _ in batch]
        notes: list[list[str]] = [list(ready.notes) for ready in batch]
        words: list[list[str]] = [[] for _ in batch]
        for modality, encoder in self.encoders.items():
            at = [i for i, ready in enumerate(batch) if modality in ready.prepared and not ready.error]
            prepared = [batch[i].prepared[modality] for i in at]
            if isinstance(encoder, TextEncoder) and at:
                for i, length in zip(at, encoder.lengths(prepared), strict=True):
                    notes[i] += [f"the sentence has {length} tokens: cut to {encoder.limit}"] * (length > encoder.limit)
                    words[i] = encoder.pieces(batch[i].prepared[modality])
            restored = getattr(encoder, "restored", lambda found: found)
            for i, found in zip(at, encoder.encode(prepared) if at else [], strict=True):
                features[i][modality] = restored(found)
        return [answer(*each) for each in zip(batch, features, notes, words, strict=True)]

    def _transcribe(self, ready: Ready) -> None:
        if ready.sound is None or self.recogniser is None or ready.error:
            return
        ready.sentence = normalise(self.recogniser(ready.sound))
        ready.sound = None
        if ready.sentence:
            ready.prepared["text"] = ready.sentence
            ready.notes.append(f"the sentence is transcribed by {self.recogniser.name}")
        else:
            ready.notes.append("no text: no words were heard")
            if not ready.prepared:
                ready.error = "; ".join(["nothing of it can be used", *ready.notes])


def _limits(modality: str, length: float, longest: float) -> list[str]:
    return [f"longer than {longest:g} s: {modality} is cut to its beginning"] if length > longest else []


def batches(prepare: Callable[[bytes], Ready], lines: Iterable[bytes], batch_size: int) -> Iterator[list[Ready]]:
    """Yields what is prepared, in order: the next request as soon as it is, and with it those behind it that are, too.
    Threads prepare, and take in no more than they and a batch can hold."""
    waiting: queue.Queue[Future[Ready] | None] = queue.Queue(batch_size + THREADS)
    pool = ThreadPoolExecutor(THREADS)

    def read() -> None:
        try:
            for line in lines:
                waiting.put(pool.submit(prepare, line))
        except RuntimeError:
            pass  # the pool is shut: nobody takes answers any more
        finally:
            waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (first := waiting.get()) is not None:
            batch = [first.result()]
            while len(batch) < batch_size and _is_done(waiting):
                batch.append(waiting.get().result())  # type: ignore[union-attr]
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _is_done(waiting: "queue.Queue[Future[Ready] | None]") -> bool:
    """Says it of the first in line, which nobody else takes."""
    first = waiting.queue[0] if waiting.queue else None
    return first is not None and first.done()
