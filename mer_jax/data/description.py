"""What a writer states of a corpus, and the checks that nothing of it or of its utterances is lost on the disk."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mer_jax.data.corpus import DTYPES, SPLITS, TEXT_COLUMNS, Utterance
from mer_jax.data.frames import CODINGS, EncodedFrames
from mer_jax.data.targets import Target, check_target, check_value
from mer_jax.errors import UserError

LONGEST_TEXT = 1000  # characters: an index gives every id the room of the longest
MOST_SECONDS = 1e9
NUMBERS = (int, float, np.integer, np.floating)


@dataclasses.dataclass(frozen=True)
class Description:
    """What a writer states of a corpus; everything countable is counted by `write_corpus` itself.

    `extractors[m]` says how modality m was made; `label_embeddings` is [classes, width] in the space of modality
    `label_space` (or of an encoder of that name, which no modality uses), of one of its layers or of all where it has
    several; `label_words` are the words it was made of; `protocol` names and describes the split; `tokens[m]` says that
    a time step of m is so many tokens side by side, `layers[m]` that it is these hidden layers of an encoder;
    `trained_on[m]` names the splits on whose labels the features of m were trained: no other protocol may test on
    these. `made_by[m]` names the encoder that made them, as its hub does, where provenance does not hold its identity.
    `steps_per_second[m]`: how many time steps of m a second of a clip gives, where that is the same for all. targets:
    what else than the class can be asked for; labels may be none where there are such. groups: the names of what people
    are told apart by.
    """

    name: str
    labels: tuple[str, ...]
    extractors: Mapping[str, str]
    label_words: tuple[str, ...]
    label_embeddings: np.ndarray
    label_space: str
    protocol: Mapping[str, str]
    provenance: Mapping[str, Any]
    licence: str
    bayes_accuracy: Mapping[str, float] | None = None
    tokens: Mapping[str, int] = dataclasses.field(default_factory=dict)
    layers: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    trained_on: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    made_by: Mapping[str, str] = dataclasses.field(default_factory=dict)
    steps_per_second: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bayes_scores: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
    targets: tuple[Target, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, tuple[float | int, float | int]]:
        """The numbers that records hold, by name, and the range of each."""
        pairs = (zip(target.names, target.ranges, strict=True) for target in self.targets)
        return {name: span for found in pairs for name, span in found}

    @property
    def levels(self) -> set[str]:
        """Which of the numbers count through classes."""
        return {name for t in self.targets if t.kind in ("ordinal", "classification") for name in t.names}


def check_utterance(utterance: Utterance, description: Description, specs: dict[str, dict[str, Any]]) -> None:
    where = f"utterance {shortened(utterance.id)}"
    _check_readable(where, utterance)
    if utterance.label not in ("", *description.labels):
        raise UserError(f"{where}: label {utterance.label!r} is not one of {', '.join(description.labels)}")
    if utterance.split not in SPLITS:
        raise UserError(f"{where}: split {utterance.split!r} is not one of {', '.join(SPLITS)}")
    if not all(len(vote) == 2 and all(vote) for vote in utterance.votes):
        raise UserError(f"{where}: votes are pairs of a rater and a label, not {utterance.votes!r}")
    _check_named(where, utterance, description)
    for modality, value in utterance.features.items():
        if modality not in description.extractors:
            raise UserError(f"{where}: modality {modality!r} is not declared")
        if not modality.isidentifier():
            raise UserError(f"{where}: modality {modality!r} is no name; use letters, as in text, audio, visual")
        found = _spec(where, modality, value)
        spec = specs.setdefault(modality, {**found, "longest": 0})
        if spec | found != spec:
            raise UserError(
                f"{where}: {modality} is {describe_spec(found)}; the utterances before it are {describe_spec(spec)}"
            )
        spec["longest"] = max(spec["longest"], len(value))


def _check_named(where: str, utterance: Utterance, description: Description) -> None:
    """Raises UserError unless the utterance's numbers and groups are declared, and numbers lie in their ranges."""
    for name, value in utterance.values.items():
        if name not in description.numbers:
            raise UserError(f"{where}: the number {name!r} is of no target that is declared")
        check_value(where, name, value, *description.numbers[name])
        if name in description.levels and value != int(value):
            raise UserError(f"{where}: {name} is {value:g}; it counts through classes, and must be a whole number")
    for name, value in utterance.spreads.items():
        if name not in utterance.values or not 0 <= value < math.inf:
            raise UserError(f"{where}: the spread of {name} is {value!r}; it takes its value, and a number from 0")
    for name, text in utterance.groups.items():
        if name not in description.groups:
            raise UserError(f"{where}: the group {name!r} is not declared")
        check_text(f"{where}: {name}", text, LONGEST_TEXT)


def _check_readable(where: str, utterance: Utterance) -> None:
    """Raises UserError for what a record or an index cannot hold, so that it would come back as something else."""
    for name in TEXT_COLUMNS:
        check_text(f"{where}: {name}", getattr(utterance, name), LONGEST_TEXT)
    if not utterance.id:
        raise UserError(f"{where}: the id is empty; give every utterance its own")
    check_text(f"{where}: sentence", utterance.sentence)
    for vote in utterance.votes:
        for text in vote:
            check_text(f"{where}: a vote", text, LONGEST_TEXT)
    turn = utterance.turn
    if isinstance(turn, bool) or not isinstance(turn, int | np.integer) or not -(2**31) <= turn < 2**31:
        raise UserError(
            f"{where}: turn {shortened(turn)} is no whole number of 32 bits; count the turns of a dialogue from 0"
        )
    for name in ("start", "end"):
        seconds = getattr(utterance, name)
        if seconds is not None and not (
            isinstance(seconds, NUMBERS) and abs(float(seconds)) <= MOST_SECONDS
        ):  # nor NaN
            raise UserError(f"{where}: {name} {shortened(seconds)} is no number of seconds up to {MOST_SECONDS:.0e}")


def check_text(what: str, text: Any, longest: int | None = None) -> None:
    """Raises UserError unless it is a string that comes back as it was written."""
    if not isinstance(text, str):
        raise UserError(f"{what} is {shortened(text)}, which is no text; write it as a string")
    if longest is not None and len(text) > longest:
        raise UserError(f"{what} {shortened(text)} has {len(text)} characters; at most {longest} are read quickly")
    if longest is not None and "\0" in text:
        raise UserError(f"{what} {shortened(text)} holds the character NUL, which is lost in an index; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        bad = text[error.start]
        raise UserError(
            f"{what} {shortened(text)} holds half of a character ({bad!r}, a surrogate), which UTF-8 cannot "
            "write; read the source with its right encoding"
        ) from None


def shortened(value: Any) -> str:
    """A value of any length in a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def check_description(description: Description) -> None:
    """Raises UserError for what a manifest cannot say."""
    for label in (*description.labels, *description.label_words):
        check_text("a label", label, LONGEST_TEXT)
    if len(set(description.labels)) < len(description.labels):
        raise UserError(f"a label occurs twice in {', '.join(description.labels)}")
    if not description.labels and not description.targets:
        raise UserError("the corpus has neither labels nor targets; say what is to be learnt of it")
    for name in ("name", "label_space", "extractors", "protocol"):
        if not getattr(description, name):
            raise UserError(f"the corpus's {name} is empty; say what it is")
    _check_targets(description)
    if not np.isfinite(np.asarray(description.label_embeddings, np.float32)).all():
        raise UserError("label_embeddings hold NaN or infinite values")
    for name in ("name", "label_space", "extractors", "protocol", "provenance", "licence"):
        try:
            text = json.dumps(getattr(description, name), ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise UserError(f"the corpus's {name} cannot be written as JSON: {error}") from None
        check_text(f"the corpus's {name}", text)


def _check_targets(description: Description) -> None:
    names, ranges = [target.name for target in description.targets], dict[str, Any]()
    if len(set(names)) < len(names):
        raise UserError(f"a target occurs twice in {', '.join(names)}")
    for target in description.targets:
        check_target("the corpus", target)
        for name, span in zip(target.names, target.ranges, strict=True):
            if ranges.setdefault(name, span) != span:
                raise UserError(f"target {target.name!r}: {name} has another range in a target before it")
    for name in (*ranges, *description.groups):
        check_text("a name", name, LONGEST_TEXT)
        if not name or "/" in name or (name in ("speaker", "session", *description.groups) and name in ranges):
            raise UserError(f"{name!r} is no name of a number or group: it is not empty, without '/', and not taken")
    if taken := {"speaker", "session", "dialogue", "label"} & set(description.groups):
        raise UserError(f"the group {sorted(taken)[0]!r} is a field of every utterance already")


def _spec(where: str, modality: str, value: Any) -> dict[str, Any]:
    """What all utterances of a modality have in common; frames have their size in `pixels`."""
    if isinstance(value, EncodedFrames):
        if not len(value) or value.coding not in CODINGS:
            raise UserError(
                f"{where}: {modality} must be frames of {', '.join(CODINGS)}, not {len(value)} of {value.coding}"
            )
        size = [value.height, value.width]
        return {"width": 3 * value.height * value.width, "dtype": value.coding, "pixels": size}
    if not isinstance(value, np.ndarray):
        raise UserError(f"{where}: {modality} must be an array, not a {type(value).__name__}")
    if value.ndim != 2 or 0 in value.shape or value.dtype.name not in DTYPES:
        raise UserError(
            f"{where}: {modality} must be [time >= 1, width >= 1] of {' or '.join(DTYPES)}, "
            f"not {list(value.shape)} of {value.dtype}"
        )
    return {"width": value.shape[1], "dtype": value.dtype.name}


def describe_spec(spec: Mapping[str, Any]) -> str:
    """Width and type of a modality, in words."""
    if "pixels" in spec:
        return "{} x {} pixels".format(*spec["pixels"]) + f" as {spec['dtype']}"
    layers = spec.get("layers", ())
    each = f", layers {', '.join(map(str, layers))} of {spec['width'] // len(layers)} each" if layers else ""
    return f"{spec['width']} wide of {spec['dtype']}{each}"
