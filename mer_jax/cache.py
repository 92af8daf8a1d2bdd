"""Where mer_jax keeps what it can make again: the demo corpus, compiled programs, extracted features."""

import os
from pathlib import Path


def folder() -> Path:
    """$XDG_CACHE_HOME/mer_jax, or ~/.cache/mer_jax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mer_jax"
