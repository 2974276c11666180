"""What every request is given on its way in: a time by which it must be over."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Receive, Scope, Send

from server.deadline import deadline


class Deadline:
    """Sets ``server.deadline`` for each request; whoever waits on its behalf looks there."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Each has a task, and so a context, of its own."""
        deadline.set(time.monotonic() + self._seconds)
        await self._app(scope, receive, send)
