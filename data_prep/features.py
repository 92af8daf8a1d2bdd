"""Features are computed once: what an encoder has finished is kept in a folder, and an interrupted command carries on."""

import hashlib
import itertools
import json
import os
import sys
import time
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mer_jax.errors import UserError

THREADS = min(8, (os.cpu_count() or 1) + 1)  # that decode while the encoder computes
POOLINGS = ("tokens", "mean")
TALLY = "#tally"  # after an utterance's key: what the encoder counted of it


class Encoder(Protocol):
    """What `extract` needs of an encoder. `identity` holds everything that its features depend on, as plain values;
    `extractor` says it in words; `together` is how many utterances it is given at a time. It may have a `tally`, which
    counts something of what is prepared, (so many, of so many); the counts are kept with the features."""

    identity: dict[str, Any]
    extractor: str
    together: int

    def prepare(self, source: Any) -> Any:
        """What `encode` takes of one utterance: decoding, resizing. Runs in threads; raises UserError on a broken clip."""

    def encode(self, prepared: list[Any]) -> list[np.ndarray]:
        """Of each utterance Float16[time, width]; or whatever array the encoder's own `restored` makes a feature of."""


class Kept:
    """The finished features of one encoder, Float16[time, width] by key, in a folder named after its identity.

    Utterances that were encoded together are saved together: their file appears under its name only when it is whole.
    So a killed command leaves batches finished or not begun, the next one computes the others in the very same batches,
    and the features come out with the same bits.
    """

    def __init__(self, root: Path, name: str, identity: Mapping[str, Any]):
        text = json.dumps(identity, indent=1, sort_keys=True)
        self.folder = root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "identity.json").write_text(text)
        self._files: dict[str, Path] = {}
        for path in sorted(self.folder.glob("*.npz")):
            try:
                with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
                    self._files.update(dict.fromkeys(saved.files, path))
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                print(f"note: {path} is damaged and will be made again ({error})", file=sys.stderr)
                path.unlink()

    def __contains__(self, key: str) -> bool:
        return key in self._files

    def __getitem__(self, key: str) -> np.ndarray:
        return self.read([key])[key]

    def read(self, keys: Iterable[str]) -> dict[str, np.ndarray]:
        """Each file is opened once. Raises UserError if one was damaged after it had been opened."""
        by_file: dict[Path, list[str]] = {}
        for key in dict.fromkeys(keys):
            by_file.setdefault(self._files[key], []).append(key)
        found = {}
        for path, of_file in by_file.items():
            try:
                with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
                    found.update({key: saved[key] for key in of_file})
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise UserError(f"{path} is damaged ({error}); delete it and give the same command again") from None
        return found

    def tally(self, keys: Iterable[str]) -> np.ndarray:
        """What the encoder counted of each utterance, Int[utterances, 2]."""
        found = self.read(key + TALLY for key in keys)
        return np.array(list(found.values())).reshape(-1, 2)

    def save(self, features: Mapping[str, np.ndarray]) -> None:
        path = self.folder / f"{hashlib.sha256(''.join(features).encode()).hexdigest()[:32]}.npz"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with open(partial, "wb") as file:
            np.savez(file, **features)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        self._files.update(dict.fromkeys(features, path))


def extract(
    encoder: Encoder, sources: Mapping[str, Any], root: Path, name: str, broken: dict[str, str] | None = None
) -> Kept:
    """The features of all sources by key, those computed that are not in the cache yet.

    A source that cannot be prepared raises its UserError, or goes to `broken` with its message and has no features.
    """
    kept = Kept(root, name, encoder.identity)
    keys = list(sources)
    batches = [keys[at : at + encoder.together] for at in range(0, len(keys), encoder.together)]
    missing = [m for m in ([key for key in batch if key not in kept] for batch in batches) if m]
    todo = sum(map(len, missing))
    if todo < len(keys):
        print(f"{name}: {len(keys) - todo} of {len(keys)} utterances are finished already", file=sys.stderr)
    if not todo:
        return kept
    progress = Progress(name, len(keys), len(keys) - todo)
    prepared = read_ahead(encoder.prepare, (sources[k] for k in itertools.chain(*missing)), encoder.together)
    tally = getattr(encoder, "tally", None)
    began, encoding = time.monotonic(), 0.0
    for batch in missing:
        ready: dict[str, Any] = {}
        for key in batch:
            try:
                ready[key] = next(prepared).result()
            except UserError as error:
                if broken is None:
                    prepared.close()
                    raise
                broken[key] = str(error)
        if ready:
            before = time.monotonic()
            features = encoder.encode(list(ready.values()))
            encoding += time.monotonic() - before
            counts = {key + TALLY: np.array(tally(p)) for key, p in ready.items()} if tally else {}
            kept.save(dict(zip(ready, features, strict=True)) | counts)
        progress.update(len(batch))
    progress.close()
    seconds = time.monotonic() - began
    print(
        f"{name}: {todo} utterances in {seconds:.1f} s, {todo / seconds:.1f}/s; the encoder computed {encoding / seconds:.0%} of it",
        file=sys.stderr,
    )
    return kept


def read_ahead(
    prepare: Callable[[Any], Any], sources: Iterable[Any], together: int
) -> Generator[Future[Any], None, None]:
    """`prepare(source)` of every source in order, by threads that are at most a batch ahead of who takes them."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        futures = (pool.submit(prepare, source) for source in sources)
        waiting = deque(itertools.islice(futures, together + THREADS))
        while waiting:
            yield waiting.popleft()
            waiting.extend(itertools.islice(futures, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def pool(states: np.ndarray, pooling: str, every: int = 1) -> np.ndarray:
    """Float[time, width] -> Float16: `tokens` keeps the steps (or the mean of each `every` of them), `mean` their mean."""
    states = states.astype(np.float32)
    if pooling == "mean":
        states = states.mean(0, keepdims=True)
    elif every > 1:
        begins = np.arange(0, len(states), every)
        sizes = np.diff(np.append(begins, len(states)))
        states = np.add.reduceat(states, begins) / sizes[:, None].astype(np.float32)
    with np.errstate(over="ignore"):
        half = states.astype(np.float16)
    if np.isinf(half).any() and np.isfinite(states).all():
        raise UserError(
            f"the encoder's states reach {np.abs(states).max():.0f}, beyond half precision; take other layers"
        )
    return half


def pooling_in_words(pooling: str, every: int = 1) -> str:
    return "the mean over time" if pooling == "mean" else f"means of {every} steps" if every > 1 else "every step"


def by_length(keys: Sequence[str], lengths: Sequence[float]) -> list[str]:
    """Longest first: what is encoded together is alike long, and too little memory shows at once."""
    return [key for _, key in sorted({(-length, key) for key, length in zip(keys, lengths, strict=True)})]


class Progress:
    """One line on stderr, rewritten; where nobody watches, a line every ten seconds. `already` were done before."""

    def __init__(self, what: str, total: int, already: int = 0):
        self.what, self.total, self.done, self.already = what, total, already, already
        self.began = self.told = time.monotonic()

    def update(self, more: int) -> None:
        self.done += more
        now, watched = time.monotonic(), sys.stderr.isatty()
        if now - self.told < (0.2 if watched else 10) and self.done < self.total:
            return
        self.told = now
        rate = (self.done - self.already) / max(now - self.began, 1e-9)
        line = f"{self.what}: {self.done}/{self.total}, {rate:.3g}/s, {(self.total - self.done) / max(rate, 1e-9):.0f} s left"
        print(f"{line:<80}" if watched else line, end="\r" if watched else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        if sys.stderr.isatty():
            print(file=sys.stderr)
