"""Clips and sentences, one request after the other, become features as those of an existing corpus: the other end of a pipe of
`python -m mer_jax.predict`.

    python -m data_prep.stream --manifest DIR/manifest.json --modalities text,audio

Requests are lines of JSON on stdin: {"id": …, "file": … or null, "sentence": … or null, "start": seconds or null, "end": … or null}. `file`
may be absent, null, for sentences alone; `start` and `end` tell a part of it. {"id": …, "file": …, "length": true} asks for nothing but its length.
{"id": …, "error": …} is of an input that who asks found wrong already; it is answered in its turn.

Answers are TFRecords on stdout, one a request, in order: tf.train.Example as in a corpus (mer_jax/data/corpus.py), with a label of "" and
the split `test`. Beside it are `notes` (what was done to the clip, why a modality is missing), `words` (the piece of the sentence that each time step of
text stands for, if its encoder tells) and `seconds`, the length of the whole file.
An input that cannot be used has only `id` and `error`, and the stream goes on. Before all answers comes one Example with `hello`, JSON of the
modalities' extractors and of notes; or with `error`, and the command ends with 1.

What waits is answered together, up to --together, and nothing waits for more to come. Who writes requests must read answers meanwhile: the
command takes in only a few more than it has answered. People are told on stderr.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_prep import encoders, media, rebuild
from data_prep.audio import Egemaps, SpeechEncoder
from data_prep.clips import STREAMS, AnyEncoder
from data_prep.features import THREADS
from data_prep.media import SLACK, Clip
from data_prep.recognise import Recogniser
from data_prep.text import TextEncoder, normalise
from mer_jax import files
from mer_jax.data.corpus import Utterance, to_example
from mer_jax.data.records import Value, encode_example, write_record
from mer_jax.errors import UserError

FEW = 16  # answered together: more is hardly faster, and all of it is in memory
SILENCE = -60.0  # dB of full scale
LONGEST = 30.0  # seconds of sound to transcribe where no speech encoder sets a limit


@dataclasses.dataclass(frozen=True)
class Request:
    id: str
    file: Path | None = None
    sentence: str | None = None
    start: float | None = None
    end: float | None = None
    length: bool = False
    error: str = ""


@dataclasses.dataclass
class Ready:
    """A request as the encoders take it: `prepared` by modality, `sound` if it is to be transcribed; or its `error`."""

    request: Request
    prepared: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    sentence: str = ""
    sound: np.ndarray | None = None
    seconds: float | None = None
    error: str = ""


def parse(line: bytes) -> Request:
    """Raises UserError for what is no request."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise UserError(f"a request is no line of JSON ({error})") from None
    kinds: dict[str, tuple[type, ...]] = {
        "id": (str,), "file": (str,), "sentence": (str,), "start": (int, float), "end": (int, float), "length": (bool,),
        "error": (str,),
    }  # fmt: skip
    if not isinstance(fields, dict) or "id" not in fields:
        raise UserError("a request is an object with an id")
    for name, value in fields.items():
        if name not in kinds:
            raise UserError(f"{name!r} is nothing that a request has; it has {', '.join(kinds)}")
        wrong = not isinstance(value, kinds[name]) or (isinstance(value, bool) and name != "length")
        if wrong and not (value is None and name != "id"):
            raise UserError(f"{name} is {value!r}, which is no {' or '.join(kind.__name__ for kind in kinds[name])}")
        if name in ("start", "end") and value is not None and not 0 <= value < 1e9:
            raise UserError(f"{name} is {value}, which cannot be")
    if any(0xD800 <= ord(c) < 0xE000 for name in ("id", "sentence") for c in fields.get(name) or ""):
        raise UserError("its id or sentence holds half a character (a lone surrogate)")
    given = {name: value for name, value in fields.items() if value is not None}
    request = Request(**given | ({"file": Path(given["file"])} if "file" in given else {}))
    if request.start is not None and request.end is not None and request.start >= request.end:
        raise UserError(f"it starts at {request.start:g} s and ends at {request.end:g} s")
    return request


@dataclasses.dataclass(frozen=True)
class Features:
    """Requests -> answers. `prepare` runs in threads, `answers` where the models are."""

    encoders: Mapping[str, AnyEncoder]
    recogniser: Recogniser | None = None

    def prepare(self, line: bytes) -> Ready:
        try:
            request = parse(line)
        except UserError as error:
            return Ready(Request(_id(line)), error=str(error))
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
                ready.notes += [f"no {m}: it has no sound track" for m in (*["audio"] * ("audio" in self.encoders), *["text"] * hear)]  # fmt: skip
        if "visual" in self.encoders:
            if found.pictures:
                self._pictures(ready, clip, length)
            else:
                ready.notes.append("no visual: it has no pictures")

    def _sound(self, ready: Ready, clip: Clip, rate: int, length: float, hear: bool) -> None:
        encoder, samples = self.encoders.get("audio"), None
        if isinstance(encoder, Egemaps | SpeechEncoder):
            samples = media.samples(clip, encoder.rate, encoder.longest)
            loudest = _loudest(clip, samples)
            ready.notes += [f"resampled from {rate} Hz to {encoder.rate} Hz"] * (rate != encoder.rate)
            ready.notes += _limits("audio", length, encoder.longest)
            if len(samples) < encoder.shortest * encoder.rate:
                ready.notes.append(f"shorter than {encoder.shortest:g} s: filled up with silence")
            ready.prepared["audio"] = encoder.ready(samples)
            longest = encoder.longest
        else:
            longest = LONGEST
        if hear and self.recogniser is not None:
            if samples is None or encoder.rate != self.recogniser.rate:  # type: ignore[union-attr]
                samples = media.samples(clip, self.recogniser.rate, longest)
                loudest = _loudest(clip, samples)
            ready.notes += _limits("text", length, longest)
            if loudest > SILENCE:
                ready.sound = samples
            else:
                ready.notes.append("no text: there is nothing to hear")
        if loudest <= SILENCE:
            ready.notes.append(f"silence: the sound has no level above {SILENCE:g} dBFS")

    def _pictures(self, ready: Ready, clip: Clip, length: float) -> None:
        encoder: Any = self.encoders["visual"]
        ready.prepared["visual"] = found = encoder.prepare(clip)
        ready.notes += _limits("visual", length, encoder.longest)
        if encoder.tally:
            without, of = encoder.tally(found)
            if without:
                ready.notes.append(f"no face was found in {without} of {of} frames, which are taken whole")

    def answers(self, batch: Sequence[Ready]) -> list[bytes]:
        """Of each request an Example; what goes wrong with one of several is found by taking them one by one."""
        batch = list(batch)
        try:
            return self._encoded(batch)
        except UserError as error:
            if len(batch) > 1:
                return [answer for ready in batch for answer in self.answers([ready])]
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
        return [_answer(*each) for each in zip(batch, features, notes, words, strict=True)]

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


def _id(line: bytes) -> str:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(line)["id"]).encode(errors="backslashreplace").decode()
    return ""


def _loudest(clip: Clip, samples: np.ndarray) -> float:
    """dB of full scale; raises UserError for samples that are no numbers."""
    peak = float(np.abs(samples).max())
    if not np.isfinite(peak):
        raise UserError(f"{clip.name}: its sound holds NaN or infinite values")
    return 20 * float(np.log10(max(peak, 1e-10)))


def _limits(modality: str, length: float, longest: float) -> list[str]:
    return [f"longer than {longest:g} s: {modality} is cut to its beginning"] if length > longest else []


def _answer(ready: Ready, features: Mapping[str, Any], notes: Sequence[str], words: Sequence[str]) -> bytes:
    request = ready.request
    if ready.error:
        return encode_example({"id": request.id.encode(), "error": ready.error.encode(errors="backslashreplace")})
    more: dict[str, Value] = {"notes": [note.encode() for note in notes]} if notes else {}
    more |= {"words": [word.encode() for word in words]} if words else {}
    more |= {} if ready.seconds is None else {"seconds": [float(ready.seconds)]}
    utterance = Utterance(
        id=request.id, split="test", dialogue="", turn=0, speaker="", session="", label="", sentence=ready.sentence,
        features=features, start=request.start, end=request.end,
    )  # fmt: skip
    return to_example(utterance, more)


def batches(prepare: Callable[[bytes], Ready], lines: Iterable[bytes], together: int) -> Iterator[list[Ready]]:
    """What is prepared, in order: the next request as soon as it is, and with it those behind it that are, too. Threads prepare, and take
    in no more than they and a batch can hold."""
    waiting: queue.Queue[Future[Ready] | None] = queue.Queue(together + THREADS)
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
            while len(batch) < together and _is_done(waiting):
                batch.append(waiting.get().result())  # type: ignore[union-attr]
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _is_done(waiting: "queue.Queue[Future[Ready] | None]") -> bool:
    """Of the first in line, which nobody else takes."""
    first = waiting.queue[0] if waiting.queue else None
    return first is not None and first.done()


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("modalities"), dict):
        raise UserError(f"{path} is no manifest of a corpus: it has no modalities")
    return manifest


def begin(arguments: argparse.Namespace) -> tuple[Features, dict[str, Any]]:
    """The encoders and what the first record says of them; raises UserError."""
    manifest = read_manifest(arguments.manifest)
    modalities = list(dict.fromkeys(arguments.modalities.split(",")))
    places = {m: place for m in ("text", *STREAMS) if (place := getattr(arguments, f"{m}_encoder"))}
    if idle := [m for m in places if m not in modalities]:
        raise UserError(f"--{idle[0]}-encoder is given, but --modalities={arguments.modalities}")
    made, notes = rebuild.encoders_of(manifest, modalities, places, arguments.device, arguments.cache)
    recogniser = Recogniser(arguments.asr, arguments.device) if arguments.asr else None
    if recogniser:
        if "text" not in made:
            raise UserError(f"--asr is given, but --modalities={arguments.modalities} has no text")
        notes.append(f"text: clips without a sentence are transcribed by {recogniser.name}")
    told = {m: {"extractor": encoder.extractor} for m, encoder in made.items()}
    return Features(made, recogniser), {"modalities": told, "notes": notes}


def serve(features: Features, lines: Iterable[bytes], out: BinaryIO, together: int) -> None:
    asked = (line for line in lines if line.strip())
    for batch in batches(features.prepare, asked, together):
        for answer in features.answers(batch):
            write_record(out, answer)
        out.flush()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.stream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--manifest", type=Path, required=True, metavar="MANIFEST.json", help="of the corpus whose features to make"
    )
    parser.add_argument("--modalities", required=True, metavar="M,M", help="of text, audio, visual")
    for modality in ("text", *STREAMS):
        parser.add_argument(
            f"--{modality}-encoder", metavar="NAME|PATH", help="where its model is; default: the hub's name in the manifest"
        )  # fmt: skip
    parser.add_argument("--asr", metavar="NAME|PATH", help="transcribe clips that come without a sentence: Whisper or a CTC model of transformers")  # fmt: skip
    parser.add_argument("--device", default="auto", help="as of python -m data_prep.clips")
    parser.add_argument(
        "--together", type=encoders.positive, default=FEW, metavar="N", help="answer up to N waiting requests at a time; with 1 the last bit "
        "of a feature does not depend on what else was waiting; default: %(default)s"
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    arguments.cache = files.cache_folder() / "features"  # not written to
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt), open(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # whatever a library prints is for people
        converse(arguments, out)


def converse(arguments: argparse.Namespace, out: BinaryIO) -> None:
    try:
        features, hello = begin(arguments)
    except UserError as error:
        write_record(out, encode_example({"error": str(error).encode()}))
        raise SystemExit(1) from None
    for note in hello["notes"]:
        print(f"note: {note}", file=sys.stderr)
    write_record(out, encode_example({"hello": json.dumps(hello, ensure_ascii=False).encode()}))
    out.flush()
    lines = open(0, "rb", closefd=False)  # noqa: SIM115 - closing it would wait for a line, if answers are no longer taken
    serve(features, lines, out, arguments.together)


if __name__ == "__main__":
    main()
