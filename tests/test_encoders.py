"""Encoders of sound and pictures are small random models of the real classes."""

import shutil
import wave

import numpy as np
import pytest
from recordings import (
    RATE,
    needs_prep,
    tone,
    write_movie,
    write_wav,
)

from data_prep.encoders import media
from data_prep.encoders.media import Clip
from data_prep.encoders.pretrained import Placement
from data_prep.encoders.selection import Selection
from mer_jax.errors import UserError

CPU = Placement("cpu")


@pytest.mark.slow
@needs_prep
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # transformers' WavLM
class TestEncoders:
    @pytest.mark.parametrize(("name", "pads"), [("wav2vec2", False), ("wavlm", True), ("hubert", True)])
    def test_batching_and_padding_change_nothing(self, models, speech, name, pads):
        from data_prep.encoders.audio import SpeechEncoder

        encoder = SpeechEncoder(str(models / name), Selection((0, -1)), placement=CPU)
        assert encoder.input.pads == pads
        prepared = [encoder.prepare(Clip(p.name, p)) for p in speech]
        together = encoder.encode(prepared)
        for sound, found in zip(prepared, together, strict=True):
            alone = encoder.encode([sound])[0]
            assert found.shape == alone.shape == ((len(sound) - 400) // 320 + 1, 64)
            np.testing.assert_allclose(found, alone, atol=2e-3)
        for reordered, found in zip(encoder.encode(prepared[::-1]), together[::-1], strict=True):
            np.testing.assert_allclose(reordered, found, atol=2e-3)

    def test_speech_states_are_the_models(self, models, speech):
        import torch
        import transformers

        from data_prep.encoders.audio import SpeechEncoder

        encoder = SpeechEncoder(str(models / "hubert"), Selection((1,), every=3), placement=CPU)
        model = transformers.HubertModel.from_pretrained(models / "hubert").eval()
        sound = media.samples(Clip("a", speech[3]), RATE, 30.0)
        sound = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        with torch.inference_mode():
            states = model(torch.tensor(sound[None]), output_hidden_states=True).hidden_states[1][0].numpy()
        wanted = np.stack([states[at : at + 3].mean(0) for at in range(0, len(states), 3)])
        np.testing.assert_allclose(encoder.encode([encoder.prepare(Clip("a", speech[3]))])[0], wanted, atol=2e-3)
        minute = encoder.encode([encoder.ready(np.resize(sound, 60 * RATE))])[0]
        assert encoder.steps_per_second == pytest.approx(len(minute) / 60, rel=0.01)

    def test_what_is_too_short_is_filled_up(self, models, tmp_path):
        from data_prep.encoders.audio import SpeechEncoder
        from data_prep.encoders.opensmile import OpenSmile

        clip = Clip("a", write_wav(tmp_path / "a.wav", tone()[:100]))
        for encoder, width in (
            (SpeechEncoder(str(models / "wavlm"), placement=CPU), 32),
            (OpenSmile("egemaps"), 25),
            (OpenSmile("egemaps-functionals"), 88),
            (OpenSmile("compare"), 65),
            (OpenSmile("compare-functionals"), 6373),
        ):
            found = encoder.encode([encoder.prepare(clip)])[0]
            assert found.shape[1] == width
            assert np.isfinite(found).all()

    @pytest.mark.parametrize(
        ("name", "width", "of"),
        [
            ("vit", 32, "pooled output"),
            ("vit-classifier", 32, "mean over the last layer's patches"),
            ("swin", 16, "pooled output"),
            ("clip", 32, "pooled output"),
        ],
    )
    def test_a_frame_is_one_vector(self, models, tmp_path, name, width, of):
        from data_prep.encoders.visual import FrameEncoder

        films = [Clip(f"{n}", write_movie(tmp_path / f"{n}.mp4", count=n)) for n in (10, 20, 30)]
        encoder = FrameEncoder(str(models / name), frames=4, placement=CPU)
        assert of in encoder.extractor
        prepared = [encoder.prepare(film) for film in films]
        for one, found in zip(prepared, encoder.encode(prepared), strict=True):
            assert found.shape == (4, width)
            np.testing.assert_allclose(found, encoder.encode([one])[0], atol=2e-3)
        again = FrameEncoder(str(models / name), frames=4, placement=CPU)
        assert again.identity == encoder.identity, "weights that the checkpoint lacks are drawn anew, and do not count"
        deep = FrameEncoder(str(models / name), Selection((0, -1), pool="mean"), frames=4, placement=CPU)
        assert deep.encode([prepared[0]])[0].shape == (1, 24 if name == "swin" else 64)

    def test_clips_eye_is_its_own(self, models, tmp_path):
        import torch
        import transformers

        from data_prep.encoders.visual import FrameEncoder

        encoder = FrameEncoder(str(models / "clip"), frames=3, placement=CPU)
        model = transformers.CLIPModel.from_pretrained(models / "clip").eval()
        prepared = encoder.prepare(Clip("a", write_movie(tmp_path / "a.mp4")))
        with torch.inference_mode():
            wanted = model.vision_model(pixel_values=torch.tensor(prepared.pixels)).pooler_output.numpy()
        np.testing.assert_allclose(encoder.encode([prepared])[0], wanted, atol=2e-3)

    def test_descriptors_are_opensmiles(self, speech):
        import opensmile

        from data_prep.encoders.opensmile import OpenSmile

        encoder = OpenSmile("egemaps")
        assert encoder.steps_per_second == 100
        smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
        found = encoder.encode([encoder.prepare(Clip(p.name, p)) for p in speech[:4]])
        for path, descriptors in zip(speech, found, strict=False):
            with wave.open(str(path)) as file:
                sound = np.frombuffer(file.readframes(10**9), np.int16) / np.float32(32768)
            wanted = smile.process_signal(sound, RATE).to_numpy()
            np.testing.assert_allclose(descriptors, wanted, rtol=1e-3, atol=1e-3)

    def test_wrong_encoders_are_named(self, models, tmp_path):
        from safetensors.numpy import load_file, save_file

        from data_prep.encoders.audio import SpeechEncoder
        from data_prep.encoders.visual import FrameEncoder

        with pytest.raises(UserError, match=r"--audio-encoder=.*neither a local folder nor reachable.*give its path"):
            SpeechEncoder(str(tmp_path / "nothing"))
        with pytest.raises(UserError, match=r"--audio-layers=7: .* has layers 0 to 2"):
            SpeechEncoder(str(models / "wavlm"), Selection((7,)))
        with pytest.raises(UserError, match="--device=nowhere"):
            FrameEncoder(str(models / "vit"), placement=Placement("nowhere"))
        with pytest.raises(UserError, match="bert reads sentences, not sound"):
            SpeechEncoder(str(models / "bert"))
        broken = shutil.copytree(models / "vit", tmp_path / "vit")
        weights = load_file(broken / "model.safetensors")
        lost = next(k for k in weights if "layernorm" in k)
        save_file({k: v for k, v in weights.items() if k != lost}, broken / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=r"lacks 1 of the model's weights, the first is .*layernorm"):
            FrameEncoder(str(broken))
        (broken / "model.safetensors").write_bytes(b"nothing")
        with pytest.raises(UserError, match="the folder holds no whole model"):
            FrameEncoder(str(broken))
