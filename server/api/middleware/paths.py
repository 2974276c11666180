"""Paths as clients spell them, on the way to the paths that are served."""

from __future__ import annotations

import re
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What a base URL without /v1 makes of our paths. llama-server's own /completion and /tokenize have
# bodies of their own, so they are not among them; those of its /embeddings are read there.
_WITHOUT_V1: Final = re.compile(
    r"/(chat/completions|completions|responses|messages|models|files|embeddings)(/.*)?"
)
_OTHERS: Final = {"/embedding": "/v1/embeddings", "/v1/health": "/health"}
_SLASHES: Final = re.compile("//+")


class Paths:
    """Outermost. Serves HEAD as GET without its body, and these spellings of a path:

    ``/v1/models/`` with slashes at its end, ``//v1/models`` with more slashes than it needs,
    ``/chat/completions`` without ``/v1`` and ``/v1/v1/models`` with two of them: what clients
    make of a base URL that is not quite right.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. The log shows it as it is served."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, head = served(scope["path"]), scope["method"] == "HEAD"
        if path == scope["path"] and not head:
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # uvicorn goes on with its own scope, in which the method is still HEAD.
        inner = {**scope, "path": path, "method": "GET" if head else scope["method"]}
        await self._app(inner, receive, send_head if head else send)


def served(path: str) -> str:
    """The path that is meant."""
    if path.endswith("/") or "//" in path:
        path = _SLASHES.sub("/", path).rstrip("/") or "/"
    if path.startswith("/v1/v1/"):
        path = path[len("/v1") :]
    return f"/v1{path}" if _WITHOUT_V1.fullmatch(path) else _OTHERS.get(path, path)
