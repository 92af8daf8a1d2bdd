"""Pages of other sites cannot use the page of this machine, and uploads are bounded together."""

import asyncio
import contextlib
import functools
import http.client
import importlib.util
import subprocess
import sys
import time

import pytest
from conftest import ROOT, free_ports, user_env

from mer_jax.demo import command, guard

PORT = 7860
MULTIPART = "multipart/form-data; boundary=x"
UPLOAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\nRIFF\r\n--x--\r\n'


def asked(tmp_path, method="GET", path="/", kind="http", hosts=guard.LOOPBACK, **headers):
    """The status of the answer; 200 is the app's own."""
    sent = []

    async def app(scope, receive, send):
        await send({"status": 200})

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": path, "headers": raw}
    asyncio.run(guard.Guard(app, hosts, tmp_path)(scope, receive, send))
    return sent[0].get("status") or sent[0]["code"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7860", 200),
        ("localhost", 200),
        ("[::1]:7860", 200),
        ("LOCALHOST:1", 200),
        ("evil.example:7860", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("[", 403),
        ("", 403),
    ],
)
def test_a_request_names_a_host_that_the_page_is_at(host, status, tmp_path):
    assert asked(tmp_path, host=host) == status
    assert asked(tmp_path, kind="websocket", host=host, origin=f"http://{host}") == (200 if status == 200 else 1008)


def test_another_name_is_let_in_by_a_flag(tmp_path):
    assert asked(tmp_path, host="lab.example:80") == 403
    assert asked(tmp_path, host="lab.example:80", hosts=("Lab.example",)) == 200
    assert command.flags().parse_args(["run", "--allow-host=a", "--allow-host=b"]).allow_host == ["a", "b"]


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/upload"])
@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:7860", 200),
        ("http://localhost:7861", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://[::1", 403),
    ],
)
def test_what_changes_anything_comes_from_the_page(path, origin, status, tmp_path):
    assert asked(tmp_path, "POST", path, host="localhost:7860", origin=origin, content_length="9") == status
    assert asked(tmp_path, "POST", path, host="localhost:7860", content_length="9") == 403


def test_uploads_are_bounded_together(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "MAX_UPLOADS", 1000)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "clip.wav").write_bytes(bytes(600))
    ask = functools.partial(asked, tmp_path, "POST", "/gradio_api/upload", host="localhost", origin="http://localhost")
    assert ask(content_length="400") == 200
    assert ask(content_length="401") == 413
    assert ask() == 411
    assert ask(content_length="-5") == 411
    assert ask(content_length="9" * 5000) == 411
    assert ask(content_length="9" * 15) == 413
    assert ask(content_length="\u0663") == 411


def test_an_upload_that_goes_meanwhile_is_not_counted(tmp_path, monkeypatch):
    gone = tmp_path / "gone.wav"
    monkeypatch.setattr(type(tmp_path), "rglob", lambda *_: [gone])
    monkeypatch.setattr(type(tmp_path), "is_file", lambda _: True)
    assert asked(tmp_path, "POST", "/upload", host="a", origin="http://a", content_length="1", hosts=("a",)) == 200


# In a process of its own: Gradio and its libraries leave loops and sockets open.
SERVER = """
import functools, sys, types
from pathlib import Path
from mer_jax.demo import answers, command, guard, page
from mer_jax.predict.encoder_client import EncoderClient
from mer_jax.tasks.classification import Classification
page.DELETED = (1, 1)
gradio, task = command.import_gradio(), Classification(["joy", "anger"])
model = types.SimpleNamespace(workdir="run", task=task, modalities={"audio": {}}, manifest=None)
built = page.build_page(gradio, answers.Answers(model, EncoderClient(model)), hears_words=False)
before = functools.partial(guard.Guard, hosts=guard.LOOPBACK, uploads=Path(sys.argv[2]))
with page.served(built, gradio.themes.Base, "127.0.0.1", int(sys.argv[1]), before):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="needs pip install -e '.[demo]'")
def test_the_real_server_is_behind_it(tmp_path, cache_home):
    (port,) = free_ports(1)
    line = [sys.executable, "-c", SERVER, str(port), str(tmp_path)]
    env = user_env(cache_home) | {"GRADIO_TEMP_DIR": str(tmp_path)}
    with subprocess.Popen(line, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert any(said == "ready\n" for said in server.stdout)
        is_guarded(port, tmp_path)
        server.stdin.close()


def is_guarded(port, uploads):
    def status(method, path, body=None, **headers):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            return connection.getresponse().status

    assert status("GET", "/") == 200
    assert status("GET", "/", Host="evil.example") == 403
    path = "/gradio_api/upload"
    assert status("POST", path, UPLOAD, content_type=MULTIPART) == 403
    assert status("POST", path, UPLOAD, content_type=MULTIPART, Origin="http://evil.example") == 403
    assert not list(uploads.rglob("*.wav"))
    assert status("POST", path, UPLOAD, content_type=MULTIPART, Origin=f"http://127.0.0.1:{port}") == 200
    (found,) = uploads.rglob("*.wav")
    deadline = time.monotonic() + 20
    while found.exists():
        assert time.monotonic() < deadline, "it is deleted after a while"
        time.sleep(0.1)
