"""A page to try a finished run on: a sentence, a recording or a clip, and what the models make of it, and why.

    python -m mer_jax.demo RUN                  then open http://127.0.0.1:7860 in a browser on this machine; Ctrl-C ends it
    python -m mer_jax.demo RUN --port 8000 --asr PATH

The page shows the probability of every class, what each modality, word and time step adds to the decision, and of a clip how it
goes on over time. It needs `pip install -e ".[demo,prep]"` and a run whose corpus was made of clips or sentences by this project's
own encoders (`python -m data_prep.clips`, …): they encode what is given as they did the corpus. Nothing leaves the machine; nobody
else reaches the page, unless --host lets them; what was uploaded is deleted at the end.
"""

import argparse
import contextlib
import dataclasses
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mer_jax.demo import html
from mer_jax.errors import UserError, reported
from mer_jax.predict.encoder_client import EncoderClient
from mer_jax.predict.encoder_flags import add_encoders, encoding_of
from mer_jax.predict.requests import MEDIA

LETTERS = 2000  # of a sentence
LONGEST = 600  # seconds of a clip
WINDOWS = 600
UPLOAD = "500mb"
TRIAL = "Oh, really?"


def main(argv: list[str] | None = None) -> None:
    given = parser().parse_args(argv)
    with reported():
        serve(given)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m mer_jax.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("run", metavar="RUN", help="workdir of a finished run")
    add("--port", type=int, default=7860, metavar="N", help="default: %(default)s")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen; default: %(default)s, for this machine alone")  # fmt: skip
    add("--replica", metavar="R", help="a replica's number or name, or `all`: the mean of the chosen point's, without reasons; "
        "default: the first of these")  # fmt: skip
    add_encoders(out)
    return out


def serve(given: argparse.Namespace) -> None:
    """Until a signal comes. Raises UserError for what keeps the page from being served."""
    gradio = library()
    refuse(given)
    import mer_jax

    print("loading the models and their encoders …", file=sys.stderr, flush=True)
    model = mer_jax.load(given.run)
    with EncoderClient(model, encoding_of(given)) as extractors, tempfile.TemporaryDirectory() as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        answers = Answers(model, extractors, given.replica)
        answers.whole(TRIAL, None)  # starts the encoders, and compiles
        over = ending()
        host = f"[{given.host}]" if ":" in given.host else given.host
        with served(page(gradio, answers, bool(given.asr)), gradio.themes.Base, host, given.port):
            print(f"the page is at http://{host}:{given.port}; Ctrl-C ends it", file=sys.stderr, flush=True)
            over.wait()


def ending() -> threading.Event:
    """Set by SIGINT and SIGTERM, from now on."""
    over = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: over.set())
    return over


def library() -> Any:
    """Gradio, told to keep to itself; raises UserError if there is none."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"{error.name} is not installed, which the page needs: pip install -e '.[demo]'") from None
    return gradio


def refuse(given: argparse.Namespace) -> None:
    """Raises UserError for an address that cannot be listened on, and warns of one that others reach."""
    if not 1 <= given.port <= 65535:
        raise UserError(f"--port={given.port}: must be from 1 to 65535")
    try:
        family, kind, _, _, address = socket.getaddrinfo(given.host, given.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        where = f"--host={given.host} --port={given.port}"
        raise UserError(f"{where}: cannot listen there ({error.strerror}); give another one") from None
    if not (str(address[0]).startswith("127.") or address[0] == "::1"):
        print(
            f"warning: --host={given.host}: anyone who reaches this address can upload files and use the models, without a password; "
            "browsers lend a microphone only to pages of their own machine or over HTTPS", file=sys.stderr,
        )  # fmt: skip
    for name in ("NO_PROXY", "no_proxy"):  # Gradio asks its own server whether it is up
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), given.host]))


@dataclasses.dataclass(frozen=True)
class Answers:
    """What the page is told, as HTML. model: a `trained.Trained`. Not for several threads at a time."""

    model: Any
    extractors: EncoderClient
    replica: str | None = None

    def whole(self, said: str, file: str | None) -> Any:
        """A `trained.Prediction`, with reasons if it is of one replica. Raises UserError."""
        request = {"id": "", "file": file, "sentence": said.strip() or None, "start": None, "end": None}
        alone = len(self.model.which(self.replica)) == 1
        items = self.extractors.items([request])
        [found] = self.model.predict(items, replica=self.replica, attribution=alone, extractors=self.extractors)
        return found

    def __call__(
        self, said: str, recorded: str | None, uploaded: str | None, cut: bool, window: float
    ) -> Iterator[str]:
        """First of the whole, then with the timeline if one is wanted. What is wrong with the input is told on the page."""
        file = recorded or uploaded
        try:
            refuse_input(said, recorded, uploaded)
            length = self.extractors.seconds(Path(file)) if file else 0.0
            if length > LONGEST:
                raise UserError(f"{file} is {length:.0f} s long; {LONGEST} s are the most.")
            if file and cut and length > WINDOWS * window:
                raise UserError(f"{file} has more than {WINDOWS} parts of {window:g} s: take longer ones.")
            found = self.whole(said, file)
            if found.error:
                raise UserError(found.error)
            if any(note.startswith("silence") for note in found.notes) and not (
                found.sentence or "visual" in self.model.modalities
            ):
                raise UserError(f"{file}: there is nothing to hear, and no sentence is given.")
            yield html.whole(found)
            if file and cut:
                how = {"replica": self.replica, "extractors": self.extractors, "window": window}
                yield html.whole(found) + html.timeline(list(self.model.predict(file, **how)), self.model.labels)
        except UserError as error:
            yield html.problem(str(error).replace(file, Path(file).name) if file else str(error))


def refuse_input(said: str, recorded: str | None, uploaded: str | None) -> None:
    if recorded and uploaded:
        raise UserError("There is a recording and a clip: take one of them away.")
    if not (said.strip() or recorded or uploaded):
        raise UserError("Nothing to go by: type a sentence, record something or choose a clip.")
    if len(said) > LETTERS:
        raise UserError(f"The sentence has {len(said)} letters; {LETTERS} are the most.")


def page(gr: Any, answers: Answers, hears: bool) -> Any:
    """hears: words, too."""
    model = answers.model
    title = f"mer_jax: {Path(model.where).resolve().name}"
    voice = hears or "audio" in model.modalities
    clips = voice or "visual" in model.modalities
    with gr.Blocks(title=title, analytics_enabled=False) as built:
        gr.Markdown(f"# {title}\nIt reads {' and '.join(model.modalities)} and knows {', '.join(model.labels)}.")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                given = [
                    gr.Textbox(label="What is said", lines=2, max_length=LETTERS, visible="text" in model.modalities),
                    gr.Audio(label="Record it", sources=["microphone"], type="filepath", buttons=[], visible=voice),
                    gr.File(label="Or a clip: wav, mp4, …", file_types=list(MEDIA), height=160, visible=clips),
                    gr.Checkbox(label="Over time, too", info="Each part of the clip by itself, without the sentence.", visible=clips),
                    gr.Slider(1, 30, 3, step=0.5, label="Seconds a part", visible=False),
                ]  # fmt: skip
                button = gr.Button("What is it?", variant="primary")
            with gr.Column(scale=3, min_width=300):
                told = gr.HTML(html.nothing(), elem_id="told")
        alone = {"api_visibility": "private", "concurrency_limit": 1}
        given[3].change(lambda on: gr.Slider(visible=on), given[3], given[4], show_progress="hidden", **alone)
        gr.on([button.click, given[0].submit], answers.__call__, given, told, **alone)
    return built.queue(max_size=20)


@contextlib.contextmanager
def served(built: Any, theme: Any, host: str, port: int) -> Iterator[None]:
    """No share link, nothing from elsewhere: the system's fonts."""
    look = theme(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    look = look.set(body_text_color_subdued="#6a7076", body_text_color_subdued_dark="#9aa1a8")
    try:
        built.launch(
            server_name=host, server_port=port, share=False, inbrowser=False, quiet=True, prevent_thread_lock=True, max_file_size=UPLOAD,
            theme=look, css=html.STYLE, footer_links=[], ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
            run_history=False,
        )  # fmt: skip
        yield
    finally:
        built.close(verbose=False)


if __name__ == "__main__":
    main()
