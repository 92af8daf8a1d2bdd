"""Who may ask the server of the page, in ASGI's terms: pages of other sites cannot, even where the browser reaches it.

A request must name a host that the page is at, or another site could have its own name point to this machine; and what
changes anything must come from the page itself. Uploads are bounded together.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_UPLOADS = 2 * 2**30  # bytes of all clips that are there at a time
LENGTH = re.compile(r"[0-9]{1,15}")  # of an upload in bytes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """Stands before `app`. hosts: the names that requests may use; uploads: the folder where uploads go."""

    def __init__(self, app: Any, hosts: Iterable[str], uploads: Path):
        self.app, self.hosts, self.uploads = app, frozenset(name.lower() for name in hosts), uploads
        self._coming = 0  # bytes that are being uploaded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin1").lower(): value.decode("latin1") for name, value in scope["headers"]}
        if refusal := self.refusal(scope, headers):
            await refuse(scope, receive, send, *refusal)
            return
        coming = int(headers["content-length"]) if _is_upload(scope) else 0
        self._coming += coming
        try:
            await self.app(scope, receive, send)
        finally:
            self._coming -= coming

    def refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """The status and what is said, if the request is refused. Raises nothing."""
        host = headers.get("host", "")
        if _name(host) not in self.hosts:
            return 403, f"This page is at {', '.join(sorted(self.hosts))}; --allow-host=NAME lets in another name."
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS")
        if not reads and _place(headers.get("origin", "")) != host:
            return 403, "Only the page itself may ask this."
        if not _is_upload(scope):
            return None
        length = headers.get("content-length", "")
        if not LENGTH.fullmatch(length):
            return 411, "An upload must say how long it is."
        there = sum(map(_size, self.uploads.rglob("*")))
        if there + self._coming + int(length) > MAX_UPLOADS:
            return (
                413,
                "There are too many clips already; they are deleted when they are answered, or after ten minutes.",
            )
        return None


def _is_upload(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")


def _place(origin: str) -> str | None:
    """The host and port in an Origin header, None if there is none."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # it has just been deleted
        return 0


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


async def refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    """Answers with the text, or closes the socket that was asked for."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": text[:100]})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
