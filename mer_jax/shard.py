"""The device mesh and where arrays live on it: batches split along `data`, what belongs to replicas along `replica`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def start(cache: Path) -> None:
    """Settings of JAX for every command: compiled programs are kept in `cache` and found again by the next run."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def make_mesh(replicas: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices along two axes, `replica` and `data`: as many as share the replicas evenly go to `replica`."""
    devices = jax.devices() if devices is None else devices
    along = max(n for n in range(1, len(devices) + 1) if len(devices) % n == 0 and replicas % n == 0)
    return jax.make_mesh(
        (along, len(devices) // along), ("replica", "data"), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def along_data(mesh: Mesh) -> NamedSharding:
    """First axis split over the mesh's `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def along_replicas(mesh: Mesh) -> NamedSharding:
    """First axis, the replicas', split over the mesh's `replica`."""
    return NamedSharding(mesh, PartitionSpec("replica"))


def along_both(mesh: Mesh) -> NamedSharding:
    """[replicas, batch], split along both."""
    return NamedSharding(mesh, PartitionSpec("replica", "data"))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """NumPy arrays that every process holds in full -> global arrays; a process uploads only what its devices keep."""

    def upload(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

    with jax.transfer_guard_host_to_device("allow"):  # the one place where data is meant to go to the device
        return jax.tree.map(upload, tree)
