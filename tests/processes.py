"""One command as several processes."""

import os
import subprocess
import sys
import tempfile
import time

from conftest import ROOT, free_ports, user_env


def after(begin, *line):
    """The line of a Python that runs `begin` and then becomes `line`; Popen's preexec_fn would fork, which JAX forbids."""
    return [
        sys.executable,
        "-c",
        f"{begin}\nimport os, sys\nos.execv(sys.argv[1], sys.argv[1:])",
        sys.executable,
        *line,
    ]


def launch(count, cache_home, command, devices=None, env=None):
    """The same command as `count` processes, each with so many devices; each gets its --distributed through
    `command(how)`.

    They write to files: one that nobody reads may fill a pipe and wait for ever, and the others for it.
    """
    (port,) = free_ports(1)
    processes = []
    for i in range(count):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by outputs()
        line = [sys.executable, *map(str, command(f"localhost:{port},{count},{i}" if count > 1 else "none"))]
        environ = user_env(cache_home, devices[i] if devices else 1) | (env or {})
        processes.append(subprocess.Popen(line, cwd=ROOT, env=environ, stdout=file, stderr=subprocess.STDOUT))
        processes[-1].file = file
    return processes


def so_far(process):
    return os.pread(process.file.fileno(), 1 << 24, 0).decode()


def outputs(processes, timeout=170):
    deadline = time.monotonic() + timeout
    try:
        for p in processes:
            p.wait(max(1, deadline - time.monotonic()))
        return [so_far(p) for p in processes]
    except subprocess.TimeoutExpired:
        raise AssertionError("\n".join([f"not ended after {timeout} s", *map(so_far, processes)])) from None
    finally:
        for p in processes:
            p.kill()
            p.wait()
            p.file.close()
