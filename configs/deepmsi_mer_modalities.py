"""Every set of modalities: rows for `python -m mer_jax.sweep`.

python -m mer_jax.sweep --config=configs/deepmsi_mer.py --sweep=configs/deepmsi_mer_modalities.py --config.data.path=DIR

On CMU-MOSI with --config.replicas.seeds=5 expect a test weighted F1 of 76.0 for T+A+V, 75.8 for T, 56.7 for A and
51.6 for V.
"""

import itertools

LETTERS = {"T": "text", "A": "audio", "V": "visual"}


def get_sweep() -> dict[str, dict[str, object]]:
    """Row name -> {field of the experiment: value}."""
    sets = [s for n in (1, 2, 3) for s in itertools.combinations(LETTERS, n)]
    return {"+".join(s): {"data.modalities": tuple(LETTERS[letter] for letter in s)} for s in sets}
