"""Whether this process may have what JAX needs: without it XLA ends the process with a signal, which nobody can catch.
No JAX."""

import os
import resource

from mer_jax.errors import FILES, MEMORY, UserError

LEAST_FILES, ENOUGH_FILES = 64, 4096
LEAST_ADDRESSES = 2_000_000_000  # bytes; a run of the demo needs 1.5 to 2.5 GB with two cores
ADDRESSES_PER_CORE = 100_000_000


def require() -> None:
    """Takes as many open files as this user may have. Raises UserError if there are too few, or too little memory."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < ENOUGH_FILES and files != resource.RLIM_INFINITY:
        files = ENOUGH_FILES if most == resource.RLIM_INFINITY else min(most, ENOUGH_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
        if files < LEAST_FILES:
            raise UserError(f"this process may open {files} files at a time, and JAX needs {LEAST_FILES}: {FILES}")
    addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
    needed = LEAST_ADDRESSES + ADDRESSES_PER_CORE * (os.cpu_count() or 1)
    if addresses != resource.RLIM_INFINITY and addresses < needed:
        raise UserError(
            f"this process may have {addresses / 1e9:.1f} GB of addresses (ulimit -v), and JAX needs about "
            f"{needed / 1e9:.1f} GB on this machine: {MEMORY}"
        )
