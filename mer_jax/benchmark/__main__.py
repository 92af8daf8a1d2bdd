"""The command `python -m mer_jax.benchmark`; see `command`."""

from mer_jax.benchmark.command import main

if __name__ == "__main__":
    main()
