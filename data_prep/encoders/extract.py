"""Utterances with clips become utterances with features: clips are checked, encoded, and their features found by id."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.encoders.adapter import AudioAdapter, FrameAdapter
from data_prep.encoders.audio import SpeechEncoder
from data_prep.encoders.feature_cache import THREADS, FeatureCache, Progress, by_length, extract, refuse_no_room
from data_prep.encoders.media import Checked, Clip, check
from data_prep.encoders.opensmile import OpenSmile
from data_prep.encoders.text import TextEncoder
from data_prep.encoders.visual import FrameCoder, FrameEncoder
from mer_jax.data.corpus import Utterance
from mer_jax.data.length_limits import least_limit, percent
from mer_jax.errors import UserError

STREAMS = {"audio": "audio", "visual": "video"}  # modality -> the stream of a clip that it is made of
MAX_LISTED = 10  # broken clips listed one by one
AudioEncoder = SpeechEncoder | OpenSmile | AudioAdapter
AnyEncoder = TextEncoder | AudioEncoder | FrameEncoder | FrameCoder | FrameAdapter
Encoders = Mapping[str, AnyEncoder]


@dataclasses.dataclass(frozen=True)
class UtteranceClip:
    """An utterance that has no features yet, and its clip; messages name it as `where` says."""

    utterance: Utterance
    clip: Clip
    where: str


def check_clips(rows: Sequence[UtteranceClip], streams: tuple[str, ...]) -> tuple[dict[str, Checked], dict[str, str]]:
    """Returns by id what the whole clips are, and what is wrong with the broken ones. It decodes nothing."""
    checked: dict[str, Checked] = {}
    broken: dict[str, str] = {}
    progress = Progress("checking clips", len(rows))

    def one(row: UtteranceClip) -> Checked | UserError:
        try:
            return check(row.clip, streams)
        except UserError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        for row, found in zip(rows, pool.map(one, rows), strict=True):
            if isinstance(found, Checked):
                checked[row.utterance.id] = found
            else:
                broken[row.utterance.id] = f"{row.where}: {found}"
            progress.update(1)
    progress.close()
    print_sample_rates(rows, checked)
    return checked, broken


def print_sample_rates(rows: Sequence[UtteranceClip], checked: Mapping[str, Checked]) -> None:
    """Prints a note where the recordings' samples a second differ: what was cut off above half of the least is in some
    of them only, and may tell where they come from."""
    clips: dict[int, str] = {}
    counts: Counter[int] = Counter()
    for row in rows:
        if (found := checked.get(row.utterance.id)) and found.rate:
            clips.setdefault(found.rate, row.clip.name)
            counts[found.rate] += 1
    if len(counts) > 1:
        each = "; ".join(f"{n:,} of {rate:,} Hz, as {clips[rate]}" for rate, n in counts.most_common())
        print(
            f"note: the clips differ in sample rate: {each}. All are resampled to what the encoder reads; those of "
            f"{min(counts):,} Hz hold nothing above {min(counts) // 2:,} Hz"
        )


def refuse_broken(broken: Mapping[str, str]) -> None:
    if broken:
        more = [f"… and {len(broken) - MAX_LISTED} more"] if len(broken) > MAX_LISTED else []
        raise UserError(
            "\n  ".join([f"{len(broken)} clips cannot be used:", *list(broken.values())[:MAX_LISTED], *more])
            + "\nRepair them, or leave them out with --skip-broken."
        )


def features_of(
    rows: Sequence[UtteranceClip],
    checked: Mapping[str, Checked],
    encoders: Encoders,
    cache: Path,
    *,
    skip_broken: bool,
) -> tuple[list[UtteranceClip], dict[str, Mapping[str, np.ndarray]], dict[str, str]]:
    """Returns the rows that every encoder could read, by modality the features by id, and what is wrong with the other
    rows. Unless these are to be skipped, the first of them raises UserError."""
    features: dict[str, Mapping[str, np.ndarray]] = {}
    broken: dict[str, str] = {}
    refuse_no_room(encoders, {m: _sizes(rows, checked, encoder) for m, encoder in encoders.items()}, cache)
    for modality, encoder in encoders.items():
        ids = [row.utterance.id for row in rows]
        if isinstance(encoder, TextEncoder):
            states = encoder.states([row.utterance.sentence for row in rows])
            features[modality] = dict(zip(ids, states, strict=True))
            continue
        clips = {checked[row.utterance.id].key: row.clip for row in rows}
        seconds = {checked[row.utterance.id].key: checked[row.utterance.id].seconds for row in rows}
        keys = by_length(list(clips), [seconds[key] for key in clips])
        unreadable: dict[str, str] = {}
        found = extract(
            encoder, {key: clips[key] for key in keys}, cache, modality, unreadable if skip_broken else None
        )
        for row in rows:
            if (key := checked[row.utterance.id].key) in unreadable:
                broken[row.utterance.id] = f"{row.where}: {unreadable[key]}"
        features[modality] = ById(found, {i: checked[i].key for i in ids}, getattr(encoder, "restored", None))
        rows = [row for row in rows if row.utterance.id not in broken]
    return list(rows), features, broken


def _sizes(rows: Sequence[UtteranceClip], checked: Mapping[str, Checked], encoder: AnyEncoder) -> dict[str, int]:
    """Returns how many bytes the encoder's features take, by their keys in the cache."""
    if isinstance(encoder, TextEncoder):
        return encoder.room(sorted({row.utterance.sentence for row in rows}))
    clips = [checked[row.utterance.id] for row in rows]
    return {clip.key: encoder.room(min(clip.seconds, encoder.longest)) for clip in clips}


class ById(Mapping[str, Any]):
    """Features by utterance id, read from the cache one at a time; `restored` makes of what the cache holds what goes
    to a record."""

    def __init__(
        self, cache: FeatureCache, keys: Mapping[str, str], restored: Callable[[np.ndarray], Any] | None = None
    ):
        self.cache, self.keys_of, self.restored = cache, keys, restored

    def __getitem__(self, name: str) -> Any:
        found = self.cache[self.keys_of[name]]
        return found if self.restored is None else self.restored(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_of)

    def __len__(self) -> int:
        return len(self.keys_of)


def utterances(rows: Sequence[UtteranceClip], features: Mapping[str, Mapping[str, np.ndarray]]) -> Iterator[Utterance]:
    for row in rows:
        found = {modality: by_id[row.utterance.id] for modality, by_id in features.items()}
        yield dataclasses.replace(row.utterance, features=found)


def print_lengths(rows: Sequence[UtteranceClip], checked: Mapping[str, Checked], longest: float) -> dict[str, Any]:
    """Prints how many clips are cut to `longest` seconds, and returns what the provenance says of it; the audit reads
    the seconds."""
    seconds = np.array([checked[row.utterance.id].seconds for row in rows])
    over, total = int((seconds > longest).sum()), float(seconds.sum())
    cut = float(np.maximum(seconds - longest, 0).sum())
    if over:
        most = int(seconds.argmax())
        print(
            f"note: {over} clips are longer than {longest:g} s and cut to their beginning, {cut:.4g} of {total:.4g} s "
            f"in all ({percent(cut / total)}); the longest, {rows[most].clip.name}, has {seconds[most]:.1f} s"
        )
    found: dict[str, Any] = {"clips_over_longest": over}
    if over:
        enough = least_limit(np.ceil(seconds).astype(np.int64), None)
        found["seconds_over_longest"] = {"cut": round(cut, 2), "of": round(total, 2), "enough": enough}
    return found


def rates(encoders: Encoders) -> dict[str, float]:
    """Returns how many time steps a second of a clip gives, by modality, where that is the same for all clips."""
    found = {modality: encoder.steps_per_second for modality, encoder in encoders.items()}
    return {modality: rate for modality, rate in found.items() if rate is not None}


def axes(encoders: Encoders) -> dict[str, tuple[int, ...]]:
    """Returns the layers that are kept apart, by modality, where there are any."""
    found = {modality: encoder.axis for modality, encoder in encoders.items()}
    return {modality: layers for modality, layers in found.items() if layers}


def print_faces(rows: Sequence[UtteranceClip], visual: Mapping[str, np.ndarray]) -> int:
    """Prints and returns how many frames are whole because no face was found in them."""
    assert isinstance(visual, ById)
    counts = visual.cache.tally(visual.keys_of[row.utterance.id] for row in rows)
    without, frames = counts.sum(0).tolist()
    print(
        f"note: no face was found in {without} of {frames} frames, which are taken whole; "
        f"{int((counts[:, 0] == counts[:, 1]).sum())} of {len(counts)} clips have none at all"
    )
    return int(without)


def digest(rows: Sequence[UtteranceClip], checked: Mapping[str, Checked]) -> str:
    """Returns one sha256 of all clips' names and contents."""
    lines = sorted({f"{checked[row.utterance.id].sha256} {row.clip.name}\n" for row in rows})
    return hashlib.sha256("".join(lines).encode()).hexdigest()
