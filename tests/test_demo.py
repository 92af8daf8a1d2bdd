"""The page: what it refuses, what it shows, and the real server in a real browser."""

import dataclasses
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import types

import numpy as np
import pytest
import store
from browser import BROWSER
from conftest import ROOT, free_ports, user_env
from recordings import needs_prep, tone, write_movie, write_table, write_wav

import mer_jax
from mer_jax.demo import answers, command, conversation, html
from mer_jax.errors import UserError
from mer_jax.predict import encoder_client
from mer_jax.predict.prediction import Prediction
from mer_jax.tasks.classification import Classification

needs_browser = pytest.mark.skipif(
    not (BROWSER and all(map(importlib.util.find_spec, ("gradio", "playwright")))),
    reason="needs pip install -e '.[demo,test]' and Chromium",
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# ---- what is refused ----


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        command.main(["run", *arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def gradio_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch):
    for name in ("NO_PROXY", "no_proxy", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "")


def test_without_gradio_the_command_that_installs_it_is_told(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install -e '.[demo]'" in refused(capsys)


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_port_that_cannot_be_is_named(capsys, gradio_is_there, port):
    assert f"--port={port}: must be from 1 to 65535" in refused(capsys, "--port", port)


def test_an_address_in_use_is_named(capsys, gradio_is_there):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port={port}: cannot listen there (Address already in use)" in refused(capsys, "--port", port)
    assert "--host=192.0.2.1 --port=7860: cannot listen there" in refused(capsys, "--host=192.0.2.1")


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)])
def test_that_others_reach_it_is_warned_of(capsys, host, warned):
    command.check_address(host, free_ports(1)[0])
    assert ("can upload files" in capsys.readouterr().err) == warned
    assert os.environ["NO_PROXY"] == host, "Gradio asks its server whether it is up, and not by way of a proxy"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((" \n", None, None), "Nothing to go by"),
        (("Oh.", "a.wav", "b.wav"), "take one of them away"),
        (("a" * 2001, None, None), "2001 letters; 2000 are the most"),
    ],
)
def test_what_cannot_be_used_is_told(given, words):
    with pytest.raises(UserError, match=words):
        answers.check_input(*given)


class Heard(encoder_client.EncoderClient):
    """Stands for model and encoders: every clip can be read, and the second one cannot be predicted."""

    def __init__(self):
        pass

    task = Classification(["joy", "anger"])
    modalities = ("audio",)

    def seconds(self, file):
        assert file.exists()
        return 1.0

    def items(self, requests):
        return requests

    def select_replicas(self, replica):
        return [0]

    def predict(self, items, **_):
        return [prediction(error="it is noise" if "b.wav" in str(items) else "", attribution=None)]


def test_a_clip_is_deleted_once_it_is_answered(tmp_path):
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    own, *clips = (tmp_path / "own.wav", *(uploads / name for name in ("a.wav", "b.wav", "c.wav", "d.wav")))
    for clip in (own, *clips):
        clip.write_bytes(b"RIFF")
    a, b, c, d = map(str, clips)
    ask = answers.Answers(Heard(), Heard(), uploads=uploads)
    first = ask("", a, None, True, 1.0)
    assert "75.0 %" in next(first)
    assert clips[0].exists(), "its timeline is wanted, too"
    assert len(list(first)) == 1
    assert not clips[0].exists()
    assert "it is noise" in "".join(ask("", b, None, False, 1.0))
    assert "take one of them away" in "".join(ask("", c, d, False, 1.0))
    list(ask("", str(own), None, False, 1.0))
    assert [path.exists() for path in (own, *clips)] == [True, False, False, False, False]
    clips[0].write_bytes(b"RIFF")
    left = ask("", a, None, True, 1.0)
    next(left)
    left.close()
    assert not clips[0].exists(), "nobody waits for its timeline"


class Read(Heard):
    """The same for text: a sentence is anger if it has a `!`, and cannot be read if it is all blanks. Runs that hear
    the past go on turn by turn."""

    modalities = ("text",)

    def conversation(self, replica, encoders):
        assert encoders is self, "nothing else starts them again"
        return types.SimpleNamespace(add=lambda **said: self.told(**said))

    def told(self, sentence, speaker, notes=()):
        if "?" in sentence:
            raise UserError("turn 1: <what> is that")
        share = 0.75 if "!" in sentence else 0.25
        output = {"prediction": ("joy", "anger")[share > 0.5], "probabilities": {"anger": share, "joy": 1 - share}}
        notes = (*notes, "predicted without audio")
        return Prediction("", output, sentence=sentence, speaker=speaker, notes=notes)

    def predict(self, items, **_):
        for item in items:
            assert not {"file"} & set(item)
            if item.get("error") or not item["sentence"]:
                yield Prediction(item["id"], {}, error=item.get("error") or "no text", speaker=item["speaker"])
            else:
                yield self.told(item["sentence"], item.get("speaker", ""), item.get("notes", ()))


@pytest.fixture
def talks(tmp_path):
    (tmp_path / "uploads").mkdir()
    both = Read()
    return conversation.ConversationAnswers(answers.Answers(both, both, uploads=tmp_path / "uploads"))


def turns_in(page):
    """(speaker, emotion, whether it is a shift) of each turn of a timeline."""
    found = []
    for row in page.split("<li")[1:]:
        who, felt = (re.search(f"<{tag}>(.*?)</{tag}>", row) for tag in ("b", "strong"))
        found.append((who and who[1], felt and felt[1], "shift, was" in row))
    return found


SHIFTS = [("Anna", "joy", False), ("Ben", "anger", False), ("Anna", "anger", True), ("Ben", "anger", False)]
SAID = ("Oh.", "No!", "So <b>what</b>!", "That!")


@pytest.mark.parametrize("form", ["named", "srt", "vtt", "csv"])
def test_a_transcript_becomes_a_timeline_in_which_shifts_are_marked(talks, tmp_path, form):
    lines = [f"{who}: {said}" for (who, *_), said in zip(SHIFTS, SAID, strict=True)]
    times = [f"00:0{i}.000 --> 00:0{i}.900" for i in range(4)]
    content = {
        "named": "\n".join(lines),
        "srt": "\n\n".join(f"{i}\n{times[i]}\n{line}" for i, line in enumerate(lines)),
        "vtt": "WEBVTT\n\n" + "\n\n".join(f"{times[i]}\n{line}" for i, line in enumerate(lines)),
        "csv": "file,speaker,sentence\n" + "\n".join("/etc/x.wav," + line.replace(": ", ",") for line in lines),
    }[form]
    file = tmp_path / "uploads" / f"a.{form.replace('named', 'txt')}"
    file.write_text(content)
    page = talks.transcript("", str(file))
    assert turns_in(page) == SHIFTS
    assert "shift, was joy" in page
    assert "4 turns, 2 speakers, 1 shift" in page
    assert "Predicted without audio (4 turns)." in page
    assert ("The clip is not heard" in page) == (form == "csv")
    assert "<b>what" not in page or form in ("srt", "vtt"), "captions lose their tags"
    assert not list((tmp_path / "uploads").iterdir()), "it has been answered"
    if form != "csv":
        assert turns_in(talks.transcript(content, None)) == SHIFTS


def test_lines_that_name_nobody_are_turns_without_shifts(talks):
    page = talks.transcript("Oh.\n\nNo!\nAh.", None)
    assert turns_in(page) == [(None, "joy", False), (None, "anger", False), (None, "joy", False)]
    assert "nobody is named" in page


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.srt", "no captions", "a.srt, line 1: a caption"),
        ("a.wav", "RIFF", "a.wav is a clip: a conversation is read of .srt, .vtt, .txt, .csv"),
        ("a.txt", " ", "a.txt holds no sentence"),
        (
            "a.csv",
            "dialogue,turn,sentence\nx,0,Oh\ny,0,Ah\n",
            "holds 2 dialogues (&#x27;x&#x27;, &#x27;y&#x27;): give one",
        ),
        ("a.csv", "sentence\n" + "Oh\n" * 501, "more than 500 turns"),
        ("a.csv", "sentence,speaker\n,Anna\n", "None of the 1 turns can be read; the first: no text"),
        ("a.txt", "a" * (2 * 2**20 + 1), "a.txt has 2.0 MiB; 2 MiB are the most"),
        (None, " ", "Nothing to go by"),
        (None, "a" * 200_001, "200001 letters; 200000 are the most"),
        (None, "00:00.000 --> 00:01.000\nA\n00:01.000 --> 00:02.000\nB", "text.srt, line 3: an empty line is missing"),
    ],
)
def test_a_transcript_that_cannot_be_used_is_told(talks, tmp_path, name, content, words):
    file = tmp_path / "uploads" / str(name)
    if name:
        file.write_text(content)
    page = talks.transcript("" if name else content, str(file) if name else None)
    assert words in page
    assert "alert" in page
    assert str(tmp_path) not in page
    assert not list((tmp_path / "uploads").iterdir())


def test_a_turn_that_is_too_long_costs_itself(talks):
    page = talks.transcript(f"Anna: Oh.\nBen: {'a' * 2001}\nAnna: Oh!", None)
    assert [found[1:] for found in turns_in(page)] == [("joy", False), (None, False), ("anger", True)]
    assert "it has 2001 letters; 2000 are the most" in page


def test_turn_by_turn(talks):
    page, talk, left = talks.say("Oh.", "Anna", None)
    assert (turns_in(page), left) == (SHIFTS[:1], "")
    page, talk, _ = talks.say("No!", "Ben", talk)
    page, talk, left = talks.say("Huh?", "Ben", talk)
    assert "turn 1: &lt;what&gt; is that" in page
    assert (turns_in(page), left) == (SHIFTS[:2], "Huh?"), "what was said before is still there"
    page, talk, _ = talks.say(" That! ", "Anna", talk)
    assert turns_in(page) == SHIFTS[:3]
    for said, speaker, words in (
        (" ", "", "Nothing to go by"),
        ("a" * 2001, "", "2001 letters"),
        ("Oh", "a" * 41, "name has 41"),
    ):
        assert words in talks.say(said, speaker, talk)[0]
    talk.found *= 200
    assert (
        "has 500 turns, which are the most"
        in talks.say("Oh.", "Anna", dataclasses.replace(talk, found=talk.found[:500]))[0]
    )


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it(name):
    before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        over = command.stop_on_signals()
        assert not over.is_set()
        os.kill(os.getpid(), name)
        assert over.wait(5)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


# ---- what is shown ----


def prediction(**changes):
    why = types.SimpleNamespace(
        shapley={"audio": -0.5, "text": 1.5, "visual": 0.0},
        integrated_gradients={"text": np.array([0.1, 0.6, 0.3, -0.4, 0.0]), "audio": np.array([0.2, -0.7])},
    )
    fields = {
        "prediction": "joy",
        "output": {"prediction": "joy", "probabilities": {"anger": 0.25, "joy": 0.75}},
        "sentence": "So <good>.",
        "notes": ("silence: <none>",),
        "words": ("", "So", " <go", "od>.", ""),
        "attribution": why,
        "error": "",
        "start": 0.0,
        "end": 1.5,
    }
    return types.SimpleNamespace(**fields | changes)


TASK = Classification(["anger", "joy"])


def test_a_prediction_with_its_reasons():
    page = html.answer(prediction(), TASK)
    assert page.index("75.0 %") < page.index("25.0 %"), "the likeliest first"
    for words in (
        "“So &lt;good&gt;.”",
        "Silence: &lt;none&gt;.",
        "+1.50</td><td>75 %",
        "-0.50</td><td>25 %",
        "not given",
    ):
        assert words in page
    assert "<go" not in page
    assert "2 time steps; the most is added by number 1" in page
    assert "What decided" not in html.answer(prediction(attribution=None), TASK)
    hears = prediction()
    hears.attribution.shapley["context"] = 9.0
    assert html.answer(hears, TASK) == page, "one utterance has no other turns, whatever the run hears"
    assert "5 time steps" in html.answer(prediction(words=()), TASK)


def test_words_are_the_sums_of_their_tokens():
    pieces, values = ["", "Un", "heard", " of", "!", "", " é", "", ""], np.arange(1.0, 10.0)
    wanted = [("", 1), ("Unheard", 5), ("of!", 15), ("é", 15), ("", 9)]
    assert html.whole_words(pieces, values) == wanted
    assert html.whole_words(pieces, values[:3]) == wanted[:2], "a sentence that the model reads in part"


def test_a_timeline():
    wrong = prediction(start=1.5, end=2.0, output={}, prediction="", error="<cut> short")
    page = html.timeline([prediction(), wrong], TASK)
    assert '<th scope="col">0–1.5 s</th><th scope="col">1.5–2 s</th>' in page
    assert page.count("–</td>") == 2
    assert "1.5–2 s: &lt;cut&gt; short" in page


# ---- the server ----


@pytest.fixture(scope="module")
def trained(cache_home):
    """A run on clips and sentences that hears the past, made by the commands that a user would type."""

    def make(folder):
        rows = []
        for i in range(12):
            write_wav(folder / f"{i}.wav", tone(0.6, 120.0 + 150 * (i % 2)))
            said = ("I am so glad, wonderful!", "Leave me alone.")[i % 2]
            split = ("train", "valid", "test")[max(0, i // 2 - 3)]
            row = {"file": f"{i}.wav", "label": ("joy", "anger")[i % 2], "sentence": said, "split": split}
            rows.append(row | {"dialogue": split, "turn": i, "speaker": ("Anna", "Ben")[i % 2]})
        table = write_table(folder / "t.csv", rows)
        for module, *arguments in (
            ("data_prep.clips", table, "--out", folder / "corpus", "--audio-encoder=egemaps", "--audio-stride-ms=100"),
            (
                "mer_jax.main",
                "--config=configs/lsgmer.py:tiny",
                f"--config.data.path={folder / 'corpus'}",
                "--config.train.batch_size=8",
                "--config.train.epochs=1",
                "--config.data.context=past",
                "--config.context.width=16",
                f"--workdir={folder / 'run'}",
            ),
        ):
            command = [sys.executable, "-m", module, *map(str, arguments)]
            done = subprocess.run(
                command, cwd=ROOT, env=user_env(cache_home), capture_output=True, text=True, timeout=170
            )
            assert done.returncode == 0, done.stderr

    return store.made_once("clips", make) / "run"


@pytest.mark.slow
@needs_prep
def test_clips_captions_windows_and_sentences_from_python(trained, tmp_path):
    """One process of encoders answers all of it; what cannot be used is told, and the others are there all the same."""
    clips = tmp_path / "clips"
    clips.mkdir()
    write_movie(clips / "a.mp4", tone(1.5, 120.0))
    captions = (
        "1\n00:00:00,000 --> 00:00:00,900\nI am so glad,\n\n2\n00:00:01,000 --> 00:00:01,400\n<i>wonderful!</i>\n"
    )
    (clips / "a.srt").write_text(captions)
    write_wav(clips / "b.wav", tone(0.6, 270.0))
    (clips / "c.wav").write_bytes(b"no clip at all" * 99)
    write_wav(clips / "d.wav", 0 * tone(0.6), rate=44100)
    (tmp_path / "said.txt").write_text("I am so glad, wonderful!\n\nLeave me alone.\n")
    rows = [
        {"id": "x", "file": "clips/b.wav", "sentence": "Leave me alone."},
        {"id": "y", "file": "", "sentence": "Oh."},
    ]
    table = write_table(tmp_path / "t.csv", rows)
    model = mer_jax.load(trained)
    with encoder_client.EncoderClient(model) as encoders:
        found = {p.id: p for p in model.predict([clips, tmp_path / "said.txt", table], encoders=encoders)}
        parts = list(model.predict(clips / "a.mp4", window=1.0, encoders=encoders, attribution=True))
        again = list(model.predict([clips / "b.wav"], sentence="Leave me alone.", encoders=encoders))
        (clips / "b.txt").write_text("Leave me alone.")
        (timeless,) = model.predict(clips / "b.wav", window=1.0, encoders=encoders)
        assert "b.txt has no times" in timeless.error
    assert list(found) == ["a.mp4", "b.wav", "c.wav", "d.wav", "said.txt:1", "said.txt:3", "x", "y"]
    assert found["a.mp4"].sentence == "I am so glad, wonderful!"
    assert "c.wav cannot be decoded" in found["c.wav"].error
    assert [name for name, p in found.items() if p.error] == ["c.wav"]
    notes = " ".join(found["d.wav"].notes)
    assert "resampled from 44100 Hz" in notes
    assert "silence" in notes
    assert "predicted without text" in notes
    assert found["said.txt:3"].notes == ("predicted without audio",)
    assert found["x"].probabilities == pytest.approx(again[0].probabilities, abs=1e-4)
    assert [(p.start, p.end, p.sentence) for p in parts] == [(0, 1, "I am so glad,"), (1, 1.5, "wonderful!")]
    assert len(parts[0].words) == len(parts[0].attribution.integrated_gradients["text"])


class Served:
    """The command's process, once the page is up."""

    def __init__(self, run, env, log):
        self.log, self.port = log, free_ports(1)[0]
        with open(log, "w") as file:
            command = [sys.executable, "-m", "mer_jax.demo", str(run), f"--port={self.port}"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file)

    def wait(self, words):
        while words not in self.log.read_text():
            with pytest.raises(subprocess.TimeoutExpired):
                self.process.wait(0.1)

    def end(self, name):
        self.process.send_signal(name)
        return self.process.wait(30)


@pytest.fixture
def served(trained, cache_home, tmp_path):
    (tmp_path / "tmp").mkdir()
    found = Served(trained, user_env(cache_home) | {"TMPDIR": str(tmp_path / "tmp")}, tmp_path / "log")
    yield found
    found.process.kill()
    found.process.wait()


@pytest.mark.slow
@needs_prep
@needs_browser
class TestServer:
    def test_in_a_browser(self, served, tmp_path):
        from playwright.sync_api import sync_playwright

        self.uploads = tmp_path / "tmp"
        broken = tmp_path / "broken.wav"
        broken.write_bytes(b"no clip at all" * 99)
        silent = write_wav(tmp_path / "silent.wav", 0 * tone(0.6))
        clip = write_wav(tmp_path / "clip.wav", tone(1.5, 130.0))
        served.wait("the page is at")
        asked, wrong = [], []
        with sync_playwright() as driver, driver.chromium.launch(executable_path=BROWSER, args=FLAGS) as browser:
            for width, scheme in ((360, "dark"), (1280, "light")):
                context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
                page = context.new_page()
                page.on("request", lambda request: asked.append(request.url))
                page.on("pageerror", lambda error: wrong.append(str(error)))
                page.goto(f"http://127.0.0.1:{served.port}/")
                page.wait_for_selector("#answer .faint")
                assert "What is it?" in page.inner_text("body")
                if width == 360:
                    self.a_sentence(page)
                else:
                    for file, words in ((broken, "broken.wav cannot be decoded"), (silent, "nothing to hear")):
                        self.upload(page, file)
                        page.wait_for_selector(f"#answer [role=alert]:has-text('{words}')", timeout=60_000)
                        assert str(tmp_path) not in page.inner_text("#answer")
                        page.get_by_label(file.name, exact=True).wait_for(state="detached")
                        assert not list((tmp_path / "tmp").rglob(file.name)), "it has been answered"
                    self.a_clip(page, clip)
                self.a_conversation(page, tmp_path)
                assert page.evaluate("document.documentElement.scrollWidth") == width
                assert "Traceback" not in page.content()
        assert served.end(signal.SIGTERM) == 0
        assert len(asked) > 10
        assert {url.split("/")[2] for url in asked if url.startswith("http")} == {f"127.0.0.1:{served.port}"}
        assert not wrong
        assert served.log.read_text().splitlines() == [
            "loading the models and their encoders …",
            f"the page is at http://127.0.0.1:{served.port}; Ctrl-C ends it",
        ]
        assert not list((tmp_path / "tmp").rglob("*.wav")), "what was uploaded is gone"

    def a_sentence(self, page):
        said = "I am unbelievably glad & <b>${1 + 1}</b>"
        page.get_by_label("What is said").fill(said)
        page.get_by_role("button", name="What is it?").click()
        page.wait_for_selector("#answer h2", timeout=60_000)
        assert page.inner_text("#answer h2") in ("joy", "anger")
        words = [span.inner_text() for span in page.query_selector_all("#answer .words span")]
        assert words == ["[mark]", *said.split(), "[mark]"]
        assert page.inner_text("#answer tr:has-text('not given')").startswith("audio")

    def upload(self, page, file):
        if page.get_by_label("Clear").count():
            page.get_by_label("Clear").last.click()
        page.set_input_files("input[type=file]", file)
        page.get_by_label(file.name, exact=True).wait_for()  # its row, which is there once the upload is over
        assert list(self.uploads.rglob(file.name)), "uploads are where the test looks for them"
        page.get_by_role("button", name="What is it?").click()

    def a_clip(self, page, clip):
        page.get_by_label("What is said").fill("Leave me alone.")
        page.get_by_label("Over time").check()
        page.locator("input[type=number]").fill("1")
        page.locator("input[type=number]").press("Tab")
        self.upload(page, clip)
        page.wait_for_selector("#answer .wide", timeout=60_000)
        assert [cell.inner_text() for cell in page.query_selector_all("#answer .wide th[scope=col]")] == [
            "0–1 s",
            "1–1.5 s",
        ]
        assert page.query_selector_all("#answer rect")
        assert "not given" not in page.inner_text("#answer")

    def a_conversation(self, page, folder):
        page.get_by_role("tab", name="A conversation").click()
        assert "hears what was said before" in page.inner_text("body")
        page.get_by_label("A transcript").fill("Anna: I am so glad, wonderful!\nBen: Leave me <i>alone</i>.\nAnna: Oh.")
        page.get_by_role("button", name="How does it go?").click()
        self.has_turns(page, ["Anna", "Ben", "Anna"])
        assert page.inner_text("#talk li:nth-child(2) .said") == "Leave me <i>alone</i>."
        page.get_by_label("A transcript").fill("")
        broken = folder / "broken.srt"
        broken.write_text("no captions")
        page.set_input_files("[role=tabpanel]:visible input[type=file]", broken)
        page.get_by_label(broken.name, exact=True).wait_for()
        page.get_by_role("button", name="How does it go?").click()
        page.wait_for_selector("#talk [role=alert]:has-text('broken.srt, line 1')", timeout=60_000)
        assert not list(self.uploads.rglob(broken.name)), "it has been answered"
        for count, who in enumerate(("Anna", "Ben"), 1):
            page.get_by_label("Who speaks").fill(who)
            page.get_by_label("The next turn").fill("Oh, really?")
            page.get_by_role("button", name="Say it").click()
            self.has_turns(page, ["Anna", "Ben"][:count])
        page.get_by_role("button", name="Begin again").click()
        page.wait_for_selector("#talk li", state="detached")
        page.get_by_label("The next turn").fill("Oh.")
        page.get_by_label("The next turn").press("Enter")
        self.has_turns(page, ["Ben"])

    def has_turns(self, page, speakers):
        page.wait_for_function(f"document.querySelectorAll('#talk li').length == {len(speakers)}", timeout=60_000)
        assert [who.inner_text() for who in page.query_selector_all("#talk li b")] == speakers
        felt = [name.inner_text() for name in page.query_selector_all("#talk li strong")]
        assert set(felt) <= {"joy", "anger"}
        assert len(felt) == len(speakers)

    def test_what_keeps_the_encoders_from_starting_ends_the_command(self, trained, run_cli):
        arguments = (trained, f"--port={free_ports(1)[0]}", "--audio-encoder=facebook/wav2vec2-base")
        done = run_cli(*arguments, module="mer_jax.demo")
        assert done.returncode == 2
        assert "error: --audio-encoder=facebook/wav2vec2-base: this run's audio features are" in done.stderr
        assert "Traceback" not in done.stderr
