"""An encoder that transformers does not have is described by a Python file with three functions.

    describe() -> dict       `name`; of sound `rate`, the samples a second that it reads, and `steps_per_second` that it
                             makes of them, if all clips have the same; `layers`, how many it gives, if several;
                             `weights`, paths of files that belong to it, if any, from the folder of the file on
    load(device) -> model    whatever `encode` needs; device is a name of PyTorch, as cpu or cuda
    encode(model, inputs)    a NumPy array of floats for each input, [steps, width], or [steps, layers, width]

Of sound the inputs are arrays of samples, Float32[samples] in [-1, 1], mono; of pictures arrays of frames,
UInt8[frames, height, width, 3] (or a list of frames that differ in size), of which each frame becomes one step. What it
gives is checked, pooled and stored as the states of any other encoder; the manifest holds the sha256 of the file and of
its weights.
"""

import dataclasses
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NotRequired, TypedDict

import numpy as np

from data_prep.encoders import faces as face
from data_prep.encoders import media, pretrained
from data_prep.encoders.media import Clip, filled
from data_prep.encoders.pretrained import ANYWHERE, Placement
from data_prep.encoders.selection import Selection
from data_prep.encoders.visual import faces_in_words, frames_in, often_in_words, taken, without_face
from mer_jax import schema
from mer_jax.errors import UserError
from mer_jax.files import sha256_of
from mer_jax.plain import cause
from mer_jax.schema import Above0, Positive, Text

FUNCTIONS = ("describe", "load", "encode")
SHORTEST = 0.03  # seconds of sound; shorter clips are filled up with silence
SAVED_TOGETHER = 16  # clips saved to the cache at a time


class About(TypedDict):
    """What `describe` says."""

    name: Text
    rate: NotRequired[Positive]
    steps_per_second: NotRequired[Above0]
    layers: NotRequired[Positive]
    weights: NotRequired[list[str]]


def is_adapter(name: str | None) -> bool:
    """Says whether an encoder is given as an adapter's file."""
    return bool(name) and str(name).endswith(".py")


class Adapter:
    """The file's functions, and what they say. Raises UserError, naming flag and file, for what is none."""

    def __init__(self, flag: str, path: str, placement: Placement, needs: Sequence[str] = ()):
        self.flag, self.path = f"{flag}={path}", Path(path).expanduser()
        self._module = self._read()
        self.about = self._described(needs)
        self.device = pretrained.device_of(placement.device)
        self._model = self._call("load", self.device)
        weights = self._weights()
        self.identity = {
            "name": self.about["name"],
            "adapter_sha256": self._sha256,
            **({"adapter_weights": weights} if weights else {}),
            "device": self.device.split(":")[0],
        }

    def states(self, inputs: Sequence[Any], names: Sequence[str]) -> list[np.ndarray]:
        """Returns Float32[steps, layers, width] of each input. Raises UserError naming what is not that."""
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        found = self._call("encode", self._model, list(inputs), of=f" of {names[0]}{more}")
        if not isinstance(found, Sequence) or len(found) != len(inputs):
            of = f"{len(found)} arrays" if isinstance(found, Sequence) else type(found).__name__
            raise UserError(f"{self.flag}: encode gave {of} for {len(inputs)} inputs; it must give one array each")
        return [self._checked(name, states) for name, states in zip(names, found, strict=True)]

    def _checked(self, name: str, states: Any) -> np.ndarray:
        layers = self.about.get("layers", 1)
        try:
            states = np.asarray(states)
        except Exception as error:  # PyTorch's, on a GPU or with gradients, are none before detach().cpu()
            raise UserError(f"{self.flag}: {name}: encode gave no NumPy array: {cause(error)}") from None
        shape = "[steps, width]" if layers == 1 else f"[steps, {layers} layers, width]"
        if states.dtype.kind not in "fiu" or states.ndim not in (2, 3) or 0 in states.shape:
            raise UserError(
                f"{self.flag}: {name}: encode gave {states.dtype}{list(states.shape)}; it must be floats {shape}"
            )
        states = (states if states.ndim == 3 else states[:, None]).astype(np.float32)
        if states.shape[1] != layers:
            raise UserError(f"{self.flag}: {name}: encode gave {states.shape[1]} layers, describe says {layers}")
        if bad := np.argwhere(~np.isfinite(states)).tolist()[:1]:
            step, _, feature = bad[0]
            raise UserError(f"{self.flag}: {name}: encode gave {states[tuple(bad[0])]} at step {step}, {feature}")
        return states

    def refuse_other_widths(self, found: Sequence[np.ndarray], names: Sequence[str], width: int) -> None:
        for name, states in zip(names, found, strict=True):
            if states.shape[2] != width:
                raise UserError(
                    f"{self.flag}: {name}: encode gave steps of width {states.shape[2]}, those before are {width} wide"
                )

    def features(self, found: Sequence[np.ndarray], names: Sequence[str], selection: Selection) -> list[np.ndarray]:
        """Returns Float16[steps, features] of each. Raises UserError naming what half precision does not hold."""
        made = []
        for name, states in zip(names, found, strict=True):
            try:
                made.append(selection.features(states[:, list(selection.layers or ())]))
            except UserError as error:
                raise UserError(f"{self.flag}: {name}: {error}, or let encode make them smaller") from None
        return made

    def _read(self) -> ModuleType:
        if not self.path.is_file():
            raise UserError(f"{self.flag}: there is no such file; an adapter is a Python file with {_functions()}")
        self._sha256 = sha256_of(self.path)
        spec = importlib.util.spec_from_file_location(f"adapter_{self._sha256[:16]}", self.path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickle look their module up there
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[spec.name]
            raise UserError(f"{self.flag}: it cannot be imported: {cause(error)}") from None
        if missing := [name for name in FUNCTIONS if not callable(getattr(module, name, None))]:
            raise UserError(f"{self.flag}: it has no function {missing[0]}; an adapter has {_functions()}")
        return module

    def _described(self, needs: Sequence[str]) -> dict[str, Any]:
        about = self._call("describe")
        try:
            if not isinstance(about, Mapping):
                raise ValueError(f"it is a {type(about).__name__}, not a dict")
            if other := sorted(about.keys() - About.__annotations__.keys()):
                raise ValueError(f"{other[0]!r} is nothing that it says; it says {', '.join(About.__annotations__)}")
            schema.check(dict(about), About)
            if lacking := [name for name in needs if name not in about]:
                raise ValueError(f"it must say the {lacking[0]}")
        except ValueError as error:
            raise UserError(f"{self.flag}: describe(): {error}") from None
        return dict(about)

    def _call(self, function: str, *arguments: Any, of: str = "") -> Any:
        try:
            return getattr(self._module, function)(*arguments)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"{self.flag}: {function}{of} failed: {cause(error)}") from error

    def _weights(self) -> dict[str, str]:
        """Returns the sha256 of each file of weights, by the path that describe() gives; of a whole path by the name,
        as it may be elsewhere on another machine."""
        found: dict[str, str] = {}
        for given in map(Path, self.about.get("weights", [])):
            path, name = self.path.parent / given, given.name if given.is_absolute() else given.as_posix()
            if not path.is_file():
                raise UserError(f"{self.flag}: describe() names the weights {path}, which are no file")
            if name in found:
                raise UserError(f"{self.flag}: describe() names two weights that are called {name}; rename one of them")
            found[name] = sha256_of(path)
        return found


def _functions() -> str:
    return "the functions describe, load and encode (see data_prep/encoders/adapter.py)"


class AudioAdapter:
    """An adapter that reads sound: Float16[steps, features]."""

    batch_size, shortest = SAVED_TOGETHER, SHORTEST

    def __init__(self, path: str, selection: Selection, *, longest: float = 30.0, placement: Placement = ANYWHERE):
        decoder = media.library()
        self.adapter = Adapter("--audio-encoder", path, placement, ("rate",))
        about = self.adapter.about
        self.rate, self.longest = int(about["rate"]), longest
        self._own_rate = about.get("steps_per_second")
        self.selection = _selected(selection, "--audio-layers", about).strided(self._own_rate, about["name"])
        self._of_model = self._states([("a second of silence", np.zeros(self.rate, np.float32))])[0].shape[2]
        self.width, self.axis = self.selection.width(self._of_model), self.selection.axis
        every = self.selection.every
        self.steps_per_second = self._own_rate / every if self._own_rate and self.selection.pool == "none" else None
        self.identity = self.adapter.identity | self.selection.identity()
        self.identity |= {"every": every, "rate": self.rate, "longest": longest, "av": decoder}
        of = self.selection.layers_in_words(about.get("layers", 1) - 1)
        self.extractor = f"{about['name']} (adapter), {self.selection.pool_in_words()} of {of}, frozen"

    def room(self, seconds: float) -> int:
        """Returns how many bytes the features of so many seconds take; of an unknown rate as of 50 steps a second."""
        return self.selection.size(seconds * (self._own_rate or 50), self._of_model)

    def prepare(self, clip: Clip) -> tuple[str, np.ndarray]:
        return clip.name, self.ready(media.samples(clip, self.rate, self.longest))[1]

    def ready(self, samples: np.ndarray) -> tuple[str, np.ndarray]:
        """Does what `prepare` does, with samples that are decoded already."""
        return "a clip", filled(samples, self.shortest * self.rate)

    def encode(self, prepared: list[tuple[str, np.ndarray]]) -> list[np.ndarray]:
        found = self._states(prepared)
        names = [name for name, _ in prepared]
        self.adapter.refuse_other_widths(found, names, self._of_model)
        return self.adapter.features(found, names, self.selection)

    def _states(self, prepared: Sequence[tuple[str, np.ndarray]]) -> list[np.ndarray]:
        found = self.adapter.states([samples for _, samples in prepared], [name for name, _ in prepared])
        for (name, samples), states in zip(prepared, found, strict=True):
            wanted = len(samples) / self.rate * (self._own_rate or 0.0)
            if self._own_rate and abs(len(states) - wanted) > max(2, 0.02 * wanted):
                raise UserError(
                    f"{self.adapter.flag}: {name}: encode gave {len(states)} steps of {len(samples) / self.rate:.2f} s;"
                    f" at {self._own_rate:g} a second, as describe says, it would be {wanted:.0f}"
                )
        return found


@dataclasses.dataclass(frozen=True)
class Images:
    """A clip's frames, UInt8[height, width, 3] each, and how many of them are whole for want of a face."""

    name: str
    images: Sequence[np.ndarray]
    without_face: int = 0

    def __len__(self) -> int:
        return len(self.images)


class FrameAdapter:
    """An adapter that reads frames, or the faces in them, as face recognition and expression embeddings do:
    Float16[frames, features]."""

    batch_size = SAVED_TOGETHER

    def __init__(
        self,
        path: str,
        selection: Selection,
        *,
        frames: int = 15,
        per_second: float | None = None,
        faces: bool = False,
        longest: float = 30.0,
        placement: Placement = ANYWHERE,
    ):
        decoder, detector = media.library(), face.library() if faces else None
        self.adapter = Adapter("--visual-encoder", path, placement)
        about = self.adapter.about
        self.selection = _selected(selection, "--visual-layers", about)
        self.frames, self.per_second, self.longest = frames, per_second, longest
        self.tally = without_face if faces else None
        self._of_model = self._states([Images("a black frame", [np.zeros((64, 64, 3), np.uint8)])])[0].shape[2]
        self.width, self.axis = self.selection.width(self._of_model), self.selection.axis
        self.steps_per_second = per_second if self.selection.pool == "none" else None
        often = often_in_words(frames, per_second)
        self.identity = self.adapter.identity | self.selection.identity()
        self.identity |= {"frames": often, "longest": longest, "av": decoder}
        self.identity |= {"faces": detector} if detector else {}
        of = self.selection.layers_in_words(about.get("layers", 1) - 1)
        what = faces_in_words() if faces else ""
        self.extractor = (
            f"{about['name']} (adapter), {self.selection.pool_in_words('frame')} of {of}, {often}{what}, frozen"
        )

    def room(self, seconds: float) -> int:
        """Returns how many bytes the features of so many seconds take."""
        return self.selection.size(frames_in(self, seconds), self._of_model)

    def prepare(self, clip: Clip) -> Images:
        return Images(clip.name, *taken(self, clip))

    def encode(self, prepared: list[Images]) -> list[np.ndarray]:
        found = self._states(prepared)
        names = [p.name for p in prepared]
        self.adapter.refuse_other_widths(found, names, self._of_model)
        return self.adapter.features(found, names, self.selection)

    def _states(self, prepared: Sequence[Images]) -> list[np.ndarray]:
        found = self.adapter.states([p.images for p in prepared], [p.name for p in prepared])
        for clip, states in zip(prepared, found, strict=True):
            if len(states) != len(clip):
                raise UserError(
                    f"{self.adapter.flag}: {clip.name}: encode gave {len(states)} steps of {len(clip)} frames"
                )
        return found


def _selected(selection: Selection, flag: str, about: Mapping[str, Any]) -> Selection:
    """Returns the selection of the adapter's layers, the last one by default."""
    layers = selection.layers if selection.layers != () else (-1,)
    return dataclasses.replace(selection, layers=layers).resolved(flag, about["name"], about.get("layers", 1) - 1)
