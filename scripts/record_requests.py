"""Write down what clients send: ``python -m scripts.record_requests URL FOLDER [PORT]``.

A proxy before a server. Each request becomes a file with its method, path, headers, body and the
status of its answer. The small ones of tests/clients/recorded are made from these by hand.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Those of one connection alone, and what holds keys.
_LEFT_OUT = {"host", "connection", "authorization", "x-api-key", "accept-encoding"}


def _handler(target: str, folder: Path) -> type[BaseHTTPRequestHandler]:
    numbers = count()

    class Proxy(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {k.lower(): v for k, v in self.headers.items()}
            upstream = http.client.HTTPConnection(urlsplit(target).netloc, timeout=600)
            upstream.request(self.command, self.path, body, {**headers, "connection": "close"})
            answer = upstream.getresponse()
            self._write_down(headers, body, answer.status)
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(key, value)
            self.send_header("connection", "close")
            self.end_headers()
            while piece := answer.read1():
                self.wfile.write(piece)
                self.wfile.flush()
            self.close_connection = True

        def _write_down(self, headers: dict[str, str], body: bytes, status: int) -> None:
            try:
                sent: Any = json.loads(body) if body else None
            except ValueError:
                sent = body.decode("utf-8", "replace")
            kept = {key: value for key, value in headers.items() if key not in _LEFT_OUT}
            found = {"method": self.command, "path": self.path, "headers": kept, "body": sent}
            text = json.dumps({**found, "status": status}, indent=1, ensure_ascii=False)
            (folder / f"{next(numbers):03}.json").write_text(text, encoding="utf-8")

        def log_request(self, *_: Any) -> None:
            """Nothing: the files have it."""

    for method in ("GET", "POST", "DELETE", "HEAD"):
        setattr(Proxy, f"do_{method}", Proxy._pass)
    return Proxy


@contextmanager
def recorder(target: str, folder: Path, port: int = 0) -> Iterator[str]:
    """The proxy's address while it stands before ``target``."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadingHTTPServer(("127.0.0.1", port), _handler(target, folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


if __name__ == "__main__":
    given = sys.argv[3] if len(sys.argv) > 3 else "0"
    with recorder(sys.argv[1], Path(sys.argv[2]), int(given)) as url:
        print(url, flush=True)
        threading.Event().wait()
