"""The one exception that stands for a user's mistake."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """Bad input. The message names the file, record or field and says what would be right."""


def out_of_memory(error: BaseException) -> BaseException:
    """What to do about a device that ran out of memory, as nobody can foretell; any other error as it is."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        return error
    return UserError(
        f"the device has too little memory ({str(error).splitlines()[0][:200]}). Less is needed with a smaller "
        "--config.train.batch_size and eval_batch_size, with more --config.train.microbatches, with "
        "--config.train.precision=bfloat16, with fewer replicas in a step (--config.replicas.replicas_per_step) and, "
        "where a model reads frames, with fewer at a time (--config.backbone.frames_per_group). What is saved is kept: "
        "carry on with --allow_config_change, or begin in another --workdir"
    )


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Ends a command on a UserError or Ctrl-C with its message and an honest exit code (2, 130), without traceback."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command carries on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
