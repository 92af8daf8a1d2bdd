"""Corpora as their authors distribute them: folder tree -> TFDS dataset of turns -> shards, every known trap told by name."""
