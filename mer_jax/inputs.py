"""What people want predictions of -> items with features: corpora, shards, packs, clips with what is said in them, sentences.

Clips and sentences are encoded by a process of its own, `python -m data_prep.stream`, which builds the encoders again that the
run's corpus was made with, and refuses others; a pack goes through `python -m data_prep.import_pack`. No JAX, no PyTorch here.
"""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mer_jax import records, transcript
from mer_jax.errors import UserError
from mer_jax.records import Corpus, Manifest

MEDIA = (
    ".wav",
    ".mp3",
    ".flac",
    ".ogg",
    ".opus",
    ".m4a",
    ".aac",
    ".mp4",
    ".mkv",
    ".mov",
    ".avi",
    ".webm",
    ".m4v",
    ".mpg",
    ".wmv",
)
PACKS = (".pkl", ".pickle", ".npz", ".npy", ".h5", ".hdf5", ".parquet")
TRANSCRIPTS = (".srt", ".vtt", ".txt")
# A folder is a "corpus", if it has a manifest.json, or a "folder" of clips.
KINDS = {"clip": MEDIA, "pack": PACKS, "table": (".csv",), "list of sentences": (".txt",), "shard": (".tfrecord",)}
AHEAD = 16  # requests on their way to the encoders


@dataclasses.dataclass(frozen=True)
class Item:
    """One utterance to classify. features[m]: Float[time, feat], or frames; `error` says why there are none. label: where the
    input knows it. start, end: seconds in the file; notes: what was done to it, for people.
    words: the sentence in pieces, one for each time step of text, where its encoder tells; empty for the encoder's own marks."""

    id: str
    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sentence: str = ""
    label: str = ""
    start: float | None = None
    end: float | None = None
    notes: tuple[str, ...] = ()
    error: str = ""
    words: tuple[str, ...] = ()


@runtime_checkable
class Reader(Protocol):
    """What is asked of the models that will read the items."""

    manifest: Manifest
    modalities: dict[str, dict[str, Any]]
    where: str


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How clips are encoded where the manifest does not say it all. audio, visual, text: where an encoder's files are, by name or
    path; device: of PyTorch; asr: a speech recogniser for clips without text, by name or path."""

    audio: str = ""
    visual: str = ""
    text: str = ""
    device: str = "auto"
    asr: str = ""

    def flags(self) -> list[str]:
        named = {
            "--audio-encoder": self.audio,
            "--visual-encoder": self.visual,
            "--text-encoder": self.text,
            "--asr": self.asr,
        }
        return [f"{flag}={value}" for flag, value in named.items() if value] + [f"--device={self.device}"]


class NoEncoders(UserError):
    """The run's encoders cannot be had, whatever is to be encoded."""


class Extractors:
    """The run's encoders, in a process of their own; started with the first request, ended by `close`."""

    def __init__(self, model: Reader, encoding: Encoding = Encoding()):
        self._model, self._encoding = model, encoding
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "Extractors":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        """Raises NoEncoders."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(self._model.manifest.text)
            file.flush()
            command = [
                sys.executable, "-m", "data_prep.stream", "--manifest", file.name, "--modalities", ",".join(self._model.modalities),
                *self._encoding.flags(),
            ]  # fmt: skip
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._process = process
            hello = records.decode_example(self._record(process))
        if error := hello.get("error"):
            self.close()
            raise NoEncoders(bytes(error[0]).decode())
        return process

    def seconds(self, file: Path) -> float:
        """How long a file is; raises UserError if it cannot be read."""
        with self._lock:
            process = self._process or self._start()
            self._ask(process, {"id": file.name, "file": str(file), "length": True})
            answer = records.decode_example(self._record(process))
        if error := answer.get("error"):
            raise UserError(bytes(error[0]).decode())
        return float(answer["seconds"][0])

    def items(self, requests: Iterable[dict[str, Any]]) -> Iterator[Item]:
        """An item for each request (see data_prep/stream.py), in order, encoded a few ahead of who takes them."""
        with self._lock:
            process = self._process or self._start()
            sent: queue.Queue[bool] = queue.Queue(AHEAD)
            failed: list[BaseException] = []
            abandoned = threading.Event()

            def ask() -> None:
                try:
                    for request in requests:
                        sent.put(True)
                        if abandoned.is_set():
                            return
                        self._ask(process, request)
                except BaseException as error:  # goes to who takes the items
                    failed.append(error)
                finally:
                    sent.put(False)

            threading.Thread(target=ask, daemon=True).start()
            try:
                while sent.get():
                    yield self._item(self._record(process))
            except BaseException:
                abandoned.set()
                self.close()  # answers that nobody takes would meet the next requests
                while not sent.empty():
                    sent.get()
                raise
            if failed:
                raise failed[0]

    def _record(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        record = records.read_record(process.stdout)
        if record is None:
            self._process = None
            raise NoEncoders(f"the encoders' process ended with {process.wait()}; what it said is above")
        return record

    def _item(self, record: bytes) -> Item:
        raw = records.decode_example(record)
        if "error" in raw:
            return Item(id=bytes(raw["id"][0]).decode(), error=bytes(raw["error"][0]).decode())
        found = records.from_example(record, self._model.modalities)
        notes, words = (tuple(bytes(one).decode() for one in raw.get(name, ())) for name in ("notes", "words"))
        return Item(found.id, found.features, found.sentence, "", found.start, found.end, notes, "", words)

    def _ask(self, process: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # who waits for the answer is told
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()

    def close(self) -> None:
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


def kind_of(path: Path) -> str:
    """What a path is: one of `KINDS`. Raises UserError if it is nothing that can be read."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    suffix = path.suffix.lower()
    if path.is_dir():
        return "corpus" if (path / "manifest.json").exists() else "folder"
    found = next((kind for kind, suffixes in KINDS.items() if suffix in suffixes), None)
    if found is None:
        raise UserError(
            f"{path}: what to do with a {suffix or 'file without an ending'} is not known; clips end in {', '.join(MEDIA)}, "
            f"packs in {', '.join(PACKS)}, tables in .csv, sentences in .txt, shards of a corpus in .tfrecord"
        )
    return found


def refuse_idle(
    inputs: Sequence[Any], sentence: str | None, told: Path | None, window: float, hop: float, only: bool, pack: bool
) -> None:
    """Raises UserError for a path that cannot be read, and for what is asked for and of no use with these inputs."""
    paths = [Path(one) for one in inputs if isinstance(one, str | os.PathLike)]
    kinds = {path: kind_of(path) for path in paths}
    if sentence is not None and told is not None:
        raise UserError("a sentence (--sentence) or a transcript, not both")
    if (sentence is not None or told is not None) and (len(inputs) > 1 or list(kinds.values()) != ["clip"]):
        raise UserError("a sentence (--sentence) or transcript is of one clip; give that alone")
    if sentence is not None and window:
        raise UserError("a sentence is of a whole clip, not of its windows: give an .srt or .vtt, or --asr")
    if hop and not window:
        raise UserError("--hop is from one --window to the next: give that, too")
    if window and (whole := next((path for path in paths if kinds[path] not in ("clip", "folder")), None)):
        raise UserError(f"--window cuts clips, and folders of them; {whole} is a {kinds[whole]}")
    if only and (other := next((path for path in paths if kinds[path] not in ("corpus", "shard", "pack")), None)):
        raise UserError(f"only some utterances (--only-test) are taken of a corpus; {other} is a {kinds[other]}")
    if pack and "pack" not in kinds.values():
        raise UserError("--labels, --layout and --mapping are of a pack; there is none")
    if told is not None and not told.exists():
        raise UserError(f"{told} does not exist")


def items_of(
    inputs: Any,
    model: Reader,
    *,
    sentence: str | None = None,
    transcript_file: str | os.PathLike[str] | None = None,
    window: float = 0.0,
    hop: float = 0.0,
    only: Iterable[str] | None = None,
    any_extractor: bool = False,
    pack: Sequence[str] = (),
    encoding: Encoding = Encoding(),
    extractors: Extractors | None = None,
) -> Iterator[Item]:
    """The items of what `Trained.predict` takes, one after the other.

    A path is a corpus folder; a .tfrecord of one; a pack; a clip, with what is said in it in a file of the same name (.srt,
    .vtt, .txt) or in `transcript_file`; a .txt without a clip, a sentence a line; a .csv with the columns `file`, `sentence`
    (one may be missing), `id`, `start`, `end`; a folder of clips. window, hop: seconds; a clip becomes windows that begin every
    hop (the window's length if 0). only: ids of a corpus. any_extractor: features need not be made as the run's were. pack: more
    arguments of `python -m data_prep.import_pack`, through which packs go.
    Raises UserError.
    """
    if isinstance(inputs, Mapping):
        yield Item("0", {m: np.asarray(x) for m, x in inputs.items()}, sentence or "")
        return
    if isinstance(inputs, str | os.PathLike):
        inputs = [inputs]
    told = None if transcript_file is None else Path(transcript_file)
    if isinstance(inputs, Sequence):  # what comes one after the other is not known yet
        refuse_idle(inputs, sentence, told, window, hop, only is not None, bool(pack))
    mine = extractors or Extractors(model, encoding)
    wanted = None if only is None else set(only)
    alone = isinstance(inputs, Sequence) and len(inputs) == 1

    def of(path: Path) -> Iterator[Item]:
        kind = kind_of(path)
        if kind in ("corpus", "shard"):
            yield from of_corpus(path, model, wanted, any_extractor)
        elif kind == "pack":
            yield from of_pack(path, model, wanted, any_extractor, [*pack_encoder(model.manifest, encoding), *pack])
        else:
            for requests in requests_of(path, kind, mine, sentence, told, window, hop):
                yield from mine.items(requests)

    try:
        for one in inputs:
            if isinstance(one, Item):
                yield one
            elif isinstance(one, Mapping):
                yield Item("0", {m: np.asarray(x) for m, x in one.items()})
            else:
                try:
                    yield from of(Path(one))
                except NoEncoders:
                    raise
                except UserError as error:  # it must not cost the others
                    if alone:
                        raise
                    yield Item(str(one), error=str(error))
    finally:
        if extractors is None:
            mine.close()


# ---- features on disk ----


def of_corpus(path: Path, model: Reader, wanted: set[str] | None, any_extractor: bool) -> Iterator[Item]:
    """A corpus's utterances, or those of one of its shards."""
    corpus = Corpus(path if path.is_dir() else path.parent)
    for m, spec in model.modalities.items():
        if m not in corpus.modalities or any_extractor:
            continue
        have, want = corpus.modalities[m]["extractor"], spec["extractor"]
        if have == want:
            have, want = (weights_of(manifest, m) for manifest in (corpus, model.manifest))
        if have and want and have != want:
            raise UserError(
                f"{corpus.path}: its {m} features were made by {have!r}, the run's by {want!r}: the model "
                "would not understand them. Make them alike, or force it with --any-extractor"
            )
    rows = np.arange(len(corpus))
    if not path.is_dir():
        shards = [shard["file"] for shard in corpus.manifest["shards"]]
        if path.name not in shards:
            raise UserError(f"{path} is not a shard of the corpus beside it, whose manifest lists {', '.join(shards)}")
        rows = np.flatnonzero(corpus.shard == shards.index(path.name))
    if wanted is not None:
        rows = rows[np.isin(corpus.index["id"][rows], sorted(wanted))]
        if not len(rows):
            raise UserError(f"{path} holds none of the utterances asked for")
    for row in rows.tolist():
        try:
            found = corpus[row]
        except UserError as error:
            yield Item(str(corpus.index["id"][row]), error=str(error))
            continue
        features = {m: x for m, x in found.features.items() if m in model.modalities}
        yield Item(found.id, features, found.sentence, found.label, found.start, found.end)


def weights_of(manifest: Manifest, modality: str) -> str:
    """The sha256 of the modality's encoder; nothing where the manifest does not say."""
    sha256 = manifest.encoder(modality).get("weights_sha256")
    return f"weights of sha256 {sha256}" if sha256 else ""


def pack_encoder(manifest: Manifest, encoding: Encoding) -> list[str]:
    """Flags of the import, so that sentences without features go through the run's own text encoder; none if the run has none, or
    one from a folder of which nobody says where it is."""
    identity = manifest.encoder("text")
    if not identity or not (place := encoding.text or records.hub_name(identity)):
        return []
    layers = ",".join(map(str, identity["layers"]))
    return [f"--text-encoder={place}", f"--text-layers={layers}", f"--text-pooling={identity['pooling']}", f"--device={encoding.device}"]  # fmt: skip


def of_pack(
    path: Path, model: Reader, wanted: set[str] | None, any_extractor: bool, how: Sequence[str]
) -> Iterator[Item]:
    """A feature pack's utterances, through the import, whose own messages go to stderr; it reads a pack whole."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "corpus"
        command = [sys.executable, "-m", "data_prep.import_pack", str(path), "--out", str(out), *how]
        done = subprocess.run(command, stdout=sys.stderr)
        if done.returncode or not out.exists():
            raise UserError(f"{path} could not be imported; what `python -m data_prep.import_pack` says is above")
        yield from of_corpus(out, model, wanted, any_extractor)


# ---- clips and sentences ----


def requests_of(
    path: Path, kind: str, extractors: Extractors, sentence: str | None, told: Path | None, window: float, hop: float
) -> Iterator[Iterable[dict[str, Any]]]:
    """What the encoders are asked for one path; of windows clip by clip, since it takes an answer to know how many there are."""
    if kind == "folder":
        files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in MEDIA]
        if not files:
            raise UserError(f"{path} holds neither a corpus (no manifest.json) nor a clip ({', '.join(MEDIA)})")
        if window:
            for file in files:
                yield list(_windows(file, str(file.relative_to(path)), extractors, None, window, hop))
        else:
            yield (_whole(file, str(file.relative_to(path)), None, None) for file in files)
    elif kind == "clip":
        yield (
            list(_windows(path, path.name, extractors, told, window, hop))
            if window
            else [_whole(path, path.name, sentence, told)]
        )
    else:
        yield _of_table(path) if kind == "table" else _of_sentences(path)


def _beside(file: Path, told: Path | None) -> Path | None:
    """Where it is written what is said in a clip."""
    return told or next((p for p in map(file.with_suffix, TRANSCRIPTS) if p.is_file()), None)


def _wrong(name: str, error: UserError) -> dict[str, Any]:
    """Is answered with its error, and the others go on."""
    return {"id": name, "error": str(error)}


def _whole(file: Path, name: str, sentence: str | None, told: Path | None) -> dict[str, Any]:
    path = _beside(file, told)
    if sentence is None and path is not None:
        try:
            sentence = " ".join(line.text for line in transcript.read(path))
        except UserError as error:
            return _wrong(name, error)
    return {"id": name, "file": str(file), "sentence": sentence, "start": None, "end": None}


def _windows(
    file: Path, name: str, extractors: Extractors, told: Path | None, window: float, hop: float
) -> Iterator[dict[str, Any]]:
    path = _beside(file, told)
    try:
        lines = None if path is None else transcript.read(path)
        if lines is not None and any(line.start is None for line in lines):
            raise UserError(f"{path} has no times: windows need .srt or .vtt, or no transcript and --asr")
        whole = extractors.seconds(file)
    except NoEncoders:
        raise
    except UserError as error:
        yield _wrong(name, error)
        return
    for start, end in spans(whole, window, hop or window):
        said = None if lines is None else transcript.spoken(lines, start, end, window)
        yield {"id": f"{name}@{start:g}", "file": str(file), "sentence": said, "start": start, "end": end}


def spans(whole: float, window: float, step: float) -> Iterator[tuple[float, float]]:
    """Start and end of the windows, the last of which reaches the end of what is `whole` seconds long, or is the last that begins in it."""
    for i in range(max(0, math.ceil(round((whole - window) / step, 6))) + 1):
        if i == 0 or i * step < round(whole, 6):
            yield i * step, min(i * step + window, whole)


def _of_sentences(path: Path) -> Iterator[dict[str, Any]]:
    lines = [(i, line.strip()) for i, line in enumerate(transcript.text_of(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no sentence")
    for i, line in lines:
        yield {"id": f"{path.name}:{i}", "file": None, "sentence": line, "start": None, "end": None}


def _of_table(path: Path) -> Iterator[dict[str, Any]]:
    table = csv.DictReader(io.StringIO(transcript.text_of(path), newline=""), strict=True)
    try:
        yield from _of_rows(path, table)
    except csv.Error as error:
        raise UserError(f"{path}, line {table.line_num + 1}: {error}; a quote that is opened must be closed, and one inside quotes doubled") from None  # fmt: skip


def _of_rows(path: Path, table: "csv.DictReader[str]") -> Iterator[dict[str, Any]]:
    columns: Sequence[str] = table.fieldnames or ()
    if not {"file", "sentence"} & set(columns):
        raise UserError(
            f"{path}: it needs the column file or sentence, or both, and has {', '.join(columns) or 'nothing'}"
        )
    for record in table:
        name = record.get("id") or record.get("file") or f"{path.name}:{table.line_num}"
        try:
            yield _of_row(path, f"{path}, line {table.line_num}", name, record)
        except UserError as error:
            yield _wrong(name, error)


def _of_row(path: Path, where: str, name: str, record: dict[Any, Any]) -> dict[str, Any]:
    if None in record or None in record.values():
        raise UserError(f"{where}: it has another number of fields than the header")
    times = {}
    for column in ("start", "end"):
        try:
            times[column] = float(record[column]) if record.get(column) else None
        except ValueError:
            raise UserError(f"{where}: {column} is {record[column]!r}, not a number") from None
    clip = str(path.parent / record["file"]) if record.get("file") else None
    return {"id": name, "file": clip, "sentence": record.get("sentence"), **times}
