"""Frames in records, decoded and varied."""

import dataclasses
import io

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import class_targets, small_description
from PIL import Image

from mer_jax.data import __main__ as data_main
from mer_jax.data import corpus as corpus_lib
from mer_jax.data import frames, loader, synthetic
from mer_jax.data import pool as pool_lib
from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.frames import EncodedFrames, View, decode_frames, encode_frames
from mer_jax.errors import UserError
from mer_jax.models import deepmsi_mer as deepmsi_mer_lib
from mer_jax.models import deepmsi_mer_frames as deepmsi_mer_frames_lib
from mer_jax.runtime import sharding
from mer_jax.training import step

PLAIN = {"crop": 1.0, "flip": 0.0, "colour": 0.0}


def pictures(count=3, height=20, width=24, seed=0):
    """Smooth pictures, which JPEG hardly changes: a bright spot on a ramp."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    out = []
    for _ in range(count):
        cy, cx = rng.integers(4, height - 4), rng.integers(4, width - 4)
        spot = 120 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 20)
        out.append(np.stack([40 + 3 * x + spot, 60 + 4 * y + 0 * x, 100 + spot], -1).clip(0, 255).astype(np.uint8))
    return out


def framed_utterances(coding="png", count=12):
    for i in range(count):
        yield Utterance(
            id=f"u{i:02d}",
            split=("train", "train", "valid", "test")[i % 4],
            dialogue=f"d{i}",
            turn=0,
            speaker="s",
            session="1",
            label=("calm", "glad", "cross")[i % 3],
            sentence="",
            features={
                "visual": encode_frames(pictures(1 + i % 3, seed=i), coding),
                "text": np.ones((2, 6), np.float16) * i,
            },
        )


@pytest.fixture
def framed(tmp_path):
    path = tmp_path / "framed"
    write_corpus(path, framed_utterances(), small_description(extractors={"visual": "drawn", "text": "none"}))
    return path


@pytest.mark.parametrize("coding", frames.CODINGS)
def test_frames_come_back_from_a_record(tmp_path, coding):
    write_corpus(
        tmp_path / "c", framed_utterances(coding), small_description(extractors={"visual": "drawn", "text": "none"})
    )
    corpus = Corpus(tmp_path / "c")
    assert corpus.modalities["visual"] == {
        "width": 3 * 20 * 24,
        "dtype": coding,
        "pixels": [20, 24],
        "longest": 3,
        "extractor": "drawn",
    }
    for i, wanted in enumerate(sorted(framed_utterances(coding), key=lambda u: corpus_lib.SPLITS.index(u.split))):
        found = corpus[i]
        assert found.id == wanted.id
        assert corpus.index["length/visual"][i] == len(wanted.features["visual"])
        original = np.stack(pictures(len(found.features["visual"]), seed=int(wanted.id[1:])))
        off = np.abs(decode_frames(found.features["visual"]).astype(int) - original)
        assert off.max() <= (12 if coding == "jpeg" else 0)


def test_an_independent_reader_finds_the_frames(framed):
    """TFDS's parser of tf.train.Example, Pillow on the bytes as they lie there."""
    proto = pytest.importorskip("tensorflow_datasets.proto.tf_example_generated_pb2", reason="needs the test extra")
    corpus = Corpus(framed)
    raw = (framed / corpus.manifest["shards"][0]["file"]).read_bytes()
    example = proto.Example.FromString(raw[12 : 12 + int(corpus.index["size"][0])]).features.feature
    assert example["visual/dtype"].bytes_list.value[0] == b"png"
    assert list(example["visual/shape"].int64_list.value) == [1, 20, 24, 3]
    image = Image.open(io.BytesIO(example["visual/data"].bytes_list.value[0]))
    np.testing.assert_array_equal(np.asarray(image), pictures(1, seed=0)[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: dataclasses.replace(f, width=25), "'u01': visual is 20 x 25 pixels as png; {before}"),
        (lambda f: dataclasses.replace(f, coding="jpeg"), "'u01': visual is 20 x 24 pixels as jpeg; {before}"),
        (lambda f: dataclasses.replace(f, data=()), "must be frames of jpeg, png, uint8, not 0 of png"),
        (lambda f: np.zeros((3, 5), np.float32), "'u01': visual is 5 wide of float32; {before}"),
    ],
)
def test_frames_that_are_not_alike_are_refused(tmp_path, change, words):
    words = words.format(before="the utterances before it are 20 x 24 pixels as png")

    def utterances():
        for u in framed_utterances():
            visual = u.features["visual"]
            yield dataclasses.replace(u, features={**u.features, "visual": change(visual) if u.id == "u01" else visual})

    with pytest.raises(UserError, match=words):
        write_corpus(tmp_path / "c", utterances(), small_description(extractors={"visual": "drawn", "text": "none"}))


def test_a_damaged_frame_is_named(tmp_path, capsys):
    def broken():
        for u in framed_utterances():
            visual = u.features["visual"]
            if u.id == "u05":
                visual = dataclasses.replace(visual, data=(visual.data[0], visual.data[1][:60], *visual.data[2:]))
            yield dataclasses.replace(u, features={**u.features, "visual": visual})

    write_corpus(tmp_path / "c", broken(), small_description(extractors={"visual": "drawn", "text": "none"}))
    with pytest.raises(SystemExit):
        data_main.main([str(tmp_path / "c")])
    assert "(u05): frame 1 is no whole png" in capsys.readouterr().err
    with pytest.raises(ValueError, match="frame 0 has 3 bytes, not 20 x 24 x 3"):
        EncodedFrames("uint8", 20, 24, (b"abc",)).image(0)
    with pytest.raises(ValueError, match="frame 0 is no jpeg"):
        EncodedFrames("jpeg", 20, 24, encode_frames(pictures(1), "png").data).image(0)
    with pytest.raises(ValueError, match="frame 0 is 20 x 24 pixels, not 8 x 8"):
        EncodedFrames("png", 8, 8, encode_frames(pictures(1), "png").data).image(0)


def test_without_a_draw_it_is_the_square_in_the_middle():
    shown = encode_frames(pictures(), "uint8")
    np.testing.assert_array_equal(View(20, **PLAIN).apply(shown), np.stack(pictures())[:, :, 2:22])
    wanted = [np.asarray(Image.fromarray(p[:, 2:22]).resize((8, 8), Image.Resampling.BILINEAR)) for p in pictures()]
    found = View(8, crop=0.5, flip=0.5, colour=0.5).apply(shown)
    off = np.abs(found.astype(int) - np.stack(wanted))  # at the edges the filter sees what is beyond the cut
    assert off[:, 1:-1, 1:-1].max() <= 1
    assert off.max() < 10


def test_a_draw_is_the_same_for_all_frames_and_for_the_same_numbers():
    view, still = View(16, crop=0.4, flip=0.5, colour=0.3), encode_frames(pictures(1) * 3, "uint8")
    seen = {}
    for seed in range(8):
        found = view.apply(still, np.random.default_rng(seed))
        assert (found[0] == found).all()
        np.testing.assert_array_equal(found, view.apply(still, np.random.default_rng(seed)))
        seen[found.tobytes()] = seed
    assert len(seen) == 8


def test_every_kind_of_change_is_made():
    shown = encode_frames(pictures(1), "uint8")
    whole = View(20, **PLAIN).apply(shown)

    def some(**changes):
        return [View(20, **(PLAIN | changes)).apply(shown, np.random.default_rng(s)) for s in range(20)]

    assert all((view == whole).all() for view in some()), "a cut of all the area is the one in the middle"
    flipping = View(20, **(PLAIN | {"flip": 0.5}))
    mirrored = [(flipping.apply(shown, np.random.default_rng(s)) == whole[:, :, ::-1]).all() for s in range(40)]
    assert 10 < sum(mirrored) < 30
    assert len({x.tobytes() for x in some(crop=0.3)}) == 20
    bright = [float(x.mean()) for x in some(colour=0.4)]
    assert max(bright) > float(whole.mean()) + 10 > float(whole.mean()) - 10 > min(bright)


def test_colours_are_their_formula():
    """Saturation about the pixel's grey, contrast about 127.5, brightness; clipped to a byte."""
    b, c, s = 1.2, 0.8, 0.5
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    found = np.asarray(Image.fromarray(image).convert("RGB", frames.colour_matrix(b, c, s)))
    grey = image @ np.array([0.299, 0.587, 0.114])
    x = s * image + (1 - s) * grey[..., None]
    wanted = b * (127.5 + c * (x - 127.5))
    assert np.abs(found - wanted.clip(0, 255)).max() <= 1


def source_of(folder, threads=1, seed=0):
    corpus = Corpus(folder)
    rows = np.arange(len(corpus))
    targets = class_targets(corpus.label_ids(rows), len(corpus.labels))
    pool = pool_lib.select_utterances(corpus, rows, {"visual": 2, "text": 4}, targets)
    view = View(8, crop=0.5, flip=0.5, colour=0.2)
    mesh = sharding.make_mesh(devices=sharding.jax.devices()[:1])
    batches = loader.BatchSource(corpus, pool, "refuse", mesh, read_threads=threads, view=view, seed=seed)
    return batches, loader.training_order(pool, np.arange(len(pool)), 4, 0, 1)


def test_batches_of_frames_depend_on_seed_and_step_only(framed):
    def some(start, count, **how):
        batches, order = source_of(framed, **how)
        items = batches.training(order, start)
        return [next(items) for _ in range(count)]

    whole = some(0, 7)
    for start, threads in ((0, 4), (3, 1), (5, 2)):
        for (a, *_, rows), (b, *_, same) in zip(whole[start:], some(start, 7 - start, threads=threads), strict=True):
            np.testing.assert_array_equal(a.features["visual"], b.features["visual"])
            np.testing.assert_array_equal(rows, same)
    first = whole[0][0]
    assert first.features["visual"].shape == (4, 2, 8, 8, 3)
    assert first.features["visual"].dtype == np.uint8
    assert not np.asarray(first.features["visual"])[~np.asarray(first.mask["visual"])].any()
    assert (np.asarray(some(0, 1, seed=1)[0][0].features["visual"]) != np.asarray(first.features["visual"])).any()
    again = next(w for w in whole[3:] if set(w[3]) & set(whole[0][3]))  # the next epoch shows a clip in another way
    row = next(iter(set(again[3]) & set(whole[0][3])))
    a, b = (np.asarray(w[0].features["visual"])[list(w[3]).index(row)] for w in (whole[0], again))
    assert (a != b).any()


def test_evaluation_draws_nothing(framed):
    batches, _ = source_of(framed, threads=3)
    part = np.arange(len(batches.pool))
    seen = {}
    for source, positions, _, rows in batches.evaluation([part], 5, 1):
        batch = loader.take_rows(source, jnp.asarray(positions[0]))
        for row, x, m in zip(
            rows[0], np.asarray(batch.features["visual"]), np.asarray(batch.mask["visual"]), strict=True
        ):
            seen[int(row)] = x[m]
    for row in part:
        wanted = batches.view.apply(batches.corpus[int(row)].features["visual"][:2])
        np.testing.assert_array_equal(seen[int(row)], wanted)


def test_frames_are_standardised_as_public_backbones_expect(framed):
    """torchvision's and transformers' constants; padding stays zero."""
    batches, order = source_of(framed)
    stats = pool_lib.scan(
        batches.corpus,
        batches.pool,
        np.ones((2, len(batches.pool)), bool),
        "refuse",
        local_rows=np.arange(12),
        keep=False,
    ).stats
    assert stats["visual"]["mean"].shape == (2, 3)
    batch = next(batches.training(order, 0))[0]
    given = {m: {name: x[0] for name, x in s.items()} for m, s in stats.items()}
    found = np.asarray(step.standardize(batch, given).features["visual"])
    raw, mask = np.asarray(batch.features["visual"]) / 255.0, np.asarray(batch.mask["visual"])
    wanted = (raw - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found[mask], wanted[mask], atol=1e-5)
    assert not found[~mask].any()


def test_a_frame_of_another_size_stops_a_run_before_it_trains(tmp_path):
    def broken():
        for u in framed_utterances():
            visual = u.features["visual"]
            if u.id == "u04":
                visual = dataclasses.replace(
                    visual, data=(*visual.data[:-1], encode_frames(pictures(1, 16, 16), "png").data[0])
                )
            yield dataclasses.replace(u, features={**u.features, "visual": visual})

    write_corpus(tmp_path / "c", broken(), small_description(extractors={"visual": "drawn", "text": "none"}))
    batches, _ = source_of(tmp_path / "c")
    with pytest.raises(UserError, match=r"\(u04\): frame 1 is 16 x 16 pixels, not 20 x 24"):
        pool_lib.scan(
            batches.corpus, batches.pool, np.ones((1, 12), bool), "refuse", local_rows=np.arange(12), keep=False
        )


def test_what_reads_frames_and_what_does_not(framed):
    corpus = Corpus(framed)
    reads, features = deepmsi_mer_frames_lib.DeepMSIFramesExperiment(), deepmsi_mer_lib.DeepMSIExperiment()
    for config in (reads, features):
        config.data.modalities = ("text", "visual")
    reads.check_corpus(corpus)
    with pytest.raises(UserError, match=r"holds frames as visual, which configs/deepmsi_mer_frames\.py reads"):
        features.check_corpus(corpus)


def test_the_drawn_square_says_what_the_cue_says():
    """The cue can be read off the square again, where `region` says."""
    spec, rng = synthetic.VARIANTS["frames"]["visual"], np.random.default_rng(0)
    squares = synthetic.patterns().reshape(synthetic.CUE, -1)
    for _ in range(5):
        cue = rng.normal(size=synthetic.CUE)
        shown, boxes = synthetic.draw(cue, spec, rng)
        for image, box in zip(decode_frames(shown), boxes, strict=True):
            left, top, right, bottom = (box.astype(float) * spec.pixels).astype(int)
            inner = image[top:bottom, left:right].astype(float)
            found = np.linalg.lstsq(squares.T, (inner.ravel() - 180) / 8, rcond=None)[0]
            np.testing.assert_allclose(found, cue, atol=0.25)
