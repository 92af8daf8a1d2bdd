"""The page in Gradio's terms, and its server."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mer_jax.demo import html
from mer_jax.demo.answers import MAX_LETTERS, Answers
from mer_jax.demo.conversation import FILES, MAX_NAME, MAX_TEXT, ConversationAnswers
from mer_jax.predict.requests import MEDIA

MAX_UPLOAD = "500mb"
DELETED = (60, 600)  # so many seconds apart uploads are deleted that are so old, as nobody asked about them

ASKS = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "models"}  # one question at a time
QUICK = {"api_visibility": "private", "show_progress": "hidden"}
HEARS = {  # by data.context of the run
    "none": "This model reads each turn by itself: it does not hear the others (`data.context=none`).",
    "past": "This model hears what was said before a turn (`data.context=past`).",
    "both": "This model hears what was said before a turn and what is said after it (`data.context=both`).",
}


def build_page(gr: Any, answers: Answers, *, hears_words: bool) -> Any:
    """The page. gr: Gradio; hears_words: whether a clip's words are recognised."""
    model = answers.model
    title = f"mer_jax: {Path(model.workdir).resolve().name}"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=DELETED) as built:
        known = ", ".join(model.task.outputs)
        gr.Markdown(f"# {title}\nIt reads {' and '.join(model.modalities)} and knows {known}.")
        with gr.Tabs():
            with gr.Tab("An utterance"):
                utterance_tab(gr, answers, hears_words)
            with gr.Tab("A conversation"):
                conversation_tab(gr, ConversationAnswers(answers))
    return built.queue(max_size=20)


def utterance_tab(gr: Any, answers: Answers, hears_words: bool) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            inputs = input_fields(gr, answers.model.modalities, hears_words)
            button = gr.Button("What is it?", variant="primary")
        with gr.Column(scale=3, min_width=300):
            answer = gr.HTML(html.nothing(), elem_id="answer")
    sentence, over_time, seconds = inputs[0], inputs[3], inputs[4]
    over_time.change(lambda on: gr.Slider(visible=on), over_time, seconds, **QUICK)
    answered = gr.on([button.click, sentence.submit], answers.__call__, inputs, answer, **ASKS)
    clips = inputs[1:3]  # which are deleted by now
    answered.then(lambda: [None] * len(clips), None, clips, **QUICK)


def conversation_tab(gr: Any, talks: ConversationAnswers) -> None:
    """A transcript gives a timeline, and where the model hears the past alone, so does one turn after the other."""
    model = talks.answers.model
    if "text" not in model.modalities:
        gr.Markdown(
            f"A conversation is read as text here; this model reads {' and '.join(model.modalities)}. "
            "`python -m mer_jax.predict` reads the clips of one."
        )
        return
    hears = model.config.data.context
    gr.Markdown(HEARS[hears])
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            hint = "Anna: Did you hear that?\nBen: I did not expect it."
            text = gr.Textbox(label="A transcript", lines=6, max_lines=20, max_length=MAX_TEXT, placeholder=hint)
            file = gr.File(label="Or a file: srt, vtt, txt, csv", file_types=list(FILES), height=160)
            read = gr.Button("How does it go?", variant="primary")
            live = live_fields(gr) if hears == "past" else None
        with gr.Column(scale=3, min_width=300):
            shown = gr.HTML(html.nothing(), elem_id="talk")
    answered = gr.on([read.click], talks.transcript, [text, file], shown, **ASKS)
    answered.then(lambda: None, None, file, **QUICK)
    if live is not None:
        speaker, sentence, say, again = live
        talk = gr.State(None)
        gr.on([say.click, sentence.submit], talks.say, [sentence, speaker, talk], [shown, talk, sentence], **ASKS)
        again.click(lambda: (html.nothing(), None), None, [shown, talk], **ASKS)


def live_fields(gr: Any) -> tuple[Any, Any, Any, Any]:
    """Who speaks, what, and the buttons that say it and begin again."""
    gr.Markdown("Or turn by turn, in a conversation of its own:")
    speaker = gr.Textbox(label="Who speaks", max_length=MAX_NAME)
    sentence = gr.Textbox(label="The next turn", max_length=MAX_LETTERS)
    with gr.Row():
        return speaker, sentence, gr.Button("Say it", variant="primary"), gr.Button("Begin again")


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
