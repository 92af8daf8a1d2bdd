"""The models of the field that ours are compared with, each from its paper; all with one recipe, which is ours.

python -m mer_jax.main --config=configs/baselines.py:tfn                            demo corpus
python -m mer_jax.main --config=configs/baselines.py:tfn --config.data.path=DIR     your corpus

One utterance at a time (with --config.data.context=past or both they hear the dialogue as our models do): `ef` (early
fusion), `lf_dnn` (late fusion), `tfn`, `lmf`, `mult`.
"""

from mer_jax.config import Experiment
from mer_jax.models import family

OVER_UTTERANCES = ("ef", "lf_dnn", "tfn", "lmf", "mult")
MODELS = OVER_UTTERANCES


def get_config(arg: str = "") -> Experiment:
    """arg: the model's name, which is its file in mer_jax/models/baselines; "" = the first one."""
    name = arg or MODELS[0]
    if name not in MODELS:
        raise ValueError(f"configs/baselines.py knows the models {', '.join(MODELS)}, not {arg!r}")
    experiment = family.experiment_type(f"baselines.{name}")(experiment=f"baselines-{name}")
    experiment.data.modalities = ("text", "audio")
    experiment.loss.label_smoothing = 0.0
    optim, train = experiment.optim, experiment.train
    optim.name, optim.learning_rate, optim.weight_decay = "adamw", 1e-3, 1e-2
    optim.schedule, optim.ema_decay = "cosine", 0.99
    train.batch_size, train.epochs, train.patience = 64, 12, 4
    return experiment
