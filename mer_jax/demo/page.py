"""The page in Gradio's terms, and its server."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mer_jax.demo import html
from mer_jax.demo.answers import MAX_LETTERS, Answers
from mer_jax.predict.requests import MEDIA

MAX_UPLOAD = "500mb"
DELETED = (60, 600)  # so many seconds apart uploads are deleted that are so old, as nobody asked about them


def build_page(gr: Any, answers: Answers, *, hears_words: bool) -> Any:
    """The page. gr: Gradio; hears_words: whether a clip's words are recognised."""
    model = answers.model
    title = f"mer_jax: {Path(model.workdir).resolve().name}"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=DELETED) as built:
        known = ", ".join(model.task.decision_names())
        gr.Markdown(f"# {title}\nIt reads {' and '.join(model.modalities)} and knows {known}.")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                inputs = input_fields(gr, model.modalities, hears_words)
                button = gr.Button("What is it?", variant="primary")
            with gr.Column(scale=3, min_width=300):
                answer = gr.HTML(html.nothing(), elem_id="answer")
        alone = {"api_visibility": "private", "concurrency_limit": 1}
        sentence, over_time, seconds = inputs[0], inputs[3], inputs[4]
        over_time.change(lambda on: gr.Slider(visible=on), over_time, seconds, show_progress="hidden", **alone)
        answered = gr.on([button.click, sentence.submit], answers.__call__, inputs, answer, **alone)
        clips = inputs[1:3]  # which are deleted by now
        answered.then(lambda: [None] * len(clips), None, clips, show_progress="hidden", **alone)
    return built.queue(max_size=20)


def input_fields(gr: Any, modalities: Any, hears_words: bool) -> list[Any]:
    """The arguments of `Answers`, as fields of the page; those that the models do not read are hidden."""
    sound = hears_words or "audio" in modalities
    clips = sound or "visual" in modalities
    each = "Each part of the clip by itself, without the sentence."
    return [
        gr.Textbox(label="What is said", lines=2, max_length=MAX_LETTERS, visible="text" in modalities),
        gr.Audio(label="Record it", sources=["microphone"], type="filepath", buttons=[], visible=sound),
        gr.File(label="Or a clip: wav, mp4, …", file_types=list(MEDIA), height=160, visible=clips),
        gr.Checkbox(label="Over time, too", info=each, visible=clips),
        gr.Slider(1, 30, 3, step=0.5, label="Seconds a part", visible=False),
    ]


@contextlib.contextmanager
def served(page: Any, theme: Any, host: str, port: int, guard: Callable[[Any], Any]) -> Iterator[None]:
    """The server runs inside, behind what `guard` makes of its app. There is no share link, and nothing from elsewhere:
    the fonts are the system's."""
    look = theme(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    look = look.set(body_text_color_subdued="#6a7076", body_text_color_subdued_dark="#9aa1a8")
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD,
            theme=look,
            css=html.STYLE,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            app_kwargs={"middleware": [(guard, (), {})]},
        )
        yield
    finally:
        page.close(verbose=False)
