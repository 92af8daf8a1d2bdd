"""The models of the field that ours are compared with, each from its paper. OVER_UTTERANCES and OVER_DIALOGUES are their
files; COMPARED is all that `configs/baselines.py` knows, ours by the same recipe among them. No JAX."""

OVER_UTTERANCES = ("ef", "lf_dnn", "tfn", "lmf", "mult", "misa", "self_mm")
OVER_DIALOGUES = ("bc_lstm", "dialogue_rnn", "dialogue_gcn", "mmgcn", "sdt", "graph_smile")
UNSCALED = ("dialogue_rnn_unscaled", "dialogue_gcn_unscaled")  # the attention of their papers to the letter
OURS = ("lsgmer", "deepmsi_mer")
COMPARED = (*OVER_UTTERANCES, *(f"{name}_utterance" for name in OURS), *OVER_DIALOGUES, *UNSCALED, *OURS)
