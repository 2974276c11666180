"""A small Hugging Face Hub on loopback: what huggingface-hub asks for, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandInHub(ThreadingHTTPServer):
    """Serves ``files`` (``owner/repo/name`` to bytes) and notes each request.

    ``cut`` names a file whose next download breaks off half-way; ``short`` one that is always
    announced larger than it is; ``gated`` a repository; ``token`` what opens all others.
    With ``no_ranges`` it sends whole files whatever is asked for. While ``held`` is set it sends
    the first half of a file and no more.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut: str | None = None
        self.short: str | None = None
        self.gated: str | None = None
        self.token: str | None = None
        self.no_ranges = False
        self.held = threading.Event()

    @property
    def url(self) -> str:
        """The endpoint to give to huggingface-hub."""
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self) -> list[str | None]:
        """The Range header of each download, in order."""
        return [
            span for method, path, span in self.requests if method == "GET" and "resolve" in path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandInHub

    def log_message(self, *_args: object) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server
        path = self.path.partition("?")[0]
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(401, b"", {})
        elif path.startswith("/api/models/"):
            self._listing(path.removeprefix("/api/models/").removesuffix("/tree/main"))
        else:
            repo, _, rest = path.strip("/").partition("/resolve/")
            self._file(repo, rest.partition("/")[2])

    def _listing(self, repo: str) -> None:
        names = [
            key.removeprefix(f"{repo}/") for key in self.server.files if key.startswith(f"{repo}/")
        ]
        if not names:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        rows = [
            {"type": "file", "path": name, "size": self._size(repo, name), "oid": "0" * 40}
            for name in names
        ]
        self._send(200, json.dumps(rows).encode(), {"Content-Type": "application/json"})

    def _size(self, repo: str, name: str) -> int:
        return len(self.server.files[f"{repo}/{name}"])

    def _file(self, repo: str, name: str) -> None:
        hub = self.server
        content = hub.files.get(f"{repo}/{name}")
        if hub.gated == repo:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif not any(key.startswith(f"{repo}/") for key in hub.files):
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self._content(name, content)

    def _content(self, name: str, content: bytes) -> None:
        hub = self.server
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if self.command == "HEAD":
            extra = 7 if hub.short == name else 0
            self._send(200, content, headers, length=len(content) + extra)
            return
        span = self.headers.get("Range")
        first, _, end = span.removeprefix("bytes=").partition("-") if span else ("0", "", "")
        start, last = int(first), min(int(end or len(content)), len(content) - 1)
        if hub.no_ranges:
            span, start, last = None, 0, len(content) - 1
        if span:
            headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
        body = content[start : last + 1]
        if hub.cut == name:
            hub.cut = None
            self._send(200, body[: len(body) // 2], headers, length=len(body))
            self.close_connection = True
            return
        self._send(206 if span else 200, body, headers)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            half = len(body) // 2
            self.wfile.write(body[:half])
            while "ETag" in headers and self.server.held.is_set():
                time.sleep(0.02)
            with suppress(ConnectionError):
                self.wfile.write(body[half:])


@contextmanager
def serving() -> Iterator[StandInHub]:
    """A hub that lives as long as the block."""
    with StandInHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
