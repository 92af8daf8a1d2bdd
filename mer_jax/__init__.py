"""Multimodal emotion recognition in JAX.

import mer_jax
model = mer_jax.load("runs/lsgmer")
for found in model.predict("clip.wav", sentence="I did not expect that."):
    print(found.prediction, found.probabilities)

Of a run that hears what was said before (--config.data.context=past), turn by turn:

with mer_jax.load("runs/A").conversation() as talk:
    print(talk.add(sentence="I did not expect that.", speaker="Anna").prediction)
"""

from typing import TYPE_CHECKING, Any

from mer_jax import interrupts

if interrupts.started_as_command():
    interrupts.listen()  # before anything else is imported

from mer_jax import errors

if TYPE_CHECKING:
    from mer_jax.predict.predictor import Predictor


if interrupts.started_as_command():
    errors.begin_command()


def load(run: Any) -> "Predictor":
    """Loads the models of a finished run from its workdir, to predict with; see `mer_jax.predict.predictor.Predictor`.
    Raises UserError, a ValueError, if they cannot be had."""
    from mer_jax.predict import loading  # JAX starts with the first model, not with the import

    return loading.load(run)
