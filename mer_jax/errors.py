"""The one exception that stands for a user's mistake."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """Bad input. The message names the file, record or field and says what would be right."""


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Ends a command on a UserError or Ctrl-C with its message and an honest exit code (2, 130) instead of a traceback."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command carries on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
