"""Checkpoints of a run, by Orbax. The only file that knows Orbax."""

import contextlib
import functools
import hashlib
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import Array, UInt32

from mer_jax import old_runs
from mer_jax.errors import UserError, explained
from mer_jax.runtime import distributed

# Orbax tells of every save at INFO and WARNING, and with a traceback at ERROR what it raises, too.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class Checkpoints:
    """Numbered checkpoints in `folder`: a state (pytree of arrays) and a JSON dict beside it.

    After a save only the newest `keep` remain. Saves run in the background and become visible at once and whole; a save
    that was killed half way is not seen and can be made again. A checksum of every array goes with them: Orbax itself
    does not notice a flipped bit.
    """

    def __init__(self, folder: epath.PathLike, keep: int = 1):
        self._manager = ocp.CheckpointManager(
            absolute_path(folder),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "info": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
        )
        # Orbax would count its own questions to JAX's preemption service among ours: see
        # distributed.PreemptionNotice.
        self._manager.reached_preemption = lambda step: False
        self._digest: dict[str, Any] = {}
        _forget_late_tasks()

    def digest(self) -> dict[str, Any]:
        """`digest_of` what was saved or read last."""
        return self._digest

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def newest(
        self,
        like: Any,
        check: Callable[[int, dict[str, Any]], None],
        warn: Callable[[str], None],
        *,
        fall_back: bool = True,
    ) -> tuple[int, dict[str, Any], Any] | None:
        """The newest checkpoint's number, JSON dict, and state, laid out as `like` (ShapeDtypeStructs with shardings)
        on whatever mesh it was saved; None if there is no checkpoint. check(number, dict) may refuse it with a
        UserError.

        `warn` is told of one that any process finds damaged; it is set aside, as STEP.damaged, and the one before is
        read. Raises UserError, and touches nothing, if all are damaged, or the newest is and `fall_back` is off; or if
        a saved array is missing or has another shape or type, which Orbax itself would pad or cast.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            where = f"checkpoint {step} in {self._manager.directory}"
            info, state, why = self._read(step, like, check)
            why = next(filter(None, distributed.all_gather_text(why)), "") or checksum_error(info["sums"], state)
            if not why:
                self._set_aside(damaged, step, warn)
                self._digest = digest_of(step, info["sums"])
                return step, info["info"], old_runs.named_as_today(state, like)
            damaged.append(step)
            if not fall_back:
                raise UserError(f"{where} is damaged: {why}")
            warn(f"{where} is damaged: {why}")
        if damaged:
            steps = ", ".join(map(str, damaged))
            raise UserError(
                f"{self._manager.directory}: every checkpoint is damaged ({steps}); bring one back, or use another "
                "--workdir to start anew"
            )
        return None

    def _set_aside(self, damaged: list[int], step: int, warn: Callable[[str], None]) -> None:
        """Renames the damaged checkpoints that are newer than the one of `step`."""
        folder = self._manager.directory
        for bad in damaged:
            warn(f"checkpoint {bad} is set aside as {bad}.damaged; the one before, {step}, takes its place")
            if distributed.is_primary():
                (folder / str(bad)).rename(folder / f"{bad}.damaged")
        if damaged:
            distributed.barrier("damaged checkpoints are set aside")
            self._manager.reload()

    def _read(
        self, step: int, like: Any, check: Callable[[int, dict[str, Any]], None]
    ) -> tuple[dict[str, Any], Any, str]:
        """(JSON, state, "") or ({"sums": {}}, None, why not). No process waits for another here: Orbax's own `restore`
        would."""
        _forget_late_tasks()
        folder = self._manager.directory / str(step)
        why = ""
        for _ in range(2):  # a disk or a bucket may fail once
            try:
                info = ocp.JsonCheckpointHandler().restore(folder / "info")
                if "sums" not in info:
                    raise UserError(
                        f"{folder} was written by a mer_jax before 0.4; finish the run with that, or use another "
                        "--workdir"
                    )
                check(step, info["info"])
                handler = ocp.StandardCheckpointHandler()
                metadata = handler.metadata(folder / "state")
                named = old_runs.named_as_saved(like, _leaves(getattr(metadata, "tree", metadata)))
                refuse_other_arrays(getattr(metadata, "tree", metadata), named, str(folder))
                return info, handler.restore(folder / "state", args=ocp.args.StandardRestore(named)), ""
            except UserError:
                raise
            except Exception as error:  # Orbax and TensorStore raise what they like
                why = first_line(error)
        return {"sums": {}}, None, why

    def save(self, step: int, state: Any, info: dict[str, Any]) -> None:
        """Starts saving; returns when the state may be changed. Raises UserError if the disk refuses this or an earlier
        save."""
        info = {"info": info, "sums": checksums(state)}
        with self._told():
            saved = self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), info=ocp.args.JsonSave(info))
            )
        assert saved, f"checkpoint {step} exists already"
        self._digest = digest_of(step, info["sums"])

    def check(self) -> None:
        """Raises UserError if a save in the background has failed; costs nothing."""
        with self._told():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Returns when every save is on disk. Raises UserError if one cannot be."""
        with self._told():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Ends what saves. Another error, or a signal, must not be hidden by a save that fails meanwhile."""
        failing = sys.exc_info()[0] is not None
        if not failing:
            self.wait()
        with contextlib.suppress(Exception):
            self._manager.close()
        if failing:
            self._drop_halves()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What a save raises, as a UserError."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise what they like
            folder = self._manager.directory
            told = explained(error, folder)
            self._drop_halves()
            why = str(told) if isinstance(told, UserError) else first_line(error)
            raise UserError(f"a checkpoint cannot be saved: {why}") from None

    def _drop_halves(self) -> None:
        """Half of a checkpoint does not keep its room on a full disk."""
        folder = self._manager.directory
        if "://" not in str(folder):
            with contextlib.suppress(OSError):  # what can only be read stays, and what Orbax is just removing
                for half in folder.glob("*.orbax-checkpoint-tmp*"):
                    half.rmtree(missing_ok=True)


def refuse_other_arrays(saved: Any, wanted: Any, where: str) -> None:
    """Raises UserError, naming the array, unless the trees have the same arrays, by path, shape and type. where: the
    checkpoint that has `saved`."""
    have, want = _leaves(saved), _leaves(wanted)
    for name in sorted(have.keys() ^ want.keys()):
        raise UserError(f"{where}: array {name} is {'not in this model' if name in have else 'missing'}")
    for name, one in want.items():
        is_key = jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key)
        if not is_key and (have[name].shape, have[name].dtype) != (one.shape, one.dtype):
            raise UserError(
                f"{where}: array {name} is {have[name].dtype}{list(have[name].shape)}, the config wants "
                f"{one.dtype}{list(one.shape)}"
            )


@functools.cache
def _forget_late_tasks() -> None:
    """After one array could not be read or written, nobody waits for the others, and Orbax's event loop is gone; Python
    would tell of each of them: of its task, of whatever that waited for, of the call that found no loop."""
    original_hook = sys.unraisablehook

    def is_late(error: BaseException | None) -> bool:
        told = any(word in f"{error} {error and error.__cause__}".lower() for word in ("tensorstore", "ocdbt"))
        return told or (error is not None and isinstance(explained(error), UserError))

    def hook(unraisable: Any) -> None:
        if not (is_late(unraisable.exc_value) or str(unraisable.exc_value) == "Event loop is closed"):
            original_hook(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(lambda record: not (record.exc_info and is_late(record.exc_info[1])))
    warnings.filterwarnings("ignore", r"coroutine '\w*(read_array|deserialize)\w*' was never awaited", RuntimeWarning)


def digest_of(step: int, sums: dict[str, int]) -> dict[str, Any]:
    """What tells a checkpoint from all others: its step, and the sha256 of the checksums of all its arrays."""
    return {"step": step, "sha256": hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()}


def best_models(folder: epath.PathLike) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Of the newest checkpoint its JSON dict, what was saved as `best`, NumPy arrays, and its digest; nothing else of
    it is read. Raises UserError if there is none, or if it is damaged."""
    folder = absolute_path(folder)
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    if not steps:
        raise UserError(f"{folder} holds no checkpoint: bring back the one of the run")
    where = folder / str(max(steps))
    _forget_late_tasks()
    try:
        info = ocp.JsonCheckpointHandler().restore(where / "info")
        metadata = ocp.StandardCheckpointHandler().metadata(where / "state")
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), {"best": getattr(metadata, "tree", metadata)["best"]}
        )
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        restore = ocp.args.PyTreeRestore(item=like, restore_args=how, partial_restore=True)
        found = ocp.PyTreeCheckpointHandler().restore(where / "state", args=restore)
    except Exception as error:  # Orbax and TensorStore raise what they like
        raise UserError(f"checkpoint {where} is damaged ({first_line(error)}); bring it back") from None
    if why := checksum_error(info["sums"], found):
        raise UserError(f"checkpoint {where} is damaged: {why}; bring it back")
    return info["info"], old_runs.renamed_arrays(found["best"]), digest_of(max(steps), info["sums"])


def first_line(error: Exception) -> str:
    """Of its message, or the name of its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def absolute_path(folder: epath.PathLike) -> epath.Path:
    """As Orbax wants it: from the root, or of a bucket."""
    return epath.Path(folder).absolute() if "://" not in str(folder) else epath.Path(folder)


def checksum_error(saved: dict[str, int], state: Any) -> str:
    """What is wrong if an array is not, bit for bit, what was saved; else nothing. Every process asks."""
    now = checksums(state)
    wrong = sorted(name for name in now if saved.get(name) != now[name])
    return f"array {wrong[0]} is not what was saved ({len(wrong)} of {len(now)} arrays)" if wrong else ""


def checksums(tree: Any) -> dict[str, int]:
    """A checksum of every array, by path: of its bits, each mixed with its place; the same however it is sharded.

    Every device sums what it holds, without talking to the others.
    """
    parts: dict[str, list[Array]] = {}
    for name, leaf in _leaves(tree).items():
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = jax.random.key_data(leaf) if is_key else jnp.asarray(leaf)
        strides = tuple(math.prod(array.shape[i + 1 :]) % 2**32 for i in range(array.ndim))
        with jax.transfer_guard_host_to_device("allow"):
            parts[name] = [
                _checksum(shard.data, tuple(np.uint32(along.start or 0) for along in shard.index), strides)
                for shard in array.addressable_shards
                if shard.replica_id == 0
            ]
    own = [sum(map(int, found)) for found in jax.device_get(list(parts.values()))]
    shares = [share["sums"].tolist() for share in distributed.all_gather({"sums": np.array(own, np.uint64)})]
    return {name: sum(found) % 2**32 for name, *found in zip(parts, *shares, strict=True)}


@functools.partial(jax.jit, static_argnums=2)
def _checksum(x: Array, starts: tuple[Any, ...], strides: tuple[int, ...]) -> UInt32[Array, ""]:
    """Of a shard that begins at `starts` in an array with these `strides`."""
    bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    place = jnp.zeros(x.shape, jnp.uint32)
    for i, (start, stride) in enumerate(zip(starts, strides, strict=True)):
        place += (jax.lax.broadcasted_iota(jnp.uint32, x.shape, i) + start) * np.uint32(stride)
    mixed = jax.lax.bitcast_convert_type(x, bits).astype(jnp.uint32) ^ (place * np.uint32(0x9E3779B1))
    # As murmur3 ends: every bit of value and place reaches every bit of the sum.
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        mixed = (mixed ^ (mixed >> 15)) * np.uint32(factor)
    return (mixed ^ (mixed >> 16)).sum(dtype=jnp.uint32)


def _leaves(tree: Any) -> dict[str, Any]:
    """Array leaves by path; the kinds of containers on the way do not matter."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): leaf
        for path, leaf in flat
    }
