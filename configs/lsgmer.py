"""LSGMER: label signal enhancement and joint objective on audio and text.

python -m mer_jax.main --config=configs/lsgmer.py                                   demo corpus
python -m mer_jax.main --config=configs/lsgmer.py:tiny                              smoke run, seconds
python -m mer_jax.main --config=configs/lsgmer.py --config.data.path=DIR            your corpus
"""

from mer_jax import config


def get_config(arg: str = "") -> config.Experiment:
    """arg: "" = the model at full width; "tiny" = the same experiment, small enough for a smoke run."""
    experiment = config.Experiment(experiment="lsgmer")
    if arg == "tiny":
        experiment.experiment = "lsgmer-tiny"
        experiment.model.width = 32
        experiment.optim.learning_rate = 2e-3
        experiment.train.epochs, experiment.train.batch_size = 3, 64
    elif arg:
        raise ValueError(f"configs/lsgmer.py knows the argument 'tiny' or none, not {arg!r}")
    return experiment
