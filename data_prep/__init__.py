"""Raw corpora, packs and clips become immutable TFRecord corpora here. Only the record format is shared with
mer_jax."""
