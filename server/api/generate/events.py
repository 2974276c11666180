"""Server-sent events as OpenAI's clients read them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.generate.services import Services
from server.api.http.connection import ClientGone, while_connected
from server.api.http.errors import error_body, internal_error
from server.api.http.record import current_record
from server.errors import LlavaError

log = logging.getLogger(__name__)

DONE: Final = b"data: [DONE]\n\n"
# Made once: json.dumps with separators makes an encoder each time.
compact: Final = json.JSONEncoder(separators=(",", ":")).encode


def event(payload: dict[str, Any]) -> bytes:
    """A server-sent event. ASCII alone: some clients end lines at U+2028."""
    return b"data: " + compact(payload).encode("ascii") + b"\n\n"


async def guarded(
    events: AsyncIterator[bytes], services: Services, request: Request
) -> AsyncIterator[bytes]:
    """The events, then [DONE]; an error on the way becomes an event that OpenAI's SDKs raise."""
    try:
        async for each in events:
            yield each
    except Exception as exc:
        yield event(error_body(told(exc, services, request)))
    yield DONE


def told(error: Exception, services: Services, request: Request) -> LlavaError:
    """The error as the client may see it; counted, and logged when nobody foresaw it."""
    if not isinstance(error, LlavaError):
        request_id = request.state.request_id
        log.error("request %s failed in its stream", request_id, exc_info=error)
        error = internal_error(request_id)
    services.metrics.failed(error.status, error.code)
    current_record().error = error.code or ""
    return error


# The connection's own way to send a piece of an answer that has begun (server.serve.http_protocol).
WritePiece = Callable[[bytes], bool]


# A comment, which every reader of server-sent events passes over.
PING = b": ping\n\n"


def _nothing() -> None:
    """In place of what only our own connections have."""


class EventStream(Response):
    """Server-sent events. ``close`` is always awaited: at the end, or when the client left.

    After ``ping_interval`` seconds of silence a comment is sent, so that no proxy takes a long
    prefill for a dead connection; 0 sends none.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
        ping_interval: float = 0.0,
    ) -> None:
        self.status_code = 200
        self.background = None
        # Proxies such as nginx would collect the events otherwise.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._events = events
        self._close = close
        self._interval = ping_interval
        self._last = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or nobody reads them."""
        try:
            await while_connected(receive, self._send_all(send, scope["state"]))
        except ClientGone:
            pass
        finally:
            await self._close()

    async def _send_all(self, send: Send, state: dict[str, Any]) -> None:
        write: WritePiece | None = state.get("write_piece")
        flush: Callable[[], None] = state.get("flush_pieces", _nothing)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self._last = time.monotonic()
        # One task a stream instead of a timeout around every event, of which there are many.
        pings = asyncio.ensure_future(self._ping(send)) if self._interval > 0 else None
        try:
            async for event in self._events:
                self._last = time.monotonic()
                if write is None or not write(event):
                    flush()
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        finally:
            flush()
            if pings is not None:
                pings.cancel()
                await asyncio.gather(pings, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ping(self, send: Send) -> None:
        while True:
            silence = time.monotonic() - self._last
            if silence >= self._interval:
                self._last, silence = time.monotonic(), 0.0
                await send({"type": "http.response.body", "body": PING, "more_body": True})
            await asyncio.sleep(self._interval - silence)
