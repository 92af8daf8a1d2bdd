"""Every way in which encoders read gives what transformers' own forward gives of one unpadded input, whatever else is
in the batch."""

import shutil

import numpy as np
import pytest
from recordings import RATE, needs_prep

from data_prep.encoders.pretrained import Placement
from data_prep.encoders.selection import Selection
from mer_jax.errors import UserError

CPU = Placement("cpu")
SECONDS = (0.3, 2.0, 29.9, 30.1, 65.0)
SENTENCES = ["hello", "hello number 7 you glad", "cross", "you 1 2 3 4 5 6 7 8 9 0", "glad cross number", "unheard of"]


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(scale=0.1, size=round(seconds * RATE)).astype(np.float32)


def own_states(model, layers, **inputs):
    """[time, layers, width] of one input, as transformers computes it."""
    import torch

    with torch.inference_mode():
        states = model(**inputs, output_hidden_states=True).hidden_states
    return np.stack([states[layer][0].numpy() for layer in layers], 1)


@pytest.mark.slow
@needs_prep
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
class TestSpeech:
    """Of sounds that wait together. The rate of all of these is 50 steps a second."""

    @pytest.fixture(params=["whisper", "w2v-bert", "data2vec", "wavlm", "hubert"])
    def encoder(self, request, models):
        from data_prep.encoders.audio import SpeechEncoder

        return SpeechEncoder(str(models / request.param), Selection(None), longest=70, placement=CPU)

    def reference(self, encoder, name, sound):
        import torch
        import transformers as t

        t.logging.set_verbosity_error()
        path = encoder.path
        extract = t.AutoFeatureExtractor.from_pretrained(path)
        model = t.AutoModel.from_pretrained(path).eval()
        made = extract(sound, sampling_rate=RATE, return_tensors="pt")
        if name == "whisper":
            mask = extract(sound, sampling_rate=RATE, return_tensors="np", return_attention_mask=True)["attention_mask"]
            frames = int(mask[0].sum())
            states = own_states(model.encoder, range(4), input_features=made["input_features"])
            return states[: -(-frames // 2)]
        if name == "w2v-bert":
            real = int(made["attention_mask"].sum())
            return own_states(model, range(3), input_features=made["input_features"][:, :real])
        return own_states(model, range(3), input_values=torch.as_tensor(made["input_values"]))

    @pytest.mark.parametrize("seed", [0, 1])
    def test_a_batch_gives_what_each_gives_alone(self, encoder, models, request, seed):
        name = request.node.callspec.params["encoder"]
        encoder.path = models / name
        rng = np.random.default_rng(seed)
        sounds = [noise(s, seed) for s in [*rng.uniform(0.1, 3.0, 4), 0.3]]
        assert encoder.input.pads == (name not in ("whisper", "data2vec")), "a trial tells"
        states = encoder.input.states([encoder.ready(s) for s in sounds], encoder.selection.layers)
        for sound, found in zip(sounds, states, strict=True):
            np.testing.assert_allclose(found, self.reference(encoder, name, sound), atol=1e-3)

    def test_steps_a_second_and_the_last_real_step_are_right(self, encoder, request):
        name = request.node.callspec.params["encoder"]
        assert encoder.steps_per_second == pytest.approx(50, abs=0.5)
        found = encoder.encode([encoder.ready(noise(s)) for s in SECONDS])
        steps = [len(f) for f in found]
        wanted = {
            "whisper": [15, 100, 1495, 1505, 3250],  # a window has 1,500
            "w2v-bert": [14, 99, 1494, 1504, 3249],  # a frame of 25 ms every 10 ms, in whole pairs
        }.get(name, [14, 99, 1494, 1504, 3249])
        assert steps == wanted
        assert steps == [encoder.input.steps_of(round(s * RATE)) for s in SECONDS]

    def test_the_last_step_hears_the_end(self, encoder):
        """What is beyond the real steps is not heard, what is within them is."""
        sound = noise(2.0)
        other = sound.copy()
        other[-200:] = 0.9
        a, b = (encoder.encode([encoder.ready(s)])[0].astype(np.float32) for s in (sound, other))
        assert np.abs(a[-1] - b[-1]).max() > 1e-3


@needs_prep
def test_no_sentences_have_no_states(models, tmp_path):
    """A corpus of none is then told in words, not by the tokenizer's traceback."""
    from data_prep.encoders.text import TextEncoder

    encoder = TextEncoder(str(models / "bert"), Selection((-1,)), tmp_path, placement=CPU)
    assert (encoder.states([]), encoder.room([])) == ([], {})


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def of_samples(path, name, **more):
    """A folder of a small random model that reads samples, with the class of transformers that begins with the name."""
    import transformers as t

    t.logging.disable_progress_bar()
    config = getattr(t, f"{name}Config")(**SMALL, **more, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    getattr(t, f"{name}Model")(config).save_pretrained(path)
    t.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(path)
    return str(path)


@needs_prep
def test_an_adapter_behind_the_last_layer_takes_no_steps_of_the_layers(tmp_path):
    """Hidden states are from before it; they were cut to as few as it makes, to the first eighth of the sound."""
    from data_prep.encoders.audio import SpeechEncoder

    path = of_samples(tmp_path / "m", "Wav2Vec2", conv_dim=(16,) * 7, feat_extract_norm="layer", add_adapter=True)
    encoder = SpeechEncoder(path, placement=CPU)
    assert encoder.steps_per_second == pytest.approx(50, abs=0.5)
    assert encoder.encode([encoder.ready(noise(2.0))])[0].shape == (99, 32)


@needs_prep
def test_layers_of_another_rate_than_the_model_tells_are_refused(tmp_path):
    """SEW squeezes time steps between its convolutions and its layers."""
    from data_prep.encoders.audio import SpeechEncoder

    path = of_samples(tmp_path / "m", "SEW", squeeze_factor=2)
    with pytest.raises(UserError, match=r"m: its hidden layers have 12 time steps of a sound that should give 24"):
        SpeechEncoder(path, placement=CPU)


@pytest.mark.slow
@needs_prep
def test_long_sound_is_heard_in_windows_by_whisper_alone(models):
    from data_prep.encoders.audio import SpeechEncoder

    whisper = SpeechEncoder(str(models / "whisper"), longest=70, placement=CPU)
    assert "heard 30 s at a time" in whisper.extractor
    assert whisper.identity["window"] == 30
    sound = noise(65.0)
    whole = whisper.encode([whisper.ready(sound)])[0]
    parts = [whisper.encode([whisper.ready(sound[at : at + 30 * RATE])])[0] for at in range(0, len(sound), 30 * RATE)]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=2e-3)
    assert "at a time" not in SpeechEncoder(str(models / "whisper"), placement=CPU).extractor
    assert "window" not in SpeechEncoder(str(models / "hubert"), longest=70, placement=CPU).identity


@pytest.mark.slow
@needs_prep
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
@pytest.mark.parametrize("seconds", [0, 0.01, 0.035])
@pytest.mark.parametrize("name", ["whisper", "w2v-bert", "wavlm"])
def test_a_moment_of_sound_has_a_step(models, name, seconds):
    from data_prep.encoders.audio import SpeechEncoder

    encoder = SpeechEncoder(str(models / name), placement=CPU)
    (found,) = encoder.encode([encoder.ready(noise(seconds))])
    assert len(found) in (1, 2)
    assert np.isfinite(found).all()


@pytest.mark.slow
@needs_prep
@pytest.mark.parametrize(
    ("flag", "name", "words"),
    [
        ("text", "whisper", "whisper reads sound, not sentences"),
        ("text", "wav2vec2", "wav2vec2 reads sound, not sentences"),
        ("text", "swin", "swin reads pictures, not sentences"),
        ("audio", "bert", "bert reads sentences, not sound"),
        ("audio", "clip", "clip_vision_model reads pictures, not sound"),
        ("visual", "llama", "llama reads sentences, not pictures"),
        ("visual", "w2v-bert", "wav2vec2-bert reads sound, not pictures"),
    ],
)
def test_an_encoder_of_something_else_is_refused(models, tmp_path, flag, name, words):
    from data_prep.encoders.audio import SpeechEncoder
    from data_prep.encoders.text import TextEncoder
    from data_prep.encoders.visual import FrameEncoder

    make = {
        "text": lambda path: TextEncoder(path, Selection(), tmp_path, CPU),
        "audio": lambda path: SpeechEncoder(path, placement=CPU),
        "visual": lambda path: FrameEncoder(path, placement=CPU),
    }[flag]
    with pytest.raises(UserError, match=f"^--{flag}-encoder=[^ ]*: {words}; take another encoder$"):
        make(str(models / name))


@pytest.mark.slow
@needs_prep
class TestText:
    @pytest.mark.parametrize(("name", "special"), [("bert", 2), ("gpt2", 0), ("llama", 0), ("t5", 1)])
    def test_a_batch_gives_what_each_sentence_gives_alone(self, models, tmp_path, name, special):
        import transformers as t

        from data_prep.encoders.text import TextEncoder

        encoder = TextEncoder(str(models / name), Selection(None), tmp_path, CPU)
        tokenizer, model = t.AutoTokenizer.from_pretrained(models / name), t.AutoModel.from_pretrained(models / name)
        model = model.get_encoder() if name == "t5" else model
        for sentence, states in zip(SENTENCES, encoder.encode(SENTENCES), strict=True):
            inputs = tokenizer(sentence, truncation=True, max_length=encoder.limit, return_tensors="pt")
            inputs.pop("token_type_ids", None)
            wanted = own_states(model.eval(), range(3), **inputs)
            np.testing.assert_allclose(states, wanted.reshape(len(wanted), -1), atol=2e-3)
        word = tokenizer("glad", return_tensors="pt")
        assert word["input_ids"].shape[1] == 1 + special
        at = 1 if name == "bert" else 0
        wanted = own_states(model, range(3), input_ids=word["input_ids"])[at].reshape(-1)
        np.testing.assert_allclose(encoder.words(["glad"])[0], wanted, atol=1e-5)

    @pytest.mark.parametrize("name", ["gpt2", "llama"])
    @pytest.mark.parametrize("pool", ["none", "mean+std"])
    def test_a_sentence_of_no_tokens_has_one_step(self, models, tmp_path, name, pool):
        from data_prep.encoders.text import TextEncoder

        encoder = TextEncoder(str(models / name), Selection(pool=pool), tmp_path, CPU)
        assert encoder.tokenizer([""]).input_ids == [[]]
        empty, hello, again = encoder.encode(["", "hello you", ""])
        np.testing.assert_array_equal(empty, again)
        np.testing.assert_allclose(encoder.encode([""])[0], empty, atol=2e-3)
        np.testing.assert_allclose(encoder.encode(["hello you"])[0], hello, atol=2e-3)
        assert encoder.lengths(["", "hello you"]) == [1, 2]
        assert len(empty) == 1
        with pytest.raises(UserError, match="its tokenizer makes nothing of ''"):
            encoder.words(["glad", ""])

    def test_the_tower_of_clip_that_reads_sentences_is_taken(self, models):
        from data_prep.encoders import pretrained

        with pytest.raises(UserError, match="its tokenizer knows 2 tokens, the model 9: the tokenizer's files"):
            self.encoder(models / "clip")
        found = pretrained.load("--text-encoder", str(models / "clip"), "AutoTokenizer", CPU)
        assert found.hidden((0, 2), input_ids=np.array([[1, 4, 2]])).shape == (1, 3, 2, 32)

    def test_a_tokenizer_that_knows_no_words_is_refused(self, models, tmp_path):
        for name in ("config.json", "model.safetensors"):
            shutil.copy(models / "bert" / name, tmp_path)
        with pytest.raises(UserError, match=r"its tokenizer knows 5 tokens, the model 21: .* vocab.txt"):
            self.encoder(tmp_path)

    def encoder(self, folder):
        from data_prep.encoders.text import TextEncoder

        return TextEncoder(str(folder), Selection(), folder / "cache", CPU)

    def test_pools_and_layers_apart(self, models, tmp_path):
        from data_prep.encoders.text import TextEncoder

        every = TextEncoder(str(models / "bert"), Selection(None), tmp_path, CPU).encode(SENTENCES)
        apart = Selection((2, 0), apart=True, pool="mean+std")
        encoder = TextEncoder(str(models / "bert"), apart, tmp_path, CPU)
        assert encoder.axis == (2, 0)
        assert encoder.width == 128
        for states, found in zip(every, encoder.encode(SENTENCES), strict=True):
            x = states.astype(np.float32).reshape(-1, 3, 32)
            wanted = np.concatenate([x[:, 2].mean(0), x[:, 2].std(0), x[:, 0].mean(0), x[:, 0].std(0)])
            np.testing.assert_allclose(found[0], wanted, atol=2e-3)
        assert encoder.words(["glad"]).shape == (1, 128)
        first = TextEncoder(str(models / "bert"), Selection(None, pool="first"), tmp_path, CPU).encode(SENTENCES)
        np.testing.assert_allclose(np.stack(first)[:, 0], [s[0] for s in every], atol=2e-3)
        with pytest.raises(UserError, match=r"--text-pool=first: .*gpt2 has no first token"):
            TextEncoder(str(models / "gpt2"), Selection(pool="first"), tmp_path, CPU)

    @pytest.mark.parametrize("precision", ["autocast", "bfloat16", "float16"])
    def test_lower_precision_is_near_and_named(self, models, tmp_path, precision):
        from data_prep.encoders.text import TextEncoder

        exact = TextEncoder(str(models / "llama"), Selection(), tmp_path, CPU)
        less = TextEncoder(str(models / "llama"), Selection(), tmp_path, Placement("cpu", precision))
        assert "precision" not in exact.identity
        assert less.identity["precision"] == precision
        differences = [
            np.abs(a - b).max() for a, b in zip(exact.encode(SENTENCES), less.encode(SENTENCES), strict=True)
        ]
        assert 0 < max(differences) < 0.1
