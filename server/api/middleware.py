"""What surrounds every request: its id, one log line, the API key, and a net for the rest."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import error_response, internal_error
from server.errors import AuthenticationError
from server.metrics import Metrics

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health"})
QUIET_PATHS = frozenset({"/health", "/metrics"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestLog:
    """Gives each request an id, logs one line for it, and answers what nobody caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        request_id = _request_id(Headers(scope=scope).get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise
            error = internal_error(request_id)
            self._metrics.failed(error.status, error.code)
            await error_response(error)(scope, receive, send_with_id)
        finally:
            took = (time.monotonic() - start) * 1000
            path = quote(scope["path"])
            # Probes and scrapes come every few seconds; they would bury the rest.
            level = logging.DEBUG if path in QUIET_PATHS else logging.INFO
            log.log(level, "%s %s %s %d %.0f ms", request_id, scope["method"], path, status, took)


def _request_id(given: str) -> str:
    return given if _REQUEST_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"


class ApiKey:
    """Lets in who bears one of the keys; /health is open to all."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._permits(scope):
            await self._app(scope, receive, send)
            return
        error = AuthenticationError("the API key is missing or wrong (Authorization: Bearer ...)")
        self._metrics.failed(error.status, error.code)
        await error_response(error)(scope, receive, send)

    def _permits(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        # Starlette reads headers as Latin-1; this gives back the bytes that were sent.
        given = _digest(key.strip().encode("latin-1") if scheme.lower() == "bearer" else b"")
        # All keys are compared, each in constant time: how long it takes tells nothing.
        return bool(sum(hmac.compare_digest(given, digest) for digest in self._digests))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
