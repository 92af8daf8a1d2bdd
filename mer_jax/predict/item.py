"""TODO: say what lives here."""

import dataclasses
from collections.abc import Mapping
from typing import Any


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
