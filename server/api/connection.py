"""Working only as long as the client waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
# The connection's own way to send a piece of an answer that has begun (server.serving.guard).
WritePiece = Callable[[bytes], bool]


class ClientGone(Exception):  # noqa: N818 - nothing is wrong, there is just nobody to answer
    """The client closed the connection."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client goes away.

    To be called after the request's body was read: the next message is the goodbye.
    """
    task = asyncio.ensure_future(work)
    goodbye = asyncio.ensure_future(_goodbye(receive))
    try:
        await asyncio.wait((task, goodbye), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        goodbye.cancel()
        await asyncio.gather(task, goodbye, return_exceptions=True)


async def _goodbye(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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
