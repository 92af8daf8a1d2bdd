"""Clips, transcripts, sentences and tables -> what the encoders are asked for, one request for every item."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mer_jax.errors import UserError
from mer_jax.predict import transcript
from mer_jax.predict.encoder_client import EncoderClient, EncodersUnavailable
from mer_jax.predict.item import InputOptions
from mer_jax.predict.table import Request, requests_of_table
from mer_jax.text_files import text_of

AUDIO = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac")
VIDEO = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".wmv")
MEDIA = AUDIO + VIDEO
TRANSCRIPTS = (".srt", ".vtt", ".txt")
UNTIMED = "when it is said in the clip is not known: only its words are read"


def requests_of(path: Path, kind: str, options: InputOptions, encoders: EncoderClient) -> Iterator[Iterable[Request]]:
    """The requests for one path of a `kind` of `inputs.KINDS`; of windows clip by clip, since it takes an answer of the
    encoders to know how many there are."""
    if kind == "table":
        yield requests_of_table(path, options.by_dialogue)
        return
    if kind in ("transcript", "list of sentences"):
        yield _of_text(path, kind)
        return
    clips = [(path, path.name)]
    if kind == "folder":
        clips = _clips_in(path)
        options = dataclasses.replace(options, sentence=None, transcript_file=None)
    if options.window:
        for file, name in clips:
            yield list(_windows(file, name, options, encoders))
    else:
        yield (request for file, name in clips for request in _of_clip(file, name, options))


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


def _of_clip(file: Path, name: str, options: InputOptions) -> Iterator[Request]:
    """The request for a whole clip, or those for its turns if its transcript says who speaks."""
    sentence, path = options.sentence, _transcript_of(file, options)
    if sentence is None and path is not None:
        try:
            lines = transcript.read(path)
        except UserError as error:
            yield _failed(name, error)
            return
        if transcript.has_speakers(lines):
            yield from _turns(lines, name, file)
            return
        sentence = " ".join(line.text for line in lines)
    yield {"id": name, "file": str(file), "sentence": sentence, "start": None, "end": None}


def _turns(lines: Sequence[transcript.Line], name: str, clip: Path | None = None) -> Iterator[Request]:
    """The requests for the turns of a conversation, in the order of their beginnings: the parts of the clip, if
    there is one and the times are known, else their words alone."""
    dialogue = Path(name).with_suffix("").as_posix()
    for turn, line in enumerate(sorted(lines, key=lambda line: line.start or 0.0)):
        timed = line.start is not None
        yield {
            "id": f"{name}:{turn}",
            "file": str(clip) if clip and timed else None,
            "sentence": line.text,
            "start": line.start,
            "end": line.end if clip or line.end != line.start else None,
            "dialogue": dialogue,
            "turn": turn,
            "speaker": line.speaker,
            "notes": (UNTIMED,) if clip and not timed else (),
        }


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


def _of_text(path: Path, kind: str) -> Iterator[Request]:
    """The turns of a transcript without a clip; of a .txt in which nobody is named its lines, each by itself."""
    said = transcript.read(path)
    if not said:
        raise UserError(f"{path} holds no sentence")
    if kind == "transcript" or transcript.has_speakers(said):
        yield from _turns(said, path.name)
        return
    for i, line in enumerate(text_of(path).splitlines(), 1):
        if words := line.strip():
            yield {"id": f"{path.name}:{i}", "file": None, "sentence": words, "start": None, "end": None}
