"""Who may enter: bearers of an API key, within the limits of that key."""

from __future__ import annotations

import asyncio
import sys

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.caller import caller
from server.api.errors import error_response
from server.api.keys import KeyRing
from server.errors import AuthenticationError, LlavaError
from server.key_file import Key
from server.metrics import Metrics

_OPEN_PATHS = frozenset({"/health", "/health/ready", "/metrics", "/openapi.json", "/docs"})


def is_open(scope: Scope) -> bool:
    """Whether it needs no key: no request, or for probes, Prometheus, and readers of the docs."""
    path = scope.get("path", "")
    return scope["type"] != "http" or path in _OPEN_PATHS or path.startswith("/docs/")


class Access:
    """Asks for a key on all paths but the open ones, and tells its name to whoever looks.

    The name is in ``server.api.caller`` and, for the log, in the scope's ``state["key_name"]``.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if is_open(scope):
            await self._app(scope, receive, send)
            return
        key = self._keys.find(given_key(Headers(scope=scope)))
        if key is None:
            text = "the API key is missing or wrong (Authorization: Bearer KEY, or x-api-key: KEY)"
            await self._refuse(AuthenticationError(text), scope, receive, send)
            return
        scope.setdefault("state", {})["key_name"] = key.name
        scope["state"]["key"] = key
        caller.set(key.name)
        await self._serve(key, scope, receive, send)

    async def _serve(self, key: Key, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        with self._keys.visit(key) as visit:
            try:
                await self._app(scope, receive, watched)
            except asyncio.CancelledError:
                if not visit.revoked:
                    raise
                take_back(visit.task)
        if visit.revoked and not begun:
            error = AuthenticationError("the API key was revoked while the request ran")
            await self._refuse(error, scope, receive, send)
        # Of an answer that has begun there is no more: uvicorn closes the connection.

    async def _refuse(self, error: LlavaError, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.failed(error.status, error.code)
        await error_response(error)(scope, receive, send)


def given_key(headers: Headers) -> bytes:
    """The key of ``Authorization: Bearer``, or else of ``x-api-key``; nothing if there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        key = headers.get("x-api-key", "")
    # Starlette reads headers as Latin-1; this gives back the bytes that were sent.
    return key.strip().encode("latin-1")


def take_back(task: asyncio.Task[object] | None) -> None:
    """The task was cancelled by us, and is to go on: asyncio counts."""
    if sys.version_info >= (3, 11) and task is not None:
        task.uncancel()
