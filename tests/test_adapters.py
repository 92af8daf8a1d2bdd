"""An encoder is described by a Python file with three functions; what it gives is checked."""

import json

import numpy as np
import pytest
from conftest import ROOT
from recordings import RATE, needs_av, tone, write_movie, write_wav

from data_prep.encoders import from_manifest
from data_prep.encoders.adapter import AudioAdapter, FrameAdapter
from data_prep.encoders.media import Clip
from data_prep.encoders.pretrained import Placement
from data_prep.encoders.selection import Selection
from mer_jax.errors import UserError

pytest.importorskip("torch", reason="needs pip install -e '.[prep]'")
CPU = Placement("cpu")

# Loudness of every tenth of a second: the mean of the samples' magnitudes, and of their squares.
LOUDNESS = """
import numpy as np

def describe():
    return {"name": "loudness", "rate": 8000, "steps_per_second": 10}

def load(device):
    return {"scale": 1.0}

def encode(model, sounds):
    found = []
    for sound in sounds:
        parts = np.array_split(sound, max(1, round(len(sound) / 800)))
        found.append(np.array([[model["scale"] * np.abs(p).mean(), np.square(p).mean()] for p in parts]))
    return found
"""
COLOURS = """
import numpy as np

def describe():
    return {"name": "colours", "layers": 2}

def load(device):
    return None

def encode(model, clips):
    return [np.stack([[f.mean((0, 1)), f.std((0, 1))] for f in frames]).astype(np.float32) for frames in clips]
"""


@pytest.fixture
def adapter(tmp_path):
    """Writes the file, with something of it replaced, and returns its path."""

    def write(source=LOUDNESS, **replaced):
        for name, (old, new) in replaced.items():
            assert old in source, name
            source = source.replace(old, new)
        path = tmp_path / "adapter.py"
        path.write_text(source)
        return str(path)

    return write


@needs_av
def test_sound_becomes_what_the_adapter_makes_of_it(adapter, tmp_path):
    encoder = AudioAdapter(adapter(), Selection(stride_ms=200), placement=CPU)
    assert (encoder.width, encoder.steps_per_second, encoder.axis) == (2, 5, ())
    sounds = [tone(seconds, 200.0) for seconds in (1.0, 2.5)]
    clips = [Clip(f"{i}.wav", write_wav(tmp_path / f"{i}.wav", sound)) for i, sound in enumerate(sounds)]
    found = encoder.encode([encoder.prepare(clip) for clip in clips])
    assert [f.shape for f in found] == [(5, 2), (13, 2)]
    loud = np.abs(sounds[0][: RATE // 5]).mean()
    np.testing.assert_allclose(found[0][0, 0], loud, rtol=0.03)
    again = from_manifest.encoder_from_identity(
        "audio", json.loads(json.dumps(encoder.identity)), encoder.adapter.path, "cpu", ROOT
    )
    assert again.identity == encoder.identity
    with pytest.raises(UserError, match=r"adapter 'loudness': say where its file is, --audio-encoder=FILE.py"):
        from_manifest.encoder_from_identity("audio", encoder.identity, None, "cpu", ROOT)
    hubert = {"name": "hubert", "pooling": "tokens", "every": 1, "longest": 30.0, "layers": [1]}
    with pytest.raises(UserError, match=r"^--audio-encoder=.*adapter.py: this run's is hubert, which no adapter makes"):
        from_manifest.encoder_from_identity("audio", hubert, str(encoder.adapter.path), "cpu", ROOT)
    adapter(scale=("1.0", "2.0"))
    other = from_manifest.encoder_from_identity("audio", encoder.identity, encoder.adapter.path, "cpu", ROOT)
    with pytest.raises(UserError, match="the audio encoder is not that of the run: its adapter_sha256"):
        from_manifest.compare("audio", encoder.identity, other.identity)


@needs_av
def test_frames_become_steps_with_layers(adapter, tmp_path):
    film = Clip("a.mp4", write_movie(tmp_path / "a.mp4", count=20))
    encoder = FrameAdapter(adapter(COLOURS), Selection(None, apart=True), frames=4, placement=CPU)
    prepared = encoder.prepare(film)
    found = encoder.encode([prepared])[0]
    assert (found.shape, encoder.axis, encoder.width) == ((4, 6), (0, 1), 6)
    wanted = [np.concatenate([f.mean((0, 1)), f.std((0, 1))]) for f in prepared.images]
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
    last = FrameAdapter(str(encoder.adapter.path), Selection(layers=()), frames=4, placement=CPU)
    np.testing.assert_array_equal(last.encode([prepared])[0], found[:, 3:])


@needs_av
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": ("return found", "return found[1:]")}, r"encode gave 0 arrays for 1 inputs"),
        ({"a": ("return found", "return None")}, r"encode gave NoneType for 1 inputs"),
        ({"a": ("return found", "return [f[:0] for f in found]")}, r"encode gave float32\[0, 2\]; it must be floats"),
        ({"a": ("return found", "return [f[0] for f in found]")}, r"encode gave float32\[2\]; it must be floats"),
        ({"a": ("return found", "return [f.astype(str) for f in found]")}, r"it must be floats \[steps, width\]"),
        ({"a": ("np.square(p).mean()", "np.nan")}, r"a second of silence: encode gave nan at step 0, 1"),
        (
            {"a": ("/ 800", "/ 400")},
            r"encode gave 20 steps of 1.00 s; at 10 a second, as describe says, it would be 10",
        ),
        ({"a": ('"rate": 8000, ', "")}, r"describe\(\): it must say the rate"),
        ({"a": ('"rate": 8000', '"rate": "fast"')}, r"describe\(\): field 'rate': expected int, got str"),
        ({"a": ('"name"', '"nom"')}, r"describe\(\): 'nom' is nothing that it says; it says name, rate"),
        ({"a": ("def load", "def lade")}, r"it has no function load; an adapter has the functions describe, load"),
        ({"a": ('return {"scale": 1.0}', "return 1 / 0")}, r"load failed: ZeroDivisionError"),
        ({"a": ("import numpy as np", "import numpi as np")}, r"it cannot be imported: ModuleNotFoundError"),
        ({"a": ("10}", '10, "weights": ["/nowhere.bin"]}')}, r"names the weights /nowhere.bin, which are no file"),
        ({"a": ("10}", '10, "layers": 3}')}, r"encode gave 1 layers, describe says 3"),
        ({"a": ("10}", '10, "weights": [__file__, __file__]}')}, r"names two weights that are called adapter.py"),
        ({"a": ("return found", "return [[[1.0], [1.0, 2.0]]]")}, r"silence: encode gave no NumPy array: ValueError"),
        ({"a": ("return found", "import torch\n    return [torch.ones(10, 2, requires_grad=True)]")}, r"detach\(\)"),
        ({"a": ("return found", "raise ValueError('a' + chr(10) + 'b')")}, r"of a second of silence failed: .*a b$"),
        ({"a": ('return {"scale": 1.0}', "raise SystemExit(3)")}, r"load failed: SystemExit: 3"),
    ],
)
def test_what_an_adapter_gets_wrong_is_told_before_the_work(adapter, change, words):
    with pytest.raises(UserError, match=words) as caught:
        AudioAdapter(adapter(**change), Selection(), placement=CPU)
    assert str(caught.value).startswith("--audio-encoder=")
    assert "\n" not in str(caught.value)


@needs_av
def test_what_an_adapter_gets_wrong_of_a_clip_names_the_clip(adapter):
    clips = [("a.wav", np.zeros(8000, np.float32)), ("b.wav", np.ones(8000, np.float32))]
    loud = ("np.square(p).mean()", "np.inf if p.mean() > 0.5 else 0.0")
    with pytest.raises(UserError, match=r"adapter.py: b.wav: encode gave inf at step 0, 1$"):
        AudioAdapter(adapter(a=loud), Selection(), placement=CPU).encode(clips)
    wide = ("return found", "return [f if abs(s).max() < 1 else np.ones((10, 5)) for f, s in zip(found, sounds)]")
    with pytest.raises(UserError, match=r"b.wav: encode gave steps of width 5, those before are 2 wide"):
        AudioAdapter(adapter(a=wide), Selection(), placement=CPU).encode(clips)
    huge = ("np.square(p).mean()", "1e6 if p.mean() > 0.5 else 0.0")
    with pytest.raises(UserError, match=r"^--audio-encoder=.*: b.wav: the encoder's states reach 1000000, beyond half"):
        AudioAdapter(adapter(a=huge), Selection(), placement=CPU).encode(clips)
    few = ("return [np", "return [f[1:] for f in encode_all(clips)]\n\ndef encode_all(clips):\n    return [np")
    with pytest.raises(UserError, match=r"a black frame: encode gave float32\[0, 2, 3\]"):
        FrameAdapter(adapter(COLOURS, a=few), Selection(), placement=CPU)
    with pytest.raises(UserError, match="there is no such file; an adapter is a Python file with the functions"):
        AudioAdapter("nothing.py", Selection(), placement=CPU)


@needs_av
def test_an_adapter_may_be_any_module_whose_weights_lie_beside_it(adapter, tmp_path, monkeypatch):
    """Dataclasses look their module up; a relative path begins at the file, wherever the command is given; --precision
    is of other encoders."""
    source = "from __future__ import annotations\nimport dataclasses\n" + LOUDNESS.replace(
        "def load", "@dataclasses.dataclass\nclass Model:\n    scale: float\n\ndef load"
    )
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.bin").write_text(name)
    path = adapter(source, weights=("10}", '10, "weights": ["a/w.bin", "b/w.bin"]}'))
    monkeypatch.chdir("/")
    encoder = AudioAdapter(path, Selection(), placement=Placement("cpu", "autocast"))
    assert list(encoder.identity["adapter_weights"]) == ["a/w.bin", "b/w.bin"]
    assert "precision" not in encoder.identity
    (tmp_path / "b" / "w.bin").write_text("c")
    other = AudioAdapter(path, Selection(), placement=CPU)
    with pytest.raises(UserError, match=r"its adapter_weights\.b/w\.bin is"):
        from_manifest.compare("audio", encoder.identity, other.identity)
