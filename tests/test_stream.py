"""The stream of features beside the corpora that the same encoders made; small random models, real ones where they are
installed."""

import argparse
import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, user_env
from recordings import needs_prep, small_bert, spoil, tone, write_movie, write_table, write_wav

from data_prep import clips, stream
from data_prep.encoders import media, serving
from data_prep.encoders.media import Clip
from mer_jax.data.corpus import Corpus, from_example
from mer_jax.data.frames import EncodedFrames
from mer_jax.data.records import decode_example, read_record
from mer_jax.errors import UserError


class Child:
    """The command, with its hello taken."""

    def __init__(self, home, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "data_prep.stream", *map(str, arguments)],
            cwd=ROOT,
            env=user_env(home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.first = self.answer()

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request, default=str).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self):
        record = read_record(self.process.stdout)
        return None if record is None else decode_example(record) | {"record": record}

    def end(self):
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err.decode()


@pytest.fixture
def start(tmp_path):
    begun: list[Child] = []
    yield lambda *arguments: begun.append(Child(tmp_path, *arguments)) or begun[-1]
    for child in begun:
        child.process.kill()
        child.process.wait()
        for pipe in (child.process.stdin, child.process.stdout, child.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def said(answer, name):
    return [bytes(value).decode() for value in answer.get(name, ())]


def corpus_of(folder, rows, *encoders):
    """A corpus that data_prep.clips makes of them, and its manifest."""
    table = write_table(folder / "table.csv", rows)
    clips.main(
        [str(a) for a in (table, "--out", folder / "corpus", "--cache", folder / "cache", "--device=cpu", *encoders)]
    )
    corpus = Corpus(folder / "corpus")
    return {str(corpus.index["id"][i]): corpus[i] for i in range(len(corpus))}, folder / "corpus" / "manifest.json"


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Ten small films with sound, as lines of a table."""
    folder, found = tmp_path_factory.mktemp("clips"), []
    for i in range(10):
        write_movie(folder / f"{i}.mp4", tone(0.6 + 0.07 * i, 120.0 + 20 * i), count=10 + i)
        said = " ".join(["hello", "number", str(i), "."] * (1 + i % 3))
        found.append(
            {
                "file": folder / f"{i}.mp4",
                "id": f"u{i}",
                "label": ("glad", "cross")[i % 2],
                "sentence": said,
                "split": ("train", "valid", "test")[i % 3],
            }
        )
    return found


@pytest.mark.slow
@needs_prep
class TestCommand:
    def test_it_gives_what_the_corpus_holds(self, rows, start, tmp_path):
        """Descriptors and frames bit for bit; of MiniLM to the rounding of float16, whatever was encoded together. One
        request is answered before the next is sent; broken ones among them are told and change nothing."""
        held, manifest = corpus_of(
            tmp_path,
            rows,
            "--audio-encoder=egemaps",
            "--audio-stride-ms=60",
            "--visual-encoder=jpeg",
            "--frame-size=16",
            "--frames=4",
        )
        child = start("--manifest", manifest, "--modalities=text,audio,visual", "--device=cpu")
        hello = json.loads(said(child.first, "hello")[0])
        assert list(hello["modalities"]) == ["text", "audio", "visual"]
        assert "every token" in hello["modalities"]["text"]["extractor"]
        assert hello["notes"] == []

        def check(answer, row):
            found, wanted = from_example(answer["record"], ("text", "audio", "visual")), held[row["id"]]
            assert (found.id, found.sentence, found.split, found.label) == (row["id"], row["sentence"], "test", "")
            np.testing.assert_array_equal(found.features["audio"], wanted.features["audio"])
            frames = found.features["visual"]
            assert isinstance(frames, EncodedFrames)
            assert [bytes(f) for f in frames.data] == [bytes(f) for f in wanted.features["visual"].data]
            text = wanted.features["text"].astype(np.float32)
            # Rounded once more to float16, half a spacing here and there, of values that a sum of other rounding made.
            np.testing.assert_allclose(found.features["text"], text, rtol=2**-10, atol=2**-10 * np.abs(text).max())

        for row in rows:
            child.ask(id=row["id"], file=row["file"], sentence=row["sentence"])
            check(child.answer(), row)
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"no film" * 99)
        spoilt = spoil(write_movie(tmp_path / "spoilt.mp4", tone()))
        for i, row in enumerate(rows):
            child.ask(id=row["id"], file=row["file"], sentence=row["sentence"])
            child.ask(id=f"broken{i}", file=(broken, spoilt)[i % 2], sentence="hello")
        child.process.stdin.write(b"nonsense\n\n")
        child.ask(id="words", sentence="hello you")
        child.ask(id="film", file=write_movie(tmp_path / "mute.mp4"))
        child.ask(id="sound", file=write_wav(tmp_path / "a.wav", tone()), sentence="")
        child.ask(id="long", sentence="hello " * 999)
        child.process.stdin.close()
        for i, row in enumerate(rows):
            check(child.answer(), row)
            wrong = child.answer()
            assert (said(wrong, "id"), "cannot be decoded" in said(wrong, "error")[0]) == ([f"broken{i}"], True)
        assert "no line of JSON" in said(child.answer(), "error")[0]
        there = {}
        for _ in range(4):
            answer = child.answer()
            found = from_example(answer["record"], ("text", "audio", "visual"))
            there[found.id] = (sorted(found.features), said(answer, "notes"))
        assert there.pop("long")[1] == ["the sentence has 1001 tokens: cut to 510"]
        assert there == {
            "words": (["text"], []),
            "film": (["visual"], ["no text: there is no sentence", "no audio: it has no sound track"]),
            "sound": (["audio"], ["no text: the sentence is empty", "no visual: it has no pictures"]),
        }
        assert child.answer() is None
        assert child.process.wait(60) == 0
        assert child.process.stderr.read() == b""

    @pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")  # transformers' WavLM
    def test_models_from_folders(self, models, rows, start, tmp_path):
        """Where they are must be said; they are the run's own, or refused; other libraries are told once."""
        held, manifest = corpus_of(
            tmp_path,
            rows,
            *small_bert(models),
            "--text-pool=mean",
            "--audio-encoder",
            models / "wavlm",
            "--audio-layers=1,-1",
            "--audio-stride-ms=40",
            "--visual-encoder",
            models / "vit",
            "--visual-layers=0,2",
            "--frame-rate=5",
            "--longest=0.9",
        )
        made = json.loads(manifest.read_text())
        made["provenance"]["audio_encoder"]["torch"] = "1.0"
        older = tmp_path / "older.json"
        older.write_text(json.dumps(made))
        places = [f"--{m}-encoder={models / n}" for m, n in (("text", "bert"), ("audio", "wavlm"), ("visual", "vit"))]
        child = start("--manifest", older, "--modalities=text,audio,visual", "--device=cpu", *places)
        for row in rows:
            child.ask(id=row["id"], file=row["file"], sentence=row["sentence"])
        for row in rows:
            answer = child.answer()
            found = from_example(answer["record"], ("text", "audio", "visual"))
            for modality, wanted in held[row["id"]].features.items():
                wanted = wanted.astype(np.float32)
                atol = 2**-10 * np.abs(wanted).max()
                np.testing.assert_allclose(found.features[modality], wanted, rtol=2**-10, atol=atol, err_msg=modality)
            assert ("longer than 0.9 s: audio is cut to its beginning" in said(answer, "notes")) == (
                answer["seconds"][0] > 0.9
            )
        code, _, err = child.end()
        assert (code, err.count("audio: torch is")) == (0, 1)
        assert "the corpus was made with 1.0" in err

        # In this process: what is refused before the first request.
        def begin(*changes, manifest=manifest):
            options = {"manifest": manifest, "modalities": "audio", "device": "cpu", "asr": None, "cache": tmp_path}
            options |= {f"{m}_encoder": None for m in ("text", "audio", "visual")}
            return stream.begin(argparse.Namespace(**options | dict(changes)))

        with pytest.raises(UserError, match=r"read from a folder called 'wavlm'"):
            begin()
        with pytest.raises(
            UserError,
            match=r"its weights_sha256 is '\w+', the run's corpus was made with '\w+'. It must be the very same wavlm",
        ):
            begin(("audio_encoder", str(models / "hubert")))
        with pytest.raises(UserError, match=r"--text-encoder is given, but --modalities=audio"):
            begin(("text_encoder", "x"))
        with pytest.raises(
            UserError,
            match=r"--asr=.*wavlm: it is a WavLMModel, which does not|--asr=.*: the folder holds no whole model",
        ):
            begin(
                ("audio_encoder", str(models / "wavlm")),
                ("asr", str(models / "wavlm")),
                ("modalities", "audio,text"),
                ("text_encoder", str(models / "bert")),
            )
        with pytest.raises(UserError, match=r"older\.json2 cannot be read"):
            begin(manifest=tmp_path / "older.json2")

    def test_it_ends_when_nobody_listens_and_says_why_it_does_not_begin(self, rows, start, tmp_path):
        sounds = [row | {"sentence": ""} for row in rows]
        _, manifest = corpus_of(tmp_path, sounds, "--audio-encoder=egemaps", "--without-text")
        child = start("--manifest", manifest, "--modalities=audio")
        child.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # it may have gone already
            for _ in range(3):
                child.ask(id="u", file=rows[0]["file"])
        assert child.process.wait(30) == 0, "though requests may still come"
        assert child.process.stderr.read() == b""
        child = start("--manifest", manifest, "--modalities=visual")
        assert "has no modality 'visual'; it has audio" in said(child.first, "error")[0]
        assert child.end() == (1, b"", "")

    def test_what_is_said_is_heard(self, tmp_path):
        """A small random CTC model of the real class; what it hears, by another way."""
        import torch
        import transformers as t

        from data_prep.encoders.speech_to_text import SpeechRecogniser

        folder = tmp_path / "ctc"
        folder.mkdir()
        letters = ["<pad>", "|", *"etaoinshr"]
        (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
        torch.manual_seed(0)
        config = t.Wav2Vec2Config(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(16,) * 7,
            vocab_size=len(letters),
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
        model = t.Wav2Vec2ForCTC(config).eval()
        with torch.no_grad():
            model.lm_head.weight.mul_(30)
        model.save_pretrained(folder)
        t.Wav2Vec2CTCTokenizer(
            str(folder / "vocab.json"), unk_token="<pad>", bos_token=None, eos_token=None
        ).save_pretrained(folder)
        t.Wav2Vec2FeatureExtractor().save_pretrained(folder)
        sound = np.random.default_rng(0).normal(size=22050).astype(np.float32).clip(-3, 3) / 4
        path = write_wav(tmp_path / "a.wav", sound, 22050)
        samples = media.samples(Clip("a", path), 16000, 30.0)
        with torch.inference_mode():
            logits = model(torch.tensor((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7))[None]).logits[0]
        best = logits.argmax(-1).tolist()
        heard = [i for i, before in zip(best, [None, *best], strict=False) if i not in (before, 0)]
        wanted = " ".join("".join(letters[i] for i in heard).replace("|", " ").split())
        assert len(wanted) > 5
        from data_prep.encoders.pretrained import Placement
        from data_prep.encoders.selection import Selection
        from data_prep.encoders.text import MINILM, TextEncoder

        text = TextEncoder(MINILM, Selection(), tmp_path, Placement("cpu"))
        made = serving.RequestEncoder({"text": text}, SpeechRecogniser(str(folder), "cpu"))

        def ask(**request):
            answer = decode_example(made.answers([made.prepare(json.dumps({"id": "a"} | request).encode())])[0])
            return said(answer, "sentence"), said(answer, "notes") + said(answer, "error"), "text/data" in answer

        assert ask(file=str(path)) == ([wanted], ["the sentence is transcribed by ctc"], True)
        assert ask(file=str(path), sentence="given") == (["given"], [], True)
        silence = str(write_wav(tmp_path / "b.wav", np.zeros(16000)))
        assert "no text: there is nothing to hear" in ask(file=silence)[1][0]
        assert "no text: it has no sound track" in ask(file=str(write_movie(tmp_path / "a.mp4")))[1][0]
        assert "no text: there is no sentence" in ask()[1][0]
