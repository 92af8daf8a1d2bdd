"""Folders of clips become corpora; encoders are small random models of the real classes."""

import os
import shutil
import signal
import subprocess
import sys
import time
import wave

import numpy as np
import pytest
from conftest import ROOT, user_env
from PIL import Image
from recordings import (
    RATE,
    Letters,
    corpus_bytes,
    cut_short,
    needs_av,
    needs_prep,
    row,
    small_bert,
    spoil,
    tone,
    write_movie,
    write_table,
    write_wav,
)

from data_prep import clips
from data_prep.encoders import faces, media
from data_prep.encoders.media import Clip
from mer_jax.data.corpus import Corpus
from mer_jax.data.frames import decode_frames


@pytest.fixture(scope="module")
def films(tmp_path_factory, speech):
    """A folder of mp4s with speech and numbered frames, and its table."""
    folder, rows = tmp_path_factory.mktemp("films"), []
    for i in range(24):
        with wave.open(str(speech[i % 8])) as file:
            sound = np.frombuffer(file.readframes(10**9), np.int16) / np.float32(32768)
        write_movie(folder / f"film{i:02d}.mp4", np.roll(sound, 100 * i), count=12 + i % 8)
        rows.append(
            {
                "file": f"film{i:02d}.mp4",
                "label": ("glad", "cross")[i % 2],
                "sentence": f"hello number {i}.",
                "split": ("train", "valid", "test")[i % 3],
                "dialogue": f"d{i // 6}",
                "speaker": f"s{i % 4}",
            }
        )
    return write_table(folder / "table.csv", rows)


def flags(models, films, out, cache):
    return [
        films,
        "--out",
        out,
        "--cache",
        cache,
        "--device=cpu",
        *small_bert(models),
        "--audio-encoder",
        models / "wavlm",
        "--visual-encoder",
        models / "vit",
    ]


@needs_av
def test_lines_without_a_label_become_turns_without_a_class(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clips.flags, "chosen_encoders", lambda *_, with_text: (Letters(), {"text": Letters()}))
    labels = ("glad", "", "cross", "xxx")
    for i in range(4):
        write_wav(tmp_path / f"{i}.wav", tone(0.2))
    rows = [{"file": f"{i}.wav", "label": labels[i], "dialogue": "d", "sentence": "Well."} for i in range(4)]
    arguments = [str(write_table(tmp_path / "t.csv", rows)), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        clips.main(arguments)
    assert "line 3: label is empty" in capsys.readouterr().err
    clips.main([*arguments, "--keep-unlabelled"])
    corpus, said = Corpus(tmp_path / "out"), capsys.readouterr().out
    assert corpus.labels == ("cross", "glad")
    assert corpus.index["label"].tolist() == ["glad", "", "cross", ""]
    assert corpus.index["turn"].tolist() == [0, 1, 2, 3]
    assert corpus.manifest["provenance"]["kept_unlabelled"] == {"count": 2, "first": ["1", "3"]}
    assert "2 utterances are kept without a class, heard in their dialogues" in said
    assert "t.csv, line 3; " in said
    for one in rows:
        one["label"] = ""
    write_table(tmp_path / "t.csv", rows)
    with pytest.raises(SystemExit, match="2"):
        clips.main([*arguments[:2], str(tmp_path / "none"), "--keep-unlabelled"])
    assert "no utterance has a label; it takes two labels at least" in capsys.readouterr().err


@pytest.mark.slow
@needs_prep
class TestClips:
    def test_text_audio_and_frames_end_to_end(self, models, films, tmp_path, run_cli):
        import torch
        import transformers

        done = run_cli(*flags(models, films, tmp_path / "out", tmp_path / "cache"), module="data_prep.clips")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert "utterances, manifest sha256" in done.stdout, "the audit ends the import"
        corpus = Corpus(tmp_path / "out")
        assert len(corpus) == 24
        assert corpus.labels == ("cross", "glad")
        assert {m: (s["width"], s["dtype"]) for m, s in corpus.modalities.items()} == {
            m: (32, "float16") for m in ("text", "audio", "visual")
        }
        assert corpus.manifest["provenance"]["audio_encoder"]["name"] == "wavlm"
        found = next(corpus[i] for i in range(24) if corpus[i].id == "film07")
        assert (found.dialogue, found.turn, found.speaker, found.split) == ("d1", 1, "s3", "valid")
        # What the models say of this clip, by another way.
        clip = Clip("film07", films.parent / "film07.mp4")
        sound = media.samples(clip, RATE, 30.0)
        sound = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        images = media.frames(clip, 30.0)
        assert len(images) == 15
        pixels = transformers.ViTImageProcessorPil.from_pretrained(models / "vit")(images, return_tensors="pt")
        with torch.inference_mode():
            bert = transformers.BertModel.from_pretrained(models / "bert").eval()
            tokens = transformers.AutoTokenizer.from_pretrained(models / "bert")("hello number 7.", return_tensors="pt")
            wanted = {"text": bert(**tokens).last_hidden_state[0]}
            wavlm = transformers.WavLMModel.from_pretrained(models / "wavlm").eval()
            wanted["audio"] = wavlm(torch.tensor(sound[None]), output_hidden_states=True).hidden_states[-1][0]
            vit = transformers.ViTModel.from_pretrained(models / "vit").eval()
            wanted["visual"] = vit(**pixels).pooler_output
        for modality, states in wanted.items():
            np.testing.assert_allclose(found.features[modality], states.numpy(), atol=4e-3, err_msg=modality)
        again = run_cli(*flags(models, films, tmp_path / "out2", tmp_path / "cache"), module="data_prep.clips")
        assert again.stderr.count("24 of 24 utterances are finished already") == 4, "three encoders, and what is heard"
        assert corpus_bytes(tmp_path / "out2").keys() == corpus_bytes(tmp_path / "out").keys()

    def test_killed_again_and_again_it_ends_with_the_same_bytes(self, models, films, tmp_path, pytestconfig):
        """Every other kill comes while a file is being written, the last one while the corpus is, the others at any
        moment."""
        kills = pytestconfig.getoption("kills")
        rng = np.random.default_rng(int(time.time()))
        (tmp_path / "calm").mkdir()
        (tmp_path / "killed").mkdir()

        def start(name):
            arguments = flags(models, films, tmp_path / name / "corpus", tmp_path / name / "cache")
            command = [sys.executable, "-c", SLOWLY, *map(str, arguments)]
            return subprocess.Popen(command, cwd=ROOT, env=user_env(tmp_path), stderr=subprocess.PIPE, text=True)

        def finished(name):
            return {p: p.stat().st_mtime_ns for p in (tmp_path / name / "cache").rglob("*.npz")}

        def wait(process, met):
            deadline = time.monotonic() + 120
            while not met() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)

        before, torn = {}, 0
        for kill in range(kills):
            process = start("killed")
            if kill == kills - 1:
                wait(process, (tmp_path / "killed" / ".corpus.partial").exists)
            else:
                target = len(before) + int(rng.integers(1, 3))
                wait(process, lambda target=target: len(finished("killed")) >= target)
                if kill % 2:
                    wait(process, lambda process=process: any(tmp_path.rglob(f"*.{process.pid}.partial")))
                else:
                    time.sleep(float(rng.uniform(0, 0.3)))
            assert process.poll() is None, process.communicate()[1]
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            torn += any(tmp_path.rglob(f"*.{process.pid}.partial"))
            after = finished("killed")
            assert before.items() <= after.items(), "a finished file was written again"
            before = after
        assert torn >= kills // 2 - 1
        assert not (tmp_path / "killed" / "corpus").exists()
        process = start("killed")
        errors = process.communicate(timeout=170)[1]
        assert process.returncode == 0, errors
        assert finished("killed") == before, "all was finished when the corpus was begun"
        assert errors.count("24 of 24 utterances are finished already") == 4
        keys = [(path.parent, key) for path in before for key in np.load(path).files]
        assert len(keys) == len(set(keys)) == 4 * 24, "an utterance was done twice"
        process = start("calm")
        errors = process.communicate(timeout=170)[1]
        assert process.returncode == 0, errors
        assert corpus_bytes(tmp_path / "calm" / "corpus") == corpus_bytes(tmp_path / "killed" / "corpus")

    def test_broken_clips_are_refused_by_name_or_left_out(self, models, films, tmp_path, run_cli):
        folder = shutil.copytree(films.parent, tmp_path / "films")
        (folder / "film03.mp4").unlink()
        (folder / "film04.mp4").write_bytes(b"")
        write_movie(folder / "film05.mp4")
        cut_short(folder / "film06.mp4")
        spoil(folder / "film08.mp4")
        arguments = [
            folder / "table.csv",
            "--out",
            tmp_path / "out",
            "--cache",
            tmp_path / "cache",
            "--device=cpu",
            *small_bert(models),
            "--audio-encoder=egemaps",
            "--audio-stride-ms=50",
        ]
        done = run_cli(*arguments, module="data_prep.clips")
        assert done.returncode == 2, done.stderr
        assert "4 clips cannot be used" in done.stderr
        for words in (
            "line 5: film03.mp4 does not exist",
            "line 6: film04.mp4 is empty",
            "line 7: film05.mp4 has no audio stream",
            "line 8: film06.mp4",
        ):
            assert words in done.stderr
        assert not list((tmp_path / "cache").rglob("*.npz")), "refused before the long work"
        done = run_cli(*arguments, "--skip-broken", "--longest=0.5", module="data_prep.clips")
        assert done.returncode == 0, done.stderr
        assert "film08.mp4 cannot be decoded" in done.stderr
        assert "5 of 24 clips are left out" in done.stdout
        assert "are longer than 0.5 s and cut to their beginning" in done.stdout
        corpus = Corpus(tmp_path / "out")
        left_out = [f"film{i:02d}" for i in (3, 4, 5, 6, 8)]
        assert corpus.manifest["provenance"]["left_out"] == left_out
        assert not set(left_out) & set(corpus.index["id"].tolist())
        assert len(corpus) == 19
        assert corpus.modalities["audio"]["width"] == 25
        assert corpus.modalities["audio"]["longest"] == 10  # 0.5 s at 100 a second, five together
        assert corpus.modalities["audio"]["steps_per_second"] == 20
        cut = corpus.manifest["provenance"]["seconds_over_longest"]
        assert 0 < cut["cut"] < cut["of"]
        assert "unread clips" in done.stdout
        assert f"--longest={cut['enough']}" in done.stdout

    def test_faces_are_cut_out_and_frames_without_one_counted(self, models, portrait, tmp_path, run_cli):
        import av
        import transformers

        from data_prep.encoders.pretrained import Placement
        from data_prep.encoders.visual import FrameEncoder

        rows = []
        for i in range(4):
            with av.open(str(tmp_path / f"{i}.mp4"), "w") as out:
                video = out.add_stream("mpeg4", rate=10)
                video.width, video.height, video.pix_fmt, video.bit_rate = 256, 256, "yuv420p", 8_000_000
                for at in range(10):
                    image = (
                        portrait[::2, :: (2, -2)[i % 2]]
                        if at < (10, 10, 5, 0)[i]
                        else np.zeros((256, 256, 3), np.uint8)
                    )
                    out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
                out.mux(video.encode(None))
            rows.append({"file": f"{i}.mp4", "label": ("glad", "cross")[i % 2]})
        arguments = [
            write_table(tmp_path / "t.csv", rows),
            "--cache",
            tmp_path / "cache",
            "--device=cpu",
            "--frames=10",
            *small_bert(models),
            "--faces",
        ]
        done = run_cli(*arguments, "--out", tmp_path / "out", "--audio-encoder=egemaps", module="data_prep.clips")
        assert done.returncode == 2
        assert "--faces does nothing without --visual-encoder: give that, too" in done.stderr
        arguments += ["--visual-encoder", models / "vit"]
        done = run_cli(*arguments, "--out", tmp_path / "out", module="data_prep.clips")
        assert done.returncode == 0, done.stderr
        assert (
            "no face was found in 15 of 40 frames, which are taken whole; 1 of 4 clips have none at all" in done.stdout
        )
        corpus = Corpus(tmp_path / "out")
        assert "each cut to its largest face (haarcascade" in corpus.modalities["visual"]["extractor"]
        assert corpus.manifest["provenance"]["frames_without_face"] == 15
        assert corpus.manifest["provenance"]["visual_encoder"]["faces"] == faces.library()
        # The crop, made by another way, through the same processor.
        clip = Clip("2", tmp_path / "2.mp4")
        images = media.frames(clip, 30.0, count=10)
        images = [image[faces.largest(image)] for image in images[:5]] + images[5:]
        processor = transformers.ViTImageProcessorPil.from_pretrained(models / "vit")
        encoder = FrameEncoder(str(models / "vit"), frames=10, faces=True, placement=Placement("cpu"))
        pixels = np.stack([processor(image, return_tensors="np")["pixel_values"][0] for image in images])
        np.testing.assert_allclose(encoder.prepare(clip).pixels, pixels, atol=1e-6)
        assert encoder.identity != FrameEncoder(str(models / "vit"), frames=10, placement=Placement("cpu")).identity
        again = run_cli(*arguments, "--out", tmp_path / "out2", module="data_prep.clips")
        assert "no face was found in 15 of 40 frames" in again.stdout, "also when none is computed again"

    @pytest.mark.parametrize("coding", ["jpeg", "png"])
    def test_the_frames_themselves(self, models, films, tmp_path, run_cli, coding):
        """Squares from the middle; what a run reads is what Pillow makes of the film's frames; the cache gives the same
        bytes."""
        arguments = [
            films,
            "--cache",
            tmp_path / "cache",
            "--device=cpu",
            *small_bert(models),
            "--frames=5",
        ]
        refused = run_cli(*arguments, "--out", tmp_path / "a", "--frame-size=16", module="data_prep.clips")
        assert refused.returncode == 2
        assert "--frame-size is of --visual-encoder=jpeg or png" in refused.stderr
        arguments += ["--visual-encoder", coding, "--frame-size=16"]
        done = run_cli(*arguments, "--out", tmp_path / "a", module="data_prep.clips")
        assert done.returncode == 0, done.stderr
        corpus = Corpus(tmp_path / "a")
        assert corpus.modalities["visual"] | {"extractor": ""} == {
            "width": 768,
            "dtype": coding,
            "pixels": [16, 16],
            "longest": 5,
            "extractor": "",
        }
        assert "5 frames evenly spread as" in corpus.modalities["visual"]["extractor"]
        found = next(corpus[i] for i in range(24) if corpus[i].id == "film07").features["visual"]
        images = media.frames(Clip("film07", films.parent / "film07.mp4"), 30.0, count=5)
        wanted = [Image.fromarray(image[:, 16:48]).resize((16, 16), Image.Resampling.BICUBIC) for image in images]
        off = np.abs(decode_frames(found).astype(int) - np.stack([np.asarray(w) for w in wanted]))
        assert off.max() <= (6 if coding == "jpeg" else 1)
        again = run_cli(*arguments, "--out", tmp_path / "b", module="data_prep.clips")
        assert "visual: 24 of 24 utterances are finished already" in again.stderr
        same = {
            name
            for name, content in corpus_bytes(tmp_path / "a").items()
            if corpus_bytes(tmp_path / "b")[name] == content
        }
        assert same >= {name for name in corpus_bytes(tmp_path / "a") if name != "manifest.json"}

    def test_parts_of_one_long_recording(self, models, tmp_path, run_cli):
        write_wav(tmp_path / "long.wav", np.concatenate([tone(1.0, p) for p in (120.0, 180.0, 240.0, 300.0)]))
        rows = [row(file="long.wav", start=i, end=i + 1, label=("joy", "sad")[i % 2], turn=i) for i in range(4)]
        arguments = [
            "--out",
            tmp_path / "out",
            "--cache",
            tmp_path / "cache",
            *small_bert(models),
            "--audio-encoder=egemaps",
            "--device=cpu",
        ]
        table = write_table(tmp_path / "t.csv", rows)
        done = run_cli(table, *arguments, module="data_prep.clips")
        assert done.returncode == 2
        assert "with --cut each line takes the part" in done.stderr
        done = run_cli(table, *arguments, "--cut", module="data_prep.clips")
        assert done.returncode == 0, done.stderr
        assert "all utterances are train, none is valid or test; train with" in done.stdout
        corpus = Corpus(tmp_path / "out")
        pitch = [np.median(corpus[i].features["audio"][20:-20, 10]) for i in range(4)]
        semitones = 12 * np.log2(np.array([120, 180, 240, 300]) * 0.9 / 27.5)  # the tone falls to 0.8 of its pitch
        np.testing.assert_allclose(pitch, semitones, atol=1)


# The command with encoders and writes that take their time, so that kills find them at work, and in batches of two.
SLOWLY = """
import os, sys, time
from data_prep.encoders import audio, text, visual
from data_prep import clips
def slowly(call, seconds):
    return lambda *arguments: (time.sleep(seconds), call(*arguments))[1]
for encoder in (audio.SpeechEncoder, visual.FrameEncoder, text.TextEncoder):
    encoder.encode, encoder.batch_size = slowly(encoder.encode, 0.1), 2
os.replace, os.rename = slowly(os.replace, 0.05), slowly(os.rename, 1)
clips.main(sys.argv[1:])
"""
