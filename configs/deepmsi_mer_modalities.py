"""Every set of modalities: rows for `python -m mer_jax.sweep`.

python -m mer_jax.sweep --config=configs/deepmsi_mer.py --sweep=configs/deepmsi_mer_modalities.py --config.data.path=DIR
"""

import itertools

LETTERS = {"T": "text", "A": "audio", "V": "visual"}


def get_sweep() -> dict[str, dict[str, object]]:
    """Row name -> {field of the experiment: value}."""
    sets = [s for n in (1, 2, 3) for s in itertools.combinations(LETTERS, n)]
    return {"+".join(s): {"data.modalities": tuple(LETTERS[letter] for letter in s)} for s in sets}
