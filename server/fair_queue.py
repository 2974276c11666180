"""Fair queueing in the web process: the client who took least processor time goes first.

Places are for decoders, in two lanes. Threads are for other work that takes long, as many as there
are places: templates, schemas and long bodies take processor time that a client can drive up.
Python runs one thread at a time, so what one client has in threads holds up the other clients' work
and the event loop. What the work took is charged to its client, and none has all places.
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

from server.usage import Usage, account


class Place:
    """A right to work, in one of the lanes, or the wait for it."""

    def __init__(self, client: str, *, slow: bool, now: float) -> None:
        self.client = client
        self.slow = slow
        self.since = now
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Places:
    """``fast`` places, and ``slow`` ones for what turned out to take long. A client may hold
    ``most_of_one`` places of a lane, however many are free.

    Short work never waits behind long work: what takes long moves to the slow lane if that has a
    place, or goes back and waits for one. Lives on one event loop.
    """

    def __init__(
        self,
        fast: int,
        slow: int,
        usage: Usage,
        clock: Callable[[], float] = time.monotonic,
        *,
        most_of_one: int | None = None,
    ) -> None:
        self._most = {False: fast, True: slow}
        self._most_of_one = most_of_one or max(fast, slow)
        self._usage = usage
        self._clock = clock
        self._running: dict[bool, set[Place]] = {False: set(), True: set()}
        self._waiting: dict[bool, list[Place]] = {False: [], True: []}

    @property
    def crowded(self) -> bool:
        """Whether a client waits for a fast place."""
        return bool(self._waiting[False])

    @property
    def waiting(self) -> int:
        """How many wait, in both lanes."""
        return sum(map(len, self._waiting.values()))

    async def take(self, client: str, *, slow: bool = False) -> Place:
        """A place, once it is this client's turn."""
        place = Place(client, slow=slow, now=self._clock())
        self._waiting[slow].append(place)
        self._grant()
        try:
            await place.granted
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting[slow].remove(place)
            self.release(place)
            raise
        return place

    def release(self, place: Place) -> None:
        """Gives a place back; nothing happens if it was given back already."""
        self._running[place.slow].discard(place)
        self._grant()

    def slow_down(self, place: Place) -> bool:
        """Moves a fast place to the slow lane; False if that is full."""
        if len(self._running[True]) >= self._most[True] or self._waiting[True]:
            return False
        self._running[False].discard(place)
        self._running[True].add(place)
        place.slow = True
        self._grant()
        return True

    def _grant(self) -> None:
        for slow, waiting in self._waiting.items():
            while len(self._running[slow]) < self._most[slow]:
                may = [place for place in waiting if self._may_run(place)]
                if not may:
                    break
                # Once for each client: it becomes less with time, and the last would be the first.
                taken = {client: self._taken(client) for client in {one.client for one in may}}
                # The first of those who took least; min() keeps the order of arrival.
                place = min(may, key=lambda one: taken[one.client])
                waiting.remove(place)
                if not place.granted.done():
                    place.since = self._clock()
                    self._running[slow].add(place)
                    place.granted.set_result(None)

    def _may_run(self, place: Place) -> bool:
        running = sum(one.client == place.client for one in self._running[place.slow])
        return running < self._most_of_one

    def _taken(self, client: str) -> float:
        """With what runs now, or a client could fill all places before anything is charged."""
        now = self._clock()
        running = (one for lane in self._running.values() for one in lane if one.client == client)
        return self._usage.of(client) + sum(now - one.since for one in running)


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
