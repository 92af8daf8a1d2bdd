"""Whether the devices can hold a run."""

import math
import os
from typing import Any

import jax

from mer_jax.errors import UserError
from mer_jax.training.prepare import TrainingData


def check_memory(saved: dict[str, Any], per_step: int, data: TrainingData, mesh: jax.sharding.Mesh) -> None:
    """Raises UserError if what must be in memory at once is more than the device has: every replica's state and best
    model (twice where a save joins several groups), the gradients and updates of the replicas that share a step, and
    the corpus where it is resident, each as the mesh divides it. Activations come on top: less than this cannot do."""
    count = jax.tree.leaves(saved)[0].shape[0]
    everything, params = (
        sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
        for tree in (saved, saved["state"].params)
    )
    source = sum(x.nbytes for x in jax.tree.leaves(data.batches.source))
    joined = everything if per_step < count else 0  # a checkpoint is one tree: saving makes it of the groups
    gradients = 2 * params * per_step / count
    need = everything + joined + gradients + source
    parameters = sum(x.size for x in jax.tree.leaves(saved["state"].params)) / count
    has = memory_bytes(mesh)
    if has is not None and need > has:
        gigabytes = 2.0**30
        raise UserError(
            f"{count} replicas of {parameters / 1e6:.1f} M parameters need at least {need / gigabytes:.1f} GiB on each"
            f" device (state {everything / gigabytes:.2f} GiB, its copy while saving {joined / gigabytes:.2f},"
            f" gradients and updates {gradients / gigabytes:.2f}, corpus {source / gigabytes:.2f}), and it has"
            f" {has / gigabytes:.1f} GiB; run fewer at once with --config.replicas.folds or --config.replicas.seeds, in"
            " several workdirs, or a smaller model"
        )


def memory_bytes(mesh: jax.sharding.Mesh) -> float | None:
    """Memory of one device; on a CPU the machine's, shared by its devices. None where nobody tells."""
    device = mesh.local_mesh.devices.flat[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / mesh.local_mesh.size
    return None
