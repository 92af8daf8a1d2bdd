"""Corpora as their authors distribute them are read here: folder -> TFDS dataset of turns -> corpus, every known issue
named."""
