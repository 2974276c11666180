"""How many requests are in work, whether one more is taken, and by when each must be over."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextvars import ContextVar

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.http.errors import error_response
from server.api.http.record import account_of
from server.api.middleware.auth import take_back
from server.deadline import deadline
from server.errors import LlavaError, Overloaded, ShuttingDown
from server.fair_queue import FairThreads, threads
from server.metrics import Metrics
from server.usage import account

logger = logging.getLogger(__name__)

# What is done to something that is there already costs nothing, and may free a place.
_FREE_ENDS = ("/cancel",)
# A reader who has not read for so long has stopped.
_STOPPED_SECONDS = 1.0


class Gate:
    """Counts requests. Beside those that the engine runs at once, ``queue`` may wait for it.

    How many it runs is known once it is loaded, so ``parallel`` is asked each time. All bodies
    that have come together are bounded by ``body_bytes``, and what was made of their pictures by
    ``picture_bytes``. None is no bound. ``in_work`` counts all requests, ``visitors`` are those
    that have a place, ``held`` the bytes of all bodies, ``pictures`` those of the pixels.

    Readers who have stopped take no place from others: they count apart, as many as there are
    places. Where there is one more of them, the one who stopped first is cut off.
    """

    def __init__(
        self,
        queue: int | None = None,
        parallel: Callable[[], int] = lambda: 1,
        body_bytes: int | None = None,
        picture_bytes: int | None = None,
    ) -> None:
        self._queue = queue
        self._parallel = parallel
        self._body_bytes = body_bytes
        self._picture_bytes = picture_bytes
        self.in_work = 0
        self.held = 0
        self.pictures = 0
        self.visitors: set[Visitor] = set()
        self.draining = False
        self._refuse = False

    @property
    def taken(self) -> int:
        """Requests that may want the engine."""
        return len(self.visitors)

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
        if self._full and self.taken - len(self._stopped()) >= self._places:
            raise Overloaded(f"{self._places} requests are running or waiting already")

    def take(self, visitor: Visitor) -> None:
        """Give a place. Raises as ``check`` does."""
        self.check()
        if self._full and len(stopped := self._stopped()) > self._places:
            min(stopped, key=lambda one: one.blocked).cut_off()
        self.visitors.add(visitor)

    @property
    def _places(self) -> float:
        return math.inf if self._queue is None else self._queue + self._parallel()

    @property
    def _full(self) -> bool:
        return self.taken >= self._places

    def _stopped(self) -> list[Visitor]:
        before = time.monotonic() - _STOPPED_SECONDS
        return [visitor for visitor in self.visitors if 0 < visitor.blocked < before]

    def mark(self, message: Message) -> None:
        """Tells in the head of an answer that the connection closes behind it, if it does."""
        if self.draining:
            MutableHeaders(scope=message)["connection"] = "close"

    def check_held(self) -> None:
        """Raise Overloaded where too many bodies have come, or are coming, at once."""
        if self._body_bytes is not None and self.held > self._body_bytes:
            raise Overloaded("too many large requests at once", code="bodies_full")

    def check_pictures(self, own: int) -> None:
        """Raise Overloaded where a request with ``own`` bytes of pixels is one too many. The only
        one there is has what its limits permit.
        """
        bound = self._picture_bytes
        if bound is not None and self.pictures > max(bound, own):
            raise Overloaded("too many large pictures at once", code="pictures_full")


class Visitor:
    """A request that wants a place. It gets one when its body is there: who never sends the rest
    of a body takes no place from others.

    ``blocked`` is since when a piece of its answer waits to be taken, ``time.monotonic()``; 0 if
    none does.
    """

    def __init__(self, gate: Gate, receive: Receive, send: Send) -> None:
        self._gate = gate
        self._receive = receive
        self._send = send
        self._task = asyncio.current_task()
        self._held = 0
        self._pictures = 0
        self._has_left = False
        self.is_cut_off = False
        self.blocked = 0.0

    async def receive(self) -> Message:
        """The next piece of the body. Raises Overloaded or ShuttingDown."""
        message = await self._receive()
        if self in self._gate.visitors or message["type"] != "http.request":
            return message
        size = len(message.get("body", b""))
        self._held += size
        self._gate.held += size
        self._gate.check_held()
        if not message.get("more_body", False):
            self._gate.take(self)
        return message

    async def send(self, message: Message) -> None:
        """A piece of the answer. Returns late where the client does not read."""
        if message["type"] == "http.response.start":
            self._gate.mark(message)
        self.blocked = time.monotonic()
        await self._send(message)
        self.blocked = 0.0

    def hold(self, n_bytes: int) -> None:
        """It has a prepared picture, until it leaves. Raises Overloaded."""
        if self._has_left:
            return  # what goes on in the background is bounded by its own
        self._pictures += n_bytes
        self._gate.pictures += n_bytes
        self._gate.check_pictures(self._pictures)

    def cut_off(self) -> None:
        """Ends it: its client has stopped reading, and its place is needed."""
        logger.info("a client that has stopped reading is cut off: its place is needed")
        self._gate.visitors.discard(self)
        self.is_cut_off = True
        if self._task is not None:
            self._task.cancel()

    def leave(self) -> None:
        """Give everything back."""
        self._gate.visitors.discard(self)
        self._gate.held -= self._held
        self._gate.pictures -= self._pictures
        self._held = self._pictures = 0
        self._has_left = True


# The request at hand, for code that makes something large on its behalf.
visiting: ContextVar[Visitor | None] = ContextVar("visiting", default=None)


class GateKeeper:
    """Lets requests in, or refuses them: before any of their body is read, where that is known.

    Each gets ``seconds`` from now until it must be over (server.deadline), 0 for ever.
    """

    def __init__(
        self, app: ASGIApp, gate: Gate, metrics: Metrics, seconds: float, fair_threads: FairThreads
    ) -> None:
        self._app = app
        self._threads = fair_threads
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
                await self._admit(scope, receive, send)
            else:
                await self._app(scope, receive, self._closing(send))
        finally:
            gate.in_work -= 1

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._gate.check()
        except LlavaError as error:
            self._metrics.failed(error.status, error.code)
            await error_response(error)(scope, receive, self._closing(send))
            return
        visitor = Visitor(self._gate, receive, send)
        visiting.set(visitor)
        account.set(account_of(scope))
        threads.set(self._threads)
        try:
            await self._app(scope, visitor.receive, visitor.send)
        except asyncio.CancelledError:
            if not visitor.is_cut_off:
                raise
            take_back(asyncio.current_task())
            # Of an answer that has begun there is no more: uvicorn closes the connection.
        finally:
            visitor.leave()

    def _closing(self, send: Send) -> Send:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._gate.mark(message)
            await send(message)

        return send_and_close


def _wants_place(scope: Scope) -> bool:
    return scope["method"] == "POST" and not scope["path"].endswith(_FREE_ENDS)
