"""What visual sequence compression is worth: rows for `python -m mer_jax.sweep`.

python -m mer_jax.sweep --config=configs/deepmsi_mer.py --sweep=configs/deepmsi_mer_vsc.py \\
    --config.data.path=demo:clutter

With --config.replicas.seeds=5, on the demo corpus of version 0.2, the test weighted F1 was 92.5 with VSC, 92.0 with a
quarter kept and 92.5 without VSC.
"""


def get_sweep() -> dict[str, dict[str, object]]:
    """Row name -> {field of the experiment: value}."""
    return {
        "VSC": {},
        "VSC, a quarter kept": {"model.keep": 0.25},
        "no VSC": {"model.vsc": False},
    }
