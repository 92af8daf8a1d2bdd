"""Commands of the project, each in a process of its own: forked from one that has the libraries imported, which takes longer
than most of what tests ask of a command. `python tests/commands.py PACKAGE` is that one process."""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMPORTED = {
    "mer_jax": ("jax", "flax.nnx", "optax", "orbax.checkpoint", "grain", "clu.parameter_overview", "scipy.optimize"),
    "data_prep": ("torch", "transformers", "transformers.models.bert.modeling_bert", "av", "opensmile", "sklearn"),
}


@functools.cache
def server(package):
    """The process that forks for commands of a package, one for each worker of the tests."""
    line = [sys.executable, __file__, package]
    started = subprocess.Popen(line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    atexit.register(started.kill)
    return started


def run(module, arguments, env, timeout=170):
    """`python -m module arguments…` in the project's folder with this environment; returns the finished process."""
    argv = [module, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        files = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
        forks = server(module.partition(".")[0])
        forks.stdin.write(json.dumps({"argv": argv, "env": env, "files": files}).encode() + b"\n")
        pid = int(forks.stdout.readline())
        if not select.select([forks.stdout], [], [], timeout)[0]:
            os.kill(pid, signal.SIGKILL)
        code = int(forks.stdout.readline())
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(argv, code, out.read(), err.read())
    assert code != -signal.SIGKILL, f"{argv} did not end in {timeout} s: {done}"
    return done


def serve(package):
    """Forks for every line of stdin; returns, in the process that is forked, what it shall be."""
    for name in IMPORTED[package]:
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(name)
    gc.freeze()  # a process that collects what all share has a copy of it made
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            return json.loads(line)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    sys.exit()


if __name__ == "__main__":
    asked = serve(sys.argv[1])
    for number, path in enumerate(("/dev/null", *asked["files"])):
        os.dup2(os.open(path, os.O_RDWR), number)
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv, sys.path[0] = asked["argv"], ""
    runpy.run_module(asked["argv"][0], run_name="__main__", alter_sys=True)
