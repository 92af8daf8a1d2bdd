"""The command `python -m mer_jax.predict`; see `command`."""

from mer_jax.predict.command import main

if __name__ == "__main__":
    main()
