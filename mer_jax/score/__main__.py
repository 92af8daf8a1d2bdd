"""The command `python -m mer_jax.score`; see `command`."""

from mer_jax.score.command import main

if __name__ == "__main__":
    main()
