"""The device mesh and where arrays live on it: what belongs to replicas along `replica`, batches along `data`, the
features of weights along `model`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mer_jax.errors import UserError
from mer_jax.runtime import limits, program_cache

AXES = ("replica", "data", "model")


def start(cache: Path) -> None:
    """Settings of JAX for every command. Raises UserError if this process may not have what JAX needs."""
    limits.require()
    program_cache.use(cache)


def make_mesh(replicas: int = 1, model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices along three axes: `model` as asked for; of the rest as many as share the replicas evenly go to
    `replica`, the others to `data`. Raises UserError if `model` does not divide the devices, or those of a slice."""
    devices = jax.devices() if devices is None else devices
    types = (AxisType.Auto,) * 3
    if number_of_slices(devices) > 1:
        return Mesh(grid_of_slices(replicas, model, devices), AXES, axis_types=types)
    return jax.make_mesh(mesh_shape(replicas, model, len(devices)), AXES, axis_types=types, devices=devices)


def mesh_shape(replicas: int, model: int, devices: int) -> tuple[int, int, int]:
    """See `make_mesh`."""
    if devices % model:
        raise UserError(f"--config.mesh.model={model}: must divide the {devices} devices")
    rest = devices // model
    along_replica = max(n for n in range(1, rest + 1) if rest % n == 0 and replicas % n == 0)
    return along_replica, rest // along_replica, model


def number_of_slices(devices: Sequence[Any]) -> int:
    """Of TPUs, the slices that the devices lie in: between them goes the data centre's network, which is slow."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def grid_of_slices(replicas: int, model: int, devices: Sequence[Any]) -> np.ndarray:
    """The devices of several slices as a mesh: the slices lie along `replica`, which exchanges nothing, as far as the
    replicas go, then along `data`."""
    slices = number_of_slices(devices)
    in_one = len(devices) // slices
    if in_one * slices != len(devices) or in_one % model:
        raise UserError(
            f"--config.mesh.model={model}: must divide the devices of each slice, alike many in all; there are "
            f"{len(devices)} devices in {slices} slices"
        )
    along_replica, along_data, _ = mesh_shape(replicas, model, len(devices))
    between = (math.gcd(along_replica, slices), slices // math.gcd(along_replica, slices), 1)
    within = (along_replica // between[0], along_data // between[1], model)
    return mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis, the batch's, split over the mesh's `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replica_sharding(mesh: Mesh) -> NamedSharding:
    """First axis, the replicas', split over the mesh's `replica`."""
    return NamedSharding(mesh, PartitionSpec("replica"))


def replica_batch_sharding(mesh: Mesh) -> NamedSharding:
    """[replicas, batch], split along both."""
    return NamedSharding(mesh, PartitionSpec("replica", "data"))


def all_devices_sharding(mesh: Mesh) -> NamedSharding:
    """First axis split over all devices: nothing is held twice, so that every process reads its own part of a batch."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_shardings(tree: Any, mesh: Mesh, *, leading: bool, fsdp: bool) -> Any:
    """Shardings of a tree of states or models (shapes): which axis of every array is split over what.

    leading: the first axis is the replicas'. The last axis of a matrix (its output features) goes along `model`; with
    `fsdp` the longest other axis goes along `data`, so that params, moments and averages are held once. An axis that
    does not divide evenly stays whole, as does everything that is not a matrix.
    """

    def sharding_of(x: Any) -> NamedSharding:
        shape = x.shape[1:] if leading else x.shape
        names: list[str | None] = [None] * len(shape)
        if len(shape) >= 2:
            if shape[-1] % mesh.shape["model"] == 0 and mesh.shape["model"] > 1:
                names[-1] = "model"
            free = [i for i in range(len(shape)) if names[i] is None and shape[i] % mesh.shape["data"] == 0]
            if fsdp and free:
                names[max(free, key=lambda i: shape[i])] = "data"
        return NamedSharding(mesh, PartitionSpec(*(("replica",) if leading else ()), *names))

    return jax.tree.map(sharding_of, tree)


def device_put_global(tree: Any, sharding: NamedSharding) -> Any:
    """NumPy arrays that every process holds in full -> global arrays; a process uploads only what its devices keep."""

    def upload(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)

    with jax.transfer_guard_host_to_device("allow"):  # the one place where data is meant to go to the device
        return jax.tree.map(upload, tree)


def addressable_rows(size: int, sharding: NamedSharding) -> np.ndarray:
    """Which positions of a first axis of `size` this process's devices hold, in order."""
    held = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in held]))


def from_local_rows(tree: Any, size: int, sharding: NamedSharding) -> Any:
    """NumPy arrays that hold, in every process, its `addressable_rows(size, sharding)` -> global arrays of
    `size` rows."""
    rows = addressable_rows(size, sharding)

    def upload(x: np.ndarray) -> jax.Array:
        def piece(index: Any) -> np.ndarray:
            first = int(np.searchsorted(rows, index[0].start or 0))
            return x[first : first + len(range(*index[0].indices(size)))]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, piece)

    with jax.transfer_guard_host_to_device("allow"):
        return jax.tree.map(upload, tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Global arrays, however they lie -> whole on every device."""
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
