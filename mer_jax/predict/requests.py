"""Clips, sentences and tables -> what the encoders are asked for, one request for every item."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mer_jax.errors import UserError
from mer_jax.predict import transcript
from mer_jax.predict.encoder_client import EncoderClient, EncodersUnavailable
from mer_jax.predict.item import InputOptions
from mer_jax.text_files import csv_records, seconds, text_of, whole_line

AUDIO = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac")
VIDEO = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".wmv")
MEDIA = AUDIO + VIDEO
TRANSCRIPTS = (".srt", ".vtt", ".txt")

Request = dict[str, Any]  # see data_prep/stream.py


def requests_of(path: Path, kind: str, options: InputOptions, encoders: EncoderClient) -> Iterator[Iterable[Request]]:
    """The requests for one path of a `kind` of `inputs.KINDS`; of windows clip by clip, since it takes an answer of the
    encoders to know how many there are."""
    if kind == "table":
        yield _of_table(path)
        return
    if kind == "list of sentences":
        yield _of_sentences(path)
        return
    clips = [(path, path.name)]
    if kind == "folder":
        clips = _clips_in(path)
        options = dataclasses.replace(options, sentence=None, transcript_file=None)
    if options.window:
        for file, name in clips:
            yield list(_windows(file, name, options, encoders))
    else:
        yield (_whole(file, name, options) for file, name in clips)


def _clips_in(folder: Path) -> list[tuple[Path, str]]:
    files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in MEDIA]
    if not files:
        raise UserError(f"{folder} holds neither a corpus (no manifest.json) nor a clip ({', '.join(MEDIA)})")
    return [(file, str(file.relative_to(folder))) for file in files]


def _transcript_of(file: Path, options: InputOptions) -> Path | None:
    """Where it is written what is said in a clip."""
    return options.transcript or next((p for p in map(file.with_suffix, TRANSCRIPTS) if p.is_file()), None)


def _failed(name: str, error: UserError) -> Request:
    """A request that is answered with its error, so that the others go on."""
    return {"id": name, "error": str(error)}


def _whole(file: Path, name: str, options: InputOptions) -> Request:
    """The request for a whole clip."""
    sentence, path = options.sentence, _transcript_of(file, options)
    if sentence is None and path is not None:
        try:
            sentence = " ".join(line.text for line in transcript.read(path))
        except UserError as error:
            return _failed(name, error)
    return {"id": name, "file": str(file), "sentence": sentence, "start": None, "end": None}


def _windows(file: Path, name: str, options: InputOptions, encoders: EncoderClient) -> Iterator[Request]:
    """The requests for the windows of a clip."""
    path, window = _transcript_of(file, options), options.window
    try:
        lines = None if path is None else transcript.read(path)
        if lines is not None and any(line.start is None for line in lines):
            raise UserError(f"{path} has no times: windows need .srt or .vtt, or no transcript and --asr")
        length = encoders.seconds(file)
    except EncodersUnavailable:
        raise
    except UserError as error:
        yield _failed(name, error)
        return
    for start, end in window_spans(length, window, options.hop or window):
        sentence = None if lines is None else transcript.spoken(lines, start, end, window)
        yield {"id": f"{name}@{start:g}", "file": str(file), "sentence": sentence, "start": start, "end": end}


def window_spans(length: float, window: float, hop: float) -> Iterator[tuple[float, float]]:
    """Start and end of the windows of a clip, in seconds. The last window reaches the end, or is the last that begins
    before it."""
    for i in range(max(0, math.ceil(round((length - window) / hop, 6))) + 1):
        if i == 0 or i * hop < round(length, 6):
            yield i * hop, min(i * hop + window, length)


def _of_sentences(path: Path) -> Iterator[Request]:
    lines = [(i, line.strip()) for i, line in enumerate(text_of(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no sentence")
    for i, line in lines:
        yield {"id": f"{path.name}:{i}", "file": None, "sentence": line, "start": None, "end": None}


def _of_table(path: Path) -> Iterator[Request]:
    records = csv_records(path)
    _, columns = next(records)
    if not {"file", "sentence"} & set(columns):
        raise UserError(
            f"{path}: it needs the column file or sentence, or both, and has {', '.join(columns) or 'nothing'}; "
            "a table of features is read with --mapping"
        )
    for line, record in records:
        name = record.get("id") or record.get("file") or f"{path.name}:{line}"
        try:
            yield _of_row(path, f"{path}, line {line}", name, record)
        except UserError as error:
            yield _failed(name, error)


def _of_row(path: Path, where: str, name: str, record: dict[str, str]) -> Request:
    record = whole_line(where, record)
    times = {column: seconds(where, column, record.get(column)) for column in ("start", "end")}
    clip = str(path.parent / record["file"]) if record.get("file") else None
    return {"id": name, "file": clip, "sentence": record.get("sentence"), **times}
