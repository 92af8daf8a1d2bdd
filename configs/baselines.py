"""The models of the field that ours are compared with, each from its paper, and ours, all by one recipe, which is ours.

python -m mer_jax.main --config=configs/baselines.py:tfn                            demo corpus
python -m mer_jax.main --config=configs/baselines.py:tfn --config.data.path=DIR     your corpus

One utterance at a time (with --config.data.context=past or both they hear the dialogue as our models do): `ef` (early
fusion), `lf_dnn` (late fusion), `tfn`, `lmf`, `mult`, `misa`, `self_mm`, `lsgmer_utterance`, `deepmsi_mer_utterance`.
Whole dialogues (data.context is both, or past): `bc_lstm`, `dialogue_rnn`, `dialogue_gcn`, `mmgcn`, `sdt`,
`graph_smile`, `lsgmer`, `deepmsi_mer`; `dialogue_rnn_unscaled` and `dialogue_gcn_unscaled` with the attention of their
papers to the letter. `python -m mer_jax.benchmark` compares all of them.
"""

from mer_jax.config import Experiment
from mer_jax.models import family
from mer_jax.models.baselines import COMPARED, OURS, OVER_DIALOGUES, UNSCALED


def get_config(arg: str = "") -> Experiment:
    """arg: the model's name, which is its file in mer_jax/models/baselines, or one of ours; "" = the first one."""
    name = arg or COMPARED[0]
    if name not in COMPARED:
        raise ValueError(f"configs/baselines.py knows the models {', '.join(COMPARED)}, not {arg!r}")
    ours, file = name.removesuffix("_utterance"), name.removesuffix("_unscaled")
    experiment = family.experiment_type(ours if ours in OURS else f"baselines.{file}")(experiment=f"baselines-{name}")
    experiment.data.modalities = ("text", "audio")
    experiment.loss.label_smoothing = 0.0
    optim, train = experiment.optim, experiment.train
    optim.name, optim.learning_rate, optim.weight_decay = "adamw", 1e-3, 1e-2
    optim.schedule, optim.ema_decay = "cosine", 0.99
    train.batch_size, train.epochs, train.patience = 64, 12, 4
    if name in UNSCALED:  # the papers' attention over the dialogue, to the letter
        experiment.model.scaled = False
    if name in (*OVER_DIALOGUES, *UNSCALED, *OURS):
        experiment.data.context = "both"
        train.batch_size, train.epochs, train.patience = 200, 25, 8
    if name in OURS:  # their context as tuned for IEMOCAP and MELD
        experiment.context.kind, experiment.context.heads = "speakers", 8
    if ours == "lsgmer":
        experiment.model.width = 128
    return experiment
