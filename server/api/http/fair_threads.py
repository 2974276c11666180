"""Work that takes long, in threads: as many as there are places, given to the clients in turn.

Templates, schemas and long bodies take processor time that a client can drive up. Python runs one
thread at a time, so what one client has in threads holds up the other clients' work and the event
loop. What the work took is charged to its client, the one who took least goes next, and none has
all places.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Final, TypeVar

from anyio import CapacityLimiter, fail_after, to_thread

from server.decoders.places import Places
from server.usage import Usage, account

T = TypeVar("T")

_PLACES: Final = 4
_MOST_OF_ONE: Final = 2


class FairThreads:
    """Runs functions in threads. Lives on one event loop, which its first use chooses."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._places = Places(_PLACES, 0, usage, most_of_one=_MOST_OF_ONE)
        # The places bound the threads; anyio's own bound is shared with other work.
        self._threads: CapacityLimiter | None = None

    async def run(self, function: Callable[[], T], seconds: float = math.inf) -> T:
        """The function's result, once it is the client's turn.

        When this is cancelled the function goes on, and keeps its place until it ends. Raises
        TimeoutError where it takes longer than ``seconds`` from its turn on.
        """
        self._threads = self._threads or CapacityLimiter(math.inf)
        client = account.get()
        place = await self._places.take(client)
        loop, begins = asyncio.get_running_loop(), threading.Lock()

        def work() -> T:
            # Whoever has the lock first: a thread that begins, or a caller that no longer waits.
            if not begins.acquire(blocking=False):
                raise asyncio.CancelledError
            began = time.thread_time()
            try:
                return function()
            finally:
                self._usage.charge(client, time.thread_time() - began)
                with suppress(RuntimeError):  # the loop is closed: the server has ended
                    loop.call_soon_threadsafe(self._places.release, place)

        try:
            with fail_after(seconds):
                return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
        finally:
            if begins.acquire(blocking=False):  # it never began
                self._places.release(place)


# Of the request at hand, whose client is ``server.usage.account``.
threads: ContextVar[FairThreads | None] = ContextVar("threads", default=None)


async def in_turn(function: Callable[[], T], seconds: float = math.inf) -> T:
    """Runs the function in a thread when it is the client's turn; at once outside of a request."""
    fair = threads.get() or FairThreads(Usage())
    return await fair.run(function, seconds)
