"""What the tests make once and keep on this machine: compiled programs, the demo corpus, finished runs.

All of it lies in $MER_JAX_TEST_CACHE (or ~/.cache/mer_jax-tests) under a key of everything that it depends on, so that nothing is ever
stale. It belongs to all workers of all test runs: who comes first makes it while the others wait. The folder may be removed at any time.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = Path(os.environ.get("MER_JAX_TEST_CACHE") or Path.home() / ".cache" / "mer_jax-tests")
DAY = 24 * 3600


def key_of(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def processor() -> bytes:
    """What this machine's processor can do: a program compiled for another one may not run here."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.is_file() else []
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})).encode()


# ---- compiled programs ----


def compiled_programs(flags: str) -> Path:
    """The folder of JAX's compilation cache for tests that run with these XLA flags."""
    key = key_of(flags.encode(), processor())
    folder = HOME / "xla" / f"jax-{version('jax')}-{version('jaxlib')}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def drop_damaged(folder: str) -> None:
    """Removes the entries that a command wrote in part because a test killed it: JAX writes them in place and would never replace them.
    Looks only at those that are new since the last call. Also removes those that are two months old."""
    from jax._src.compilation_cache import decompress_executable

    stamp = Path(folder) / "checked"
    since, now = stamp.stat().st_mtime if stamp.exists() else 0.0, time.time()
    for path in Path(folder).iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process looks, too
            if path.stat().st_mtime < now - 60 * DAY:
                path.unlink()
            elif path.name.endswith("-cache") and path.stat().st_mtime >= since - 1:
                try:
                    decompress_executable(path.read_bytes())
                except Exception:  # the kind depends on which library compresses
                    path.unlink()
    stamp.touch()
    os.utime(stamp, (now, now))


# ---- corpora and runs ----


OF_CORPUS = ("files", "text_files", "errors", "interrupts", "plain", "schema")
CORPUS = ("mer_jax/data", "mer_jax/metrics", *(f"mer_jax/{name}.py" for name in OF_CORPUS))  # what writes a demo corpus
RUN = ("mer_jax", "configs")
ALL = (*RUN, "data_prep", "tests")


@cache
def made(*sources: str) -> Path:
    """The folder for what these sources make as they stand now: its key is all of them and every installed version."""
    installed = sorted({f"{d.name} {d.version}" for d in distributions()})
    files = sorted(p for name in sources for p in ((ROOT / name).rglob("*.py") if "." not in name else [ROOT / name]))
    parts = [part for p in files for part in (str(p.relative_to(ROOT)).encode(), p.read_bytes())]
    folder = HOME / "made" / key_of(sys.version.encode(), *map(str.encode, installed), processor(), *parts)
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    for other in folder.parent.iterdir():
        if other.stat().st_mtime < time.time() - DAY:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def made_once(name: str, make, sources: tuple[str, ...] = ALL) -> Path:
    """The folder `name`, which `make(folder)` fills from these sources unless someone has filled it. Nobody may write into it
    afterwards: take a copy."""
    home = made(*sources)
    folder, whole = home / name, home / f"{name}.whole"
    with open(home / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder


def demo_corpus(name: str, **how) -> Path:
    """A demo corpus in a folder of this name; `how` as write_demo takes it."""
    # In a process of its own: in tests every call is checked by jaxtyping, which makes writing slow.
    script = "import sys; from pathlib import Path; from mer_jax.data.synthetic import write_demo; "

    def make(folder: Path) -> None:
        call = f"write_demo(Path(sys.argv[1]), **{how!r})"
        subprocess.run([sys.executable, "-c", script + call, str(folder / name)], check=True, cwd=ROOT)

    return made_once(name, make, CORPUS) / name


def finished_run(name: str, command, env: dict[str, str], sources: tuple[str, ...] = RUN) -> tuple[Path, str]:
    """(workdir, console output) of the finished run of `command(workdir)`; the workdir has this name. sources: ALL where
    the run's corpus is one of `made_once`, which lies elsewhere when the tests change; config.json says where."""

    def make(folder: Path) -> None:
        line = [sys.executable, "-m", "mer_jax.main", *map(str, command(folder / name))]
        done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=170)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "output").write_text(done.stdout)

    folder = made_once(name, make, sources)
    return folder / name, (folder / "output").read_text()
