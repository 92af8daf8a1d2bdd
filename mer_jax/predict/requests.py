"""TODO: say what lives here."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mer_jax.errors import UserError
from mer_jax.predict import transcript
from mer_jax.predict.encoder_client import EncoderClient, EncodersUnavailable

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
TRANSCRIPTS = (".srt", ".vtt", ".txt")


# ---- clips and sentences ----


def requests_of(
    path: Path, kind: str, extractors: EncoderClient, sentence: str | None, told: Path | None, window: float, hop: float
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
    file: Path, name: str, extractors: EncoderClient, told: Path | None, window: float, hop: float
) -> Iterator[dict[str, Any]]:
    path = _beside(file, told)
    try:
        lines = None if path is None else transcript.read(path)
        if lines is not None and any(line.start is None for line in lines):
            raise UserError(f"{path} has no times: windows need .srt or .vtt, or no transcript and --asr")
        whole = extractors.seconds(file)
    except EncodersUnavailable:
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
