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

    How many it runs is known once it is loaded, so ``parallel`` is asked each time. All bodies
    that have come together are bounded by ``body_bytes``. None is no bound. ``in_work`` counts
    all requests, ``taken`` those that may want the engine, ``held`` the bytes of their bodies.
    """

    def __init__(
        self,
        queue: int | None = None,
        parallel: Callable[[], int] = lambda: 1,
        body_bytes: int | None = None,
    ) -> None:
        self._queue = queue
        self._parallel = parallel
        self._body_bytes = body_bytes
        self.in_work = 0
        self.taken = 0
        self.held = 0
        self.draining = False
        self._refuse = False

    def drain(self, *, refuse: bool) -> None:
        """The server ends: connections are closed behind their next answer, which is a refusal
        with ``refuse``.
        """
        self.draining = True
        self._refuse = refuse

    def check(self) -> None:
        """Raise ShuttingDown or Overloaded where a request that wants a place finds none."""
        if self._refuse:
            raise ShuttingDown("the server is shutting down; ask another one, or later")
        if self._queue is not None and self.taken >= self._queue + self._parallel():
            raise Overloaded(f"{self.taken} requests are running or waiting already")

    def check_held(self) -> None:
        """Raise Overloaded where too many bodies have come, or are coming, at once."""
        if self._body_bytes is not None and self.held > self._body_bytes:
            raise Overloaded("too many large requests at once", code="bodies_full")


class _Visitor:
    """A request that wants a place. It gets one when its body is there: who never sends the rest
    of a body takes no place from others.
    """

    def __init__(self, gate: Gate, receive: Receive) -> None:
        self._gate = gate
        self._receive = receive
        self._placed = False
        self._held = 0

    async def receive(self) -> Message:
        """The next piece of the body. Raises Overloaded or ShuttingDown."""
        message = await self._receive()
        if self._placed or message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        self._held += size
        self._gate.held += size
        self._gate.check_held()
        if not message.get("more_body", False):
            self._gate.check()
            self._placed = True
            self._gate.taken += 1
        return message

    def leave(self) -> None:
        """Give everything back."""
        self._gate.taken -= self._placed
        self._gate.held -= self._held


class GateKeeper:
    """Lets requests in, or refuses them: before any of their body is read, where that is known.

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
        try:
            self._gate.check()
        except LlavaError as error:
            self._metrics.failed(error.status, error.code)
            await error_response(error)(scope, receive, send)
            return
        visitor = _Visitor(self._gate, receive)
        try:
            await self._app(scope, visitor.receive, send)
        finally:
            visitor.leave()

    def _closing(self, send: Send) -> Send:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._gate.draining:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        return send_and_close


def _wants_place(scope: Scope) -> bool:
    return scope["method"] == "POST" and not scope["path"].endswith(_FREE_ENDS)
