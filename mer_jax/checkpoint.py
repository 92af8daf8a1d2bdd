"""Checkpoints of a run: the latest and the best, by Orbax. The only file that knows Orbax."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mer_jax.errors import UserError

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every save at INFO and WARNING


class Checkpoints:
    """Numbered checkpoints in `folder`: a state (pytree of arrays) and a JSON dict beside it.

    After a save only the newest remains. Saves run in the background and become visible at once
    and whole; a save that was killed half way is not seen and can be made again.
    """

    def __init__(self, folder: Path):
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "info": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True),
        )

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, step: int, state: Any, info: dict[str, Any]) -> None:
        """Starts saving; returns when the state may be changed. Raises UserError if the disk refuses."""
        try:
            saved = self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), info=ocp.args.JsonSave(info))
            )
        except OSError as error:
            raise UserError(f"cannot save checkpoint {step} in {self._manager.directory}: {error}") from None
        assert saved, f"checkpoint {step} exists already"

    def info(self, step: int) -> dict[str, Any]:
        return self._manager.restore(step, args=ocp.args.Composite(info=ocp.args.JsonRestore()))["info"]

    def restore(self, step: int, like: Any) -> Any:
        """The state saved at `step`, laid out as `like` (ShapeDtypeStructs with shardings).

        Raises UserError if a saved array is missing or has another shape or type: Orbax itself would pad or cast.
        """
        self._compare(step, like)
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))["state"]

    def wait(self) -> None:
        """Returns when every save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def _compare(self, step: int, like: Any) -> None:
        saved = _leaves(self._manager.item_metadata(step)["state"].tree)
        wanted = _leaves(like)
        where = f"checkpoint {step} in {self._manager.directory}"
        for name in sorted(saved.keys() ^ wanted.keys()):
            raise UserError(f"{where}: array {name} is {'not in this model' if name in saved else 'missing'}")
        for name, want in wanted.items():
            have = saved[name]
            if not jax.dtypes.issubdtype(want.dtype, jax.dtypes.prng_key) and (have.shape, have.dtype) != (
                want.shape,
                want.dtype,
            ):
                raise UserError(
                    f"{where}: array {name} is {have.dtype}{list(have.shape)}, the config wants {want.dtype}{list(want.shape)}"
                )


def _leaves(tree: Any) -> dict[str, Any]:
    """Array leaves by path; the kinds of containers on the way do not matter."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): leaf
        for path, leaf in flat
    }
