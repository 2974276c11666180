"""Who may enter: the API key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.errors import error_response
from server.errors import AuthenticationError
from server.metrics import Metrics

OPEN_PATHS = frozenset({"/health"})


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
