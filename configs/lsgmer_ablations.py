"""What each part of LSGMER is worth: rows for `python -m mer_jax.sweep`, each a few changed fields.

python -m mer_jax.sweep --config=configs/lsgmer.py --sweep=configs/lsgmer_ablations.py --config.replicas.seeds=5
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
