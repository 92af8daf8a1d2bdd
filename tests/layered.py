"""Small corpora whose text is three hidden layers of an encoder, side by side or one by itself."""

import dataclasses

import numpy as np
import store
from conftest import small_description, small_utterances

from mer_jax.data.corpus_writer import write_corpus

LAYERS = (4, 8, 11)
WIDTH = 2  # of a layer


def layered(folder, count=120, **changes):
    """All three in one corpus."""
    layers = {"layers": {"text": LAYERS}, "label_embeddings": np.eye(3, WIDTH, dtype=np.float32)}
    write_corpus(folder, small_utterances(count), small_description(**(layers | changes)))
    return folder


def only(folder, layer, count=120):
    """The same utterances with this layer alone."""
    first = WIDTH * LAYERS.index(layer)

    def utterances():
        for utterance in small_utterances(count):
            text = np.ascontiguousarray(utterance.features["text"][:, first : first + WIDTH])
            yield dataclasses.replace(utterance, features={**utterance.features, "text": text})

    words = np.eye(3, WIDTH, dtype=np.float32)
    write_corpus(folder, utterances(), small_description(label_embeddings=words))
    return folder


def layered_folder(count=120):
    """The folder of such a corpus, made once for all tests."""
    return store.made_once(f"layered-{count}", lambda folder: layered(folder / "layered", count)) / "layered"
