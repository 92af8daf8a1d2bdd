"""Which sentiment emotions are of, by their names in the corpora of the field."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mer_jax.data.batch import AnyBatch
from mer_jax.tasks import Task

SENTIMENTS = {
    "positive": ("happy", "happiness", "hap", "excited", "excitement", "exc", "joy", "glad"),
    "negative": (
        *("sad", "sadness", "angry", "anger", "ang", "frustrated", "frustration", "fru", "fear", "fearful", "disgust"),
        *("disgusted", "cross"),
    ),
    "neutral": ("neutral", "neu", "calm", "surprise", "surprised"),
}


def sentiment_of(outputs: tuple[str, ...]) -> np.ndarray:
    """Which of the SENTIMENTS each output is of, one-hot [outputs, 3], zero where that is not known. Surprise is taken
    for neutral [ours]."""
    return np.array([[name.lower() in words for words in SENTIMENTS.values()] for name in outputs], np.float32)


def knows_sentiment(task: Task) -> bool:
    """Whether the outputs' sentiments are known, and what every utterance's are."""
    return not task.no_members and bool(sentiment_of(task.outputs).any(1).all())


def sentiments(task: Task, batch: AnyBatch) -> Float[Array, "batch 3"]:
    """Which sentiment every row's target is of, one-hot; of several emotions the one that most are of."""
    share = jnp.einsum("bc,cs->bs", task.members(batch.targets), jnp.asarray(sentiment_of(task.outputs)))
    return jax.nn.one_hot(share.argmax(-1), len(SENTIMENTS), dtype=share.dtype)
