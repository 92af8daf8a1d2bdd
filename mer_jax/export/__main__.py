"""The command `python -m mer_jax.export`; see `command`."""

from mer_jax.export.command import main

if __name__ == "__main__":
    main()
