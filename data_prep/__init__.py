"""Raw corpora, packs and clips become immutable TFRecord corpora here. Only the record format is shared with
mer_jax."""

from mer_jax import errors, interrupts

if interrupts.started_as_command():
    errors.begin_command()
