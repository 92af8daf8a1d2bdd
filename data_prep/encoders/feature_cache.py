"""Features are computed once: a folder holds what an encoder has finished, and an interrupted command carries on."""

import hashlib
import itertools
import json
import os
import shutil
import sys
import time
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.progress import Progress
from mer_jax.errors import UserError
from mer_jax.files import atomic_file

THREADS = min(8, (os.cpu_count() or 1) + 1)  # that decode while the encoder computes
LARGE = 2**30  # bytes of features that are worth a note
TALLY = "#tally"  # after an utterance's key: what the encoder counted of it


class Encoder(Protocol):
    """`extract` needs this of an encoder. `identity` holds everything that its features depend on, as plain values;
    `extractor` says it in words; `batch_size` is how many utterances it is given at a time. It may have a `tally`,
    which counts something of what is prepared, (so many, of so many); the counts are stored with the features. It may
    have a `restored`, which makes a feature of the array that `encode` returned."""

    identity: dict[str, Any]
    extractor: str
    batch_size: int

    def prepare(self, source: Any) -> Any:
        """Decodes and resizes one utterance into what `encode` takes. It runs in threads, and raises UserError on a
        broken clip."""

    def encode(self, prepared: list[Any]) -> list[np.ndarray]:
        """Returns Float[time, width] of each utterance, or an array for `restored`."""


class FeatureCache:
    """The finished features of one encoder, Float[time, width] by key, in a folder named after its identity.

    Utterances that were encoded together are saved together: their file appears under its name only when it is whole.
    So a killed command leaves batches finished or not begun, the next one computes the others in the very same batches,
    and the features come out with the same bits.
    """

    def __init__(self, root: Path, name: str, identity: Mapping[str, Any]):
        text = json.dumps(identity, indent=1, sort_keys=True)
        self.folder = root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "identity.json"
        if not about.exists():  # what is finished is read from a folder that can only be read, too
            with atomic_file(about, "w", writers=2) as file:
                file.write(text)
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
        """Opens each file once. Raises UserError if one was damaged after the cache was opened."""
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
        """Returns what the encoder counted of each utterance, Int[utterances, 2]."""
        found = self.read(key + TALLY for key in keys)
        return np.array(list(found.values())).reshape(-1, 2)

    def save(self, features: Mapping[str, np.ndarray]) -> None:
        path = self.folder / f"{hashlib.sha256(''.join(features).encode()).hexdigest()[:32]}.npz"
        with atomic_file(path, writers=2) as file:  # two commands may extract the same features
            np.savez(file, **features)  # type: ignore[arg-type]
        self._files.update(dict.fromkeys(features, path))


def extract(
    encoder: Encoder, sources: Mapping[str, Any], root: Path, name: str, broken: dict[str, str] | None = None
) -> FeatureCache:
    """Returns the features of all sources by key; it computes those that are not in the cache yet.

    A source that cannot be prepared raises its UserError, or goes to `broken` with its message and has no features.
    """
    cache = FeatureCache(root, name, encoder.identity)
    keys = list(sources)
    batches = [keys[at : at + encoder.batch_size] for at in range(0, len(keys), encoder.batch_size)]
    missing = [m for m in ([key for key in batch if key not in cache] for batch in batches) if m]
    todo = sum(map(len, missing))
    if todo < len(keys):
        print(f"{name}: {len(keys) - todo} of {len(keys)} utterances are finished already", file=sys.stderr)
    if not todo:
        return cache
    progress = Progress(name, len(keys), len(keys) - todo)
    prepared = read_ahead(encoder.prepare, (sources[k] for k in itertools.chain(*missing)), encoder.batch_size)
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
            cache.save(dict(zip(ready, features, strict=True)) | counts)
        progress.update(len(batch))
    progress.close()
    seconds = time.monotonic() - began
    print(
        f"{name}: {todo} utterances in {seconds:.1f} s, {todo / seconds:.1f}/s; "
        f"the encoder computed {encoding / seconds:.0%} of it",
        file=sys.stderr,
    )
    return cache


def read_ahead(
    prepare: Callable[[Any], Any], sources: Iterable[Any], batch_size: int
) -> Generator[Future[Any], None, None]:
    """Yields `prepare(source)` of every source in order, by threads that are at most a batch ahead of who takes
    them."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        futures = (pool.submit(prepare, source) for source in sources)
        waiting = deque(itertools.islice(futures, batch_size + THREADS))
        while waiting:
            yield waiting.popleft()
            waiting.extend(itertools.islice(futures, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def refuse_no_room(encoders: Mapping[str, Encoder], sizes: Mapping[str, Mapping[str, int]], root: Path) -> None:
    """Call before long work: `sizes` are the bytes of the features, by modality and key. It prints what is more than
    LARGE. Raises UserError if there is no room in the cache for those that it lacks and, once more, for all of them in
    the corpus."""
    needed, of_all = 0, {name: sum(of.values()) for name, of in sizes.items()}
    for name, of in sizes.items():
        cache = FeatureCache(root, name, encoders[name].identity)
        needed += of_all[name] + sum(size for key, size in of.items() if key not in cache)
    free = shutil.disk_usage(root).free
    each = ", ".join(f"the {name} features {size / 1e9:.3g} GB" for name, size in of_all.items())
    if needed > free:
        most = max(of_all, key=lambda name: of_all[name])
        raise UserError(
            f"{each}: with what the cache lacks of them and the corpus that is {needed / 1e9:.3g} GB, and "
            f"{free / 1e9:.3g} GB are free in {root}. Take fewer --{most}-layers, a --{most}-pool"
            + ", a longer --audio-stride-ms" * (most == "audio")
            + ", or a --cache elsewhere"
        )
    if sum(of_all.values()) > LARGE:
        print(f"note: {each}, in the cache and again in the corpus", file=sys.stderr)


def by_length(keys: Sequence[str], lengths: Sequence[float]) -> list[str]:
    """Returns the keys, longest first: what is encoded together is alike long, and too little memory shows at once."""
    return [key for _, key in sorted({(-length, key) for key, length in zip(keys, lengths, strict=True)})]
