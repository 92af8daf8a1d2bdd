"""Batches of dialogues of features, for what reads turns."""

import jax.numpy as jnp
import numpy as np

from mer_jax.data.batch import Batch, Conversations, Turns
from mer_jax.data.conversations import Dialogues, Shapes

DIM = 10  # of an utterance's features
SIZES = (7, 1, 12, 5, 3)
SPEAKER = np.concatenate([[1, 2, 1, 1, 2, 2, 1], [0], [1, 2, 3] * 4, [1, 2, 0, 1, 0], [1, 1, 2]])


def known(sizes=SIZES, max_turns=256, hears="both"):
    ends = np.cumsum(sizes)
    rows = tuple(np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True))
    return Dialogues(rows, SPEAKER.astype(np.int32), hears, max_turns)


def conversations(some, order=None, turns=None, more_rows=0):
    """A batch of the dialogues of `some`, in one group, and the rows in it, -1 where nothing is."""
    total = len(some.speaker)
    windows = some.windows(np.ones(total, bool))
    windows = windows if order is None else [windows[i] for i in order]
    shapes = Shapes({"text": np.ones(total, int)})
    layout = shapes.layout([windows], turns or max(len(window.rows) for window in windows))
    if more_rows:
        (rows, lengths), *_ = layout.groups
        layout = layout._replace(groups=((rows + more_rows, lengths),), lines=layout.lines + 1)
    found = shapes.arrange(windows, some.speaker, layout)
    turns = Turns(*(jnp.asarray(x) for x in (found.place, found.dialogue, found.speaker)))
    group = Batch({}, {}, {}, jnp.asarray(found.counts, jnp.float32), turns)
    return Conversations((group,), layout.lines, layout.turns), found


def features(count=28):
    return np.random.default_rng(0).normal(size=(count, DIM)).astype(np.float32)
