"""The run's encoders in a process of their own, `python -m data_prep.stream`: requests go in as JSON lines, items come
back. No JAX and no PyTorch here."""

import contextlib
import dataclasses
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mer_jax.data import corpus, records
from mer_jax.data.corpus import Manifest
from mer_jax.errors import UserError, at
from mer_jax.predict.item import PLACE, Item

FOR_THE_ITEM = (*PLACE, "notes")  # fields of a request that go by the encoders
MAX_PENDING = 16  # requests on their way to the encoders


@runtime_checkable
class ModelSpec(Protocol):
    """What is asked of the models that will read the items."""

    manifest: Manifest
    modalities: dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class EncoderLocations:
    """How clips are encoded where the manifest does not say it all. audio, visual, text: where an encoder's files are,
    by name or path; device: of PyTorch; asr: a speech recogniser for clips without text, by name or path; memory_limit:
    GiB that one file may take to be read, 0 for the default."""

    audio: str = ""
    visual: str = ""
    text: str = ""
    device: str = "auto"
    asr: str = ""
    memory_limit: float = 0.0

    def flags(self) -> list[str]:
        """The same as flags of `python -m data_prep.stream`."""
        named = {
            "--audio-encoder": self.audio,
            "--visual-encoder": self.visual,
            "--text-encoder": self.text,
            "--asr": self.asr,
        }
        given = [f"{flag}={value}" for flag, value in named.items() if value]
        return [*given, f"--device={self.device}", *self.limit_flags()]

    def limit_flags(self) -> list[str]:
        """What of it every command of data_prep takes that reads files."""
        return [f"--memory-limit={self.memory_limit}"] if self.memory_limit else []


class EncodersUnavailable(UserError):
    """The run's encoders cannot be had, whatever is to be encoded."""


class EncoderClient:
    """Asks the run's encoders, whose process starts with the first request and ends with `close`.

    The encoders are those that the run's corpus was made with; others are refused.
    """

    def __init__(self, model: ModelSpec, locations: EncoderLocations = EncoderLocations()):
        self.locations = locations
        self._model = model
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "EncoderClient":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def seconds(self, file: Path) -> float:
        """How long a file is; raises UserError if it cannot be read."""
        with self._lock:
            process = self._process or self._start()
            self._send(process, {"id": file.name, "file": str(file), "length": True})
            answer = records.decode_example(self._receive(process))
        if error := answer.get("error"):
            raise UserError(bytes(error[0]).decode())
        return float(answer["seconds"][0])

    def items(self, requests: Iterable[dict[str, Any]]) -> Iterator[Item]:
        """An item for each request, in order, encoded a few ahead of who takes them. A request is what
        data_prep/stream.py reads; its fields `FOR_THE_ITEM` become the item's."""
        with self._lock:
            process = self._process or self._start()
            sent: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_PENDING)
            failed: list[BaseException] = []
            abandoned = threading.Event()

            def send_all() -> None:
                try:
                    for request in requests:
                        sent.put({name: request[name] for name in FOR_THE_ITEM if name in request})
                        if abandoned.is_set():
                            return
                        self._send(process, {k: v for k, v in request.items() if k not in FOR_THE_ITEM})
                except BaseException as error:  # goes to who takes the items
                    failed.append(error)
                finally:
                    sent.put(None)

            threading.Thread(target=send_all, daemon=True).start()
            try:
                while (kept := sent.get()) is not None:
                    item = item_of(self._receive(process), self._model.modalities)
                    notes = (*kept.pop("notes", ()), *item.notes)
                    yield dataclasses.replace(item, notes=notes, **kept)
            except BaseException:
                abandoned.set()
                self.close()  # answers that nobody takes would meet the next requests
                while not sent.empty():
                    sent.get()
                raise
            if failed:
                raise failed[0]

    def close(self) -> None:
        """Ends the encoders' process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        """Raises EncodersUnavailable."""
        command = [sys.executable, "-m", "data_prep.stream"]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            with at(file.name):
                file.write(self._model.manifest.text)
                file.flush()
            command += ["--manifest", file.name, "--modalities", ",".join(self._model.modalities)]
            command += self.locations.flags()
            # Ctrl-C is for this process; the other one ends when its stdin does.
            process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._process = process
            hello = records.decode_example(self._receive(process))
        if error := hello.get("error"):
            self.close()
            raise EncodersUnavailable(bytes(error[0]).decode())
        return process

    def _send(self, process: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # who waits for the answer is told
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()

    def _receive(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        record = records.read_record(process.stdout)
        if record is None:
            self._process = None
            raise EncodersUnavailable(f"the encoders' process ended with {process.wait()}; what it said is above")
        return record


def item_of(record: bytes, modalities: Iterable[str]) -> Item:
    """The item in a record of data_prep/stream.py or data_prep/pack_stream.py. Without a dialogue it has no turn."""
    raw = records.decode_example(record)
    if "error" in raw:
        name, error, dialogue, speaker = (_text_in(raw, name) for name in ("id", "error", "dialogue", "speaker"))
        turn = raw["turn"][0] if dialogue else None
        return Item(name, error=error, dialogue=dialogue, turn=turn, speaker=speaker)
    found = corpus.from_example(record, modalities)
    notes, words = (tuple(bytes(one).decode() for one in raw.get(name, ())) for name in ("notes", "words"))
    return Item(
        id=found.id,
        features=found.features,
        sentence=found.sentence,
        label=found.label,
        start=found.start,
        end=found.end,
        notes=notes,
        words=words,
        dialogue=found.dialogue,
        turn=found.turn if found.dialogue else None,
        speaker=found.speaker,
    )


def _text_in(example: dict[str, list[Any]], name: str) -> str:
    return bytes(example[name][0]).decode() if name in example else ""
