"""The encoders of an existing corpus are built again from what its manifest says of them. They are refused unless they
are the same."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from data_prep.encoders.adapter import AudioAdapter, FrameAdapter, is_adapter
from data_prep.encoders.audio import SpeechEncoder
from data_prep.encoders.extract import AnyEncoder, AudioEncoder
from data_prep.encoders.opensmile import OpenSmile, set_of
from data_prep.encoders.pretrained import Placement
from data_prep.encoders.selection import Selection
from data_prep.encoders.text import TextEncoder
from data_prep.encoders.visual import PICTURES, FrameCoder, FrameEncoder
from mer_jax import schema
from mer_jax.data.corpus import encoder_of, hub_name
from mer_jax.errors import UserError
from mer_jax.schema import Above0, Count, Positive, Text

# These may be different from then: they change roundings. Weights are pinned by their sha256, not by the hub's
# revision; `padded` is what a trial of the model on this machine shows.
LOOSE = ("device", "transformers", "torch", "av", "pillow", "opensmile", "faces.opencv", "revision", "padded")
EVENLY, RATE = re.compile(r"(\d+) frames evenly spread"), re.compile(r"(\S+) frames a second")


class AnyIdentity(TypedDict):
    """What the manifest says of an encoder and is used here; it says more."""

    name: Text
    averaged: NotRequired[bool]
    apart: NotRequired[bool]
    precision: NotRequired[Text]
    adapter_sha256: NotRequired[Text]


class TextIdentity(AnyIdentity):
    layers: list[Count]
    pooling: Text


class AudioIdentity(AnyIdentity):
    pooling: Text
    every: Positive
    longest: Above0
    layers: NotRequired[list[Count]]


class VisualIdentity(AnyIdentity):
    frames: Text
    longest: Above0
    frame: NotRequired[Text]
    pooling: NotRequired[Text]
    layers: NotRequired[list[Count]]
    size: NotRequired[Positive]


IDENTITIES: dict[str, Any] = {"text": TextIdentity, "audio": AudioIdentity, "visual": VisualIdentity}
PATCHES = re.compile(r"mean over the patches of hidden layers ([\d, ]+) of \d+")


def encoders_of(
    manifest: Mapping[str, Any], modalities: Sequence[str], places: Mapping[str, str], device: str, cache: Path
) -> tuple[dict[str, AnyEncoder], list[str]]:
    """Returns the encoders of the modalities, and notes on what is different from then. `places` holds the names or
    paths that the user gives for encoders, by modality. Raises UserError for features that no encoder here can make,
    and for an encoder that is another one."""
    made: dict[str, AnyEncoder] = {}
    notes: list[str] = []
    for modality in modalities:
        identity = read_old(identity_of(manifest, modality))
        made[modality] = encoder_from_identity(modality, identity, places.get(modality), device, cache)
        notes += compare(modality, identity, made[modality].identity)
    return made, notes


def identity_of(manifest: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """Returns what the manifest says of the modality's encoder. Raises UserError if the features are of none."""
    if modality not in manifest["modalities"]:
        has = ", ".join(manifest["modalities"])
        raise UserError(f"the run's corpus {manifest.get('name')} has no modality {modality!r}; it has {has}")
    if not (found := encoder_of(manifest, modality)):
        made = manifest["modalities"][modality].get("extractor")
        raise UserError(
            f"this run's {modality} features were made by ‘{made}’, which is not an encoder that can be run here: "
            "give features (a corpus folder or a pack) instead of clips, "
            "or a run on a corpus that python -m data_prep.clips, or an importer of recordings, has made"
        )
    return found


def encoder_from_identity(
    modality: str, identity: Mapping[str, Any], place: str | None, device: str, cache: Path
) -> AnyEncoder:
    """Makes an encoder with all settings of the identity; `place` is where its model is, if the identity does not
    tell."""
    if modality not in IDENTITIES:
        raise UserError(f"there are no encoders of a modality {modality!r}; there are of {', '.join(IDENTITIES)}")
    try:
        schema.check(dict(identity), IDENTITIES[modality])
        if is_adapter(place) and "adapter_sha256" not in identity:
            raise UserError(f"--{modality}-encoder={place}: this run's is {identity['name']}, which no adapter makes")
        placement = Placement(device, identity.get("precision", "float32"))
        if modality == "text":
            where = place or _place(modality, identity)
            return TextEncoder(where, Selection.from_identity(identity), cache, placement)
        return (_audio if modality == "audio" else _visual)(identity, place, placement)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"the manifest's {modality}_encoder is not one of this project's: {what}") from None


def read_old(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the identity as it is written today: before 0.12 only the words of a frame's vector told its layers."""
    patches = PATCHES.fullmatch(str(identity.get("frame")))
    layers = {"layers": [int(layer) for layer in patches[1].split(", ")]} if patches else {}
    return layers | dict(identity)


def _audio(identity: Mapping[str, Any], place: str | None, placement: Placement) -> AudioEncoder:
    selection, longest = Selection.from_identity(identity), identity["longest"]
    if features := set_of(identity["name"]):
        _refuse_place("audio", identity, place, features)
        return OpenSmile(features, selection, longest=longest)
    where = place or _place("audio", identity)
    kind = AudioAdapter if "adapter_sha256" in identity else SpeechEncoder
    return kind(where, selection, longest=longest, placement=placement)


def _visual(
    identity: Mapping[str, Any], place: str | None, placement: Placement
) -> FrameCoder | FrameEncoder | FrameAdapter:
    evenly, rate = EVENLY.fullmatch(identity["frames"]), RATE.fullmatch(identity["frames"])
    if not (evenly or rate):
        frames = repr(identity["frames"])
        raise UserError(f"the manifest's visual_encoder: frames is {frames}, not as in 15 frames evenly spread")
    shape: dict[str, Any] = {"faces": "faces" in identity, "longest": identity["longest"]}
    shape |= {"frames": int(evenly[1])} if evenly else {"per_second": float(rate[1])} if rate else {}
    if "size" in identity:
        coding = "png" if identity["name"] == "PNG" else "jpeg"
        _refuse_place("visual", identity, place, *PICTURES)
        return FrameCoder(coding, identity["size"], **shape)
    where = place or _place("visual", identity)
    kind: Any = FrameAdapter if "adapter_sha256" in identity else FrameEncoder
    return kind(where, Selection.from_identity(identity), placement=placement, **shape)


def _place(modality: str, identity: Mapping[str, Any]) -> str:
    """Returns the hub name. Raises UserError for a local folder or file."""
    if "adapter_sha256" in identity:
        raise UserError(
            f"this run's {modality} encoder is the adapter {identity['name']!r}: say where its file is, "
            f"--{modality}-encoder=FILE.py"
        )
    if not (name := hub_name(identity)):
        raise UserError(
            f"this run's {modality} encoder was read from a folder called {str(identity['name'])!r}: "
            f"say where it is, --{modality}-encoder=PATH"
        )
    return name


def _refuse_place(modality: str, identity: Mapping[str, Any], place: str | None, *names: str) -> None:
    if place and place not in names:
        raise UserError(
            f"--{modality}-encoder={place}: this run's {modality} features are {identity['name']}, no model's; "
            "leave the flag out"
        )


def compare(modality: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns notes on what is different and may be. Raises UserError naming the field if anything else is."""
    old, new = _flat(then), _flat(now)
    different = [field for field in dict.fromkeys([*old, *new]) if old.get(field) != new.get(field)]
    loose = [*LOOSE, *["name"] * ("weights_sha256" not in different and "weights_sha256" in new)]
    if strict := [field for field in different if field not in loose]:
        field = next((f for f in strict if f in ("weights_sha256", "adapter_sha256")), strict[0])
        raise UserError(
            f"the {modality} encoder is not that of the run: its {field} is {new.get(field)!r}, "
            f"the run's corpus was made with {old.get(field)!r}. "
            f"It must be the very same {then['name']}: give its place, --{modality}-encoder=PATH"
        )
    return [
        f"{modality}: {field} is {new.get(field)}, the corpus was made with {old.get(field)}" for field in different
    ]


def _flat(identity: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in identity.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
