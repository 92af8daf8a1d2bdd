"""What hearing the dialogue is worth, and how it is heard: rows for `python -m mer_jax.sweep`, for every family.

python -m mer_jax.sweep --config=configs/lsgmer.py:iemocap --sweep=configs/conversation_ablations.py \
    --config.data.path=DIR --config.replicas.seeds=5

LSGMER on IEMOCAP: test weighted F1 of 66.8 with past and future heard, 65.7 with the past, 57.9 with utterances alone,
65.4 with a transformer over all turns, 63.1 with a GRU.
"""


def get_sweep() -> dict[str, dict[str, object]]:
    """Row name -> {field of the experiment: value}."""
    return {
        "past and future heard": {"data.context": "both", "context.kind": "speakers"},
        "the past heard": {"data.context": "past", "context.kind": "speakers"},
        "utterances alone": {"data.context": "none", "context.kind": "speakers"},
        "transformer over all turns": {"data.context": "both", "context.kind": "transformer"},
        "GRU over all turns": {"data.context": "both", "context.kind": "gru"},
    }
