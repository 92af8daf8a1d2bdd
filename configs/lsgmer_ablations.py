"""What each part of LSGMER is worth: rows for `python -m mer_jax.sweep`, each a few changed fields.

python -m mer_jax.sweep --config=configs/lsgmer.py --sweep=configs/lsgmer_ablations.py --config.replicas.seeds=5

On IEMOCAP expect, test weighted F1: with configs/lsgmer.py:iemocap, which hears conversations, and seeds 0 to 4 66.8,
of 66.2 to 66.9 with a part taken out, of 62.8 for text only and 54.5 for audio only; with :iemocap_utterance and seeds
0 to 2 58.9, 58.6 to 59.0, 52.6 and 40.0.
"""


def get_sweep() -> dict[str, dict[str, object]]:
    """Row name -> {field of the experiment: value}."""
    return {
        "LSGMER": {},
        "no LSE": {"model.lse": False},
        "no gate": {"model.gate": False},
        "no moving average": {"model.label_average": 0.0},
        "no APC": {"loss.apc": 0.0},
        "random label words": {"model.label_init": "random"},
        "text only": {"data.modalities": ("text",)},
        "audio only": {"data.modalities": ("audio",)},
    }
