"""JAX's cache of compiled programs: an entry is whole or not there, and a disk that takes none is no reason to stop."""

import os
from pathlib import Path
from typing import Any

import jax

from mer_jax.errors import AGAIN, explained
from mer_jax.files import atomic_file
from mer_jax.runtime.console import console


def use(folder: Path) -> None:
    """Compiled programs are kept in `folder`, or where JAX_COMPILATION_CACHE_DIR says, and found again by the next
    run."""
    write_whole_entries()
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        tell(error, folder)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def write_whole_entries() -> None:
    """JAX itself writes in place: what a kill or a full disk leaves of an entry it never replaces, and it warns of that
    in every run, and of every entry that it cannot write."""
    try:
        from jax._src.lru_cache import LRUCache
    except ImportError:  # another JAX: only what is told above is lost
        return
    original = LRUCache.put
    if getattr(original, "is_ours", False):
        return
    told: list[OSError] = []

    def put(self: Any, key: str, value: bytes) -> None:
        if self.eviction_enabled:  # JAX_COMPILATION_CACHE_MAX_SIZE: it locks and counts
            return original(self, key, value)
        path = self.path / f"{key}-cache"
        try:
            with atomic_file(path, writers=2) as file:
                file.write(value)
        except OSError as error:
            if not told:
                tell(error, path)
            told.append(error)

    put.is_ours = True  # type: ignore[attr-defined]
    LRUCache.put = put  # type: ignore[method-assign]


def tell(error: OSError, path: Path) -> None:
    why = str(explained(error, path)).removesuffix(f". {AGAIN}")
    console.print(f"note: compiled programs are not kept for the next run: {why}", markup=False)
