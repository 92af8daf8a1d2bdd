"""Clips are decoded where PyAV is installed, and their faces found where OpenCV is."""

import importlib.util
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from recordings import (
    RATE,
    STEP,
    cut_short,
    needs_av,
    spoil,
    tone,
    write_movie,
    write_wav,
)

from data_prep import limits
from data_prep.encoders import decoders, faces, media
from data_prep.encoders.media import Clip
from mer_jax.errors import UserError


def numbers(images):
    return [round(float(image.mean()) / STEP) for image in images]


@needs_av
class TestMedia:
    @pytest.mark.parametrize(
        ("part", "options", "wanted"),
        [
            ((0.0, None), {"count": 15}, [2 * i + 1 for i in range(15)]),
            ((0.0, None), {"count": 10}, [3 * i + 1 for i in range(10)]),
            ((0.0, None), {"count": 60}, [i // 2 for i in range(60)]),
            ((0.0, None), {"per_second": 4}, [2, 7, 12, 17, 22, 27]),
            ((0.5, 1.0), {"count": 5}, [11, 13, 15, 17, 19]),
        ],
    )
    def test_the_frames_are_those_shown_in_the_middle_of_each_part(self, tmp_path, part, options, wanted):
        clip = Clip("a.mp4", write_movie(tmp_path / "a.mp4"), *part)
        assert numbers(media.frames(clip, 30.0, **options)) == wanted
        same = Clip("a.mp4", clip.source.read_bytes(), *part)
        assert numbers(media.frames(same, 30.0, **options)) == wanted

    def test_frames_beyond_the_limit_are_not_taken(self, tmp_path):
        clip = Clip("a.mp4", write_movie(tmp_path / "a.mp4"))
        assert numbers(media.frames(clip, 0.5, count=5)) == [1, 3, 5, 7, 9]

    @pytest.mark.parametrize("rotation", [90, -90, 180])
    def test_a_film_taken_sideways_is_upright(self, tmp_path, rotation):
        image = media.frames(Clip("r", write_movie(tmp_path / "r.mp4", rotation=rotation)), 30.0, count=1)[0]
        stored = np.repeat([0, 200], 32)[None].repeat(32, 0)
        wanted = np.rot90(stored, rotation // 90)  # counterclockwise
        assert image.shape == (*wanted.shape, 3)
        assert np.abs(image.mean(-1) - wanted).max() < 60

    @pytest.mark.parametrize("channels", [1, 2])
    def test_sound_is_resampled_to_mono(self, tmp_path, channels):
        at = np.arange(22050) / 22050
        clip = Clip("a.wav", write_wav(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * at), 22050, channels))
        found = media.samples(clip, RATE, 30.0)
        assert found.dtype == np.float32
        assert abs(len(found) - RATE) <= 1
        wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(found)) / RATE)
        np.testing.assert_allclose(found[500:-500], wanted[500:-500], atol=0.01)

    def test_a_part_is_cut_where_it_says(self, tmp_path):
        sound = tone(3.0)
        for path in (write_wav(tmp_path / "a.wav", sound), write_movie(tmp_path / "a.mp4", sound)):
            whole = media.samples(Clip("a", path), RATE, 30.0)
            part = media.samples(Clip("a", path, 2.2, 2.6), RATE, 30.0)
            assert len(part) == round(0.4 * RATE)
            np.testing.assert_allclose(part, whole[35200:41600], atol=0.02)
            assert len(media.samples(Clip("a", path), RATE, 0.7)) == round(0.7 * RATE)

    def test_a_whole_clip_is_checked(self, tmp_path):
        path = write_movie(tmp_path / "a.mp4", tone())
        found = media.check(Clip("a.mp4", path), ("audio", "video"))
        assert found.seconds == pytest.approx(1.5, abs=0.1)
        assert media.check(Clip("b", path.read_bytes()), ("audio",)).key == found.key
        part = media.check(Clip("a.mp4", path, 0.5, 1.0), ("audio", "video"))
        assert part.seconds == 0.5
        assert (part.sha256, part.key != found.key) == (found.sha256, True)

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda p: None, "does not exist"),
            (lambda p: p.write_bytes(b""), "is empty"),
            (lambda p: p.write_bytes(b"no clip at all" * 99), "cannot be decoded"),
            (lambda p: write_movie(p), "has no audio stream"),
            (lambda p: write_wav(p, tone()), "has no video stream"),
            (lambda p: cut_short(write_wav(p, tone())), "its header says 48044: it is truncated"),
            (lambda p: cut_short(write_movie(p, tone())), "its header says 1.50 s: it is truncated"),
            (lambda p: write_wav(p, tone()[:0]), "stream is empty|has no|cannot be decoded"),
        ],
    )
    def test_a_broken_clip_is_named(self, tmp_path, make, words):
        path = tmp_path / "clip.mp4"
        make(path)
        with pytest.raises(UserError, match=words) as caught:
            media.check(Clip("the clip", path), ("audio", "video"))
        assert str(caught.value).startswith("the clip")

    def test_what_only_decoding_shows_is_named(self, tmp_path):
        clip = Clip("the clip", spoil(write_movie(tmp_path / "a.mp4", tone())))
        media.check(clip, ("audio", "video"))
        with pytest.raises(UserError, match=r"^the clip cannot be decoded"):
            media.samples(clip, RATE, 30.0)

    def test_a_part_outside_the_clip_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"the clip: 4.0 to 5.0 s is asked for, it is 1.50 s long"):
            media.check(Clip("the clip", write_wav(tmp_path / "a.wav", tone()), 4.0, 5.0), ("audio",))

    @pytest.mark.parametrize("channels", [8, 9, 12, 64])
    def test_sound_of_many_channels_is_their_mean(self, tmp_path, channels):
        clip = Clip("a.wav", write_wav(tmp_path / "a.wav", tone(0.2), channels=channels))
        wanted = media.samples(Clip("b.wav", write_wav(tmp_path / "b.wav", tone(0.2))), RATE, 30.0)
        np.testing.assert_allclose(media.samples(clip, RATE, 30.0), wanted, rtol=1e-6)

    def test_text_that_names_other_files_reads_none_of_them(self, tmp_path):
        write_wav(tmp_path / "secret.wav", tone())
        text = "ffconcat version 1.0\nfile secret.wav\n"
        for name in ("a.wav", "a.mp4"):
            (tmp_path / name).write_text(text)
            with pytest.raises(UserError, match="is no container of sound or pictures"):
                media.samples(Clip("the clip", tmp_path / name), RATE, 30.0)

    def test_a_rate_that_holds_no_speech_is_refused(self, tmp_path):
        clip = Clip("the clip", write_wav(tmp_path / "a.wav", tone(), 100))
        for read in (media.check, media.probe):
            with pytest.raises(UserError, match=r"^the clip: its sound has 100 samples a second; it must have 4000"):
                read(clip, ("audio",))


@needs_av
class TestDecoder:
    """Whatever ends the process that decodes a clip costs that clip alone."""

    def test_a_crash_is_the_error_of_its_clip(self, tmp_path):
        clip = Clip("the clip", write_wav(tmp_path / "a.wav", tone()))
        wanted = media.samples(clip, RATE, 30.0)
        while len(decoders._idle) > 1:
            decoders._idle.pop().close()
        pid = decoders._idle[0]._process.pid
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(media.samples, clip, RATE, 30.0)
            while decoders._idle:
                time.sleep(0.01)
            os.kill(pid, signal.SIGSEGV)
            os.kill(pid, signal.SIGCONT)
            with pytest.raises(UserError, match=r"^the clip cannot be decoded: the decoder ended with SIGSEGV"):
                asked.result(30)
        np.testing.assert_array_equal(media.samples(clip, RATE, 30.0), wanted)

    def test_a_clip_has_so_much_time(self, tmp_path, monkeypatch):
        os.mkfifo(tmp_path / "a.wav")  # nobody ever writes into it
        monkeypatch.setattr(limits, "SECONDS", 1)
        with pytest.raises(UserError, match=r"^the clip cannot be decoded: it takes more than 1 s"):
            decoders.ask("whole", Clip("the clip", tmp_path / "a.wav"), ("audio",))

    def test_a_clip_has_so_much_memory(self, tmp_path, monkeypatch):
        decoders._close()
        sound = Clip("the clip", write_wav(tmp_path / "a.wav", np.zeros(100 * RATE)))
        film = Clip("the film", write_movie(tmp_path / "a.mp4"))
        assert len(media.frames(film, 30.0, count=30)) == 30
        for gib, read in (
            (1e-5, lambda: media.frames(film, 30.0, count=30)),
            (0.005, lambda: media.samples(sound, RATE, 100.0)),
        ):
            monkeypatch.setattr(limits._flags, "memory", gib)
            with pytest.raises(UserError, match=r"^the (clip|film) .*wants more than .* GiB .*--memory-limit"):
                read()
            decoders._close()  # what a process has taken before, it may take again
        monkeypatch.undo()
        assert len(media.samples(sound, RATE, 0.1)) == 0.1 * RATE


needs_cv2 = pytest.mark.skipif(not importlib.util.find_spec("cv2"), reason="needs pip install -e '.[prep]'")


def no_face():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@needs_cv2
class TestFaces:
    def test_it_finds_her(self, portrait):
        rows, columns = faces.largest(portrait)
        assert 20 <= rows.start <= 64 < 162 <= rows.stop <= 220
        assert 130 <= columns.start <= 178 < 272 <= columns.stop <= 320
        assert rows.stop - rows.start == columns.stop - columns.start

    def test_the_largest_of_several_is_taken(self, portrait):
        both = np.zeros((512, 768, 3), np.uint8)
        both[128:384, :256] = portrait[::2, ::2]
        both[:, 256:] = portrait
        assert faces.largest(both)[1].start > 256 + 100
        assert faces.largest(both[:, ::-1].copy())[1].stop < 512 - 100

    def test_a_face_at_the_edge_is_cut_there(self, portrait):
        rows, columns = faces.largest(portrait[60:300, 150:400])
        assert rows.start == 0
        assert columns.stop > columns.start >= 0

    def test_large_frames_are_searched_as_small_ones(self, portrait):
        large = faces.largest(portrait.repeat(3, 0).repeat(3, 1))
        for found, wanted in zip(large, faces.largest(portrait), strict=True):
            assert abs(found.start / 3 - wanted.start) < 12
            assert abs(found.stop / 3 - wanted.stop) < 12

    def test_what_has_no_face_stays_whole_and_is_counted(self, portrait):
        noise, black = no_face(), np.zeros((1, 1, 3), np.uint8)
        found, without = faces.cropped([portrait, noise, portrait, noise, black])
        assert without == 3
        assert [image.shape for image in found[1::2]] == [noise.shape] * 2
        assert found[0].shape == found[2].shape != portrait.shape

    def test_the_detector_is_told(self, monkeypatch):
        found = faces.library()
        assert len(found["weights_sha256"]) == 64
        monkeypatch.setattr(faces, "CASCADE", "none.xml")
        with pytest.raises(UserError, match=r"--faces: OpenCV .* brings no none.xml"):
            faces.library()
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(UserError, match=r"--faces: OpenCV is not installed"):
            faces.library()
