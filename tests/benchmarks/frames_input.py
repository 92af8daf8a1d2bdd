"""Frames per second and core from records to what a model sees, and the share of a step spent waiting for them.

Photographs of 256 x 256 as JPEG of quality 95, 15 a record: read, checked, decoded, and varied as in training or only
cut as in evaluation; beside bare Pillow on the same bytes. Then 200 steps of `configs/deepmsi_mer_frames.py:tiny`.
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

FRAMES, SIZE, RECORDS, SECONDS = 15, 256, 24, 4.0


def photographs():
    """Cuts of scikit-image's photograph (`test` extra), each another."""
    from PIL import Image
    from skimage import data

    photo, rng = Image.fromarray(data.astronaut()), np.random.default_rng(0)
    for _ in range(RECORDS):
        corners = rng.uniform(0, 200, (FRAMES, 2))
        yield [
            np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (x, y, x + 300, y + 300)))
            for x, y in corners
        ]


def corpus_of(folder):
    from mer_jax.data.corpus import Corpus, Utterance
    from mer_jax.data.corpus_writer import write_corpus
    from mer_jax.data.description import Description
    from mer_jax.data.frames import encode_frames

    labels = ("a", "b")
    write_corpus(
        folder,
        (
            Utterance(
                f"u{i}",
                ("train", "valid", "test")[i % 3],
                f"d{i}",
                0,
                "s",
                "1",
                labels[i % 2],
                "",
                {"visual": encode_frames(images, "jpeg")},
            )
            for i, images in enumerate(photographs())
        ),
        Description(
            "bench",
            labels,
            {"visual": "photographs"},
            labels,
            np.eye(2),
            "none",
            {"name": "none"},
            {"tool": "none"},
            "none",
        ),
    )
    return Corpus(folder)


def rate(one, threads=1):
    """Calls of one(i) a second, times the frames of each; after as many that do not count."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(RECORDS)))
        done, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < SECONDS:
            list(pool.map(one, range(RECORDS)))
            done += RECORDS
        return round(done * FRAMES / spent)


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    import io

    from PIL import Image
    from training import measure

    sys.path.append(str(Path(__file__).parents[2]))
    from configs.deepmsi_mer_frames import get_config
    from mer_jax import config as config_lib
    from mer_jax.data.frames import View
    from mer_jax.data.synthetic import demo_corpus
    from mer_jax.models import deepmsi_mer_frames as deepmsi_mer_frames_lib

    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_of(Path(folder) / "c")
        coded = [corpus[i].features["visual"] for i in range(RECORDS)]
        kilobytes = sum(len(frame) for frames in coded for frame in frames.data) / RECORDS / FRAMES / 1024
        varied = View(
            SIZE, **{k: v for k, v in vars(deepmsi_mer_frames_lib.FrameAugmentation()).items() if k != "size"}
        )
        plain = View(SIZE, crop=1.0, flip=0.0, colour=0.0)

        def seen(view, draw):
            def one(i):
                view.apply(corpus[i].features["visual"], np.random.default_rng(i) if draw else None)

            return one

        def bare(i):
            for frame in coded[i].data:
                np.asarray(Image.open(io.BytesIO(frame)))

        found = {
            "kilobytes a frame": round(kilobytes, 1),
            "frames a second, one thread: bare Pillow": rate(bare),
            "as in evaluation": rate(seen(plain, False)),
            "as in training": rate(seen(varied, True)),
            "as in training, 2 threads": rate(seen(varied, True), 2),
        }
    print(json.dumps(found, indent=1), flush=True)
    config = get_config("tiny")
    steps = measure(config_lib.validate(config), demo_corpus(variant="frames"))
    print(json.dumps({"configs/deepmsi_mer_frames.py:tiny": steps}, indent=1))


if __name__ == "__main__":
    main()
