"""A page to try a finished run on: a sentence, a recording or a clip, and what the models make of it, and why.

    python -m mer_jax.demo RUN            then open http://127.0.0.1:7860 in a browser on this machine; Ctrl-C ends it
    python -m mer_jax.demo RUN --port 8000 --asr PATH

The page shows the probability of every class, what each modality, word and time step adds to the decision, and of a
clip how it goes on over time. A conversation (a transcript, or turn by turn) becomes a timeline of speakers and
emotions. It needs `pip install -e ".[demo,prep]"` and a run whose corpus was made of clips or sentences by this
project's own encoders (`python -m data_prep.clips`, …): they encode what is given as they did the corpus. Nothing
leaves the machine; nobody else reaches the page, unless --host lets them, by the names of --allow-host; what was
uploaded is deleted when it has been answered, or after ten minutes, and at the end.
"""

import argparse
import functools
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from mer_jax.demo.answers import Answers
from mer_jax.demo.guard import LOOPBACK, Guard
from mer_jax.demo.page import build_page, served
from mer_jax.errors import UserError, reported
from mer_jax.predict.encoder_client import EncoderClient
from mer_jax.predict.encoder_flags import add_encoder_flags, locations_of

EXAMPLE = "Oh, really?"


def main(argv: list[str] | None = None) -> None:
    arguments = flags().parse_args(argv)
    with reported():
        serve(arguments)


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mer_jax.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="workdir of a finished run")
    add("--port", type=int, default=7860, metavar="N", help="default: %(default)s")
    host = "where to listen; default: %(default)s, for this machine alone"
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    names = "a name of this machine by which others reach the page, beside that of --host; may be given again"
    add("--allow-host", action="append", default=[], metavar="NAME", help=names)
    mean = "the mean of the chosen point's, without reasons"
    add("--replica", metavar="R", help=f"a replica's number or name, or `all`: {mean}; default: the first of these")
    add_encoder_flags(parser)
    return parser


def serve(arguments: argparse.Namespace) -> None:
    """Serves the page until a signal comes. Raises UserError for what keeps it from being served."""
    gradio = import_gradio()
    check_address(arguments.host, arguments.port)
    import mer_jax

    print("loading the models and their encoders …", file=sys.stderr, flush=True)
    model = mer_jax.load(arguments.run)
    with EncoderClient(model, locations_of(arguments)) as encoders, tempfile.TemporaryDirectory() as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        answers = Answers(model, encoders, arguments.replica, Path(uploads))
        answers.predict(EXAMPLE, None)  # starts the encoders, and compiles
        stop = stop_on_signals()
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        page = build_page(gradio, answers, hears_words=bool(arguments.asr))
        hosts = (*LOOPBACK, arguments.host, *arguments.allow_host)
        guard = functools.partial(Guard, hosts=hosts, uploads=Path(uploads))
        with served(page, gradio.themes.Base, host, arguments.port, guard):
            print(f"the page is at http://{host}:{arguments.port}; Ctrl-C ends it", file=sys.stderr, flush=True)
            stop.wait()


def import_gradio() -> Any:
    """Gradio, told to keep to itself; raises UserError if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"{error.name} is not installed, which the page needs: pip install -e '.[demo]'") from None
    return gradio


def check_address(host: str, port: int) -> None:
    """Raises UserError for an address that cannot be listened on, and warns of one that others reach."""
    if not 1 <= port <= 65535:
        raise UserError(f"--port={port}: must be from 1 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        where = f"--host={host} --port={port}"
        raise UserError(f"{where}: cannot listen there ({error.strerror}); give another one") from None
    if not (str(address[0]).startswith("127.") or address[0] == "::1"):
        print(
            f"warning: --host={host}: anyone who reaches this address can upload files and use the models, without a "
            "password; browsers lend a microphone only to pages of their own machine or over HTTPS",
            file=sys.stderr,
        )
    for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own server whether it is up
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), host]))


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set, from now on."""
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    return stop
