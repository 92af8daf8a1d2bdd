"""The command `python -m mer_jax.demo`; see `command`."""

from mer_jax.demo.command import main

if __name__ == "__main__":
    main()
