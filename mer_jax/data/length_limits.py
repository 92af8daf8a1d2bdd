"""How much of every sequence is read, in seconds where the corpus knows them, and how much that leaves unread. No JAX.

A limit bounds memory; it should cut nothing but what is no ordinary clip. What is cut all the same is told.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mer_jax.data.corpus import encoder_of
from mer_jax.errors import UserError

DEFAULT_SECONDS = 60.0  # read where the rate is known; the longest turn of IEMOCAP has 34 s, whole clips of MELD 41
DEFAULT_STEPS = 4096  # read elsewhere: 41 s of 100 steps a second
UNREAD_PROBLEM = 0.01  # share of a modality's time; leaving more than that unread is a problem
ENTRY = re.compile(r"(?:(?P<modality>[A-Za-z_]\w*):)?(?P<number>\d+(?:\.\d+)?)(?P<unit>s?)")
FLAG = "--config.data.max_length"
RIGHT = (
    f"time steps or seconds, for all modalities or by name, as in {FLAG}=48, {FLAG}=30s or {FLAG}=audio:30s+text:64; "
    "or one number of steps for each modality, as in '(64,1)'"
)
# Steps a second of encoders whose older corpora do not say it, by the encoder's name.
OLD_RATES = {"openSMILE eGeMAPSv02 low-level descriptors": 100.0}

Setting = Sequence[int | str]  # what stands in data.max_length


@dataclasses.dataclass(frozen=True)
class Limit:
    """At most so many time steps or seconds are read of a modality."""

    number: float
    seconds: bool

    def __str__(self) -> str:
        """As `parse_limits` reads it."""
        whole = int(self.number) if self.number.is_integer() else self.number
        return f"{whole}s" if self.seconds else f"{whole}"


def parse_limits(setting: Setting, modalities: Sequence[str]) -> dict[str, Limit]:
    """The limits that data.max_length sets, by modality; of those that are not named, the key "" is. Raises ValueError,
    saying what is wrong."""
    if setting and all(type(item) is int for item in setting):
        if len(setting) not in (1, len(modalities)):
            raise ValueError(f"there are {len(setting)} numbers for {len(modalities)} modalities")
        if any(int(item) < 1 for item in setting):
            raise ValueError("a number of time steps is 1 or more")
        names = ("",) if len(setting) == 1 else modalities
        return {m: Limit(float(n), seconds=False) for m, n in zip(names, setting, strict=True)}
    found: dict[str, Limit] = {}
    for text in (part.strip() for item in setting for part in re.split("[+,]", str(item))):
        entry = ENTRY.fullmatch(text)
        if not entry or not float(entry["number"]) > 0 or not (entry["unit"] or entry["number"].isdigit()):
            raise ValueError(f"{text!r} is no length")
        name = entry["modality"] or ""
        if name and name not in modalities:
            raise ValueError(f"{name!r} is not read; data.modalities is {','.join(modalities)}")
        if name in found:
            raise ValueError(f"{name or 'a length for all'} is given twice")
        found[name] = Limit(float(entry["number"]), seconds=bool(entry["unit"]))
    return found


def check_setting(setting: Setting, modalities: Sequence[str]) -> None:
    """Raises UserError unless data.max_length can be understood."""
    try:
        parse_limits(setting, modalities)
    except ValueError as error:
        given = setting[0] if len(setting) == 1 else tuple(setting)
        raise UserError(f"{FLAG}={given}: must be {RIGHT}; {error}") from None


def steps_per_second(manifest: Mapping[str, Any], modality: str) -> float | None:
    """How many time steps a second of a clip gives; None where the corpus does not say it, or a step is no time (a
    token, one of so many frames spread evenly over a clip, a mean over the whole clip)."""
    rate = manifest["modalities"][modality].get("steps_per_second")
    if rate is not None:
        return float(rate)
    encoder = encoder_of(manifest, modality)
    every, name = encoder.get("every"), encoder.get("name")
    if encoder.get("pooling") == "tokens" and isinstance(every, int) and every > 0 and name in OLD_RATES:
        return OLD_RATES[name] / every
    return None


def length_limits(setting: Setting, modalities: Sequence[str], manifest: Mapping[str, Any]) -> dict[str, int]:
    """How many time steps of each modality are read, at most. Raises UserError for seconds of a modality whose rate is
    not known."""
    chosen = parse_limits(setting, modalities)
    limits = {}
    for m in modalities:
        rate = steps_per_second(manifest, m)
        default = Limit(float(DEFAULT_STEPS), seconds=False) if rate is None else Limit(DEFAULT_SECONDS, seconds=True)
        limit = chosen.get(m, chosen.get("", default))
        if limit.seconds and rate is None:
            if m in chosen:
                raise UserError(
                    f"{FLAG}={m}:{limit}: the corpus does not say how many time steps of {m} are a second; "
                    f"give steps, as in {FLAG}={m}:{DEFAULT_STEPS}"
                )
            limit = default
        limits[m] = math.ceil(limit.number * rate - 1e-6) if limit.seconds and rate is not None else int(limit.number)
    return limits


@dataclasses.dataclass(frozen=True)
class Unread:
    """What a limit leaves unread of a modality, in time steps: `steps` of `total`, the ends of `utterances` sequences
    that are longer than `limit`. enough: the least limit that leaves no problem. rate: time steps a second, if known.
    """

    modality: str
    limit: int
    steps: int
    total: int
    utterances: int
    enough: int
    rate: float | None

    @property
    def share(self) -> float:
        return self.steps / max(1, self.total)

    @property
    def is_problem(self) -> bool:
        return self.share > UNREAD_PROBLEM

    def in_words(self) -> str:
        """`audio: 96 of 380 s (25 %) are not read: the ends of 12 sequences longer than 1.28 s`"""
        return (
            f"{self.modality}: {as_time(self.steps, self.rate, unit=False)} of {as_time(self.total, self.rate)} "
            f"({percent(self.share)}) are not read: the ends of {self.utterances:,} sequences longer than "
            f"{as_time(self.limit, self.rate)}"
        )

    def to_json(self) -> dict[str, Any]:
        """What metrics.json says of it."""
        found = {name: getattr(self, name) for name in ("limit", "steps", "total", "utterances")}
        found["share"] = round(self.share, 6)
        return found if self.rate is None else found | {"steps_per_second": self.rate}


def percent(share: float) -> str:
    """`25 %`, `0.13 %`"""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def as_time(steps: int, rate: float | None, *, unit: bool = True) -> str:
    """Time steps in words: in seconds where the rate is known."""
    number, word = (f"{steps:,}", " steps") if rate is None else (f"{steps / rate:,.4g}", " s")
    if rate is not None and steps / rate >= 1e4:
        number = f"{steps / rate:,.0f}"
    return number + word * unit


def unread(lengths: Mapping[str, np.ndarray], limits: Mapping[str, int], manifest: Mapping[str, Any]) -> list[Unread]:
    """What limits leave unread of sequences of these lengths, of every modality."""
    found = []
    for m, limit in limits.items():
        n = np.asarray(lengths[m], np.int64)
        over = np.maximum(n - limit, 0)
        total, rate = int(n.sum()), steps_per_second(manifest, m)
        enough = least_limit(n, rate)
        found.append(Unread(m, limit, int(over.sum()), total, int((over > 0).sum()), enough, rate))
    return found


def cut_in_extraction(manifest: Mapping[str, Any]) -> tuple[str, str, bool] | None:
    """What the extraction of the features left out of over-long clips, what to do, and whether it is a problem; None
    where nothing is known to be left out."""
    cut = (manifest.get("provenance") or {}).get("seconds_over_longest")
    if not cut:
        return None
    share = cut["cut"] / max(cut["of"], 1e-9)
    text = f"extraction left out {cut['cut']:.4g} of {cut['of']:.4g} s ({percent(share)}), the ends of over-long clips"
    if share <= UNREAD_PROBLEM:
        return text, "say so beside every figure", False
    return (
        text,
        f"extract again with --longest={cut['enough']}, which leaves out {100 * UNREAD_PROBLEM:g} % or less",
        True,
    )


def least_limit(lengths: np.ndarray, rate: float | None) -> int:
    """The least limit, in steps, that leaves no more unread than is no problem; of whole seconds where there are
    some."""
    low, high = 0, int(lengths.max(initial=1))
    allowed = UNREAD_PROBLEM * lengths.sum()
    while high - low > 1:
        middle = (low + high) // 2
        enough = np.maximum(lengths - middle, 0).sum() <= allowed
        low, high = (low, middle) if enough else (middle, high)
    return high if rate is None else math.ceil(math.ceil(high / rate) * rate - 1e-6)


def unread_problems(found: Sequence[Unread], setting: Setting) -> list[str]:
    """A line for every modality of which too much is unread, with the flag that mends it."""
    bad = [one for one in found if one.is_problem]
    chosen = parse_limits(setting, [one.modality for one in found])
    entries = []
    for one in found:
        limit = chosen.get(one.modality, chosen.get(""))
        if one.is_problem and one.rate is not None:
            entries.append(f"{one.modality}:{math.ceil(one.enough / one.rate - 1e-6)}s")
        elif one.is_problem:
            entries.append(f"{one.modality}:{one.enough}")
        elif limit is not None and not (limit.seconds and one.rate is None):
            entries.append(f"{one.modality}:{limit}")
    share = f"{100 * UNREAD_PROBLEM:g} %"
    return [f"{one.in_words()}; {FLAG}={'+'.join(entries)} reads all but {share} or less of each" for one in bad]
