"""Raw corpora -> immutable TFRecord corpora. Shares only the record format with mer_jax, and may use torch."""
