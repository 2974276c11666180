"""Server-sent events as OpenAI's clients read them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.api.generate.services import Services
from server.api.http.body import while_connected
from server.api.http.errors import ClientGone, error_body, internal_error
from server.api.http.record import current_record
from server.errors import LlavaError

log = logging.getLogger(__name__)

DONE: Final = b"data: [DONE]\n\n"
# Made once: json.dumps with separators makes an encoder each time.
compact: Final = json.JSONEncoder(separators=(",", ":")).encode


def event(payload: Mapping[str, Any]) -> bytes:
    """A server-sent event. ASCII alone: some clients end lines at U+2028."""
    return b"data: " + compact(payload).encode("ascii") + b"\n\n"


def error_event(error: LlavaError) -> bytes:
    """An error in the middle of a stream, in the form that OpenAI's SDKs raise."""
    return event(error_body(error))


# The connection's own way to send a piece of an answer that has begun (server.serve.http_protocol).
WritePiece = Callable[[bytes], bool]


def comment() -> bytes:
    """What every reader of server-sent events passes over."""
    return b": ping\n\n"


def _nothing() -> None:
    """In place of what only our own connections have."""


class EventStream(Response):
    """Server-sent events, then ``last``. ``close`` is always awaited: at the end, or when the
    client has left.

    An exception on the way is counted, and sent as ``on_error`` encodes it. After
    ``ping_interval`` seconds of silence ``ping`` is sent, so that no proxy and no client takes a
    long prefill for a dead connection; 0 sends none.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
        services: Services,
        *,
        ping_interval: float | None = None,
        on_error: Callable[[LlavaError], bytes] = error_event,
        ping: Callable[[], bytes] = comment,
        last: bytes = b"",
    ) -> None:
        self.status_code = 200
        self.background = None
        # Proxies such as nginx would collect the events otherwise.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._events = events
        self._close = close
        self._metrics = services.metrics
        usual = services.options.sse_ping_interval
        self._interval = usual if ping_interval is None else ping_interval
        self._on_error = on_error
        self._make_ping = ping
        self._ending = last
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client has left."""
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
        self._sent_at = time.monotonic()
        # One task a stream instead of a timeout around every event, of which there are many.
        pings = asyncio.ensure_future(self._ping(send)) if self._interval > 0 else None
        try:
            while True:
                try:
                    event = await anext(self._events)
                except StopAsyncIteration:
                    break
                except Exception as exc:
                    event = self._on_error(self._counted(exc))
                self._sent_at = time.monotonic()
                if write is None or not write(event):
                    flush()
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        finally:
            flush()
            if pings is not None:
                pings.cancel()
                await asyncio.gather(pings, return_exceptions=True)
        await send({"type": "http.response.body", "body": self._ending, "more_body": False})

    def _counted(self, exc: Exception) -> LlavaError:
        """The error as the client may see it; logged where it is none of ours."""
        record = current_record()
        error = exc if isinstance(exc, LlavaError) else internal_error(record.request_id)
        if error is not exc:
            log.error("request %s failed in its stream", record.request_id, exc_info=exc)
        self._metrics.failed(error.status, error.code)
        record.fail(error)
        return error

    async def _ping(self, send: Send) -> None:
        while True:
            silence = time.monotonic() - self._sent_at
            if silence >= self._interval:
                self._sent_at, silence = time.monotonic(), 0.0
                await send(
                    {"type": "http.response.body", "body": self._make_ping(), "more_body": True}
                )
            await asyncio.sleep(self._interval - silence)
