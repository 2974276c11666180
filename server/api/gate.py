"""How many requests are in work, whether one more is taken, and by when each must be over."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.errors import error_response
from server.deadline import deadline
from server.errors import LlavaError, Overloaded, ShuttingDown
from server.metrics import Metrics

# What is done to something that is there already costs nothing, and may free a place.
_FREE_ENDS = ("/cancel",)


class Gate:
    """Counts requests. Beside those that the engine runs at once, ``queue`` may wait for it.

    How many it runs is known once it is loaded, so ``parallel`` is asked each time. Without
    ``queue`` there is no bound. ``in_work`` counts all requests, ``taken`` those that may want
    the engine.
    """

    def __init__(self, queue: int | None = None, parallel: Callable[[], int] = lambda: 1) -> None:
        self._queue = queue
        self._parallel = parallel
        self.in_work = 0
        self.taken = 0
        self.draining = False
        self._refuse = False

    def drain(self, *, refuse: bool) -> None:
        """The server ends: connections are closed behind their next answer, which is a refusal
        with ``refuse``.
        """
        self.draining = True
        self._refuse = refuse

    def refusal(self) -> LlavaError | None:
        """Why a request that wants a place does not get one."""
        if self._refuse:
            return ShuttingDown("the server is shutting down; ask another one, or later")
        if self._queue is not None and self.taken >= self._queue + self._parallel():
            return Overloaded(f"{self.taken} requests are running or waiting already")
        return None


class GateKeeper:
    """Lets requests in, or refuses them before any of their body is read.

    Each gets ``seconds`` from now until it must be over (server.deadline), 0 for ever.
    """

    def __init__(self, app: ASGIApp, gate: Gate, metrics: Metrics, seconds: float) -> None:
        self._app = app
        self._gate = gate
        self._metrics = metrics
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it. Each has a task, and so a context, of its own."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._seconds:
            deadline.set(time.monotonic() + self._seconds)
        gate = self._gate
        gate.in_work += 1
        try:
            if _wants_place(scope):
                await self._admit(scope, receive, self._closing(send))
            else:
                await self._app(scope, receive, self._closing(send))
        finally:
            gate.in_work -= 1

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._gate.refusal()
        if error is not None:
            self._metrics.failed(error.status, error.code)
            await error_response(error)(scope, receive, send)
            return
        self._gate.taken += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._gate.taken -= 1

    def _closing(self, send: Send) -> Send:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._gate.draining:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        return send_and_close


def _wants_place(scope: Scope) -> bool:
    return scope["method"] == "POST" and not scope["path"].endswith(_FREE_ENDS)
