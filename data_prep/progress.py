"""Long work shows its progress on stderr."""

import sys
import time


class Progress:
    """A line that is rewritten; where nobody watches, a new line every ten seconds. `already` were done before."""

    def __init__(self, what: str, total: int, already: int = 0):
        self.what, self.total, self.done, self.already = what, total, already, already
        self.began = self.printed = time.monotonic()

    def update(self, more: int) -> None:
        self.done += more
        now, watched = time.monotonic(), sys.stderr.isatty()
        if now - self.printed < (0.2 if watched else 10) and self.done < self.total:
            return
        self.printed = now
        rate = (self.done - self.already) / max(now - self.began, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        line = f"{self.what}: {self.done}/{self.total}, {rate:.3g}/s, {left:.0f} s left"
        print(f"{line:<80}" if watched else line, end="\r" if watched else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)
